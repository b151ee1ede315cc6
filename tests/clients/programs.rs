//! The clients as whole programs: arguments, what they do with the frames, and their figures. Tests
//! stop and kill such processes; the benchmark counts their CPU apart from the compositor's.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

use super::{
    clock,
    copy_capture::{picture_of, CopySession},
    export_dmabuf::{Exporter, Holding},
    painter::{Painter, PainterOptions},
    picture::{write_apng, write_png, Picture},
    screencopy::Screencopy,
    CaptureStats, Client, MemoryKind,
};

/// `painter`: draws numbered pictures full screen.
pub const PAINTER: &str = "painter";
/// `capture-client`: captures and counts.
pub const CAPTURE: &str = "capture-client";

/// A command that runs one of the programs, its name first. Programs that begin with
/// [`run_if_asked`] are their own clients; a test finds the examples beside itself.
pub fn command(program: &str) -> Result<Command> {
    let me = env::current_exe().context("the path of this program")?;
    let dir = me.parent().unwrap_or(Path::new("."));
    if dir.ends_with("examples") {
        let mut command = Command::new(me);
        command.arg(format!("--as={program}"));
        return Ok(command);
    }
    let path = dir.parent().unwrap_or(dir).join("examples").join(program);
    anyhow::ensure!(
        path.exists(),
        "{} is missing; run `cargo build --examples`",
        path.display()
    );
    Ok(Command::new(path))
}

/// Runs the client that [`command`] asked for; None if this process was started for something else.
pub fn run_if_asked() -> Option<Result<()>> {
    let mut arguments = env::args_os().skip(1);
    let program = arguments.next()?.into_string().ok()?;
    let program = program.strip_prefix("--as=")?.to_owned();
    let arguments = std::iter::once(program.clone().into()).chain(arguments);
    Some(match program.as_str() {
        PAINTER => paint(Paint::parse_from(arguments)),
        CAPTURE => capture(Capture::parse_from(arguments)),
        other => Err(anyhow::anyhow!("there is no client {other}")),
    })
}

/// Draws numbered pictures full screen.
#[derive(Parser)]
pub struct Paint {
    /// Stop after this many pictures (default: never)
    #[arg(long)]
    pub frames: Option<u32>,
    /// Number of the first picture
    #[arg(long, default_value_t = 1)]
    pub pattern: u32,
    /// Draw one picture, then stand still
    #[arg(long)]
    pub still: bool,
    /// At most this many pictures a second (default: as frame callbacks come)
    #[arg(long)]
    pub fps: Option<u32>,
    /// Buffers from udmabuf instead of shared memory
    #[arg(long)]
    pub udmabuf: bool,
    /// On this output
    #[arg(long)]
    pub output: Option<String>,
    /// Stop after this many seconds
    #[arg(long)]
    pub duration: Option<f64>,
}

/// Paints until an end that the arguments name.
pub fn paint(arguments: Paint) -> Result<()> {
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

/// By which protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// wlr-export-dmabuf
    Export,
    /// ext-image-copy-capture into shared memory
    Copy,
    /// ext-image-copy-capture into dma-bufs of udmabuf
    CopyDmabuf,
    /// wlr-screencopy into shared memory
    Screencopy,
}

impl Protocol {
    /// The word for it on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Export => "export",
            Self::Copy => "copy",
            Self::CopyDmabuf => "copy-dmabuf",
            Self::Screencopy => "screencopy",
        }
    }
}

/// Captures an output and counts.
#[derive(Parser)]
pub struct Capture {
    /// How to capture
    #[arg(long, value_enum, default_value = "export")]
    pub protocol: Protocol,
    /// Stop after this many frames (default: when --duration is over, else never)
    #[arg(long)]
    pub frames: Option<u64>,
    /// Stop after this many seconds
    #[arg(long)]
    pub duration: Option<f64>,
    /// Keep this many frames before the oldest is released (export)
    #[arg(long, default_value_t = 0)]
    pub hold: usize,
    /// Never release a frame (export)
    #[arg(long)]
    pub hold_forever: bool,
    /// Without the cursor (copy, screencopy)
    #[arg(long)]
    pub no_cursor: bool,
    /// Which output (default: the first)
    #[arg(long)]
    pub output: Option<String>,
    /// Write the figures here, as lines key=value; also while running, about every second
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Write the last frame here
    #[arg(long)]
    pub png: Option<PathBuf>,
    /// Write an animation here
    #[arg(long)]
    pub apng: Option<PathBuf>,
    /// Take each n-th frame into the animation
    #[arg(long, default_value_t = 4)]
    pub apng_every: u64,
    /// The animation's length in pictures
    #[arg(long, default_value_t = 40)]
    pub apng_frames: usize,
    /// Give up when no frame comes for this many seconds
    #[arg(long, default_value_t = 20.0)]
    pub patience: f64,
    /// No summary on stdout
    #[arg(long)]
    pub quiet: bool,
}

/// What is kept of the frames besides the figures.
struct Keeper {
    arguments: Capture,
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

/// Captures until an end that the arguments name.
pub fn capture(arguments: Capture) -> Result<()> {
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
        Protocol::Screencopy => Screencopy::new(&client)?.run(
            &mut client,
            &output,
            paint_cursors,
            MemoryKind::Shm,
            patience,
            |stats, buffer| keeper.keep(stats, || picture_of(buffer)),
        )?,
    };
    finish(&keeper, &stats)
}

fn finish(keeper: &Keeper, stats: &CaptureStats) -> Result<()> {
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
