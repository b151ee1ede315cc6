//! Clients that do not let go, and what everybody else notices of it: nothing.

use std::{fs, time::Duration};

use crate::{
    clients::{
        export_dmabuf::{CancelReason, ExportedFrame},
        programs, Client, Painter,
    },
    looker::Looker,
    machine::{self, Guest, Machine, Proc, Signal, SECOND},
    stage::{Setup, Stage, Summary},
};

/// Frames for the well-behaved client, and flips, while the others misbehave.
const FRAMES: u32 = 60;

/// Each picture must be shown, and each must come to the good client: what it gets is what was drawn.
fn everything_goes_on(client: &mut Client, painter: &mut Painter, good: &mut Looker, from: u32) {
    for n in from..from + FRAMES {
        let shown = painter.present(client, n).unwrap();
        let mut frame = good.frame();
        // One that was captured before the picture was shown is an honest answer too.
        while frame.presented() < shown {
            drop(frame);
            frame = good.frame();
        }
        if n % 10 == 0 {
            frame
                .picture()
                .assert_same(&painter.expected(), "the good client's frame");
        }
    }
}

fn descriptors(vitrine: &Proc) -> usize {
    fs::read_dir(format!("/proc/{}/fd", vitrine.pid()))
        .unwrap()
        .count()
}

/// Descriptors and dma-bufs without those that are just on their way to a client or belong to a job in flight.
pub fn at_rest(vitrine: &Proc) -> (usize, usize) {
    let samples: Vec<_> = (0..10)
        .map(|_| {
            std::thread::sleep(SECOND / 50);
            (descriptors(vitrine), dmabufs(vitrine))
        })
        .collect();
    let least = |which: fn(&(usize, usize)) -> usize| samples.iter().map(which).min().unwrap();
    (least(|sample| sample.0), least(|sample| sample.1))
}

fn dmabufs(vitrine: &Proc) -> usize {
    fs::read_dir(format!("/proc/{}/fd", vitrine.pid()))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .filter(|target| target.to_string_lossy().contains("dmabuf"))
        .count()
}

/// A process that captures and, after some frames, is known to hold two.
fn holder(stage: &Stage<'_>, guest: &Guest, name: &str) -> Proc {
    let out = guest.out().join(format!("{name}.figures"));
    let mut command = programs::command(programs::CAPTURE).unwrap();
    command.args(["--hold-forever", "--patience", "600", "--out"]);
    command.arg(&out);
    stage.spawn(name, command)
}

/// What is leased where the renderer makes the frames.
const RENDER: &str = "producer = 'render'";

#[test]
fn clients_that_never_release_stop_or_die_with_frames_stop_nobody() {
    never_release("", |summary| assert_eq!(summary.get("rendered"), 0));
}

#[test]
fn clients_that_never_release_stop_or_die_with_leased_pictures_stop_nobody() {
    never_release(RENDER, |summary| {
        assert_eq!(summary.get("written_back"), 0);
        assert!(summary.get("leased") >= u64::from(FRAMES) * 3);
    });
}

fn never_release(lines: &'static str, judge: fn(&Summary)) {
    machine::boot(Machine::default(), move |guest| {
        let stage = Setup::default()
            .with(&format!("[capture]\nhold_deadline_ms = 200\n{lines}"))
            .start(guest);
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 1).unwrap();
        let mut good = Looker::new(&stage);
        everything_goes_on(&mut client, &mut painter, &mut good, 100);
        let before = at_rest(&stage.vitrine);

        // Never releases: asks until its quota is full, then waits for ever.
        let mut greedy = Looker::new(&stage);
        let held = [greedy.frame(), greedy.frame()];
        let _third = greedy.request();
        everything_goes_on(&mut client, &mut painter, &mut good, 200);

        // Is stopped in the middle of it, its socket full of what nobody reads.
        let stopped = holder(&stage, guest, "stopped");
        everything_goes_on(&mut client, &mut painter, &mut good, 300);
        stopped.signal(Signal::STOP);
        everything_goes_on(&mut client, &mut painter, &mut good, 400);

        // Is killed while it holds two.
        let mut killed = holder(&stage, guest, "killed");
        everything_goes_on(&mut client, &mut painter, &mut good, 500);
        killed.signal(Signal::KILL);
        killed.wait_exit(SECOND * 20);
        everything_goes_on(&mut client, &mut painter, &mut good, 600);

        // What was taken from the greedy one it was told, after `ready`.
        greedy.client.roundtrip().unwrap();
        for frame in &held {
            assert!(frame.is_ready());
            assert!(matches!(
                frame.cancelled(),
                None | Some(CancelReason::Temporary)
            ));
        }
        drop(held);
        drop(greedy);
        drop(stopped);
        everything_goes_on(&mut client, &mut painter, &mut good, 700);
        let after = at_rest(&stage.vitrine);
        let summary = stage.finish("Virtual-1");
        println!("descriptors and dma-bufs before {before:?} and after {after:?}; {summary:?}");
        assert_eq!(after.1, before.1, "dma-bufs");
        assert!(
            after.0 <= before.0,
            "descriptors leak: {before:?} {after:?}"
        );
        assert_eq!(summary.get("buffers"), 4);
        assert_eq!(summary.get("modesets"), 1);
        assert_eq!(summary.get("lost"), 0);
        assert!(summary.get("flips") >= u64::from(FRAMES) * 7);
        assert!(summary.get("published") >= u64::from(FRAMES) * 7);
        judge(&summary);
    });
}

#[test]
fn a_held_frame_does_not_change_during_a_hundred_and_twenty_flips() {
    hold_two("", |_| {});
}

#[test]
fn a_held_picture_of_the_screen_does_not_change_during_a_hundred_and_twenty_flips() {
    hold_two(RENDER, |summary| {
        // The two that are held, and of the others what the display could do without; the rest was copied.
        let (leased, rendered) = (summary.get("leased"), summary.get("rendered"));
        assert!(leased >= 40 && leased < rendered, "{leased} of {rendered}");
        assert!(summary.get("flips") >= 120);
    });
}

fn hold_two(lines: &'static str, judge: fn(&Summary)) {
    machine::boot(Machine::default(), move |guest| {
        let stage = Setup::default()
            .with(&format!("[capture]\nhold_deadline_ms = 60000\n{lines}"))
            .start(guest);
        let (mut client, mut painter) = stage.painter();
        let mut holder = Looker::new(&stage);
        let mut held = Vec::new();
        for n in [1, 2] {
            let shown = painter.present(&mut client, n).unwrap();
            let mut frame = holder.frame();
            while frame.presented() < shown {
                drop(frame);
                frame = holder.frame();
            }
            let expected = painter.expected();
            frame.picture().assert_same(&expected, "a fresh frame");
            held.push((frame.map().unwrap(), frame, expected));
        }
        let mut good = Looker::new(&stage);
        let unchanged = |held: &[(
            crate::clients::export_dmabuf::MappedFrame,
            ExportedFrame,
            crate::clients::Picture,
        )]| {
            for (mapped, frame, expected) in held {
                mapped.picture().assert_same(expected, "a held frame");
                assert_eq!(frame.cancelled(), None);
            }
        };
        let mut last = Duration::ZERO;
        for n in 10..130 {
            painter.present(&mut client, n).unwrap();
            // Two are held and one is pinned: the fourth slot carries every frame of the other client.
            let frame = good.frame();
            assert!(frame.presented() > last);
            last = frame.presented();
            assert!(held
                .iter()
                .all(|(_, other, _)| other.buffer_id() != frame.buffer_id()));
            if n % 12 == 0 {
                unchanged(&held);
            }
        }
        holder.client.roundtrip().unwrap();
        unchanged(&held);
        drop(held);
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert_eq!(summary.get("voids"), 0);
        assert!(summary.get("published") >= 120);
        judge(&summary);
    });
}

/// With a ring of three and two holders there is no slot left, and the oldest overdue frame is taken back. Not one byte of it
/// may change before its client can know.
#[test]
fn a_frame_is_taken_back_only_after_its_client_was_told() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default()
            .with("[capture]\nhold_deadline_ms = 100\nring_slots = 3")
            .start(guest);
        let (mut client, mut painter) = stage.painter();
        let mut holder = Looker::new(&stage);
        let mut held = Vec::new();
        for n in [1, 2] {
            let shown = painter.present(&mut client, n).unwrap();
            let mut frame = holder.frame();
            while frame.presented() < shown {
                drop(frame);
                frame = holder.frame();
            }
            held.push((frame.map().unwrap(), frame, painter.expected()));
        }
        let mut good = Looker::new(&stage);
        let mut void = None;
        for n in 10..200 {
            painter.present(&mut client, n).unwrap();
            drop(good.frame());
            // First the pictures, then the question: what changed before the answer was sent would be seen.
            let pictures: Vec<_> = held.iter().map(|(mapped, ..)| mapped.picture()).collect();
            holder.client.roundtrip().unwrap();
            for (picture, (_, frame, expected)) in pictures.iter().zip(&held) {
                match frame.cancelled() {
                    None => picture.assert_same(expected, "a frame that its client may read"),
                    Some(reason) => {
                        assert_eq!(reason, CancelReason::Temporary);
                        void.get_or_insert(n);
                    }
                }
            }
            if void.is_some_and(|since| n > since + 10) {
                break;
            }
        }
        assert!(void.is_some(), "nothing was ever taken back");
        // The slot is used again, so that the promise is worth something.
        let reused = held
            .iter()
            .filter(|(mapped, _, expected)| mapped.picture().difference(expected).is_some());
        assert!(reused.count() >= 1);
        drop(held);
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert!(summary.get("voids") >= 1);
        assert_eq!(summary.get("buffers"), 3);
    });
}
