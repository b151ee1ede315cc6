//! The sockets that clients come through, in a shape that survives their errors: an error of an event source would end
//! the event loop, and with it the session, and `accept` fails as long as the process has no descriptor left.
//!
//! A few connections are taken in each turn: who connects again and again without an end is not the only one there.

use std::{cell::Cell, io, os::unix::net::UnixStream, rc::Rc, time::Duration};

use smithay::reexports::{
    calloop::{
        generic::Generic,
        timer::{TimeoutAction, Timer},
        Interest, Mode, PostAction, RegistrationToken,
    },
    wayland_server::ListeningSocket,
};

use super::Vitrine;
use crate::policy::Origin;

/// How long an own socket rests after an error: the connections that wait stay in the kernel's queue.
const REST: Duration = Duration::from_millis(200);

/// So many connections are taken in a turn.
const AT_ONCE: usize = 8;

/// Takes some of the connections that wait; the others in the next turn.
///
/// # Errors
/// What `accept` fails with.
pub(super) fn take_some(
    mut accept: impl FnMut() -> io::Result<Option<UnixStream>>,
    mut take: impl FnMut(UnixStream),
) -> io::Result<()> {
    for _ in 0..AT_ONCE {
        match accept()? {
            Some(stream) => take(stream),
            None => break,
        }
    }
    Ok(())
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
                let take = |stream| state.add_client_from(stream, origin.clone());
                if let Err(error) = take_some(|| socket.accept(), take) {
                    state.rest_socket(own.get(), &error);
                    return Ok(PostAction::Disable);
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
