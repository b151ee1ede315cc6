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

use std::{collections::HashMap, os::fd::AsFd, sync::Arc};

use smithay::output::Output;
use wayland_protocols_wlr::export_dmabuf::v1::server::{
    zwlr_export_dmabuf_frame_v1::{self, CancelReason, Flags},
    zwlr_export_dmabuf_manager_v1,
};
use wayland_server::{
    backend, Client, DataInit, Dispatch, DisplayHandle, GlobalDispatch, New, Resource,
};

use crate::{
    capture::{FrameFormat, FrameSeq, Lease, RequestId, SessionId, SessionKind},
    protocols::{
        audit::Audit, split_modifier, split_time, CaptureGlobalData, CaptureHandler,
        CaptureProtocols, Delivery,
    },
};

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
    clients: HashMap<backend::ClientId, ExportClient>,
}

/// One client, while it has a manager or a frame.
#[derive(Debug, Default)]
struct ExportClient {
    /// Manager and frame objects that are alive.
    objects: usize,
    sessions: Vec<ExportSession>,
}

/// One client's capture session on one output.
#[derive(Debug)]
struct ExportSession {
    client: Client,
    output: Output,
    overlay_cursor: bool,
    id: SessionId,
    audit: Audit,
}

#[derive(Debug)]
struct ExportFrame {
    object: ExportDmabufFrame,
    source: Option<(Output, SessionId)>,
    stage: Stage,
}

/// How far a frame object is.
#[derive(Debug)]
enum Stage {
    Waiting(RequestId),
    /// The client may read the slot until it destroys the object or is told that the frame is void.
    Ready(Lease),
    /// Taken back; `cancel` was sent after `ready`.
    Void(Lease),
    /// `cancel` was sent instead of `ready`.
    Cancelled,
}

impl ExportFrame {
    fn is_of(&self, output: &Output) -> bool {
        self.source.as_ref().is_some_and(|(o, _)| o == output)
    }

    fn is_in(&self, output: &Output, session: SessionId) -> bool {
        self.source
            .as_ref()
            .is_some_and(|(o, id)| o == output && *id == session)
    }

    fn cancel(&mut self, reason: CancelReason) {
        self.stage = Stage::Cancelled;
        self.object.cancel(reason);
    }
}

impl Exports {
    pub(super) fn session_count(&self) -> usize {
        self.clients
            .values()
            .map(|client| client.sessions.len())
            .sum()
    }

    pub(super) fn frame_count(&self) -> usize {
        self.frames.len()
    }

    fn object_made(&mut self, client: &Client) {
        self.clients.entry(client.id()).or_default().objects += 1;
    }

    fn session_mut(&mut self, output: &Output, id: SessionId) -> Option<&mut ExportSession> {
        self.clients
            .values_mut()
            .flat_map(|client| &mut client.sessions)
            .find(|session| session.id == id && &session.output == output)
    }

    /// All frames on this output that wait for a picture.
    fn waiting_on(&mut self, output: &Output) -> Vec<(&mut ExportFrame, RequestId)> {
        self.frames
            .values_mut()
            .filter(|frame| frame.is_of(output))
            .filter_map(|frame| match frame.stage {
                Stage::Waiting(request) => Some((frame, request)),
                Stage::Ready(_) | Stage::Void(_) | Stage::Cancelled => None,
            })
            .collect()
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
        state.capture_protocols().export.object_made(client);
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
                exports.object_made(client);
                let object = data_init.init(frame, key);
                let output = Output::from_resource(&output).filter(|_| state.may_capture(client));
                capture(
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
        object_gone(state, &client);
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
            release(state, frame);
        }
        object_gone(state, &client);
    }
}

/// `capture_output`
fn capture<D: CaptureHandler>(
    state: &mut D,
    display: &DisplayHandle,
    client: &Client,
    key: ExportKey,
    object: ExportDmabufFrame,
    output: Option<Output>,
    overlay_cursor: bool,
) {
    let mut frame = ExportFrame {
        object,
        source: None,
        stage: Stage::Cancelled,
    };
    let session = output.and_then(|output| {
        let id = session_for(state, display, client, &output, overlay_cursor)?;
        Some((output, id))
    });
    match session {
        None => frame.cancel(CancelReason::Permanent),
        Some((output, id)) => {
            let now = state.now();
            let requested = state
                .capture_output(&output)
                .map(|capture| capture.request(id, now));
            frame.source = Some((output.clone(), id));
            match requested {
                Some(Ok(request)) => {
                    frame.stage = Stage::Waiting(request);
                    state.frame_requested(client.id());
                }
                Some(Err(error)) => {
                    tracing::debug!(target: "vitrine::protocols", session = %id, %error, "request refused");
                    frame.cancel(CancelReason::Temporary);
                }
                None => frame.cancel(CancelReason::Permanent),
            }
            state.capture_wanted(&output);
        }
    }
    state.capture_protocols().export.frames.insert(key, frame);
}

/// The client's session on this output; opened at its first use. `None` if the output is gone.
fn session_for<D: CaptureHandler>(
    state: &mut D,
    display: &DisplayHandle,
    client: &Client,
    output: &Output,
    overlay_cursor: bool,
) -> Option<SessionId> {
    let protocols = state.capture_protocols();
    let client_id = protocols.clients.id_of(display, client);
    let sessions = &protocols
        .export
        .clients
        .entry(client.id())
        .or_default()
        .sessions;
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
    let exports = &mut state.capture_protocols().export;
    exports
        .clients
        .entry(client.id())
        .or_default()
        .sessions
        .push(session);
    Some(id)
}

/// One of the client's objects is gone; with the last one its sessions end.
fn object_gone<D: CaptureHandler>(state: &mut D, client: &backend::ClientId) {
    let clients = &mut state.capture_protocols().export.clients;
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

fn close<D: CaptureHandler>(state: &mut D, session: &ExportSession) {
    if let Some(capture) = state.capture_output(&session.output) {
        capture.close_session(session.id);
    }
    state.capture_wanted(&session.output);
}

/// A frame object is gone: what it waited for is cancelled, what it held is given back.
fn release<D: CaptureHandler>(state: &mut D, frame: ExportFrame) {
    let Some((output, _)) = frame.source else {
        return;
    };
    match frame.stage {
        Stage::Waiting(request) => {
            if let Some(capture) = state.capture_output(&output) {
                capture.cancel(request);
            }
        }
        Stage::Ready(lease) | Stage::Void(lease) => drop(lease),
        Stage::Cancelled => return,
    }
    state.capture_wanted(&output);
}

/// A picture for a session of this protocol. Returns the delivery if the session is not one of this protocol.
pub(super) fn deliver<D: CaptureHandler>(
    state: &mut D,
    output: &Output,
    delivery: Delivery,
) -> Option<Delivery> {
    let exports = &mut state.capture_protocols().export;
    if exports.session_mut(output, delivery.session).is_none() {
        return Some(delivery);
    }
    let Delivery {
        session,
        request,
        lease,
        ..
    } = delivery;
    let waits = |frame: &&mut ExportFrame| {
        frame.is_in(output, session)
            && matches!(frame.stage, Stage::Waiting(waiting) if waiting == request)
    };
    // Dropping the lease is all that is to be done for a frame object that died meanwhile.
    let frame = exports.frames.values_mut().find(waits)?;
    match send(&frame.object, &lease) {
        Ok(()) => {
            let info = Arc::clone(lease.frame());
            frame.stage = Stage::Ready(lease);
            if let Some(session) = exports.session_mut(output, session) {
                let bytes = readable_bytes(&info.format);
                session.audit.frame(info.producer, bytes.into());
            }
            let now = state.now();
            if let Some(capture) = state.capture_output(output) {
                capture.record_ready(session, info.presented, now);
            }
        }
        Err(error) => {
            tracing::warn!(
                target: "vitrine::protocols",
                %session, output = output.name(), %error,
                "no descriptor of a frame could be made; raise the limit of open files if this repeats"
            );
            frame.cancel(CancelReason::Temporary);
        }
    }
    None
}

/// Sends `frame`, `object` and `ready`.
fn send(object: &ExportDmabufFrame, lease: &Lease) -> std::io::Result<()> {
    let info = lease.frame();
    let format = &info.format;
    let memory = lease.memory();
    let own = match memory.dmabuf() {
        Some(_) => None,
        None => Some(memory.export()?),
    };
    let Some(fd) = own.as_ref().map(AsFd::as_fd).or(memory.dmabuf()) else {
        return Err(std::io::ErrorKind::Unsupported.into());
    };
    let (modifier_high, modifier_low) = split_modifier(format.modifier.into());
    object.frame(
        format.width,
        format.height,
        0,
        0,
        0,
        Flags::Transient,
        format.fourcc as u32,
        modifier_high,
        modifier_low,
        1,
    );
    object.object(
        0,
        // The connection duplicates it: one descriptor per object.
        fd,
        readable_bytes(format),
        format.offset,
        format.stride,
        0,
    );
    let (seconds_high, seconds_low, nanoseconds) = split_time(info.presented);
    object.ready(seconds_high, seconds_low, nanoseconds);
    Ok(())
}

/// What a client has to map: the memory itself may be longer.
fn readable_bytes(format: &FrameFormat) -> u32 {
    format
        .stride
        .saturating_mul(format.height)
        .saturating_add(format.offset)
}

/// capture/ takes a frame back from a holder past its deadline: the client is told before anybody writes the slot.
///
/// The session may be closed already; its frame objects are not. The lease stays with the object: it no longer keeps
/// the slot, but a client that never lets go gets no further slots for it.
pub(super) fn void<D: CaptureHandler>(
    state: &mut D,
    output: &Output,
    session: SessionId,
    seq: FrameSeq,
) {
    for frame in state.capture_protocols().export.frames.values_mut() {
        if !frame.is_in(output, session) {
            continue;
        }
        frame.stage = match std::mem::replace(&mut frame.stage, Stage::Cancelled) {
            Stage::Ready(lease) if lease.frame().seq == seq => {
                frame.object.cancel(CancelReason::Temporary);
                Stage::Void(lease)
            }
            other => other,
        };
    }
}

/// See [`super::output_changed`].
pub(super) fn output_changed<D: CaptureHandler>(state: &mut D, output: &Output) {
    cancel_waiting(state, output, CancelReason::Resizing);
}

/// See [`super::output_gone`].
pub(super) fn output_gone<D: CaptureHandler>(state: &mut D, output: &Output) {
    cancel_waiting(state, output, CancelReason::Permanent);
    let clients = &mut state.capture_protocols().export.clients;
    let mut gone = Vec::new();
    for client in clients.values_mut() {
        gone.extend(
            client
                .sessions
                .extract_if(.., |session| &session.output == output),
        );
    }
    for session in gone {
        close(state, &session);
    }
}

/// See [`super::rights_changed`].
pub(super) fn rights_changed<D: CaptureHandler>(state: &mut D) {
    let clients = state.capture_protocols().export.clients.values();
    let captors: Vec<Client> = clients
        .filter_map(|client| Some(client.sessions.first()?.client.clone()))
        .collect();
    for client in captors {
        if !state.may_capture(&client) {
            take_everything(state, &client);
        }
    }
}

/// All of the client's frames are over, whatever their stage, and so are its sessions.
fn take_everything<D: CaptureHandler>(state: &mut D, client: &Client) {
    let exports = &mut state.capture_protocols().export;
    let mut taken = Vec::new();
    for frame in exports.frames.values_mut() {
        let is_over = matches!(frame.stage, Stage::Void(_) | Stage::Cancelled);
        if frame.object.client().as_ref().map(Client::id) != Some(client.id()) {
            continue;
        }
        if !is_over {
            frame.object.cancel(CancelReason::Permanent);
        }
        // The slot is never written again once the output has another ring, so that nothing has to keep it.
        let stage = std::mem::replace(&mut frame.stage, Stage::Cancelled);
        taken.push((frame.source.clone(), stage));
    }
    let sessions = exports
        .clients
        .get_mut(&client.id())
        .map(|client| std::mem::take(&mut client.sessions))
        .unwrap_or_default();
    for (source, stage) in taken {
        let Some((output, _)) = source else { continue };
        if let (Stage::Waiting(request), Some(capture)) = (stage, state.capture_output(&output)) {
            capture.cancel(request);
        }
    }
    for session in sessions {
        close(state, &session);
    }
}

fn cancel_waiting<D: CaptureHandler>(state: &mut D, output: &Output, reason: CancelReason) {
    let mut requests = Vec::new();
    for (frame, request) in state.capture_protocols().export.waiting_on(output) {
        frame.cancel(reason);
        requests.push(request);
    }
    if let Some(capture) = state.capture_output(output) {
        for request in requests {
            capture.cancel(request);
        }
    }
}
