//! A writeback target: linear memory that the display controller writes and others read.
//!
//! Two sorts by [`Access`]. Buffers for clients are exported read-only *before anything else exports them*: a dma-buf keeps
//! the file mode of its first export for ever, so a client cannot write even what it maps itself. Probe buffers are
//! exported writable, for the canary, and never leave this process.
//!
//! There is one mapping per buffer to read it, made once, and a second one to write it where the render producer may: then it is
//! the one that is read, too.
//! It must not know leases; `capture` decides who reads when.

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
};

use drm::control::Device as _;
use drm_fourcc::{DrmFourcc, DrmModifier};
use gbm::BufferObjectFlags;
use rustix::event::PollFlags;
use smithay::backend::{
    allocator::gbm::{GbmBuffer, GbmDevice},
    drm::DrmDeviceFd,
};

use super::{
    canary::{self, CanaryState, Layout},
    fence::ready,
    framebuffer::Framebuffer,
    mapping::{in_step, CpuAccess, Mapping},
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

/// A writeback target with its framebuffer, its dma-buf and one mapping.
pub struct RingBuffer {
    framebuffer: Arc<Framebuffer>,
    mapping: Mapping,
    dmabuf: OwnedFd,
    access: Access,
    layout: Layout,
    fourcc: DrmFourcc,
    /// For the render producer; guards it against itself.
    writable: Mutex<Option<Arc<Mapping>>>,
    source: (DrmDeviceFd, drm::buffer::Handle),
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
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let mapping = Mapping::of_dmabuf(&dmabuf, len, access == Access::ReadWrite)
            .map_err(Error::io("mapping a writeback buffer"))?;
        let handle = drm::buffer::Buffer::handle(&buffer);
        let framebuffer = Framebuffer::from_gbm_owning(fd, buffer, false)?;
        Ok(Self {
            framebuffer,
            mapping,
            dmabuf,
            access,
            layout,
            fourcc,
            writable: Mutex::new(None),
            source: (fd.clone(), handle),
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
        self.mapping.len()
    }

    /// Whether it has no bytes; never, in practice.
    pub fn is_empty(&self) -> bool {
        self.mapping.is_empty()
    }

    /// A descriptor of the dma-buf for somebody else.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub fn export(&self) -> io::Result<OwnedFd> {
        self.dmabuf.try_clone()
    }

    /// The read-only dma-buf.
    pub fn dmabuf(&self) -> BorrowedFd<'_> {
        self.dmabuf.as_fd()
    }

    /// Shows the bytes to `f`. Never waits: what is in a buffer of which clients have descriptors was complete when its job was,
    /// and whatever fence is on it since then is theirs. Through the device's own mapping, where there is one, that needs no
    /// word to the kernel, as such mappings are made for a CPU that shares them with the display. Else it does, and would wait;
    /// so while a fence is pending there, such a mapping is made.
    ///
    /// # Errors
    /// The kernel cannot synchronise, or somebody's fence keeps us from asking it to.
    pub fn read(&self, f: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        if self.access == Access::ReadOnly {
            let mapping = match self.own_mapping() {
                None if !ready(self.dmabuf.as_fd(), PollFlags::IN)? => {
                    let refused = |_| io::ErrorKind::WouldBlock;
                    Some(self.writable().map_err(refused)?)
                }
                any => any,
            };
            if let Some(mapping) = mapping {
                // SAFETY: a slot is written while it is armed, when nobody reads it.
                f(unsafe { mapping.bytes() });
                return Ok(());
            }
        }
        in_step(&self.dmabuf, CpuAccess::Read, || {
            // SAFETY: a canary is written with `&mut self`; a slot is written while it is armed, when nobody reads it.
            f(unsafe { self.mapping.bytes() });
        })
    }

    /// That of [`writable`](Self::writable), if it was made.
    fn own_mapping(&self) -> Option<Arc<Mapping>> {
        // Nothing is half done under this lock.
        let writable = self.writable.lock().unwrap_or_else(PoisonError::into_inner);
        writable.clone()
    }

    /// The memory to be written by this process, through a mapping of its own: the dma-buf stays read-only for everybody
    /// else. It is mapped once.
    ///
    /// # Errors
    /// The driver does not let its buffers be mapped.
    pub fn writable(&self) -> io::Result<Arc<Mapping>> {
        // Nothing is half done under this lock.
        let mut writable = self.writable.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mapping) = writable.as_ref() {
            return Ok(Arc::clone(mapping));
        }
        let (fd, handle) = &self.source;
        let mapping = Arc::new(Mapping::of_handle(fd, *handle, self.mapping.len())?);
        Ok(Arc::clone(writable.insert(mapping)))
    }

    /// Lets `f` write the bytes, without a word to the kernel, which would wait for clients' fences. Only while the buffer is
    /// armed for a job of this process: nobody reads it then, and the hardware does not write it.
    ///
    /// # Errors
    /// The driver does not let its buffers be mapped.
    pub fn write(&self, f: &mut dyn FnMut(&mut [u8])) -> io::Result<()> {
        let mapping = self.writable()?;
        // One writer at a time.
        let _alone = self.writable.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: mapped writable; the lock keeps other writers away, the ring keeps readers away from armed slots.
        f(unsafe { mapping.bytes_mut() });
        Ok(())
    }

    /// Whether nobody's hardware uses it, as far as the fences of the dma-buf tell, which anybody may have put there who was
    /// given a descriptor; never blocks.
    pub fn fences_idle(&self) -> bool {
        // A dma-buf is writable when all its fences have signalled.
        ready(self.dmabuf.as_fd(), PollFlags::OUT).unwrap_or(false)
    }

    /// Writes the canary of `job`.
    ///
    /// # Errors
    /// For a read-only buffer, or if the kernel cannot synchronise.
    pub fn write_canary(&mut self, job: JobId) -> io::Result<()> {
        if self.access != Access::ReadWrite {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let (mapping, layout) = (&self.mapping, self.layout);
        in_step(&self.dmabuf, CpuAccess::Write, || {
            // SAFETY: mapped writable, as `access` says, and `&mut self` makes it the only reference.
            canary::write(unsafe { mapping.bytes_mut() }, layout, job);
        })
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
