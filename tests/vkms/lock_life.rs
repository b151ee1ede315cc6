//! What happens to a locked session: its program dies, screens and seat come and go, hands are laid on it.

use crate::{
    clients::session_lock::{Locker, ABANDONED, CURTAIN},
    film::{Cameras, Film},
    hands::Hands,
    lock::{all_show, crc_now, plain},
    machine::{self, vkms_crc, Machine, Output, SECOND},
    pause::{switch_to, OtherSession},
    stage::Setup,
    uinput::{code, Device},
};

#[test]
fn a_lock_whose_client_dies_stays_and_another_takes_over() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let (mut app, mut painter) = stage.painter();
        painter.present(&mut app, 3).unwrap();
        let mut watcher = stage.client();
        let output = watcher.output(None).unwrap();
        let mut client = stage.client();
        let lock = Locker::lock(&mut client).unwrap();
        let covered = client.output(None).unwrap();
        let _surface = lock.cover(&mut client, &covered, 50).unwrap();
        client.roundtrip().unwrap();
        drop(client);
        let abandoned = vkms_crc(&plain(ABANDONED).to_bytes());
        machine::wait_until("the sign of a lost lock", SECOND * 20, || {
            let crc = crc_now(guest, 0);
            assert_ne!(
                crc,
                vkms_crc(&painter.expected().to_bytes()),
                "the application is seen"
            );
            crc == abandoned
        });
        painter.paint(&mut app, 4).unwrap();
        app.roundtrip().unwrap();
        all_show(
            &mut watcher,
            &output,
            &plain(ABANDONED),
            "nobody can unlock",
        );

        let mut second = stage.client();
        let lock = Locker::lock(&mut second).unwrap();
        let covered = second.output(None).unwrap();
        let surface = lock.cover(&mut second, &covered, 51).unwrap();
        second.roundtrip().unwrap();
        let crc = vkms_crc(&surface.expected(51).to_bytes());
        machine::wait_until("the second lock's picture", SECOND * 20, || {
            crc_now(guest, 0) == crc
        });
        all_show(
            &mut watcher,
            &output,
            &surface.expected(51),
            "the second lock",
        );
        lock.unlock(&mut second).unwrap();
        let crc = vkms_crc(&painter.expected().to_bytes());
        machine::wait_until("the application", SECOND * 20, || crc_now(guest, 0) == crc);
        stage.finish("Virtual-1");
    });
}

#[test]
fn a_screen_that_is_plugged_in_while_the_session_is_locked_is_covered_from_its_first_frame() {
    let two = Machine::default()
        .output(Output::new())
        .output(Output::new().connected(false));
    machine::boot(two, |guest| {
        let stage = Setup::default().start(guest);
        let mut film = Film::begin(&stage, None, 1);
        film.shoot(5);
        let mut lock_client = stage.client();
        let lock = Locker::lock(&mut lock_client).unwrap();
        guest.set_connector_status(1, true);
        let name = Some("Virtual-2");
        let patience = film.cameras.client.patience();
        let found = |state: &mut crate::clients::State| {
            state
                .outputs
                .iter()
                .find(|o| o.name == "Virtual-2" && o.done > 0)
                .cloned()
        };
        let mut watcher = stage.client();
        let output = watcher.wait_for("the new output", patience, found).unwrap();
        all_show(&mut watcher, &output, &plain(CURTAIN), "the new screen");
        let curtain = vkms_crc(&plain(CURTAIN).to_bytes());
        assert_eq!(crc_now(guest, 1), curtain);
        // Also when the application wants to be there.
        let mut cameras = Cameras::open(&stage, name);
        let mut turns = 0;
        film.roll_until("frames of the new screen", |_| {
            cameras.turn();
            turns += 1;
            turns > 100 && !cameras.taken.is_empty()
        });
        assert!(cameras.taken.iter().all(|taken| taken.shows.is_err()));
        let covered = lock_client
            .wait_for("the new output", patience, found)
            .unwrap();
        let surface = lock.cover(&mut lock_client, &covered, 60).unwrap();
        lock_client.roundtrip().unwrap();
        let crc = vkms_crc(&surface.expected(60).to_bytes());
        machine::wait_until("the lock's surface there", SECOND * 20, || {
            crc_now(guest, 1) == crc
        });
        lock.unlock(&mut lock_client).unwrap();
        stage.finish("Virtual-1");
    });
}

#[test]
fn a_session_that_is_locked_while_another_has_the_seat_comes_back_covered() {
    machine::boot(Machine::default(), |guest| {
        let mut keyboard = Device::keyboard();
        let mut stage = Setup::default().start(guest);
        let mut film = Film::begin(&stage, None, 1);
        film.shoot(5);
        let mut other = OtherSession::open();
        switch_to(&mut keyboard, 1);
        other.wait_active();
        stage.vitrine.wait_log("session paused", SECOND * 20);
        let mut lock_client = stage.client();
        let lock = Locker::lock(&mut lock_client).unwrap();
        film.cameras.client.roundtrip().unwrap();
        film.cameras.harvest();
        film.cameras.taken.clear();
        drop(other);
        stage.vitrine.wait_log("session resumed", SECOND * 20);
        let curtain = vkms_crc(&plain(CURTAIN).to_bytes());
        let application = film.window.painted;
        film.roll_until("frames of the curtain", |film| {
            film.cameras.count("export") >= 3
        });
        for taken in &film.cameras.taken {
            assert!(taken.shows.is_err(), "{taken:?} of {application}");
        }
        machine::wait_until("the curtain", SECOND * 20, || crc_now(guest, 0) == curtain);
        lock.unlock(&mut lock_client).unwrap();
        film.roll_until("the window", |film| {
            film.cameras
                .taken
                .last()
                .is_some_and(|taken| taken.shows.is_ok())
        });
        stage.finish("Virtual-1");
    });
}

#[test]
fn hands_reach_only_the_lock_while_the_session_is_locked() {
    machine::boot(Machine::default(), |guest| {
        let (mut keyboard, mut mouse) = (Device::keyboard(), Device::mouse());
        let stage = Setup::default()
            .with("[input]\nterminate_key = true\n")
            .start(guest);
        let (mut app, mut painter) = stage.painter();
        let hands = Hands::new(&mut app);
        hands.wait_can(&mut app, (true, true, false));
        hands.take_all(&mut app);
        painter.present(&mut app, 1).unwrap();
        keyboard.tap(code::KEY_A);
        hands.wait(&mut app, "key 30 up");
        // A button that is held while the session is locked holds no grab.
        mouse.motion(1, 1);
        mouse.key(code::BTN_LEFT, 1);
        hands.wait(&mut app, "button 272 down");
        hands.forget();

        let mut lock_client = stage.client();
        let lock_hands = Hands::new(&mut lock_client);
        lock_hands.wait_can(&mut lock_client, (true, true, false));
        lock_hands.take_all(&mut lock_client);
        let lock = Locker::lock(&mut lock_client).unwrap();
        // The application is told that it lost both; and nothing more.
        app.roundtrip().unwrap();
        let lost = hands.words();
        for word in ["keyboard leave", "pointer leave"] {
            assert!(
                lost.iter().any(|lost| lost == word),
                "no {word} in {lost:?}"
            );
        }
        mouse.key(code::BTN_LEFT, 0);
        hands.forget();
        let covered = lock_client.output(None).unwrap();
        let _surface = lock.cover(&mut lock_client, &covered, 2).unwrap();
        let heard = |word: &'static str| {
            let lock_hands = &lock_hands;
            move |_: &mut crate::clients::State| {
                lock_hands
                    .words()
                    .iter()
                    .any(|heard| heard.contains(word))
                    .then_some(())
            }
        };
        lock_client
            .wait_for("the keyboard", SECOND * 20, heard("enter"))
            .unwrap();
        keyboard.tap(code::KEY_A);
        mouse.motion(5, 5);
        mouse.key(code::BTN_LEFT, 1);
        mouse.key(code::BTN_LEFT, 0);
        // The last word of each device: nothing is on its way any more then.
        lock_client
            .wait_for("a button", SECOND * 20, heard("button 272 up"))
            .unwrap();
        lock_hands.wait(&mut lock_client, "key 30 up");
        app.roundtrip().unwrap();
        assert_eq!(hands.words(), Vec::<String>::new(), "behind the lock");
        // A new window of the application changes nothing.
        let (mut other, mut window) = stage.painter();
        window.paint(&mut other, 3).unwrap();
        other.roundtrip().unwrap();
        keyboard.tap(code::KEY_A);
        lock_hands.wait(&mut lock_client, "key 30 up");
        // Nor does the key that would end the session.
        for (key, down) in [
            (code::KEY_LEFTCTRL, 1),
            (code::KEY_LEFTALT, 1),
            (code::KEY_BACKSPACE, 1),
            (code::KEY_BACKSPACE, 0),
            (code::KEY_LEFTALT, 0),
            (code::KEY_LEFTCTRL, 0),
        ] {
            keyboard.key(key, down);
        }
        keyboard.tap(code::KEY_A);
        lock_hands.wait(&mut lock_client, "key 30 up");
        lock.unlock(&mut lock_client).unwrap();
        app.roundtrip().unwrap();
        stage.finish("Virtual-1");
    });
}
