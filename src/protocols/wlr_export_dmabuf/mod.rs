//! wlr-export-dmabuf-unstable-v1: frames of an output by reference.
//!
//! A frame object that is ready holds a [`Lease`]; the object's death is the release, whoever destroyed it. Each client
//! has one capture session per output (and cursor wish) for as long as it keeps a manager or a frame object, so that
//! capture/ knows which frames it has seen.
//!
//! **After `ready`.** The protocol's text says of a *failing capture* that `cancel` comes before `ready`, and of the
//! `cancel` event that it also tells "if the frame is no longer valid after the `frame` event". A frame that capture/
//! takes back from a holder past its deadline is the second case: the object gets `cancel(temporary)` although it was
//! ready, since no other event can say so, and only then is the slot written again. A change of mode takes nothing
//! back: ready frames of the old mode stay valid until they are destroyed.
//!
//! This file takes the requests apart, `frame` follows a frame, `session` keeps what capture/ has to remember between them.

mod frame;
mod session;

use std::collections::HashMap;

use smithay::output::Output;
use wayland_protocols_wlr::export_dmabuf::v1::server::{
    zwlr_export_dmabuf_frame_v1, zwlr_export_dmabuf_manager_v1,
};
use wayland_server::{backend, Client, DataInit, Dispatch, DisplayHandle, GlobalDispatch, New};

use crate::capture::SessionId;

use self::{frame::ExportFrame, session::ExportSession};
use super::{captors::Captors, CaptureGlobalData, CaptureHandler, CaptureProtocols};

pub(super) use self::frame::{deliver, output_changed, output_gone, rights_changed, void};

pub use zwlr_export_dmabuf_frame_v1::ZwlrExportDmabufFrameV1 as ExportDmabufFrame;
pub use zwlr_export_dmabuf_manager_v1::ZwlrExportDmabufManagerV1 as ExportDmabufManager;

/// Names a frame object; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExportKey(u64);

/// Everything that clients made by this protocol.
#[derive(Debug, Default)]
pub(super) struct Exports {
    last_key: u64,
    frames: HashMap<ExportKey, ExportFrame>,
    captors: Captors<ExportSession>,
}

impl Exports {
    pub(super) fn session_count(&self) -> usize {
        self.captors.session_count()
    }

    pub(super) fn frame_count(&self) -> usize {
        self.frames.len()
    }

    fn session_mut(&mut self, output: &Output, id: SessionId) -> Option<&mut ExportSession> {
        let mut sessions = self.captors.sessions_mut();
        sessions.find(|session| session.id == id && &session.output == output)
    }
}

impl<D> GlobalDispatch<ExportDmabufManager, CaptureGlobalData, D> for CaptureProtocols
where
    D: CaptureHandler
        + GlobalDispatch<ExportDmabufManager, CaptureGlobalData>
        + Dispatch<ExportDmabufManager, ()>,
{
    fn bind(
        state: &mut D,
        _display: &DisplayHandle,
        client: &Client,
        resource: New<ExportDmabufManager>,
        _data: &CaptureGlobalData,
        data_init: &mut DataInit<'_, D>,
    ) {
        data_init.init(resource, ());
        let captors = &mut state.capture_protocols().export.captors;
        captors.object_made(client.id());
    }

    fn can_view(client: Client, data: &CaptureGlobalData) -> bool {
        data.allows(&client)
    }
}

impl<D> Dispatch<ExportDmabufManager, (), D> for CaptureProtocols
where
    D: CaptureHandler + Dispatch<ExportDmabufManager, ()> + Dispatch<ExportDmabufFrame, ExportKey>,
{
    fn request(
        state: &mut D,
        client: &Client,
        _manager: &ExportDmabufManager,
        request: zwlr_export_dmabuf_manager_v1::Request,
        _data: &(),
        display: &DisplayHandle,
        data_init: &mut DataInit<'_, D>,
    ) {
        use zwlr_export_dmabuf_manager_v1::Request;
        match request {
            Request::CaptureOutput {
                frame,
                overlay_cursor,
                output,
            } => {
                let exports = &mut state.capture_protocols().export;
                exports.last_key += 1;
                let key = ExportKey(exports.last_key);
                exports.captors.object_made(client.id());
                let object = data_init.init(frame, key);
                let output = Output::from_resource(&output).filter(|_| state.may_capture(client));
                frame::capture(
                    state,
                    display,
                    client,
                    key,
                    object,
                    output,
                    overlay_cursor != 0,
                );
            }
            // `destroyed` does the work: it is called for dying clients too.
            Request::Destroy => {}
            // The enum is open for versions that are never announced.
            _ => {}
        }
    }

    fn destroyed(
        state: &mut D,
        client: backend::ClientId,
        _resource: &ExportDmabufManager,
        _data: &(),
    ) {
        session::object_gone(state, &client);
    }
}

impl<D> Dispatch<ExportDmabufFrame, ExportKey, D> for CaptureProtocols
where
    D: CaptureHandler + Dispatch<ExportDmabufFrame, ExportKey>,
{
    fn request(
        _state: &mut D,
        _client: &Client,
        _resource: &ExportDmabufFrame,
        _request: zwlr_export_dmabuf_frame_v1::Request,
        _key: &ExportKey,
        _display: &DisplayHandle,
        _data_init: &mut DataInit<'_, D>,
    ) {
        // `destroy` is all there is; `destroyed` does the work, since it is called for dying clients too.
    }

    fn destroyed(
        state: &mut D,
        client: backend::ClientId,
        _resource: &ExportDmabufFrame,
        key: &ExportKey,
    ) {
        if let Some(frame) = state.capture_protocols().export.frames.remove(key) {
            frame::release(state, frame);
        }
        session::object_gone(state, &client);
    }
}
