//! The promises of the room, one sentence per test, and random lives of rings and outputs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that panics has found something"
)]

mod copy;
mod damage;
mod direct;
mod fences;
mod history;
mod liveness;
mod model;
mod motion;
mod rest;
mod ring;
mod rules;
mod stream;

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        Arc,
    },
    time::Duration,
};

use drm_fourcc::{DrmFourcc, DrmModifier};

use super::*;
use crate::{geometry::Rect, time::Time};

pub const SIDE: u32 = 64;
pub const REFRESH: Duration = Duration::from_millis(16);

/// A slot's memory that knows which job wrote it last.
#[derive(Debug)]
pub struct Stamped {
    pub stamp: AtomicU64,
    /// Hardware that works for us reads it.
    pub ours: AtomicBool,
    /// Some client has put a fence onto it.
    pub fenced: AtomicBool,
}

impl SlotMemory for Stamped {
    fn export(&self) -> io::Result<OwnedFd> {
        Ok(std::fs::File::open("/dev/null")?.into())
    }

    fn read(&self, f: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        f(&self.stamp.load(Ordering::Relaxed).to_le_bytes());
        Ok(())
    }

    fn reading(&self) -> Reading {
        let is = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        match (is(&self.ours), is(&self.fenced)) {
            (true, _) => Reading::Ours,
            (false, true) => Reading::Fenced,
            (false, false) => Reading::Over,
        }
    }
}

pub fn stamped(count: usize) -> Vec<Arc<Stamped>> {
    let new = || Stamped {
        stamp: AtomicU64::new(0),
        ours: AtomicBool::new(false),
        fenced: AtomicBool::new(false),
    };
    (0..count).map(|_| Arc::new(new())).collect()
}

pub fn memories(stamped: &[Arc<Stamped>]) -> Vec<Arc<dyn SlotMemory>> {
    stamped
        .iter()
        .map(|memory| Arc::clone(memory) as Arc<dyn SlotMemory>)
        .collect()
}

pub fn format() -> FrameFormat {
    FrameFormat {
        width: SIDE,
        height: SIDE,
        fourcc: DrmFourcc::Xrgb8888,
        modifier: DrmModifier::Linear,
        stride: SIDE * 4,
        offset: 0,
    }
}

pub fn rect(x: i32, y: i32, w: i32, h: i32) -> Rect {
    Rect::new((x, y).into(), (w, h).into())
}

pub fn ms(milliseconds: u64) -> Time {
    Time::from_duration(Duration::from_millis(milliseconds))
}

pub const EXPORT: SessionKind = SessionKind::Export {
    overlay_cursor: true,
};
pub const BARE_EXPORT: SessionKind = SessionKind::Export {
    overlay_cursor: false,
};
pub const BARE_COPY: SessionKind = SessionKind::Copy {
    paint_cursors: false,
};
pub const COPY: SessionKind = SessionKind::Copy {
    paint_cursors: true,
};
