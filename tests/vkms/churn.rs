//! An hour of coming and going in one go: ten thousand objects are created and die, in every stage of their lives, and vitrine
//! has afterwards what it had before.

use std::{
    fs,
    net::Shutdown,
    os::{fd::AsFd, unix::net::UnixStream},
    path::PathBuf,
    sync::{atomic::AtomicBool, Arc},
    time::Instant,
};

use wayland_client::protocol::{wl_buffer::WlBuffer, wl_shm};

use crate::{
    clients::{
        buffers::{allocate, Buffer, XRGB8888},
        copy_capture::{CopySession, FailureReason, PendingCopy},
        export_dmabuf::{ExportedFrame, Exporter},
        Client, ClientError, MemoryKind, OutputInfo, Painter,
    },
    control::{capture_report, msg},
    faults::assert_clean,
    machine::{self, Guest, Machine, Proc, SECOND},
    stage::{Setup, Stage},
};

/// So many objects come and go before the first look: what is allocated once (rings, workers, tables, pages of code) is there.
const WARM_UP: u64 = 2_000;

/// So many in all.
const ALL: u64 = 10_000;

/// Resident memory may grow by this much between the first look and the last, where it was seen to grow by 20 to 50. A
/// thousand and more of each kind that capture knows die between the looks; one forgotten entry of 200 bytes for each
/// session was seen to cost 468.
const GROWTH_KIB: u64 = 320;

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
    connections: u64,
}

impl Count {
    fn all(&self) -> u64 {
        self.sessions + self.frames + self.pools + self.buffers + self.exports + self.connections
    }
}

/// What vitrine has.
#[derive(Debug, Clone, Copy)]
struct Holdings {
    descriptors: usize,
    dmabufs: usize,
    resident_kib: u64,
    private_kib: u64,
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
            resident_kib: u64::MAX,
            private_kib: u64::MAX,
            buffers: report.buffers,
        };
        for _ in 0..10 {
            std::thread::sleep(SECOND / 20);
            let targets = descriptors(vitrine);
            let (resident, private) = memory(vitrine);
            let dmabufs = targets.iter().filter(|target| target.contains("dmabuf"));
            least.descriptors = least.descriptors.min(targets.len());
            least.dmabufs = least.dmabufs.min(dmabufs.count());
            least.resident_kib = least.resident_kib.min(resident);
            least.private_kib = least.private_kib.min(private);
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

/// Resident pages, and of them what is no file's, in KiB. The machine's kernel tells no PSS; this counts shared pages in full,
/// so that what vitrine keeps of a client's memory shows twice as much.
fn memory(vitrine: &Proc) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{}/status", vitrine.pid())).unwrap();
    let value = |key: &str| {
        let line = text.lines().find(|line| line.starts_with(key)).unwrap();
        let number = line.split_whitespace().nth(1).unwrap();
        number.parse::<u64>().unwrap()
    };
    (value("VmRSS:"), value("RssAnon:"))
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

/// A client that stays and creates and destroys.
struct Resident {
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
fn look(guest: &Guest, stage: &Stage<'_>) -> Holdings {
    machine::wait_until("everybody to be gone", SECOND * 20, || {
        let report = capture_report(guest);
        report.clients.is_empty() && report.held == 0 && report.quarantined == 0
    });
    Holdings::at_rest(guest, &stage.vitrine)
}

#[test]
fn ten_thousand_objects_that_come_and_go_leave_nothing_behind() {
    let machine = Machine::default().timeout(SECOND * 240);
    machine::boot(machine, |guest| {
        let stage = Setup::default().start(guest);
        msg(guest, &["log", "info"]);
        let mut screen = stage.painter();
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
        assert!(count.connections >= 300, "{count:?}");
        for now in [between, after] {
            assert_eq!(now.descriptors, before.descriptors, "{before:?} {now:?}");
            assert_eq!(now.dmabufs, before.dmabufs, "{before:?} {now:?}");
            assert_eq!(now.buffers, before.buffers, "{before:?} {now:?}");
        }
        let grown = after.resident_kib.saturating_sub(before.resident_kib);
        assert!(grown < GROWTH_KIB, "memory grew: {before:?} {after:?}");
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
