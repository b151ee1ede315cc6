//! When a frame is due: with the damage that we are told of, or at each refresh.

use crate::capture::{damage::DamageSet, output_capture::OutputCapture, view::View};

/// See [`OutputCapture::set_motion`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Motion {
    /// Commits tell everything that changes.
    #[default]
    Damage,
    /// The picture may change without a commit of ours: each frame counts as changed all over, none as current, and whoever
    /// waits needs a new one at once.
    Full,
}

impl OutputCapture {
    /// How changes are known from now on.
    pub fn set_motion(&mut self, motion: Motion) {
        self.motion = motion;
    }

    /// A commit is captured: in full motion, all of it may have changed.
    pub(crate) fn note_foreign_changes(&mut self) {
        let (Motion::Full, Some(bounds)) = (self.motion, self.bounds()) else {
            return;
        };
        for view in View::ALL {
            let pending: &mut DamageSet = self.pending.get_mut(view);
            pending.add(bounds, bounds);
        }
    }
}
