//! Frames: from the announcement of the buffer over the wait for a picture and the copy to `ready` or `failed`.

use smithay::output::Output;
use wayland_protocols_wlr::screencopy::v1::server::zwlr_screencopy_frame_v1::Error;
use wayland_server::{protocol::wl_buffer::WlBuffer, Client, DisplayHandle, Resource};

use crate::{
    capture::{RequestId, SessionId},
    protocols::{current_format, target, CaptureHandler, Delivery},
};

use super::{
    copying::{start_copy, ReadyCopy},
    offer::{Offer, Refusal, Subject},
    session, Frame, ScreencopyKey,
};

/// A `copy` or `copy_with_damage`.
#[derive(Debug, Clone)]
pub(super) struct Copy {
    pub(super) buffer: WlBuffer,
    pub(super) wait_for_damage: bool,
}

/// A frame object.
#[derive(Debug)]
pub(super) struct ScreencopyFrame {
    pub(super) object: Frame,
    /// `None` when the client was told `failed` at once.
    pub(super) offer: Option<Offer>,
    /// A copy was asked for.
    used: bool,
    pub(super) stage: Stage,
}

/// How far a frame is.
#[derive(Debug)]
pub(super) enum Stage {
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
pub(super) struct Work {
    pub(super) copy: Copy,
    pub(super) session: SessionId,
    /// So often it failed through no fault of the client's.
    pub(super) attempts: u32,
    /// A worker has it.
    pub(super) running: bool,
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
        self.offer
            .as_ref()
            .is_some_and(|offer| &offer.subject.output == output)
    }

    /// The session that this frame uses now.
    pub(super) fn session(&self) -> Option<SessionId> {
        match &self.stage {
            Stage::Waiting(work, _) | Stage::Copying(work) => Some(work.session),
            Stage::Announced | Stage::Over => None,
        }
    }
}

/// `capture_output`, `capture_output_region`: tells which buffers are taken, or `failed`.
pub(super) fn announce<D: CaptureHandler>(
    state: &mut D,
    key: ScreencopyKey,
    object: Frame,
    subject: Option<Subject>,
) {
    let offer = subject.and_then(|subject| Offer::of(state, subject));
    let stage = match &offer {
        None => {
            object.failed();
            Stage::Over
        }
        Some(offer) => {
            offer.send(&object);
            Stage::Announced
        }
    };
    let frame = ScreencopyFrame {
        object,
        offer,
        used: false,
        stage,
    };
    state
        .capture_protocols()
        .screencopy
        .frames
        .insert(key, frame);
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
    let (Stage::Announced, Some(offer)) = (&frame.stage, frame.offer.clone()) else {
        return;
    };
    match offer.check(&copy.buffer) {
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
    let frames = current_format(state, &offer.subject.output);
    if frames.is_some_and(|frames| !offer.still_holds(&frames)) {
        return fail(state, key);
    }
    if !allowed {
        return fail(state, key);
    }
    let Some(session) = session::take(state, display, client, &offer.subject) else {
        return fail(state, key);
    };
    let work = Work {
        copy,
        session,
        attempts: 0,
        running: false,
    };
    request(state, key, &offer.subject, work);
}

/// Asks capture/ for a picture.
pub(super) fn request<D: CaptureHandler>(
    state: &mut D,
    key: ScreencopyKey,
    subject: &Subject,
    work: Work,
) {
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
pub(super) fn fail<D: CaptureHandler>(state: &mut D, key: ScreencopyKey) {
    let Some(frame) = state.capture_protocols().screencopy.frames.get_mut(&key) else {
        return;
    };
    frame.object.failed();
    let stage = std::mem::replace(&mut frame.stage, Stage::Over);
    let offer = frame.offer.clone();
    if let Some(offer) = offer {
        abandon(state, key, &offer.subject, stage);
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
                    .offer
                    .as_ref()
                    .is_some_and(|offer| !offer.still_holds(&format))
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
    if let Some(offer) = frame.offer {
        abandon(state, key, &offer.subject, frame.stage);
    }
}
