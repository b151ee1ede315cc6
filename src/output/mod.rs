//! One screen: what happens in each frame. Joins `kms`, `render` and `capture`.
//!
//! Must not know: Wayland globals, the capture protocols, the event loop. Comes from: `compositor`, which says what
//! happened (a change, a flip, a fence, a turn of the loop). Goes to: `kms` commits and `capture`'s slot states.

mod bring_up;
mod chain;
mod copier;
mod cursor_plane;
mod describe;
mod draft;
mod draw;
mod feedback;
mod jobs;
mod lending;
mod passthrough;
mod picture;
mod pointer;
mod power;
mod produce;
mod producer;
mod refusals;
mod render_jobs;
mod report;
mod ring;
mod scanout;
mod schedule;
mod screen;
mod shared;
mod slot_contents;
mod targets;
mod window_slot;

use smithay::{
    input::pointer::CursorImageStatus,
    output::Output,
    utils::{Logical, Point},
};

use crate::{
    capture::OutputCapture,
    config::Indicator,
    kms::{FaultPlan, Fence, JobId},
    render::Renderer,
    shell::Shell,
    time::Time,
};

pub use copier::{Copier, Filled, Order, Owner, Unfilled, Work};
pub use describe::describe;
pub use power::{PowerMode, PowerNews, PowerReport};
pub use report::ScreenReport;
pub use screen::{Screen, ScreenError, ScreenSetup};
pub use window_slot::WindowSlot;

/// The pointer, in the logical coordinates of all screens.
#[derive(Debug, Clone)]
pub struct Pointer {
    /// Where it points.
    pub at: Point<f64, Logical>,
    /// What it looks like; never hidden.
    pub look: CursorImageStatus,
}

/// What a screen needs of the world to do a step.
#[derive(Debug)]
pub struct StepContext<'a> {
    /// The time of this turn of the loop.
    pub now: Time,
    /// The windows.
    pub shell: &'a Shell,
    /// Draws them.
    pub renderer: &'a mut Renderer,
    /// The capture side of this output.
    pub capture: &'a mut OutputCapture,
    /// The pointer, if it is visible.
    pub pointer: Option<&'a Pointer>,
    /// Whether a captured screen shows that it is.
    pub indicator: Indicator,
    /// What is to go wrong on purpose.
    pub faults: &'a FaultPlan,
}

/// A fence that the event loop is to watch.
#[derive(Debug)]
pub struct PendingFence {
    /// Whose job it is.
    pub output: Output,
    /// The job.
    pub job: JobId,
    /// Readable when the job is over.
    pub fence: Fence,
}

/// What came of a step.
#[derive(Debug, Default)]
pub struct Step {
    /// A new job's fence.
    pub fence: Option<PendingFence>,
    /// What the copying thread is to do.
    pub orders: Vec<Order>,
    /// Jobs whose fences need not be watched any more.
    pub forget: Vec<JobId>,
    /// When to come back even if nothing happens.
    pub wake: Option<Time>,
}
