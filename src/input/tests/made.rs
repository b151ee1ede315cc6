//! A backend whose events are made by the tests.

use smithay::{
    backend::input::{
        AbsolutePositionEvent, Device, DeviceCapability, Event, InputBackend, KeyState,
        KeyboardKeyEvent, PointerMotionAbsoluteEvent, PointerMotionEvent, UnusedEvent,
    },
    input::keyboard::Keycode,
};

use crate::input::InputDevice;

/// The backend of events that this test makes.
#[derive(Debug)]
pub(super) struct Made;

#[derive(Debug, PartialEq, Eq, Hash, Clone)]
pub(super) struct MadeDevice;

impl Device for MadeDevice {
    fn id(&self) -> String {
        "made".to_owned()
    }
    fn name(&self) -> String {
        "made".to_owned()
    }
    fn has_capability(&self, _: DeviceCapability) -> bool {
        true
    }
    fn usb_id(&self) -> Option<(u32, u32)> {
        None
    }
    fn syspath(&self) -> Option<std::path::PathBuf> {
        None
    }
}

impl InputDevice for MadeDevice {
    fn output_name(&self) -> Option<String> {
        None
    }
}

#[derive(Debug)]
pub(super) struct Key {
    pub(super) code: u32,
    pub(super) state: KeyState,
    pub(super) count: u32,
}

#[derive(Debug)]
pub(super) struct Motion(pub(super) f64, pub(super) f64);

#[derive(Debug)]
pub(super) struct Place(pub(super) f64, pub(super) f64);

macro_rules! made_event {
    ($($event:ty),*) => {
        $(impl Event<Made> for $event {
            fn time(&self) -> u64 {
                u64::MAX
            }
            fn device(&self) -> MadeDevice {
                MadeDevice
            }
        })*
    };
}
made_event!(Key, Motion, Place);

impl KeyboardKeyEvent<Made> for Key {
    fn key_code(&self) -> Keycode {
        self.code.into()
    }
    fn state(&self) -> KeyState {
        self.state
    }
    fn count(&self) -> u32 {
        self.count
    }
}

impl PointerMotionEvent<Made> for Motion {
    fn delta_x(&self) -> f64 {
        self.0
    }
    fn delta_y(&self) -> f64 {
        self.1
    }
    fn delta_x_unaccel(&self) -> f64 {
        self.0
    }
    fn delta_y_unaccel(&self) -> f64 {
        self.1
    }
}

impl AbsolutePositionEvent<Made> for Place {
    fn x(&self) -> f64 {
        self.0
    }
    fn y(&self) -> f64 {
        self.1
    }
    fn x_transformed(&self, width: i32) -> f64 {
        self.0 * f64::from(width)
    }
    fn y_transformed(&self, height: i32) -> f64 {
        self.1 * f64::from(height)
    }
}
impl PointerMotionAbsoluteEvent<Made> for Place {}

impl InputBackend for Made {
    type Device = MadeDevice;
    type KeyboardKeyEvent = Key;
    type PointerAxisEvent = UnusedEvent;
    type PointerButtonEvent = UnusedEvent;
    type PointerMotionEvent = Motion;
    type PointerMotionAbsoluteEvent = Place;
    type GestureSwipeBeginEvent = UnusedEvent;
    type GestureSwipeUpdateEvent = UnusedEvent;
    type GestureSwipeEndEvent = UnusedEvent;
    type GesturePinchBeginEvent = UnusedEvent;
    type GesturePinchUpdateEvent = UnusedEvent;
    type GesturePinchEndEvent = UnusedEvent;
    type GestureHoldBeginEvent = UnusedEvent;
    type GestureHoldEndEvent = UnusedEvent;
    type TouchDownEvent = UnusedEvent;
    type TouchUpEvent = UnusedEvent;
    type TouchMotionEvent = UnusedEvent;
    type TouchCancelEvent = UnusedEvent;
    type TouchFrameEvent = UnusedEvent;
    type TabletToolAxisEvent = UnusedEvent;
    type TabletToolProximityEvent = UnusedEvent;
    type TabletToolTipEvent = UnusedEvent;
    type TabletToolButtonEvent = UnusedEvent;
    type SwitchToggleEvent = UnusedEvent;
    type SpecialEvent = ();
}
