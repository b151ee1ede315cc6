//! Memory of the display device as bytes of this process, and the kernel calls that keep its caches in step.
//!
//! It must not know who may read or write when: that is decided by whoever owns the buffer.

use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
    ptr::NonNull,
};

use drm::buffer::Handle;
use rustix::{
    fd::{AsFd, BorrowedFd},
    ioctl::{ioctl, opcode, Setter},
    mm::{mmap, munmap, MapFlags, ProtFlags},
};
use smithay::backend::drm::DrmDeviceFd;

/// A shared mapping. Dropping it unmaps.
#[derive(Debug)]
pub struct Mapping {
    address: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is plain shared memory owned by this value; its users guard each access (see the unsafe methods).
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the start of a dma-buf.
    ///
    /// # Errors
    /// The descriptor does not allow it, or there is no address space left.
    pub fn of_dmabuf(dmabuf: &OwnedFd, len: usize, writable: bool) -> io::Result<Self> {
        let protection = match writable {
            false => ProtFlags::READ,
            true => ProtFlags::READ | ProtFlags::WRITE,
        };
        Self::new(dmabuf, len, 0, protection)
    }

    /// Maps a buffer of the device through the device itself, writable whatever its dma-buf allows. Works where the
    /// driver lets its buffers be mapped as dumb ones, as all software and most display-only devices do.
    ///
    /// # Errors
    /// The driver refuses, or there is no address space left.
    pub fn of_handle(fd: &DrmDeviceFd, handle: Handle, len: usize) -> io::Result<Self> {
        let map = drm_ffi::mode::dumbbuffer::map(fd.as_fd(), handle.into(), 0, 0)?;
        Self::new(fd, len, map.offset, ProtFlags::READ | ProtFlags::WRITE)
    }

    fn new(fd: impl AsFd, len: usize, offset: u64, protection: ProtFlags) -> io::Result<Self> {
        let (any, shared) = (std::ptr::null_mut(), MapFlags::SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no other memory.
        let address = unsafe { mmap(any, len, protection, shared, fd, offset) }?;
        let address = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { address, len })
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first byte.
    pub fn as_ptr(&self) -> *mut u8 {
        self.address.as_ptr()
    }

    /// The bytes.
    ///
    /// # Safety
    /// Nobody in this process writes them while the slice lives.
    pub unsafe fn bytes(&self) -> &[u8] {
        // SAFETY: readable for `len` bytes as long as `self`; the caller keeps writers away.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.len) }
    }

    /// The bytes, to be written.
    ///
    /// # Safety
    /// The mapping was made writable, and nobody else in this process reads or writes these bytes while the slice lives.
    #[allow(clippy::mut_from_ref, reason = "the memory is not this value's own")]
    pub unsafe fn bytes_mut(&self) -> &mut [u8] {
        // SAFETY: writable for `len` bytes as long as `self`; the caller keeps everybody else away.
        unsafe { std::slice::from_raw_parts_mut(self.address.as_ptr(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is the one that mmap gave, and no reference into it outlives `self`.
        if let Err(error) = unsafe { munmap(self.address.as_ptr().cast(), self.len) } {
            tracing::warn!(target: "vitrine::kms", %error, "unmapping a buffer failed");
        }
    }
}

/// What the CPU is going to do with a dma-buf's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuAccess {
    /// Read it.
    Read,
    /// Write it.
    Write,
}

const SYNC_READ: u64 = 1;
const SYNC_WRITE: u64 = 2;
const SYNC_START: u64 = 0;
const SYNC_END: u64 = 4;

/// DMA_BUF_IOCTL_SYNC, which takes a `struct dma_buf_sync`: flags in 64 bits.
const DMA_BUF_IOCTL_SYNC: rustix::ioctl::Opcode = opcode::write::<u64>(b'b', 0);

/// How often a dma-buf is open or mapped, in all processes.
///
/// # Errors
/// The kernel does not tell, as without /proc.
pub fn references(dmabuf: BorrowedFd<'_>) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", dmabuf.as_raw_fd()))?;
    references_in(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn references_in(fdinfo: &str) -> Option<u64> {
    let count = |line: &str| line.strip_prefix("count:")?.trim().parse().ok();
    fdinfo.lines().find_map(count)
}

/// Does `f` between the two calls with which the kernel brings the caches in step.
///
/// # Errors
/// The kernel cannot synchronise; `f` was not called, or what it wrote may not be seen by others.
pub fn in_step<T>(dmabuf: impl AsFd, access: CpuAccess, f: impl FnOnce() -> T) -> io::Result<T> {
    let access = match access {
        CpuAccess::Read => SYNC_READ,
        CpuAccess::Write => SYNC_WRITE,
    };
    sync(dmabuf.as_fd(), access | SYNC_START)?;
    let result = f();
    sync(dmabuf.as_fd(), access | SYNC_END)?;
    Ok(result)
}

fn sync(dmabuf: BorrowedFd<'_>, flags: u64) -> io::Result<()> {
    rustix::io::retry_on_intr(|| {
        // SAFETY: the opcode reads exactly one u64 of flags.
        unsafe { ioctl(dmabuf, Setter::<DMA_BUF_IOCTL_SYNC, u64>::new(flags)) }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_how_often_a_dma_buf_is_open() {
        let told = "pos:\t0\nflags:\t02000000\nsize:\t1228800\ncount:\t3\nexp_name:\tdrm\n";
        assert_eq!(references_in(told), Some(3));
        assert_eq!(references_in("pos:\t0\n"), None);
        assert_eq!(references_in("count:\t-1\n"), None);
    }
}
