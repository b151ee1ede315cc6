//! The pure decision of one screen: commit now, with or without a capture, or wait, and until when.
//!
//! Data in, data out. The display comes first: nothing here ever waits for a capture client, and a late writeback fence
//! holds a commit only as long as the pacing rule of `kms` says.

use crate::{
    capture::Demand,
    kms::{ArmKind, Pacing, Refuse},
    time::Time,
};

/// Everything that the decision depends on.
#[derive(Debug, Clone, Copy)]
pub struct Situation {
    /// The CRTC is on and waits for no flip.
    pub may_commit: bool,
    /// Something visible may have changed since the last commit.
    pub dirty: bool,
    /// Whether capture clients want the next frame.
    pub demand: Demand,
    /// Until then the applications may still have something new for the next refresh. A commit that only a capture client
    /// wants would take that refresh from them.
    pub change_time: Time,
    /// What the writeback connector says about the next commit.
    pub pacing: Pacing,
    /// Whether a job may be armed, and of which kind.
    pub arm: Result<ArmKind, Refuse>,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Nothing until something happens, or at the given time.
    Wait(Option<Time>),
    /// Commit what is new, if anything is.
    Show,
    /// Commit with a writeback job of this kind. With `force` even if nothing is new.
    Capture {
        /// What the job is for.
        kind: ArmKind,
        /// Commit although the picture is the same.
        force: bool,
    },
}

/// Decides.
pub fn plan(now: Time, situation: Situation) -> Plan {
    let Situation {
        may_commit,
        dirty,
        demand,
        change_time,
        pacing,
        arm,
    } = situation;
    let wanted = dirty || demand == Demand::Now || (demand != Demand::None && is_probe(arm));
    if !may_commit || !wanted {
        return Plan::Wait(probe_time(demand, arm));
    }
    if let Pacing::Wait { until } = pacing {
        return Plan::Wait(until);
    }
    if !dirty && now < change_time {
        return Plan::Wait(Some(change_time));
    }
    if demand == Demand::None {
        return Plan::Show;
    }
    match arm {
        Ok(ArmKind::Normal) => Plan::Capture {
            kind: ArmKind::Normal,
            force: demand == Demand::Now,
        },
        Ok(kind @ (ArmKind::Kick | ArmKind::Canary)) => Plan::Capture { kind, force: true },
        // The gap is a few milliseconds: shorter than a refresh, so the frame is worth it.
        Err(Refuse::Cooling { until }) if until > now => Plan::Wait(Some(until)),
        Err(Refuse::Cooling { .. } | Refuse::Checking | Refuse::WrongBuffer { .. }) => {
            Plan::Wait(Some(now))
        }
        Err(Refuse::Detached | Refuse::InFlight | Refuse::Stalled { .. }) if dirty => Plan::Show,
        Err(Refuse::Stalled { until }) => Plan::Wait(Some(until)),
        Err(Refuse::Detached | Refuse::InFlight) => Plan::Wait(None),
    }
}

/// Whether the next job is a probe. Clients who wait only for a change would otherwise keep a still screen's connector
/// suspect for ever.
fn is_probe(arm: Result<ArmKind, Refuse>) -> bool {
    matches!(arm, Ok(ArmKind::Kick | ArmKind::Canary))
}

/// When a suspect connector's next probe is due, if anybody waits for what it finds.
fn probe_time(demand: Demand, arm: Result<ArmKind, Refuse>) -> Option<Time> {
    match (demand, arm) {
        (
            Demand::OnDamage | Demand::Now,
            Err(Refuse::Stalled { until } | Refuse::Cooling { until }),
        ) => Some(until),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_duration(Duration::from_millis(ms))
    }

    fn idle() -> Situation {
        Situation {
            may_commit: true,
            dirty: true,
            demand: Demand::OnDamage,
            change_time: at(0),
            pacing: Pacing::Go,
            arm: Ok(ArmKind::Normal),
        }
    }

    #[test]
    fn a_change_that_somebody_wants_is_captured_without_being_forced() {
        assert_eq!(
            plan(at(0), idle()),
            Plan::Capture {
                kind: ArmKind::Normal,
                force: false
            }
        );
    }

    #[test]
    fn a_still_screen_is_committed_only_for_a_request_that_needs_it() {
        let still = Situation {
            dirty: false,
            ..idle()
        };
        assert_eq!(plan(at(0), still), Plan::Wait(None));
        let first = Situation {
            demand: Demand::Now,
            ..still
        };
        assert_eq!(
            plan(at(0), first),
            Plan::Capture {
                kind: ArmKind::Normal,
                force: true
            }
        );
    }

    #[test]
    fn a_commit_for_a_capture_client_alone_leaves_the_applications_their_time() {
        let still = Situation {
            dirty: false,
            demand: Demand::Now,
            change_time: at(12),
            ..idle()
        };
        assert_eq!(plan(at(1), still), Plan::Wait(Some(at(12))));
        let forced = Plan::Capture {
            kind: ArmKind::Normal,
            force: true,
        };
        assert_eq!(plan(at(12), still), forced);
        let changed = Situation {
            dirty: true,
            ..still
        };
        assert_eq!(plan(at(1), changed), forced);
    }

    #[test]
    fn the_display_goes_on_while_the_connector_is_stalled() {
        let stalled = Situation {
            arm: Err(Refuse::Stalled { until: at(900) }),
            ..idle()
        };
        assert_eq!(plan(at(0), stalled), Plan::Show);
        let still = Situation {
            dirty: false,
            ..stalled
        };
        assert_eq!(plan(at(0), still), Plan::Wait(Some(at(900))));
    }

    #[test]
    fn a_wanted_frame_waits_out_the_cooling_gap_and_an_unwanted_one_does_not() {
        let cooling = Situation {
            arm: Err(Refuse::Cooling { until: at(2) }),
            ..idle()
        };
        assert_eq!(plan(at(0), cooling), Plan::Wait(Some(at(2))));
        assert_eq!(
            plan(
                at(0),
                Situation {
                    demand: Demand::None,
                    ..cooling
                }
            ),
            Plan::Show
        );
    }

    #[test]
    fn a_pending_fence_holds_the_commit_no_longer_than_it_says() {
        let held = Situation {
            pacing: Pacing::Wait {
                until: Some(at(16)),
            },
            ..idle()
        };
        assert_eq!(plan(at(0), held), Plan::Wait(Some(at(16))));
        let overtaken = Situation {
            arm: Err(Refuse::InFlight),
            ..idle()
        };
        assert_eq!(plan(at(16), overtaken), Plan::Show);
    }

    #[test]
    fn a_suspect_connector_is_probed_even_on_a_still_screen() {
        let probe = Situation {
            dirty: false,
            arm: Ok(ArmKind::Kick),
            ..idle()
        };
        assert_eq!(
            plan(at(0), probe),
            Plan::Capture {
                kind: ArmKind::Kick,
                force: true
            }
        );
        let nobody = Situation {
            demand: Demand::None,
            ..probe
        };
        assert_eq!(plan(at(0), nobody), Plan::Wait(None));
    }
}
