//! The counters as OpenMetrics text, for `vitrine msg metrics` and for node exporter's textfile collector.
//!
//! Reports go in, text comes out; [`MetricsFile`] writes it from a thread of its own. The text keeps to what both
//! OpenMetrics 1.0 and Prometheus' older text format can read: no `info` and `stateset` types, no timestamps.

mod file;
#[cfg(test)]
mod strict;

use std::fmt::Write;

use crate::ipc::wire::{
    CaptureReport, ClientReport, LatencyReport, OutputReport, PowerWord, WindowReport,
};

pub use self::file::MetricsFile;

/// What the text is made of.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// The screens.
    pub outputs: Vec<OutputReport>,
    /// Their capture sides.
    pub captures: Vec<CaptureReport>,
    /// Captures of windows.
    pub windows: WindowTotals,
}

/// What captures of windows did so far, those that have ended too. As windows come and go, one series for each would be ever
/// more series.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WindowTotals {
    /// Windows that are captured now.
    pub captured: u64,
    frames: u64,
    copies: u64,
    gpu_copies: u64,
    copied_bytes: u64,
}

impl WindowTotals {
    /// Adds the capture of one window.
    pub fn add(&mut self, window: &WindowReport) {
        self.frames += window.frames;
        self.copies += window.copies;
        self.gpu_copies += window.gpu_copies;
        self.copied_bytes += window.copied_bytes;
    }
}

type OfOutput = (&'static str, &'static str, fn(&OutputReport) -> u64);
type OfCapture = (&'static str, &'static str, fn(&CaptureReport) -> u64);
type OfWindows = (&'static str, &'static str, fn(&WindowTotals) -> u64);
type OfClient = (&'static str, &'static str, fn(&ClientReport) -> u64);

const OUTPUT_COUNTERS: [OfOutput; 3] = [
    ("vitrine_output_flips", "Page flips.", |o| o.flips),
    (
        "vitrine_output_commits",
        "Atomic commits that changed something.",
        |o| o.commits,
    ),
    ("vitrine_output_modesets", "Commits that set a mode.", |o| {
        o.modesets
    }),
];

const CAPTURE_COUNTERS: [OfCapture; 17] = [
    (
        "vitrine_capture_frames",
        "Captured frames published.",
        |c| c.frames,
    ),
    (
        "vitrine_capture_rendered_frames",
        "Of the captured frames, those that the renderer made.",
        |c| c.rendered,
    ),
    (
        "vitrine_capture_leased_frames",
        "Of the rendered frames, those that lie in the buffer on the screen and that nobody wrote.",
        |c| c.leased,
    ),
    (
        "vitrine_capture_passthrough_frames",
        "Of the captured frames, those that the writeback connector wrote into a client's memory.",
        |c| c.passthrough,
    ),
    (
        "vitrine_capture_deliveries",
        "Frames delivered to clients.",
        |c| c.delivered,
    ),
    (
        "vitrine_capture_jobs",
        "Writeback jobs, probes included.",
        |c| c.jobs,
    ),
    (
        "vitrine_capture_probes",
        "Writeback jobs that only probed the connector.",
        |c| c.probes,
    ),
    (
        "vitrine_capture_lost_jobs",
        "Writeback jobs that did not come back in time.",
        |c| c.lost,
    ),
    (
        "vitrine_capture_late_jobs",
        "Writeback jobs that came back too late to be believed.",
        |c| c.late,
    ),
    (
        "vitrine_capture_failed_jobs",
        "Writeback jobs that ended with an error.",
        |c| c.failed,
    ),
    (
        "vitrine_capture_stalls",
        "Times that the writeback connector was given up for a while.",
        |c| c.stalls,
    ),
    (
        "vitrine_capture_recoveries",
        "Times that the writeback connector came back.",
        |c| c.recoveries,
    ),
    (
        "vitrine_capture_voids",
        "Frames taken back from clients that held them too long.",
        |c| c.voids,
    ),
    (
        "vitrine_capture_overruled_fences",
        "Capture buffers used again although fences that clients put there did not signal.",
        |c| c.overruled,
    ),
    (
        "vitrine_capture_copies",
        "Copies into clients' memory.",
        |c| c.copies,
    ),
    (
        "vitrine_capture_gpu_copies",
        "Of the copies into clients' memory, those that the GPU made.",
        |c| c.gpu_copies,
    ),
    (
        "vitrine_capture_copied_bytes",
        "Bytes copied into clients' memory.",
        |c| c.copied_bytes,
    ),
];

const CAPTURE_GAUGES: [OfCapture; 7] = [
    (
        "vitrine_capture_available",
        "Whether frames can be captured (1) or not (0).",
        |c| u64::from(c.unavailable.is_none()),
    ),
    (
        "vitrine_capture_trusted",
        "Whether the writeback connector is believed (1) or not (0).",
        |c| u64::from(c.trust == "trusted"),
    ),
    (
        "vitrine_capture_quarantined_slots",
        "Slots whose job is overdue.",
        |c| c.quarantined,
    ),
    (
        "vitrine_capture_held_slots",
        "Slots that somebody reads.",
        |c| c.held,
    ),
    (
        "vitrine_capture_buffers",
        "Capture buffers that exist.",
        |c| c.buffers,
    ),
    (
        "vitrine_capture_history_frames",
        "Frames kept as history.",
        |c| c.history,
    ),
    ("vitrine_capture_clients", "Clients that capture.", |c| {
        c.clients.len() as u64
    }),
];

const CLIENT_COUNTERS: [OfClient; 6] = [
    (
        "vitrine_capture_client_frames",
        "Frames delivered to a client that is connected.",
        |c| c.frames,
    ),
    (
        "vitrine_capture_client_passthrough_frames",
        "Of these, frames that the writeback connector wrote into the client's memory.",
        |c| c.passthrough,
    ),
    (
        "vitrine_capture_client_copies",
        "Copies into the memory of a client that is connected.",
        |c| c.copies,
    ),
    (
        "vitrine_capture_client_gpu_copies",
        "Of these, copies that the GPU made.",
        |c| c.gpu_copies,
    ),
    (
        "vitrine_capture_client_copied_bytes",
        "Bytes copied into the memory of a client that is connected.",
        |c| c.copied_bytes,
    ),
    (
        "vitrine_capture_client_overdue_frames",
        "Frames that a connected client held too long.",
        |c| c.overdue,
    ),
];

const WINDOW_COUNTERS: [OfWindows; 4] = [
    (
        "vitrine_window_capture_frames",
        "Pictures of single windows that were drawn for captures.",
        |w| w.frames,
    ),
    (
        "vitrine_window_capture_copies",
        "Copies of these into clients' memory.",
        |w| w.copies,
    ),
    (
        "vitrine_window_capture_gpu_copies",
        "Of these copies, those that the GPU made.",
        |w| w.gpu_copies,
    ),
    (
        "vitrine_window_capture_copied_bytes",
        "Bytes of pictures of windows copied into clients' memory.",
        |w| w.copied_bytes,
    ),
];

/// The text.
pub fn openmetrics(snapshot: &Snapshot) -> String {
    let mut text = Text::default();
    text.family(
        "vitrine_build",
        "gauge",
        "Always 1; the label tells the version.",
    );
    text.sample(
        "vitrine_build",
        "",
        &[("version", env!("CARGO_PKG_VERSION"))],
        1,
    );
    for (name, help, value) in OUTPUT_COUNTERS {
        text.family(name, "counter", help);
        for output in &snapshot.outputs {
            text.sample(name, "_total", &[("output", &output.name)], value(output));
        }
    }
    let name = "vitrine_output_on";
    text.family(name, "gauge", "Whether the screen is on (1) or off (0).");
    for output in &snapshot.outputs {
        let on = u64::from(output.power == PowerWord::On);
        text.sample(name, "", &[("output", &output.name)], on);
    }
    for (name, help, value) in CAPTURE_COUNTERS {
        text.family(name, "counter", help);
        for capture in &snapshot.captures {
            text.sample(
                name,
                "_total",
                &[("output", &capture.output)],
                value(capture),
            );
        }
    }
    skipped(&mut text, &snapshot.captures);
    for (name, help, value) in CAPTURE_GAUGES {
        text.family(name, "gauge", help);
        for capture in &snapshot.captures {
            text.sample(name, "", &[("output", &capture.output)], value(capture));
        }
    }
    text.family(
        "vitrine_capture_flip_to_ready_seconds",
        "histogram",
        "From a flip to the moment at which its picture was ready for a client.",
    );
    for capture in &snapshot.captures {
        let labels = [("output", capture.output.as_str())];
        text.histogram(
            "vitrine_capture_flip_to_ready_seconds",
            &labels,
            &capture.flip_to_ready,
        );
    }
    clients(&mut text, &snapshot.captures);
    for (name, help, value) in WINDOW_COUNTERS {
        text.family(name, "counter", help);
        text.sample(name, "_total", &[], value(&snapshot.windows));
    }
    let name = "vitrine_window_captures";
    text.family(name, "gauge", "Windows that are captured by themselves.");
    text.sample(name, "", &[], snapshot.windows.captured);
    text.0.push_str("# EOF\n");
    text.0
}

fn skipped(text: &mut Text, captures: &[CaptureReport]) {
    let name = "vitrine_capture_skipped_commits";
    text.family(
        name,
        "counter",
        "Commits without the frame that somebody wanted, by reason.",
    );
    for capture in captures {
        let skipped = &capture.skipped;
        for (reason, count) in [
            ("no_free_slot", skipped.no_free_slot),
            ("draining", skipped.draining),
            ("connector", skipped.connector),
            ("no_buffers", skipped.no_buffers),
        ] {
            let labels = [("output", capture.output.as_str()), ("reason", reason)];
            text.sample(name, "_total", &labels, count);
        }
    }
}

fn clients(text: &mut Text, captures: &[CaptureReport]) {
    for (name, help, value) in CLIENT_COUNTERS {
        text.family(name, "counter", help);
        of_clients(text, name, "_total", captures, value);
    }
    let name = "vitrine_capture_client_held_slots";
    text.family(name, "gauge", "Slots that a client holds.");
    of_clients(text, name, "", captures, |client| client.held);
}

fn of_clients(
    text: &mut Text,
    name: &str,
    suffix: &str,
    captures: &[CaptureReport],
    value: fn(&ClientReport) -> u64,
) {
    for capture in captures {
        for client in &capture.clients {
            let number = client.client.to_string();
            let labels = [("output", capture.output.as_str()), ("client", &number)];
            text.sample(name, suffix, &labels, value(client));
        }
    }
}

#[derive(Default)]
struct Text(String);

impl Text {
    /// The lines before the samples of a metric. A unit is the last word of the name.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String does not fail.
        let _ = writeln!(self.0, "# TYPE {name} {kind}");
        for unit in ["seconds", "bytes"] {
            if name.ends_with(&format!("_{unit}")) {
                let _ = writeln!(self.0, "# UNIT {name} {unit}");
            }
        }
        let _ = writeln!(self.0, "# HELP {name} {help}");
    }

    fn sample(
        &mut self,
        name: &str,
        suffix: &str,
        labels: &[(&str, &str)],
        value: impl std::fmt::Display,
    ) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(label, value)| format!("{label}=\"{}\"", escaped(value)))
            .collect();
        let _ = match labels.as_slice() {
            [] => writeln!(self.0, "{name}{suffix} {value}"),
            labels => writeln!(self.0, "{name}{suffix}{{{}}} {value}", labels.join(",")),
        };
    }

    /// Buckets add up; times become seconds.
    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], report: &LatencyReport) {
        let mut below = 0;
        for bucket in &report.buckets {
            below += bucket.count;
            let bound = match bucket.le_us {
                Some(micros) => seconds(micros),
                None => "+Inf".to_owned(),
            };
            let labels: Vec<_> = labels
                .iter()
                .copied()
                .chain([("le", bound.as_str())])
                .collect();
            self.sample(name, "_bucket", &labels, below);
        }
        self.sample(name, "_sum", labels, seconds(report.sum_us));
        self.sample(name, "_count", labels, report.count);
    }
}

/// Microseconds as a decimal number of seconds, exactly.
fn seconds(micros: u64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

/// As a label's value.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "tests fail by panicking"
    )]

    use super::*;
    use crate::capture::Latencies;
    use std::time::Duration;

    fn snapshot() -> Snapshot {
        let mut latencies = Latencies::default();
        for millis in [3, 5, 5000] {
            latencies.add(Duration::from_millis(millis));
        }
        let client = ClientReport {
            client: 3,
            frames: 7,
            ..ClientReport::default()
        };
        let capture = CaptureReport {
            output: "odd\"\\\nname".to_owned(),
            frames: 41,
            trust: "trusted".to_owned(),
            gpu_copies: 5,
            copied_bytes: 1 << 40,
            flip_to_ready: LatencyReport::from(&latencies),
            clients: vec![client],
            ..CaptureReport::default()
        };
        let second = CaptureReport {
            output: "DP-2".to_owned(),
            flip_to_ready: LatencyReport::from(&Latencies::default()),
            ..CaptureReport::default()
        };
        let mut windows = WindowTotals::default();
        for copies in [2, 3] {
            windows.add(&WindowReport {
                title: format!("window {copies}"),
                copies,
                ..WindowReport::default()
            });
        }
        windows.captured = 1;
        Snapshot {
            outputs: Vec::new(),
            captures: vec![capture, second],
            windows,
        }
    }

    #[test]
    fn the_text_is_strict_openmetrics() {
        for snapshot in [Snapshot::default(), snapshot()] {
            let text = openmetrics(&snapshot);
            strict::check(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        }
    }

    #[test]
    fn values_stand_with_their_labels() {
        let text = openmetrics(&snapshot());
        let odd = r#"output="odd\"\\\nname""#;
        for line in [
            format!("vitrine_capture_frames_total{{{odd}}} 41"),
            format!("vitrine_capture_gpu_copies_total{{{odd}}} 5"),
            format!("vitrine_capture_copied_bytes_total{{{odd}}} 1099511627776"),
            format!("vitrine_capture_client_frames_total{{{odd},client=\"3\"}} 7"),
            format!("vitrine_capture_flip_to_ready_seconds_bucket{{{odd},le=\"0.004000\"}} 1"),
            format!("vitrine_capture_flip_to_ready_seconds_bucket{{{odd},le=\"0.008000\"}} 2"),
            format!("vitrine_capture_flip_to_ready_seconds_bucket{{{odd},le=\"+Inf\"}} 3"),
            format!("vitrine_capture_flip_to_ready_seconds_sum{{{odd}}} 5.008000"),
            "vitrine_capture_trusted{output=\"DP-2\"} 0".to_owned(),
            "vitrine_window_capture_copies_total 5".to_owned(),
            "vitrine_window_captures 1".to_owned(),
        ] {
            assert!(
                text.lines().any(|have| have == line),
                "{line} is not in\n{text}"
            );
        }
    }
}
