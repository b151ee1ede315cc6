//! From what people do with their hands to what the seat's clients are told.
//!
//! Takes Smithay's input events, mostly from libinput, and drives the seat's keyboard, pointer and touch. What is on the
//! screen it asks its [`InputHost`], the compositor; it knows no shell, no output and no pixel. Positions are in the
//! logical coordinates that all outputs share.

mod devices;
mod keyboard;
mod pointer;
mod space;
#[cfg(test)]
mod tests;
mod touch;

use std::collections::HashMap;

use smithay::{
    backend::input::{Event, InputBackend, InputEvent, TouchSlot},
    input::{Seat, SeatHandler},
    reexports::wayland_server::{protocol::wl_surface::WlSurface, Client},
    utils::{Logical, Point, Serial},
};

pub use self::{
    devices::{open, set_abilities, Abilities, Devices, InputError},
    keyboard::Shortcut,
    space::{clamp, map_absolute, OutputArea},
};
use crate::config::InputSection;

/// What input must know of the compositor, and what it asks of it.
pub trait InputHost:
    SeatHandler<KeyboardFocus = WlSurface, PointerFocus = WlSurface, TouchFocus = WlSurface> + 'static
{
    /// This room's own state.
    fn input(&mut self) -> &mut Input;

    /// The seat that all devices belong to.
    fn seat(&self) -> Seat<Self>;

    /// Where the enabled outputs are. Empty while there is none.
    fn output_areas(&self) -> Vec<OutputArea>;

    /// The surface that takes input at a point, and where its top left corner is.
    fn surface_under(
        &self,
        location: Point<f64, Logical>,
    ) -> Option<(WlSurface, Point<f64, Logical>)>;

    /// A button or finger went down on `surface` and no grab is active: give its toplevel or layer the keyboard, if
    /// the shell wants that.
    fn focus_clicked(&mut self, surface: &WlSurface, serial: Serial);

    /// A finger went down on `surface`, or beside all: menus of other clients are to be closed.
    fn finger_down(&mut self, surface: Option<&WlSurface>);

    /// The seat has got a keyboard, which starts without focus: give it one.
    fn keyboard_added(&mut self);

    /// Keyboard or pointer are about to go: menus that hold them are to be closed.
    fn device_goes(&mut self);

    /// The pointer is somewhere else, or has appeared or vanished: the cursor must be drawn anew.
    fn pointer_moved(&mut self);

    /// Somebody did something: restart the idle timers.
    fn activity(&mut self);

    /// Switch to another virtual terminal.
    fn change_vt(&mut self, vt: i32);

    /// End the compositor.
    fn terminate(&mut self);
}

/// The room's state.
#[derive(Debug)]
pub struct Input {
    settings: InputSection,
    devices: Devices,
    keys: keyboard::Keys,
    /// What was under the pointer when it was last told.
    under_pointer: Option<(WlSurface, Point<f64, Logical>)>,
    /// Where the fingers are that are down.
    fingers: HashMap<TouchSlot, Point<f64, Logical>>,
}

impl Input {
    /// Nothing is plugged in yet.
    pub fn new(settings: InputSection) -> Self {
        Self {
            settings,
            devices: Devices::default(),
            keys: keyboard::Keys::default(),
            under_pointer: None,
            fingers: HashMap::new(),
        }
    }

    /// The devices that are plugged in. For `SeatHandler::led_state_changed`.
    pub fn devices(&mut self) -> &mut Devices {
        &mut self.devices
    }
}

/// The device behind an event, as far as this room asks.
pub trait InputDevice {
    /// The connector of the output that this device lies on, if the system says so.
    fn output_name(&self) -> Option<String>;
}

/// Passes an event of libinput on: devices come and go, the rest goes to [`dispatch`].
pub fn handle<D: InputHost>(
    host: &mut D,
    event: InputEvent<smithay::backend::libinput::LibinputInputBackend>,
) {
    match event {
        InputEvent::DeviceAdded { device } => devices::added(host, device),
        InputEvent::DeviceRemoved { device } => devices::removed(host, &device),
        event => dispatch(host, event),
    }
}

/// Passes an event of any backend on to the seat. Devices are not its business: see [`handle`].
pub fn dispatch<D, B>(host: &mut D, event: InputEvent<B>)
where
    D: InputHost,
    B: InputBackend,
    B::Device: InputDevice,
{
    use InputEvent as E;
    // Without this a device that merely appears would wake the screen.
    if !matches!(
        event,
        E::DeviceAdded { .. } | E::DeviceRemoved { .. } | E::Special(_)
    ) {
        host.activity();
    }
    match event {
        E::Keyboard { event } => keyboard::key::<D, B>(host, &event),
        E::PointerMotion { event } => pointer::relative::<D, B>(host, &event),
        E::PointerMotionAbsolute { event } => pointer::absolute::<D, B>(host, &event),
        E::PointerButton { event } => pointer::button::<D, B>(host, &event),
        E::PointerAxis { event } => pointer::axis::<D, B>(host, &event),
        E::GestureSwipeBegin { event } => pointer::swipe_begin::<D, B>(host, &event),
        E::GestureSwipeUpdate { event } => pointer::swipe_update::<D, B>(host, &event),
        E::GestureSwipeEnd { event } => pointer::swipe_end::<D, B>(host, &event),
        E::GesturePinchBegin { event } => pointer::pinch_begin::<D, B>(host, &event),
        E::GesturePinchUpdate { event } => pointer::pinch_update::<D, B>(host, &event),
        E::GesturePinchEnd { event } => pointer::pinch_end::<D, B>(host, &event),
        E::GestureHoldBegin { event } => pointer::hold_begin::<D, B>(host, &event),
        E::GestureHoldEnd { event } => pointer::hold_end::<D, B>(host, &event),
        E::TouchDown { event } => touch::down::<D, B>(host, &event),
        E::TouchMotion { event } => touch::motion::<D, B>(host, &event),
        E::TouchUp { event } => touch::up::<D, B>(host, &event),
        E::TouchCancel { .. } => touch::cancel(host),
        E::TouchFrame { .. } => touch::frame(host),
        // No tablet protocol is announced, and a lid or tablet-mode switch means nothing to a kiosk.
        E::TabletToolAxis { .. }
        | E::TabletToolProximity { .. }
        | E::TabletToolTip { .. }
        | E::TabletToolButton { .. }
        | E::SwitchToggle { .. }
        | E::DeviceAdded { .. }
        | E::DeviceRemoved { .. }
        | E::Special(_) => {}
    }
}

/// An event's time as Wayland sends it: milliseconds that start again at 0 after 49.7 days.
fn wire_time<B: InputBackend>(event: &impl Event<B>) -> u32 {
    wire_milliseconds(event.time())
}

fn wire_milliseconds(microseconds: u64) -> u32 {
    // Truncation is the protocol's meaning.
    (microseconds / 1000) as u32
}

/// The present time as Wayland sends it.
pub fn now() -> u32 {
    pointer::now()
}

/// Call this after outputs came, went or moved: a pointer that was left outside comes back to the nearest one.
pub fn outputs_changed<D: InputHost>(host: &mut D) {
    pointer::bring_back(host);
}

/// Call this after surfaces were mapped, moved or destroyed: what is under a resting pointer may be another one. Does
/// nothing when it is not, so it is cheap after every commit.
pub fn surfaces_changed<D: InputHost>(host: &mut D) {
    pointer::refresh_focus(host);
}

/// Nothing that is held is held any more: keys, buttons, fingers and drags are nobody's from now on. Who is below the pointer is
/// asked again at the next [`surfaces_changed`]; the keyboard has no focus.
pub fn let_go<D: InputHost>(host: &mut D) {
    keyboard::let_go(host);
    pointer::let_go(host);
    touch::cancel(host);
}

/// Call this after a client got a wl_pointer object.
pub fn pointer_object_added<D: InputHost>(host: &mut D, client: &Client) {
    pointer::object_added(host, client);
}
