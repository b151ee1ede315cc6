//! Draws numbered pictures full screen on any Wayland compositor: the animation that tests and the
//! benchmark capture, as a process of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../tests/clients/mod.rs"]
mod clients;

use std::time::Duration;

use clap::Parser;
use clients::{clock, Client, MemoryKind, Painter, PainterOptions};

/// Draws numbered pictures full screen.
#[derive(Parser)]
struct Arguments {
    /// Stop after this many pictures (default: never)
    #[arg(long)]
    frames: Option<u32>,
    /// Number of the first picture
    #[arg(long, default_value_t = 1)]
    pattern: u32,
    /// Draw one picture, then stand still
    #[arg(long)]
    still: bool,
    /// At most this many pictures a second (default: as frame callbacks come)
    #[arg(long)]
    fps: Option<u32>,
    /// Buffers from udmabuf instead of shared memory
    #[arg(long)]
    udmabuf: bool,
    /// On this output
    #[arg(long)]
    output: Option<String>,
    /// Stop after this many seconds
    #[arg(long)]
    duration: Option<f64>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut client = Client::from_env()?;
    let memory = if arguments.udmabuf {
        MemoryKind::Udmabuf
    } else {
        MemoryKind::Shm
    };
    let output = match &arguments.output {
        Some(name) => Some(client.output(Some(name))?.proxy),
        None => None,
    };
    let options = PainterOptions {
        memory,
        output,
        ..Default::default()
    };
    let mut painter = Painter::new(&mut client, options)?;
    let end = arguments
        .duration
        .map(|seconds| clock::now() + Duration::from_secs_f64(seconds));
    let over = || end.is_some_and(|end| clock::now() >= end);
    let frames = if arguments.still {
        1
    } else {
        arguments.frames.unwrap_or(u32::MAX)
    };
    let tick = arguments.fps.map(|fps| Duration::from_secs(1) / fps.max(1));
    let mut next = clock::now();
    for i in 0..frames {
        painter.paint(&mut client, arguments.pattern.wrapping_add(i))?;
        painter.wait_frame(&mut client)?;
        if let Some(tick) = tick {
            next += tick;
            client.dispatch_for(next.saturating_sub(clock::now()))?;
        }
        if over() || painter.shell().close {
            return Ok(());
        }
    }
    // The last picture stays while the process lives.
    while arguments.still && !over() && !painter.shell().close {
        client.dispatch_for(Duration::from_millis(100))?;
    }
    Ok(())
}
