//! The completion of a writeback job: a sync_file that the kernel signals when the pixels are in memory.
//!
//! A [`Fence`] is cheap to clone (one file descriptor behind it). The event loop watches one clone for readability;
//! whoever decides reads [`Fence::status`]. Nothing here ever waits.

use std::{
    fmt,
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use rustix::{
    event::{eventfd, EventfdFlags, PollFd, PollFlags},
    io::Errno,
    ioctl::{ioctl, opcode, Updater},
    time::{
        timerfd_create, timerfd_settime, Itimerspec, TimerfdClockId, TimerfdFlags,
        TimerfdTimerFlags, Timespec,
    },
};

/// What a fence says now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceStatus {
    /// Not signalled yet.
    Pending,
    /// Signalled without an error: the driver says that the job was completed.
    Signaled,
    /// Signalled with an error (a positive errno): the content of the buffer is undefined.
    Failed(i32),
}

/// What an injected fault makes of a fence; see [`crate::kms::fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceFault {
    /// It never signals.
    Never,
    /// It signals when the real one does, with EIO.
    Error,
    /// It signals that long after the commit.
    Late(Duration),
}

enum Source {
    /// The kernel's sync_file.
    Real(OwnedFd),
    /// Something that never becomes readable.
    Never(OwnedFd),
    /// A sync_file whose success is reported as a failure.
    Error(OwnedFd),
    /// A timer before the sync_file.
    Late { timer: OwnedFd, real: OwnedFd },
}

/// A completion fence. Readable (`POLLIN`) from the moment it is signalled.
#[derive(Clone)]
pub struct Fence(Arc<Source>);

impl Fence {
    /// Takes over a sync_file from the kernel.
    pub fn from_sync_file(fd: OwnedFd) -> Self {
        Self(Arc::new(Source::Real(fd)))
    }

    /// The same fence as a fault makes it appear.
    ///
    /// # Errors
    /// If the descriptor that stands in for the fence cannot be created.
    pub fn with_fault(fd: OwnedFd, fault: FenceFault) -> Result<Self, Errno> {
        Ok(Self(Arc::new(match fault {
            FenceFault::Never => Source::Never(eventfd(0, EventfdFlags::CLOEXEC)?),
            FenceFault::Error => Source::Error(fd),
            FenceFault::Late(delay) => Source::Late {
                timer: timer(delay)?,
                real: fd,
            },
        })))
    }

    /// Asks the kernel; never blocks. A descriptor that cannot be asked counts as failed, never as signalled.
    pub fn status(&self) -> FenceStatus {
        match &*self.0 {
            Source::Real(fd) => sync_file_status(fd.as_fd()),
            Source::Never(_) => FenceStatus::Pending,
            Source::Error(fd) => match sync_file_status(fd.as_fd()) {
                FenceStatus::Signaled => FenceStatus::Failed(Errno::IO.raw_os_error()),
                other => other,
            },
            Source::Late { timer, real } => match readable(timer.as_fd()) {
                Ok(true) => sync_file_status(real.as_fd()),
                Ok(false) => FenceStatus::Pending,
                Err(errno) => FenceStatus::Failed(errno.raw_os_error()),
            },
        }
    }
}

impl AsFd for Fence {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &*self.0 {
            Source::Real(fd) | Source::Never(fd) | Source::Error(fd) => fd.as_fd(),
            Source::Late { timer, real: _ } => timer.as_fd(),
        }
    }
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fence").field(&self.as_fd()).finish()
    }
}

/// `struct dma_buf_export_sync_file` of linux/dma-buf.h.
#[repr(C)]
struct ExportSyncFile {
    flags: u32,
    fd: i32,
}

/// DMA_BUF_IOCTL_EXPORT_SYNC_FILE, since Linux 6.0.
const EXPORT_SYNC_FILE: rustix::ioctl::Opcode = opcode::read_write::<ExportSyncFile>(b'b', 2);

/// DMA_BUF_SYNC_RW.
const READ_AND_WRITE: u32 = 3;

/// A sync_file that has signalled, made of a dma-buf that nobody uses yet.
///
/// # Errors
/// The kernel is too old, or out of descriptors; or somebody uses the dma-buf.
pub fn signalled(unused: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let mut export = ExportSyncFile {
        flags: READ_AND_WRITE,
        fd: -1,
    };
    // SAFETY: the opcode reads and writes exactly a `struct dma_buf_export_sync_file`.
    unsafe { ioctl(unused, Updater::<EXPORT_SYNC_FILE, _>::new(&mut export)) }?;
    // SAFETY: the kernel made this descriptor for us, and nobody else has it.
    let fence = unsafe { OwnedFd::from_raw_fd(export.fd) };
    match sync_file_status(fence.as_fd()) {
        FenceStatus::Signaled => Ok(fence),
        FenceStatus::Pending | FenceStatus::Failed(_) => Err(Errno::BUSY),
    }
}

/// `struct sync_file_info` of linux/sync_file.h.
#[repr(C)]
#[derive(Default)]
struct SyncFileInfo {
    name: [u8; 32],
    status: i32,
    flags: u32,
    num_fences: u32,
    pad: u32,
    sync_fence_info: u64,
}

/// SYNC_IOC_FILE_INFO.
const SYNC_IOC_FILE_INFO: rustix::ioctl::Opcode = opcode::read_write::<SyncFileInfo>(b'>', 4);

fn sync_file_status(fd: BorrowedFd<'_>) -> FenceStatus {
    let mut info = SyncFileInfo::default();
    // SAFETY: the opcode takes exactly a `struct sync_file_info`; with `num_fences` 0 the kernel writes only into it.
    let result = unsafe {
        ioctl(
            fd,
            Updater::<SYNC_IOC_FILE_INFO, SyncFileInfo>::new(&mut info),
        )
    };
    match (result, info.status) {
        (Err(errno), _) => FenceStatus::Failed(errno.raw_os_error()),
        (Ok(()), 0) => FenceStatus::Pending,
        (Ok(()), status) if status > 0 => FenceStatus::Signaled,
        (Ok(()), error) => FenceStatus::Failed(error.saturating_neg()),
    }
}

fn timer(delay: Duration) -> Result<OwnedFd, Errno> {
    let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
    let zero = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let value = Timespec {
        tv_sec: i64::try_from(delay.as_secs()).unwrap_or(i64::MAX),
        // A timer of zero would be a disarmed one.
        tv_nsec: i64::from(delay.subsec_nanos().max(1)),
    };
    let spec = Itimerspec {
        it_interval: zero,
        it_value: value,
    };
    timerfd_settime(&fd, TimerfdTimerFlags::empty(), &spec)?;
    Ok(fd)
}

/// Whether `fd` is readable now.
pub(crate) fn readable(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    ready(fd, PollFlags::IN)
}

/// Whether `fd` has one of `flags` now.
pub(crate) fn ready(fd: BorrowedFd<'_>, flags: PollFlags) -> Result<bool, Errno> {
    let mut fds = [PollFd::from_borrowed_fd(fd, flags)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let n = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&now)))?;
    Ok(n > 0 && fds.iter().any(|fd| fd.revents().intersects(flags)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn any_fd() -> OwnedFd {
        eventfd(1, EventfdFlags::CLOEXEC).unwrap()
    }

    #[test]
    fn what_is_no_sync_file_is_never_taken_for_signalled() {
        let fence = Fence::from_sync_file(any_fd());
        assert!(matches!(fence.status(), FenceStatus::Failed(_)));
    }

    #[test]
    fn a_never_fence_stays_pending_and_unreadable() {
        let fence = Fence::with_fault(any_fd(), FenceFault::Never).unwrap();
        assert_eq!(fence.status(), FenceStatus::Pending);
        assert!(!readable(fence.as_fd()).unwrap());
    }

    #[test]
    fn a_late_fence_is_pending_until_its_time() {
        let late =
            Fence::with_fault(any_fd(), FenceFault::Late(Duration::from_secs(3600))).unwrap();
        assert_eq!(late.status(), FenceStatus::Pending);
        let soon = Fence::with_fault(any_fd(), FenceFault::Late(Duration::ZERO)).unwrap();
        while !readable(soon.as_fd()).unwrap() {
            std::thread::yield_now();
        }
        // The real descriptor below is none of a fence: asked, and found wanting.
        assert!(matches!(soon.status(), FenceStatus::Failed(_)));
    }
}
