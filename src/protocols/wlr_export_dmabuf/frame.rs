//! Frames: from `capture_output` over the wait for a picture to `ready` or `cancel`, and until the client lets go.

use std::{os::fd::AsFd, sync::Arc};

use smithay::output::Output;
use wayland_protocols_wlr::export_dmabuf::v1::server::zwlr_export_dmabuf_frame_v1::{
    CancelReason, Flags,
};
use wayland_server::{Client, DisplayHandle, Resource};

use crate::{
    capture::{FrameFormat, FrameSeq, Lease, RequestId, SessionId},
    protocols::{split_modifier, split_time, CaptureHandler, Delivery},
};

use super::{
    session::{close, session_for},
    ExportDmabufFrame, ExportKey,
};

/// A frame object.
#[derive(Debug)]
pub(super) struct ExportFrame {
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

/// `capture_output`
pub(super) fn capture<D: CaptureHandler>(
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

/// A frame object is gone: what it waited for is cancelled, what it held is given back.
pub(super) fn release<D: CaptureHandler>(state: &mut D, frame: ExportFrame) {
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
pub(in crate::protocols) fn deliver<D: CaptureHandler>(
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
pub(in crate::protocols) fn void<D: CaptureHandler>(
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

/// See [`crate::protocols::output_changed`].
pub(in crate::protocols) fn output_changed<D: CaptureHandler>(state: &mut D, output: &Output) {
    cancel_waiting(state, output, CancelReason::Resizing);
}

/// See [`crate::protocols::output_gone`].
pub(in crate::protocols) fn output_gone<D: CaptureHandler>(state: &mut D, output: &Output) {
    cancel_waiting(state, output, CancelReason::Permanent);
    let captors = &mut state.capture_protocols().export.captors;
    let gone = captors.take_sessions(|session| &session.output == output);
    for session in gone {
        close(state, &session);
    }
}

/// See [`crate::protocols::rights_changed`].
pub(in crate::protocols) fn rights_changed<D: CaptureHandler>(state: &mut D) {
    let captors = state.capture_protocols().export.captors.with_sessions();
    let clients: Vec<Client> = captors.map(|(_, session)| session.client.clone()).collect();
    for client in clients {
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
    let sessions = exports.captors.take_sessions_of(&client.id());
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
    let frames = state.capture_protocols().export.frames.values_mut();
    for frame in frames.filter(|frame| frame.is_of(output)) {
        if let Stage::Waiting(request) = frame.stage {
            frame.cancel(reason);
            requests.push(request);
        }
    }
    if let Some(capture) = state.capture_output(output) {
        for request in requests {
            capture.cancel(request);
        }
    }
}
