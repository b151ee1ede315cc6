//! Menus: popups that have keyboard and pointer until they are dismissed.

use std::{sync::Arc, time::Duration};

use smithay::backend::input::{ButtonState, InputEvent};
use wayland_protocols::xdg::shell::client::{xdg_popup, xdg_surface};

use super::*;
use crate::window::{self, Surface};

#[test]
fn a_window_stays_active_under_its_menu_and_has_the_keyboard_when_that_is_closed() {
    let session = Session::start("");
    has(&session, ALL);
    let (mut client, hands) = with_hands(&session);
    let window = shown(&mut client);
    client.roundtrip().unwrap();
    assert!(is_active(&window));
    let popup = menu(&mut client, &window, &hands);
    hears(
        &mut client,
        &hands,
        &format!("keyboard enter {}", id(&popup.surface.proxy)),
    );
    assert!(is_active(&window), "not active while its menu is open");
    // By the client, as after a choice: nobody has to touch anything for that.
    close(popup, &mut client);
    hears(
        &mut client,
        &hands,
        &format!("keyboard enter {}", id(&window.surface.proxy)),
    );
    assert!(is_active(&window));
    tap(&session, KEY_A);
    hears(&mut client, &hands, "key 30 down");
}

#[test]
fn a_window_that_comes_while_a_menu_is_open_has_the_keyboard_after_it() {
    let session = Session::start("");
    has(&session, ALL);
    let (mut client, hands) = with_hands(&session);
    let window = shown(&mut client);
    let popup = menu(&mut client, &window, &hands);
    let dialog = shown(&mut client);
    close(popup, &mut client);
    hears(
        &mut client,
        &hands,
        &format!("keyboard enter {}", id(&dialog.surface.proxy)),
    );
    assert!(is_active(&dialog) && !is_active(&window));
    // Also when its client goes with the menu open.
    let (mut other, others) = with_hands(&session);
    let top = shown(&mut other);
    let popup = menu(&mut other, &top, &others);
    client.roundtrip().unwrap();
    hands.forget();
    drop((popup, top, other));
    client
        .wait_for("the keyboard", client.patience(), |_| {
            is_active(&dialog).then_some(())
        })
        .unwrap();
    hears(
        &mut client,
        &hands,
        &format!("keyboard enter {}", id(&dialog.surface.proxy)),
    );
}

#[test]
fn a_menu_is_closed_with_its_window() {
    let session = Session::start("");
    has(&session, ALL);
    let (mut client, hands) = with_hands(&session);
    let below = shown(&mut client);
    let mut window = shown(&mut client);
    let popup = menu(&mut client, &window, &hands);
    hears(
        &mut client,
        &hands,
        &format!("keyboard enter {}", id(&popup.surface.proxy)),
    );
    // The window is hidden, and its client forgets the menu.
    window.surface.proxy.attach(None, 0, 0);
    window.surface.proxy.commit();
    hears(
        &mut client,
        &hands,
        &format!("keyboard enter {}", id(&below.surface.proxy)),
    );
    assert!(is_done(&popup));
    // A menu whose window's role goes.
    close(popup, &mut client);
    let size = window.configure(&mut client);
    picture(&mut window.surface, &mut client, size);
    let popup = menu(&mut client, &window, &hands);
    hears(
        &mut client,
        &hands,
        &format!("keyboard enter {}", id(&popup.surface.proxy)),
    );
    window.toplevel.destroy();
    hears(
        &mut client,
        &hands,
        &format!("keyboard enter {}", id(&below.surface.proxy)),
    );
    assert!(is_done(&popup));
}

#[test]
fn a_menu_that_comes_while_a_button_is_held_is_closed_and_takes_nothing() {
    let session = Session::start("");
    has(&session, ALL);
    let (mut client, hands) = with_hands(&session);
    let window = shown(&mut client);
    point(&session, 100.0, 100.0);
    let event = Button(BTN_LEFT, ButtonState::Pressed);
    happens(&session, InputEvent::PointerButton { event });
    client.roundtrip().unwrap();
    hands.forget();
    // Serial 0 is not that of the button.
    let popup = menu(&mut client, &window, &hands);
    assert!(is_done(&popup));
    tap(&session, KEY_A);
    client.roundtrip().unwrap();
    let words = hands.words();
    assert!(words.iter().any(|word| word == "key 30 down"), "{words:?}");
    assert!(
        !words.iter().any(|word| word == "keyboard leave"),
        "{words:?}"
    );
}

#[test]
fn a_lock_closes_menus_and_who_opens_one_after_it_does_nothing_wrong() {
    let session = Session::start("");
    has(&session, ALL);
    let (mut client, hands) = with_hands(&session);
    let window = shown(&mut client);
    let popup = menu(&mut client, &window, &hands);
    let mut locker = session.client();
    let lock = Locker::lock(&mut locker).unwrap();
    client.roundtrip().unwrap();
    assert!(is_done(&popup), "the menu is open behind the lock");
    // One that is opened now is closed at once.
    let late = menu(&mut client, &window, &hands);
    assert!(is_done(&late));
    lock.unlock(&mut locker).unwrap();
    let (mut other, others) = with_hands(&session);
    let top = shown(&mut other);
    let theirs = menu(&mut other, &top, &others);
    assert!(!is_done(&theirs));
    hears(
        &mut other,
        &others,
        &format!("keyboard enter {}", id(&theirs.surface.proxy)),
    );
}

#[test]
fn a_finger_beside_an_open_menu_closes_it_and_reaches_what_is_there() {
    let session = Session::start("");
    has(&session, ALL);
    let (mut other, others) = with_hands(&session);
    let below = shown(&mut other);
    let (mut client, hands) = with_hands(&session);
    let mut window = Window::new(&client);
    window.toplevel.set_min_size(60, 60);
    window.toplevel.set_max_size(60, 60);
    window.configure(&mut client);
    picture(&mut window.surface, &mut client, (60, 60));
    let popup = menu(&mut client, &window, &hands);
    // In its middle is the small window; a menu is not closed by its own client's windows.
    touch(&session, 160.0, 100.0);
    lift(&session);
    client.roundtrip().unwrap();
    assert!(!is_done(&popup));
    touch(&session, 10.0, 10.0);
    lift(&session);
    client.roundtrip().unwrap();
    assert!(
        is_done(&popup),
        "open though somebody touched another window"
    );
    hears(
        &mut other,
        &others,
        &format!("down {} 0 at 10 10", id(&below.surface.proxy)),
    );
    let theirs = menu(&mut other, &below, &others);
    assert!(!is_done(&theirs));
}

#[test]
fn a_client_behind_the_others_cannot_take_the_keyboard_with_a_menu() {
    let session = Session::start("");
    has(&session, ALL);
    let (mut behind, theirs) = with_hands(&session);
    let below = shown(&mut behind);
    let (mut client, hands) = with_hands(&session);
    let window = shown(&mut client);
    hears(
        &mut client,
        &hands,
        &format!("keyboard enter {}", id(&window.surface.proxy)),
    );
    let popup = menu(&mut behind, &below, &theirs);
    assert!(is_done(&popup));
    tap(&session, KEY_A);
    hears(&mut client, &hands, "key 30 down");
    hears_not(&mut behind, &theirs, "key ");
}

#[test]
fn popups_that_are_their_own_parents_belong_to_no_window() {
    let session = Session::start("");
    has(&session, ALL);
    let (mut client, hands) = with_hands(&session);
    let window = shown(&mut client);
    let positioner = window.wm_base.create_positioner(&client.qh, ());
    positioner.set_size(10, 10);
    positioner.set_anchor_rect(0, 0, 1, 1);
    let bare = |client: &Client| {
        let surface = window::surface(client);
        let shell = Arc::clone(&surface.shell);
        let xdg = window
            .wm_base
            .get_xdg_surface(&surface.proxy, &client.qh, shell);
        (surface, xdg)
    };
    let popup = |client: &Client, xdg: &xdg_surface::XdgSurface, of: &xdg_surface::XdgSurface| {
        xdg.get_popup(Some(of), &positioner, &client.qh, Arc::default())
    };
    let (one, first) = bare(&client);
    let own = popup(&client, &first, &first);
    own.grab(&hands.seat, 0);
    own.reposition(&positioner, 1);
    one.proxy.commit();
    client.roundtrip().unwrap();
    // Two, each of the other. The first is made when nothing is wrong with it yet.
    let (one, first) = bare(&client);
    let (_two, second) = bare(&client);
    let early = popup(&client, &first, &second);
    let late = popup(&client, &second, &first);
    for popup in [&early, &late] {
        popup.reposition(&positioner, 1);
        popup.grab(&hands.seat, 0);
    }
    one.proxy.commit();
    client.roundtrip().unwrap();
    session.client().roundtrip().unwrap();
}

#[test]
fn menus_of_menus_without_an_end_harm_nobody() {
    let session = Session::start("");
    let mut client = session.client();
    let window = shown(&mut client);
    let positioner = window.wm_base.create_positioner(&client.qh, ());
    positioner.set_size(1, 1);
    positioner.set_anchor_rect(0, 0, 1, 1);
    let mut parent: xdg_surface::XdgSurface = window.xdg.clone();
    let mut kept: Vec<(Surface, xdg_popup::XdgPopup)> = Vec::new();
    for n in 0..10_000 {
        let surface = window::surface(&client);
        let shell = Arc::clone(&surface.shell);
        let xdg = window
            .wm_base
            .get_xdg_surface(&surface.proxy, &client.qh, shell);
        let popup = xdg.get_popup(Some(&parent), &positioner, &client.qh, Arc::default());
        kept.push((surface, popup));
        parent = xdg;
        if n % 500 == 0 && client.roundtrip().is_err() {
            break;
        }
    }
    let _ = client.roundtrip();
    drop(client);
    let mut other = session.client();
    other.set_patience(Duration::from_secs(60));
    shown(&mut other);
}
