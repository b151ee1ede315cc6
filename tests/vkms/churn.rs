//! An hour of coming and going in one go: fifteen thousand objects are created and die, in every stage of their lives, and vitrine
//! has afterwards what it had before.

use std::{
    fs,
    net::Shutdown,
    os::{fd::AsFd, unix::net::UnixStream},
    path::PathBuf,
    sync::{atomic::AtomicBool, Arc},
    time::Instant,
};

use wayland_client::{
    delegate_noop,
    protocol::{wl_buffer::WlBuffer, wl_pointer::WlPointer, wl_seat::WlSeat, wl_shm},
};
use wayland_protocols::ext::{
    foreign_toplevel_list::v1::client::ext_foreign_toplevel_list_v1::ExtForeignToplevelListV1 as ToplevelList,
    image_capture_source::v1::client::{
        ext_foreign_toplevel_image_capture_source_manager_v1::ExtForeignToplevelImageCaptureSourceManagerV1 as ToplevelSources,
        ext_image_capture_source_v1::ExtImageCaptureSourceV1,
    },
};

use crate::{
    clients::{
        buffers::{allocate, Buffer, XRGB8888},
        copy_capture::{CopySession, FailureReason, PendingCopy},
        export_dmabuf::{ExportedFrame, Exporter},
        Client, ClientError, MemoryKind, OutputInfo, Painter, ScreencopyFrame, State,
    },
    control::{capture_report, msg},
    faults::assert_clean,
    machine::{self, Guest, Machine, Proc, SECOND},
    stage::{Setup, Stage},
    toplevels::Listed,
    uinput::Device,
};

delegate_noop!(State: ignore WlSeat);
delegate_noop!(State: ignore WlPointer);

/// So many objects come and go before the first look: what is allocated once (rings, workers, tables, pages of code) is there.
const WARM_UP: u64 = 3_000;

/// So many in all.
const ALL: u64 = 15_000;

/// The proportional set may grow by this much between the first look and the last, where it was seen to change by -4 to 56: the
/// heap's last pages. A thousand and more of each kind that capture knows die between the looks; one forgotten entry of 100
/// bytes for each session would cost 260.
const GROWTH_KIB: u64 = 160;

/// Clients that stay and churn side by side.
const RESIDENTS: usize = 3;

/// What was created so far; everything counted here is dead when a churn is over.
#[derive(Debug, Default, Clone)]
struct Count {
    sessions: u64,
    frames: u64,
    pools: u64,
    buffers: u64,
    exports: u64,
    screencopies: u64,
    cursors: u64,
    windows: u64,
    connections: u64,
}

impl Count {
    fn all(&self) -> u64 {
        let captures = self.sessions + self.frames + self.exports + self.screencopies;
        let sources = self.cursors + self.windows;
        captures + sources + self.pools + self.buffers + self.connections
    }
}

/// What vitrine has.
#[derive(Debug, Clone, Copy)]
pub struct Holdings {
    descriptors: usize,
    dmabufs: usize,
    pss_kib: u64,
    anonymous_kib: u64,
    buffers: u64,
}

impl Holdings {
    /// Without what is just on its way: the least of some samples.
    fn at_rest(guest: &Guest, vitrine: &Proc) -> Self {
        let report = capture_report(guest);
        assert!(report.clients.is_empty(), "{:?}", report.clients);
        assert_eq!(report.held, 0);
        assert_eq!(report.quarantined, 0);
        let mut least = Self {
            descriptors: usize::MAX,
            dmabufs: usize::MAX,
            pss_kib: u64::MAX,
            anonymous_kib: u64::MAX,
            buffers: report.buffers,
        };
        for _ in 0..10 {
            std::thread::sleep(SECOND / 20);
            let targets = descriptors(vitrine);
            let (pss, anonymous) = memory(vitrine);
            let dmabufs = targets.iter().filter(|target| target.contains("dmabuf"));
            least.descriptors = least.descriptors.min(targets.len());
            least.dmabufs = least.dmabufs.min(dmabufs.count());
            least.pss_kib = least.pss_kib.min(pss);
            least.anonymous_kib = least.anonymous_kib.min(anonymous);
        }
        least
    }
}

fn descriptors(vitrine: &Proc) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{}/fd", vitrine.pid())).unwrap();
    entries
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .collect()
}

/// Proportional and anonymous pages, in KiB: what is shared counts in parts, so that files that others map too do not show.
fn memory(vitrine: &Proc) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", vitrine.pid())).unwrap();
    let value = |key: &str| {
        let line = text.lines().find(|line| line.starts_with(key)).unwrap();
        let number = line.split_whitespace().nth(1).unwrap();
        number.parse::<u64>().unwrap()
    };
    (value("Pss:"), value("Pss_Anon:"))
}

/// A pool and a buffer in it, of any size. Unlike [`Buffer`] it costs no mapping here and no new wl_shm object, which would
/// live as long as the connection.
struct Plain(WlBuffer);

impl Plain {
    fn new(client: &Client, shm: &wl_shm::WlShm, (width, height): (i32, i32)) -> Self {
        let length = width * height * 4;
        let fd = allocate(MemoryKind::Shm, length as usize).unwrap();
        let pool = shm.create_pool(fd.as_fd(), length, &client.qh, ());
        let format = wl_shm::Format::Xrgb8888;
        let busy = Arc::<AtomicBool>::default();
        let buffer = pool.create_buffer(0, width, height, width * 4, format, &client.qh, busy);
        pool.destroy();
        Self(buffer)
    }

    fn request(&self, client: &Client, session: &CopySession) -> PendingCopy {
        let frame = session.frame(client);
        frame.proxy.attach_buffer(&self.0);
        frame.proxy.capture();
        client.flush().unwrap();
        frame
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.0.destroy();
    }
}

/// What a seat and a list of windows give to a client that captures them.
struct Sights {
    pointer: WlPointer,
    listed: Listed,
    _list: ToplevelList,
    sources: ToplevelSources,
}

impl Sights {
    fn new(client: &mut Client) -> Self {
        let seat: WlSeat = client.bind(5, ()).unwrap();
        let listed = Listed::default();
        let sights = Self {
            pointer: seat.get_pointer(&client.qh, ()),
            _list: client.bind(1, Arc::clone(&listed)).unwrap(),
            listed,
            sources: client.bind(1, ()).unwrap(),
        };
        client.roundtrip().unwrap();
        sights
    }

    /// The first window's.
    fn window(&self, client: &Client) -> ExtImageCaptureSourceV1 {
        let listed = self.listed.lock().unwrap();
        let (window, _) = listed.first().unwrap();
        self.sources.create_source(window, &client.qh, ())
    }
}

/// A client that stays and creates and destroys.
struct Resident {
    sights: Sights,
    client: Client,
    output: OutputInfo,
    exporter: Exporter,
    shm: wl_shm::WlShm,
    /// Used again and again, so that a frame costs no fresh pages.
    good: Buffer,
}

/// What waits for a picture.
struct Waiting {
    session: CopySession,
    copy: PendingCopy,
    export: ExportedFrame,
}

impl Resident {
    fn new(stage: &Stage<'_>) -> Self {
        let mut client = stage.client();
        Self {
            sights: Sights::new(&mut client),
            output: client.output(None).unwrap(),
            exporter: Exporter::new(&client).unwrap(),
            shm: client.bind(1, ()).unwrap(),
            good: Buffer::new(&mut client, MemoryKind::Shm, 640, 480, XRGB8888).unwrap(),
            client,
        }
    }

    fn session(&mut self, count: &mut Count) -> CopySession {
        count.sessions += 1;
        CopySession::begin(&mut self.client, &self.output, true).unwrap()
    }

    fn plain(&mut self, size: (i32, i32), count: &mut Count) -> Plain {
        count.pools += 1;
        count.buffers += 1;
        Plain::new(&self.client, &self.shm, size)
    }

    /// Frames with buffers of the wrong size, in client memory and as a dma-buf: they fail, and say why.
    fn wrong_buffers(&mut self, count: &mut Count) {
        let session = self.session(count);
        let small = self.plain((16, 16), count);
        count.frames += 1;
        let frame = small.request(&self.client, &session);
        self.refused(&frame);
        drop(frame);
        let kind = MemoryKind::Udmabuf;
        let dmabuf = Buffer::new(&mut self.client, kind, 32, 32, XRGB8888).unwrap();
        count.buffers += 1;
        let frame = session.request(&mut self.client, &dmabuf, &[]).unwrap();
        count.frames += 1;
        self.refused(&frame);
        // The buffer goes before the frame that has it.
        drop(dmabuf);
        drop(session);
    }

    fn refused(&mut self, frame: &PendingCopy) {
        let patience = self.client.patience();
        let (_, end) = frame.wait_end(&mut self.client, patience).unwrap();
        assert_eq!(end, Err(FailureReason::BufferConstraints));
    }

    /// What dies in the middle: before the request, before the answer, in another order than it was made.
    fn early_deaths(&mut self, count: &mut Count) {
        // Nothing was asked of the first; the second waits or is being copied.
        let session = self.session(count);
        drop(session.frame(&self.client));
        drop(session.request(&mut self.client, &self.good, &[]).unwrap());
        count.frames += 2;

        // The session goes before its frame, without a word in between and after vitrine has begun.
        for begun in [false, true] {
            let session = self.session(count);
            let frame = session.request(&mut self.client, &self.good, &[]);
            count.frames += 1;
            if begun {
                self.client.roundtrip().unwrap();
            }
            drop(session);
            drop(frame);
        }

        // The buffer goes while its frame waits.
        let session = self.session(count);
        let buffer = self.plain((640, 480), count);
        let frame = buffer.request(&self.client, &session);
        count.frames += 1;
        drop(buffer);
        self.client.roundtrip().unwrap();
        drop((frame, session));

        // Exports, before and perhaps after their picture was sent.
        for begun in [false, true] {
            let export = self.exporter.request(&mut self.client, &self.output, true);
            count.exports += 1;
            if begun {
                self.client.roundtrip().unwrap();
            }
            drop(export);
        }
    }

    /// Screencopy: announced and never asked for, asked for and not awaited, and all the way.
    fn screencopies(&mut self, count: &mut Count) {
        let client = &mut self.client;
        for asked in [false, true] {
            let frame = ScreencopyFrame::announced(client, &self.output, asked).unwrap();
            if asked {
                frame.unwrap().ask(client, true).unwrap();
            }
        }
        let picture = ScreencopyFrame::capture(client, &self.output, true).unwrap();
        assert!(picture.is_some());
        count.screencopies += 3;
        count.buffers += 3;
        count.pools += 3;
    }

    /// The pointer's picture: with a frame that nobody waits for, and with the cursor session gone before its session.
    fn cursors(&mut self, count: &mut Count) {
        for waits in [false, true] {
            let begun =
                CopySession::begin_cursor(&mut self.client, &self.output, &self.sights.pointer);
            let (cursor, session) = begun.unwrap();
            let frame = session.request(&mut self.client, &self.good, &[]).unwrap();
            if waits {
                self.client.roundtrip().unwrap();
            }
            cursor.destroy();
            drop((session, frame));
            count.cursors += 1;
            count.sessions += 1;
            count.frames += 1;
        }
    }

    /// A window's picture, all the way and not.
    fn windows(&mut self, count: &mut Count) {
        for waits in [false, true] {
            let source = self.sights.window(&self.client);
            let session = CopySession::open_source(&mut self.client, &source, false).unwrap();
            let frame = session.request(&mut self.client, &self.good, &[]).unwrap();
            if waits {
                let patience = self.client.patience();
                let (_, end) = frame.wait_end(&mut self.client, patience).unwrap();
                end.unwrap();
            }
            source.destroy();
            drop((frame, session));
            count.windows += 1;
            count.sessions += 1;
            count.frames += 1;
        }
    }

    fn begin(&mut self, count: &mut Count) -> Waiting {
        let session = self.session(count);
        let copy = session.request(&mut self.client, &self.good, &[]).unwrap();
        let export = self.exporter.request(&mut self.client, &self.output, true);
        count.frames += 1;
        count.exports += 1;
        Waiting {
            session,
            copy,
            export: export.unwrap(),
        }
    }

    /// These live until they have what they were made for.
    fn end(&mut self, waiting: Waiting) {
        let Waiting {
            session,
            copy,
            export,
        } = waiting;
        copy.wait_end(&mut self.client, SECOND * 20)
            .unwrap()
            .1
            .unwrap();
        let frame = export.wait(&mut self.client, SECOND * 20).unwrap().frame();
        assert_eq!(frame.objects(), (1, 1));
        drop((frame, session));
        self.client.roundtrip().unwrap();
    }
}

/// How a visitor leaves.
#[derive(Debug, Clone, Copy)]
enum Leave {
    /// Destroys what it has.
    Politely,
    /// Its connection breaks, with everything in flight.
    WithoutGoodbye,
    /// Is thrown out for a protocol error.
    ThrownOut,
}

/// A connection that comes, asks, and goes.
fn visit(how: Leave, count: &mut Count) {
    let folder = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR").unwrap());
    let socket = UnixStream::connect(folder.join("wayland-test")).unwrap();
    let line = socket.try_clone().unwrap();
    let mut client = Client::from_stream(socket).unwrap();
    let output = client.output(None).unwrap();
    let exporter = Exporter::new(&client).unwrap();
    let shm: wl_shm::WlShm = client.bind(1, ()).unwrap();
    let session = CopySession::begin(&mut client, &output, false).unwrap();
    let buffer = Plain::new(&client, &shm, (640, 480));
    let frame = buffer.request(&client, &session);
    let export = exporter.request(&mut client, &output, true).unwrap();
    count.connections += 1;
    count.sessions += 1;
    count.pools += 1;
    count.buffers += 1;
    count.frames += 1;
    count.exports += 1;
    match how {
        Leave::Politely => {
            drop((frame, export, buffer, session, exporter));
            client.roundtrip().unwrap();
        }
        Leave::WithoutGoodbye => {
            line.shutdown(Shutdown::Both).unwrap();
        }
        Leave::ThrownOut => {
            // A second frame while the first lives.
            count.frames += 1;
            let _second = session.frame(&client);
            let error = client.roundtrip().unwrap_err();
            assert!(matches!(error, ClientError::Protocol { .. }), "{error}");
        }
    }
}

/// Creates and destroys until `enough` objects were made; nobody who did it is left then.
fn churn(stage: &Stage<'_>, screen: &mut (Client, Painter), count: &mut Count, enough: u64) {
    let mut residents: Vec<_> = (0..RESIDENTS).map(|_| Resident::new(stage)).collect();
    count.connections += RESIDENTS as u64;
    count.pools += RESIDENTS as u64;
    count.buffers += RESIDENTS as u64;
    let leaves = [Leave::Politely, Leave::WithoutGoodbye, Leave::ThrownOut];
    let mut picture = 0;
    while count.all() < enough {
        for resident in &mut residents {
            resident.wrong_buffers(count);
            resident.early_deaths(count);
            resident.screencopies(count);
            resident.cursors(count);
            resident.windows(count);
        }
        let begun: Vec<_> = residents.iter_mut().map(|r| r.begin(count)).collect();
        picture += 1;
        screen.1.present(&mut screen.0, picture).unwrap();
        for (resident, waiting) in residents.iter_mut().zip(begun) {
            resident.end(waiting);
        }
        for leave in leaves {
            visit(leave, count);
        }
    }
    drop(residents);
    screen.0.roundtrip().unwrap();
}

/// Waits until the last who left is forgotten, and looks.
pub fn look(guest: &Guest, stage: &Stage<'_>) -> Holdings {
    machine::wait_until("everybody to be gone", SECOND * 20, || {
        let report = capture_report(guest);
        report.clients.is_empty() && report.held == 0 && report.quarantined == 0
    });
    Holdings::at_rest(guest, &stage.vitrine)
}

/// Nothing is left of what came and went after the first look.
#[track_caller]
pub fn assert_flat(before: Holdings, later: &[Holdings]) {
    for now in later {
        assert_eq!(now.descriptors, before.descriptors, "{before:?} {now:?}");
        assert_eq!(now.dmabufs, before.dmabufs, "{before:?} {now:?}");
        assert_eq!(now.buffers, before.buffers, "{before:?} {now:?}");
    }
    let after = later.last().unwrap();
    let grown = after.pss_kib.saturating_sub(before.pss_kib);
    assert!(grown < GROWTH_KIB, "memory grew: {before:?} {after:?}");
}

#[test]
fn fifteen_thousand_objects_that_come_and_go_leave_nothing_behind() {
    let machine = Machine::default().timeout(SECOND * 900);
    machine::boot(machine, |guest| {
        let _mouse = Device::mouse();
        // A window's picture has 1200 KiB. glibc would keep the last one's memory, or not, as the heap's end happens to be;
        // so fixed, pictures are mappings of their own and go when they are freed.
        std::env::set_var("MALLOC_MMAP_THRESHOLD_", "262144");
        let stage = Setup::default().start(guest);
        msg(guest, &["log", "info"]);
        let mut screen = stage.painter();
        screen.1.present(&mut screen.0, 1_000_000).unwrap();
        let mut count = Count::default();
        let mut started = Instant::now();
        let mut round = |enough| {
            churn(&stage, &mut screen, &mut count, enough);
            let now = look(guest, &stage);
            println!("{now:?} in {:?} after {count:?}", started.elapsed());
            started = Instant::now();
            now
        };
        let before = round(WARM_UP);
        let between = round((WARM_UP + ALL) / 2);
        let after = round(ALL);
        assert!(count.all() >= ALL);
        // Each kind had its part, or the figure says nothing of it.
        for part in [
            count.sessions,
            count.frames,
            count.pools,
            count.buffers,
            count.exports,
        ] {
            assert!(part >= 1000, "{count:?}");
        }
        assert!(count.screencopies >= 800, "{count:?}");
        assert!(count.cursors >= 500 && count.windows >= 500, "{count:?}");
        assert!(count.connections >= 300, "{count:?}");
        assert_flat(before, &[between, after]);
        let log = stage.vitrine.log();
        assert!(!log.contains("panicked"), "{log}");
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert_eq!(summary.get("buffers"), before.buffers);
        assert_eq!(summary.get("modesets"), 1);
        assert_eq!(summary.get("lost"), 0);
        assert_clean(&guest.dmesg());
    });
}
