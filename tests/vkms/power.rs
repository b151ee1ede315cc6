//! Outputs that are switched off and on while they are captured: nothing of before is given after, nothing at all meanwhile.
//! `power_life` has what else happens to an output that is off.

use std::time::Duration;

use crate::{
    clients::{
        clock,
        copy_capture::{picture_of, PendingCopy},
        presentation::Shown,
        session_lock::{Locker, CURTAIN},
        Buffer, Client, CopySession, ExportedFrame, Exporter, MemoryKind, OutputInfo, OutputPower,
        Picture, Rect, ScreencopyFrame,
    },
    control::{capture_report, msg},
    faults::assert_clean,
    film::Film,
    lock::{all_show, crc_now, plain},
    machine::{self, vkms_crc, Guest, Machine, SECOND},
    stage::{Setup, Stage, Summary},
};

/// An operator's program on a connection of its own.
pub struct Switch {
    pub client: Client,
    pub power: OutputPower,
}

impl Switch {
    pub fn of(stage: &Stage<'_>, output: Option<&str>) -> Self {
        let mut client = stage.client();
        let output = client.output(output).unwrap();
        let power = OutputPower::of(&mut client, &output).unwrap();
        assert_eq!(power.is_on(), Some(true));
        Self { client, power }
    }

    /// Switches while the film goes on.
    pub fn throw(&mut self, film: &mut Film, on: bool) {
        self.power.ask(&self.client, on).unwrap();
        film.roll_until("the switch", |_| {
            self.client
                .dispatch_for(Duration::from_micros(100))
                .unwrap();
            self.power.is_on() == Some(on)
        });
    }

    pub fn set(&mut self, on: bool) {
        self.power.set(&mut self.client, on).unwrap();
        assert_eq!(self.power.is_on(), Some(on));
    }
}

/// What was sent before is read now, and counts as before: to clients that do nothing but look.
pub fn settle(film: &mut Film) {
    film.window.client.roundtrip().unwrap();
    film.cameras.client.roundtrip().unwrap();
    film.turn();
    // Copies that a worker had begun.
    film.cameras.client.dispatch_for(SECOND / 2).unwrap();
    for _ in 0..20 {
        film.turn();
    }
}

/// Neither shown nor captured, and nobody is told that this is an end.
#[track_caller]
pub fn assert_dark(film: &mut Film) {
    let (shown, painted) = (film.window.shown().len(), film.window.painted);
    let taken = film.cameras.taken.len();
    for _ in 0..200 {
        film.turn();
    }
    assert_eq!(film.window.shown().len(), shown, "shown on a dark screen");
    assert_eq!(
        film.window.painted, painted,
        "told to draw for a dark screen"
    );
    assert_eq!(
        film.cameras.taken.len(),
        taken,
        "captured off a dark screen"
    );
    assert!(film.cameras.cancelled.is_empty() && film.cameras.failed.is_empty());
    assert!(!film.cameras.session.record().stopped);
}

/// Whatever was taken from `from` on was on the screen after `since`.
#[track_caller]
pub fn assert_since(film: &Film, from: usize, since: Duration) {
    let old = film.cameras.taken[from..]
        .iter()
        .find(|taken| taken.presented < since);
    assert!(old.is_none(), "{old:?} is of before {since:?}");
}

/// The last picture is shown, and every frame is true. A picture that came when the screen was dark and whose word was
/// therefore lost is what the screen shows first.
#[track_caller]
pub fn cut(mut film: Film, rounds: usize) {
    let last = film.window.painter.feedback().len() - 1;
    let window = &mut film.window;
    window.painter.wait_shown(&mut window.client, last).unwrap();
    let lost = film.window.lost();
    assert!(lost.len() <= rounds, "more than one a round: {lost:?}");
    film.cameras.assert_true_or(&mut [&mut film.window], &lost);
}

fn off_and_on_in_a_film(guest: &Guest, setup: Setup) -> Summary {
    const ROUNDS: usize = 5;
    let stage = setup.start(guest);
    let mut film = Film::begin(&stage, None, 1);
    film.cameras.with_screencopy();
    let mut switch = Switch::of(&stage, None);
    let mut onlooker = Switch::of(&stage, None);
    film.shoot(10);
    for round in 1..=ROUNDS {
        switch.throw(&mut film, false);
        settle(&mut film);
        assert_dark(&mut film);
        let report = capture_report(guest);
        assert_eq!(report.producer, "none");
        assert_eq!(report.unavailable.as_deref(), Some("the output is off"));
        let (taken, since) = (film.cameras.taken.len(), clock::now());
        switch.throw(&mut film, true);
        film.shoot(10);
        film.show(10);
        assert_since(&film, taken, since);
        assert!(film.cameras.count("screencopy") >= round * 3);
        assert_eq!(capture_report(guest).unavailable, None);
    }
    onlooker.client.roundtrip().unwrap();
    let modes: Vec<bool> = (0..=ROUNDS * 2).map(|n| n % 2 == 0).collect();
    assert_eq!(onlooker.power.record().modes, modes);
    cut(film, ROUNDS);
    let log = stage.vitrine.log();
    for fault in [" ERROR ", "commit failed", "cannot be switched"] {
        assert!(!log.contains(fault), "the log speaks of {fault:?}");
    }
    let switched = log
        .lines()
        .filter(|line| line.contains("vitrine::audit") && line.contains("output is switched"));
    assert_eq!(switched.count(), ROUNDS * 2);
    let summary = stage.finish("Virtual-1");
    println!("{summary:?}");
    let modesets = 1 + 2 * ROUNDS as u64;
    assert_eq!(summary.get("modesets"), modesets);
    for none in ["lost", "failed", "stalls", "quarantined"] {
        assert_eq!(summary.get(none), 0, "{none}");
    }
    let known = ["published", "late", "in_flight"].map(|of| summary.get(of));
    assert!(
        summary.get("jobs") <= known.iter().sum(),
        "a job is missing"
    );
    assert_clean(&guest.dmesg());
    summary
}

#[test]
fn a_screen_that_is_off_is_not_captured_and_goes_on_with_true_frames_when_it_is_on() {
    machine::boot(Machine::default(), |guest| {
        let summary = off_and_on_in_a_film(guest, Setup::default());
        assert_eq!(summary.get("rendered"), 0);
    });
}

#[test]
fn a_screen_that_is_off_lends_nothing_and_goes_on_when_it_is_on() {
    machine::boot(Machine::default(), |guest| {
        let setup = Setup::default().with("[capture]\nproducer = 'render'\n");
        let summary = off_and_on_in_a_film(guest, setup);
        assert_eq!(summary.get("jobs"), 0);
        assert!(summary.get("leased") > 0);
    });
}

#[test]
fn with_gles_a_screen_that_is_off_is_not_captured_either() {
    machine::boot(Machine::default(), |guest| {
        let setup = Setup::default().with("renderer = 'gles'\n");
        off_and_on_in_a_film(guest, setup);
    });
}

/// One request by each protocol, none of which is answered while the screen is dark.
pub struct Waiting {
    session: CopySession,
    buffer: Buffer,
    copy: Option<PendingCopy>,
    export: ExportedFrame,
    screencopy: ScreencopyFrame,
}

impl Waiting {
    pub fn begin(client: &mut Client, output: &OutputInfo) -> Self {
        let session = CopySession::open(client, output, true).unwrap();
        let buffer = session.buffer(client, MemoryKind::Shm).unwrap();
        let copy = session.request(client, &buffer, &[]).unwrap();
        let exporter = Exporter::new(client).unwrap();
        let export = exporter.request(client, output, true).unwrap();
        let screencopy = ScreencopyFrame::announced(client, output, true);
        let screencopy = screencopy.unwrap().unwrap();
        screencopy.ask(client, false).unwrap();
        client.dispatch_for(SECOND / 5).unwrap();
        let waiting = Self {
            session,
            buffer,
            copy: Some(copy),
            export,
            screencopy,
        };
        waiting.assert_waits();
        waiting
    }

    #[track_caller]
    pub fn assert_waits(&self) {
        assert!(!self.copy.as_ref().unwrap().has_ended());
        assert!(!self.export.is_ready() && self.export.cancelled().is_none());
        assert!(self.screencopy.ended().is_none());
    }

    /// Waits for the answers: whole frames that show exactly this.
    #[track_caller]
    pub fn assert_show(mut self, client: &mut Client, expected: &Picture, what: &str) {
        let copy = self.copy.take().unwrap();
        let copied = copy.wait(client, &self.buffer).unwrap().frame();
        copied
            .picture
            .assert_same(expected, &format!("{what}, by copy"));
        assert_eq!(copied.damage, [Rect::new(0, 0, 640, 480)], "{what}");
        picture_of(&self.buffer).assert_same(expected, what);
        let exported = self.export.wait(client, SECOND * 20).unwrap().frame();
        let picture = exported.picture();
        picture.assert_same(expected, &format!("{what}, by export"));
        let shot = self.screencopy.wait(client).unwrap().unwrap();
        shot.assert_same(expected, &format!("{what}, by screencopy"));
        assert!(!self.session.record().stopped);
    }
}

/// The switch of the control socket, a client that draws on, and requests of whoever comes when it is dark.
fn requests_wait_for_the_screen(guest: &Guest, setup: Setup) {
    let stage = setup.start(guest);
    let (mut app, mut painter) = stage.painter();
    painter.present(&mut app, 7).unwrap();
    let mut watcher = stage.client();
    let output = watcher.output(None).unwrap();
    all_show(&mut watcher, &output, &painter.expected(), "before");
    for n in [8, 18] {
        assert_eq!(msg(guest, &["output", "Virtual-1", "off"]), "");
        let outputs = msg(guest, &["outputs"]);
        assert!(outputs.contains("  off  "), "{outputs}");
        let capture = msg(guest, &["capture"]);
        assert!(capture.contains(": the output is off"), "{capture}");
        // Drawn on, without being told to; nobody sees it, which the client is told.
        for n in n..n + 3 {
            let shown = painter.paint(&mut app, n).unwrap();
            let shown = painter.wait_shown(&mut app, shown).unwrap();
            assert_eq!(shown, Shown::Discarded);
        }
        assert!(
            !painter.is_frame_done(),
            "a frame callback of a dark screen"
        );
        let waiting = Waiting::begin(&mut watcher, &output);
        assert_eq!(msg(guest, &["output", "Virtual-1", "on"]), "");
        let expected = painter.expected();
        waiting.assert_show(&mut watcher, &expected, "asked in the dark");
        assert_eq!(crc_now(guest, 0), vkms_crc(&expected.to_bytes()));
        painter.wait_frame(&mut app).unwrap();
        all_show(&mut watcher, &output, &expected, "after");
        painter.present(&mut app, n + 3).unwrap();
        all_show(&mut watcher, &output, &painter.expected(), "and on");
    }
    let unknown = std::process::Command::new(env!("CARGO_BIN_EXE_vitrine"))
        .args(["msg", "output", "DP-7", "off"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&unknown.stderr);
    assert!(!unknown.status.success());
    assert!(said.contains("there are Virtual-1"), "{said}");
    let summary = stage.finish("Virtual-1");
    println!("{summary:?}");
    assert_eq!(summary.get("modesets"), 5);
    assert_eq!(summary.get("lost"), 0);
    assert_clean(&guest.dmesg());
}

#[test]
fn whoever_asks_while_the_screen_is_off_is_answered_when_it_is_on() {
    machine::boot(Machine::default(), |guest| {
        requests_wait_for_the_screen(guest, Setup::default());
    });
}

#[test]
fn whoever_asks_the_render_producer_while_the_screen_is_off_is_answered_when_it_is_on() {
    machine::boot(Machine::default(), |guest| {
        let setup = Setup::default().with("[capture]\nproducer = 'render'\n");
        requests_wait_for_the_screen(guest, setup);
    });
}

/// Off, then locked, then on; and locked, then off and on: what is seen is the lock.
fn the_lock_is_what_comes_back(guest: &Guest, setup: Setup) {
    let stage = setup.start(guest);
    let (mut app, mut painter) = stage.painter();
    painter.present(&mut app, 1).unwrap();
    let mut watcher = stage.client();
    let output = watcher.output(None).unwrap();
    let mut switch = Switch::of(&stage, None);
    let mut lock_client = stage.client();
    let curtain = plain(CURTAIN);
    for round in 0..3 {
        all_show(&mut watcher, &output, &painter.expected(), "before");
        switch.set(false);
        let waiting = Waiting::begin(&mut watcher, &output);
        // A screen that is off shows nothing of the session.
        let lock = Locker::lock(&mut lock_client).unwrap();
        painter.paint(&mut app, 10 + round).unwrap();
        app.roundtrip().unwrap();
        let late = Waiting::begin(&mut watcher, &output);
        waiting.assert_waits();
        switch.set(true);
        assert_eq!(crc_now(guest, 0), vkms_crc(&curtain.to_bytes()));
        waiting.assert_show(&mut watcher, &curtain, "asked before the lock");
        late.assert_show(&mut watcher, &curtain, "asked after the lock");
        switch.set(false);
        let waiting = Waiting::begin(&mut watcher, &output);
        switch.set(true);
        assert_eq!(crc_now(guest, 0), vkms_crc(&curtain.to_bytes()));
        waiting.assert_show(&mut watcher, &curtain, "locked, off and on");
        // Unlocked while it is off.
        switch.set(false);
        let waiting = Waiting::begin(&mut watcher, &output);
        lock.unlock(&mut lock_client).unwrap();
        waiting.assert_waits();
        switch.set(true);
        waiting.assert_show(&mut watcher, &painter.expected(), "unlocked in the dark");
        painter.present(&mut app, 20 + round).unwrap();
    }
    let summary = stage.finish("Virtual-1");
    println!("{summary:?}");
    assert_eq!(summary.get("modesets"), 1 + 3 * 6);
    assert_eq!(summary.get("lost"), 0);
    assert_clean(&guest.dmesg());
}

#[test]
fn a_session_that_is_locked_while_its_screen_is_off_comes_back_locked() {
    machine::boot(Machine::default(), |guest| {
        the_lock_is_what_comes_back(guest, Setup::default());
    });
}

#[test]
fn with_the_render_producer_too_a_session_comes_back_locked() {
    machine::boot(Machine::default(), |guest| {
        let setup = Setup::default().with("[capture]\nproducer = 'render'\n");
        the_lock_is_what_comes_back(guest, setup);
    });
}

/// A request whose job does not end in time, and the screen goes off in the middle of it.
fn off_during_a_job(guest: &Guest, fault: &str) -> Summary {
    let stage = Setup::default()
        .with("[capture]\nproducer = 'writeback'\n")
        .faults(fault)
        .start(guest);
    let (mut app, mut painter) = stage.painter();
    painter.present(&mut app, 1).unwrap();
    let mut watcher = stage.client();
    let output = watcher.output(None).unwrap();
    let mut switch = Switch::of(&stage, None);
    let exporter = Exporter::new(&watcher).unwrap();
    let first = exporter.capture(&mut watcher, &output, true).unwrap();
    first
        .frame()
        .picture()
        .assert_same(&painter.expected(), "first");
    let job = exporter.request(&mut watcher, &output, true).unwrap();
    machine::wait_until("the second job", SECOND * 20, || {
        capture_report(guest).jobs == 2
    });
    switch.set(false);
    watcher.dispatch_for(SECOND / 2).unwrap();
    assert!(!job.is_ready(), "a frame of a job that was overtaken");
    painter.paint(&mut app, 2).unwrap();
    app.roundtrip().unwrap();
    switch.set(true);
    let frame = job.wait(&mut watcher, SECOND * 20).unwrap().frame();
    frame.picture().assert_same(&painter.expected(), "after");
    drop(frame);
    for n in 3..20 {
        painter.present(&mut app, n).unwrap();
        let frame = exporter.capture(&mut watcher, &output, true).unwrap();
        frame
            .frame()
            .picture()
            .assert_same(&painter.expected(), "and on");
    }
    let summary = stage.finish("Virtual-1");
    println!("{summary:?}");
    assert_eq!(summary.get("modesets"), 3);
    assert_clean(&guest.dmesg());
    summary
}

#[test]
fn a_slow_job_does_not_keep_the_screen_on_and_is_not_believed() {
    machine::boot(Machine::default(), |guest| {
        let summary = off_during_a_job(guest, "fence:2=late150");
        assert_eq!((summary.get("late"), summary.get("lost")), (1, 0));
        assert_eq!(summary.get("quarantined"), 0);
    });
}

#[test]
fn a_job_that_never_ends_is_found_out_in_the_dark_and_the_connector_proven_in_the_light() {
    machine::boot(Machine::default(), |guest| {
        let summary = off_during_a_job(guest, "fence:2=never");
        assert_eq!(summary.get("lost"), 1);
        assert_eq!(summary.get("recoveries"), 1);
    });
}
