//! Damage-limited copies of frames into client memory, by the GPU or on worker threads.
//!
//! [`path`] says by whom. The workers are here; who has a GPU makes the copy that a [`CopyJob`] describes
//! ([`CopyJob::outline`]) and ends it as the workers do ([`CopyJob::finish`]).
//!
//! Knows neither Wayland nor the clients: a [`CopyTarget`] is bytes with a layout, which may be missing or fail at any
//! moment (a client may shrink its pool during the copy).

mod path;
mod pixels;
mod pool;

use std::{
    io,
    panic::{catch_unwind, AssertUnwindSafe},
};

use drm_fourcc::DrmFourcc;

use crate::{
    capture::{
        damage::clip, direct::DirectBuffer, frame::FrameFormat, lease::Lease,
        output_capture::TARGET,
    },
    geometry::Rect,
};

pub use self::{
    path::{path, use_gpu, CopyFacts, CopyPath, Gpu, NoGpuCopies, WorkerReason},
    pixels::can_convert,
    pool::CopyPool,
};

/// How the pixels of a target lie in its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetLayout {
    /// Pixels in a row; must be those of the copied area.
    pub width: u32,
    /// Rows; must be those of the copied area.
    pub height: u32,
    /// Pixel format; see [`can_convert`].
    pub fourcc: DrmFourcc,
    /// Bytes from one row to the next.
    pub stride: u32,
    /// Bytes from the start of what `with_bytes` gives to the first pixel.
    pub offset: u32,
}

/// Memory that a frame is copied to.
pub trait CopyTarget: Send {
    /// How the pixels lie in the bytes.
    fn layout(&self) -> TargetLayout;

    /// Calls `f` once with all bytes of the target.
    ///
    /// # Errors
    /// The memory is gone or failed while it was written (SIGBUS); then nothing is known of what it holds.
    fn with_bytes(&mut self, f: &mut dyn FnMut(&mut [u8])) -> Result<(), CopyError>;

    /// The same memory for devices, if they can write it.
    fn buffer(&self) -> Option<DirectBuffer> {
        None
    }
}

/// Copies pixels from one memory to another, outside of any session: `source` has the layout `from`, `target` the layout
/// `to`; what of `rects` is outside of the picture is ignored.
///
/// # Errors
/// Sizes or formats do not fit each other, or a memory is shorter than its layout says.
pub fn copy_pixels(
    from: FrameFormat,
    source: &[u8],
    to: TargetLayout,
    target: &mut [u8],
    rects: &[Rect],
) -> Result<CopyReport, CopyError> {
    pixels::Plan::new(from, from.full(), to)?.run(source, target, rects)
}

/// One copy.
pub struct CopyJob {
    /// The frame; released when the copy is made, before `done`.
    pub lease: Lease,
    /// The part of the frame that the target holds; `None` for all of it. Its top left pixel becomes the target's.
    pub area: Option<Rect>,
    /// The pixels to be copied, in coordinates of the frame; what is outside of the area is ignored.
    pub rects: Vec<Rect>,
    /// Where to.
    pub target: Box<dyn CopyTarget>,
    /// Is called exactly once, on a worker thread, or on the submitting one if the job was refused. Must be short and not
    /// block: send a message to the event loop.
    pub done: Box<dyn FnOnce(Result<CopyReport, CopyError>) + Send>,
}

/// What there is to copy: sizes and formats fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// The part of the frame whose top left pixel becomes the target's.
    pub area: Rect,
    /// Pixels of the frame, all inside of the area.
    pub rects: Vec<Rect>,
    /// The target has an alpha channel that the frame does not have: these pixels become opaque.
    pub opaque: bool,
    /// What a copy of them is.
    pub report: CopyReport,
}

impl CopyJob {
    /// What there is to copy, for a copy that does not go through the CPU.
    ///
    /// # Errors
    /// Sizes or formats do not fit each other.
    pub fn outline(&self) -> Result<Outline, CopyError> {
        let format = self.lease.frame().format;
        let area = self.area.unwrap_or_else(|| format.full());
        let plan = pixels::Plan::new(format, area, self.target.layout())?;
        let rects = self.rects.iter().filter_map(|rect| clip(*rect, area));
        let rects: Vec<Rect> = rects.collect();
        Ok(Outline {
            area,
            opaque: plan.fills_alpha(),
            report: plan.report(&rects),
            rects,
        })
    }

    /// Frees the target and the slot, then says so: whoever hears it may ask for the next frame at once. What was read
    /// after the frame was taken back may be another picture.
    pub fn finish(self, result: Result<CopyReport, CopyError>) {
        let Self {
            lease,
            target,
            done,
            area: _,
            rects: _,
        } = self;
        let result = match lease.is_void() {
            true => result.and(Err(CopyError::Void)),
            false => result,
        };
        let ended = catch_unwind(AssertUnwindSafe(move || {
            // The other way round a job could be in that memory before the CPU's access to it has ended.
            drop(target);
            drop(lease);
            done(result);
        }));
        if ended.is_err() {
            tracing::error!(target: TARGET, "the end of a copy panicked");
        }
    }
}

/// What a copy did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopyReport {
    /// Bytes written.
    pub bytes: u64,
    /// Rectangles copied.
    pub rects: u32,
    /// The GPU made it, and no worker thread.
    pub gpu: bool,
}

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The target does not fit the frame. The client must make another buffer.
    #[error("the buffer does not fit the frame: {0}")]
    BufferConstraints(String),
    /// Reading the frame or writing the target failed.
    #[error("the copy failed: {0}")]
    Io(#[from] io::Error),
    /// The frame was taken back during the copy.
    #[error("the frame was taken back during the copy")]
    Void,
    /// Too many copies wait, or the pool is shut down.
    #[error("too many copies wait already")]
    Busy,
    /// The worker hit a defect of the compositor; the log has more.
    #[error("the copy worker failed; this is a defect of the compositor")]
    Panicked,
}

impl CopyError {
    /// Whether a buffer that fits the current constraints would have worked: the protocols' `buffer_constraints`. All
    /// others are `unknown`.
    pub fn is_constraints(&self) -> bool {
        matches!(self, CopyError::BufferConstraints(_))
    }
}
