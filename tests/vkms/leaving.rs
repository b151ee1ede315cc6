//! The way out: under capture, by signal, with the screen given back as it was found.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd},
};

use drm::{
    buffer::DrmFourcc,
    control::{connector, crtc, plane, property, Device as _, ResourceHandle},
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

/// DRM_MODE_ROTATE_180.
const ROTATE_180: u64 = 1 << 2;

/// A display server of a few lines, to be found on the screen.
pub struct Card(File);

impl AsFd for Card {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl drm::Device for Card {}
impl drm::control::Device for Card {}

impl Card {
    /// Shows an empty picture in the screen's own mode, then gives the device away without closing it.
    pub fn show_and_stand_back(guest: &Guest) -> Self {
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
        card.stand_back();
        card
    }

    fn stand_back(&self) {
        drm::Device::release_master_lock(self).unwrap();
    }

    fn property<H: ResourceHandle>(&self, of: H, name: &str) -> Option<(property::Handle, u64)> {
        let all = self.get_properties(of).unwrap();
        let mut all = all.iter();
        all.find_map(|(&id, &value)| {
            let info = self.get_property(id).unwrap();
            (info.name().to_bytes() == name.as_bytes()).then_some((id, value))
        })
    }

    /// Dark colours, upside down.
    fn show_it_oddly(&self) {
        drm::Device::acquire_master_lock(self).unwrap();
        let (crtc, plane) = self.crtc_and_plane();
        let size = usize::try_from(self.get_crtc(crtc).unwrap().gamma_length()).unwrap();
        let ramp: Vec<u16> = (0..size).map(|n| (n * 0x7fff / size) as u16).collect();
        self.set_gamma(crtc, &ramp, &ramp, &ramp).unwrap();
        let (rotation, _) = self.property(plane, "rotation").expect("vkms can rotate");
        self.set_property(plane, rotation, ROTATE_180).unwrap();
        self.stand_back();
    }

    fn crtc_and_plane(&self) -> (crtc::Handle, plane::Handle) {
        let universal = drm::ClientCapability::UniversalPlanes;
        drm::Device::set_client_capability(self, universal, true).unwrap();
        let crtc = self.resource_handles().unwrap().crtcs()[0];
        let planes = self.plane_handles().unwrap().into_iter();
        let mut on = planes.filter(|p| self.get_plane(*p).unwrap().crtc() == Some(crtc));
        (crtc, on.next().expect("a plane that is on"))
    }

    /// The gamma table and the rotation.
    fn looks(&self) -> (Vec<u8>, u64) {
        let (crtc, plane) = self.crtc_and_plane();
        let (_, gamma) = self.property(crtc, "GAMMA_LUT").expect("vkms has gamma");
        let table = match gamma {
            0 => Vec::new(),
            blob => self.get_property_blob(blob).unwrap(),
        };
        (table, self.property(plane, "rotation").unwrap().1)
    }
}

#[test]
fn a_screen_that_was_shown_in_odd_colours_and_upside_down_is_so_again() {
    machine::boot(Machine::default(), |guest| {
        let card = Card::show_and_stand_back(guest);
        card.show_it_oddly();
        let before = (screen_state(guest), card.looks());
        assert!(before.1 .0.len() > 1000 && before.1 .1 == ROTATE_180);
        let stage = Setup::default().start(guest);
        let mut film = Film::begin(&stage, None, 1);
        film.shoot(5);
        assert_eq!(
            card.looks(),
            (Vec::new(), 1),
            "our own picture is a plain one"
        );
        drop(film.cut());
        stage.finish("Virtual-1");
        assert_eq!((screen_state(guest), card.looks()), before);
        assert_clean(&guest.dmesg());
    });
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
