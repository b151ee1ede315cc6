//! The capture room: who gets which picture of an output, from which slot of its ring, and when the slot may be
//! written again.
//!
//! Everything but [`copy`] is a decision and not I/O: data in, data out, and the time is an argument. The room knows
//! neither Wayland nor DRM ioctls. `output/` feeds it with what the display did (commits, fences) and asks it before
//! each commit whether the frame is wanted; `protocols/` feeds it with what clients want and carries the
//! [`CaptureEvent`]s to them. Memory reaches it only through [`SlotMemory`] and [`copy::CopyTarget`].
//!
//! - [`ring`]: the slot state machine: leases, pinned newest, draining, quarantine, generations.
//! - `overdue`: jobs that did not end in time, and may still write.
//! - [`OutputCapture`]: one per output; sessions, requests and damage around the ring.
//! - `direct`: when the hardware writes a lone client's own buffer, and no slot.
//! - [`OutputCapture::lend_view`]: a frame in memory of the display, which already has the picture.
//! - `rest`: while the output is off.
//! - [`View`]: with the cursor or without; a session never sees a frame of the other view.
//! - [`lease`]: the RAII handle on a frame. Dropping it is the release.
//! - [`copy`]: damage-limited copies into client memory, by the GPU or on worker threads.

pub mod copy;
mod damage;
mod direct;
mod frame;
mod history;
mod ids;
mod jobs;
mod latency;
pub mod lease;
mod motion;
mod output_capture;
mod overdue;
mod plain;
mod requests;
mod rest;
pub mod ring;
mod session;
mod starving;
pub mod stats;
mod view;

#[cfg(test)]
mod tests;

pub use self::{
    copy::{CopyError, CopyJob, CopyPool, CopyReport, CopyTarget, Outline, TargetLayout},
    damage::DamageSet,
    direct::{Candidate, DirectBuffer, Target},
    frame::{FrameFormat, FrameInfo, Producer, Reader, Readers, Reading, SlotMemory},
    ids::{ClientId, FrameSeq, JobId, RequestId, SessionId, SlotId, TargetId},
    jobs::Completion,
    latency::{Latencies, BOUNDS_MICROS},
    lease::Lease,
    motion::Motion,
    output_capture::{BufferError, CaptureConfig, CaptureEvent, Demand, OutputCapture, Skip},
    plain::PlainMemory,
    requests::{RequestError, MAX_WAITING},
    session::SessionKind,
    stats::{CaptureStats, ClientStats},
    view::{CursorInFrame, PerView, View},
};
