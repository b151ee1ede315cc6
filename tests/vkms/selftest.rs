//! `vitrine selftest` on hardware that works, that loses jobs, that lies and that has no writeback.

use std::process::Command;

use crate::machine::{self, Guest, Machine, Output, SECOND};

/// Exit code and output.
fn selftest(guest: &Guest, name: &str, faults: &str) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vitrine"));
    command.arg("selftest").arg("--device").arg(guest.card());
    command.args(["--seconds", "6"]);
    if !faults.is_empty() {
        command.env("VITRINE_FAULTS", faults);
    }
    let mut vitrine = guest.spawn(name, command);
    let status = vitrine.wait_exit(SECOND * 60);
    println!("{}", vitrine.log());
    (status.code(), vitrine.log())
}

#[test]
fn sound_hardware_is_trustworthy_and_the_crtc_agrees() {
    machine::boot(Machine::default().services(false), |guest| {
        let (code, text) = selftest(guest, "sound", "");
        assert_eq!(code, Some(0));
        for part in [
            "Virtual-1: trustworthy; smallest good cooling_ms = ",
            "class: clone",
            "XR24",
            " 0 wrong, greatest difference 0 of 255",
            "CRC of the CRTC: agrees",
            "gap 0 ms: ",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
    });
}

#[test]
fn hardware_that_fails_or_refuses_is_not() {
    machine::boot(Machine::default().services(false), |guest| {
        let (code, text) = selftest(guest, "lost", "fence:3=never");
        assert_eq!(code, Some(1));
        assert!(text.contains("Virtual-1: NOT trustworthy: "), "{text}");
        let (code, text) = selftest(guest, "refused", "modeset-writeback=EINVAL");
        assert_eq!(code, Some(1));
        assert!(
            text.contains("Virtual-1: no writeback: the driver refuses it beside the screen"),
            "{text}"
        );
    });
}

#[test]
fn without_a_writeback_connector_it_says_so() {
    let machine = Machine::default().output(Output::new().writeback(false));
    machine::boot(machine.services(false), |guest| {
        let (code, text) = selftest(guest, "none", "");
        assert_eq!(code, Some(1));
        assert!(text.contains("Virtual-1: no writeback: "), "{text}");
    });
}
