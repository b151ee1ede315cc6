//! Fingers on a touch screen. Each screen lies on one output's panel and turns with its picture.

use smithay::{
    backend::input::{AbsolutePositionEvent, InputBackend, TouchEvent},
    input::touch::{DownEvent, MotionEvent, UpEvent},
    utils::{Logical, Point, SERIAL_COUNTER},
};

use super::{
    map_absolute,
    pointer::{keyboard_is_grabbed, now},
    wire_time, InputDevice, InputHost,
};

fn place<D, B>(host: &mut D, event: &impl AbsolutePositionEvent<B>) -> Option<Point<f64, Logical>>
where
    D: InputHost,
    B: InputBackend,
    B::Device: InputDevice,
{
    let configured = host.input().settings.touch.output.clone();
    let target = configured.or_else(|| event.device().output_name());
    let fraction = (event.x_transformed(1), event.y_transformed(1));
    map_absolute(fraction, target.as_deref(), true, &host.output_areas())
}

pub(super) fn down<D, B>(host: &mut D, event: &B::TouchDownEvent)
where
    D: InputHost,
    B: InputBackend,
    B::Device: InputDevice,
{
    let Some(touch) = host.seat().get_touch() else {
        return;
    };
    let Some(location) = place::<D, B>(host, event) else {
        return;
    };
    let serial = SERIAL_COUNTER.next_serial();
    host.input().fingers.insert(event.slot(), location);
    let under = host.surface_under(location);
    host.finger_down(under.as_ref().map(|(surface, _)| surface));
    if let Some((surface, _)) = &under {
        if !touch.is_grabbed() && !keyboard_is_grabbed(host) {
            host.focus_clicked(surface, serial);
        }
    }
    let time = wire_time(event);
    touch.down(
        host,
        under,
        &DownEvent {
            slot: event.slot(),
            location,
            serial,
            time,
        },
    );
}

pub(super) fn motion<D, B>(host: &mut D, event: &B::TouchMotionEvent)
where
    D: InputHost,
    B: InputBackend,
    B::Device: InputDevice,
{
    let Some(touch) = host.seat().get_touch() else {
        return;
    };
    let Some(location) = place::<D, B>(host, event) else {
        return;
    };
    if let Some(known) = host.input().fingers.get_mut(&event.slot()) {
        *known = location;
    }
    let under = host.surface_under(location);
    let time = wire_time(event);
    touch.motion(
        host,
        under,
        &MotionEvent {
            slot: event.slot(),
            location,
            time,
        },
    );
}

pub(super) fn up<D: InputHost, B: InputBackend>(host: &mut D, event: &B::TouchUpEvent) {
    host.input().fingers.remove(&event.slot());
    if let Some(touch) = host.seat().get_touch() {
        let serial = SERIAL_COUNTER.next_serial();
        touch.up(
            host,
            &UpEvent {
                slot: event.slot(),
                serial,
                time: wire_time(event),
            },
        );
    }
}

pub(super) fn frame<D: InputHost>(host: &mut D) {
    if let Some(touch) = host.seat().get_touch() {
        touch.frame(host);
    }
}

/// All fingers are nobody's any more, and a drag ends without a drop.
///
/// Smithay 0.7.0 cancels only fingers that did something since the last frame; the others would go on to be told of. So each
/// does something: it moves to where it is.
pub(super) fn cancel<D: InputHost>(host: &mut D) {
    let fingers = std::mem::take(&mut host.input().fingers);
    let Some(touch) = host.seat().get_touch() else {
        return;
    };
    let time = now();
    for (slot, location) in fingers {
        let event = MotionEvent {
            slot,
            location,
            time,
        };
        touch.motion(host, None, &event);
    }
    touch.cancel(host);
    touch.unset_grab(host);
}

/// Gives the seat touch if it has none.
pub(super) fn add<D: InputHost>(host: &mut D) {
    let mut seat = host.seat();
    if seat.get_touch().is_none() {
        seat.add_touch();
    }
}

/// Takes touch from the seat.
pub(super) fn remove<D: InputHost>(host: &mut D) {
    cancel(host);
    host.seat().remove_touch();
}
