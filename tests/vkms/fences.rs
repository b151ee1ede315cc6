//! Fences that a client puts onto memory of which it was given a descriptor. The kernel lets everybody do that who has one,
//! also if it is for reading only, and waits for them before it shows such memory or lets a CPU read it.

use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

use rustix::ioctl::{ioctl, opcode, Setter, Updater};

/// A line of time that stands still: what it is asked for never happens, until it is dropped.
pub struct Stopped(File);

/// `struct sw_sync_create_fence_data` of the kernel's sw_sync.c.
#[repr(C)]
struct CreateFence {
    value: u32,
    name: [u8; 32],
    fence: i32,
}

/// `struct dma_buf_import_sync_file` of linux/dma-buf.h.
#[repr(C)]
struct ImportSyncFile {
    flags: u32,
    fd: i32,
}

const CREATE_FENCE: rustix::ioctl::Opcode = opcode::read_write::<CreateFence>(b'W', 0);
const IMPORT_SYNC_FILE: rustix::ioctl::Opcode = opcode::write::<ImportSyncFile>(b'b', 3);

/// DMA_BUF_SYNC_RW: as if somebody still wrote it.
const READ_AND_WRITE: u32 = 3;

/// DMA_BUF_SYNC_READ: as if somebody still read it.
const READ: u32 = 1;

impl Stopped {
    pub fn new() -> Self {
        let path = "/sys/kernel/debug/sync/sw_sync";
        Self(File::options().read(true).write(true).open(path).unwrap())
    }

    /// Whoever waits for this memory waits as long as `self` is there.
    pub fn hold(&self, dmabuf: impl AsFd) {
        self.put(dmabuf, READ_AND_WRITE);
    }

    /// The same of whoever waits to write it; who reads it does not.
    pub fn hold_from_writers(&self, dmabuf: impl AsFd) {
        self.put(dmabuf, READ);
    }

    fn put(&self, dmabuf: impl AsFd, flags: u32) {
        let mut create = CreateFence {
            value: 1,
            name: [0; 32],
            fence: -1,
        };
        // SAFETY: the opcode reads and writes exactly this structure.
        unsafe { ioctl(&self.0, Updater::<CREATE_FENCE, _>::new(&mut create)) }.unwrap();
        // SAFETY: a new descriptor that nobody else has.
        let fence = unsafe { OwnedFd::from_raw_fd(create.fence) };
        let import = ImportSyncFile {
            flags,
            fd: fence.as_raw_fd(),
        };
        // SAFETY: the opcode reads exactly this structure.
        unsafe { ioctl(dmabuf, Setter::<IMPORT_SYNC_FILE, _>::new(import)) }.unwrap();
    }
}
