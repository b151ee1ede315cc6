//! The control socket, the metrics file and the history of a running vitrine.

use std::{
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
};

use vitrine::ipc::wire::{Answer, CaptureReport, Outcome, Reply};

use crate::{
    clients::{copy_capture::CopySession, MemoryKind},
    machine::{self, Guest, Machine, SECOND},
    stage::Setup,
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

/// What the control socket tells of the first output.
pub fn capture_report(guest: &Guest) -> CaptureReport {
    let line = msg(guest, &["--json", "capture"]);
    match serde_json::from_str::<Answer>(&line).unwrap().outcome {
        Outcome::Ok(Reply::Capture(mut reports)) => reports.remove(0),
        other => panic!("{other:?}"),
    }
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

pub fn assert_png_shows(file: &Path, picture: &crate::clients::Picture) {
    let decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(file).unwrap()));
    let mut reader = decoder.read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    let expected = picture.to_bytes();
    let expected: Vec<u8> = expected
        .chunks_exact(4)
        .flat_map(|pixel| [pixel[2], pixel[1], pixel[0]])
        .collect();
    assert!(
        pixels == expected,
        "{} shows something else",
        file.display()
    );
}

#[test]
fn the_last_frames_are_written_though_nobody_captured_and_are_what_was_on_the_screen() {
    machine::boot(Machine::default(), |guest| {
        let directory = guest.out().join("asked");
        let lines = format!("[capture]\nhistory = 3\nhistory_dir = {directory:?}\n");
        let stage = Setup::default().with(&lines).start(guest);
        let (mut client, mut painter) = stage.painter();
        let mut shown = Vec::new();
        for n in 1..=8 {
            painter.present(&mut client, n).unwrap();
            // Each is captured before the next one comes.
            let newest = |report: &CaptureReport| report.frames;
            machine::wait_until("the history to have it", SECOND * 20, || {
                newest(&capture_report(guest)) > u64::from(n) || capture_report(guest).history == 3
            });
            shown.push(painter.expected());
        }
        machine::wait_until("the last one to be kept", SECOND * 20, || {
            let _ = painter.present(&mut client, 8);
            capture_report(guest).history == 3
        });
        let told = msg(guest, &["history"]);
        let files = pngs(&directory);
        assert_eq!(files.len(), 3, "{told}");
        assert_eq!(told.lines().count(), 3);
        assert_png_shows(&files[2], shown.last().unwrap());

        let elsewhere = guest.out().join("elsewhere");
        msg(guest, &["history", elsewhere.to_str().unwrap()]);
        assert_eq!(pngs(&elsewhere).len(), 3);
        std::fs::remove_dir_all(&directory).unwrap();
        stage.vitrine.signal(machine::Signal::USR1);
        machine::wait_until("SIGUSR1 to write them", SECOND * 20, || {
            pngs(&directory)
                .iter()
                .filter(|file| file.extension().is_some_and(|e| e == "png"))
                .count()
                == 3
        });
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
        for (script, count) in [("sleep 2; kill -SEGV $$", 1), ("sleep 2; exit 0", 0)] {
            let directory = guest.out().join(format!("crash-{count}"));
            let file = guest.out().join("compositor.toml");
            let text = format!("[capture]\nhistory = 2\nhistory_dir = {directory:?}\n");
            std::fs::write(&file, text).unwrap();
            let mut command = Command::new(env!("CARGO_BIN_EXE_vitrine"));
            command.arg("-c").arg(&file);
            command.args(["-s", "wayland-test", "--", "sh", "-c", script]);
            let mut vitrine = guest.spawn("vitrine", command);
            vitrine.wait_exit(SECOND * 40);
            let files = pngs(&directory);
            assert!(
                files.len() >= count && files.len() <= 2 * count,
                "{files:?}"
            );
        }
    });
}
