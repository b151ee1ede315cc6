//! Slots of a ring in ordinary memory, whose reading the tests can stop.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::FileExt,
    },
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use vitrine::capture::{Reading, SlotMemory};

/// Passes copies through, or stops them while they read.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    closed: bool,
    waiting: usize,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.waiting += 1;
        self.changed.notify_all();
        let mut state = self
            .changed
            .wait_while(state, |state| state.closed)
            .unwrap();
        state.waiting -= 1;
    }

    pub fn set_closed(&self, closed: bool) {
        self.state.lock().unwrap().closed = closed;
        self.changed.notify_all();
    }

    pub fn wait_for_reader(&self) {
        let patience = Duration::from_secs(20);
        let state = self.state.lock().unwrap();
        let (_guard, waited) = self
            .changed
            .wait_timeout_while(state, patience, |s| s.waiting == 0)
            .unwrap();
        assert!(!waited.timed_out(), "no copy began");
    }
}

/// A slot of a ring in ordinary memory.
#[derive(Debug)]
pub struct MemorySlot {
    pub file: File,
    pub gate: Arc<Gate>,
    pub broken: Arc<Mutex<bool>>,
}

impl SlotMemory for MemorySlot {
    fn export(&self) -> io::Result<OwnedFd> {
        if *self.broken.lock().unwrap() {
            return Err(io::Error::other("no descriptors today"));
        }
        Ok(File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd()))?.into())
    }

    fn read(&self, f: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        self.gate.pass();
        if *self.broken.lock().unwrap() {
            return Err(io::Error::other("no memory today"));
        }
        let mut bytes = vec![0; self.file.metadata()?.len() as usize];
        self.file.read_exact_at(&mut bytes, 0)?;
        f(&bytes);
        Ok(())
    }

    fn reading(&self) -> Reading {
        Reading::Over
    }
}
