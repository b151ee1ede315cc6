//! ext-session-lock-v1: a program that locks the session, covers outputs and unlocks.

use std::sync::{Arc, Mutex};

use wayland_client::{
    protocol::{wl_compositor::WlCompositor, wl_surface::WlSurface},
    Connection, Dispatch, QueueHandle,
};
use wayland_protocols::ext::session_lock::v1::client::{
    ext_session_lock_manager_v1::ExtSessionLockManagerV1 as Manager,
    ext_session_lock_surface_v1::{self as surface_v1, ExtSessionLockSurfaceV1 as SurfaceObject},
    ext_session_lock_v1::{self as lock_v1, ExtSessionLockV1 as LockObject},
};

use super::{
    buffers::{Buffer, MemoryKind, XRGB8888},
    connect::{Client, ClientError, State},
    output::OutputInfo,
    painter::ShellRecord,
    picture::{pattern_picture, Picture},
};

/// What the screen shows where the lock has no surface.
pub const CURTAIN: u32 = 0x20_2020;

/// The same when nobody is there who could unlock.
pub const ABANDONED: u32 = 0x60_0000;

/// What a lock was told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LockRecord {
    /// `locked` came.
    pub locked: bool,
    /// `finished` came.
    pub finished: bool,
}

/// A lock object. Dropping it does nothing: a lock ends by its requests or with its client.
#[derive(Debug)]
pub struct Locker {
    /// The object.
    pub proxy: LockObject,
    record: Arc<Mutex<LockRecord>>,
}

/// The last configure of a lock surface.
#[derive(Debug, Clone, Copy, Default)]
pub struct Configured {
    /// Its serial; 0 before the first.
    pub serial: u32,
    /// Size in surface coordinates.
    pub size: (u32, u32),
}

/// A lock surface.
#[derive(Debug)]
pub struct LockSurface {
    /// The object.
    pub proxy: SurfaceObject,
    /// The surface.
    pub surface: WlSurface,
    configured: Arc<Mutex<Configured>>,
    buffers: Vec<Buffer>,
}

impl Locker {
    /// Asks to lock the session. The request goes out with the next ones.
    pub fn ask(client: &mut Client) -> Result<Self, ClientError> {
        let manager: Manager = client.bind(1, ())?;
        let record = Arc::<Mutex<LockRecord>>::default();
        let proxy = manager.lock(&client.qh, Arc::clone(&record));
        manager.destroy();
        Ok(Self { proxy, record })
    }

    /// Locks the session.
    pub fn lock(client: &mut Client) -> Result<Self, ClientError> {
        let locker = Self::ask(client)?;
        locker.wait(client)?;
        assert!(locker.record().locked, "the lock is refused");
        Ok(locker)
    }

    /// Waits for the answer.
    pub fn wait(&self, client: &mut Client) -> Result<(), ClientError> {
        client.wait_for("an answer to a lock", client.patience(), |_| {
            (self.record() != LockRecord::default()).then_some(())
        })
    }

    /// What it was told so far.
    pub fn record(&self) -> LockRecord {
        *self.record.lock().unwrap()
    }

    /// A lock surface that nothing was attached to; waits for its first configure.
    pub fn surface(
        &self,
        client: &mut Client,
        output: &OutputInfo,
    ) -> Result<LockSurface, ClientError> {
        let surface = self.bare_surface(client, output)?;
        client.wait_for("a lock surface's configure", client.patience(), |_| {
            (surface.configured().serial != 0).then_some(())
        })?;
        Ok(surface)
    }

    /// The same without waiting.
    pub fn bare_surface(
        &self,
        client: &mut Client,
        output: &OutputInfo,
    ) -> Result<LockSurface, ClientError> {
        let compositor: WlCompositor = client.bind(4, ())?;
        let surface = compositor.create_surface(&client.qh, None::<Arc<Mutex<ShellRecord>>>);
        let configured = Arc::<Mutex<Configured>>::default();
        let proxy = self.proxy.get_lock_surface(
            &surface,
            &output.proxy,
            &client.qh,
            Arc::clone(&configured),
        );
        client.flush()?;
        Ok(LockSurface {
            proxy,
            surface,
            configured,
            buffers: Vec::new(),
        })
    }

    /// Covers an output with pattern `n`.
    pub fn cover(
        &self,
        client: &mut Client,
        output: &OutputInfo,
        n: u32,
    ) -> Result<LockSurface, ClientError> {
        let mut surface = self.surface(client, output)?;
        surface.proxy.ack_configure(surface.configured().serial);
        surface.show(client, n)?;
        Ok(surface)
    }

    /// Unlocks, and waits until the compositor has read that.
    pub fn unlock(self, client: &mut Client) -> Result<(), ClientError> {
        self.proxy.unlock_and_destroy();
        client.roundtrip()
    }
}

impl LockSurface {
    /// The last configure.
    pub fn configured(&self) -> Configured {
        *self.configured.lock().unwrap()
    }

    /// Commits pattern `n` in the configured size.
    pub fn show(&mut self, client: &mut Client, n: u32) -> Result<(), ClientError> {
        let (width, height) = self.configured().size;
        self.show_sized(client, n, (width, height))
    }

    /// The same in another size.
    pub fn show_sized(
        &mut self,
        client: &mut Client,
        n: u32,
        (width, height): (u32, u32),
    ) -> Result<(), ClientError> {
        let mut buffer = Buffer::new(client, MemoryKind::Shm, width, height, XRGB8888)?;
        let stride = buffer.stride;
        buffer.write(|bytes| pattern_picture(n, width, height).to_lines(bytes, stride));
        self.surface.attach(Some(&buffer.proxy), 0, 0);
        self.surface.damage_buffer(0, 0, i32::MAX, i32::MAX);
        self.surface.commit();
        self.buffers.push(buffer);
        client.flush()
    }

    /// What its output is to show then.
    pub fn expected(&self, n: u32) -> Picture {
        let (width, height) = self.configured().size;
        pattern_picture(n, width, height)
    }
}

impl Dispatch<LockObject, Arc<Mutex<LockRecord>>> for State {
    fn event(
        _: &mut Self,
        _: &LockObject,
        event: lock_v1::Event,
        record: &Arc<Mutex<LockRecord>>,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        let mut record = record.lock().unwrap();
        match event {
            lock_v1::Event::Locked => record.locked = true,
            lock_v1::Event::Finished => record.finished = true,
            _ => {}
        }
    }
}

impl Dispatch<SurfaceObject, Arc<Mutex<Configured>>> for State {
    fn event(
        _: &mut Self,
        _: &SurfaceObject,
        event: surface_v1::Event,
        configured: &Arc<Mutex<Configured>>,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let surface_v1::Event::Configure {
            serial,
            width,
            height,
        } = event
        {
            *configured.lock().unwrap() = Configured {
                serial,
                size: (width, height),
            };
        }
    }
}

wayland_client::delegate_noop!(State: ignore Manager);
