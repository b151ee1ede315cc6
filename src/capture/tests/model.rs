//! Random lives of a whole output, beside a model of what is on the screen and in each client's copy of it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::atomic::Ordering,
};

use proptest::prelude::*;

use super::*;
use crate::capture::ring::{LeaseId, SlotState};

/// The screen as cells of 8x8 pixels; each holds the number of the commit that changed it last.
const CELLS: usize = 8;
type Picture = [[u64; CELLS]; CELLS];

pub fn paint(picture: &mut Picture, rect: Rect, with: impl Fn(usize, usize) -> u64) {
    for (y, row) in picture.iter_mut().enumerate() {
        for (x, cell) in row.iter_mut().enumerate() {
            let (x0, y0) = (x as i32 * 8, y as i32 * 8);
            let inside = |at: i32, start: i32, length: i32| at < start + length && start < at + 8;
            if inside(x0, rect.loc.x, rect.size.w) && inside(y0, rect.loc.y, rect.size.h) {
                *cell = with(x, y);
            }
        }
    }
}

/// Buffers that clients have, all of them together: some client may name one in two sessions.
const TARGETS: usize = 3;

#[derive(Debug, Clone)]
pub enum Op {
    /// A commit with damage of some cells, captured if it may, and whether the kernel takes it.
    Commit(Option<(i32, i32, i32, i32)>, bool, bool),
    /// The cursor is shown there, or hidden; the next commit shows it.
    Cursor(Option<(i32, i32)>),
    Spare,
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
    Busy(usize, bool),
    Advance(u64),
    Resize(usize),
    Clear,
}

pub fn op() -> impl Strategy<Value = Op> {
    let rect = prop::option::of((0..8i32, 0..8i32, 1..5i32, 1..5i32));
    prop_oneof![
        12 => (rect, any::<bool>(), prop::bool::weighted(0.9))
            .prop_map(|(rect, capture, taken)| Op::Commit(rect, capture, taken)),
        3 => prop::option::weighted(0.7, (0..8i32, 0..8i32)).prop_map(Op::Cursor),
        1 => Just(Op::Spare),
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
        6 => prop_oneof![Just(16u64), 0..700u64].prop_map(Op::Advance),
        1 => (3..6usize).prop_map(Op::Resize),
        1 => Just(Op::Clear),
    ]
}

#[derive(Debug)]
struct Viewer {
    client: ClientId,
    export: bool,
    view: View,
    waiting: BTreeSet<RequestId>,
    picture: Picture,
    last: Option<FrameSeq>,
    anew: bool,
    /// The memory that its waiting request names.
    target: Option<u64>,
}

/// A client's buffer.
#[derive(Debug, Default, Clone, Copy)]
struct ClientMemory {
    /// Who wrote it last: a job, or a copy.
    stamp: u64,
    /// What it held when the client was told that its frame is ready; until it is named again.
    handed: Option<u64>,
}

/// Where a job writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Slot(SlotId),
    Target(u64, SessionId),
}

#[derive(Debug)]
struct Flying {
    job: JobId,
    spare: bool,
    place: Place,
    cursor: CursorInFrame,
    shows: Option<Shows>,
}

/// What a frame shows to each view that it serves.
type Shows = PerView<Picture>;

/// The cursor's cell in a picture; no commit counts that far.
const CURSOR: u64 = u64::MAX / 2;

/// An output, the hardware and the clients around it.
pub struct World {
    pub capture: OutputCapture,
    pub now: u64,
    memory: BTreeMap<SlotId, Arc<Stamped>>,
    screen: Picture,
    /// Where the next commit shows the cursor, and where the last one did.
    cursor: Option<(i32, i32)>,
    cursor_shown: Option<(i32, i32)>,
    changes: u64,
    next_job: u64,
    flying: Vec<Flying>,
    overdue: VecDeque<(JobId, Place)>,
    targets: [ClientMemory; TARGETS],
    copies: u64,
    /// What the hardware wrote into the memory of a session, until the session is told.
    written: BTreeMap<SessionId, (Shows, u64, JobId)>,
    pub passed_through: u64,
    /// What each published frame shows, its slot, and the job that wrote it.
    frames: BTreeMap<FrameSeq, (Shows, SlotId, JobId)>,
    viewers: BTreeMap<SessionId, Viewer>,
    pub leases: Vec<Lease>,
    /// The memory that the frame of a lease is copied into as long as that is there.
    copying: BTreeMap<LeaseId, u64>,
    voids: Vec<(SessionId, FrameSeq)>,
    sampled: Vec<(SlotId, SessionId, u64)>,
    pub delivered: BTreeMap<SessionId, u64>,
}

impl World {
    pub fn new(slots: usize) -> Self {
        let config = CaptureConfig {
            ring_slots: slots,
            ..CaptureConfig::default()
        };
        let mut world = Self {
            capture: OutputCapture::new(config, REFRESH, Arc::new(|| {})),
            now: 1,
            memory: BTreeMap::new(),
            screen: [[0; CELLS]; CELLS],
            cursor: None,
            cursor_shown: None,
            changes: 0,
            next_job: 1,
            flying: Vec::new(),
            overdue: VecDeque::new(),
            targets: [ClientMemory::default(); TARGETS],
            copies: 0,
            written: BTreeMap::new(),
            passed_through: 0,
            frames: BTreeMap::new(),
            viewers: BTreeMap::new(),
            leases: Vec::new(),
            copying: BTreeMap::new(),
            voids: Vec::new(),
            sampled: Vec::new(),
            delivered: BTreeMap::new(),
        };
        world.capture.allow_direct(PerView::new(|_| true));
        world.resize(slots);
        world
    }

    pub fn now(&self) -> Time {
        ms(self.now)
    }

    pub fn resize(&mut self, slots: usize) {
        let buffers = stamped(slots);
        let generation = self
            .capture
            .set_buffers(format(), memories(&buffers), self.now())
            .unwrap();
        let slots = (0u16..).map(|index| SlotId { index, generation });
        self.memory.extend(slots.zip(buffers));
        self.start_anew();
    }

    fn start_anew(&mut self) {
        self.viewers
            .values_mut()
            .for_each(|viewer| viewer.anew = true);
        self.sampled.clear();
    }

    fn arm(&mut self, spare: bool, cursor: CursorInFrame) -> Option<JobId> {
        let job = JobId(self.next_job);
        self.next_job += 1;
        let now = self.now();
        let candidate = self.capture.direct_candidate(cursor, now);
        if let Some(candidate) = candidate.filter(|_| !spare) {
            return Some(self.arm_direct(job, &candidate, cursor));
        }
        let slot = match spare {
            true => self.capture.arm_spare(job, Producer::Writeback, now),
            false => self.capture.arm_view(job, Producer::Writeback, cursor, now),
        }
        .ok()?;
        assert!(
            self.memory[&slot].idle.load(Ordering::Relaxed),
            "armed while a GPU reads it"
        );
        let resting =
            |(have, _, until): &(SlotId, SessionId, u64)| *have == slot && *until > self.now;
        assert!(!self.sampled.iter().any(resting), "armed during the grace");
        self.flying.push(Flying {
            job,
            spare,
            place: Place::Slot(slot),
            cursor,
            shows: None,
        });
        self.scribble();
        Some(job)
    }

    fn arm_direct(&mut self, job: JobId, candidate: &Candidate, cursor: CursorInFrame) -> JobId {
        let session = candidate.session();
        let mut others = self.viewers.iter().filter(|(id, _)| **id != session);
        assert!(
            others.all(|(_, viewer)| viewer.waiting.is_empty()),
            "not alone"
        );
        let target = *candidate.buffer.downcast_ref::<u64>().unwrap();
        assert!(
            !self.is_written(target),
            "the same memory is written already"
        );
        assert!(cursor.serves(self.viewers[&session].view));
        self.capture.arm_direct(job, candidate, cursor);
        self.flying.push(Flying {
            job,
            spare: false,
            place: Place::Target(target, session),
            cursor,
            shows: None,
        });
        self.scribble();
        job
    }

    fn is_written(&self, target: u64) -> bool {
        let flying = self.flying.iter().map(|flying| flying.place);
        let mut places = flying.chain(self.overdue.iter().map(|(_, place)| *place));
        let copied = |lease: &Lease| self.copying.get(&lease.id) == Some(&target);
        places.any(|place| matches!(place, Place::Target(have, _) if have == target))
            || self.leases.iter().any(copied)
    }

    /// A session was told that its frame is in the memory that it named, written by `stamp`.
    fn hand_over(&mut self, session: SessionId, target: u64, stamp: u64) {
        self.viewers.get_mut(&session).unwrap().target = None;
        let named_again = self
            .viewers
            .values()
            .any(|viewer| viewer.target == Some(target));
        self.targets[target as usize] = ClientMemory {
            stamp,
            handed: (!named_again).then_some(stamp),
        };
    }

    /// All that may be written is written: jobs in flight and overdue ones.
    fn scribble(&mut self) {
        let flying = self.flying.iter().map(|flying| (flying.job, flying.place));
        for (job, place) in flying.chain(self.overdue.iter().copied()) {
            match place {
                Place::Slot(slot) => self.memory[&slot].stamp.store(job.0, Ordering::Relaxed),
                Place::Target(target, _) => self.targets[target as usize].stamp = job.0,
            }
        }
    }

    pub fn commit(&mut self, cells: Option<(i32, i32, i32, i32)>, capture: bool, taken: bool) {
        // One job for both views while there is no cursor, else one for each.
        let contents = match self.cursor {
            None => vec![CursorInFrame::Absent],
            Some(_) => self.capture.views_by_age().map(CursorInFrame::of).to_vec(),
        };
        let mut jobs = Vec::new();
        if capture {
            let armed = contents
                .iter()
                .filter_map(|cursor| self.arm(false, *cursor));
            jobs.extend(armed);
        }
        if !taken {
            for job in jobs {
                self.capture.unarm(job);
                self.flying.retain(|flying| flying.job != job);
            }
            return;
        }
        let damage = cells.map(|(x, y, w, h)| rect(x * 8, y * 8, w * 8, h * 8));
        if let Some(damage) = damage {
            self.changes += 1;
            let change = self.changes;
            paint(&mut self.screen, damage, |_, _| change);
        }
        let mut with_cursor: Vec<Rect> = damage.into_iter().collect();
        if self.cursor != self.cursor_shown {
            let moved = [self.cursor_shown, self.cursor].into_iter().flatten();
            with_cursor.extend(moved.map(|(x, y)| rect(x * 8, y * 8, 8, 8)));
        }
        self.cursor_shown = self.cursor;
        self.capture.committed_views(
            PerView {
                with_cursor: &with_cursor,
                without_cursor: damage.as_slice(),
            },
            &jobs,
        );
        let mut shows = PerView::new(|_| self.screen);
        if let Some((x, y)) = self.cursor {
            shows.with_cursor[y as usize][x as usize] = CURSOR;
        }
        for flying in &mut self.flying {
            if jobs.contains(&flying.job) {
                flying.shows = Some(shows);
            }
        }
    }

    pub fn complete(&mut self, at: usize) {
        if at >= self.flying.len() {
            return;
        }
        let flying = self.flying.remove(at);
        match self.capture.complete(flying.job, self.now(), self.now()) {
            Completion::Published(seq) => {
                assert!(!flying.spare, "a spare job was published");
                let newest = View::ALL
                    .into_iter()
                    .filter_map(|view| self.capture.newest(view));
                let newest: Vec<_> = newest.filter(|frame| frame.seq == seq).collect();
                assert!(
                    !newest.is_empty()
                        && newest.iter().all(|frame| {
                            Place::Slot(frame.slot) == flying.place && frame.cursor == flying.cursor
                        })
                );
                let Place::Slot(slot) = flying.place else {
                    panic!("a client's memory was published");
                };
                self.frames
                    .insert(seq, (flying.shows.unwrap(), slot, flying.job));
            }
            Completion::Written(seq) => {
                let Place::Target(target, session) = flying.place else {
                    panic!("a slot is no client's memory");
                };
                // In the other view there may be a later picture that was complete before.
                let view = self.viewers[&session].view;
                assert!(self.capture.newest(view).is_none(), "older than {seq}");
                assert_eq!(self.targets[target as usize].stamp, flying.job.0);
                let answer = (flying.shows.unwrap(), target, flying.job);
                assert!(self.written.insert(session, answer).is_none());
            }
            Completion::Discarded => {}
            Completion::Unknown => panic!("job in flight is unknown"),
        }
    }

    fn open(&mut self, client: u64, export: bool, view: View) -> SessionId {
        let client = ClientId(client);
        let kind = match (export, view) {
            (true, View::WithCursor) => EXPORT,
            (true, View::WithoutCursor) => BARE_EXPORT,
            (false, View::WithCursor) => COPY,
            (false, View::WithoutCursor) => BARE_COPY,
        };
        assert_eq!(kind.view(), view);
        let session = self.capture.open_session(client, kind);
        self.viewers.insert(
            session,
            Viewer {
                client,
                export,
                view,
                waiting: BTreeSet::new(),
                picture: [[u64::MAX; CELLS]; CELLS],
                last: None,
                anew: true,
                target: None,
            },
        );
        session
    }

    pub fn open_export(&mut self, client: u64) -> SessionId {
        self.open(client, true, View::WithCursor)
    }

    pub fn open_copy(&mut self, client: u64) -> SessionId {
        self.open(client, false, View::WithCursor)
    }

    pub fn open_bare_export(&mut self, client: u64) -> SessionId {
        self.open(client, true, View::WithoutCursor)
    }

    fn session(&self, at: usize) -> Option<SessionId> {
        self.viewers.keys().nth(at).copied()
    }

    pub fn request(&mut self, session: SessionId) {
        let now = self.now();
        let viewer = self.viewers.get_mut(&session).unwrap();
        match self.capture.request(session, now) {
            Ok(request) => assert!(viewer.waiting.insert(request)),
            Err(RequestError::TooMany) => assert!(!viewer.waiting.is_empty()),
            Err(RequestError::UnknownSession) => panic!("session is lost"),
        }
    }

    pub fn request_into(&mut self, session: SessionId, target: u64, direct: bool) {
        let now = self.now();
        let viewer = self.viewers.get_mut(&session).unwrap();
        if viewer.export {
            return;
        }
        let named = Target {
            id: TargetId(target),
            direct: direct.then(|| Arc::new(target) as DirectBuffer),
        };
        match self.capture.request_into(session, Some(named), now) {
            Ok(request) => {
                assert!(viewer.waiting.insert(request));
                viewer.target = Some(target);
                self.targets[target as usize].handed = None;
            }
            Err(RequestError::TooMany) => assert!(!viewer.waiting.is_empty()),
            Err(RequestError::UnknownSession) => panic!("session is lost"),
        }
    }

    pub fn release(&mut self, at: usize) {
        if at >= self.leases.len() {
            return;
        }
        let lease = self.leases.swap_remove(at);
        let (session, seq) = (lease.session(), lease.frame().seq);
        // Of a closed session it is not known here whether it was an export one.
        let viewer = self.viewers.get(&session);
        if viewer.is_some_and(|viewer| viewer.export && viewer.last == Some(seq))
            && !lease.is_void()
        {
            self.sampled
                .push((lease.frame().slot, session, self.now + 32));
        }
    }

    pub fn tell_voids(&mut self) {
        for (session, seq) in std::mem::take(&mut self.voids) {
            self.capture.void_told(session, seq);
            for lease in &self.leases {
                let told = lease.session() == session && lease.frame().seq == seq;
                assert!(!told || lease.is_void());
            }
        }
    }

    pub fn apply(&mut self, op: Op) {
        let now = self.now();
        match op {
            Op::Commit(cells, capture, taken) => self.commit(cells, capture, taken),
            Op::Cursor(at) => self.cursor = at,
            Op::Spare => {
                self.arm(true, CursorInFrame::Absent);
            }
            Op::Complete(at) => self.complete(at),
            Op::Fail(at) if at < self.flying.len() => {
                let flying = self.flying.remove(at);
                self.capture.fail(flying.job);
            }
            Op::Overdue(at) if at < self.flying.len() => {
                let flying = self.flying.remove(at);
                self.capture.overdue(flying.job);
                self.overdue.push_back((flying.job, flying.place));
            }
            Op::LateFence(at) if at < self.overdue.len() => {
                let (job, _) = self.overdue.remove(at).unwrap();
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
                    .retain(|(_, place)| matches!(place, Place::Slot(_)));
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
                    self.memory[&slot].idle.store(!busy, Ordering::Relaxed);
                }
            }
            Op::Advance(by) => self.now += by,
            Op::Resize(slots) => self.resize(slots),
            Op::Clear => {
                self.capture.clear_buffers(now);
                self.start_anew();
            }
            Op::Fail(_) | Op::Overdue(_) | Op::LateFence(_) | Op::Open(..) => {}
        }
        self.poll();
    }

    pub fn poll(&mut self) {
        for event in self.capture.poll(self.now()) {
            match event {
                CaptureEvent::Deliver {
                    session,
                    request,
                    lease,
                    damage,
                } => {
                    self.check_delivery(session, request, &lease, &damage);
                    if let Some(target) = self.viewers[&session].target {
                        assert!(!self.is_written(target), "copied where others write");
                        self.copying.insert(lease.id, target);
                        self.copies += 1;
                        self.hand_over(session, target, u64::MAX - self.copies);
                    }
                    self.leases.push(lease);
                }
                CaptureEvent::Written {
                    session,
                    request,
                    damage,
                    ..
                } => {
                    let (shows, target, job) = self.written.remove(&session).unwrap();
                    // The session was closed between the fence and this turn: nobody is told.
                    if self.viewers.contains_key(&session) {
                        self.check_written(session, request, &shows, &damage);
                        self.hand_over(session, target, job.0);
                        self.passed_through += 1;
                    }
                }
                CaptureEvent::Void { session, frame } => {
                    assert!(!self.voids.contains(&(session, frame)), "asked twice");
                    self.voids.push((session, frame));
                }
            }
        }
        self.scribble();
        self.verify();
    }

    fn check_delivery(
        &mut self,
        session: SessionId,
        request: RequestId,
        lease: &Lease,
        damage: &[Rect],
    ) {
        let frame = lease.frame();
        let viewer = self
            .viewers
            .get_mut(&session)
            .expect("delivered to a closed session");
        assert!(
            viewer.waiting.remove(&request),
            "answered what was not asked"
        );
        assert_eq!(
            frame.seq,
            self.capture.newest(viewer.view).unwrap().seq,
            "not the newest frame"
        );
        let (shows, slot, _) = self.frames.get(&frame.seq).expect("no job made this frame");
        assert_eq!(*slot, frame.slot, "one frame in two slots");
        assert!(
            frame.cursor.serves(viewer.view),
            "a frame of the other view"
        );
        let shows = shows.get(viewer.view);
        assert!(
            viewer.anew || viewer.last.is_none_or(|last| last < frame.seq),
            "seen already"
        );
        assert!(viewer.export || !damage.is_empty(), "a copy of nothing");
        if viewer.anew {
            assert_eq!(damage, [format().full()]);
        }
        for rect in damage {
            paint(&mut viewer.picture, *rect, |x, y| shows[y][x]);
        }
        assert_eq!(
            viewer.picture, *shows,
            "the damage does not cover what changed"
        );
        viewer.anew = false;
        viewer.last = Some(frame.seq);
        self.sampled
            .retain(|(slot, who, _)| *who != session || *slot == frame.slot);
        *self.delivered.entry(session).or_default() += 1;
    }

    fn check_written(
        &mut self,
        session: SessionId,
        request: RequestId,
        shows: &Shows,
        damage: &[Rect],
    ) {
        let viewer = self.viewers.get_mut(&session).unwrap();
        assert!(
            viewer.waiting.remove(&request),
            "answered what was not asked"
        );
        let shows = shows.get(viewer.view);
        assert!(!damage.is_empty(), "a picture of nothing new");
        if viewer.anew {
            assert_eq!(damage, [format().full()]);
        }
        for rect in damage {
            paint(&mut viewer.picture, *rect, |x, y| shows[y][x]);
        }
        assert_eq!(
            viewer.picture, *shows,
            "the damage does not cover what changed"
        );
        viewer.anew = false;
        *self.delivered.entry(session).or_default() += 1;
    }

    fn verify(&self) {
        assert_eq!(self.capture.verify_invariants(), Ok(()));
        for memory in &self.targets {
            assert!(
                memory.handed.is_none_or(|stamp| stamp == memory.stamp),
                "a client's memory was written after it was told that its frame is ready"
            );
        }
        let mut held: BTreeMap<ClientId, BTreeSet<FrameSeq>> = BTreeMap::new();
        let mut slots = BTreeSet::new();
        for lease in &self.leases {
            let frame = lease.frame();
            if let Some(viewer) = self.viewers.get(&lease.session()) {
                held.entry(viewer.client).or_default().insert(frame.seq);
            }
            if lease.is_void() {
                continue;
            }
            slots.insert(frame.slot);
            let (_, _, job) = self.frames[&frame.seq];
            let stamp = self.memory[&frame.slot].stamp.load(Ordering::Relaxed);
            assert_eq!(stamp, job.0, "written while leased");
        }
        let quota = self.capture.config().quota;
        assert!(
            held.values().all(|frames| frames.len() <= quota),
            "over quota: {held:?}"
        );
        for newest in View::ALL
            .into_iter()
            .filter_map(|view| self.capture.newest(view))
        {
            let stamp = self.memory[&newest.slot].stamp.load(Ordering::Relaxed);
            assert_eq!(
                stamp, self.frames[&newest.seq].2 .0,
                "the newest frame was written over"
            );
            slots.insert(newest.slot);
        }
        // Memory: one ring, what is held of older ones, and at most the jobs that were in flight at a change of mode.
        let ring = self.memory.keys().map(|slot| slot.generation).max();
        let old = slots
            .iter()
            .filter(|slot| Some(slot.generation) != ring)
            .count();
        let of_ring = self
            .memory
            .keys()
            .filter(|slot| Some(slot.generation) == ring)
            .count();
        let buffers = self.capture.stats().buffers as usize;
        assert!(
            buffers <= of_ring + old + self.flying.len(),
            "{buffers} buffers"
        );
    }

    /// The hardware and the GPUs end what they do; nobody releases anything.
    pub fn calm_down(&mut self) {
        for flying in std::mem::take(&mut self.flying) {
            self.capture.fail(flying.job);
        }
        for (job, _) in std::mem::take(&mut self.overdue) {
            self.capture.late_fence(job);
        }
        for memory in self.memory.values() {
            memory.idle.store(true, Ordering::Relaxed);
        }
        self.tell_voids();
        self.poll();
    }

    pub fn show_cursor(&mut self, at: Option<(i32, i32)>) {
        self.cursor = at;
    }

    pub fn drop_all_leases(&mut self) {
        self.leases.clear();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_output_keeps_its_promises_whatever_happens(
        slots in 3..5usize,
        ops in prop::collection::vec(op(), 1..250),
    ) {
        let mut world = World::new(slots);
        for op in ops {
            world.apply(op);
        }
    }
}
