//! A GPU that is late, or stuck: what it may still read or write is nobody else's, and nobody waits for it.

use crate::{
    clients::{
        buffers::XRGB8888,
        copy_capture::{picture_of, CopyOutcome, FailureReason},
        screencopy::Screencopy,
        session_lock::{Locker, CURTAIN},
        Buffer, MemoryKind, Picture,
    },
    control::capture_report,
    copies::{random_damage, Copier},
    fences::Stopped,
    gpu_copies::{covered, start, start_with, watch, with_gpu, ON},
    looker::Looker,
    machine::{self, SECOND},
    passthrough::Viewer,
    stage::Setup,
};

/// The GPU does not end the second copy: its client brings another buffer, and everything goes on without the GPU.
#[test]
fn a_copy_that_the_gpu_does_not_end_costs_its_client_the_buffer_and_nobody_else_anything() {
    with_gpu(|guest, programs| {
        let setup = Setup::default().faults("copy:2=never");
        // The client does not hold the frame that the GPU may still read.
        let lines = format!("{ON}\nhold_deadline_ms = 50");
        let stage = start_with(guest, programs, setup, &lines);
        let mut copier = Copier::new(&stage, MemoryKind::Udmabuf, XRGB8888, 1);
        let (mut client, mut painter) = stage.painter();
        let shown = painter.present(&mut client, 1).unwrap();
        copier.capture(shown);
        let mut ended = 0;
        while capture_report(guest).gpu_copies + ended < 2 {
            painter.present(&mut client, 2).unwrap();
            let end = copier
                .session
                .capture(&mut copier.client, &copier.buffer, &[]);
            match end.unwrap() {
                CopyOutcome::Ready(_) => {}
                CopyOutcome::Failed(reason) => {
                    assert_eq!(reason, FailureReason::BufferConstraints);
                    ended += 1;
                }
            }
        }
        assert_eq!(ended, 1, "{}", stage.vitrine.log());
        // That memory may still be written.
        let again = copier
            .session
            .capture(&mut copier.client, &copier.buffer, &[]);
        assert!(matches!(
            again.unwrap(),
            CopyOutcome::Failed(FailureReason::BufferConstraints)
        ));
        let report = capture_report(guest);
        // With other memory all is well, but for the GPU.
        copier.buffer =
            Buffer::new(&mut copier.client, MemoryKind::Heap, 640, 480, XRGB8888).unwrap();
        for n in 10..18 {
            let shown = painter.present(&mut client, n).unwrap();
            copier.capture(shown);
            picture_of(&copier.buffer).assert_same(&painter.expected(), "by a worker");
        }
        let after = capture_report(guest);
        assert_eq!(after.gpu_copies, report.gpu_copies);
        assert!(after.copies - report.copies >= 8);
        drop(copier);
        let shown = painter.present(&mut client, 20).unwrap();
        let mut other = Copier::new(&stage, MemoryKind::Shm, XRGB8888, 1);
        other.capture(shown);
        picture_of(&other.buffer).assert_same(&painter.expected(), "another client");
        drop(other);
        stage.finish("Virtual-1");
    });
}

/// A frame that is destroyed while the GPU copies it leaves its memory to nobody, nor to the connector, for which the next
/// request is. When the GPU turns out to be stuck its client is told to bring another buffer.
#[test]
fn the_connector_does_not_write_memory_that_the_gpu_may_still_write() {
    with_gpu(|guest, programs| {
        let setup = Setup::default().faults("copy:1=never");
        let lines = ON.replace("passthrough = false", "passthrough = true");
        let stage = start_with(guest, programs, setup, &lines);
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 1).unwrap();
        let mut viewer = Viewer::new(&stage, MemoryKind::Heap);
        let output = viewer.client.output(None).unwrap();
        let screencopy = Screencopy::new(&viewer.client).unwrap();
        let shot = screencopy.frame(&mut viewer.client, &output, true, None);
        let shot = shot.unwrap();
        // The one that the viewer takes first.
        let buffer = &viewer.buffers[1];
        shot.copy(&viewer.client, buffer, false).unwrap();
        viewer.client.roundtrip().unwrap();
        machine::wait_until("the copy", SECOND * 20, || capture_report(guest).held > 0);
        drop(shot);
        let pending = viewer.ask();
        painter.present(&mut client, 2).unwrap();
        let end = pending.wait(&mut viewer.client, &viewer.buffers[1]);
        assert!(matches!(
            end.unwrap(),
            CopyOutcome::Failed(FailureReason::BufferConstraints)
        ));
        let report = capture_report(guest);
        assert_eq!((report.passthrough, report.copies), (0, 0));
        // The other buffer is as good as ever.
        viewer.buffers.truncate(1);
        for n in 3..8 {
            let shown = painter.present(&mut client, n).unwrap();
            viewer.see(&painter, shown, "the other buffer");
        }
        assert!(capture_report(guest).passthrough > 0);
        drop((screencopy, viewer));
        stage.finish("Virtual-1");
    });
}

/// A copy that ends too late is nobody's; then the GPU is given copies again.
#[test]
fn a_gpu_that_was_stuck_for_a_while_copies_again_afterwards() {
    with_gpu(|guest, programs| {
        let setup = Setup::default().faults("copy:1=late4000");
        let stage = start(guest, programs, setup);
        let mut copier = Copier::new(&stage, MemoryKind::Udmabuf, XRGB8888, 1);
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 1).unwrap();
        let end = copier
            .session
            .capture(&mut copier.client, &copier.buffer, &[]);
        assert!(matches!(
            end.unwrap(),
            CopyOutcome::Failed(FailureReason::BufferConstraints)
        ));
        machine::wait_until("the GPU to go on", SECOND * 30, || {
            let log = stage.vitrine.log();
            log.contains("an overdue copy of the GPU has ended")
        });
        let mut copiers = [copier];
        copiers[0].buffer.write(|bytes| bytes.fill(0x5a));
        random_damage(&stage, &mut copiers, 6, 4);
        drop(copiers);
        let summary = stage.finish("Virtual-1");
        assert!(summary.get("copies") >= 5);
        assert_eq!(summary.get("gpu_copies"), summary.get("copies"));
    });
}

/// Whose copy is under way may do what it likes; here it destroys everything, or dies.
#[test]
fn a_client_that_leaves_during_a_copy_of_the_gpu_leaves_nothing_behind() {
    with_gpu(|guest, programs| {
        let setup = Setup::default().faults("copy:1..2=late1000");
        let stage = start(guest, programs, setup);
        let (mut client, mut painter) = stage.painter();
        let shown = painter.present(&mut client, 1).unwrap();
        for dies in [false, true] {
            let mut copier = Copier::new(&stage, MemoryKind::Udmabuf, XRGB8888, 1);
            let session = &copier.session;
            let pending = session.request(&mut copier.client, &copier.buffer, &[]);
            copier.client.roundtrip().unwrap();
            // It has begun before the client is heard of again.
            machine::wait_until("the copy", SECOND * 20, || capture_report(guest).held > 0);
            if dies {
                drop((pending, copier));
            } else {
                drop(pending);
                let Copier {
                    mut client,
                    buffer,
                    session,
                    ..
                } = copier;
                drop((buffer, session));
                client.roundtrip().unwrap();
            }
            machine::wait_until("the slot", SECOND * 20, || capture_report(guest).held == 0);
        }
        let mut copier = Copier::new(&stage, MemoryKind::Udmabuf, XRGB8888, 1);
        copier.capture(shown);
        picture_of(&copier.buffer).assert_same(&painter.expected(), "the next client");
        let report = capture_report(guest);
        assert_eq!(report.clients.len(), 1);
        assert_eq!((report.copies, report.gpu_copies), (1, 1));
        drop(copier);
        stage.finish("Virtual-1");
    });
}

/// The copy's lease is taken back before anybody knows that the GPU is stuck, and a client has put a fence onto the slot, which
/// counts for nothing soon. What the GPU may still read is not written all the same.
#[test]
fn a_slot_that_the_gpu_may_still_read_is_not_used_again_whoever_starves() {
    with_gpu(|guest, programs| {
        let setup = Setup::default().faults("copy:1=never");
        let lines = format!("{ON}\nhold_deadline_ms = 50\nring_slots = 3");
        let stage = start_with(guest, programs, setup, &lines);
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 1).unwrap();
        let mut looker = Looker::new(&stage);
        let read = looker.frame();
        let mut copier = Copier::new(&stage, MemoryKind::Udmabuf, XRGB8888, 1);
        let session = &copier.session;
        let pending = session.request(&mut copier.client, &copier.buffer, &[]);
        copier.client.roundtrip().unwrap();
        let holders = || {
            capture_report(guest)
                .clients
                .into_iter()
                .filter(|c| c.held > 0)
        };
        machine::wait_until("the copy", SECOND * 20, || holders().count() == 2);
        assert_eq!(capture_report(guest).held, 1, "both have one frame");
        let (id, map) = (read.buffer_id(), read.map().unwrap());
        let then = map.picture();
        let stopped = Stopped::new();
        stopped.hold_from_writers(read.fd());
        drop(read);
        // Of three slots the GPU reads one, and somebody does not let go of another.
        painter.present(&mut client, 2).unwrap();
        let held = looker.frame();
        let mut good = Looker::new(&stage);
        for n in 10..90 {
            painter.present(&mut client, n).unwrap();
            let frame = good.frame();
            assert_ne!(frame.buffer_id(), id, "picture {n}");
            map.picture().assert_same(&then, &format!("at picture {n}"));
        }
        let report = capture_report(guest);
        assert!(report.voids >= 2, "nobody starved: {report:?}");
        drop((held, good, looker, pending, copier, stopped));
        stage.finish("Virtual-1");
    });
}

/// Nobody is given a picture from before the lock, and the lock does not wait for the GPU.
#[test]
fn a_copy_that_the_gpu_does_not_end_does_not_keep_the_session_from_being_locked() {
    with_gpu(|guest, programs| {
        let setup = Setup::default().faults("copy:1=never");
        let stage = start(guest, programs, setup);
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 1).unwrap();
        let mut copier = Copier::new(&stage, MemoryKind::Udmabuf, XRGB8888, 1);
        let session = &copier.session;
        let pending = session.request(&mut copier.client, &copier.buffer, &[]);
        copier.client.roundtrip().unwrap();
        machine::wait_until("the copy", SECOND * 20, || capture_report(guest).held > 0);
        let mut lock_client = stage.client();
        let _lock = Locker::lock(&mut lock_client).unwrap();
        let end = pending.unwrap().wait(&mut copier.client, &copier.buffer);
        assert!(matches!(
            end.unwrap(),
            CopyOutcome::Failed(FailureReason::BufferConstraints)
        ));
        let client = &mut copier.client;
        let buffer = Buffer::new(client, MemoryKind::Heap, 640, 480, XRGB8888).unwrap();
        let frame = copier.session.capture(client, &buffer, &[]).unwrap();
        let curtain = Picture::filled(640, 480, CURTAIN);
        frame.frame().picture.assert_same(&curtain, "locked");
        drop((buffer, copier));
        stage.finish("Virtual-1");
    });
}

/// The GPU does not end the first pictures of a window. The display does not wait for it, and the window is captured in the end.
#[test]
fn a_window_that_the_gpu_is_slow_to_draw_holds_nobody_up() {
    with_gpu(|guest, programs| {
        let setup = Setup::default().faults("window:1..5=never");
        let stage = start(guest, programs, setup);
        let [(_below_client, below), (mut above_client, mut above)] = covered(&stage);
        let mut watcher = stage.client();
        let session = watch(&mut watcher, "below");
        let buffer = session.buffer(&mut watcher, MemoryKind::Shm).unwrap();
        let pending = session.request(&mut watcher, &buffer, &[]).unwrap();
        watcher.roundtrip().unwrap();
        let mut eyes = Copier::new(&stage, MemoryKind::Udmabuf, XRGB8888, 1);
        for n in 100..110 {
            let shown = above.present(&mut above_client, n).unwrap();
            eyes.capture(shown);
            picture_of(&eyes.buffer).assert_same(&above.expected(), "the screen");
        }
        assert!(
            !pending.has_ended(),
            "nothing was drawn, and yet there is a frame"
        );
        let frame = pending.wait(&mut watcher, &buffer).unwrap().frame();
        frame
            .picture
            .assert_same(&below.expected(), "the window, in the end");
        let log = stage.vitrine.log();
        assert_eq!(log.matches("a captured window cannot be drawn").count(), 1);
        drop((eyes, session, watcher));
        stage.finish("Virtual-1");
    });
}

/// The GPU is slow to end a captured picture of the screen: nobody is given its slot, and nothing else is drawn there, until it
/// has ended it.
#[test]
fn a_slot_that_the_gpu_may_still_draw_into_is_in_quarantine_until_it_has_ended() {
    with_gpu(|guest, programs| {
        let setup = Setup::default().faults("draw:2=late9000");
        let lines = format!("{ON}\nproducer = \"render\"");
        let stage = start_with(guest, programs, setup, &lines);
        let (mut client, mut painter) = stage.painter();
        let mut eyes = Copier::new(&stage, MemoryKind::Shm, XRGB8888, 1);
        let mut see = |n| {
            let shown = painter.present(&mut client, n).unwrap();
            eyes.capture(shown);
            picture_of(&eyes.buffer).assert_same(&painter.expected(), "the screen");
        };
        see(1);
        see(2);
        let log = stage.vitrine.log();
        assert_eq!(log.matches("capture job overdue").count(), 1, "{log}");
        assert_eq!(capture_report(guest).quarantined, 1);
        (3..9).for_each(&mut see);
        machine::wait_until("the GPU", SECOND * 30, || {
            capture_report(guest).quarantined == 0
        });
        (9..15).for_each(&mut see);
        drop(eyes);
        stage.finish("Virtual-1");
    });
}
