//! The memory of one screen's picture: its scanout buffers, drawn by `render/` and shown by `kms/`.

use std::sync::Arc;

use drm::control::Device as _;
use smithay::backend::{
    allocator::{
        dmabuf::{AsDmabuf, Dmabuf, DmabufFlags},
        gbm::{GbmAllocator, GbmBuffer, GbmBufferFlags, GbmDevice},
        Buffer as _, Fourcc, Modifier,
    },
    drm::DrmDeviceFd,
};

use super::{chain::BUFFERS, copier::ReadableScanout};
use crate::{
    capture::FrameFormat,
    kms::{Framebuffer, Mapping},
};

/// The format of every scanout buffer: all display controllers and both renderers have it.
const FORMAT: Fourcc = Fourcc::Xrgb8888;

/// One scanout buffer.
#[derive(Debug)]
pub struct ScanoutBuffer {
    /// For the renderer.
    pub dmabuf: Dmabuf,
    /// For the plane.
    pub framebuffer: Arc<Framebuffer>,
    /// For copies by the CPU, where the CPU drew it.
    pub readable: Option<Arc<ReadableScanout>>,
}

/// Why there are no buffers.
#[derive(Debug, thiserror::Error)]
#[error("{what} of {width}x{height}: {reason}")]
pub struct ScanoutError {
    what: &'static str,
    width: u32,
    height: u32,
    reason: String,
}

/// Allocates all buffers of a screen. With `software` they are LINEAR and labelled so, since pixman accepts nothing else.
///
/// # Errors
/// Out of memory, or a device that cannot show XRGB8888.
pub fn allocate(
    fd: &DrmDeviceFd,
    gbm: &GbmDevice<DrmDeviceFd>,
    (width, height): (u32, u32),
    software: bool,
) -> Result<Vec<ScanoutBuffer>, ScanoutError> {
    (0..BUFFERS)
        .map(|_| allocate_one(fd, gbm, (width, height), software))
        .collect()
}

fn allocate_one(
    fd: &DrmDeviceFd,
    gbm: &GbmDevice<DrmDeviceFd>,
    (width, height): (u32, u32),
    software: bool,
) -> Result<ScanoutBuffer, ScanoutError> {
    let failed = |what: &'static str| {
        move |error: &dyn std::fmt::Display| ScanoutError {
            what,
            width,
            height,
            reason: error.to_string(),
        }
    };
    let flags = GbmBufferFlags::SCANOUT | GbmBufferFlags::RENDERING;
    let buffer = if software {
        let bo = gbm
            .create_buffer_object::<()>(width, height, FORMAT, flags | GbmBufferFlags::LINEAR)
            .map_err(|error| failed("no scanout buffer")(&error))?;
        GbmBuffer::from_bo(bo, true)
    } else {
        let mut allocator = GbmAllocator::new(gbm.clone(), flags);
        allocator
            .create_buffer_with_flags(
                width,
                height,
                FORMAT,
                &[Modifier::Invalid, Modifier::Linear],
                flags,
            )
            .map_err(|error| failed("no scanout buffer")(&error))?
    };
    let framebuffer = Framebuffer::from_gbm(fd, &buffer, true)
        .map_err(|error| failed("no framebuffer")(&error))?;
    let dmabuf = match software {
        true => linear_dmabuf(fd, &buffer).map_err(|error| failed("no export")(&error))?,
        false => buffer
            .export()
            .map_err(|error| failed("no export")(&error))?,
    };
    let readable = match software {
        true => readable(&dmabuf).map_err(|error| failed("no mapping")(&error))?,
        false => None,
    };
    Ok(ScanoutBuffer {
        dmabuf,
        framebuffer,
        readable: readable.map(Arc::new),
    })
}

/// The pixels for the CPU, mapped once.
fn readable(dmabuf: &Dmabuf) -> std::io::Result<Option<ReadableScanout>> {
    let (Some(fd), Some(stride), Some(offset)) = (
        dmabuf.handles().next(),
        dmabuf.strides().next(),
        dmabuf.offsets().next(),
    ) else {
        return Ok(None);
    };
    let fd = fd.try_clone_to_owned()?;
    let len = u64::from(offset) + u64::from(stride) * u64::from(dmabuf.height());
    let mapping = Mapping::of_dmabuf(&fd, usize::try_from(len).unwrap_or(usize::MAX), false)?;
    let format = FrameFormat {
        width: dmabuf.width(),
        height: dmabuf.height(),
        fourcc: FORMAT,
        modifier: Modifier::Linear,
        stride,
        offset,
    };
    Ok(Some(ReadableScanout {
        dmabuf: fd,
        mapping,
        format,
    }))
}

/// The buffer's dma-buf, labelled as what it is: it was asked for as LINEAR, but GBM's software backend does not say so.
/// Exported by hand because GBM's own export of it is read-only.
fn linear_dmabuf(fd: &DrmDeviceFd, buffer: &GbmBuffer) -> std::io::Result<Dmabuf> {
    let invalid = || std::io::Error::other("the buffer has no plane");
    let handle = drm::buffer::Buffer::handle(buffer);
    let fd = fd.buffer_to_prime_fd(handle, drm_ffi::DRM_CLOEXEC | drm_ffi::DRM_RDWR)?;
    let mut builder = Dmabuf::builder(
        buffer.size(),
        FORMAT,
        Modifier::Linear,
        DmabufFlags::empty(),
    );
    builder.add_plane(fd, 0, buffer.offset(0), buffer.stride());
    builder.build().ok_or_else(invalid)
}
