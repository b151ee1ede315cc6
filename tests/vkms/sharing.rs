//! One frame, one writeback job, any number of clients.

use std::collections::BTreeSet;

use crate::{
    clients::export_dmabuf::{ExportedFrame, Holding},
    looker::Looker,
    machine::{self, Machine, SECOND},
    stage::Setup,
};

const CLIENTS: usize = 8;

#[test]
fn eight_clients_get_the_same_three_hundred_frames_from_one_job_each() {
    const FRAMES: u32 = 300;
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 1000).unwrap();
        let mut lookers: Vec<_> = (0..CLIENTS).map(|_| Looker::new(&stage)).collect();
        let mut buffers = BTreeSet::new();
        let mut last = std::time::Duration::ZERO;
        for n in 0..FRAMES {
            painter.present(&mut client, n).unwrap();
            // All have the last frame, so each of these asks for the one after it.
            let pending: Vec<_> = lookers.iter_mut().map(Looker::request).collect();
            let frames: Vec<_> = lookers
                .iter_mut()
                .zip(pending)
                .map(|(looker, pending)| looker.wait(pending))
                .collect();
            let told: BTreeSet<_> = frames
                .iter()
                .map(|frame| (frame.presented(), frame.buffer_id()))
                .collect();
            assert_eq!(told.len(), 1, "frame {n} is not the same for all: {told:?}");
            let (presented, buffer) = told.into_iter().next().unwrap();
            assert!(presented > last, "frame {n} was delivered twice");
            last = presented;
            buffers.insert(buffer);
        }
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        // A machine that is too busy for one refresh makes a job late; that one is thrown away, not multiplied.
        assert_eq!(summary.get("jobs") - summary.get("late"), u64::from(FRAMES));
        assert_eq!(summary.get("published"), u64::from(FRAMES));
        assert_eq!(summary.get("delivered"), u64::from(FRAMES) * CLIENTS as u64);
        assert_eq!(summary.get("lost"), 0);
        assert_eq!(summary.get("copies"), 0);
        assert_eq!(summary.get("modesets"), 1);
        assert_eq!(summary.get("buffers"), 4);
        assert!(buffers.len() <= 4, "{buffers:?}");
    });
}

/// Without anybody who keeps them in step: each at its own pace, on a thread of its own.
#[test]
fn eight_clients_that_run_freely_cost_no_more_jobs_than_frames_are_published() {
    const FRAMES: u64 = 100;
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 1).unwrap();
        let threads: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let mut looker = Looker::new(&stage);
                std::thread::spawn(move || {
                    let Looker {
                        client,
                        exporter,
                        output,
                    } = &mut looker;
                    let enough = |stats: &crate::clients::CaptureStats, _: &ExportedFrame| {
                        stats.frames == FRAMES
                    };
                    exporter
                        .run(client, output, Holding::ReleaseAtOnce, SECOND * 20, enough)
                        .unwrap()
                })
            })
            .collect();
        let mut n = 2;
        while threads.iter().any(|thread| !thread.is_finished()) {
            painter.paint(&mut client, n).unwrap();
            painter.wait_frame(&mut client).unwrap();
            n += 1;
        }
        let mut seen = BTreeSet::new();
        for thread in threads {
            let stats = thread.join().unwrap();
            assert_eq!((stats.frames, stats.failures), (FRAMES, 0));
            assert_eq!(stats.disorder(), 0);
            seen.extend(stats.presented);
        }
        let summary = stage.finish("Virtual-1");
        println!("{} different frames; {summary:?}", seen.len());
        let published = summary.get("published");
        // The last frame's successor was expected to be asked for: its job may be under way when the compositor leaves.
        let over = summary.get("jobs") - summary.get("in_flight");
        assert_eq!(over - summary.get("late"), published);
        assert_eq!(summary.get("lost"), 0);
        assert!(
            seen.len() as u64 <= published,
            "a frame that was never published"
        );
        assert!(published < FRAMES * 3, "frames are not shared");
        assert!(summary.get("flips") >= published);
        assert_eq!(summary.get("buffers"), 4);
    });
}

/// Clients that only capture are read when a turn of the event loop happens anyway. That must not keep an answer from
/// anybody, and a client that opens a window is an application from then on.
#[test]
fn clients_that_stream_side_by_side_are_answered_whatever_else_they_ask() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 1000).unwrap();
        let mut lookers: Vec<_> = (0..4).map(|_| Looker::new(&stage)).collect();
        for n in 0..40 {
            painter.present(&mut client, n).unwrap();
            let pending: Vec<_> = lookers.iter_mut().map(Looker::request).collect();
            for (looker, pending) in lookers.iter_mut().zip(pending) {
                looker.wait(pending);
            }
            // All were told of a frame just now, and nothing moves on the screen.
            lookers[n as usize % 4].client.roundtrip().unwrap();
        }
        // One dies with a frame, and a request under way: the others' next frames have room.
        let mut dying = lookers.remove(0);
        let held = dying.request();
        let held = dying.wait(held);
        drop(dying);
        drop(held);
        let mut window = {
            let looker = &mut lookers[0];
            crate::clients::painter::Painter::new(&mut looker.client, Default::default()).unwrap()
        };
        for n in 100..120 {
            let pending: Vec<_> = lookers.iter_mut().map(Looker::request).collect();
            window.present(&mut lookers[0].client, n).unwrap();
            for (looker, pending) in lookers.iter_mut().zip(pending) {
                looker.wait(pending);
            }
        }
        let summary = stage.finish("Virtual-1");
        assert!(summary.get("delivered") >= 40 * 4 + 20 * 3, "{summary:?}");
        assert_eq!(summary.get("lost"), 0, "{summary:?}");
    });
}
