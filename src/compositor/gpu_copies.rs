//! Copies into clients' dma-bufs that the GPU makes.
//!
//! `capture::copy::path` says which those are. A copy is handed to the renderer's driver in the event loop, which is quick,
//! and its fence is watched like those of writeback jobs; nobody waits. The copy's job, and with it the lease on the slot,
//! is kept until the GPU is done with both buffers. Whatever fails goes to the worker threads instead, and that buffer from
//! then on. A copy whose fence does not come in time fails for its client, which is told to bring another buffer, since the
//! GPU may still write this one; the GPU is given no more copies until it has ended that one.

use std::{collections::HashMap, os::fd::OwnedFd, sync::Arc, time::Duration};

use rustix::fs::{fcntl_getfl, fstat, OFlags};
use smithay::{
    backend::{
        allocator::dmabuf::{Dmabuf, WeakDmabuf},
        renderer::sync::SyncPoint,
    },
    reexports::{
        calloop::{generic::Generic, Interest, Mode, PostAction},
        wayland_server::protocol::wl_buffer::WlBuffer,
    },
    wayland::dmabuf::get_dmabuf,
};

use super::Vitrine;
use crate::{
    capture::{
        copy::{path, use_gpu, CopyFacts, CopyPath, Gpu, NoGpuCopies},
        CopyError, CopyJob, CopyReport, CopyTarget, Reader, Reading, SlotMemory, TargetId,
    },
    kms::{
        client_target,
        fault::{CopyFault, FaultPlan},
        Fence, FenceStatus,
    },
    render::{GpuAbilities, GpuCopied, GpuCopy},
    time::Time,
};

/// So long may a copy take. A GPU that is not through with it by then is stuck, or works for somebody who does not end.
const PATIENCE: Duration = Duration::from_secs(2);

/// A copy of which no file descriptor tells is asked after so often.
const POLL_INTERVAL: Duration = Duration::from_millis(4);

/// The copies that the GPU has.
#[derive(Debug, Default)]
pub(super) struct GpuCopies {
    /// Copies may go to the GPU.
    allowed: bool,
    last: u64,
    flying: HashMap<u64, Flying>,
    /// Targets that the GPU failed with.
    refused: Vec<WeakDmabuf>,
    /// It was said that it fails with some.
    failed: bool,
    faults: FaultPlan,
}

/// One copy, from the submission until the GPU is done.
#[derive(Debug)]
struct Flying {
    stage: Stage,
    end: End,
    /// The target's memory, whatever buffers its owner makes of it.
    memory: Option<TargetId>,
    target: WeakDmabuf,
    /// The slot is read as long as this is there, whatever becomes of the lease: it may be taken back from a client whose copy
    /// takes its time, and the driver's fence on the slot looks like anybody's.
    reader: Option<Reader>,
}

enum Stage {
    /// Somebody waits for it.
    Due {
        job: CopyJob,
        deadline: Time,
        /// What it is, or why it is worth nothing.
        taken: Result<CopyReport, String>,
    },
    /// It took too long, and nobody waits any more. The GPU may still read the one and write the other.
    Overdue {
        _slot: Arc<dyn SlotMemory>,
        _target: Box<dyn CopyTarget>,
    },
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Stage::Due { .. } => "Due",
            Stage::Overdue { .. } => "Overdue",
        })
    }
}

/// What tells of its end.
#[derive(Debug)]
enum End {
    /// The event loop watches it.
    Fence(Fence),
    /// There is no descriptor to watch: it is asked from time to time.
    Asked(SyncPoint),
}

impl Flying {
    fn is_overdue(&self) -> bool {
        matches!(self.stage, Stage::Overdue { .. })
    }

    fn is_late(&self, now: Time) -> bool {
        matches!(self.stage, Stage::Due { deadline, .. } if deadline <= now)
    }

    /// Whether the GPU is through with it, rightly or not.
    fn is_over(&self) -> bool {
        match &self.end {
            End::Fence(fence) => fence.status() != FenceStatus::Pending,
            End::Asked(sync) => sync.is_reached(),
        }
    }
}

impl GpuCopies {
    /// What is to go wrong on purpose with what the GPU does.
    pub(super) fn faults(&self) -> &FaultPlan {
        &self.faults
    }

    fn is_stuck(&self) -> bool {
        self.flying.values().any(Flying::is_overdue)
    }

    /// Whether a copy that took too long may still write this memory.
    fn holds(&self, memory: TargetId) -> bool {
        let mut overdue = self.flying.values().filter(|copy| copy.is_overdue());
        overdue.any(|copy| copy.memory == Some(memory))
    }

    fn refuse(&mut self, target: WeakDmabuf) {
        self.refused.retain(|known| !known.is_gone());
        if !self.refused.contains(&target) {
            self.refused.push(target);
        }
    }

    /// When to look again even if nothing happens.
    pub(super) fn next_deadline(&self, now: Time) -> Option<Time> {
        let due = |copy: &Flying| match (&copy.end, &copy.stage) {
            (End::Asked(_), _) => Some(now + POLL_INTERVAL),
            (End::Fence(_), Stage::Due { deadline, .. }) => Some(*deadline),
            (End::Fence(_), Stage::Overdue { .. }) => None,
        };
        self.flying.values().filter_map(due).min()
    }
}

/// The memory of a dma-buf: each has an inode number of its own.
fn memory_of(dmabuf: &Dmabuf) -> Option<TargetId> {
    let status = fstat(dmabuf.handles().next()?).ok()?;
    Some(TargetId(status.st_ino))
}

fn is_writable(dmabuf: &Dmabuf) -> bool {
    let access = |fd| fcntl_getfl(fd).map(|flags| flags.intersection(OFlags::ACCMODE));
    dmabuf.handles().all(|fd| access(fd) == Ok(OFlags::RDWR))
}

fn driver(abilities: Option<&GpuAbilities>) -> Result<Gpu, NoGpuCopies> {
    let gpu = abilities.ok_or(NoGpuCopies::NoGpu)?;
    match (gpu.native_fences, gpu.blits, gpu.software) {
        (false, _, _) => Err(NoGpuCopies::NoFences),
        (true, false, _) => Err(NoGpuCopies::NoBlit),
        (true, true, true) => Ok(Gpu::Software),
        (true, true, false) => Ok(Gpu::Hardware),
    }
}

impl Vitrine {
    /// The renderer was chosen: says who copies.
    pub(super) fn choose_copier(&mut self, abilities: Option<&GpuAbilities>) -> anyhow::Result<()> {
        self.gpu_copies.faults = FaultPlan::from_env("VITRINE_FAULTS")?;
        let chosen = use_gpu(self.config.capture.gpu_copies, driver(abilities));
        self.gpu_copies.allowed = chosen.is_ok();
        let name = abilities.map(|gpu| gpu.name.as_str()).unwrap_or_default();
        match chosen {
            Ok(()) => {
                tracing::info!(target: "vitrine::capture", gpu = name, "copies into dma-bufs are made by the GPU");
            }
            Err(reason) => {
                tracing::info!(target: "vitrine::capture", gpu = name, %reason, "copies are made by worker threads");
            }
        }
        Ok(())
    }

    /// Whether copies go to the GPU where they can.
    pub(super) fn has_gpu_copies(&self) -> bool {
        self.gpu_copies.allowed
    }

    /// Whether a copy that took too long may still write this buffer's memory.
    pub(super) fn is_held_by_gpu(&self, buffer: &WlBuffer) -> bool {
        let held = |dmabuf| memory_of(dmabuf).is_some_and(|memory| self.gpu_copies.holds(memory));
        self.gpu_copies.is_stuck() && get_dmabuf(buffer).is_ok_and(held)
    }

    /// Gives a copy to the GPU or to the workers.
    pub(super) fn copy(&mut self, job: CopyJob) {
        let target = job.target.buffer();
        let to = target.as_ref().and_then(|any| any.downcast_ref::<Dmabuf>());
        match path(&self.copy_facts(&job, to)) {
            CopyPath::Nobody => job.finish(Err(held_by_gpu())),
            CopyPath::Worker(reason) => {
                tracing::trace!(target: "vitrine::capture", lease = ?job.lease, %reason, "a worker copies");
                self.copy_pool.submit(job);
            }
            CopyPath::Gpu => match to {
                Some(to) => self.copy_by_gpu(job, to),
                None => self.copy_pool.submit(job),
            },
        }
    }

    fn copy_facts(&self, job: &CopyJob, to: Option<&Dmabuf>) -> CopyFacts {
        let copies = &self.gpu_copies;
        // Who has no GPU pays nothing for one.
        let from = copies.allowed.then(|| job.lease.memory().buffer());
        let from = from.flatten();
        let from = from.as_ref().and_then(|any| any.downcast_ref::<Dmabuf>());
        let to = to.filter(|_| copies.allowed);
        let held = |to| memory_of(to).is_some_and(|memory| copies.holds(memory));
        CopyFacts {
            gpu: copies.allowed,
            stuck: copies.is_stuck(),
            held: copies.is_stuck() && to.is_some_and(held),
            from_buffer: from.is_some(),
            to_buffer: to.is_some(),
            writable: to.is_some_and(is_writable),
            idle: from.is_some_and(client_target::is_written)
                // Some drivers wait for readers before they read.
                && job.lease.memory().reading() != Reading::Fenced
                && to.is_some_and(client_target::is_idle),
            refused: to.is_some_and(|to| copies.refused.contains(&to.weak())),
            from: job.lease.frame().format.fourcc,
            to: job.target.layout().fourcc,
        }
    }

    fn copy_by_gpu(&mut self, job: CopyJob, to: &Dmabuf) {
        let outline = match job.outline() {
            Ok(outline) => outline,
            Err(error) => return job.finish(Err(error)),
        };
        let source = job.lease.memory().buffer();
        let from = source.as_ref().and_then(|any| any.downcast_ref::<Dmabuf>());
        tracing::trace!(target: "vitrine::capture", lease = ?job.lease, "the GPU copies");
        self.gpu_copies.last += 1;
        let number = self.gpu_copies.last;
        let fault = self.gpu_copies.faults.copy(number);
        let copy = GpuCopy {
            rects: &outline.rects,
            origin: (outline.area.loc.x, outline.area.loc.y),
            opaque: outline.opaque,
        };
        let reader = job.lease.memory().begin_reading();
        let submitted = match (from, fault) {
            (_, Some(CopyFault::Refused)) => Err("refused on purpose".to_owned()),
            (None, _) => Err("the frame is not for a GPU".to_owned()),
            (Some(from), _) => self
                .renderer
                .copy_by_gpu(from, to, copy)
                .map_err(|error| error.to_string()),
        };
        let GpuCopied { sync, taken } = match submitted {
            Ok(copied) => copied,
            Err(error) => return self.left_to_workers(job, to.weak(), &error),
        };
        let end = match sync.export().and_then(|fd| fence_of(fd, fault)) {
            Some(fence) => End::Fence(fence),
            None => End::Asked(sync.clone()),
        };
        let mut copy = Flying {
            stage: Stage::Due {
                job,
                deadline: Time::now() + PATIENCE,
                taken: taken
                    .map(|()| outline.report)
                    .map_err(|error| error.to_string()),
            },
            end,
            memory: memory_of(to),
            target: to.weak(),
            reader,
        };
        if copy.is_over() {
            return self.gpu_copy_ended(copy);
        }
        if !self.watch_gpu_copy(number, &copy.end) {
            copy.end = End::Asked(sync);
        }
        self.gpu_copies.flying.insert(number, copy);
    }

    fn watch_gpu_copy(&self, number: u64, end: &End) -> bool {
        let End::Fence(fence) = end else {
            return true;
        };
        let watched = Generic::new(fence.clone(), Interest::READ, Mode::Level);
        let inserted = self.event_loop.insert_source(watched, move |_, _, state| {
            if let Some(copy) = state.gpu_copies.flying.remove(&number) {
                state.gpu_copy_ended(copy);
            }
            Ok(PostAction::Remove)
        });
        if let Err(error) = &inserted {
            tracing::warn!(target: "vitrine::capture", %error, "the fence of a copy cannot be watched");
        }
        inserted.is_ok()
    }

    /// The GPU is through with a copy.
    fn gpu_copy_ended(&mut self, copy: Flying) {
        let done = match &copy.end {
            End::Asked(_) => Ok(()),
            End::Fence(fence) => match fence.status() {
                FenceStatus::Signaled => Ok(()),
                FenceStatus::Failed(errno) => Err(format!("its fence has the error {errno}")),
                // Readable and pending: whatever that descriptor is, it is no fence.
                FenceStatus::Pending => Err("its fence is none".to_owned()),
            },
        };
        drop(copy.reader);
        match copy.stage {
            Stage::Due { job, taken, .. } => match done.and(taken) {
                Ok(report) => job.finish(Ok(report)),
                Err(error) => self.left_to_workers(job, copy.target, &error),
            },
            Stage::Overdue { .. } => {
                tracing::info!(target: "vitrine::capture", "an overdue copy of the GPU has ended");
            }
        }
    }

    /// The GPU is through with the buffers, or never had them.
    fn left_to_workers(&mut self, job: CopyJob, target: WeakDmabuf, error: &str) {
        let text = "the GPU cannot copy into a client's buffer; worker threads do, from now on";
        // A client can bring any number of such buffers.
        match std::mem::replace(&mut self.gpu_copies.failed, true) {
            false => {
                tracing::warn!(target: "vitrine::capture", lease = ?job.lease, error, "{text} (said once)");
            }
            true => {
                tracing::debug!(target: "vitrine::capture", lease = ?job.lease, error, "{text}");
            }
        }
        self.gpu_copies.refuse(target);
        self.copy_pool.submit(job);
    }

    /// What is due at this time: copies that took too long, and those that have to be asked.
    pub(super) fn check_gpu_copies(&mut self, now: Time) {
        let flying = std::mem::take(&mut self.gpu_copies.flying);
        for (number, mut copy) in flying {
            if matches!(copy.end, End::Asked(_)) && copy.is_over() {
                self.gpu_copy_ended(copy);
                continue;
            }
            if copy.is_late(now) {
                copy.stage = give_up(copy.stage);
                // Who waited for that memory gets no job of the display there either.
                if let Some(memory) = copy.memory {
                    let captures = self.captures.values_mut();
                    captures.for_each(|capture| capture.refuse_target(memory));
                }
            }
            self.gpu_copies.flying.insert(number, copy);
        }
    }
}

fn fence_of(fd: OwnedFd, fault: Option<CopyFault>) -> Option<Fence> {
    match fault {
        Some(CopyFault::Fence(fault)) => Fence::with_fault(fd, fault).ok(),
        Some(CopyFault::Refused) | None => Some(Fence::from_sync_file(fd)),
    }
}

/// Tells the client, and keeps what the GPU may still use. The client is not to be charged for a frame that it does not hold.
fn give_up(stage: Stage) -> Stage {
    let Stage::Due { job, .. } = stage else {
        return stage;
    };
    tracing::warn!(target: "vitrine::capture", lease = ?job.lease, "the GPU does not end a copy; it is given no more until it does");
    let CopyJob {
        lease,
        target,
        done,
        area: _,
        rects: _,
    } = job;
    let memory = Arc::clone(lease.memory());
    drop(lease);
    done(Err(held_by_gpu()));
    Stage::Overdue {
        _slot: memory,
        _target: target,
    }
}

/// The client gets another picture as soon as it brings another buffer.
fn held_by_gpu() -> CopyError {
    CopyError::BufferConstraints("a copy that the GPU does not end may still write it".to_owned())
}
