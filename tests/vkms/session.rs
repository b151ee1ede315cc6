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

/// The nice value of each thread of a process, by the thread's name.
fn nice_values(pid: u32) -> Vec<(String, i32)> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of = |task: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap();
        let (name, rest) = stat.rsplit_once(") ").unwrap();
        let name = name.split_once('(').unwrap().1;
        // The third field of all follows the name; nice is the 19th.
        let nice = rest.split(' ').nth(16).unwrap().parse().unwrap();
        (name.to_owned(), nice)
    };
    tasks.map(|task| of(task.unwrap())).collect()
}

#[test]
fn the_event_loop_goes_before_applications_and_copying_threads() {
    machine::boot(Machine::default(), |guest| {
        for (key, expected) in [("", -10), ("nice = -3\n", -3), ("nice = 0\n", 0)] {
            let config = guest.out().join("compositor.toml");
            std::fs::write(&config, key).unwrap();
            let mut command = vitrine();
            command.arg("-c").arg(&config);
            let told = guest.out().join("nice");
            let tell = format!("nice > {0}.part; mv {0}.part {0}; sleep 60", told.display());
            command.args(["--", "sh", "-c", &tell]);
            let mut vitrine = guest.spawn("vitrine", command);
            machine::wait_until("the application", SECOND * 20, || told.exists());
            assert_eq!(std::fs::read_to_string(&told).unwrap().trim(), "0");
            // A thread that was started just now has what it inherits until it runs.
            machine::wait_until("each thread's nice value", SECOND * 20, || {
                let threads = nice_values(vitrine.pid());
                println!("{threads:?}");
                assert!(threads.len() > 2, "{threads:?}");
                // The loop, and who interrupts it.
                let goes_before = |name: &str| ["vitrine", "turns"].contains(&name);
                let wanted = |name: &str| if goes_before(name) { expected } else { 0 };
                threads.iter().all(|(name, nice)| *nice == wanted(name))
            });
            vitrine.signal(machine::Signal::TERM);
            vitrine.wait_exit(SECOND * 20);
            std::fs::remove_file(&told).unwrap();
        }
    });
}
