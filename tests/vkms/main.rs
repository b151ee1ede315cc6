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
mod stage;

mod capture;
mod harness;
mod kms;
mod pixels;
mod rights;
mod session;
