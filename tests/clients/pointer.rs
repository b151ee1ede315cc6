//! A wl_pointer with a cursor that the tests know. Meaningful only where the seat has a pointer and
//! it is over the client's surface.

use std::sync::{Arc, Mutex};

use wayland_client::{
    protocol::{wl_pointer, wl_seat, wl_surface},
    Connection, Dispatch, QueueHandle, WEnum,
};

use super::{
    buffers::{Buffer, MemoryKind, ARGB8888},
    connect::{Client, ClientError, State},
    picture::Picture,
};

/// Width and height of the known cursor.
pub const CURSOR_SIZE: u32 = 32;
/// Its hotspot.
pub const CURSOR_HOTSPOT: (i32, i32) = (3, 5);

/// What the pointer did.
#[derive(Debug, Clone, Copy, Default)]
pub struct PointerRecord {
    /// The seat has a pointer.
    pub present: bool,
    /// Times it entered a surface.
    pub entered: u32,
    /// Serial of the last enter.
    pub serial: u32,
    /// Surface-local position.
    pub position: (f64, f64),
    /// Button events.
    pub buttons: u32,
}

type Record = Arc<Mutex<PointerRecord>>;

/// The pointer of the first seat and the cursor surface.
#[derive(Debug)]
pub struct Pointer {
    proxy: wl_pointer::WlPointer,
    surface: wl_surface::WlSurface,
    record: Record,
    serial_used: u32,
    _buffer: Buffer,
}

/// The known cursor: opaque, no two pixels alike.
pub fn cursor_picture() -> Picture {
    let pixels = (0..CURSOR_SIZE * CURSOR_SIZE)
        .map(|i| 0x00c0_0000 | (i % CURSOR_SIZE * 7) << 8 | (i / CURSOR_SIZE * 7))
        .collect();
    Picture {
        width: CURSOR_SIZE,
        height: CURSOR_SIZE,
        pixels,
    }
}

impl Pointer {
    /// None if the seat has no pointer (yet).
    pub fn new(
        client: &mut Client,
        surface: wl_surface::WlSurface,
    ) -> Result<Option<Self>, ClientError> {
        let record = Record::default();
        let seat: wl_seat::WlSeat = client.bind(5, Arc::clone(&record))?;
        client.roundtrip()?;
        if !record.lock().unwrap().present {
            return Ok(None);
        }
        let proxy = seat.get_pointer(&client.qh, Arc::clone(&record));
        let mut buffer = Buffer::new(client, MemoryKind::Shm, CURSOR_SIZE, CURSOR_SIZE, ARGB8888)?;
        let stride = buffer.stride;
        buffer.write(|bytes| cursor_picture().to_lines(bytes, stride));
        surface.attach(Some(&buffer.proxy), 0, 0);
        surface.damage_buffer(0, 0, i32::MAX, i32::MAX);
        surface.commit();
        client.roundtrip()?;
        Ok(Some(Self {
            proxy,
            surface,
            record,
            serial_used: 0,
            _buffer: buffer,
        }))
    }

    /// Sets the cursor if the pointer entered since the last call. Call it after dispatching.
    pub fn update(&mut self) {
        let record = *self.record.lock().unwrap();
        if record.entered > 0 && record.serial != self.serial_used {
            self.serial_used = record.serial;
            let (x, y) = CURSOR_HOTSPOT;
            self.proxy
                .set_cursor(record.serial, Some(&self.surface), x, y);
        }
    }

    /// What happened so far.
    pub fn record(&self) -> PointerRecord {
        *self.record.lock().unwrap()
    }
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
            record.lock().unwrap().present = capabilities.contains(wl_seat::Capability::Pointer);
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
        let mut record = record.lock().unwrap();
        match event {
            wl_pointer::Event::Enter {
                serial,
                surface_x,
                surface_y,
                ..
            } => {
                record.entered += 1;
                record.serial = serial;
                record.position = (surface_x, surface_y);
            }
            wl_pointer::Event::Motion {
                surface_x,
                surface_y,
                ..
            } => {
                record.position = (surface_x, surface_y);
            }
            wl_pointer::Event::Button { .. } => record.buttons += 1,
            _ => {}
        }
    }
}
