//! Real Wayland clients for the integration tests, the benchmark and the demo.
//!
//! Everything here speaks only published protocols over a socket: it knows nothing of Vitrine's own
//! code, so it can be pointed at any compositor. A [`Client`] is one connection; painters, capture
//! sessions and exporters are made on it and several of them can live on the same connection.
//! Nothing waits without a deadline: a hung server ends in [`ClientError::Timeout`].
//!
//! Included by `#[path = …] mod clients;`, so each user sees only a part of it as used.
#![allow(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]
#![allow(
    clippy::indexing_slicing,
    reason = "test code: a wrong index is a failed test"
)]

pub mod buffers;
pub mod clock;
pub mod connect;
pub mod copy_capture;
pub mod cursor_session;
pub mod export_dmabuf;
pub mod flooder;
pub mod output;
pub mod output_power;
pub mod painter;
pub mod picture;
pub mod pointer;
pub mod presentation;
pub mod programs;
pub mod screencopy;
pub mod session_lock;
pub mod stats;

pub use buffers::{Buffer, MemoryKind};
pub use connect::{Client, ClientError, State};
pub use copy_capture::{CopyOutcome, CopySession};
pub use export_dmabuf::{ExportOutcome, ExportedFrame, Exporter, Holding};
pub use flooder::Flooder;
pub use output::OutputInfo;
pub use output_power::OutputPower;
pub use painter::{Painter, PainterOptions};
pub use picture::{identify, pattern, Picture, Rect};
pub use screencopy::{ScreencopyFrame, ScreencopyManager};
pub use session_lock::Locker;
pub use stats::CaptureStats;
