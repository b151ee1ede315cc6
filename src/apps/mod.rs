//! Runs the application: starts it in a session of its own, tells when and how it ended, and ends it when the compositor
//! goes.
//!
//! Knows no Wayland object and no event loop: the compositor watches [`App::pidfd`] for reading and then calls
//! [`App::reap`]. What to send and when is decided by [`Shutdown`], which has no clock.

mod shutdown;
mod spawn;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::Child,
};

use rustix::process::{
    kill_process_group, pidfd_open, waitid, Pid, PidfdFlags, Signal, WaitId, WaitIdOptions,
    WaitIdStatus,
};

pub use self::{
    shutdown::{Shutdown, PATIENCE},
    spawn::{AppEnvironment, StartError},
};
use crate::time::Time;

/// How an application ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppExit {
    /// By itself, with this code.
    Code(u8),
    /// By this signal.
    Signal(u8),
}

impl AppExit {
    /// The exit code for the compositor: the application's own, or 128 + N after signal N, as shells do.
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128_u8.saturating_add(signal),
        }
    }

    fn from_status(status: &WaitIdStatus) -> Option<Self> {
        // The kernel keeps eight bits of an exit code; signals are at most 64.
        let narrow = |number: i32| u8::try_from(number & 0xff).unwrap_or(u8::MAX);
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Some(Self::Code(narrow(code))),
            (None, Some(signal)) => Some(Self::Signal(narrow(signal))),
            (None, None) => None,
        }
    }
}

impl fmt::Display for AppExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// A running application. Dropping it kills what is left of its process group.
///
/// The application stays a zombie until the drop, even after [`App::reap`] told its end: so its process group id
/// cannot come to name somebody else's processes.
#[derive(Debug)]
pub struct App {
    child: Child,
    group: Pid,
    pidfd: OwnedFd,
    shutdown: Shutdown,
    exit: Option<AppExit>,
}

impl App {
    /// Starts `command` (the program, then its arguments).
    ///
    /// # Errors
    /// See [`StartError`]; its [`StartError::exit_code`] is the one that shells use.
    pub fn start(
        command: &[impl AsRef<std::ffi::OsStr>],
        environment: &AppEnvironment,
    ) -> Result<Self, StartError> {
        let child = spawn::spawn(command, environment)?;
        let group = Pid::from_child(&child);
        let pidfd = match pidfd_open(group, PidfdFlags::NONBLOCK) {
            Ok(pidfd) => pidfd,
            Err(errno) => {
                let _ = kill_process_group(group, Signal::KILL);
                return Err(StartError::Unwatched {
                    source: errno.into(),
                });
            }
        };
        tracing::info!(pid = group.as_raw_nonzero().get(), "application started");
        Ok(Self {
            child,
            group,
            pidfd,
            shutdown: Shutdown::default(),
            exit: None,
        })
    }

    /// Becomes readable when the application has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The application's process id, also the id of its process group and session.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How the application ended; `None` while it runs. Never waits.
    ///
    /// # Errors
    /// The kernel does not answer for the process; there is nothing to do but to treat it as gone.
    pub fn reap(&mut self) -> std::io::Result<Option<AppExit>> {
        if self.exit.is_none() {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            let status = waitid(WaitId::PidFd(self.pidfd.as_fd()), options)?;
            self.exit = status.as_ref().and_then(AppExit::from_status);
            if let Some(exit) = self.exit {
                tracing::info!(pid = self.pid(), %exit, "application ended");
                self.shutdown.exited();
            }
        }
        Ok(self.exit)
    }

    /// Asks the application's process group to end. Asked again, it is killed.
    pub fn stop(&mut self, now: Time) {
        let signal = self.shutdown.request(now);
        self.send(signal);
    }

    /// Does what is due at [`App::next_deadline`].
    pub fn tick(&mut self, now: Time) {
        let signal = self.shutdown.tick(now);
        self.send(signal);
    }

    /// When [`App::tick`] has to be called next.
    pub fn next_deadline(&self) -> Option<Time> {
        self.shutdown.next_deadline()
    }

    fn send(&self, signal: Option<Signal>) {
        let Some(signal) = signal else { return };
        tracing::debug!(
            pid = self.pid(),
            ?signal,
            "signal to the application's group"
        );
        if let Err(error) = kill_process_group(self.group, signal) {
            // ESRCH: everybody is gone already.
            tracing::debug!(pid = self.pid(), %error, "the group took no signal");
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.send(Some(Signal::KILL));
        // By its own id too: the wait below must not depend on the group.
        if let Err(error) = self.child.kill() {
            tracing::debug!(%error, "the application could not be killed");
        }
        // Returns soon: the process has just been killed, and it could not refuse.
        if let Err(error) = self.child.wait() {
            tracing::debug!(%error, "the application could not be waited for");
        }
    }
}
