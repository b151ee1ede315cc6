//! How display commits and writeback jobs take turns. Pure.
//!
//! The kernel's letter: wait for a job's fence before the next commit on its CRTC. What that costs the display is bounded
//! here, and what the bound costs the captures is bounded as well: hardware that always needs longer would never get a
//! frame done while an application animates, so now and then one job is given more time.

use std::time::Duration;

/// How a screen's commits and jobs take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PacingMode {
    /// The next commit waits for flip and fence, for a bounded time.
    #[default]
    Safe,
    /// The same, and a job at most in every n-th commit.
    EveryNth(u32),
    /// The next commit waits for the flip only; a job that is still under way is not overtaken by it. Only for drivers that
    /// write what was committed with the job, whatever comes after; see [`crate::kms::drivers`]. There is still only one job
    /// in flight, since in a longer FIFO a lost completion cannot be told from a late one.
    Pipelined,
}

/// Jobs overtaken in a row after which one is given more time.
const OVERTAKEN_THAT_COUNT: u32 = 3;

/// Whose turn it is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Turns {
    /// Commits since the last one with a job; none before the first job.
    commits: Option<u32>,
    /// Jobs overtaken since one ended before the next commit.
    overtaken: u32,
    /// The job in flight is given more time.
    patient: bool,
}

impl Turns {
    /// Whether the next commit is too early for a job.
    pub fn too_early(&self, mode: PacingMode) -> bool {
        match mode {
            PacingMode::Safe | PacingMode::Pipelined => false,
            PacingMode::EveryNth(n) => self
                .commits
                .is_some_and(|commits| commits.saturating_add(1) < n),
        }
    }

    /// A commit without a job.
    pub fn plain_commit(&mut self) {
        self.commits = self.commits.map(|commits| commits.saturating_add(1));
    }

    /// A commit with a job.
    pub fn armed(&mut self) {
        self.commits = Some(0);
        self.patient = self.overtaken >= OVERTAKEN_THAT_COUNT;
        if self.patient {
            self.overtaken = 0;
        }
    }

    /// Whether the job in flight is given more time.
    pub fn is_patient(&self) -> bool {
        self.patient
    }

    /// The display did not wait for the job.
    pub fn overtaken(&mut self) {
        // A job that was given more time and did not make it is not a reason for more of it.
        if !self.patient {
            self.overtaken += 1;
        }
    }

    /// The job ended in its time. That does not count for one that was given more.
    pub fn ended_in_time(&mut self) {
        if !self.patient {
            self.overtaken = 0;
        }
    }

    /// How long the display waits for the job in flight: `hold`, or `refreshes` of them when it is given more.
    pub fn hold(&self, hold: Duration, refresh: Duration, refreshes: u32) -> Duration {
        match self.patient {
            true => hold.max(refresh.saturating_mul(refreshes)),
            false => hold,
        }
    }
}
