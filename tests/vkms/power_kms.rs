//! What a dark CRTC means for the kms room and for vkms: no compositor, no Wayland.

use vitrine::{
    kms::{
        pipeline::State,
        writeback::{Trust, Why},
        CommitError, Pacing, Verdict,
    },
    time::Time,
};

use crate::{
    kms::{capture, Bench},
    machine::{self, vkms_crc, Machine, SECOND},
};

#[test]
fn a_crtc_that_sleeps_keeps_its_connectors_and_takes_jobs_as_before() {
    machine::boot(Machine::default().services(false), |guest| {
        let bench = Bench::open(guest, "");
        let mut screens = [bench.screen(0)];
        let crtc = screens[0].pipeline.crtc();
        let routed = || {
            let snapshot = bench.device.snapshot(true).unwrap();
            let ours = snapshot.connectors.iter().filter(|c| c.crtc == Some(crtc));
            ours.count()
        };
        let attached = routed();
        assert_eq!(attached, 2, "the screen and its writeback connector");
        for round in 1..=10 {
            capture(&bench, &mut screens, 3);
            screens[0].pipeline.sleep().unwrap();
            assert_eq!(screens[0].pipeline.state(), State::Asleep);
            assert_eq!(routed(), attached, "round {round}");
            screens[0].picture.paint(1000 + round);
            let frame = screens[0].picture.frame();
            let refused = screens[0].pipeline.commit(&frame, None, Time::now());
            assert_eq!(refused.unwrap_err(), CommitError::Off);
            // The kernel would not take a job either.
            let slot = screens[0].slots[0].framebuffer();
            let tested = screens[0].pipeline.test(&frame, Some(slot));
            assert!(matches!(tested, Err(CommitError::Invalid(_))), "{tested:?}");
            assert_eq!(screens[0].pipeline.wake(&frame), Ok(true));
            let crc = guest.crc(0).unwrap().next_frame().unwrap();
            assert_eq!(crc.value, vkms_crc(&screens[0].picture.bytes));
        }
        capture(&bench, &mut screens, 3);
        let stats = bench.device.stats().of(crtc);
        println!("{stats:?} {:?}", screens[0].pipeline.writeback().stats());
        assert_eq!(stats.modesets, 21, "one at the start, two for each round");
        let jobs = screens[0].pipeline.writeback().stats();
        assert_eq!((jobs.lost, jobs.late, jobs.overtaken), (0, 0, 0));
    });
}

/// The display never does that: it waits for the fence. But a slow one is not waited for.
#[test]
fn a_job_that_is_in_flight_when_the_crtc_goes_dark_is_not_believed_and_not_lost() {
    machine::boot(Machine::default().services(false), |guest| {
        let bench = Bench::open(guest, "");
        let mut screens = [bench.screen(0)];
        for round in 1..=20 {
            capture(&bench, &mut screens, 2);
            screens[0].picture.paint(round);
            let frame = screens[0].picture.frame();
            let mut job = None;
            machine::wait_until("a commit with a job", SECOND * 20, || {
                let ready = screens[0].pipeline.may_arm(Time::now()).is_ok()
                    && screens[0].pipeline.may_commit(Time::now()) == Pacing::Go;
                if ready {
                    job = bench.commit(&mut screens[0], &frame).flatten();
                }
                if job.is_none() {
                    assert_eq!(bench.dispatch(&mut screens), []);
                }
                job.is_some()
            });
            let (job, _) = job.unwrap();
            screens[0].pipeline.sleep().unwrap();
            let slept = Time::now();
            let mut verdicts = Vec::new();
            machine::wait_until("its end", SECOND * 20, || {
                verdicts.extend(bench.dispatch(&mut screens));
                !verdicts.is_empty()
            });
            println!(
                "round {round}: {verdicts:?} after {:?}",
                Time::now().saturating_since(slept)
            );
            assert_eq!(verdicts, [(0, Verdict::Discard(job, Why::Late))]);
            assert_eq!(screens[0].pipeline.wake(&frame), Ok(true));
        }
        capture(&bench, &mut screens, 3);
        let jobs = screens[0].pipeline.writeback();
        println!("{:?}", jobs.stats());
        assert_eq!(jobs.trust(), Trust::Trusted);
        assert_eq!(jobs.stats().lost, 0);
        drop(screens);
    });
}

/// Somebody's picture was there before us, and is there again after us, however dark the screen was at the end.
#[test]
fn a_screen_that_is_given_back_while_it_is_dark_shows_what_it_showed_before() {
    machine::boot(Machine::default().services(false), |guest| {
        let bench = Bench::open(guest, "");
        let mut before = bench.screen(0);
        let shows = || guest.crc(0).unwrap().next_frame().unwrap().value;
        let theirs = vkms_crc(&before.picture.bytes);
        assert_eq!(shows(), theirs);
        for ends_blank in [false, true] {
            let mut ours = bench.screen(0);
            ours.picture.paint(99);
            ours.pipeline.sleep().unwrap();
            assert_eq!(ours.pipeline.wake(&ours.picture.frame()), Ok(true));
            assert_eq!(shows(), vkms_crc(&ours.picture.bytes));
            ours.pipeline.sleep().unwrap();
            if ends_blank {
                ours.pipeline.pause();
                assert!(ours.pipeline.blank().is_err(), "without the seat");
                ours.pipeline.resume_dark();
                ours.pipeline.blank().unwrap();
                let snapshot = bench.device.snapshot(true).unwrap();
                assert!(snapshot.connectors.iter().all(|c| c.crtc.is_none()));
                assert!(snapshot.planes.iter().all(|plane| plane.crtc.is_none()));
                assert_eq!(
                    ours.pipeline.wake(&ours.picture.frame()),
                    Err(CommitError::Off)
                );
            }
            drop(ours);
            assert_eq!(shows(), theirs, "after us; blank: {ends_blank}");
        }
        before.pipeline.sleep().unwrap();
    });
}
