//! Passthrough where something goes wrong: clients that go away under a job, fences that fail, drivers that refuse.

use std::time::Duration;

use crate::{
    clients::{
        clock,
        copy_capture::{picture_of, PendingCopy},
        identify, MemoryKind,
    },
    control::capture_report,
    faults::assert_clean,
    machine::{self, Guest, Machine, Proc, Signal, SECOND},
    passthrough::{Stream, Viewer, ON},
    rights::reload,
    stage::{Setup, Summary},
};

fn descriptors(vitrine: &Proc) -> usize {
    let count = || {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", vitrine.pid()));
        entries.unwrap().count()
    };
    // Without what is just on its way.
    let samples = (0..10).map(|_| {
        std::thread::sleep(SECOND / 50);
        count()
    });
    samples.min().unwrap()
}

/// What goes away while the connector writes into it. The fence of each fourth job comes after an eighth of a second, which
/// is when. `die` is told how many copies had been made before the request.
fn dies_under_a_job(guest: &Guest, die: impl Fn(Viewer, PendingCopy, u64)) {
    let late = (3..100)
        .filter(|n| n % 4 == 0)
        .map(|n| format!("fence:{n}=late125"));
    let faults = late.collect::<Vec<_>>().join(",");
    let stage = Setup::default().with(ON).faults(&faults).start(guest);
    let (mut client, mut painter) = stage.painter();
    let mut n = 0;
    let mut held = None;
    for round in 0..6 {
        let mut viewer = Viewer::new(&stage, MemoryKind::Udmabuf);
        // Until a job of this client takes its time.
        let (pending, copies) = loop {
            let copies = capture_report(guest).copies;
            let pending = viewer.ask();
            n += 1;
            painter.present(&mut client, n).unwrap();
            viewer.client.dispatch_for(SECOND / 25).unwrap();
            if !pending.has_ended() {
                break (pending, copies);
            }
            drop(pending);
        };
        die(viewer, pending, copies);
        // The display goes on, and the next client gets the right picture.
        n += 1;
        let shown = painter.present(&mut client, n).unwrap();
        let mut next = Viewer::new(&stage, MemoryKind::Heap);
        next.see(&painter, shown, &format!("after death {round}"));
        drop(next);
        std::thread::sleep(SECOND / 4);
        let held = *held.get_or_insert_with(|| descriptors(&stage.vitrine));
        machine::wait_until("the descriptors of before", SECOND * 20, || {
            descriptors(&stage.vitrine) <= held
        });
    }
    // Alone, and with nothing under way, frames pass through; on a slow machine perhaps not before.
    let mut viewer = Viewer::new(&stage, MemoryKind::Heap);
    let enough = n + 50;
    while capture_report(guest).passthrough < 3 {
        n += 1;
        assert!(n < enough, "nothing passes through");
        let shown = painter.present(&mut client, n).unwrap();
        viewer.see(&painter, shown, "in the end");
    }
    let summary = stage.finish("Virtual-1");
    println!("{summary:?}");
    assert_clean(&guest.dmesg());
}

#[test]
fn a_client_that_dies_under_a_job_disturbs_nobody() {
    machine::boot(Machine::default(), |guest| {
        dies_under_a_job(guest, |viewer, pending, _| viewer.die(pending));
    });
}

#[test]
fn a_buffer_that_is_destroyed_under_a_job_disturbs_nobody() {
    machine::boot(Machine::default(), |guest| {
        dies_under_a_job(guest, |mut viewer, pending, copies| {
            viewer.buffers.clear();
            viewer.client.roundtrip().unwrap();
            if pending.has_ended() {
                // On a slow machine the job was over before the buffer.
                return;
            }
            let end = pending.wait_end(&mut viewer.client, SECOND * 20).unwrap();
            // Or it was overtaken, and a worker was copying already.
            let copied = capture_report(guest).copies > copies;
            assert!(end.1.is_err() || copied, "ready without a buffer");
        });
    });
}

#[test]
fn a_frame_that_is_destroyed_under_a_job_leaves_its_buffer_to_the_job_and_then_to_the_next() {
    machine::boot(Machine::default(), |guest| {
        dies_under_a_job(guest, |mut viewer, pending, _| {
            drop(pending);
            // The same memory again, at once: written by one at a time, and right when it is ready.
            viewer.turn += viewer.buffers.len() - 1;
            let frame = viewer.capture();
            let n = identify(&frame.picture);
            assert!(n.is_some(), "a torn picture");
            let still = picture_of(viewer.buffer());
            std::thread::sleep(SECOND / 5);
            picture_of(viewer.buffer()).assert_same(&still, "written after ready");
        });
    });
}

#[test]
fn whoever_loses_the_right_under_a_job_gets_nothing_and_sees_nothing_that_comes_later() {
    const CLOSED: &str = "[access]\ndefault = 'deny'\n";
    machine::boot(Machine::default(), |guest| {
        let faults = "fence:4=late125,fence:5=late125";
        let mut stage = Setup::default().with(ON).faults(faults).start(guest);
        let (mut client, mut painter) = stage.painter();
        let mut viewer = Viewer::new(&stage, MemoryKind::Udmabuf);
        for n in 1..=3 {
            let shown = painter.present(&mut client, n).unwrap();
            viewer.see(&painter, shown, "with the right");
        }
        let pending = viewer.ask();
        painter.present(&mut client, 4).unwrap();
        reload(guest, &mut stage, CLOSED, "access rules changed");
        let (_, end) = pending.wait_end(&mut viewer.client, SECOND * 20).unwrap();
        println!("{end:?}");
        for n in 5..15 {
            painter.present(&mut client, n).unwrap();
        }
        viewer.client.roundtrip().unwrap();
        assert!(viewer.session.record().stopped);
        for buffer in &viewer.buffers {
            let seen = identify(&picture_of(buffer));
            assert!(seen.is_some_and(|n| n <= 4), "{seen:?}");
        }
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert!(summary.get("passthrough") >= 2);
    });
}

/// The n-th job's fence never comes while a client waits for its frame.
fn loses_a_job(faults: &'static str, config: &'static str, judge: fn(&str, &Summary)) {
    machine::boot(Machine::default(), move |guest| {
        let lines = format!("{ON}\n{config}");
        let mut setup = Setup::default().with(&lines).faults(faults);
        if faults.contains("..") {
            // One after the other.
            setup = setup.hasty();
        }
        let stage = setup.start(guest);
        let (mut client, mut painter) = stage.painter();
        let mut viewer = Viewer::new(&stage, MemoryKind::Udmabuf);
        let mut n = 0;
        while capture_report(guest).lost == 0 {
            n += 1;
            assert!(n < 40, "no job was lost");
            let pending = viewer.ask();
            let shown = painter.present(&mut client, n).unwrap();
            // The screen stands still from here on: nothing but this request wants anything.
            let frame = viewer.wait(pending);
            if frame.presented >= shown {
                frame.picture.assert_same(&painter.expected(), "the frame");
            } else {
                viewer.see(&painter, shown, "the frame after");
            }
        }
        for n in 100..110 {
            let shown = painter.present(&mut client, n).unwrap();
            viewer.see(&painter, shown, &format!("picture {n}, afterwards"));
        }
        let log = stage.vitrine.log();
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert!(!log.contains("panicked"));
        judge(&log, &summary);
    });
}

#[test]
fn a_frame_whose_job_is_lost_is_served_by_a_copy_once_the_connector_is_proven() {
    loses_a_job("fence:4=never", "", |log, summary| {
        assert_eq!(log.matches("writeback connector recovered").count(), 1);
        assert_eq!(summary.get("lost"), 1);
        assert!(summary.get("copies") >= 1);
        assert!(summary.get("passthrough") >= 6);
    });
}

#[test]
fn lost_jobs_with_clients_memory_do_not_add_up() {
    machine::boot(Machine::default(), |guest| {
        let faults = "fence:4=never,fence:14=never,fence:24=never,fence:34=never";
        let stage = Setup::default().with(ON).faults(faults).start(guest);
        let (mut client, mut painter) = stage.painter();
        let mut viewer = Viewer::new(&stage, MemoryKind::Udmabuf);
        let mut held = Vec::new();
        for n in 1..60 {
            let shown = painter.present(&mut client, n).unwrap();
            viewer.see(&painter, shown, &format!("picture {n}"));
            let log = stage.vitrine.log();
            if log.matches("writeback connector recovered").count() > held.len() {
                held.push(descriptors(&stage.vitrine));
            }
        }
        let summary = stage.finish("Virtual-1");
        println!("{held:?}; {summary:?}");
        assert_eq!(summary.get("lost"), 4);
        // On a busy machine one of them may have had a slot: that one is waited for, and keeps it.
        let most = held[0] + summary.get("quarantined") as usize;
        assert!(held.iter().all(|count| *count <= most), "{held:?}");
    });
}

#[test]
fn a_frame_whose_connector_stalls_is_rendered_and_copied() {
    loses_a_job("fence:4..400=never", "", |log, summary| {
        assert!(log.contains("writeback connector stalled"));
        assert!(summary.get("rendered") >= 10);
        assert!(summary.get("copies") >= 10);
        assert!(summary.get("passthrough") <= 3);
    });
}

#[test]
fn a_job_that_ends_with_an_error_is_followed_by_a_copy() {
    machine::boot(Machine::default(), |guest| {
        let faults = "fence:3=error,fence:6=error,fence:9=error";
        let stage = Setup::default().with(ON).faults(faults).start(guest);
        let (mut client, mut painter) = stage.painter();
        let mut viewer = Viewer::new(&stage, MemoryKind::Udmabuf);
        for n in 1..=12 {
            let shown = painter.present(&mut client, n).unwrap();
            viewer.see(&painter, shown, &format!("picture {n}"));
        }
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert_eq!(summary.get("failed"), 3);
        assert!(summary.get("copies") >= 1);
        assert!(summary.get("passthrough") >= 4);
    });
}

#[test]
fn a_stream_under_every_kind_of_fault_shows_nothing_false_and_goes_on() {
    const FAULTS: &str = "fence:8..9=error,fence:20=late40,fence:30=late2400,commit:60..62=EBUSY,\
                          fence:50=never,commit:120=EINVAL,commit:140..144=ENOMEM,fence:80=late20,fence:90=never";
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().with(ON).faults(FAULTS).start(guest);
        let mut stream = Stream::begin(&stage);
        stream.run(150);
        stream.run_until_passed(guest, 30);
        stream.finish();
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert!(summary.get("lost") >= 2 && summary.get("recoveries") >= 2);
        // The one buffer that the driver refused is copied to from then on.
        assert!(summary.get("copies") >= 2);
        assert_eq!(summary.get("modesets"), 1);
        assert_clean(&guest.dmesg());
    });
}

#[test]
fn a_compositor_that_is_stopped_under_a_job_tells_the_truth_afterwards() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().with(ON).start(guest);
        let mut stream = Stream::begin(&stage);
        for _ in 0..4 {
            stream.run(8);
            stage.vitrine.signal(Signal::STOP);
            let end = clock::now() + SECOND;
            let moment = Duration::from_millis(20);
            while clock::now() < end {
                stream.window.client.dispatch_for(moment).unwrap();
            }
            stage.vitrine.signal(Signal::CONT);
        }
        stream.run(10);
        stream.run_until_passed(guest, 10);
        stream.finish();
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert_clean(&guest.dmesg());
    });
}

/// The display is never without its frame because of a client's buffer, and one bad buffer is not the connector's fault.
#[test]
fn a_driver_that_refuses_clients_buffers_does_not_lose_its_writeback() {
    machine::boot(Machine::default(), |guest| {
        let refused = (10..60).step_by(6).map(|n| format!("commit:{n}=EINVAL"));
        let faults = refused.collect::<Vec<_>>().join(",");
        let stage = Setup::default().with(ON).faults(&faults).start(guest);
        let (mut client, mut painter) = stage.painter();
        let mut n = 0;
        for _ in 0..12 {
            let mut viewer = Viewer::new(&stage, MemoryKind::Heap);
            for _ in 0..3 {
                n += 1;
                let pending = viewer.ask();
                let shown = painter.present(&mut client, n).unwrap();
                let frame = viewer.wait(pending);
                match frame.presented >= shown {
                    true => frame
                        .picture
                        .assert_same(&painter.expected(), "refused or not"),
                    false => viewer.see(&painter, shown, "refused or not"),
                }
            }
        }
        let log = stage.vitrine.log();
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert!(log.contains("the driver refused to write a client's buffer"));
        assert!(!log.contains("again and again"));
        assert_eq!(summary.get("modesets"), 1);
        assert!(summary.get("passthrough") >= 12);
    });
}
