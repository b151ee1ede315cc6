//! The ioctl border: one atomic commit, and what its errors mean.
//!
//! [`KmsIo`] has a real implementation on the device's file descriptor and a fault-injecting one in
//! [`crate::kms::fault`]. It must not know what a commit is for.

use std::{
    fmt,
    os::fd::{FromRawFd, OwnedFd, RawFd},
};

use drm::control::{AtomicCommitFlags, Device as _};
use rustix::io::Errno;
use smithay::backend::drm::DrmDeviceFd;

use super::{fence::Fence, pipeline::Blocked, request::AtomicRequest};

/// Why the kernel refused a commit. The text says what it means to the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// EBUSY: the previous commit on this CRTC is not done. Try again after its flip event.
    #[error("the previous commit on this CRTC is still pending (EBUSY); trying again after its flip event")]
    Busy,
    /// The CRTC is off; a modeset is needed first. The kernel was not asked.
    #[error("the CRTC is off; a modeset must come first")]
    Off,
    /// EINVAL, ERANGE, ENOENT, ENOSPC: the display controller cannot do this configuration.
    #[error(
        "the display controller cannot do this configuration ({0}); `vitrine probe` lists what it can, and booting with \
         drm.debug=0x16 makes the kernel log the reason"
    )]
    Invalid(ErrnoName),
    /// ENOMEM.
    #[error("the kernel had no memory for the commit (ENOMEM); a smaller mode or fewer `ring_slots` need less")]
    NoMemory,
    /// EACCES, EPERM: another process is DRM master, as during a VT switch.
    #[error(
        "not DRM master (EACCES); expected while another VT is in front, otherwise another compositor has the device"
    )]
    NotMaster,
    /// ENODEV, ENXIO, EIO: the device was removed or has died.
    #[error("the display device is gone ({0}); it was unplugged or its driver stopped")]
    Gone(ErrnoName),
    /// Anything else.
    #[error("the kernel refused the commit with {0}, which has no known meaning here; please report it with dmesg")]
    Other(ErrnoName),
}

/// An errno that prints as the kernel's text and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrnoName(pub Errno);

impl fmt::Display for ErrnoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errno = self.0;
        match errno {
            Errno::INVAL => f.write_str("EINVAL"),
            Errno::RANGE => f.write_str("ERANGE"),
            Errno::NOENT => f.write_str("ENOENT"),
            Errno::NOSPC => f.write_str("ENOSPC"),
            Errno::NODEV => f.write_str("ENODEV"),
            _ => write!(f, "errno {}: {errno}", errno.raw_os_error()),
        }
    }
}

impl CommitError {
    /// By what the errno means for a commit.
    pub fn from_errno(errno: Errno) -> Self {
        match errno {
            Errno::BUSY => Self::Busy,
            Errno::INVAL | Errno::RANGE | Errno::NOENT | Errno::NOSPC => {
                Self::Invalid(ErrnoName(errno))
            }
            Errno::NOMEM => Self::NoMemory,
            Errno::ACCESS | Errno::PERM => Self::NotMaster,
            Errno::NODEV | Errno::NXIO | Errno::IO => Self::Gone(ErrnoName(errno)),
            other => Self::Other(ErrnoName(other)),
        }
    }

    /// The errno behind it.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Busy => Errno::BUSY,
            Self::Off => Errno::INVAL,
            Self::NoMemory => Errno::NOMEM,
            Self::NotMaster => Errno::ACCESS,
            Self::Invalid(name) | Self::Gone(name) | Self::Other(name) => name.0,
        }
    }

    /// Whether the configuration itself was refused, so that another one may work.
    pub fn is_about_configuration(&self) -> bool {
        match self {
            Self::Invalid(_) | Self::NoMemory | Self::Other(_) => true,
            Self::Busy | Self::Off | Self::NotMaster | Self::Gone(_) => false,
        }
    }
}

impl From<Blocked> for CommitError {
    fn from(blocked: Blocked) -> Self {
        match blocked {
            Blocked::Off => Self::Off,
            Blocked::FlipPending => Self::Busy,
            Blocked::Paused => Self::NotMaster,
        }
    }
}

/// The border to the kernel's atomic ioctl.
pub trait KmsIo: fmt::Debug + Send + Sync {
    /// Performs `request`. The fence is the one of the writeback job, if the request has a job and is no test.
    ///
    /// # Errors
    /// What the kernel answered.
    fn commit(
        &self,
        request: &AtomicRequest,
        flags: AtomicCommitFlags,
    ) -> Result<Option<OwnedFd>, CommitError>;

    /// Makes a [`Fence`] of a job's sync_file; the place where a fault plan disguises it.
    fn fence(&self, fd: OwnedFd) -> Fence {
        Fence::from_sync_file(fd)
    }
}

/// The kernel.
#[derive(Debug)]
pub struct RealIo(pub DrmDeviceFd);

impl KmsIo for RealIo {
    fn commit(
        &self,
        request: &AtomicRequest,
        flags: AtomicCommitFlags,
    ) -> Result<Option<OwnedFd>, CommitError> {
        let mut properties = request.properties.clone();
        // The kernel writes a file descriptor through this address before the ioctl returns. It lives in this frame, so it
        // outlives the ioctl, and nothing else looks at it meanwhile.
        let mut out_fence: RawFd = -1;
        if let Some((connector, property)) = request.out_fence {
            let address = (&raw mut out_fence).expose_provenance();
            properties.add_raw_property(connector.into(), property, address as u64);
        }
        let result = self.0.atomic_commit(flags, properties);
        // SAFETY: `out_fence` is a live, aligned local. Volatile, because the write to it happened in the kernel.
        let out_fence = unsafe { std::ptr::read_volatile(&raw const out_fence) };
        result.map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            CommitError::from_errno(errno)
        })?;
        if out_fence < 0 {
            return Ok(None);
        }
        // SAFETY: a successful commit installed this descriptor for us; nobody else knows its number.
        Ok(Some(unsafe { OwnedFd::from_raw_fd(out_fence) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_errno_survives_the_classification() {
        for raw in 1..=133 {
            let errno = Errno::from_raw_os_error(raw);
            let error = CommitError::from_errno(errno);
            if errno == Errno::PERM {
                assert_eq!(error, CommitError::NotMaster);
            } else {
                assert_eq!(error.errno(), errno);
            }
        }
    }

    #[test]
    fn only_the_configuration_is_worth_another_configuration() {
        assert!(CommitError::from_errno(Errno::INVAL).is_about_configuration());
        assert!(!CommitError::from_errno(Errno::ACCESS).is_about_configuration());
        assert!(!CommitError::from_errno(Errno::BUSY).is_about_configuration());
    }
}
