//! The clients' side of an output's capture: sessions, what they wait for, and which frame answers them.

use std::time::Duration;

use tracing::debug;

use crate::{
    capture::{
        copy::CopyReport,
        damage::DamageSet,
        direct::Target,
        ids::{ClientId, FrameSeq, RequestId, SessionId},
        lease::Lease,
        motion::Motion,
        output_capture::{CaptureEvent, Demand, Leased, OutputCapture, TARGET},
        ring::Holder,
        session::{Session, SessionKind},
        view::{PerView, View},
    },
    geometry::Rect,
    time::Time,
};

/// So many requests of one export session may wait. A client makes one object per request and none is answered before
/// its time, so that more than a few are either nonsense or an attack; each costs a few bytes here.
pub const MAX_WAITING: usize = 32;

/// See [`OutputCapture::stream_patience`].
const STREAM_REFRESHES: u32 = 2;

/// Why a request is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The session is closed or of another output.
    #[error("there is no such capture session on this output")]
    UnknownSession,
    /// A copy session has a request waiting (its protocols allow one frame at a time), or an export session has
    /// [`MAX_WAITING`] of them. The client may try again after an answer.
    #[error("too many requests of this session wait already")]
    TooMany,
}

impl OutputCapture {
    /// A client begins to look at this output. One `Export` session serves all frame objects that a client makes for an
    /// output with the same cursor setting.
    pub fn open_session(&mut self, client: ClientId, kind: SessionKind) -> SessionId {
        let id = SessionId(self.next_session);
        self.next_session += 1;
        self.sessions.insert(id, Session::new(client, kind));
        self.clients.entry(client).or_default();
        debug!(target: TARGET, session = %id, %client, ?kind, "capture session opened");
        id
    }

    /// The same for a part of the picture, in pixels of the frames: only changes inside of `area` are damage to this
    /// session. Its deliveries are whole frames all the same.
    pub fn open_area_session(
        &mut self,
        client: ClientId,
        kind: SessionKind,
        area: Rect,
    ) -> SessionId {
        let id = self.open_session(client, kind);
        if let Some(session) = self.sessions.get_mut(&id) {
            session.area = Some(area);
        }
        id
    }

    /// The client is done looking. Its waiting requests are forgotten; frames that it holds stay until their leases are
    /// dropped. An unknown session is ignored.
    pub fn close_session(&mut self, session: SessionId) {
        if self.sessions.remove(&session).is_some() {
            debug!(target: TARGET, %session, "capture session closed");
            self.ring.forget(session);
            self.forget_clients();
        }
    }

    /// Whether a client looks at this output now. The history is no client.
    pub fn has_sessions(&self) -> bool {
        let mut sessions = self.sessions.values();
        sessions.any(|session| session.client != ClientId::HOUSE)
    }

    /// Closes all sessions of a client, for instance because it died.
    pub fn close_client(&mut self, client: ClientId) {
        let of_client = self
            .sessions
            .iter()
            .filter(|(_, session)| session.client == client);
        let ids: Vec<SessionId> = of_client.map(|(id, _)| *id).collect();
        for session in ids {
            self.close_session(session);
        }
    }

    /// A session asks for a frame. Each request is answered by one [`CaptureEvent::Deliver`], at the earliest by the next
    /// [`poll`](Self::poll). Over quota or past the hold deadline it waits; that is no error.
    ///
    /// # Errors
    /// The session does not exist, or too many of its requests wait.
    pub fn request(&mut self, session: SessionId, now: Time) -> Result<RequestId, RequestError> {
        self.request_with(session, None, false, now)
    }

    /// As [`request`](Self::request), for a copy session whose frame ends up in the client's memory `target`. If the
    /// hardware can write it and nobody else wants the frame, the answer is a [`CaptureEvent::Written`].
    ///
    /// # Errors
    /// As those of [`request`](Self::request).
    pub fn request_into(
        &mut self,
        session: SessionId,
        target: Option<Target>,
        now: Time,
    ) -> Result<RequestId, RequestError> {
        self.request_with(session, target, false, now)
    }

    /// As [`request_into`](Self::request_into), but a copy session, too, is answered by any newer frame and does not wait for
    /// damage; the next commit is made for it. No frame answers two of these.
    ///
    /// # Errors
    /// As those of [`request`](Self::request).
    pub fn request_fresh(
        &mut self,
        session: SessionId,
        target: Option<Target>,
        now: Time,
    ) -> Result<RequestId, RequestError> {
        self.request_with(session, target, true, now)
    }

    fn request_with(
        &mut self,
        session: SessionId,
        target: Option<Target>,
        fresh: bool,
        now: Time,
    ) -> Result<RequestId, RequestError> {
        self.take_releases(now);
        let id = RequestId(self.next_request);
        let patience = self.stream_patience();
        let session = self
            .sessions
            .get_mut(&session)
            .ok_or(RequestError::UnknownSession)?;
        let room = if session.kind.is_export() {
            MAX_WAITING
        } else {
            1
        };
        if session.requests.len() >= room {
            if let Some(client) = self.clients.get_mut(&session.client) {
                client.stats.refused += 1;
            }
            return Err(RequestError::TooMany);
        }
        self.next_request += 1;
        session.fresh = fresh;
        // An export session's memory is the slot.
        let target = target.filter(|_| !session.kind.is_export());
        session.asked(id, target, now, patience);
        Ok(id)
    }

    /// The request is not wanted any more. An unknown or answered one is ignored.
    pub fn cancel(&mut self, request: RequestId) {
        for session in self.sessions.values_mut() {
            session.requests.retain(|waiting| *waiting != request);
            if session.requests.is_empty() {
                session.target = None;
            }
        }
    }

    /// The session's client has said that it is about to ask: the next commit with damage is captured for it already.
    pub fn expect_request(&mut self, session: SessionId, now: Time) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.streaming = true;
            session.delivered_at = Some(now);
        }
    }

    /// The client has the copy only now: a stream's next request is expected from here on.
    pub fn copy_handed_over(&mut self, session: SessionId, now: Time) {
        if let Some(session) = self.sessions.get_mut(&session) {
            if session.streaming {
                session.delivered_at = Some(now);
            }
        }
    }

    /// What was delivered to the session last is worth nothing (its copy failed, its constraints changed): the next request is
    /// answered as its first one, with full damage, and at once if the newest frame is current.
    pub fn invalidate_session(&mut self, session: SessionId) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.start_anew();
        }
    }

    /// A copy for this session is complete. Only counts.
    pub fn record_copy(&mut self, session: SessionId, report: &CopyReport) {
        let by_gpu = u64::from(report.gpu);
        self.stats.copies += 1;
        self.stats.gpu_copies += by_gpu;
        self.stats.copied_bytes += report.bytes;
        let session = self.sessions.get(&session);
        if let Some(client) = session.and_then(|session| self.clients.get_mut(&session.client)) {
            client.stats.copies += 1;
            client.stats.gpu_copies += by_gpu;
            client.stats.copied_bytes += report.bytes;
        }
    }

    /// How often clients were told that a frame is ready.
    pub fn told(&self) -> u64 {
        self.stats.ready.count()
    }

    /// The client of this session was told that a frame, presented then, is ready. Only counts.
    pub fn record_ready(&mut self, session: SessionId, presented: Time, now: Time) {
        let latency = now.saturating_since(presented);
        self.stats.ready.add(latency);
        let session = self.sessions.get(&session);
        if let Some(client) = session.and_then(|session| self.clients.get_mut(&session.client)) {
            client.stats.ready.add(latency);
        }
    }

    /// Whether the next commit is to be captured. Deliveries that [`poll`](Self::poll) would make are not counted: ask
    /// it first.
    pub fn demand(&mut self, now: Time) -> Demand {
        self.take_releases(now);
        if self.ring.size() == 0 {
            return Demand::None;
        }
        self.demand_of_waiters(now)
    }

    /// The same for each view.
    pub fn demands(&mut self, now: Time) -> PerView<Demand> {
        self.take_releases(now);
        if self.ring.size() == 0 {
            return PerView::new(|_| Demand::None);
        }
        PerView::new(|view| self.demand_for(view, now))
    }

    pub(crate) fn demand_of_waiters(&self, now: Time) -> Demand {
        let [one, other] = View::ALL.map(|view| self.demand_for(view, now));
        one.max(other)
    }

    pub(crate) fn demand_for(&self, view: View, now: Time) -> Demand {
        let mut demand = Demand::None;
        for (id, session) in &self.sessions {
            if session.kind.view() == view {
                demand = demand.max(self.demand_of(*id, session, now));
            }
            if demand == Demand::Now {
                break;
            }
        }
        demand
    }

    /// Whether the session's next request is on its way.
    pub(crate) fn expects(&self, id: SessionId, session: &Session, now: Time) -> bool {
        session.is_about_to_ask(now, self.stream_patience())
            || (session.streams_on() && self.ring.is_copied_for(id))
    }

    pub(crate) fn demand_of(&self, id: SessionId, session: &Session, now: Time) -> Demand {
        // A stream's next frame is captured before it is asked for: the display commits as soon as the last job is over,
        // which is just when the client is being told of it. At most one frame waits like that, and none is forced. While we
        // copy, the client cannot ask, however long that takes.
        let expected = self.expects(id, session, now);
        // A client that may not be given another frame must not make us capture one.
        if self.rest.is_on()
            || (session.requests.is_empty() && !expected)
            || self.is_kept_waiting(session)
            || !self.ring.may_lease_another(session.client, now)
            || self.answer_for(session, now).is_some()
        {
            return Demand::None;
        }
        let view = session.kind.view();
        let generation = self.ring.generation();
        let mut flying = 0;
        let mut changing = false;
        for job in self
            .jobs
            .iter()
            .filter(|job| *job.views.get(view) && job.generation == generation)
            // It answers whose memory it writes, who is kept waiting until then, and nobody else.
            .filter(|job| job.target.is_none())
        {
            flying += 1;
            // What a commit changes is not known until it is reported.
            let damage = job.damage.get(view).as_ref();
            changing |= damage.is_none_or(|damage| session.is_touched_by(damage));
        }
        let anew = session.anew || session.fresh;
        if expected {
            return match flying {
                0 => Demand::OnDamage,
                _ => Demand::None,
            };
        }
        match session.kind {
            SessionKind::Export { .. } if session.requests.len() <= flying => Demand::None,
            SessionKind::Export { .. } => Demand::Now,
            SessionKind::Copy { .. } if flying > 0 && (anew || changing) => Demand::None,
            SessionKind::Copy { .. } if self.motion == Motion::Full => Demand::Now,
            SessionKind::Copy { .. } if anew || session.is_touched_by(self.pending.get(view)) => {
                Demand::Now
            }
            // It changed in a frame that only another client has.
            SessionKind::Copy { .. } if !session.missed.is_empty() => Demand::Now,
            SessionKind::Copy { .. } => Demand::OnDamage,
        }
    }

    /// A client that asks again within this time after a delivery is taken for one that streams.
    fn stream_patience(&self) -> Duration {
        self.refresh.saturating_mul(STREAM_REFRESHES)
    }

    /// The newest frame, if it answers the session and its client may have it.
    fn answer_for(&self, session: &Session, now: Time) -> Option<FrameSeq> {
        let view = session.kind.view();
        let newest = self.newest(view)?.seq;
        if self.rest.is_on() || self.rest.is_outdated(newest) || self.is_kept_waiting(session) {
            return None;
        }
        let answers = session.is_answered_by(newest, self.is_current(view));
        (answers && self.ring.may_lease_newest(session.client, view, now)).then_some(newest)
    }

    /// Whether nothing is known to have changed in the view since its newest frame.
    fn is_current(&self, view: View) -> bool {
        let unchanged = |damage: &DamageSet| damage.is_empty();
        let of_commits = self
            .jobs
            .iter()
            .filter_map(|job| job.damage.get(view).as_ref());
        self.motion == Motion::Damage
            && self.pending.get(view).is_empty()
            && of_commits.into_iter().all(unchanged)
    }

    /// A frame was published: it is due to all of its view who wait, and everybody else there has missed its damage.
    pub(crate) fn note_published(
        &mut self,
        seq: FrameSeq,
        view: View,
        damage: &DamageSet,
        bounds: Rect,
    ) {
        let of_view = |session: &&mut Session| session.kind.view() == view;
        for session in self.sessions.values_mut().filter(of_view) {
            session.miss(damage, bounds);
            if !session.requests.is_empty() {
                session.entitled = Some(seq);
            }
        }
    }

    /// Gives the newest frame of its view to each session that waits for it and may have it.
    pub(crate) fn deliver(&mut self, now: Time) -> Vec<CaptureEvent> {
        let waiting = self
            .sessions
            .iter()
            .filter(|(_, session)| !session.requests.is_empty());
        let due = waiting.filter(|(_, session)| self.answer_for(session, now).is_some());
        let due: Vec<SessionId> = due.map(|(id, _)| *id).collect();
        due.into_iter()
            .filter_map(|session| self.deliver_to(session, now))
            .collect()
    }

    fn deliver_to(&mut self, id: SessionId, now: Time) -> Option<CaptureEvent> {
        // The delivery before this one may be copied into the same memory.
        let waits = |session| self.is_kept_waiting(session);
        if self.sessions.get(&id).is_none_or(waits) {
            return None;
        }
        let session = self.sessions.get_mut(&id)?;
        let view = session.kind.view();
        let frame = self.newest.get(view).as_ref()?;
        let memory = self.memory.get(&frame.slot)?;
        let request = *session.requests.front()?;
        let (client, export) = (session.client, session.kind.is_export());
        let (lease, _) = self.ring.lease_newest(
            Holder {
                client,
                session: id,
                export,
            },
            view,
            now,
        )?;
        let (handle, void) = Lease::new(
            lease,
            id,
            frame.clone(),
            memory.clone(),
            self.releases.clone(),
        );
        let target = session.target.as_ref().map(|target| target.id);
        let leased = Leased {
            client,
            void,
            target,
        };
        self.leases.insert(lease, leased);
        let damage = session.answered(frame.seq, frame.format.full(), now);
        self.stats.delivered += 1;
        if let Some(client) = self.clients.get_mut(&client) {
            client.stats.frames += 1;
        }
        Some(CaptureEvent::Deliver {
            session: id,
            request,
            lease: handle,
            damage,
        })
    }
}
