//! Writeback jobs that write a lone client's own buffer.
//!
//! `capture` says when; here the client's dma-buf becomes the framebuffer of the job, or is found unsuitable: then the frame
//! is captured into the ring and copied, as always.

use std::sync::Arc;

use smithay::backend::allocator::dmabuf::Dmabuf;

use super::{
    produce::ArmedJobs,
    screen::{Screen, CAPTURE_FORMAT},
    Step, StepContext,
};
use crate::{
    capture::{self, CursorInFrame, OutputCapture, PerView, Producer, SessionId},
    kms::{client_target, writeback::Trust, Framebuffer, JobId, WritebackFb},
};

/// A job that goes into a client's memory.
#[derive(Debug)]
pub(super) struct PassedThrough {
    session: SessionId,
    buffer: Dmabuf,
}

impl Screen {
    /// Tells the capture side what the connector can do for clients' buffers now.
    pub(super) fn offer_passthrough(&mut self, capture: &mut OutputCapture) {
        self.targets.sweep();
        let decisions = self.decisions();
        let passthrough = self.passthrough;
        capture.allow_direct(PerView::new(|view| {
            passthrough && decisions.get(view).producer == Some(Producer::Writeback)
        }));
        // In probation it is not known yet whether an overdue job is still to be written. A connector that is trusted again
        // has written later jobs; a stalled one was given others, and a whole watchdog's time; a detached one is off.
        let writeback = self.pipeline.writeback();
        if !matches!(writeback.trust(), Trust::Probation { .. }) || !writeback.is_attached() {
            let in_flight = writeback.in_flight();
            let released = capture.release_targets(in_flight.map(|job| capture::JobId(job.0)));
            self.left_behind
                .extend(released.into_iter().map(|job| JobId(job.0)));
        }
    }

    /// Lets go of lost jobs with clients' memory once the connector is proven. Those with slots are bounded by the ring;
    /// these are not, and a fence that never signals would keep a client's memory, and a descriptor, for ever.
    pub(super) fn forget_left_behind(&mut self, step: &mut Step) {
        if self.left_behind.is_empty() || self.pipeline.writeback().trust() != Trust::Trusted {
            return;
        }
        for job in std::mem::take(&mut self.left_behind) {
            self.pipeline.forget_lost(job);
            step.forget.push(job);
        }
    }

    /// Puts the job into the memory of the one client that wants this frame, if it can be written.
    pub(super) fn arm_passthrough(
        &mut self,
        context: &mut StepContext<'_>,
        cursor: CursorInFrame,
        armed: &mut ArmedJobs,
    ) -> bool {
        let Some(candidate) = context.capture.direct_candidate(cursor, context.now) else {
            return false;
        };
        let session = candidate.session();
        let buffer = candidate.buffer.downcast_ref::<Dmabuf>();
        let target = buffer.and_then(|buffer| Some((buffer, self.target(buffer)?)));
        let Some((buffer, fb)) = target else {
            context.capture.refuse_direct(session);
            return false;
        };
        let job = self.next_job();
        let id = capture::JobId(job.0);
        context.capture.arm_direct(id, &candidate, cursor);
        armed.writeback = Some(WritebackFb { job, fb });
        armed.carried = Some(job);
        armed.passed_through = Some(PassedThrough {
            session,
            buffer: buffer.clone(),
        });
        true
    }

    /// The framebuffer of a client's buffer that a job may write now.
    fn target(&mut self, buffer: &Dmabuf) -> Option<Arc<Framebuffer>> {
        let (width, height) = self.mode.size();
        let size = (u32::from(width), u32::from(height));
        let (gbm, output) = (&self.gbm, &self.output);
        let fb = self.targets.framebuffer(buffer, |buffer| {
            let imported = client_target::import(gbm, buffer, size, CAPTURE_FORMAT);
            let unsuitable = |error: &client_target::Unsuitable| {
                tracing::debug!(target: "vitrine::output", output = %output.name(), %error, "a client's buffer cannot be written by the connector; its frames are copied");
            };
            imported.inspect_err(unsuitable).ok()
        });
        fb.filter(|_| client_target::is_idle(buffer))
    }

    /// The driver refused a commit whose job went into a client's memory, and took it without the job.
    pub(super) fn passthrough_refused(
        &mut self,
        passed: &PassedThrough,
        capture: &mut OutputCapture,
    ) {
        tracing::debug!(target: "vitrine::output", output = %self.output.name(), "the driver refused to write a client's buffer; its frames are copied");
        self.targets.refuse(&passed.buffer);
        capture.refuse_direct(passed.session);
    }
}
