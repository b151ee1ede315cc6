//! The display controller: our own atomic loop, with the writeback connector as a normal part of a frame.
//!
//! This room knows DRM objects, commits, flips and fences. It must not know Wayland, clients, leases or the event
//! loop: the caller watches the file descriptors and passes the time in.
//!
//! | file | what it decides or does |
//! |---|---|
//! | [`device`] | opens the device for atomic use, reads its objects and its events |
//! | [`snapshot`] | plain data: what the device has |
//! | [`topology`], `matching` | pure: which connector gets which CRTC, planes and writeback connector |
//! | [`props`], [`request`] | typed properties, typed atomic requests |
//! | [`io`], [`fault`] | the one ioctl that matters as a trait, and the same with injected faults |
//! | [`pipeline`], [`pipeline_io`], [`modeset`] | one CRTC: pure states, and the commits that follow from them |
//! | [`power`] | a CRTC that is dark and has the rest still |
//! | [`foreign`], `lease` | planes that belong to somebody else |
//! | [`frame`] | what a CRTC shall show |
//! | [`writeback`], [`drivers`] | pure: may a job be armed, may it be believed |
//! | [`fence`], [`framebuffer`], [`ring_buffer`], [`canary`] | memory and its completion |
//! | [`probe`] | what `vitrine probe` prints |

pub mod canary;
pub mod client_target;
pub mod device;
pub mod drivers;
pub mod fault;
pub mod fence;
pub mod foreign;
pub mod frame;
pub mod framebuffer;
pub mod io;
mod lease;
pub mod mapping;
mod matching;
pub mod modeset;
pub mod pipeline;
pub mod pipeline_io;
pub mod power;
pub mod probe;
pub mod props;
pub mod request;
pub mod ring_buffer;
pub mod saved;
pub mod snapshot;
pub mod stats;
pub mod topology;
pub mod writeback;

pub use device::{Device, KmsEvent};
pub use fault::FaultPlan;
pub use fence::{Fence, FenceStatus};
pub use frame::{FrameState, PlaneUpdate};
pub use framebuffer::Framebuffer;
pub use io::CommitError;
pub use mapping::Mapping;
pub use modeset::ModesetReport;
pub use pipeline_io::{Committed, Pipeline, WritebackFb};
pub use probe::ProbeReport;
pub use ring_buffer::{Access, RingBuffer};
pub use snapshot::Snapshot;
pub use stats::{CrtcStats, Stats};
pub use topology::{assign, Assignment, Preferences};
pub use writeback::{ArmKind, JobId, Pacing, PacingMode, Refuse, Verdict};

/// Why something around a commit did not work; commits themselves fail with [`CommitError`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device cannot be driven by atomic commits.
    #[error("{device}: {what}: {source}. {advice}")]
    Device {
        /// Path or name of the device.
        device: String,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: std::io::Error,
        /// What the operator can do.
        advice: &'static str,
    },
    /// An object lacks a property that every atomic driver has.
    #[error(
        "{object} has no property {property}: this driver is not an atomic one; \
         update the kernel or choose another device with `drm_device` in compositor.toml"
    )]
    MissingProperty {
        /// Which object.
        object: String,
        /// Name of the property.
        property: &'static str,
    },
    /// The kernel refused a commit.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// Another system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}

impl Error {
    /// An [`Error::Io`], for `map_err`.
    pub(crate) fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        move |source| Error::Io { what, source }
    }
}
