//! Planes that belong to somebody else: a second process with a DRM lease shows its own pictures on an overlay plane.

use std::{
    collections::BTreeMap,
    fs::File,
    mem::ManuallyDrop,
    os::fd::{AsFd, OwnedFd},
    process::Command,
    time::Duration,
};

use drm::control::{crtc, framebuffer, plane, Device as _, PlaneType};
use smithay::backend::{allocator::gbm::GbmDevice, drm::DrmDeviceFd};
use vitrine::{
    kms::{
        assign, Access, Device, FaultPlan, FrameState, Pipeline, PlaneUpdate, Preferences,
        RingBuffer,
    },
    time::Time,
};

use crate::{
    clients::{clock, programs, Client, CopySession, Exporter, Holding, MemoryKind, Picture, Rect},
    control::capture_report,
    film::seldom,
    machine::{self, vkms_crc, Guest, Machine, Output, Proc, Signal, SECOND},
    stage::{Setup, Stage},
};

/// Where the other's square is, and its side.
const AT: (u32, u32) = (320, 240);
const SIDE: u32 = 64;

pub fn machine() -> Machine {
    Machine::default().output(Output::new().overlays(2))
}

pub fn setup(motion: &str) -> Setup {
    Setup::default().config(&format!(
        "[[output]]\nconnector = \"Virtual-1\"\nmode = \"640x480\"\nmotion = \"{motion}\"\n\
         foreign_planes = [\"overlay:1\"]\nlease_socket = \"vitrine-lease\"\n"
    ))
}

/// The other process.
pub struct Other {
    pub process: Proc,
    out: std::path::PathBuf,
}

impl Other {
    pub fn start(stage: &Stage<'_>, arguments: &[&str]) -> Self {
        let out = stage.guest.out().join("foreign.txt");
        let mut command: Command = programs::command("foreign-plane").unwrap();
        command.args(["--x", &AT.0.to_string(), "--y", &AT.1.to_string()]);
        command
            .args(["--size", &SIDE.to_string(), "--out"])
            .arg(&out);
        command.args(arguments);
        Self {
            process: stage.spawn("foreign", command),
            out,
        }
    }

    /// Its pictures with the times of their flips, and how often it was sent to wait.
    fn shown(&self) -> (Vec<(u32, Duration)>, u64) {
        let text = std::fs::read_to_string(&self.out).unwrap_or_default();
        let mut refused = 0;
        let mut shown = Vec::new();
        // It is being written meanwhile.
        let whole = |line: &&str| line.ends_with('\n');
        for line in text.split_inclusive('\n').filter(whole) {
            let line = line.trim_end();
            let numbers: Vec<u64> = line.split(' ').map(|word| word.parse().unwrap()).collect();
            shown.push((numbers[0] as u32, Duration::from_nanos(numbers[1])));
            refused += numbers[2];
        }
        (shown, refused)
    }
}

/// The whole screen with the other's picture `n` on top; without it before the first.
fn with_square(below: &Picture, n: Option<u32>) -> Picture {
    let mut whole = below.clone();
    if let Some(n) = n {
        let square = Picture::filled(SIDE, SIDE, 0x0077_0000 | n);
        whole.overlay(&square, AT.0 as i32, AT.1 as i32);
    }
    whole
}

/// The picture in the other's square; none before the first. Every pixel of the screen is what belongs there.
#[track_caller]
fn foreign_picture(seen: &Picture, below: &Picture) -> Option<u32> {
    let first = seen.at(AT.0, AT.1);
    let n = (first >> 16 == 0x77).then_some(first & 0xffff);
    seen.assert_same(&with_square(below, n), "the screen with the other's square");
    n
}

/// What the screen did so far, by the control socket.
fn flips(guest: &Guest) -> u64 {
    capture_report(guest).flips
}

fn overlays(guest: &Guest) -> Vec<(plane::Handle, bool)> {
    struct Card(File);
    impl AsFd for Card {
        fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
    impl drm::Device for Card {}
    impl drm::control::Device for Card {}
    let card = Card(File::open(guest.card()).unwrap());
    drm::Device::set_client_capability(&card, drm::ClientCapability::UniversalPlanes, true)
        .unwrap();
    let kind = |plane| {
        let values = card.get_properties(plane).unwrap();
        let mut values = values.iter();
        let kind = values.find(|(id, _)| card.get_property(**id).unwrap().name() == c"type");
        *kind.unwrap().1
    };
    let planes = card.plane_handles().unwrap().into_iter();
    planes
        .filter(|plane| kind(*plane) == PlaneType::Overlay as u64)
        .map(|plane| {
            (
                plane,
                card.get_plane(plane).unwrap().framebuffer().is_some(),
            )
        })
        .collect()
}

#[test]
fn full_motion_captures_each_picture_that_another_process_shows_on_its_plane() {
    const PICTURES: u32 = 12;
    machine::boot(machine(), |guest| {
        let stage = setup("full").start(guest);
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 7).unwrap();
        let below = painter.expected();
        let output = client.output(None).unwrap();
        let session = CopySession::open(&mut client, &output, true).unwrap();
        let buffer = session.buffer(&mut client, MemoryKind::Shm).unwrap();
        // The first frames touch new memory, which is slow in this machine.
        for _ in 0..3 {
            session.capture(&mut client, &buffer, &[]).unwrap().frame();
        }
        let go_on = |n: u32| std::fs::write(format!("/tmp/picture-{n}"), "").unwrap();
        let pictures = ["--pictures", "12", "--when", "/tmp/picture-", "--interval"];
        let mut other = Other::start(&stage, &[&pictures[..], &["0", "--stay"]].concat());
        go_on(1);
        // The first time of each, and in how many frames it is.
        let mut seen: BTreeMap<u32, (Duration, u32)> = BTreeMap::new();
        let (mut frames, mut last) = (0, 0);
        let before = flips(guest);
        let end = clock::now() + SECOND * 60;
        while seen.get(&PICTURES).is_none_or(|(_, count)| *count < 2) {
            assert!(clock::now() < end, "saw {seen:?} in {frames} frames");
            let frame = session.capture(&mut client, &buffer, &[]).unwrap().frame();
            frames += 1;
            let picture = foreign_picture(&frame.picture, &below);
            assert_eq!(frame.damage, [Rect::new(0, 0, 640, 480)]);
            if let Some(picture) = picture {
                // The other one shows the next picture when this one has been captured twice, however long that takes.
                assert!(
                    (last..=last + 1).contains(&picture),
                    "picture {picture} after {last}"
                );
                let (_, count) = seen.entry(picture).or_insert((frame.presented, 0));
                *count += 1;
                if *count == 2 {
                    go_on(picture + 1);
                }
                last = picture;
            }
        }
        // Each frame was a flip of its own, though nothing of ours changed.
        let after = flips(guest);
        assert!(
            after - before >= frames,
            "{frames} frames, {before} to {after}"
        );
        other.process.wait_log("all shown", SECOND * 20);
        let (shown, refused) = other.shown();
        assert_eq!(shown.len(), PICTURES as usize);
        let numbers: Vec<u32> = seen.keys().copied().collect();
        assert_eq!(numbers, (1..=PICTURES).collect::<Vec<_>>());
        // A frame never shows a picture before it was on the screen.
        for (n, time) in shown {
            let (first, _) = seen[&n];
            assert!(first >= time, "picture {n} was captured before its flip");
        }

        // Nobody waits, and the session is open still: the screen comes to rest.
        let mut resting = after;
        machine::wait_until("the screen to rest", SECOND * 20, || {
            std::thread::sleep(SECOND / 2);
            let before = std::mem::replace(&mut resting, flips(guest));
            resting == before
        });
        std::thread::sleep(SECOND * 2);
        assert_eq!(flips(guest), resting, "flips for nobody");
        // What is captured is what the CRTC itself says it shows.
        let standing = with_square(&below, Some(PICTURES));
        let crc = guest.crc(0).unwrap().next_frame().unwrap();
        assert_eq!(crc.value, vkms_crc(&standing.to_bytes()));
        other.process.signal(Signal::KILL);
        other.process.wait_exit(SECOND * 10);
        let summary = stage.finish("Virtual-1");
        println!("{frames} frames, the other was refused {refused} times; {summary:?}");
        assert_eq!(summary.get("modesets"), 1);
        assert_eq!(summary.get("lost"), 0);
    });
}

#[test]
fn a_still_scene_is_captured_at_once_while_another_process_moves() {
    machine::boot(machine(), |guest| {
        let stage = setup("damage").start(guest);
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 3).unwrap();
        let below = painter.expected();
        let mut other = Other::start(&stage, &["--pictures", "100000", "--interval", "0"]);
        machine::wait_until("the other's pictures", SECOND * 30, || {
            other.shown().0.len() > 20
        });
        for round in 0..5 {
            // Each is new to the compositor, and the first frame needs no change.
            let mut watcher: Client = stage.client();
            let output = watcher.output(None).unwrap();
            let session = CopySession::open(&mut watcher, &output, true).unwrap();
            let buffer = session.buffer(&mut watcher, MemoryKind::Shm).unwrap();
            let frame = session.capture(&mut watcher, &buffer, &[]).unwrap().frame();
            let n = foreign_picture(&frame.picture, &below);
            assert!(n.is_some(), "round {round}: the other is not in the frame");
            let exporter = Exporter::new(&watcher).unwrap();
            let frame = exporter.capture(&mut watcher, &output, true).unwrap();
            assert!(foreign_picture(&frame.frame().picture(), &below) >= n);
            let report = capture_report(guest);
            assert_eq!(report.output, "Virtual-1");
            assert!(report.frames > 0 && !report.clients.is_empty());
        }
        other.process.signal(Signal::KILL);
        other.process.wait_exit(SECOND * 10);
        stage.finish("Virtual-1");
    });
}

#[test]
fn another_process_that_commits_all_the_time_stops_neither_display_nor_capture() {
    machine::boot(machine(), |guest| {
        let stage = setup("damage").start(guest);
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 1).unwrap();
        let other = Other::start(&stage, &["--pictures", "100000", "--interval", "0"]);
        machine::wait_until("the other's pictures", SECOND * 30, || {
            other.shown().0.len() > 20
        });
        let mut watcher: Client = stage.client();
        let output = watcher.output(None).unwrap();
        let stats = std::thread::scope(|scope| {
            let watching = scope.spawn(|| {
                let exporter = Exporter::new(&watcher).unwrap();
                exporter.run(
                    &mut watcher,
                    &output,
                    Holding::ReleaseAtOnce,
                    SECOND * 20,
                    |stats, _| stats.frames >= 20,
                )
            });
            for n in 0..40 {
                painter.flip(&mut client, n).unwrap();
                painter.wait_frame(&mut client).unwrap();
            }
            watching.join().unwrap()
        });
        assert!(stats.unwrap().frames >= 20);
        let last = painter.feedback().len() - 1;
        painter.wait_shown(&mut client, last).unwrap();
        let (shown, refused) = other.shown();
        let summary = stage.finish("Virtual-1");
        println!(
            "the other showed {} and was refused {refused} times; {summary:?}",
            shown.len()
        );
        assert_eq!(summary.get("modesets"), 1);
    });
}

#[test]
fn a_foreign_plane_stays_on_the_screen_when_vitrine_leaves() {
    machine::boot(machine(), |guest| {
        let stage = setup("damage").start(guest);
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 1).unwrap();
        let mut other = Other::start(&stage, &["--pictures", "3", "--interval", "0", "--stay"]);
        other.process.wait_log("all shown", SECOND * 30);
        let shows = |guest: &Guest| -> Vec<bool> {
            overlays(guest)
                .into_iter()
                .map(|(_, shows)| shows)
                .collect()
        };
        assert_eq!(shows(guest), [false, true]);
        // A second process gets no second lease, and is told so.
        let mut second = Other::start(&stage, &["--pictures", "1"]);
        assert!(!second.process.wait_exit(SECOND * 20).success());
        assert!(
            second.process.log().contains("error:"),
            "{}",
            second.process.log()
        );
        stage.finish("Virtual-1");
        assert_eq!(shows(guest), [false, true], "Vitrine touched it at exit");
        let socket = std::env::var_os("XDG_RUNTIME_DIR").unwrap();
        let socket = std::path::Path::new(&socket).join("vitrine-lease");
        assert!(!socket.exists(), "the socket is left behind");
        other.process.signal(Signal::KILL);
        other.process.wait_exit(SECOND * 10);
    });
}

/// The display device without a compositor.
struct Bare {
    device: Device,
    gbm: GbmDevice<DrmDeviceFd>,
}

impl Bare {
    fn open(guest: &Guest) -> Self {
        let node = File::options().read(true).write(true).open(guest.card());
        let fd = DrmDeviceFd::new(OwnedFd::from(node.unwrap()).into());
        let device = Device::new(fd, FaultPlan::default()).unwrap();
        let gbm = GbmDevice::new(device.fd().clone()).unwrap();
        Self { device, gbm }
    }

    fn buffer(&self, width: u32, height: u32) -> RingBuffer {
        let fourcc = drm_fourcc::DrmFourcc::Xrgb8888;
        RingBuffer::allocate(&self.gbm, width, height, fourcc, Access::ReadWrite).unwrap()
    }
}

/// All of a buffer, there.
fn whole(buffer: &RingBuffer, at: (i32, i32)) -> PlaneUpdate {
    PlaneUpdate::whole(buffer.framebuffer().clone(), at)
}

/// The same without a compositor: whatever happens to the CRTC, a plane on it that is not ours stays as it is.
#[test]
fn no_modeset_and_no_way_out_touches_a_foreign_plane() {
    use vitrine::kms::ProbeReport;
    machine::boot(machine().services(false), |guest| {
        let card = Bare::open(guest);
        let device = &card.device;
        let snapshot = device.snapshot(true).unwrap();
        let mode = |size: (u16, u16)| {
            let mut modes = snapshot
                .connectors
                .iter()
                .flat_map(|connector| &connector.modes);
            *modes.find(|mode| mode.size() == size).unwrap()
        };

        // `vitrine probe` says how the planes are called.
        let probe = ProbeReport::new(device, &Preferences::default()).unwrap();
        let probe = probe.to_string();
        for name in [
            "(overlay, overlay:0 of Virtual-1)",
            "(overlay, overlay:1 of Virtual-1)",
        ] {
            assert!(probe.contains(name), "{probe}");
        }

        // Somebody shows something on the first overlay plane.
        let mine = assign(&snapshot, &Preferences::default());
        let overlay = mine.heads[0].planes.overlays[0];
        let mut first = Pipeline::for_head(device, &mine.heads[0], &[]).unwrap();
        let (small, other) = (card.buffer(640, 480), card.buffer(64, 64));
        let mut frame = FrameState::primary(whole(&small, (0, 0)));
        frame.overlays.push((overlay, whole(&other, (10, 10))));
        first
            .modeset(mode((640, 480)), &frame, Time::now())
            .unwrap();
        let shown = || {
            let plane = device.fd().get_plane(overlay).unwrap();
            (plane.crtc(), plane.framebuffer())
        };
        let before = shown();
        assert!(before.1.is_some());

        // We start, with another mode, and reset everything, and leave.
        let preferences = Preferences {
            foreign_planes: vec![overlay],
            ..Default::default()
        };
        let snapshot = device.snapshot(true).unwrap();
        let ours = assign(&snapshot, &preferences);
        assert!(ours.heads[0].planes.all().all(|plane| plane != overlay));
        let foreign = &preferences.foreign_planes;
        let mut second = Pipeline::for_head(device, &ours.heads[0], foreign).unwrap();
        let large = card.buffer(800, 600);
        let frame = FrameState::primary(whole(&large, (0, 0)));
        second
            .modeset(mode((800, 600)), &frame, Time::now())
            .unwrap();
        assert_eq!(shown(), before, "at the modeset");
        second.disable().unwrap();
        assert_eq!(shown(), before, "when all is reset");
        second
            .modeset(mode((800, 600)), &frame, Time::now())
            .unwrap();
        drop(second);
        assert_eq!(shown(), before, "at exit");
        // What was on the screen before us is there again, so there is nothing more to be given back.
        std::mem::forget(first);
    });
}

/// A picture on the second overlay plane that was there before Vitrine, and that stays there.
pub struct ShownBefore {
    device: Device,
    overlay: plane::Handle,
    // What was on the screen before us is there again at the end, so there is nothing more to be given back.
    _pipeline: ManuallyDrop<Pipeline>,
    _buffers: [RingBuffer; 2],
}

impl ShownBefore {
    pub fn show(guest: &Guest) -> Self {
        let card = Bare::open(guest);
        let device = &card.device;
        let snapshot = device.snapshot(true).unwrap();
        let mode = snapshot
            .connectors
            .iter()
            .flat_map(|connector| &connector.modes)
            .find(|mode| mode.size() == (640, 480))
            .unwrap();
        let mine = assign(&snapshot, &Preferences::default());
        let overlay = mine.heads[0].planes.overlays[1];
        let mut pipeline = Pipeline::for_head(device, &mine.heads[0], &[]).unwrap();
        let (screen, square) = (card.buffer(640, 480), card.buffer(SIDE, SIDE));
        let mut frame = FrameState::primary(whole(&screen, (0, 0)));
        frame
            .overlays
            .push((overlay, whole(&square, (AT.0 as i32, AT.1 as i32))));
        pipeline.modeset(*mode, &frame, Time::now()).unwrap();
        drm::Device::release_master_lock(device.fd()).unwrap();
        Self {
            device: card.device,
            overlay,
            _pipeline: ManuallyDrop::new(pipeline),
            _buffers: [screen, square],
        }
    }

    /// The plane's CRTC and framebuffer now.
    fn now(&self) -> (Option<crtc::Handle>, Option<framebuffer::Handle>) {
        let plane = self.device.fd().get_plane(self.overlay).unwrap();
        (plane.crtc(), plane.framebuffer())
    }
}

/// The whole program on a device whose overlay plane somebody else filled before it came.
#[test]
fn a_plane_that_showed_something_before_vitrine_came_is_never_touched() {
    machine::boot(machine(), |guest| {
        let plane = ShownBefore::show(guest);
        let shown = || plane.now();
        let before = shown();
        assert!(before.1.is_some());

        // Another mode than the one that is set; and the state is lost after twenty commits.
        let mut stage = Setup::default()
            .config(
                "[[output]]\nconnector = \"Virtual-1\"\nmode = \"800x600\"\n\
                 foreign_planes = [\"overlay:1\"]\n",
            )
            .faults("commit:20..30=EINVAL")
            .start(guest);
        assert_eq!(shown(), before, "at the start");
        let (mut client, mut painter) = stage.painter();
        let mut log = seldom(|| {
            stage
                .vitrine
                .log()
                .contains("setting the whole display state")
        });
        let mut n = 0;
        while !log() {
            n += 1;
            assert!(n < 1000, "the state was never set anew");
            painter.paint(&mut client, n).unwrap();
            painter.wait_frame(&mut client).unwrap();
            assert_eq!(shown(), before, "at picture {n}");
        }
        painter.present(&mut client, 5000).unwrap();
        assert_eq!(shown(), before, "after the reset");
        // It is not only said to be there.
        let mut picture = painter.expected();
        picture.overlay(&Picture::filled(SIDE, SIDE, 0), AT.0 as i32, AT.1 as i32);
        let crc = guest.crc(0).unwrap().next_frame().unwrap();
        assert_eq!(crc.value, vkms_crc(&picture.to_bytes()), "on the screen");
        let output = client.output(None).unwrap();
        let session = CopySession::open(&mut client, &output, true).unwrap();
        let buffer = session.buffer(&mut client, MemoryKind::Shm).unwrap();
        let frame = session.capture(&mut client, &buffer, &[]).unwrap().frame();
        frame.picture.assert_same(&picture, "captured");
        drop(log);
        let sets = stage
            .vitrine
            .log()
            .matches("mode set output=Virtual-1")
            .count();
        assert_eq!(sets, 2);
        stage.vitrine.signal(Signal::TERM);
        assert_eq!(stage.vitrine.wait_exit(SECOND * 20).code(), Some(0));
        assert_eq!(shown(), before, "at the end");
    });
}
