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
//!
//! Clients are read for a bounded time in each turn (`interrupt`), those first that were not for the longest: who sends
//! without an end waits for itself, and is read less often after a while (`flood`).

mod flood;

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
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

use self::flood::Flood;
use super::{
    interrupt::{Interrupt, Watched},
    rest::{self, Rest},
    ClientState, Vitrine,
};
use crate::time::Time;

/// So many clients are read at a time; the others in the next turn.
const AT_ONCE: usize = 64;

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
    interrupt: Interrupt,
    /// Clients that were read, all in all.
    heard: u64,
    /// Clients that are not heard now, and until when.
    muted: Vec<(u64, Time)>,
    rest: Rest,
    /// Frames that clients were told of, all in all.
    told: u64,
}

/// One client's connection.
#[derive(Debug)]
struct Connection {
    client: ClientId,
    data: Arc<ClientState>,
    /// The client's socket, for ourselves.
    socket: OwnedFd,
    /// The same as wayland-server has it, which closes it.
    theirs: RawFd,
    hearing: Hearing,
    /// It has surfaces: somebody may look at what it does.
    draws: bool,
    /// When it was read last, as a number.
    heard: u64,
    flood: Flood,
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
            interrupt: Interrupt::new().context("clients cannot be interrupted")?,
            heard: 0,
            muted: Vec::new(),
            rest: Rest::default(),
            told: 0,
        })
    }

    /// Has clients interrupted from now on. To be called with the priority that the event loop keeps.
    ///
    /// # Errors
    /// The system lets us start no thread.
    pub fn start(&mut self) -> io::Result<()> {
        self.interrupt.start()
    }

    /// Where a client's data notes that it must not be interrupted any more.
    pub fn watched(&self) -> Watched {
        self.interrupt.watched()
    }

    /// Where a client's data notes its end.
    pub fn gone(&self) -> Gone {
        self.gone.clone()
    }

    /// When somebody is to be heard again, at the latest.
    pub fn deadline(&self) -> Option<Time> {
        let muted = self.muted.iter().map(|(_, until)| *until);
        muted.chain(self.rest.until).min()
    }

    /// Takes a connection.
    ///
    /// # Errors
    /// The kernel is out of memory.
    fn add(&mut self, stream: UnixStream, data: Arc<ClientState>) -> io::Result<()> {
        self.last_key += 1;
        let key = self.last_key;
        let (socket, theirs) = (OwnedFd::from(stream.try_clone()?), stream.as_raw_fd());
        let span = tracing::info_span!(target: "vitrine::clients", "client", number = key, pid = data.peer.pid);
        watch(&self.prompt, &socket, key)?;
        let client = self.handle.insert_client(stream, data.clone())?.id();
        let connection = Connection {
            client: client.clone(),
            data,
            socket,
            theirs,
            hearing: Hearing::Prompt,
            draws: false,
            heard: self.heard,
            flood: Flood::default(),
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
        let Some((key, before)) = self.keys.get(client).and_then(|key| {
            let connection = self.connections.get_mut(key)?;
            Some((*key, std::mem::replace(&mut connection.hearing, hearing)))
        }) else {
            return;
        };
        let Some(Connection { socket, .. }) = self.connections.get(&key) else {
            return;
        };
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

    /// Who has sent something, or is at its end; first who has waited longest.
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
        let mut ready: Vec<_> = keys.filter_map(|key| self.connections.get(&key)).collect();
        ready.sort_by_key(|connection| connection.heard);
        let clients = ready.iter().map(|connection| connection.client.clone());
        clients.collect()
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
        let ready = self.listening.ready(hearing);
        if !ready.is_empty() {
            self.listening.interrupt.begin();
            for client in ready {
                self.dispatch(client);
                // The others wait for the next turn, and come first in it.
                if self.listening.interrupt.is_over() {
                    break;
                }
            }
            self.listening.interrupt.end();
        }
        self.forget_clients();
    }

    fn dispatch(&mut self, client: ClientId) {
        let display = self.listening.display.clone();
        let Ok(mut display) = display.try_borrow_mut() else {
            return;
        };
        let span = self.listening.enter(&client);
        let _entered = span.enter();
        let result = display
            .backend()
            .dispatch_single_client(self, client.clone());
        self.listening.leave(&client, self.turn());
        // Its end is an error too, and is noted in `gone`.
        if let Err(error) = result {
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
                self.dispatch(client);
            }
        }
    }

    /// A turn begins its work: what resting clients have sent until now is part of it.
    pub(super) fn hear_resting_clients(&mut self) {
        self.listening.unmute(self.turn());
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
        let short = rest::short(refresh);
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
