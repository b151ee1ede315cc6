//! Tests of the judgement: its rules one by one, and a small model of vkms that loses completions (`hardware`).
#![allow(clippy::unwrap_used)]

mod hardware;
mod pacing;
mod trust;

use super::*;

const REFRESH: u64 = 16_667;

fn at(us: u64) -> Time {
    Time::from_duration(Duration::from_micros(us))
}

fn machine() -> Writeback {
    let mut writeback =
        Writeback::new(WritebackConfig::for_refresh(Duration::from_micros(REFRESH)));
    writeback.attached(at(0));
    writeback
}

/// Arms what may be armed and lets the flip happen.
fn arm(writeback: &mut Writeback, job: u64, now: Time) -> ArmKind {
    let kind = writeback.may_arm(now).unwrap();
    writeback.armed(JobId(job), kind, now);
    assert_eq!(writeback.flipped(now, now), None);
    kind
}

fn good(writeback: &mut Writeback, job: u64, now: Time) -> Option<Verdict> {
    writeback.fence(JobId(job), FenceStatus::Signaled, now)
}

fn stalled_until(writeback: &Writeback) -> Time {
    match writeback.trust() {
        Trust::Stalled { until, .. } => until,
        other => unreachable!("{other:?}"),
    }
}

#[test]
fn a_job_in_time_is_published_with_the_time_of_its_flip() {
    let mut writeback = machine();
    writeback.armed(JobId(1), ArmKind::Normal, at(0));
    assert_eq!(writeback.may_commit(at(1)), Pacing::Wait { until: None });
    writeback.flipped(at(10), at(20));
    assert_eq!(
        good(&mut writeback, 1, at(30)),
        Some(Verdict::Publish {
            job: JobId(1),
            presented: at(10)
        })
    );
    assert_eq!(writeback.may_commit(at(31)), Pacing::Go);
}

#[test]
fn a_fence_before_its_flip_event_waits_for_it() {
    let mut writeback = machine();
    writeback.armed(JobId(1), ArmKind::Normal, at(0));
    assert_eq!(good(&mut writeback, 1, at(10)), None);
    let verdict = writeback.flipped(at(15), at(20));
    assert_eq!(
        verdict,
        Some(Verdict::Publish {
            job: JobId(1),
            presented: at(15)
        })
    );
}

#[test]
fn a_late_fence_holds_the_display_one_refresh_and_no_longer() {
    let mut writeback = machine();
    arm(&mut writeback, 1, at(0));
    assert_eq!(
        writeback.may_commit(at(1)),
        Pacing::Wait {
            until: Some(at(REFRESH))
        }
    );
    assert_eq!(writeback.may_commit(at(REFRESH)), Pacing::Go);
    writeback.committed_without_job();
    assert_eq!(writeback.tick(at(REFRESH)), [Action::Quarantine(JobId(1))]);
    // The next commits do not wait for it any more.
    assert_eq!(writeback.may_commit(at(REFRESH + 1)), Pacing::Go);
    let verdict = good(&mut writeback, 1, at(REFRESH + 2));
    assert_eq!(verdict, Some(Verdict::Discard(JobId(1), Why::Late)));
    assert_eq!(
        writeback.trust(),
        Trust::Trusted,
        "it did come; nothing was lost"
    );
}

#[test]
fn a_lost_job_that_is_not_waited_for_any_more_is_unknown_and_taints_nothing() {
    let mut writeback = machine();
    arm(&mut writeback, 1, at(0));
    let watchdog = writeback.config().watchdog;
    let lost = at(0) + watchdog;
    assert!(writeback.tick(lost).contains(&Action::Quarantine(JobId(1))));
    assert!(writeback.forget_lost(JobId(1)));
    assert!(!writeback.forget_lost(JobId(1)));
    let later = lost + Duration::from_secs(1);
    arm(&mut writeback, 2, later);
    let late = good(&mut writeback, 1, later);
    assert_eq!(late, Some(Verdict::Discard(JobId(1), Why::Unknown)));
    let probe = good(&mut writeback, 2, later);
    assert_eq!(probe, Some(Verdict::Probe(JobId(2))));
    assert!(!writeback.forget_lost(JobId(2)));
}

#[test]
fn a_job_needs_the_gap_but_a_plain_commit_does_not() {
    let mut writeback = machine();
    arm(&mut writeback, 1, at(0));
    good(&mut writeback, 1, at(100));
    assert_eq!(
        writeback.may_arm(at(101)),
        Err(Refuse::Cooling { until: at(2100) })
    );
    assert_eq!(writeback.may_commit(at(101)), Pacing::Go);
    assert_eq!(writeback.may_arm(at(2100)), Ok(ArmKind::Normal));
}

#[test]
fn the_gap_can_last_until_the_next_refresh() {
    let mut writeback = machine();
    let cooling = Cooling {
        min: Duration::from_millis(2),
        until_refresh: true,
    };
    writeback.set_config(WritebackConfig {
        cooling,
        ..*writeback.config()
    });
    arm(&mut writeback, 1, at(1000));
    good(&mut writeback, 1, at(5000));
    assert_eq!(
        writeback.may_arm(at(9000)),
        Err(Refuse::Cooling {
            until: at(1000 + REFRESH)
        })
    );
}
