//! ext-session-lock-v1 against the whole compositor without a device, in a thread of this process.

use std::{
    path::{Path, PathBuf},
    sync::{mpsc, Arc, OnceLock},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use drm_fourcc::{DrmFourcc, DrmModifier};
use smithay::{
    output::{Mode, Output, PhysicalProperties, Subpixel},
    reexports::calloop::{
        channel::{self, Event},
        EventLoop,
    },
};
use vitrine::{
    capture::{
        CaptureConfig, ClientId, FrameFormat, JobId, OutputCapture, PlainMemory, Producer,
        SessionKind, SlotMemory,
    },
    compositor::Vitrine,
    config::Config,
    time::Time,
};
use wayland_client::Proxy;
use wayland_protocols::xdg::xdg_output::zv1::client::zxdg_output_manager_v1::ZxdgOutputManagerV1;
use wayland_server::Display;

use crate::clients::{session_lock::LockRecord, Client, Locker, Painter, PainterOptions};

type Task = Box<dyn FnOnce(&mut Vitrine) + Send>;

/// A running compositor with outputs that are on no device.
pub struct Session {
    socket: PathBuf,
    tasks: channel::Sender<Task>,
    thread: Option<JoinHandle<()>>,
}

fn runtime_dir() -> &'static Path {
    static DIR: OnceLock<tempfile::TempDir> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        std::env::set_var("XDG_RUNTIME_DIR", dir.path());
        std::env::set_var("XDG_CONFIG_HOME", dir.path());
        dir
    })
    .path()
}

fn add_output(state: &mut Vitrine, name: &str) {
    let physical = PhysicalProperties {
        size: (0, 0).into(),
        subpixel: Subpixel::Unknown,
        make: "none".into(),
        model: "none".into(),
    };
    let output = Output::new(name.to_owned(), physical);
    let mode = Mode {
        size: (320, 200).into(),
        refresh: 60_000,
    };
    output.change_current_state(Some(mode), None, None, None);
    let rule = state.config.output(name);
    state.add_output(output, &rule);
}

impl Session {
    pub fn start(config: &str) -> Self {
        let dir = runtime_dir();
        let config = Config::parse(config, Path::new("compositor.toml")).unwrap();
        let (tasks, source) = channel::channel::<Task>();
        let (told, names) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut event_loop: EventLoop<'static, Vitrine> = EventLoop::try_new().unwrap();
            let handle = event_loop.handle();
            handle
                .insert_source(source, |event, _, state| {
                    if let Event::Msg(task) = event {
                        task(state);
                    }
                })
                .unwrap();
            let display = Display::new().unwrap();
            let signal = event_loop.get_signal();
            let mut state = Vitrine::new(config, display, handle, signal).unwrap();
            add_output(&mut state, "TEST-1");
            add_output(&mut state, "TEST-2");
            told.send(state.listen(None).unwrap()).unwrap();
            event_loop
                .run(None, &mut state, Vitrine::after_turn)
                .unwrap();
        });
        Self {
            socket: dir.join(names.recv().unwrap()),
            tasks,
            thread: Some(thread),
        }
    }

    pub fn client(&self) -> Client {
        Client::connect(self.socket()).unwrap()
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Has the compositor do something, and waits for that.
    pub fn with<T: Send + 'static>(&self, f: impl FnOnce(&mut Vitrine) -> T + Send + 'static) -> T {
        let (told, answer) = mpsc::channel();
        let task = move |state: &mut Vitrine| told.send(f(state)).unwrap();
        self.tasks.send(Box::new(task)).unwrap();
        answer.recv().unwrap()
    }

    /// Whether everything is hidden.
    fn is_hidden(&self) -> bool {
        self.with(|state| state.shell.curtain().is_some())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let quit: Task = Box::new(|state| state.quit(0));
        let _ = self.tasks.send(quit);
        let ended = self.thread.take().unwrap().join();
        assert!(
            ended.is_ok() || std::thread::panicking(),
            "the compositor panicked"
        );
    }
}

const LOCKED: LockRecord = LockRecord {
    locked: true,
    finished: false,
};
const FINISHED: LockRecord = LockRecord {
    locked: false,
    finished: true,
};

fn ask(client: &mut Client) -> Locker {
    let lock = Locker::ask(client).unwrap();
    lock.wait(client).unwrap();
    lock
}

#[track_caller]
fn expect_error(client: &mut Client, interface: &str, code: u32) {
    let (blamed, found) = client.expect_protocol_error().unwrap();
    assert_eq!((blamed.as_str(), found), (interface, code));
}

const LOCK: &str = "ext_session_lock_v1";
const SURFACE: &str = "ext_session_lock_surface_v1";

#[test]
fn a_session_is_locked_once_and_unlocked_by_who_locked_it() {
    let session = Session::start("");
    let (mut first, mut second) = (session.client(), session.client());
    let lock = ask(&mut first);
    assert_eq!(lock.record(), LOCKED);
    assert!(session.is_hidden());
    let refused = ask(&mut second);
    assert_eq!(refused.record(), FINISHED);
    refused.proxy.destroy();
    second.roundtrip().unwrap();
    assert!(session.is_hidden());
    lock.unlock(&mut first).unwrap();
    assert!(!session.is_hidden());
    assert_eq!(ask(&mut second).record(), LOCKED);
}

#[test]
fn a_lock_that_was_refused_unlocks_nothing() {
    let session = Session::start("");
    let (mut holder, mut other) = (session.client(), session.client());
    let lock = ask(&mut holder);
    let refused = ask(&mut other);
    assert_eq!(refused.record(), FINISHED);
    refused.proxy.unlock_and_destroy();
    expect_error(&mut other, LOCK, 1);
    assert!(session.is_hidden());
    // Nor does a lock surface of it cover anything.
    let mut third = session.client();
    let refused = ask(&mut third);
    let output = third.output(Some("TEST-1")).unwrap();
    let surface = refused.bare_surface(&mut third, &output).unwrap();
    third.roundtrip().unwrap();
    assert_eq!(surface.configured().serial, 0, "configured");
    assert_eq!(lock.record(), LOCKED);
    lock.unlock(&mut holder).unwrap();
    assert!(!session.is_hidden());
}

#[test]
fn a_client_that_dies_leaves_the_session_locked_for_the_next() {
    let session = Session::start("");
    let mut first = session.client();
    let lock = ask(&mut first);
    let output = first.output(Some("TEST-1")).unwrap();
    let _surface = lock.cover(&mut first, &output, 1).unwrap();
    first.roundtrip().unwrap();
    drop(first);
    let mut second = session.client();
    second.roundtrip().unwrap();
    assert!(session.is_hidden());
    let lock = ask(&mut second);
    assert_eq!(lock.record(), LOCKED);
    assert!(session.is_hidden());
    lock.unlock(&mut second).unwrap();
    assert!(!session.is_hidden());
}

#[test]
fn a_lock_that_is_taken_back_before_it_is_there_is_none_and_one_that_is_there_cannot_be() {
    let session = Session::start("");
    let mut client = session.client();
    // Both requests come at once: the compositor has not told anything in between.
    let early = Locker::ask(&mut client).unwrap();
    early.proxy.destroy();
    client.roundtrip().unwrap();
    assert_eq!(early.record(), LockRecord::default());
    assert!(!session.is_hidden());
    let lock = ask(&mut client);
    assert_eq!(lock.record(), LOCKED);
    lock.proxy.destroy();
    expect_error(&mut client, LOCK, 0);
    assert!(session.is_hidden(), "a protocol error unlocks");
}

#[test]
fn each_rule_of_a_lock_surface_has_its_error_and_none_unlocks() {
    let session = Session::start("");
    let locked = || {
        let mut client = session.client();
        let lock = ask(&mut client);
        assert_eq!(lock.record(), LOCKED);
        let output = client.output(Some("TEST-1")).unwrap();
        (client, lock, output)
    };
    // A commit before the acknowledgement.
    let (mut client, lock, output) = locked();
    let mut surface = lock.surface(&mut client, &output).unwrap();
    assert_eq!(surface.configured().size, (320, 200));
    surface.show(&mut client, 1).unwrap();
    expect_error(&mut client, SURFACE, 0);
    // No buffer.
    let (mut client, lock, output) = locked();
    let surface = lock.cover(&mut client, &output, 1).unwrap();
    surface.surface.attach(None, 0, 0);
    surface.surface.commit();
    expect_error(&mut client, SURFACE, 1);
    // Another size.
    let (mut client, lock, output) = locked();
    let mut surface = lock.cover(&mut client, &output, 1).unwrap();
    surface.show_sized(&mut client, 2, (320, 199)).unwrap();
    expect_error(&mut client, SURFACE, 2);
    // A serial that nobody sent, and one that was used.
    let (mut client, lock, output) = locked();
    let surface = lock.surface(&mut client, &output).unwrap();
    surface
        .proxy
        .ack_configure(surface.configured().serial + 77);
    expect_error(&mut client, SURFACE, 3);
    let (mut client, lock, output) = locked();
    let surface = lock.cover(&mut client, &output, 1).unwrap();
    surface.proxy.ack_configure(surface.configured().serial);
    expect_error(&mut client, SURFACE, 3);
    // A surface that has a role, or a picture.
    let (mut client, lock, output) = locked();
    let painter = Painter::new(&mut client, PainterOptions::default()).unwrap();
    let data = std::sync::Arc::default();
    lock.proxy
        .get_lock_surface(&painter.surface, &output.proxy, &client.qh, data);
    client.flush().unwrap();
    expect_error(&mut client, LOCK, 2);
    // Two on one output.
    let (mut client, lock, output) = locked();
    let _first = lock.surface(&mut client, &output).unwrap();
    let _second = lock.bare_surface(&mut client, &output).unwrap();
    expect_error(&mut client, LOCK, 3);
    assert!(session.is_hidden());
}

#[test]
fn an_output_whose_lock_surface_went_gets_another_one() {
    let session = Session::start("");
    let mut client = session.client();
    let lock = ask(&mut client);
    let output = client.output(Some("TEST-1")).unwrap();
    for n in 1..4 {
        let surface = lock.cover(&mut client, &output, n).unwrap();
        client.roundtrip().unwrap();
        assert!(surface.proxy.is_alive());
        surface.proxy.destroy();
        surface.surface.destroy();
        client.roundtrip().unwrap();
    }
    let other = client.output(Some("TEST-2")).unwrap();
    let surface = lock.cover(&mut client, &other, 1).unwrap();
    // The output goes: the surface covers nothing, and is no error.
    session.with(|state| {
        let outputs: Vec<Output> = state.captures.keys().cloned().collect();
        let gone = outputs.iter().find(|output| output.name() == "TEST-2");
        state.remove_output(gone.unwrap());
    });
    client.roundtrip().unwrap();
    surface.surface.commit();
    client.roundtrip().unwrap();
    lock.unlock(&mut client).unwrap();
    assert!(!session.is_hidden());
}

const MANAGER: &str = "ext_session_lock_manager_v1";

#[test]
fn only_who_has_the_right_sees_the_lock_and_who_loses_it_keeps_the_lock_that_it_has() {
    let session = Session::start("");
    let mut client = session.client();
    assert!(client.version_of(MANAGER).is_some());
    let lock = ask(&mut client);
    let closed = "[access]\n[[access.rule]]\naction = 'deny'\nglobals = ['session-lock']\n";
    let access = |text: &str| {
        Config::parse(text, Path::new("compositor.toml"))
            .unwrap()
            .access
    };
    let section = access(closed);
    session.with(|state| state.set_access(section));
    // Whoever has not read of it yet is refused, and not disconnected.
    let late = Locker::ask(&mut client).unwrap();
    late.wait(&mut client).unwrap();
    assert_eq!(late.record(), FINISHED);
    client.roundtrip().unwrap();
    assert!(client.version_of(MANAGER).is_none());
    assert!(client
        .version_of("ext_image_copy_capture_manager_v1")
        .is_some());
    assert!(session.client().version_of(MANAGER).is_none());
    assert!(session.is_hidden());
    lock.unlock(&mut client).unwrap();
    assert!(!session.is_hidden());
    let section = access("");
    session.with(|state| state.set_access(section));
    client.roundtrip().unwrap();
    assert_eq!(ask(&mut client).record(), LOCKED);

    let session = Session::start("[access]\ndefault = 'deny'\n");
    assert!(session.client().version_of(MANAGER).is_none());
}

#[test]
fn without_a_configuration_file_sighup_leaves_the_rules_as_they_are() {
    let session = Session::start("[access]\ndefault = 'deny'\n");
    session.with(|state| {
        assert!(Config::find(None).unwrap().1.is_none(), "there is a file");
        state.reload_access();
    });
    assert!(session.client().version_of(MANAGER).is_none());
}

#[test]
fn asking_where_an_output_lies_that_is_long_gone_ends_nobody() {
    let session = Session::start("");
    let mut client = session.client();
    let output = client.output(Some("TEST-2")).unwrap();
    assert_eq!(
        (output.logical_position, output.logical_size),
        ((320, 0), (320, 200))
    );
    session.with(|state| {
        let outputs: Vec<Output> = state.captures.keys().cloned().collect();
        let gone = outputs.into_iter().find(|output| output.name() == "TEST-2");
        let gone = gone.unwrap();
        state.remove_output(&gone);
    });
    // The global keeps its output for a while after it was taken away.
    std::thread::sleep(Duration::from_secs(11));
    let manager: ZxdgOutputManagerV1 = client.bind(3, ()).unwrap();
    let _late = manager.get_xdg_output(&output.proxy, &client.qh, output.global);
    client.roundtrip().unwrap();
    // A change is told, with wl_output's done.
    let first = client.output(Some("TEST-1")).unwrap();
    session.with(|state| {
        let output = state.captures.keys().next().cloned().unwrap();
        let scale = smithay::output::Scale::Integer(2);
        output.change_current_state(None, None, Some(scale), None);
    });
    let told = client.wait_for("the new size", client.patience(), |state| {
        let found = state
            .outputs
            .iter()
            .find(|output| output.proxy == first.proxy)?;
        (found.done > first.done && found.logical_size == (160, 100)).then_some(())
    });
    told.unwrap();
}

/// An output's capture, with a ring that was renewed while a job was in flight, as the request to lock does, and again
/// as the next commit finds the job overdue.
fn with_an_overdue_job_of_before(capture: &mut OutputCapture, job: JobId) {
    let format = FrameFormat {
        width: 320,
        height: 200,
        fourcc: DrmFourcc::Xrgb8888,
        modifier: DrmModifier::Linear,
        stride: 1280,
        offset: 0,
    };
    let now = Time::now();
    let ring = || {
        (0..CaptureConfig::MIN_SLOTS).map(|_| Arc::<PlainMemory>::default() as Arc<dyn SlotMemory>)
    };
    capture.set_buffers(format, ring().collect(), now).unwrap();
    let kind = SessionKind::Copy {
        paint_cursors: true,
    };
    let session = capture.open_session(ClientId(1000), kind);
    capture.request(session, now).unwrap();
    capture.arm(job, Producer::Writeback, now).unwrap();
    capture.committed(&[], Some(job));
    capture.close_session(session);
    capture.clear_buffers(now);
    capture.set_buffers(format, ring().collect(), now).unwrap();
    capture.overdue(job);
}

#[test]
fn locked_waits_for_an_overdue_job_of_before_and_not_for_ever() {
    const PATIENCE: Duration = Duration::from_secs(1);
    for ends in [true, false] {
        let session = Session::start("");
        session.with(|state| {
            let capture = state.captures.values_mut().next().unwrap();
            with_an_overdue_job_of_before(capture, JobId(1));
        });
        let mut client = session.client();
        let asked = Instant::now();
        let lock = Locker::ask(&mut client).unwrap();
        client.roundtrip().unwrap();
        client.roundtrip().unwrap();
        assert!(session.is_hidden());
        // Only a machine that stands still comes here so late.
        assert!(!lock.record().locked || asked.elapsed() >= PATIENCE);
        if ends {
            session.with(|state| {
                let captures = state.captures.values_mut();
                captures.for_each(|capture| capture.late_fence(JobId(1)));
            });
        }
        lock.wait(&mut client).unwrap();
        assert!(lock.record().locked);
        assert!(ends || asked.elapsed() >= PATIENCE);
    }
}
