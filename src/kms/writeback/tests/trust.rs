//! Trust that is lost and comes back.

use std::collections::BTreeSet;

use super::*;

#[test]
fn one_lost_job_costs_the_trust_and_one_kick_decides() {
    let mut writeback = machine();
    arm(&mut writeback, 1, at(0));
    assert_eq!(writeback.tick(at(249_999)), []);
    let told = writeback.tick(at(250_000));
    assert_eq!(
        told,
        [
            Action::Quarantine(JobId(1)),
            Action::Suspect { lost: JobId(1) }
        ]
    );
    let now = at(260_000);
    assert_eq!(arm(&mut writeback, 2, now), ArmKind::Kick);
    // A shifted FIFO: the kick's completion signals the lost job's fence.
    let verdict = good(&mut writeback, 1, at(270_000));
    assert_eq!(verdict, Some(Verdict::Discard(JobId(1), Why::Late)));
    let told = writeback.tick(at(510_000));
    assert!(
        matches!(told.last(), Some(Action::Stalled { rounds: 1, .. })),
        "{told:?}"
    );
    assert!(matches!(
        writeback.may_arm(at(520_000)),
        Err(Refuse::Stalled { .. })
    ));
}

#[test]
fn three_good_probes_in_a_row_give_trust_back() {
    let mut writeback = machine();
    arm(&mut writeback, 1, at(0));
    writeback.tick(at(250_000));
    for (n, kind) in [
        (2, ArmKind::Kick),
        (3, ArmKind::Canary),
        (4, ArmKind::Canary),
    ] {
        let now = at(260_000 + n * 10_000);
        assert_eq!(arm(&mut writeback, n, now), kind);
        assert_eq!(good(&mut writeback, n, now), Some(Verdict::Probe(JobId(n))));
        assert_eq!(
            writeback.may_arm(now + Duration::from_secs(1)),
            Err(Refuse::Checking)
        );
        writeback.canary_result(JobId(n), true, now);
    }
    assert_eq!(writeback.tick(at(300_000)), [Action::Recovered]);
    assert_eq!(writeback.may_arm(at(310_000)), Ok(ArmKind::Normal));
}

#[test]
fn a_probe_whose_canary_is_still_there_stalls_and_each_stall_waits_longer() {
    let mut writeback = machine();
    arm(&mut writeback, 1, at(0));
    writeback.tick(at(250_000));
    let mut now = at(260_000);
    let mut last = Duration::ZERO;
    for n in 2..12 {
        arm(&mut writeback, n, now);
        assert_eq!(good(&mut writeback, n, now), Some(Verdict::Probe(JobId(n))));
        writeback.canary_result(JobId(n), false, now);
        let until = stalled_until(&writeback);
        let pause = until.saturating_since(now);
        assert!(pause > last || pause == writeback.config().backoff_max);
        assert!(writeback.next_deadline(now).unwrap() >= until);
        (last, now) = (pause, until);
    }
    assert_eq!(last, Duration::from_secs(60));
}

#[test]
fn a_failed_fence_is_not_published_and_three_cost_the_trust() {
    let mut writeback = machine();
    for n in 0..3 {
        let now = at(n * 50_000);
        arm(&mut writeback, n, now);
        let verdict = writeback.fence(JobId(n), FenceStatus::Failed(5), now);
        assert_eq!(verdict, Some(Verdict::Discard(JobId(n), Why::Failed(5))));
    }
    assert_eq!(writeback.may_arm(at(200_000)), Ok(ArmKind::Kick));
}

#[test]
fn lost_probes_do_not_pile_up_descriptors() {
    let mut writeback = machine();
    let (mut now, mut watched) = (at(0), BTreeSet::new());
    for n in 0..40 {
        arm(&mut writeback, n, now);
        watched.insert(JobId(n));
        now = now + Duration::from_millis(250);
        for action in writeback.tick(now) {
            if let Action::Forget(job) = action {
                watched.remove(&job);
            }
        }
        now = writeback.next_deadline(now).unwrap();
    }
    assert!(watched.len() <= LOST_PROBES_WATCHED + 1, "{watched:?}");
}

#[test]
fn detaching_under_a_probe_breaks_the_row() {
    let mut writeback = machine();
    arm(&mut writeback, 1, at(0));
    writeback.tick(at(250_000));
    for n in 2..4 {
        let now = at(250_000 + n * 10_000);
        arm(&mut writeback, n, now);
        assert_eq!(good(&mut writeback, n, now), Some(Verdict::Probe(JobId(n))));
        writeback.canary_result(JobId(n), true, now);
    }
    assert_eq!(
        writeback.trust(),
        Trust::Probation {
            passed: 2,
            kick: false
        }
    );
    arm(&mut writeback, 4, at(300_000));
    writeback.detached();
    writeback.attached(at(310_000));
    assert_eq!(
        writeback.trust(),
        Trust::Probation {
            passed: 0,
            kick: false
        }
    );
}

#[test]
fn detaching_under_a_job_costs_the_trust() {
    let mut writeback = machine();
    arm(&mut writeback, 1, at(0));
    writeback.detached();
    assert_eq!(writeback.may_arm(at(10)), Err(Refuse::Detached));
    writeback.attached(at(20));
    assert_eq!(writeback.may_arm(at(20)), Ok(ArmKind::Kick));
    let verdict = good(&mut writeback, 1, at(30));
    assert_eq!(verdict, Some(Verdict::Discard(JobId(1), Why::Late)));
}
