//! Hands on devices: from uinput through udev and libinput to what the focused client hears.

use std::sync::Arc;

use crate::{
    clients::{picture::pattern_picture, Picture},
    hands::{id, Hands},
    machine::{self, Machine, SECOND},
    screen,
    stage::{Setup, Stage},
    uinput::{code, Device, TOUCH_MAX},
    window::{Popup, Window},
};

fn finish(stage: Stage<'_>) {
    let log = stage.vitrine.log();
    assert!(!log.contains("ERROR"), "{log}");
    stage.finish("Virtual-1");
}

#[test]
fn keys_reach_the_focused_client_with_a_keymap() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let mut client = stage.client();
        let hands = Hands::new(&mut client);
        assert_eq!(
            hands.can(),
            (false, false, false),
            "a machine without devices"
        );
        let window = Window::showing(&mut client, &pattern_picture(1, 640, 480));
        let surface = id(&window.surface.proxy);
        let mut device = Device::keyboard();
        hands.wait_can(&mut client, (true, false, false));
        let keyboard = hands.keyboard(&client);
        hands.wait(&mut client, &format!("keyboard enter {surface}"));
        let keymap = hands.keymap();
        assert!(keymap.starts_with("xkb_keymap {"), "{keymap:.80}");
        assert!(keymap.contains("<AC01>"), "no keys in the keymap");
        device.key(code::KEY_A, 1);
        hands.wait(&mut client, "key 30 down");
        device.key(code::KEY_A, 0);
        hands.wait(&mut client, "key 30 up");
        device.key(code::KEY_LEFTSHIFT, 1);
        hands.wait(&mut client, "modifiers 1");
        device.key(code::KEY_LEFTSHIFT, 0);
        hands.wait(&mut client, "modifiers 0");
        // Repetition is the client's business: one press is one event.
        device.key(code::KEY_B, 1);
        hands.wait(&mut client, "key 48 down");
        client.dispatch_for(SECOND).unwrap();
        assert!(
            !hands.words().iter().any(|word| word.starts_with("key ")),
            "{:?}",
            hands.words()
        );
        device.key(code::KEY_B, 0);
        hands.wait(&mut client, "key 48 up");
        // A second keyboard changes nothing; the last one's end takes the capability away.
        let second = Device::keyboard();
        drop(device);
        client.dispatch_for(SECOND).unwrap();
        assert_eq!(hands.can(), (true, false, false));
        drop(second);
        hands.wait_can(&mut client, (false, false, false));
        keyboard.release();
        // And back.
        let mut device = Device::keyboard();
        hands.wait_can(&mut client, (true, false, false));
        let _keyboard = hands.keyboard(&client);
        hands.wait(&mut client, &format!("keyboard enter {surface}"));
        device.tap(code::KEY_A);
        hands.wait(&mut client, "key 30 down");
        hands.wait(&mut client, "key 30 up");
        finish(stage);
    });
}

#[test]
fn the_window_on_top_has_the_keyboard() {
    machine::boot(Machine::default(), |guest| {
        let mut device = Device::keyboard();
        let stage = Setup::default().start(guest);
        let (mut one, mut two) = (stage.client(), stage.client());
        let (left, right) = (Hands::new(&mut one), Hands::new(&mut two));
        left.wait_can(&mut one, (true, false, false));
        right.wait_can(&mut two, (true, false, false));
        left.keyboard(&one);
        right.keyboard(&two);
        let first = Window::showing(&mut one, &pattern_picture(1, 640, 480));
        left.wait(
            &mut one,
            &format!("keyboard enter {}", id(&first.surface.proxy)),
        );
        let second = Window::showing(&mut two, &pattern_picture(2, 640, 480));
        right.wait(
            &mut two,
            &format!("keyboard enter {}", id(&second.surface.proxy)),
        );
        left.wait(&mut one, "keyboard leave");
        device.tap(code::KEY_A);
        right.wait(&mut two, "key 30 up");
        one.roundtrip().unwrap();
        assert!(
            !left.words().iter().any(|word| word.starts_with("key ")),
            "the covered window hears keys"
        );
        second.close(&mut two);
        left.wait(
            &mut one,
            &format!("keyboard enter {}", id(&first.surface.proxy)),
        );
        device.tap(code::KEY_B);
        left.wait(&mut one, "key 48 up");
        // A dialog has the keyboard while it is there.
        let mut dialog = Window::new(&one);
        dialog.toplevel.set_parent(Some(&first.toplevel));
        dialog.configure(&mut one);
        dialog.show(&mut one, &Picture::filled(100, 80, 0x33_6699));
        left.wait(
            &mut one,
            &format!("keyboard enter {}", id(&dialog.surface.proxy)),
        );
        dialog.close(&mut one);
        left.wait(
            &mut one,
            &format!("keyboard enter {}", id(&first.surface.proxy)),
        );
        device.tap(code::KEY_A);
        left.wait(&mut one, "key 30 up");
        finish(stage);
    });
}

#[test]
fn the_pointer_moves_clicks_and_scrolls() {
    machine::boot(Machine::default(), |guest| {
        let flat = "[input.pointer]\naccel_profile = \"flat\"\n";
        let stage = Setup::default().with(flat).start(guest);
        let mut client = stage.client();
        let hands = Hands::new(&mut client);
        let window = Window::showing(&mut client, &pattern_picture(1, 640, 480));
        let mut device = Device::mouse();
        hands.wait_can(&mut client, (false, true, false));
        let pointer = hands.pointer(&client);
        client.roundtrip().unwrap();
        // Far over the edge: it stops in the corner. Acceleration is flat, so the rest is exact.
        for _ in 0..4 {
            device.motion(-2000, -2000);
        }
        device.motion(100, 50);
        hands.wait(
            &mut client,
            &format!("pointer enter {}", id(&window.surface.proxy)),
        );
        hands.wait(&mut client, "motion 100 50");
        device.motion(7, -9);
        hands.wait(&mut client, "motion 107 41");
        device.motion(5000, 5000);
        hands.wait(&mut client, "frame");
        let last = hands.words();
        device.motion(-1, -1);
        client.dispatch_for(SECOND / 2).unwrap();
        assert!(
            !last
                .iter()
                .chain(&hands.words())
                .any(|w| w.contains("leave")),
            "the pointer left the screen"
        );
        hands.forget();
        device.tap(code::BTN_LEFT);
        hands.wait(&mut client, "button 272 down");
        hands.wait(&mut client, "frame");
        hands.wait(&mut client, "button 272 up");
        device.tap(code::BTN_RIGHT);
        hands.wait(&mut client, "button 273 down");
        hands.wait(&mut client, "button 273 up");
        // Towards the user is positive.
        device.wheel(-1);
        hands.wait(&mut client, "source wheel");
        hands.wait(&mut client, "axis vertical +");
        device.wheel(1);
        hands.wait(&mut client, "axis vertical -");
        pointer.release();
        drop(device);
        hands.wait_can(&mut client, (false, false, false));
        finish(stage);
    });
}

#[test]
fn the_pointer_is_in_the_capture_and_goes_with_its_device() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let mut client = stage.client();
        let back = Picture::filled(640, 480, 0x20_4060);
        let _window = Window::showing(&mut client, &back);
        let mut device = Device::mouse();
        let hands = Hands::new(&mut client);
        hands.wait_can(&mut client, (false, true, false));
        device.motion(3, 3);
        let with = screen::wait_for(guest, &mut client, "pointer", |picture| {
            picture.difference(&back).is_some()
        });
        let covered = with
            .pixels
            .iter()
            .filter(|pixel| *pixel & 0xff_ffff != 0x20_4060)
            .count();
        assert!(
            (20..2000).contains(&covered),
            "the pointer covers {covered} pixels"
        );
        drop(device);
        screen::wait_for(guest, &mut client, "no pointer", |picture| {
            picture.difference(&back).is_none()
        });
        finish(stage);
    });
}

#[test]
fn fingers_reach_the_surface_below_them() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let mut client = stage.client();
        let hands = Hands::new(&mut client);
        let window = Window::showing(&mut client, &pattern_picture(1, 640, 480));
        let mut device = Device::touch();
        hands.wait_can(&mut client, (false, false, true));
        let touch = hands.touch(&client);
        client.roundtrip().unwrap();
        let middle = (TOUCH_MAX / 2, TOUCH_MAX / 2);
        let surface = id(&window.surface.proxy);
        device.finger(0, true, middle);
        hands.wait(&mut client, &format!("down {surface} 0 at 320 240"));
        hands.wait(&mut client, "touch frame");
        device.finger(1, true, (0, 0));
        hands.wait(&mut client, &format!("down {surface} 1 at 0 0"));
        device.finger(0, false, (TOUCH_MAX / 4, TOUCH_MAX / 2));
        hands.wait(&mut client, "touch 0 to 160 240");
        device.lift(0);
        hands.wait(&mut client, "up 0");
        device.lift(1);
        hands.wait(&mut client, "up 1");
        hands.wait(&mut client, "touch frame");
        touch.release();
        drop(device);
        hands.wait_can(&mut client, (false, false, false));
        finish(stage);
    });
}

/// Holds Ctrl and Alt and taps Backspace.
fn ctrl_alt_backspace(device: &mut Device) {
    device.key(code::KEY_LEFTCTRL, 1);
    device.key(code::KEY_LEFTALT, 1);
    device.tap(code::KEY_BACKSPACE);
    device.key(code::KEY_LEFTALT, 0);
    device.key(code::KEY_LEFTCTRL, 0);
}

#[test]
fn ctrl_alt_backspace_ends_vitrine_only_when_it_is_told_to() {
    machine::boot(Machine::default(), |guest| {
        let mut device = Device::keyboard();
        // By default it is a key combination as any other.
        let stage = Setup::default().start(guest);
        let mut client = stage.client();
        let hands = Hands::new(&mut client);
        hands.wait_can(&mut client, (true, false, false));
        hands.keyboard(&client);
        let window = Window::showing(&mut client, &pattern_picture(1, 640, 480));
        hands.wait(
            &mut client,
            &format!("keyboard enter {}", id(&window.surface.proxy)),
        );
        ctrl_alt_backspace(&mut device);
        hands.wait(&mut client, "key 14 down");
        hands.wait(&mut client, "key 29 up");
        client.roundtrip().unwrap();
        finish(stage);
        drop(client);
        let mut stage = Setup::default()
            .with("[input]\nterminate_key = true\n")
            .start(guest);
        let mut client = stage.client();
        let hands = Hands::new(&mut client);
        hands.wait_can(&mut client, (true, false, false));
        ctrl_alt_backspace(&mut device);
        assert_eq!(stage.vitrine.wait_exit(SECOND * 20).code(), Some(0));
    });
}

#[test]
fn a_click_outside_of_a_popup_with_a_grab_dismisses_it() {
    machine::boot(Machine::default(), |guest| {
        let flat = "[input.pointer]\naccel_profile = \"flat\"\n";
        let stage = Setup::default().with(flat).start(guest);
        let mut client = stage.client();
        let hands = Hands::new(&mut client);
        // Small, so that there is something beside it: clicks on its own windows are the client's business.
        let back = pattern_picture(1, 200, 100);
        let window = Window::showing(&mut client, &back);
        let (mut mouse, _keyboard) = (Device::mouse(), Device::keyboard());
        hands.wait_can(&mut client, (true, true, false));
        hands.pointer(&client);
        client.roundtrip().unwrap();
        for _ in 0..4 {
            mouse.motion(-2000, -2000);
        }
        mouse.motion(230, 200);
        hands.wait(&mut client, "motion 10 10");
        hands.forget();
        mouse.tap(code::BTN_LEFT);
        let serial = client
            .wait_for("a button", SECOND * 20, |_| {
                let heard = hands.words();
                let word = heard
                    .iter()
                    .find(|word| word.starts_with("button serial "))?;
                word["button serial ".len()..].parse::<u32>().ok()
            })
            .unwrap();
        hands.wait(&mut client, "button 272 up");
        let mut popup = Popup::new(&mut client, &window, (50, 50), (100, 100));
        popup.proxy.grab(&hands.seat, serial);
        popup.configure(&mut client);
        popup
            .surface
            .attach(&mut client, &Picture::filled(100, 100, 0x66_3300));
        popup.surface.commit_shown(&mut client);
        assert!(!popup.record.lock().unwrap().done, "dismissed at once");
        // Inside first: it stays.
        mouse.motion(100, 100);
        hands.wait(
            &mut client,
            &format!("pointer enter {}", id(&popup.surface.proxy)),
        );
        mouse.tap(code::BTN_LEFT);
        hands.wait(&mut client, "button 272 up");
        assert!(
            !popup.record.lock().unwrap().done,
            "dismissed by a click inside"
        );
        mouse.motion(-320, -290);
        mouse.tap(code::BTN_LEFT);
        let record = Arc::clone(&popup.record);
        client
            .wait_for("xdg_popup.popup_done", SECOND * 20, |_| {
                record.lock().unwrap().done.then_some(())
            })
            .unwrap();
        finish(stage);
    });
}

#[test]
fn a_click_on_the_window_behind_a_dialog_leaves_the_dialog_on_top() {
    machine::boot(Machine::default(), |guest| {
        let flat = "[input.pointer]\naccel_profile = \"flat\"\n";
        let stage = Setup::default().with(flat).start(guest);
        let mut client = stage.client();
        let hands = Hands::new(&mut client);
        let back = Picture::filled(640, 480, 0x20_4060);
        let window = Window::showing(&mut client, &back);
        let mut dialog = Window::new(&client);
        dialog.toplevel.set_parent(Some(&window.toplevel));
        dialog.configure(&mut client);
        dialog.show(&mut client, &Picture::filled(100, 80, 0xff_8000));
        let mut mouse = Device::mouse();
        hands.wait_can(&mut client, (false, true, false));
        hands.pointer(&client);
        client.roundtrip().unwrap();
        for _ in 0..4 {
            mouse.motion(-2000, -2000);
        }
        mouse.motion(20, 20);
        hands.wait(&mut client, "motion 20 20");
        mouse.tap(code::BTN_LEFT);
        hands.wait(&mut client, "button 272 up");
        client.roundtrip().unwrap();
        let picture = screen::picture(&mut client);
        assert_eq!(
            screen::count(&picture, 0xff_8000),
            100 * 80,
            "the dialog is hidden"
        );
        finish(stage);
    });
}
