//! Copies: from a delivered picture over the worker or the GPU that copies it to `ready`.

use std::sync::Arc;

use wayland_protocols_wlr::screencopy::v1::server::zwlr_screencopy_frame_v1::Flags;

use crate::{
    capture::{CopyError, CopyJob, CopyReport, DamageSet, FrameInfo, Lease, SessionId},
    geometry::Rect,
    protocols::{
        split_time,
        target::{self, Unfit},
        CaptureHandler, LoopTask,
    },
};

use super::{
    frame::{fail, request, ScreencopyFrame, Stage},
    offer::{picture_of, Subject},
    session, ScreencopyKey,
};

/// So often one frame object is tried again after trouble that is not the client's.
const MAX_ATTEMPTS: u32 = 3;

/// So many copies are given to the pool at once. With those of ext-image-copy-capture below the pool's own bound.
const MAX_RUNNING: usize = 24;

/// A delivered picture whose copy has not started.
#[derive(Debug)]
pub(super) struct ReadyCopy {
    pub(super) key: ScreencopyKey,
    pub(super) lease: Lease,
    pub(super) damage: Vec<Rect>,
}

/// Has the copy made, or puts it off.
pub(super) fn start_copy<D: CaptureHandler>(state: &mut D, ready: ReadyCopy) {
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
    let (Stage::Copying(work), Some(offer)) = (&mut frame.stage, &frame.offer) else {
        return;
    };
    let info = Arc::clone(lease.frame());
    let subject = offer.subject.clone();
    let (session, area) = (work.session, subject.area);
    // The mode may have changed while the picture was on its way.
    let target = if offer.still_holds(&info.format) {
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
        let (Stage::Copying(work), Some(offer)) = (&frame.stage, &frame.offer) else {
            continue;
        };
        let (work, subject) = (work.clone(), offer.subject.clone());
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
