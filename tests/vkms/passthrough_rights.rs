//! The right to capture is taken away and given back in the middle of a stream that passes through.

use crate::{
    clients::{copy_capture::FailureReason, Client, MemoryKind},
    control::capture_report,
    faults::assert_clean,
    machine::{self, Guest, Machine, Signal, SECOND},
    passthrough::{Stream, Viewer, ON},
    rights::rewrite,
    stage::{Setup, Stage},
};

const OPEN: &str = "[access]\nprivileged_socket = 'wayland-privileged'\n";
const CLOSED: &str = "[access]\nprivileged_socket = 'wayland-privileged'\ndefault = 'deny'\n";
const CHANGED: &str = "access rules changed";

/// Other rules, while the stream goes on.
fn reload_under(guest: &Guest, stage: &Stage<'_>, stream: &mut Stream, access: &str) {
    let changes = || stage.vitrine.log().matches(CHANGED).count();
    let before = changes();
    rewrite(guest, access);
    stage.vitrine.signal(Signal::HUP);
    stream.run_until(CHANGED, |_| changes() > before);
}

/// The privileged client gets `count` pictures, and the connector writes half of them; on a busy machine, which overtakes more
/// of the jobs, it takes more pictures.
fn goes_on(guest: &Guest, stream: &mut Stream, other: &mut Viewer, count: usize) {
    let before = capture_report(guest).passthrough;
    let passed = || capture_report(guest).passthrough - before;
    let mut seen = Vec::new();
    while seen.len() < count || passed() < count as u64 / 2 {
        assert!(seen.len() < count * 20, "{} of {}", passed(), seen.len());
        let pending = other.ask();
        stream.run_until("the other one's frame", |_| {
            other.client.dispatch_for(SECOND / 1000).unwrap();
            pending.has_ended()
        });
        pending.ended().unwrap().unwrap();
        seen.push(stream.shows(other.buffer()).unwrap());
    }
    assert!(seen.is_sorted() && seen[0] < seen[count - 1], "{seen:?}");
}

#[test]
fn a_stream_that_loses_its_right_is_written_no_further_picture_and_another_one_passes_through() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().with(&format!("{ON}\n{OPEN}")).start(guest);
        let mut stream = Stream::begin(&stage);
        for round in 0..4 {
            // At another point of its frame in each round.
            stream.run(15 + round);
            stream.run_until_passed(guest, 5);
            reload_under(guest, &stage, &mut stream, CLOSED);
            // What is drawn from here on was not on the screen when the right was lost.
            let last = stream.window.painted as u32;
            stream.run_until("the end", |stream| stream.over.is_some());
            assert_eq!(stream.over, Some(FailureReason::Stopped));
            assert!(stream.viewer.session.record().stopped);
            let privileged = Client::connect("wayland-privileged").unwrap();
            let mut other = Viewer::connected(privileged, None, MemoryKind::Heap);
            // The first of these comes after the job that was in flight.
            goes_on(guest, &mut stream, &mut other, 4);
            let kept = stream.viewer.pictures();
            for buffer in &stream.viewer.buffers {
                let shows = stream.shows(buffer);
                assert!(
                    shows.as_ref().is_ok_and(|n| *n <= last),
                    "{shows:?} > {last}"
                );
            }
            goes_on(guest, &mut stream, &mut other, 30);
            stream.viewer.assert_untouched(&kept, "without the right");
            drop(other);
            reload_under(guest, &stage, &mut stream, OPEN);
            stream.change_viewer(Viewer::new(&stage, MemoryKind::Udmabuf));
        }
        stream.run(15);
        stream.finish();
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert_eq!(summary.get("modesets"), 1);
        assert_eq!(summary.get("lost"), 0);
        assert_clean(&guest.dmesg());
    });
}
