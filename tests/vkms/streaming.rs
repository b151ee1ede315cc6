//! Full motion: consecutive flips, each captured.

use std::{
    collections::BTreeSet,
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
    time::Duration,
};

use crate::{
    clients::{
        export_dmabuf::{Exporter, Holding},
        presentation::Shown,
    },
    machine::{self, Machine, SECOND},
    stage::Setup,
};

#[test]
fn six_hundred_flips_are_captured_without_losing_a_job() {
    const FLIPS: u32 = 600;
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let (mut client, mut painter) = stage.painter();
        painter.animate(&mut client, 1..30).unwrap();
        let mut capturer = stage.client();
        let output = capturer.output(None).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let over = Arc::clone(&over);
            move || {
                let exporter = Exporter::new(&capturer).unwrap();
                exporter
                    .run(
                        &mut capturer,
                        &output,
                        Holding::ReleaseAtOnce,
                        SECOND * 20,
                        |_, _| over.load(Ordering::Relaxed),
                    )
                    .unwrap()
            }
        });
        let first = painter.feedback().len();
        painter.animate(&mut client, 100..100 + FLIPS).unwrap();
        let last = painter.feedback().len() - 1;
        painter.wait_shown(&mut client, last).unwrap();
        over.store(true, Ordering::Relaxed);
        let stats = thread.join().unwrap();
        let shown: Vec<(Duration, u64)> = painter.feedback()[first..]
            .iter()
            .filter_map(|feedback| match feedback.shown {
                Shown::Presented { time, sequence, .. } => Some((time, sequence)),
                _ => None,
            })
            .collect();
        let captured: BTreeSet<Duration> = stats.presented.iter().copied().collect();
        let of_painter = shown
            .iter()
            .filter(|(time, _)| captured.contains(time))
            .count();
        let vblanks = shown.last().unwrap().1 - shown.first().unwrap().1;
        let summary = stage.finish("Virtual-1");
        println!(
            "of {FLIPS} pictures {} were shown, within {vblanks} refreshes; {of_painter} of them were captured, \
             {} frames delivered in all, median {:?} after the flip",
            shown.len(),
            stats.frames,
            stats.median(),
        );
        println!("{summary:?}");
        assert_eq!(shown.len(), FLIPS as usize, "a picture was never shown");
        assert!(
            of_painter * 10 >= shown.len() * 9,
            "only {of_painter} of {} flips were captured",
            shown.len()
        );
        for counter in [
            "lost", "late", "failed", "stalls", "skipped", "voids", "probes",
        ] {
            assert_eq!(summary.get(counter), 0, "{counter}");
        }
        assert_eq!(summary.get("jobs"), summary.get("published"));
        assert_eq!(summary.get("modesets"), 1);
        assert_eq!(stats.disorder(), 0);
    });
}
