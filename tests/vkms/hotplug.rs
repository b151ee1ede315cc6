//! Screens that come and go while they are captured.

use std::time::Duration;

use crate::{
    clients::{clock, export_dmabuf::CancelReason, Client, OutputInfo},
    faults::assert_clean,
    film::{Cameras, Film, Window},
    machine::{self, Guest, Machine, Output, SECOND},
    stage::{Setup, Stage},
};

pub fn two_screens() -> Machine {
    Machine::default()
        .output(Output::new())
        .output(Output::new())
}

/// Lets all films run until `enough`.
#[track_caller]
pub fn roll_both(
    films: &mut [&mut Film],
    what: &str,
    mut enough: impl FnMut(&[&mut Film]) -> bool,
) {
    let end = clock::now() + SECOND * 60;
    while !enough(films) {
        films.iter_mut().for_each(|film| film.turn());
        assert!(clock::now() < end, "waited in vain for {what}");
    }
}

pub fn frames(film: &Film) -> usize {
    film.cameras.count("export").min(film.cameras.count("copy"))
}

/// Waits for an output of this name that is not `old`.
#[track_caller]
pub fn new_output(client: &mut Client, name: &str, old: &OutputInfo) -> OutputInfo {
    let patience = client.patience();
    let found = client.wait_for("a new output", patience, |state| {
        let fits =
            |o: &&OutputInfo| o.name == name && !o.gone && o.done > 0 && o.proxy != old.proxy;
        state.outputs.iter().find(fits).cloned()
    });
    found.unwrap()
}

#[test]
fn two_screens_are_captured_at_once_and_one_of_them_is_unplugged_and_comes_back() {
    machine::boot(two_screens(), |guest| {
        let mut stage = Setup::default().start(guest);
        let mut left = Film::begin(&stage, Some("Virtual-1"), 1);
        let mut right = Film::begin(&stage, Some("Virtual-2"), 1_000_000);
        let both = |films: &[&mut Film]| films.iter().all(|film| frames(film) >= 20);
        roll_both(&mut [&mut left, &mut right], "frames of both", both);
        left.cameras.assert_true(&mut [&mut left.window]);
        right.cameras.assert_true(&mut [&mut right.window]);

        guest.set_connector_status(1, false);
        let over = |films: &[&mut Film]| films[1].cameras.are_over();
        roll_both(&mut [&mut left, &mut right], "the end of captures", over);
        assert_eq!(right.cameras.cancelled, [CancelReason::Permanent]);
        let (before, taken) = (frames(&left), right.cameras.taken.len());
        // The window of the screen that is gone has moved to the other one and is shown there.
        let moved = right.window.shown().len();
        let goes_on = |films: &[&mut Film]| {
            frames(films[0]) >= before + 20
                && films[0]
                    .window
                    .shown()
                    .len()
                    .max(films[1].window.shown().len())
                    > moved
        };
        roll_both(
            &mut [&mut left, &mut right],
            "the other screen's frames",
            goes_on,
        );
        assert_eq!(
            right.cameras.taken.len(),
            taken,
            "frames of a screen that is gone"
        );
        assert!(left.cameras.cancelled.is_empty() && left.cameras.failed.is_empty());
        assert!(!left.cameras.session.record().stopped);
        right.window.client.roundtrip().unwrap();
        let lost = right.window.lost();
        // The one that was on its way to the screen that went, and no other.
        let moved = &lost[lost.len().saturating_sub(1)..];
        left.cameras
            .assert_true_or(&mut [&mut left.window, &mut right.window], moved);

        let old = right.window.output.clone();
        guest.set_connector_status(1, true);
        let found = new_output(&mut right.window.client, "Virtual-2", &old);
        assert_eq!(found.mode, (640, 480));
        let Film { window, cameras } = right;
        drop((window, cameras));
        let mut again = Film::begin(&stage, Some("Virtual-2"), 2_000_000);
        let both = |films: &[&mut Film]| frames(films[1]) >= 20 && frames(films[0]) >= before + 40;
        roll_both(&mut [&mut left, &mut again], "frames of both again", both);
        again.cameras.assert_true(&mut [&mut again.window]);
        stage.vitrine.assert_running();
        drop((left, again));
        stage.wait_for_slots(0);
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert_eq!(summary.get("modesets"), 1, "the other screen was set anew");
        assert_eq!(summary.get("quarantined"), 0);
        assert_clean(&guest.dmesg());
    });
}

/// How many descriptors vitrine has open.
pub fn descriptors(stage: &Stage<'_>) -> usize {
    let dir = format!("/proc/{}/fd", stage.vitrine.pid());
    std::fs::read_dir(dir).unwrap().count()
}

/// What the descriptors are, for the failure's message.
fn listed(stage: &Stage<'_>) -> String {
    let dir = format!("/proc/{}/fd", stage.vitrine.pid());
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .map(|path| {
            let name = path.display().to_string();
            name.split_once('[')
                .map_or(name.clone(), |(kind, _)| kind.to_owned())
        })
        .collect();
    names.sort();
    let groups = names.chunk_by(|a, b| a == b);
    groups
        .map(|g| format!("{} x {}, ", g.len(), g[0]))
        .collect()
}

/// Captures a screen, pulls it out under a request after the first frame or so many turns, plugs it in again.
fn pull_out(guest: &Guest, stage: &Stage<'_>, client: &mut Client, patience: usize) {
    let output = client.output(Some("Virtual-2")).unwrap();
    let mut cameras = Cameras::open(stage, Some("Virtual-2"));
    let end = clock::now() + SECOND * 20;
    let (mut unplugged, mut turns) = (false, 0);
    while !cameras.are_over() {
        cameras.turn();
        turns += 1;
        let seen = cameras.count("export") > 0 && cameras.count("copy") > 0;
        if (seen || turns > patience) && !unplugged {
            unplugged = true;
            guest.set_connector_status(1, false);
        }
        assert!(clock::now() < end, "no end of the captures: {unplugged}");
    }
    guest.set_connector_status(1, true);
    new_output(client, "Virtual-2", &output);
}

/// Pulls out again and again: vitrine ends with the descriptors that it had after some rounds.
fn leaks_nothing(setup: Setup, rounds: usize, patience: usize) {
    machine::boot(two_screens(), |guest| {
        let mut stage = setup.start(guest);
        let mut client = stage.client();
        for _ in 0..3 {
            pull_out(guest, &stage, &mut client, patience);
        }
        let (before, were) = (descriptors(&stage), listed(&stage));
        for _ in 3..rounds {
            pull_out(guest, &stage, &mut client, patience);
        }
        // The last round's connection may not have been heard to close.
        let settled = || descriptors(&stage) <= before;
        let end = clock::now() + SECOND * 20;
        while !settled() {
            let are = listed(&stage);
            assert!(clock::now() < end, "there were {were}, now there are {are}");
            std::thread::sleep(Duration::from_millis(50));
        }
        stage.vitrine.assert_running();
        drop(client);
        println!("{before} descriptors before and after: {were}");
        assert_eq!(stage.finish("Virtual-1").get("modesets"), 1);
        assert_clean(&guest.dmesg());
    });
}

#[test]
fn fifty_times_unplugged_under_capture_leaks_nothing() {
    leaks_nothing(Setup::default(), 50, usize::MAX);
}

#[test]
fn unplugged_while_its_pictures_are_leased_leaks_nothing() {
    let setup = Setup::default().with("[capture]\nproducer = 'render'\n");
    leaks_nothing(setup, 12, usize::MAX);
}

#[test]
fn unplugged_with_fences_that_never_signal_leaks_nothing() {
    let setup = Setup::default().faults("fence:1..100000=never").hasty();
    leaks_nothing(setup, 12, 200);
}

#[test]
fn all_screens_gone_and_back_is_no_end_for_the_application() {
    machine::boot(two_screens(), |guest| {
        let stage = Setup::default().start(guest);
        let mut film = Film::begin(&stage, Some("Virtual-1"), 1);
        film.shoot(5);
        let old = film.window.output.clone();
        for screen in [0, 1] {
            guest.set_connector_status(screen, false);
        }
        film.roll_until("the end of captures", |film| film.cameras.are_over());
        film.roll_until("no output at all", |film| {
            film.window.client.outputs().is_empty()
        });
        for _ in 0..3 {
            film.window.client.roundtrip().unwrap();
        }
        for screen in [1, 0] {
            guest.set_connector_status(screen, true);
        }
        let Window { client, .. } = &mut film.window;
        new_output(client, "Virtual-1", &old);
        new_output(client, "Virtual-2", &old);
        film.show(10);
        assert!(!film.window.painter.shell().close);
        // And it can be captured where it is now.
        let taken = ["Virtual-1", "Virtual-2"].map(|name| Cameras::open(&stage, Some(name)));
        let [mut first, mut second] = taken;
        film.roll_until("frames of both screens", |_| {
            first.turn();
            second.turn();
            first.count("copy") > 5 || second.count("copy") > 5
        });
        drop((film, first, second));
        stage.finish("Virtual-1");
        assert_clean(&guest.dmesg());
    });
}
