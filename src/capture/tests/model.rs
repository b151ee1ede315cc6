//! Random lives of a whole output, beside a model of what is on the screen and in each client's copy of it.

mod checks;
mod fences;
mod ops;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::atomic::Ordering,
};

use proptest::prelude::*;

use self::fences::FenceWatch;
pub use self::ops::{op, Op};
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
    generation: u32,
    place: Place,
    cursor: CursorInFrame,
    shows: Option<Shows>,
}

/// A job that did not end in time.
#[derive(Debug, Clone, Copy)]
struct Late {
    job: JobId,
    generation: u32,
    place: Place,
    /// Whether the hardware is known to have left it behind. The slot stays in quarantine all the same.
    left_behind: bool,
}

/// What a frame shows to each view that it serves.
type Shows = PerView<Picture>;

/// The cursor's cell in a picture; no commit counts that far.
const CURSOR: u64 = u64::MAX / 2;

/// An output, the hardware and the clients around it.
pub struct World {
    pub capture: OutputCapture,
    pub now: u64,
    /// The output is off, and frames before this one are of before it was.
    resting: bool,
    not_before: FrameSeq,
    memory: BTreeMap<SlotId, Arc<Stamped>>,
    screen: Picture,
    /// Where the next commit shows the cursor, and where the last one did.
    cursor: Option<(i32, i32)>,
    cursor_shown: Option<(i32, i32)>,
    changes: u64,
    next_job: u64,
    flying: Vec<Flying>,
    overdue: VecDeque<Late>,
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
    fences: FenceWatch,
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
            resting: false,
            not_before: FrameSeq(0),
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
            fences: FenceWatch::default(),
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

    fn rest(&mut self, off: bool) {
        match off {
            true => self.capture.rest(),
            false => self.capture.end_rest(),
        }
        // What the hardware wrote and nobody was told of is taken back, too.
        if off || self.resting {
            self.written.clear();
            self.not_before = FrameSeq(self.capture.next_frame);
            self.start_anew_in_the_same_ring();
        }
        self.resting = off;
        assert_eq!(self.capture.is_resting(), off);
        if off {
            assert_eq!(self.capture.demand(self.now()), Demand::None);
        }
    }

    /// Slots may still be sampled: the ring is the same.
    fn start_anew_in_the_same_ring(&mut self) {
        let viewers = self.viewers.values_mut();
        viewers.for_each(|viewer| viewer.anew = true);
    }

    fn arm(&mut self, cursor: CursorInFrame) -> Option<JobId> {
        let job = JobId(self.next_job);
        self.next_job += 1;
        let now = self.now();
        let candidate = self.capture.direct_candidate(cursor, now);
        if let Some(candidate) = candidate {
            return Some(self.arm_direct(job, &candidate, cursor));
        }
        let slot = self.capture.arm_view(job, Producer::Writeback, cursor, now);
        let slot = slot.ok()?;
        assert!(
            !self.memory[&slot].ours.load(Ordering::Relaxed),
            "armed while a GPU reads it"
        );
        self.fences.armed(slot);
        let resting =
            |(have, _, until): &(SlotId, SessionId, u64)| *have == slot && *until > self.now;
        assert!(!self.sampled.iter().any(resting), "armed during the grace");
        self.flying.push(Flying {
            job,
            generation: self.capture.ring.generation(),
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
            generation: self.capture.ring.generation(),
            place: Place::Target(target, session),
            cursor,
            shows: None,
        });
        self.scribble();
        job
    }

    fn is_written(&self, target: u64) -> bool {
        let flying = self.flying.iter().map(|flying| flying.place);
        let mut places = flying.chain(self.overdue.iter().map(|late| late.place));
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
        let overdue = self.overdue.iter().map(|late| (late.job, late.place));
        for (job, place) in flying.chain(overdue) {
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
            let armed = contents.iter().filter_map(|cursor| self.arm(*cursor));
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
        self.verify_fences();
    }

    /// The output is on, the hardware and our GPUs end what they do; nobody releases anything, and fences of clients stay for ever.
    pub fn calm_down(&mut self) {
        self.rest(false);
        for flying in std::mem::take(&mut self.flying) {
            self.capture.fail(flying.job);
        }
        for late in std::mem::take(&mut self.overdue) {
            self.capture.late_fence(late.job);
        }
        for memory in self.memory.values() {
            memory.ours.store(false, Ordering::Relaxed);
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
