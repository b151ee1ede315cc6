//! ext-image-copy-capture-v1: frames of an output, copied into buffers of the client.
//!
//! This file takes the requests apart. `session` keeps sessions and their constraints, `frame` follows a frame from
//! `create_frame` to `ready` or `failed`, `copying` is about the copies, `written` ends frames that the hardware wrote. All
//! state lives in `CopyCaptures`; the Wayland objects carry only keys, so that any object may be destroyed at any moment, a
//! copy under way included.

mod copying;
mod cursor;
mod frame;
mod session;
mod written;

use std::collections::{HashMap, VecDeque};

use smithay::output::Output;
use wayland_protocols::ext::image_copy_capture::v1::server::{
    ext_image_copy_capture_cursor_session_v1, ext_image_copy_capture_frame_v1,
    ext_image_copy_capture_manager_v1, ext_image_copy_capture_session_v1,
};
use wayland_server::{
    backend, Client, DataInit, Dispatch, DisplayHandle, GlobalDispatch, New, Resource, WEnum,
};

use crate::capture::{ClientId, OutputCapture, SessionId};

use self::{
    copying::ReadyCopy,
    cursor::{CursorCapture, CursorState},
    frame::CopyFrame,
    session::CopySession,
};
use super::{
    ext_image_capture_source::SourceData, running::Running, source::CaptureSource,
    CaptureGlobalData, CaptureHandler, CaptureProtocols,
};

pub(super) use self::{
    copying::forget_pictures,
    cursor::{cursor_changed, output_gone as cursor_output_gone, poll as poll_cursor},
    frame::deliver,
    session::{rights_changed, source_changed, source_gone},
    written::written,
};

pub use ext_image_copy_capture_cursor_session_v1::ExtImageCopyCaptureCursorSessionV1 as CursorSession;
pub use ext_image_copy_capture_frame_v1::ExtImageCopyCaptureFrameV1 as Frame;
pub use ext_image_copy_capture_manager_v1::ExtImageCopyCaptureManagerV1 as CopyCaptureManager;
pub use ext_image_copy_capture_session_v1::ExtImageCopyCaptureSessionV1 as Session;

/// Names a session for as long as its object or one of its frames lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionKey(u64);

/// Names a frame object; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameKey {
    session: SessionKey,
    number: u64,
}

/// All sessions and frames of this protocol.
#[derive(Debug, Default)]
pub(super) struct CopyCaptures {
    last_key: u64,
    sessions: HashMap<SessionKey, CopySession>,
    /// Copies that the pool has.
    running: Running,
    /// Delivered frames whose copy cannot start yet: the session's previous copy still runs, or the pool has enough.
    /// Bounded by the number of sessions, since each has one frame at most.
    backlog: VecDeque<ReadyCopy>,
    /// Cursor session objects.
    cursor_sessions: HashMap<CursorKey, CursorState>,
    /// The pointer's pictures, of each output where somebody captures them.
    cursors: HashMap<Output, CursorCapture>,
}

impl CopyCaptures {
    pub(super) fn running_copies(&self) -> usize {
        self.running.count()
    }

    pub(super) fn running_mut(&mut self) -> &mut Running {
        &mut self.running
    }

    /// The clients of frames that are copied.
    pub(super) fn copied_for(&self) -> impl Iterator<Item = Client> + '_ {
        let frames = self
            .sessions
            .values()
            .filter_map(|session| session.frame.as_ref());
        frames
            .filter(|frame| frame.is_copied())
            .filter_map(CopyFrame::client)
    }

    pub(super) fn session_count(&self) -> usize {
        self.sessions.len()
    }

    pub(super) fn frame_count(&self) -> usize {
        self.sessions
            .values()
            .filter(|session| session.frame.is_some())
            .count()
    }

    /// All sessions that were not stopped, each with its client if that still lives.
    fn running_sessions(&self) -> Vec<(SessionKey, Option<Client>)> {
        let running = self
            .sessions
            .iter()
            .filter(|(_, session)| session.source.is_some());
        running
            .map(|(key, session)| (*key, session.client()))
            .collect()
    }

    fn next_key(&mut self) -> u64 {
        self.last_key += 1;
        self.last_key
    }

    fn frame_mut(&mut self, key: FrameKey) -> Option<&mut CopyFrame> {
        let frame = self.sessions.get_mut(&key.session)?.frame.as_mut()?;
        (frame.number == key.number).then_some(frame)
    }

    /// The session that capture/ knows by this number on this output.
    fn find(&self, of: &CaptureSource, id: SessionId) -> Option<SessionKey> {
        self.sessions
            .iter()
            .find(|(_, session)| session.source.as_ref().is_some_and(|s| s.is(of, id)))
            .map(|(key, _)| *key)
    }

    /// How many sessions of this client were not stopped.
    fn sessions_of(&self, client: ClientId) -> usize {
        let is_of =
            |session: &&CopySession| session.source.as_ref().is_some_and(|s| s.client == client);
        self.sessions.values().filter(is_of).count()
    }

    /// The frames of the pointer on this output.
    pub(super) fn cursor_of(&mut self, output: &Output) -> Option<&mut OutputCapture> {
        self.cursors.get_mut(output).map(CursorCapture::capture_mut)
    }

    pub(super) fn cursor_session_count(&self) -> usize {
        self.cursor_sessions.len()
    }

    /// All sessions of this source that were not stopped.
    fn on_source(&self, of: &CaptureSource) -> Vec<SessionKey> {
        self.sessions
            .iter()
            .filter(|(_, session)| session.source.as_ref().is_some_and(|s| &s.of == of))
            .map(|(key, _)| *key)
            .collect()
    }
}

/// Names a cursor session object; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CursorKey(u64);

impl<D> GlobalDispatch<CopyCaptureManager, CaptureGlobalData, D> for CaptureProtocols
where
    D: CaptureHandler
        + GlobalDispatch<CopyCaptureManager, CaptureGlobalData>
        + Dispatch<CopyCaptureManager, ()>,
{
    fn bind(
        _state: &mut D,
        _display: &DisplayHandle,
        _client: &Client,
        resource: New<CopyCaptureManager>,
        _data: &CaptureGlobalData,
        data_init: &mut DataInit<'_, D>,
    ) {
        data_init.init(resource, ());
    }

    fn can_view(client: Client, data: &CaptureGlobalData) -> bool {
        data.allows(&client)
    }
}

impl<D> Dispatch<CopyCaptureManager, (), D> for CaptureProtocols
where
    D: CaptureHandler
        + Dispatch<CopyCaptureManager, ()>
        + Dispatch<Session, SessionKey>
        + Dispatch<CursorSession, CursorKey>,
{
    fn request(
        state: &mut D,
        client: &Client,
        manager: &CopyCaptureManager,
        request: ext_image_copy_capture_manager_v1::Request,
        _data: &(),
        display: &DisplayHandle,
        data_init: &mut DataInit<'_, D>,
    ) {
        use ext_image_copy_capture_manager_v1::{Error, Options, Request};
        match request {
            Request::CreateSession {
                session,
                source,
                options,
            } => {
                let key = SessionKey(state.capture_protocols().copy.next_key());
                let resource = data_init.init(session, key);
                let options = match options {
                    WEnum::Value(options) => options,
                    WEnum::Unknown(bits) => {
                        manager.post_error(
                            Error::InvalidOption,
                            format!("options {bits:#x}: only paint_cursors (1) is defined"),
                        );
                        return;
                    }
                };
                let source = source.data::<SourceData>().and_then(SourceData::source);
                let paint_cursors = options.contains(Options::PaintCursors);
                session::create(
                    state,
                    display,
                    client,
                    (key, resource),
                    source,
                    paint_cursors,
                );
            }
            // Which pointer does not matter, there is one seat; most clients release theirs right after this.
            Request::CreatePointerCursorSession {
                session, source, ..
            } => {
                let key = CursorKey(state.capture_protocols().copy.next_key());
                let object = data_init.init(session, key);
                let source = source.data::<SourceData>().and_then(SourceData::source);
                let source = source.filter(|_| state.may_capture(client));
                cursor::create(state, key, object, source);
            }
            Request::Destroy => {}
            // The enum is open for versions that are never announced.
            _ => {}
        }
    }
}

impl<D> Dispatch<Session, SessionKey, D> for CaptureProtocols
where
    D: CaptureHandler + Dispatch<Session, SessionKey> + Dispatch<Frame, FrameKey>,
{
    fn request(
        state: &mut D,
        _client: &Client,
        resource: &Session,
        request: ext_image_copy_capture_session_v1::Request,
        session: &SessionKey,
        _display: &DisplayHandle,
        data_init: &mut DataInit<'_, D>,
    ) {
        use ext_image_copy_capture_session_v1::{Error, Request};
        match request {
            Request::CreateFrame { frame } => {
                let copy = &mut state.capture_protocols().copy;
                let key = FrameKey {
                    session: *session,
                    number: copy.next_key(),
                };
                let object = data_init.init(frame, key);
                let Some(session) = copy.sessions.get_mut(session) else {
                    return;
                };
                if session.frame.is_some() {
                    resource.post_error(
                        Error::DuplicateFrame,
                        "destroy the session's previous frame before creating the next one",
                    );
                    return;
                }
                session.frame = Some(CopyFrame::new(object, key.number));
            }
            // `destroyed` does the work: it is called for dying clients too.
            Request::Destroy => {}
            _ => {}
        }
    }

    fn destroyed(state: &mut D, _client: backend::ClientId, _resource: &Session, key: &SessionKey) {
        session::object_destroyed(state, *key);
    }
}

impl<D> Dispatch<Frame, FrameKey, D> for CaptureProtocols
where
    D: CaptureHandler + Dispatch<Frame, FrameKey>,
{
    fn request(
        state: &mut D,
        _client: &Client,
        resource: &Frame,
        request: ext_image_copy_capture_frame_v1::Request,
        key: &FrameKey,
        _display: &DisplayHandle,
        _data_init: &mut DataInit<'_, D>,
    ) {
        use ext_image_copy_capture_frame_v1::Request;
        match request {
            Request::AttachBuffer { buffer } => frame::attach(state, resource, *key, buffer),
            Request::DamageBuffer {
                x,
                y,
                width,
                height,
            } => {
                frame::damage(state, resource, *key, [x, y, width, height]);
            }
            Request::Capture => frame::capture(state, resource, *key),
            // `destroyed` does the work: it is called for dying clients too.
            Request::Destroy => {}
            _ => {}
        }
    }

    fn destroyed(state: &mut D, _client: backend::ClientId, _resource: &Frame, key: &FrameKey) {
        frame::object_destroyed(state, *key);
    }
}

impl<D> Dispatch<CursorSession, CursorKey, D> for CaptureProtocols
where
    D: CaptureHandler + Dispatch<CursorSession, CursorKey> + Dispatch<Session, SessionKey>,
{
    fn request(
        state: &mut D,
        client: &Client,
        resource: &CursorSession,
        request: ext_image_copy_capture_cursor_session_v1::Request,
        cursor: &CursorKey,
        display: &DisplayHandle,
        data_init: &mut DataInit<'_, D>,
    ) {
        use ext_image_copy_capture_cursor_session_v1::{Error, Request};
        match request {
            Request::GetCaptureSession { session } => {
                // The new object is initialised in every case: wayland-server panics over one that is not.
                let key = SessionKey(state.capture_protocols().copy.next_key());
                let session = data_init.init(session, key);
                match cursor::take_capture_session(state, *cursor, key) {
                    Ok(source) => {
                        session::create(state, display, client, (key, session), source, false);
                    }
                    Err(cursor::Duplicate) => resource.post_error(
                        Error::DuplicateSession,
                        "the capture session of this cursor session was made already",
                    ),
                }
            }
            // `destroyed` does the work: it is called for dying clients too.
            Request::Destroy => {}
            _ => {}
        }
    }

    fn destroyed(
        state: &mut D,
        _client: backend::ClientId,
        _resource: &CursorSession,
        key: &CursorKey,
    ) {
        cursor::object_destroyed(state, *key);
    }
}
