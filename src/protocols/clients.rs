//! Numbers for Wayland clients: capture/ knows a client only as a [`ClientId`], and never reuses one.

use std::collections::HashMap;

use wayland_server::{backend, Client, DisplayHandle};

use crate::{
    capture::ClientId,
    policy::{Origin, Peer},
};

/// The number of each client that has used a capture protocol and is still connected.
#[derive(Debug, Default)]
pub(super) struct ClientIds {
    ids: HashMap<backend::ClientId, ClientId>,
    last: u64,
}

impl ClientIds {
    /// The client's number; a new one at its first use.
    pub(super) fn id_of(&mut self, display: &DisplayHandle, client: &Client) -> ClientId {
        if let Some(id) = self.ids.get(&client.id()) {
            return *id;
        }
        // Forget the dead whenever somebody new comes: the map stays as small as the number of clients.
        let backend = display.backend_handle();
        self.ids
            .retain(|id, _| backend.get_client_data(id.clone()).is_ok());
        self.last += 1;
        let id = ClientId(self.last);
        self.ids.insert(client.id(), id);
        id
    }
}

/// What the socket says of a client, for compositors that know no more: pid and uid, and the program that /proc names for
/// that pid now, which is good enough for a log and for nothing else.
pub(super) fn peer_of(display: &DisplayHandle, client: &Client) -> Peer {
    let Ok(credentials) = client.get_credentials(display) else {
        return Peer::default();
    };
    Peer {
        pid: credentials.pid,
        uid: Some(credentials.uid),
        executable: std::fs::read_link(format!("/proc/{}/exe", credentials.pid)).ok(),
        origin: Origin::Public,
    }
}
