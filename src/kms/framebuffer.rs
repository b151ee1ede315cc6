//! Framebuffers: memory that the display controller may read (planes) or write (writeback).
//!
//! Dropping the last reference removes the framebuffer from the kernel, and a removed framebuffer switches off the plane
//! that shows it. So whoever shows one keeps it; see [`crate::kms::pipeline_io`].

use std::{any::Any, fmt, os::fd::OwnedFd, sync::Arc};

use drm::control::framebuffer;
use drm_fourcc::DrmFormat;
use smithay::backend::{
    allocator::{dmabuf::Dmabuf, gbm::GbmBuffer, gbm::GbmDevice, Buffer as _},
    drm::{
        gbm::{framebuffer_from_bo, framebuffer_from_dmabuf, GbmFramebuffer},
        DrmDeviceFd, Framebuffer as _,
    },
};

use super::Error;

/// A framebuffer and, if given, the memory below it. Cheap to share in an [`Arc`].
pub struct Framebuffer {
    // Before `memory`: the framebuffer goes first.
    framebuffer: GbmFramebuffer,
    size: (u32, u32),
    memory: Option<Box<dyn Any + Send + Sync>>,
    own_fence: Option<Arc<OwnedFd>>,
}

impl Framebuffer {
    /// For a buffer of our own. With `opaque`, an alpha channel is ignored.
    ///
    /// # Errors
    /// If no plane of the device takes the format and size.
    pub fn from_gbm(
        fd: &DrmDeviceFd,
        buffer: &GbmBuffer,
        opaque: bool,
    ) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self::of(fd, buffer, opaque)?))
    }

    fn of(fd: &DrmDeviceFd, buffer: &GbmBuffer, opaque: bool) -> Result<Self, Error> {
        let framebuffer = framebuffer_from_bo(fd, buffer, opaque)
            .map_err(|error| Error::io("adding a framebuffer")(error.source))?;
        Ok(Self {
            framebuffer,
            size: (buffer.width(), buffer.height()),
            memory: None,
            own_fence: None,
        })
    }

    /// For a client's dma-buf. Buffers without an explicit modifier are refused: their layout is a guess.
    ///
    /// # Errors
    /// If the device cannot import or show it.
    pub fn from_dmabuf(
        fd: &DrmDeviceFd,
        gbm: &GbmDevice<DrmDeviceFd>,
        dmabuf: &Dmabuf,
        opaque: bool,
    ) -> Result<Arc<Self>, Error> {
        use smithay::backend::drm::gbm::Error as GbmError;
        if dmabuf.format().modifier == drm_fourcc::DrmModifier::Invalid {
            return Err(Error::io("importing a dma-buf without a modifier")(
                std::io::ErrorKind::Unsupported.into(),
            ));
        }
        let framebuffer = framebuffer_from_dmabuf(fd, gbm, dmabuf, opaque, false).map_err(
            |error| match error {
                GbmError::Import(error) => Error::io("importing a dma-buf")(error),
                GbmError::Drm(error) => Error::io("adding a framebuffer")(error.source),
            },
        )?;
        let size = dmabuf.size();
        let side = |n: i32| u32::try_from(n).unwrap_or(0);
        Ok(Arc::new(Self {
            framebuffer,
            size: (side(size.w), side(size.h)),
            memory: None,
            own_fence: None,
        }))
    }

    /// The same, keeping `memory` alive as long as the framebuffer.
    pub fn from_gbm_owning(
        fd: &DrmDeviceFd,
        buffer: GbmBuffer,
        opaque: bool,
    ) -> Result<Arc<Self>, Error> {
        let mut framebuffer = Self::of(fd, &buffer, opaque)?;
        framebuffer.memory = Some(Box::new(buffer));
        Ok(Arc::new(framebuffer))
    }

    /// For a buffer of our own of which others get descriptors. Who has one can put fences onto the memory, and a plane that
    /// shows it waits for those unless it is given a fence to wait for instead: this one, which has signalled.
    ///
    /// # Errors
    /// If no plane of the device takes the format and size.
    pub fn from_gbm_with_fence(
        fd: &DrmDeviceFd,
        buffer: &GbmBuffer,
        opaque: bool,
        signalled: OwnedFd,
    ) -> Result<Arc<Self>, Error> {
        let mut framebuffer = Self::of(fd, buffer, opaque)?;
        framebuffer.own_fence = Some(Arc::new(signalled));
        Ok(Arc::new(framebuffer))
    }

    /// What a plane waits for if nobody knows of anything else.
    pub fn own_fence(&self) -> Option<&Arc<OwnedFd>> {
        self.own_fence.as_ref()
    }

    /// Its id.
    pub fn id(&self) -> framebuffer::Handle {
        *self.framebuffer.as_ref()
    }

    /// Width and height in pixels.
    pub fn size(&self) -> (u32, u32) {
        self.size
    }

    /// Format as the kernel was told.
    pub fn format(&self) -> DrmFormat {
        self.framebuffer.format()
    }
}

impl fmt::Debug for Framebuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Framebuffer")
            .field("id", &u32::from(self.id()))
            .field("size", &self.size)
            .field("format", &self.format())
            .field("owns_memory", &self.memory.is_some())
            .finish()
    }
}
