//! Slots in the process' own memory, for pictures that are drawn there and only ever copied.

use std::{
    fmt, io,
    os::fd::OwnedFd,
    sync::{PoisonError, RwLock},
};

use crate::capture::{Reading, SlotMemory};

/// A slot in ordinary memory. Nobody can be given a descriptor of it.
#[derive(Default)]
pub struct PlainMemory {
    bytes: RwLock<Vec<u8>>,
}

impl PlainMemory {
    /// Changes the bytes. Only for a slot that is armed: whoever reads it waits, and would see two pictures.
    pub fn write(&self, f: impl FnOnce(&mut Vec<u8>)) {
        // A panic of a writer leaves bytes, and that is all that this is.
        f(&mut self.bytes.write().unwrap_or_else(PoisonError::into_inner));
    }
}

impl SlotMemory for PlainMemory {
    fn export(&self) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn read(&self, f: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        f(&self.bytes.read().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    fn reading(&self) -> Reading {
        // Readers have a lease for as long as they read.
        Reading::Over
    }
}

impl fmt::Debug for PlainMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlainMemory").finish_non_exhaustive()
    }
}
