//! Programs that capture, newer than Debian 12: they run in a tree of their own (`make programs`, tests/machine/programs.sh)
//! with its C library. Where the tree could not be downloaded these tests say that they were skipped.
//!
//! docs/clients.md names the tests of this file.

use std::{
    fs::create_dir_all,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::mount::{mount, mount_bind_recursive, MountFlags};

use crate::{
    clients::{clock, Painter, PainterOptions},
    film::{read, Window},
    machine::{self, Guest, Machine, Output, Proc, SECOND},
    programs_capture::{part, read_png},
    rfb::Viewer,
    screen,
    stage::{Setup, Stage},
};

/// The tree of programs, if it is there.
pub fn tree(program: &str) -> Option<PathBuf> {
    let link = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/programs");
    let tree = link.canonicalize().ok();
    let tree = tree.filter(|tree| tree.join("usr/bin").join(program).exists());
    if tree.is_none() && !machine::in_guest() {
        // Not by eprintln, which nobody sees of a test that passes.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: {program} is not in target/programs; `make programs` downloads it"
        );
    }
    tree
}

/// The tree, mounted in the guest. The programs in there see the guest's /run, /tmp, /dev, /proc and /sys.
pub struct Programs;

impl Programs {
    const AT: &str = "/run/programs";
    /// Where the tree has what cargo has built.
    const BUILT: &str = "/run/built";

    pub fn mount(tree: &Path) -> Self {
        let built = Path::new(env!("CARGO_BIN_EXE_vitrine")).parent().unwrap();
        for (host, at) in [(built, Self::BUILT), (tree, Self::AT)] {
            let host = std::ffi::CString::new(host.to_str().unwrap()).unwrap();
            create_dir_all(at).unwrap();
            mount("none", at, "hostfs", MountFlags::RDONLY, &*host).unwrap();
        }
        for dir in ["dev", "proc", "sys", "tmp", "run"] {
            mount_bind_recursive(format!("/{dir}"), format!("{}/{dir}", Self::AT)).unwrap();
        }
        Self
    }

    /// The command that runs vitrine in the tree.
    pub fn vitrine() -> Vec<String> {
        let name = Path::new(env!("CARGO_BIN_EXE_vitrine")).file_name();
        let vitrine = Path::new(Self::BUILT).join(name.unwrap());
        let words = ["chroot", Self::AT, vitrine.to_str().unwrap()];
        words.map(str::to_owned).into()
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("chroot");
        command.arg(Self::AT).arg(program).args(arguments);
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/tmp/bus");
        command
    }

    /// Runs a program to its end, which has to be a good one, and gives what it wrote.
    #[track_caller]
    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program, arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{program}: {out}{err}");
        out
    }

    fn spawn(&self, stage: &Stage<'_>, program: &str, arguments: &[&str]) -> Proc {
        let name = program.rsplit('/').next().unwrap();
        stage.spawn(name, self.command(program, arguments))
    }
}

#[track_caller]
fn assert_captured_by(stage: &Stage<'_>, program: &str, protocol: &str) {
    let log = stage.vitrine.log();
    let words = [
        "capture begins",
        &format!("/{program}\" "),
        &format!("protocol=\"{protocol}\""),
    ];
    let is_it = |line: &str| words.iter().all(|word| line.contains(word));
    assert!(log.lines().any(is_it), "{program} by {protocol}: {log}");
}

#[test]
fn grim_1_5_takes_the_screen_by_ext_image_copy_capture() {
    let Some(tree) = tree("grim") else { return };
    machine::boot(Machine::default(), |guest| {
        let programs = Programs::mount(&tree);
        let stage = Setup::default().start(guest);
        let (mut client, mut painter) = stage.painter();
        for n in [3, 500] {
            painter.present(&mut client, n).unwrap();
            let expected = painter.expected();
            let take = |arguments: &[&str]| {
                let file = "/tmp/grim.png";
                let arguments: Vec<&str> = arguments.iter().copied().chain([file]).collect();
                let mut grim = programs.spawn(&stage, "grim", &arguments);
                grim.wait_success(SECOND * 20);
                read_png(Path::new(file))
            };
            take(&[]).assert_same(&expected, "grim");
            take(&["-o", "Virtual-1"]).assert_same(&expected, "grim -o Virtual-1");
            let region = part(&expected, 100, 50, 201, 99);
            take(&["-g", "100,50 201x99"]).assert_same(&region, "grim -g '100,50 201x99'");
        }
        assert_captured_by(&stage, "grim", "ext-image-copy-capture");
        stage.finish("Virtual-1");
    });
}

#[test]
fn wayvnc_shows_its_viewer_the_screen_and_each_change() {
    let Some(tree) = tree("wayvnc") else { return };
    machine::boot(Machine::default(), |guest| {
        let programs = Programs::mount(&tree);
        let stage = Setup::default().start(guest);
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 1).unwrap();
        let socket = "/tmp/vnc";
        let mut wayvnc = programs.spawn(
            &stage,
            "wayvnc",
            &["--disable-input", "--unix-socket", socket],
        );
        machine::wait_until("wayvnc to listen", SECOND * 20, || {
            wayvnc.assert_running();
            Path::new(socket).exists()
        });
        let mut viewer = Viewer::connect(Path::new(socket), SECOND * 20).unwrap();
        viewer.update(false).unwrap();
        for n in [1, 2, 77, 500] {
            painter.present(&mut client, n).unwrap();
            let expected = painter.expected();
            machine::wait_until("the viewer's picture", SECOND * 20, || {
                viewer.update(true).unwrap();
                viewer.picture == expected
            });
        }
        wayvnc.assert_running();
        drop(wayvnc);
        assert_captured_by(&stage, "wayvnc", "ext-image-copy-capture");
        stage.finish("Virtual-1");
    });
}

/// One output on another: the mirror is an application on the second one, and shows what the first one shows.
fn mirrors(backend: &'static str, protocol: &'static str) {
    let Some(tree) = tree("wl-mirror") else {
        return;
    };
    let machine = Machine::default()
        .output(Output::new())
        .output(Output::new());
    machine::boot(machine, |guest| mirrors_in(&tree, guest, backend, protocol));
}

fn mirrors_in(tree: &Path, guest: &Guest, backend: &str, protocol: &str) {
    let programs = Programs::mount(tree);
    let stage = Setup::default().start(guest);
    let mut client = stage.client();
    let [original, copy] =
        ["Virtual-1", "Virtual-2"].map(|name| client.output(Some(name)).unwrap());
    let options = PainterOptions {
        output: Some(original.proxy.clone()),
        ..Default::default()
    };
    let mut painter = Painter::new(&mut client, options).unwrap();
    painter.present(&mut client, 1).unwrap();
    let mut mirror = programs.spawn(
        &stage,
        "wl-mirror",
        &[
            "-b",
            backend,
            "--fullscreen-output",
            "Virtual-2",
            "Virtual-1",
        ],
    );
    let mut watcher = stage.client();
    for n in [1, 2, 77, 500] {
        painter.present(&mut client, n).unwrap();
        let expected = painter.expected();
        machine::wait_until("the mirror's picture", SECOND * 30, || {
            mirror.assert_running();
            let picture = screen::of_output(&mut watcher, &copy);
            crate::clients::picture::write_png(&guest.out().join("mirror.png"), &picture).unwrap();
            picture == expected
        });
    }
    drop(mirror);
    assert_captured_by(&stage, "wl-mirror", protocol);
    stage.finish("Virtual-1");
}

#[test]
fn wl_mirror_shows_one_output_on_another_by_ext_image_copy_capture() {
    mirrors("extcopy-shm", "ext-image-copy-capture");
}

#[test]
fn wl_mirror_shows_one_output_on_another_by_screencopy() {
    mirrors("screencopy-shm", "wlr-screencopy");
}

#[test]
fn wl_mirror_shows_one_output_on_another_by_export_dmabuf() {
    mirrors("export-dmabuf", "wlr-export-dmabuf");
}

/// A desktop's screen sharing: a session bus, PipeWire, and the portal's part for compositors like this one.
struct Portal<'a> {
    programs: Programs,
    stage: &'a Stage<'a>,
    portal: Option<Proc>,
    _services: [Proc; 3],
}

impl<'a> Portal<'a> {
    const NAME: &'static str = "org.freedesktop.impl.portal.desktop.wlr";

    fn start(tree: &Path, stage: &'a Stage<'a>) -> Self {
        let programs = Programs::mount(tree);
        let bus = [
            "--session",
            "--address=unix:path=/tmp/bus",
            "--nofork",
            "--nopidfile",
        ];
        let bus = programs.spawn(stage, "dbus-daemon", &bus);
        let exists = |path: &'static str| {
            machine::wait_until(path, SECOND * 20, || Path::new(path).exists());
        };
        exists("/tmp/bus");
        let pipewire = programs.spawn(stage, "pipewire", &[]);
        exists("/run/user/0/pipewire-0");
        let policy = programs.spawn(stage, "wireplumber", &[]);
        let chooser = "[screencast]\nchooser_type=none\noutput_name=Virtual-1\nmax_fps=2\n";
        std::fs::write("/tmp/portal.conf", chooser).unwrap();
        let mut portal = Self {
            programs,
            stage,
            portal: None,
            _services: [bus, pipewire, policy],
        };
        portal.restart();
        portal
    }

    fn restart(&mut self) {
        self.portal = None;
        let program = "/usr/libexec/xdg-desktop-portal-wlr";
        let arguments = ["-r", "-l", "INFO", "-c", "/tmp/portal.conf"];
        self.portal = Some(self.programs.spawn(self.stage, program, &arguments));
        let wait = ["wait", "--session", "--timeout", "20", Self::NAME];
        self.programs.run("gdbus", &wait);
    }

    /// Calls a method of org.freedesktop.impl.portal, in GVariant's text form both ways.
    #[track_caller]
    fn call(&self, method: &str, arguments: &[&str]) -> String {
        let method = format!("org.freedesktop.impl.portal.{method}");
        let mut words = vec!["call", "--session", "-d", Self::NAME];
        words.extend(["-o", "/org/freedesktop/portal/desktop", "-m", &method]);
        words.extend(arguments);
        let answer = self.programs.run("gdbus", &words);
        assert!(answer.starts_with("(uint32 0, "), "{method}: {answer}");
        answer
    }

    /// Starts a screen cast and gives PipeWire's number of it.
    fn cast(&self) -> String {
        let request = "/org/freedesktop/portal/desktop/request/t/r";
        let session = "/org/freedesktop/portal/desktop/session/t/s";
        let ids = [request, session, "test"];
        let monitors = "{'types': <uint32 1>, 'cursor_mode': <uint32 1>}";
        self.call("ScreenCast.CreateSession", &[&ids[..], &["{}"]].concat());
        self.call(
            "ScreenCast.SelectSources",
            &[&ids[..], &[monitors]].concat(),
        );
        let streams = self.call("ScreenCast.Start", &[&ids[..], &["", "{}"]].concat());
        let number = streams
            .split("[(uint32 ")
            .nth(1)
            .and_then(|rest| rest.split(',').next());
        number
            .unwrap_or_else(|| panic!("no stream: {streams}"))
            .to_owned()
    }
}

#[test]
fn the_portal_takes_a_screenshot() {
    let Some(tree) = tree("grim") else { return };
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 77).unwrap();
        let portal = Portal::start(&tree, &stage);
        let request = "/org/freedesktop/portal/desktop/request/t/r";
        let answer = portal.call("Screenshot.Screenshot", &[request, "test", "", "{}"]);
        let file = answer
            .split("file://")
            .nth(1)
            .and_then(|rest| rest.split('\'').next());
        let picture = read_png(Path::new(file.expect(&answer)));
        picture.assert_same(&painter.expected(), "the portal's screenshot");
        drop(portal);
        stage.finish("Virtual-1");
    });
}

/// What docs/clients.md says of the portal's streams that pause is what happens here at each start. Where the portal is
/// disconnected for its second frame object, it is tried again.
#[test]
fn the_portal_casts_the_screen_into_pipewire() {
    let Some(tree) = tree("gst-launch-1.0") else {
        return;
    };
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let mut window = Window::open(&stage, None, 1);
        window.turn(Duration::ZERO);
        let mut portal = Portal::start(&tree, &stage);
        let film = Path::new("/tmp/film");
        let mut attempts = 0;
        while !record(&portal, &mut window, film) {
            attempts += 1;
            assert!(attempts < 10, "the portal never gave two frames");
            let broken = "destroy the session's previous frame before creating the next one";
            let log = std::fs::read_to_string(guest.out().join("xdg-desktop-portal-wlr.log"));
            assert_eq!(log.unwrap().matches(broken).count(), attempts);
            portal.restart();
        }
        let bytes = std::fs::read(film).unwrap();
        let frames = bytes.chunks_exact(640 * 480 * 4).skip(NONSENSE);
        let frames = frames.map(|frame| read(frame, (640, 480), 640 * 4).unwrap());
        let numbers: Vec<u32> = frames.collect();
        println!("pictures {numbers:?}, {attempts} attempts in vain");
        assert!(numbers.len() >= 2, "{numbers:?}");
        assert!(numbers.is_sorted(), "{numbers:?}");
        assert!(
            numbers[0] < *numbers.last().unwrap(),
            "no motion: {numbers:?}"
        );
        drop(portal);
        assert_captured_by(&stage, "xdg-desktop-portal-wlr", "ext-image-copy-capture");
        stage.finish("Virtual-1");
    });
}

/// So many buffers of a stream are not what they seem: at the stop the portal gives back the one that is being captured, and
/// it takes the next one for it.
const NONSENSE: usize = 2;

/// Four frames of a screen cast, as GStreamer gets them, behind the nonsense. `false` if the portal gave up.
fn record(portal: &Portal<'_>, window: &mut Window, film: &Path) -> bool {
    let _ = std::fs::remove_file(film);
    let cast = portal.cast();
    // The buffer that is given back has the time of the frame before, and GStreamer waits for what comes next as long as that
    // is later. The first buffer of all has the time 0, which is the machine's start.
    if !stream(portal, window, &cast, 1, &["fakesink"]) {
        return false;
    }
    // What is being captured is over before the next start.
    let started = clock::now();
    while clock::now() < started + SECOND {
        window.turn(Duration::from_millis(5));
    }
    let location = format!("location={}", film.display());
    stream(
        portal,
        window,
        &cast,
        NONSENSE + 4,
        &["filesink", &location],
    )
}

/// Plays so many buffers of a cast into a sink, while the window never stands still.
fn stream(
    portal: &Portal<'_>,
    window: &mut Window,
    cast: &str,
    buffers: usize,
    sink: &[&str],
) -> bool {
    let (source, number) = (format!("path={cast}"), format!("num-buffers={buffers}"));
    let from = ["-q", "pipewiresrc", &source, "always-copy=true", &number];
    let to = ["!", "video/x-raw,format=BGRx", "!"];
    let arguments = [&from[..], &to[..], sink].concat();
    let program = "gst-launch-1.0";
    let mut recorder = portal.programs.spawn(portal.stage, program, &arguments);
    let started = clock::now();
    loop {
        if let Some(status) = recorder.try_exit() {
            return status.success();
        }
        assert!(clock::now() < started + SECOND * 30, "GStreamer hangs");
        window.turn(Duration::from_millis(5));
        std::thread::sleep(Duration::from_millis(20));
    }
}
