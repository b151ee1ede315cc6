//! When an application is asked to end and when it is killed. Pure: time comes in, signals come out.

use std::time::Duration;

use rustix::process::Signal;

use crate::time::Time;

/// How long an application may take to end after SIGTERM.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The end of an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shutdown {
    /// Nobody has asked.
    #[default]
    Running,
    /// SIGTERM was sent.
    Asked {
        /// SIGKILL follows then.
        kill_at: Time,
    },
    /// SIGKILL was sent.
    Killed,
    /// The application has ended.
    Gone,
}

impl Shutdown {
    /// Somebody wants the application to end: first politely, the second time by force.
    pub fn request(&mut self, now: Time) -> Option<Signal> {
        match *self {
            Self::Running => {
                *self = Self::Asked {
                    kill_at: now + PATIENCE,
                };
                Some(Signal::TERM)
            }
            Self::Asked { .. } => {
                *self = Self::Killed;
                Some(Signal::KILL)
            }
            Self::Killed | Self::Gone => None,
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Time) -> Option<Signal> {
        match *self {
            Self::Asked { kill_at } if now >= kill_at => {
                *self = Self::Killed;
                Some(Signal::KILL)
            }
            Self::Running | Self::Asked { .. } | Self::Killed | Self::Gone => None,
        }
    }

    /// The application has ended.
    pub fn exited(&mut self) {
        *self = Self::Gone;
    }

    /// When [`Shutdown::tick`] has something to do.
    pub fn next_deadline(&self) -> Option<Time> {
        match *self {
            Self::Asked { kill_at } => Some(kill_at),
            Self::Running | Self::Killed | Self::Gone => None,
        }
    }
}
