//! How long the display waits for a job, and which commits carry one.

use super::*;

/// One job that comes `late` after its flip, with a commit as soon as the pacing allows. Gives how long that one waited.
fn slow_job(writeback: &mut Writeback, job: u64, now: Time, late: Duration) -> (Duration, bool) {
    arm(writeback, job, now);
    let held = match writeback.may_commit(now) {
        Pacing::Wait { until } => until.unwrap().saturating_since(now).min(late),
        Pacing::Go => Duration::ZERO,
    };
    let in_time = held == late;
    if !in_time {
        writeback.committed_without_job();
    }
    let verdict = good(writeback, job, now + late);
    let published = matches!(verdict, Some(Verdict::Publish { .. }));
    assert_eq!(published, in_time);
    writeback.tick(now + late);
    (held, published)
}

#[test]
fn of_slow_jobs_every_fourth_is_waited_for() {
    let mut writeback = machine();
    let (refresh, late) = (Duration::from_micros(REFRESH), Duration::from_millis(27));
    let mut waited = Vec::new();
    for n in 0..12 {
        waited.push(slow_job(&mut writeback, n, at(n * 100_000), late));
    }
    let round = [
        (refresh, false),
        (refresh, false),
        (refresh, false),
        (late, true),
    ];
    assert_eq!(waited, round.repeat(3));
    assert_eq!(writeback.stats().patient, 3);
}

#[test]
fn a_job_that_is_too_slow_for_the_greatest_patience_holds_no_more_than_that() {
    let mut writeback = machine();
    let (refresh, late) = (Duration::from_micros(REFRESH), Duration::from_millis(90));
    for n in 0..12 {
        let (held, published) = slow_job(&mut writeback, n, at(n * 200_000), late);
        let refreshes = if n % 4 == 3 { 4 } else { 1 };
        assert_eq!((held, published), (refresh * refreshes, false), "job {n}");
    }
    let config = WritebackConfig {
        hold_refreshes: 1,
        ..*writeback.config()
    };
    writeback.set_config(config);
    for n in 12..20 {
        let (held, _) = slow_job(&mut writeback, n, at(n * 200_000), late);
        assert_eq!(held, refresh, "1 is off");
    }
}

#[test]
fn jobs_in_time_are_never_given_more() {
    let mut writeback = machine();
    for n in 0..20 {
        // Now and then one is late; never three in a row.
        let late = Duration::from_millis(if n % 3 == 0 { 5 } else { 20 });
        slow_job(&mut writeback, n, at(n * 100_000), late);
    }
    assert_eq!(writeback.stats().patient, 0);
}

#[test]
fn a_job_goes_with_every_third_commit_at_most() {
    let mut writeback = machine();
    writeback.set_config(WritebackConfig {
        pacing: PacingMode::EveryNth(3),
        ..*writeback.config()
    });
    for n in 0..4 {
        let now = at(n * 100_000);
        assert_eq!(
            arm(&mut writeback, n, now),
            ArmKind::Normal,
            "the first at once"
        );
        good(&mut writeback, n, now);
        for _ in 0..2 {
            let later = now + Duration::from_millis(50);
            assert_eq!(writeback.may_arm(later), Err(Refuse::NotYet));
            writeback.committed_without_job();
        }
    }
}

#[test]
fn pipelined_the_display_waits_for_no_fence_and_the_frame_counts_all_the_same() {
    let mut writeback = machine();
    writeback.set_config(WritebackConfig {
        pacing: PacingMode::Pipelined,
        ..*writeback.config()
    });
    writeback.armed(JobId(1), ArmKind::Normal, at(0));
    assert_eq!(writeback.may_commit(at(1)), Pacing::Wait { until: None });
    writeback.flipped(at(10), at(10));
    assert_eq!(writeback.may_commit(at(11)), Pacing::Go);
    assert_eq!(writeback.may_arm(at(11)), Err(Refuse::InFlight));
    writeback.committed_without_job();
    writeback.flipped(at(REFRESH), at(REFRESH));
    let published = Verdict::Publish {
        job: JobId(1),
        presented: at(10),
    };
    assert_eq!(good(&mut writeback, 1, at(27_000)), Some(published));
    // A modeset is another matter.
    arm(&mut writeback, 2, at(40_000));
    writeback.disturbed();
    let verdict = good(&mut writeback, 2, at(41_000));
    assert_eq!(verdict, Some(Verdict::Discard(JobId(2), Why::Late)));
}
