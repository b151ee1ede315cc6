//! Commits that the kernel refuses, fences that lie or never come, kernels that will not do display and writeback at once:
//! the display goes on, nothing false is delivered, the log says what happened, clients are answered by the protocol.
//!
//! With the writeback producer alone, which never stands in for the connector; `producer` has the other one.

use std::process::Command;

use crate::{
    clients::clock,
    film::{seldom, Cameras, Film},
    machine::{self, Machine, Output, SECOND},
    producer::BACK,
    stage::{Setup, Stage, Summary},
};

/// No stand-in: what is missing stays missing.
const WRITEBACK: &str = "[capture]\nproducer = \"writeback\"";

/// Runs a film under `faults` as `scene` directs, and gives log and counters. All frames were held against the truth.
fn film(faults: &str, scene: impl FnOnce(&Stage<'_>, &mut Film), judge: fn(&str, Summary)) {
    film_that_owes(None, faults, scene, judge);
}

/// The same; in the end so many slots are in quarantine, whose fences never come.
fn film_that_owes(
    owed: Option<u64>,
    faults: &str,
    scene: impl FnOnce(&Stage<'_>, &mut Film),
    judge: fn(&str, Summary),
) {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().with(WRITEBACK).faults(faults).start(guest);
        let mut film = Film::begin(&stage, None, 1);
        scene(&stage, &mut film);
        // Still alive: new pictures are shown.
        film.show(10);
        drop(film.cut());
        if let Some(owed) = owed {
            stage.wait_for_slots(owed);
        }
        let log_of = guest.out().join("vitrine.log");
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        let log = std::fs::read_to_string(log_of).unwrap();
        assert!(!log.contains("panicked"), "a panic");
        assert_clean(&guest.dmesg());
        judge(&log, summary);
    });
}

/// Nothing that the kernel itself calls a fault.
#[track_caller]
pub fn assert_clean(dmesg: &str) {
    for word in ["WARNING", "BUG", "Oops", "timed out"] {
        assert!(
            !dmesg.contains(word),
            "{word} in the kernel's log:\n{dmesg}"
        );
    }
}

#[track_caller]
fn assert_says(log: &str, words: &str, times: usize) {
    let found = log.matches(words).count();
    assert_eq!(found, times, "times that the log says {words:?}");
}

/// The log says these in their order.
#[track_caller]
pub fn assert_in_order(log: &str, sentences: &[&str]) {
    let mut rest = log;
    for words in sentences {
        match rest.split_once(words) {
            Some((_, after)) => rest = after,
            None => panic!("the log does not say {words:?} in its order"),
        }
    }
}

#[test]
fn single_commits_that_fail_are_tried_again_and_captured() {
    film(
        "commit:5=EBUSY,commit:12=ENOMEM,commit:19=EINVAL,commit:27=ENOSPC",
        |_, film| film.shoot(16),
        |log, summary| {
            // The one that is refused for its contents is repeated at once without its job, if it had one.
            let refused = log.matches("refused a commit with writeback").count();
            assert_says(log, "commit failed; trying again", 4 - refused);
            assert_eq!(summary.get("modesets"), 1);
        },
    );
}

#[test]
fn a_long_row_of_busy_commits_only_delays() {
    film(
        "commit:10..30=EBUSY",
        |_, film| film.shoot(12),
        |log, summary| {
            assert_says(log, "commit failed; trying again", 1);
            assert_eq!(summary.get("modesets"), 1);
        },
    );
}

#[test]
fn a_row_of_refused_commits_ends_in_a_new_modeset_and_capture_goes_on() {
    film(
        "commit:10..30=EINVAL",
        |_, film| {
            film.roll(20);
            film.shoot(10);
        },
        |log, _| {
            assert_in_order(
                log,
                &[
                    "commit failed; trying again",
                    "setting the whole display state anew",
                    "mode set",
                ],
            );
            assert_says(log, "again and again", 0);
        },
    );
}

/// Each commit with a job fails, and the one without that follows does not: the driver is not asked for a while, and then again.
#[test]
fn writeback_that_is_refused_again_and_again_comes_back_when_the_driver_can() {
    let every_second = (20..=120).step_by(2).map(|n| format!("commit:{n}=EINVAL"));
    film(
        &every_second.collect::<Vec<_>>().join(","),
        |stage, film| {
            film.shoot(3);
            let mut refused = seldom(|| stage.vitrine.log().contains("refused again and again"));
            film.roll_until("the last straw", |_| refused());
            film.shoot(10);
            assert!(film.cameras.cancelled.is_empty() && film.cameras.failed.is_empty());
        },
        |log, summary| {
            assert_in_order(log, &["refused again and again", BACK]);
            assert_eq!(summary.get("modesets"), 1);
        },
    );
}

/// Every second commit fails, with each reason in turn, and the twentieth job and the first probes after it are lost.
fn faults_everywhere() -> String {
    let errors = ["EBUSY", "EINVAL", "ENOMEM", "EACCES", "ENODEV", "ENOSPC"];
    let commits = (1..=119).step_by(2).zip(errors.iter().cycle());
    let commits = commits.map(|(n, error)| format!("commit:{n}={error},"));
    format!(
        "modeset:1=ENOMEM,modeset:2=EINVAL,{}fence:20..22=never",
        commits.collect::<String>()
    )
}

#[test]
fn whichever_commit_fails_and_why_the_screen_and_the_captures_come_back() {
    film(
        &faults_everywhere(),
        |stage, film| {
            film.shoot(12);
            let mut lost = seldom(|| stage.vitrine.log().contains("writeback job lost"));
            film.roll_until("the lost job", |_| lost());
            let mut proven = seldom(|| stage.vitrine.log().contains("connector recovered"));
            film.roll_until("the proof", |_| proven());
            // Past the last planned fault, and then as if nothing had been.
            film.roll(70);
            film.shoot(20);
            assert!(film.cameras.cancelled.is_empty() && film.cameras.failed.is_empty());
            assert!(!film.cameras.session.record().stopped);
        },
        |log, summary| {
            assert_says(log, "the mode cannot be set; trying again in a second", 2);
            assert_says(log, "setting the whole display state anew", 0);
            // Each reason is said in words that an operator understands.
            for words in [
                "(EBUSY); trying again after its flip event",
                "the display controller cannot do this configuration (EINVAL)",
                "the display controller cannot do this configuration (ENOSPC)",
                "the kernel had no memory for the commit (ENOMEM)",
                "commit without the seat",
                "the display device is gone (ENODEV)",
            ] {
                assert!(log.contains(words), "the log does not say {words:?}");
            }
            assert_eq!(summary.get("modesets"), 1);
            assert!(summary.get("lost") >= 1 && summary.get("probes") >= 3);
            assert!(summary.get("recoveries") >= 1);
        },
    );
}

#[test]
fn a_first_modeset_that_fails_is_tried_again() {
    film(
        "modeset:1..2=EBUSY",
        |_, film| film.shoot(5),
        |log, summary| {
            assert_says(log, "the mode cannot be set; trying again in a second", 2);
            assert_eq!(summary.get("modesets"), 1);
        },
    );
}

#[test]
fn a_fence_that_never_signals_costs_frames_until_probes_proved_the_connector() {
    film_that_owes(
        // That slot is never written again while the fence is owed.
        Some(1),
        "fence:8=never",
        |_, film| film.shoot(12),
        |log, summary| {
            assert_says(
                log,
                "writeback job lost; no captured frames until probes",
                1,
            );
            assert_says(log, "writeback connector recovered", 1);
            assert!(summary.get("lost") >= 1);
            assert!(summary.get("probes") >= 3);
            assert!(summary.get("recoveries") >= 1);
            assert_eq!(summary.get("quarantined"), 1);
        },
    );
}

#[test]
fn fences_that_never_signal_again_stall_the_connector_and_not_the_display() {
    film(
        "fence:8..100000=never",
        |stage, film| {
            let mut stalled =
                seldom(|| stage.vitrine.log().contains("writeback connector stalled"));
            film.roll_until("the stall", |_| stalled());
            let stall = clock::now();
            film.roll(60);
            let late = film.cameras.presented_after(stall);
            assert_eq!(late, [], "frames of a stalled connector");
            assert!(film.cameras.cancelled.is_empty() && film.cameras.failed.is_empty());
            assert!(!film.cameras.session.record().stopped, "the session waits");
        },
        |_, summary| {
            // All before the first lost one, but for those that a busy machine was too slow for.
            assert_eq!(summary.get("published") + summary.get("late"), 7);
            assert_eq!(summary.get("recoveries"), 0);
            assert!(summary.get("stalls") >= 1);
        },
    );
}

#[test]
fn a_fence_with_an_error_discards_its_frame_alone() {
    film(
        "fence:8=error,fence:12=error",
        |_, film| film.shoot(12),
        |log, summary| {
            assert_eq!(summary.get("failed"), 2);
            assert_says(log, "why=Failed(5)", 4);
        },
    );
}

#[test]
fn fences_with_errors_in_a_row_cost_the_trust() {
    film(
        "fence:8..10=error",
        |_, film| film.shoot(12),
        |_, summary| {
            assert_eq!(summary.get("failed"), 3);
            assert!(summary.get("recoveries") >= 1);
        },
    );
}

#[test]
fn a_fence_that_comes_late_is_not_believed() {
    film_that_owes(
        Some(0),
        "fence:8=late120,fence:12=late2500",
        |_, film| {
            film.shoot(12);
            film.roll(40);
        },
        |_, summary| {
            // The first before the watchdog's deadline of two seconds, though after the next commit; the second after it.
            assert!(summary.get("late") >= 2);
            assert!(summary.get("lost") >= 1);
            assert!(summary.get("recoveries") >= 1);
            assert_eq!(summary.get("quarantined"), 0);
        },
    );
}

/// Clients have a session with constraints and wait; the painter goes on.
fn wait_in_vain(film: &mut Film) {
    film.roll(60);
    assert_waiting(&film.cameras);
}

#[track_caller]
fn assert_waiting(cameras: &Cameras) {
    assert!(cameras.taken.is_empty(), "frames from nowhere");
    assert!(cameras.cancelled.is_empty() && cameras.failed.is_empty());
    let session = cameras.session.record();
    assert!(session.done > 0 && !session.stopped, "{session:?}");
    assert_eq!(session.constraints.size, (640, 480));
}

#[test]
fn on_a_kernel_that_refuses_the_clone_the_screen_works_and_captures_wait() {
    film(
        "modeset-writeback=EINVAL",
        |_, film| wait_in_vain(film),
        |log, summary| {
            assert_says(log, "refuses display and writeback on one CRTC", 3);
            assert_says(log, "no writeback on this output: captures wait", 1);
            assert_eq!(summary.get("jobs") + summary.get("published"), 0);
            assert_eq!(summary.get("modesets"), 1);
        },
    );
}

#[test]
fn a_clone_that_is_refused_at_a_later_modeset_only_ends_the_captures_until_the_next() {
    film(
        // Eight pictures, each with and without a job; the second TEST_ONLY is that of the second modeset.
        "commit:100..115=EINVAL,test:2=EINVAL",
        |stage, film| {
            film.shoot(3);
            let mut waits = seldom(|| stage.vitrine.log().contains("captures wait"));
            film.roll_until("the second modeset", |_| waits());
            let modeset = clock::now();
            film.roll(40);
            assert_eq!(film.cameras.presented_after(modeset), []);
            assert!(film.cameras.cancelled.is_empty() && film.cameras.failed.is_empty());
        },
        |log, _| {
            assert_says(log, "setting the whole display state anew", 1);
            assert_says(log, "no writeback on this output: captures wait", 1);
        },
    );
}

#[test]
fn a_machine_without_writeback_shows_its_screen_and_says_why_captures_wait() {
    let machine = Machine::default().output(Output::new().writeback(false));
    machine::boot(machine, |guest| {
        let probe = |args: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_vitrine"));
            command.args(args);
            guest.run("probe", command).unwrap()
        };
        let said = probe(&["probe"]);
        println!("{said}");
        assert!(said.contains("writeback: none:"), "{said}");
        let mut stage = Setup::default().with(WRITEBACK).start(guest);
        stage.vitrine.wait_log("captures wait", SECOND * 20);
        let mut film = Film::begin(&stage, None, 1);
        wait_in_vain(&mut film);
        drop(film.cut());
        let log = stage.vitrine.log();
        assert_says(&log, "there is no writeback connector for this screen", 2);
        let summary = stage.finish("Virtual-1");
        assert_eq!(summary.get("jobs"), 0);
        assert_clean(&guest.dmesg());
    });
}
