//! A CRTC on which somebody else commits too, to planes of their own (`foreign_planes`).
//!
//! The kernel lets one commit per CRTC be under way. Who comes second is told EBUSY and tries again; that is how two masters
//! of one CRTC take turns, and no fault.

use super::{screen::Screen, Step};
use crate::time::Time;

/// Parts of a refresh after which a commit is tried again. The other's flip opens the door for a moment only, if they commit
/// at each refresh.
const TRIES_PER_REFRESH: u32 = 16;

impl Screen {
    /// Other foreign planes than before.
    pub fn set_foreign_planes(&mut self, foreign: &[drm::control::plane::Handle]) {
        self.pipeline.set_foreign_planes(foreign);
    }

    /// Our commit came second.
    pub(super) fn yield_to_foreign_commit(&mut self, now: Time, step: &mut Step) {
        self.yielded += 1;
        self.retry_at = Some(now + self.refresh / TRIES_PER_REFRESH);
        step.wake_at(self.retry_at);
    }
}
