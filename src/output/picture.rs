//! A frame that is ready to be committed, what it changes, and how far the curtain has come with it.

use super::cursor_plane::Shown;
use crate::geometry::Rect;

/// How far the curtain of a locked session has come on a screen.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cover {
    /// The newest picture has nothing but the curtain.
    pub drawn: bool,
    /// The same of the last commit.
    pub committed: bool,
    /// It is on the screen.
    pub shown: bool,
}

/// What a picture changes, in mode pixels.
#[derive(Debug, Clone, Default)]
pub(super) struct Changes {
    /// Of the primary scanout buffer.
    pub scene: Vec<Rect>,
    /// Of the scene without a pointer that is drawn into it.
    pub bare: Vec<Rect>,
    /// By the cursor plane.
    pub cursor: Vec<Rect>,
}

impl Changes {
    /// Everything that changes on the screen.
    pub fn on_screen(&self) -> Vec<Rect> {
        self.scene.iter().chain(&self.cursor).copied().collect()
    }
}

/// A frame that is ready to be committed.
pub(super) struct Picture {
    pub index: usize,
    pub changes: Changes,
    /// Nothing of it is new: the commit is for somebody who captures.
    pub still: bool,
    pub fence: Option<std::os::fd::OwnedFd>,
    pub cursor: Option<Shown>,
}
