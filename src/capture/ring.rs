//! The slots of one output: who may write each, who may read it, and when it is free again.
//!
//! ```text
//! Free -> Armed(job) -> Published(leases) -> Draining(grace, read fences) -> Free
//!              \-> Quarantined(job) -> Free when its fence signals; never Published
//! ```
//!
//! What keeps a released slot from being written is its grace, who reads it for us, and fences that others put onto it. Those
//! of others count until somebody starves (see [`fenced`]), since they may never signal.
//!
//! A pure model: no clock, no memory, no client objects. Every question takes time in proportion to the slots and the
//! leases on them, both bounded; nothing waits. Slots of an old generation (an old mode) take no new job and are gone
//! with their last lease.
//!
//! A frame may also lie in memory that is lent to the ring: what the display shows is the wanted picture already. Such a
//! *lent* slot comes with its job, lives like any other, and is gone instead of free. Whoever lent the memory does not
//! write it as long as the slot is there.

mod fenced;
mod invariants;
mod leases;
mod lent;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    capture::{
        frame::Reading,
        ids::{ClientId, FrameSeq, JobId, SessionId, SlotId},
        view::{PerView, View},
    },
    time::Time,
};

/// One lease on one slot. Numbers are never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// What a slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotState {
    /// May take a job.
    Free,
    /// The hardware or the renderer writes it.
    Armed(JobId),
    /// Holds a frame that is leased or the newest one.
    Published(FrameSeq),
    /// Nobody leases it, but it may still be read: a grace runs, or a read fence.
    Draining(FrameSeq),
    /// Its job is overdue and may still write. What it holds is never shown.
    Quarantined(JobId),
}

/// Why no slot can be armed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoSlot {
    /// There are no slots at all.
    Empty,
    /// Every slot is held, pinned, armed or quarantined.
    Full,
    /// A slot would be free if it were not resting.
    Draining,
    /// The job already has a slot.
    JobInUse,
}

/// Who leases a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The client whose quota it counts for.
    pub client: ClientId,
    /// The session that the frame was delivered to.
    pub session: SessionId,
    /// Whether the client itself reads the memory, so that a released slot rests for the grace.
    pub export: bool,
}

#[derive(Debug)]
struct Held {
    id: LeaseId,
    holder: Holder,
    /// When a newer frame was published: since then the lease costs others a slot. The newest one is pinned anyway, and a
    /// client may well keep it until the next one comes.
    since: Option<Time>,
    overdue: bool,
    void_asked: bool,
}

#[derive(Debug)]
struct Ghost {
    id: LeaseId,
    client: ClientId,
    seq: FrameSeq,
}

#[derive(Debug)]
struct Slot {
    id: SlotId,
    state: SlotState,
    leases: Vec<Held>,
    /// Released by these export sessions, which may go on reading until the given time.
    graces: Vec<(SessionId, Time)>,
    /// Since when it rests for nothing but fences of others.
    fenced: Option<Time>,
    /// Such fences did not signal in time before: from now on they are believed for a grace only.
    distrusted: bool,
    /// When it was armed last, counted in jobs: the slot that rested longest is taken first.
    armed_at: u64,
    /// The job that it came with, if its memory is not the ring's own.
    lent: Option<JobId>,
}

/// The limits that a ring keeps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Frames that a client may hold at once.
    pub quota: usize,
    /// The same for the compositor's own history, which is never late.
    pub house_quota: usize,
    /// A client that holds a frame longer gets no new one, and may lose it.
    pub hold_deadline: Duration,
    /// How long a slot rests after its release by an export session.
    pub grace: Duration,
}

/// The slots of one output.
#[derive(Debug)]
pub struct Ring {
    limits: Limits,
    generation: u32,
    /// Slots of the current generation. Old ones that are still held come on top in `slots`.
    size: u16,
    slots: Vec<Slot>,
    /// The newest frame of each view; one frame may be both.
    newest: PerView<Option<(SlotId, FrameSeq)>>,
    /// Leases whose frame was taken back but whose handle still exists. They count for the quota, so that a client that
    /// never lets go gets no further slots.
    ghosts: Vec<Ghost>,
    /// The newest frame that each session was given: its older ones need no grace.
    given: BTreeMap<SessionId, FrameSeq>,
    next_lease: u64,
    jobs: u64,
}

impl Ring {
    /// A ring without slots.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            generation: 0,
            size: 0,
            slots: Vec::new(),
            newest: PerView::default(),
            ghosts: Vec::new(),
            given: BTreeMap::new(),
            next_lease: 0,
            jobs: 0,
        }
    }

    /// The limits.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Another refresh rate or configuration. It applies from the next release on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Starts a new generation of `size` free slots. Held slots of older ones stay until their last lease, armed ones
    /// until their job ends; all others are gone at once. A quarantined one may go too: the kernel's job keeps its
    /// own reference to the framebuffer, and nobody will read it.
    pub fn reset(&mut self, size: u16, now: Time) {
        View::ALL.into_iter().for_each(|view| self.unpin(view, now));
        self.generation += 1;
        self.size = size;
        self.collect();
        let generation = self.generation;
        self.slots.extend((0..size).map(|index| Slot {
            id: SlotId { index, generation },
            state: SlotState::Free,
            leases: Vec::new(),
            graces: Vec::new(),
            fenced: None,
            distrusted: false,
            armed_at: 0,
            lent: None,
        }));
    }

    /// The current generation.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Number of slots of the current generation; lent ones come on top.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// All slots that exist, those of older generations included.
    pub fn slots(&self) -> impl Iterator<Item = (SlotId, SlotState)> + '_ {
        self.slots.iter().map(|slot| (slot.id, slot.state))
    }

    /// Whether the slot exists.
    pub fn contains(&self, slot: SlotId) -> bool {
        self.slots.iter().any(|have| have.id == slot)
    }

    /// The newest frame of a view in the current generation, and its slot.
    pub fn newest(&self, view: View) -> Option<(SlotId, FrameSeq)> {
        *self.newest.get(view)
    }

    /// Whether the slot is pinned as the newest frame of a view.
    fn is_pinned(&self, slot: SlotId) -> bool {
        is_newest(&self.newest, slot)
    }

    /// Number of leased slots.
    pub fn held(&self) -> usize {
        self.slots
            .iter()
            .filter(|slot| !slot.leases.is_empty())
            .count()
    }

    /// The frames that a client holds, in all generations; those taken back count until their handle is gone.
    pub fn held_by(&self, client: ClientId) -> usize {
        let leased = self.slots.iter().filter(|slot| slot.is_leased_by(client));
        let ghosts = self.ghosts.iter().filter(|ghost| ghost.client == client);
        let frames: BTreeSet<FrameSeq> = leased
            .filter_map(Slot::seq)
            .chain(ghosts.map(|ghost| ghost.seq))
            .collect();
        frames.len()
    }

    /// Whether a copy for this session is being made.
    pub fn is_copied_for(&self, session: SessionId) -> bool {
        let mut held = self.current().flat_map(|slot| &slot.leases);
        held.any(|held| held.holder.session == session && !held.holder.export)
    }

    /// Whether a client holds the slot.
    pub fn is_held_by(&self, slot: SlotId, client: ClientId) -> bool {
        self.slots
            .iter()
            .any(|have| have.id == slot && have.is_leased_by(client))
    }

    /// Whether a client holds a frame past the deadline, or still has the handle of one that was taken back.
    pub fn is_overdue(&self, client: ClientId, now: Time) -> bool {
        let deadline = self.limits.hold_deadline;
        self.ghosts.iter().any(|ghost| ghost.client == client)
            || self.slots.iter().any(|slot| {
                let mut leases = slot.leases.iter();
                leases.any(|held| held.holder.client == client && held.is_overdue(deadline, now))
            })
    }

    /// May I arm? Gives the job the slot that rested longest, or says why there is none. `reading` tells who reads the
    /// memory of a slot; it must not block.
    pub fn arm(
        &mut self,
        job: JobId,
        now: Time,
        reading: &dyn Fn(SlotId) -> Reading,
    ) -> Result<SlotId, NoSlot> {
        if self.slot_of(job).is_some() {
            return Err(NoSlot::JobInUse);
        }
        self.settle(now, reading);
        let generation = self.generation;
        let free = self
            .slots
            .iter_mut()
            .filter(|slot| slot.id.generation == generation && slot.state == SlotState::Free)
            .min_by_key(|slot| slot.armed_at);
        if let Some(slot) = free {
            self.jobs += 1;
            slot.armed_at = self.jobs;
            slot.state = SlotState::Armed(job);
            return Ok(slot.id);
        }
        if self.size == 0 {
            return Err(NoSlot::Empty);
        }
        let resting = self
            .own()
            .any(|slot| matches!(slot.state, SlotState::Draining(_)));
        Err(if resting {
            NoSlot::Draining
        } else {
            NoSlot::Full
        })
    }

    /// The job is done and its frame may be seen: it is the newest of these views, and the ones before
    /// are let go. `None` if the job is not in flight or its slot is of an old generation; the
    /// slot is free or gone then.
    pub fn publish(
        &mut self,
        job: JobId,
        seq: FrameSeq,
        views: PerView<bool>,
        now: Time,
    ) -> Option<SlotId> {
        let generation = self.generation;
        let slot = self
            .slots
            .iter_mut()
            .find(|slot| slot.state == SlotState::Armed(job))?;
        if slot.id.generation != generation {
            slot.state = SlotState::Free;
            self.collect();
            return None;
        }
        slot.state = SlotState::Published(seq);
        let id = slot.id;
        for view in View::ALL.into_iter().filter(|view| *views.get(*view)) {
            self.unpin(view, now);
            *self.newest.get_mut(view) = Some((id, seq));
        }
        self.let_go();
        Some(id)
    }

    /// The job is over and wrote nothing that anybody sees: its commit failed, its fence reported an error or came
    /// after the deadline. Returns whether the job had a slot.
    pub fn free(&mut self, job: JobId) -> bool {
        let slot = self
            .slots
            .iter_mut()
            .find(|slot| slot.state.job() == Some(job));
        let found = slot.is_some();
        if let Some(slot) = slot {
            slot.state = SlotState::Free;
        }
        self.collect();
        found
    }

    /// The job is overdue: its slot is neither shown nor used again until [`Ring::free`]. Returns whether it was in flight.
    pub fn quarantine(&mut self, job: JobId) -> bool {
        let slot = self
            .slots
            .iter_mut()
            .find(|slot| slot.state == SlotState::Armed(job));
        let found = slot.is_some();
        if let Some(slot) = slot {
            slot.state = SlotState::Quarantined(job);
        }
        self.collect();
        found
    }

    /// The slot of a job in flight or in quarantine.
    pub fn slot_of(&self, job: JobId) -> Option<SlotId> {
        self.slots
            .iter()
            .find(|slot| slot.state.job() == Some(job))
            .map(|slot| slot.id)
    }

    /// Whether a slot is free.
    pub fn has_room(&self) -> bool {
        self.own().any(|slot| slot.state == SlotState::Free)
    }

    /// Whether a slot can be armed now or will be without anybody's help: it is free, its grace runs out, or its job ends. Lent
    /// slots do not count: it is not certain that the next frame can lie in one.
    pub fn will_have_room(&self) -> bool {
        self.own().any(|slot| match slot.state {
            SlotState::Free | SlotState::Armed(_) => true,
            SlotState::Draining(_) => !slot.graces.is_empty(),
            SlotState::Published(_) | SlotState::Quarantined(_) => false,
        })
    }

    /// Chooses the frame to take back so that others get a slot: the oldest one whose every holder is overdue, never a
    /// newest one, and one in lent memory only if there is no other. Returns its holders, each session once; nothing while an
    /// earlier choice is not settled by [`Ring::void`].
    pub fn choose_void(&mut self, now: Time) -> Option<(FrameSeq, Vec<Holder>)> {
        if self
            .current()
            .any(|slot| slot.leases.iter().any(|held| held.void_asked))
        {
            return None;
        }
        let deadline = self.limits.hold_deadline;
        let newest = self.newest;
        let generation = self.generation;
        let victim = self
            .slots
            .iter_mut()
            .filter(|slot| slot.id.generation == generation && !is_newest(&newest, slot.id))
            .filter(|slot| !slot.leases.is_empty())
            .filter(|slot| {
                slot.leases
                    .iter()
                    .all(|held| held.is_overdue(deadline, now))
            })
            .min_by_key(|slot| (slot.lent.is_some(), slot.state.seq()))?;
        let mut holders: Vec<Holder> = Vec::new();
        for held in &mut victim.leases {
            held.void_asked = true;
            if holders
                .iter()
                .all(|have| have.session != held.holder.session)
            {
                holders.push(held.holder);
            }
        }
        Some((victim.state.seq()?, holders))
    }

    /// Frees what has rested: graces over and nothing reads.
    pub fn settle(&mut self, now: Time, reading: &dyn Fn(SlotId) -> Reading) {
        for slot in &mut self.slots {
            slot.graces.retain(|(_, until)| *until > now);
            let resting = matches!(slot.state, SlotState::Draining(_)) && slot.graces.is_empty();
            slot.fenced = match resting.then(|| reading(slot.id)) {
                Some(Reading::Over) => {
                    slot.state = SlotState::Free;
                    None
                }
                Some(Reading::Fenced) => slot.fenced.or(Some(now)),
                Some(Reading::Ours) | None => None,
            };
        }
        self.collect();
    }

    /// The next time at which a lease passes its hold deadline.
    pub fn next_hold_deadline(&self) -> Option<Time> {
        let leases = self.slots.iter().flat_map(|slot| &slot.leases);
        leases
            .filter(|held| !held.overdue)
            .filter_map(|held| held.since.map(|since| since + self.limits.hold_deadline))
            .min()
    }

    /// The next time at which a resting slot's grace runs out.
    pub fn next_grace(&self) -> Option<Time> {
        let resting = self
            .current()
            .filter(|slot| matches!(slot.state, SlotState::Draining(_)));
        resting
            .filter_map(|slot| slot.graces.iter().map(|(_, until)| *until).max())
            .min()
    }

    /// Whether a slot only waits for the readers of its memory.
    pub fn waits_for_readers(&self) -> bool {
        self.current()
            .any(|slot| matches!(slot.state, SlotState::Draining(_)) && slot.graces.is_empty())
    }

    fn current(&self) -> impl Iterator<Item = &Slot> + '_ {
        self.slots
            .iter()
            .filter(|slot| slot.id.generation == self.generation)
    }

    /// The same without lent ones.
    fn own(&self) -> impl Iterator<Item = &Slot> + '_ {
        self.current().filter(|slot| slot.lent.is_none())
    }

    /// The newest frame of a view is kept no longer: nobody looks at that view.
    pub fn let_view_go(&mut self, view: View, now: Time) {
        self.unpin(view, now);
        self.let_go();
    }

    /// The newest frame of a view is no longer that: from now on its holders keep a slot from others, unless it is still
    /// the newest one of the other view.
    fn unpin(&mut self, view: View, now: Time) {
        let Some((newest, _)) = self.newest.get_mut(view).take() else {
            return;
        };
        if self.is_pinned(newest) {
            return;
        }
        for slot in self.slots.iter_mut().filter(|slot| slot.id == newest) {
            let mut leases = slot.leases.iter_mut();
            for held in leases
                .by_ref()
                .filter(|held| held.holder.client != ClientId::HOUSE)
            {
                held.since.get_or_insert(now);
            }
        }
    }

    /// Published slots that nobody leases begin to rest, except for the newest ones.
    fn let_go(&mut self) {
        let newest = self.newest;
        for slot in &mut self.slots {
            if let SlotState::Published(seq) = slot.state {
                if slot.leases.is_empty() && !is_newest(&newest, slot.id) {
                    slot.state = SlotState::Draining(seq);
                }
            }
        }
        self.collect();
    }

    /// Drops slots of old generations that nobody needs, which are never written again, so that no grace is due; and lent
    /// ones that are over.
    fn collect(&mut self) {
        let generation = self.generation;
        self.slots.retain(|slot| {
            let is_over = slot.lent.is_some() && slot.state == SlotState::Free;
            (slot.id.generation == generation && !is_over)
                || !slot.leases.is_empty()
                || matches!(slot.state, SlotState::Armed(_))
        });
    }
}

fn is_newest(newest: &PerView<Option<(SlotId, FrameSeq)>>, slot: SlotId) -> bool {
    newest
        .values()
        .any(|newest| newest.is_some_and(|(newest, _)| newest == slot))
}

impl SlotState {
    fn job(self) -> Option<JobId> {
        match self {
            SlotState::Armed(job) | SlotState::Quarantined(job) => Some(job),
            SlotState::Free | SlotState::Published(_) | SlotState::Draining(_) => None,
        }
    }

    fn seq(self) -> Option<FrameSeq> {
        match self {
            SlotState::Published(seq) | SlotState::Draining(seq) => Some(seq),
            SlotState::Free | SlotState::Armed(_) | SlotState::Quarantined(_) => None,
        }
    }
}

impl Slot {
    fn seq(&self) -> Option<FrameSeq> {
        self.state.seq()
    }

    fn is_leased_by(&self, client: ClientId) -> bool {
        self.leases.iter().any(|held| held.holder.client == client)
    }
}

impl Held {
    fn is_overdue(&self, deadline: Duration, now: Time) -> bool {
        self.overdue
            || self
                .since
                .is_some_and(|since| now.saturating_since(since) >= deadline)
    }
}
