//! A screen's beginning and end: its memory, the modeset with the writeback connector attached, pause, resume, off.

use smithay::{
    backend::{allocator::gbm::GbmDevice, drm::DrmDeviceFd},
    output::Output,
};

use super::{
    chain::{self, Chain},
    cursor_plane::CursorPlane,
    power::Power,
    producer::Reporter,
    refusals::Refusals,
    render_jobs::RenderJobs,
    ring::{CaptureBuffers, CaptureBuffersError},
    scanout::{self, ScanoutError},
    screen::{Changes, Cover, Screen, CAPTURE_FORMAT},
    slot_contents::SlotContents,
    targets::Targets,
    Step, StepContext,
};
use crate::{
    capture::{OutputCapture, PerView},
    config::ProducerChoice,
    kms::{self, modeset::refresh_of, pipeline::State, topology::Sink, CommitError, FrameState},
    render::{Mark, SceneDamage, SlotDamage},
    time::Time,
};

/// Time between tries of a modeset that fails.
const MODESET_RETRY: std::time::Duration = std::time::Duration::from_secs(1);

/// Time between tries to get the memory of a ring.
const RING_RETRY: std::time::Duration = std::time::Duration::from_secs(2);

/// A cursor plane's size where the driver does not tell one: the kernel's own assumption.
const CURSOR_SIZE: (u32, u32) = (64, 64);

/// What a screen is made of.
#[derive(Debug)]
pub struct ScreenSetup<'a> {
    /// The device.
    pub device: &'a kms::Device,
    /// Its memory.
    pub gbm: &'a GbmDevice<DrmDeviceFd>,
    /// Connector, CRTC, planes, writeback connector.
    pub sink: Sink<'a>,
    /// Planes of the device that belong to somebody else.
    pub foreign: &'a [drm::control::plane::Handle],
    /// The mode to set.
    pub mode: drm::control::Mode,
    /// Whether pixels are drawn on the CPU.
    pub software: bool,
    /// The gap between a writeback fence and the next job.
    pub cooling: std::time::Duration,
    /// How commits and writeback jobs take turns.
    pub pacing: kms::PacingMode,
    /// Refreshes that a slow job may hold the display now and then.
    pub hold_refreshes: u32,
    /// How long after its flip a job may take before it counts as lost.
    pub watchdog: std::time::Duration,
    /// Who is to make captured frames.
    pub producer: ProducerChoice,
    /// Whether the connector may write a lone client's own buffer.
    pub passthrough: bool,
    /// Whether the primary scanout buffer may be leased to capture clients where it is the whole picture.
    pub lease_primary: bool,
    /// Whether the pointer may have a plane of its own.
    pub hardware_cursor: bool,
}

/// Why a screen cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScreenError {
    /// The display controller.
    #[error(transparent)]
    Kms(#[from] kms::Error),
    /// Its memory.
    #[error(transparent)]
    Scanout(#[from] ScanoutError),
}

impl Screen {
    /// Allocates everything that the screen will ever need; nothing is shown yet.
    ///
    /// # Errors
    /// When the device is gone or has no memory.
    pub fn new(setup: ScreenSetup<'_>, output: Output) -> Result<Self, ScreenError> {
        let ScreenSetup {
            device,
            gbm,
            sink,
            foreign,
            mode,
            software,
            cooling,
            pacing,
            hold_refreshes,
            watchdog,
            producer,
            passthrough,
            lease_primary,
            hardware_cursor,
        } = setup;
        let mut pipeline = kms::Pipeline::for_sink(device, sink, foreign)?;
        let mut config = *pipeline.writeback().config();
        config.cooling.min = cooling;
        config.pacing = pacing;
        config.hold_refreshes = hold_refreshes;
        config.watchdog = watchdog;
        pipeline.configure_writeback(config);
        let size = (u32::from(mode.size().0), u32::from(mode.size().1));
        // Only where the render producer may have to make frames.
        let lendable = match producer {
            ProducerChoice::Auto | ProducerChoice::Render if lease_primary => chain::LENDABLE,
            ProducerChoice::Auto | ProducerChoice::Render | ProducerChoice::Writeback => 0,
        };
        let buffers = scanout::allocate(gbm, size, software, lendable)?;
        let lendable = buffers.len().saturating_sub(chain::BUFFERS);
        let cursor = sink
            .planes()
            .cursor
            .filter(|_| hardware_cursor)
            .and_then(|_| CursorPlane::new(device.fd(), gbm, cursor_size(device.fd())));
        Ok(Self {
            pair: (sink.connector(), sink.crtc()),
            gbm: gbm.clone(),
            pipeline,
            mode,
            refresh: refresh_of(&mode),
            buffers,
            chain: Chain::new(lendable),
            given_away: Vec::new(),
            scene: SceneDamage::new(&output),
            mark: Mark::default(),
            marked: false,
            cursor,
            capture_buffers: None,
            passthrough,
            targets: Targets::default(),
            left_behind: Vec::new(),
            no_writeback: None,
            no_ring: None,
            ring_again: None,
            rings: 0,
            policy: producer,
            software,
            can_render: false,
            reporter: Reporter::default(),
            render_jobs: RenderJobs::default(),
            slot_contents: SlotContents::default(),
            slot_damage: PerView::new(|_| SlotDamage::new(&output)),
            rendered_bytes: 0,
            slots_drawn: 0,
            scenes: 0,
            render_failed: false,
            scene_dirty: true,
            cursor_dirty: true,
            cover: Cover::default(),
            shown_cursor: None,
            cursor_surface: None,
            drawn_cursor: false,
            uncommitted: None,
            untold: None,
            feedback: None,
            callbacks: super::feedback::DrawnCallbacks::default(),
            callbacks_due: None,
            look_again: None,
            last_flip: Time::default(),
            retry_at: None,
            starved_until: None,
            failures: 0,
            only_modeset: true,
            draw_failed: false,
            refusals: Refusals::default(),
            next_job: 1,
            paused: false,
            power: Power::default(),
            flips: 0,
            missed: 0,
            yielded: 0,
            span: tracing::info_span!(target: "vitrine::output", "output", name = %output.name()),
            output,
        })
    }

    /// Draws the first frame and sets the mode with it, the writeback connector attached; or lights the screen again with it.
    pub(super) fn bring_up(&mut self, context: &mut StepContext<'_>, step: &mut Step) {
        if let Some(retry) = self.retry_at.filter(|retry| *retry > context.now) {
            step.wake_at(Some(retry));
            return;
        }
        self.retry_at = None;
        self.ensure_ring(context.capture, context.faults, context.now);
        let Some(index) = self.draw_first(context) else {
            self.retry_at = Some(context.now + MODESET_RETRY);
            step.wake_at(self.retry_at);
            return;
        };
        let frame = FrameState::primary(self.primary(index));
        match self.light(&frame, context.now) {
            Ok(report) => self.brought_up(index, report, context),
            Err(error) => {
                match error {
                    // The seat is being taken away, which we have not been told yet.
                    kms::Error::Commit(CommitError::NotMaster) => {
                        tracing::debug!(target: "vitrine::output", output = %self.output.name(), "no mode can be set without the seat");
                    }
                    error => {
                        tracing::error!(target: "vitrine::output", output = %self.output.name(), mode = %super::describe::mode_name(&self.mode), %error, "the mode cannot be set; trying again in a second");
                    }
                }
                self.retry_at = Some(context.now + MODESET_RETRY);
                step.wake_at(self.retry_at);
            }
        }
        // What came meanwhile is drawn in the next step.
        step.wake_at(Some(context.now));
    }

    /// Shows the first frame: on a CRTC that sleeps by the least that does it, else, or if that is refused, by a modeset.
    fn light(&mut self, frame: &FrameState, now: Time) -> Result<kms::ModesetReport, kms::Error> {
        if self.pipeline.state() == State::Asleep {
            match self.pipeline.wake(frame) {
                Ok(attached) => {
                    let before = || self.no_writeback.clone().unwrap_or_default();
                    return Ok(kms::ModesetReport {
                        writeback_attached: attached.then_some(()).ok_or_else(before),
                    });
                }
                Err(error) if error.is_about_configuration() => {
                    tracing::warn!(target: "vitrine::output", output = %self.output.name(), %error, "the output cannot just be lit again; setting its mode anew");
                }
                Err(error) => return Err(error.into()),
            }
        }
        let report = self.pipeline.modeset(self.mode, frame, now)?;
        self.targets.clear();
        Ok(report)
    }

    fn brought_up(
        &mut self,
        index: usize,
        report: kms::ModesetReport,
        context: &mut StepContext<'_>,
    ) {
        self.chain.blanked();
        self.chain.committed(index, false);
        self.chain.flipped();
        // A blocking modeset shows its picture at once.
        (self.cover.committed, self.cover.shown) = (self.cover.drawn, self.cover.drawn);
        self.failures = 0;
        self.refusals = Refusals::default();
        self.uncommitted = None;
        self.only_modeset = true;
        self.no_writeback = report.writeback_attached.err();
        // A modeset shows the picture alone.
        self.shown_cursor = None;
        self.cursor_dirty = true;
        self.slot_contents.forget_all();
        let full = crate::geometry::Rect::from_size(self.size());
        context.capture.committed(&[full], None);
        if let Some(reason) = &self.no_writeback {
            let what = match self.policy {
                ProducerChoice::Writeback => "captures wait",
                ProducerChoice::Auto | ProducerChoice::Render => "captures are rendered",
            };
            tracing::warn!(target: "vitrine::output", output = %self.output.name(), %reason, "no writeback on this output: {what}");
        }
        self.callbacks_due = Some(context.now);
        self.now_lit(context.capture);
    }

    pub(super) fn size(&self) -> crate::geometry::Size {
        let (width, height) = self.mode.size();
        (i32::from(width), i32::from(height)).into()
    }

    /// Makes the ring if there is none. Without memory for it the screen goes on, and it is tried again after a while.
    fn ensure_ring(&mut self, capture: &mut OutputCapture, faults: &kms::FaultPlan, now: Time) {
        if self.capture_buffers.is_some() {
            return;
        }
        let (width, height) = self.mode.size();
        let size = (u32::from(width), u32::from(height));
        self.rings += 1;
        let buffers = match faults.ring(self.rings) {
            false => CaptureBuffers::allocate(&self.gbm, size, CAPTURE_FORMAT, capture, now),
            true => Err(CaptureBuffersError::planned()),
        };
        match buffers {
            Ok(buffers) => {
                self.check_render(&buffers);
                self.capture_buffers = Some(buffers);
                self.ring_again = None;
                if self.no_ring.take().is_some() {
                    tracing::info!(target: "vitrine::output", output = %self.output.name(), "there is memory for captures again");
                }
            }
            Err(error) => {
                let reason = error.to_string();
                if self.no_ring.replace(reason).is_none() {
                    tracing::error!(target: "vitrine::output", output = %self.output.name(), %error, "no capture on this output for now; its memory is asked for again every few seconds");
                }
                self.ring_again = Some(now + RING_RETRY);
            }
        }
    }

    /// Asks again for the memory of a ring that there was none for.
    pub(super) fn retry_ring(&mut self, context: &mut StepContext<'_>, step: &mut Step) {
        let now = context.now;
        if self.ring_again.take_if(|at| *at <= now).is_some() {
            self.ensure_ring(context.capture, context.faults, now);
        }
        step.wake_at(self.ring_again);
    }

    /// Gives the output another ring of fresh memory. Nothing that is shown from the next job on is written into the old one;
    /// the job in flight still is, and shows what was on the screen before.
    pub fn renew_ring(&mut self, capture: &mut OutputCapture, faults: &kms::FaultPlan, now: Time) {
        let span = self.span.clone();
        let _entered = span.enter();
        if self.capture_buffers.take().is_none() {
            // None was made yet, or there is no memory for one.
            return;
        }
        capture.clear_buffers(now);
        self.spend_exposed();
        self.slot_contents = SlotContents::default();
        self.ensure_ring(capture, faults, now);
    }

    fn draw_first(&mut self, context: &mut StepContext<'_>) -> Option<usize> {
        self.redraw_all();
        match self.draw_next(context, None) {
            Ok(drawn) => {
                drawn?;
                self.cover.drawn = context.shell.curtain().is_some();
                self.chain.latest()
            }
            Err(error) => {
                tracing::error!(target: "vitrine::render", output = %self.output.name(), %error, "the first frame could not be drawn");
                None
            }
        }
    }

    /// Sets everything anew: the next step begins with a modeset.
    pub(super) fn reset(&mut self) {
        tracing::warn!(target: "vitrine::output", output = %self.output.name(), "setting the whole display state anew");
        if let Err(error) = self.pipeline.disable() {
            tracing::warn!(target: "vitrine::output", output = %self.output.name(), %error, "the output cannot be switched off");
        }
        self.failures = 0;
    }

    /// The seat is somebody else's: nothing is committed until `resume`.
    pub fn pause(&mut self) {
        let span = self.span.clone();
        let _entered = span.enter();
        self.paused = true;
        self.pipeline.pause();
    }

    /// The seat is ours again: the full state is set, as anything may have happened to it.
    pub fn resume(&mut self) {
        let span = self.span.clone();
        let _entered = span.enter();
        self.paused = false;
        self.retry_at = None;
        if self.is_wanted_off() {
            self.resume_dark();
        } else {
            self.resume_lit();
        }
        self.uncommitted = Some(Changes::default());
        self.slot_contents.forget_all();
        self.scene_dirty = true;
        self.cursor_dirty = true;
    }

    fn resume_lit(&mut self) {
        match self.pipeline.resume(Time::now()) {
            Ok(Some(report)) => self.no_writeback = report.writeback_attached.err(),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(target: "vitrine::output", output = %self.output.name(), %error, "the screen does not come back yet");
            }
        }
    }

    /// One line with what this screen did, for operators and tests.
    pub fn log_summary(&self, device: &kms::Device, capture: Option<&OutputCapture>) {
        let kms = device.stats().of(self.pair.1);
        let jobs = self.pipeline.writeback().stats();
        let capture = capture
            .map(|capture| capture.stats().clone())
            .unwrap_or_default();
        tracing::info!(
            target: "vitrine::stats",
            output = %self.output.name(),
            flips = self.flips,
            commits = kms.commits,
            modesets = kms.modesets,
            jobs = jobs.jobs,
            probes = jobs.probes,
            in_flight = u64::from(self.pipeline.writeback().in_flight().is_some()),
            published = capture.frames,
            written_back = capture.by_writeback,
            rendered = capture.by_render,
            passthrough = capture.passthrough,
            leased = capture.leased,
            imports = self.targets.imports(),
            rendered_bytes = self.rendered_bytes,
            delivered = capture.delivered,
            skipped = capture.skipped.wanted(),
            missed = self.missed,
            overtaken = jobs.overtaken,
            patient = jobs.patient,
            yielded = self.yielded,
            lost = jobs.lost,
            late = jobs.late,
            failed = jobs.failed,
            stalls = jobs.stalls,
            recoveries = jobs.recoveries,
            quarantined = capture.quarantined,
            voids = capture.voids,
            overruled = capture.overruled,
            buffers = capture.buffers,
            copies = capture.copies,
            gpu_copies = capture.gpu_copies,
            copied_bytes = capture.copied_bytes,
            "summary",
        );
    }
}

fn cursor_size(fd: &DrmDeviceFd) -> (u32, u32) {
    use drm::{Device, DriverCapability};
    let side = |capability| {
        let side = fd
            .get_driver_capability(capability)
            .ok()
            .and_then(|n| u32::try_from(n).ok());
        side.filter(|n| *n > 0)
    };
    match (
        side(DriverCapability::CursorWidth),
        side(DriverCapability::CursorHeight),
    ) {
        // Every driver takes its smallest size, and a small plane is quicker to fill and to blend.
        (Some(width), Some(height)) => (width.min(CURSOR_SIZE.0), height.min(CURSOR_SIZE.1)),
        _ => CURSOR_SIZE,
    }
}
