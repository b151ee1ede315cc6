//! One screen: its pipeline, its pictures, its pointer.
//!
//! `step` is called once per turn of the event loop and does what `schedule` decides; flips and fences come in between
//! (`jobs`); what a commit shows is in `draw`, who makes the captured frames in `produce`. Each screen has its own state: a
//! pending fence of one never holds another.

use std::{sync::Arc, time::Duration};

use smithay::{
    backend::{
        allocator::gbm::GbmDevice, drm::DrmDeviceFd, renderer::element::RenderElementStates,
    },
    desktop::utils::OutputPresentationFeedback,
    output::Output,
    reexports::wayland_server::protocol::wl_surface::WlSurface,
};

use super::{
    chain::Chain,
    cursor_plane::{CursorPlane, Shown},
    feedback,
    power::Power,
    produce::ArmedJobs,
    producer::Reporter,
    refusals::Refusals,
    render_jobs::RenderJobs,
    ring::CaptureBuffers,
    scanout::ScanoutBuffer,
    schedule::{plan, Plan},
    slot_contents::SlotContents,
    targets::Targets,
    PendingFence, Step, StepContext,
};
use crate::{
    capture::{self, PerView},
    config::ProducerChoice,
    kms::{self, ArmKind, CommitError, FrameState, PlaneUpdate, Refuse},
    render::{Mark, SceneDamage, SlotDamage},
    time::Time,
};

pub use super::bring_up::{ScreenError, ScreenSetup};
pub(super) use super::picture::{Changes, Cover, Picture};

/// The format of captured frames: every writeback connector that can be shared with a screen has it.
pub(super) const CAPTURE_FORMAT: drm_fourcc::DrmFourcc = drm_fourcc::DrmFourcc::Xrgb8888;

/// Refreshes to wait after a failed commit before the next try.
pub(super) const RETRY_REFRESHES: u32 = 1;

/// The longest such wait: whatever it is that makes commits fail, the screen is back soon after it is over.
const MAX_RETRY_REFRESHES: u32 = 8;

/// Failed commits in a row after which the whole state is set anew.
const FAILURES_BEFORE_RESET: u32 = 8;

/// One screen.
#[derive(Debug)]
pub struct Screen {
    /// Its Wayland side.
    pub output: Output,
    /// What is logged on behalf of this screen, in whatever room, says so.
    pub(super) span: tracing::Span,
    pub(super) pair: (drm::control::connector::Handle, drm::control::crtc::Handle),
    pub(super) gbm: GbmDevice<DrmDeviceFd>,
    pub(super) pipeline: kms::Pipeline,
    pub(super) mode: drm::control::Mode,
    pub(super) refresh: Duration,
    pub(super) buffers: Vec<ScanoutBuffer>,
    pub(super) chain: Chain,
    /// What was on the screen, and is kept by those that it was leased to; whole, so that its references can be counted.
    pub(super) given_away: Vec<ScanoutBuffer>,
    pub(super) scene: SceneDamage,
    /// Shown while `marked`: somebody captures this screen, and the operator wants the user to see that.
    pub(super) mark: Mark,
    pub(super) marked: bool,
    pub(super) cursor: Option<CursorPlane>,
    pub(super) capture_buffers: Option<CaptureBuffers>,
    /// Whether the connector may write a lone client's own buffer.
    pub(super) passthrough: bool,
    pub(super) targets: Targets<Arc<kms::Framebuffer>>,
    /// Lost jobs with clients' memory, which the connector does not write any more.
    pub(super) left_behind: Vec<kms::JobId>,
    /// Why no job is possible on this screen until its next modeset, once that was found out.
    pub(super) no_writeback: Option<String>,
    /// Why there is no ring, where there should be one; then it is tried again.
    pub(super) no_ring: Option<String>,
    pub(super) ring_again: Option<Time>,
    /// Times that a ring was to be made; for planned faults.
    pub(super) rings: u64,
    /// Who is to make captured frames, as far as the operator says.
    pub(super) policy: ProducerChoice,
    /// Pixels are drawn by the CPU.
    pub(super) software: bool,
    /// The slots can be written by the render producer.
    pub(super) can_render: bool,
    pub(super) reporter: Reporter,
    pub(super) render_jobs: RenderJobs,
    pub(super) slot_contents: SlotContents,
    pub(super) slot_damage: PerView<SlotDamage>,
    /// Bytes that the CPU copied into slots.
    pub(super) rendered_bytes: u64,
    /// Slots that the renderer was told to draw into.
    pub(super) slots_drawn: u64,
    /// Times that the scene was to be drawn; for planned faults.
    pub(super) scenes: u64,
    /// It was said that a slot could not be filled.
    pub(super) render_failed: bool,
    /// Windows may have changed since the last draw.
    pub(super) scene_dirty: bool,
    /// The pointer may have moved or changed.
    pub(super) cursor_dirty: bool,
    /// Whether what is drawn, committed and shown hides a locked session.
    pub(super) cover: Cover,
    /// What the cursor plane shows, and the client's surface in it.
    pub(super) shown_cursor: Option<Shown>,
    pub(super) cursor_surface: Option<WlSurface>,
    /// The pointer is drawn into the scene.
    pub(super) drawn_cursor: bool,
    /// A drawn picture waits for a commit that works, with what it changes.
    pub(super) uncommitted: Option<Changes>,
    /// What is visible of the surfaces in the newest picture, until a commit of it was taken.
    pub(super) untold: Option<RenderElementStates>,
    pub(super) feedback: Option<OutputPresentationFeedback>,
    pub(super) callbacks: feedback::DrawnCallbacks,
    /// Clients that wait for a frame callback get it then, although nothing was committed.
    pub(super) callbacks_due: Option<Time>,
    /// The picture lacks a window whose fence is pending; whether it still is has to be asked.
    pub(super) look_again: Option<Time>,
    pub(super) last_flip: Time,
    /// No commit before this time, after one that failed.
    pub(super) retry_at: Option<Time>,
    /// No slot was free for a still screen's frame; until then it is not tried again.
    pub(super) starved_until: Option<Time>,
    pub(super) failures: u32,
    /// No commit was taken since the modeset.
    pub(super) only_modeset: bool,
    /// The scene cannot be drawn, which was said.
    pub(super) draw_failed: bool,
    /// Commits with a job that the driver refused although the same without one was accepted.
    pub(super) refusals: Refusals,
    pub(super) next_job: u64,
    pub(super) paused: bool,
    pub(super) power: Power,
    pub(super) flips: u64,
    /// Commits without a job although a capture client wanted the frame, because of the writeback connector's state.
    pub(super) missed: u64,
    /// Commits put off because somebody else's was under way on the CRTC.
    pub(super) yielded: u64,
}

impl Screen {
    /// Connector and CRTC.
    pub fn pair(&self) -> (drm::control::connector::Handle, drm::control::crtc::Handle) {
        self.pair
    }

    /// What it has of the device, for as long as it is there.
    pub fn held(&self) -> kms::topology::Held {
        self.pipeline.held(self.pair.0)
    }

    /// Windows changed in any way.
    pub fn scene_changed(&mut self) {
        self.scene_dirty = true;
    }

    /// The pointer moved or looks different.
    pub fn cursor_changed(&mut self) {
        self.cursor_dirty = true;
    }

    /// The session was locked or unlocked: no picture from before is committed any more, by whatever way.
    pub fn lock_changed(&mut self) {
        self.cover = Cover::default();
        self.redraw_all();
        self.cursor_dirty = true;
        self.pipeline.forget_frame();
    }

    /// Whether this screen shows nothing of a locked session: the curtain was flipped to, or nothing of ours is shown at all.
    pub fn is_covered(&self) -> bool {
        self.cover.shown || self.paused || self.is_dark()
    }

    /// Whether nothing of ours is shown before a modeset.
    pub fn is_dark(&self) -> bool {
        use kms::pipeline::State;
        matches!(self.pipeline.state(), State::Off | State::Asleep)
    }

    /// Does what is due now.
    pub fn step(&mut self, context: &mut StepContext<'_>) -> Step {
        let span = self.span.clone();
        let _entered = span.enter();
        let mut step = Step::default();
        if self.paused {
            return step;
        }
        self.tick(context, &mut step);
        self.refusals.tick(context.now);
        step.wake_at(self.refusals.until());
        self.take_back_lent(context.capture, context.now);
        self.place_mark(context);
        if self.is_wanted_off() && self.step_off(context, &mut step) {
            return step;
        }
        self.retry_ring(context, &mut step);
        self.send_due_callbacks(context);
        if self.is_dark() {
            self.bring_up(context, &mut step);
            return step;
        }
        if self.look_again.take_if(|at| *at <= context.now).is_some() {
            self.scene_dirty = true;
        }
        match self.plan(context) {
            Plan::Wait(until) => step.wake_at(until),
            Plan::Commit { job, force } => {
                self.missed += u64::from(job.is_none() && self.misses(context));
                self.present(context, job, force, &mut step);
            }
        }
        step.wake_at(self.watchdog(context.now));
        step.wake_at(self.callbacks_due);
        step.wake_at(self.look_again);
        step
    }

    /// Time between two refreshes of its mode.
    pub fn refresh(&self) -> Duration {
        self.refresh
    }

    /// Whether a flip event is to come.
    pub fn awaits_flip(&self) -> bool {
        !self.paused && self.is_flip_pending()
    }

    /// Whether a writeback job is under way whose end, or deadline, is to come.
    pub fn awaits_job(&self) -> bool {
        !self.paused && self.pipeline.writeback().in_flight().is_some()
    }

    fn is_flip_pending(&self) -> bool {
        matches!(
            self.pipeline.state(),
            kms::pipeline::State::FlipPending { .. }
        )
    }

    /// When something that is under way counts as late. What may begin is the plan's business.
    pub(super) fn watchdog(&self, now: Time) -> Option<Time> {
        let under_way = self.is_flip_pending() || self.pipeline.writeback().in_flight().is_some();
        self.pipeline
            .next_deadline(now)
            .filter(|due| under_way && *due > now)
    }

    fn plan(&mut self, context: &mut StepContext<'_>) -> Plan {
        let now = context.now;
        if let Some(retry) = self.retry_at.filter(|retry| *retry > now) {
            return Plan::Wait(Some(retry));
        }
        self.retry_at = None;
        let flip_pending = self.is_flip_pending();
        if !flip_pending {
            let ended = self.render_jobs.no_flip();
            self.end_render_jobs(ended, context.capture, now);
        }
        let situation = self.situation(context, !flip_pending);
        let plan = plan(now, situation);
        let starved = self.starved_until.filter(|until| *until > now);
        match (plan, starved) {
            (Plan::Commit { job, force: true }, Some(until))
                if !situation.dirty && self.is_for_a_frame(job, now) =>
            {
                Plan::Wait(Some(until))
            }
            _ => plan,
        }
    }

    /// Whether a commit that shows nothing new is for a captured frame alone: neither a probe nor one of the commits that
    /// come before the first job.
    fn is_for_a_frame(&self, job: Option<ArmKind>, now: Time) -> bool {
        match job {
            Some(ArmKind::Normal) => true,
            Some(ArmKind::Kick | ArmKind::Canary) => false,
            None => self.pipeline.may_arm(now) != Err(Refuse::NotYet),
        }
    }

    /// Draws what is new and commits it, with a writeback job of this kind; with `force` also if nothing is new.
    fn present(
        &mut self,
        context: &mut StepContext<'_>,
        job: Option<ArmKind>,
        force: bool,
        step: &mut Step,
    ) {
        let Some(picture) = self.draw(context, force) else {
            return self.owe_callbacks(context.now);
        };
        let frame = self.frame_state(&picture);
        let mut armed = self.arm_jobs(context, job, &picture);
        if picture.still && armed.is_empty() && self.is_for_a_frame(job, context.now) {
            // Whoever waits for a slot has nothing of a flip without a frame, and nobody else has. Releases and deadlines
            // of the slots wake us; a look once in a refresh is for what nobody tells us of.
            self.starved_until = Some(context.now + self.refresh);
            step.wake_at(self.starved_until);
            return self.owe_callbacks(context.now);
        }
        match self
            .pipeline
            .commit(&frame, armed.writeback.take(), context.now)
        {
            Ok(committed) => self.committed(context, picture, armed, committed, step),
            Err(error) => self.commit_failed(context, picture, armed, &error, step),
        }
    }

    /// Clients that committed without a change still wait for their callbacks.
    fn owe_callbacks(&mut self, now: Time) {
        self.callbacks_due
            .get_or_insert(now.max(self.last_flip + self.refresh));
    }

    pub(super) fn frame_state(&self, picture: &Picture) -> FrameState {
        let mut primary = self.primary(picture.index);
        primary.in_fence = picture
            .fence
            .as_ref()
            .and_then(|fence| fence.try_clone().ok())
            .map(Arc::new);
        primary.damage = Some(picture.changes.scene.clone());
        let mut frame = FrameState::primary(primary);
        frame.cursor = picture.cursor.as_ref().map(|shown| {
            let mut update = PlaneUpdate::whole(shown.framebuffer.clone(), shown.at);
            update.hotspot = Some(shown.hotspot);
            update
        });
        frame
    }

    /// The scanout buffer on the primary plane.
    #[allow(
        clippy::indexing_slicing,
        reason = "the chain only gives indices below the number of buffers"
    )]
    pub(super) fn primary(&self, index: usize) -> PlaneUpdate {
        PlaneUpdate::whole(self.buffers[index].framebuffer.clone(), (0, 0))
    }

    fn committed(
        &mut self,
        context: &mut StepContext<'_>,
        picture: Picture,
        armed: ArmedJobs,
        committed: kms::Committed,
        step: &mut Step,
    ) {
        self.failures = 0;
        self.only_modeset = false;
        let carried = armed.carried.filter(|_| committed.refused.is_none());
        if let (Some(job), None) = (armed.carried, carried) {
            context.capture.unarm(capture::JobId(job.0));
        }
        if carried.is_some() {
            self.refusals.accepted();
        }
        self.chain.committed(picture.index, carried.is_some());
        self.cover.committed = self.cover.drawn;
        // Not before: what is asked with the content of a picture that was refused waits for the one that is taken.
        if let Some(states) = self.untold.take() {
            let visible = feedback::take(context.shell, &self.output, &states);
            self.feedback = Some(visible);
        }
        let mut jobs: Vec<_> = armed.rendered.iter().map(|job| job.job).collect();
        jobs.extend(carried.map(|job| capture::JobId(job.0)));
        for skip in &armed.skipped {
            context.capture.note_skip(*skip);
        }
        let (with_cursor, without_cursor) = (picture.changes.on_screen(), &picture.changes.bare);
        context.capture.committed_views(
            PerView {
                with_cursor: &with_cursor,
                without_cursor,
            },
            &jobs,
        );
        self.fill_slots(context, &picture, armed, step);
        if let (Some(job), Some(fence)) = (carried, committed.out_fence) {
            step.fence = Some(PendingFence {
                output: self.output.clone(),
                job,
                fence,
            });
        }
        self.tick(context, step);
    }

    /// A refused commit changes nothing on the screen; the picture is kept for the next try.
    fn commit_failed(
        &mut self,
        context: &mut StepContext<'_>,
        picture: Picture,
        mut armed: ArmedJobs,
        error: &CommitError,
        step: &mut Step,
    ) {
        if let Some(job) = armed.carried {
            context.capture.unarm(capture::JobId(job.0));
        }
        if armed.carried.is_some() && error.is_about_configuration() {
            // The display does not wait for capture: the same picture without the job, at once.
            let frame = self.frame_state(&picture);
            match self.pipeline.commit(&frame, None, context.now) {
                Ok(committed) => {
                    // Only now it is the job that is to blame, or the memory that it was to write.
                    match armed.passed_through.take() {
                        Some(passed) => self.passthrough_refused(&passed, context.capture),
                        None => self.job_refused(error, context.now),
                    }
                    armed.carried = None;
                    return self.committed(context, picture, armed, committed, step);
                }
                Err(again) => {
                    tracing::debug!(target: "vitrine::output", %again, "refused without the job too")
                }
            }
        }
        for rendered in &armed.rendered {
            context.capture.unarm(rendered.job);
        }
        let blames_cursor = self.blames_cursor(&picture, error);
        let has_cursor = picture.cursor.is_some();
        self.uncommitted = Some(picture.changes);
        if blames_cursor {
            self.give_up_cursor_plane(error);
            return step.wake_at(Some(context.now));
        }
        if matches!(error, CommitError::Busy) && self.pipeline.is_shared() {
            return self.yield_to_foreign_commit(context.now, step);
        }
        self.failures += 1;
        match error {
            CommitError::NotMaster => {
                // The seat is being taken away; resume() comes with the session.
                tracing::debug!(target: "vitrine::output", output = %self.output.name(), "commit without the seat");
            }
            error if self.failures == 1 => {
                tracing::warn!(target: "vitrine::output", output = %self.output.name(), %error, "commit failed; trying again");
            }
            error => {
                tracing::debug!(target: "vitrine::output", output = %self.output.name(), %error, failures = self.failures, "commit failed");
            }
        }
        let refreshes = (RETRY_REFRESHES << self.failures.min(6)).min(MAX_RETRY_REFRESHES);
        self.retry_at = Some(context.now + self.refresh * refreshes);
        step.wake_at(self.retry_at);
        if self.failures >= FAILURES_BEFORE_RESET && error.is_about_configuration() {
            match self.only_modeset && has_cursor {
                // The mode alone was taken, so another modeset would end here again.
                true => self.give_up_cursor_plane(error),
                false => self.reset(),
            }
        }
    }

    /// Everything is drawn anew with the next draw.
    pub(super) fn redraw_all(&mut self) {
        self.scene = SceneDamage::new(&self.output);
        self.chain.forget();
        self.scene_dirty = true;
    }

    fn send_due_callbacks(&mut self, context: &StepContext<'_>) {
        if self.callbacks_due.is_some_and(|due| due <= context.now) {
            self.callbacks_due = None;
            self.callbacks.done(context.now);
            let cursor = self.cursor_surface.as_ref();
            feedback::send_frame_callbacks(context.shell, &self.output, cursor, context.now);
        }
    }
}

impl Step {
    /// Come back no later than that.
    pub(super) fn wake_at(&mut self, at: Option<Time>) {
        self.wake = match (self.wake, at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
}
