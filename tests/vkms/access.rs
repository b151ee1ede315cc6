//! Who may capture: sandboxes, allow lists, the privileged socket.

use std::{
    fs::{self, File},
    net::TcpListener,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::PermissionsExt,
            net::{UnixDatagram, UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use wayland_client::{delegate_noop, Dispatch, Proxy};
use wayland_protocols::ext::session_lock::v1::client::ext_session_lock_manager_v1::ExtSessionLockManagerV1;
use wayland_protocols::wp::security_context::v1::client::{
    wp_security_context_manager_v1::WpSecurityContextManagerV1 as ContextManager,
    wp_security_context_v1::WpSecurityContextV1 as Context,
};
use wayland_protocols_wlr::output_power_management::v1::client::zwlr_output_power_manager_v1::ZwlrOutputPowerManagerV1;

use crate::{
    clients::{
        identify, programs, screencopy::ScreencopyManager, Client, Exporter, OutputPower, State,
    },
    machine::{self, Machine, SECOND},
    rights::{sees, CAPTURE, OTHERS},
    stage::{Setup, Stage},
};

delegate_noop!(State: ignore ContextManager);
delegate_noop!(State: ignore Context);

const CONTEXTS: &str = "wp_security_context_manager_v1";

pub fn runtime(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR").unwrap()).join(name)
}

/// A sandbox as a sandbox engine makes one: a listening socket, and a pipe whose end ends it.
pub fn sandbox(client: &mut Client, app_id: &str, listener: impl Into<OwnedFd>) -> OwnedFd {
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
        assert_eq!(sees(&outside, &OTHERS), [true; 2]);
        assert_eq!(sees(&outside, &[CONTEXTS]), [true]);
        let (inside, _end) = sandboxed(&mut outside, "org.example.Game");
        assert_eq!(sees(&inside, &CAPTURE), [false; 6]);
        assert_eq!(sees(&inside, &OTHERS), [false; 2]);
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
        assert_eq!(sees(&other, &OTHERS), [false; 2]);
        let (mut cast, _end) = sandboxed(&mut outside, "org.example.Cast");
        // A rule is about capture alone.
        assert_eq!(sees(&cast, &CAPTURE), [true; 6]);
        assert_eq!(sees(&cast, &OTHERS), [false; 2]);
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

#[test]
fn a_rule_for_the_power_of_outputs_gives_nothing_else() {
    machine::boot(Machine::default(), |guest| {
        let rules = "[access]\ndefault = 'deny'\n\
                     [[access.rule]]\naction = 'allow'\nglobals = ['output-power']\n\
                     app_id = 'org.example.Idle'\n";
        let stage = Setup::default().with(rules).start(guest);
        let mut outside = stage.client();
        assert_eq!(sees(&outside, &OTHERS), [false; 2]);
        let (mut idle, _end) = sandboxed(&mut outside, "org.example.Idle");
        assert_eq!(sees(&idle, &CAPTURE), [false; 6]);
        assert_eq!(sees(&idle, &OTHERS), [false, true]);
        let output = idle.output(None).unwrap();
        let power = OutputPower::of(&mut idle, &output).unwrap();
        for on in [false, true] {
            power.set(&mut idle, on).unwrap();
            assert_eq!(power.is_on(), Some(on));
        }
        let log = stage.vitrine.log();
        let events = audit(&log);
        assert_eq!(events.len(), 2, "{events:?}");
        for (event, power) in events.iter().zip(["off", "on"]) {
            for part in [
                "output is switched",
                "origin=\"sandbox\"",
                "app_id=Some(\"org.example.Idle\")",
                "output=\"Virtual-1\"",
                &format!("power=\"{power}\""),
            ] {
                assert!(event.contains(part), "no {part} in {event}");
            }
        }
        assert_eq!(stage.finish("Virtual-1").get("modesets"), 3);
    });
}

fn audit(log: &str) -> Vec<&str> {
    log.lines()
        .filter(|line| line.contains("vitrine::audit"))
        .collect()
}

/// The error that a client of its own is told for what it asks of the manager, with a listening socket at hand.
fn told(
    stage: &Stage<'_>,
    provoke: impl FnOnce(&Client, &ContextManager, &UnixListener),
) -> (String, u32) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let listener = UnixListener::bind(runtime(&format!("bad-{number}"))).unwrap();
    let mut client = stage.client();
    let manager: ContextManager = client.bind(1, ()).unwrap();
    provoke(&client, &manager, &listener);
    client.expect_protocol_error().unwrap()
}

fn context(client: &Client, manager: &ContextManager, listener: impl AsFd) -> Context {
    let (close, _) = rustix::pipe::pipe().unwrap();
    manager.create_listener(listener.as_fd(), close.as_fd(), &client.qh, ())
}

#[test]
fn a_sandbox_whose_socket_does_not_listen_is_an_error_and_harms_nobody() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let bound = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        let address = SocketAddrUnix::new(runtime("bound")).unwrap();
        rustix::net::bind(&bound, &address).unwrap();
        let bad: [(&str, OwnedFd); 6] = [
            ("a connection", UnixStream::pair().unwrap().0.into()),
            ("a socket that does not listen", bound),
            ("datagrams", UnixDatagram::unbound().unwrap().into()),
            (
                "another family",
                TcpListener::bind("0.0.0.0:0").unwrap().into(),
            ),
            ("a file", File::create("/tmp/no-socket").unwrap().into()),
            ("a device", File::open("/dev/zero").unwrap().into()),
        ];
        for (what, fd) in bad {
            let error = told(&stage, |client, manager, _| {
                context(client, manager, fd);
            });
            assert_eq!(error, (CONTEXTS.to_owned(), 1), "{what}");
        }
        let mut client = stage.client();
        // A sandbox that ends right away, as one whose engine has died.
        let listener = UnixListener::bind(runtime("short")).unwrap();
        drop(sandbox(&mut client, "short", listener));
        client.roundtrip().unwrap();
        let (inside, _end) = sandboxed(&mut client, "sound");
        assert_eq!(sees(&inside, &["wl_output"]), [true]);
        stage.finish("Virtual-1");
    });
}

#[test]
fn what_a_sandbox_is_told_twice_or_too_late_is_an_error() {
    const ALREADY_USED: u32 = 1;
    const ALREADY_SET: u32 = 2;
    type Provoke = fn(&Context);
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let cases: [(&str, u32, Provoke); 5] = [
            ("the engine twice", ALREADY_SET, |context| {
                context.set_sandbox_engine("one".to_owned());
                context.set_sandbox_engine("two".to_owned());
            }),
            ("the app twice", ALREADY_SET, |context| {
                context.set_app_id("one".to_owned());
                context.set_app_id("one".to_owned());
            }),
            ("the instance twice", ALREADY_SET, |context| {
                context.set_instance_id("one".to_owned());
                context.set_instance_id("two".to_owned());
            }),
            ("a second commit", ALREADY_USED, |context| {
                context.commit();
                context.commit();
            }),
            ("a name after the commit", ALREADY_USED, |context| {
                context.commit();
                context.set_app_id("late".to_owned());
            }),
        ];
        for (what, code, provoke) in cases {
            let error = told(&stage, |client, manager, listener| {
                provoke(&context(client, manager, listener));
            });
            assert_eq!(error, ("wp_security_context_v1".to_owned(), code), "{what}");
        }
        stage.finish("Virtual-1");
    });
}

/// A client in a sandbox of its own binds a global by the number that it has for others, and is refused.
fn guess<I>(outside: &mut Client)
where
    I: Proxy + 'static,
    State: Dispatch<I, ()>,
{
    let interface = I::interface().name;
    let mut globals = outside.state.globals.iter();
    let number = globals.find(|global| global.interface == interface);
    let number = number.unwrap().name;
    let (mut inside, _end) = sandboxed(outside, interface);
    let _: I = inside.registry().bind(number, 1, &inside.qh, ());
    let error = inside.expect_protocol_error().unwrap();
    assert_eq!(error, ("wl_display".to_owned(), 0), "{interface}");
}

#[test]
fn a_sandboxed_client_that_guesses_a_globals_number_is_refused() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let mut outside = stage.client();
        guess::<ContextManager>(&mut outside);
        guess::<ScreencopyManager>(&mut outside);
        guess::<ExtSessionLockManagerV1>(&mut outside);
        guess::<ZwlrOutputPowerManagerV1>(&mut outside);
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
        assert_eq!(sees(&client, &OTHERS), [false; 2]);
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
        assert_eq!(sees(&public, &OTHERS), [false; 2]);
        let socket = runtime("wayland-privileged");
        assert_eq!(
            fs::metadata(&socket).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let mut privileged = Client::connect(socket).unwrap();
        assert_eq!(sees(&privileged, &CAPTURE), [true; 6]);
        assert_eq!(sees(&privileged, &OTHERS), [true; 2]);
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
