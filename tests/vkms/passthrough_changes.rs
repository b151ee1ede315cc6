//! Passthrough beside what else a compositor does: a history, GLES, a seat that goes away, screens that are set anew or
//! unplugged under a stream. (A mode changes at run time only with its screen: Vitrine sets the one that the file says.)

use std::time::Duration;

use crate::{
    clients::{
        clock,
        copy_capture::{picture_of, FailureReason},
        CopySession, MemoryKind, Painter, PainterOptions, Rect,
    },
    control::{assert_png_shows, capture_report, msg, pngs},
    faults::assert_clean,
    hotplug::descriptors,
    machine::{self, Guest, Machine, Output, SECOND},
    passthrough::{alone, Stream, Viewer, ON},
    pause::{switch_to, OtherSession},
    power::Switch,
    stage::{Setup, Stage, Summary},
    uinput::Device,
};

#[test]
fn a_history_keeps_each_frame_so_nothing_passes_through() {
    machine::boot(Machine::default(), |guest| {
        let lines = format!("{ON}\nhistory = 3");
        let stage = Setup::default().with(&lines).start(guest);
        let (mut client, mut painter) = stage.painter();
        let mut viewer = Viewer::new(&stage, MemoryKind::Udmabuf);
        for n in 1..=8 {
            let shown = painter.present(&mut client, n).unwrap();
            viewer.see(&painter, shown, &format!("picture {n}, beside a history"));
        }
        let folder = guest.out().join("kept");
        msg(guest, &["history", folder.to_str().unwrap()]);
        let files = pngs(&folder);
        assert_eq!(files.len(), 3);
        assert_png_shows(&files[2], &painter.expected());
        assert_eq!(capture_report(guest).history, 3);
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert_eq!(summary.get("passthrough"), 0);
        assert_eq!(summary.get("imports"), 0, "nothing was even tried");
        assert!(summary.get("copies") >= 8);
    });
}

/// The test machine has no render node: there GLES takes no dma-bufs, whoever they are for, and so promises none.
#[test]
fn with_gles_and_no_render_node_dma_bufs_are_not_offered_and_frames_are_copied() {
    machine::boot(Machine::default().timeout(SECOND * 180), |guest| {
        let lines = format!("renderer = \"gles\"\n{ON}");
        let mut stage = Setup::default().with(&lines).start(guest);
        stage
            .vitrine
            .wait_log("dma-bufs are not offered", SECOND * 30);
        let (mut client, mut painter) = stage.painter();
        let mut capturer = stage.client();
        assert_eq!(capturer.version_of("zwp_linux_dmabuf_v1"), None);
        let output = capturer.output(None).unwrap();
        let session = CopySession::open(&mut capturer, &output, true).unwrap();
        let constraints = session.constraints();
        assert_eq!(constraints.dmabuf_device, None);
        assert!(constraints.dmabuf_formats.is_empty());
        let buffer = session.buffer(&mut capturer, MemoryKind::Shm).unwrap();
        for n in 1..=4 {
            let shown = painter.present(&mut client, n).unwrap();
            loop {
                let frame = session.capture(&mut capturer, &buffer, &[]).unwrap();
                if frame.frame().presented >= shown {
                    break;
                }
            }
            picture_of(&buffer).assert_same(&painter.expected(), "with GLES");
        }
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert_eq!(summary.get("passthrough"), 0);
        assert!(summary.get("copies") >= 4);
    });
}

/// Takes the seat away for a while; `meanwhile` is told when nothing may be shown any more.
fn without_the_seat(stage: &mut Stage<'_>, keyboard: &mut Device, meanwhile: impl FnOnce()) {
    let times = |stage: &Stage<'_>, words: &str| stage.vitrine.log().matches(words).count();
    let [paused, resumed] = ["session paused", "session resumed"];
    let before = times(stage, paused);
    let mut other = OtherSession::open();
    switch_to(keyboard, u16::try_from(before).unwrap() + 1);
    other.wait_active();
    machine::wait_until(paused, SECOND * 20, || times(stage, paused) > before);
    meanwhile();
    drop(other);
    machine::wait_until(resumed, SECOND * 20, || times(stage, resumed) > before);
}

#[test]
fn without_the_seat_nothing_is_written_and_what_waits_is_written_when_it_is_back() {
    machine::boot(Machine::default(), |guest| {
        let mut keyboard = Device::keyboard();
        let mut stage = Setup::default().with(ON).start(guest);
        let (mut client, mut painter) = stage.painter();
        let mut viewer = Viewer::new(&stage, MemoryKind::Udmabuf);
        for round in 1..=3 {
            alone(guest, &mut viewer, (&mut client, &mut painter), round * 100);
            let pending = viewer.ask();
            without_the_seat(&mut stage, &mut keyboard, || {
                let before = viewer.pictures();
                painter.paint(&mut client, round * 100 + 50).unwrap();
                client.roundtrip().unwrap();
                viewer.client.dispatch_for(SECOND / 2).unwrap();
                assert!(!pending.has_ended(), "captured without the seat");
                viewer.assert_untouched(&before, "without the seat");
            });
            let frame = viewer.wait(pending);
            // The screen is set anew with what was on it; what the application drew meanwhile may come after.
            if frame.picture != painter.expected() {
                viewer.capture();
            }
            picture_of(viewer.buffer()).assert_same(&painter.expected(), "back again");
            alone(
                guest,
                &mut viewer,
                (&mut client, &mut painter),
                round * 100 + 60,
            );
        }
        stage.wait_for_slots(0);
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert_eq!(summary.get("modesets"), 4);
        assert_eq!(summary.get("quarantined"), 0);
        assert_clean(&guest.dmesg());
    });
}

#[test]
fn a_stream_whose_seat_goes_and_comes_back_under_jobs_is_true() {
    machine::boot(Machine::default(), |guest| {
        let mut keyboard = Device::keyboard();
        let mut stage = Setup::default().with(ON).start(guest);
        let mut stream = Stream::begin(&stage);
        let mut passed = Vec::new();
        for round in 0..4 {
            // At another point of its frame in each round.
            stream.run(12 + round);
            let least = passed.last().map_or(4, |passed| passed + 4);
            passed.push(stream.run_until_passed(guest, least));
            without_the_seat(&mut stage, &mut keyboard, || {
                let paused = clock::now();
                // What was under way comes to its end.
                while clock::now() < paused + SECOND {
                    stream.turn();
                }
                let before = stream.viewer.pictures();
                for _ in 0..100 {
                    stream.turn();
                }
                assert_eq!(stream.taken_after(paused), 0, "captured without the seat");
                stream.viewer.assert_untouched(&before, "without the seat");
            });
        }
        stream.run(12);
        let least = passed.last().map_or(4, |passed| passed + 4);
        passed.push(stream.run_until_passed(guest, least));
        stream.finish();
        let log = stage.vitrine.log();
        let summary = stage.finish("Virtual-1");
        println!("{passed:?}; {summary:?}");
        assert_eq!(summary.get("modesets"), 5);
        assert!(!log.contains(" ERROR "));
        assert_clean(&guest.dmesg());
    });
}

/// Commits are refused until the whole state is set anew. A buffer that was in the last of them may be taken for the culprit
/// and be copied to from then on; the other is imported anew and written.
#[test]
fn a_modeset_under_a_stream_leaves_it_true_and_passthrough_comes_back() {
    machine::boot(Machine::default(), |guest| {
        let setup = Setup::default().with(ON);
        let stage = setup.faults("commit:60..90=EINVAL").start(guest);
        let mut stream = Stream::begin(&stage);
        stream.run(20);
        let before = stream.run_until_passed(guest, 5);
        stream.run_until("the modeset", |_| {
            stage.vitrine.log().matches("mode set").count() >= 2
        });
        stream.run(20);
        let between = capture_report(guest).passthrough;
        stream.run(20);
        stream.run_until_passed(guest, between + 8);
        stream.finish();
        let log = stage.vitrine.log();
        let summary = stage.finish("Virtual-1");
        println!("{before}, {between}; {summary:?}");
        assert!(log.contains("setting the whole display state anew"));
        let (modesets, imports) = (summary.get("modesets"), summary.get("imports"));
        assert!(modesets >= 2 && (4..=2 * modesets).contains(&imports));
        assert_clean(&guest.dmesg());
    });
}

/// A screen is unplugged while its client waits for a job, and comes back, again and again.
fn unplugged(guest: &Guest, faults: &str, passes: u64) {
    let stage = Setup::default().with(ON).faults(faults).start(guest);
    let second = Some("Virtual-2");
    let mut held = None;
    for round in 1..=5 {
        let mut client = stage.client();
        let output = client.output(second).unwrap();
        let options = PainterOptions {
            output: Some(output.proxy.clone()),
            ..Default::default()
        };
        let mut painter = Painter::new(&mut client, options).unwrap();
        let mut viewer = Viewer::connected(stage.client(), second, MemoryKind::Udmabuf);
        for n in 0..5 {
            let shown = painter.present(&mut client, round * 10 + n).unwrap();
            viewer.see(&painter, shown, "plugged in");
        }
        let pending = viewer.ask();
        painter.paint(&mut client, round * 10 + 7).unwrap();
        client.roundtrip().unwrap();
        guest.set_connector_status(1, false);
        let (_, end) = pending.wait_end(&mut viewer.client, SECOND * 20).unwrap();
        match end {
            // It was quicker than the hand at the plug.
            Ok(()) => picture_of(viewer.buffer()).assert_same(&painter.expected(), "the last one"),
            Err(reason) => assert_eq!(reason, FailureReason::Stopped),
        }
        viewer
            .client
            .wait_for("stopped", SECOND * 20, |_| {
                viewer.session.record().stopped.then_some(())
            })
            .unwrap();
        let last = viewer.pictures();
        std::thread::sleep(Duration::from_millis(300));
        viewer.assert_untouched(&last, "unplugged");
        let log = stage.vitrine.log();
        let summary = Summary::read(&log, "Virtual-2");
        println!("round {round}: {end:?}, {summary:?}");
        assert!(summary.get("passthrough") >= passes);
        assert_eq!(summary.get("imports"), 2);
        drop((pending, viewer, painter, client));
        guest.set_connector_status(1, true);
        let mut watcher = stage.client();
        watcher
            .wait_for("the output again", SECOND * 20, |state| {
                let back = |o: &&crate::clients::OutputInfo| o.name == "Virtual-2" && o.done > 0;
                state.outputs.iter().find(back).map(drop)
            })
            .unwrap();
        drop(watcher);
        // The ends of connections are heard of in their time.
        std::thread::sleep(SECOND / 2);
        let held = *held.get_or_insert_with(|| descriptors(&stage));
        machine::wait_until("the descriptors of before", SECOND * 20, || {
            descriptors(&stage) <= held
        });
    }
    assert_eq!(stage.finish("Virtual-1").get("modesets"), 1);
    assert_clean(&guest.dmesg());
}

fn two_screens() -> Machine {
    Machine::default()
        .output(Output::new())
        .output(Output::new())
}

#[test]
fn a_screen_that_is_unplugged_under_a_stream_stops_it_and_passes_through_again_when_it_is_back() {
    machine::boot(two_screens(), |guest| unplugged(guest, "", 3));
}

#[test]
fn the_same_with_jobs_that_are_under_way_when_the_screen_goes() {
    machine::boot(two_screens(), |guest| {
        unplugged(guest, "fence:1..10000=late125", 1);
    });
}

/// Off with a request under way, on again: the buffers are left alone in the dark, and written by the hardware afterwards.
fn off_and_on_under_a_stream(guest: &Guest, faults: &str) -> Summary {
    const ROUNDS: u32 = 4;
    let stage = Setup::default().with(ON).faults(faults).start(guest);
    let (mut app, mut painter) = stage.painter();
    let mut viewer = Viewer::new(&stage, MemoryKind::Udmabuf);
    let mut switch = Switch::of(&stage, None);
    for round in 0..ROUNDS {
        for n in 1..4 {
            let shown = painter.present(&mut app, round * 10 + n).unwrap();
            viewer.see(&painter, shown, "before");
        }
        // In every second round the screen goes off under a job.
        let pending = viewer.ask();
        if round % 2 == 1 {
            painter.paint(&mut app, round * 10 + 5).unwrap();
            app.roundtrip().unwrap();
        }
        switch.set(false);
        viewer.client.dispatch_for(SECOND / 2).unwrap();
        let ended = pending.has_ended();
        let pictures = viewer.pictures();
        painter.paint(&mut app, round * 10 + 6).unwrap();
        app.roundtrip().unwrap();
        viewer.client.dispatch_for(SECOND / 2).unwrap();
        viewer.assert_untouched(&pictures, "in the dark");
        assert_eq!(pending.has_ended(), ended, "answered in the dark");
        let since = clock::now();
        switch.set(true);
        let frame = viewer.wait(pending);
        let frame = match ended {
            // It was, before the screen went off.
            true => viewer.capture(),
            false => frame,
        };
        assert!(frame.presented >= since);
        let expected = painter.expected();
        frame.picture.assert_same(&expected, "after");
        assert_eq!(frame.damage, [Rect::new(0, 0, 640, 480)]);
        std::thread::sleep(SECOND / 5);
        picture_of(viewer.buffer()).assert_same(&expected, "after `ready`");
    }
    let summary = stage.finish("Virtual-1");
    println!("{summary:?}");
    assert_eq!(summary.get("modesets"), u64::from(1 + 2 * ROUNDS));
    assert_eq!(summary.get("imports"), 2, "once per buffer");
    assert_eq!(summary.get("lost"), 0);
    assert_clean(&guest.dmesg());
    summary
}

#[test]
fn a_stream_whose_screen_goes_off_passes_through_again_when_it_is_on() {
    machine::boot(Machine::default(), |guest| {
        let summary = off_and_on_under_a_stream(guest, "");
        assert!(summary.get("passthrough") >= 12);
    });
}

#[test]
fn a_late_job_into_a_clients_memory_is_not_believed_when_its_screen_goes_off() {
    machine::boot(Machine::default(), |guest| {
        let summary = off_and_on_under_a_stream(guest, "fence:4..1000=late150");
        assert!(summary.get("late") >= 1);
    });
}
