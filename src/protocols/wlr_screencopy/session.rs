//! What capture/ remembers for a client between its frames: one session for each thing that it looks at.

use wayland_server::{backend, Client, DisplayHandle};

use crate::{
    capture::{FrameInfo, SessionId, SessionKind},
    protocols::{audit::Audit, CaptureHandler},
};

use super::offer::Subject;

/// So many sessions may one client have. A client that looks at more things than this forgets the oldest, and only
/// loses that its next look there waits for damage; one with more copies under way at once gets `failed`.
const MAX_SESSIONS: usize = 16;

/// What one client looks at. Of a client's sessions the one that was used last is at the end.
#[derive(Debug)]
pub(super) struct ScreencopySession {
    subject: Subject,
    id: SessionId,
    /// A frame waits or is copied in this session.
    busy: bool,
    client: Client,
    audit: Audit,
}

/// One of the client's objects is gone; with the last one its sessions end.
pub(super) fn object_gone<D: CaptureHandler>(state: &mut D, client: &backend::ClientId) {
    let captors = &mut state.capture_protocols().screencopy.captors;
    for session in captors.object_gone(client) {
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
    let sessions = protocols.screencopy.captors.sessions_of(client.id());
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
    let captors = &mut state.capture_protocols().screencopy.captors;
    captors.sessions_of(client.id()).push(session);
    Some(id)
}

/// The client announced a frame of a subject that it has looked at before: `copy` comes two messages later, and the
/// flip that happens meanwhile is wanted.
pub(super) fn expect<D: CaptureHandler>(state: &mut D, client: &Client, subject: &Subject) {
    let captors = &mut state.capture_protocols().screencopy.captors;
    let idle_on_it = |session: &&ScreencopySession| !session.busy && session.subject == *subject;
    let session = captors.sessions_of(client.id()).iter().find(idle_on_it);
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
    let captors = &mut state.capture_protocols().screencopy.captors;
    captors
        .sessions_mut()
        .find(|session| session.id == id && session.subject.output == subject.output)
}

/// Ends all sessions on an output.
pub(super) fn output_gone<D: CaptureHandler>(state: &mut D, output: &smithay::output::Output) {
    let captors = &mut state.capture_protocols().screencopy.captors;
    let gone = captors.take_sessions(|session| &session.subject.output == output);
    for session in gone {
        close(state, &session);
    }
}

/// Ends all sessions of clients that may no longer capture.
pub(super) fn rights_changed<D: CaptureHandler>(state: &mut D) {
    let captors = state.capture_protocols().screencopy.captors.with_sessions();
    let clients: Vec<(backend::ClientId, Client)> = captors
        .map(|(id, session)| (id.clone(), session.client.clone()))
        .collect();
    for (id, client) in clients {
        if state.may_capture(&client) {
            continue;
        }
        let captors = &mut state.capture_protocols().screencopy.captors;
        for session in captors.take_sessions_of(&id) {
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
