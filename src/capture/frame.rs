//! What a frame is, and what the room needs from the memory that it lies in.

use std::{
    fmt::Debug,
    io,
    os::fd::{BorrowedFd, OwnedFd},
    sync::Arc,
};

use drm_fourcc::{DrmFourcc, DrmModifier};

use crate::{
    capture::{
        direct::DirectBuffer,
        ids::{FrameSeq, SlotId},
        view::CursorInFrame,
    },
    geometry::Rect,
    time::Time,
};

/// Who wrote the pixels of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Producer {
    /// The display controller's writeback connector: everything that is on the screen.
    Writeback,
    /// The compositor's renderer: what the compositor itself put on the screen.
    Render,
}

/// How the pixels of a slot lie in its memory. There is one memory plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameFormat {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Pixel format.
    pub fourcc: DrmFourcc,
    /// Layout of the pixels; writeback connectors only write linear ones.
    pub modifier: DrmModifier,
    /// Bytes from one row to the next.
    pub stride: u32,
    /// Bytes from the start of the memory to the first pixel.
    pub offset: u32,
}

impl Producer {
    /// As in compositor.toml, for logs.
    pub const fn name(self) -> &'static str {
        match self {
            Producer::Writeback => "writeback",
            Producer::Render => "render",
        }
    }
}

impl FrameFormat {
    /// The rectangle of all pixels. Sizes past `i32::MAX` saturate; no buffer of that size exists.
    pub fn full(&self) -> Rect {
        let side = |pixels: u32| i32::try_from(pixels).unwrap_or(i32::MAX);
        Rect::from_size((side(self.width), side(self.height)).into())
    }
}

/// A published frame: which picture it is, where it lies, and what changed. It does not keep the slot; a
/// [`Lease`](crate::capture::Lease) does.
#[derive(Debug, Clone, PartialEq)]
pub struct FrameInfo {
    /// Its number on this output.
    pub seq: FrameSeq,
    /// Where it lies.
    pub slot: SlotId,
    /// Who wrote it.
    pub producer: Producer,
    /// What it has of the cursor.
    pub cursor: CursorInFrame,
    /// When the flip that it shows was presented.
    pub presented: Time,
    /// How its pixels lie in memory.
    pub format: FrameFormat,
    /// What changed since the previously published frame of its views. What changed for one session comes with its delivery.
    pub damage: Vec<Rect>,
}

/// Who still reads the memory of a slot that nobody leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Nobody, as far as can be known.
    Over,
    /// Perhaps a client's hardware: fences are pending on the memory, and nothing that works for us has put them there. They may
    /// mean nothing, and may never signal.
    Fenced,
    /// Hardware that works for us. The memory is not written before it has ended.
    Ours,
}

/// Those who read a slot for us whether it is leased or not: devices that go on when nobody waits for them any more.
#[derive(Debug, Default)]
pub struct Readers(Arc<()>);

/// One of them. The slot is not written while it is there; no client is charged for it.
#[derive(Debug)]
pub struct Reader(#[allow(dead_code, reason = "it is there to be counted")] Arc<()>);

impl Readers {
    /// One more, until it is dropped.
    pub fn begin(&self) -> Reader {
        Reader(Arc::clone(&self.0))
    }

    /// Whether there are none.
    pub fn are_idle(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Who reads, where `fences_idle` tells whether all fences on the memory have signalled. Fences of our own devices count
    /// as ours: they are readers until their fences have.
    pub fn reading(&self, fences_idle: impl FnOnce() -> bool) -> Reading {
        match self.are_idle() {
            false => Reading::Ours,
            true if fences_idle() => Reading::Over,
            true => Reading::Fenced,
        }
    }
}

/// The memory of a slot. `output/` implements it over a GBM buffer and its dma-buf.
pub trait SlotMemory: Send + Sync + Debug {
    /// A new read-only dma-buf descriptor of the memory.
    ///
    /// # Errors
    /// The process or the system has no descriptor left, or the driver refuses.
    fn export(&self) -> io::Result<OwnedFd>;

    /// The read-only dma-buf itself, for senders that make the client's duplicate themselves; else [`export`](Self::export).
    fn dmabuf(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Calls `f` once with all bytes of the memory, in sync with what the hardware wrote.
    ///
    /// # Errors
    /// The memory cannot be mapped or synced; `f` was not called then.
    fn read(&self, f: &mut dyn FnMut(&[u8])) -> io::Result<()>;

    /// The same memory for a GPU, which reads it.
    fn buffer(&self) -> Option<DirectBuffer> {
        None
    }

    /// Makes [`reading`](Self::reading) say that it is read for us. `None` for memory that no device reads.
    fn begin_reading(&self) -> Option<Reader> {
        None
    }

    /// Who still reads the memory although nobody leases it. Never blocks.
    fn reading(&self) -> Reading;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_are_idle_when_the_last_one_is_gone() {
        let readers = Readers::default();
        assert!(readers.are_idle());
        let (one, other) = (readers.begin(), readers.begin());
        drop(one);
        assert!(!readers.are_idle());
        drop(other);
        assert!(readers.are_idle());
    }

    #[test]
    fn whoever_reads_for_us_counts_more_than_fences() {
        let readers = Readers::default();
        let reader = readers.begin();
        assert_eq!(readers.reading(|| true), Reading::Ours);
        assert_eq!(readers.reading(|| false), Reading::Ours);
        drop(reader);
        assert_eq!(readers.reading(|| false), Reading::Fenced);
        assert_eq!(readers.reading(|| true), Reading::Over);
    }
}
