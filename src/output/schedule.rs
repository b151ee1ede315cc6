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
    /// Whether somebody wants the next frame from the writeback connector.
    pub writeback: Demand,
    /// Whether somebody wants the next frame from the render producer.
    pub render: Demand,
    /// Whether probes of the connector are worth a commit.
    pub probing: Probing,
    /// Until then the applications may still have something new for the next refresh. A commit that only a capture client
    /// wants would take that refresh from them.
    pub change_time: Time,
    /// What the writeback connector says about the next commit.
    pub pacing: Pacing,
    /// Whether a job may be armed, and of which kind.
    pub arm: Result<ArmKind, Refuse>,
}

/// How much a suspect connector's next probe is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probing {
    /// Nobody would use the connector.
    No,
    /// It goes with a commit that is made anyway: sessions are open.
    Along,
    /// It is worth a commit of its own: somebody waits for a frame. Those who wait only for a change would otherwise keep a
    /// still screen's connector suspect for ever.
    Forced,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Nothing until something happens, or at the given time.
    Wait(Option<Time>),
    /// Commit what is new, if anything is.
    Commit {
        /// With a writeback job of this kind.
        job: Option<ArmKind>,
        /// Even if nothing is new.
        force: bool,
    },
}

/// Decides.
pub fn plan(now: Time, situation: Situation) -> Plan {
    let Situation {
        may_commit,
        dirty,
        writeback,
        render,
        probing,
        change_time,
        pacing,
        arm,
    } = situation;
    let probe = arm.ok().filter(|kind| *kind != ArmKind::Normal);
    let probes_now = probing == Probing::Forced && probe.is_some();
    let wanted = dirty || writeback == Demand::Now || render == Demand::Now || probes_now;
    if !may_commit || !wanted {
        return Plan::Wait(retry_time(writeback, probing, arm));
    }
    if let Pacing::Wait { until } = pacing {
        return Plan::Wait(until);
    }
    if !dirty && now < change_time {
        return Plan::Wait(Some(change_time));
    }
    let force = render == Demand::Now;
    let without = Plan::Commit { job: None, force };
    if probing != Probing::No && probe.is_some() {
        return Plan::Commit {
            job: probe,
            force: force || probes_now,
        };
    }
    if writeback == Demand::None {
        return without;
    }
    match arm {
        Ok(ArmKind::Normal) => Plan::Commit {
            job: Some(ArmKind::Normal),
            force: force || writeback == Demand::Now,
        },
        // The connector lost its trust since the demand was asked for.
        Ok(ArmKind::Kick | ArmKind::Canary) => without,
        // Commits without a job come first, on a still screen as well.
        Err(Refuse::NotYet) => Plan::Commit {
            job: None,
            force: force || writeback == Demand::Now,
        },
        // The gap is a few milliseconds: shorter than a refresh, so the frame is worth it.
        Err(Refuse::Cooling { until }) if until > now => Plan::Wait(Some(until)),
        Err(Refuse::Cooling { .. } | Refuse::Checking | Refuse::WrongBuffer { .. }) => {
            Plan::Wait(Some(now))
        }
        Err(Refuse::Detached | Refuse::InFlight | Refuse::Stalled { .. }) if dirty || force => {
            without
        }
        Err(Refuse::Stalled { until }) => Plan::Wait(Some(until)),
        Err(Refuse::Detached | Refuse::InFlight) => Plan::Wait(None),
    }
}

/// When a suspect connector's next probe, or the end of the gap after a job, is worth a look.
fn retry_time(writeback: Demand, probing: Probing, arm: Result<ArmKind, Refuse>) -> Option<Time> {
    if writeback == Demand::None && probing != Probing::Forced {
        return None;
    }
    match arm {
        Err(Refuse::Stalled { until } | Refuse::Cooling { until }) => Some(until),
        Err(
            Refuse::Detached
            | Refuse::InFlight
            | Refuse::Checking
            | Refuse::NotYet
            | Refuse::WrongBuffer { .. },
        )
        | Ok(ArmKind::Normal | ArmKind::Kick | ArmKind::Canary) => None,
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
            writeback: Demand::OnDamage,
            render: Demand::None,
            probing: Probing::No,
            change_time: at(0),
            pacing: Pacing::Go,
            arm: Ok(ArmKind::Normal),
        }
    }

    fn commit(job: Option<ArmKind>, force: bool) -> Plan {
        Plan::Commit { job, force }
    }

    #[test]
    fn a_change_that_somebody_wants_is_captured_without_being_forced() {
        assert_eq!(plan(at(0), idle()), commit(Some(ArmKind::Normal), false));
    }

    #[test]
    fn a_still_screen_is_committed_only_for_a_request_that_needs_it() {
        let still = Situation {
            dirty: false,
            ..idle()
        };
        assert_eq!(plan(at(0), still), Plan::Wait(None));
        let first = Situation {
            writeback: Demand::Now,
            ..still
        };
        assert_eq!(plan(at(0), first), commit(Some(ArmKind::Normal), true));
        let rendered = Situation {
            writeback: Demand::None,
            render: Demand::Now,
            ..still
        };
        assert_eq!(plan(at(0), rendered), commit(None, true));
    }

    #[test]
    fn a_commit_for_a_capture_client_alone_leaves_the_applications_their_time() {
        let still = Situation {
            dirty: false,
            writeback: Demand::Now,
            change_time: at(12),
            ..idle()
        };
        assert_eq!(plan(at(1), still), Plan::Wait(Some(at(12))));
        let forced = commit(Some(ArmKind::Normal), true);
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
            writeback: Demand::None,
            probing: Probing::Forced,
            arm: Err(Refuse::Stalled { until: at(900) }),
            ..idle()
        };
        assert_eq!(plan(at(0), stalled), commit(None, false));
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
        let unwanted = Situation {
            writeback: Demand::None,
            ..cooling
        };
        assert_eq!(plan(at(0), unwanted), commit(None, false));
    }

    #[test]
    fn where_a_job_is_not_due_yet_the_commits_before_it_are_made() {
        let early = Situation {
            arm: Err(Refuse::NotYet),
            ..idle()
        };
        assert_eq!(plan(at(0), early), commit(None, false));
        let still = Situation {
            dirty: false,
            writeback: Demand::Now,
            ..early
        };
        assert_eq!(plan(at(0), still), commit(None, true));
        let nobody = Situation {
            writeback: Demand::OnDamage,
            ..still
        };
        assert_eq!(plan(at(0), nobody), Plan::Wait(None));
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
        assert_eq!(plan(at(16), overtaken), commit(None, false));
    }

    #[test]
    fn a_suspect_connector_is_probed_even_on_a_still_screen() {
        let probe = Situation {
            dirty: false,
            writeback: Demand::None,
            probing: Probing::Forced,
            arm: Ok(ArmKind::Kick),
            ..idle()
        };
        assert_eq!(plan(at(0), probe), commit(Some(ArmKind::Kick), true));
        let nobody = Situation {
            probing: Probing::No,
            ..probe
        };
        assert_eq!(plan(at(0), nobody), Plan::Wait(None));
    }

    #[test]
    fn rendered_frames_do_not_stop_the_probes_and_probes_do_not_hold_them_up() {
        let rendering = Situation {
            writeback: Demand::None,
            render: Demand::Now,
            probing: Probing::Along,
            arm: Ok(ArmKind::Canary),
            ..idle()
        };
        assert_eq!(plan(at(0), rendering), commit(Some(ArmKind::Canary), true));
        for busy in [Refuse::InFlight, Refuse::Cooling { until: at(2) }] {
            let busy = Situation {
                arm: Err(busy),
                ..rendering
            };
            assert_eq!(plan(at(0), busy), commit(None, true));
        }
        let still = Situation {
            dirty: false,
            render: Demand::None,
            ..rendering
        };
        assert_eq!(plan(at(0), still), Plan::Wait(None), "no probe for nobody");
    }
}
