//! At which scale surfaces are shown.

use std::sync::{Arc, Mutex};

use smithay::{output::Scale, utils::Transform};
use wayland_client::protocol::{wl_output, wl_seat::WlSeat};

use super::*;
use crate::window;

/// The second output has two pixels for one from now on, and is turned like this.
fn refine(session: &Session, turned: Option<Transform>) {
    session.with(move |state| {
        let mut outputs = state.shell.space.outputs();
        let fine = outputs.find(|output| output.name() == "TEST-2");
        let scale = Some(Scale::Integer(2));
        fine.unwrap()
            .change_current_state(None, turned, scale, None);
    });
}

#[test]
fn surfaces_hear_at_which_scale_they_are_shown() {
    let session = Session::start("");
    has(&session, POINTER);
    refine(&session, Some(Transform::_90));
    let (mut client, hands) = with_hands(&session);
    let output = client.output(Some("TEST-2")).unwrap();
    let mut window = Window::new(&client);
    window.toplevel.set_fullscreen(Some(&output.proxy));
    assert_eq!(window.configure(&mut client), (100, 160));
    let turned = Some(wl_output::Transform::_90);
    let known = |shell: &window::Shell| {
        let record = shell.lock().unwrap();
        (record.scale, record.transform)
    };
    assert_eq!(
        known(&window.surface.shell),
        (Some(2), turned),
        "before its first picture"
    );
    picture(&mut window.surface, &mut client, (100, 160));
    let mut child = window::child(&client, &window.surface.proxy, (0, 0));
    picture(&mut child.surface, &mut client, (10, 10));
    client.roundtrip().unwrap();
    assert_eq!(known(&child.surface.shell), (Some(2), turned));
    let popup = menu(&mut client, &window, &hands);
    assert_eq!(known(&popup.surface.shell), (Some(2), turned));
    // The window goes to the other output, which is as surfaces expect it: nothing but the change is said.
    let other = client.output(Some("TEST-1")).unwrap();
    window.toplevel.set_fullscreen(Some(&other.proxy));
    client.roundtrip().unwrap();
    client.roundtrip().unwrap();
    let upright = Some(wl_output::Transform::Normal);
    assert_eq!(known(&window.surface.shell), (Some(1), upright));
    assert_eq!(known(&child.surface.shell), (Some(1), upright));
}

#[test]
fn the_pointers_surface_hears_where_it_is_shown() {
    let session = Session::start("");
    has(&session, POINTER);
    refine(&session, None);
    let mut client = session.client();
    let serials = Arc::<Mutex<u32>>::default();
    let seat: WlSeat = client.bind(5, ()).unwrap();
    let pointer = seat.get_pointer(&client.qh, Arc::clone(&serials));
    let _window = shown(&mut client);
    point(&session, 100.0, 100.0);
    client.roundtrip().unwrap();
    let mut cursor = window::surface(&client);
    let set = |cursor: &Surface| {
        pointer.set_cursor(*serials.lock().unwrap(), Some(&cursor.proxy), 0, 0);
    };
    set(&cursor);
    picture(&mut cursor, &mut client, (16, 16));
    client.roundtrip().unwrap();
    let known = |shell: &window::Shell| {
        let record = shell.lock().unwrap();
        (record.scale.unwrap_or(1), record.on_outputs)
    };
    assert_eq!(known(&cursor.shell), (1, 1));
    let output = client.output(Some("TEST-2")).unwrap();
    let mut other = Window::new(&client);
    other.toplevel.set_fullscreen(Some(&output.proxy));
    let size = other.configure(&mut client);
    picture(&mut other.surface, &mut client, size);
    point(&session, 600.0, 50.0);
    client.roundtrip().unwrap();
    set(&cursor);
    client.roundtrip().unwrap();
    client.roundtrip().unwrap();
    assert_eq!(known(&cursor.shell), (2, 1));
}

delegate_noop!(State: ignore WlSeat);
