//! Who makes the captured frames of one screen, commit by commit: asks `producer`, arms the jobs that a commit carries, and
//! fills the slots of the render producer.
//!
//! The render producer has three ways. Where the CPU drew the primary scanout buffer and that buffer is the wanted picture,
//! it is leased itself (`lending`). Where it is that but for the cursor plane, or the display cannot do without it, a thread
//! copies what the slot lacks (`copier`). Else the scene is drawn into the slot.

use std::sync::Arc;

use super::{
    copier::{Filled, Order, Overlay, Owner, Unfilled, Work},
    passthrough::PassedThrough,
    producer::{decide, Connector, CursorPlace, Decision, Facts},
    render_jobs::Ended,
    ring::{CaptureBuffers, Slot},
    schedule::{Probing, Situation},
    screen::{Picture, Screen, CAPTURE_FORMAT},
    Step, StepContext,
};
use crate::{
    capture::{self, CursorInFrame, Demand, OutputCapture, PerView, Producer, Skip, SlotId, View},
    config::ProducerChoice,
    geometry::Rect,
    kms::{writeback::Trust, ArmKind, JobId, Refuse, WritebackFb},
    render::Scene,
    time::Time,
};

/// A job of the render producer that a commit carries.
#[derive(Debug)]
pub(super) struct RenderJob {
    pub job: capture::JobId,
    pub slot: SlotId,
    pub cursor: CursorInFrame,
    /// Its slot is the scanout buffer: nothing is to be written.
    pub lent: bool,
}

/// The jobs of one commit.
#[derive(Debug, Default)]
pub(super) struct ArmedJobs {
    /// For the kernel.
    pub writeback: Option<WritebackFb>,
    /// The number of the same.
    pub carried: Option<JobId>,
    /// Its slot, if it has one.
    writeback_slot: Option<SlotId>,
    /// The client's memory that it writes instead of a slot.
    pub passed_through: Option<PassedThrough>,
    /// For ourselves.
    pub rendered: Vec<RenderJob>,
    /// Why there is none for a view that was to have one; counts if the commit goes out.
    pub skipped: Vec<Skip>,
}

impl ArmedJobs {
    /// Nothing of the commit is captured.
    pub fn is_empty(&self) -> bool {
        self.writeback.is_none() && self.rendered.is_empty()
    }
}

impl Screen {
    /// Tries once whether slots can be written.
    pub(super) fn check_render(&mut self, buffers: &CaptureBuffers) {
        let checked = match self.software {
            true => buffers.check_writable(),
            false => Ok(()),
        };
        if let Err(error) = &checked {
            tracing::warn!(target: "vitrine::output", output = %self.output.name(), %error, "capture buffers of this device cannot be written by the CPU; only the writeback connector makes frames");
        }
        self.can_render = checked.is_ok();
    }

    fn facts(&self) -> Facts {
        let usable = self.writeback_trouble().is_none();
        let attached = usable && self.pipeline.writeback().is_attached();
        let connector = match (attached, self.pipeline.writeback().trust()) {
            (false, _) => Connector::Missing,
            (true, Trust::Trusted) => Connector::Trusted,
            (true, Trust::Probation { .. } | Trust::Stalled { .. }) => Connector::Suspect,
        };
        let cursor = match (&self.shown_cursor, self.drawn_cursor) {
            (Some(_), _) => CursorPlace::OnPlane,
            (None, true) => CursorPlace::InScene,
            (None, false) => CursorPlace::Hidden,
        };
        Facts {
            policy: self.policy,
            connector,
            cursor,
            can_render: self.can_render,
        }
    }

    pub(super) fn decisions(&self) -> PerView<Decision> {
        let facts = self.facts();
        PerView::new(|view| decide(view, facts))
    }

    /// What the schedule is to decide by.
    pub(super) fn situation(
        &mut self,
        context: &mut StepContext<'_>,
        may_commit: bool,
    ) -> Situation {
        let now = context.now;
        self.offer_passthrough(context.capture);
        let decisions = self.decisions();
        self.report(&decisions, context.capture);
        let demands = context.capture.demands(now);
        let of = |producer| {
            let views = View::ALL
                .into_iter()
                .filter(|view| decisions.get(*view).producer == Some(producer));
            let demands = views.map(|view| *demands.get(view));
            demands.max().unwrap_or(Demand::None)
        };
        let arm = match self.writeback_trouble() {
            Some(_) => Err(Refuse::Detached),
            None => self.pipeline.may_arm(now),
        };
        Situation {
            may_commit,
            dirty: self.scene_dirty || self.cursor_dirty || self.uncommitted.is_some(),
            writeback: of(Producer::Writeback),
            render: of(Producer::Render),
            probing: self.probing(&demands, context.capture),
            change_time: self.last_flip + self.refresh * 3 / 4,
            pacing: self.pipeline.may_commit(now),
            arm,
        }
    }

    /// Whether a commit without a writeback job leaves somebody without a frame.
    pub(super) fn misses(&self, context: &mut StepContext<'_>) -> bool {
        let demands = context.capture.demands(context.now);
        let decisions = self.decisions();
        View::ALL.into_iter().any(|view| {
            *demands.get(view) != Demand::None
                && decisions.get(view).producer != Some(Producer::Render)
        })
    }

    fn probing(&self, demands: &PerView<Demand>, capture: &OutputCapture) -> Probing {
        let suspect = self.facts().connector == Connector::Suspect;
        if !suspect {
            return Probing::No;
        }
        if capture.waits_for_proof() {
            return Probing::Forced;
        }
        if self.policy == ProducerChoice::Render {
            return Probing::No;
        }
        if demands.values().any(|demand| *demand != Demand::None) {
            return Probing::Forced;
        }
        match View::ALL.into_iter().any(|view| capture.has_viewers(view)) {
            true => Probing::Along,
            false => Probing::No,
        }
    }

    /// Says once per change who makes the frames of each view that somebody looks at.
    fn report(&mut self, decisions: &PerView<Decision>, capture: &OutputCapture) {
        for view in View::ALL {
            let decision = *decisions.get(view);
            if !capture.has_viewers(view) || !self.reporter.is_news(view, decision) {
                continue;
            }
            let (output, name, reason) = (self.output.name(), view.name(), decision.reason);
            let producer = decision.name();
            match (decision.producer, reason.is_trouble()) {
                (None, _) => {
                    tracing::warn!(target: "vitrine::output", %output, view = name, producer, %reason, "nobody makes captured frames; sessions wait");
                }
                (Some(_), true) => {
                    tracing::warn!(target: "vitrine::output", %output, view = name, producer, %reason, "captured frames have another producer");
                }
                (Some(_), false) => {
                    tracing::info!(target: "vitrine::output", %output, view = name, producer, %reason, "captured frames have a producer");
                }
            }
        }
    }

    /// Takes slots for all who want this commit's frame. `kind` is the writeback job that the schedule allows; the cursor
    /// may have come or gone since it was asked, so who makes what is decided anew.
    pub(super) fn arm_jobs(
        &mut self,
        context: &mut StepContext<'_>,
        kind: Option<ArmKind>,
        picture: &Picture,
    ) -> ArmedJobs {
        let mut armed = ArmedJobs::default();
        if let Some(probe @ (ArmKind::Kick | ArmKind::Canary)) = kind {
            armed.writeback = self.arm_probe(probe);
            armed.carried = armed.writeback.as_ref().map(|job| job.job);
        }
        let facts = self.facts();
        for view in context.capture.views_by_age() {
            let cursor = match facts.cursor {
                CursorPlace::Hidden => CursorInFrame::Absent,
                CursorPlace::OnPlane | CursorPlace::InScene => CursorInFrame::of(view),
            };
            // One frame for both views: the first of them with a demand arms it.
            if *context.capture.demands(context.now).get(view) == Demand::None {
                continue;
            }
            let both_served = cursor == CursorInFrame::Absent && !armed.rendered.is_empty();
            match decide(view, facts).producer {
                Some(Producer::Writeback) if armed.carried.is_none() => {
                    self.arm_writeback(context, cursor, &mut armed);
                }
                Some(Producer::Render) if !both_served => {
                    self.arm_render(context, cursor, picture, &mut armed);
                }
                Some(Producer::Writeback | Producer::Render) | None => {}
            }
        }
        armed
    }

    pub(super) fn next_job(&mut self) -> JobId {
        let job = JobId(self.next_job);
        self.next_job += 1;
        job
    }

    fn arm_probe(&mut self, kind: ArmKind) -> Option<WritebackFb> {
        let job = self.next_job();
        match self.pipeline.probe_fb(&self.gbm, CAPTURE_FORMAT, job) {
            Ok(probe) => Some(probe),
            Err(error) => {
                tracing::warn!(target: "vitrine::output", output = %self.output.name(), ?kind, %error, "no buffer to probe the writeback connector with");
                None
            }
        }
    }

    fn arm_writeback(
        &mut self,
        context: &mut StepContext<'_>,
        cursor: CursorInFrame,
        armed: &mut ArmedJobs,
    ) {
        if self.pipeline.may_arm(context.now) != Ok(ArmKind::Normal) {
            return;
        }
        if self.arm_passthrough(context, cursor, armed) {
            return;
        }
        let job = self.next_job();
        let id = capture::JobId(job.0);
        let now = context.now;
        let arming = context
            .capture
            .arm_view(id, Producer::Writeback, cursor, now);
        let slot = match arming {
            Ok(slot) => slot,
            Err(skip) => return armed.skipped.push(skip),
        };
        let buffers = self.capture_buffers.as_ref();
        let Some(fb) = buffers.and_then(|buffers| buffers.framebuffer(slot)) else {
            context.capture.unarm(id);
            return;
        };
        armed.writeback = Some(WritebackFb {
            job,
            fb: fb.clone(),
        });
        armed.carried = Some(job);
        armed.writeback_slot = Some(slot);
    }

    fn arm_render(
        &mut self,
        context: &mut StepContext<'_>,
        cursor: CursorInFrame,
        picture: &Picture,
        armed: &mut ArmedJobs,
    ) {
        if let Some(lent) = self.lend(context, cursor, picture) {
            armed.rendered.push(lent);
            return;
        }
        if self.copies(cursor) && !self.chain.may_copy(picture.index) {
            return armed.skipped.push(Skip::ProducerBusy);
        }
        let job = capture::JobId(self.next_job().0);
        let now = context.now;
        match context.capture.arm_view(job, Producer::Render, cursor, now) {
            Ok(slot) => armed.rendered.push(RenderJob {
                job,
                slot,
                cursor,
                lent: false,
            }),
            Err(skip) => armed.skipped.push(skip),
        }
    }

    /// Whether the primary scanout buffer is the wanted picture but for a cursor that is to be blended over it, and the CPU
    /// can read it. Else the scene is drawn.
    fn copies(&self, cursor: CursorInFrame) -> bool {
        let bare_of_scene_cursor =
            cursor == CursorInFrame::LeftOut && self.facts().cursor == CursorPlace::InScene;
        self.software && !bare_of_scene_cursor
    }

    /// The commit was taken: the slots of its jobs are filled.
    pub(super) fn fill_slots(
        &mut self,
        context: &mut StepContext<'_>,
        picture: &Picture,
        armed: ArmedJobs,
        step: &mut Step,
    ) {
        let bounds = Rect::from_size(self.size());
        self.slot_contents
            .primary_changed(&picture.changes.scene, bounds);
        // Also if the job was refused: rarely, and then a full copy follows.
        if let Some(slot) = armed.writeback_slot {
            self.slot_contents.forget(slot);
        }
        for rendered in armed.rendered {
            let job = rendered.job;
            self.render_jobs.committed(job);
            let work = match self.copies(rendered.cursor) {
                _ if rendered.lent => Ok(None),
                true => self.copy_work(&rendered, picture, bounds),
                false => self.draw_work(context, &rendered),
            };
            let result = match work {
                Ok(Some(work)) => {
                    step.orders.push(Order {
                        owner: Owner::Screen(self.output.clone()),
                        job,
                        work,
                    });
                    continue;
                }
                Ok(None) => Ok(()),
                Err(error) => {
                    self.slot_contents.forget(rendered.slot);
                    Err(error)
                }
            };
            self.written(job, result, context.capture, context.now);
        }
    }

    fn copy_work(
        &mut self,
        rendered: &RenderJob,
        picture: &Picture,
        bounds: Rect,
    ) -> Result<Option<Work>, String> {
        let from = self
            .buffers
            .get(picture.index)
            .and_then(|buffer| buffer.readable.clone())
            .ok_or("the scanout buffer cannot be read")?;
        let buffers = self.capture_buffers.as_ref();
        let to = buffers
            .and_then(|buffers| buffers.slot(rendered.slot))
            .cloned()
            .ok_or("the slot is of another ring")?;
        let plane = picture
            .cursor
            .as_ref()
            .filter(|_| rendered.cursor == CursorInFrame::Shown);
        let overlay = plane.and_then(|shown| {
            Some(Overlay {
                picture: shown.picture.clone()?,
                at: shown.at,
            })
        });
        let covered = overlay.as_ref().map(Overlay::area);
        let rects = self.slot_contents.copy(rendered.slot, covered, bounds);
        self.chain.copy_begins(picture.index);
        Ok(Some(Work::Copy {
            from,
            to,
            rects,
            overlay,
        }))
    }

    fn draw_work(
        &mut self,
        context: &mut StepContext<'_>,
        rendered: &RenderJob,
    ) -> Result<Option<Work>, String> {
        let (view, slot) = match rendered.cursor {
            CursorInFrame::Absent | CursorInFrame::Shown => (View::WithCursor, rendered.slot),
            CursorInFrame::LeftOut => (View::WithoutCursor, rendered.slot),
        };
        let sprite = match rendered.cursor {
            CursorInFrame::Shown => self
                .local_pointer(context)
                .and_then(|pointer| pointer.sprite()),
            CursorInFrame::Absent | CursorInFrame::LeftOut => None,
        };
        let scene = Scene {
            shell: context.shell,
            output: &self.output,
            cursor: sprite.as_ref(),
            mark: self.marked.then_some(&self.mark),
        };
        let damage = self.slot_damage.get_mut(view);
        let buffers = self.capture_buffers.as_mut().ok_or("there is no ring")?;
        let fenced = |slot: &&Arc<Slot>| !self.software && slot.is_fenced();
        let fair = buffers.slot(slot).filter(fenced).cloned();
        let (age, canvas, draft) = match &fair {
            None => {
                let age = self.slot_contents.age(slot, view, damage.frames());
                (age, buffers.canvas(slot, self.software)?, None)
            }
            Some(fair) => {
                let (draft, canvas) = buffers.drafts.begin(&self.gbm, view, fair)?;
                (0, canvas, Some(draft))
            }
        };
        let sync = context
            .renderer
            .draw_slot(&scene, damage, canvas, age)
            .map_err(|error| error.to_string())?;
        self.slot_contents.drawn(slot, view, damage.frames());
        self.slots_drawn += 1;
        let until = Work::until(sync, context.faults.drawing(self.slots_drawn));
        Ok(match (draft, fair) {
            (Some(from), Some(to)) => Some(Work::Fair {
                until: until.map(Box::new),
                from,
                to,
            }),
            (None, _) | (_, None) => until,
        })
    }

    /// The copying thread is done with an order.
    pub fn filled(&mut self, filled: Filled, capture: &mut OutputCapture, now: Time) {
        let span = self.span.clone();
        let _entered = span.enter();
        if filled.copied {
            self.chain.copy_over();
        }
        if let (Err(_), Some(slot)) = (&filled.result, capture.slot_of(filled.job)) {
            self.slot_contents.forget(slot);
        }
        self.rendered_bytes += filled.result.as_ref().copied().unwrap_or(0);
        if let Err(Unfilled::Overdue(_)) = &filled.result {
            // Not free, as a job's that failed: the GPU may still draw there, or into the draft.
            capture.overdue(filled.job);
            if let Some(buffers) = self.capture_buffers.as_mut() {
                buffers.drafts.abandon();
            }
        }
        let result = filled.result.map(drop).map_err(|error| error.to_string());
        self.written(filled.job, result, capture, now);
    }

    fn written(
        &mut self,
        job: capture::JobId,
        result: Result<(), String>,
        capture: &mut OutputCapture,
        now: Time,
    ) {
        if let Err(error) = &result {
            if !std::mem::replace(&mut self.render_failed, true) {
                tracing::warn!(target: "vitrine::output", output = %self.output.name(), %error, "a captured frame could not be rendered (said once)");
            }
        }
        let ended = self.render_jobs.written(job, result.is_ok());
        self.end_render_jobs(ended, capture, now);
    }

    pub(super) fn end_render_jobs(
        &mut self,
        ended: Vec<Ended>,
        capture: &mut OutputCapture,
        now: Time,
    ) {
        for ended in ended {
            match ended {
                Ended::Good(job, presented) => {
                    capture.complete(job, presented, now);
                }
                Ended::Bad(job) => capture.fail(job),
            }
        }
    }
}
