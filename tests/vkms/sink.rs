//! Writeback connectors as screens of their own.

use crate::{
    clients::{Painter, PainterOptions},
    control::capture_reports,
    film::Film,
    machine::{self, Machine, Output, Signal, SECOND},
    stage::{Setup, Summary},
};

/// The second screen's connector is unplugged, so that its CRTC and writeback connector are free.
pub fn machine() -> Machine {
    Machine::default()
        .output(Output::new())
        .output(Output::new().connected(false))
}

pub const CONFIG: &str = "[[output]]\nconnector = \"Virtual-*\"\nmode = \"800x600\"\n\
                      [[output]]\nconnector = \"Writeback-2\"\nsink = \"writeback\"\nmode = \"640x480\"\n";

#[test]
fn a_writeback_connector_can_be_a_screen_of_its_own() {
    machine::boot(machine(), |guest| {
        let mut stage = Setup::default().config(CONFIG).start(guest);
        stage
            .vitrine
            .wait_log("output=Writeback-2 w=640 h=480", SECOND * 20);
        let mut film = Film::begin(&stage, Some("Writeback-2"), 1);
        film.shoot(20);
        film.roll(30);
        let (_, cameras) = film.cut();
        drop(cameras);
        // The other screen's own capture is not disturbed by it.
        let mut film = Film::begin(&stage, Some("Virtual-1"), 1000);
        film.shoot(3);
        film.cut();
        // Without a capture the headless screen's flips go on.
        let mut client = stage.client();
        let output = client.output(Some("Writeback-2")).unwrap();
        let options = PainterOptions {
            output: Some(output.proxy.clone()),
            ..Default::default()
        };
        let mut painter = Painter::new(&mut client, options).unwrap();
        for n in 0..20 {
            painter.present(&mut client, n).unwrap();
        }
        let log = stage.vitrine.log();
        let summary = stage.finish("Writeback-2");
        println!("{summary:?}");
        assert_eq!(summary.get("modesets"), 1);
        assert_eq!(summary.get("lost"), 0);
        assert!(summary.get("published") >= 20 && summary.get("flips") >= 70);
        assert!(!log.contains("screen stays dark"));
    });
}

/// No screen's CRTC has a writeback connector; the only one that there is needs a CRTC of its own.
#[test]
fn where_no_display_can_be_cloned_the_writeback_connector_is_still_a_screen() {
    let machine = Machine::default()
        .output(Output::new().writeback(false))
        .output(Output::new().connected(false));
    machine::boot(machine, |guest| {
        let config = CONFIG.replace("Writeback-2", "Writeback-1");
        let mut stage = Setup::default().config(&config).start(guest);
        stage
            .vitrine
            .wait_log("output=Writeback-1 w=640 h=480", SECOND * 20);
        // Both at once, each with its own pictures.
        let mut sink = Film::begin(&stage, Some("Writeback-1"), 1);
        let mut screen = Film::begin(&stage, Some("Virtual-1"), 10_000);
        let count = |film: &Film| film.cameras.count("export").min(film.cameras.count("copy"));
        screen.roll_until("captures of both", |screen| {
            sink.turn();
            count(&sink) >= 15 && count(screen) >= 15
        });
        for (film, first) in [(&sink, 1), (&screen, 10_000)] {
            let mut shows = film.cameras.taken.iter().map(|taken| taken.shows.clone());
            // Before the first picture it is the background.
            let own = |n: u32| (first..first + 9_000).contains(&n);
            assert!(shows.any(|shows| shows.is_ok_and(own)));
        }
        sink.cut();
        screen.cut();

        let reports = capture_reports(guest);
        let of = |output: &str| reports.iter().find(|r| r.output == output).unwrap();
        let (sink, screen) = (of("Writeback-1"), of("Virtual-1"));
        assert_eq!(
            (sink.producer.as_str(), sink.trust.as_str()),
            ("writeback", "trusted")
        );
        assert_eq!(sink.rendered, 0);
        assert_eq!(
            (screen.producer.as_str(), screen.trust.as_str()),
            ("render", "none")
        );
        assert!(screen.no_writeback.is_some());
        assert_eq!((screen.jobs, screen.rendered), (0, screen.frames));

        stage.vitrine.signal(Signal::TERM);
        assert_eq!(stage.vitrine.wait_exit(SECOND * 20).code(), Some(0));
        let log = stage.vitrine.log();
        for output in ["Writeback-1", "Virtual-1"] {
            let summary = Summary::read(&log, output);
            println!("{output}: {summary:?}");
            assert_eq!(summary.get("modesets"), 1);
            assert_eq!(summary.get("lost"), 0);
        }
    });
}

#[test]
fn a_physical_screen_gets_the_crtc_and_the_writeback_screen_comes_back_after_it() {
    machine::boot(machine(), |guest| {
        let mut stage = Setup::default().config(CONFIG).start(guest);
        let set =
            |log: &str, output: &str| log.matches(&format!("mode set output={output} ")).count();
        machine::wait_until("the writeback screen", SECOND * 20, || {
            set(&stage.vitrine.log(), "Writeback-2") == 1
        });
        guest.set_connector_status(1, true);
        machine::wait_until("the physical screen", SECOND * 20, || {
            let log = stage.vitrine.log();
            log.contains("screen gone output=Writeback-2") && set(&log, "Virtual-2") == 1
        });
        assert!(stage
            .vitrine
            .log()
            .contains("screen stays dark connector=Writeback-2"));
        guest.set_connector_status(1, false);
        machine::wait_until("the writeback screen again", SECOND * 20, || {
            set(&stage.vitrine.log(), "Writeback-2") == 2
        });
        let mut film = Film::begin(&stage, Some("Writeback-2"), 1);
        film.shoot(5);
        film.cut();
        stage.vitrine.assert_running();
        stage.finish("Writeback-2");
    });
}
