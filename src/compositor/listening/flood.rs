//! Clients that always have more to say than there is time for.
//!
//! Nobody waits for them (`interrupt`), but the event loop would compute as much as it can for their sake, and that with a
//! priority that applications do not have: on a machine with one CPU these would hardly run. So who goes on like that is
//! heard for a share of its time only.

use std::time::Duration;

use rustix::event::epoll;
use smithay::reexports::wayland_server::backend::{ClientId, DisconnectReason};

use super::{Connection, Listening};
use crate::{compositor::interrupt::End, time::Time};

/// No burst takes so long.
const FLOOD: Duration = Duration::from_secs(1);

/// So long does a client wait that has had its share, if it is no burst. With this it has a tenth of a CPU.
const PAUSE: Duration = Duration::from_millis(36);

/// Since when a client has had more to say than there was time for.
#[derive(Debug, Default)]
pub(super) struct Flood {
    since: Option<Time>,
    said: bool,
}

/// What becomes of a client that has had its share.
#[derive(Debug, PartialEq, Eq)]
enum Pace {
    /// It goes on in the next turn.
    On,
    /// It waits; `say`: for the first time ever.
    Slow { say: bool },
}

impl Flood {
    /// It had more to say in this turn, too.
    fn goes_on(&mut self, now: Time) -> Pace {
        let since = *self.since.get_or_insert(now);
        if now < since + FLOOD {
            return Pace::On;
        }
        let say = !std::mem::replace(&mut self.said, true);
        Pace::Slow { say }
    }

    /// It had no more to say.
    fn ended(&mut self) {
        self.since = None;
    }
}

impl Listening {
    /// wayland-server begins to read a client; gives the span of what is logged meanwhile.
    pub(super) fn enter(&mut self, client: &ClientId) -> tracing::Span {
        self.heard += 1;
        let heard = self.heard;
        let Some(connection) = self.connection(client) else {
            return tracing::Span::none();
        };
        connection.heard = heard;
        let (theirs, span) = (connection.theirs, connection.span.clone());
        // The descriptor of one that is gone may be somebody else's by now.
        if !connection.data.is_gone() {
            self.interrupt.enter(client.clone(), theirs);
        }
        span
    }

    /// wayland-server has stopped reading a client.
    pub(super) fn leave(&mut self, client: &ClientId, now: Time) {
        let Some(key) = self.keys.get(client).copied() else {
            return;
        };
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        match self.interrupt.leave(&connection.socket) {
            End::Silent => connection.flood.ended(),
            End::Cut => match connection.flood.goes_on(now) {
                Pace::On => {}
                Pace::Slow { say } => {
                    if say {
                        tracing::warn!(
                            target: "vitrine::clients", executable = ?connection.data.peer.executable,
                            "a client sends without an end: it is heard less often, and everybody else goes on"
                        );
                    }
                    self.mute(key, now + PAUSE);
                }
            },
            End::Broken(error) => {
                tracing::warn!(
                    target: "vitrine::clients", %error,
                    "a client sends without an end and does not read what it is told: it is disconnected"
                );
                let handle = self.handle.backend_handle();
                handle.kill_client(client.clone(), DisconnectReason::ConnectionClosed);
            }
        }
    }

    /// What this client sends does not wake the loop until then. Its end does.
    fn mute(&mut self, key: u64, until: Time) {
        if self.hear(key, epoll::EventFlags::empty()) {
            self.muted.push((key, until));
        }
    }

    /// Hears again whose time has come.
    pub(super) fn unmute(&mut self, now: Time) {
        let muted = std::mem::take(&mut self.muted);
        let (due, others): (Vec<_>, Vec<_>) =
            muted.into_iter().partition(|(_, until)| *until <= now);
        self.muted = others;
        for (key, _) in due {
            if !self.hear(key, epoll::EventFlags::IN) && self.connections.contains_key(&key) {
                self.muted.push((key, now + PAUSE));
            }
        }
    }

    /// Sets what of a client wakes the loop.
    fn hear(&self, key: u64, flags: epoll::EventFlags) -> bool {
        let Some(Connection {
            socket, hearing, ..
        }) = self.connections.get(&key)
        else {
            return false;
        };
        let data = epoll::EventData::new_u64(key);
        epoll::modify(self.set(*hearing), socket, data, flags).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_duration(Duration::from_millis(ms))
    }

    #[test]
    fn only_who_never_stops_for_a_second_is_slowed_down_and_said_to_flood_once() {
        let mut flood = Flood::default();
        assert_eq!(flood.goes_on(at(0)), Pace::On);
        assert_eq!(flood.goes_on(at(900)), Pace::On);
        flood.ended();
        assert_eq!(flood.goes_on(at(1000)), Pace::On);
        assert_eq!(flood.goes_on(at(1999)), Pace::On);
        assert_eq!(flood.goes_on(at(2000)), Pace::Slow { say: true });
        assert_eq!(flood.goes_on(at(2020)), Pace::Slow { say: false });
        flood.ended();
        assert_eq!(flood.goes_on(at(3000)), Pace::On);
        assert_eq!(flood.goes_on(at(5000)), Pace::Slow { say: false });
    }
}
