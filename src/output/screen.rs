//! One screen: its pipeline, its pictures, its pointer.
//!
//! `step` is called once per turn of the event loop and does what `schedule` decides; flips and fences come in between
//! (`jobs`). Each screen has its own state: a pending fence of one never holds another.

use std::{sync::Arc, time::Duration};

use smithay::{
    backend::{
        allocator::gbm::GbmDevice,
        drm::DrmDeviceFd,
        renderer::{element::RenderElementStates, sync::SyncPoint},
    },
    desktop::utils::OutputPresentationFeedback,
    output::Output,
    reexports::wayland_server::protocol::wl_surface::WlSurface,
    utils::Transform,
};

use super::{
    chain::Chain,
    cursor_plane::{CursorPlane, Shown},
    feedback,
    pointer::LocalPointer,
    ring::CaptureBuffers,
    scanout::ScanoutBuffer,
    schedule::{plan, Plan, Situation},
    PendingFence, Step, StepContext,
};
use crate::{
    capture::{self, Demand, Producer},
    geometry::Rect,
    kms::{self, ArmKind, CommitError, FrameState, JobId, PlaneUpdate, WritebackFb},
    render::{Drawn, Scene, SceneDamage, Target},
    time::Time,
};

pub use super::bring_up::{ScreenError, ScreenSetup};

/// The format of captured frames: every writeback connector that can be shared with a screen has it.
pub(super) const CAPTURE_FORMAT: drm_fourcc::DrmFourcc = drm_fourcc::DrmFourcc::Xrgb8888;

/// Refreshes to wait after a failed commit before the next try.
const RETRY_REFRESHES: u32 = 1;

/// The longest such wait: whatever it is that makes commits fail, the screen is back soon after it is over.
const MAX_RETRY_REFRESHES: u32 = 8;

/// Failed commits in a row after which the whole state is set anew.
const FAILURES_BEFORE_RESET: u32 = 8;

/// One screen.
#[derive(Debug)]
pub struct Screen {
    /// Its Wayland side.
    pub output: Output,
    pub(super) pair: (drm::control::connector::Handle, drm::control::crtc::Handle),
    pub(super) gbm: GbmDevice<DrmDeviceFd>,
    pub(super) pipeline: kms::Pipeline,
    pub(super) mode: drm::control::Mode,
    pub(super) refresh: Duration,
    pub(super) buffers: Vec<ScanoutBuffer>,
    pub(super) chain: Chain,
    pub(super) scene: SceneDamage,
    pub(super) cursor: Option<CursorPlane>,
    pub(super) capture_buffers: Option<CaptureBuffers>,
    /// Why no job is possible on this screen, once that was found out.
    pub(super) no_writeback: Option<String>,
    /// Windows may have changed since the last draw.
    pub(super) scene_dirty: bool,
    /// The pointer may have moved or changed.
    pub(super) cursor_dirty: bool,
    /// What the cursor plane shows, and the client's surface in it.
    pub(super) shown_cursor: Option<Shown>,
    pub(super) cursor_surface: Option<WlSurface>,
    /// The pointer is drawn into the scene.
    pub(super) drawn_cursor: bool,
    /// A drawn picture waits for a commit that works, with what it changes.
    pub(super) uncommitted: Option<Vec<Rect>>,
    pub(super) feedback: Option<OutputPresentationFeedback>,
    pub(super) callbacks: feedback::DrawnCallbacks,
    /// Clients that wait for a frame callback get it then, although nothing was committed.
    pub(super) callbacks_due: Option<Time>,
    pub(super) last_flip: Time,
    /// No commit before this time, after one that failed.
    pub(super) retry_at: Option<Time>,
    pub(super) failures: u32,
    /// Commits with a job that the driver refused although the same without one was accepted.
    pub(super) job_refusals: u32,
    pub(super) next_job: u64,
    pub(super) paused: bool,
    pub(super) flips: u64,
    /// Commits without a job although a capture client wanted the frame, because of the writeback connector's state.
    pub(super) missed: u64,
}

/// A frame that is ready to be committed.
struct Picture {
    index: usize,
    damage: Vec<Rect>,
    fence: Option<std::os::fd::OwnedFd>,
    cursor: Option<Shown>,
}

impl Screen {
    /// Connector and CRTC.
    pub fn pair(&self) -> (drm::control::connector::Handle, drm::control::crtc::Handle) {
        self.pair
    }

    /// Windows changed in any way.
    pub fn scene_changed(&mut self) {
        self.scene_dirty = true;
    }

    /// The pointer moved or looks different.
    pub fn cursor_changed(&mut self) {
        self.cursor_dirty = true;
    }

    /// Does what is due now.
    pub fn step(&mut self, context: &mut StepContext<'_>) -> Step {
        let mut step = Step::default();
        if self.paused {
            return step;
        }
        self.tick(context, &mut step);
        self.send_due_callbacks(context);
        if self.pipeline.state() == kms::pipeline::State::Off {
            self.bring_up(context, &mut step);
            return step;
        }
        match self.plan(context) {
            Plan::Wait(until) => step.wake_at(until),
            Plan::Show => {
                self.missed += u64::from(context.capture.demand(context.now) != Demand::None);
                self.present(context, None, &mut step);
            }
            Plan::Capture { kind, force } => self.present(context, Some((kind, force)), &mut step),
        }
        step.wake_at(self.watchdog(context.now));
        step.wake_at(self.callbacks_due);
        step
    }

    /// When something that is under way counts as late. What may begin is the plan's business.
    fn watchdog(&self, now: Time) -> Option<Time> {
        let flip_pending = matches!(
            self.pipeline.state(),
            kms::pipeline::State::FlipPending { .. }
        );
        let under_way = flip_pending || self.pipeline.writeback().in_flight().is_some();
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
        let flip_pending = matches!(
            self.pipeline.state(),
            kms::pipeline::State::FlipPending { .. }
        );
        let arm = match self.no_writeback {
            Some(_) => Err(kms::Refuse::Detached),
            None => self.pipeline.may_arm(now),
        };
        plan(
            now,
            Situation {
                may_commit: !flip_pending,
                dirty: self.scene_dirty || self.cursor_dirty || self.uncommitted.is_some(),
                demand: context.capture.demand(now),
                change_time: self.last_flip + self.refresh * 3 / 4,
                pacing: self.pipeline.may_commit(now),
                arm,
            },
        )
    }

    /// Draws what is new and commits it; with `job` also if nothing is new and the job is forced.
    fn present(
        &mut self,
        context: &mut StepContext<'_>,
        job: Option<(ArmKind, bool)>,
        step: &mut Step,
    ) {
        let Some(picture) = self.draw(context, job.is_some_and(|(_, force)| force)) else {
            // Clients that committed without a change still wait for their callbacks.
            self.callbacks_due
                .get_or_insert(context.now.max(self.last_flip + self.refresh));
            return;
        };
        let frame = self.frame_state(&picture);
        let armed = job.and_then(|(kind, _)| self.arm(context, kind));
        let carried = armed.as_ref().map(|job| job.job);
        match self.pipeline.commit(&frame, armed, context.now) {
            Ok(committed) => self.committed(context, picture, carried, committed, step),
            Err(error) => self.commit_failed(context, picture, carried, &error, step),
        }
    }

    /// Draws the scene and places the pointer. `None`: nothing is new and nothing is forced.
    fn draw(&mut self, context: &mut StepContext<'_>, force: bool) -> Option<Picture> {
        let moved = self.place_cursor(context);
        let mut drawn = None;
        let mut owed = false;
        if self.scene_dirty || self.chain.latest().is_none() {
            drawn = self.draw_scene(context);
            owed = drawn.is_none() && feedback::is_owed(context.shell, &self.output);
        }
        self.scene_dirty = false;
        self.cursor_dirty = false;
        let waiting = self.uncommitted.take();
        if drawn.is_none() && moved.is_empty() && waiting.is_none() && !force && !owed {
            return None;
        }
        let index = self.chain.latest()?;
        let mut damage = waiting.unwrap_or_default();
        let mut fence = None;
        if let Some(drawn) = drawn {
            fence = in_fence(&drawn.sync);
            damage.extend(drawn.damage);
            let visible = feedback::take(context.shell, &self.output, &drawn.states);
            self.feedback = Some(visible);
        } else if owed {
            let unchanged = RenderElementStates::default();
            self.feedback = Some(feedback::take(context.shell, &self.output, &unchanged));
        }
        damage.extend(moved);
        let cursor = self.cursor_surface.as_ref();
        self.callbacks.take(context.shell, &self.output, cursor);
        Some(Picture {
            index,
            damage,
            fence,
            cursor: self.shown_cursor.clone(),
        })
    }

    fn draw_scene(&mut self, context: &mut StepContext<'_>) -> Option<Drawn> {
        let sprite = match self.drawn_cursor {
            true => self
                .local_pointer(context)
                .and_then(|pointer| pointer.sprite()),
            false => None,
        };
        let scene = Scene {
            shell: context.shell,
            output: &self.output,
            cursor: sprite.as_ref(),
        };
        let (chain, buffers) = (&self.chain, &mut self.buffers);
        let mut used = None;
        let result = context.renderer.draw(&scene, &mut self.scene, || {
            let (index, age) = chain.next()?;
            used = Some(index);
            Some(Target {
                dmabuf: &mut buffers.get_mut(index)?.dmabuf,
                age,
            })
        });
        match (result, used) {
            (Ok(Some(drawn)), Some(index)) => {
                self.chain.drawn(index);
                Some(drawn)
            }
            (Ok(_), _) => None,
            (Err(error), _) => {
                tracing::error!(target: "vitrine::render", output = %self.output.name(), %error, "the scene could not be drawn");
                self.redraw_all();
                self.retry_at = Some(context.now + self.refresh * RETRY_REFRESHES);
                None
            }
        }
    }

    fn local_pointer(&self, context: &StepContext<'_>) -> Option<LocalPointer> {
        let area = context.shell.space.output_geometry(&self.output)?;
        LocalPointer::on(context.pointer?, area)
    }

    /// Decides how the pointer is shown; returns what of the screen the cursor plane changes.
    fn place_cursor(&mut self, context: &StepContext<'_>) -> Vec<Rect> {
        if !self.cursor_dirty {
            return Vec::new();
        }
        let pointer = self.local_pointer(context);
        self.cursor_surface = pointer.as_ref().and_then(|pointer| pointer.surface.clone());
        let before = self.shown_cursor.take();
        let upright = self.output.current_transform() == Transform::Normal;
        if let (Some(plane), Some(pointer)) = (self.cursor.as_mut().filter(|_| upright), &pointer) {
            if let Some(picture) = pointer
                .picture
                .as_ref()
                .filter(|picture| plane.fits(picture))
            {
                match plane.show(picture, pointer.corner(&self.output)) {
                    Ok(shown) => self.shown_cursor = Some(shown),
                    Err(error) => {
                        tracing::warn!(target: "vitrine::output", %error, "the cursor plane cannot be written; the pointer is drawn");
                        self.cursor = None;
                    }
                }
            }
        }
        let drawn = pointer.is_some() && self.shown_cursor.is_none();
        if drawn || self.drawn_cursor {
            self.scene_dirty = true;
        }
        self.drawn_cursor = drawn;
        let Some(plane) = self.cursor.as_ref() else {
            return Vec::new();
        };
        let same = match (&before, &self.shown_cursor) {
            (Some(a), Some(b)) => a.at == b.at && Arc::ptr_eq(&a.framebuffer, &b.framebuffer),
            (None, None) => true,
            _ => false,
        };
        if same {
            return Vec::new();
        }
        [&before, &self.shown_cursor]
            .into_iter()
            .flatten()
            .map(|shown| plane.area(shown))
            .collect()
    }

    fn frame_state(&self, picture: &Picture) -> FrameState {
        let mut primary = self.primary(picture.index);
        primary.in_fence = picture
            .fence
            .as_ref()
            .and_then(|fence| fence.try_clone().ok())
            .map(Arc::new);
        primary.damage = Some(picture.damage.clone());
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

    /// A slot or probe buffer for a job, if there is one; the display goes on without.
    fn arm(&mut self, context: &mut StepContext<'_>, kind: ArmKind) -> Option<WritebackFb> {
        let job = JobId(self.next_job);
        self.next_job += 1;
        match kind {
            ArmKind::Normal => {
                let id = capture::JobId(job.0);
                let slot = context
                    .capture
                    .arm(id, Producer::Writeback, context.now)
                    .ok()?;
                let buffers = self.capture_buffers.as_ref();
                let Some(fb) = buffers.and_then(|buffers| buffers.framebuffer(slot)) else {
                    context.capture.unarm(id);
                    return None;
                };
                Some(WritebackFb {
                    job,
                    fb: fb.clone(),
                })
            }
            ArmKind::Kick | ArmKind::Canary => {
                match self.pipeline.probe_fb(&self.gbm, CAPTURE_FORMAT, job) {
                    Ok(probe) => Some(probe),
                    Err(error) => {
                        tracing::warn!(target: "vitrine::output", output = %self.output.name(), %error, "no buffer to probe the writeback connector with");
                        None
                    }
                }
            }
        }
    }

    fn committed(
        &mut self,
        context: &mut StepContext<'_>,
        picture: Picture,
        job: Option<JobId>,
        committed: kms::Committed,
        step: &mut Step,
    ) {
        self.failures = 0;
        let carried = job.filter(|_| committed.refused.is_none());
        if let (Some(job), None) = (job, carried) {
            context.capture.unarm(capture::JobId(job.0));
        }
        if carried.is_some() {
            self.job_refusals = 0;
        }
        self.chain.committed(picture.index, carried.is_some());
        context
            .capture
            .committed(&picture.damage, carried.map(|job| capture::JobId(job.0)));
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
        job: Option<JobId>,
        error: &CommitError,
        step: &mut Step,
    ) {
        if let Some(job) = job {
            context.capture.unarm(capture::JobId(job.0));
        }
        if job.is_some() && error.is_about_configuration() {
            // The display does not wait for capture: the same picture without the job, at once.
            let frame = self.frame_state(&picture);
            match self.pipeline.commit(&frame, None, context.now) {
                Ok(committed) => {
                    // Only now it is the job that is to blame.
                    self.job_refused(error);
                    return self.committed(context, picture, None, committed, step);
                }
                Err(again) => {
                    tracing::debug!(target: "vitrine::output", %again, "refused without the job too")
                }
            }
        }
        self.uncommitted = Some(picture.damage);
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
            self.reset();
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

/// The renderer's fence for the plane, where it has not signalled and the driver can wait for it.
fn in_fence(sync: &SyncPoint) -> Option<std::os::fd::OwnedFd> {
    if sync.is_reached() {
        return None;
    }
    sync.export()
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
