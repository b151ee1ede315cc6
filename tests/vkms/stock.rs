//! Faulty hardware: the stock kernel's vkms loses writeback jobs, and every fence after a lost one belongs to the job
//! before. What must never come of it is a stale frame.

use std::{process::Command, time::Duration};

use crate::{
    control::capture_report,
    film::{seldom, Cameras, Film, Window},
    machine::{self, Kernel, Machine, SECOND},
    pacing::median_step,
    quiet::measured,
    stage::Setup,
};

/// Refreshes from picture to picture, by the screen's own count, of so many pictures in a row: the middle one of all.
fn steps(window: &mut Window, mut turn: impl FnMut(&mut Window)) -> u64 {
    const PICTURES: usize = 60;
    let from = window.painter.refreshes().len();
    machine::wait_until("pictures", SECOND * 60, || {
        for _ in 0..10 {
            turn(window);
        }
        window.painter.refreshes().len() > from + PICTURES
    });
    median_step(&window.painter.refreshes()[from..])
}

#[test]
fn on_hardware_that_loses_jobs_no_stale_frame_is_delivered_and_the_display_goes_on() {
    let machine = Machine::default().kernel(Kernel::Stock);
    machine::boot(machine.timeout(SECOND * 600), |guest| {
        // Without the gap that keeps most jobs from getting lost.
        let setup = Setup::default().with("[capture]\ncooling_ms = 0.0").hasty();
        let stage = setup.start(guest);
        let mut window = Window::open(&stage, None, 1);
        let without = steps(&mut window, |window| window.turn(Duration::from_millis(1)));
        let cameras = Cameras::open(&stage, None);
        let mut film = Film { window, cameras };
        // It works at first.
        film.shoot(3);
        let sound = capture_report(guest);
        assert!(sound.frames > sound.rendered, "{sound:?}");
        // And whoever commits again at once, before the kernel has tidied up behind the last job, loses the next one.
        let mut hurry = Command::new("chrt");
        hurry.args(["-f", "-p", "50", &stage.vitrine.pid().to_string()]);
        guest.run("chrt", hurry).unwrap();
        let busy = [guest.busy_loop(), guest.busy_loop()];
        let mut stalled = seldom(|| stage.vitrine.log().contains("writeback connector stalled"));
        // A matter of luck: mostly some seconds, seldom half a minute.
        film.roll_long(SECOND * 400, "the connector to jam", |_| stalled());
        // By the time of the answer it may be probed again.
        let report = capture_report(guest);
        assert!(report.stalls >= 1, "{report:?}");
        drop(busy);
        let before = film.window.painted;
        // The display goes on as fast as with no captures at all, but for the time that the machine's one CPU takes for the
        // frames that the renderer makes meanwhile.
        let Film { window, cameras } = &mut film;
        measured("the display is slower under captures", || {
            let with = steps(window, |window| {
                window.turn(Duration::from_millis(1));
                cameras.turn();
            });
            println!("refreshes from picture to picture: {without} without captures, {with} while stalled");
            with <= without + 1
        });
        let mut probed_again = seldom(|| {
            let log = stage.vitrine.log();
            log.matches("writeback connector stalled").count() > 1
                || log.contains("writeback connector recovered")
        });
        film.roll_until("a probe to decide", |_| probed_again());
        film.roll(20);
        drop((stalled, probed_again));
        let (shown, cameras) = film.cut();
        drop(cameras);
        let summary = stage.finish("Virtual-1");
        println!("{before} pictures until the jam: {summary:?}");
        assert!(summary.get("lost") >= 1 && summary.get("stalls") >= 1);
        assert!(summary.get("probes") >= 2, "nobody asked again");
        assert!(summary.get("leased") >= 1, "its stand-in leased nothing");
        assert!(summary.get("flips") as usize >= shown);
        assert_eq!(summary.get("modesets"), 1);
    });
}

#[test]
fn the_gap_between_jobs_on_hardware_that_loses_them_never_lets_a_stale_frame_through() {
    machine::boot(Machine::default().kernel(Kernel::Stock), |guest| {
        let stage = Setup::default().hasty().start(guest);
        let mut film = Film::begin(&stage, None, 1);
        let busy = [guest.busy_loop(), guest.busy_loop()];
        // Whether it jams or not is the hardware's business here.
        film.roll(120);
        drop(busy);
        film.roll(60);
        let (shown, cameras) = film.cut();
        drop(cameras);
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert!(summary.get("flips") as usize >= shown);
        assert!(summary.get("published") >= 1, "no frame came through");
    });
}
