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
    gpu_copies::{start_with, with_gpu, ON},
    looker::Looker,
    machine::{self, Guest, Machine},
    stage::{Setup, Stage, Summary},
};

/// Copies frames into its own memory.
struct Copies {
    client: Client,
    session: CopySession,
    buffer: Buffer,
}

impl Copies {
    fn new(stage: &Stage<'_>, kind: MemoryKind) -> Self {
        let mut client = stage.client();
        let output = client.output(None).unwrap();
        let session = CopySession::open(&mut client, &output, true).unwrap();
        let buffer = session.buffer(&mut client, kind).unwrap();
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
fn everybody_else_goes_on(
    guest: &Guest,
    stage: Stage<'_>,
    fences: Fences,
    kind: MemoryKind,
) -> (Summary, String) {
    let (mut client, mut painter) = stage.painter();
    let mut bad = Looker::new(&stage);
    let slots = all_slots(&mut client, &mut painter, &mut bad, 4);
    let before = capture_report(guest);
    assert_eq!(before.overruled, 0);
    let stopped = Stopped::new();
    let fence_all = || {
        slots.values().for_each(|slot| match fences {
            Fences::OfReaders => stopped.hold_from_writers(slot),
            Fences::OfWriters => stopped.hold(slot),
        });
    };
    fence_all();
    let (mut good, mut copies) = (Looker::new(&stage), Copies::new(&stage, kind));
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
    assert!(report.copies - before.copies >= 100);
    let log = stage.vitrine.log();
    let said = log.matches("fences that some client put onto a captured frame");
    assert_eq!(said.count(), 1, "said once");
    assert!(!log.contains("copy failed"), "{log}");
    drop((bad, good, copies, stopped));
    let summary = stage.finish("Virtual-1");
    println!("{summary:?}");
    assert_eq!(summary.get("overruled"), report.overruled);
    assert_eq!((summary.get("lost"), summary.get("buffers")), (0, 4));
    assert_clean(&guest.dmesg());
    (summary, log)
}

/// With the CPU as the renderer.
fn with_pixman(fences: Fences, lines: &'static str, judge: fn(&Summary, &str)) {
    machine::boot(Machine::default(), move |guest| {
        let lines = format!("[capture]\nhold_deadline_ms = 300\n{lines}");
        let stage = Setup::default().with(&lines).start(guest);
        let (summary, log) = everybody_else_goes_on(guest, stage, fences, MemoryKind::Shm);
        judge(&summary, &log);
    });
}

/// With a GPU that copies, too, where nobody's fence would make it wait.
fn with_gles(fences: Fences, lines: &'static str, faults: &'static str, judge: fn(&Summary, &str)) {
    with_gpu(|guest, programs| {
        let lines = format!("{ON}\nhold_deadline_ms = 300\n{lines}");
        let setup = Setup::default().faults(faults);
        let stage = start_with(guest, programs, setup, &lines);
        let (summary, log) = everybody_else_goes_on(guest, stage, fences, MemoryKind::Udmabuf);
        judge(&summary, &log);
    });
}

const RENDER: &str = "producer = 'render'\nlease_primary = false";

fn by_writeback(summary: &Summary, _: &str) {
    assert_eq!(summary.get("rendered"), 0);
}

fn by_render(summary: &Summary, _: &str) {
    assert_eq!(summary.get("written_back"), 0);
}

#[test]
fn fences_that_never_signal_on_all_slots_starve_nobody() {
    with_pixman(Fences::OfReaders, "", by_writeback);
}

#[test]
fn fences_as_of_writers_on_all_slots_starve_nobody_and_copies_are_made() {
    with_pixman(Fences::OfWriters, "", by_writeback);
}

#[test]
fn fences_on_all_slots_of_the_render_producer_starve_nobody() {
    with_pixman(Fences::OfReaders, RENDER, by_render);
}

/// The GPU is given no copy of a frame on which somebody's fence is: it would wait for that, and with it all that is drawn later.
#[test]
fn with_fences_as_of_writers_on_all_slots_the_gpu_is_left_out_and_nobody_starves() {
    with_gles(Fences::OfWriters, "", "", |summary, log| {
        by_writeback(summary, log);
        assert_eq!(summary.get("gpu_copies"), 0);
    });
}

#[test]
fn nor_is_it_given_one_where_the_fences_are_as_of_readers() {
    with_gles(Fences::OfReaders, "", "", |summary, log| {
        by_writeback(summary, log);
        assert_eq!(summary.get("gpu_copies"), 0);
    });
}

/// The pictures are drawn elsewhere and copied.
fn by_drafts(summary: &Summary, log: &str) {
    by_render(summary, log);
    let picture = 640 * 480 * 4;
    let copied = summary.get("rendered_bytes") / picture;
    assert!((60..=summary.get("rendered")).contains(&copied), "{copied}");
}

#[test]
fn the_gpu_draws_into_no_slot_with_fences_and_nobody_starves() {
    with_gles(Fences::OfReaders, RENDER, "", by_drafts);
}

/// What it may still draw into is not copied into another picture.
#[test]
fn a_gpu_that_is_slow_to_draw_for_slots_with_fences_costs_a_frame_and_shows_no_false_one() {
    with_gles(
        Fences::OfWriters,
        RENDER,
        "draw:150=late4000",
        |summary, log| {
            by_drafts(summary, log);
            assert_eq!(log.matches("capture job overdue").count(), 1);
        },
    );
}
