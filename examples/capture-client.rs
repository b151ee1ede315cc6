//! A capture client as a process of its own, to be stopped, killed and counted: export-dmabuf or
//! ext-image-copy-capture, on any compositor.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../tests/clients/mod.rs"]
mod clients;

use std::{path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum};
use clients::{
    clock, copy_capture::picture_of, picture::write_apng, picture::write_png, CaptureStats, Client,
    CopySession, Exporter, Holding, MemoryKind, Picture,
};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Protocol {
    /// wlr-export-dmabuf
    Export,
    /// ext-image-copy-capture into shared memory
    Copy,
    /// ext-image-copy-capture into dma-bufs of udmabuf
    CopyDmabuf,
}

/// Captures an output and counts.
#[derive(Parser)]
struct Arguments {
    /// How to capture
    #[arg(long, value_enum, default_value = "export")]
    protocol: Protocol,
    /// Stop after this many frames (default: when --duration is over, else never)
    #[arg(long)]
    frames: Option<u64>,
    /// Stop after this many seconds
    #[arg(long)]
    duration: Option<f64>,
    /// Keep this many frames before the oldest is released (export)
    #[arg(long, default_value_t = 0)]
    hold: usize,
    /// Never release a frame (export)
    #[arg(long)]
    hold_forever: bool,
    /// Without the cursor (copy)
    #[arg(long)]
    no_cursor: bool,
    /// Which output (default: the first)
    #[arg(long)]
    output: Option<String>,
    /// Write the figures here, as lines key=value; also while running, about every second
    #[arg(long)]
    out: Option<PathBuf>,
    /// Write the last frame here
    #[arg(long)]
    png: Option<PathBuf>,
    /// Write an animation here
    #[arg(long)]
    apng: Option<PathBuf>,
    /// Take each n-th frame into the animation
    #[arg(long, default_value_t = 4)]
    apng_every: u64,
    /// The animation's length in pictures
    #[arg(long, default_value_t = 40)]
    apng_frames: usize,
    /// Give up when no frame comes for this many seconds
    #[arg(long, default_value_t = 20.0)]
    patience: f64,
    /// No summary on stdout
    #[arg(long)]
    quiet: bool,
}

/// What is kept of the frames besides the figures.
struct Keeper {
    arguments: Arguments,
    end: Option<Duration>,
    last_save: Duration,
    last: Option<Picture>,
    film: Vec<Picture>,
}

impl Keeper {
    /// Looks at a frame; true when it was the last.
    fn keep(&mut self, stats: &CaptureStats, picture: impl Fn() -> Picture) -> bool {
        let now = clock::now();
        let enough = self
            .arguments
            .frames
            .is_some_and(|frames| stats.frames >= frames)
            || self.end.is_some_and(|end| now >= end);
        let every = self.arguments.apng_every.max(1);
        if self.arguments.apng.is_some()
            && (stats.frames - 1).is_multiple_of(every)
            && self.film.len() < self.arguments.apng_frames
        {
            self.film.push(picture());
        }
        if self.arguments.png.is_some() && enough {
            self.last = Some(picture());
        }
        if let Some(out) = &self.arguments.out {
            if now.saturating_sub(self.last_save) > Duration::from_secs(1) {
                self.last_save = now;
                let _ = stats.save(out); // the final one is checked
            }
        }
        enough
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let patience = Duration::from_secs_f64(arguments.patience);
    let mut client = Client::from_env()?;
    let output = client.output(arguments.output.as_deref())?;
    let protocol = arguments.protocol;
    let holding = match (arguments.hold_forever, arguments.hold) {
        (true, _) => Holding::Forever,
        (false, 0) => Holding::ReleaseAtOnce,
        (false, frames) => Holding::Keep(frames),
    };
    let paint_cursors = !arguments.no_cursor;
    let end = arguments
        .duration
        .map(|seconds| clock::now() + Duration::from_secs_f64(seconds));
    let mut keeper = Keeper {
        arguments,
        end,
        last_save: clock::now(),
        last: None,
        film: Vec::new(),
    };
    let stats = match protocol {
        Protocol::Export => Exporter::new(&client)?.run(
            &mut client,
            &output,
            holding,
            patience,
            |stats, frame| keeper.keep(stats, || frame.picture()),
        )?,
        Protocol::Copy | Protocol::CopyDmabuf => {
            let kind = match protocol {
                Protocol::CopyDmabuf => MemoryKind::Udmabuf,
                _ => MemoryKind::Shm,
            };
            let session = CopySession::open(&mut client, &output, paint_cursors)?;
            session.run(&mut client, kind, patience, |stats, buffer| {
                keeper.keep(stats, || picture_of(buffer))
            })?
        }
    };
    finish(&keeper, &stats)
}

fn finish(keeper: &Keeper, stats: &CaptureStats) -> anyhow::Result<()> {
    let arguments = &keeper.arguments;
    if let Some(out) = &arguments.out {
        stats.save(out)?;
    }
    if let (Some(path), Some(picture)) = (&arguments.png, &keeper.last) {
        write_png(path, picture)?;
    }
    if let (Some(path), false) = (&arguments.apng, keeper.film.is_empty()) {
        let per_frame = stats.elapsed.as_millis() as u64 / stats.frames.max(1);
        let delay = (per_frame * arguments.apng_every.max(1)).clamp(20, 1000) as u16;
        write_apng(path, &keeper.film, delay)?;
    }
    if !arguments.quiet {
        println!(
            "frames={} failures={} seconds={:.2} median_ms={:.2} p99_ms={:.2} buffers={}",
            stats.frames,
            stats.failures,
            stats.elapsed.as_secs_f64(),
            stats.median().as_secs_f64() * 1e3,
            stats.p99().as_secs_f64() * 1e3,
            stats.buffers,
        );
    }
    anyhow::ensure!(stats.frames > 0, "not one frame came");
    Ok(())
}
