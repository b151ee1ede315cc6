//! The session as a whole: boots, shows its application, ends with it.

use std::process::Command;

use crate::machine::{self, Machine, SECOND};

fn vitrine() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vitrine"));
    command.env("RUST_LOG", "debug");
    command
}

#[test]
fn an_application_is_shown_and_its_exit_code_is_ours() {
    machine::boot(Machine::default(), |guest| {
        let mut command = vitrine();
        command.args(["--", "sh", "-c", "timeout 5 weston-simple-shm; exit 7"]);
        let mut vitrine = guest.spawn("vitrine", command);
        let status = vitrine.wait_exit(SECOND * 30);
        println!("{}", vitrine.log());
        assert_eq!(status.code(), Some(7));
    });
}
