//! Flips and writeback jobs of one screen: what they mean for the clients, for the ring and for the pictures.

use super::{feedback, screen::Screen, Step, StepContext};
use crate::{
    capture::{self, OutputCapture},
    kms::{pipeline::Flip, writeback::Action, CommitError, JobId, Verdict},
    time::Time,
};

/// Refused jobs in a row after which the screen does without writeback until its next modeset.
const REFUSALS_BEFORE_GIVING_UP: u32 = 3;

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
    pub(super) fn job_refused(&mut self, error: &CommitError) {
        self.job_refusals += 1;
        let output = self.output.name();
        if self.job_refusals == 1 {
            tracing::warn!(target: "vitrine::output", %output, %error, "the driver refused a commit with writeback; the display goes on without");
        }
        if self.job_refusals >= REFUSALS_BEFORE_GIVING_UP && self.no_writeback.is_none() {
            tracing::error!(target: "vitrine::output", %output, %error, "writeback is refused again and again; it is not tried until the next modeset of this output");
            self.no_writeback = Some(error.to_string());
        }
    }
}
