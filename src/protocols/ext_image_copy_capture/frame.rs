//! Frames: from `create_frame` over the wait for a picture and the copy to `ready` or `failed`.

use wayland_protocols::ext::image_copy_capture::v1::server::ext_image_copy_capture_frame_v1::{
    Error, FailureReason,
};
use wayland_server::{protocol::wl_buffer::WlBuffer, Client, Resource};

use crate::{
    capture::{DamageSet, FrameFormat, RequestId, SessionId},
    geometry::Rect,
    protocols::{source::CaptureSource, split_time, target, CaptureHandler, Delivery},
    time::Time,
};

use super::{
    copying::{start_copy, ReadyCopy},
    cursor,
    session::{self, CopySource},
    CopyCaptures, Frame, FrameKey, SessionKey,
};

/// A frame object.
#[derive(Debug)]
pub(super) struct CopyFrame {
    object: Frame,
    pub(super) number: u64,
    pub(super) buffer: Option<WlBuffer>,
    /// What the client wants to have written at least, not yet clipped to the frame.
    pub(super) buffer_damage: DamageSet,
    pub(super) stage: Stage,
    /// So often it failed through no fault of the client's.
    pub(super) attempts: u32,
}

/// How far a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Before `capture`.
    Preparing,
    /// capture/ looks for a picture.
    Waiting(RequestId),
    /// A picture is there; a worker copies it or will do so soon.
    Copying,
    /// `ready` or `failed` was sent.
    Over,
}

impl CopyFrame {
    pub(super) fn new(object: Frame, number: u64) -> Self {
        Self {
            object,
            number,
            buffer: None,
            buffer_damage: DamageSet::new(),
            stage: Stage::Preparing,
            attempts: 0,
        }
    }

    pub(super) fn client(&self) -> Option<Client> {
        self.object.client()
    }

    /// A picture is there, and its copy under way or about to be.
    pub(super) fn is_copied(&self) -> bool {
        self.stage == Stage::Copying
    }

    /// The buffer, if the client still has it.
    pub(super) fn buffer(&self) -> Option<&WlBuffer> {
        self.buffer.as_ref().filter(|buffer| buffer.is_alive())
    }

    /// The picture is in the client's buffer.
    pub(super) fn ready(&mut self, source: Option<&CopySource>, presented: Time, damage: &[Rect]) {
        self.stage = Stage::Over;
        send_ready(&self.object, source, presented, damage);
    }

    pub(super) fn fail(&mut self, reason: FailureReason) {
        self.stage = Stage::Over;
        self.object.failed(reason);
    }
}

/// All that a client can name by x and y from 0 and any width and height.
fn any_frame() -> Rect {
    Rect::from_size((i32::MAX, i32::MAX).into())
}

/// `attach_buffer`
pub(super) fn attach<D: CaptureHandler>(
    state: &mut D,
    object: &Frame,
    key: FrameKey,
    buffer: WlBuffer,
) {
    if let Some(frame) = preparing(state, object, key) {
        frame.buffer = Some(buffer);
    }
}

/// `damage_buffer`
pub(super) fn damage<D: CaptureHandler>(
    state: &mut D,
    object: &Frame,
    key: FrameKey,
    [x, y, width, height]: [i32; 4],
) {
    let Some(frame) = preparing(state, object, key) else {
        return;
    };
    if x < 0 || y < 0 || width <= 0 || height <= 0 {
        object.post_error(
            Error::InvalidBufferDamage,
            format!("damage {width}x{height} at {x},{y}: position from 0, size from 1"),
        );
        return;
    }
    frame.buffer_damage.add(
        Rect::new((x, y).into(), (width, height).into()),
        any_frame(),
    );
}

/// `capture`
pub(super) fn capture<D: CaptureHandler>(state: &mut D, object: &Frame, key: FrameKey) {
    let Some(frame) = preparing(state, object, key) else {
        return;
    };
    let Some(buffer) = frame.buffer.clone() else {
        object.post_error(Error::NoBuffer, "attach a buffer before capture");
        return;
    };
    let Some(source) = source_of(state, key.session) else {
        fail(state, key, FailureReason::Stopped);
        return;
    };
    let format = session::format_of(state, &source);
    if let Some(Err(unfit)) = format.map(|format| fits(state, &buffer, &format)) {
        refuse_buffer(state, key, &source, &unfit);
        return;
    }
    request(state, key, &source);
}

/// The frame if it still takes buffers and damage; else the protocol's error is posted.
fn preparing<'a, D: CaptureHandler>(
    state: &'a mut D,
    object: &Frame,
    key: FrameKey,
) -> Option<&'a mut CopyFrame> {
    let frame = state.capture_protocols().copy.frame_mut(key)?;
    if frame.stage != Stage::Preparing {
        object.post_error(
            Error::AlreadyCaptured,
            "this frame was captured; create the next one",
        );
        return None;
    }
    Some(frame)
}

pub(super) fn source_of<D: CaptureHandler>(state: &mut D, key: SessionKey) -> Option<CopySource> {
    state
        .capture_protocols()
        .copy
        .sessions
        .get(&key)?
        .source
        .clone()
}

fn fits<D: CaptureHandler>(
    state: &D,
    buffer: &WlBuffer,
    format: &FrameFormat,
) -> Result<(), target::Unfit> {
    target::check(buffer, format, state.dmabuf_device().is_some())?;
    match state.is_held(buffer) {
        true => Err(target::Unfit::Held),
        false => Ok(()),
    }
}

pub(super) fn fail<D: CaptureHandler>(state: &mut D, key: FrameKey, reason: FailureReason) {
    if let Some(frame) = state.capture_protocols().copy.frame_mut(key) {
        frame.fail(reason);
    }
}

/// The buffer is not what the constraints say. The session is answered at once next time: a client that only had the
/// old size must not wait for the next change on the screen.
pub(super) fn refuse_buffer<D: CaptureHandler>(
    state: &mut D,
    key: FrameKey,
    source: &CopySource,
    unfit: &target::Unfit,
) {
    tracing::debug!(target: "vitrine::protocols", session = %source.id, %unfit, "buffer refused");
    start_anew(state, source);
    fail(state, key, FailureReason::BufferConstraints);
}

pub(super) fn start_anew<D: CaptureHandler>(state: &mut D, source: &CopySource) {
    if let Some(capture) = source.of.capture(state) {
        capture.invalidate_session(source.id);
    }
}

/// Asks capture/ for a picture.
pub(super) fn request<D: CaptureHandler>(state: &mut D, key: FrameKey, source: &CopySource) {
    let now = state.now();
    let frame = state.capture_protocols().copy.frame_mut(key);
    let buffer = frame.and_then(|frame| frame.buffer.clone());
    let target = buffer.and_then(|buffer| {
        let passthrough = source.of.takes_passthrough() && !state.is_held(&buffer);
        target::memory(&buffer, passthrough)
    });
    let requested = match source.of.capture(state) {
        Some(capture) => capture.request_into(source.id, target, now),
        None => return fail(state, key, FailureReason::Stopped),
    };
    match requested {
        Ok(request) => {
            if let Some(frame) = state.capture_protocols().copy.frame_mut(key) {
                frame.stage = Stage::Waiting(request);
                if let Some(client) = frame.object.client() {
                    state.frame_requested(client.id());
                }
            }
            source.of.wanted(state);
        }
        Err(error) => {
            tracing::warn!(target: "vitrine::protocols", session = %source.id, %error, "request refused");
            fail(state, key, FailureReason::Unknown);
        }
    }
}

/// A picture for a session of this protocol. It goes back if nobody waits for it any more.
pub(in crate::protocols) fn deliver<D: CaptureHandler>(
    state: &mut D,
    of: &CaptureSource,
    delivery: Delivery,
) {
    let Delivery {
        session,
        request,
        lease,
        damage,
    } = delivery;
    let copy = &mut state.capture_protocols().copy;
    match waiting_for(copy, of, session, request) {
        Some((key, frame)) => {
            frame.stage = Stage::Copying;
            let hotspot = cursor::newest_hotspot(state, of);
            let ready = ReadyCopy {
                key,
                lease,
                damage,
                hotspot,
            };
            start_copy(state, ready);
        }
        None => {
            // The frame died between the answer and now. Its damage is not lost.
            drop(lease);
            if let Some(capture) = of.capture(state) {
                capture.invalidate_session(session);
            }
        }
    }
}

/// The frame that waits for the answer to this request.
pub(super) fn waiting_for<'a>(
    copy: &'a mut CopyCaptures,
    of: &CaptureSource,
    session: SessionId,
    request: RequestId,
) -> Option<(FrameKey, &'a mut CopyFrame)> {
    let session = copy.find(of, session)?;
    let frame = copy.sessions.get_mut(&session)?.frame.as_mut()?;
    let number = frame.number;
    (frame.stage == Stage::Waiting(request)).then_some((FrameKey { session, number }, frame))
}

fn send_ready(object: &Frame, source: Option<&CopySource>, presented: Time, damage: &[Rect]) {
    let transform = source
        .map(|source| source.of.transform())
        .unwrap_or_default();
    object.transform(transform.into());
    for rect in damage {
        object.damage(rect.loc.x, rect.loc.y, rect.size.w, rect.size.h);
    }
    let (high, low, nanoseconds) = split_time(presented);
    object.presentation_time(high, low, nanoseconds);
    object.ready();
}

/// The constraints changed: a waiting frame whose buffer no longer fits fails now and not at the next picture.
pub(super) fn fail_if_unfit<D: CaptureHandler>(state: &mut D, session: SessionKey) {
    let Some(source) = source_of(state, session) else {
        return;
    };
    let Some((key, request, buffer)) = waiting(state, session) else {
        return;
    };
    let Some(format) = session::format_of(state, &source) else {
        return;
    };
    if let Err(unfit) = fits(state, &buffer, &format) {
        cancel(state, &source, request);
        refuse_buffer(state, key, &source, &unfit);
    }
}

/// The session stops: a waiting frame fails. A copy that runs is of a good picture and ends with `ready`.
pub(super) fn fail_waiting_as_stopped<D: CaptureHandler>(state: &mut D, session: SessionKey) {
    let Some(source) = source_of(state, session) else {
        return;
    };
    if let Some((key, request, _)) = waiting(state, session) {
        cancel(state, &source, request);
        fail(state, key, FailureReason::Stopped);
    }
}

/// The session stops because its client lost the right: a waiting frame fails, and so does one whose copy is put off or
/// under way. A worker that copies cannot be stopped, but what it copies was on the screen while the right was there.
pub(super) fn fail_as_stopped<D: CaptureHandler>(state: &mut D, session: SessionKey) {
    fail_waiting_as_stopped(state, session);
    let copy = &mut state.capture_protocols().copy;
    copy.backlog.retain(|ready| ready.key.session != session);
    let frame = copy
        .sessions
        .get_mut(&session)
        .and_then(|s| s.frame.as_mut());
    if let Some(frame) = frame.filter(|frame| frame.stage == Stage::Copying) {
        frame.fail(FailureReason::Stopped);
    }
}

fn waiting<D: CaptureHandler>(
    state: &mut D,
    session: SessionKey,
) -> Option<(FrameKey, RequestId, WlBuffer)> {
    let frame = state
        .capture_protocols()
        .copy
        .sessions
        .get(&session)?
        .frame
        .as_ref()?;
    let Stage::Waiting(request) = frame.stage else {
        return None;
    };
    Some((
        FrameKey {
            session,
            number: frame.number,
        },
        request,
        frame.buffer.clone()?,
    ))
}

fn cancel<D: CaptureHandler>(state: &mut D, source: &CopySource, request: RequestId) {
    if let Some(capture) = source.of.capture(state) {
        capture.cancel(request);
    }
}

/// The client destroyed the frame, or died. A copy that runs goes on and is forgotten when it ends.
pub(super) fn object_destroyed<D: CaptureHandler>(state: &mut D, key: FrameKey) {
    let copy = &mut state.capture_protocols().copy;
    let Some(session) = copy.sessions.get_mut(&key.session) else {
        return;
    };
    let Some(frame) = session.frame.take_if(|frame| frame.number == key.number) else {
        return;
    };
    copy.backlog.retain(|ready| ready.key != key);
    let source = session.source.clone();
    match (frame.stage, source) {
        (Stage::Waiting(request), Some(source)) => {
            cancel(state, &source, request);
            source.of.wanted(state);
        }
        // Put off or under way: the client never sees this picture.
        (Stage::Copying, Some(source)) => start_anew(state, &source),
        (Stage::Waiting(_) | Stage::Copying, None) | (Stage::Preparing | Stage::Over, _) => {}
    }
    session::forget_if_unused(state, key.session);
}
