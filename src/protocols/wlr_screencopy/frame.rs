//! Frames: from the announcement of the buffer over the wait for a picture and the copy to `ready` or `failed`.

use std::sync::Arc;

use smithay::{
    backend::allocator::{format::get_bpp, Buffer as _, Fourcc, Modifier},
    output::Output,
    wayland::{dmabuf::get_dmabuf, shm::fourcc_to_shm_format},
};
use wayland_protocols_wlr::screencopy::v1::server::zwlr_screencopy_frame_v1::{Error, Flags};
use wayland_server::{protocol::wl_buffer::WlBuffer, Client, DisplayHandle, Resource};

use crate::{
    capture::{
        CopyError, CopyJob, CopyReport, DamageSet, FrameFormat, FrameInfo, Lease, RequestId,
        SessionId,
    },
    geometry::Rect,
    protocols::{
        current_format, split_time,
        target::{self, Unfit},
        CaptureHandler, Delivery, LoopTask,
    },
};

use super::{session, Frame, ScreencopyKey};

/// So often one frame object is tried again after trouble that is not the client's.
const MAX_ATTEMPTS: u32 = 3;

/// So many copies are given to the pool at once. With those of ext-image-copy-capture below the pool's own bound.
const MAX_RUNNING: usize = 24;

const EVENT_DMABUF_SINCE: u32 = 3;

/// What a frame is to show.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Subject {
    pub(super) output: Output,
    /// In pixels of the output's frames.
    pub(super) area: Rect,
    pub(super) overlay_cursor: bool,
}

/// A `copy` or `copy_with_damage`.
#[derive(Debug, Clone)]
pub(super) struct Copy {
    pub(super) buffer: WlBuffer,
    pub(super) wait_for_damage: bool,
}

/// A frame object.
#[derive(Debug)]
pub(super) struct ScreencopyFrame {
    object: Frame,
    /// What the client was told to bring; `None` when it was told `failed` at once.
    told: Option<Told>,
    /// A copy was asked for.
    used: bool,
    stage: Stage,
}

/// What the client was told.
#[derive(Debug, Clone)]
struct Told {
    subject: Subject,
    /// Width and height of the output's frames. With another mode the buffer and the area mean nothing.
    frames: (u32, u32),
    /// The pixels of the area as a picture of its own.
    picture: FrameFormat,
    /// The format and the stride of a wl_shm buffer.
    shm: (Fourcc, u32),
    /// Whether a dma-buf of the picture's format is taken, too.
    dmabuf: bool,
}

impl Told {
    fn still_holds(&self, frames: &FrameFormat) -> bool {
        self.frames == (frames.width, frames.height)
    }
}

/// How far a frame is.
#[derive(Debug)]
enum Stage {
    /// Before `copy`.
    Announced,
    /// capture/ looks for a picture.
    Waiting(Work, RequestId),
    /// A picture is there; a worker copies it or will do so soon.
    Copying(Work),
    /// `ready` or `failed` was sent.
    Over,
}

/// A copy under way.
#[derive(Debug, Clone)]
struct Work {
    copy: Copy,
    session: SessionId,
    attempts: u32,
    /// A worker has it.
    running: bool,
}

/// A delivered picture whose copy has not started.
#[derive(Debug)]
pub(super) struct ReadyCopy {
    key: ScreencopyKey,
    lease: Lease,
    damage: Vec<Rect>,
}

impl ScreencopyFrame {
    pub(super) fn client(&self) -> Option<Client> {
        self.object.client()
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }

    /// A picture is there, and its copy under way or about to be.
    pub(super) fn is_copied(&self) -> bool {
        matches!(self.stage, Stage::Copying(_))
    }

    pub(super) fn is_of(&self, output: &Output) -> bool {
        self.told
            .as_ref()
            .is_some_and(|told| &told.subject.output == output)
    }

    /// The session that this frame uses now.
    pub(super) fn session(&self) -> Option<SessionId> {
        match &self.stage {
            Stage::Waiting(work, _) | Stage::Copying(work) => Some(work.session),
            Stage::Announced | Stage::Over => None,
        }
    }
}

/// The pixels of an area as a picture of its own, without padding.
fn picture_of(frames: &FrameFormat, area: Rect) -> Option<FrameFormat> {
    if !frames.full().contains_rect(area) {
        return None;
    }
    let width = u32::try_from(area.size.w).ok()?;
    Some(FrameFormat {
        width,
        height: u32::try_from(area.size.h).ok()?,
        stride: stride_of(width, frames.fourcc)?,
        offset: 0,
        ..*frames
    })
}

fn stride_of(width: u32, fourcc: Fourcc) -> Option<u32> {
    width.checked_mul(u32::try_from(get_bpp(fourcc)? / 8).ok()?)
}

/// How the output's frames look now, or will look while it has no buffers yet.
fn frames_of<D: CaptureHandler>(state: &mut D, output: &Output) -> Option<FrameFormat> {
    current_format(state, output).or_else(|| {
        let mode = output.current_mode()?.size;
        let width = u32::try_from(mode.w).ok()?;
        Some(FrameFormat {
            width,
            height: u32::try_from(mode.h).ok()?,
            fourcc: Fourcc::Xrgb8888,
            modifier: Modifier::Linear,
            stride: stride_of(width, Fourcc::Xrgb8888)?,
            offset: 0,
        })
    })
}

/// `capture_output`, `capture_output_region`: tells which buffers are taken, or `failed`.
pub(super) fn announce<D: CaptureHandler>(
    state: &mut D,
    key: ScreencopyKey,
    object: Frame,
    subject: Option<Subject>,
) {
    let told = subject.and_then(|subject| told_of(state, subject));
    let stage = match &told {
        None => {
            object.failed();
            Stage::Over
        }
        Some(told) => {
            send_buffers(&object, told);
            Stage::Announced
        }
    };
    let frame = ScreencopyFrame {
        object,
        told,
        used: false,
        stage,
    };
    state
        .capture_protocols()
        .screencopy
        .frames
        .insert(key, frame);
}

fn told_of<D: CaptureHandler>(state: &mut D, subject: Subject) -> Option<Told> {
    // An output that is gone or going has no capture side.
    state.capture_output(&subject.output)?;
    let frames = frames_of(state, &subject.output)?;
    let picture = picture_of(&frames, subject.area)?;
    let fourcc = target::shm_formats(Some(&frames)).into_iter().next()?;
    Some(Told {
        frames: (frames.width, frames.height),
        shm: (fourcc, stride_of(picture.width, fourcc)?),
        dmabuf: state.dmabuf_device().is_some(),
        picture,
        subject,
    })
}

fn send_buffers(object: &Frame, told: &Told) {
    let (width, height) = (told.picture.width, told.picture.height);
    let (fourcc, stride) = told.shm;
    if let Some(format) = fourcc_to_shm_format(fourcc) {
        object.buffer(format, width, height, stride);
    }
    if object.version() >= EVENT_DMABUF_SINCE {
        if told.dmabuf {
            object.linux_dmabuf(told.picture.fourcc as u32, width, height);
        }
        object.buffer_done();
    }
}

/// `copy`, `copy_with_damage`
pub(super) fn copy<D: CaptureHandler>(
    state: &mut D,
    display: &DisplayHandle,
    client: &Client,
    key: ScreencopyKey,
    copy: Copy,
) {
    let allowed = state.may_capture(client);
    let Some(frame) = state.capture_protocols().screencopy.frames.get_mut(&key) else {
        return;
    };
    if std::mem::replace(&mut frame.used, true) {
        frame.object.post_error(
            Error::AlreadyUsed,
            "a frame is copied once; capture the next one",
        );
        return;
    }
    // `failed` may have been on its way when the client asked.
    let (Stage::Announced, Some(told)) = (&frame.stage, frame.told.clone()) else {
        return;
    };
    match fits(&copy.buffer, &told) {
        Ok(()) => {}
        Err(Refusal::Error(unfit)) => {
            frame.object.post_error(
                Error::InvalidBuffer,
                format!("the buffer is not what this frame asked for: {unfit}"),
            );
            return;
        }
        Err(Refusal::Failed(unfit)) => {
            tracing::debug!(target: "vitrine::protocols", %unfit, "buffer refused");
            return fail(state, key);
        }
    }
    // The buffer is what the client was told to bring, but the mode may be another one now.
    let frames = current_format(state, &told.subject.output);
    if frames.is_some_and(|frames| !told.still_holds(&frames)) {
        return fail(state, key);
    }
    if !allowed {
        return fail(state, key);
    }
    let Some(session) = session::take(state, display, client, &told.subject) else {
        return fail(state, key);
    };
    let work = Work {
        copy,
        session,
        attempts: 0,
        running: false,
    };
    request(state, key, &told.subject, work);
}

/// Why a buffer is not taken.
enum Refusal {
    /// The client was told otherwise.
    Error(Unfit),
    /// The protocol has no way to tell the client beforehand: dma-bufs that a CPU cannot write.
    Failed(Unfit),
}

fn fits(buffer: &WlBuffer, told: &Told) -> Result<(), Refusal> {
    let picture = &told.picture;
    if let (Ok(dmabuf), true) = (get_dmabuf(buffer), told.dmabuf) {
        let number = |side: i32| u32::try_from(side).unwrap_or(0);
        let (width, height) = (number(dmabuf.size().w), number(dmabuf.size().h));
        if (width, height) != (picture.width, picture.height) {
            let unfit = Unfit::Size(width, height, picture.width, picture.height);
            return Err(Refusal::Error(unfit));
        }
        if dmabuf.format().code != picture.fourcc {
            return Err(Refusal::Error(Unfit::Format(picture.fourcc)));
        }
        return target::check(buffer, picture, true).map_err(Refusal::Failed);
    }
    let (layout, _) = target::shm_layout(buffer).map_err(Refusal::Error)?;
    let (fourcc, stride) = told.shm;
    target::check(buffer, picture, false).map_err(Refusal::Error)?;
    if layout.fourcc != fourcc {
        return Err(Refusal::Error(Unfit::Format(picture.fourcc)));
    }
    if layout.stride != stride {
        return Err(Refusal::Error(Unfit::Stride(
            layout.stride,
            u64::from(stride),
        )));
    }
    Ok(())
}

/// Asks capture/ for a picture.
fn request<D: CaptureHandler>(state: &mut D, key: ScreencopyKey, subject: &Subject, work: Work) {
    let now = state.now();
    // Named so that a job of the same client's does not write it at the same time.
    let target = target::memory(&work.copy.buffer, false);
    let requested = state.capture_output(&subject.output).map(|capture| {
        if work.copy.wait_for_damage {
            capture.request_into(work.session, target, now)
        } else {
            capture.request_fresh(work.session, target, now)
        }
    });
    let session = work.session;
    if let Some(Ok(request)) = requested {
        let frame = state.capture_protocols().screencopy.frames.get_mut(&key);
        let client = frame.and_then(|frame| {
            frame.stage = Stage::Waiting(work, request);
            frame.object.client()
        });
        if let Some(client) = client {
            state.frame_requested(client.id());
        }
        state.capture_wanted(&subject.output);
        return;
    }
    if let Some(Err(error)) = requested {
        tracing::warn!(target: "vitrine::protocols", %session, %error, "request refused");
    }
    session::give_back(state, subject, session);
    fail(state, key);
}

/// Sends `failed`; whatever the frame was doing is forgotten.
fn fail<D: CaptureHandler>(state: &mut D, key: ScreencopyKey) {
    let Some(frame) = state.capture_protocols().screencopy.frames.get_mut(&key) else {
        return;
    };
    frame.object.failed();
    let stage = std::mem::replace(&mut frame.stage, Stage::Over);
    let told = frame.told.clone();
    if let Some(told) = told {
        abandon(state, key, &told.subject, stage);
    }
}

/// The client will not see the picture that this frame was to show.
fn abandon<D: CaptureHandler>(state: &mut D, key: ScreencopyKey, subject: &Subject, stage: Stage) {
    match stage {
        Stage::Waiting(work, request) => {
            if let Some(capture) = state.capture_output(&subject.output) {
                capture.cancel(request);
            }
            session::give_back(state, subject, work.session);
            state.capture_wanted(&subject.output);
        }
        Stage::Copying(work) => {
            let copies = &mut state.capture_protocols().screencopy;
            copies.backlog.retain(|ready| ready.key != key);
            // Its damage was not seen.
            if let Some(capture) = state.capture_output(&subject.output) {
                capture.invalidate_session(work.session);
            }
            // A worker may still write the buffer. The session's next frame could have the same one: `finish_copy`
            // gives the session back.
            if !work.running {
                session::give_back(state, subject, work.session);
            }
        }
        Stage::Announced | Stage::Over => {}
    }
}

/// A picture for a session of this protocol. Returns the delivery if the session is not one of this protocol.
pub(in crate::protocols) fn deliver<D: CaptureHandler>(
    state: &mut D,
    output: &Output,
    delivery: Delivery,
) -> Option<Delivery> {
    let copies = &mut state.capture_protocols().screencopy;
    let Some(key) = copies.frame_in(output, delivery.session) else {
        return Some(delivery);
    };
    let frame = copies.frames.get_mut(&key)?;
    frame.stage = match std::mem::replace(&mut frame.stage, Stage::Over) {
        Stage::Waiting(work, request) if request == delivery.request => Stage::Copying(work),
        other => {
            frame.stage = other;
            return None;
        }
    };
    let ready = ReadyCopy {
        key,
        lease: delivery.lease,
        damage: delivery.damage,
    };
    start_copy(state, ready);
    None
}

/// Has the copy made, or puts it off.
fn start_copy<D: CaptureHandler>(state: &mut D, ready: ReadyCopy) {
    let dmabufs = state.dmabuf_device().is_some();
    let copies = &mut state.capture_protocols().screencopy;
    if copies.running.count() >= MAX_RUNNING {
        copies.backlog.push_back(ready);
        return;
    }
    let ReadyCopy { key, lease, damage } = ready;
    let Some(frame) = copies.frames.get_mut(&key) else {
        return;
    };
    let (Stage::Copying(work), Some(told)) = (&mut frame.stage, &frame.told) else {
        return;
    };
    let info = Arc::clone(lease.frame());
    let subject = told.subject.clone();
    let (session, area) = (work.session, subject.area);
    // The mode may have changed while the picture was on its way.
    let target = if told.still_holds(&info.format) {
        picture_of(&info.format, area)
            .ok_or(Unfit::Destroyed)
            .and_then(|picture| target::open(&work.copy.buffer, &picture, dmabufs))
    } else {
        Err(Unfit::Destroyed)
    };
    let target = match target {
        Ok(target) => target,
        Err(unfit) => {
            tracing::debug!(target: "vitrine::protocols", %unfit, "buffer refused");
            drop(lease);
            return fail(state, key);
        }
    };
    work.running = true;
    let era = copies.running.begin();
    let loop_sender = state.run_in_loop();
    let job = CopyJob {
        lease,
        area: Some(area),
        rects: vec![area],
        target,
        done: Box::new(move |result| {
            let task: LoopTask<D> = Box::new(move |state| {
                let running = &mut state.capture_protocols().screencopy.running;
                let result = running.end(era, result);
                finish_copy(state, key, (&subject, session), (&info, &damage), result);
            });
            // The loop is gone only when the compositor ends.
            let _ = loop_sender.send(task);
        }),
    };
    state.start_copy(job);
}

/// A worker is through with a copy; the frame and the client may be gone.
fn finish_copy<D: CaptureHandler>(
    state: &mut D,
    key: ScreencopyKey,
    (subject, session): (&Subject, SessionId),
    (info, damage): (&FrameInfo, &[Rect]),
    result: Result<CopyReport, CopyError>,
) {
    let copies = &mut state.capture_protocols().screencopy;
    let frame = copies.frames.get_mut(&key);
    let frame = frame.filter(|frame| matches!(frame.stage, Stage::Copying(_)));
    match (frame, result) {
        // Destroyed or told `failed` meanwhile; `abandon` has seen to its damage.
        (None, _) => session::give_back(state, subject, session),
        (Some(frame), Ok(report)) => {
            send_ready(frame, subject.area, info, damage);
            frame.stage = Stage::Over;
            session::count(state, subject, session, info, report.bytes);
            session::give_back(state, subject, session);
            let now = state.now();
            if let Some(capture) = state.capture_output(&subject.output) {
                capture.record_copy(session, &report);
                capture.record_ready(session, info.presented, now);
                capture.copy_handed_over(session, now);
            }
        }
        (Some(_), Err(error)) => recover(state, key, subject, &error),
    }
    for ready in std::mem::take(&mut state.capture_protocols().screencopy.backlog) {
        start_copy(state, ready);
    }
}

/// See [`crate::protocols::forget_pictures`].
pub(in crate::protocols) fn forget_pictures<D: CaptureHandler>(state: &mut D) {
    let copies = &mut state.capture_protocols().screencopy;
    copies.running.all_stale();
    for ready in std::mem::take(&mut copies.backlog) {
        let key = ready.key;
        drop(ready);
        let frames = &state.capture_protocols().screencopy.frames;
        let Some(frame) = frames.get(&key) else {
            continue;
        };
        let (Stage::Copying(work), Some(told)) = (&frame.stage, &frame.told) else {
            continue;
        };
        let (work, subject) = (work.clone(), told.subject.clone());
        if let Some(capture) = state.capture_output(&subject.output) {
            capture.invalidate_session(work.session);
        }
        request(state, key, &subject, work);
    }
}

fn send_ready(frame: &ScreencopyFrame, area: Rect, info: &FrameInfo, damage: &[Rect]) {
    let waited = matches!(&frame.stage, Stage::Copying(work) if work.copy.wait_for_damage);
    let object = &frame.object;
    object.flags(Flags::empty());
    if waited {
        let mut inside = DamageSet::new();
        for rect in damage {
            inside.add(*rect, area);
        }
        for rect in inside.rects() {
            let number = |value: i32| u32::try_from(value).unwrap_or(0);
            object.damage(
                number(rect.loc.x - area.loc.x),
                number(rect.loc.y - area.loc.y),
                number(rect.size.w),
                number(rect.size.h),
            );
        }
    }
    let (high, low, nanoseconds) = split_time(info.presented);
    object.ready(high, low, nanoseconds);
}

/// A copy failed. If the client's buffer is to blame the frame fails; else it is tried again.
fn recover<D: CaptureHandler>(
    state: &mut D,
    key: ScreencopyKey,
    subject: &Subject,
    error: &CopyError,
) {
    let frames = &mut state.capture_protocols().screencopy.frames;
    let Some(Stage::Copying(work)) = frames.get_mut(&key).map(|frame| &mut frame.stage) else {
        return;
    };
    work.running = false;
    work.attempts += 1;
    let work = work.clone();
    tracing::warn!(
        target: "vitrine::protocols",
        session = %work.session, output = subject.output.name(), %error, "copy failed"
    );
    let gone = !session::exists(state, subject, work.session);
    if gone || error.is_constraints() || work.attempts >= MAX_ATTEMPTS {
        return fail(state, key);
    }
    if let Some(capture) = state.capture_output(&subject.output) {
        capture.invalidate_session(work.session);
    }
    request(state, key, subject, work);
}

/// See [`crate::protocols::output_changed`]: waiting frames whose buffer no longer fits fail now.
pub(in crate::protocols) fn output_changed<D: CaptureHandler>(state: &mut D, output: &Output) {
    let Some(format) = current_format(state, output) else {
        return;
    };
    for key in state.capture_protocols().screencopy.open_on(output) {
        let frames = &state.capture_protocols().screencopy.frames;
        let unfit = frames.get(&key).is_some_and(|frame| {
            let waits = matches!(frame.stage, Stage::Waiting(..));
            waits
                && frame
                    .told
                    .as_ref()
                    .is_some_and(|told| !told.still_holds(&format))
        });
        if unfit {
            fail(state, key);
        }
    }
}

/// See [`crate::protocols::output_gone`]. A copy that runs is of a good picture and ends with `ready`.
pub(in crate::protocols) fn output_gone<D: CaptureHandler>(state: &mut D, output: &Output) {
    for key in state.capture_protocols().screencopy.open_on(output) {
        let frames = &state.capture_protocols().screencopy.frames;
        let copying = |frame: &ScreencopyFrame| matches!(frame.stage, Stage::Copying(_));
        if !frames.get(&key).is_some_and(copying) {
            fail(state, key);
        }
    }
    session::output_gone(state, output);
}

/// See [`crate::protocols::rights_changed`]. What a worker copies was on the screen while the right was there; the client is
/// told `failed` all the same.
pub(in crate::protocols) fn rights_changed<D: CaptureHandler>(state: &mut D) {
    for (key, client) in state.capture_protocols().screencopy.open() {
        if client.is_none_or(|client| !state.may_capture(&client)) {
            fail(state, key);
        }
    }
    session::rights_changed(state);
}

/// The client destroyed the frame, or died. A copy that runs goes on and is forgotten when it ends.
pub(super) fn object_destroyed<D: CaptureHandler>(state: &mut D, key: ScreencopyKey) {
    let copies = &mut state.capture_protocols().screencopy;
    let Some(frame) = copies.frames.remove(&key) else {
        return;
    };
    if let Some(told) = frame.told {
        abandon(state, key, &told.subject, frame.stage);
    }
}
