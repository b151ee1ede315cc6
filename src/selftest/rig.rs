//! One screen under test: shows pictures, captures each, and counts what came back.

use std::{sync::Arc, time::Duration};

use drm::control::Mode;
use drm_fourcc::DrmFourcc;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use smithay::backend::{allocator::gbm::GbmDevice, drm::DrmDeviceFd};

use super::pattern;
use crate::{
    kms::{
        topology::Head, writeback::Action, Access, ArmKind, CommitError, Device, Error, Fence,
        FrameState, JobId, KmsEvent, Pacing, Pipeline, PlaneUpdate, RingBuffer, Verdict,
        WritebackFb,
    },
    time::Time,
};

/// A job may take so long. What is asked is whether jobs get lost, not whether the machine is too busy to be quick.
const WATCHDOG: Duration = Duration::from_secs(2);

/// The format of pictures and captures: every writeback connector that can share a CRTC with a screen has it.
pub(super) const FORMAT: DrmFourcc = DrmFourcc::Xrgb8888;

/// What came back of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Run {
    /// Gap between two jobs.
    pub gap: Duration,
    /// Page flips.
    pub flips: u64,
    /// Frames that were captured and believed.
    pub captured: u64,
    /// Of these, frames that show another picture than the screen did.
    pub wrong: u64,
    /// The greatest difference of a colour channel.
    pub difference: u8,
    /// Jobs that did not come back, came back late, or with an error.
    pub lost: u64,
    /// How long it took.
    pub time: Duration,
}

impl Run {
    /// Captured frames per second.
    pub fn rate(&self) -> f64 {
        let seconds = self.time.as_secs_f64();
        if seconds > 0.0 {
            self.captured as f64 / seconds
        } else {
            0.0
        }
    }

    /// Nothing was lost and nothing was wrong.
    pub fn is_good(&self, tolerance: u8) -> bool {
        self.captured > 0 && self.wrong == 0 && self.lost == 0 && self.difference <= tolerance
    }
}

pub(super) struct Rig {
    device: Device,
    gbm: GbmDevice<DrmDeviceFd>,
    pub pipeline: Pipeline,
    pictures: Vec<RingBuffer>,
    slots: Vec<RingBuffer>,
    /// The job in flight: its picture, its slot, its fence.
    flying: Option<(JobId, usize, usize, Fence)>,
    next_job: u64,
    shown: usize,
}

impl Rig {
    /// Allocates, paints and sets the mode. The second value is why the writeback connector is not attached.
    pub fn start(
        device: &Device,
        gbm: &GbmDevice<DrmDeviceFd>,
        head: &Head,
        mode: Mode,
    ) -> Result<(Self, Result<(), String>), Error> {
        let (width, height) = (u32::from(mode.size().0), u32::from(mode.size().1));
        let mut pictures = Vec::new();
        let mut slots = Vec::new();
        for kind in 0..pattern::KINDS {
            let buffer = RingBuffer::allocate(gbm, width, height, FORMAT, Access::ReadWrite)?;
            let layout = buffer.layout();
            buffer
                .write(&mut |bytes| pattern::paint(bytes, layout, kind))
                .map_err(Error::io("painting a picture"))?;
            pictures.push(buffer);
        }
        for _ in 0..4 {
            slots.push(RingBuffer::allocate(
                gbm,
                width,
                height,
                FORMAT,
                Access::ReadOnly,
            )?);
        }
        let mut rig = Self {
            device: device.clone(),
            gbm: gbm.clone(),
            pipeline: Pipeline::for_head(device, head, &[])?,
            pictures,
            slots,
            flying: None,
            next_job: 1,
            shown: 0,
        };
        let report = match rig.frame(0) {
            Some(frame) => rig.pipeline.modeset(mode, &frame, Time::now())?,
            None => {
                return Err(Error::io("painting a picture")(
                    std::io::ErrorKind::NotFound.into(),
                ))
            }
        };
        Ok((rig, report.writeback_attached))
    }

    fn frame(&self, picture: usize) -> Option<FrameState> {
        let buffer = self.pictures.get(picture)?;
        let update = PlaneUpdate::whole(buffer.framebuffer().clone(), (0, 0));
        Some(FrameState::primary(update))
    }

    /// Which of these formats the driver agrees to write beside the screen. `None`: it was not asked, as buffers of
    /// that format are not made here.
    pub fn try_format(&self, format: DrmFourcc) -> Option<bool> {
        let layout = self.slots.first()?.layout();
        let (width, height) = (layout.width, layout.height);
        let buffer =
            RingBuffer::allocate(&self.gbm, width, height, format, Access::ReadOnly).ok()?;
        let frame = self.frame(0)?;
        Some(
            self.pipeline
                .test(&frame, Some(buffer.framebuffer()))
                .is_ok(),
        )
    }

    /// Shows and captures pictures, each other than the one before, for that long. Every `step`th row of each capture
    /// is compared.
    pub fn run(&mut self, gap: Duration, time: Duration, step: usize) -> Result<Run, CommitError> {
        let mut pacing = *self.pipeline.writeback().config();
        pacing.cooling.min = gap;
        pacing.watchdog = pacing.watchdog.max(WATCHDOG);
        self.pipeline.configure_writeback(pacing);
        let mut run = Run {
            gap,
            ..Run::default()
        };
        let before = self.pipeline.writeback().stats();
        let start = Time::now();
        let mut believed = true;
        while believed && Time::now().saturating_since(start) < time {
            self.commit()?;
            self.wait(&mut run, step)?;
            // After a lost job the rest says nothing more about this gap.
            believed = !matches!(
                self.pipeline.may_arm(Time::now()),
                Ok(ArmKind::Kick | ArmKind::Canary)
            );
        }
        run.time = Time::now().saturating_since(start);
        // The last one, if it comes.
        let end = Time::now() + pacing.watchdog + Duration::from_secs(1);
        while self.flying.is_some() && Time::now() < end {
            self.wait(&mut run, step)?;
        }
        let after = self.pipeline.writeback().stats();
        run.lost = (after.lost - before.lost)
            + (after.late - before.late)
            + (after.failed - before.failed);
        Ok(run)
    }

    /// Commits the next picture with a job, if both are allowed now.
    fn commit(&mut self) -> Result<(), CommitError> {
        let now = Time::now();
        if self.pipeline.may_commit(now) != Pacing::Go
            || self.flying.is_some()
            || self.pipeline.may_arm(now) != Ok(ArmKind::Normal)
        {
            return Ok(());
        }
        let job = JobId(self.next_job);
        let picture = (self.shown + 1) % self.pictures.len().max(1);
        let slot = usize::try_from(self.next_job).unwrap_or(0) % self.slots.len().max(1);
        let (Some(frame), Some(target)) = (self.frame(picture), self.slots.get(slot)) else {
            return Ok(());
        };
        let target = WritebackFb {
            job,
            fb: Arc::clone(target.framebuffer()),
        };
        match self.pipeline.commit(&frame, Some(target), now) {
            Ok(committed) => {
                self.next_job += 1;
                self.shown = picture;
                self.flying = committed.out_fence.map(|fence| (job, picture, slot, fence));
                Ok(())
            }
            Err(CommitError::Busy) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Waits a moment for flips and the fence, and looks at what was captured.
    fn wait(&mut self, run: &mut Run, step: usize) -> Result<(), CommitError> {
        let mut fds = vec![PollFd::new(&self.device, PollFlags::IN)];
        if let Some((_, _, _, fence)) = &self.flying {
            fds.push(PollFd::new(fence, PollFlags::IN));
        }
        let moment = Timespec {
            tv_sec: 0,
            tv_nsec: 200_000,
        };
        // A signal ends the wait early, which does no harm.
        let _ = poll(&mut fds, Some(&moment));
        drop(fds);
        let now = Time::now();
        let mut verdicts = Vec::new();
        for event in self.device.events().unwrap_or_default() {
            let KmsEvent::Flip { crtc, time, .. } = event;
            if crtc == self.pipeline.crtc() {
                run.flips += 1;
                verdicts.extend(self.pipeline.flipped(time, now).1);
            }
        }
        if let Some((job, ..)) = &self.flying {
            verdicts.extend(self.pipeline.fence_ready(*job, now));
        }
        for action in self.pipeline.tick(now) {
            match action {
                Action::Verdict(verdict) => verdicts.push(verdict),
                Action::Forget(_)
                | Action::Quarantine(_)
                | Action::Suspect { .. }
                | Action::Stalled { .. }
                | Action::Recovered => {}
            }
        }
        for verdict in verdicts {
            self.judge(verdict, run, step);
        }
        Ok(())
    }

    fn judge(&mut self, verdict: Verdict, run: &mut Run, step: usize) {
        let (Verdict::Publish { job, .. } | Verdict::Discard(job, _) | Verdict::Probe(job)) =
            verdict;
        let flying = self.flying.take_if(|(flying, ..)| *flying == job);
        let (Some((_, picture, slot, _)), Verdict::Publish { .. }) = (flying, verdict) else {
            return;
        };
        run.captured += 1;
        let Some(slot) = self.slots.get(slot) else {
            return;
        };
        let layout = slot.layout();
        let mut difference = u8::MAX;
        let read = slot.read(&mut |bytes| {
            difference = pattern::difference(bytes, layout, picture, step);
        });
        // A shifted or stale frame is off by far more than rounding.
        if read.is_err() || difference > super::TOLERANCE {
            run.wrong += 1;
        }
        run.difference = run.difference.max(difference);
    }

    /// The picture on the screen, as it was drawn, without padding.
    pub fn truth(&self) -> Vec<u8> {
        let mut pixels = Vec::new();
        if let Some(picture) = self.pictures.get(self.shown) {
            let layout = picture.layout();
            // What cannot be read agrees with nothing.
            let _ = picture.read(&mut |bytes| pixels = pattern::packed(bytes, layout));
        }
        pixels
    }
}
