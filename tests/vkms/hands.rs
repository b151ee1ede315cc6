//! A client's seat, and all that it is told, as words.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::mm::{mmap, munmap, MapFlags, ProtFlags};
use wayland_client::{
    protocol::{wl_keyboard, wl_pointer, wl_seat, wl_surface, wl_touch},
    Connection, Dispatch, Proxy, QueueHandle, WEnum,
};

use crate::clients::{Client, State};

/// Everything that a seat told its client, as words.
#[derive(Debug, Default)]
struct Heard {
    capabilities: Option<wl_seat::Capability>,
    words: Vec<String>,
    keymap: String,
}

type Record = Arc<Mutex<Heard>>;

/// A client's seat with all that it offers.
pub struct Hands {
    pub seat: wl_seat::WlSeat,
    record: Record,
}

impl Hands {
    pub fn new(client: &mut Client) -> Self {
        let record = Record::default();
        let seat = client.bind(8, Arc::clone(&record)).unwrap();
        client.roundtrip().unwrap();
        Self { seat, record }
    }

    /// The keyboard, which then speaks.
    pub fn keyboard(&self, client: &Client) -> wl_keyboard::WlKeyboard {
        let record = Arc::clone(&self.record);
        self.seat.get_keyboard(&client.qh, record)
    }

    /// The pointer, likewise.
    pub fn pointer(&self, client: &Client) -> wl_pointer::WlPointer {
        let record = Arc::clone(&self.record);
        self.seat.get_pointer(&client.qh, record)
    }

    /// Touch, likewise.
    pub fn touch(&self, client: &Client) -> wl_touch::WlTouch {
        let record = Arc::clone(&self.record);
        self.seat.get_touch(&client.qh, record)
    }

    /// Keyboard and pointer.
    pub fn take_all(&self, client: &mut Client) {
        self.keyboard(client);
        self.pointer(client);
        client.roundtrip().unwrap();
    }

    /// The last keymap.
    pub fn keymap(&self) -> String {
        self.record.lock().unwrap().keymap.clone()
    }

    /// Whether the seat has keyboard, pointer, touch.
    pub fn can(&self) -> (bool, bool, bool) {
        use wl_seat::Capability as C;
        let can = self
            .record
            .lock()
            .unwrap()
            .capabilities
            .unwrap_or(C::empty());
        (
            can.contains(C::Keyboard),
            can.contains(C::Pointer),
            can.contains(C::Touch),
        )
    }

    /// Waits until the seat has keyboard, pointer, touch as said.
    #[track_caller]
    pub fn wait_can(&self, client: &mut Client, wanted: (bool, bool, bool)) {
        let what = format!("capabilities {wanted:?}, not {:?}", self.can());
        client
            .wait_for(&what, client.patience(), |_| {
                (self.can() == wanted).then_some(())
            })
            .unwrap();
    }

    /// Waits for a word and forgets all up to it.
    #[track_caller]
    pub fn wait(&self, client: &mut Client, word: &str) {
        let found = client.wait_for(word, Duration::from_secs(15), |_| {
            let mut heard = self.record.lock().unwrap();
            let at = heard.words.iter().position(|heard| heard == word)?;
            heard.words.drain(..=at);
            Some(())
        });
        if let Err(error) = found {
            panic!("{error}; heard {:?}", self.words());
        }
    }

    pub fn words(&self) -> Vec<String> {
        self.record.lock().unwrap().words.clone()
    }

    pub fn forget(&self) {
        self.record.lock().unwrap().words.clear();
    }
}

fn say(record: &Record, word: String) {
    record.lock().unwrap().words.push(word);
}

/// How the words name a surface.
pub fn id(surface: &wl_surface::WlSurface) -> u32 {
    surface.id().protocol_id()
}

impl Dispatch<wl_seat::WlSeat, Record> for State {
    fn event(
        _: &mut Self,
        _: &wl_seat::WlSeat,
        event: wl_seat::Event,
        record: &Record,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let wl_seat::Event::Capabilities {
            capabilities: WEnum::Value(capabilities),
        } = event
        {
            record.lock().unwrap().capabilities = Some(capabilities);
        }
    }
}

impl Dispatch<wl_keyboard::WlKeyboard, Record> for State {
    fn event(
        _: &mut Self,
        _: &wl_keyboard::WlKeyboard,
        event: wl_keyboard::Event,
        record: &Record,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        use wl_keyboard::Event as E;
        match event {
            E::Keymap { fd, size, .. } => {
                let size = size as usize;
                // SAFETY: a private mapping of the descriptor that the compositor gave for this, unmapped below.
                let text = unsafe {
                    let at = mmap(
                        std::ptr::null_mut(),
                        size,
                        ProtFlags::READ,
                        MapFlags::PRIVATE,
                        &fd,
                        0,
                    )
                    .unwrap();
                    let bytes = std::slice::from_raw_parts(at.cast::<u8>(), size);
                    let text = String::from_utf8_lossy(bytes).into_owned();
                    munmap(at, size).unwrap();
                    text
                };
                record.lock().unwrap().keymap = text;
            }
            E::Enter { surface, .. } => say(record, format!("keyboard enter {}", id(&surface))),
            E::Leave { .. } => say(record, "keyboard leave".into()),
            E::Key { key, state, .. } => {
                let down = state == WEnum::Value(wl_keyboard::KeyState::Pressed);
                say(
                    record,
                    format!("key {key} {}", if down { "down" } else { "up" }),
                );
            }
            E::Modifiers { mods_depressed, .. } => {
                say(record, format!("modifiers {mods_depressed}"))
            }
            _ => {}
        }
    }
}

impl Dispatch<wl_pointer::WlPointer, Record> for State {
    fn event(
        _: &mut Self,
        _: &wl_pointer::WlPointer,
        event: wl_pointer::Event,
        record: &Record,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        use wl_pointer::Event as E;
        match event {
            E::Enter {
                surface,
                surface_x,
                surface_y,
                ..
            } => {
                say(record, format!("pointer enter {}", id(&surface)));
                say(record, format!("motion {surface_x} {surface_y}"));
            }
            E::Leave { .. } => say(record, "pointer leave".into()),
            E::Motion {
                surface_x,
                surface_y,
                ..
            } => say(record, format!("motion {surface_x} {surface_y}")),
            E::Button {
                button,
                state,
                serial,
                ..
            } => {
                let down = state == WEnum::Value(wl_pointer::ButtonState::Pressed);
                if down {
                    say(record, format!("button serial {serial}"));
                }
                say(
                    record,
                    format!("button {button} {}", if down { "down" } else { "up" }),
                );
            }
            E::Axis { axis, value, .. } => {
                let axis = match axis {
                    WEnum::Value(wl_pointer::Axis::VerticalScroll) => "vertical",
                    _ => "horizontal",
                };
                say(
                    record,
                    format!("axis {axis} {}", if value > 0.0 { '+' } else { '-' }),
                );
            }
            E::AxisSource {
                axis_source: WEnum::Value(wl_pointer::AxisSource::Wheel),
            } => {
                say(record, "source wheel".into());
            }
            E::Frame => say(record, "frame".into()),
            _ => {}
        }
    }
}

impl Dispatch<wl_touch::WlTouch, Record> for State {
    fn event(
        _: &mut Self,
        _: &wl_touch::WlTouch,
        event: wl_touch::Event,
        record: &Record,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        use wl_touch::Event as E;
        let round = |x: f64, y: f64| format!("{} {}", x.round(), y.round());
        match event {
            E::Down {
                surface,
                id: finger,
                x,
                y,
                ..
            } => {
                say(
                    record,
                    format!("down {} {finger} at {}", id(&surface), round(x, y)),
                );
            }
            E::Motion { id, x, y, .. } => say(record, format!("touch {id} to {}", round(x, y))),
            E::Up { id, .. } => say(record, format!("up {id}")),
            E::Frame => say(record, "touch frame".into()),
            E::Cancel => say(record, "touch cancel".into()),
            _ => {}
        }
    }
}

/// Where the serial of the last enter is all that matters.
impl Dispatch<wl_pointer::WlPointer, Arc<Mutex<u32>>> for State {
    fn event(
        _: &mut Self,
        _: &wl_pointer::WlPointer,
        event: wl_pointer::Event,
        entered: &Arc<Mutex<u32>>,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let wl_pointer::Event::Enter { serial, .. } = event {
            *entered.lock().unwrap() = serial;
        }
    }
}
