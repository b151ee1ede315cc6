//! The handle on a frame that somebody reads. Dropping it is the release, on whatever thread that happens.

use std::{
    fmt,
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc, Mutex, PoisonError,
    },
};

use crate::capture::{
    frame::{FrameInfo, SlotMemory},
    ids::SessionId,
    ring::LeaseId,
};

/// Keeps a published frame from being written over. Dropping it is the release: client death, a destroyed object, a
/// finished copy are all the same drop. The slot is told through a queue, so that a drop never waits for the event loop.
pub struct Lease {
    pub(super) id: LeaseId,
    session: SessionId,
    frame: Arc<FrameInfo>,
    memory: Arc<dyn SlotMemory>,
    void: Arc<AtomicBool>,
    releases: Arc<ReleaseQueue>,
}

impl Lease {
    pub(crate) fn new(
        id: LeaseId,
        session: SessionId,
        frame: Arc<FrameInfo>,
        memory: Arc<dyn SlotMemory>,
        releases: Arc<ReleaseQueue>,
    ) -> (Self, Arc<AtomicBool>) {
        let void = Arc::new(AtomicBool::new(false));
        let lease = Self {
            id,
            session,
            frame,
            memory,
            void: Arc::clone(&void),
            releases,
        };
        (lease, void)
    }

    /// The frame.
    pub fn frame(&self) -> &Arc<FrameInfo> {
        &self.frame
    }

    /// The memory that the frame lies in. It holds something else once the lease is void.
    pub fn memory(&self) -> &Arc<dyn SlotMemory> {
        &self.memory
    }

    /// The session that the frame was delivered to.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Whether the frame was taken back: what was read after that is worth nothing. Ask after reading.
    pub fn is_void(&self) -> bool {
        self.void.load(Ordering::Acquire)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.releases.push(self.id);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("session", &self.session)
            .field("seq", &self.frame.seq)
            .field("slot", &self.frame.slot)
            .field("void", &self.is_void())
            .finish_non_exhaustive()
    }
}

/// Where dropped leases are noted until the room looks.
pub(crate) struct ReleaseQueue {
    released: Mutex<Vec<LeaseId>>,
    waker: Arc<dyn Fn() + Send + Sync>,
}

impl ReleaseQueue {
    pub fn new(waker: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self {
            released: Mutex::new(Vec::new()),
            waker,
        }
    }

    fn push(&self, lease: LeaseId) {
        // A poisoned lock only means that a thread died elsewhere; a list of numbers has no half-made state.
        let first = {
            let mut released = self.released.lock().unwrap_or_else(PoisonError::into_inner);
            released.push(lease);
            released.len() == 1
        };
        // One call per batch is enough, and it is made without the lock: the waker may do anything.
        if first {
            (self.waker)();
        }
    }

    pub fn take(&self) -> Vec<LeaseId> {
        std::mem::take(&mut *self.released.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for ReleaseQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReleaseQueue").finish_non_exhaustive()
    }
}
