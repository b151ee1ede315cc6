//! Passthrough: the hardware writes a frame into the memory of the one client that wants it, instead of a slot.
//!
//! A frame in a client's memory can be given to nobody else and cannot be kept. So a job goes there only while that client
//! is alone, and two things differ from a job with a slot:
//!
//! - **There is no newest frame after it.** The one in the ring is older than what the client has; it is let go, and whoever
//!   comes next waits for a new one. What such a frame changed is *missed* by every other session, as that of any frame.
//! - **The memory has one writer.** From the commit to the end of its job nothing else is written there, not by a copy
//!   for a later request with the same memory either; nor does a job, or another copy, go where a copy is under way. An
//!   overdue job may still write: its memory is kept from everybody until its fence signals or the connector is known to
//!   have left it behind.
//!
//! A request gets one job of this sort: if that fails, it is answered from the ring.

use std::{any::Any, fmt, sync::Arc};

use crate::{
    capture::{
        frame::Producer,
        ids::{ClientId, FrameSeq, JobId, RequestId, SessionId, TargetId},
        jobs::{Completion, Job},
        output_capture::{CaptureEvent, Demand, OutputCapture},
        session::Session,
        view::{CursorInFrame, PerView, View},
    },
    time::Time,
};

/// A buffer for whoever knows devices: a client's for the job that writes it, or both ends of a copy by the GPU. This room
/// does not look into it.
pub type DirectBuffer = Arc<dyn Any + Send + Sync>;

/// The memory that a request's frame ends up in.
#[derive(Clone)]
pub struct Target {
    /// Which memory.
    pub id: TargetId,
    /// Its buffer, if the hardware may write it.
    pub direct: Option<DirectBuffer>,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("id", &self.id)
            .field("direct", &self.direct.is_some())
            .finish()
    }
}

/// A job's target, and whom it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JobTarget {
    id: TargetId,
    session: SessionId,
    request: RequestId,
}

impl Job {
    /// The client's memory that it writes.
    pub(crate) fn target_id(&self) -> Option<TargetId> {
        self.target.map(|target| target.id)
    }
}

/// The request that the next job may answer in its client's memory.
#[derive(Clone)]
pub struct Candidate {
    target: JobTarget,
    /// The client's buffer.
    pub buffer: DirectBuffer,
}

impl Candidate {
    /// Whose request it is.
    pub fn session(&self) -> SessionId {
        self.target.session
    }
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

/// A client whose memory cannot be written so often in a row has none that can.
const REFUSALS_IN_A_ROW: u8 = 2;

/// What is remembered of it.
#[derive(Debug, Default)]
pub(crate) struct Direct {
    /// The views whose frames the hardware may write into clients' memory.
    allowed: PerView<bool>,
    /// What the next poll tells.
    written: Vec<CaptureEvent>,
}

impl OutputCapture {
    /// Whether the writeback connector makes the frames of each view now, and the operator lets it write clients' memory.
    pub fn allow_direct(&mut self, allowed: PerView<bool>) {
        self.direct.allowed = allowed;
    }

    /// May the job of the next commit, with that of the cursor in its picture, go into a client's memory? The pure decision;
    /// [`arm_direct`](Self::arm_direct) follows it, or [`refuse_direct`](Self::refuse_direct).
    pub fn direct_candidate(&self, cursor: CursorInFrame, now: Time) -> Option<Candidate> {
        let (id, session) = self.lone_direct(now)?;
        if !cursor.serves(session.kind.view()) {
            return None;
        }
        let target = session.target.as_ref()?;
        Some(Candidate {
            target: JobTarget {
                id: target.id,
                session: id,
                request: *session.requests.front()?,
            },
            buffer: target.direct.clone()?,
        })
    }

    /// The session that wants a frame, names memory that the hardware may write, and has no company.
    pub(crate) fn lone_direct(&self, now: Time) -> Option<(SessionId, &Session)> {
        if self.history.is_some() || self.ring.size() == 0 {
            return None;
        }
        let mut wanting = self.sessions.iter().filter(|(id, session)| {
            !session.requests.is_empty() || self.expects(**id, session, now)
        });
        let (id, session) = wanting.next()?;
        let alone = wanting.next().is_none();
        let may_be_written = session
            .target
            .as_ref()
            .is_some_and(|target| target.direct.is_some());
        let allowed = *self.direct.allowed.get(session.kind.view());
        let wants = self.demand_of(*id, session, now) != Demand::None;
        (alone && may_be_written && allowed && wants && session.area.is_none())
            .then_some((*id, session))
    }

    /// The next commit carries a job into the candidate's memory. It ends like one that has a slot.
    pub fn arm_direct(&mut self, job: JobId, candidate: &Candidate, cursor: CursorInFrame) {
        if let Some(session) = self.sessions.get_mut(&candidate.session()) {
            session.refused = 0;
        }
        self.stats.jobs += 1;
        self.blocked = false;
        self.jobs.push(Job {
            id: job,
            producer: Producer::Writeback,
            cursor,
            views: PerView::new(|view| cursor.serves(view)),
            generation: self.ring.generation(),
            damage: PerView::default(),
            target: Some(candidate.target),
        });
    }

    /// The hardware cannot write what the session's request names: it is answered from the ring. Streams take turns between
    /// buffers, so that the next one may well be written, and is not to find a frame that was captured ahead.
    pub fn refuse_direct(&mut self, session: SessionId) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.refuse_direct();
            session.refused = session.refused.saturating_add(1);
            session.offers_direct = session.refused < REFUSALS_IN_A_ROW;
        }
    }

    /// Somebody may write this memory for who knows how long, and nobody waits for that: who has asked for a frame there is
    /// answered from the ring.
    pub fn refuse_target(&mut self, target: TargetId) {
        for session in self.sessions.values_mut() {
            if session
                .target
                .as_ref()
                .is_some_and(|named| named.id == target)
            {
                session.refuse_direct();
            }
        }
    }

    /// No overdue job but `in_flight` is written any more: the hardware was given others since, and was proven or given up.
    /// Returns those jobs whose memory was kept until now.
    pub fn release_targets(&mut self, in_flight: Option<JobId>) -> Vec<JobId> {
        self.overdue.left_behind(in_flight)
    }

    /// Whether it matters that the hardware has left overdue jobs behind: a request names their memory, or they show what is to be
    /// seen no more.
    pub fn waits_for_proof(&self) -> bool {
        let overdue = |id: TargetId| self.overdue.targets().any(|have| have == id);
        let waits = |session: &Session| {
            let target = session.target.as_ref();
            !session.requests.is_empty() && target.is_some_and(|target| overdue(target.id))
        };
        self.overdue.is_any_provable_before(self.ring.generation())
            || self.sessions.values().any(waits)
    }

    /// Whether the memory that the session's request names is being written, or may be: by a job, in flight or overdue, or by
    /// a copy, be it for a frame that its client has destroyed since.
    pub(crate) fn is_kept_waiting(&self, session: &Session) -> bool {
        let Some(target) = session.target.as_ref() else {
            return false;
        };
        let in_flight = self.jobs.iter().filter_map(|job| job.target_id());
        let copied = self.leases.values().filter_map(|leased| leased.target);
        let mut written = in_flight.chain(self.overdue.targets()).chain(copied);
        written.any(|id| id == target.id)
    }

    /// Whether a frame of this producer in the ring is of use to somebody of the view. Not to a stream whose next request
    /// will name memory for the hardware: captured ahead, its frame would have to be copied.
    pub(crate) fn wants_slot(&self, view: View, producer: Producer, now: Time) -> bool {
        let direct = producer == Producer::Writeback
            && *self.direct.allowed.get(view)
            && self.history.is_none();
        let mut of_view = self
            .sessions
            .iter()
            .filter(|(_, session)| session.kind.view() == view);
        of_view.any(|(id, session)| {
            let ahead = session.requests.is_empty() && session.offers_direct;
            self.demand_of(*id, session, now) != Demand::None && !(ahead && direct)
        })
    }

    /// The job at `place` has written its client's memory, in time.
    pub(crate) fn complete_direct(
        &mut self,
        place: usize,
        target: JobTarget,
        presented: Time,
        now: Time,
    ) -> Completion {
        let (Some(format), Some(job)) = (self.format, self.jobs.get(place)) else {
            return Completion::Unknown;
        };
        let (id, views) = (job.id, job.views);
        if !self.is_answered_directly(place, target) {
            return self.discard(id);
        }
        let bounds = format.full();
        let damage = self.damage_until(place, bounds);
        self.jobs.remove(place);
        let seq = FrameSeq(self.next_frame);
        self.next_frame += 1;
        self.count_published(Producer::Writeback);
        self.stats.passthrough += 1;
        for view in View::ALL.into_iter().filter(|view| *views.get(*view)) {
            let of_view = |session: &&mut Session| session.kind.view() == view;
            for session in self.sessions.values_mut().filter(of_view) {
                session.miss(damage.get(view), bounds);
            }
            // It is older than what is known now.
            if self.newest.get_mut(view).take().is_some() {
                self.ring.let_view_go(view, now);
            }
        }
        self.forget_memory();
        self.answer_directly(target, seq, presented, now);
        Completion::Written(seq)
    }

    /// Whether the job's request still waits, and the job shows something new to it.
    fn is_answered_directly(&self, place: usize, target: JobTarget) -> bool {
        let Some(session) = self.sessions.get(&target.session) else {
            return false;
        };
        let view = session.kind.view();
        let Some((job, older)) = self.jobs.get(..=place).and_then(|jobs| jobs.split_last()) else {
            return false;
        };
        // What its commit changed is not known if it was never reported.
        let changed = |job: &Job| {
            let damage = job.damage.get(view).as_ref();
            damage.is_some_and(|damage| !damage.is_empty())
        };
        let is_news = session.anew
            || !session.missed.is_empty()
            || job.damage.get(view).is_none()
            || changed(job)
            || older.iter().any(changed);
        session.requests.front() == Some(&target.request) && *job.views.get(view) && is_news
    }

    fn answer_directly(&mut self, target: JobTarget, seq: FrameSeq, presented: Time, now: Time) {
        let (Some(session), Some(format)) = (self.sessions.get_mut(&target.session), self.format)
        else {
            return;
        };
        let damage = session.answered(seq, format.full(), now);
        self.stats.delivered += 1;
        if let Some(client) = self.clients.get_mut(&session.client) {
            client.stats.frames += 1;
            client.stats.passthrough += 1;
        }
        self.direct.written.push(CaptureEvent::Written {
            session: target.session,
            request: target.request,
            presented,
            damage,
        });
    }

    pub(crate) fn take_written(&mut self) -> Vec<CaptureEvent> {
        std::mem::take(&mut self.direct.written)
    }

    /// What was not told yet is of a picture that nobody is to be given any more: those requests wait again.
    pub(crate) fn take_back_written(&mut self) {
        for event in self.take_written() {
            let CaptureEvent::Written {
                session, request, ..
            } = event
            else {
                continue;
            };
            if let Some(session) = self.sessions.get_mut(&session) {
                session.requests.push_front(request);
                session.start_anew();
                self.stats.delivered = self.stats.delivered.saturating_sub(1);
            }
        }
    }

    /// The job's request is not answered by a second one of its sort.
    pub(crate) fn never_again_direct(&mut self, job: JobId) {
        let Some(target) = self.target_of(job) else {
            return;
        };
        let session = self.sessions.get_mut(&target.session);
        let session = session.filter(|session| session.requests.front() == Some(&target.request));
        if let Some(session) = session {
            session.refuse_direct();
        }
    }

    fn target_of(&self, job: JobId) -> Option<JobTarget> {
        self.jobs.iter().find(|have| have.id == job)?.target
    }

    /// Part of [`verify_invariants`](Self::verify_invariants).
    pub(crate) fn verify_targets(&self) -> Result<(), String> {
        let mut written: Vec<TargetId> = self.overdue.targets().collect();
        written.extend(self.jobs.iter().filter_map(|job| job.target_id()));
        let count = written.len();
        written.sort_unstable();
        written.dedup();
        if written.len() < count {
            return Err("two jobs write the same memory of a client".to_owned());
        }
        let kept = self.sessions.values().find(|session| {
            (session.requests.is_empty() && session.target.is_some())
                || (session.client == ClientId::HOUSE && session.target.is_some())
        });
        match kept {
            Some(_) => Err("memory is kept for a request that does not wait".to_owned()),
            None => Ok(()),
        }
    }
}
