//! What capture/ remembers for a client between its frames: one session per output and cursor wish.

use smithay::output::Output;
use wayland_server::{backend, Client, DisplayHandle};

use crate::{
    capture::{SessionId, SessionKind},
    protocols::{audit::Audit, CaptureHandler},
};

/// One client's capture session on one output.
#[derive(Debug)]
pub(super) struct ExportSession {
    pub(super) client: Client,
    pub(super) output: Output,
    overlay_cursor: bool,
    pub(super) id: SessionId,
    pub(super) audit: Audit,
}

/// The client's session on this output; opened at its first use. `None` if the output is gone.
pub(super) fn session_for<D: CaptureHandler>(
    state: &mut D,
    display: &DisplayHandle,
    client: &Client,
    output: &Output,
    overlay_cursor: bool,
) -> Option<SessionId> {
    let protocols = state.capture_protocols();
    let client_id = protocols.clients.id_of(display, client);
    let sessions = protocols.export.captors.sessions_of(client.id());
    let same = |s: &&ExportSession| &s.output == output && s.overlay_cursor == overlay_cursor;
    if let Some(session) = sessions.iter().find(same) {
        return Some(session.id);
    }
    let kind = SessionKind::Export { overlay_cursor };
    let id = state.capture_output(output)?.open_session(client_id, kind);
    let session = ExportSession {
        client: client.clone(),
        output: output.clone(),
        overlay_cursor,
        id,
        audit: Audit::begin(
            state.peer(display, client),
            "wlr-export-dmabuf",
            output.name(),
            id,
        ),
    };
    let captors = &mut state.capture_protocols().export.captors;
    captors.sessions_of(client.id()).push(session);
    Some(id)
}

/// One of the client's objects is gone; with the last one its sessions end.
pub(super) fn object_gone<D: CaptureHandler>(state: &mut D, client: &backend::ClientId) {
    let captors = &mut state.capture_protocols().export.captors;
    for session in captors.object_gone(client) {
        close(state, &session);
    }
}

pub(super) fn close<D: CaptureHandler>(state: &mut D, session: &ExportSession) {
    if let Some(capture) = state.capture_output(&session.output) {
        capture.close_session(session.id);
    }
    state.capture_wanted(&session.output);
}
