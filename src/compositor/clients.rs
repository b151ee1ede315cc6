//! What is remembered per Wayland client.

use smithay::{
    reexports::wayland_server::backend::{ClientData, ClientId, DisconnectReason},
    wayland::compositor::CompositorClientState,
};

/// Data that lives as long as a client's connection.
#[derive(Debug, Default)]
pub struct ClientState {
    /// Smithay's per-client surface state.
    pub compositor: CompositorClientState,
}

impl ClientData for ClientState {
    fn initialized(&self, client: ClientId) {
        tracing::debug!(target: "vitrine::clients", ?client, "client connected");
    }

    fn disconnected(&self, client: ClientId, reason: DisconnectReason) {
        match reason {
            DisconnectReason::ConnectionClosed => {
                tracing::debug!(target: "vitrine::clients", ?client, "client disconnected");
            }
            DisconnectReason::ProtocolError(error) => {
                tracing::warn!(target: "vitrine::clients", ?client, %error, "client broke the protocol and is disconnected");
            }
        }
    }
}
