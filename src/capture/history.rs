//! The last frames of an output, kept for a look back after something went wrong.
//!
//! A session of the house that always waits for the next change, and that keeps what it is given: `history` slots more
//! in the ring, leased by one client that is nobody's. Its quota is its own, and no deadline runs for it; when it lets
//! a frame go is decided here. Everything else about it is as with any copy session.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    capture::{
        ids::{ClientId, SessionId},
        lease::Lease,
        output_capture::{CaptureEvent, OutputCapture},
        session::SessionKind,
    },
    time::Time,
};

/// What is kept.
#[derive(Debug)]
pub(crate) struct History {
    session: SessionId,
    /// Oldest first; never more than `depth`.
    frames: VecDeque<Arc<Lease>>,
    depth: usize,
}

impl History {
    /// The picture is of an old mode, or goes away: nothing of it is kept.
    pub fn clear(&mut self) {
        self.frames.clear();
    }
}

impl OutputCapture {
    /// Begins to keep the last `config.history` frames; with 0 nothing happens.
    pub(crate) fn start_history(&mut self) {
        let depth = self.config.history;
        if depth == 0 {
            return;
        }
        let kind = SessionKind::Copy {
            paint_cursors: true,
        };
        let session = self.open_session(ClientId::HOUSE, kind);
        self.history = Some(History {
            session,
            frames: VecDeque::with_capacity(depth + 1),
            depth,
        });
        self.ask_for_history(session, Time::default());
    }

    /// The frames that are kept, oldest first. While somebody has them the history stands still: it holds no more slots
    /// than were made for it, and one.
    pub fn history(&self) -> Vec<Arc<Lease>> {
        self.history
            .as_ref()
            .map(|history| history.frames.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// Takes the history's delivery out of the events, and asks for the next.
    pub(crate) fn keep_history(&mut self, events: &mut Vec<CaptureEvent>, now: Time) {
        let Some(history) = self.history.as_mut() else {
            return;
        };
        let own = history.session;
        let is_own = |event: &CaptureEvent| matches!(event, CaptureEvent::Deliver { session, .. } if *session == own);
        let Some(place) = events.iter().position(is_own) else {
            return;
        };
        if let CaptureEvent::Deliver { lease, .. } = events.swap_remove(place) {
            history.frames.push_back(Arc::new(lease));
        }
        if history.frames.len() > history.depth {
            history.frames.pop_front();
        }
        // No client got it.
        self.stats.delivered = self.stats.delivered.saturating_sub(1);
        self.ask_for_history(own, now);
    }

    fn ask_for_history(&mut self, session: SessionId, now: Time) {
        if let Err(error) = self.request(session, now) {
            tracing::error!(target: super::output_capture::TARGET, %error, "the history gets no more frames; this is a defect");
        }
    }
}
