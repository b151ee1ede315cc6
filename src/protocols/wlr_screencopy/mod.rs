//! wlr-screencopy-unstable-v1, version 3: one picture at a time, of an output or a part of it, copied into a buffer of
//! the client.
//!
//! This file takes the requests apart. `frame` follows a frame from its announcement to `ready` or `failed`, `offer` is
//! about the buffer that it asks for, `copying` about the copy; `session` keeps what capture/ has to remember between the
//! frames, `area` turns logical regions into pixels.
//!
//! **What damage counts from.** The protocol has no session object; it says "since the last copy request derived from
//! the current manager". Here each client has a session per output, region and cursor wish for as long as it has a
//! manager or a frame, so that a client that streams gets what changed since its last picture of the same thing.
//!
//! **Which buffers.** A client may bring another buffer each time and cannot say what is in it. So the whole region is
//! copied each time, and `damage` only tells what is new.

mod area;
mod copying;
mod frame;
mod offer;
mod session;

use std::collections::{HashMap, VecDeque};

use smithay::output::Output;
use wayland_protocols_wlr::screencopy::v1::server::{
    zwlr_screencopy_frame_v1, zwlr_screencopy_manager_v1,
};
use wayland_server::{backend, Client, DataInit, Dispatch, DisplayHandle, GlobalDispatch, New};

use crate::capture::SessionId;

use self::{
    copying::ReadyCopy,
    frame::{Copy, ScreencopyFrame},
    offer::Subject,
    session::ScreencopySession,
};
use super::{
    captors::Captors, running::Running, CaptureGlobalData, CaptureHandler, CaptureProtocols,
};

pub(super) use self::{
    copying::forget_pictures,
    frame::{deliver, output_changed, output_gone, rights_changed},
};

pub use zwlr_screencopy_frame_v1::ZwlrScreencopyFrameV1 as Frame;
pub use zwlr_screencopy_manager_v1::ZwlrScreencopyManagerV1 as ScreencopyManager;

/// Names a frame object; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ScreencopyKey(u64);

/// Everything that clients made by this protocol.
#[derive(Debug, Default)]
pub(super) struct Screencopies {
    last_key: u64,
    frames: HashMap<ScreencopyKey, ScreencopyFrame>,
    captors: Captors<ScreencopySession>,
    /// Copies that the pool has.
    running: Running,
    /// Delivered frames whose copy waits for others to end. Bounded by the number of sessions.
    backlog: VecDeque<ReadyCopy>,
}

impl Screencopies {
    pub(super) fn running_copies(&self) -> usize {
        self.running.count()
    }

    pub(super) fn running_mut(&mut self) -> &mut Running {
        &mut self.running
    }

    /// The clients of frames that are copied.
    pub(super) fn copied_for(&self) -> impl Iterator<Item = Client> + '_ {
        let frames = self.frames.values().filter(|frame| frame.is_copied());
        frames.filter_map(ScreencopyFrame::client)
    }

    pub(super) fn session_count(&self) -> usize {
        self.captors.session_count()
    }

    pub(super) fn frame_count(&self) -> usize {
        self.frames.len()
    }

    /// All frames on this output that are not over.
    fn open_on(&self, output: &Output) -> Vec<ScreencopyKey> {
        let is_open = |frame: &ScreencopyFrame| !frame.is_over() && frame.is_of(output);
        let open = self.frames.iter().filter(|(_, frame)| is_open(frame));
        open.map(|(key, _)| *key).collect()
    }

    /// All frames that are not over, each with its client if that still lives.
    fn open(&self) -> Vec<(ScreencopyKey, Option<Client>)> {
        let open = self.frames.iter().filter(|(_, frame)| !frame.is_over());
        open.map(|(key, frame)| (*key, frame.client())).collect()
    }

    /// The frame whose copy this session has under way.
    fn frame_in(&self, output: &Output, session: SessionId) -> Option<ScreencopyKey> {
        let found = self
            .frames
            .iter()
            .find(|(_, frame)| frame.is_of(output) && frame.session() == Some(session));
        found.map(|(key, _)| *key)
    }
}

impl<D> GlobalDispatch<ScreencopyManager, CaptureGlobalData, D> for CaptureProtocols
where
    D: CaptureHandler
        + GlobalDispatch<ScreencopyManager, CaptureGlobalData>
        + Dispatch<ScreencopyManager, ()>,
{
    fn bind(
        state: &mut D,
        _display: &DisplayHandle,
        client: &Client,
        resource: New<ScreencopyManager>,
        _data: &CaptureGlobalData,
        data_init: &mut DataInit<'_, D>,
    ) {
        data_init.init(resource, ());
        let captors = &mut state.capture_protocols().screencopy.captors;
        captors.object_made(client.id());
    }

    fn can_view(client: Client, data: &CaptureGlobalData) -> bool {
        data.allows(&client)
    }
}

impl<D> Dispatch<ScreencopyManager, (), D> for CaptureProtocols
where
    D: CaptureHandler + Dispatch<ScreencopyManager, ()> + Dispatch<Frame, ScreencopyKey>,
{
    fn request(
        state: &mut D,
        client: &Client,
        _manager: &ScreencopyManager,
        request: zwlr_screencopy_manager_v1::Request,
        _data: &(),
        _display: &DisplayHandle,
        data_init: &mut DataInit<'_, D>,
    ) {
        use zwlr_screencopy_manager_v1::Request;
        let (new, overlay_cursor, output, region) = match request {
            Request::CaptureOutput {
                frame,
                overlay_cursor,
                output,
            } => (frame, overlay_cursor, output, None),
            Request::CaptureOutputRegion {
                frame,
                overlay_cursor,
                output,
                x,
                y,
                width,
                height,
            } => (frame, overlay_cursor, output, Some([x, y, width, height])),
            // `destroyed` does the work: it is called for dying clients too.
            Request::Destroy => return,
            // The enum is open for versions that are never announced.
            _ => return,
        };
        let copies = &mut state.capture_protocols().screencopy;
        copies.last_key += 1;
        let key = ScreencopyKey(copies.last_key);
        copies.captors.object_made(client.id());
        let object = data_init.init(new, key);
        let output = Output::from_resource(&output).filter(|_| state.may_capture(client));
        let subject = output.and_then(|output| {
            let area = match region {
                None => area::of_output(&output)?,
                Some(region) => area::of_region(&output, region)?,
            };
            Some(Subject {
                output,
                area,
                overlay_cursor: overlay_cursor != 0,
            })
        });
        if let Some(subject) = &subject {
            session::expect(state, client, subject);
        }
        frame::announce(state, key, object, subject);
    }

    fn destroyed(
        state: &mut D,
        client: backend::ClientId,
        _resource: &ScreencopyManager,
        _data: &(),
    ) {
        session::object_gone(state, &client);
    }
}

impl<D> Dispatch<Frame, ScreencopyKey, D> for CaptureProtocols
where
    D: CaptureHandler + Dispatch<Frame, ScreencopyKey>,
{
    fn request(
        state: &mut D,
        client: &Client,
        _resource: &Frame,
        request: zwlr_screencopy_frame_v1::Request,
        key: &ScreencopyKey,
        display: &DisplayHandle,
        _data_init: &mut DataInit<'_, D>,
    ) {
        use zwlr_screencopy_frame_v1::Request;
        let (buffer, wait_for_damage) = match request {
            Request::Copy { buffer } => (buffer, false),
            Request::CopyWithDamage { buffer } => (buffer, true),
            // `destroyed` does the work: it is called for dying clients too.
            Request::Destroy => return,
            _ => return,
        };
        let copy = Copy {
            buffer,
            wait_for_damage,
        };
        frame::copy(state, display, client, *key, copy);
    }

    fn destroyed(state: &mut D, client: backend::ClientId, _resource: &Frame, key: &ScreencopyKey) {
        frame::object_destroyed(state, *key);
        session::object_gone(state, &client);
    }
}
