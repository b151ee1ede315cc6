//! Frames that the hardware has written into the client's buffer: nothing is left but to say so.

use crate::{
    capture::Producer,
    protocols::{source::CaptureSource, target, CaptureHandler, Written},
};

use super::{frame, session};

/// The picture that a request asked for is in the buffer that it named. Nobody is told if the frame or its buffer died
/// meanwhile.
pub(in crate::protocols) fn written<D: CaptureHandler>(
    state: &mut D,
    of: &CaptureSource,
    written: &Written,
) {
    let copy = &mut state.capture_protocols().copy;
    let waiting = frame::waiting_for(copy, of, written.session, written.request);
    let Some((key, frame)) = waiting else {
        // Its damage is not lost.
        if let Some(capture) = of.capture(state) {
            capture.invalidate_session(written.session);
        }
        return;
    };
    let is_there = frame.buffer().is_some();
    let Some(source) = frame::source_of(state, key.session) else {
        return;
    };
    if !is_there {
        return frame::refuse_buffer(state, key, &source, &target::Unfit::Destroyed);
    }
    let format = session::format_of(state, &source);
    let bytes = format.map_or(0, |format| {
        u64::from(format.stride) * u64::from(format.height)
    });
    let copy = &mut state.capture_protocols().copy;
    if let Some(frame) = copy.frame_mut(key) {
        frame.ready(Some(&source), written.presented, &written.damage);
    }
    let session = copy.sessions.get_mut(&key.session);
    if let Some(audit) = session.and_then(|session| session.audit.as_mut()) {
        audit.frame(Producer::Writeback, bytes);
    }
    let now = state.now();
    if let Some(capture) = of.capture(state) {
        capture.record_ready(source.id, written.presented, now);
    }
}
