//! Frames: from `create_frame` over the wait for a picture and the copy to `ready` or `failed`.

use std::sync::Arc;

use wayland_protocols::ext::image_copy_capture::v1::server::ext_image_copy_capture_frame_v1::{
    Error, FailureReason,
};
use wayland_server::{protocol::wl_buffer::WlBuffer, Client, Resource};

use crate::{
    capture::{
        CopyError, CopyJob, CopyReport, DamageSet, FrameFormat, FrameInfo, Lease, RequestId,
        SessionId,
    },
    geometry::Rect,
    protocols::{source::CaptureSource, split_time, target, CaptureHandler, Delivery, LoopTask},
    time::Time,
};

use super::{
    cursor,
    session::{self, CopySource},
    CopyCaptures, Frame, FrameKey, SessionKey,
};

/// So often one frame object is tried again after trouble that is not the client's: a portal in the field ends its cast
/// at the first `failed(unknown)`.
const MAX_ATTEMPTS: u32 = 3;

/// So many copies are given to the pool at once; the others wait here, where they cost no thread and keep their place.
/// Below the pool's own bound, so that it never refuses one.
const MAX_RUNNING: usize = 32;

/// A frame object.
#[derive(Debug)]
pub(super) struct CopyFrame {
    object: Frame,
    pub(super) number: u64,
    buffer: Option<WlBuffer>,
    /// What the client wants to have written at least, not yet clipped to the frame.
    buffer_damage: DamageSet,
    stage: Stage,
    attempts: u32,
}

/// How far a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Before `capture`.
    Preparing,
    /// capture/ looks for a picture.
    Waiting(RequestId),
    /// A picture is there; a worker copies it or will do so soon.
    Copying,
    /// `ready` or `failed` was sent.
    Over,
}

/// A delivered picture whose copy has not started.
#[derive(Debug)]
pub(super) struct ReadyCopy {
    key: FrameKey,
    lease: Lease,
    damage: Vec<Rect>,
    /// The point of a pointer's picture that points.
    hotspot: Option<(i32, i32)>,
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

    fn fail(&mut self, reason: FailureReason) {
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

fn fail<D: CaptureHandler>(state: &mut D, key: FrameKey, reason: FailureReason) {
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

fn start_anew<D: CaptureHandler>(state: &mut D, source: &CopySource) {
    if let Some(capture) = source.of.capture(state) {
        capture.invalidate_session(source.id);
    }
}

/// Asks capture/ for a picture.
fn request<D: CaptureHandler>(state: &mut D, key: FrameKey, source: &CopySource) {
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

/// Has the copy made, or puts it off.
fn start_copy<D: CaptureHandler>(state: &mut D, ready: ReadyCopy) {
    let key = ready.key;
    let dmabufs = state.dmabuf_device().is_some();
    let copy = &mut state.capture_protocols().copy;
    let Some(session) = copy.sessions.get_mut(&key.session) else {
        return;
    };
    if session.copying || copy.running.count() >= MAX_RUNNING {
        copy.backlog.push_back(ready);
        return;
    }
    let source = session.source.clone();
    let Some(frame) = session
        .frame
        .as_ref()
        .filter(|frame| frame.number == key.number)
    else {
        return;
    };
    let info = Arc::clone(ready.lease.frame());
    let target = match &frame.buffer {
        Some(buffer) => target::open(buffer, &info.format, dmabufs),
        None => Err(target::Unfit::Destroyed),
    };
    let target = match (target, source) {
        (Ok(target), _) => target,
        (Err(_), None) => return fail(state, key, FailureReason::Stopped),
        (Err(unfit), Some(source)) => return refuse_buffer(state, key, &source, &unfit),
    };

    let bounds = info.format.full();
    let mut region = DamageSet::new();
    for rect in ready.damage.iter().chain(frame.buffer_damage.rects()) {
        region.add(*rect, bounds);
    }
    session.copying = true;
    let era = copy.running.begin();
    let (damage, hotspot) = (ready.damage.clone(), ready.hotspot);
    let loop_sender = state.run_in_loop();
    let job = CopyJob {
        lease: ready.lease,
        area: None,
        rects: region.into_rects(),
        target,
        done: Box::new(move |result| {
            let task: LoopTask<D> = Box::new(move |state| {
                let running = &mut state.capture_protocols().copy.running;
                let result = running.end(era, result);
                if let (Ok(_), Some(hotspot)) = (&result, hotspot) {
                    cursor::before_ready(state, key, hotspot);
                }
                finish_copy(state, key, &info, &damage, result);
            });
            // The loop is gone only when the compositor ends.
            let _ = loop_sender.send(task);
        }),
    };
    state.start_copy(job);
}

/// A worker is through with a copy; the frame, the session and the client may be gone.
fn finish_copy<D: CaptureHandler>(
    state: &mut D,
    key: FrameKey,
    info: &FrameInfo,
    damage: &[Rect],
    result: Result<CopyReport, CopyError>,
) {
    let now = state.now();
    let copy = &mut state.capture_protocols().copy;
    if let Some(session) = copy.sessions.get_mut(&key.session) {
        session.copying = false;
        let source = session.source.clone();
        let frame = session
            .frame
            .as_mut()
            .filter(|frame| frame.number == key.number && frame.stage == Stage::Copying);
        match (frame, result) {
            (Some(frame), Ok(report)) => {
                frame.ready(source.as_ref(), info.presented, damage);
                if let Some(audit) = &mut session.audit {
                    audit.frame(info.producer, report.bytes);
                }
                if let Some(source) = source {
                    if let Some(capture) = source.of.capture(state) {
                        capture.record_copy(source.id, &report);
                        capture.record_ready(source.id, info.presented, now);
                        capture.copy_handed_over(source.id, now);
                    }
                }
            }
            (Some(_), Err(error)) => recover(state, key, source, &error),
            // Destroyed meanwhile (`object_destroyed` has seen to its damage), or told that it failed.
            (None, _) => {}
        }
    }
    session::forget_if_unused(state, key.session);
    drain_backlog(state);
}

/// See [`crate::protocols::forget_pictures`].
pub(in crate::protocols) fn forget_pictures<D: CaptureHandler>(state: &mut D, now: Time) {
    let copy = &mut state.capture_protocols().copy;
    copy.running.all_stale();
    for cursor in copy.cursors.values_mut() {
        cursor.forget_pictures(now);
    }
    for ready in std::mem::take(&mut copy.backlog) {
        let key = ready.key;
        drop(ready);
        let Some(source) = source_of(state, key.session) else {
            fail(state, key, FailureReason::Stopped);
            continue;
        };
        start_anew(state, &source);
        request(state, key, &source);
    }
}

fn drain_backlog<D: CaptureHandler>(state: &mut D) {
    for ready in std::mem::take(&mut state.capture_protocols().copy.backlog) {
        start_copy(state, ready);
    }
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

/// A copy failed. If the client's buffer is to blame the frame fails; else it is tried again.
fn recover<D: CaptureHandler>(
    state: &mut D,
    key: FrameKey,
    source: Option<CopySource>,
    error: &CopyError,
) {
    let Some(source) = source else {
        return fail(state, key, FailureReason::Stopped);
    };
    tracing::warn!(
        target: "vitrine::protocols",
        session = %source.id, source = source.of.name(), %error, "copy failed"
    );
    start_anew(state, &source);
    if error.is_constraints() {
        return fail(state, key, FailureReason::BufferConstraints);
    }
    let Some(frame) = state.capture_protocols().copy.frame_mut(key) else {
        return;
    };
    frame.attempts += 1;
    if frame.attempts < MAX_ATTEMPTS {
        request(state, key, &source);
    } else {
        frame.fail(FailureReason::Unknown);
    }
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
