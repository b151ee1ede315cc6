//! Dark and lit again: the two commits that save power, and what keeps a CRTC from being darkened.
//!
//! A CRTC that sleeps (ACTIVE=0) has its mode, its connectors and its planes still, the writeback connector among them, so that
//! lighting it is one commit with a picture. Both need ALLOW_MODESET and block.

use drm::control::AtomicCommitFlags;
use tracing::debug;

use super::{
    frame::FrameState, io::CommitError, pipeline::State, pipeline_io::Pipeline,
    request::AtomicRequest, Error,
};

impl Pipeline {
    /// Darkens the CRTC. A job in flight is no longer believed; no job is possible until [`Pipeline::wake`]. Waits for a pending
    /// flip, so it is better asked when there is none.
    ///
    /// # Errors
    /// What the kernel says; nothing has changed then. [`CommitError::Off`] if there is nothing to be darkened.
    pub fn sleep(&mut self) -> Result<(), CommitError> {
        match self.state.state() {
            State::Asleep => return Ok(()),
            State::Off => return Err(CommitError::Off),
            State::Idle | State::FlipPending { .. } | State::Paused { .. } => {}
        }
        self.state.may_modeset()?;
        let mut request = AtomicRequest::new(self.crtc.id);
        request.light(&self.crtc, false);
        self.device
            .commit(&request, AtomicCommitFlags::ALLOW_MODESET)?;
        self.writeback.disturbed();
        self.state.slept();
        // The planes have their framebuffers still; nothing of them is ever shown again.
        self.on_screen.append(&mut self.pending);
        self.last = None;
        debug!(target: "vitrine::kms", output = %self.name, "dark");
        Ok(())
    }

    /// Lights a CRTC that sleeps, with a new picture. Gives whether the writeback connector is attached.
    ///
    /// # Errors
    /// What the kernel says; it sleeps on then. [`CommitError::Off`] if it does not sleep: that takes a modeset.
    pub fn wake(&mut self, frame: &FrameState) -> Result<bool, CommitError> {
        self.state.may_modeset()?;
        if self.state.state() != State::Asleep {
            return Err(CommitError::Off);
        }
        let mut request = AtomicRequest::new(self.crtc.id);
        request.light(&self.crtc, true);
        let _blobs = self.fill(&mut request, frame)?;
        self.device
            .commit(&request, AtomicCommitFlags::ALLOW_MODESET)?;
        self.writeback.disturbed();
        self.state.modeset();
        self.on_screen = frame.framebuffers();
        self.pending.clear();
        self.last = Some(frame.clone());
        let attached = self.writeback.is_attached();
        debug!(target: "vitrine::kms", output = %self.name, writeback = attached, "lit again");
        Ok(attached)
    }

    /// The device is ours again after a pause, and the CRTC is to be dark: it counts as off, and is to be
    /// [blanked](Pipeline::blank).
    pub fn resume_dark(&mut self) {
        self.state.resume();
    }

    /// Switches off a CRTC of which nothing is known, since another master may have been there.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn blank(&mut self) -> Result<(), Error> {
        self.state.may_modeset().map_err(CommitError::from)?;
        let mut off = AtomicRequest::new(self.crtc.id);
        self.clear_conflicts(&mut off, &self.device.snapshot(false)?)?;
        self.add_off(&mut off);
        self.commit_off(&off)?;
        self.blanked = true;
        Ok(())
    }

    /// Whether a plane of somebody else shows something on this CRTC: it would go dark with ours.
    ///
    /// # Errors
    /// If the device cannot be read.
    pub fn shows_foreign_plane(&self) -> Result<bool, Error> {
        if !self.is_shared() {
            return Ok(false);
        }
        let snapshot = self.device.snapshot(false)?;
        let mut planes = snapshot.planes.iter();
        Ok(planes.any(|plane| {
            plane.crtc == Some(self.crtc.id) && self.foreign_planes.contains(&plane.id)
        }))
    }
}
