//! The kiosk's policy, seen on the screen: who is where, who is on top, what the client is told.

use std::sync::Arc;

use wayland_client::protocol::wl_surface;
use wayland_protocols::xdg::shell::client::xdg_positioner;

use crate::{
    clients::{
        picture::pattern_picture, presentation::Shown, Client, Painter, PainterOptions, Picture,
    },
    machine::{self, Machine, Output, SECOND},
    screen,
    stage::{Setup, Stage},
    window::{Popup, Window, ACTIVATED, FULLSCREEN},
};

/// A picture of one colour with a line of another around it, so that a displaced edge is seen.
fn framed(width: u32, height: u32, colour: u32) -> Picture {
    let mut picture = Picture::filled(width, height, colour ^ 0xff_ffff);
    picture.overlay(&Picture::filled(width - 2, height - 2, colour), 1, 1);
    picture
}

fn black() -> Picture {
    Picture::filled(640, 480, 0)
}

#[track_caller]
fn assert_screen(client: &mut Client, expected: &Picture, what: &str) {
    screen::picture(client).assert_same(expected, what);
}

fn finish(stage: Stage<'_>) {
    assert!(
        !stage.vitrine.log().contains("ERROR"),
        "{}",
        stage.vitrine.log()
    );
    stage.finish("Virtual-1");
}

#[test]
fn a_window_fills_the_screen_and_knows_it() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let mut client = stage.client();
        let mut window = Window::new(&client);
        assert_eq!(window.configure(&mut client), (640, 480));
        assert!(
            window.record().states.contains(&FULLSCREEN),
            "{:?}",
            window.record()
        );
        let picture = pattern_picture(3, 640, 480);
        window.show(&mut client, &picture);
        assert_screen(&mut client, &picture, "the window");
        // Without a keyboard too the window on top is the active one.
        let shell = Arc::clone(&window.surface.shell);
        client
            .wait_for("activation", SECOND * 20, |_| {
                shell
                    .lock()
                    .unwrap()
                    .states
                    .contains(&ACTIVATED)
                    .then_some(())
            })
            .unwrap();
        assert_eq!(window.record().on_outputs, 1, "wl_surface.enter");
        finish(stage);
    });
}

#[test]
fn a_second_window_goes_on_top_and_its_end_brings_the_first_back() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let mut client = stage.client();
        let mut watcher = stage.client();
        let (below, above) = (pattern_picture(1, 640, 480), pattern_picture(2, 640, 480));
        let first = Window::showing(&mut client, &below);
        let mut other = stage.client();
        let second = Window::showing(&mut other, &above);
        assert_screen(&mut watcher, &above, "the second window");
        client.roundtrip().unwrap();
        assert!(
            !first.record().states.contains(&ACTIVATED),
            "the covered window is still active"
        );
        second.close(&mut other);
        screen::wait_for(guest, &mut watcher, "first", |picture| {
            picture.difference(&below).is_none()
        });
        client.roundtrip().unwrap();
        assert!(
            first.record().states.contains(&ACTIVATED),
            "the first window is not active again"
        );
        // The same when the client vanishes with its window.
        let mut other = stage.client();
        let _second = Window::showing(&mut other, &above);
        assert_screen(&mut watcher, &above, "the second window");
        drop(other);
        screen::wait_for(guest, &mut watcher, "first again", |picture| {
            picture.difference(&below).is_none()
        });
        finish(stage);
    });
}

#[test]
fn a_dialog_keeps_its_size_in_the_middle_of_its_parent() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let mut client = stage.client();
        let back = pattern_picture(5, 640, 480);
        let parent = Window::showing(&mut client, &back);
        let mut dialog = Window::new(&client);
        dialog.toplevel.set_parent(Some(&parent.toplevel));
        assert_eq!(
            dialog.configure(&mut client),
            (0, 0),
            "a dialog chooses its size"
        );
        assert!(!dialog.record().states.contains(&FULLSCREEN));
        let front = framed(100, 80, 0x20_8040);
        dialog.show(&mut client, &front);
        let mut expected = back.clone();
        expected.overlay(&front, 270, 200);
        assert_screen(&mut client, &expected, "the dialog");
        // It grows: it stays in the middle.
        let front = framed(200, 120, 0x80_2040);
        dialog.show(&mut client, &front);
        let mut expected = back.clone();
        expected.overlay(&front, 220, 180);
        assert_screen(&mut client, &expected, "the larger dialog");
        dialog.close(&mut client);
        screen::wait_for(guest, &mut client, "parent", |picture| {
            picture.difference(&back).is_none()
        });
        finish(stage);
    });
}

#[test]
fn a_window_that_ignores_its_size_is_in_the_middle_on_black() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let mut client = stage.client();
        let small = framed(200, 100, 0x40_80c0);
        let mut window = Window::showing(&mut client, &small);
        let mut expected = black();
        expected.overlay(&small, 220, 190);
        assert_screen(&mut client, &expected, "a small window");
        // Larger than the screen: from the corner, cut off.
        let large = pattern_picture(9, 800, 600);
        window.show(&mut client, &large);
        let mut expected = black();
        expected.overlay(&large, 0, 0);
        assert_screen(&mut client, &expected, "a large window");
        // With a window geometry inside of the buffer, only that counts for the place.
        let shadow = framed(200, 100, 0x40_80c0);
        window.xdg.set_window_geometry(20, 10, 160, 80);
        window.show(&mut client, &shadow);
        let mut expected = black();
        expected.overlay(&shadow, 240 - 20, 200 - 10);
        assert_screen(&mut client, &expected, "a window with a geometry");
        finish(stage);
    });
}

#[test]
fn popups_are_kept_inside_of_the_screen() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let mut client = stage.client();
        let back = pattern_picture(6, 640, 480);
        let parent = Window::showing(&mut client, &back);
        // There is room: where it was asked for.
        let mut popup = Popup::new(&mut client, &parent, (50, 60), (120, 90));
        assert_eq!(popup.configure(&mut client), (51, 61, 120, 90));
        let front = framed(120, 90, 0x11_2233);
        popup.surface.attach(&mut client, &front);
        popup.surface.commit_shown(&mut client);
        let mut expected = back.clone();
        expected.overlay(&front, 51, 61);
        assert_screen(&mut client, &expected, "a popup with room");
        popup.proxy.destroy();
        popup.xdg.destroy();
        popup.surface.proxy.destroy();
        screen::wait_for(guest, &mut client, "no popup", |picture| {
            picture.difference(&back).is_none()
        });
        // In the lower right corner: flipped to the left, slid upwards.
        let mut popup = Popup::new(&mut client, &parent, (600, 440), (120, 90));
        assert_eq!(popup.configure(&mut client), (480, 390, 120, 90));
        popup.surface.attach(&mut client, &front);
        popup.surface.commit_shown(&mut client);
        let mut expected = back.clone();
        expected.overlay(&front, 480, 390);
        assert_screen(&mut client, &expected, "a popup in the corner");
        // Moved by the client.
        let positioner = parent.wm_base.create_positioner(&client.qh, ());
        positioner.set_size(120, 90);
        positioner.set_anchor_rect(10, 20, 1, 1);
        positioner.set_anchor(xdg_positioner::Anchor::TopLeft);
        positioner.set_gravity(xdg_positioner::Gravity::BottomRight);
        popup.proxy.reposition(&positioner, 77);
        let record = Arc::clone(&popup.record);
        client
            .wait_for("xdg_popup.repositioned", SECOND * 20, |_| {
                record.lock().unwrap().repositioned
            })
            .unwrap();
        assert_eq!(popup.record.lock().unwrap().repositioned, Some(77));
        assert_eq!(popup.configure(&mut client), (10, 20, 120, 90));
        popup.surface.attach(&mut client, &front);
        popup.surface.commit_shown(&mut client);
        let mut expected = back.clone();
        expected.overlay(&front, 10, 20);
        assert_screen(&mut client, &expected, "a popup that was moved");
        finish(stage);
    });
}

#[test]
fn a_window_can_be_unmapped_and_mapped_again() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let mut client = stage.client();
        let picture = pattern_picture(8, 640, 480);
        let mut window = Window::showing(&mut client, &picture);
        for round in 0..3 {
            assert_screen(&mut client, &picture, "the window");
            window.surface.proxy.attach(None, 0, 0);
            window.surface.proxy.commit();
            screen::wait_for(guest, &mut client, "unmapped", |picture| {
                screen::lit(picture) == 0
            });
            // As if it were new: another initial commit, another configure.
            window.surface.shell.lock().unwrap().pending = None;
            assert_eq!(window.configure(&mut client), (640, 480), "round {round}");
            window.show(&mut client, &picture);
        }
        assert_screen(&mut client, &picture, "the window at last");
        finish(stage);
    });
}

#[test]
fn requests_for_full_screen_are_answered_before_and_after_mapping_and_while_unmapped() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let mut client = stage.client();
        let mut window = Window::new(&client);
        window.toplevel.set_fullscreen(None);
        window.toplevel.set_maximized();
        client.roundtrip().unwrap();
        assert_eq!(
            window.record().configures,
            0,
            "a configure before the initial commit"
        );
        assert_eq!(window.configure(&mut client), (640, 480));
        let picture = pattern_picture(4, 640, 480);
        window.show(&mut client, &picture);
        for request in [
            "unset_fullscreen",
            "set_maximized",
            "unset_maximized",
            "set_fullscreen",
        ] {
            client.roundtrip().unwrap();
            window.surface.shell.lock().unwrap().pending = None;
            match request {
                "unset_fullscreen" => window.toplevel.unset_fullscreen(),
                "set_maximized" => window.toplevel.set_maximized(),
                "unset_maximized" => window.toplevel.unset_maximized(),
                _ => window.toplevel.set_fullscreen(None),
            }
            assert_eq!(window.acknowledge(&mut client), (640, 480), "{request}");
            assert!(window.record().states.contains(&FULLSCREEN), "{request}");
        }
        window.toplevel.set_minimized();
        window.surface.proxy.attach(None, 0, 0);
        window.surface.proxy.commit();
        window.toplevel.set_fullscreen(None);
        window.toplevel.unset_fullscreen();
        client.roundtrip().unwrap();
        window.surface.shell.lock().unwrap().pending = None;
        assert_eq!(window.configure(&mut client), (640, 480));
        window.show(&mut client, &picture);
        assert_screen(&mut client, &picture, "after all");
        finish(stage);
    });
}

#[test]
fn a_window_goes_to_the_output_that_it_asks_for() {
    let machine = Machine::default()
        .output(Output::new())
        .output(Output::new());
    machine::boot(machine, |guest| {
        let config = "[[output]]\nconnector = \"Virtual-1\"\nmode = \"640x480\"\n[[output]]\nconnector = \"Virtual-2\"\nmode = \"800x600\"\n";
        let stage = Setup::default().config(config).start(guest);
        let mut client = stage.client();
        let (one, two) = (
            client.output(Some("Virtual-1")).unwrap(),
            client.output(Some("Virtual-2")).unwrap(),
        );
        assert_eq!(one.logical_position, (0, 0));
        assert_eq!(two.logical_position, (640, 0));
        // Before the initial commit.
        let mut window = Window::new(&client);
        window.toplevel.set_fullscreen(Some(&two.proxy));
        assert_eq!(window.configure(&mut client), (800, 600));
        let picture = pattern_picture(2, 800, 600);
        window.show(&mut client, &picture);
        screen::of_output(&mut client, &two).assert_same(&picture, "Virtual-2");
        assert_eq!(
            screen::lit(&screen::of_output(&mut client, &one)),
            0,
            "Virtual-1 is not black"
        );
        // Later.
        window.surface.shell.lock().unwrap().pending = None;
        window.toplevel.set_fullscreen(Some(&one.proxy));
        assert_eq!(window.acknowledge(&mut client), (640, 480));
        let picture = pattern_picture(3, 640, 480);
        window.show(&mut client, &picture);
        screen::of_output(&mut client, &one).assert_same(&picture, "Virtual-1");
        assert_eq!(
            screen::lit(&screen::of_output(&mut client, &two)),
            0,
            "Virtual-2 is not black"
        );
        // Two windows, one on each; a dialog goes where its parent is.
        let other = Painter::new(
            &mut client,
            PainterOptions {
                output: Some(two.proxy.clone()),
                ..Default::default()
            },
        );
        let mut other = other.unwrap();
        other.present(&mut client, 12).unwrap();
        screen::of_output(&mut client, &one)
            .assert_same(&picture, "Virtual-1 beside a window on Virtual-2");
        screen::of_output(&mut client, &two).assert_same(&other.expected(), "Virtual-2");
        let mut dialog = Window::new(&client);
        dialog.toplevel.set_parent(Some(&other.toplevel));
        dialog.configure(&mut client);
        let front = framed(100, 100, 0x30_6090);
        dialog.show(&mut client, &front);
        let mut expected = other.expected();
        expected.overlay(&front, 350, 250);
        screen::of_output(&mut client, &two).assert_same(&expected, "the dialog on Virtual-2");
        screen::of_output(&mut client, &one).assert_same(&picture, "Virtual-1 beside the dialog");
        drop(other);
        finish(stage);
    });
}

#[test]
fn frame_callbacks_and_feedback_come_also_when_nothing_changed() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let mut client = stage.client();
        let picture = pattern_picture(4, 640, 480);
        let mut window = Window::showing(&mut client, &picture);
        for _ in 0..5 {
            window.surface.commit_and_wait_frame(&mut client);
        }
        for _ in 0..5 {
            let shown = window.surface.commit_answered(&mut client);
            assert!(
                matches!(shown, Shown::Presented { .. } | Shown::Discarded),
                "{shown:?}"
            );
        }
        // The same buffer attached again, with damage and without.
        let again: wl_surface::WlSurface = window.surface.proxy.clone();
        again.attach(Some(&window.surface.buffer().proxy), 0, 0);
        window.surface.commit_and_wait_frame(&mut client);
        again.attach(Some(&window.surface.buffer().proxy), 0, 0);
        again.damage_buffer(0, 0, 640, 480);
        window.surface.commit_and_wait_frame(&mut client);
        assert_screen(&mut client, &picture, "the window");
        finish(stage);
    });
}

#[test]
fn feedback_tells_the_vblank_and_follows_the_order_of_commits() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let (mut client, mut painter) = stage.painter();
        for n in 0..30 {
            painter.present(&mut client, n).unwrap();
        }
        let mut last = (std::time::Duration::ZERO, 0);
        for feedback in painter.feedback() {
            let Shown::Presented {
                time,
                refresh,
                sequence,
                flags,
            } = feedback.shown
            else {
                panic!("{feedback:?}");
            };
            assert!(
                time > last.0 && sequence > last.1,
                "{feedback:?} after {last:?}"
            );
            assert!(
                time >= feedback.committed,
                "shown before it was committed: {feedback:?}"
            );
            let hertz = 1.0 / refresh.as_secs_f64();
            assert!((59.0..61.0).contains(&hertz), "{hertz} Hz");
            assert_eq!(flags & 1, 1, "vsync");
            last = (time, sequence);
        }
        drop(painter);
        finish(stage);
    });
}
