//! A mouse that the kernel believes in: a relative pointer made with uinput.

use std::{
    fs::{File, OpenOptions},
    io::Write,
};

use rustix::ioctl::{ioctl, opcode, IntegerSetter, NoArg, Setter};

const EV_SYN: u16 = 0;
const EV_KEY: u16 = 1;
const EV_REL: u16 = 2;
const REL_X: u16 = 0;
const REL_Y: u16 = 1;
const BTN_LEFT: u16 = 0x110;

/// `struct uinput_setup`
#[repr(C)]
struct Setup {
    bus: u16,
    vendor: u16,
    product: u16,
    version: u16,
    name: [u8; 80],
    ff_effects_max: u32,
}

/// The device; it is unplugged when this is dropped.
#[derive(Debug)]
pub struct Mouse {
    device: File,
}

impl Mouse {
    /// Plugs it in.
    pub fn new() -> Self {
        const SET_EVBIT: rustix::ioctl::Opcode = opcode::write::<i32>(b'U', 100);
        const SET_KEYBIT: rustix::ioctl::Opcode = opcode::write::<i32>(b'U', 101);
        const SET_RELBIT: rustix::ioctl::Opcode = opcode::write::<i32>(b'U', 102);
        const DEV_SETUP: rustix::ioctl::Opcode = opcode::write::<Setup>(b'U', 3);
        const DEV_CREATE: rustix::ioctl::Opcode = opcode::none(b'U', 1);
        let device = OpenOptions::new().write(true).open("/dev/uinput").unwrap();
        let mut name = [0; 80];
        name[..13].copy_from_slice(b"vitrine mouse");
        let setup = Setup {
            bus: 3,
            vendor: 1,
            product: 1,
            version: 1,
            name,
            ff_effects_max: 0,
        };
        // SAFETY: the calls of linux/uinput.h, with the arguments that it names.
        unsafe {
            let bit = |bit: u16| usize::from(bit);
            ioctl(&device, IntegerSetter::<SET_EVBIT>::new_usize(bit(EV_KEY))).unwrap();
            ioctl(&device, IntegerSetter::<SET_EVBIT>::new_usize(bit(EV_REL))).unwrap();
            ioctl(
                &device,
                IntegerSetter::<SET_KEYBIT>::new_usize(bit(BTN_LEFT)),
            )
            .unwrap();
            ioctl(&device, IntegerSetter::<SET_RELBIT>::new_usize(bit(REL_X))).unwrap();
            ioctl(&device, IntegerSetter::<SET_RELBIT>::new_usize(bit(REL_Y))).unwrap();
            ioctl(&device, Setter::<DEV_SETUP, Setup>::new(setup)).unwrap();
            ioctl(&device, NoArg::<DEV_CREATE>::new()).unwrap();
        }
        Self { device }
    }

    /// Moves it by so many counts.
    pub fn by(&mut self, x: i32, y: i32) {
        self.emit(&[(EV_REL, REL_X, x), (EV_REL, REL_Y, y), (EV_SYN, 0, 0)]);
    }

    /// Moves the pointer to a place of a screen that begins at the origin; needs a flat acceleration profile.
    pub fn to(&mut self, x: i32, y: i32) {
        self.by(-10_000, -10_000);
        self.by(x, y);
    }

    fn emit(&mut self, events: &[(u16, u16, i32)]) {
        let mut bytes = Vec::new();
        for (kind, code, value) in events {
            // `struct input_event`; the kernel fills in the time.
            bytes.extend([0; 16]);
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(code.to_ne_bytes());
            bytes.extend(value.to_ne_bytes());
        }
        self.device.write_all(&bytes).unwrap();
    }
}
