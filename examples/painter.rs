//! Draws numbered pictures full screen on any Wayland compositor: the animation that tests and the
//! benchmark capture, as a process of its own.

#[path = "../tests/clients/mod.rs"]
mod clients;

use clap::Parser;
use clients::programs::{paint, Paint};

fn main() -> anyhow::Result<()> {
    paint(Paint::parse())
}
