//! What capture/ remembers for a client between its frames: one session for each thing that it looks at.

use wayland_server::{backend, Client, DisplayHandle};

use crate::{
    capture::{FrameInfo, SessionId, SessionKind},
    protocols::{audit::Audit, CaptureHandler},
};

use super::frame::Subject;

/// So many sessions may one client have. A client that looks at more things than this forgets the oldest, and only
/// loses that its next look there waits for damage; one with more copies under way at once gets `failed`.
const MAX_SESSIONS: usize = 16;

/// One client, while it has a manager or a frame.
#[derive(Debug, Default)]
pub(super) struct ScreencopyClient {
    /// Manager and frame objects that are alive.
    objects: usize,
    /// The one that was used last is at the end.
    pub(super) sessions: Vec<ScreencopySession>,
}

#[derive(Debug)]
pub(super) struct ScreencopySession {
    subject: Subject,
    id: SessionId,
    /// A frame waits or is copied in this session.
    busy: bool,
    client: Client,
    audit: Audit,
}

pub(super) fn object_made<D: CaptureHandler>(state: &mut D, client: &Client) {
    let clients = &mut state.capture_protocols().screencopy.clients;
    clients.entry(client.id()).or_default().objects += 1;
}

/// One of the client's objects is gone; with the last one its sessions end.
pub(super) fn object_gone<D: CaptureHandler>(state: &mut D, client: &backend::ClientId) {
    let clients = &mut state.capture_protocols().screencopy.clients;
    let Some(entry) = clients.get_mut(client) else {
        return;
    };
    entry.objects = entry.objects.saturating_sub(1);
    if entry.objects > 0 {
        return;
    }
    let sessions = clients
        .remove(client)
        .map(|entry| entry.sessions)
        .unwrap_or_default();
    for session in sessions {
        close(state, &session);
    }
}

/// A session on the subject that no frame uses, marked as used. `None` if the output is gone or the client has too many.
pub(super) fn take<D: CaptureHandler>(
    state: &mut D,
    display: &DisplayHandle,
    client: &Client,
    subject: &Subject,
) -> Option<SessionId> {
    let protocols = state.capture_protocols();
    let client_id = protocols.clients.id_of(display, client);
    let sessions = &mut protocols
        .screencopy
        .clients
        .entry(client.id())
        .or_default()
        .sessions;
    let idle_on_it = |session: &ScreencopySession| !session.busy && session.subject == *subject;
    if let Some(place) = sessions.iter().position(idle_on_it) {
        let mut session = sessions.remove(place);
        session.busy = true;
        let id = session.id;
        sessions.push(session);
        return Some(id);
    }
    let oldest = if sessions.len() >= MAX_SESSIONS {
        let idle = sessions.iter().position(|session| !session.busy)?;
        Some(sessions.remove(idle))
    } else {
        None
    };
    if let Some(oldest) = oldest {
        close(state, &oldest);
    }

    let kind = SessionKind::Copy {
        paint_cursors: subject.overlay_cursor,
    };
    let capture = state.capture_output(&subject.output)?;
    let id = capture.open_area_session(client_id, kind, subject.area);
    let session = ScreencopySession {
        subject: subject.clone(),
        id,
        busy: true,
        client: client.clone(),
        audit: Audit::begin(
            state.peer(display, client),
            "wlr-screencopy",
            subject.output.name(),
            id,
        ),
    };
    let clients = &mut state.capture_protocols().screencopy.clients;
    clients
        .entry(client.id())
        .or_default()
        .sessions
        .push(session);
    Some(id)
}

/// The client announced a frame of a subject that it has looked at before: `copy` comes two messages later, and the
/// flip that happens meanwhile is wanted.
pub(super) fn expect<D: CaptureHandler>(
    state: &mut D,
    client: &backend::ClientId,
    subject: &Subject,
) {
    let clients = &state.capture_protocols().screencopy.clients;
    let idle_on_it = |session: &&ScreencopySession| !session.busy && session.subject == *subject;
    let session = clients
        .get(client)
        .and_then(|client| client.sessions.iter().find(idle_on_it));
    let Some(id) = session.map(|session| session.id) else {
        return;
    };
    let now = state.now();
    if let Some(capture) = state.capture_output(&subject.output) {
        capture.expect_request(id, now);
    }
}

/// The frame that used the session is over.
pub(super) fn give_back<D: CaptureHandler>(state: &mut D, subject: &Subject, id: SessionId) {
    if let Some(session) = find(state, subject, id) {
        session.busy = false;
    }
}

/// A copy for the session is complete.
pub(super) fn count<D: CaptureHandler>(
    state: &mut D,
    subject: &Subject,
    id: SessionId,
    info: &FrameInfo,
    bytes: u64,
) {
    if let Some(session) = find(state, subject, id) {
        session.audit.frame(info.producer, bytes);
    }
}

/// Whether the client still has the session.
pub(super) fn exists<D: CaptureHandler>(state: &mut D, subject: &Subject, id: SessionId) -> bool {
    find(state, subject, id).is_some()
}

fn find<'a, D: CaptureHandler>(
    state: &'a mut D,
    subject: &Subject,
    id: SessionId,
) -> Option<&'a mut ScreencopySession> {
    state
        .capture_protocols()
        .screencopy
        .clients
        .values_mut()
        .flat_map(|client| &mut client.sessions)
        .find(|session| session.id == id && session.subject.output == subject.output)
}

/// Ends all sessions on an output.
pub(super) fn output_gone<D: CaptureHandler>(state: &mut D, output: &smithay::output::Output) {
    let clients = &mut state.capture_protocols().screencopy.clients;
    let mut gone = Vec::new();
    for client in clients.values_mut() {
        gone.extend(
            client
                .sessions
                .extract_if(.., |session| &session.subject.output == output),
        );
    }
    for session in gone {
        close(state, &session);
    }
}

/// Ends all sessions of clients that may no longer capture.
pub(super) fn rights_changed<D: CaptureHandler>(state: &mut D) {
    let clients = state.capture_protocols().screencopy.clients.iter();
    let captors: Vec<(backend::ClientId, Client)> = clients
        .filter_map(|(id, client)| Some((id.clone(), client.sessions.first()?.client.clone())))
        .collect();
    for (id, client) in captors {
        if state.may_capture(&client) {
            continue;
        }
        let clients = &mut state.capture_protocols().screencopy.clients;
        let sessions = clients
            .get_mut(&id)
            .map(|client| std::mem::take(&mut client.sessions))
            .unwrap_or_default();
        for session in sessions {
            close(state, &session);
        }
    }
}

fn close<D: CaptureHandler>(state: &mut D, session: &ScreencopySession) {
    let output = &session.subject.output;
    if let Some(capture) = state.capture_output(output) {
        capture.close_session(session.id);
    }
    state.capture_wanted(output);
}
