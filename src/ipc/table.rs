//! Replies as text for people. Programs read the JSON.

use std::fmt::Write;

use super::wire::{
    CaptureReport, ClientReport, LatencyReport, OutputReport, PowerWord, Reply, WindowReport,
};

/// So many characters of a window's names are shown.
const NAME_LENGTH: usize = 60;

/// The reply, with a line end.
pub(super) fn print(reply: &Reply) -> String {
    match reply {
        Reply::Version { vitrine, pid } => format!("vitrine {vitrine}, process {pid}\n"),
        Reply::Outputs(outputs) => outputs_table(outputs),
        Reply::Capture(outputs) => outputs.iter().map(capture_text).collect(),
        Reply::Metrics(text) => text.clone(),
        Reply::History { directory, frames } => {
            format!("{frames} frames go to {}\n", directory.display())
        }
        Reply::HistoryState(state) => {
            let folder = state.directory.clone().unwrap_or_default();
            let path = |file: &String| format!("{}\n", folder.join(file).display());
            state.files.iter().map(path).collect()
        }
        Reply::Output(_) | Reply::Log | Reply::Quit => String::new(),
    }
}

/// Columns as wide as their widest cell; the first left, the others right.
fn columns(rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (place, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = match place {
                0 => write!(line, "{cell:<width$}"),
                _ => write!(line, "  {cell:>width$}"),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn outputs_table(outputs: &[OutputReport]) -> String {
    let mut rows = vec![words("output mode scale power flips commits modesets")];
    rows.extend(outputs.iter().map(|output| {
        vec![
            output.name.clone(),
            format!(
                "{}x{}@{:.3}",
                output.width,
                output.height,
                f64::from(output.refresh_millihertz) / 1000.0
            ),
            output.scale.to_string(),
            power(output),
            output.flips.to_string(),
            output.commits.to_string(),
            output.modesets.to_string(),
        ]
    }));
    columns(&rows)
}

fn power(output: &OutputReport) -> String {
    let word = |word| match word {
        PowerWord::On => "on",
        PowerWord::Off => "off",
    };
    let (is, wanted) = (word(output.power), word(output.power_wanted));
    match is == wanted {
        true => is.to_owned(),
        false => format!("{is}, soon {wanted}"),
    }
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn capture_text(report: &CaptureReport) -> String {
    let skipped = &report.skipped;
    let state = match &report.unavailable {
        Some(reason) if report.trust == "none" => format!("no capture: {reason}"),
        Some(reason) => format!("no capture, {}: {reason}", report.trust),
        None => format!("{}, {}; {}", report.producer, report.trust, report.reason),
    };
    let mut text = format!("{}: {state}\n", report.output);
    let rows = [
        ("frames", format!("{} published ({} of them rendered, {} leased from the screen, {} passed through), {} delivered, {} kept as history", report.frames, report.rendered, report.leased, report.passthrough, report.delivered, report.history)),
        ("skipped", format!(
            "{} no free slot, {} resting, {} connector, {} no buffers ({} commits that nobody wanted)",
            skipped.no_free_slot, skipped.draining, skipped.connector, skipped.no_buffers, skipped.no_demand
        )),
        ("jobs", format!(
            "{}, of these {} probes; {} lost, {} late, {} failed; {} stalls, {} recoveries",
            report.jobs, report.probes, report.lost, report.late, report.failed, report.stalls, report.recoveries
        )),
        ("slots", format!("{} buffers, {} held, {} in quarantine, {} taken back, {} used against fences", report.buffers, report.held, report.quarantined, report.voids, report.overruled)),
        ("copies", format!("{} ({} of them by the GPU), {} bytes", report.copies, report.gpu_copies, report.copied_bytes)),
        ("flip to ready", latency(&report.flip_to_ready)),
    ];
    for (name, value) in rows {
        let _ = writeln!(text, "  {name:<14}{value}");
    }
    if !report.clients.is_empty() {
        text.push_str(&clients_table(&report.clients));
    }
    text.extend(report.windows.iter().map(window_text));
    text
}

fn clients_table(clients: &[ClientReport]) -> String {
    let mut rows = vec![words(
        "client frames passed held copies gpu bytes overdue voids refused median_ms p99_ms",
    )];
    rows.extend(clients.iter().map(|client| {
        vec![
            client.client.to_string(),
            client.frames.to_string(),
            client.passthrough.to_string(),
            client.held.to_string(),
            client.copies.to_string(),
            client.gpu_copies.to_string(),
            client.copied_bytes.to_string(),
            client.overdue.to_string(),
            client.voids.to_string(),
            client.refused.to_string(),
            bound(client.flip_to_ready.count, client.flip_to_ready.median_us),
            bound(client.flip_to_ready.count, client.flip_to_ready.p99_us),
        ]
    }));
    let lines = columns(&rows);
    lines.lines().map(|line| format!("  {line}\n")).collect()
}

/// The names are an application's: whatever they do to a terminal is shown and not done.
fn window_text(window: &WindowReport) -> String {
    let (app_id, title) = (shortened(&window.app_id), shortened(&window.title));
    format!(
        "  window {}: {app_id:?} {title:?}\n    {} frames, {} held, {} copies ({} of them by the GPU), {} bytes\n",
        window.identifier, window.frames, window.held, window.copies, window.gpu_copies, window.copied_bytes
    )
}

fn shortened(name: &str) -> String {
    let mut short: String = name.chars().take(NAME_LENGTH).collect();
    if short.len() < name.len() {
        short.push('…');
    }
    short
}

fn latency(report: &LatencyReport) -> String {
    format!(
        "median {} ms, 99 of 100 {} ms, {} frames",
        bound(report.count, report.median_us),
        bound(report.count, report.p99_us),
        report.count
    )
}

/// A bucket's bound.
fn bound(count: u64, micros: Option<u64>) -> String {
    match (count, micros) {
        (0, _) => "-".to_owned(),
        (_, Some(micros)) => format!("<={}", micros as f64 / 1000.0),
        (_, None) => ">1000".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_report_names_output_state_reasons_and_clients() {
        let latency = LatencyReport {
            count: 3,
            median_us: Some(4_000),
            ..LatencyReport::default()
        };
        let report = CaptureReport {
            output: "DP-1".to_owned(),
            producer: "writeback".to_owned(),
            trust: "trusted".to_owned(),
            frames: 12,
            clients: vec![ClientReport {
                client: 7,
                frames: 12345,
                flip_to_ready: latency,
                ..ClientReport::default()
            }],
            ..CaptureReport::default()
        };
        let text = print(&Reply::Capture(vec![report]));
        for part in [
            "DP-1: writeback, trusted; ",
            "12 published",
            "12345",
            "<=4",
            ">1000",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn a_captured_window_is_named_without_harm_to_the_terminal() {
        let report = CaptureReport {
            output: "DP-1".to_owned(),
            windows: vec![WindowReport {
                identifier: "ab12".to_owned(),
                app_id: "\u{1b}[2Jfoot".to_owned(),
                title: format!("a \"title\"\n\u{202e}{}", "x".repeat(5000)),
                frames: 12,
                held: 1,
                copies: 11,
                gpu_copies: 3,
                copied_bytes: 4096,
            }],
            ..CaptureReport::default()
        };
        let text = print(&Reply::Capture(vec![report]));
        for part in [
            r#"window ab12: "\u{1b}[2Jfoot" "a \"title\"\n\u{202e}xxx"#,
            "x…\"\n    12 frames, 1 held, 11 copies (3 of them by the GPU), 4096 bytes\n",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(text.lines().all(|line| line.len() < 250), "{text}");
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [words("a b"), words("ccc dd")];
        assert_eq!(columns(&rows), "a     b\nccc  dd\n");
    }
}
