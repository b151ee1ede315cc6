//! The sockets of our own that Wayland clients come through.

use smithay::reexports::wayland_server::ListeningSocket;

use super::Vitrine;
use crate::{
    listener::{Arrival, Listener},
    policy::Origin,
};

impl Vitrine {
    /// Takes connections from one of our own sockets, for as long as the session runs.
    pub(super) fn watch_socket(
        &mut self,
        socket: ListeningSocket,
        origin: Origin,
    ) -> anyhow::Result<()> {
        let inserted = self.event_loop.insert_source(
            Listener::of(socket),
            move |arrival, (), state| match arrival {
                Arrival::Connection(stream) => state.add_client_from(stream, origin.clone()),
                Arrival::Resting(error) => {
                    tracing::warn!(target: "vitrine::compositor", %error, "a client could not be accepted; trying again until one can");
                }
                Arrival::Closed(error) => {
                    tracing::error!(target: "vitrine::compositor", %error, "a Wayland socket is closed");
                }
            },
        );
        inserted.map_err(|error| anyhow::anyhow!("cannot watch the Wayland socket: {error}"))?;
        Ok(())
    }
}
