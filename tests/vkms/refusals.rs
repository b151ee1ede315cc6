//! Refusals that would come again with each try: of the cursor plane, of jobs, of a picture that cannot be drawn. The screen
//! and the captures come back by themselves.

use crate::{
    clients::{clock, export_dmabuf::Exporter, Client, OutputInfo, Picture},
    cursor::{has_pointer, setup, with_arrow},
    faults::assert_clean,
    film::{seldom, Film},
    machine::{self, vkms_crc, Guest, Machine, SECOND},
    mouse::Mouse,
    stage::{Setup, Stage},
};

const PLACE: (i32, i32) = (100, 50);

/// A machine whose pointer the compositor knows.
fn with_mouse(faults: &'static str, body: impl FnOnce(&Guest, &mut Mouse, Stage<'_>)) {
    machine::boot(Machine::default(), |guest| {
        let mut mouse = Mouse::new();
        let stage = setup().faults(faults).start(guest);
        let mut probe = stage.client();
        machine::wait_until("the seat's pointer", SECOND * 20, || {
            mouse.by(1, 1);
            has_pointer(&mut probe)
        });
        body(guest, &mut mouse, stage);
        assert_clean(&guest.dmesg());
    });
}

#[track_caller]
fn wait_for_screen(guest: &Guest, expected: &Picture) {
    let wanted = vkms_crc(&expected.to_bytes());
    machine::wait_until("the CRTC's checksum", SECOND * 20, || {
        // There is none while the screen is reset.
        let frame = guest.crc(0).and_then(|mut crc| crc.next_frame());
        frame.is_ok_and(|frame| frame.value == wanted)
    });
}

/// What the last captured frame of those that come now shows.
#[track_caller]
fn capture_until(client: &mut Client, output: &OutputInfo, expected: &Picture) {
    let exporter = Exporter::new(client).unwrap();
    let mut capture = || exporter.capture(client, output, true).unwrap().frame();
    for _ in 0..50 {
        if capture().picture().difference(expected).is_none() {
            return;
        }
    }
    capture().picture().assert_same(expected, "captured");
}

/// The pointer is seen all the same, on the screen and in captures, and goes where the mouse goes.
fn the_pointer_is_drawn(guest: &Guest, mouse: &mut Mouse, stage: &Stage<'_>) {
    let (mut client, mut painter) = stage.painter();
    let output = client.output(None).unwrap();
    for (n, place) in (1..).zip([PLACE, (320, 200), (0, 0)]) {
        mouse.to(place.0, place.1);
        painter.present(&mut client, n).unwrap();
        let expected = with_arrow(painter.expected(), place);
        wait_for_screen(guest, &expected);
        capture_until(&mut client, &output, &expected);
    }
}

#[test]
fn a_pointer_that_its_plane_cannot_show_is_drawn() {
    with_mouse("cursor=EINVAL", |guest, mouse, stage| {
        the_pointer_is_drawn(guest, mouse, &stage);
        let log = stage.vitrine.log();
        assert_eq!(log.matches("the pointer is drawn").count(), 1);
        assert_eq!(stage.finish("Virtual-1").get("modesets"), 1);
    });
}

#[test]
fn a_pointer_that_is_refused_though_the_driver_promised_it_does_not_reset_the_screen_for_ever() {
    with_mouse("cursor-commit=EINVAL", |guest, mouse, stage| {
        the_pointer_is_drawn(guest, mouse, &stage);
        let log = stage.vitrine.log();
        assert_eq!(log.matches("the pointer is drawn").count(), 1);
        let summary = stage.finish("Virtual-1");
        assert!(summary.get("modesets") <= 3, "{summary:?}");
    });
}

#[test]
fn a_pointer_on_its_plane_is_there_again_after_a_reset_without_being_moved() {
    with_mouse("commit:40..47=EINVAL", |guest, mouse, stage| {
        let end = clock::now() + SECOND * 40;
        let mut places = [PLACE, (320, 200)].into_iter().cycle();
        let mut place = PLACE;
        while !stage.vitrine.log().contains("display state anew") {
            place = places.next().unwrap();
            mouse.to(place.0, place.1);
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(clock::now() < end, "no reset");
        }
        let black = Picture::filled(640, 480, 0);
        wait_for_screen(guest, &with_arrow(black, place));
        assert!(!stage.vitrine.log().contains("the pointer is drawn"));
        stage.finish("Virtual-1");
    });
}

#[test]
fn jobs_that_are_refused_for_a_while_come_back_when_that_is_over() {
    machine::boot(Machine::default(), |guest| {
        let setup = Setup::default().with("[capture]\nproducer = \"writeback\"");
        let stage = setup.faults("job:10..13=ENOMEM").start(guest);
        let mut film = Film::begin(&stage, None, 1);
        let mut refused = seldom(|| stage.vitrine.log().contains("again and again"));
        film.roll_until("the end of writeback", |_| refused());
        drop(refused);
        film.shoot(12);
        drop(film.cut());
        let log = stage.vitrine.log();
        assert_eq!(log.matches("again and again").count(), 1);
        let summary = stage.finish("Virtual-1");
        assert_eq!((summary.get("modesets"), summary.get("lost")), (1, 0));
        assert_clean(&guest.dmesg());
    });
}

#[test]
fn a_picture_that_could_not_be_drawn_is_drawn_later_though_nothing_else_changes() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().faults("scene:4=refused").start(guest);
        let (mut client, mut painter) = stage.painter();
        for n in 1..=5 {
            painter.present(&mut client, n).unwrap();
            wait_for_screen(guest, &painter.expected());
        }
        let log = stage.vitrine.log();
        assert_eq!(log.matches("the scene could not be drawn").count(), 1);
        stage.finish("Virtual-1");
        assert_clean(&guest.dmesg());
    });
}

#[test]
fn a_ring_that_there_is_no_memory_for_is_made_when_there_is() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().faults("ring:1..2=refused").start(guest);
        let mut film = Film::begin(&stage, None, 1);
        film.shoot(12);
        drop(film.cut());
        let log = stage.vitrine.log();
        assert_eq!(log.matches("no capture on this output").count(), 1);
        stage.finish("Virtual-1");
        assert_clean(&guest.dmesg());
    });
}

#[test]
fn a_mode_that_cannot_be_set_because_the_seat_is_leaving_is_no_error() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().faults("modeset:1..2=EACCES").start(guest);
        let log = stage.vitrine.log();
        assert_eq!(
            log.matches("no mode can be set without the seat").count(),
            2
        );
        assert!(!log.contains(" ERROR "), "an error");
        stage.finish("Virtual-1");
        assert_clean(&guest.dmesg());
    });
}
