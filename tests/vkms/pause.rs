//! The seat goes to another session, or the whole compositor stands still for a while: nothing is committed meanwhile,
//! nothing false is delivered afterwards.

use std::{
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
    time::Duration,
};

use libseat::{Seat, SeatEvent};

use crate::{
    clients::clock,
    control::capture_report,
    faults::assert_clean,
    film::{seldom, Film},
    machine::{self, Machine, Signal, SECOND},
    stage::{Setup, Summary},
    uinput::{code, Device},
};

const KEY_F1: u16 = 59;

/// Another session on our seat. seatd counts sessions; ours is 0.
pub struct OtherSession {
    seat: Seat,
    active: Arc<AtomicBool>,
}

impl OtherSession {
    pub fn open() -> Self {
        let active = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&active);
        let seat = Seat::open(move |seat, event| match event {
            SeatEvent::Enable => told.store(true, Ordering::Relaxed),
            SeatEvent::Disable => {
                told.store(false, Ordering::Relaxed);
                seat.disable().unwrap();
            }
        });
        Self {
            seat: seat.unwrap(),
            active,
        }
    }

    pub fn wait_active(&mut self) {
        let end = clock::now() + SECOND * 20;
        while !self.active.load(Ordering::Relaxed) {
            self.seat.dispatch(100).unwrap();
            assert!(clock::now() < end, "the other session is not told");
        }
    }
}

/// Ctrl, Alt and a function key.
pub fn switch_to(keyboard: &mut Device, session: u16) {
    let switch = KEY_F1 + session - 1;
    for (key, down) in [
        (code::KEY_LEFTCTRL, true),
        (code::KEY_LEFTALT, true),
        (switch, true),
        (switch, false),
        (code::KEY_LEFTALT, false),
        (code::KEY_LEFTCTRL, false),
    ] {
        keyboard.key(key, i32::from(down));
    }
}

#[test]
fn a_seat_that_goes_to_another_session_and_comes_back_pauses_display_and_captures() {
    leave_and_return("", |summary| assert_eq!(summary.get("rendered"), 0));
}

#[test]
fn a_seat_that_goes_to_another_session_and_comes_back_pauses_leases_of_the_screen_too() {
    leave_and_return("[capture]\nproducer = 'render'\n", |summary| {
        assert!(summary.get("leased") >= 40);
    });
}

fn leave_and_return(lines: &'static str, judge: fn(&Summary)) {
    machine::boot(Machine::default(), move |guest| {
        let mut keyboard = Device::keyboard();
        let mut stage = Setup::default().with(lines).start(guest);
        let mut film = Film::begin(&stage, None, 1);
        film.shoot(10);
        for round in 1..=3 {
            let mut other = OtherSession::open();
            switch_to(&mut keyboard, round);
            other.wait_active();
            film.roll_until("the pause", |_| {
                stage.vitrine.log().matches("session paused").count() == usize::from(round)
            });
            // What was under way comes to its end: a frame that was published before and is asked for now, and its
            // copy on a worker.
            film.window.client.roundtrip().unwrap();
            film.cameras.client.roundtrip().unwrap();
            let paused = clock::now();
            film.turn();
            let mut idle = seldom(|| capture_report(guest).held == 0);
            film.roll_until("the last copies", |_| idle());
            let shown = film.window.shown().len();
            for _ in 0..200 {
                film.turn();
            }
            assert_eq!(film.window.shown().len(), shown, "shown without the seat");
            let later = film.cameras.presented_after(paused);
            assert_eq!(later, [], "captured without the seat");
            assert!(film.cameras.cancelled.is_empty() && film.cameras.failed.is_empty());
            assert!(!film.cameras.session.record().stopped);

            // seatd goes back to the only one that is left.
            drop(other);
            film.roll_until("the return", |_| {
                stage.vitrine.log().matches("session resumed").count() == usize::from(round)
            });
            film.shoot(10);
            film.show(10);
        }
        stage.vitrine.assert_running();
        drop(film.cut());
        let log = stage.vitrine.log();
        for fault in [" ERROR ", "commit failed", "does not come back"] {
            assert!(!log.contains(fault), "the log speaks of {fault:?}");
        }
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert_eq!(
            summary.get("modesets"),
            4,
            "one at the start, one for each return"
        );
        judge(&summary);
        assert_clean(&guest.dmesg());
    });
}

#[test]
fn a_compositor_that_is_stopped_for_seconds_goes_on_and_delivers_nothing_false() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let mut film = Film::begin(&stage, None, 1);
        for _ in 0..4 {
            film.shoot(8);
            stage.vitrine.signal(Signal::STOP);
            let end = clock::now() + Duration::from_millis(1500);
            while clock::now() < end {
                film.turn();
            }
            stage.vitrine.signal(Signal::CONT);
        }
        film.shoot(10);
        film.show(10);
        drop(film.cut());
        stage.wait_for_slots(0);
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert_eq!(summary.get("modesets"), 1);
        assert_eq!(summary.get("quarantined"), 0);
        assert_clean(&guest.dmesg());
    });
}
