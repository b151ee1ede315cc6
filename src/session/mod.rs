//! The seat's session: which device nodes there are, opening them with the seat's rights, readiness for systemd.
//!
//! Must not know: what the devices are used for.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use rustix::process::{
    getpriority_process, getrlimit, setpriority_process, setrlimit, Resource, Rlimit,
};

use smithay::{
    backend::{
        session::{
            libseat::{LibSeatSession, LibSeatSessionNotifier},
            Session,
        },
        udev::{all_gpus, primary_gpu},
    },
    reexports::rustix::fs::OFlags,
    utils::DeviceFd,
};

use crate::config::DeviceChoice;

/// Why the session cannot get a device.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// No seat.
    #[error("no seat: {0}; run vitrine from a logind session or with seatd running (the user in its group)")]
    NoSeat(String),
    /// No display device at all.
    #[error("no display device found on {seat}; is a DRM driver loaded? `ls /dev/dri` shows the nodes, `drm_device` in compositor.toml names one")]
    NoDevice {
        /// The seat's name.
        seat: String,
    },
    /// The seat refused the node.
    #[error("{} cannot be opened: {reason}; `drm_device` in compositor.toml names another node", path.display())]
    Open {
        /// The node.
        path: PathBuf,
        /// What the seat daemon said.
        reason: String,
    },
}

static ORIGINAL_DESCRIPTORS: OnceLock<Rlimit> = OnceLock::new();

/// Raises the limit of open descriptors to what the system allows: every client, buffer, fence and frame is one, and a
/// client that hoards them must meet its own limit before it meets ours.
pub fn raise_descriptor_limit() {
    let original = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: original.maximum,
        maximum: original.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(target: "vitrine::session", %error, "the limit of open descriptors stays");
        return;
    }
    let _ = ORIGINAL_DESCRIPTORS.set(original);
}

static ORIGINAL_NICE: OnceLock<i32> = OnceLock::new();

/// Gives the calling thread, which is the event loop's, this nice value (-20 to 0) if the system lets us: a screen that is
/// drawn late because the application computes is what a user notices first. Threads that are there already keep theirs.
pub fn raise_priority(nice: i32) {
    let Ok(original) = getpriority_process(None) else {
        return;
    };
    if nice >= original {
        return;
    }
    match setpriority_process(None, nice) {
        Ok(()) => {
            tracing::debug!(target: "vitrine::session", nice, original, "the event loop has priority");
            let _ = ORIGINAL_NICE.set(original);
        }
        Err(error) => {
            tracing::debug!(
                target: "vitrine::session", nice, %error,
                "the event loop has no priority; `LimitNICE=` in the unit, or CAP_SYS_NICE, allows it"
            );
        }
    }
}

/// Gives the calling thread the nice value that we were started with: threads and programs that the event loop starts
/// inherit its own. Allocates nothing, so that it can be called between fork and exec.
///
/// # Errors
/// None that is known: everybody may give up priority.
pub fn restore_priority() -> std::io::Result<()> {
    match ORIGINAL_NICE.get() {
        Some(nice) => Ok(setpriority_process(None, *nice)?),
        None => Ok(()),
    }
}

/// The limit that we were started with, if it was raised: for programs that we start.
pub fn original_descriptor_limit() -> Option<Rlimit> {
    ORIGINAL_DESCRIPTORS.get().cloned()
}

/// Connects to logind or seatd.
///
/// # Errors
/// [`SessionError::NoSeat`] when neither answers.
pub fn open_seat() -> Result<(LibSeatSession, LibSeatSessionNotifier), SessionError> {
    LibSeatSession::new().map_err(|error| SessionError::NoSeat(error.to_string()))
}

/// Device nodes to try, the best first: the configured one alone, else the boot display, then all others.
///
/// # Errors
/// [`SessionError::NoDevice`] when the seat has none.
pub fn display_nodes(choice: &DeviceChoice, seat: &str) -> Result<Vec<PathBuf>, SessionError> {
    if let DeviceChoice::Path(path) = choice {
        return Ok(vec![path.clone()]);
    }
    let mut nodes: Vec<PathBuf> = primary_gpu(seat).ok().flatten().into_iter().collect();
    for node in all_gpus(seat).unwrap_or_default() {
        if !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    if nodes.is_empty() {
        return Err(SessionError::NoDevice {
            seat: seat.to_owned(),
        });
    }
    Ok(nodes)
}

/// Opens a device node through the seat.
///
/// # Errors
/// [`SessionError::Open`] with what the seat daemon said.
pub fn open_device(session: &mut LibSeatSession, path: &Path) -> Result<DeviceFd, SessionError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    session
        .open(path, flags)
        .map(DeviceFd::from)
        .map_err(|error| SessionError::Open {
            path: path.to_owned(),
            reason: error.to_string(),
        })
}

/// Tells systemd that the session is up, where systemd asked for it.
pub fn notify_ready() {
    if let Err(error) = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]) {
        tracing::debug!(target: "vitrine::session", %error, "sd_notify");
    }
}

/// Tells systemd that the session ends.
pub fn notify_stopping() {
    if let Err(error) = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]) {
        tracing::debug!(target: "vitrine::session", %error, "sd_notify");
    }
}
