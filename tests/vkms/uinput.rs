//! Input devices that a test plays with: made by the kernel's uinput, found by udev, opened by libinput.

use std::{
    fs::File,
    io::Write,
    os::fd::{AsRawFd, RawFd},
    time::Duration,
};

/// Codes of linux/input-event-codes.h.
pub mod code {
    pub const KEY_A: u16 = 30;
    pub const KEY_B: u16 = 48;
    pub const KEY_BACKSPACE: u16 = 14;
    pub const KEY_LEFTCTRL: u16 = 29;
    pub const KEY_LEFTALT: u16 = 56;
    pub const KEY_LEFTSHIFT: u16 = 42;
    pub const BTN_LEFT: u16 = 0x110;
    pub const BTN_RIGHT: u16 = 0x111;
}

const EV_SYN: u16 = 0;
const EV_KEY: u16 = 1;
const EV_REL: u16 = 2;
const EV_ABS: u16 = 3;
const REL_X: u16 = 0;
const REL_Y: u16 = 1;
const REL_WHEEL: u16 = 8;
const REL_WHEEL_HI_RES: u16 = 11;
const ABS_X: u16 = 0;
const ABS_Y: u16 = 1;
const ABS_MT_SLOT: u16 = 0x2f;
const ABS_MT_POSITION_X: u16 = 0x35;
const ABS_MT_POSITION_Y: u16 = 0x36;
const ABS_MT_TRACKING_ID: u16 = 0x39;
const BTN_TOUCH: u16 = 0x14a;
const INPUT_PROP_DIRECT: u16 = 1;
const BUS_USB: u16 = 3;

/// The touch screen's coordinates go from 0 to this.
pub const TOUCH_MAX: i32 = 4095;

/// A device. Dropping it unplugs it.
#[derive(Debug)]
pub struct Device {
    file: File,
}

impl Device {
    /// A keyboard with all keys that udev looks for.
    pub fn keyboard() -> Self {
        let device = Self::open();
        device.set(100, EV_KEY);
        for key in 1..=248 {
            device.set(101, key);
        }
        device.create("test keyboard", 1)
    }

    /// A mouse with three buttons and a wheel.
    pub fn mouse() -> Self {
        let device = Self::open();
        device.set(100, EV_KEY);
        device.set(100, EV_REL);
        for button in code::BTN_LEFT..code::BTN_LEFT + 3 {
            device.set(101, button);
        }
        for axis in [REL_X, REL_Y, REL_WHEEL, REL_WHEEL_HI_RES] {
            device.set(102, axis);
        }
        device.create("test mouse", 2)
    }

    /// A touch screen for five fingers.
    pub fn touch() -> Self {
        let device = Self::open();
        device.set(100, EV_KEY);
        device.set(100, EV_ABS);
        device.set(101, BTN_TOUCH);
        device.set(110, INPUT_PROP_DIRECT);
        for (axis, max) in [
            (ABS_X, TOUCH_MAX),
            (ABS_Y, TOUCH_MAX),
            (ABS_MT_SLOT, 4),
            (ABS_MT_POSITION_X, TOUCH_MAX),
            (ABS_MT_POSITION_Y, TOUCH_MAX),
            (ABS_MT_TRACKING_ID, 65535),
        ] {
            device.axis(axis, max);
        }
        device.create("test touch screen", 3)
    }

    /// Presses (1) or releases (0) a key or button.
    pub fn key(&mut self, code: u16, value: i32) {
        self.emit(&[(EV_KEY, code, value)]);
    }

    /// Presses and releases a key or button.
    pub fn tap(&mut self, code: u16) {
        self.key(code, 1);
        self.key(code, 0);
    }

    /// Moves the mouse.
    pub fn motion(&mut self, dx: i32, dy: i32) {
        self.emit(&[(EV_REL, REL_X, dx), (EV_REL, REL_Y, dy)]);
    }

    /// Turns the wheel by detents; positive is away from the user.
    pub fn wheel(&mut self, detents: i32) {
        self.emit(&[
            (EV_REL, REL_WHEEL, detents),
            (EV_REL, REL_WHEEL_HI_RES, detents * 120),
        ]);
    }

    /// Puts a finger down or moves it; as parts of [`TOUCH_MAX`].
    pub fn finger(&mut self, slot: i32, down: bool, (x, y): (i32, i32)) {
        let mut events = vec![(EV_ABS, ABS_MT_SLOT, slot)];
        if down {
            events.push((EV_ABS, ABS_MT_TRACKING_ID, slot + 1));
            events.push((EV_KEY, BTN_TOUCH, 1));
        }
        for (axis, value) in [
            (ABS_MT_POSITION_X, x),
            (ABS_MT_POSITION_Y, y),
            (ABS_X, x),
            (ABS_Y, y),
        ] {
            events.push((EV_ABS, axis, value));
        }
        self.emit(&events);
    }

    /// Lifts the only finger.
    pub fn lift(&mut self, slot: i32) {
        self.emit(&[
            (EV_ABS, ABS_MT_SLOT, slot),
            (EV_ABS, ABS_MT_TRACKING_ID, -1),
            (EV_KEY, BTN_TOUCH, 0),
        ]);
    }

    fn open() -> Self {
        let file = File::options()
            .read(true)
            .write(true)
            .open("/dev/uinput")
            .unwrap();
        Self { file }
    }

    fn set(&self, request: u32, value: u16) {
        // _IOW('U', request, int)
        control(
            self.file.as_raw_fd(),
            write_code(request, 4),
            usize::from(value),
        );
    }

    fn axis(&self, axis: u16, max: i32) {
        self.set(103, axis);
        // struct uinput_abs_setup: code, padding, value, minimum, maximum, fuzz, flat, resolution.
        let mut setup = [0_i32; 7];
        setup[0] = i32::from(axis);
        setup[3] = max;
        setup[6] = if axis == ABS_MT_SLOT || axis == ABS_MT_TRACKING_ID {
            0
        } else {
            10
        };
        control(
            self.file.as_raw_fd(),
            write_code(4, 28),
            setup.as_ptr() as usize,
        );
    }

    fn create(self, name: &str, product: u16) -> Self {
        // struct uinput_setup: bus, vendor, product, version, name[80], ff_effects_max.
        let mut setup = [0_u8; 92];
        for (at, word) in [BUS_USB, 0x1234, product, 1].into_iter().enumerate() {
            setup[at * 2..at * 2 + 2].copy_from_slice(&word.to_ne_bytes());
        }
        setup[8..8 + name.len()].copy_from_slice(name.as_bytes());
        control(
            self.file.as_raw_fd(),
            write_code(3, 92),
            setup.as_ptr() as usize,
        );
        control(
            self.file.as_raw_fd(),
            u64::from(u32::from(b'U') << 8 | 1),
            0,
        );
        self
    }

    fn emit(&mut self, events: &[(u16, u16, i32)]) {
        let mut bytes = Vec::new();
        for (kind, code, value) in events.iter().copied().chain([(EV_SYN, 0, 0)]) {
            bytes.extend([0_u8; 16]); // the kernel writes the time
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(code.to_ne_bytes());
            bytes.extend(value.to_ne_bytes());
        }
        self.file.write_all(&bytes).unwrap();
        // Events of one millisecond would be one event to a client that compares times.
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn write_code(number: u32, size: u32) -> u64 {
    u64::from(1 << 30 | size << 16 | u32::from(b'U') << 8 | number)
}

fn control(fd: RawFd, request: u64, argument: usize) {
    // SAFETY: uinput's requests take an int or read a structure of the size that the request names.
    let result = unsafe { libc::ioctl(fd, request as _, argument) };
    assert_eq!(
        result,
        0,
        "uinput {request:x}: {}",
        std::io::Error::last_os_error()
    );
}
