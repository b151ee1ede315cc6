//! Drags: data that is dropped where the pointer lets go of it.

use std::sync::{Arc, Mutex};

use smithay::backend::input::{ButtonState, InputEvent};
use wayland_client::{
    delegate_noop, event_created_child,
    protocol::{
        wl_data_device::{self, WlDataDevice},
        wl_data_device_manager::{DndAction, WlDataDeviceManager},
        wl_data_offer::WlDataOffer,
        wl_data_source::{self, WlDataSource},
    },
    Connection, Dispatch, Proxy, QueueHandle,
};

use super::*;

/// What a client is told of its own drag.
type Heard = Arc<Mutex<Vec<&'static str>>>;

const TEXT: &str = "text/plain";

/// A client drags something within its window, and would take it.
fn dragging(session: &Session, client: &mut Client, hands: &Hands) -> (Window, Heard) {
    let window = shown(client);
    let heard = Heard::default();
    let manager: WlDataDeviceManager = client.bind(3, ()).unwrap();
    let device = manager.get_data_device(&hands.seat, &client.qh, Arc::clone(&heard));
    let source = manager.create_data_source(&client.qh, Arc::clone(&heard));
    source.offer(TEXT.to_owned());
    source.set_actions(DndAction::Copy);
    point(session, 100.0, 100.0);
    press(session, ButtonState::Pressed);
    client.roundtrip().unwrap();
    let words = hands.words();
    let serial = words
        .iter()
        .find_map(|word| word.strip_prefix("button serial "));
    let serial = serial.unwrap().parse().unwrap();
    device.start_drag(Some(&source), &window.surface.proxy, None, serial);
    client.roundtrip().unwrap();
    point(session, 110.0, 100.0);
    // The offer's answers go out when it is dispatched.
    client.roundtrip().unwrap();
    client.roundtrip().unwrap();
    assert!(heard.lock().unwrap().contains(&"enter"), "{heard:?}");
    (window, heard)
}

fn press(session: &Session, state: ButtonState) {
    let event = Button(BTN_LEFT, state);
    happens(session, InputEvent::PointerButton { event });
}

#[test]
fn what_is_dragged_is_dropped_by_the_hand_and_not_by_the_lock_or_an_unplugged_mouse() {
    let session = Session::start("");
    has(&session, ALL);
    let (mut client, hands) = with_hands(&session);
    let (_window, heard) = dragging(&session, &mut client, &hands);
    press(&session, ButtonState::Released);
    client.roundtrip().unwrap();
    assert!(heard.lock().unwrap().contains(&"drop"), "{heard:?}");

    let (mut client, hands) = with_hands(&session);
    let (_window, heard) = dragging(&session, &mut client, &hands);
    let mut locker = session.client();
    let lock = Locker::lock(&mut locker).unwrap();
    client.roundtrip().unwrap();
    let told = heard.lock().unwrap().clone();
    assert!(
        told.contains(&"cancelled") && !told.contains(&"drop"),
        "{told:?}"
    );
    lock.unlock(&mut locker).unwrap();
    press(&session, ButtonState::Released);

    let (mut client, hands) = with_hands(&session);
    let (_window, heard) = dragging(&session, &mut client, &hands);
    has(&session, KEYBOARD);
    client.roundtrip().unwrap();
    let told = heard.lock().unwrap().clone();
    assert!(
        told.contains(&"cancelled") && !told.contains(&"drop"),
        "{told:?}"
    );
}

impl Dispatch<WlDataDevice, Heard> for State {
    fn event(
        _: &mut Self,
        _: &WlDataDevice,
        event: wl_data_device::Event,
        heard: &Heard,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        use wl_data_device::Event as E;
        let word = match event {
            E::Enter {
                serial,
                id: Some(offer),
                ..
            } => {
                offer.accept(serial, Some(TEXT.to_owned()));
                offer.set_actions(DndAction::Copy, DndAction::Copy);
                "enter"
            }
            E::Leave => "leave",
            E::Drop => "drop",
            _ => return,
        };
        heard.lock().unwrap().push(word);
    }

    event_created_child!(State, WlDataDevice, [
        wl_data_device::EVT_DATA_OFFER_OPCODE => (WlDataOffer, ()),
    ]);
}

impl Dispatch<WlDataSource, Heard> for State {
    fn event(
        _: &mut Self,
        source: &WlDataSource,
        event: wl_data_source::Event,
        heard: &Heard,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let wl_data_source::Event::Cancelled = event {
            assert!(source.is_alive());
            heard.lock().unwrap().push("cancelled");
        }
    }
}

delegate_noop!(State: WlDataDeviceManager);
delegate_noop!(State: ignore WlDataOffer);
