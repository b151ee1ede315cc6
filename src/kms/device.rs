//! The display device: opened for atomic commits, its objects read, its events handed on.
//!
//! A [`Device`] is a cheap handle; pipelines hold clones. It must not know who reads the events or when.

use std::{
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    sync::Arc,
};

use drm::{
    control::{crtc, AtomicCommitFlags, Device as _, Event},
    ClientCapability, Device as _, DriverCapability,
};
use smithay::{backend::drm::DrmDeviceFd, utils::DevPath};
use tracing::{debug, info};

use super::{
    fault::{FaultPlan, FaultyIo},
    fence::{readable, Fence},
    io::{CommitError, KmsIo, RealIo},
    request::AtomicRequest,
    snapshot::Snapshot,
    stats::{Counters, Stats},
    Error,
};
use crate::time::Time;

/// Something the device tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KmsEvent {
    /// A frame commit reached the screen.
    Flip {
        /// Of this CRTC.
        crtc: crtc::Handle,
        /// When its first pixel was scanned out.
        time: Time,
        /// The kernel's vblank counter.
        sequence: u32,
    },
}

struct Inner {
    fd: DrmDeviceFd,
    io: Box<dyn KmsIo>,
    counters: Counters,
    monotonic: bool,
    hotspot: bool,
    writeback: Result<(), String>,
}

/// A display device in atomic mode.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Device").field(&self.path()).finish()
    }
}

impl Device {
    /// Prepares an open device node. `plan` is normally empty.
    ///
    /// # Errors
    /// If the driver cannot do atomic commits. A driver without writeback is no error; see [`Device::writeback`].
    pub fn new(fd: DrmDeviceFd, plan: FaultPlan) -> Result<Self, Error> {
        let path = fd.dev_path();
        let name = path
            .clone()
            .unwrap_or_else(|| PathBuf::from("the display device"));
        let require = |cap, what| {
            fd.set_client_capability(cap, true).map_err(|source| Error::Device {
                device: name.display().to_string(),
                what,
                source,
                advice: "Vitrine needs an atomic driver: choose another device with `drm_device` in compositor.toml",
            })
        };
        require(
            ClientCapability::UniversalPlanes,
            "asking for universal planes",
        )?;
        require(ClientCapability::Atomic, "asking for atomic commits")?;
        // Only after Atomic: before it the kernel answers EINVAL.
        let writeback = fd
            .set_client_capability(ClientCapability::WritebackConnectors, true)
            .map_err(|error| format!("the kernel does not offer writeback connectors ({error})"));
        // Virtual machines hide their cursor plane from atomic clients that do not set the hotspot.
        let hotspot = fd
            .set_client_capability(ClientCapability::CursorPlaneHotspot, true)
            .is_ok();
        let monotonic = fd
            .get_driver_capability(DriverCapability::MonotonicTimestamp)
            .is_ok_and(|v| v == 1);
        let io: Box<dyn KmsIo> = if plan.is_empty() {
            Box::new(RealIo(fd.clone()))
        } else {
            Box::new(FaultyIo::new(RealIo(fd.clone()), plan))
        };
        let device = Self(Arc::new(Inner {
            fd,
            io,
            counters: Counters::default(),
            monotonic,
            hotspot,
            writeback,
        }));
        info!(
            target: "vitrine::kms",
            device = %name.display(), driver = %device.driver(), hotspot, monotonic,
            writeback = device.0.writeback.is_ok(), "display device opened",
        );
        Ok(device)
    }

    /// The descriptor, for allocators and framebuffers.
    pub fn fd(&self) -> &DrmDeviceFd {
        &self.0.fd
    }

    /// Path of the device node, when known.
    pub fn path(&self) -> Option<PathBuf> {
        self.0.fd.dev_path()
    }

    /// Name of the kernel driver, like `vkms`.
    pub fn driver(&self) -> String {
        match self.0.fd.get_driver() {
            Ok(driver) => driver.name().to_string_lossy().into_owned(),
            Err(error) => format!("unknown ({error})"),
        }
    }

    /// Whether the kernel shows writeback connectors at all, or why not.
    ///
    /// # Errors
    /// The reason as text.
    pub fn writeback(&self) -> Result<(), &str> {
        self.0
            .writeback
            .as_ref()
            .map(|_| ())
            .map_err(String::as_str)
    }

    /// Whether cursor planes take a hotspot (virtual machines).
    pub fn cursor_hotspot(&self) -> bool {
        self.0.hotspot
    }

    /// The device's objects now. `probe` as in [`Snapshot::read`].
    ///
    /// # Errors
    /// If the device is gone.
    pub fn snapshot(&self, probe: bool) -> Result<Snapshot, Error> {
        Snapshot::read(&self.0.fd, probe)
    }

    /// Reads all events that are there; never blocks. Unread events make the 129th commit fail, so call it whenever the
    /// descriptor is readable.
    ///
    /// # Errors
    /// If the device is gone.
    pub fn events(&self) -> Result<Vec<KmsEvent>, Error> {
        let mut events = Vec::new();
        // Asked before each read, because the descriptor may be a blocking one.
        while readable(self.0.fd.as_fd())
            .map_err(|errno| Error::io("polling the device")(errno.into()))?
        {
            let read = match self.0.fd.receive_events() {
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::io("reading events")(error)),
            };
            for event in read {
                match event {
                    Event::PageFlip(flip) => {
                        self.0.counters.flip(flip.crtc);
                        let time = if self.0.monotonic && !flip.duration.is_zero() {
                            Time::from_duration(flip.duration)
                        } else {
                            Time::now()
                        };
                        events.push(KmsEvent::Flip {
                            crtc: flip.crtc,
                            time,
                            sequence: flip.frame,
                        });
                    }
                    Event::Vblank(_) | Event::Unknown(_) => {
                        debug!(target: "vitrine::kms", "event that nobody asked for");
                    }
                }
            }
        }
        Ok(events)
    }

    /// A copy of the counters.
    pub fn stats(&self) -> Stats {
        self.0.counters.read()
    }

    /// One atomic commit, counted. The fence is the job's.
    pub(crate) fn commit(
        &self,
        request: &AtomicRequest,
        flags: AtomicCommitFlags,
    ) -> Result<Option<Fence>, CommitError> {
        let result = self.0.io.commit(request, flags);
        self.0
            .counters
            .commit(request.crtc, flags, request.out_fence.is_some(), &result);
        Ok(result?.map(|fd| self.0.io.fence(fd)))
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}
