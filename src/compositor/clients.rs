//! What is remembered per Wayland client.

use std::sync::{
    atomic::{AtomicBool, Ordering},
    PoisonError,
};

use smithay::{
    reexports::wayland_server::backend::{ClientData, ClientId, DisconnectReason},
    wayland::compositor::CompositorClientState,
};

use super::{held::Waiting, interrupt::Watched, listening::Gone};
use crate::policy::{Peer, Privilege};

/// Data that lives as long as a client's connection.
#[derive(Debug)]
pub struct ClientState {
    /// Smithay's per-client surface state.
    pub compositor: CompositorClientState,
    /// Who it is.
    pub peer: Peer,
    /// Its commits that are not applied yet.
    pub(super) waiting: Waiting,
    capture: Right,
    session_lock: Right,
    output_power: Right,
    gone: Gone,
    is_gone: AtomicBool,
    watched: Watched,
}

/// A right of one client. Kept with the client, since filters of globals have nothing else.
#[derive(Debug, Default)]
pub(super) struct Right {
    now: AtomicBool,
    /// Whether it ever had it.
    told: AtomicBool,
}

impl Right {
    /// Whether the client has the right now.
    pub fn is_there(&self) -> bool {
        self.now.load(Ordering::Relaxed)
    }

    pub fn was_told(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }

    /// Gives or takes the right; says whether it was there before.
    pub fn set(&self, allowed: bool) -> bool {
        self.told.fetch_or(allowed, Ordering::Relaxed);
        self.now.swap(allowed, Ordering::Relaxed)
    }
}

impl ClientState {
    pub(super) fn new(peer: Peer, gone: Gone, watched: Watched) -> Self {
        Self {
            compositor: CompositorClientState::default(),
            peer,
            waiting: Waiting::default(),
            capture: Right::default(),
            session_lock: Right::default(),
            output_power: Right::default(),
            gone,
            is_gone: AtomicBool::new(false),
            watched,
        }
    }

    /// Whether the client was disconnected.
    pub(super) fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Relaxed)
    }

    /// Whether the client may capture now.
    pub fn may_capture(&self) -> bool {
        self.capture.is_there()
    }

    pub(super) fn right(&self, privilege: Privilege) -> &Right {
        match privilege {
            Privilege::Capture => &self.capture,
            Privilege::SessionLock => &self.session_lock,
            Privilege::OutputPower => &self.output_power,
        }
    }
}

impl ClientData for ClientState {
    fn initialized(&self, client: ClientId) {
        tracing::debug!(target: "vitrine::clients", ?client, "client connected");
    }

    fn disconnected(&self, client: ClientId, reason: DisconnectReason) {
        self.is_gone.store(true, Ordering::Relaxed);
        self.watched.disconnected(&client);
        self.gone
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(client.clone());
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
