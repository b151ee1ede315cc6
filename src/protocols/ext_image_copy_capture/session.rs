//! Sessions: what they capture, which constraints they have told, when they stop.

use smithay::wayland::shm::fourcc_to_shm_format;
use wayland_server::{Client, DisplayHandle, Resource};

use crate::{
    capture::{ClientId, FrameFormat, SessionId, SessionKind},
    protocols::{audit::Audit, source::CaptureSource, target, CaptureHandler},
};

use super::{
    cursor,
    frame::{self, CopyFrame},
    Session, SessionKey,
};

/// So many sessions that are not stopped may a client have. The cost of each frame grows with their number, and no
/// client in the field has more than a few per output.
const MAX_SESSIONS: usize = 64;

/// A session object, or what is left of it while its last frame lives.
#[derive(Debug)]
pub(super) struct CopySession {
    /// `None` once the client destroyed the object. A frame of it lives on, as the protocol demands.
    pub(super) object: Option<Session>,
    /// `None` when stopped.
    pub(super) source: Option<CopySource>,
    /// The one frame object that exists.
    pub(super) frame: Option<CopyFrame>,
    /// A worker is copying for this session, maybe for a frame that was destroyed meanwhile. The next copy waits for
    /// it: two frames must not be written into one buffer at the same time.
    pub(super) copying: bool,
    /// Runs while there is a source.
    pub(super) audit: Option<Audit>,
}

/// What a session captures.
#[derive(Debug, Clone)]
pub(super) struct CopySource {
    pub(super) client: ClientId,
    pub(super) of: CaptureSource,
    pub(super) id: SessionId,
}

impl CopySource {
    pub(super) fn is(&self, of: &CaptureSource, id: SessionId) -> bool {
        self.id == id && &self.of == of
    }
}

impl CopySession {
    /// The client, as long as it lives: an object of it does, else the session would be forgotten.
    pub(super) fn client(&self) -> Option<Client> {
        match &self.object {
            Some(object) => object.client(),
            None => self.frame.as_ref()?.client(),
        }
    }

    fn new(object: Session, source: Option<CopySource>) -> Self {
        Self {
            object: Some(object),
            source,
            frame: None,
            copying: false,
            audit: None,
        }
    }
}

/// Opens a session on a source, or a stopped one if the source is gone or the client has no right to it.
pub(super) fn create<D: CaptureHandler>(
    state: &mut D,
    display: &DisplayHandle,
    client: &Client,
    (key, object): (SessionKey, Session),
    of: Option<CaptureSource>,
    paint_cursors: bool,
) {
    let client_id = state.capture_protocols().clients.id_of(display, client);
    if state.capture_protocols().copy.sessions_of(client_id) >= MAX_SESSIONS {
        tracing::debug!(
            target: "vitrine::protocols",
            client = %client_id, limit = MAX_SESSIONS, "a client has too many capture sessions; the next one is stopped"
        );
        create_stopped(state, key, object);
        return;
    }
    let kind = SessionKind::Copy { paint_cursors };
    let of = of.filter(|_| state.may_capture(client));
    let source = of.and_then(|of| {
        let id = of.capture(state)?.open_session(client_id, kind);
        Some(CopySource {
            client: client_id,
            of,
            id,
        })
    });
    let Some(source) = source else {
        create_stopped(state, key, object);
        return;
    };

    let audit = Audit::begin(
        state.peer(display, client),
        "ext-image-copy-capture",
        source.of.name(),
        source.id,
    );
    let of = source.of.clone();
    let mut session = CopySession::new(object, Some(source));
    session.audit = Some(audit);
    send_constraints(state, &session, &of);
    state.capture_protocols().copy.sessions.insert(key, session);
}

/// Makes a session that never gives a frame.
pub(super) fn create_stopped<D: CaptureHandler>(state: &mut D, key: SessionKey, object: Session) {
    object.stopped();
    let session = CopySession::new(object, None);
    state.capture_protocols().copy.sessions.insert(key, session);
}

/// The client destroyed the session, or died.
pub(super) fn object_destroyed<D: CaptureHandler>(state: &mut D, key: SessionKey) {
    if let Some(session) = state.capture_protocols().copy.sessions.get_mut(&key) {
        session.object = None;
    }
    forget_if_unused(state, key);
}

/// Closes the session once neither its object nor a frame is left.
pub(super) fn forget_if_unused<D: CaptureHandler>(state: &mut D, key: SessionKey) {
    let sessions = &mut state.capture_protocols().copy.sessions;
    let unused = |session: &CopySession| session.object.is_none() && session.frame.is_none();
    if !sessions.get(&key).is_some_and(unused) {
        return;
    }
    if let Some(session) = sessions.remove(&key) {
        if let Some(source) = session.source.clone() {
            close(state, &source);
        }
    }
}

fn close<D: CaptureHandler>(state: &mut D, source: &CopySource) {
    if let Some(capture) = source.of.capture(state) {
        capture.close_session(source.id);
    }
    source.of.wanted(state);
}

/// See [`crate::protocols::output_changed`].
pub(in crate::protocols) fn source_changed<D: CaptureHandler>(state: &mut D, of: &CaptureSource) {
    for key in state.capture_protocols().copy.on_source(of) {
        // Taken out for the moment: sending needs the state, too.
        if let Some(session) = state.capture_protocols().copy.sessions.remove(&key) {
            send_constraints(state, &session, of);
            state.capture_protocols().copy.sessions.insert(key, session);
        }
        frame::fail_if_unfit(state, key);
    }
}

/// See [`crate::protocols::output_gone`].
pub(in crate::protocols) fn source_gone<D: CaptureHandler>(state: &mut D, of: &CaptureSource) {
    for key in state.capture_protocols().copy.on_source(of) {
        frame::fail_waiting_as_stopped(state, key);
        stop(state, key);
    }
}

/// See [`crate::protocols::rights_changed`].
pub(in crate::protocols) fn rights_changed<D: CaptureHandler>(state: &mut D) {
    cursor::rights_changed(state);
    let running = state.capture_protocols().copy.running_sessions();
    for (key, client) in running {
        // Without a client nobody is left to be told; its objects are about to be destroyed.
        if client.is_none_or(|client| !state.may_capture(&client)) {
            frame::fail_as_stopped(state, key);
            stop(state, key);
        }
    }
}

fn stop<D: CaptureHandler>(state: &mut D, key: SessionKey) {
    let Some(session) = state.capture_protocols().copy.sessions.get_mut(&key) else {
        return;
    };
    if let Some(object) = &session.object {
        object.stopped();
    }
    session.audit = None;
    if let Some(source) = session.source.take() {
        close(state, &source);
    }
}

/// Tells a session which buffers it takes now.
///
/// `buffer_size` comes first and XRGB8888 before ARGB8888: one client in the field computes its stride when the first
/// `shm_format` arrives, and takes no other.
fn send_constraints<D: CaptureHandler>(state: &mut D, session: &CopySession, of: &CaptureSource) {
    let Some(object) = &session.object else {
        return;
    };
    let format = of.format(state);
    let size = format.as_ref().map(|f| (f.width, f.height));
    // No buffers yet: an output's mode says what they will be.
    let Some((width, height)) = size.or_else(|| of.coming_size()) else {
        // No mode either, or a pointer that was not seen yet. `source_changed` comes when there is one.
        return;
    };
    object.buffer_size(width, height);
    for format in target::shm_formats(format.as_ref())
        .into_iter()
        .filter_map(fourcc_to_shm_format)
    {
        object.shm_format(format);
    }
    if let Some(device) = state.dmabuf_device().filter(|_| of.takes_dmabufs()) {
        object.dmabuf_device(device.to_ne_bytes().to_vec());
        for fourcc in target::dmabuf_formats(format.as_ref()) {
            object.dmabuf_format(fourcc as u32, target::LINEAR.to_ne_bytes().to_vec());
        }
    }
    object.done();
}

/// The format that the session's buffers have to fit, if it is not stopped.
pub(super) fn format_of<D: CaptureHandler>(
    state: &mut D,
    source: &CopySource,
) -> Option<FrameFormat> {
    source.of.format(state)
}
