//! Points in time on CLOCK_MONOTONIC, the clock of flips, deadlines and presentation times.
//!
//! Decisions in Vitrine take the time as an argument; only the event loop asks for [`Time::now`].

use std::{ops::Add, time::Duration};

use rustix::time::{clock_gettime, ClockId};

/// A point on CLOCK_MONOTONIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(Duration);

impl Time {
    /// The kernel's current CLOCK_MONOTONIC.
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        Self(Duration::new(
            u64::try_from(now.tv_sec).unwrap_or(0),
            u32::try_from(now.tv_nsec).unwrap_or(0),
        ))
    }

    /// The point that lies `since_origin` after the clock's origin.
    pub const fn from_duration(since_origin: Duration) -> Self {
        Self(since_origin)
    }

    /// Distance from the clock's origin, as protocols send it.
    pub const fn as_duration(self) -> Duration {
        self.0
    }

    /// How much later `self` is than `earlier`; zero if it is not later.
    pub fn saturating_since(self, earlier: Time) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, rhs: Duration) -> Time {
        Time(self.0.saturating_add(rhs))
    }
}
