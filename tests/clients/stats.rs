//! What a capture loop counts, and how it travels from process to process: `key=value` lines.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, time::Duration};

use super::clock::percentile;

/// Figures of one capture client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaptureStats {
    /// Frames that became ready.
    pub frames: u64,
    /// Requests that were cancelled or failed.
    pub failures: u64,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Presentation times of the frames, in order.
    pub presented: Vec<Duration>,
    /// From each frame's presentation to its `ready`.
    pub latencies: Vec<Duration>,
    /// How many different buffers were seen (export only; 0 where unknown).
    pub buffers: usize,
}

impl CaptureStats {
    /// Notes a frame.
    pub fn frame(&mut self, presented: Duration, ready: Duration) {
        self.frames += 1;
        self.presented.push(presented);
        self.latencies.push(ready.saturating_sub(presented));
    }

    /// Half of the frames were ready sooner than this after their flip.
    pub fn median(&self) -> Duration {
        percentile(&self.latencies, 50)
    }

    /// 99 of 100 frames were ready sooner than this after their flip.
    pub fn p99(&self) -> Duration {
        percentile(&self.latencies, 99)
    }

    /// Times that go backwards or repeat: there should be none.
    pub fn disorder(&self) -> usize {
        self.presented
            .windows(2)
            .filter(|pair| pair[1] <= pair[0])
            .count()
    }

    /// Writes the figures to a file at once, so that a reader never sees half of them.
    pub fn save(&self, path: &Path) -> std::io::Result<()> {
        let partial = path.with_extension("partial");
        fs::write(&partial, self.to_text())?;
        fs::rename(partial, path)
    }

    /// The figures that [`Self::save`] wrote.
    pub fn load(path: &Path) -> std::io::Result<Self> {
        Ok(Self::from_text(&fs::read_to_string(path)?))
    }

    /// As lines of `key=value`; times in nanoseconds.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (key, value) in [
            ("frames", self.frames.to_string()),
            ("failures", self.failures.to_string()),
            ("elapsed", self.elapsed.as_nanos().to_string()),
            ("buffers", self.buffers.to_string()),
            ("presented", list(&self.presented)),
            ("latencies", list(&self.latencies)),
        ] {
            let _ = writeln!(text, "{key}={value}");
        }
        text
    }

    /// Reads [`Self::to_text`]; what is missing is zero.
    pub fn from_text(text: &str) -> Self {
        let values = key_values(text);
        let get = |key: &str| values.get(key).map_or("", String::as_str);
        let times = |key| get(key).split(',').filter_map(nanos).collect();
        Self {
            frames: get("frames").parse().unwrap_or(0),
            failures: get("failures").parse().unwrap_or(0),
            elapsed: nanos(get("elapsed")).unwrap_or_default(),
            buffers: get("buffers").parse().unwrap_or(0),
            presented: times("presented"),
            latencies: times("latencies"),
        }
    }
}

fn list(times: &[Duration]) -> String {
    times
        .iter()
        .map(|time| time.as_nanos().to_string())
        .collect::<Vec<_>>()
        .join(",")
}

fn nanos(word: &str) -> Option<Duration> {
    word.trim().parse().ok().map(Duration::from_nanos)
}

/// All words `key=value` of a text; quotes around a value are dropped.
pub fn key_values(text: &str) -> BTreeMap<String, String> {
    text.split_whitespace()
        .filter_map(|word| word.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned()))
        .collect()
}
