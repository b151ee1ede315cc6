//! Flips and writeback jobs of one screen: what they mean for the clients, for the ring and for the pictures.

use std::time::Duration;

use super::{feedback, screen::Screen, Step, StepContext};
use crate::{
    capture::{self, OutputCapture},
    kms::{pipeline::Flip, writeback::Action, CommitError, JobId, Verdict},
    time::Time,
};

/// Refused jobs in a row after which the screen does without writeback for a while.
const REFUSALS_BEFORE_GIVING_UP: u32 = 3;

/// How long, at first; doubled with each job that is refused after that. What the driver lacked may be there again.
const REFUSAL_PAUSE: Duration = Duration::from_secs(1);

/// How long at most.
const MAX_REFUSAL_PAUSE: Duration = Duration::from_secs(60);

impl Screen {
    /// The flip event of this screen's commit.
    pub fn flipped(&mut self, at: Time, sequence: u64, capture: &mut OutputCapture) {
        let span = self.span.clone();
        let _entered = span.enter();
        let now = Time::now();
        let (flip, verdict) = self.pipeline.flipped(at, now);
        if let Some(verdict) = verdict {
            self.judge(verdict, capture, now);
        }
        if flip != Flip::Done {
            return;
        }
        self.flips += 1;
        self.last_flip = at;
        self.chain.flipped();
        self.cover.shown = self.cover.committed;
        let ended = self.render_jobs.flipped(at);
        self.end_render_jobs(ended, capture, now);
        if let Some(feedback) = self.feedback.take() {
            feedback::presented(feedback, at, self.refresh, sequence);
        }
        self.callbacks_due = None;
        self.callbacks.done(at);
    }

    /// A job's fence became readable.
    pub fn fence_signalled(&mut self, job: JobId, capture: &mut OutputCapture, now: Time) {
        let span = self.span.clone();
        let _entered = span.enter();
        if let Some(verdict) = self.pipeline.fence_ready(job, now) {
            self.judge(verdict, capture, now);
        }
    }

    /// Deadlines of flips and jobs.
    pub(super) fn tick(&mut self, context: &mut StepContext<'_>, step: &mut Step) {
        for action in self.pipeline.tick(context.now) {
            match action {
                Action::Quarantine(job) => {
                    context.capture.overdue(capture::JobId(job.0));
                }
                Action::Verdict(verdict) => self.judge(verdict, context.capture, context.now),
                Action::Forget(job) => step.forget.push(job),
                // Said by kms; clients notice a gap only.
                Action::Suspect { .. } | Action::Stalled { .. } | Action::Recovered => {}
            }
        }
        if self
            .writeback_again
            .take_if(|at| *at <= context.now)
            .is_some()
        {
            self.no_writeback = None;
        }
        step.wake_at(self.writeback_again);
        self.forget_left_behind(step);
        if self.pipeline.writeback().in_flight().is_none() {
            self.chain.job_over();
        }
    }

    fn judge(&mut self, verdict: Verdict, capture: &mut OutputCapture, now: Time) {
        match verdict {
            Verdict::Publish { job, presented } => {
                capture.complete(capture::JobId(job.0), presented, now);
            }
            Verdict::Discard(job, why) => {
                tracing::debug!(target: "vitrine::output", output = %self.output.name(), %job, ?why, "captured frame discarded");
                let job = capture::JobId(job.0);
                // Either the slot still waits for its job, or it is in quarantine; the other call finds nothing.
                capture.fail(job);
                capture.late_fence(job);
            }
            // Its buffer is kms' own.
            Verdict::Probe(_) => {}
        }
        if self.pipeline.writeback().in_flight().is_none() {
            self.chain.job_over();
        }
    }

    /// A commit with a job was refused for what it contains.
    pub(super) fn job_refused(&mut self, error: &CommitError, now: Time) {
        self.job_refusals = self.job_refusals.saturating_add(1);
        let output = self.output.name();
        if self.job_refusals == 1 {
            tracing::warn!(target: "vitrine::output", %output, %error, "the driver refused a commit with writeback; the display goes on without");
        }
        let Some(rounds) = self.job_refusals.checked_sub(REFUSALS_BEFORE_GIVING_UP) else {
            return;
        };
        if rounds == 0 {
            tracing::error!(target: "vitrine::output", %output, %error, "writeback is refused again and again; it is tried again after pauses");
        }
        let pause = REFUSAL_PAUSE.saturating_mul(1 << rounds.min(16));
        self.no_writeback = Some(error.to_string());
        self.writeback_again = Some(now + pause.min(MAX_REFUSAL_PAUSE));
    }
}
