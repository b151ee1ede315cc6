//! The words of the judgement about writeback jobs: parameters, questions, answers. [`crate::kms::writeback`] gives them
//! their meaning.

use std::{fmt, time::Duration};

use super::pacing::PacingMode;
use crate::time::Time;

/// Number of a writeback job; unique per connector for the life of the process. Given by the caller, growing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "job {}", self.0)
    }
}

/// The gap between a job's fence and the next job. vkms clears a flag of job N+1 in the late cleanup of job N: measured,
/// no gap loses a completion within seconds, 300 us to 2 ms lost none in 800 jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cooling {
    /// At least this long.
    pub min: Duration,
    /// Also until the next refresh after the fence, counted from the last flip. Costs every second frame where the
    /// job takes most of a refresh.
    pub until_refresh: bool,
}

/// Parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WritebackConfig {
    /// Time between two refreshes.
    pub refresh: Duration,
    /// How commits and jobs take turns.
    pub pacing: PacingMode,
    /// How long after the flip a missing fence may delay the next commit.
    pub hold: Duration,
    /// So many refreshes instead, at most once in four jobs, when jobs are overtaken one after the other.
    pub hold_refreshes: u32,
    /// Gap before the next job.
    pub cooling: Cooling,
    /// How long after the flip a fence may take before its job counts as lost.
    pub watchdog: Duration,
    /// Good probes in a row that give trust back.
    pub probes: u32,
    /// First pause of a stalled connector; doubled each time.
    pub backoff: Duration,
    /// Longest pause.
    pub backoff_max: Duration,
}

impl WritebackConfig {
    /// The defaults for a screen with that time between refreshes.
    pub fn for_refresh(refresh: Duration) -> Self {
        Self {
            refresh,
            pacing: PacingMode::Safe,
            hold: refresh,
            hold_refreshes: 4,
            cooling: Cooling {
                min: Duration::from_millis(2),
                until_refresh: false,
            },
            watchdog: Duration::from_millis(250).max(refresh.saturating_mul(8)),
            probes: 3,
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
        }
    }
}

/// Which kind of job may be armed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArmKind {
    /// Into a slot of the ring, for clients.
    Normal,
    /// The first job after a lost one, into a probe buffer: it makes a shifted FIFO release the lost job's fence, and is
    /// judged as a probe.
    Kick,
    /// Into a probe buffer.
    Canary,
}

/// Why no job may be armed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refuse {
    /// The connector is not attached to the CRTC.
    Detached,
    /// The last job's fence has not come.
    InFlight,
    /// The gap after the last job.
    Cooling {
        /// Its end.
        until: Time,
    },
    /// A probe's canary has not been looked at.
    Checking,
    /// The pacing wants more commits without a job first.
    NotYet,
    /// The buffer is one for clients where a probe is due, or the other way round.
    WrongBuffer {
        /// The kind of job that may be armed.
        wanted: ArmKind,
    },
    /// Too many jobs were lost; no jobs until the next probe.
    Stalled {
        /// When it is due.
        until: Time,
    },
}

/// What a fence means for its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The frame is what the CRTC showed. Deliver it.
    Publish {
        /// Its job.
        job: JobId,
        /// When it was on the screen, from its flip event.
        presented: Time,
    },
    /// Never deliver it. The hardware is done with the buffer.
    Discard(JobId, Why),
    /// Look at the canary of this probe, then call [`Writeback::canary_result`].
    Probe(JobId),
}

/// Why a frame is not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The fence came after a later commit, after the deadline, or after the connector lost its trust.
    Late,
    /// The fence carried an error.
    Failed(i32),
    /// Nobody knows the job.
    Unknown,
}

/// Whether the display's next commit may go now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pacing {
    /// Yes.
    Go,
    /// Wait for the flip or the fence, but not longer than until the given time.
    Wait {
        /// None: the flip event decides.
        until: Option<Time>,
    },
}

/// Something the caller must do or tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The job's buffer may still be written; keep it out of use until its fence.
    Quarantine(JobId),
    /// A job was lost; no frames until probes proved the connector.
    Suspect {
        /// The lost job.
        lost: JobId,
    },
    /// The connector lost jobs repeatedly. The next probe is due at `until`.
    Stalled {
        /// Due time of the next probe.
        until: Time,
        /// How often it has been found stalled in a row, from 1.
        rounds: u32,
    },
    /// Probes proved the connector; frames come again.
    Recovered,
    /// A verdict that no other call returned.
    Verdict(Verdict),
    /// Stop watching this probe's fence: too many probes were lost to keep a descriptor for each.
    Forget(JobId),
}

/// How far the connector is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Frames are delivered.
    Trusted,
    /// Probes run.
    Probation {
        /// Good ones in a row so far.
        passed: u32,
        /// Whether the first job after the loss is still to come.
        kick: bool,
    },
    /// No jobs until a time, then one probe.
    Stalled {
        /// When.
        until: Time,
        /// Times in a row.
        rounds: u32,
    },
}

/// Counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WritebackStats {
    /// Jobs armed, probes included.
    pub jobs: u64,
    /// Of these, probes and kicks.
    pub probes: u64,
    /// Frames to be delivered.
    pub published: u64,
    /// Fences that came too late.
    pub late: u64,
    /// Fences with an error.
    pub failed: u64,
    /// Jobs whose fence did not come in time.
    pub lost: u64,
    /// Commits that overtook a job.
    pub overtaken: u64,
    /// Jobs that were given more time after others were overtaken.
    pub patient: u64,
    /// Times that the connector became stalled.
    pub stalls: u64,
    /// Times that it recovered.
    pub recoveries: u64,
}

impl Action {
    /// The job whose buffer the hardware is done with, and why its frame is not delivered.
    pub fn discarded(&self) -> Option<(JobId, Why)> {
        match self {
            Action::Verdict(Verdict::Discard(job, why)) => Some((*job, *why)),
            _ => None,
        }
    }
}
