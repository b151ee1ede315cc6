//! A slot for the picture of a window that a GPU draws: linear memory of the device, which the GPU writes, and worker threads or
//! again the GPU read. No client gets a descriptor of it.

use std::{io, os::fd::OwnedFd, sync::Arc};

use drm_fourcc::{DrmFourcc, DrmModifier};
use gbm::BufferObjectFlags;
use smithay::backend::{
    allocator::{
        dmabuf::{Dmabuf, DmabufFlags},
        gbm::GbmDevice,
    },
    drm::DrmDeviceFd,
};

use crate::{
    capture::{DirectBuffer, FrameFormat, Reader, Readers, Reading, SlotMemory},
    kms::mapping::{in_step, CpuAccess, Mapping},
};

/// The memory of one picture.
#[derive(Debug)]
pub struct WindowSlot {
    dmabuf: Arc<Dmabuf>,
    mapping: Mapping,
    format: FrameFormat,
    readers: Readers,
}

impl WindowSlot {
    /// Allocates memory for a picture of this size.
    ///
    /// # Errors
    /// The device has no such memory that a CPU can read.
    pub fn allocate(
        gbm: &GbmDevice<DrmDeviceFd>,
        (width, height): (u32, u32),
        fourcc: DrmFourcc,
    ) -> io::Result<Self> {
        let flags = BufferObjectFlags::LINEAR | BufferObjectFlags::RENDERING;
        let bo = gbm.create_buffer_object::<()>(width, height, fourcc, flags)?;
        if bo.plane_count() != 1 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let format = FrameFormat {
            width,
            height,
            fourcc,
            // As asked for; software devices label it Invalid all the same.
            modifier: DrmModifier::Linear,
            stride: bo.stride(),
            offset: bo.offset(0),
        };
        // Descriptor and mapping keep the memory; the object is not needed any more.
        let fd = bo.fd().map_err(io::Error::other)?;
        let length = u64::from(format.offset) + u64::from(format.stride) * u64::from(height);
        let length = usize::try_from(length).map_err(io::Error::other)?;
        Ok(Self {
            mapping: Mapping::of_dmabuf(&fd, length, false)?,
            dmabuf: Arc::new(describe(fd, &format)?),
            format,
            readers: Readers::default(),
        })
    }

    /// How the pixels lie there.
    pub fn format(&self) -> FrameFormat {
        self.format
    }

    /// For the renderer, while the slot is armed.
    pub fn dmabuf(&self) -> &Dmabuf {
        &self.dmabuf
    }
}

fn describe(fd: OwnedFd, format: &FrameFormat) -> io::Result<Dmabuf> {
    let side = |n: u32| i32::try_from(n).map_err(io::Error::other);
    let size = (side(format.width)?, side(format.height)?);
    let flags = DmabufFlags::empty();
    let mut builder = Dmabuf::builder(size, format.fourcc, format.modifier, flags);
    builder.add_plane(fd, 0, format.offset, format.stride);
    Ok(builder.build().ok_or(io::ErrorKind::InvalidInput)?)
}

impl SlotMemory for WindowSlot {
    fn export(&self) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn read(&self, f: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let fd = self.dmabuf.handles().next();
        let fd = fd.ok_or(io::ErrorKind::NotFound)?;
        in_step(fd, CpuAccess::Read, || {
            // SAFETY: nobody in this process writes through a mapping; the GPU draws only while the slot is armed, when
            // nobody reads it.
            f(unsafe { self.mapping.bytes() });
        })
    }

    fn buffer(&self) -> Option<DirectBuffer> {
        Some(self.dmabuf.clone() as DirectBuffer)
    }

    fn begin_reading(&self) -> Option<Reader> {
        Some(self.readers.begin())
    }

    fn reading(&self) -> Reading {
        // Nobody else has a descriptor.
        self.readers.reading(|| true)
    }
}
