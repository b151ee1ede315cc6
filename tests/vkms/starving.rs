//! A client that puts fences onto all that it was ever given, which never signal: others get frames all the same.

use std::{collections::BTreeMap, os::fd::OwnedFd, time::Duration};

use crate::{
    clients::{
        copy_capture::{picture_of, CopySession},
        export_dmabuf::ExportedFrame,
        Buffer, Client, MemoryKind, Painter,
    },
    control::capture_report,
    faults::assert_clean,
    fences::Stopped,
    looker::Looker,
    machine::{self, Machine},
    stage::{Setup, Stage, Summary},
};

/// Copies frames into its own memory.
struct Copies {
    client: Client,
    session: CopySession,
    buffer: Buffer,
}

impl Copies {
    fn new(stage: &Stage<'_>) -> Self {
        let mut client = stage.client();
        let output = client.output(None).unwrap();
        let session = CopySession::open(&mut client, &output, true).unwrap();
        let buffer = session.buffer(&mut client, MemoryKind::Shm).unwrap();
        Self {
            client,
            session,
            buffer,
        }
    }

    fn see(&mut self, painter: &Painter, shown: Duration, what: &str) {
        loop {
            let outcome = self.session.capture(&mut self.client, &self.buffer, &[]);
            if outcome.unwrap().frame().presented >= shown {
                break;
            }
        }
        picture_of(&self.buffer).assert_same(&painter.expected(), what);
    }
}

/// A frame that is not older than that.
fn fresh(looker: &mut Looker, shown: Duration) -> ExportedFrame {
    loop {
        let frame = looker.frame();
        if frame.presented() >= shown {
            return frame;
        }
    }
}

/// Descriptors of all slots, each kept from when its frame was held. Two clients capture, so that no slot is left out for
/// long.
pub fn all_slots(
    client: &mut Client,
    painter: &mut Painter,
    looker: &mut Looker,
    count: usize,
) -> BTreeMap<u64, OwnedFd> {
    let mut slots = BTreeMap::new();
    let mut held: Option<ExportedFrame> = None;
    for n in 1..100 {
        let shown = painter.present(client, n).unwrap();
        let frame = fresh(looker, shown);
        slots.entry(frame.buffer_id()).or_insert_with(|| frame.fd());
        // Holding one makes the ring go through the others.
        if n % 3 == 0 {
            held = Some(frame);
        }
    }
    drop(held);
    assert_eq!(slots.len(), count, "buffers of the ring");
    slots
}

/// What is put onto each slot.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fences {
    /// As if somebody read it.
    OfReaders,
    /// As if somebody wrote it: clients that ask the kernel when a frame can be read are told that it cannot.
    OfWriters,
}

/// Fences on each slot while well-behaved clients of both protocols capture; each picture comes to them.
fn everybody_else_goes_on(fences: Fences, lines: &'static str, judge: fn(&Summary)) {
    machine::boot(Machine::default(), move |guest| {
        let stage = Setup::default()
            .with(&format!("[capture]\nhold_deadline_ms = 300\n{lines}"))
            .start(guest);
        let (mut client, mut painter) = stage.painter();
        let mut bad = Looker::new(&stage);
        let slots = all_slots(&mut client, &mut painter, &mut bad, 4);
        assert_eq!(capture_report(guest).overruled, 0);
        let stopped = Stopped::new();
        let fence_all = || {
            slots.values().for_each(|slot| match fences {
                Fences::OfReaders => stopped.hold_from_writers(slot),
                Fences::OfWriters => stopped.hold(slot),
            });
        };
        fence_all();
        let (mut good, mut copies) = (Looker::new(&stage), Copies::new(&stage));
        let mut seen = BTreeMap::<u64, u32>::new();
        for n in 200..300 {
            let shown = painter.present(&mut client, n).unwrap();
            let frame = fresh(&mut good, shown);
            if fences == Fences::OfReaders {
                let picture = frame.picture();
                picture.assert_same(&painter.expected(), &format!("export of {n}"));
            }
            *seen.entry(frame.buffer_id()).or_default() += 1;
            drop(frame);
            copies.see(&painter, shown, &format!("copy of {n}"));
            // It goes on like that.
            if n % 10 == 0 {
                fence_all();
            }
        }
        println!("frames by buffer: {seen:?}");
        // The promise is worth something: it is the memory with the fences that all these frames were in.
        assert!(seen.keys().all(|id| slots.contains_key(id)));
        let report = capture_report(guest);
        assert!(report.overruled >= 60, "{report:?}");
        let log = stage.vitrine.log();
        let said = log
            .matches("fences that some client put onto a captured frame")
            .count();
        assert_eq!(said, 1, "said once");
        drop((bad, good, copies, stopped));
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert_eq!(summary.get("overruled"), report.overruled);
        assert_eq!((summary.get("lost"), summary.get("buffers")), (0, 4));
        judge(&summary);
        assert_clean(&guest.dmesg());
    });
}

const RENDER: &str = "producer = 'render'\nlease_primary = false";

fn by_writeback(summary: &Summary) {
    assert_eq!(summary.get("rendered"), 0);
}

fn by_render(summary: &Summary) {
    assert_eq!(summary.get("written_back"), 0);
}

#[test]
fn fences_that_never_signal_on_all_slots_starve_nobody() {
    everybody_else_goes_on(Fences::OfReaders, "", by_writeback);
}

#[test]
fn fences_as_of_writers_on_all_slots_starve_nobody_and_copies_are_made() {
    everybody_else_goes_on(Fences::OfWriters, "", by_writeback);
}

#[test]
fn fences_on_all_slots_of_the_render_producer_starve_nobody() {
    everybody_else_goes_on(Fences::OfReaders, RENDER, by_render);
}
