//! Vitrine, a kiosk Wayland compositor whose own atomic-KMS loop captures the real screen through the display
//! controller's writeback connector and hands the frames to any number of clients by reference.
//!
//! The rooms of the house; a lower one never names a higher one:
//! `main` > `run` > `compositor` > `metrics`, `ipc`, `history`, `selftest` > `apps` > `protocols` > `shell`, `input` > `output` > `render` > `capture` > `kms` >
//! `session` > `policy` > `config`.

pub mod apps;
pub mod capture;
pub mod cli;
pub mod compositor;
pub mod config;
pub mod geometry;
pub mod history;
pub mod input;
pub mod ipc;
pub mod kms;
pub mod listener;
pub mod logging;
pub mod metrics;
pub mod output;
pub mod policy;
pub mod protocols;
pub mod render;
pub mod run;
pub mod selftest;
pub mod session;
pub mod shell;
pub mod time;
