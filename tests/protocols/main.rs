//! Rules of the capture protocols, of focus, menus and surfaces, and bad inputs, checked with the real server code and a real
//! wayland-client in one process over a socket pair: no kernel, no display.
#![allow(
    missing_docs,
    reason = "a test program has no readers of its documentation"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that panics says what is wrong"
)]

mod bad_wire;
mod client;
#[path = "../clients/mod.rs"]
mod clients;
mod copy_deaths;
mod copy_errors;
mod copy_frames;
mod cursor;
mod export_dmabuf;
mod flood;
#[path = "../vkms/hands.rs"]
#[allow(dead_code, reason = "the tests on the virtual display use the rest")]
mod hands;
mod inbox;
mod output_power;
mod passthrough;
mod rights;
mod screencopy;
mod screencopy_errors;
mod seat;
mod server;
mod session_lock;
mod slots;
mod streaming;
mod surfaces;
mod toplevel;
mod waking;
#[path = "../vkms/window.rs"]
#[allow(dead_code, reason = "the tests on the virtual display use the rest")]
mod window;
