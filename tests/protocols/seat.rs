//! Focus, menus, fingers and the pointer's looks, against the whole compositor without a device. There are two outputs of
//! 320x200 side by side; the pointer goes over both, and the touch screen lies on the first.

mod drags;
mod made;
mod menus;
mod scales;

use smithay::backend::input::{ButtonState, InputEvent, KeyState};
use vitrine::{
    compositor::Vitrine,
    input::{dispatch, set_abilities, Abilities},
};
use wayland_client::delegate_noop;
use wayland_protocols::wp::cursor_shape::v1::client::{
    wp_cursor_shape_device_v1::{Shape, WpCursorShapeDeviceV1},
    wp_cursor_shape_manager_v1::WpCursorShapeManagerV1,
};

use self::made::{Button, Finger, Frame, Key, Made, Place};
use crate::{
    clients::{picture::Picture, Client, Locker, State},
    hands::{id, Hands},
    session_lock::Session,
    window::{Popup, Surface, Window, ACTIVATED},
};

pub const KEY_A: u32 = 30;
const BTN_LEFT: u32 = 0x110;

const KEYBOARD: Abilities = Abilities {
    keyboard: true,
    pointer: false,
    touch: false,
};
const POINTER: Abilities = Abilities {
    pointer: true,
    keyboard: false,
    touch: false,
};
pub const ALL: Abilities = Abilities {
    keyboard: true,
    pointer: true,
    touch: true,
};

pub fn has(session: &Session, can: Abilities) {
    session.with(move |state| set_abilities(state, can));
}

fn happens(session: &Session, event: InputEvent<Made>) {
    session.with(move |state| dispatch::<Vitrine, Made>(state, event));
}

pub fn tap(session: &Session, code: u32) {
    for state in [KeyState::Pressed, KeyState::Released] {
        let event = Key(code, state);
        happens(session, InputEvent::Keyboard { event });
    }
}

pub fn point(session: &Session, x: f64, y: f64) {
    let event = Place(x / 640.0, y / 200.0);
    happens(session, InputEvent::PointerMotionAbsolute { event });
}

pub fn click(session: &Session) {
    for state in [ButtonState::Pressed, ButtonState::Released] {
        let event = Button(BTN_LEFT, state);
        happens(session, InputEvent::PointerButton { event });
    }
}

fn finger(x: f64, y: f64) -> Finger {
    Finger(0, x / 320.0, y / 200.0)
}

fn frame(session: &Session) {
    happens(session, InputEvent::TouchFrame { event: Frame });
}

pub fn touch(session: &Session, x: f64, y: f64) {
    let event = finger(x, y);
    happens(session, InputEvent::TouchDown { event });
    frame(session);
}

pub fn slide(session: &Session, x: f64, y: f64) {
    let event = finger(x, y);
    happens(session, InputEvent::TouchMotion { event });
    frame(session);
}

pub fn lift(session: &Session) {
    let event = finger(0.0, 0.0);
    happens(session, InputEvent::TouchUp { event });
    frame(session);
}

fn picture(surface: &mut Surface, client: &mut Client, size: (u32, u32)) {
    surface.attach(client, &Picture::filled(size.0, size.1, 0x33_6699));
    surface.proxy.commit();
    client.roundtrip().unwrap();
}

/// A window that is there. Nothing is ever presented on these outputs.
fn shown(client: &mut Client) -> Window {
    let mut window = Window::new(client);
    let size = window.configure(client);
    picture(&mut window.surface, client, size);
    window
}

/// A menu of a window that has the input.
fn menu(client: &mut Client, window: &Window, hands: &Hands) -> Popup {
    let mut popup = Popup::new(client, window, (10, 10), (50, 50));
    popup.proxy.grab(&hands.seat, 0);
    popup.surface.proxy.commit();
    client.roundtrip().unwrap();
    let serial = popup.surface.shell.lock().unwrap().pending.take();
    if let Some(serial) = serial {
        popup.xdg.ack_configure(serial);
        picture(&mut popup.surface, client, (50, 50));
    }
    popup
}

fn close(popup: Popup, client: &mut Client) {
    popup.proxy.destroy();
    popup.xdg.destroy();
    popup.surface.proxy.destroy();
    client.roundtrip().unwrap();
    client.roundtrip().unwrap();
}

fn is_done(popup: &Popup) -> bool {
    popup.record.lock().unwrap().done
}

fn is_active(window: &Window) -> bool {
    window.record().states.contains(&ACTIVATED)
}

/// A client with a seat of which it uses everything.
fn with_hands(session: &Session) -> (Client, Hands) {
    let mut client = session.client();
    let hands = Hands::new(&mut client);
    hands.take_all(&mut client);
    hands.touch(&client);
    client.roundtrip().unwrap();
    (client, hands)
}

#[track_caller]
fn hears(client: &mut Client, hands: &Hands, word: &str) {
    client.roundtrip().unwrap();
    client.roundtrip().unwrap();
    let words = hands.words();
    assert!(words.iter().any(|heard| heard == word), "{word}: {words:?}");
    hands.forget();
}

#[track_caller]
fn hears_not(client: &mut Client, hands: &Hands, word: &str) {
    client.roundtrip().unwrap();
    client.roundtrip().unwrap();
    let words = hands.words();
    assert!(
        !words.iter().any(|heard| heard.starts_with(word)),
        "{word}: {words:?}"
    );
    hands.forget();
}

#[test]
fn the_shape_of_a_pointer_that_is_not_there_is_nobodys_fault() {
    let session = Session::start("");
    let mut client = session.client();
    let manager: WpCursorShapeManagerV1 = client.bind(1, ()).unwrap();
    let hands = Hands::new(&mut client);
    // Before there is a pointer, and after it has gone.
    for can in [Abilities::default(), POINTER] {
        has(&session, can);
        let pointer = hands.pointer(&client);
        client.roundtrip().unwrap();
        has(&session, Abilities::default());
        let device = manager.get_pointer(&pointer, &client.qh, ());
        device.set_shape(1, Shape::Text);
        client.roundtrip().unwrap();
        device.destroy();
        client.roundtrip().unwrap();
    }
    has(&session, POINTER);
    let pointer = hands.pointer(&client);
    let _device = manager.get_pointer(&pointer, &client.qh, ());
    client.roundtrip().unwrap();
}

#[test]
fn a_keyboard_that_goes_while_a_menu_is_open_leaves_the_pointer_as_it_was() {
    let session = Session::start("");
    has(&session, ALL);
    let (mut client, hands) = with_hands(&session);
    let window = shown(&mut client);
    let popup = menu(&mut client, &window, &hands);
    hears(
        &mut client,
        &hands,
        &format!("keyboard enter {}", id(&popup.surface.proxy)),
    );
    has(&session, POINTER);
    point(&session, 600.0, 100.0);
    click(&session);
    client.roundtrip().unwrap();
    assert!(is_done(&popup));
    close(popup, &mut client);
    point(&session, 100.0, 100.0);
    hears(
        &mut client,
        &hands,
        &format!("pointer enter {}", id(&window.surface.proxy)),
    );
    // And the other way around.
    has(&session, ALL);
    client.roundtrip().unwrap();
    hands.take_all(&mut client);
    let popup = menu(&mut client, &window, &hands);
    has(&session, KEYBOARD);
    close(popup, &mut client);
    tap(&session, KEY_A);
    hears(&mut client, &hands, "key 30 up");
}

#[test]
fn fingers_that_are_down_when_the_session_is_locked_are_nobodys_any_more() {
    let session = Session::start("");
    has(&session, ALL);
    let (mut client, hands) = with_hands(&session);
    let _window = shown(&mut client);
    touch(&session, 10.0, 10.0);
    hears(&mut client, &hands, "touch frame");
    let mut locker = session.client();
    let _lock = Locker::lock(&mut locker).unwrap();
    slide(&session, 50.0, 50.0);
    lift(&session);
    client.roundtrip().unwrap();
    let words = hands.words();
    assert!(words.iter().any(|word| word == "touch cancel"), "{words:?}");
    assert!(
        !words.iter().any(|word| word == "touch 0 to 50 50"),
        "{words:?}"
    );
    assert!(!words.iter().any(|word| word == "up 0"), "{words:?}");
}

#[test]
fn a_finger_that_the_device_takes_back_is_cancelled() {
    let session = Session::start("");
    has(&session, ALL);
    let (mut client, hands) = with_hands(&session);
    let _window = shown(&mut client);
    touch(&session, 10.0, 10.0);
    hears(&mut client, &hands, "touch frame");
    let event = finger(10.0, 10.0);
    happens(&session, InputEvent::TouchCancel { event });
    frame(&session);
    hears(&mut client, &hands, "touch cancel");
    touch(&session, 20.0, 20.0);
    lift(&session);
    hears(&mut client, &hands, "up 0");
}

delegate_noop!(State: WpCursorShapeManagerV1);
delegate_noop!(State: WpCursorShapeDeviceV1);
