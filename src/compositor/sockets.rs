//! The sockets that clients come through, in a shape that survives their errors: an error of an event source would end
//! the event loop, and with it the session.
//!
//! Two errors happen in the field: a sandbox's socket is whatever file its client sent, and `accept` fails as long as
//! the process has no descriptor left.
//!
//! From our own sockets a few connections are taken in each turn: who connects again and again without an end is not the
//! only one there.

use std::{cell::Cell, io, os::unix::net::UnixStream, rc::Rc, time::Duration};

use smithay::reexports::{
    calloop::{
        self,
        generic::Generic,
        timer::{TimeoutAction, Timer},
        EventSource, Interest, Mode, Poll, PostAction, Readiness, RegistrationToken, Token,
        TokenFactory,
    },
    wayland_server::ListeningSocket,
};

use super::Vitrine;
use crate::policy::Origin;

/// How long an own socket rests after an error: the connections that wait stay in the kernel's queue.
const REST: Duration = Duration::from_millis(200);

/// So many connections are taken in a turn.
const AT_ONCE: usize = 8;

/// A source of connections that a client brought, whose errors are events: it is closed after one.
pub(super) struct ClientSocket<S>(pub S);

impl<S> EventSource for ClientSocket<S>
where
    S: EventSource<Event = UnixStream, Metadata = (), Ret = (), Error = io::Error>,
{
    type Event = io::Result<UnixStream>;
    type Metadata = ();
    type Ret = ();
    type Error = io::Error;

    fn process_events<F: FnMut(io::Result<UnixStream>, &mut ())>(
        &mut self,
        readiness: Readiness,
        token: Token,
        mut callback: F,
    ) -> io::Result<PostAction> {
        let outcome = self
            .0
            .process_events(readiness, token, |stream, meta| callback(Ok(stream), meta));
        Ok(outcome.unwrap_or_else(|error| {
            callback(Err(error), &mut ());
            PostAction::Remove
        }))
    }

    fn register(&mut self, poll: &mut Poll, tokens: &mut TokenFactory) -> calloop::Result<()> {
        self.0.register(poll, tokens)
    }

    fn reregister(&mut self, poll: &mut Poll, tokens: &mut TokenFactory) -> calloop::Result<()> {
        self.0.reregister(poll, tokens)
    }

    fn unregister(&mut self, poll: &mut Poll) -> calloop::Result<()> {
        self.0.unregister(poll)
    }
}

impl Vitrine {
    /// Takes connections from one of our own sockets, for as long as the session runs.
    pub(super) fn watch_socket(
        &mut self,
        socket: ListeningSocket,
        origin: Origin,
    ) -> anyhow::Result<()> {
        let token: Rc<Cell<Option<RegistrationToken>>> = Rc::default();
        let own = token.clone();
        let source = Generic::new(socket, Interest::READ, Mode::Level);
        let inserted = self
            .event_loop
            .insert_source(source, move |_, socket, state| {
                for _ in 0..AT_ONCE {
                    match socket.accept() {
                        Ok(Some(stream)) => state.add_client_from(stream, origin.clone()),
                        Ok(None) => break,
                        Err(error) => {
                            state.rest_socket(own.get(), &error);
                            return Ok(PostAction::Disable);
                        }
                    }
                }
                Ok(PostAction::Continue)
            });
        token.set(Some(inserted.map_err(|error| {
            anyhow::anyhow!("cannot watch the Wayland socket: {error}")
        })?));
        Ok(())
    }

    fn rest_socket(&mut self, token: Option<RegistrationToken>, error: &io::Error) {
        tracing::warn!(target: "vitrine::compositor", %error, "a client could not be accepted; trying again in a moment");
        let timer = Timer::from_duration(REST);
        let inserted = self.event_loop.insert_source(timer, move |_, (), state| {
            if let Some(Err(error)) = token.map(|token| state.event_loop.enable(&token)) {
                tracing::error!(target: "vitrine::compositor", %error, "a Wayland socket stays closed");
            }
            TimeoutAction::Drop
        });
        if let Err(error) = inserted {
            tracing::error!(target: "vitrine::compositor", %error, "a Wayland socket stays closed");
        }
    }
}
