//! Vitrine, a kiosk Wayland compositor whose own atomic-KMS loop captures the real screen through the display
//! controller's writeback connector and hands the frames to any number of clients by reference.
//!
//! The rooms of the house; a lower one never names a higher one:
//! `main` > `compositor` > `ipc`, `apps` > `protocols` > `shell`, `input` > `output` > `render` > `capture` > `kms` >
//! `session` > `config`.

pub mod capture;
pub mod geometry;
pub mod protocols;
pub mod time;
