//! What is remembered per Wayland client.

use std::sync::atomic::{AtomicBool, Ordering};

use smithay::{
    reexports::wayland_server::backend::{ClientData, ClientId, DisconnectReason},
    wayland::compositor::CompositorClientState,
};

use crate::policy::Peer;

/// Data that lives as long as a client's connection.
#[derive(Debug)]
pub struct ClientState {
    /// Smithay's per-client surface state.
    pub compositor: CompositorClientState,
    /// Who it is.
    pub peer: Peer,
    /// Whether it may capture now. Kept here, since filters of globals have nothing but the client.
    capture: AtomicBool,
    /// Whether it ever could.
    told: AtomicBool,
}

impl ClientState {
    pub(super) fn new(peer: Peer, capture: bool) -> Self {
        Self {
            compositor: CompositorClientState::default(),
            peer,
            capture: AtomicBool::new(capture),
            told: AtomicBool::new(capture),
        }
    }

    /// Whether the client may capture now.
    pub fn may_capture(&self) -> bool {
        self.capture.load(Ordering::Relaxed)
    }

    pub(super) fn was_told(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }

    /// Gives or takes the right; says whether it was there before.
    pub(super) fn set_capture(&self, allowed: bool) -> bool {
        self.told.fetch_or(allowed, Ordering::Relaxed);
        self.capture.swap(allowed, Ordering::Relaxed)
    }
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
