//! libinput: opening it on the session's seat, setting devices up as configured, and what the seat can do with the
//! devices that are there.

use input::{
    AccelProfile as LibinputProfile, Device, DeviceCapability, DeviceConfigResult, Libinput,
};
use smithay::{
    backend::{
        libinput::{LibinputInputBackend, LibinputSessionInterface},
        session::Session,
    },
    input::keyboard::LedState,
};

use super::{keyboard, pointer, touch, InputDevice, InputHost};
use crate::config::{AccelProfile, InputSection};

/// Why there is no input.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// libinput refuses the seat.
    #[error(
        "libinput cannot watch the devices of seat {seat}: check that udev runs (/run/udev) and that the seat exists \
         (`loginctl list-seats`)"
    )]
    Seat {
        /// The session's seat.
        seat: String,
    },
}

/// Opens libinput on the session's seat. The backend goes into the event loop; the context is for `suspend()` and
/// `resume()` when the session is paused and goes on.
///
/// # Errors
/// See [`InputError`].
pub fn open<S>(session: S) -> Result<(LibinputInputBackend, Libinput), InputError>
where
    S: Session + 'static,
{
    let seat = session.seat();
    let mut context = Libinput::new_with_udev(LibinputSessionInterface::from(session));
    if context.udev_assign_seat(&seat).is_err() {
        return Err(InputError::Seat { seat });
    }
    Ok((LibinputInputBackend::new(context.clone()), context))
}

/// The devices that are plugged in.
#[derive(Debug, Default)]
pub struct Devices {
    list: Vec<Device>,
}

impl Devices {
    /// Shows the keyboard's state on all keyboards.
    pub fn show_leds(&mut self, state: LedState) {
        for device in &mut self.list {
            if device.has_capability(DeviceCapability::Keyboard) {
                device.led_update(state.into());
            }
        }
    }

    fn can(&self, capability: DeviceCapability) -> bool {
        self.list
            .iter()
            .any(|device| device.has_capability(capability))
    }
}

impl InputDevice for Device {
    fn output_name(&self) -> Option<String> {
        property(self, "WL_OUTPUT")
    }
}

/// A udev property. The `input` crate's own getters panic on text that is not UTF-8, and a device says what it likes.
fn property(device: &Device, name: &str) -> Option<String> {
    // SAFETY: libinput's udev handle belongs to the same libudev that the `udev` crate is linked to.
    let device = unsafe { device.udev_device() }?;
    Some(device.property_value(name)?.to_string_lossy().into_owned())
}

pub(super) fn added<D: InputHost>(host: &mut D, mut device: Device) {
    configure(&mut device, &host.input().settings);
    host.input().devices.list.push(device);
    update_seat(host);
    if let Some(keyboard) = host.seat().get_keyboard() {
        host.input().devices.show_leds(keyboard.led_state());
    }
}

pub(super) fn removed<D: InputHost>(host: &mut D, device: &Device) {
    host.input().devices.list.retain(|other| other != device);
    update_seat(host);
}

/// The seat can do what its devices can do.
fn update_seat<D: InputHost>(host: &mut D) {
    let devices = &host.input().devices;
    let can = Abilities {
        keyboard: devices.can(DeviceCapability::Keyboard),
        pointer: devices.can(DeviceCapability::Pointer),
        touch: devices.can(DeviceCapability::Touch),
    };
    set_abilities(host, can);
}

/// What a seat can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Abilities {
    /// It has keys.
    pub keyboard: bool,
    /// It has a pointer.
    pub pointer: bool,
    /// It has a touch screen.
    pub touch: bool,
}

/// Gives the seat what it lacks and takes from it what it has no device for any more.
pub fn set_abilities<D: InputHost>(host: &mut D, can: Abilities) {
    let seat = host.seat();
    let has = [
        seat.get_keyboard().is_some(),
        seat.get_pointer().is_some(),
        seat.get_touch().is_some(),
    ];
    let can = [can.keyboard, can.pointer, can.touch];
    let add: [fn(&mut D); 3] = [keyboard::add, pointer::add, touch::add];
    let remove: [fn(&mut D); 3] = [keyboard::remove, pointer::remove, touch::remove];
    for (((can, has), add), remove) in can.into_iter().zip(has).zip(add).zip(remove) {
        match (can, has) {
            (true, false) => add(host),
            (false, true) => remove(host),
            (true, true) | (false, false) => {}
        }
    }
}

fn configure(device: &mut Device, settings: &InputSection) {
    let name = property(device, "NAME").unwrap_or_default();
    let report = |key: &str, result: DeviceConfigResult| {
        if let Err(error) = result {
            tracing::warn!(
                key,
                device = name,
                ?error,
                "the device does not take its setting"
            );
        }
    };
    if device.has_capability(DeviceCapability::Pointer) {
        let settings = &settings.pointer;
        if let Some(profile) = settings
            .accel_profile
            .filter(|_| device.config_accel_is_available())
        {
            let profile = match profile {
                AccelProfile::Flat => LibinputProfile::Flat,
                AccelProfile::Adaptive => LibinputProfile::Adaptive,
            };
            report("accel_profile", device.config_accel_set_profile(profile));
        }
        if let Some(speed) = settings
            .accel_speed
            .filter(|_| device.config_accel_is_available())
        {
            report("accel_speed", device.config_accel_set_speed(speed));
        }
        if let Some(natural) = settings
            .natural_scroll
            .filter(|_| device.config_scroll_has_natural_scroll())
        {
            report(
                "natural_scroll",
                device.config_scroll_set_natural_scroll_enabled(natural),
            );
        }
        if let Some(left) = settings
            .left_handed
            .filter(|_| device.config_left_handed_is_available())
        {
            report("left_handed", device.config_left_handed_set(left));
        }
        if let Some(tap) = settings
            .tap
            .filter(|_| device.config_tap_finger_count() > 0)
        {
            report("tap", device.config_tap_set_enabled(tap));
        }
    }
    if device.has_capability(DeviceCapability::Touch) {
        if let Some(matrix) = settings
            .touch
            .calibration
            .filter(|_| device.config_calibration_has_matrix())
        {
            report("calibration", device.config_calibration_set_matrix(matrix));
        }
    }
}
