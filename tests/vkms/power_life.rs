//! What happens to an output that is off: the seat goes and comes, it is unplugged, others go on, somebody else has its planes, the
//! driver says no.

use std::{process::Command, sync::Arc};

use vitrine::ipc::wire::CaptureReport;
use wayland_protocols::ext::foreign_toplevel_list::v1::client::ext_foreign_toplevel_list_v1::ExtForeignToplevelListV1 as List;

use crate::{
    clients::{
        clock, copy_capture::picture_of, Client, CopySession, MemoryKind, OutputPower,
        PainterOptions,
    },
    control::{capture_reports, msg},
    faults::assert_clean,
    film::{Cameras, Film},
    foreign::{self, Other, ShownBefore},
    hotplug::{frames, new_output, roll_both, two_screens},
    machine::{self, Guest, Machine, Signal, SECOND},
    pause::{switch_to, OtherSession},
    power::{assert_dark, assert_since, cut, settle, Switch, Waiting},
    quiet,
    rights::{reload, sees, CAPTURE, OTHERS},
    sink,
    stage::{Setup, Stage},
    toplevels::{source, Listed},
    uinput::Device,
};

/// Another session has the seat while this is done.
fn away(
    stage: &Stage<'_>,
    film: &mut Film,
    keyboard: &mut Device,
    round: u16,
    meanwhile: impl FnOnce(&mut Film),
) {
    let count = |what: &str| stage.vitrine.log().matches(what).count();
    let mut other = OtherSession::open();
    switch_to(keyboard, round);
    other.wait_active();
    film.roll_until("the pause", |_| {
        count("session paused") == usize::from(round)
    });
    settle(film);
    assert_dark(film);
    meanwhile(film);
    drop(other);
    film.roll_until("the return", |_| {
        count("session resumed") == usize::from(round)
    });
}

#[test]
fn what_is_off_stays_off_when_the_seat_comes_back_and_what_was_asked_meanwhile_is_done_then() {
    machine::boot(Machine::default(), |guest| {
        let mut keyboard = Device::keyboard();
        let stage = Setup::default().start(guest);
        let mut film = Film::begin(&stage, None, 1);
        let mut switch = Switch::of(&stage, None);
        film.shoot(10);

        switch.throw(&mut film, false);
        away(&stage, &mut film, &mut keyboard, 1, |_| {});
        settle(&mut film);
        assert_dark(&mut film);
        switch.client.roundtrip().unwrap();
        assert_eq!(switch.power.record().modes, [true, false]);
        let (taken, since) = (film.cameras.taken.len(), clock::now());
        switch.throw(&mut film, true);
        film.shoot(10);
        assert_since(&film, taken, since);

        away(&stage, &mut film, &mut keyboard, 2, |film| {
            switch.throw(film, false);
        });
        settle(&mut film);
        assert_dark(&mut film);
        assert!(msg(guest, &["outputs"]).contains("  off  "));
        let (taken, since) = (film.cameras.taken.len(), clock::now());
        switch.throw(&mut film, true);
        film.shoot(10);
        assert_since(&film, taken, since);

        switch.throw(&mut film, false);
        away(&stage, &mut film, &mut keyboard, 3, |film| {
            switch.throw(film, true);
        });
        film.shoot(10);
        film.show(10);
        assert_eq!(
            switch.power.record().modes,
            [true, false, true, false, true, false, true]
        );
        cut(film, 3);
        let log = stage.vitrine.log();
        for fault in [" ERROR ", "commit failed", "cannot be switched off"] {
            assert!(!log.contains(fault), "the log speaks of {fault:?}");
        }
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        // The first; off, dark after the return, on; dark after the return, on; off, all anew after the return.
        assert_eq!(summary.get("modesets"), 1 + 3 + 2 + 2);
        assert_eq!(summary.get("lost"), 0);
        assert_clean(&guest.dmesg());
    });
}

#[test]
fn a_screen_that_is_unplugged_while_it_is_off_ends_its_captures_and_comes_back_on() {
    machine::boot(two_screens(), |guest| {
        let stage = Setup::default().start(guest);
        let mut left = Film::begin(&stage, Some("Virtual-1"), 1);
        let mut right = Cameras::open(&stage, Some("Virtual-2"));
        let mut switch = Switch::of(&stage, Some("Virtual-2"));
        let old = switch.client.output(Some("Virtual-2")).unwrap();
        switch.throw(&mut left, false);
        guest.set_connector_status(1, false);
        left.roll_until("the end of captures", |_| {
            right.turn();
            right.are_over()
        });
        switch.client.roundtrip().unwrap();
        assert!(switch.power.record().failed);
        // It is worth nothing any more.
        switch.power.ask(&switch.client, true).unwrap();
        switch.client.roundtrip().unwrap();

        guest.set_connector_status(1, true);
        let found = new_output(&mut switch.client, "Virtual-2", &old);
        let power = OutputPower::of(&mut switch.client, &found).unwrap();
        assert_eq!(power.record().modes, [true]);
        let mut again = Film::begin(&stage, Some("Virtual-2"), 1_000_000);
        let before = frames(&left);
        let both = |films: &[&mut Film]| frames(films[1]) >= 10 && frames(films[0]) >= before + 10;
        roll_both(&mut [&mut left, &mut again], "frames of both", both);
        cut(again, 0);
        cut(left, 0);
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert_eq!(summary.get("modesets"), 1, "the other screen was set anew");
        assert_clean(&guest.dmesg());
    });
}

fn report(guest: &Guest, output: &str) -> CaptureReport {
    let mut reports = capture_reports(guest).into_iter();
    reports.find(|report| report.output == output).unwrap()
}

#[test]
fn while_one_screen_is_off_the_other_is_captured_as_ever() {
    machine::boot(two_screens(), |guest| {
        let stage = Setup::default().start(guest);
        let mut left = Film::begin(&stage, Some("Virtual-1"), 1);
        let mut right = Film::begin(&stage, Some("Virtual-2"), 1_000_000);
        let both = |films: &[&mut Film]| films.iter().all(|film| frames(film) >= 10);
        roll_both(&mut [&mut left, &mut right], "frames of both", both);
        let mut switch = Switch::of(&stage, Some("Virtual-2"));
        switch.throw(&mut right, false);
        settle(&mut right);
        let (taken, shown) = (right.cameras.taken.len(), right.window.shown().len());
        let dark = report(guest, "Virtual-2");
        quiet::measured("frames beside a screen that is off", || {
            let before = report(guest, "Virtual-1");
            left.shoot(60);
            let after = report(guest, "Virtual-1");
            let (frames, flips) = (after.frames - before.frames, after.flips - before.flips);
            println!("{frames} frames in {flips} flips beside a screen that is off");
            // The first one may have been published already when the count began.
            assert!(frames >= 59, "{frames} frames");
            frames * 10 >= flips * 9
        });
        assert_dark(&mut right);
        assert_eq!(right.cameras.taken.len(), taken);
        assert_eq!(right.window.shown().len(), shown);
        let still = report(guest, "Virtual-2");
        assert_eq!((still.flips, still.jobs), (dark.flips, dark.jobs));
        let since = clock::now();
        switch.throw(&mut right, true);
        right.shoot(10);
        assert_since(&right, taken, since);
        cut(right, 1);
        cut(left, 0);
        let log = stage.vitrine.log();
        assert!(!log.contains(" ERROR "));
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert_eq!((summary.get("modesets"), summary.get("lost")), (1, 0));
        assert_clean(&guest.dmesg());
    });
}

#[test]
fn a_writeback_connector_that_is_a_screen_takes_no_jobs_while_it_is_off() {
    machine::boot(sink::machine(), |guest| {
        let mut stage = Setup::default().config(sink::CONFIG).start(guest);
        let ready = "output=Writeback-2 w=640 h=480";
        stage.vitrine.wait_log(ready, SECOND * 20);
        let mut film = Film::begin(&stage, Some("Writeback-2"), 1);
        let mut switch = Switch::of(&stage, Some("Writeback-2"));
        film.shoot(10);
        for _ in 0..3 {
            switch.throw(&mut film, false);
            settle(&mut film);
            let before = report(guest, "Writeback-2");
            assert_dark(&mut film);
            let after = report(guest, "Writeback-2");
            assert_eq!((after.jobs, after.flips), (before.jobs, before.flips));
            let (taken, since) = (film.cameras.taken.len(), clock::now());
            switch.throw(&mut film, true);
            film.shoot(10);
            film.show(10);
            assert_since(&film, taken, since);
        }
        cut(film, 3);
        let summary = stage.finish("Writeback-2");
        println!("{summary:?}");
        assert_eq!((summary.get("modesets"), summary.get("lost")), (7, 0));
        assert_clean(&guest.dmesg());
    });
}

/// What `vitrine msg` says when it fails.
fn refusal(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vitrine"));
    let output = command.arg("msg").args(arguments).output().unwrap();
    assert!(!output.status.success(), "{arguments:?} was done");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_screen_whose_planes_somebody_else_has_stays_on() {
    machine::boot(foreign::machine(), |guest| {
        let stage = foreign::setup("damage").start(guest);
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 1).unwrap();
        let mut other = Other::start(&stage, &["--pictures", "3", "--interval", "0", "--stay"]);
        other.process.wait_log("all shown", SECOND * 30);
        let mut switch = Switch::of(&stage, None);
        switch.power.set(&mut switch.client, false).unwrap();
        assert!(switch.power.record().failed);
        assert_eq!(switch.power.record().modes, [true]);
        let said = refusal(&["output", "Virtual-1", "off"]);
        assert!(said.contains("leased to another process"), "{said}");
        painter.present(&mut client, 2).unwrap();
        // It goes, and its plane with it.
        other.process.signal(Signal::KILL);
        other.process.wait_exit(SECOND * 10);
        let mut switch = Switch::of(&stage, None);
        switch.set(false);
        // A lessee could switch the screen on again.
        let mut late = Other::start(&stage, &["--pictures", "1"]);
        assert!(!late.process.wait_exit(SECOND * 20).success());
        let log = late.process.log();
        assert!(log.contains("the output is off"), "{log}");
        switch.set(true);
        painter.present(&mut client, 3).unwrap();
        let mut third = Other::start(&stage, &["--pictures", "3", "--interval", "0"]);
        third.process.wait_log("all shown", SECOND * 30);
        let summary = stage.finish("Virtual-1");
        assert_eq!(summary.get("modesets"), 3);
        assert_clean(&guest.dmesg());
    });
}

/// What is on the overlay plane was there before Vitrine; nobody has a lease.
#[test]
fn a_screen_with_a_plane_that_somebody_else_shows_stays_on() {
    machine::boot(foreign::machine(), |guest| {
        let _shown = ShownBefore::show(guest);
        let stage = foreign::setup("damage").start(guest);
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 1).unwrap();
        let mut switch = Switch::of(&stage, None);
        switch.power.set(&mut switch.client, false).unwrap();
        assert!(switch.power.record().failed);
        let said = refusal(&["output", "Virtual-1", "off"]);
        assert!(said.contains("belongs to somebody else"), "{said}");
        painter.present(&mut client, 2).unwrap();
        assert_eq!(stage.finish("Virtual-1").get("modesets"), 1);
    });
}

#[test]
fn a_right_that_is_taken_away_switches_nothing_and_comes_back_as_another_object() {
    const OPEN: &str = "[access]\nprivileged_socket = 'wayland-privileged'\n";
    const CLOSED: &str = "[access]\nprivileged_socket = 'wayland-privileged'\n\
                          [[access.rule]]\naction = 'deny'\nglobals = ['output-power']\n";
    machine::boot(Machine::default(), |guest| {
        let mut stage = Setup::default().with(OPEN).start(guest);
        let mut loser = Switch::of(&stage, None);
        loser.set(false);
        let mut other = Client::connect("wayland-privileged").unwrap();
        let output = other.output(None).unwrap();
        let kept = OutputPower::of(&mut other, &output).unwrap();
        reload(guest, &mut stage, CLOSED, "access rules changed");
        loser.client.roundtrip().unwrap();
        assert!(loser.power.record().failed);
        assert_eq!(sees(&loser.client, &OTHERS), [true, false]);
        assert_eq!(sees(&loser.client, &CAPTURE), [true; 6]);
        loser.power.ask(&loser.client, true).unwrap();
        loser.client.roundtrip().unwrap();
        other.roundtrip().unwrap();
        assert_eq!(kept.record().modes, [false], "switched without a right");
        assert!(msg(guest, &["outputs"]).contains("  off  "));
        kept.set(&mut other, true).unwrap();
        reload(guest, &mut stage, OPEN, "access rules changed");
        loser.client.roundtrip().unwrap();
        let output = loser.client.output(None).unwrap();
        let again = OutputPower::of(&mut loser.client, &output).unwrap();
        assert_eq!(again.record().modes, [true]);
        again.set(&mut loser.client, false).unwrap();
        assert_eq!(again.is_on(), Some(false));
        assert_eq!(stage.finish("Virtual-1").get("modesets"), 4);
    });
}

/// A screen that is off costs nothing, whoever waits for it, and a window on it can be captured all the same.
#[test]
fn who_waits_for_a_dark_screen_keeps_nobody_busy_and_a_window_on_it_can_be_seen() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default()
            .with("[capture]\nmotion = 'full'\n")
            .start(guest);
        let (mut app, mut painter) = stage.painter_with(PainterOptions {
            app_id: "app".to_owned(),
            ..Default::default()
        });
        painter.present(&mut app, 11).unwrap();
        let mut switch = Switch::of(&stage, None);
        switch.set(false);
        let mut watcher = stage.client();
        let output = watcher.output(None).unwrap();
        let waiting = Waiting::begin(&mut watcher, &output);
        painter.paint(&mut app, 12).unwrap();
        app.roundtrip().unwrap();
        let turns = || {
            let status = format!("/proc/{}/status", stage.vitrine.pid());
            let status = std::fs::read_to_string(status).unwrap();
            let mut lines = status.lines();
            let line = lines.find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
            line.unwrap().trim().parse::<u64>().unwrap()
        };
        std::thread::sleep(SECOND);
        let before = turns();
        std::thread::sleep(SECOND * 3);
        let during = turns() - before;
        println!("{during} turns in three seconds");
        assert!(during < 30, "{during} turns for nobody");

        let listed = Listed::default();
        let _list: List = watcher.bind(1, Arc::clone(&listed)).unwrap();
        let source = source(&mut watcher, &listed, "app");
        let session = CopySession::open_source(&mut watcher, &source, false).unwrap();
        let buffer = session.buffer(&mut watcher, MemoryKind::Shm).unwrap();
        for n in [12, 13] {
            painter.paint(&mut app, n).unwrap();
            app.roundtrip().unwrap();
            session.capture(&mut watcher, &buffer, &[]).unwrap().frame();
            picture_of(&buffer).assert_same(&painter.expected(), "the window");
        }
        waiting.assert_waits();
        switch.set(true);
        waiting.assert_show(&mut watcher, &painter.expected(), "after");
        stage.finish("Virtual-1");
    });
}

#[test]
fn a_driver_that_cannot_darken_the_screen_leaves_it_on_and_who_asked_is_told() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().faults("modeset:2..3=EINVAL").start(guest);
        let mut film = Film::begin(&stage, None, 1);
        film.shoot(5);
        let mut onlooker = Switch::of(&stage, None);
        let mut switch = Switch::of(&stage, None);
        switch.power.ask(&switch.client, false).unwrap();
        film.roll_until("the refusal", |_| {
            switch.client.roundtrip().unwrap();
            switch.power.record().failed
        });
        film.shoot(5);
        let said = refusal(&["output", "Virtual-1", "off"]);
        assert!(said.contains("cannot do this configuration"), "{said}");
        film.shoot(5);
        onlooker.client.roundtrip().unwrap();
        assert_eq!(
            onlooker.power.is_on(),
            Some(true),
            "nothing is wrong for others"
        );
        onlooker.throw(&mut film, false);
        onlooker.throw(&mut film, true);
        film.shoot(5);
        assert_eq!(onlooker.power.record().modes, [true, false, true]);
        film.show(5);
        cut(film, 1);
        assert_eq!(stage.finish("Virtual-1").get("modesets"), 3);
        assert_clean(&guest.dmesg());
    });
}

#[test]
fn a_screen_that_cannot_just_be_lit_gets_its_mode_anew() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().faults("modeset:3=EINVAL").start(guest);
        let mut film = Film::begin(&stage, None, 1);
        film.shoot(5);
        let mut switch = Switch::of(&stage, None);
        switch.throw(&mut film, false);
        switch.throw(&mut film, true);
        film.shoot(5);
        film.show(5);
        cut(film, 1);
        let log = stage.vitrine.log();
        assert_eq!(log.matches("cannot just be lit again").count(), 1);
        assert_eq!(stage.finish("Virtual-1").get("modesets"), 3);
        assert_clean(&guest.dmesg());
    });
}

#[test]
fn a_session_that_ends_while_its_screen_is_off_ends_cleanly() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let mut film = Film::begin(&stage, None, 1);
        film.shoot(5);
        let mut switch = Switch::of(&stage, None);
        switch.throw(&mut film, false);
        let mut stage = stage;
        stage.vitrine.signal(Signal::TERM);
        assert_eq!(stage.vitrine.wait_exit(SECOND * 20).code(), Some(0));
        let log = stage.vitrine.log();
        assert!(!log.contains("could not be given back"), "{log}");
        assert_clean(&guest.dmesg());
    });
}
