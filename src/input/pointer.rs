//! The pointer: motion within the outputs, buttons with click-to-focus, scrolling, gestures.

use smithay::{
    backend::input::{
        AbsolutePositionEvent, Axis, AxisSource, ButtonState, Event, GestureBeginEvent,
        GestureEndEvent, GesturePinchUpdateEvent as _, GestureSwipeUpdateEvent as _, InputBackend,
        PointerAxisEvent, PointerButtonEvent, PointerMotionEvent,
    },
    input::pointer::{
        AxisFrame, ButtonEvent, GestureHoldBeginEvent, GestureHoldEndEvent, GesturePinchBeginEvent,
        GesturePinchEndEvent, GesturePinchUpdateEvent, GestureSwipeBeginEvent,
        GestureSwipeEndEvent, GestureSwipeUpdateEvent, MotionEvent, PointerHandle,
        RelativeMotionEvent,
    },
    reexports::wayland_server::{Client, Resource},
    utils::{Logical, Point, SERIAL_COUNTER},
};

use super::{clamp, map_absolute, wire_milliseconds, wire_time, InputDevice, InputHost};
use crate::time::Time;

/// What a wheel scrolls per detent when libinput gives no distance: 15 degrees, as libinput itself counts.
const DISTANCE_PER_DETENT: f64 = 15.0;

pub(super) fn relative<D: InputHost, B: InputBackend>(host: &mut D, event: &B::PointerMotionEvent) {
    let Some(pointer) = host.seat().get_pointer() else {
        return;
    };
    let location = clamp(
        pointer.current_location() + event.delta(),
        &host.output_areas(),
    );
    let motion = RelativeMotionEvent {
        delta: event.delta(),
        delta_unaccel: event.delta_unaccel(),
        utime: event.time(),
    };
    move_to(host, &pointer, location, wire_time(event), Some(&motion));
}

pub(super) fn absolute<D, B>(host: &mut D, event: &B::PointerMotionAbsoluteEvent)
where
    D: InputHost,
    B: InputBackend,
    B::Device: InputDevice,
{
    let Some(pointer) = host.seat().get_pointer() else {
        return;
    };
    let fraction = (event.x_transformed(1), event.y_transformed(1));
    let target = event.device().output_name();
    let areas = host.output_areas();
    let Some(location) = map_absolute(fraction, target.as_deref(), false, &areas) else {
        return;
    };
    // Games listen to relative motion only; in a virtual machine this is all there is.
    let delta = location - pointer.current_location();
    let motion = RelativeMotionEvent {
        delta,
        delta_unaccel: delta,
        utime: event.time(),
    };
    move_to(host, &pointer, location, wire_time(event), Some(&motion));
}

fn move_to<D: InputHost>(
    host: &mut D,
    pointer: &PointerHandle<D>,
    location: Point<f64, Logical>,
    time: u32,
    relative: Option<&RelativeMotionEvent>,
) {
    let moved = location != pointer.current_location();
    let under = host.surface_under(location);
    host.input().under_pointer.clone_from(&under);
    let serial = SERIAL_COUNTER.next_serial();
    pointer.motion(
        host,
        under.clone(),
        &MotionEvent {
            location,
            serial,
            time,
        },
    );
    if let Some(relative) = relative {
        pointer.relative_motion(host, under, relative);
    }
    pointer.frame(host);
    if moved {
        host.pointer_moved();
    }
}

pub(super) fn button<D: InputHost, B: InputBackend>(host: &mut D, event: &B::PointerButtonEvent) {
    let Some(pointer) = host.seat().get_pointer() else {
        return;
    };
    let serial = SERIAL_COUNTER.next_serial();
    let state = event.state();
    // During a grab (an open menu, a drag, another button held) focus is the grab's business.
    if state == ButtonState::Pressed && !pointer.is_grabbed() && !keyboard_is_grabbed(host) {
        if let Some((surface, _)) = host.surface_under(pointer.current_location()) {
            host.focus_clicked(&surface, serial);
        }
    }
    let button = event.button_code();
    pointer.button(
        host,
        &ButtonEvent {
            serial,
            time: wire_time(event),
            button,
            state,
        },
    );
    pointer.frame(host);
}

pub(super) fn keyboard_is_grabbed<D: InputHost>(host: &D) -> bool {
    host.seat()
        .get_keyboard()
        .is_some_and(|keyboard| keyboard.is_grabbed())
}

pub(super) fn axis<D: InputHost, B: InputBackend>(host: &mut D, event: &B::PointerAxisEvent) {
    let Some(pointer) = host.seat().get_pointer() else {
        return;
    };
    let source = event.source();
    let mut frame = AxisFrame::new(wire_time(event)).source(source);
    for axis in [Axis::Horizontal, Axis::Vertical] {
        let (amount, v120) = (event.amount(axis), event.amount_v120(axis));
        let (value, v120, stop) = scroll(source, amount, v120);
        if let Some(value) = value {
            frame = frame
                .relative_direction(axis, event.relative_direction(axis))
                .value(axis, value);
        }
        if let Some(v120) = v120 {
            frame = frame.v120(axis, v120);
        }
        if stop {
            frame = frame.stop(axis);
        }
    }
    pointer.axis(host, frame);
    pointer.frame(host);
}

/// Distance, parts of a detent, and whether the finger has left, for one axis. A finger that rests reports 0: the
/// protocol calls that a stop.
pub(super) fn scroll(
    source: AxisSource,
    amount: Option<f64>,
    v120: Option<f64>,
) -> (Option<f64>, Option<i32>, bool) {
    let detents = v120.filter(|parts| *parts != 0.0);
    let value = amount
        .or_else(|| v120.map(|parts| parts / 120.0 * DISTANCE_PER_DETENT))
        .filter(|value| *value != 0.0);
    let stop = source == AxisSource::Finger && amount == Some(0.0);
    // Hardware reports a few hundred; a cast beyond i32 saturates.
    (value, detents.map(|parts| parts.round() as i32), stop)
}

pub(super) fn swipe_begin<D: InputHost, B: InputBackend>(
    host: &mut D,
    event: &B::GestureSwipeBeginEvent,
) {
    if let Some(pointer) = host.seat().get_pointer() {
        let serial = SERIAL_COUNTER.next_serial();
        let (time, fingers) = (wire_time(event), event.fingers());
        pointer.gesture_swipe_begin(
            host,
            &GestureSwipeBeginEvent {
                serial,
                time,
                fingers,
            },
        );
    }
}

pub(super) fn swipe_update<D: InputHost, B: InputBackend>(
    host: &mut D,
    event: &B::GestureSwipeUpdateEvent,
) {
    if let Some(pointer) = host.seat().get_pointer() {
        let (time, delta) = (wire_time(event), event.delta());
        pointer.gesture_swipe_update(host, &GestureSwipeUpdateEvent { time, delta });
    }
}

pub(super) fn swipe_end<D: InputHost, B: InputBackend>(
    host: &mut D,
    event: &B::GestureSwipeEndEvent,
) {
    if let Some(pointer) = host.seat().get_pointer() {
        let serial = SERIAL_COUNTER.next_serial();
        let (time, cancelled) = (wire_time(event), event.cancelled());
        pointer.gesture_swipe_end(
            host,
            &GestureSwipeEndEvent {
                serial,
                time,
                cancelled,
            },
        );
    }
}

pub(super) fn pinch_begin<D: InputHost, B: InputBackend>(
    host: &mut D,
    event: &B::GesturePinchBeginEvent,
) {
    if let Some(pointer) = host.seat().get_pointer() {
        let serial = SERIAL_COUNTER.next_serial();
        let (time, fingers) = (wire_time(event), event.fingers());
        pointer.gesture_pinch_begin(
            host,
            &GesturePinchBeginEvent {
                serial,
                time,
                fingers,
            },
        );
    }
}

pub(super) fn pinch_update<D: InputHost, B: InputBackend>(
    host: &mut D,
    event: &B::GesturePinchUpdateEvent,
) {
    if let Some(pointer) = host.seat().get_pointer() {
        let update = GesturePinchUpdateEvent {
            time: wire_time(event),
            delta: event.delta(),
            scale: event.scale(),
            rotation: event.rotation(),
        };
        pointer.gesture_pinch_update(host, &update);
    }
}

pub(super) fn pinch_end<D: InputHost, B: InputBackend>(
    host: &mut D,
    event: &B::GesturePinchEndEvent,
) {
    if let Some(pointer) = host.seat().get_pointer() {
        let serial = SERIAL_COUNTER.next_serial();
        let (time, cancelled) = (wire_time(event), event.cancelled());
        pointer.gesture_pinch_end(
            host,
            &GesturePinchEndEvent {
                serial,
                time,
                cancelled,
            },
        );
    }
}

pub(super) fn hold_begin<D: InputHost, B: InputBackend>(
    host: &mut D,
    event: &B::GestureHoldBeginEvent,
) {
    if let Some(pointer) = host.seat().get_pointer() {
        let serial = SERIAL_COUNTER.next_serial();
        let (time, fingers) = (wire_time(event), event.fingers());
        pointer.gesture_hold_begin(
            host,
            &GestureHoldBeginEvent {
                serial,
                time,
                fingers,
            },
        );
    }
}

pub(super) fn hold_end<D: InputHost, B: InputBackend>(
    host: &mut D,
    event: &B::GestureHoldEndEvent,
) {
    if let Some(pointer) = host.seat().get_pointer() {
        let serial = SERIAL_COUNTER.next_serial();
        let (time, cancelled) = (wire_time(event), event.cancelled());
        pointer.gesture_hold_end(
            host,
            &GestureHoldEndEvent {
                serial,
                time,
                cancelled,
            },
        );
    }
}

/// Gives the seat a pointer in the middle of the first output if it has none.
pub(super) fn add<D: InputHost>(host: &mut D) {
    let mut seat = host.seat();
    if seat.get_pointer().is_some() {
        return;
    }
    let pointer = seat.add_pointer();
    if let Some(output) = host.output_areas().first() {
        let area = output.area.to_f64();
        pointer.set_location(area.loc + area.size.downscale(2.0).to_point());
    }
    refresh_focus(host);
    host.pointer_moved();
}

/// The pointer leaves what it is on, and a drag ends. First the one, then the other: what is dragged is not to be dropped there.
pub(super) fn let_go<D: InputHost>(host: &mut D) {
    host.input().under_pointer = None;
    let Some(pointer) = host.seat().get_pointer() else {
        return;
    };
    let event = MotionEvent {
        location: pointer.current_location(),
        serial: SERIAL_COUNTER.next_serial(),
        time: now(),
    };
    pointer.motion(host, None, &event);
    pointer.unset_grab(host, event.serial, event.time);
}

/// Takes the pointer from the seat.
pub(super) fn remove<D: InputHost>(host: &mut D) {
    host.device_goes();
    let_go(host);
    host.seat().remove_pointer();
    host.pointer_moved();
}

/// Puts a pointer that an unplugged output left outside on the nearest one.
pub(super) fn bring_back<D: InputHost>(host: &mut D) {
    if let Some(pointer) = host.seat().get_pointer() {
        let location = clamp(pointer.current_location(), &host.output_areas());
        if location != pointer.current_location() {
            move_to(host, &pointer, location, now(), None);
        }
    }
}

/// Asks again what is under the pointer.
pub(super) fn refresh_focus<D: InputHost>(host: &mut D) {
    if let Some(pointer) = host.seat().get_pointer() {
        let location = pointer.current_location();
        if host.surface_under(location) != host.input().under_pointer {
            move_to(host, &pointer, location, now(), None);
        }
    }
}

/// A client got another wl_pointer object. Where its surface is below the pointer, that object has missed the enter, and
/// without it would stay silent until the pointer leaves and comes back: never, with one full-screen window.
pub(super) fn object_added<D: InputHost>(host: &mut D, client: &Client) {
    let Some(pointer) = host.seat().get_pointer() else {
        return;
    };
    let under = host.input().under_pointer.clone();
    let own = under.filter(|(surface, _)| surface.client().is_some_and(|c| c.id() == client.id()));
    let Some(focus) = own.filter(|_| !pointer.is_grabbed()) else {
        return;
    };
    let event = MotionEvent {
        location: pointer.current_location(),
        serial: SERIAL_COUNTER.next_serial(),
        time: now(),
    };
    pointer.motion(host, None, &event);
    pointer.motion(host, Some(focus), &event);
    pointer.frame(host);
}

/// libinput's clock is ours.
pub(super) fn now() -> u32 {
    let microseconds = Time::now().as_duration().as_micros();
    wire_milliseconds(u64::try_from(microseconds).unwrap_or(u64::MAX))
}
