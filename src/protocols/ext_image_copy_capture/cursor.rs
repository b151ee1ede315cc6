//! Cursor sessions: where the pointer is on an output, and frames of its picture.
//!
//! The picture is a source like an output, with a ring of its own in ordinary memory: each new picture, or new hotspot,
//! is a frame with full damage. What the protocol demands of sessions and frames then holds for it without a second
//! implementation.
//!
//! **The hotspot** becomes effective with the next `ready`. So a client that captures the picture is told of a new
//! hotspot right before the `ready` of the first frame that has it; one that only follows the position at once.

use std::sync::Arc;

use drm_fourcc::{DrmFourcc, DrmModifier};
use smithay::output::Output;
use wayland_server::Resource;

use crate::{
    capture::{
        CaptureConfig, Demand, FrameFormat, JobId, OutputCapture, PlainMemory, Producer, SlotMemory,
    },
    protocols::{deliver_from, source::CaptureSource, CaptureHandler, CursorPixels, CursorView},
    time::Time,
};

use super::{CursorKey, CursorSession, FrameKey, SessionKey};

/// A cursor session object.
#[derive(Debug)]
pub(super) struct CursorState {
    object: CursorSession,
    /// `None` once it is gone, or if the source is none on which a pointer can be followed.
    output: Option<Output>,
    capture_session: Option<SessionKey>,
    /// What the client knows while the pointer is on the output.
    told: Option<Told>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    position: (i32, i32),
    hotspot: Option<(i32, i32)>,
}

/// The pointer's picture on one output.
#[derive(Debug)]
pub(super) struct CursorCapture {
    capture: OutputCapture,
    slots: Vec<Arc<PlainMemory>>,
    /// As it was at the last look.
    view: Option<CursorView>,
    /// The last picture that could be read; frames show this one.
    picture: Option<CursorPixels>,
    /// The hotspot of the newest frame.
    published: Option<(i32, i32)>,
    last_job: u64,
    /// Something may have changed since the last look.
    dirty: bool,
}

/// The second `get_capture_session`.
#[derive(Debug)]
pub(super) struct Duplicate;

impl CursorCapture {
    fn new(output: &Output) -> Self {
        // Only graces of exported frames count in refreshes, and nobody exports these.
        let refresh = output.current_mode().map_or(60_000, |mode| mode.refresh);
        let refresh = std::time::Duration::from_secs(1_000) / refresh.max(1_000).unsigned_abs();
        let config = CaptureConfig {
            ring_slots: CaptureConfig::MIN_SLOTS,
            ..CaptureConfig::default()
        };
        Self {
            // A copy's end comes through the loop, which then looks here.
            capture: OutputCapture::new(config, refresh, Arc::new(|| {})),
            slots: Vec::new(),
            view: None,
            picture: None,
            published: None,
            last_job: 0,
            dirty: true,
        }
    }

    pub(super) fn capture_mut(&mut self) -> &mut OutputCapture {
        &mut self.capture
    }

    /// Takes a new look at the pointer. Returns whether the size of its picture is another one.
    fn look(&mut self, view: Option<CursorView>, now: Time) -> bool {
        self.dirty = false;
        let picture = view
            .as_ref()
            .and_then(|view| view.picture.clone())
            .filter(|picture| picture.width > 0 && picture.height > 0);
        self.view = view;
        let Some(picture) = picture else {
            return false;
        };
        let size = |picture: &CursorPixels| (picture.width, picture.height);
        let resized = self.picture.as_ref().map(size) != Some(size(&picture));
        if !resized && self.picture.as_ref() == Some(&picture) {
            return false;
        }
        let full = format(&picture).full();
        if resized {
            self.start_ring(&picture, now);
        } else {
            self.capture.committed(&[full], None);
        }
        self.picture = Some(picture);
        resized
    }

    /// What the pointer looked like is not to be seen any more. Frames wait for its next look.
    pub(super) fn forget_pictures(&mut self, now: Time) {
        self.picture = None;
        self.dirty = true;
        self.capture.clear_buffers(now);
    }

    fn start_ring(&mut self, picture: &CursorPixels, now: Time) {
        self.slots = (0..CaptureConfig::MIN_SLOTS)
            .map(|_| Arc::default())
            .collect();
        let memories = self
            .slots
            .iter()
            .map(|slot| Arc::clone(slot) as Arc<dyn SlotMemory>)
            .collect();
        if let Err(error) = self.capture.set_buffers(format(picture), memories, now) {
            tracing::error!(target: "vitrine::protocols", %error, "no ring for the pointer's picture");
        }
    }

    /// Makes a frame of the picture if somebody waits for one.
    fn draw(&mut self, now: Time) {
        let Some(picture) = &self.picture else {
            return;
        };
        // What changed was reported, so that `OnDamage` means that nothing did.
        if self.capture.demand(now) != Demand::Now {
            return;
        }
        self.last_job += 1;
        let job = JobId(self.last_job);
        let Ok(slot) = self.capture.arm(job, Producer::Render, now) else {
            return;
        };
        if let Some(memory) = self.slots.get(usize::from(slot.index)) {
            memory.write(|bytes| {
                bytes.clear();
                bytes.extend(picture.pixels.iter().flat_map(|pixel| pixel.to_le_bytes()));
            });
        }
        self.capture.committed(&[], Some(job));
        self.capture.complete(job, now, now);
        self.published = Some(picture.hotspot);
    }
}

fn format(picture: &CursorPixels) -> FrameFormat {
    FrameFormat {
        width: picture.width,
        height: picture.height,
        fourcc: DrmFourcc::Argb8888,
        modifier: DrmModifier::Linear,
        stride: picture.width.saturating_mul(4),
        offset: 0,
    }
}

impl CursorState {
    /// Tells the client where the pointer is.
    fn follow(&mut self, view: Option<&CursorView>) {
        let Some(view) = view else {
            if self.told.take().is_some() {
                self.object.leave();
            }
            return;
        };
        let hotspot = view.picture.as_ref().map(|picture| picture.hotspot);
        let before = self.told;
        if before.is_none() {
            self.object.enter();
        }
        if before.map(|told| told.position) != Some(view.position) {
            self.object.position(view.position.0, view.position.1);
        }
        let mut told = Told {
            position: view.position,
            hotspot: before.and_then(|told| told.hotspot),
        };
        // See the head of the file for those who capture.
        if before.is_none() || self.capture_session.is_none() || told.hotspot.is_none() {
            self.tell_hotspot(&mut told, hotspot);
        }
        self.told = Some(told);
    }

    fn tell_hotspot(&self, told: &mut Told, hotspot: Option<(i32, i32)>) {
        if let Some(hotspot) = hotspot.filter(|hotspot| told.hotspot != Some(*hotspot)) {
            self.object.hotspot(hotspot.0, hotspot.1);
            told.hotspot = Some(hotspot);
        }
    }
}

/// `create_pointer_cursor_session`
pub(super) fn create<D: CaptureHandler>(
    state: &mut D,
    key: CursorKey,
    object: CursorSession,
    source: Option<CaptureSource>,
) {
    let output = match source {
        Some(CaptureSource::Output(output)) => Some(output),
        // A window's pointer is the output's; nobody in the field follows it by window.
        Some(CaptureSource::Cursor(_) | CaptureSource::Toplevel(_)) | None => None,
    };
    let output = output.filter(|output| state.capture_output(output).is_some());
    let copy = &mut state.capture_protocols().copy;
    if let Some(output) = &output {
        let cursor = copy
            .cursors
            .entry(output.clone())
            .or_insert_with(|| CursorCapture::new(output));
        cursor.dirty = true;
    }
    let session = CursorState {
        object,
        output: output.clone(),
        capture_session: None,
        told: None,
    };
    copy.cursor_sessions.insert(key, session);
    if let Some(output) = output {
        state.capture_wanted(&output);
    }
}

/// `get_capture_session`: what that session captures, if that still exists.
pub(super) fn take_capture_session<D: CaptureHandler>(
    state: &mut D,
    key: CursorKey,
    capture_session: SessionKey,
) -> Result<Option<CaptureSource>, Duplicate> {
    let sessions = &mut state.capture_protocols().copy.cursor_sessions;
    let Some(session) = sessions.get_mut(&key) else {
        return Ok(None);
    };
    if session.capture_session.replace(capture_session).is_some() {
        return Err(Duplicate);
    }
    Ok(session.output.clone().map(CaptureSource::Cursor))
}

/// The client destroyed the cursor session, or died. A capture session made from it lives on.
pub(super) fn object_destroyed<D: CaptureHandler>(state: &mut D, key: CursorKey) {
    let copy = &mut state.capture_protocols().copy;
    let session = copy.cursor_sessions.remove(&key);
    if let Some(output) = session.and_then(|session| session.output) {
        state.capture_wanted(&output);
    }
}

/// See [`crate::protocols::cursor_changed`].
pub(in crate::protocols) fn cursor_changed<D: CaptureHandler>(state: &mut D) {
    for cursor in state.capture_protocols().copy.cursors.values_mut() {
        cursor.dirty = true;
    }
}

/// Does what is due for the pointer on this output: events, a new frame, answers.
pub(in crate::protocols) fn poll<D: CaptureHandler>(state: &mut D, output: &Output) {
    let source = CaptureSource::Cursor(output.clone());
    let now = state.now();
    let copy = &mut state.capture_protocols().copy;
    let Some(cursor) = copy.cursors.get(output) else {
        return;
    };
    let followed = |session: &CursorState| session.output.as_ref() == Some(output);
    if !copy.cursor_sessions.values().any(followed) && copy.on_source(&source).is_empty() {
        copy.cursors.remove(output);
        return;
    }
    if cursor.dirty {
        let view = state.cursor_view(output);
        let copy = &mut state.capture_protocols().copy;
        let resized = copy
            .cursors
            .get_mut(output)
            .is_some_and(|cursor| cursor.look(view.clone(), now));
        for session in copy.cursor_sessions.values_mut() {
            if session.output.as_ref() == Some(output) {
                session.follow(view.as_ref());
            }
        }
        if resized {
            super::source_changed(state, &source);
        }
    }
    let copy = &mut state.capture_protocols().copy;
    let Some(cursor) = copy.cursors.get_mut(output) else {
        return;
    };
    // Pictures of a pointer that is elsewhere wait until it is back.
    let seen = |view: &CursorView| view.picture.is_some();
    if cursor.view.as_ref().is_some_and(seen) {
        cursor.draw(now);
    }
    let events = cursor.capture.poll(now);
    deliver_from(state, &source, events);
}

/// The hotspot of the frame that is delivered now, if it is a pointer's.
pub(super) fn newest_hotspot<D: CaptureHandler>(
    state: &mut D,
    of: &CaptureSource,
) -> Option<(i32, i32)> {
    let CaptureSource::Cursor(output) = of else {
        return None;
    };
    state
        .capture_protocols()
        .copy
        .cursors
        .get(output)?
        .published
}

/// A frame with this hotspot is about to be `ready`.
pub(super) fn before_ready<D: CaptureHandler>(state: &mut D, frame: FrameKey, hotspot: (i32, i32)) {
    let copy = &mut state.capture_protocols().copy;
    if copy.frame_mut(frame).is_none() {
        return;
    }
    for session in copy.cursor_sessions.values_mut() {
        if session.capture_session != Some(frame.session) {
            continue;
        }
        if let Some(mut told) = session.told {
            session.tell_hotspot(&mut told, Some(hotspot));
            session.told = Some(told);
        }
    }
}

/// See [`crate::protocols::rights_changed`]: who lost the right does not learn where the pointer is.
pub(super) fn rights_changed<D: CaptureHandler>(state: &mut D) {
    let sessions = &state.capture_protocols().copy.cursor_sessions;
    let clients: Vec<_> = sessions
        .iter()
        .filter(|(_, session)| session.output.is_some())
        .map(|(key, session)| (*key, session.object.client()))
        .collect();
    for (key, client) in clients {
        if client.is_some_and(|client| state.may_capture(&client)) {
            continue;
        }
        let sessions = &mut state.capture_protocols().copy.cursor_sessions;
        if let Some(session) = sessions.get_mut(&key) {
            session.follow(None);
            session.output = None;
        }
    }
}

/// See [`crate::protocols::output_gone`].
pub(in crate::protocols) fn output_gone<D: CaptureHandler>(state: &mut D, output: &Output) {
    let copy = &mut state.capture_protocols().copy;
    copy.cursors.remove(output);
    for session in copy.cursor_sessions.values_mut() {
        if session.output.as_ref() == Some(output) {
            session.follow(None);
            session.output = None;
        }
    }
}
