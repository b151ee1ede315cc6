//! Full motion: consecutive flips, each captured.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
    thread::JoinHandle,
    time::Duration,
};

use vitrine::ipc::wire::CaptureReport;

use crate::{
    clients::{export_dmabuf::Exporter, presentation::Shown, Client, Painter},
    control::capture_report,
    machine::{self, Guest, Machine, SECOND},
    quiet::measured,
    stage::{Setup, Stage, Summary},
};

/// A client on a thread that keeps so many requests open until it is told to end, and releases each frame at once. Gives
/// the presentation times of its frames.
struct Stream {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Duration>>,
}

impl Stream {
    fn start(stage: &Stage<'_>, requests: usize) -> Self {
        let mut client = stage.client();
        let output = client.output(None).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let over = Arc::clone(&over);
            move || {
                let exporter = Exporter::new(&client).unwrap();
                let mut open = VecDeque::new();
                let mut presented = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    while open.len() < requests {
                        open.push_back(exporter.request(&mut client, &output, true).unwrap());
                    }
                    let frame = open.pop_front().unwrap();
                    let frame = frame.wait(&mut client, SECOND * 20).unwrap().frame();
                    presented.push(frame.presented());
                }
                presented
            }
        });
        Self { over, thread }
    }

    fn finish(self) -> Vec<Duration> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Full motion for so many pictures, each committed when the callback of the one before has come. Gives the times of their
/// flips; every picture must have been shown.
fn flips(client: &mut Client, painter: &mut Painter, count: u32) -> Vec<Duration> {
    let first = painter.feedback().len();
    for n in 0..count {
        painter.flip(client, n).unwrap();
        painter.wait_frame(client).unwrap();
    }
    let all = painter.feedback();
    painter.wait_shown(client, all.len() - 1).unwrap();
    let shown = painter.feedback()[first..]
        .iter()
        .map(|feedback| match feedback.shown {
            Shown::Presented { time, .. } => time,
            other => panic!("picture {} was not shown: {other:?}", feedback.n),
        })
        .collect();
    shown
}

/// What became of some flips under a stream.
struct Measure {
    flips: Vec<Duration>,
    before: CaptureReport,
    after: CaptureReport,
}

impl Measure {
    fn take(guest: &Guest, (client, painter): (&mut Client, &mut Painter), count: u32) -> Self {
        let before = capture_report(guest);
        let flips = flips(client, painter, count);
        let after = capture_report(guest);
        Self {
            flips,
            before,
            after,
        }
    }

    /// Flips that nothing but a capture client wanted: they show an old picture, and the application has to wait for the
    /// refresh after it.
    fn forced(&self) -> u64 {
        (self.after.flips - self.before.flips).saturating_sub(self.flips.len() as u64)
    }

    /// Whether at least `least` of 10 flips were captured; prints the figures.
    ///
    /// On a `busy` machine frames of these flips that came too late to be believed are its doing and count as captured. So do
    /// the flips that went by while such a job was under way, and could have no job. A flip without a job while none is late
    /// is nobody else's doing but Vitrine's.
    fn is_captured(&self, busy: bool, frames: &[Duration], least: usize) -> bool {
        let frames: BTreeSet<_> = frames.iter().collect();
        let flips = self.flips.iter();
        let captured = flips.filter(|flip| frames.contains(flip)).count();
        let late = (self.after.late - self.before.late) as usize;
        let missed = (self.after.skipped.connector - self.before.skipped.connector) as usize;
        let excused = match (busy, late) {
            (false, _) | (_, 0) => 0,
            _ => late + missed,
        };
        println!(
            "{captured} of {} flips captured, {} frames in all, {late} late, {missed} missed, {excused} excused, {} forced, {:?}",
            self.flips.len(),
            frames.len(),
            self.forced(),
            *self.flips.last().unwrap() - self.flips[0],
        );
        (captured + excused) * 10 >= self.flips.len() * least
    }
}

fn assert_sound(summary: &Summary) {
    for counter in ["lost", "failed", "stalls", "voids", "probes"] {
        assert_eq!(summary.get(counter), 0, "{counter}");
    }
    assert_eq!(summary.get("modesets"), 1);
    assert_eq!(summary.get("buffers"), 4);
}

/// Demand for every flip: the client has the next request open before a frame comes.
#[test]
fn of_six_hundred_wanted_flips_nine_in_ten_are_captured_and_no_job_is_lost() {
    const FLIPS: u32 = 600;
    machine::boot(Machine::default().timeout(SECOND * 600), |guest| {
        let stage = Setup::default().start(guest);
        let (mut client, mut painter) = stage.painter();
        painter.animate(&mut client, 1..10).unwrap();
        let mut last = None;
        let good = measured("too few flips were captured", || {
            let stream = Stream::start(&stage, 3);
            flips(&mut client, &mut painter, 10);
            let measure = Measure::take(guest, (&mut client, &mut painter), FLIPS);
            let frames = stream.finish();
            assert!(frames.windows(2).all(|pair| pair[0] < pair[1]));
            let good = measure.is_captured(false, &frames, 9);
            last = Some((measure, frames));
            good
        });
        let (measure, frames) = last.unwrap();
        assert!(good || measure.is_captured(true, &frames, 9));
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert_sound(&summary);
    });
}

/// A client that asks for the next frame only when it has one is served as well: its next frame is expected.
#[test]
fn a_client_with_one_request_at_a_time_gets_most_flips_and_slows_no_application() {
    const FLIPS: u32 = 200;
    machine::boot(Machine::default().timeout(SECOND * 300), |guest| {
        let stage = Setup::default().start(guest);
        let (mut client, mut painter) = stage.painter();
        painter.animate(&mut client, 1..10).unwrap();
        let what = "too few flips were captured, or the application was slowed down";
        let mut last = None;
        let good = measured(what, || {
            let stream = Stream::start(&stage, 1);
            flips(&mut client, &mut painter, 10);
            let measure = Measure::take(guest, (&mut client, &mut painter), FLIPS);
            let frames = stream.finish();
            let good = measure.is_captured(false, &frames, 7);
            let slowed = measure.forced() * 2 > u64::from(FLIPS);
            last = Some((measure, frames));
            good && !slowed
        });
        let (measure, frames) = last.unwrap();
        assert!(good || measure.is_captured(true, &frames, 7));
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert_sound(&summary);
    });
}

#[test]
fn a_client_that_waits_for_a_frame_is_answered_whether_the_frame_comes_or_not() {
    machine::boot(Machine::default(), |guest| {
        // No writeback fence ever signals: each job that an answer might wait for is lost.
        let stage = Setup::default()
            .faults("fence:1..100000=never")
            .hasty()
            .start(guest);
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 1).unwrap();
        let mut looker = stage.client();
        looker.set_patience(SECOND * 10);
        let output = looker.output(None).unwrap();
        let exporter = Exporter::new(&looker).unwrap();
        for n in 2..40 {
            // In one message: the end of a frame, the next request, and a question beside it.
            let frame = exporter.request(&mut looker, &output, true).unwrap();
            looker.roundtrip().unwrap();
            if n < 20 {
                painter.present(&mut client, n).unwrap();
            }
            drop(frame);
        }
        stage.finish("Virtual-1");
    });
}
