//! What lost jobs and probes mean for the connector: trusted, on probation, stalled.

use super::{types::Trust, Action, Engine, JobId, Writeback};
use crate::time::Time;

impl Writeback {
    /// Whether the canary of a probe was gone. What follows is told by [`Writeback::tick`].
    pub fn canary_result(&mut self, job: JobId, gone: bool, now: Time) {
        match self.engine {
            Engine::Checking {
                job: checked,
                ready,
            } if checked == job => {
                self.engine = Engine::Idle { ready };
            }
            Engine::Checking { .. }
            | Engine::Detached
            | Engine::Idle { .. }
            | Engine::InFlight(_) => return,
        }
        if !gone {
            return self.stall(now);
        }
        let passed = match self.trust {
            Trust::Trusted => return,
            Trust::Probation { passed, .. } => passed + 1,
            Trust::Stalled { .. } => 1,
        };
        if passed < self.config.probes {
            self.trust = Trust::Probation {
                passed,
                kick: false,
            };
            return;
        }
        self.trust = Trust::Trusted;
        self.rounds = 0;
        self.failures = 0;
        self.stats.recoveries += 1;
        self.actions.push(Action::Recovered);
    }

    /// A job that may have shifted the FIFO: the next ones are probes, and those so far in a row do not count.
    pub(super) fn distrust(&mut self, lost: JobId) {
        match &mut self.trust {
            Trust::Trusted => {
                self.trust = Trust::Probation {
                    passed: 0,
                    kick: true,
                };
                self.actions.push(Action::Suspect { lost });
            }
            Trust::Probation { passed, .. } => *passed = 0,
            Trust::Stalled { .. } => {}
        }
    }

    /// A probe that proves nothing, neither way.
    pub(super) fn unproven(&mut self, now: Time) {
        match &mut self.trust {
            Trust::Trusted => {}
            Trust::Probation { passed, .. } => *passed = 0,
            Trust::Stalled { until, .. } => *until = now + self.config.backoff,
        }
    }

    pub(super) fn stall(&mut self, now: Time) {
        let doubled = self
            .config
            .backoff
            .saturating_mul(1u32.checked_shl(self.rounds).unwrap_or(u32::MAX));
        let until = now + doubled.min(self.config.backoff_max);
        self.rounds = self.rounds.saturating_add(1);
        self.stats.stalls += 1;
        self.trust = Trust::Stalled {
            until,
            rounds: self.rounds,
        };
        self.actions.push(Action::Stalled {
            until,
            rounds: self.rounds,
        });
    }
}
