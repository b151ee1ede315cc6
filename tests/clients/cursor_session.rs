//! The word of ext-image-copy-capture-v1's cursor sessions: where the pointer is, if it is there.
//!
//! The session itself is begun by [`super::CopySession::begin_cursor`].

use std::sync::{Arc, Mutex};

use wayland_client::{Connection, Dispatch, Proxy, QueueHandle};
use wayland_protocols::ext::image_copy_capture::v1::client::ext_image_copy_capture_cursor_session_v1 as cursor;

use super::connect::State;

pub use cursor::ExtImageCopyCaptureCursorSessionV1 as CursorSession;

/// What a cursor session was told last, and how often the pointer came and went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CursorRecord {
    /// Times that it entered.
    pub entered: u32,
    /// Times that it left.
    pub left: u32,
    /// Place of its hotspot on the source.
    pub position: Option<(i32, i32)>,
    /// Place of the hotspot in its picture.
    pub hotspot: Option<(i32, i32)>,
}

/// Where a session's [`CursorRecord`] is kept.
pub type SharedCursor = Arc<Mutex<CursorRecord>>;

/// All that the session was told so far.
pub fn told(session: &CursorSession) -> CursorRecord {
    let record = session.data::<SharedCursor>();
    *record.expect("a session of begin_cursor").lock().unwrap()
}

impl Dispatch<CursorSession, SharedCursor> for State {
    fn event(
        _: &mut Self,
        _: &CursorSession,
        event: cursor::Event,
        record: &SharedCursor,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        let mut record = record.lock().unwrap();
        match event {
            cursor::Event::Enter => record.entered += 1,
            cursor::Event::Leave => record.left += 1,
            cursor::Event::Position { x, y } => record.position = Some((x, y)),
            cursor::Event::Hotspot { x, y } => record.hotspot = Some((x, y)),
            _ => {}
        }
    }
}
