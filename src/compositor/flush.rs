//! Sending what clients are told, also to those that do not read right now.
//!
//! What does not fit into a client's socket stays in its buffer in our memory, and nothing tells the event loop when there
//! is room again: the display's descriptor only reports what clients send. So as long as somebody is behind, the loop comes
//! back by itself, less and less often, since a stopped client may stay stopped for hours.
//!
//! Who streams frames destroys the old one and asks for the next in one message. That destruction is acknowledged, and sent
//! at once the acknowledgement would wake each client once more for each frame. While a frame is on its way, it goes with it.

use std::{collections::HashSet, io, time::Duration};

use smithay::reexports::{
    calloop::timer::{TimeoutAction, Timer},
    wayland_server::backend::ClientId,
};

use super::Vitrine;

/// The first try after a client's socket was full.
const FIRST: Duration = Duration::from_millis(4);

/// The longest pause between tries.
const LONGEST: Duration = Duration::from_millis(250);

/// Whether and how patiently clients that are behind are waited for.
#[derive(Debug, Default)]
pub(super) struct Flushing {
    /// The pause before the next try; zero while nobody is behind.
    pause: Duration,
    /// The try is in the event loop.
    armed: bool,
    /// Asked for a frame in this turn.
    requested: HashSet<ClientId>,
}

impl Flushing {
    /// What this client is told in this turn may go with the frame that it asks for, if that is on its way.
    pub(super) fn may_wait(&mut self, client: ClientId) {
        self.requested.insert(client);
    }

    /// What a flush found; gives the pause before the next one if somebody is behind and no try is under way.
    fn flushed(&mut self, behind: bool) -> Option<Duration> {
        if !behind {
            self.pause = Duration::ZERO;
            return None;
        }
        if self.armed {
            return None;
        }
        self.armed = true;
        self.pause = (self.pause * 2).clamp(FIRST, LONGEST);
        Some(self.pause)
    }
}

impl Vitrine {
    /// Sends all clients what waits for them; except, until the next turn, those whose frame is on its way.
    pub(super) fn flush(&mut self) {
        let mut patient = std::mem::take(&mut self.flushing.requested);
        // The next turn is sure: the flip's, the fence's, or that of the job's deadline.
        if self.fences.is_empty() || self.alarm.is_none() {
            patient.clear();
        }
        let mut handle = self.display.backend_handle();
        let mut clients = Vec::new();
        handle.with_all_clients(|client| {
            if !patient.contains(&client) {
                clients.push(client);
            }
        });
        let mut behind = false;
        for client in clients {
            // Any other error means that the client is gone, which its end of the connection reports.
            if let Err(error) = handle.flush(Some(client)) {
                behind |= error.kind() == io::ErrorKind::WouldBlock;
            }
        }
        let Some(pause) = self.flushing.flushed(behind) else {
            return;
        };
        let timer = Timer::from_duration(pause);
        let inserted = self.event_loop.insert_source(timer, |_, (), state| {
            // The turn that this timer makes ends with the flush.
            state.flushing.armed = false;
            TimeoutAction::Drop
        });
        if let Err(error) = inserted {
            self.flushing.armed = false;
            tracing::warn!(target: "vitrine::compositor", %error, "clients that are behind are told at the next event");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_stays_behind_is_tried_less_and_less_often_and_a_new_one_soon() {
        let mut flushing = Flushing::default();
        let mut pauses = Vec::new();
        for _ in 0..10 {
            pauses.extend(flushing.flushed(true));
            assert_eq!(flushing.flushed(true), None, "one try at a time");
            flushing.armed = false;
        }
        assert_eq!(pauses.first(), Some(&FIRST));
        assert_eq!(pauses.last(), Some(&LONGEST));
        assert!(pauses.is_sorted());
        assert_eq!(flushing.flushed(false), None);
        assert_eq!(flushing.flushed(true), Some(FIRST));
    }
}
