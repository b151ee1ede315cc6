//! The memory of one screen's picture: its scanout buffers, drawn by `render/` and shown by `kms/`.
//!
//! Where the CPU draws, it does so through a mapping of our own, by way of the device, and the dma-buf is exported for
//! reading only, before anything else exports it: a dma-buf keeps the mode of its first export for ever. Such a buffer can
//! be lent to capture clients (`lending`).

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, OnceLock},
};

use drm::control::Device as _;
use smithay::backend::{
    allocator::{
        dmabuf::{AsDmabuf, Dmabuf, DmabufFlags},
        gbm::{GbmAllocator, GbmBuffer, GbmBufferFlags, GbmDevice},
        Buffer as _, Fourcc, Modifier,
    },
    drm::DrmDeviceFd,
};

use super::chain::BUFFERS;
use crate::{
    capture::{FrameFormat, Reading, SlotMemory},
    kms::{
        fence::{self, ready},
        mapping::{self, in_step, CpuAccess},
        Framebuffer, Mapping,
    },
    render::Canvas,
};

/// The format of every scanout buffer: all display controllers and both renderers have it.
const FORMAT: Fourcc = Fourcc::Xrgb8888;

/// One scanout buffer.
#[derive(Debug)]
pub struct ScanoutBuffer {
    /// For the renderer.
    pub canvas: Canvas,
    /// For the plane.
    pub framebuffer: Arc<Framebuffer>,
    /// For copies by the CPU, where the CPU drew it.
    pub readable: Option<Arc<ReadableScanout>>,
}

impl ScanoutBuffer {
    /// The memory that may be given to clients, if it may.
    pub fn lendable(&self) -> Option<&Arc<ReadableScanout>> {
        // Whoever is given a descriptor that can be written could draw on the screen, and with any descriptor it could keep
        // the screen from being flipped if the kernel listened to its fences.
        let may_be_given = |memory: &&Arc<ReadableScanout>| memory.read_only && memory.has_fence;
        self.readable.as_ref().filter(may_be_given)
    }

    /// Whether a descriptor of its memory was given away.
    pub fn is_exposed(&self) -> bool {
        let memory = self.readable.as_ref();
        memory.is_some_and(|memory| memory.own_references.get().is_some())
    }

    /// Whether somebody else may still have a descriptor or a mapping of its memory.
    pub fn is_kept_elsewhere(&self) -> bool {
        let memory = self.readable.as_ref();
        memory.is_some_and(|memory| memory.is_kept_elsewhere())
    }
}

/// Pixels of a scanout buffer that the CPU can read.
#[derive(Debug)]
pub struct ReadableScanout {
    dmabuf: OwnedFd,
    mapping: Mapping,
    format: FrameFormat,
    read_only: bool,
    /// The plane does not wait for fences that others put there.
    has_fence: bool,
    /// How often the dma-buf is open for the [`ScanoutBuffer`] alone; known from the moment that a descriptor is given away.
    own_references: OnceLock<Option<u64>>,
}

impl ReadableScanout {
    /// How the pixels lie there.
    pub fn format(&self) -> FrameFormat {
        self.format
    }

    fn is_kept_elsewhere(&self) -> bool {
        match self.own_references.get() {
            None => false,
            Some(own) => match (own, mapping::references(self.dmabuf.as_fd())) {
                (Some(own), Ok(all)) => all > *own,
                (None, _) | (_, Err(_)) => true,
            },
        }
    }

    fn expose(&self) {
        self.own_references
            .get_or_init(|| mapping::references(self.dmabuf.as_fd()).ok());
    }

    /// Shows the bytes to `f`, in step with the hardware's caches. Those of a buffer that can be lent need no word to the
    /// kernel, as it is drawn without one too ([`canvas_on`]), and the word would wait for the fences of clients.
    ///
    /// # Errors
    /// The kernel cannot synchronise.
    pub fn with_bytes<T>(&self, f: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
        // SAFETY: the chain keeps the buffer from being drawn into as long as a copy reads it or it is lent.
        let read = || f(unsafe { self.mapping.bytes() });
        match self.read_only {
            true => Ok(read()),
            false => in_step(&self.dmabuf, CpuAccess::Read, read),
        }
    }
}

impl SlotMemory for ReadableScanout {
    fn export(&self) -> io::Result<OwnedFd> {
        self.expose();
        self.dmabuf.try_clone()
    }

    fn dmabuf(&self) -> Option<BorrowedFd<'_>> {
        self.expose();
        Some(self.dmabuf.as_fd())
    }

    fn read(&self, f: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        self.with_bytes(|bytes| f(bytes))
    }

    fn reading(&self) -> Reading {
        // A dma-buf is writable when all its fences have signalled. No device reads it for us but those that show it.
        match ready(self.dmabuf.as_fd(), rustix::event::PollFlags::OUT) {
            Ok(true) => Reading::Over,
            Ok(false) | Err(_) => Reading::Fenced,
        }
    }
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

/// Allocates the buffers that the display needs for itself, and so many more as can be lent, at most `lendable`. With
/// `software` they are LINEAR and labelled so, since pixman accepts nothing else.
///
/// # Errors
/// Out of memory, or a device that cannot show XRGB8888.
pub fn allocate(
    gbm: &GbmDevice<DrmDeviceFd>,
    size: (u32, u32),
    software: bool,
    lendable: usize,
) -> Result<Vec<ScanoutBuffer>, ScanoutError> {
    let mut buffers = (0..BUFFERS)
        .map(|_| allocate_one(gbm, size, software))
        .collect::<Result<Vec<_>, _>>()?;
    if buffers.iter().any(|buffer| buffer.lendable().is_none()) {
        return Ok(buffers);
    }
    for _ in 0..lendable {
        match allocate_one(gbm, size, software) {
            Ok(buffer) => buffers.push(buffer),
            Err(error) => {
                tracing::info!(target: "vitrine::output", %error, "fewer pictures can be leased to capture clients; they are copied");
                break;
            }
        }
    }
    Ok(buffers)
}

/// Allocates one.
///
/// # Errors
/// Out of memory, or a device that cannot show XRGB8888.
pub fn allocate_one(
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
    let fd: &DrmDeviceFd = gbm;
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
    let (canvas, readable, fence) = match software {
        true => {
            let (canvas, mut readable) =
                software_canvas(fd, &buffer).map_err(|error| failed("no mapping")(&error))?;
            let fence = fence::signalled(readable.dmabuf.as_fd()).ok();
            readable.has_fence = fence.is_some();
            (canvas, Some(Arc::new(readable)), fence)
        }
        false => {
            let dmabuf = buffer
                .export()
                .map_err(|error| failed("no export")(&error))?;
            (Canvas::Dmabuf(dmabuf), None, None)
        }
    };
    let framebuffer = match fence {
        Some(fence) => Framebuffer::from_gbm_with_fence(fd, &buffer, true, fence),
        None => Framebuffer::from_gbm(fd, &buffer, true),
    }
    .map_err(|error| failed("no framebuffer")(&error))?;
    Ok(ScanoutBuffer {
        canvas,
        framebuffer,
        readable,
    })
}

/// For pixman to draw into: by our own mapping, or, where the driver allows none, by that of a dma-buf that can be written.
fn software_canvas(fd: &DrmDeviceFd, buffer: &GbmBuffer) -> io::Result<(Canvas, ReadableScanout)> {
    let format = FrameFormat {
        width: buffer.width(),
        height: buffer.height(),
        fourcc: FORMAT,
        modifier: Modifier::Linear,
        stride: buffer.stride(),
        offset: buffer.offset(0),
    };
    let len = u64::from(format.offset) + u64::from(format.stride) * u64::from(format.height);
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    let handle = drm::buffer::Buffer::handle(buffer);
    // Only if this works, the dma-buf need not be written: its first export decides.
    let own = Mapping::of_handle(fd, handle, len);
    let rights = match own {
        Ok(_) => 0,
        Err(_) => drm_ffi::DRM_RDWR,
    };
    let dmabuf = fd.buffer_to_prime_fd(handle, drm_ffi::DRM_CLOEXEC | rights)?;
    let mapping = Mapping::of_dmabuf(&dmabuf, len, false)?;
    let read_only = own.is_ok();
    let canvas = match own {
        Ok(own) => canvas_on(own, format)?,
        Err(_) => Canvas::Dmabuf(linear_dmabuf(dmabuf.try_clone()?, buffer, format)?),
    };
    let readable = ReadableScanout {
        dmabuf,
        mapping,
        format,
        read_only,
        has_fence: false,
        own_references: OnceLock::new(),
    };
    Ok((canvas, readable))
}

/// Drawing there needs no word to the kernel: a dumb buffer's mapping is made for a CPU that draws what a screen shows. A
/// wait for the dma-buf's fences, on the other hand, might never end, as clients can put theirs there.
fn canvas_on(mapping: Mapping, format: FrameFormat) -> io::Result<Canvas> {
    let offset = usize::try_from(format.offset).unwrap_or(usize::MAX);
    let first = mapping.as_ptr().wrapping_add(offset);
    let size = (format.width, format.height);
    // SAFETY: the mapping covers offset + stride * height bytes, begins with a page, and goes along. A buffer is drawn into
    // only while the chain says that nobody reads it.
    unsafe { Canvas::on_memory(first, size, format.stride, Box::new(mapping)) }
        .map_err(|error| io::Error::other(error.to_string()))
}

/// The buffer's dma-buf, labelled as what it is: it was asked for as LINEAR, but GBM's software backend does not say so.
fn linear_dmabuf(fd: OwnedFd, buffer: &GbmBuffer, format: FrameFormat) -> io::Result<Dmabuf> {
    let invalid = || io::Error::other("the buffer has no plane");
    let mut builder = Dmabuf::builder(
        buffer.size(),
        FORMAT,
        Modifier::Linear,
        DmabufFlags::empty(),
    );
    builder.add_plane(fd, 0, format.offset, format.stride);
    builder.build().ok_or_else(invalid)
}
