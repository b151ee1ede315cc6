//! Faulty hardware: the stock kernel's vkms loses writeback jobs, and every fence after a lost one belongs to the job
//! before. What must never come of it is a stale frame.

use std::process::Command;

use crate::{
    film::{seldom, Film},
    machine::{self, Kernel, Machine, SECOND},
    stage::Setup,
};

#[test]
fn on_hardware_that_loses_jobs_no_stale_frame_is_delivered_and_the_display_goes_on() {
    let machine = Machine::default().kernel(Kernel::Stock);
    machine::boot(machine.timeout(SECOND * 240), |guest| {
        // Without the gap that keeps most jobs from getting lost.
        let setup = Setup::default().with("[capture]\ncooling_ms = 0.0");
        let stage = setup.start(guest);
        // And whoever commits again at once, before the kernel has tidied up behind the last job, loses the next one.
        let mut hurry = Command::new("chrt");
        hurry.args(["-f", "-p", "50", &stage.vitrine.pid().to_string()]);
        guest.run("chrt", hurry).unwrap();
        let mut film = Film::begin(&stage, None, 1);
        let busy = [guest.busy_loop(), guest.busy_loop()];
        let mut stalled = seldom(|| stage.vitrine.log().contains("writeback connector stalled"));
        // A matter of luck: mostly some seconds, seldom half a minute.
        film.roll_long(SECOND * 150, "the connector to jam", |_| stalled());
        // The display goes on: what is painted now is shown. (A commit for a probe can flip between a picture's commit
        // and its own flip; such a picture may be replaced by the next one.)
        let (before, shown) = (film.window.painted, film.window.shown().len());
        film.roll(60);
        let shown = film.window.shown().len() - shown;
        assert!(
            shown >= 54,
            "{shown} of 60 pictures were shown while stalled"
        );
        drop(busy);
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
        let stage = Setup::default().start(guest);
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
