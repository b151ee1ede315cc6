//! The capture of one output: its ring, the sessions that look at it, and what they are told.
//!
//! `output/` owns one of these per screen and calls, in this order of life: [`OutputCapture::set_buffers`] when the mode is
//! set; before each commit [`OutputCapture::demand`] and [`OutputCapture::arm`]; after each commit
//! [`OutputCapture::committed`]; with each fence [`OutputCapture::complete`] and its siblings; and
//! [`OutputCapture::poll`] after any of these, when the waker was called, and at [`OutputCapture::next_deadline`].
//! `protocols/` opens sessions, requests frames and carries the events of `poll` to the clients.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
    time::Duration,
};

use crate::{
    capture::{
        damage::DamageSet,
        direct::Direct,
        frame::{FrameFormat, FrameInfo, Reading, SlotMemory},
        history::History,
        ids::{ClientId, FrameSeq, RequestId, SessionId, SlotId, TargetId},
        jobs::Job,
        lease::{Lease, ReleaseQueue},
        motion::Motion,
        overdue::Overdue,
        rest::Rest,
        ring::{LeaseId, Limits, Ring, SlotState},
        session::Session,
        stats::{CaptureStats, ClientStats},
        view::{PerView, View},
    },
    geometry::Rect,
    time::Time,
};

/// The tracing target of the room.
pub(crate) const TARGET: &str = "vitrine::capture";

/// The limits of one output's capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaptureConfig {
    /// Buffers in the ring; at least 3: one is pinned as the newest, one is held by a reader, one is written.
    pub ring_slots: usize,
    /// Frames of one output that a client may hold at once; at least 1.
    pub quota: usize,
    /// A client that holds a frame longer gets no new one, and loses it when others starve.
    pub hold_deadline: Duration,
    /// So many refreshes does a slot rest after its release by a client that reads it itself.
    pub grace_refreshes: u32,
    /// Frames that are kept for a look back, in as many slots more.
    pub history: usize,
}

impl CaptureConfig {
    /// The least number of buffers with which one client's frame never keeps the next one from being captured.
    pub const MIN_SLOTS: usize = 3;

    /// Buffers that the output needs in all.
    pub const fn slots(&self) -> usize {
        self.ring_slots + self.history
    }
}

impl Default for CaptureConfig {
    fn default() -> Self {
        Self {
            ring_slots: 4,
            quota: 2,
            hold_deadline: Duration::from_secs(1),
            grace_refreshes: 2,
            history: 0,
        }
    }
}

/// Why buffers are no ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BufferError {
    /// Fewer than [`CaptureConfig::MIN_SLOTS`].
    #[error(
        "{given} capture buffers are too few, a ring needs at least {}: raise `ring_slots`, or free memory \
         if their allocation failed",
        CaptureConfig::MIN_SLOTS
    )]
    TooFew {
        /// How many there were.
        given: usize,
    },
    /// More than a slot number can count.
    #[error(
        "{given} capture buffers are too many, a ring has at most {}",
        u16::MAX
    )]
    TooMany {
        /// How many there were.
        given: usize,
    },
}

/// Whether somebody wants the next frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Demand {
    /// Nobody does, or a job in flight will answer all who do.
    None,
    /// Somebody waits for a change: capture the next commit that has damage.
    OnDamage,
    /// Somebody needs a frame even if nothing changes: commit for it.
    Now,
}

/// Why a commit is not captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Skip {
    /// [`OutputCapture::set_buffers`] was not called since the start or the last `clear_buffers`.
    #[error("the output has no capture buffers")]
    NoBuffers,
    /// Nobody wants the frame.
    #[error("nobody wants the frame")]
    NoDemand,
    /// All slots are held, pinned, in flight or in quarantine.
    #[error("no slot is free")]
    NoFreeSlot,
    /// The only slots left rest after their release, or are still read by a GPU.
    #[error("the released slots may still be read")]
    Draining,
    /// The render producer still copies the picture before.
    #[error("the picture before is still being copied")]
    ProducerBusy,
    /// The number of the job is in use.
    #[error("the job has a slot already")]
    JobInUse,
}

/// What a client is to be told.
#[derive(Debug)]
pub enum CaptureEvent {
    /// The frame that answers a request. The request is over.
    Deliver {
        /// Who asked.
        session: SessionId,
        /// What is answered.
        request: RequestId,
        /// The frame. Drop it when the client has released it, or the copy is made.
        lease: Lease,
        /// What changed since the frame that this session was delivered before; everything for the first one, after
        /// [`OutputCapture::invalidate_session`] and after a change of mode.
        damage: Vec<Rect>,
    },
    /// The session has held a frame past the deadline while others starve. Tell its client that the frame is void, then call
    /// [`OutputCapture::void_told`]; only then is the slot used again. Also comes for frames of closed sessions whose lease
    /// exists.
    Void {
        /// Who holds it.
        session: SessionId,
        /// Which frame.
        frame: FrameSeq,
    },
    /// The hardware has written the frame that answers a request into the client's own memory: nothing is to be copied. The
    /// request is over.
    Written {
        /// Who asked.
        session: SessionId,
        /// What is answered.
        request: RequestId,
        /// When its flip was presented.
        presented: Time,
        /// As of [`CaptureEvent::Deliver`].
        damage: Vec<Rect>,
    },
}

#[derive(Debug, Default)]
pub(crate) struct Client {
    pub stats: ClientStats,
    /// It was said once that this client holds frames too long.
    pub overdue_logged: bool,
    /// It was said once that a frame was taken back from this client.
    pub void_logged: bool,
}

/// A frame that was handed out.
#[derive(Debug)]
pub(crate) struct Leased {
    /// Who holds it.
    pub client: ClientId,
    /// Makes it void.
    pub void: Arc<AtomicBool>,
    /// The client's memory that it is copied into, whatever became of the request.
    pub target: Option<TargetId>,
}

/// The capture of one output.
#[derive(Debug)]
pub struct OutputCapture {
    pub(crate) config: CaptureConfig,
    pub(crate) motion: Motion,
    pub(crate) refresh: Duration,
    pub(crate) format: Option<FrameFormat>,
    pub(crate) ring: Ring,
    pub(crate) memory: HashMap<SlotId, Arc<dyn SlotMemory>>,
    pub(crate) newest: PerView<Option<Arc<FrameInfo>>>,
    /// In the order of their commits.
    pub(crate) jobs: Vec<Job>,
    pub(crate) overdue: Overdue,
    /// What commits changed of each view that no job in flight and no frame shows.
    pub(crate) pending: PerView<DamageSet>,
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    pub(crate) clients: BTreeMap<ClientId, Client>,
    /// Every lease whose handle exists.
    pub(crate) leases: HashMap<LeaseId, Leased>,
    pub(crate) releases: Arc<ReleaseQueue>,
    pub(crate) stats: CaptureStats,
    pub(crate) next_frame: u64,
    pub(crate) next_session: u64,
    pub(crate) next_request: u64,
    /// Somebody waits for a slot, so that the end of a grace is worth waking up for.
    pub(crate) blocked: bool,
    /// It was said once that fences of others are overruled.
    pub(crate) overruled_logged: bool,
    pub(crate) history: Option<History>,
    pub(crate) direct: Direct,
    pub(crate) rest: Rest,
    polled: Time,
}

impl OutputCapture {
    /// Capture of an output that has no mode yet. `refresh` is the time from one flip to the next. `waker` is called from
    /// any thread when a lease was dropped; it should make the event loop call [`poll`](Self::poll).
    pub fn new(
        config: CaptureConfig,
        refresh: Duration,
        waker: Arc<dyn Fn() + Send + Sync>,
    ) -> Self {
        let mut capture = Self {
            config,
            motion: Motion::default(),
            refresh,
            format: None,
            ring: Ring::new(limits(config, refresh)),
            memory: HashMap::new(),
            newest: PerView::default(),
            jobs: Vec::new(),
            overdue: Overdue::default(),
            pending: PerView::default(),
            sessions: BTreeMap::new(),
            clients: BTreeMap::new(),
            leases: HashMap::new(),
            releases: Arc::new(ReleaseQueue::new(waker)),
            stats: CaptureStats::default(),
            next_frame: 0,
            next_session: 0,
            next_request: 0,
            blocked: false,
            overruled_logged: false,
            history: None,
            direct: Direct::default(),
            rest: Rest::default(),
            polled: Time::default(),
        };
        capture.start_history();
        capture
    }

    /// The limits.
    pub fn config(&self) -> CaptureConfig {
        self.config
    }

    /// The time from one flip to the next has changed; graces count in it.
    pub fn set_refresh(&mut self, refresh: Duration) {
        self.refresh = refresh;
        self.ring.set_limits(limits(self.config, refresh));
    }

    /// Starts a ring of these buffers, for a new mode or format. Slot `index` is `buffers[index]`. Sessions start anew: their
    /// waiting requests get a first frame. Jobs in flight end as usual but are not published; held frames stay readable
    /// until their last lease, and nothing older is written again. Returns the generation of the new slots.
    ///
    /// # Errors
    /// Too few buffers, or too many for slot numbers. Nothing has changed then.
    pub fn set_buffers(
        &mut self,
        format: FrameFormat,
        buffers: Vec<Arc<dyn SlotMemory>>,
        now: Time,
    ) -> Result<u32, BufferError> {
        let given = buffers.len();
        if given < CaptureConfig::MIN_SLOTS {
            return Err(BufferError::TooFew { given });
        }
        let size = u16::try_from(given).map_err(|_| BufferError::TooMany { given })?;
        self.start_generation(Some(format), size, now);
        let generation = self.ring.generation();
        let slots = (0..size).map(|index| SlotId { index, generation });
        self.memory.extend(slots.zip(buffers));
        Ok(generation)
    }

    /// The output has no memory for pictures any more. Requests wait for the next
    /// [`set_buffers`](Self::set_buffers).
    pub fn clear_buffers(&mut self, now: Time) {
        self.start_generation(None, 0, now);
    }

    fn start_generation(&mut self, format: Option<FrameFormat>, size: u16, now: Time) {
        if let Some(history) = self.history.as_mut() {
            history.clear();
        }
        self.take_releases(now);
        self.take_back_written();
        self.ring.reset(size, now);
        self.format = format;
        self.newest = PerView::default();
        self.pending = PerView::default();
        self.blocked = false;
        for session in self.sessions.values_mut() {
            session.start_anew();
        }
        self.forget_memory();
    }

    /// How the frames look, while there are buffers.
    pub fn format(&self) -> Option<FrameFormat> {
        self.format
    }

    /// The newest published frame of a view. It says what can be had, but does not keep it.
    pub fn newest(&self, view: View) -> Option<&Arc<FrameInfo>> {
        self.newest.get(view).as_ref()
    }

    /// Whether a session of this view is open.
    pub fn has_viewers(&self, view: View) -> bool {
        self.sessions
            .values()
            .any(|session| session.kind.view() == view)
    }

    /// The views in the order in which a commit is to arm them: the one whose newest frame is older first. With few slots
    /// only one of them gets a slot, and it must not always be the same.
    pub fn views_by_age(&self) -> [View; 2] {
        let mut views = View::ALL;
        views.sort_by_key(|view| self.newest(*view).map(|frame| frame.seq));
        views
    }

    /// Whether a session is open or a frame is held.
    pub fn is_watched(&self) -> bool {
        !self.sessions.is_empty() || !self.leases.is_empty()
    }

    /// The memory of a slot that exists.
    pub fn memory_of(&self, slot: SlotId) -> Option<&Arc<dyn SlotMemory>> {
        self.memory.get(&slot)
    }

    /// Does what time and releases made possible, and says what clients are to be told. To be called after every
    /// other call that may have changed something, when the waker was called, and at
    /// [`next_deadline`](Self::next_deadline).
    pub fn poll(&mut self, now: Time) -> Vec<CaptureEvent> {
        self.polled = now;
        self.take_releases(now);
        self.settle(now);
        self.note_overdue(now);
        let mut events = self.take_written();
        events.append(&mut self.deliver(now));
        self.keep_history(&mut events, now);
        self.help_the_starving(now, &mut events);
        events
    }

    /// When [`poll`](Self::poll) and [`demand`](Self::demand) are to be asked again even if nothing happens. The time may have
    /// passed already.
    pub fn next_deadline(&self) -> Option<Time> {
        let resting = self.blocked.then(|| {
            // Nothing tells us of the end of a foreign read; look again at the rate of the screen.
            let look = self
                .ring
                .waits_for_readers()
                .then(|| self.polled + self.refresh);
            self.ring.next_grace().into_iter().chain(look).min()
        });
        self.ring
            .next_hold_deadline()
            .into_iter()
            .chain(resting.flatten())
            .min()
    }

    /// The client was told that the frame is void (see [`CaptureEvent::Void`]; also right when the protocol took the
    /// frame back for a reason of its own). The session's lease on it does nothing any more, but counts for the quota until
    /// it is dropped: keep it with the client's object, so that a client that never lets go gets no further slots.
    pub fn void_told(&mut self, session: SessionId, frame: FrameSeq) {
        for lease in self.ring.void(session, frame) {
            if let Some(leased) = self.leases.get(&lease) {
                leased.void.store(true, Ordering::Release);
            }
        }
        self.forget_memory();
    }

    /// What happened so far.
    pub fn stats(&self) -> CaptureStats {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let in_quarantine =
            |(_, state): &(SlotId, SlotState)| matches!(state, SlotState::Quarantined(_));
        let clients = self
            .clients
            .iter()
            .filter(|(id, _)| **id != ClientId::HOUSE);
        let clients = clients.map(|(id, client)| {
            let held = count(self.ring.held_by(*id));
            (
                *id,
                ClientStats {
                    held,
                    ..client.stats
                },
            )
        });
        // What is lent is the display's.
        let buffers = self.memory.keys().filter(|slot| !self.ring.is_lent(**slot));
        CaptureStats {
            quarantined: count(self.ring.slots().filter(in_quarantine).count()),
            held: count(self.ring.held()),
            buffers: count(buffers.count()),
            clients: clients.collect(),
            ..self.stats.clone()
        }
    }

    /// Says which promise is broken, if one is. For tests and debug builds.
    ///
    /// # Errors
    /// The sentence that names the broken promise.
    pub fn verify_invariants(&self) -> Result<(), String> {
        self.ring.verify_invariants()?;
        let say = |holds: bool, what: &str| holds.then_some(()).ok_or_else(|| what.to_owned());
        say(
            self.ring.slots().count() == self.memory.len()
                && self
                    .ring
                    .slots()
                    .all(|(slot, _)| self.memory.contains_key(&slot)),
            "slots and memory differ",
        )?;
        say(
            View::ALL.into_iter().all(|view| {
                let newest = self.newest(view);
                self.ring.newest(view) == newest.map(|frame| (frame.slot, frame.seq))
                    && newest.is_none_or(|frame| frame.cursor.serves(view))
            }),
            "a newest frame is not the ring's, or of another view",
        )?;
        let armed = |(_, state): &(SlotId, SlotState)| matches!(state, SlotState::Armed(_));
        say(
            self.ring.slots().filter(armed).count()
                == self.jobs.iter().filter(|job| job.target.is_none()).count()
                && self
                    .jobs
                    .iter()
                    .all(|job| self.ring.slot_of(job.id).is_some() != job.target.is_some()),
            "jobs and armed slots differ",
        )?;
        self.verify_targets()?;
        let known = |session: &Session| self.clients.contains_key(&session.client);
        say(
            self.sessions.values().all(known),
            "a session's client is not known",
        )
    }

    /// The rectangle of the mode.
    pub(crate) fn bounds(&self) -> Option<Rect> {
        self.format.map(|format| format.full())
    }

    /// Handles of leases were dropped.
    pub(crate) fn take_releases(&mut self, now: Time) {
        let released = self.releases.take();
        if released.is_empty() {
            return;
        }
        for lease in released {
            self.leases.remove(&lease);
            self.ring.release(lease, now);
        }
        self.forget_memory();
        self.forget_clients();
    }

    pub(crate) fn settle(&mut self, now: Time) {
        let memory = &self.memory;
        self.ring.settle(now, &|slot| reading_of(memory, slot));
        self.forget_memory();
    }

    /// Lets go of the memory of slots that are gone.
    pub(crate) fn forget_memory(&mut self) {
        let ring = &self.ring;
        self.memory.retain(|slot, _| ring.contains(*slot));
    }

    /// Forgets clients without session and lease.
    pub(crate) fn forget_clients(&mut self) {
        let (sessions, leases) = (&self.sessions, &self.leases);
        self.clients.retain(|client, _| {
            sessions.values().any(|session| session.client == *client)
                || leases.values().any(|leased| leased.client == *client)
        });
    }
}

/// Who reads the memory of a slot.
pub(crate) fn reading_of(memory: &HashMap<SlotId, Arc<dyn SlotMemory>>, slot: SlotId) -> Reading {
    let memory = memory.get(&slot);
    memory.map_or(Reading::Over, |memory| memory.reading())
}

fn limits(config: CaptureConfig, refresh: Duration) -> Limits {
    Limits {
        quota: config.quota.max(1),
        // It has the next one before it lets the oldest go.
        house_quota: config.history + 1,
        hold_deadline: config.hold_deadline,
        grace: refresh.saturating_mul(config.grace_refreshes),
    }
}
