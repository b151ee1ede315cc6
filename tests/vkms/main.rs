//! Integration tests on a real kernel: each test's body runs in a fresh machine with vkms.

// A test that does not get what it needs has failed, and says so by panicking.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../clients/mod.rs"]
mod clients;
mod cursor;
mod holders;
#[path = "../machine/mod.rs"]
mod machine;
mod mouse;
mod screen;
mod sharing;
mod stage;
mod streaming;
mod uinput;
mod window;

mod bad_inputs;
mod capture;
mod cli;
mod control;
mod faults;
mod film;
mod harness;
mod input;
mod kiosk;
mod kms;
mod pixels;
mod programs;
mod session;
mod stock;
mod surfaces;
