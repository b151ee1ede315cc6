//! How display and writeback jobs take turns, where the two do not go together easily.

use std::{collections::HashMap, time::Duration};

use crate::{
    clients::{
        presentation::Shown, Client, ExportedFrame, Exporter, OutputInfo, Painter, PainterOptions,
        Rect,
    },
    film::Film,
    machine::{self, Machine, Output, SECOND},
    quiet::measured,
    stage::{Setup, Stage, Summary},
};

/// A strip at the top of the screen in one colour, its number: quick to draw, so that the animation runs at full rate on a
/// screen of any size.
struct Strip {
    client: Client,
    painter: Painter,
    next: u32,
}

const STRIP_LINES: u32 = 2;

impl Strip {
    /// On the named output, or the first one.
    fn open(stage: &Stage<'_>, output: Option<&str>) -> Self {
        let mut client = stage.client();
        let options = PainterOptions {
            output: Some(client.output(output).unwrap().proxy),
            buffers: 3,
            ..Default::default()
        };
        let painter = Painter::new(&mut client, options).unwrap();
        let mut strip = Self {
            client,
            painter,
            next: 1,
        };
        // Each buffer is touched once: the first writes are slow.
        for _ in 0..10 {
            strip.turn(true);
        }
        strip
    }

    fn turn(&mut self, wait: bool) {
        if wait {
            self.painter.wait_frame(&mut self.client).unwrap();
        } else {
            let time = Duration::from_micros(500);
            self.client.dispatch_for(time).unwrap();
        }
        if !self.painter.is_frame_done() {
            return;
        }
        let (n, size) = (self.next, self.painter.size());
        let strip = Rect {
            x: 0,
            y: 0,
            width: size.0 as i32,
            height: STRIP_LINES as i32,
        };
        let draw = |bytes: &mut [u8], stride: u32| {
            let lines = bytes.chunks_exact_mut(stride as usize);
            for line in lines.take(STRIP_LINES as usize) {
                for pixel in line.chunks_exact_mut(4) {
                    pixel.copy_from_slice(&(n | 0xff00_0000).to_le_bytes());
                }
            }
        };
        let client = &mut self.client;
        let shown = self.painter.show_bytes(client, n, size, Some(strip), draw);
        shown.unwrap();
        self.next += 1;
    }

    fn shown(&self) -> Vec<(Duration, u32)> {
        let feedback = self.painter.feedback();
        let shown = feedback.iter().filter_map(|f| match f.shown {
            Shown::Presented { time, .. } => Some((time, f.n)),
            Shown::Waiting | Shown::Discarded => None,
        });
        shown.collect()
    }
}

/// Takes frames with three requests open.
struct Camera {
    client: Client,
    output: OutputInfo,
    exporter: Exporter,
    open: std::collections::VecDeque<ExportedFrame>,
    mapped: HashMap<u64, crate::clients::export_dmabuf::MappedFrame>,
    taken: Vec<(Duration, u32)>,
}

impl Camera {
    fn open(stage: &Stage<'_>) -> Self {
        let client = stage.client();
        Self {
            output: client.output(None).unwrap(),
            exporter: Exporter::new(&client).unwrap(),
            client,
            open: std::collections::VecDeque::new(),
            mapped: HashMap::new(),
            taken: Vec::new(),
        }
    }

    fn turn(&mut self) {
        let time = Duration::from_micros(500);
        self.client.dispatch_for(time).unwrap();
        while self.open.len() < 3 {
            let asked = self.exporter.request(&mut self.client, &self.output, true);
            self.open.push_back(asked.unwrap());
        }
        if !self.open.front().is_some_and(ExportedFrame::is_ready) {
            return;
        }
        let frame = self.open.pop_front().unwrap();
        let mapped = self.mapped.entry(frame.buffer_id());
        let mapped = mapped.or_insert_with(|| frame.map().unwrap());
        let width = frame.size().0 as usize;
        let n = mapped.read(|bytes, stride| {
            let pixel = |x: usize, y: usize| {
                let at = y * stride as usize + x * 4;
                u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], 0])
            };
            let corners = [
                pixel(0, 0),
                pixel(width - 1, 0),
                pixel(0, 1),
                pixel(width - 1, 1),
            ];
            assert!(
                corners.iter().all(|n| *n == corners[0]),
                "torn: {corners:?}"
            );
            corners[0]
        });
        self.taken.push((frame.presented(), n));
    }
}

/// So many frames there must be, however slow hardware and machine are; with more pictures if need be.
const FRAMES: usize = 6;

/// An animation at full rate under a camera. Gives pictures shown while the camera ran, frames taken, and the counters; no
/// frame may show another picture than the one on the screen at its time.
fn animate(
    setup: Setup,
    guest: &crate::machine::Guest,
    pictures: usize,
) -> (usize, usize, Summary) {
    let stage = setup.start(guest);
    let mut strip = Strip::open(&stage, None);
    let before = strip.shown().len();
    let mut camera = Camera::open(&stage);
    machine::wait_until("the animation, and some frames", SECOND * 90, || {
        for _ in 0..10 {
            strip.turn(false);
            camera.turn();
        }
        strip.shown().len() >= before + pictures && camera.taken.len() >= FRAMES
    });
    let last = strip.painter.feedback().len() - 1;
    strip.painter.wait_shown(&mut strip.client, last).unwrap();
    let shown = strip.shown();
    for (presented, n) in &camera.taken {
        let at = shown.partition_point(|(time, _)| time <= presented);
        assert_eq!(*n, shown[at - 1].1, "a false frame");
    }
    let (shown, taken) = (shown.len() - before, camera.taken.len());
    drop((strip, camera));
    let summary = stage.finish("Virtual-1");
    println!("{shown} shown, {taken} taken; {summary:?}");
    (shown, taken, summary)
}

/// Every fence comes three refreshes after its commit.
const SLOW: &str = "fence:1..1000000=late50";

/// Each job is overtaken, unless the display waits longer now and then.
#[test]
fn captures_of_hardware_slower_than_the_screen_go_on_while_an_application_animates() {
    machine::boot(Machine::default(), |guest| {
        let setup = Setup::default().with("[capture]\nproducer = \"writeback\"");
        let (shown, taken, summary) = animate(setup.faults(SLOW), guest, 150);
        assert_eq!(summary.get("lost"), 0);
        assert_eq!(summary.get("modesets"), 1);
        println!("{taken} frames of {shown} pictures");
        assert_patient(&summary);
    });
}

/// The display waits longer for a job if the three before were overtaken in a row, and for no other.
#[track_caller]
fn assert_patient(summary: &Summary) {
    let of = |counter| summary.get(counter);
    let (jobs, patient, overtaken) = (of("jobs"), of("patient"), of("overtaken"));
    println!("{patient} of {jobs} jobs held the display, {overtaken} were overtaken");
    assert!(patient * 3 <= overtaken && patient * 4 <= jobs);
    // A job that is not overtaken leaves at most two in vain before it, and so does the end; one that the display waited for
    // may be overtaken all the same.
    let in_time = jobs - overtaken;
    assert!(overtaken <= patient * 4 + (in_time + 1) * 2, "{patient}");
}

/// Refreshes from picture to picture, the middle one of all.
pub fn median_step(refreshes: &[u64]) -> u64 {
    let mut steps: Vec<_> = refreshes.windows(2).map(|p| p[1] - p[0]).collect();
    steps.sort_unstable();
    steps[steps.len() / 2]
}

/// Both screens animate until the second has shown so many pictures more; gives the refreshes of these.
fn animate_both(held: &mut Strip, free: &mut Strip, pictures: usize) -> Vec<u64> {
    let from = free.painter.refreshes().len();
    machine::wait_until("the animation without captures", SECOND * 60, || {
        for _ in 0..10 {
            held.turn(false);
            free.turn(false);
        }
        free.painter.refreshes().len() > from + pictures
    });
    free.painter.refreshes().split_off(from)
}

/// When a screen showed the same picture for five refreshes and more, of what came after its first `from` pictures.
fn gaps(strip: &Strip, from: usize) -> Vec<(Duration, Duration)> {
    let (times, counts) = (strip.shown(), strip.painter.refreshes());
    let pictures: Vec<_> = times.iter().zip(counts).skip(from).collect();
    let pairs = pictures.windows(2).filter(|p| p[1].1 - p[0].1 >= 5);
    pairs.map(|pair| (pair[0].0 .0, pair[1].0 .0)).collect()
}

/// Every fence of the first screen's jobs comes 120 ms after its commit, and it waits for every fourth one; the second
/// screen, on the same device, waits for none of them.
#[test]
fn a_fence_that_holds_one_screen_holds_no_other() {
    const PICTURES: usize = 60;
    let machine = Machine::default()
        .output(Output::new())
        .timeout(SECOND * 300);
    machine::boot(machine.output(Output::new()), |guest| {
        let lines = "[capture]\nproducer = \"writeback\"\nhold_refreshes = 8";
        let setup = Setup::default().with(lines);
        let stage = setup.faults("fence:1..100000=late120").start(guest);
        let names = ["Virtual-1", "Virtual-2"];
        let [mut held, mut free] = names.map(|name| Strip::open(&stage, Some(name)));
        let free_all_the_while = measured("the other screen was held as well", || {
            let before = animate_both(&mut held, &mut free, PICTURES);
            let mut camera = Camera::open(&stage);
            assert_eq!(camera.output.name, names[0]);
            let (from, held_from) = (
                free.painter.refreshes().len(),
                held.painter.refreshes().len(),
            );
            machine::wait_until("the animation with captures", SECOND * 60, || {
                for _ in 0..10 {
                    held.turn(false);
                    free.turn(false);
                    camera.turn();
                }
                free.painter.refreshes().len() > from + PICTURES
                    && gaps(&held, held_from).len() >= 6
            });
            let with = free.painter.refreshes().split_off(from);
            let gaps = gaps(&held, held_from);
            drop(camera);
            // The machine itself may have become slower since the first look.
            let after = animate_both(&mut held, &mut free, PICTURES);
            let times = free.shown();
            let within = |(from, until): &(Duration, Duration)| {
                let inside = |(time, _): &&(Duration, u32)| (from..until).contains(&time);
                times.iter().filter(inside).count()
            };
            let mut meanwhile: Vec<_> = gaps.iter().map(within).collect();
            meanwhile.sort_unstable();
            let steps = [&before, &with, &after].map(|refreshes| median_step(refreshes));
            println!("steps before, with and after captures: {steps:?}; shown while the other was held: {meanwhile:?}");
            // Held as well, it would show nothing in such a gap, or one picture.
            steps[1] <= steps[0].max(steps[2]) && meanwhile[meanwhile.len() / 2] >= 2
        });
        drop((held, free));
        let summary = stage.finish(names[0]);
        println!("{free_all_the_while}; {summary:?}");
        let least = if free_all_the_while { 3 } else { 1 };
        assert!(
            summary.get("patient") >= least,
            "the first screen was not held"
        );
        assert_eq!(summary.get("lost"), 0);
    });
}

/// vkms itself, which needs longer than a refresh for a picture of that size; how much longer is the machine's affair.
#[test]
fn a_screen_too_large_for_the_hardware_shows_no_false_frame() {
    machine::boot(Machine::default(), |guest| {
        let large =
            "[[output]]\nconnector = \"*\"\nmode = \"1024x768\"\nproducer = \"writeback\"\n";
        let (_, taken, summary) = animate(Setup::default().config(large), guest, 120);
        assert_eq!(summary.get("modesets"), 1);
        println!("{taken} frames");
    });
}

#[test]
fn hardware_that_is_fast_enough_is_given_no_more_time() {
    machine::boot(Machine::default().timeout(SECOND * 300), |guest| {
        measured("the display was held, or frames are missing", || {
            let _ = std::fs::remove_file(guest.out().join("vitrine.log"));
            let (shown, taken, summary) = animate(Setup::default(), guest, 120);
            assert_patient(&summary);
            assert_eq!(summary.get("lost"), 0);
            taken * 2 >= shown && summary.get("patient") * 20 <= summary.get("jobs")
        });
    });
}

#[test]
fn every_third_commit_at_most_has_a_job() {
    machine::boot(Machine::default(), |guest| {
        let setup = Setup::default().with("[capture]\npacing = \"every_nth\"\nevery_nth = 3");
        let stage = setup.start(guest);
        let mut film = Film::begin(&stage, None, 1);
        film.shoot(20);
        film.roll(30);
        film.cut();
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        let (jobs, commits) = (summary.get("jobs"), summary.get("commits"));
        assert!(jobs >= 20, "{jobs} jobs");
        assert!(jobs * 3 <= commits + 3, "{jobs} jobs in {commits} commits");
    });
}

#[test]
fn a_driver_that_is_not_known_to_bear_pipelining_is_paced_safely() {
    machine::boot(Machine::default(), |guest| {
        let setup = Setup::default().with("[capture]\npacing = \"pipelined\"");
        let stage = setup.start(guest);
        assert!(stage.vitrine.log().contains("not known to bear"));
        let mut film = Film::begin(&stage, None, 1);
        film.shoot(10);
        film.cut();
        let summary = stage.finish("Virtual-1");
        assert_eq!(summary.get("lost"), 0);
    });
}

/// The operator insists, against what is known of the driver: the display waits for no fence, however late, and no job counts
/// as overtaken. (With the same fences `safe` is patient, above.) Frames may be lost, none is false.
#[test]
fn pipelining_waits_for_no_fence_and_shows_no_false_frame_even_where_the_driver_was_not_made_for_it(
) {
    machine::boot(Machine::default(), |guest| {
        let lines = "[capture]\nproducer = \"writeback\"\npacing = \"pipelined\"\npipelined_unlisted = true";
        let setup = Setup::default().with(lines).faults(SLOW);
        let (_, taken, summary) = animate(setup, guest, 150);
        assert_eq!(summary.get("patient"), 0, "the display was held");
        assert_eq!(summary.get("overtaken"), 0);
        let (jobs, published) = (summary.get("jobs"), summary.get("published"));
        assert!(published * 2 >= jobs, "{published} of {jobs} jobs");
        assert!(published as usize >= FRAMES, "{published}, {taken} taken");
    });
}
