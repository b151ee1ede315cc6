//! The control socket, the metrics file and the history of a running vitrine.

use std::{
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use vitrine::ipc::wire::{Answer, CaptureReport, Outcome, Reply};

use crate::{
    clients::{copy_capture::CopySession, Client, MemoryKind, Painter, PainterOptions, Picture},
    machine::{self, Guest, Machine, SECOND},
    stage::{with_time, Setup},
};

fn socket() -> PathBuf {
    let folder = std::env::var("XDG_RUNTIME_DIR").unwrap();
    Path::new(&folder).join("vitrine-wayland-test.sock")
}

/// What `vitrine msg` says.
pub fn msg(guest: &Guest, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vitrine"));
    command.arg("msg").args(arguments);
    guest.run("msg", command).unwrap()
}

/// What the control socket tells of all outputs.
pub fn capture_reports(guest: &Guest) -> Vec<CaptureReport> {
    let line = msg(guest, &["--json", "capture"]);
    match serde_json::from_str::<Answer>(&line).unwrap().outcome {
        Outcome::Ok(Reply::Capture(reports)) => reports,
        other => panic!("{other:?}"),
    }
}

/// What it tells of the first one.
pub fn capture_report(guest: &Guest) -> CaptureReport {
    capture_reports(guest).remove(0)
}

#[test]
fn the_control_socket_tells_what_a_client_got_and_garbage_does_not_hold_the_display() {
    machine::boot(Machine::default(), |guest| {
        let metrics = guest.out().join("vitrine.prom");
        let lines = format!("[metrics]\nfile = {metrics:?}\ninterval_s = 1\n");
        let mut stage = Setup::default().with(&lines).start(guest);
        let (mut client, mut painter) = stage.painter();
        let mode = std::fs::metadata(socket()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        // A peer that floods and never reads, and one that says nonsense without end.
        let flood = UnixStream::connect(socket()).unwrap();
        flood.set_nonblocking(true).unwrap();
        let mut babble = UnixStream::connect(socket()).unwrap();
        babble.set_nonblocking(true).unwrap();
        let request = b"{\"version\":1,\"request\":\"metrics\"}\n".repeat(1000);

        let mut capturer = stage.client();
        let output = capturer.output(None).unwrap();
        let session = CopySession::open(&mut capturer, &output, true).unwrap();
        let buffer = session.buffer(&mut capturer, MemoryKind::Shm).unwrap();
        for n in 1..=20 {
            let _ = (&flood).write(&request);
            let _ = babble.write(&[b'x'; 10_000]);
            painter.present(&mut client, n).unwrap();
            let frame = session.capture(&mut capturer, &buffer, &[]).unwrap();
            frame.frame();
        }
        let report = capture_report(guest);
        assert_eq!(report.output, "Virtual-1");
        assert_eq!(
            (report.producer.as_str(), report.trust.as_str()),
            ("writeback", "trusted")
        );
        let of_client = &report.clients[0];
        assert_eq!((of_client.frames, of_client.copies), (20, 20));
        assert_eq!(of_client.flip_to_ready.count, 20);
        assert!(of_client.copied_bytes >= 640 * 480 * 4);
        assert!(report.frames >= 20 && report.jobs >= report.frames);

        // The babbler was told and is gone; vitrine did not keep what it said.
        let mut told = String::new();
        babble.set_nonblocking(false).unwrap();
        let _ = babble.read_to_string(&mut told);
        assert!(told.contains("at most"), "{told}");

        assert!(msg(guest, &["capture"]).starts_with("Virtual-1: writeback, trusted; "));
        assert!(msg(guest, &["outputs"]).contains("640x480@"));
        assert!(msg(guest, &["version"]).contains(&stage.vitrine.pid().to_string()));
        let text = msg(guest, &["metrics"]);
        assert!(text.ends_with("# EOF\n"));
        assert!(text
            .contains("vitrine_capture_client_frames_total{output=\"Virtual-1\",client=\"1\"} 20"));
        machine::wait_until("the metrics file to have the frames", SECOND * 20, || {
            std::fs::read_to_string(&metrics).is_ok_and(|text| {
                text.ends_with("# EOF\n")
                    && text.contains("flip_to_ready_seconds_count{output=\"Virtual-1\"} 20")
            })
        });

        let mut opened = || {
            drop(CopySession::open(&mut capturer, &output, true).unwrap());
            capturer.roundtrip().unwrap();
            stage
                .vitrine
                .log()
                .matches("capture session opened")
                .count()
        };
        let before = opened();
        msg(guest, &["log", "info"]);
        assert_eq!(opened(), before);
        msg(guest, &["log", "info,vitrine::capture=debug"]);
        assert_eq!(opened(), before + 1);
        let wrong = Command::new(env!("CARGO_BIN_EXE_vitrine"))
            .args(["msg", "log", "vitrine=loud"])
            .output()
            .unwrap();
        assert!(!wrong.status.success());
        assert!(String::from_utf8_lossy(&wrong.stderr).contains("bad log filter"));

        msg(guest, &["quit"]);
        assert_eq!(stage.vitrine.wait_exit(SECOND * 20).code(), Some(0));
        assert!(!socket().exists() && !metrics.exists());
    });
}

#[test]
fn the_application_can_reach_the_control_socket() {
    machine::boot(Machine::default(), |guest| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vitrine"));
        let program = env!("CARGO_BIN_EXE_vitrine");
        let script = format!("test -S \"$VITRINE_SOCKET\" && {program} msg version");
        command.args(["-s", "wayland-test", "--", "sh", "-c", &script]);
        let mut vitrine = guest.spawn("vitrine", command);
        assert_eq!(vitrine.wait_exit(SECOND * 30).code(), Some(0));
    });
}

pub fn pngs(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
        .unwrap_or_default();
    files.sort();
    files
}

pub fn assert_png_shows(file: &Path, picture: &Picture) {
    read_png(file)
        .0
        .assert_same(picture, &file.display().to_string());
}

/// The picture of a file, and its presentation time as the file says it.
fn read_png(file: &Path) -> (Picture, Duration) {
    let decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(file).unwrap()));
    let mut reader = decoder.read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut bytes).unwrap();
    let info = reader.info();
    let text = info
        .uncompressed_latin1_text
        .iter()
        .find(|text| text.keyword == "Presentation time (CLOCK_MONOTONIC, s)")
        .unwrap();
    let (seconds, nanoseconds) = text.text.split_once('.').unwrap();
    assert_eq!(nanoseconds.len(), 9, "{}", text.text);
    let time = Duration::new(seconds.parse().unwrap(), nanoseconds.parse().unwrap());
    let pixels = bytes.chunks_exact(3);
    let picture = Picture {
        width: info.width,
        height: info.height,
        pixels: pixels
            .map(|p| u32::from_be_bytes([0, p[0], p[1], p[2]]))
            .collect(),
    };
    (picture, time)
}

/// Shows `n` and waits until it is captured; gives what was shown, and when.
fn shown(guest: &Guest, client: &mut Client, painter: &mut Painter, n: u32) -> (Picture, Duration) {
    // What is being captured already is an older picture, and counts as one when it is there.
    let mut before = 0;
    machine::wait_until("the job in flight", SECOND * 20, || {
        let report = capture_report(guest);
        let written = report.frames - report.rendered;
        before = report.frames;
        report.jobs == written + report.late + report.failed
    });
    let time = painter.present(client, n).unwrap();
    machine::wait_until("the history to have it", SECOND * 20, || {
        capture_report(guest).frames > before
    });
    (painter.expected(), time)
}

/// The files are these pictures with the times of their flips, in their order.
#[track_caller]
fn assert_written(files: &[PathBuf], shown: &[(Picture, Duration)]) {
    assert_eq!(files.len(), shown.len(), "{files:?}");
    assert!(shown.is_sorted_by(|a, b| a.1 < b.1));
    for (file, (picture, time)) in files.iter().zip(shown) {
        let (seen, said) = read_png(file);
        seen.assert_same(picture, &file.display().to_string());
        assert_eq!(said, *time, "{}", file.display());
    }
}

#[test]
fn the_last_frames_are_written_though_nobody_captured_and_are_what_was_on_the_screen() {
    machine::boot(Machine::default(), |guest| {
        let directory = guest.out().join("asked");
        let lines = format!("[capture]\nhistory = 3\nhistory_dir = {directory:?}\n");
        let stage = Setup::default().with(&lines).start(guest);
        let (mut client, mut painter) = stage.painter();
        let all: Vec<_> = (1..=8)
            .map(|n| shown(guest, &mut client, &mut painter, n))
            .collect();
        let last = &all[5..];
        assert_eq!(capture_report(guest).history, 3);
        let told = msg(guest, &["history"]);
        assert_eq!(told.lines().count(), 3);
        assert_written(&pngs(&directory), last);

        let elsewhere = guest.out().join("elsewhere");
        msg(guest, &["history", elsewhere.to_str().unwrap()]);
        assert_written(&pngs(&elsewhere), last);
        std::fs::remove_dir_all(&directory).unwrap();
        stage.vitrine.signal(machine::Signal::USR1);
        machine::wait_until("SIGUSR1 to write them", SECOND * 20, || {
            pngs(&directory)
                .iter()
                .filter(|file| file.extension().is_some_and(|e| e == "png"))
                .count()
                == 3
        });
        assert_written(&pngs(&directory), last);
        let report = capture_report(guest);
        assert!(report.clients.is_empty() && report.delivered == 0);
        assert_eq!(report.buffers, 4 + 3);
        let summary = stage.finish("Virtual-1");
        assert_eq!(summary.get("modesets"), 1);
        assert_eq!(summary.get("delivered"), 0);
    });
}

#[test]
fn an_application_that_crashes_leaves_the_last_frames_and_one_that_ends_does_not() {
    machine::boot(Machine::default(), |guest| {
        for (end, count) in [("kill -SEGV $$", 2), ("exit 0", 0)] {
            let directory = guest.out().join(format!("crash-{count}"));
            let file = guest.out().join("compositor.toml");
            let text = format!(
                "[capture]\nhistory = 2\nhistory_dir = {directory:?}\n\
                 [[output]]\nconnector = \"*\"\nmode = \"640x480\"\n"
            );
            std::fs::write(&file, with_time(&text, false)).unwrap();
            let mut command = Command::new(env!("CARGO_BIN_EXE_vitrine"));
            command.arg("-c").arg(&file);
            let now = guest.out().join(format!("now-{count}"));
            let script = format!("while ! test -e {now:?}; do sleep 0.1; done; {end}");
            command.args(["-s", "wayland-test", "--", "sh", "-c", &script]);
            let mut vitrine = guest.spawn("vitrine", command);
            let mut client = Client::connect_when_ready("wayland-test", SECOND * 20).unwrap();
            let mut painter = Painter::new(&mut client, PainterOptions::default()).unwrap();
            let all: Vec<_> = (1..=4)
                .map(|n| shown(guest, &mut client, &mut painter, n))
                .collect();
            std::fs::write(now, "").unwrap();
            vitrine.wait_exit(SECOND * 40);
            assert_written(&pngs(&directory), &all[4 - count..]);
        }
    });
}
