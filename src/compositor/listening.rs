//! Whose requests the event loop reads, and when.
//!
//! wayland-server has one epoll set for all clients, so that each message of each client is a turn of the loop. Eight
//! clients that stream a screen answer each frame with "give me the next one", eight times a turn for something that
//! nobody needs before the next frame. So clients that do nothing but capture are in a set of their own. When several of
//! them have been given a frame it *rests*: nothing wakes the loop for it, but each turn that happens anyway (the flip's,
//! the fence's, the application's) begins with what is there. Applications are always heard at once.
//!
//! What may be armed or answered in a turn is known when it begins, as before: a rest ends no later than the next flip, and
//! soon where none is to come.

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use rustix::{
    buffer::spare_capacity,
    event::{epoll, Timespec},
};
use smithay::reexports::{
    calloop::{generic::Generic, Interest, LoopHandle, Mode, PostAction, RegistrationToken},
    wayland_server::{
        backend::{ClientId, DisconnectReason},
        Display, DisplayHandle,
    },
};

use super::{ClientState, Vitrine};
use crate::time::Time;

/// So many clients are read at a time; the others in the next turn.
const AT_ONCE: usize = 64;

/// A rest where a flip or a fence is to come, which ends it: only a bound.
const LONG_REST: Duration = Duration::from_millis(40);

/// A rest where nothing else is to come, as a part of a refresh. Clients that answer at once, and the application's next
/// picture, are within it; for who waits for nothing but us it is the delay of its request, which is in time for the next
/// refresh all the same.
const SHORT_REST: u32 = 4;

/// The refresh of a screen whose mode is unknown.
const USUAL_REFRESH: Duration = Duration::from_micros(16_667);

/// For one client alone a rest saves nothing.
const WORTH_A_REST: usize = 2;

/// Which set a client is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hearing {
    /// Heard at once.
    Prompt,
    /// A client that only captures: heard at once too, but for the rests.
    Patient,
}

/// Clients that were disconnected, by whatever cause, since the loop looked last.
pub(super) type Gone = Arc<Mutex<Vec<ClientId>>>;

/// The clients' connections.
pub(super) struct Listening {
    /// Borrowed for a dispatch only; requests reach it by `handle`.
    display: Rc<RefCell<Display<Vitrine>>>,
    handle: DisplayHandle,
    prompt: Rc<OwnedFd>,
    patient: Rc<OwnedFd>,
    /// The patient set in the event loop.
    token: RegistrationToken,
    /// Whether it wakes the loop.
    patient_watched: bool,
    connections: HashMap<u64, Connection>,
    keys: HashMap<ClientId, u64>,
    last_key: u64,
    gone: Gone,
    rest: Rest,
    /// Frames that clients were told of, all in all.
    told: u64,
}

/// One client's connection. Its descriptor is wayland-server's; a set forgets it when that is closed.
#[derive(Debug)]
struct Connection {
    client: ClientId,
    socket: RawFd,
    hearing: Hearing,
    /// It has surfaces: somebody may look at what it does.
    draws: bool,
    /// What is logged while its requests are served says whose they were.
    span: tracing::Span,
}

impl Listening {
    /// Two empty sets in the event loop.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn new(
        event_loop: &LoopHandle<'static, Vitrine>,
        display: Display<Vitrine>,
    ) -> anyhow::Result<Self> {
        let (prompt, _) = watched_set(event_loop, Hearing::Prompt)?;
        let (patient, token) = watched_set(event_loop, Hearing::Patient)?;
        Ok(Self {
            handle: display.handle(),
            display: Rc::new(RefCell::new(display)),
            prompt,
            patient,
            token,
            patient_watched: true,
            connections: HashMap::new(),
            keys: HashMap::new(),
            last_key: 0,
            gone: Gone::default(),
            rest: Rest::default(),
            told: 0,
        })
    }

    /// Where a client's data notes its end.
    pub fn gone(&self) -> Gone {
        self.gone.clone()
    }

    /// Until when the patient set rests.
    pub fn deadline(&self) -> Option<Time> {
        self.rest.until
    }

    /// Takes a connection.
    ///
    /// # Errors
    /// The kernel is out of memory.
    fn add(&mut self, stream: UnixStream, data: Arc<ClientState>) -> io::Result<()> {
        self.last_key += 1;
        let key = self.last_key;
        let socket = stream.as_raw_fd();
        let span = tracing::info_span!(target: "vitrine::clients", "client", number = key, pid = data.peer.pid);
        watch(&self.prompt, &stream, key)?;
        let client = self.handle.insert_client(stream, data)?.id();
        let connection = Connection {
            client: client.clone(),
            socket,
            hearing: Hearing::Prompt,
            draws: false,
            span,
        };
        self.keys.insert(client, key);
        self.connections.insert(key, connection);
        Ok(())
    }

    fn set(&self, hearing: Hearing) -> &OwnedFd {
        match hearing {
            Hearing::Prompt => &self.prompt,
            Hearing::Patient => &self.patient,
        }
    }

    /// Puts a client, whose request this is, into another set.
    fn move_to(&mut self, client: &ClientId, hearing: Hearing) {
        let Some((key, before, socket)) = self.keys.get(client).and_then(|key| {
            let connection = self.connections.get_mut(key)?;
            let before = std::mem::replace(&mut connection.hearing, hearing);
            Some((*key, before, connection.socket))
        }) else {
            return;
        };
        // SAFETY: wayland-server dispatches a request of this client, whose socket it closes at the earliest after that.
        let socket = unsafe { BorrowedFd::borrow_raw(socket) };
        let moved = epoll::delete(self.set(before), socket)
            .map_err(io::Error::from)
            .and_then(|()| watch(self.set(hearing), socket, key));
        if let Err(error) = moved {
            // The kernel is out of memory. Nobody would hear the client any more.
            tracing::warn!(target: "vitrine::clients", ?client, %error, "a client's connection cannot be watched and is closed");
            let handle = self.handle.backend_handle();
            handle.kill_client(client.clone(), DisconnectReason::ConnectionClosed);
        }
    }

    fn connection(&mut self, client: &ClientId) -> Option<&mut Connection> {
        self.connections.get_mut(self.keys.get(client)?)
    }

    /// It waits for frames.
    pub fn captures(&mut self, client: &ClientId) {
        let of_those = |connection: &mut Connection| {
            !connection.draws && connection.hearing == Hearing::Prompt
        };
        if self.connection(client).is_some_and(of_those) {
            self.move_to(client, Hearing::Patient);
        }
    }

    /// Whether nobody looks at what it does.
    pub fn only_captures(&self, client: &ClientId) -> bool {
        let connection = self
            .keys
            .get(client)
            .and_then(|key| self.connections.get(key));
        connection.is_some_and(|connection| connection.hearing == Hearing::Patient)
    }

    /// It has a surface.
    pub fn draws(&mut self, client: &ClientId) {
        let Some(connection) = self.connection(client) else {
            return;
        };
        connection.draws = true;
        if connection.hearing == Hearing::Patient {
            self.move_to(client, Hearing::Prompt);
        }
    }

    /// Who has sent something, or is at its end.
    fn ready(&self, hearing: Hearing) -> Vec<ClientId> {
        let mut events = Vec::with_capacity(AT_ONCE);
        let set = self.set(hearing);
        let now = Timespec::default();
        if let Err(error) = epoll::wait(set, spare_capacity(&mut events), Some(&now)) {
            if error != rustix::io::Errno::INTR {
                tracing::warn!(target: "vitrine::clients", %error, "clients cannot be heard");
            }
        }
        let keys = events.iter().map(|event| event.data.u64());
        keys.filter_map(|key| Some(self.connections.get(&key)?.client.clone()))
            .collect()
    }

    fn take_gone(&self) -> Vec<ClientId> {
        let gone = self.gone.lock();
        std::mem::take(&mut *gone.unwrap_or_else(PoisonError::into_inner))
    }

    fn forget(&mut self, client: &ClientId) {
        if let Some(key) = self.keys.remove(client) {
            self.connections.remove(&key);
        }
    }
}

fn watch(set: &OwnedFd, socket: impl AsFd, key: u64) -> io::Result<()> {
    let data = epoll::EventData::new_u64(key);
    epoll::add(set, socket, data, epoll::EventFlags::IN)?;
    Ok(())
}

/// An epoll set as a source of the event loop.
fn watched_set(
    event_loop: &LoopHandle<'static, Vitrine>,
    hearing: Hearing,
) -> anyhow::Result<(Rc<OwnedFd>, RegistrationToken)> {
    let set = epoll::create(epoll::CreateFlags::CLOEXEC).context("clients cannot be watched")?;
    let set = Rc::new(set);
    let source = Generic::new(set.clone(), Interest::READ, Mode::Level);
    let token = event_loop
        .insert_source(source, move |_, _, state| {
            state.hear_clients(hearing);
            Ok(PostAction::Continue)
        })
        .map_err(|error| anyhow::anyhow!("cannot watch the Wayland clients: {error}"))?;
    Ok((set, token))
}

impl Vitrine {
    /// Takes a client's connection.
    pub(super) fn add_connection(&mut self, stream: UnixStream, data: Arc<ClientState>) {
        if let Err(error) = self.listening.add(stream, data) {
            tracing::warn!(target: "vitrine::compositor", %error, "a client could not be accepted");
        }
    }

    /// Does what the clients of a set ask for.
    fn hear_clients(&mut self, hearing: Hearing) {
        for client in self.listening.ready(hearing) {
            self.dispatch(client);
        }
        self.forget_clients();
    }

    fn dispatch(&mut self, client: ClientId) {
        let display = self.listening.display.clone();
        let connection = self.listening.connection(&client);
        let span =
            connection.map_or_else(tracing::Span::none, |connection| connection.span.clone());
        let _entered = span.enter();
        let Ok(mut display) = display.try_borrow_mut() else {
            return;
        };
        // Its end is an error too, and is noted in `gone`.
        if let Err(error) = display.backend().dispatch_single_client(self, client) {
            tracing::trace!(target: "vitrine::clients", %error, "nothing more of a client");
        }
    }

    /// Forgets clients that were disconnected, also those that another's request or an event did that to, and has their
    /// sockets closed: wayland-server does so at its next dispatch.
    fn forget_clients(&mut self) {
        loop {
            let gone = self.listening.take_gone();
            if gone.is_empty() {
                return;
            }
            for client in gone {
                self.listening.forget(&client);
                self.dispatch(client.clone());
                self.forget_selections(&client);
            }
        }
    }

    /// A turn begins its work: what resting clients have sent until now is part of it.
    pub(super) fn hear_resting_clients(&mut self) {
        let resting = !self.listening.patient_watched;
        let until = self.listening.rest.until;
        let due = |now| until.is_none_or(|until| until <= now) || !self.all_await_flips();
        if resting && due(self.turn()) {
            self.hear_clients(Hearing::Patient);
        } else {
            self.forget_clients();
        }
    }

    /// Whether no screen can show, or be captured, before a flip event comes.
    fn all_await_flips(&self) -> bool {
        let screens = self.backend.iter().flat_map(|backend| &backend.screens);
        let mut lit = screens.filter(|screen| !screen.is_dark()).peekable();
        lit.peek().is_some() && lit.all(|screen| screen.awaits_flip())
    }

    /// A turn is over: does the patient set rest?
    pub(super) fn rest(&mut self, now: Time) {
        let told: u64 = self.captures.values().map(|capture| capture.told()).sum();
        let news = told.saturating_sub(self.listening.told);
        self.listening.told = told;
        let coming = self.awaits_screen();
        let screens = self.backend.iter().flat_map(|backend| &backend.screens);
        let news = usize::try_from(news).unwrap_or(usize::MAX);
        let refresh = screens.map(|screen| screen.refresh()).min();
        let short = refresh.unwrap_or(USUAL_REFRESH) / SHORT_REST;
        self.listening.rest.turn(now, news, coming, short);
        let wanted = self.listening.rest.until.is_none();
        let token = self.listening.token;
        let changed = match (self.listening.patient_watched, wanted) {
            (true, false) => self.event_loop.disable(&token),
            (false, true) => self.event_loop.enable(&token),
            (false, false) | (true, true) => Ok(()),
        };
        match changed {
            Ok(()) => self.listening.patient_watched = wanted,
            // The next turn tries again, and hears them meanwhile.
            Err(error) => {
                tracing::warn!(target: "vitrine::clients", %error, "capture clients are not watched as they should be");
            }
        }
    }

    /// Whether a flip or the end of a job is to come, either of which makes a turn of the event loop.
    pub(super) fn awaits_screen(&self) -> bool {
        let mut screens = self.backend.iter().flat_map(|backend| &backend.screens);
        screens.any(|screen| screen.awaits_flip() || screen.awaits_job())
    }
}

/// Whether and how long the patient set rests.
#[derive(Debug, Default)]
struct Rest {
    began: Time,
    until: Option<Time>,
}

impl Rest {
    /// A turn in which `told` clients were told of a frame; `coming`: a flip or a fence will make another turn; `short`: how
    /// long a rest may be where none will.
    fn turn(&mut self, now: Time, told: usize, coming: bool, short: Duration) {
        if told >= WORTH_A_REST {
            self.began = now;
            self.until = Some(now + LONG_REST);
        }
        self.until = self.until.filter(|until| *until > now).map(|until| {
            let soon = now + short;
            if coming {
                self.began + LONG_REST
            } else {
                until.min(soon)
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(2);

    fn at(ms: u64) -> Time {
        Time::from_duration(Duration::from_millis(ms))
    }

    #[test]
    fn only_several_clients_with_a_frame_make_a_rest() {
        let mut rest = Rest::default();
        rest.turn(at(1), 0, true, SHORT);
        assert_eq!(rest.until, None);
        rest.turn(at(1), 1, true, SHORT);
        assert_eq!(rest.until, None);
        rest.turn(at(1), 2, true, SHORT);
        assert_eq!(rest.until, Some(at(1) + LONG_REST));
    }

    #[test]
    fn a_rest_is_short_once_nothing_is_to_come() {
        let mut rest = Rest::default();
        rest.turn(at(1), 8, true, SHORT);
        rest.turn(at(5), 0, false, SHORT);
        assert_eq!(rest.until, Some(at(5) + SHORT));
        rest.turn(at(6), 0, false, SHORT);
        assert_eq!(rest.until, Some(at(5) + SHORT), "no turn prolongs it");
        rest.turn(at(5) + SHORT, 0, false, SHORT);
        assert_eq!(rest.until, None);
    }

    #[test]
    fn a_commit_makes_a_short_rest_a_long_one() {
        let mut rest = Rest::default();
        rest.turn(at(1), 8, false, SHORT);
        assert_eq!(rest.until, Some(at(1) + SHORT));
        rest.turn(at(2), 0, true, SHORT);
        assert_eq!(rest.until, Some(at(1) + LONG_REST));
        rest.turn(at(17), 0, false, SHORT);
        assert_eq!(rest.until, Some(at(17) + SHORT));
    }

    #[test]
    fn frames_prolong_a_rest_and_time_ends_it() {
        let mut rest = Rest::default();
        rest.turn(at(1), 8, true, SHORT);
        rest.turn(at(20), 8, true, SHORT);
        assert_eq!(rest.until, Some(at(20) + LONG_REST));
        rest.turn(at(20) + LONG_REST, 1, true, SHORT);
        assert_eq!(rest.until, None);
    }
}
