//! Random lives of a screen whose pictures are leased: chain and ring together, with clients that read, hold, stop and die.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that panics has found something"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    io,
    os::fd::OwnedFd,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use drm_fourcc::{DrmFourcc, DrmModifier};
use proptest::prelude::*;

use super::*;
use crate::{
    capture::{
        CaptureConfig, CaptureEvent, ClientId, Completion, Demand, FrameSeq, JobId, Lease, PerView,
        Producer, Reading, SessionId, SessionKind, View,
    },
    geometry::Rect,
    output::chain::{BUFFERS, LENDABLE},
};

const REFRESH: Duration = Duration::from_millis(16);

/// Memory that knows which picture is in it.
#[derive(Debug, Default)]
struct Memory {
    picture: AtomicU64,
    exposed: AtomicBool,
    busy: AtomicBool,
}

impl Memory {
    fn picture(&self) -> u64 {
        self.picture.load(Ordering::Relaxed)
    }
}

impl SlotMemory for Memory {
    fn export(&self) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn read(&self, f: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        f(&self.picture().to_le_bytes());
        Ok(())
    }

    fn reading(&self) -> Reading {
        match self.busy.load(Ordering::Relaxed) {
            true => Reading::Fenced,
            false => Reading::Over,
        }
    }
}

fn format() -> FrameFormat {
    FrameFormat {
        width: 64,
        height: 64,
        fourcc: DrmFourcc::Xrgb8888,
        modifier: DrmModifier::Linear,
        stride: 256,
        offset: 0,
    }
}

#[derive(Debug, Clone)]
enum Op {
    /// Draws, if something changed, and commits, if the kernel takes it; with a writeback job that reads the buffer.
    Commit {
        drawn: bool,
        taken: bool,
        job: bool,
    },
    Cursor(bool),
    Flip,
    JobOver,
    /// The worker has filled a slot.
    Filled,
    Open(u64, bool, View),
    Close(usize),
    /// All of the client's sessions and frames go at once.
    Kill(u64),
    Request(usize),
    Release(usize),
    TellVoids,
    Busy(usize, bool),
    Advance(u64),
    /// The rights change or the session is locked.
    Renew,
    Blank,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (any::<bool>(), prop::bool::weighted(0.9), prop::bool::weighted(0.1))
            .prop_map(|(drawn, taken, job)| Op::Commit { drawn, taken, job }),
        2 => prop::bool::weighted(0.3).prop_map(Op::Cursor),
        12 => Just(Op::Flip),
        2 => Just(Op::JobOver),
        6 => Just(Op::Filled),
        3 => (0..4u64, any::<bool>(), any::<bool>())
            .prop_map(|(who, export, bare)| Op::Open(who, export, View::ALL[usize::from(bare)])),
        1 => (0..6usize).prop_map(Op::Close),
        1 => (0..4u64).prop_map(Op::Kill),
        16 => (0..6usize).prop_map(Op::Request),
        6 => (0..8usize).prop_map(Op::Release),
        3 => Just(Op::TellVoids),
        2 => (0..4usize, prop::bool::weighted(0.3)).prop_map(|(at, busy)| Op::Busy(at, busy)),
        6 => prop_oneof![Just(16u64), 0..1200u64].prop_map(Op::Advance),
        1 => Just(Op::Renew),
        1 => Just(Op::Blank),
    ]
}

/// What a frame's memory has in it.
#[derive(Debug)]
struct Flying {
    job: JobId,
    lent: bool,
    filled: bool,
    flipped: bool,
    memory: Arc<Memory>,
    picture: u64,
}

struct World {
    capture: OutputCapture,
    chain: Chain,
    buffers: Vec<Arc<Memory>>,
    slots: Vec<Arc<Memory>>,
    now: u64,
    picture: u64,
    cursor: bool,
    pending: bool,
    has_job: bool,
    /// Only one buffer at a time is copied from, as the chain wants it.
    copied: usize,
    flying: Vec<Flying>,
    frames: Vec<(FrameSeq, Arc<Memory>, u64)>,
    sessions: Vec<(SessionId, u64, SessionKind)>,
    leases: Vec<(u64, Lease)>,
    /// The newest frame of each session.
    given: BTreeMap<SessionId, FrameSeq>,
    voids: Vec<(SessionId, FrameSeq)>,
    /// Let go of by a session that may go on reading until then.
    sampled: Vec<(Arc<Memory>, SessionId, u64)>,
    /// Memory that must not change any more, and what is in it.
    closed: Vec<(Arc<Memory>, u64)>,
    next_job: u64,
    leased: u64,
    /// Buffers that got new memory.
    allocated: usize,
}

impl World {
    fn new() -> Self {
        let config = CaptureConfig::default();
        let mut world = Self {
            capture: OutputCapture::new(config, REFRESH, Arc::new(|| {})),
            chain: Chain::new(LENDABLE),
            buffers: (0..BUFFERS + LENDABLE).map(|_| Arc::default()).collect(),
            slots: Vec::new(),
            now: 1,
            picture: 0,
            cursor: false,
            pending: false,
            has_job: false,
            copied: 0,
            flying: Vec::new(),
            frames: Vec::new(),
            sessions: Vec::new(),
            leases: Vec::new(),
            given: BTreeMap::new(),
            voids: Vec::new(),
            sampled: Vec::new(),
            closed: Vec::new(),
            next_job: 1,
            leased: 0,
            allocated: 0,
        };
        world.new_ring();
        world.commit(true, true, false);
        world.flip();
        world
    }

    fn now(&self) -> Time {
        Time::from_duration(Duration::from_millis(self.now))
    }

    fn new_ring(&mut self) {
        self.slots = (0..4).map(|_| Arc::default()).collect();
        let slots = self.slots.iter();
        let memory = slots.map(|slot| Arc::clone(slot) as Arc<dyn SlotMemory>);
        let set = self
            .capture
            .set_buffers(format(), memory.collect(), self.now());
        set.unwrap();
    }

    fn renew(&mut self) {
        for memory in self.buffers.iter().chain(&self.slots) {
            // Whoever writes a slot of before may end that.
            let written = |flying: &Flying| Arc::ptr_eq(&flying.memory, memory) && !flying.filled;
            if memory.exposed.load(Ordering::Relaxed) && !self.flying.iter().any(written) {
                self.closed.push((Arc::clone(memory), memory.picture()));
            }
        }
        self.new_ring();
        // Of older memory nothing is written any more.
        self.sampled.clear();
        let buffers = &self.buffers;
        spend(&mut self.chain, |at| {
            buffers[at].exposed.load(Ordering::Relaxed)
        });
    }

    fn take_back(&mut self) {
        let now = self.now();
        let buffers = &self.buffers;
        let is_exposed = |at: usize| buffers[at].exposed.load(Ordering::Relaxed);
        if !self.capture.is_watched() {
            for memory in buffers {
                if memory.exposed.load(Ordering::Relaxed) {
                    self.closed.push((Arc::clone(memory), memory.picture()));
                }
            }
        }
        take_back(&mut self.chain, &mut self.capture, is_exposed, now);
    }

    fn draw(&mut self) {
        self.picture += 1;
        let allocated = &mut self.allocated;
        let memory = || {
            *allocated += 1;
            Ok::<_, Infallible>(Arc::default())
        };
        let next = next_buffer(&mut self.chain, &mut self.buffers, memory, drop);
        let Some((index, memory, _)) = next.unwrap() else {
            panic!("the display has no buffer to draw into");
        };
        memory.picture.store(self.picture, Ordering::Relaxed);
        assert_eq!(
            memory.reading(),
            Reading::Over,
            "drawn while a GPU reads it"
        );
        self.chain.drawn(index);
        self.assert_rested(index);
    }

    fn assert_rested(&self, index: usize) {
        let is_read = |(memory, _, until): &(Arc<Memory>, SessionId, u64)| {
            Arc::ptr_eq(memory, &self.buffers[index]) && *until > self.now
        };
        assert!(!self.sampled.iter().any(is_read), "drawn during the grace");
    }

    fn release(&mut self, at: usize) {
        let (_, lease) = self.leases.swap_remove(at);
        let (session, seq) = (lease.session(), lease.frame().seq);
        let is_last = self.given.get(&session) == Some(&seq);
        let exports =
            |(id, _, kind): &(SessionId, u64, SessionKind)| *id == session && kind.is_export();
        if is_last && !lease.is_void() && self.sessions.iter().any(exports) {
            let memory = Arc::clone(self.memory_of(seq));
            self.sampled.push((memory, session, self.now + 32));
        }
    }

    fn commit(&mut self, drawn: bool, taken: bool, job: bool) {
        if self.pending {
            return;
        }
        self.take_back();
        if drawn {
            self.draw();
        }
        let Some(index) = self.chain.latest() else {
            return;
        };
        let mut jobs = Vec::new();
        let views: &[CursorInFrame] = match self.cursor {
            false => &[CursorInFrame::Absent],
            true => &[CursorInFrame::Shown, CursorInFrame::LeftOut],
        };
        for cursor in views {
            jobs.extend(self.arm(index, *cursor));
        }
        if !taken {
            for flying in jobs {
                self.capture.unarm(flying.job);
            }
            return;
        }
        let job = job && !self.has_job;
        self.has_job |= job;
        self.chain.committed(index, job);
        self.pending = true;
        let damage = [Rect::from_size((1, 1).into())];
        let armed: Vec<_> = jobs.iter().map(|flying| flying.job).collect();
        let damage = if drawn { &damage[..] } else { &[] };
        self.capture
            .committed_views(PerView::new(|_| damage), &armed);
        for flying in &jobs {
            if !flying.lent {
                self.chain.copy_begins(index);
                self.copied += 1;
            }
        }
        self.flying.extend(jobs);
    }

    fn arm(&mut self, index: usize, cursor: CursorInFrame) -> Option<Flying> {
        let now = self.now();
        let job = JobId(self.next_job);
        self.next_job += 1;
        let picture = self.buffers[index].picture();
        if cursor != CursorInFrame::Shown {
            let memory = Arc::clone(&self.buffers[index]);
            let loan = Loan {
                index,
                job,
                cursor,
                memory: (Arc::clone(&memory) as Arc<dyn SlotMemory>, format()),
            };
            if lend(&mut self.chain, &mut self.capture, loan, now).is_some() {
                return Some(Flying {
                    job,
                    lent: true,
                    filled: true,
                    flipped: false,
                    memory,
                    picture,
                });
            }
        }
        if !self.chain.may_copy(index) {
            return None;
        }
        let armed = self.capture.arm_view(job, Producer::Render, cursor, now);
        let memory = Arc::clone(&self.slots[usize::from(armed.ok()?.index)]);
        memory.picture.store(u64::MAX, Ordering::Relaxed);
        Some(Flying {
            job,
            lent: false,
            filled: false,
            flipped: false,
            memory,
            picture,
        })
    }

    fn flip(&mut self) {
        if std::mem::take(&mut self.pending) {
            self.chain.flipped();
            self.flying.iter_mut().for_each(|job| job.flipped = true);
            self.end_jobs();
        }
    }

    fn filled(&mut self) {
        let Some(job) = self.flying.iter_mut().find(|job| !job.filled) else {
            return;
        };
        job.filled = true;
        job.memory.picture.store(job.picture, Ordering::Relaxed);
        self.copied -= 1;
        self.chain.copy_over();
        self.end_jobs();
    }

    fn end_jobs(&mut self) {
        let now = self.now();
        let ended = |job: &mut Flying| job.filled && job.flipped;
        for job in self.flying.extract_if(.., ended) {
            match self.capture.complete(job.job, now, now) {
                Completion::Published(seq) => {
                    self.leased += u64::from(job.lent);
                    self.frames.push((seq, job.memory, job.picture));
                }
                Completion::Discarded => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn apply(&mut self, op: Op) {
        let now = self.now();
        match op {
            Op::Commit { drawn, taken, job } => self.commit(drawn, taken, job),
            Op::Cursor(visible) => self.cursor = visible,
            Op::Flip => self.flip(),
            Op::JobOver => {
                self.has_job = false;
                self.chain.job_over();
            }
            Op::Filled => self.filled(),
            Op::Open(client, export, view) if self.sessions.len() < 6 => {
                let kind = match export {
                    true => SessionKind::Export {
                        overlay_cursor: view == View::WithCursor,
                    },
                    false => SessionKind::Copy {
                        paint_cursors: view == View::WithCursor,
                    },
                };
                let session = self.capture.open_session(ClientId(client), kind);
                self.sessions.push((session, client, kind));
            }
            Op::Open(..) => {}
            Op::Close(at) if at < self.sessions.len() => {
                let (session, ..) = self.sessions.swap_remove(at);
                self.capture.close_session(session);
            }
            Op::Kill(client) => {
                self.capture.close_client(ClientId(client));
                self.sessions.retain(|(_, of, _)| *of != client);
                self.leases.retain(|(of, _)| *of != client);
            }
            Op::Request(at) if at < self.sessions.len() => {
                self.capture.request(self.sessions[at].0, now).ok();
            }
            Op::Release(at) if at < self.leases.len() => self.release(at),
            Op::TellVoids => {
                for (session, seq) in std::mem::take(&mut self.voids) {
                    self.capture.void_told(session, seq);
                }
            }
            Op::Busy(at, busy) => {
                // Whoever begins to read what it does not hold any more is at fault itself.
                if let Some((_, lease)) = self.leases.get(at).filter(|(_, l)| !l.is_void()) {
                    let memory = self.memory_of(lease.frame().seq);
                    memory.busy.store(busy, Ordering::Relaxed);
                }
                if !busy {
                    let all = self.buffers.iter().chain(&self.slots);
                    all.for_each(|memory| memory.busy.store(false, Ordering::Relaxed));
                }
            }
            Op::Advance(by) => self.now += by,
            Op::Renew => self.renew(),
            Op::Blank => {
                // A modeset: what was committed is not flipped to any more.
                self.pending = false;
                self.has_job = false;
                self.chain.blanked();
                for job in self.flying.extract_if(.., |job| !job.flipped && job.filled) {
                    self.capture.fail(job.job);
                }
                self.flying.iter_mut().for_each(|job| job.flipped = true);
            }
            Op::Close(_) | Op::Request(_) | Op::Release(_) => {}
        }
        self.poll();
        self.take_back();
        self.verify();
    }

    fn memory_of(&self, seq: FrameSeq) -> &Arc<Memory> {
        let frame = self.frames.iter().find(|(have, ..)| *have == seq);
        &frame.unwrap().1
    }

    fn poll(&mut self) {
        for event in self.capture.poll(self.now()) {
            match event {
                CaptureEvent::Deliver { session, lease, .. } => {
                    let (_, client, kind) = *self
                        .sessions
                        .iter()
                        .find(|(id, ..)| *id == session)
                        .unwrap();
                    if kind.is_export() {
                        let memory = self.memory_of(lease.frame().seq);
                        memory.exposed.store(true, Ordering::Relaxed);
                    }
                    let seq = lease.frame().seq;
                    self.given.insert(session, seq);
                    self.sampled.retain(|(_, who, _)| *who != session);
                    self.leases.push((client, lease));
                }
                CaptureEvent::Void { session, frame } => self.voids.push((session, frame)),
                CaptureEvent::Written { .. } => panic!("no connector writes here"),
            }
        }
    }

    fn verify(&self) {
        assert_eq!(self.capture.verify_invariants(), Ok(()));
        let held = self.leases.iter().filter(|(_, lease)| !lease.is_void());
        let held = held.map(|(_, lease)| lease.frame().seq);
        let newest = View::ALL
            .into_iter()
            .filter_map(|view| self.capture.newest(view));
        for seq in held.chain(newest.map(|frame| frame.seq)) {
            let (_, memory, picture) = self.frames.iter().find(|(have, ..)| *have == seq).unwrap();
            assert_eq!(memory.picture(), *picture, "a frame that is read changed");
        }
        for (memory, picture) in &self.closed {
            assert_eq!(
                memory.picture(),
                *picture,
                "an old mapping shows something new"
            );
        }
        assert!(
            self.pending || self.chain.next().is_some(),
            "the display has nothing to draw into"
        );
        let used: BTreeSet<_> = self.buffers.iter().map(Arc::as_ptr).collect();
        assert_eq!(used.len(), BUFFERS + LENDABLE, "buffers of the display");
        assert_eq!(self.capture.stats().leased, self.leased);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn leased_pictures_keep_the_rings_promises_and_never_stop_the_display(
        ops in prop::collection::vec(op(), 1..250),
    ) {
        let mut world = World::new();
        for op in ops {
            world.apply(op);
        }
    }
}

/// One refresh after the other: draws, commits, flips; the well-behaved session asks and lets go. Returns how many frames it
/// got.
fn stream(world: &mut World, session: SessionId, refreshes: usize) -> usize {
    let mut received = 0;
    world.request(session);
    for _ in 0..refreshes {
        world.now += 16;
        world.apply(Op::Commit {
            drawn: true,
            taken: true,
            job: false,
        });
        world.apply(Op::Filled);
        world.apply(Op::Flip);
        world.apply(Op::TellVoids);
        let own = |(_, lease): &(u64, Lease)| lease.session() == session;
        if let Some(at) = world.leases.iter().position(own) {
            world.apply(Op::Release(at));
            received += 1;
            world.request(session);
        }
    }
    received
}

impl World {
    fn request(&mut self, session: SessionId) {
        let now = self.now();
        self.capture.request(session, now).ok();
    }

    fn open_export(&mut self, client: u64) -> SessionId {
        self.apply(Op::Open(client, true, View::WithCursor));
        self.sessions.last().unwrap().0
    }
}

#[test]
fn a_lone_stream_is_leased_frame_by_frame_and_nothing_is_copied() {
    let mut world = World::new();
    let session = world.open_export(1);
    let received = stream(&mut world, session, 200);
    assert!(received >= 199, "{received} of 200");
    let stats = world.capture.stats();
    assert_eq!(stats.leased, stats.by_render);
}

#[test]
fn holders_get_their_quota_and_others_go_on_with_copies_where_leases_are_out() {
    let mut world = World::new();
    let holders = [1, 2].map(|client| world.open_export(client));
    let good = world.open_export(3);
    stream(&mut world, good, 3);
    // Both of a holder's frames are of other pictures than those of the other holder.
    for holder in holders {
        for _ in 0..2 {
            world.request(holder);
            stream(&mut world, good, 1);
        }
    }
    let held: BTreeSet<_> = world
        .leases
        .iter()
        .map(|(_, lease)| lease.frame().seq)
        .collect();
    assert_eq!(held.len(), 4);
    let before = world.capture.stats();
    let received = stream(&mut world, good, 200);
    assert!(received >= 199, "{received} of 200");
    let after = world.capture.stats();
    assert_eq!(after.voids, 0, "nobody starved");
    assert!(after.by_render - before.by_render > after.leased - before.leased);
    assert_eq!(world.capture.demand(world.now()), Demand::Now);
    // When they let go, nothing is copied any more.
    world.leases.clear();
    stream(&mut world, good, 10);
    let before = world.capture.stats();
    stream(&mut world, good, 50);
    let after = world.capture.stats();
    assert_eq!(
        after.by_render - before.by_render,
        after.leased - before.leased
    );
}

#[test]
fn with_every_reader_at_its_worst_the_display_goes_on() {
    let mut world = World::new();
    let commit = |job| Op::Commit {
        drawn: true,
        taken: true,
        job,
    };
    let holders = [1, 2, 3, 4].map(|client| world.open_export(client));
    // A fence that never comes, and frames that are never let go.
    world.apply(commit(true));
    world.apply(Op::Flip);
    for session in holders.into_iter().flat_map(|session| [session; 2]) {
        world.request(session);
        world.apply(commit(false));
        world.apply(Op::Flip);
    }
    // A copy that never ends.
    world.apply(Op::Cursor(true));
    let other = world.open_export(5);
    world.request(other);
    world.apply(commit(false));
    world.apply(Op::Flip);
    assert!(world.has_job && world.copied == 1 && world.capture.stats().leased >= 3);
    let before = world.picture;
    for _ in 0..120 {
        world.now += 16;
        world.apply(commit(false));
        world.apply(Op::Flip);
    }
    assert_eq!(world.picture, before + 120);
}

#[test]
fn whoever_begins_and_ends_all_the_time_costs_the_display_little() {
    let mut world = World::new();
    let end = world.now + 10_000;
    let mut received = 0;
    while world.now < end {
        let session = world.open_export(1);
        received += stream(&mut world, session, 3);
        world.apply(Op::Kill(1));
    }
    assert!(received >= 300, "{received} frames");
    // In each second once, and then so many as were given away.
    assert!(world.allocated <= 10 * 3, "{} times", world.allocated);
    assert!(world.capture.stats().leased >= 10);
}

#[test]
fn a_leased_picture_is_taken_back_from_who_holds_it_too_long_while_others_starve() {
    let mut world = World::new();
    world.apply(Op::Cursor(true));
    let hold = |world: &mut World, client, view| {
        world.apply(Op::Open(client, true, view));
        let session = world.sessions.last().unwrap().0;
        for _ in 0..2 {
            world.request(session);
            world.apply(Op::Commit {
                drawn: true,
                taken: true,
                job: false,
            });
            world.apply(Op::Filled);
            world.apply(Op::Flip);
            world.now += 16;
        }
        session
    };
    // The first one has pictures of the screen, the others all slots.
    let late = hold(&mut world, 1, View::WithoutCursor);
    assert_eq!((world.leases.len(), world.capture.stats().leased), (2, 2));
    world.now += 600;
    hold(&mut world, 2, View::WithCursor);
    hold(&mut world, 3, View::WithCursor);
    // And a fourth the last picture that the display can do without.
    hold(&mut world, 4, View::WithoutCursor);
    assert_eq!((world.leases.len(), world.capture.stats().leased), (7, 3));
    world.now += 500;
    world.apply(Op::Open(5, true, View::WithCursor));
    let starving = world.sessions.last().unwrap().0;
    world.request(starving);
    world.poll();
    let frame = world.leases[0].1.frame().seq;
    assert_eq!(world.voids, [(late, frame)]);
    assert!(!world.leases[0].1.is_void(), "it was not told yet");
    let buffer = Arc::clone(world.memory_of(frame));
    let index = world
        .buffers
        .iter()
        .position(|have| Arc::ptr_eq(have, &buffer));
    assert!(world.chain.is_lent(index.unwrap()));
    world.apply(Op::TellVoids);
    assert!(world.leases[0].1.is_void());
    assert!(
        !world.chain.is_lent(index.unwrap()),
        "the display has it again"
    );
}

/// Lent ones stay with whoever put them there, and the display has enough others.
#[test]
fn fences_that_never_signal_on_all_that_was_given_away_end_in_copies_and_starve_nobody() {
    let mut world = World::new();
    let good = world.open_export(1);
    let fence_each = |world: &mut World, refreshes: usize| {
        let mut received = 0;
        for _ in 0..refreshes {
            received += stream(world, good, 1);
            let (_, newest, _) = world.frames.last().unwrap();
            newest.busy.store(true, Ordering::Relaxed);
        }
        received
    };
    // What can be lent is gone soon; then it is a second for each slot.
    fence_each(&mut world, 6 * 63);
    let before = world.capture.stats();
    let received = fence_each(&mut world, 200);
    assert!(received >= 180, "{received} of 200");
    let after = world.capture.stats();
    assert!(after.overruled - before.overruled >= 180);
    assert_eq!(after.leased, before.leased);
}
