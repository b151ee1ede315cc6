//! CLOCK_MONOTONIC, the clock on which capture protocols and presentation-time speak.

use std::time::Duration;

use rustix::time::{clock_gettime, ClockId};

/// Now, as the distance from the clock's origin.
pub fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// The three words in which Wayland events carry a time.
pub fn from_protocol(sec_hi: u32, sec_lo: u32, nsec: u32) -> Duration {
    Duration::new((u64::from(sec_hi) << 32) | u64::from(sec_lo), nsec)
}

/// The value below which `percent` of the sorted copy of `values` lie; zero for no values.
pub fn percentile(values: &[Duration], percent: usize) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let last = sorted.len().saturating_sub(1);
    sorted
        .get(last * percent.min(100) / 100)
        .copied()
        .unwrap_or_default()
}
