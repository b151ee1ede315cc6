//! What may happen to an output.

use super::*;

#[derive(Debug, Clone)]
pub enum Op {
    /// A commit with damage of some cells, captured if it may, and whether the kernel takes it.
    Commit(Option<(i32, i32, i32, i32)>, bool, bool),
    /// The cursor is shown there, or hidden; the next commit shows it.
    Cursor(Option<(i32, i32)>),
    Complete(usize),
    Fail(usize),
    Overdue(usize),
    LateFence(usize),
    Open(u64, bool, View),
    Close(usize),
    Kill(u64),
    Request(usize),
    /// A request that names a client's memory, which the hardware may write or not.
    RequestInto(usize, u64, bool),
    /// Whether the hardware may write clients' memory.
    Allow(bool),
    /// The hardware is known to have left all overdue jobs behind.
    Proven,
    Cancel(usize),
    Invalidate(usize),
    Release(usize),
    TellVoid,
    /// Hardware of ours begins or ends to read a slot.
    Busy(usize, bool),
    /// A client puts a fence onto a slot, which may never signal.
    Fence(usize, bool),
    Advance(u64),
    Resize(usize),
    Clear,
    /// The output is switched off, or on again.
    Rest(bool),
}

pub fn op() -> impl Strategy<Value = Op> {
    let rect = prop::option::of((0..8i32, 0..8i32, 1..5i32, 1..5i32));
    prop_oneof![
        12 => (rect, any::<bool>(), prop::bool::weighted(0.9))
            .prop_map(|(rect, capture, taken)| Op::Commit(rect, capture, taken)),
        3 => prop::option::weighted(0.7, (0..8i32, 0..8i32)).prop_map(Op::Cursor),
        12 => (0..3usize).prop_map(Op::Complete),
        1 => (0..2usize).prop_map(Op::Fail),
        2 => (0..2usize).prop_map(Op::Overdue),
        2 => (0..3usize).prop_map(Op::LateFence),
        3 => (0..4u64, any::<bool>(), any::<bool>()).prop_map(|(who, export, bare)| {
            Op::Open(who, export, View::ALL[usize::from(bare)])
        }),
        1 => (0..6usize).prop_map(Op::Close),
        1 => (0..4u64).prop_map(Op::Kill),
        14 => (0..6usize).prop_map(Op::Request),
        14 => (0..6usize, 0..TARGETS as u64, prop::bool::weighted(0.9))
            .prop_map(|(at, target, direct)| Op::RequestInto(at, target, direct)),
        2 => prop::bool::weighted(0.8).prop_map(Op::Allow),
        2 => Just(Op::Proven),
        1 => (0..6usize).prop_map(Op::Cancel),
        1 => (0..6usize).prop_map(Op::Invalidate),
        8 => (0..8usize).prop_map(Op::Release),
        3 => Just(Op::TellVoid),
        2 => (0..4usize, any::<bool>()).prop_map(|(slot, busy)| Op::Busy(slot, busy)),
        4 => (0..5usize, prop::bool::weighted(0.8)).prop_map(|(slot, set)| Op::Fence(slot, set)),
        6 => prop_oneof![Just(16u64), 0..700u64].prop_map(Op::Advance),
        1 => (3..6usize).prop_map(Op::Resize),
        1 => Just(Op::Clear),
        3 => any::<bool>().prop_map(Op::Rest),
    ]
}

impl World {
    pub fn apply(&mut self, op: Op) {
        let now = self.now();
        match op {
            Op::Commit(cells, capture, taken) => self.commit(cells, capture, taken),
            Op::Cursor(at) => self.cursor = at,
            Op::Complete(at) => self.complete(at),
            Op::Fail(at) if at < self.flying.len() => {
                let flying = self.flying.remove(at);
                self.capture.fail(flying.job);
            }
            Op::Overdue(at) if at < self.flying.len() => {
                let flying = self.flying.remove(at);
                self.capture.overdue(flying.job);
                self.overdue.push_back(Late {
                    job: flying.job,
                    generation: flying.generation,
                    place: flying.place,
                    left_behind: false,
                });
            }
            Op::LateFence(at) if at < self.overdue.len() => {
                let job = self.overdue.remove(at).unwrap().job;
                assert_eq!(self.capture.complete(job, now, now), Completion::Unknown);
                self.capture.late_fence(job);
            }
            Op::Open(client, export, view) if self.viewers.len() < 6 => {
                self.open(client, export, view);
            }
            Op::Close(at) => {
                if let Some(session) = self.session(at) {
                    self.capture.close_session(session);
                    self.viewers.remove(&session);
                }
            }
            Op::Kill(client) => {
                self.capture.close_client(ClientId(client));
                let viewers = &self.viewers;
                let dead = |session| {
                    viewers
                        .get(&session)
                        .is_some_and(|viewer| viewer.client == ClientId(client))
                };
                self.leases.retain(|lease| !dead(lease.session()));
                self.viewers
                    .retain(|_, viewer| viewer.client != ClientId(client));
            }
            Op::Request(at) => {
                if let Some(session) = self.session(at) {
                    self.request(session);
                }
            }
            Op::RequestInto(at, target, direct) => {
                if let Some(session) = self.session(at) {
                    self.request_into(session, target, direct);
                }
            }
            Op::Allow(allowed) => self.capture.allow_direct(PerView::new(|_| allowed)),
            Op::Proven => {
                self.overdue
                    .retain(|late| matches!(late.place, Place::Slot(_)));
                self.overdue
                    .iter_mut()
                    .for_each(|late| late.left_behind = true);
                drop(self.capture.release_targets(None));
            }
            Op::Cancel(at) => {
                let session = self.session(at);
                let viewer = session.and_then(|session| self.viewers.get_mut(&session));
                if let Some(viewer) = viewer.filter(|viewer| viewer.waiting.len() == 1) {
                    viewer.target = None;
                }
                let viewer = session.and_then(|session| self.viewers.get_mut(&session));
                if let Some(request) = viewer.and_then(|viewer| viewer.waiting.pop_first()) {
                    self.capture.cancel(request);
                }
            }
            Op::Invalidate(at) => {
                if let Some(session) = self.session(at) {
                    self.capture.invalidate_session(session);
                    self.viewers.get_mut(&session).unwrap().anew = true;
                }
            }
            Op::Release(at) => self.release(at),
            Op::TellVoid => self.tell_voids(),
            Op::Busy(at, busy) => {
                // Only what was published is read; a read that begins after the slot was free is the reader's fault.
                let read = self.capture.ring.slots().nth(at).filter(|(_, state)| {
                    matches!(state, SlotState::Published(_) | SlotState::Draining(_))
                });
                if let Some((slot, _)) = read {
                    self.memory[&slot].ours.store(busy, Ordering::Relaxed);
                }
            }
            Op::Fence(at, set) => {
                // Whoever had a descriptor once may do so at any time.
                if let Some((slot, _)) = self.capture.ring.slots().nth(at) {
                    self.memory[&slot].fenced.store(set, Ordering::Relaxed);
                }
            }
            Op::Advance(by) => self.now += by,
            Op::Resize(slots) => self.resize(slots),
            Op::Clear => {
                self.capture.clear_buffers(now);
                self.start_anew();
            }
            Op::Rest(off) => self.rest(off),
            Op::Fail(_) | Op::Overdue(_) | Op::LateFence(_) | Op::Open(..) => {}
        }
        self.poll();
    }
}
