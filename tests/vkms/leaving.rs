//! The way out: under capture, by signal, with the screen given back as it was found.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd},
};

use drm::{
    buffer::DrmFourcc,
    control::{connector, Device as _},
};

use crate::{
    faults::assert_clean,
    film::Film,
    machine::{self, Guest, Machine, Signal, SECOND},
    stage::{Setup, Summary},
};

/// The lines of the kernel's atomic state that tell what is on.
fn screen_state(guest: &Guest) -> Vec<String> {
    let card = guest.card().display().to_string();
    let number = card.trim_start_matches("/dev/dri/card");
    let path = format!("/sys/kernel/debug/dri/{number}/state");
    let state = std::fs::read_to_string(&path).unwrap();
    let wanted = [
        "plane[",
        "crtc[",
        "connector[",
        "\tcrtc=",
        "\tfb=",
        "\tactive=",
        "\tmode:",
    ];
    let lines = state.lines();
    lines
        .filter(|line| wanted.iter().any(|w| line.starts_with(w)))
        .map(str::to_owned)
        .collect()
}

fn leave_by(signal: Signal) {
    machine::boot(Machine::default(), |guest| {
        let before = screen_state(guest);
        assert!(before.contains(&"\tactive=0".to_owned()), "{before:?}");
        let mut stage = Setup::default().start(guest);
        let mut film = Film::begin(&stage, None, 1);
        film.shoot(5);
        assert!(screen_state(guest).contains(&"\tactive=1".to_owned()));
        // In the middle of everything: requests wait, a job may be in flight.
        stage.vitrine.signal(signal);
        let status = stage.vitrine.wait_exit(SECOND * 20);
        assert_eq!(status.code(), Some(0), "{}", stage.vitrine.log());
        let summary = Summary::read(&stage.vitrine.log(), "Virtual-1");
        assert!(summary.get("published") >= 5);
        assert_eq!(screen_state(guest), before);
        assert_clean(&guest.dmesg());
    });
}

#[test]
fn sigterm_under_capture_leaves_cleanly_and_switches_the_screen_off() {
    leave_by(Signal::TERM);
}

#[test]
fn sigint_under_capture_leaves_cleanly_and_switches_the_screen_off() {
    leave_by(Signal::INT);
}

#[test]
fn a_kill_under_capture_leaves_a_kernel_that_the_next_vitrine_can_use() {
    machine::boot(Machine::default(), |guest| {
        for _ in 0..3 {
            let mut stage = Setup::default().start(guest);
            let mut film = Film::begin(&stage, None, 1);
            film.shoot(5);
            film.cameras.assert_true(&mut [&mut film.window]);
            stage.vitrine.signal(Signal::KILL);
            stage.vitrine.wait_exit(SECOND * 20);
            // Its log and socket go to the next one; the summary of the last decides.
            let _ = std::fs::remove_file(guest.out().join("vitrine.log"));
        }
        let stage = Setup::default().start(guest);
        let mut film = Film::begin(&stage, None, 1);
        film.shoot(10);
        drop(film.cut());
        stage.wait_for_slots(0);
        assert_eq!(stage.finish("Virtual-1").get("quarantined"), 0);
        assert_clean(&guest.dmesg());
    });
}

/// A display server of a few lines, to be found on the screen.
struct Card(File);

impl AsFd for Card {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl drm::Device for Card {}
impl drm::control::Device for Card {}

impl Card {
    /// Shows an empty picture in the screen's own mode, then gives the device away without closing it.
    fn show_and_stand_back(guest: &Guest) -> Self {
        let file = File::options().read(true).write(true).open(guest.card());
        let card = Self(file.unwrap());
        let resources = card.resource_handles().unwrap();
        let screen = resources
            .connectors()
            .iter()
            .map(|id| card.get_connector(*id, true).unwrap())
            .find(|c| c.state() == connector::State::Connected)
            .unwrap();
        let mode = screen.modes()[0];
        let (width, height) = mode.size();
        let size = (width.into(), height.into());
        let buffer = card.create_dumb_buffer(size, DrmFourcc::Xrgb8888, 32);
        let picture = card.add_framebuffer(&buffer.unwrap(), 24, 32).unwrap();
        let crtc = resources.crtcs()[0];
        let screens = [screen.handle()];
        card.set_crtc(crtc, Some(picture), (0, 0), &screens, Some(mode))
            .unwrap();
        drm::Device::release_master_lock(&card).unwrap();
        card
    }
}

#[test]
fn a_screen_that_showed_something_before_shows_it_again() {
    machine::boot(Machine::default(), |guest| {
        let card = Card::show_and_stand_back(guest);
        let before = screen_state(guest);
        println!("{before:#?}");
        assert!(before.contains(&"\tactive=1".to_owned()), "{before:?}");
        let stage = Setup::default().start(guest);
        let mut film = Film::begin(&stage, None, 1);
        film.shoot(5);
        assert_ne!(screen_state(guest), before);
        drop(film.cut());
        stage.finish("Virtual-1");
        assert_eq!(screen_state(guest), before);
        assert_clean(&guest.dmesg());
        drop(card);
    });
}
