//! What the control socket and the metrics say of captures that do not go well, while it happens.

use vitrine::ipc::wire::CaptureReport;

use crate::{
    clients::{CopySession, MemoryKind},
    control::{capture_report, msg},
    film::{seldom, Film},
    looker::Looker,
    machine::{self, Guest, Machine, SECOND},
    stage::{Setup, Stage},
};

/// A figure of the first output in the OpenMetrics text.
fn metric(guest: &Guest, name: &str) -> u64 {
    let text = msg(guest, &["metrics"]);
    let start = format!("{name}{{output=\"Virtual-1\"}} ");
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(&start));
    let value = value.unwrap_or_else(|| panic!("no {name} in:\n{text}"));
    value.parse().unwrap()
}

/// A film with the writeback producer alone.
fn film<'g>(guest: &'g Guest, faults: &str) -> (Stage<'g>, Film) {
    let lines = "[capture]\nproducer = 'writeback'\n";
    let stage = Setup::default().with(lines).faults(faults).start(guest);
    let film = Film::begin(&stage, None, 1);
    (stage, film)
}

/// Goes on until the control socket says so.
#[track_caller]
fn report_until(
    guest: &Guest,
    film: &mut Film,
    what: &str,
    is_so: impl Fn(&CaptureReport) -> bool,
) -> CaptureReport {
    let mut report = CaptureReport::default();
    let mut said = seldom(|| {
        report = capture_report(guest);
        is_so(&report)
    });
    film.roll_until(what, |_| said());
    drop(said);
    report
}

#[test]
fn a_fence_that_never_signals_is_in_the_figures_as_lost_and_quarantined() {
    machine::boot(Machine::default(), |guest| {
        let (stage, mut film) = film(guest, "fence:8=never");
        let before = capture_report(guest);
        assert_eq!((before.lost, before.quarantined), (0, 0));
        // Now and then a busy machine has a second slot in quarantine, until the fence of a job that was overtaken comes.
        let lost = |report: &CaptureReport| report.lost > 0 && report.quarantined == 1;
        let report = report_until(guest, &mut film, "the lost job's slot", lost);
        assert_eq!(report.lost, 1);
        let report = report_until(guest, &mut film, "the proof", |r| r.recoveries > 0);
        assert_eq!((report.trust.as_str(), report.recoveries), ("trusted", 1));
        assert!(report.probes >= 3);
        // Captures go on, and the slot is in quarantine as long as its fence is owed.
        film.shoot(10);
        film.cut();
        stage.wait_for_slots(1);
        assert_eq!(capture_report(guest).lost, 1);
        for (name, value) in [
            ("vitrine_capture_lost_jobs_total", 1),
            ("vitrine_capture_quarantined_slots", 1),
            ("vitrine_capture_recoveries_total", 1),
            ("vitrine_capture_trusted", 1),
            ("vitrine_capture_available", 1),
        ] {
            assert_eq!(metric(guest, name), value, "{name}");
        }
        assert!(metric(guest, "vitrine_capture_probes_total") >= 3);
        stage.finish("Virtual-1");
    });
}

#[test]
fn a_stalled_connector_is_said_to_be_stalled() {
    machine::boot(Machine::default(), |guest| {
        let (stage, mut film) = film(guest, "fence:8..100000=never");
        let report = report_until(guest, &mut film, "the stall", |r| r.trust == "stalled");
        assert!(report.stalls >= 1 && report.lost >= 1);
        assert_eq!(report.producer, "none");
        assert_eq!(report.recoveries, 0);
        let frames = report.frames;
        let mut text = String::new();
        let mut said = seldom(|| {
            text = msg(guest, &["capture"]);
            text.starts_with("Virtual-1: no capture, stalled: ")
        });
        film.roll_until("the same in words", |_| said());
        assert_eq!(metric(guest, "vitrine_capture_trusted"), 0);
        assert!(metric(guest, "vitrine_capture_stalls_total") >= 1);
        // The display goes on, without a frame.
        let flips = capture_report(guest).flips;
        film.show(30);
        let report = capture_report(guest);
        assert!(report.flips >= flips + 30);
        assert_eq!(report.frames, frames);
        film.cut();
        stage.finish("Virtual-1");
    });
}

#[test]
fn holders_that_never_release_are_in_the_figures_and_so_is_what_they_cost() {
    hold_all("");
}

#[test]
fn holders_of_rendered_frames_are_in_the_figures_and_so_is_what_they_cost() {
    hold_all("producer = 'render'\nlease_primary = false\n");
}

fn hold_all(lines: &'static str) {
    machine::boot(Machine::default(), move |guest| {
        let four = "[capture]\nhold_deadline_ms = 60000\nquota = 2\nring_slots = 4\n";
        let stage = Setup::default()
            .with(&format!("{four}{lines}"))
            .start(guest);
        let (mut client, mut painter) = stage.painter();
        let mut n = 0;
        let mut held = Vec::new();
        let mut holders = [Looker::new(&stage), Looker::new(&stage)];
        // Four frames, each of another picture.
        for holder in &mut holders {
            for _ in 0..2 {
                n += 1;
                let shown = painter.present(&mut client, n).unwrap();
                let mut frame = holder.frame();
                while frame.presented() < shown {
                    drop(frame);
                    frame = holder.frame();
                }
                held.push(frame);
            }
        }
        let report = capture_report(guest);
        let by_client: Vec<_> = report.clients.iter().map(|client| client.held).collect();
        assert_eq!(by_client, [2, 2]);
        assert_eq!(report.held, 4);
        assert_eq!(metric(guest, "vitrine_capture_held_slots"), 4);

        // A third one waits, and the display does not.
        let mut third = stage.client();
        let output = third.output(None).unwrap();
        let session = CopySession::open(&mut third, &output, true).unwrap();
        let buffer = session.buffer(&mut third, MemoryKind::Shm).unwrap();
        session.capture(&mut third, &buffer, &[]).unwrap().frame();
        let waiting = session.request(&mut third, &buffer, &[]).unwrap();
        third.roundtrip().unwrap();
        let before = capture_report(guest);
        for _ in 0..20 {
            n += 1;
            painter.present(&mut client, n).unwrap();
        }
        let report = capture_report(guest);
        assert!(report.flips >= before.flips + 20);
        assert_eq!(report.frames, before.frames, "a frame without a slot");
        let skipped = report.skipped.no_free_slot - before.skipped.no_free_slot;
        assert!(skipped > 0, "{:?}", report.skipped);
        let text = msg(guest, &["metrics"]);
        let line = text.lines().find(|line| {
            line.starts_with("vitrine_capture_skipped") && line.contains("no_free_slot")
        });
        let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        assert!(value >= Some(report.skipped.no_free_slot), "{text}");
        assert!(!waiting.has_ended());

        // On a still screen no flip is made for a frame that has no slot.
        let before = capture_report(guest);
        std::thread::sleep(SECOND);
        let after = capture_report(guest);
        let flips = after.flips - before.flips;
        assert!(flips <= 2, "{flips} flips of a still screen");
        // What was not committed was not skipped.
        let skipped = after.skipped.no_free_slot - before.skipped.no_free_slot;
        assert!(skipped <= flips, "{skipped} frames of {flips}");
        assert!(!waiting.has_ended());

        // One lets go: the third has the picture that is on the screen.
        held.truncate(2);
        let frame = waiting.wait(&mut third, &buffer).unwrap().frame();
        frame
            .picture
            .assert_same(&painter.expected(), "the third one's frame");
        let report = capture_report(guest);
        let mut by_client: Vec<_> = report.clients.iter().map(|client| client.held).collect();
        by_client.sort_unstable();
        assert_eq!(by_client, [0, 0, 2]);
        stage.finish("Virtual-1");
    });
}
