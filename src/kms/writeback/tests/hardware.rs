//! The judgement against a model of vkms that loses completions: whatever happens, no frame is a lie.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;

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
    /// Signalled with an error.
    failed: BTreeSet<JobId>,
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
            Lost::Fault => self.failed.extend(self.fifo.front()),
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
    /// Nothing written, and signalled with an error.
    Fault,
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
    /// A modeset, or a pause and a return: what was under way is done, and its flip event is nobody's.
    Disturb,
    /// The flip event does not come, and the display goes on without it after a while.
    LoseFlip,
}

fn op(lies: bool) -> impl Strategy<Value = Op> {
    let mut lost = vec![Lost::Job, Lost::Completion, Lost::Fault];
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
        1 => Just(Op::Disturb),
        1 => Just(Op::LoseFlip),
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
            Op::Disturb => {
                self.flip_pending = false;
                self.hardware.commit(None);
                self.writeback.disturbed();
                self.writeback.attached(now);
            }
            Op::LoseFlip => {
                self.flip_pending = false;
                self.now += 12_000_000;
                // As the pipeline does it at a deadline, and the event loop before.
                self.fences(false);
            }
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
            let status = match self.hardware.failed.contains(&job) {
                true => FenceStatus::Failed(5),
                false => FenceStatus::Signaled,
            };
            let verdict = self.writeback.fence(job, status, at(self.now));
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
