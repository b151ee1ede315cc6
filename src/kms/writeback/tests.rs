//! Tests of the judgement: its rules one by one, and a small model of vkms that loses completions.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

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

/// A model of vkms' writeback: a FIFO of jobs; a completion pops the oldest, whichever job was written.
#[derive(Default)]
struct Hardware {
    /// It composes a job although a later commit came before it was done with it.
    bears_overtaking: bool,
    fifo: VecDeque<JobId>,
    /// The job of the current CRTC state, not yet composed.
    current: Option<JobId>,
    written: BTreeSet<JobId>,
    signalled: BTreeSet<JobId>,
}

impl Hardware {
    fn commit(&mut self, job: Option<JobId>) {
        // A newer state replaces one that was not composed: that job is never written, and stays in the FIFO.
        if job.is_some() || !self.bears_overtaking {
            self.current = job;
        }
        self.fifo.extend(job);
    }

    fn compose(&mut self, lost: Lost) {
        let Some(job) = self.current.take() else {
            return;
        };
        match lost {
            Lost::Job => return,
            Lost::Completion => {
                self.written.insert(job);
                return;
            }
            Lost::Write => {}
            Lost::Nothing => {
                self.written.insert(job);
            }
        }
        self.signalled.extend(self.fifo.pop_front());
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Lost {
    Nothing,
    /// Never composed (vkms' race).
    Job,
    /// Composed, but nothing signalled.
    Completion,
    /// Signalled, but nothing written.
    Write,
}

#[derive(Debug, Clone)]
enum Op {
    Commit {
        capture: bool,
    },
    Compose(Lost),
    Flip,
    /// The event loop reads fences, newest first or oldest first.
    Fences {
        newest_first: bool,
    },
    Wait(u64),
    Detach,
    Attach,
}

fn op(lies: bool) -> impl Strategy<Value = Op> {
    let mut lost = vec![Lost::Job, Lost::Completion];
    lost.extend(lies.then_some(Lost::Write));
    let lost = prop_oneof![6 => Just(Lost::Nothing), 1 => proptest::sample::select(lost)];
    prop_oneof![
        4 => proptest::bool::weighted(0.8).prop_map(|capture| Op::Commit { capture }),
        4 => lost.prop_map(Op::Compose),
        4 => Just(Op::Flip),
        4 => any::<bool>().prop_map(|newest_first| Op::Fences { newest_first }),
        3 => (0u64..20_000).prop_map(Op::Wait),
        1 => (200_000u64..3_000_000).prop_map(Op::Wait),
        1 => Just(Op::Detach),
        1 => Just(Op::Attach),
    ]
}

struct World {
    writeback: Writeback,
    hardware: Hardware,
    flip_pending: bool,
    now: u64,
    next_job: u64,
    kinds: BTreeMap<JobId, ArmKind>,
    published: BTreeSet<JobId>,
    unseen: BTreeSet<JobId>,
}

impl World {
    fn new(pacing: PacingMode, bears_overtaking: bool) -> Self {
        let mut writeback = machine();
        let config = WritebackConfig {
            pacing,
            ..*writeback.config()
        };
        writeback.set_config(config);
        Self {
            writeback,
            hardware: Hardware {
                bears_overtaking,
                ..Hardware::default()
            },
            flip_pending: false,
            now: 0,
            next_job: 1,
            kinds: BTreeMap::new(),
            published: BTreeSet::new(),
            unseen: BTreeSet::new(),
        }
    }

    fn apply(&mut self, op: &Op) {
        let now = at(self.now);
        match *op {
            Op::Commit { capture } => self.commit(capture),
            Op::Compose(lost) => self.hardware.compose(lost),
            Op::Flip if self.flip_pending => {
                self.flip_pending = false;
                let verdict = self.writeback.flipped(now, now);
                self.judge(verdict);
            }
            Op::Flip => {}
            Op::Fences { newest_first } => self.fences(newest_first),
            Op::Wait(us) => self.now += us,
            Op::Detach => {
                self.hardware.current = None;
                self.writeback.detached();
            }
            Op::Attach => self.writeback.attached(now),
        }
        for action in self.writeback.tick(at(self.now)) {
            if let Action::Verdict(verdict) = action {
                self.judge(Some(verdict));
            }
        }
        self.writeback.verify_invariants(at(self.now));
    }

    /// As the pipeline does it: after the flip, and not before the pacing says so.
    fn commit(&mut self, capture: bool) {
        let now = at(self.now);
        if self.flip_pending || self.writeback.may_commit(now) != Pacing::Go {
            return;
        }
        self.flip_pending = true;
        match self.writeback.may_arm(now) {
            Ok(kind) if capture || kind != ArmKind::Normal => {
                let job = JobId(self.next_job);
                self.next_job += 1;
                self.hardware.commit(Some(job));
                self.writeback.armed(job, kind, now);
                self.kinds.insert(job, kind);
                self.unseen.insert(job);
            }
            Ok(_) | Err(_) => {
                self.hardware.commit(None);
                self.writeback.committed_without_job();
            }
        }
    }

    fn fences(&mut self, newest_first: bool) {
        let mut ready: Vec<JobId> = self
            .unseen
            .intersection(&self.hardware.signalled)
            .copied()
            .collect();
        if newest_first {
            ready.reverse();
        }
        for job in ready {
            self.unseen.remove(&job);
            let verdict = self
                .writeback
                .fence(job, FenceStatus::Signaled, at(self.now));
            self.judge(verdict);
        }
    }

    fn judge(&mut self, verdict: Option<Verdict>) {
        match verdict {
            Some(Verdict::Publish { job, .. }) => {
                assert_eq!(
                    self.kinds.get(&job),
                    Some(&ArmKind::Normal),
                    "a probe was published"
                );
                assert!(self.published.insert(job), "{job} published twice");
            }
            Some(Verdict::Probe(job)) => {
                let gone = self.hardware.written.contains(&job);
                self.writeback.canary_result(job, gone, at(self.now));
            }
            Some(Verdict::Discard(..)) | None => {}
        }
    }
}

/// Hardware that drops a job when a later commit comes costs frames when it is paced as if it did not, but never a lie.
fn pacing() -> impl Strategy<Value = PacingMode> {
    prop_oneof![
        Just(PacingMode::Safe),
        (2u32..4).prop_map(PacingMode::EveryNth),
        Just(PacingMode::Pipelined),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_is_published_that_its_own_job_did_not_write(
        ops in proptest::collection::vec(op(false), 0..150), pacing in pacing(), bears in any::<bool>(),
    ) {
        let mut world = World::new(pacing, bears);
        for op in &ops {
            world.apply(op);
            let lies: Vec<_> = world.published.difference(&world.hardware.written).collect();
            prop_assert!(lies.is_empty(), "stale frames delivered: {:?}", lies);
        }
    }

    #[test]
    fn hardware_that_signals_without_writing_is_not_trusted_again(
        ops in proptest::collection::vec(op(true), 0..150), pacing in pacing(), bears in any::<bool>(),
    ) {
        let mut world = World::new(pacing, bears);
        let mut before = world.writeback.stats().recoveries;
        for op in &ops {
            world.apply(op);
            let now = world.writeback.stats().recoveries;
            if now > before {
                let probes = world.kinds.iter().rev().filter(|(_, kind)| **kind != ArmKind::Normal);
                for (job, _) in probes.take(3) {
                    prop_assert!(world.hardware.written.contains(job), "{} proved nothing", job);
                }
            }
            before = now;
        }
    }

    #[test]
    fn sound_hardware_is_trusted_again_after_any_history(
        ops in proptest::collection::vec(op(false), 0..100),
    ) {
        let mut world = World::new(PacingMode::Safe, false);
        for op in &ops {
            world.apply(op);
        }
        // A repaired device: the FIFO is in step again.
        world.hardware.fifo.clear();
        world.hardware.current = None;
        world.apply(&Op::Attach);
        for _ in 0..20 {
            world.apply(&Op::Wait(62_000_000));
            world.apply(&Op::Commit { capture: true });
            world.apply(&Op::Compose(Lost::Nothing));
            world.apply(&Op::Flip);
            world.apply(&Op::Fences { newest_first: false });
        }
        prop_assert_eq!(world.writeback.trust(), Trust::Trusted);
        prop_assert!(!world.published.is_empty());
    }
}
