//! One CRTC with its connector, its planes and its writeback connector: the commits that follow from the pure states.
//!
//! The caller owns the event loop: it hands in flip events and readable fences, watches [`Pipeline::next_deadline`] and
//! calls [`Pipeline::tick`]. Modesets are in [`crate::kms::modeset`]. This file must not know what is in the pictures.

use std::{collections::HashMap, sync::Arc};

use drm::control::{connector, crtc, plane, AtomicCommitFlags, Mode};
use drm_fourcc::DrmFourcc;
use smithay::backend::{allocator::gbm::GbmDevice, drm::DrmDeviceFd};
use tracing::{debug, error, info, warn};

use super::{
    canary::CanaryState,
    device::Device,
    fence::{Fence, FenceStatus},
    frame::FrameState,
    framebuffer::Framebuffer,
    io::CommitError,
    pipeline::{Flip, PipelineState, State},
    props::{ConnectorProps, CrtcProps, PlaneProps},
    request::AtomicRequest,
    ring_buffer::{Access, RingBuffer},
    saved::SavedState,
    topology::{Head, Held, Planes, Sink},
    writeback::{Action, ArmKind, JobId, Pacing, Refuse, Verdict, Writeback, WritebackConfig},
    Error,
};
use crate::time::Time;

/// A writeback job for a commit.
#[derive(Debug, Clone)]
pub struct WritebackFb {
    /// Its number; never used twice on this pipeline.
    pub job: JobId,
    /// Where the controller writes; of the mode's size.
    pub fb: Arc<Framebuffer>,
}

/// A commit that the kernel took.
#[derive(Debug)]
pub struct Committed {
    /// The job's fence: watch it for readability, then call [`Pipeline::fence_ready`]. None without a job.
    pub out_fence: Option<Fence>,
    /// The commit went without its job, for this reason. (The display never waits for a job.)
    pub refused: Option<Refuse>,
}

/// A job whose fence has not been seen signalled.
struct Job {
    fence: Fence,
    probe: Option<usize>,
    /// Planes and target of the commit: the kernel's documentation wants them kept until the fence.
    _keep: Vec<Arc<Framebuffer>>,
}

/// One CRTC and what belongs to it. Dropping it gives the CRTC back as it was found, where that is possible.
pub struct Pipeline {
    pub(crate) device: Device,
    pub(crate) name: String,
    pub(crate) crtc: CrtcProps,
    /// The screen; none for a CRTC that exists only for capture.
    pub(crate) head: Option<ConnectorProps>,
    pub(crate) writeback_connector: Option<ConnectorProps>,
    pub(crate) planes: Planes,
    pub(crate) plane_props: HashMap<plane::Handle, PlaneProps>,
    pub(crate) foreign_planes: Vec<plane::Handle>,
    pub(crate) state: PipelineState,
    pub(crate) writeback: Writeback,
    pub(crate) mode: Option<Mode>,
    pub(crate) last: Option<FrameState>,
    /// Planes that are on.
    pub(crate) shown: Vec<plane::Handle>,
    pub(crate) saved: Option<SavedState>,
    /// Switched off by [`Pipeline::blank`], and not on since.
    pub(crate) blanked: bool,
    pub(crate) on_screen: Vec<Arc<Framebuffer>>,
    pub(crate) pending: Vec<Arc<Framebuffer>>,
    jobs: HashMap<JobId, Job>,
    probes: Vec<(RingBuffer, Option<JobId>)>,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline")
            .field("name", &self.name)
            .field("crtc", &self.crtc.id)
            .field("state", &self.state.state())
            .field("trust", &self.writeback.trust())
            .finish_non_exhaustive()
    }
}

impl Pipeline {
    /// For a screen. Nothing is committed yet; what the CRTC shows now is remembered for the exit.
    ///
    /// # Errors
    /// If an object is gone or the driver is not atomic.
    pub fn for_head(
        device: &Device,
        head: &Head,
        foreign: &[plane::Handle],
    ) -> Result<Self, Error> {
        Self::for_sink(device, Sink::Head(head), foreign)
    }

    /// For a screen, or a writeback connector that stands for one. `foreign` are all planes of the device that belong to
    /// somebody else: they are never part of a commit.
    ///
    /// # Errors
    /// If an object is gone or the driver is not atomic.
    pub fn for_sink(
        device: &Device,
        sink: Sink<'_>,
        foreign: &[plane::Handle],
    ) -> Result<Self, Error> {
        let fd = device.fd();
        let connector = |id: Option<_>| id.map(|id| ConnectorProps::read(fd, id)).transpose();
        let (head, writeback) = match sink {
            Sink::Head(head) => (Some(head.connector), head.writeback.connector()),
            Sink::CaptureOnly(only) => (None, Some(only.connector)),
        };
        let (crtc, planes) = (sink.crtc(), sink.planes());
        let mut plane_props = HashMap::new();
        for plane in planes.all() {
            plane_props.insert(plane, PlaneProps::read(fd, plane)?);
        }
        let snapshot = device.snapshot(false)?;
        let refresh = std::time::Duration::from_nanos(16_666_667);
        Ok(Self {
            device: device.clone(),
            name: sink.name().to_owned(),
            crtc: CrtcProps::read(fd, crtc)?,
            head: connector(head)?,
            writeback_connector: connector(writeback)?,
            planes: planes.clone(),
            plane_props,
            foreign_planes: foreign.to_vec(),
            state: PipelineState::default(),
            writeback: Writeback::new(WritebackConfig::for_refresh(refresh)),
            mode: None,
            last: None,
            shown: Vec::new(),
            saved: SavedState::read(fd, &snapshot, crtc, foreign)?,
            blanked: false,
            on_screen: Vec::new(),
            pending: Vec::new(),
            jobs: HashMap::new(),
            probes: Vec::new(),
        })
    }

    /// The CRTC, as flip events name it.
    pub fn crtc(&self) -> crtc::Handle {
        self.crtc.id
    }

    /// The connector's name, like `HDMI-A-1`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it has of the device as the screen of this connector.
    pub fn held(&self, connector: connector::Handle) -> Held {
        let beside = self
            .writeback_connector
            .as_ref()
            .filter(|_| self.head.is_some());
        Held {
            connector,
            crtc: self.crtc.id,
            planes: self.planes.clone(),
            writeback: beside.map(|writeback| writeback.id),
        }
    }

    /// The planes that it may use.
    pub fn planes(&self) -> &Planes {
        &self.planes
    }

    /// Whether a plane takes damage rectangles; without, giving them costs nothing and helps nothing.
    pub fn has_damage_clips(&self, plane: plane::Handle) -> bool {
        self.plane_props
            .get(&plane)
            .is_some_and(|props| props.fb_damage_clips.is_some())
    }

    /// The mode that is set.
    pub fn mode(&self) -> Option<&Mode> {
        self.mode.as_ref()
    }

    /// What the CRTC is doing.
    pub fn state(&self) -> State {
        self.state.state()
    }

    /// The judgement about the writeback connector, to read.
    pub fn writeback(&self) -> &Writeback {
        &self.writeback
    }

    /// Other pacing. The next modeset sets `refresh` again and nothing else.
    pub fn configure_writeback(&mut self, config: WritebackConfig) {
        self.writeback.set_config(config);
    }

    /// Whether a frame commit may go now: flip event there, and fence there or its time over.
    pub fn may_commit(&mut self, now: Time) -> Pacing {
        match self.state.may_commit() {
            Err(_) => Pacing::Wait {
                until: self.state.flip_deadline(),
            },
            Ok(()) => self.writeback.may_commit(now),
        }
    }

    /// Whether the next commit may carry a job. Normal: into a slot of the ring. Kick, Canary: into
    /// [`Pipeline::probe_fb`], whether or not somebody wants a frame.
    ///
    /// # Errors
    /// Why not.
    pub fn may_arm(&self, now: Time) -> Result<ArmKind, Refuse> {
        self.writeback.may_arm(now)
    }

    /// The target of a probe, filled with the canary of `job`. Two buffers are allocated at the first probe and kept.
    ///
    /// # Errors
    /// If they cannot be allocated.
    pub fn probe_fb(
        &mut self,
        gbm: &GbmDevice<DrmDeviceFd>,
        fourcc: DrmFourcc,
        job: JobId,
    ) -> Result<WritebackFb, Error> {
        let (w, h) = self.mode.map_or((0, 0), |mode| mode.size());
        let (w, h) = (u32::from(w), u32::from(h));
        self.probes.retain(|(buffer, _)| {
            (buffer.layout().width, buffer.layout().height) == (w, h) && buffer.fourcc() == fourcc
        });
        while self.probes.len() < 2 {
            let buffer = RingBuffer::allocate(gbm, w, h, fourcc, Access::ReadWrite)?;
            self.probes.push((buffer, None));
        }
        // The buffer of the older job: a lost job that is written late then disturbs as little as possible.
        let Some((buffer, owner)) = self.probes.iter_mut().min_by_key(|(_, owner)| *owner) else {
            return Err(Error::io("choosing a probe buffer")(
                std::io::ErrorKind::NotFound.into(),
            ));
        };
        buffer
            .write_canary(job)
            .map_err(Error::io("writing the canary"))?;
        *owner = Some(job);
        Ok(WritebackFb {
            job,
            fb: buffer.framebuffer().clone(),
        })
    }

    /// The last frame is not to be shown again: after a pause the CRTC counts as off.
    pub fn forget_frame(&mut self) {
        self.last = None;
    }

    /// Asks whether the hardware can show `frame`, and write it to `writeback` at the same time.
    ///
    /// # Errors
    /// What the kernel says against it.
    pub fn test(
        &self,
        frame: &FrameState,
        writeback: Option<&Framebuffer>,
    ) -> Result<(), CommitError> {
        let mut request = AtomicRequest::new(self.crtc.id);
        let _blobs = self.fill(&mut request, frame)?;
        if let (Some(fb), Some(connector)) = (writeback, &self.writeback_connector) {
            request.write_back(connector, fb.id(), false);
        }
        self.device
            .commit(&request, AtomicCommitFlags::TEST_ONLY)
            .map(|_| ())
    }

    /// Commits a frame without blocking; its flip event follows. A job that the writeback machine does not allow now is
    /// left out, and [`Committed::refused`] says so.
    ///
    /// # Errors
    /// Nothing was changed then. [`CommitError::Busy`] also if a flip is pending, [`CommitError::NotMaster`] if paused.
    pub fn commit(
        &mut self,
        frame: &FrameState,
        writeback: Option<WritebackFb>,
        now: Time,
    ) -> Result<Committed, CommitError> {
        self.state.may_commit()?;
        self.poll_fences(now);
        let (job, refused) = match writeback.map(|job| self.admit(job, now)) {
            None => (None, None),
            Some(Ok(job)) => (Some(job), None),
            Some(Err(refuse)) => (None, Some(refuse)),
        };
        let mut request = AtomicRequest::new(self.crtc.id);
        let _blobs = self.fill(&mut request, frame)?;
        if let (Some((job, _, _)), Some(connector)) = (&job, &self.writeback_connector) {
            request.write_back(connector, job.fb.id(), true);
        }
        let flags = AtomicCommitFlags::NONBLOCK | AtomicCommitFlags::PAGE_FLIP_EVENT;
        let fence = self.device.commit(&request, flags)?;
        self.state.committed(now);
        self.pending = frame.framebuffers();
        self.show(frame);
        match job {
            None => {
                self.writeback.committed_without_job();
                Ok(Committed {
                    out_fence: None,
                    refused,
                })
            }
            Some((job, kind, probe)) => {
                self.writeback.armed(job.job, kind, now);
                Ok(Committed {
                    out_fence: self.remember(job, probe, fence),
                    refused: None,
                })
            }
        }
    }

    /// Whether the job may go, and into which probe buffer it writes, if any.
    fn admit(
        &self,
        job: WritebackFb,
        now: Time,
    ) -> Result<(WritebackFb, ArmKind, Option<usize>), Refuse> {
        let kind = self.writeback.may_arm(now)?;
        let probe = self.probes.iter().position(|(buffer, owner)| {
            *owner == Some(job.job) && buffer.framebuffer().id() == job.fb.id()
        });
        match (kind, probe) {
            (ArmKind::Normal, None) | (ArmKind::Kick | ArmKind::Canary, Some(_)) => {
                Ok((job, kind, probe))
            }
            (ArmKind::Normal, Some(_)) | (ArmKind::Kick | ArmKind::Canary, None) => {
                Err(Refuse::WrongBuffer { wanted: kind })
            }
        }
    }

    fn remember(
        &mut self,
        job: WritebackFb,
        probe: Option<usize>,
        fence: Option<Fence>,
    ) -> Option<Fence> {
        let Some(fence) = fence else {
            // Never seen; the watchdog will call the job lost.
            error!(target: "vitrine::kms", output = %self.name, job = %job.job, "writeback job without a fence");
            return None;
        };
        let mut keep = self.pending.clone();
        keep.push(job.fb);
        self.jobs.insert(
            job.job,
            Job {
                fence: fence.clone(),
                probe,
                _keep: keep,
            },
        );
        Some(fence)
    }

    /// A flip event of this CRTC came. A verdict, if the job's fence was there before.
    pub fn flipped(&mut self, presented: Time, now: Time) -> (Flip, Option<Verdict>) {
        let flip = self.state.flipped();
        if flip != Flip::Done {
            debug!(target: "vitrine::kms", output = %self.name, ?flip, "flip event of no commit that waits");
            return (flip, None);
        }
        self.on_screen = std::mem::take(&mut self.pending);
        let verdict = self.writeback.flipped(presented, now);
        (flip, verdict.and_then(|verdict| self.settle(verdict, now)))
    }

    /// The fence of `job` became readable (or may have). None: nothing to do for the caller yet, a verdict may still come
    /// from [`Pipeline::flipped`] or [`Pipeline::tick`].
    pub fn fence_ready(&mut self, job: JobId, now: Time) -> Option<Verdict> {
        let status = self.jobs.get(&job)?.fence.status();
        self.fence(job, status, now)
    }

    fn fence(&mut self, job: JobId, status: FenceStatus, now: Time) -> Option<Verdict> {
        let verdict = self.writeback.fence(job, status, now)?;
        self.settle(verdict, now)
    }

    /// A lost job is not waited for any more: later ones proved that the connector has left it behind. The kernel keeps its
    /// framebuffer as long as it needs it.
    pub fn forget_lost(&mut self, job: JobId) {
        if self.writeback.forget_lost(job) {
            self.jobs.remove(&job);
        }
    }

    /// Forgets the job; looks at the canary of a probe, which is nobody else's business.
    fn settle(&mut self, verdict: Verdict, now: Time) -> Option<Verdict> {
        let (Verdict::Publish { job, .. } | Verdict::Discard(job, _) | Verdict::Probe(job)) =
            verdict;
        let probe = self.jobs.remove(&job).and_then(|job| job.probe);
        if let Verdict::Discard(job, why) = verdict {
            debug!(target: "vitrine::kms", output = %self.name, %job, ?why, "writeback frame discarded");
        }
        let Verdict::Probe(job) = verdict else {
            return Some(verdict);
        };
        let buffer = probe.and_then(|probe| self.probes.get(probe));
        let canary = match buffer {
            Some((buffer, Some(owner))) if *owner == job => buffer.canary(job),
            _ => Ok(CanaryState::Intact),
        };
        let gone = matches!(canary, Ok(CanaryState::Gone));
        debug!(target: "vitrine::kms", output = %self.name, %job, ?canary, "probe looked at");
        self.writeback.canary_result(job, gone, now);
        Some(verdict)
    }

    /// Fences that were signalled before the caller's event loop saw them. Their verdicts come from the next tick.
    fn poll_fences(&mut self, now: Time) {
        let Some(job) = self.writeback.in_flight() else {
            return;
        };
        let status = self
            .jobs
            .get(&job)
            .map_or(FenceStatus::Pending, |job| job.fence.status());
        if status != FenceStatus::Pending {
            if let Some(verdict) = self.fence(job, status, now) {
                self.writeback.tell(verdict);
            }
        }
    }

    /// Deadlines, and everything to be told since the last call. Call it after every other call and at
    /// [`Pipeline::next_deadline`].
    pub fn tick(&mut self, now: Time) -> Vec<Action> {
        // Only a deadline is worth a system call: the event loop tells of fences by itself.
        if self
            .writeback
            .next_deadline(now)
            .is_some_and(|due| due <= now)
        {
            self.poll_fences(now);
        }
        if self.state.tick(now) {
            warn!(target: "vitrine::kms", output = %self.name, "no flip event for 12 s; going on without it");
            self.on_screen.append(&mut self.pending);
        }
        let actions = self.writeback.tick(now);
        for action in &actions {
            self.log(action);
            // A verdict that comes from a deadline is the end of its job, too.
            if let Action::Forget(job) | Action::Verdict(Verdict::Discard(job, _)) = action {
                self.jobs.remove(job);
            }
        }
        actions
    }

    fn log(&self, action: &Action) {
        let output = self.name.as_str();
        match action {
            Action::Suspect { lost } => {
                warn!(target: "vitrine::kms", output, %lost, "writeback job lost; no captured frames until probes prove the connector");
            }
            Action::Stalled { rounds, .. } => {
                warn!(target: "vitrine::kms", output, rounds, "writeback connector stalled; it is probed again after a pause");
            }
            Action::Recovered => {
                info!(target: "vitrine::kms", output, "writeback connector recovered");
            }
            Action::Quarantine(job) => {
                debug!(target: "vitrine::kms", output, %job, "writeback frame overdue");
            }
            Action::Verdict(_) | Action::Forget(_) => {}
        }
    }

    /// When to call [`Pipeline::tick`] and to ask [`Pipeline::may_commit`] again, at the latest.
    pub fn next_deadline(&self, now: Time) -> Option<Time> {
        let times = [
            self.state.flip_deadline(),
            self.writeback.next_deadline(now),
        ];
        times.into_iter().flatten().min()
    }
}
