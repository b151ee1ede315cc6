//! How long frames take from the screen to the client: a histogram of fixed size. Counting allocates nothing.

use std::time::Duration;

/// Upper bounds of the buckets, in microseconds; one more bucket takes what is longer. A refresh at 60 Hz is 16.7 ms:
/// half of it, one, two, three are told apart.
pub const BOUNDS_MICROS: [u64; 14] = [
    250, 500, 1_000, 2_000, 4_000, 8_000, 12_000, 17_000, 25_000, 34_000, 50_000, 100_000, 250_000,
    1_000_000,
];

const BUCKETS: usize = BOUNDS_MICROS.len() + 1;

/// Times from a flip to the moment at which its picture is ready for a client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Latencies {
    counts: [u64; BUCKETS],
    sum_micros: u64,
}

impl Latencies {
    /// Counts one.
    pub fn add(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let place = BOUNDS_MICROS.partition_point(|bound| *bound < micros);
        if let Some(count) = self.counts.get_mut(place) {
            *count += 1;
        }
        self.sum_micros = self.sum_micros.saturating_add(micros);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All of them added up, in microseconds.
    pub fn sum_micros(&self) -> u64 {
        self.sum_micros
    }

    /// For each bucket how many fell into it; the last one is of those above all bounds.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// A time, in microseconds, that `percent` of all did not exceed: the upper bound of the bucket, so at most one
    /// bucket too long. `None` if nothing was counted or it lies above the last bound.
    pub fn percentile_micros(&self, percent: u64) -> Option<u64> {
        let count = self.count();
        let rank = (count.saturating_mul(percent)).div_ceil(100).max(1);
        let mut seen = 0;
        for (bound, count) in BOUNDS_MICROS.iter().zip(&self.counts) {
            seen += count;
            if seen >= rank {
                return Some(*bound);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_the_bucket_below_it() {
        let mut latencies = Latencies::default();
        for micros in [0, 250, 251, 1_000_000, 1_000_001] {
            latencies.add(Duration::from_micros(micros));
        }
        let mut expected = [0; BUCKETS];
        [expected[0], expected[1], expected[13], expected[14]] = [2, 1, 1, 1];
        assert_eq!(latencies.counts(), expected);
        assert_eq!(latencies.count(), 5);
        assert_eq!(latencies.sum_micros(), 2_000_502);
    }

    #[test]
    fn a_percentile_is_the_bound_that_so_many_did_not_exceed() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentile_micros(50), None);
        for _ in 0..98 {
            latencies.add(Duration::from_millis(3));
        }
        latencies.add(Duration::from_millis(20));
        latencies.add(Duration::from_secs(20));
        assert_eq!(latencies.percentile_micros(50), Some(4_000));
        assert_eq!(latencies.percentile_micros(98), Some(4_000));
        assert_eq!(latencies.percentile_micros(99), Some(25_000));
        assert_eq!(latencies.percentile_micros(100), None);
    }
}
