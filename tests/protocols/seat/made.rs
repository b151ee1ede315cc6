//! Input events that the tests make.

use smithay::{
    backend::input::{
        AbsolutePositionEvent, ButtonState, Device, DeviceCapability, Event, InputBackend,
        KeyState, KeyboardKeyEvent, PointerButtonEvent, PointerMotionAbsoluteEvent,
        TouchCancelEvent, TouchDownEvent, TouchEvent, TouchFrameEvent, TouchMotionEvent, TouchSlot,
        TouchUpEvent, UnusedEvent,
    },
    input::keyboard::Keycode,
};
use vitrine::input::InputDevice;

/// The backend of events that this test makes.
#[derive(Debug)]
pub struct Made;

#[derive(Debug, PartialEq, Eq, Hash, Clone)]
pub struct MadeDevice;

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

/// A key, by its code in linux/input-event-codes.h.
#[derive(Debug)]
pub struct Key(pub u32, pub KeyState);

/// A button of the pointer.
#[derive(Debug)]
pub struct Button(pub u32, pub ButtonState);

/// A place, as parts of the device's axes.
#[derive(Debug)]
pub struct Place(pub f64, pub f64);

/// A finger of that number, at a place where that matters.
#[derive(Debug)]
pub struct Finger(pub u32, pub f64, pub f64);

/// The end of a set of events.
#[derive(Debug)]
pub struct Frame;

macro_rules! made_event {
    ($($event:ty),*) => {
        $(impl Event<Made> for $event {
            fn time(&self) -> u64 {
                1_000_000
            }
            fn device(&self) -> MadeDevice {
                MadeDevice
            }
        })*
    };
}
made_event!(Key, Button, Place, Finger, Frame);

impl KeyboardKeyEvent<Made> for Key {
    fn key_code(&self) -> Keycode {
        (self.0 + 8).into()
    }
    fn state(&self) -> KeyState {
        self.1
    }
    fn count(&self) -> u32 {
        u32::from(self.1 == KeyState::Pressed)
    }
}

impl PointerButtonEvent<Made> for Button {
    fn button_code(&self) -> u32 {
        self.0
    }
    fn state(&self) -> ButtonState {
        self.1
    }
}

macro_rules! made_place {
    ($($event:ty: $x:tt, $y:tt;)*) => {
        $(impl AbsolutePositionEvent<Made> for $event {
            fn x(&self) -> f64 {
                self.$x
            }
            fn y(&self) -> f64 {
                self.$y
            }
            fn x_transformed(&self, width: i32) -> f64 {
                self.$x * f64::from(width)
            }
            fn y_transformed(&self, height: i32) -> f64 {
                self.$y * f64::from(height)
            }
        })*
    };
}
made_place!(Place: 0, 1; Finger: 1, 2;);

impl PointerMotionAbsoluteEvent<Made> for Place {}

impl TouchEvent<Made> for Finger {
    fn slot(&self) -> TouchSlot {
        Some(self.0).into()
    }
}
impl TouchDownEvent<Made> for Finger {}
impl TouchMotionEvent<Made> for Finger {}
impl TouchUpEvent<Made> for Finger {}
impl TouchCancelEvent<Made> for Finger {}
impl TouchFrameEvent<Made> for Frame {}

impl InputBackend for Made {
    type Device = MadeDevice;
    type KeyboardKeyEvent = Key;
    type PointerAxisEvent = UnusedEvent;
    type PointerButtonEvent = Button;
    type PointerMotionEvent = UnusedEvent;
    type PointerMotionAbsoluteEvent = Place;
    type GestureSwipeBeginEvent = UnusedEvent;
    type GestureSwipeUpdateEvent = UnusedEvent;
    type GestureSwipeEndEvent = UnusedEvent;
    type GesturePinchBeginEvent = UnusedEvent;
    type GesturePinchUpdateEvent = UnusedEvent;
    type GesturePinchEndEvent = UnusedEvent;
    type GestureHoldBeginEvent = UnusedEvent;
    type GestureHoldEndEvent = UnusedEvent;
    type TouchDownEvent = Finger;
    type TouchUpEvent = Finger;
    type TouchMotionEvent = Finger;
    type TouchCancelEvent = Finger;
    type TouchFrameEvent = Frame;
    type TabletToolAxisEvent = UnusedEvent;
    type TabletToolProximityEvent = UnusedEvent;
    type TabletToolTipEvent = UnusedEvent;
    type TabletToolButtonEvent = UnusedEvent;
    type SwitchToggleEvent = UnusedEvent;
    type SpecialEvent = ();
}
