//! Flips and writeback jobs of one screen: what they mean for the clients, for the ring and for the pictures.

use super::{feedback, refusals::Refused, screen::Screen, Step, StepContext};
use crate::{
    capture::{self, OutputCapture},
    kms::{pipeline::Flip, writeback::Action, CommitError, JobId, Verdict},
    time::Time,
};

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
    pub(super) fn job_refused(&mut self, error: &CommitError, now: Time) {
        let output = self.output.name();
        match self.refusals.refused(error.to_string(), now) {
            Refused::First => {
                tracing::warn!(target: "vitrine::output", %output, %error, "the driver refused a commit with writeback; the display goes on without");
            }
            Refused::Again => {}
            Refused::Pause(pause) => {
                tracing::error!(target: "vitrine::output", %output, %error, ?pause, "writeback is refused again and again; it is tried again after a pause, and then after longer ones");
            }
            Refused::LongerPause(pause) => {
                tracing::debug!(target: "vitrine::output", %output, %error, ?pause, "writeback is still refused");
            }
        }
    }

    /// Why no job is possible on this screen now.
    pub(super) fn writeback_trouble(&self) -> Option<&str> {
        let of_connector = self.no_writeback.as_deref().or(self.refusals.reason());
        of_connector.or(self.no_ring.as_deref())
    }
}
