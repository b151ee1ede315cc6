//! The clients of a protocol without session objects: what is remembered for each of them between its frames.
//!
//! wlr-export-dmabuf and wlr-screencopy have a manager and frames, and no object that stands for "the same thing again".
//! Here a client has its sessions for as long as it has any object of the protocol.

use std::collections::HashMap;

use wayland_server::backend::ClientId;

/// The clients and their sessions of kind `S`.
#[derive(Debug)]
pub(super) struct Captors<S>(HashMap<ClientId, Captor<S>>);

#[derive(Debug)]
struct Captor<S> {
    /// Manager and frame objects that are alive.
    objects: usize,
    sessions: Vec<S>,
}

impl<S> Default for Captors<S> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<S> Captors<S> {
    /// The client has one more manager or frame object.
    pub fn object_made(&mut self, client: ClientId) {
        self.captor(client).objects += 1;
    }

    /// One of the client's objects is gone. With the last one its sessions end: these.
    #[must_use = "they are to be closed"]
    pub fn object_gone(&mut self, client: &ClientId) -> Vec<S> {
        let Some(captor) = self.0.get_mut(client) else {
            return Vec::new();
        };
        captor.objects = captor.objects.saturating_sub(1);
        if captor.objects > 0 {
            return Vec::new();
        }
        let gone = self.0.remove(client);
        gone.map(|captor| captor.sessions).unwrap_or_default()
    }

    /// The client's sessions, in the order in which they were pushed.
    pub fn sessions_of(&mut self, client: ClientId) -> &mut Vec<S> {
        &mut self.captor(client).sessions
    }

    /// Takes all sessions of the client away.
    #[must_use = "they are to be closed"]
    pub fn take_sessions_of(&mut self, client: &ClientId) -> Vec<S> {
        let captor = self.0.get_mut(client);
        captor
            .map(|captor| std::mem::take(&mut captor.sessions))
            .unwrap_or_default()
    }

    /// Takes all sessions away that are like this.
    #[must_use = "they are to be closed"]
    pub fn take_sessions(&mut self, mut gone: impl FnMut(&S) -> bool) -> Vec<S> {
        let mut taken = Vec::new();
        for captor in self.0.values_mut() {
            taken.extend(captor.sessions.extract_if(.., |session| gone(session)));
        }
        taken
    }

    /// Every client with a session, and one of its sessions.
    pub fn with_sessions(&self) -> impl Iterator<Item = (&ClientId, &S)> {
        let each = self.0.iter();
        each.filter_map(|(id, captor)| Some((id, captor.sessions.first()?)))
    }

    /// Every session.
    pub fn sessions_mut(&mut self) -> impl Iterator<Item = &mut S> {
        self.0.values_mut().flat_map(|captor| &mut captor.sessions)
    }

    /// Number of sessions.
    pub fn session_count(&self) -> usize {
        self.0.values().map(|captor| captor.sessions.len()).sum()
    }

    fn captor(&mut self, client: ClientId) -> &mut Captor<S> {
        self.0.entry(client).or_insert_with(|| Captor {
            objects: 0,
            sessions: Vec::new(),
        })
    }
}
