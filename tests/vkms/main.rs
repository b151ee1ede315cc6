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
#[path = "../machine/mod.rs"]
mod machine;

mod access;
mod access_uid;
mod audit;
mod bad_captures;
mod bad_inputs;
mod capture;
mod churn;
mod churn_targets;
mod cli;
mod clipboard;
mod control;
mod copies;
mod cursor;
mod cursor_matrix;
mod cursor_sessions;
mod faults;
mod fences;
mod figures;
mod film;
mod foreign;
mod gpu_copies;
mod gpu_stuck;
mod hands;
mod harness;
mod holders;
mod hotplug;
mod input;
mod kiosk;
mod kms;
mod leasing;
mod leaving;
mod limits;
mod lock;
mod lock_life;
mod logging;
mod looker;
mod mouse;
mod newer;
mod pacing;
mod passthrough;
mod passthrough_changes;
mod passthrough_faults;
mod passthrough_lock;
mod passthrough_rights;
mod pause;
mod pixels;
mod power;
mod power_kms;
mod power_life;
mod producer;
mod programs;
mod programs_capture;
mod quiet;
mod refusals;
mod rfb;
mod rights;
mod screen;
mod selftest;
mod session;
mod sharing;
mod sink;
mod stage;
mod starving;
mod stock;
mod stopped;
mod streaming;
mod surfaces;
mod toplevels;
mod uinput;
mod window;
