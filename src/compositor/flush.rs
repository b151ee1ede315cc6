//! Sending what clients are told, also to those that do not read right now.
//!
//! What does not fit into a client's socket stays in its buffer in our memory, and nothing tells the event loop when there
//! is room again: the display's descriptor only reports what clients send. So as long as somebody is behind, the loop comes
//! back by itself, less and less often, since a stopped client may stay stopped for hours.
//!
//! Who streams frames destroys the old one and asks for the next in one message. That destruction is acknowledged, and sent
//! at once the acknowledgement would wake each client once more for each frame. While a frame is on its way, it goes with it;
//! and while it is copied for a client that does nothing but capture.

use std::{
    collections::{HashMap, HashSet},
    io,
    time::Duration,
};

use smithay::reexports::{
    calloop::timer::{TimeoutAction, Timer},
    wayland_server::backend::ClientId,
};

use super::Vitrine;
use crate::time::Time;

/// The first try after a client's socket was full.
const FIRST: Duration = Duration::from_millis(4);

/// The longest pause between tries.
const LONGEST: Duration = Duration::from_millis(250);

/// So long may what a client is told wait for the end of its copy. Nearly all are over far sooner, but a GPU may be stuck.
const COPY_PATIENCE: Duration = Duration::from_millis(100);

/// Whether and how patiently clients that are behind are waited for.
#[derive(Debug, Default)]
pub(super) struct Flushing {
    /// The pause before the next try; zero while nobody is behind.
    pause: Duration,
    /// The try is in the event loop.
    armed: bool,
    /// Asked for a frame in this turn.
    requested: HashSet<ClientId>,
    /// Clients whose copy is under way, and how long they may be told nothing before its end.
    copied: HashMap<ClientId, Time>,
}

impl Flushing {
    /// What this client is told in this turn may go with the frame that it asks for, if that is on its way.
    pub(super) fn may_wait(&mut self, client: ClientId) {
        self.requested.insert(client);
    }

    /// These clients will be told of the end of a copy: what else they are told may go with that.
    fn note_copies(&mut self, clients: &HashSet<ClientId>, now: Time) {
        self.copied.retain(|client, _| clients.contains(client));
        for client in clients {
            let until = now + COPY_PATIENCE;
            self.copied.entry(client.clone()).or_insert(until);
        }
    }

    fn waits_for_copy(&self, client: &ClientId, now: Time) -> bool {
        self.copied.get(client).is_some_and(|until| now < *until)
    }

    /// When somebody is to be told something though its copy is not over.
    pub(super) fn deadline(&self, now: Time) -> Option<Time> {
        let untils = self.copied.values().copied();
        untils.filter(|until| now < *until).min()
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
    /// Looks whose copies are under way. Of clients that draw nothing may wait that long.
    pub(super) fn note_copies(&mut self, now: Time) {
        let mut clients = self.capture_protocols.clients_with_copies();
        clients.retain(|client| self.listening.only_captures(client));
        self.flushing.note_copies(&clients, now);
    }

    /// Sends all clients what waits for them; except, until the next turn, those whose frame is on its way, and those whose
    /// copy is under way until it is over.
    pub(super) fn flush(&mut self) {
        let mut patient = std::mem::take(&mut self.flushing.requested);
        // The next turn is sure: the flip's, the fence's, or that of a deadline.
        if !self.awaits_screen() || self.alarm.is_none() {
            patient.clear();
        }
        let now = self.turn();
        let mut handle = self.display.backend_handle();
        let mut clients = Vec::new();
        handle.with_all_clients(|client| {
            // The end of a copy makes a turn, and so does the deadline.
            if !patient.contains(&client) && !self.flushing.waits_for_copy(&client, now) {
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
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use std::{os::unix::net::UnixStream, sync::Arc};

    use smithay::reexports::wayland_server::Display;

    use super::*;

    #[test]
    fn only_whose_copy_is_under_way_waits_for_its_end_and_not_for_ever() {
        // Numbers of clients come from a display only.
        let mut display = Display::<()>::new().unwrap().handle();
        let mut client = || {
            let (stream, _) = UnixStream::pair().unwrap();
            display.insert_client(stream, Arc::new(())).unwrap().id()
        };
        let (one, other) = (client(), client());
        let at = |ms| Time::from_duration(Duration::from_millis(ms));
        let both = HashSet::from([one.clone(), other.clone()]);
        let only = HashSet::from([one.clone()]);
        let mut flushing = Flushing::default();
        flushing.note_copies(&only, at(0));
        assert!(flushing.waits_for_copy(&one, at(0)));
        assert!(!flushing.waits_for_copy(&other, at(0)));
        flushing.note_copies(&both, at(40));
        assert_eq!(flushing.deadline(at(40)), Some(at(100)));
        // A copy that takes too long is waited for no more, though it goes on.
        flushing.note_copies(&both, at(100));
        assert!(!flushing.waits_for_copy(&one, at(100)));
        assert!(flushing.waits_for_copy(&other, at(100)));
        assert_eq!(flushing.deadline(at(100)), Some(at(140)));
        flushing.note_copies(&both, at(140));
        assert_eq!(flushing.deadline(at(140)), None);
        // Its end is told at once, and the next one is another.
        flushing.note_copies(&HashSet::new(), at(150));
        assert!(!flushing.waits_for_copy(&one, at(150)));
        flushing.note_copies(&only, at(160));
        assert!(flushing.waits_for_copy(&one, at(160)));
    }

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
