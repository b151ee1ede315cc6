//! The program as a user meets it: its application, its exit codes, and what it says when something is wrong.

use std::process::Command;

use crate::machine::{self, Guest, Machine, Proc, Signal, SECOND};

fn vitrine() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vitrine"));
    command
        .env("RUST_LOG", "info,vitrine=debug")
        .args(["-s", "wayland-test"]);
    command
}

/// Runs vitrine with an application to the end.
fn run(guest: &Guest, name: &str, app: &[&str]) -> (Option<i32>, String) {
    let mut command = vitrine();
    command.arg("--").args(app);
    ended(guest.spawn(name, command))
}

fn ended(mut vitrine: Proc) -> (Option<i32>, String) {
    let status = vitrine.wait_exit(SECOND * 30);
    (status.code(), vitrine.log())
}

/// Runs a program on this machine, not in the guest.
fn here(arguments: &[&str], directory: &std::path::Path) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vitrine"));
    command
        .args(arguments)
        .current_dir(directory)
        .env_remove("VITRINE_FAULTS");
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn the_exit_code_is_the_applications_or_128_and_its_signal() {
    machine::boot(Machine::default(), |guest| {
        assert_eq!(run(guest, "true", &["true"]).0, Some(0));
        assert_eq!(run(guest, "three", &["sh", "-c", "exit 3"]).0, Some(3));
        assert_eq!(
            run(guest, "killed", &["sh", "-c", "kill -KILL $$"]).0,
            Some(137)
        );
        assert_eq!(
            run(guest, "crashed", &["sh", "-c", "kill -SEGV $$"]).0,
            Some(139)
        );
    });
}

#[test]
fn an_application_inherits_no_descriptor_of_devices_clients_or_sockets() {
    machine::boot(Machine::default(), |guest| {
        // Until the screen is up, and with it all that Vitrine has open.
        let script = "sleep 2; exec ls -l /proc/self/fd";
        let (code, log) = run(guest, "descriptors", &["sh", "-c", script]);
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("mode set"), "{log}");
        let lines = log.lines().filter_map(|line| line.split_once(" -> "));
        let open: Vec<_> = lines
            .map(|(what, to)| (what.rsplit(' ').next(), to))
            .collect();
        // Those that it shares with us, and the folder that it reads.
        let numbers: Vec<_> = open.iter().filter_map(|(number, _)| *number).collect();
        assert_eq!(numbers, ["0", "1", "2", "3"], "{open:?}");
        assert!(open.iter().any(|(_, to)| to.ends_with("/fd")), "{open:?}");
    });
}

#[test]
fn an_application_that_is_not_there_is_127_and_one_that_cannot_run_is_126() {
    machine::boot(Machine::default(), |guest| {
        let (code, log) = run(guest, "absent", &["no-such-program"]);
        assert_eq!(code, Some(127));
        assert!(
            log.contains("application \"no-such-program\" was not found; tried "),
            "{log}"
        );
        let (code, log) = run(guest, "directory", &["/etc/passwd"]);
        assert_eq!(code, Some(126));
        assert!(
            log.contains("application /etc/passwd cannot be run"),
            "{log}"
        );
    });
}

#[test]
fn sigterm_ends_the_application_and_then_vitrine() {
    machine::boot(Machine::default(), |guest| {
        let script = "trap 'echo asked to end > /run/out/asked; exit 9' TERM; \
                      echo the trap is set; while :; do sleep 0.05; done";
        for signal in [Signal::TERM, Signal::INT] {
            let mut command = vitrine();
            command.args(["--", "sh", "-c", script]);
            let mut vitrine = guest.spawn(&format!("{signal:?}"), command);
            vitrine.wait_log("application started", SECOND * 30);
            vitrine.wait_log("mode set", SECOND * 30);
            vitrine.wait_log("the trap is set", SECOND * 30);
            vitrine.signal(signal);
            let (code, log) = ended(vitrine);
            assert_eq!(code, Some(0), "{log}");
            let asked = guest.out().join("asked");
            assert_eq!(std::fs::read_to_string(&asked).unwrap(), "asked to end\n");
            std::fs::remove_file(asked).unwrap();
        }
    });
}

#[test]
fn an_application_that_does_not_want_to_end_is_killed() {
    machine::boot(Machine::default(), |guest| {
        let mut command = vitrine();
        command.args([
            "--",
            "sh",
            "-c",
            "trap '' TERM INT; echo the trap is set; while :; do sleep 0.05; done",
        ]);
        let mut vitrine = guest.spawn("vitrine", command);
        vitrine.wait_log("application started", SECOND * 30);
        vitrine.wait_log("the trap is set", SECOND * 30);
        vitrine.signal(Signal::TERM);
        let (code, log) = ended(vitrine);
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("KILL") || log.contains("signal 9"), "{log}");
    });
}

#[test]
fn a_socket_name_in_use_is_refused_and_a_stale_one_is_taken() {
    machine::boot(Machine::default(), |guest| {
        let runtime = std::env::var("XDG_RUNTIME_DIR").unwrap();
        // What a crash leaves behind: socket and lock file that nobody holds.
        drop(std::os::unix::net::UnixListener::bind(format!("{runtime}/wayland-test")).unwrap());
        std::fs::write(format!("{runtime}/wayland-test.lock"), "").unwrap();
        let mut first = guest.spawn("first", vitrine());
        first.wait_log("listening", SECOND * 30);
        // The second cannot have the display; a protocol server that only holds the lock is enough to see the message.
        first.signal(Signal::TERM);
        assert_eq!(ended(first).0, Some(0));
        let lock = std::fs::File::create(format!("{runtime}/wayland-test.lock")).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let (code, log) = ended(guest.spawn("second", vitrine()));
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains("wayland-test"), "the name is missing: {log}");
        assert!(log.contains("in use"), "the reason is missing: {log}");
    });
}

#[test]
fn a_runtime_directory_that_cannot_be_used_is_named() {
    machine::boot(Machine::default(), |guest| {
        for (name, directory) in [
            ("absent", Some("/run/absent")),
            ("unset", None),
            ("read-only", Some("/proc")),
        ] {
            let mut command = vitrine();
            match directory {
                Some(directory) => command.env("XDG_RUNTIME_DIR", directory),
                None => command.env_remove("XDG_RUNTIME_DIR"),
            };
            let (code, log) = ended(guest.spawn(name, command));
            assert_eq!(code, Some(1), "{name}: {log}");
            assert!(log.contains("XDG_RUNTIME_DIR"), "{name}: {log}");
            if let Some(directory) = directory {
                assert!(log.contains(directory), "{name}: {log}");
            }
        }
    });
}

#[test]
fn probe_says_what_the_device_can() {
    machine::boot(
        Machine::default()
            .output(machine::Output::new())
            .output(machine::Output::new().writeback(false)),
        |guest| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_vitrine"));
            command.arg("probe").arg("--device").arg(guest.card());
            let text = guest.run("probe", command).unwrap();
            println!("{text}");
            for line in [
                format!("{} (driver vkms)", guest.card().display()).as_str(),
                "  writeback connectors: the kernel shows them",
                "  Virtual-1: connected",
                "  Virtual-2: connected",
                "    writeback: clone, Writeback-1 runs beside the screen; TEST_ONLY agrees",
            ] {
                assert!(
                    text.lines().any(|l| l == line),
                    "{line:?} is not in:\n{text}"
                );
            }
            assert!(text.contains("preferred mode "), "{text}");
            assert!(text.contains("640x480@"), "{text}");
            let second = text.split("  Virtual-2: connected").nth(1).unwrap();
            assert!(second.contains("    writeback: only on a CRTC of its own: no writeback connector can be routed"), "{text}");
            let writes = text
                .lines()
                .find(|l| l.starts_with("  Writeback-1: writes "))
                .unwrap();
            assert!(writes.contains("XR24"), "{writes}");
            // Without a name all nodes are asked; vgem, which has no screen, does not spoil the answer.
            let mut all = Command::new(env!("CARGO_BIN_EXE_vitrine"));
            all.arg("probe");
            let text = guest.run("probe-all", all).unwrap();
            assert!(text.contains("(driver vkms)"), "{text}");
        },
    );
}

#[test]
fn probe_of_what_is_no_display_device_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (code, _, error) = here(&["probe", "--device", "/dev/null"], folder.path());
    assert_eq!(code, Some(1));
    assert!(error.contains("/dev/null"), "{error}");
    let (code, _, error) = here(&["probe", "--device", "/dev/dri/card99"], folder.path());
    assert_eq!(code, Some(1));
    assert!(
        error.contains("/dev/dri/card99") && error.contains("cannot be opened"),
        "{error}"
    );
}

#[test]
fn probe_without_any_card_says_what_is_missing() {
    if std::path::Path::new("/dev/dri").exists() {
        return; // a machine with a screen: `probe_says_what_the_device_can` is about those
    }
    let folder = tempfile::tempdir().unwrap();
    let (code, _, error) = here(&["probe"], folder.path());
    assert_eq!(code, Some(1));
    assert!(error.contains("is a DRM driver loaded?"), "{error}");
}

#[test]
fn a_wrong_configuration_is_named_by_file_line_and_key() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("bad.toml"),
        "renderer = \"auto\"\n\n[capture]\nring_slots = 99\n",
    )
    .unwrap();
    for arguments in [&["-c", "bad.toml"][..], &["validate", "-c", "bad.toml"]] {
        let (code, _, error) = here(arguments, folder.path());
        assert_eq!(code, Some(1), "{error}");
        assert!(error.contains("bad.toml:4: "), "{error}");
        assert!(error.contains("ring_slots"), "{error}");
        assert!(error.contains('8'), "what is valid is missing: {error}");
    }
    std::fs::write(folder.path().join("bad.toml"), "colour = 1\n").unwrap();
    let (code, _, error) = here(&["validate", "-c", "bad.toml"], folder.path());
    assert_eq!(code, Some(1), "{error}");
    assert!(
        error.contains("bad.toml:1: ") && error.contains("colour"),
        "{error}"
    );
    let (code, _, error) = here(&["-c", "absent.toml"], folder.path());
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("absent.toml: cannot be read"), "{error}");
}

#[test]
fn the_documented_configuration_is_valid() {
    let (code, out, error) = here(
        &["validate", "-c", "compositor.toml"],
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")),
    );
    assert_eq!(code, Some(0), "{error}");
    assert_eq!(out, "compositor.toml: valid\n");
}
