//! Who makes the frames, and what happens when that changes: sessions go on, no frame lies, each change is said.

use crate::{
    clients::{copy_capture::picture_of, CopySession, Exporter, MemoryKind},
    faults::{assert_clean, assert_in_order},
    film::{seldom, Cameras, Film},
    machine::{self, Machine, Output},
    stage::{Setup, Stage, Summary},
};

const LOST: &str =
    "producer=\"render\" reason=the writeback connector lost a job and is being probed";
pub const BACK: &str = "producer=\"writeback\" reason=the writeback connector works";

/// Four sessions: a copy and an export with the cursor, the same without.
fn four_sessions(
    setup: Setup,
    scene: impl FnOnce(&Stage<'_>, &mut Film, &mut Cameras),
    judge: fn(&str, Summary),
) {
    machine::boot(Machine::default(), |guest| {
        let stage = setup.start(guest);
        let mut film = Film::begin(&stage, None, 1);
        let mut others = Cameras::open_view(&stage, None, false);
        scene(&stage, &mut film, &mut others);
        others.assert_true(&mut [&mut film.window]);
        let (_, cameras) = film.cut();
        for cameras in [&cameras, &others] {
            assert!(cameras.cancelled.is_empty() && cameras.failed.is_empty());
            assert!(!cameras.session.record().stopped, "a session ended");
        }
        drop((cameras, others));
        let log_of = guest.out().join("vitrine.log");
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert_clean(&guest.dmesg());
        judge(&std::fs::read_to_string(log_of).unwrap(), summary);
    });
}

/// Goes on until all four sessions have so many more frames.
#[track_caller]
fn shoot(film: &mut Film, others: &mut Cameras, frames: usize) {
    let counts = |a: &Cameras, b: &Cameras| {
        let of = |cameras: &Cameras| ["export", "copy"].map(|by| cameras.count(by));
        [of(a), of(b)].concat()
    };
    let until: Vec<_> = counts(&film.cameras, others)
        .into_iter()
        .map(|n| n + frames)
        .collect();
    film.roll_until("frames of all sessions", |film| {
        others.turn();
        let now = counts(&film.cameras, others);
        now.iter().zip(&until).all(|(now, until)| now >= until)
    });
}

#[track_caller]
fn until_log(stage: &Stage<'_>, film: &mut Film, others: &mut Cameras, words: &str) {
    let mut said = seldom(|| stage.vitrine.log().contains(words));
    film.roll_until(words, |_| {
        others.turn();
        said()
    });
}

#[test]
fn frames_go_on_while_the_connector_is_faulty_and_come_from_it_again_when_it_is_proven() {
    four_sessions(
        Setup::default().faults("fence:20..22=never"),
        |stage, film, others| {
            shoot(film, others, 10);
            until_log(stage, film, others, LOST);
            shoot(film, others, 20);
            until_log(stage, film, others, "writeback connector recovered");
            shoot(film, others, 20);
        },
        |log, summary| {
            assert_in_order(
                log,
                &[
                    BACK,
                    "writeback job lost",
                    LOST,
                    "writeback connector stalled",
                    "writeback connector recovered",
                    BACK,
                ],
            );
            // Once for each view, whatever happens in between.
            assert_eq!(log.matches(LOST).count(), 2);
            assert_eq!(log.matches(BACK).count(), 4);
            assert!(summary.get("lost") >= 2);
            assert_eq!(summary.get("recoveries"), 1);
            assert!(summary.get("rendered") >= 20);
            // A busy machine is late with some of them.
            assert!(summary.get("written_back") + summary.get("late") >= 30);
        },
    );
}

#[test]
fn fences_with_errors_hand_over_to_the_renderer_and_back() {
    four_sessions(
        Setup::default().faults("fence:20..22=error"),
        |stage, film, others| {
            until_log(stage, film, others, "writeback connector recovered");
            shoot(film, others, 10);
        },
        |log, summary| {
            assert_in_order(log, &[BACK, LOST, "writeback connector recovered", BACK]);
            assert_eq!(summary.get("failed"), 3);
            assert!(summary.get("rendered") > 0);
        },
    );
}

#[test]
fn a_connector_that_never_comes_back_is_stood_in_for() {
    four_sessions(
        Setup::default().faults("fence:8..100000=never"),
        |stage, film, others| {
            shoot(film, others, 120);
            until_log(stage, film, others, "writeback connector stalled");
        },
        |log, summary| {
            assert_eq!(log.matches(LOST).count(), 2);
            // All before the first lost one, but for those that a busy machine was too slow for.
            assert_eq!(summary.get("written_back") + summary.get("late"), 7);
            assert!(summary.get("rendered") >= 100);
            assert!(summary.get("stalls") >= 1, "it was not probed");
        },
    );
}

#[test]
fn a_driver_that_refuses_jobs_is_stood_in_for() {
    four_sessions(
        Setup::default().faults("modeset-writeback=EINVAL"),
        |_, film, others| shoot(film, others, 40),
        |log, summary| {
            let reason = "producer=\"render\" reason=no writeback connector can be used";
            assert_eq!(log.matches(reason).count(), 2);
            assert_eq!(summary.get("jobs"), 0);
            assert!(summary.get("rendered") >= 40);
        },
    );
}

#[test]
fn the_render_producer_keeps_up_with_the_screen_and_copies_only_what_changed() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default()
            .with("[capture]\nproducer = \"render\"\nlease_primary = false")
            .start(guest);
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 1).unwrap();
        let mut capturer = stage.client();
        let output = capturer.output(None).unwrap();
        let exporter = Exporter::new(&capturer).unwrap();
        let session = CopySession::open(&mut capturer, &output, true).unwrap();
        let buffer = session.buffer(&mut capturer, MemoryKind::Shm).unwrap();
        // Each slot is written in parts on top of what it had: every frame must be whole all the same.
        for n in 2..40u32 {
            let at = |n: u32, range: u32| i32::try_from(n * 37 % range).unwrap();
            let part = crate::clients::Rect::new(at(n, 500), at(n + 3, 400), 60 + at(n, 60), 50);
            let shown = painter.paint_part(&mut client, n, part).unwrap();
            let shown = painter.time_shown(&mut client, shown).unwrap();
            let frame = exporter
                .capture(&mut capturer, &output, true)
                .unwrap()
                .frame();
            assert!(frame.presented() >= shown, "older than the screen");
            let what = format!("export of picture {n}");
            frame.picture().assert_same(&painter.expected(), &what);
            let copied = session
                .capture(&mut capturer, &buffer, &[])
                .unwrap()
                .frame();
            assert!(copied.presented >= shown, "older than the screen");
            picture_of(&buffer).assert_same(&painter.expected(), &format!("copy of {n}"));
        }
        let log_of = guest.out().join("vitrine.log");
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert_eq!(summary.get("jobs"), 0, "writeback jobs");
        let log = std::fs::read_to_string(log_of).unwrap();
        assert!(log.contains("producer=\"render\" reason=configured"));
        // Four slots in full at the first time, then only what each lacks: the bytes are bounded by the damage.
        let screen = 640 * 480 * 4;
        assert!(summary.get("rendered_bytes") >= 4 * screen);
        assert!(summary.get("rendered_bytes") < 16 * screen, "{summary:?}");
    });
}

#[test]
fn each_output_has_its_own_producer() {
    let machine = Machine::default()
        .output(Output::new())
        .output(Output::new());
    machine::boot(machine, |guest| {
        let stage = Setup::default()
            .config(
                "[[output]]\nconnector = \"Virtual-1\"\nmode = \"640x480\"\nproducer = \"render\"\n\
                 [[output]]\nconnector = \"Virtual-2\"\nmode = \"640x480\"\n",
            )
            .start(guest);
        for name in ["Virtual-1", "Virtual-2"] {
            let mut film = Film::begin(&stage, Some(name), 1);
            film.shoot(10);
            drop(film.cut());
        }
        let log_of = guest.out().join("vitrine.log");
        let first = stage.finish("Virtual-1");
        let second = Summary::read(&std::fs::read_to_string(log_of).unwrap(), "Virtual-2");
        assert_eq!(first.get("written_back"), 0);
        assert!(first.get("rendered") >= 10);
        assert_eq!(second.get("rendered"), 0);
        assert!(second.get("written_back") >= 10);
    });
}
