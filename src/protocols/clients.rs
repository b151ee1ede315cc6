//! Numbers for Wayland clients: capture/ knows a client only as a [`ClientId`], and never reuses one.

use std::collections::HashMap;

use wayland_server::{backend, Client, DisplayHandle};

use crate::capture::ClientId;

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

/// Who a client is, for the log: pid and uid as the socket says.
pub(super) fn describe(display: &DisplayHandle, client: &Client) -> (i32, u32) {
    match client.get_credentials(display) {
        Ok(credentials) => (credentials.pid, credentials.uid),
        Err(_) => (0, u32::MAX),
    }
}
