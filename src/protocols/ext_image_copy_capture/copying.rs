//! Copies: from a delivered picture over the worker or the GPU that copies it to `ready`.

use std::sync::Arc;

use wayland_protocols::ext::image_copy_capture::v1::server::ext_image_copy_capture_frame_v1::FailureReason;

use crate::{
    capture::{CopyError, CopyJob, CopyReport, DamageSet, FrameInfo, Lease},
    geometry::Rect,
    protocols::{target, CaptureHandler, LoopTask},
    time::Time,
};

use super::{
    cursor,
    frame::{fail, refuse_buffer, request, source_of, start_anew, Stage},
    session::{self, CopySource},
    FrameKey,
};

/// So often one frame object is tried again after trouble that is not the client's: a portal in the field ends its cast
/// at the first `failed(unknown)`.
const MAX_ATTEMPTS: u32 = 3;

/// So many copies are given to the pool at once; the others wait here, where they cost no thread and keep their place.
/// Below the pool's own bound, so that it never refuses one.
const MAX_RUNNING: usize = 32;

/// A delivered picture whose copy has not started.
#[derive(Debug)]
pub(super) struct ReadyCopy {
    pub(super) key: FrameKey,
    pub(super) lease: Lease,
    pub(super) damage: Vec<Rect>,
    /// The point of a pointer's picture that points.
    pub(super) hotspot: Option<(i32, i32)>,
}

/// Has the copy made, or puts it off.
pub(super) fn start_copy<D: CaptureHandler>(state: &mut D, ready: ReadyCopy) {
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
