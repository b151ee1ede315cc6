//! The sockets that clients come through, in a shape that survives their errors: an error of an event source would end
//! the event loop, and with it the session.
//!
//! Two errors happen in the field: a sandbox's socket is whatever file its client sent, and `accept` fails as long as
//! the process has no descriptor left.

use std::{cell::Cell, io, os::unix::net::UnixStream, rc::Rc, time::Duration};

use smithay::{
    reexports::calloop::{
        self,
        timer::{TimeoutAction, Timer},
        EventSource, Poll, PostAction, Readiness, RegistrationToken, Token, TokenFactory,
    },
    wayland::socket::ListeningSocketSource,
};

use super::Vitrine;
use crate::policy::Origin;

/// How long an own socket rests after an error: the connections that wait stay in the kernel's queue.
const REST: Duration = Duration::from_millis(200);

/// A source of connections whose errors are events.
pub(super) struct ClientSocket<S> {
    source: S,
    /// What happens to the source after an error.
    after_error: PostAction,
}

impl<S> ClientSocket<S> {
    /// A socket of our own: rests after an error, until somebody enables it again.
    pub fn own(source: S) -> Self {
        Self {
            source,
            after_error: PostAction::Disable,
        }
    }

    /// A socket that a client brought: closed after an error.
    pub fn foreign(source: S) -> Self {
        Self {
            source,
            after_error: PostAction::Remove,
        }
    }
}

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
            .source
            .process_events(readiness, token, |stream, meta| callback(Ok(stream), meta));
        Ok(outcome.unwrap_or_else(|error| {
            callback(Err(error), &mut ());
            self.after_error
        }))
    }

    fn register(&mut self, poll: &mut Poll, tokens: &mut TokenFactory) -> calloop::Result<()> {
        self.source.register(poll, tokens)
    }

    fn reregister(&mut self, poll: &mut Poll, tokens: &mut TokenFactory) -> calloop::Result<()> {
        self.source.reregister(poll, tokens)
    }

    fn unregister(&mut self, poll: &mut Poll) -> calloop::Result<()> {
        self.source.unregister(poll)
    }
}

impl Vitrine {
    /// Takes connections from one of our own sockets, for as long as the session runs.
    pub(super) fn watch_socket(
        &mut self,
        socket: ListeningSocketSource,
        origin: Origin,
    ) -> anyhow::Result<()> {
        let token: Rc<Cell<Option<RegistrationToken>>> = Rc::default();
        let own = token.clone();
        let inserted = self.event_loop.insert_source(
            ClientSocket::own(socket),
            move |connection, (), state| match connection {
                Ok(stream) => state.add_client_from(stream, origin.clone()),
                Err(error) => state.rest_socket(own.get(), &error),
            },
        );
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
