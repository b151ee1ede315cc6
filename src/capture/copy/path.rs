//! Who makes a copy: the GPU, or a worker thread. Decisions only; the facts come from whoever knows them.
//!
//! A GPU copy costs the event loop a few draw calls and the CPU nothing, but it needs a driver of which somebody can hear
//! when it is done, and memory that the driver can write. All else is for the workers, which can write whatever the CPU can.

use std::fmt;

use drm_fourcc::DrmFourcc;

use crate::{capture::copy::pixels, config::GpuChoice};

/// A driver that can say when a copy is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gpu {
    /// A device of its own.
    Hardware,
    /// The same CPU, and partly in the event loop's thread.
    Software,
}

/// Why the GPU makes no copies at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoGpuCopies {
    /// As configured.
    #[error("gpu_copies is \"off\"")]
    Off,
    /// The renderer is pixman.
    #[error("the renderer has no GPU")]
    NoGpu,
    /// Without native fences somebody would have to block. They are also what tells a software driver that can write the
    /// memory of others from older ones, which take it and then die of it.
    #[error("the GL driver has no native fences (EGL_ANDROID_native_fence_sync)")]
    NoFences,
    /// OpenGL ES 2.
    #[error("the GL driver cannot copy between buffers (OpenGL ES 3)")]
    NoBlit,
    /// It would be the CPU's work as well, in one thread more.
    #[error("the GL driver draws on the CPU; worker threads copy as well")]
    Software,
}

/// Whether copies may go to the GPU, by what its driver can do.
///
/// # Errors
/// Why not.
pub fn use_gpu(choice: GpuChoice, driver: Result<Gpu, NoGpuCopies>) -> Result<(), NoGpuCopies> {
    match (choice, driver) {
        (GpuChoice::Off, _) => Err(NoGpuCopies::Off),
        (GpuChoice::Auto | GpuChoice::On, Err(why)) => Err(why),
        (GpuChoice::Auto, Ok(Gpu::Software)) => Err(NoGpuCopies::Software),
        (GpuChoice::Auto, Ok(Gpu::Hardware)) | (GpuChoice::On, Ok(_)) => Ok(()),
    }
}

/// What decides about one copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyFacts {
    /// [`use_gpu`] allows it.
    pub gpu: bool,
    /// An earlier copy is overdue: the GPU may be stuck.
    pub stuck: bool,
    /// Such a copy may still write this very memory.
    pub held: bool,
    /// The frame lies in a buffer that the GPU knows.
    pub from_buffer: bool,
    /// The target is a dma-buf.
    pub to_buffer: bool,
    /// Its owner may write the target himself. A driver would write what may only be read, such as our own ring.
    pub writable: bool,
    /// Nobody else's hardware uses the target or the frame now, as far as fences tell. The GPU would wait for that, and with it
    /// all that is drawn later.
    pub idle: bool,
    /// The GPU failed with this target before.
    pub refused: bool,
    /// Format of the frame.
    pub from: DrmFourcc,
    /// Format of the target.
    pub to: DrmFourcc,
}

/// Who makes a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyPath {
    /// The GPU.
    Gpu,
    /// A worker thread.
    Worker(WorkerReason),
    /// Nobody: two would write one memory.
    Nobody,
}

/// Why a worker makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerReason {
    /// The GPU makes no copies at all.
    NoGpu,
    /// The frame or the target is ordinary memory.
    Memory,
    /// The formats are not two of those with 8 bits per channel in 32.
    Format,
    /// The target's descriptor is not for writing.
    ReadOnly,
    /// Fences of the target or of the frame are pending.
    Busy,
    /// The GPU failed with this target before.
    Refused,
    /// The GPU seems to be stuck.
    Stuck,
}

impl fmt::Display for WorkerReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WorkerReason::NoGpu => "no GPU makes copies",
            WorkerReason::Memory => "ordinary memory",
            WorkerReason::Format => "a format that only the CPU copies",
            WorkerReason::ReadOnly => "its descriptor is not for writing",
            WorkerReason::Busy => "others still use the memory",
            WorkerReason::Refused => "the GPU failed with this target before",
            WorkerReason::Stuck => "an earlier copy of the GPU is overdue",
        })
    }
}

/// Who makes the copy.
pub fn path(facts: &CopyFacts) -> CopyPath {
    if facts.held {
        return CopyPath::Nobody;
    }
    let worker = match () {
        () if !facts.gpu => WorkerReason::NoGpu,
        () if !facts.from_buffer || !facts.to_buffer => WorkerReason::Memory,
        () if !pixels::is_plain(facts.from) || !pixels::is_plain(facts.to) => WorkerReason::Format,
        () if !facts.writable => WorkerReason::ReadOnly,
        () if facts.refused => WorkerReason::Refused,
        () if facts.stuck => WorkerReason::Stuck,
        () if !facts.idle => WorkerReason::Busy,
        () => return CopyPath::Gpu,
    };
    CopyPath::Worker(worker)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: CopyFacts = CopyFacts {
        gpu: true,
        stuck: false,
        held: false,
        from_buffer: true,
        to_buffer: true,
        writable: true,
        idle: true,
        refused: false,
        from: DrmFourcc::Xrgb8888,
        to: DrmFourcc::Argb8888,
    };

    #[test]
    fn the_operator_and_the_driver_have_to_agree_on_the_gpu() {
        use GpuChoice::{Auto, Off, On};
        assert_eq!(use_gpu(Auto, Ok(Gpu::Hardware)), Ok(()));
        assert_eq!(use_gpu(Auto, Ok(Gpu::Software)), Err(NoGpuCopies::Software));
        assert_eq!(use_gpu(On, Ok(Gpu::Software)), Ok(()));
        assert_eq!(use_gpu(Off, Ok(Gpu::Hardware)), Err(NoGpuCopies::Off));
        // Nobody can wish for what would block the loop, or end the process.
        for why in [
            NoGpuCopies::NoGpu,
            NoGpuCopies::NoFences,
            NoGpuCopies::NoBlit,
        ] {
            assert_eq!(use_gpu(On, Err(why)), Err(why));
            assert_eq!(use_gpu(Auto, Err(why)), Err(why));
        }
    }

    #[test]
    fn the_gpu_copies_only_if_everything_is_as_it_needs_it() {
        assert_eq!(path(&GOOD), CopyPath::Gpu);
        let to = DrmFourcc::Abgr8888;
        assert_eq!(path(&CopyFacts { to, ..GOOD }), CopyPath::Gpu);
        let worker = |facts| match path(&facts) {
            CopyPath::Worker(reason) => Some(reason),
            CopyPath::Gpu | CopyPath::Nobody => None,
        };
        let cases = [
            (CopyFacts { gpu: false, ..GOOD }, WorkerReason::NoGpu),
            (
                CopyFacts {
                    from_buffer: false,
                    ..GOOD
                },
                WorkerReason::Memory,
            ),
            (
                CopyFacts {
                    to_buffer: false,
                    ..GOOD
                },
                WorkerReason::Memory,
            ),
            (
                CopyFacts {
                    from: DrmFourcc::Xrgb2101010,
                    to: DrmFourcc::Xrgb2101010,
                    ..GOOD
                },
                WorkerReason::Format,
            ),
            (
                CopyFacts {
                    writable: false,
                    ..GOOD
                },
                WorkerReason::ReadOnly,
            ),
            (
                CopyFacts {
                    refused: true,
                    ..GOOD
                },
                WorkerReason::Refused,
            ),
            (
                CopyFacts {
                    stuck: true,
                    ..GOOD
                },
                WorkerReason::Stuck,
            ),
            (
                CopyFacts {
                    idle: false,
                    ..GOOD
                },
                WorkerReason::Busy,
            ),
        ];
        for (facts, reason) in cases {
            assert_eq!(worker(facts), Some(reason), "{facts:?}");
        }
    }

    #[test]
    fn memory_that_a_lost_copy_may_still_write_is_written_by_nobody_else() {
        let lost = CopyFacts {
            held: true,
            stuck: true,
            ..GOOD
        };
        assert_eq!(path(&lost), CopyPath::Nobody);
        assert_eq!(path(&CopyFacts { gpu: false, ..lost }), CopyPath::Nobody);
    }
}
