//! A capture client as a process of its own, to be stopped, killed and counted: export-dmabuf or
//! ext-image-copy-capture, on any compositor.

#[path = "../tests/clients/mod.rs"]
mod clients;

use clap::Parser;
use clients::programs::{capture, Capture};

fn main() -> anyhow::Result<()> {
    capture(Capture::parse())
}
