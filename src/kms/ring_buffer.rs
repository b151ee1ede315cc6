//! A writeback target: linear memory that the display controller writes and others read.
//!
//! Two sorts by [`Access`]. Buffers for clients are exported read-only *before anything else exports them*: a dma-buf keeps
//! the file mode of its first export for ever, so a client cannot write even what it maps itself. Probe buffers are
//! exported writable, for the canary, and never leave this process.
//!
//! There is one mapping per buffer, made once. It must not know leases; `capture` decides who reads when.

use std::{
    fmt, io,
    os::fd::{AsFd, OwnedFd},
    ptr::NonNull,
    sync::Arc,
};

use drm::control::Device as _;
use drm_fourcc::{DrmFourcc, DrmModifier};
use gbm::BufferObjectFlags;
use rustix::{
    event::PollFlags,
    ioctl::{ioctl, opcode, Setter},
    mm::{mmap, munmap, MapFlags, ProtFlags},
};
use smithay::backend::{
    allocator::gbm::{GbmBuffer, GbmDevice},
    drm::DrmDeviceFd,
};

use super::{
    canary::{self, CanaryState, Layout},
    fence::ready,
    framebuffer::Framebuffer,
    writeback::JobId,
    Error,
};

/// Who may write a buffer through its file descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nobody: the sort that clients get.
    ReadOnly,
    /// This process: the sort that probes use.
    ReadWrite,
}

struct Mapping {
    address: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is plain shared memory owned by this value; access to its bytes goes through `RingBuffer`, where
// reading needs `&self` and writing `&mut self`. The hardware writes it only between arming and fence, when nobody reads.
unsafe impl Send for Mapping {}
// SAFETY: as above; through `&Mapping` the memory is only read.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is the one that mmap gave, and no reference into it outlives `self`.
        if let Err(error) = unsafe { munmap(self.address.as_ptr().cast(), self.len) } {
            tracing::warn!(target: "vitrine::kms", %error, "unmapping a writeback buffer failed");
        }
    }
}

/// A writeback target with its framebuffer, its dma-buf and one mapping.
pub struct RingBuffer {
    framebuffer: Arc<Framebuffer>,
    mapping: Mapping,
    dmabuf: OwnedFd,
    access: Access,
    layout: Layout,
    fourcc: DrmFourcc,
}

impl fmt::Debug for RingBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingBuffer")
            .field("layout", &self.layout)
            .field("fourcc", &self.fourcc)
            .field("access", &self.access)
            .field("framebuffer", &self.framebuffer.id())
            .finish()
    }
}

impl RingBuffer {
    /// Allocates linear memory that the controller can write. `fourcc` must have four bytes per pixel.
    ///
    /// # Errors
    /// If the device cannot allocate, export, map or use it as a framebuffer.
    pub fn allocate(
        gbm: &GbmDevice<DrmDeviceFd>,
        width: u32,
        height: u32,
        fourcc: DrmFourcc,
        access: Access,
    ) -> Result<Self, Error> {
        // Not WRITE: such buffers cannot be exported on software devices.
        let flags =
            BufferObjectFlags::LINEAR | BufferObjectFlags::SCANOUT | BufferObjectFlags::RENDERING;
        let bo = gbm
            .create_buffer_object::<()>(width, height, fourcc, flags)
            .map_err(Error::io("allocating a writeback buffer"))?;
        if bo.plane_count() != 1 || bo.bpp() != 32 {
            return Err(Error::io(
                "allocating a writeback buffer with 4 bytes per pixel",
            )(io::ErrorKind::Unsupported.into()));
        }
        let fd: &DrmDeviceFd = gbm;
        // LINEAR was asked; software devices label the buffer Invalid all the same.
        let buffer = GbmBuffer::from_bo(bo, true);
        let dmabuf = export_first(fd, &buffer, access)?;
        let layout = Layout {
            width,
            height,
            stride: buffer.stride(),
            offset: buffer.offset(0),
        };
        let len = u64::from(layout.offset) + u64::from(layout.stride) * u64::from(height);
        let mapping = map(&dmabuf, usize::try_from(len).unwrap_or(usize::MAX), access)
            .map_err(Error::io("mapping a writeback buffer"))?;
        let framebuffer = Framebuffer::from_gbm_owning(fd, buffer, false)?;
        Ok(Self {
            framebuffer,
            mapping,
            dmabuf,
            access,
            layout,
            fourcc,
        })
    }

    /// For a commit's writeback.
    pub fn framebuffer(&self) -> &Arc<Framebuffer> {
        &self.framebuffer
    }

    /// Size, stride and offset.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Format.
    pub fn fourcc(&self) -> DrmFourcc {
        self.fourcc
    }

    /// Always linear.
    pub fn modifier(&self) -> DrmModifier {
        DrmModifier::Linear
    }

    /// Bytes that it occupies.
    pub fn len(&self) -> usize {
        self.mapping.len
    }

    /// Whether it has no bytes; never, in practice.
    pub fn is_empty(&self) -> bool {
        self.mapping.len == 0
    }

    /// A descriptor of the dma-buf for somebody else.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub fn export(&self) -> io::Result<OwnedFd> {
        self.dmabuf.try_clone()
    }

    /// Shows the bytes to `f`, in step with the hardware's caches.
    ///
    /// # Errors
    /// If the kernel cannot synchronise.
    pub fn read(&self, f: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        sync(&self.dmabuf, SYNC_READ | SYNC_START)?;
        // SAFETY: the mapping is readable and lives as long as `self`; nobody in this process writes it meanwhile, as that
        // needs `&mut self`.
        f(unsafe { std::slice::from_raw_parts(self.mapping.address.as_ptr(), self.mapping.len) });
        sync(&self.dmabuf, SYNC_READ | SYNC_END)
    }

    /// Whether nobody's hardware reads it any more (dma-buf fences); never blocks.
    pub fn readers_idle(&self) -> bool {
        // A dma-buf is writable when all its fences have signalled.
        ready(self.dmabuf.as_fd(), PollFlags::OUT).unwrap_or(false)
    }

    /// Writes the canary of `job`.
    ///
    /// # Errors
    /// For a read-only buffer, or if the kernel cannot synchronise.
    pub fn write_canary(&mut self, job: JobId) -> io::Result<()> {
        let layout = self.layout;
        self.write(&mut |bytes| canary::write(bytes, layout, job))
    }

    /// Lets `f` write the bytes, in step with the hardware's caches.
    ///
    /// # Errors
    /// For a read-only buffer, or if the kernel cannot synchronise.
    pub fn write(&mut self, f: &mut dyn FnMut(&mut [u8])) -> io::Result<()> {
        if self.access != Access::ReadWrite {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        sync(&self.dmabuf, SYNC_WRITE | SYNC_START)?;
        // SAFETY: mapped writable, as `access` says, and `&mut self` makes it the only reference.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(self.mapping.address.as_ptr(), self.mapping.len)
        };
        f(bytes);
        sync(&self.dmabuf, SYNC_WRITE | SYNC_END)
    }

    /// What is left of the canary of `job`.
    ///
    /// # Errors
    /// If the kernel cannot synchronise.
    pub fn canary(&self, job: JobId) -> io::Result<CanaryState> {
        let mut state = CanaryState::Intact;
        self.read(&mut |bytes| state = canary::check(bytes, self.layout, job))?;
        Ok(state)
    }
}

/// The first export of a buffer, which fixes what later exports may do.
fn export_first(fd: &DrmDeviceFd, buffer: &GbmBuffer, access: Access) -> Result<OwnedFd, Error> {
    let handle = drm::buffer::Buffer::handle(buffer);
    let flags = drm_ffi::DRM_CLOEXEC
        | match access {
            Access::ReadOnly => 0,
            Access::ReadWrite => drm_ffi::DRM_RDWR,
        };
    fd.buffer_to_prime_fd(handle, flags)
        .map_err(Error::io("exporting a writeback buffer"))
}

fn map(dmabuf: &OwnedFd, len: usize, access: Access) -> io::Result<Mapping> {
    let protection = match access {
        Access::ReadOnly => ProtFlags::READ,
        Access::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
    };
    // SAFETY: a new mapping at an address of the kernel's choice disturbs no other memory.
    let address = unsafe {
        mmap(
            std::ptr::null_mut(),
            len,
            protection,
            MapFlags::SHARED,
            dmabuf,
            0,
        )
    }?;
    let address = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
    Ok(Mapping { address, len })
}

const SYNC_READ: u64 = 1;
const SYNC_WRITE: u64 = 2;
const SYNC_START: u64 = 0;
const SYNC_END: u64 = 4;

/// DMA_BUF_IOCTL_SYNC, which takes a `struct dma_buf_sync`: flags in 64 bits.
const DMA_BUF_IOCTL_SYNC: rustix::ioctl::Opcode = opcode::write::<u64>(b'b', 0);

fn sync(dmabuf: &OwnedFd, flags: u64) -> io::Result<()> {
    rustix::io::retry_on_intr(|| {
        // SAFETY: the opcode reads exactly one u64 of flags.
        unsafe { ioctl(dmabuf, Setter::<DMA_BUF_IOCTL_SYNC, u64>::new(flags)) }
    })?;
    Ok(())
}
