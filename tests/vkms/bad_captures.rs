//! Bad inputs to captures, where the real controller has a part in them: for each of the three protocols at the same time.
//! What needs no controller is in `tests/protocols`; the table is in docs/testing.md.

use std::time::Duration;

use crate::{
    clients::{
        clock, copy_capture::picture_of, Client, CopySession, Exporter, MemoryKind, OutputInfo,
        Picture, ScreencopyFrame,
    },
    cursor::{setup, with_arrow},
    faults::assert_clean,
    film::{seldom, Film},
    machine::{self, Machine, Output, SECOND},
    mouse::Mouse,
    stage::{Setup, Stage, Summary},
};

/// What each protocol shows of a screen that stands still, asked for at once.
struct Asked {
    export: crate::clients::ExportedFrame,
    session: CopySession,
    buffer: crate::clients::Buffer,
    copy: crate::clients::copy_capture::PendingCopy,
    screencopy: ScreencopyFrame,
}

impl Asked {
    /// Sends all requests, and waits for no picture.
    fn new(client: &mut Client, output: &OutputInfo, cursor: bool) -> Self {
        let exporter = Exporter::new(client).unwrap();
        let session = CopySession::open(client, output, cursor).unwrap();
        let buffer = session.buffer(client, MemoryKind::Shm).unwrap();
        let screencopy = ScreencopyFrame::announced(client, output, cursor).unwrap();
        let screencopy = screencopy.unwrap();
        let export = exporter.request(client, output, cursor).unwrap();
        let copy = session.request(client, &buffer, &[]).unwrap();
        screencopy.ask(client, false).unwrap();
        Self {
            export,
            session,
            buffer,
            copy,
            screencopy,
        }
    }

    fn pictures(self, client: &mut Client) -> [Picture; 3] {
        let export = self.export.wait(client, SECOND * 20).unwrap().frame();
        let (_, copied) = self.copy.wait_end(client, SECOND * 20).unwrap();
        copied.unwrap();
        let screencopy = self.screencopy.wait(client).unwrap().unwrap();
        assert!(!self.session.record().stopped);
        [export.picture(), picture_of(&self.buffer), screencopy]
    }
}

#[track_caller]
fn all_show(pictures: &[Picture; 3], expected: &Picture, what: &str) {
    for (picture, by) in pictures.iter().zip(["export", "copy", "screencopy"]) {
        picture.assert_same(expected, &format!("{what}, by {by}"));
    }
}

#[test]
fn sessions_that_begin_while_a_job_is_in_flight_get_true_frames_and_lose_no_job() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let (mut app, mut painter) = stage.painter();
        let (mut first, mut second) = (stage.client(), stage.client());
        let outputs = [&mut first, &mut second].map(|client| client.output(None).unwrap());
        let exporter = Exporter::new(&first).unwrap();
        for n in 1..=40 {
            painter.present(&mut app, n).unwrap();
            // This one makes the screen commit with a job; from there on it is in flight for up to a refresh.
            let flying = exporter.request(&mut first, &outputs[0], true).unwrap();
            std::thread::sleep(Duration::from_micros(u64::from(n) * 450));
            let asked = Asked::new(&mut second, &outputs[1], true);
            let flown = flying.wait(&mut first, SECOND * 20).unwrap().frame();
            flown
                .picture()
                .assert_same(&painter.expected(), "the first session");
            all_show(
                &asked.pictures(&mut second),
                &painter.expected(),
                "the others",
            );
        }
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        for fault in ["lost", "failed", "late", "quarantined", "voids"] {
            assert_eq!(summary.get(fault), 0, "{fault}");
        }
        // Some had the frame of a job that was in flight when they came.
        assert!(
            summary.get("delivered") > summary.get("published"),
            "{summary:?}"
        );
        assert_clean(&guest.dmesg());
    });
}

#[test]
fn sessions_that_disagree_on_the_cursor_are_each_right_by_each_protocol() {
    machine::boot(Machine::default(), |guest| {
        let mut mouse = Mouse::new();
        let stage = setup().start(guest);
        let (mut app, mut painter) = stage.painter();
        painter.present(&mut app, 1).unwrap();
        let mut watcher = stage.client();
        let output = watcher.output(None).unwrap();
        for (n, (x, y)) in (2..).zip([(100, 50), (333, 7), (635, 200)]) {
            machine::wait_until("the pointer there", SECOND * 20, || {
                mouse.to(x, y);
                let seen = ScreencopyFrame::capture(&mut watcher, &output, true).unwrap();
                let expected = with_arrow(painter.expected(), (x, y));
                seen.unwrap().difference(&expected).is_none()
            });
            painter.present(&mut app, n).unwrap();
            let with = Asked::new(&mut watcher, &output, true);
            let without = Asked::new(&mut watcher, &output, false);
            let plain = painter.expected();
            all_show(
                &without.pictures(&mut watcher),
                &plain,
                "without the cursor",
            );
            let shown = with_arrow(plain, (x, y));
            all_show(&with.pictures(&mut watcher), &shown, "with the cursor");
        }
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert!(summary.get("written_back") > 0 && summary.get("rendered") > 0);
        assert_clean(&guest.dmesg());
    });
}

/// A film with cameras of all three protocols, under `faults`.
fn film(setup: Setup, scene: impl FnOnce(&Stage<'_>, &mut Film), judge: impl FnOnce(&Summary)) {
    machine::boot(Machine::default(), |guest| {
        let stage = setup.start(guest);
        let mut film = Film::begin(&stage, None, 1);
        film.cameras.with_screencopy();
        scene(&stage, &mut film);
        film.show(10);
        drop(film.cut());
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        judge(&summary);
        assert_clean(&guest.dmesg());
    });
}

#[track_caller]
fn shoot_all(film: &mut Film, frames: usize) {
    let count = |film: &Film| {
        let by = ["export", "copy", "screencopy"].into_iter();
        by.map(|by| film.cameras.count(by)).min().unwrap()
    };
    let by = ["export", "copy", "screencopy"];
    let wanted = by.map(|by| film.cameras.count(by) + frames);
    film.roll_until("frames by all", |film| {
        let mut counts = by.iter().zip(wanted);
        counts.all(|(by, wanted)| film.cameras.count(by) >= wanted)
    });
    println!("{} frames by each at least", count(film));
}

#[test]
fn fences_that_never_signal_or_with_an_error_show_nobody_a_false_frame() {
    let faults = "fence:8=never,fence:30=error,fence:40=error";
    film(
        Setup::default()
            .with("[capture]\nproducer = \"writeback\"")
            .faults(faults),
        |_, film| {
            shoot_all(film, 60);
            assert!(
                film.cameras.cancelled.is_empty(),
                "{:?}",
                film.cameras.cancelled
            );
            assert!(film.cameras.failed.is_empty(), "{:?}", film.cameras.failed);
        },
        |summary| {
            assert!(summary.get("lost") >= 1);
            assert_eq!(summary.get("failed"), 2);
            assert!(summary.get("recoveries") >= 1);
        },
    );
}

#[test]
fn a_clone_that_is_refused_later_makes_all_protocols_wait_and_none_fail() {
    film(
        Setup::default()
            .with("[capture]\nproducer = \"writeback\"")
            .faults("commit:200..215=EINVAL,test:2=EINVAL"),
        |stage, film| {
            shoot_all(film, 3);
            let mut waits = seldom(|| stage.vitrine.log().contains("captures wait"));
            film.roll_until("the second modeset", |_| waits());
            let modeset = clock::now();
            film.roll(40);
            assert_eq!(film.cameras.presented_after(modeset), []);
            assert!(film.cameras.cancelled.is_empty() && film.cameras.failed.is_empty());
        },
        |_| {},
    );
}

#[test]
fn the_same_with_a_stand_in_goes_on_for_all() {
    film(
        Setup::default().faults("commit:60..75=EINVAL,test:2=EINVAL"),
        |stage, film| {
            shoot_all(film, 3);
            let mut without = seldom(|| stage.vitrine.log().contains("captures are rendered"));
            film.roll_until("the second modeset", |_| without());
            shoot_all(film, 20);
            assert!(film.cameras.cancelled.is_empty() && film.cameras.failed.is_empty());
        },
        |summary| assert!(summary.get("rendered") > 0),
    );
}

#[test]
fn a_screen_that_is_unplugged_ends_the_captures_of_each_protocol() {
    let two = Machine::default()
        .output(Output::new())
        .output(Output::new());
    machine::boot(two, |guest| {
        let stage = Setup::default().start(guest);
        let mut film = Film::begin(&stage, Some("Virtual-2"), 1);
        film.cameras.with_screencopy();
        shoot_all(&mut film, 10);
        guest.set_connector_status(1, false);
        film.roll_until("the end of captures", |film| {
            film.cameras.are_over() && film.cameras.failed.contains(&"screencopy".to_owned())
        });
        let taken = film.cameras.taken.len();
        for _ in 0..100 {
            film.turn();
        }
        assert_eq!(
            film.cameras.taken.len(),
            taken,
            "frames of a screen that is gone"
        );
        drop(film);
        stage.finish("Virtual-1");
        assert_clean(&guest.dmesg());
    });
}
