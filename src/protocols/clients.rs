//! Numbers for Wayland clients: capture/ knows a client only as a [`ClientId`], and never reuses one.

use std::{collections::HashMap, path::PathBuf};

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

/// Who a client is, for the log. The socket says the pid and the uid; the executable is what /proc says of that pid
/// now, which is good enough for a log and for nothing else.
#[derive(Debug, Clone)]
pub(super) struct Who {
    pub(super) pid: i32,
    pub(super) uid: u32,
    pub(super) executable: PathBuf,
}

impl Who {
    pub(super) fn is(display: &DisplayHandle, client: &Client) -> Self {
        let Ok(credentials) = client.get_credentials(display) else {
            return Self {
                pid: 0,
                uid: u32::MAX,
                executable: PathBuf::new(),
            };
        };
        let (pid, uid) = (credentials.pid, credentials.uid);
        let executable = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        Self {
            pid,
            uid,
            executable,
        }
    }
}
