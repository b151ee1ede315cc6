//! Writeback connectors as screens of their own.

use crate::{
    clients::{Painter, PainterOptions},
    film::Film,
    machine::{self, Machine, Output, SECOND},
    stage::Setup,
};

/// The second screen's connector is unplugged, so that its CRTC and writeback connector are free.
fn machine() -> Machine {
    Machine::default()
        .output(Output::new())
        .output(Output::new().connected(false))
}

const CONFIG: &str = "[[output]]\nconnector = \"Virtual-*\"\nmode = \"800x600\"\n\
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
