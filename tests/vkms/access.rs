//! Who may capture: sandboxes, allow lists, the privileged socket.

use std::{
    fs::{self, File},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use wayland_client::delegate_noop;
use wayland_protocols::wp::security_context::v1::client::{
    wp_security_context_manager_v1::WpSecurityContextManagerV1 as ContextManager,
    wp_security_context_v1::WpSecurityContextV1 as Context,
};

use crate::{
    clients::{identify, programs, Client, Exporter, State},
    machine::{self, Machine, SECOND},
    rights::{sees, CAPTURE, LOCK},
    stage::Setup,
};

delegate_noop!(State: ignore ContextManager);
delegate_noop!(State: ignore Context);

const CONTEXTS: &str = "wp_security_context_manager_v1";

fn runtime(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR").unwrap()).join(name)
}

/// A sandbox as a sandbox engine makes one: a listening socket, and a pipe whose end ends it.
fn sandbox(client: &mut Client, app_id: &str, listener: impl Into<OwnedFd>) -> OwnedFd {
    let manager: ContextManager = client.bind(1, ()).unwrap();
    let (close, ours) = rustix::pipe::pipe().unwrap();
    let listener = listener.into();
    let context = manager.create_listener(listener.as_fd(), close.as_fd(), &client.qh, ());
    context.set_sandbox_engine("org.example.engine".into());
    context.set_app_id(app_id.into());
    context.commit();
    context.destroy();
    manager.destroy();
    client.roundtrip().unwrap();
    ours
}

fn sandboxed(client: &mut Client, app_id: &str) -> (Client, OwnedFd) {
    let path = runtime(app_id);
    let end = sandbox(client, app_id, UnixListener::bind(&path).unwrap());
    (Client::connect(path).unwrap(), end)
}

#[test]
fn a_sandboxed_client_sees_no_capture_global_and_cannot_make_a_sandbox() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let mut outside = stage.client();
        assert_eq!(sees(&outside, &CAPTURE), [true; 6]);
        assert_eq!(sees(&outside, &LOCK), [true]);
        assert_eq!(sees(&outside, &[CONTEXTS]), [true]);
        let (inside, _end) = sandboxed(&mut outside, "org.example.Game");
        assert_eq!(sees(&inside, &CAPTURE), [false; 6]);
        assert_eq!(sees(&inside, &LOCK), [false]);
        assert_eq!(sees(&inside, &[CONTEXTS]), [false]);
        assert_eq!(sees(&inside, &["wl_output", "xdg_wm_base"]), [true; 2]);
        stage.finish("Virtual-1");
    });
}

#[test]
fn a_rule_lets_one_sandboxed_app_capture_and_its_name_is_in_the_audit() {
    machine::boot(Machine::default(), |guest| {
        let rule = "[[access.rule]]\naction = 'allow'\nsandbox_engine = 'org.example.*'\napp_id = 'org.example.Cast'\n";
        let mut stage = Setup::default().with(rule).start(guest);
        let (mut outside, mut painter) = stage.painter();
        painter.present(&mut outside, 5).unwrap();
        let (other, _end) = sandboxed(&mut outside, "org.example.Game");
        assert_eq!(sees(&other, &CAPTURE), [false; 6]);
        assert_eq!(sees(&other, &LOCK), [false]);
        let (mut cast, _end) = sandboxed(&mut outside, "org.example.Cast");
        // A rule is about capture alone.
        assert_eq!(sees(&cast, &CAPTURE), [true; 6]);
        assert_eq!(sees(&cast, &LOCK), [false]);
        let exporter = Exporter::new(&cast).unwrap();
        let output = cast.output(None).unwrap();
        let frame = exporter.capture(&mut cast, &output, true).unwrap().frame();
        assert_eq!(identify(&frame.picture()), Some(5));
        drop((frame, exporter, cast));
        stage.vitrine.wait_log("capture ends", SECOND * 20);
        let log = stage.vitrine.log();
        let events = audit(&log);
        assert_eq!(events.len(), 2, "{events:?}");
        for event in &events {
            for part in [
                &format!("pid={}", std::process::id())[..],
                "origin=\"sandbox\"",
                "app_id=Some(\"org.example.Cast\")",
                "sandbox_engine=Some(\"org.example.engine\")",
                "protocol=\"wlr-export-dmabuf\"",
                "source=Virtual-1",
            ] {
                assert!(event.contains(part), "no {part} in {event}");
            }
        }
        for part in [
            "producer=\"writeback\"",
            "frames=1",
            &format!("bytes={}", 640 * 480 * 4),
        ] {
            assert!(events[1].contains(part), "no {part} in {}", events[1]);
        }
        stage.finish("Virtual-1");
    });
}

fn audit(log: &str) -> Vec<&str> {
    log.lines()
        .filter(|line| line.contains("vitrine::audit"))
        .collect()
}

#[test]
fn a_sandbox_whose_socket_is_no_socket_harms_nobody() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let mut client = stage.client();
        let (stream, other) = UnixStream::pair().unwrap();
        drop(other);
        let file = File::create("/tmp/no-socket").unwrap();
        let mut ends = vec![
            sandbox(&mut client, "stream", stream),
            sandbox(&mut client, "file", file),
            sandbox(&mut client, "device", File::open("/dev/zero").unwrap()),
        ];
        // A sandbox that ends right away, as one whose engine has died.
        let listener = UnixListener::bind(runtime("short")).unwrap();
        drop(sandbox(&mut client, "short", listener));
        client.roundtrip().unwrap();
        let (inside, end) = sandboxed(&mut client, "sound");
        ends.push(end);
        assert_eq!(sees(&inside, &["wl_output"]), [true]);
        stage.finish("Virtual-1");
    });
}

#[test]
fn an_allow_list_admits_exactly_the_named_program() {
    machine::boot(Machine::default(), |guest| {
        let named = Path::new("/tmp/named/capture-client");
        let unnamed = Path::new("/tmp/unnamed/capture-client");
        let program = programs::command(programs::CAPTURE).unwrap();
        for path in [named, unnamed] {
            fs::create_dir(path.parent().unwrap()).unwrap();
            fs::copy(program.get_program(), path).unwrap();
        }
        let access = format!(
            "[access]\ndefault = 'deny'\n[[access.rule]]\naction = 'allow'\nexecutable = '{}'\n",
            named.display()
        );
        let stage = Setup::default().with(&access).start(guest);
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 1).unwrap();
        assert_eq!(sees(&client, &CAPTURE), [false; 6]);
        assert_eq!(sees(&client, &LOCK), [false]);
        for protocol in ["export", "copy"] {
            let capture = |path: &Path| {
                let mut command = std::process::Command::new(path);
                command.args(["--frames=1", "--protocol", protocol]);
                command
            };
            let mut admitted = stage.spawn(&format!("named-{protocol}"), capture(named));
            admitted.wait_success(SECOND * 30);
            let mut posing = std::process::Command::new("unshare");
            let script = format!(
                "mount --bind {} {} && exec {} --frames=1 --protocol {protocol}",
                unnamed.display(),
                named.display(),
                named.display()
            );
            posing.args(["--mount", "sh", "-c", &script]);
            for (name, command) in [("unnamed", capture(unnamed)), ("posing", posing)] {
                let mut denied = stage.spawn(&format!("{name}-{protocol}"), command);
                assert!(!denied.wait_exit(SECOND * 30).success());
                let log = denied.log();
                assert!(
                    log.contains("the compositor does not offer"),
                    "{name}: {log}"
                );
            }
        }
        stage.finish("Virtual-1");
    });
}

#[test]
fn clients_of_the_privileged_socket_have_the_rights_that_others_have_not() {
    machine::boot(Machine::default(), |guest| {
        let access = "[access]\ndefault = 'deny'\nprivileged_socket = 'wayland-privileged'\n\
                      [[access.rule]]\naction = 'deny'\n";
        let stage = Setup::default().with(access).start(guest);
        let (mut public, mut painter) = stage.painter();
        painter.present(&mut public, 3).unwrap();
        assert_eq!(sees(&public, &CAPTURE), [false; 6]);
        assert_eq!(sees(&public, &LOCK), [false]);
        let socket = runtime("wayland-privileged");
        assert_eq!(
            fs::metadata(&socket).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let mut privileged = Client::connect(socket).unwrap();
        assert_eq!(sees(&privileged, &CAPTURE), [true; 6]);
        assert_eq!(sees(&privileged, &LOCK), [true]);
        let exporter = Exporter::new(&privileged).unwrap();
        let output = privileged.output(None).unwrap();
        let frame = exporter
            .capture(&mut privileged, &output, true)
            .unwrap()
            .frame();
        assert_eq!(identify(&frame.picture()), Some(3));
        stage.finish("Virtual-1");
    });
}
