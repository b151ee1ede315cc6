//! What the room remembers of one client's wish to see one output.

use std::{collections::VecDeque, time::Duration};

use crate::{
    capture::{
        damage::{clip, DamageSet},
        direct::Target,
        ids::{ClientId, FrameSeq, RequestId},
        view::View,
    },
    geometry::Rect,
    time::Time,
};

/// A client whose requests come late so often in a row does not stream any more.
const LATE_REQUESTS: u8 = 2;

/// How a session takes its frames. That decides when a frame is due and when a slot may be written again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionKind {
    /// Frames are copied into the client's memory by us; the lease ends with the copy. A frame is due when something
    /// changed.
    Copy {
        /// Whether the cursor belongs into the picture.
        paint_cursors: bool,
    },
    /// The client reads the slot itself. A frame is due whenever it asks (planes that we do not drive may have changed), and
    /// a released slot rests for a grace, since some clients go on sampling after the release.
    Export {
        /// Whether the cursor belongs into the picture.
        overlay_cursor: bool,
    },
}

impl SessionKind {
    /// Whether the client reads the slot itself.
    pub const fn is_export(self) -> bool {
        matches!(self, SessionKind::Export { .. })
    }

    /// Whether the cursor belongs into this session's pictures.
    pub const fn wants_cursor(self) -> bool {
        match self {
            SessionKind::Copy { paint_cursors } => paint_cursors,
            SessionKind::Export { overlay_cursor } => overlay_cursor,
        }
    }

    /// The picture that this session is shown.
    pub const fn view(self) -> View {
        if self.wants_cursor() {
            View::WithCursor
        } else {
            View::WithoutCursor
        }
    }
}

#[derive(Debug)]
pub(crate) struct Session {
    pub client: ClientId,
    pub kind: SessionKind,
    /// Requests that wait for a frame, oldest first.
    pub requests: VecDeque<RequestId>,
    /// The last frame that was delivered.
    pub given: Option<FrameSeq>,
    /// The next frame is delivered with full damage and as soon as it is current: nothing was delivered yet, the mode
    /// changed, or the last attempt failed.
    pub anew: bool,
    /// What the frames published since the last delivery changed. Meaningless while `anew`.
    pub missed: DamageSet,
    /// The frame that was published while a request waited here. That one is delivered even if the screen has changed
    /// again in the meantime.
    pub entitled: Option<FrameSeq>,
    /// The part of the picture that the session looks at; `None` for all of it. What changes elsewhere is nothing to it.
    pub area: Option<Rect>,
    /// The waiting request of a copy session wants a newer frame even if nothing changed.
    pub fresh: bool,
    /// When it was delivered a frame last.
    pub delivered_at: Option<Time>,
    /// It asked for another one soon after a delivery, and is expected to do so again.
    pub streaming: bool,
    /// So many of a stream's last requests came late. One may be the machine's fault; with the second it is no stream.
    late: u8,
    /// The client's memory that the waiting request of a copy session names.
    pub target: Option<Target>,
    /// The last request named memory that the hardware may write, and so will the next.
    pub offers_direct: bool,
    /// So many requests in a row named memory that the hardware could not write after all.
    pub refused: u8,
}

impl Session {
    pub fn new(client: ClientId, kind: SessionKind) -> Self {
        Self {
            client,
            kind,
            requests: VecDeque::new(),
            given: None,
            anew: true,
            missed: DamageSet::new(),
            entitled: None,
            area: None,
            fresh: false,
            delivered_at: None,
            streaming: false,
            late: 0,
            target: None,
            offers_direct: false,
            refused: 0,
        }
    }

    /// Adds what a frame changed in the part that this session looks at.
    pub fn miss(&mut self, damage: &DamageSet, bounds: Rect) {
        let bounds = match self.area {
            None => bounds,
            Some(area) => match clip(area, bounds) {
                Some(part) => part,
                None => return,
            },
        };
        self.missed.merge(damage, bounds);
    }

    /// Whether this damage touches what the session looks at.
    pub fn is_touched_by(&self, damage: &DamageSet) -> bool {
        match self.area {
            None => !damage.is_empty(),
            Some(area) => damage.rects().iter().any(|rect| rect.overlaps(area)),
        }
    }

    /// A request came.
    pub fn asked(
        &mut self,
        request: RequestId,
        target: Option<Target>,
        now: Time,
        patience: Duration,
    ) {
        let soon = self.is_soon_after_delivery(now, patience);
        self.late = match (self.streaming, soon) {
            (true, false) => self.late.saturating_add(1),
            _ => 0,
        };
        self.streaming = soon || (self.streaming && self.late < LATE_REQUESTS);
        self.requests.push_back(request);
        self.offers_direct = target
            .as_ref()
            .is_some_and(|target| target.direct.is_some());
        self.target = target;
    }

    /// The hardware is not to write the waiting request's memory.
    pub fn refuse_direct(&mut self) {
        if let Some(target) = &mut self.target {
            target.direct = None;
        }
    }

    /// The oldest request is answered by this frame. Returns what changed for the session.
    pub fn answered(&mut self, frame: FrameSeq, full: Rect, now: Time) -> Vec<Rect> {
        self.requests.pop_front();
        self.target = None;
        self.given = Some(frame);
        self.delivered_at = Some(now);
        self.entitled = None;
        let missed = self.missed.take();
        if std::mem::replace(&mut self.anew, false) {
            vec![self.area.unwrap_or(full)]
        } else {
            missed.into_rects()
        }
    }

    /// Whether its next request is on its way: between two frames of a stream there is always a moment in which the client
    /// has not asked yet.
    pub fn is_about_to_ask(&self, now: Time, patience: Duration) -> bool {
        self.streams_on() && self.is_soon_after_delivery(now, patience)
    }

    /// Whether it waits for nothing now, but is likely to ask again when it has what it asked for.
    pub fn streams_on(&self) -> bool {
        self.streaming && self.requests.is_empty()
    }

    fn is_soon_after_delivery(&self, now: Time, patience: Duration) -> bool {
        self.delivered_at.is_some_and(|at| now < at + patience)
    }

    /// What was delivered is worth nothing any more; the next request starts again.
    pub fn start_anew(&mut self) {
        self.anew = true;
        self.missed = DamageSet::new();
        self.entitled = None;
    }

    /// Whether the newest frame is an answer to this session. `current`: nothing is known to have changed since it.
    pub fn is_answered_by(&self, newest: FrameSeq, current: bool) -> bool {
        if self.anew {
            return current || self.entitled == Some(newest);
        }
        match self.kind {
            SessionKind::Copy { .. } if self.fresh => {
                let newer = self.given.is_none_or(|given| given < newest);
                newer && (current || self.entitled == Some(newest))
            }
            SessionKind::Copy { .. } => !self.missed.is_empty(),
            SessionKind::Export { .. } => self.given.is_none_or(|given| given < newest),
        }
    }
}
