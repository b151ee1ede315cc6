//! The judgement about one writeback connector: may a job be armed, may its frame be believed, may the display go on.
//! Pure: time and fence states are arguments.
//!
//! What the kernel gives is little: jobs wait in a FIFO per connector, a completion pops the *oldest* one, nothing can be
//! aborted. So one lost completion shifts every later fence by one job: fence N then signals when buffer N+1 was
//! written. Three rules keep such a frame from ever being delivered:
//!
//! 1. One job in flight. A frame is published only if its own fence signalled without an error, before any later commit on
//!    the CRTC, while the connector was trusted.
//! 2. A job whose fence does not come until the watchdog's deadline is lost, and trust with it. From then on every job is
//!    a probe: it writes into a buffer that no client sees, filled with a canary pattern.
//! 3. Trust comes back after several probes in a row whose *own* fence signalled in time and whose canary was gone. In a
//!    shifted FIFO the first never happens, on hardware that signals without writing the second never does.
//!
//! ```text
//! Trusted --lost--> Probation(kick) --3 good probes--> Trusted
//!                        | lost, or canary still there
//!                        v
//!                     Stalled(back-off) --a good probe--> Probation
//! ```
//!
//! The display has priority: a late fence delays the next commit by at most [`WritebackConfig::hold`] after the flip, and now
//! and then by some refreshes (`pacing`). The commit then overtakes the job; what the fence says later is not believed.
//!
//! | file | what it decides |
//! |---|---|
//! | here | one job's way: armed, flipped, signalled, overdue |
//! | [`pacing`] | when a job may go along, how long the display waits for it |
//! | `trust` | what lost jobs and probes mean for the connector |
//! | `types` | parameters, questions, answers, counters |

pub mod pacing;
mod trust;
mod types;

use std::time::Duration;

pub use pacing::PacingMode;
use pacing::Turns;
pub use types::{
    Action, ArmKind, Cooling, JobId, Pacing, Refuse, Trust, Verdict, Why, WritebackConfig,
    WritebackStats,
};

use super::fence::FenceStatus;
use crate::time::Time;

/// A job that has no flip event after this much more than the watchdog's time is lost as well.
const FLIP_ALLOWANCE: Duration = Duration::from_secs(1);

/// Failed fences in a row that cost the trust.
const FAILURES_THAT_COUNT: u32 = 3;

/// Given-up probes whose fences are still watched.
const LOST_PROBES_WATCHED: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flipped {
    presented: Time,
    told: Time,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flight {
    job: JobId,
    kind: ArmKind,
    armed: Time,
    flip: Option<Flipped>,
    /// The fence came before the flip event; both have to be there.
    done: Option<(FenceStatus, Time)>,
    /// Set when a later commit, a lost master or an older job's fence makes the own fence worthless.
    tainted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Engine {
    Detached,
    Idle { ready: Time },
    InFlight(Flight),
    Checking { job: JobId, ready: Time },
}

/// The machine of one writeback connector.
#[derive(Debug, Clone)]
pub struct Writeback {
    config: WritebackConfig,
    engine: Engine,
    trust: Trust,
    /// Jobs given up whose fence may still come.
    orphans: Vec<(JobId, ArmKind)>,
    /// Stalls since the connector was last trusted; the back-off grows by it even if a probe in between was good.
    rounds: u32,
    failures: u32,
    last_flip: Option<Time>,
    turns: Turns,
    /// What the next [`Writeback::tick`] tells.
    actions: Vec<Action>,
    stats: WritebackStats,
}

impl Writeback {
    /// A connector that is not attached yet.
    pub fn new(config: WritebackConfig) -> Self {
        Self {
            config,
            engine: Engine::Detached,
            trust: Trust::Trusted,
            orphans: Vec::new(),
            rounds: 0,
            failures: 0,
            last_flip: None,
            turns: Turns::default(),
            actions: Vec::new(),
            stats: WritebackStats::default(),
        }
    }

    /// Other parameters, as after a change of the mode.
    pub fn set_config(&mut self, config: WritebackConfig) {
        self.config = config;
    }

    /// The parameters.
    pub fn config(&self) -> &WritebackConfig {
        &self.config
    }

    /// How far the connector is believed.
    pub fn trust(&self) -> Trust {
        self.trust
    }

    /// The counters.
    pub fn stats(&self) -> WritebackStats {
        self.stats
    }

    /// Whether the connector is attached to its CRTC.
    pub fn is_attached(&self) -> bool {
        self.engine != Engine::Detached
    }

    /// The job in flight.
    pub fn in_flight(&self) -> Option<JobId> {
        match self.engine {
            Engine::InFlight(flight) => Some(flight.job),
            Engine::Detached | Engine::Idle { .. } | Engine::Checking { .. } => None,
        }
    }

    /// A modeset attached the connector. Trust stays what it was: no modeset repairs a shifted FIFO (measured).
    pub fn attached(&mut self, now: Time) {
        if self.engine == Engine::Detached {
            self.engine = Engine::Idle { ready: now };
        }
    }

    /// A commit detached the connector or switched its CRTC off. What follows is told by [`Writeback::tick`].
    pub fn detached(&mut self) {
        match self.engine {
            Engine::InFlight(flight) => {
                self.give_up(flight);
                self.distrust(flight.job);
            }
            Engine::Checking { job, .. } => self.distrust(job),
            Engine::Detached | Engine::Idle { .. } => {}
        }
        self.engine = Engine::Detached;
    }

    /// Whether the next commit may carry a job, and of which kind.
    ///
    /// # Errors
    /// Why not.
    pub fn may_arm(&self, now: Time) -> Result<ArmKind, Refuse> {
        match self.engine {
            Engine::Detached => return Err(Refuse::Detached),
            Engine::InFlight(_) => return Err(Refuse::InFlight),
            Engine::Checking { .. } => return Err(Refuse::Checking),
            // Probes are rare, and what they find is waited for.
            Engine::Idle { .. }
                if self.trust == Trust::Trusted && self.turns.too_early(self.config.pacing) =>
            {
                return Err(Refuse::NotYet)
            }
            Engine::Idle { ready } if now < ready => return Err(Refuse::Cooling { until: ready }),
            Engine::Idle { .. } => {}
        }
        match self.trust {
            Trust::Trusted => Ok(ArmKind::Normal),
            Trust::Probation { kick: true, .. } => Ok(ArmKind::Kick),
            Trust::Probation { kick: false, .. } => Ok(ArmKind::Canary),
            Trust::Stalled { until, .. } if now < until => Err(Refuse::Stalled { until }),
            Trust::Stalled { .. } => Ok(ArmKind::Canary),
        }
    }

    /// A commit with a job succeeded. Only after [`Writeback::may_arm`] gave `kind`.
    pub fn armed(&mut self, job: JobId, kind: ArmKind, now: Time) {
        debug_assert_eq!(self.may_arm(now), Ok(kind));
        self.stats.jobs += 1;
        self.turns.armed();
        let patient = self.turns.is_patient() && self.hold() > self.config.hold;
        self.stats.patient += u64::from(patient);
        match kind {
            ArmKind::Normal => {}
            ArmKind::Kick | ArmKind::Canary => self.stats.probes += 1,
        }
        if let Trust::Probation { kick, .. } = &mut self.trust {
            *kick = false;
        }
        self.engine = Engine::InFlight(Flight {
            job,
            kind,
            armed: now,
            flip: None,
            done: None,
            tainted: false,
        });
    }

    /// The flip event of the last commit came, and says when it was presented. A verdict, if the fence was there before.
    pub fn flipped(&mut self, presented: Time, now: Time) -> Option<Verdict> {
        self.last_flip = Some(presented);
        let Engine::InFlight(flight) = &mut self.engine else {
            return None;
        };
        flight.flip.get_or_insert(Flipped {
            presented,
            told: now,
        });
        let (status, at) = flight.done?;
        let flight = *flight;
        Some(self.own_fence(flight, status, at))
    }

    /// Whether the display's next commit may go, once the flip event is there. It never has to wait for cooling.
    pub fn may_commit(&self, now: Time) -> Pacing {
        let hold = self.hold();
        match self.engine {
            Engine::InFlight(Flight {
                flip: None,
                tainted: false,
                ..
            }) => Pacing::Wait { until: None },
            Engine::InFlight(Flight {
                flip: Some(flip),
                tainted: false,
                ..
            }) if now < flip.told + hold => Pacing::Wait {
                until: Some(flip.told + hold),
            },
            Engine::InFlight(_)
            | Engine::Detached
            | Engine::Idle { .. }
            | Engine::Checking { .. } => Pacing::Go,
        }
    }

    /// How long after its flip the job in flight may hold the next commit.
    fn hold(&self) -> Duration {
        let WritebackConfig {
            pacing,
            hold,
            refresh,
            hold_refreshes,
            ..
        } = self.config;
        match pacing {
            PacingMode::Safe | PacingMode::EveryNth(_) => {
                self.turns.hold(hold, refresh, hold_refreshes)
            }
            PacingMode::Pipelined => Duration::ZERO,
        }
    }

    /// A commit on the CRTC succeeded that did not carry a job. A job in flight is overtaken, unless the driver is one that
    /// bears it; [`Writeback::tick`] tells it.
    pub fn committed_without_job(&mut self) {
        self.turns.plain_commit();
        let flipped = matches!(self.engine, Engine::InFlight(Flight { flip: Some(_), .. }));
        if self.config.pacing != PacingMode::Pipelined || !flipped {
            self.overtaken();
        }
    }

    /// Something happened to the CRTC that no job survives: a modeset, or another master may have been there.
    pub fn disturbed(&mut self) {
        self.overtaken();
    }

    fn overtaken(&mut self) {
        if let Engine::InFlight(flight) = &mut self.engine {
            if !flight.tainted {
                flight.tainted = true;
                self.turns.overtaken();
                self.stats.overtaken += 1;
                self.actions.push(Action::Quarantine(flight.job));
            }
        }
    }

    /// The fence of `job` is no longer pending. (A pending one is ignored and changes nothing: [`None`].)
    pub fn fence(&mut self, job: JobId, status: FenceStatus, now: Time) -> Option<Verdict> {
        if status == FenceStatus::Pending {
            return None;
        }
        if let Engine::InFlight(flight) = &mut self.engine {
            if flight.job == job {
                if flight.flip.is_none() && !flight.tainted {
                    flight.done.get_or_insert((status, now));
                    return None;
                }
                let flight = *flight;
                return Some(self.own_fence(flight, status, now));
            }
        }
        let Some(position) = self.orphans.iter().position(|&(orphan, _)| orphan == job) else {
            return Some(Verdict::Discard(job, Why::Unknown));
        };
        self.orphans.swap_remove(position);
        self.stats.late += 1;
        // An older job's fence after a newer job was queued: the newer one's completion may have popped the older.
        if let Engine::InFlight(flight) = &mut self.engine {
            if !flight.tainted {
                flight.tainted = true;
                self.actions.push(Action::Quarantine(flight.job));
            }
        }
        Some(Verdict::Discard(job, Why::Late))
    }

    fn own_fence(&mut self, flight: Flight, status: FenceStatus, at: Time) -> Verdict {
        let (job, ready) = (flight.job, self.ready_after(at));
        self.engine = Engine::Idle { ready };
        if let FenceStatus::Failed(errno) = status {
            self.stats.failed += 1;
            self.failures += 1;
            match flight.kind {
                ArmKind::Kick | ArmKind::Canary => self.stall(at),
                ArmKind::Normal if self.failures >= FAILURES_THAT_COUNT => self.distrust(job),
                ArmKind::Normal => {}
            }
            return Verdict::Discard(job, Why::Failed(errno));
        }
        let in_time = at < self.deadline(flight) && !flight.tainted;
        match (flight.kind, flight.flip) {
            (ArmKind::Normal, Some(flip)) if in_time && self.trust == Trust::Trusted => {
                self.failures = 0;
                self.turns.ended_in_time();
                self.stats.published += 1;
                Verdict::Publish {
                    job,
                    presented: flip.presented,
                }
            }
            (ArmKind::Kick | ArmKind::Canary, Some(_)) if in_time => {
                self.engine = Engine::Checking { job, ready };
                Verdict::Probe(job)
            }
            (ArmKind::Normal | ArmKind::Kick | ArmKind::Canary, _) => {
                self.stats.late += 1;
                self.unproven(at);
                Verdict::Discard(job, Why::Late)
            }
        }
    }

    /// Looks at the deadline and tells what happened since the last call. Ask the kernel for the fence's status and call
    /// [`Writeback::fence`] before, so that a slow event loop does not take a completed job for a lost one.
    pub fn tick(&mut self, now: Time) -> Vec<Action> {
        if let Engine::InFlight(flight) = self.engine {
            if now >= self.deadline(flight) {
                self.overdue(flight, now);
            }
        }
        std::mem::take(&mut self.actions)
    }

    fn overdue(&mut self, flight: Flight, now: Time) {
        if flight.done.is_some() {
            // The fence came, the flip event did not: nothing is wrong with the connector.
            self.engine = Engine::Idle {
                ready: self.ready_after(now),
            };
            self.stats.late += 1;
            self.unproven(now);
            self.tell(Verdict::Discard(flight.job, Why::Late));
            return;
        }
        self.stats.lost += 1;
        self.engine = Engine::Idle {
            ready: now + self.config.cooling.min,
        };
        self.give_up(flight);
        match self.trust {
            Trust::Trusted => self.distrust(flight.job),
            Trust::Probation { .. } | Trust::Stalled { .. } => self.stall(now),
        }
    }

    /// Makes the next [`Writeback::tick`] tell a verdict that its caller could not hand on.
    pub fn tell(&mut self, verdict: Verdict) {
        self.actions.push(Action::Verdict(verdict));
    }

    fn give_up(&mut self, flight: Flight) {
        if !flight.tainted {
            self.actions.push(Action::Quarantine(flight.job));
        }
        self.orphans.push((flight.job, flight.kind));
        let probes = self
            .orphans
            .iter()
            .filter(|(_, kind)| *kind != ArmKind::Normal)
            .count();
        if probes > LOST_PROBES_WATCHED {
            if let Some(n) = self
                .orphans
                .iter()
                .position(|(_, kind)| *kind != ArmKind::Normal)
            {
                let (job, _) = self.orphans.remove(n);
                self.actions.push(Action::Forget(job));
            }
        }
    }

    /// The fence of a lost job is not worth waiting for: the connector has been proven since. Returns whether it was
    /// waited for.
    pub fn forget_lost(&mut self, job: JobId) -> bool {
        let before = self.orphans.len();
        self.orphans.retain(|(orphan, _)| *orphan != job);
        self.orphans.len() < before
    }

    /// When [`Writeback::tick`] or a refused [`Writeback::may_arm`] or [`Writeback::may_commit`] is to be asked again,
    /// even if nothing happens before.
    pub fn next_deadline(&self, now: Time) -> Option<Time> {
        match self.engine {
            Engine::Detached | Engine::Checking { .. } => None,
            Engine::InFlight(flight) => {
                let hold = flight.flip.map(|flip| flip.told + self.hold());
                let hold = hold.filter(|&hold| !flight.tainted && hold > now);
                Some(hold.map_or(self.deadline(flight), |hold| {
                    hold.min(self.deadline(flight))
                }))
            }
            Engine::Idle { ready } => match self.trust {
                Trust::Trusted => Some(ready),
                Trust::Probation { .. } => Some(ready.max(now)),
                Trust::Stalled { until, .. } => Some(ready.max(until)),
            }
            .filter(|&time| time > now || self.trust != Trust::Trusted),
        }
    }

    fn deadline(&self, flight: Flight) -> Time {
        match flight.flip {
            Some(flip) => flip.told + self.config.watchdog,
            None => flight.armed + self.config.watchdog + FLIP_ALLOWANCE,
        }
    }

    /// The end of the gap after a fence that came now.
    fn ready_after(&self, now: Time) -> Time {
        let Cooling { min, until_refresh } = self.config.cooling;
        let mut ready = now + min;
        let refresh = self.config.refresh.as_nanos();
        if let (true, Some(flip), true) = (until_refresh, self.last_flip, refresh > 0) {
            let refreshes = now.saturating_since(flip).as_nanos() / refresh + 1;
            let refreshes = u32::try_from(refreshes).unwrap_or(u32::MAX);
            ready = ready.max(flip + self.config.refresh.saturating_mul(refreshes));
        }
        ready
    }

    /// Panics if the machine contradicts itself; for tests.
    #[cfg(test)]
    pub fn verify_invariants(&self, now: Time) {
        if let Engine::InFlight(flight) = self.engine {
            assert!(
                self.orphans.iter().all(|(job, _)| *job != flight.job),
                "in flight and given up"
            );
            assert!(
                flight.kind != ArmKind::Normal || flight.tainted || self.trust == Trust::Trusted,
                "a frame for clients on a connector without trust"
            );
        }
        if self.may_arm(now) == Ok(ArmKind::Normal) {
            assert_eq!(self.trust, Trust::Trusted);
        }
        if let Pacing::Wait { until: Some(until) } = self.may_commit(now) {
            assert!(
                until.saturating_since(now) <= self.hold(),
                "the display waits too long"
            );
        }
        let orphans: std::collections::BTreeSet<_> = self.orphans.iter().map(|o| o.0).collect();
        assert_eq!(orphans.len(), self.orphans.len(), "a job given up twice");
    }
}

#[cfg(test)]
mod tests;
