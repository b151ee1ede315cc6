//! The commits of a pipeline that need ALLOW_MODESET: switching on with the writeback connector attached, switching off,
//! coming back after a VT switch, giving the screen back at exit. All of them block; all are rare. Those that save power are in
//! [`crate::kms::power`].

use std::time::Duration;

use drm::control::{crtc, AtomicCommitFlags, Mode};
use tracing::{debug, info, warn};

use super::{
    frame::FrameState,
    io::CommitError,
    pipeline::State,
    pipeline_io::Pipeline,
    props::{ConnectorProps, CrtcProps, PlaneProps},
    request::AtomicRequest,
    saved::{Blob, SavedState},
    snapshot::Snapshot,
    writeback::WritebackConfig,
    Error,
};
use crate::time::Time;

/// How a modeset went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModesetReport {
    /// Whether the writeback connector is attached, or why not.
    pub writeback_attached: Result<(), String>,
}

/// Time between two refreshes of a mode; that of 60 Hz for a mode that does not say.
pub fn refresh_of(mode: &Mode) -> Duration {
    use drm::control::ModeFlags;
    let (_, _, htotal) = mode.hsync();
    let (_, _, vtotal) = mode.vsync();
    let mut pixels = u64::from(htotal) * u64::from(vtotal) * u64::from(mode.vscan().max(1));
    if mode.flags().contains(ModeFlags::DBLSCAN) {
        pixels *= 2;
    }
    if mode.flags().contains(ModeFlags::INTERLACE) {
        pixels /= 2;
    }
    // The clock is in kHz.
    match pixels
        .saturating_mul(1_000_000)
        .checked_div(u64::from(mode.clock()))
    {
        Some(nanoseconds) if nanoseconds > 0 => Duration::from_nanos(nanoseconds),
        _ => Duration::from_nanos(16_666_667),
    }
}

const TEST: AtomicCommitFlags =
    AtomicCommitFlags::TEST_ONLY.union(AtomicCommitFlags::ALLOW_MODESET);

impl Pipeline {
    /// Switches the CRTC on with a mode and a first frame, the writeback connector attached if the driver takes it. One
    /// ALLOW_MODESET commit, after one or two TEST_ONLY ones. Blocks until the frame is on the screen.
    ///
    /// # Errors
    /// If neither works, or the device is not ours.
    pub fn modeset(
        &mut self,
        mode: Mode,
        frame: &FrameState,
        now: Time,
    ) -> Result<ModesetReport, Error> {
        self.state.may_modeset().map_err(CommitError::from)?;
        let blob = Blob::mode(self.device.fd(), &mode)?;
        let attach = self.test_attached(&blob, frame)?;
        let request = self.modeset_request(&blob, frame, attach.is_ok())?;
        self.device
            .commit(&request.0, AtomicCommitFlags::ALLOW_MODESET)?;

        self.writeback.disturbed();
        let config = *self.writeback.config();
        let refresh = refresh_of(&mode);
        let defaults = WritebackConfig::for_refresh(refresh);
        let hold = if config.hold == config.refresh {
            refresh
        } else {
            config.hold
        };
        self.writeback.set_config(WritebackConfig {
            refresh,
            hold,
            watchdog: config.watchdog.max(defaults.watchdog),
            ..config
        });
        match attach {
            Ok(()) => self.writeback.attached(now),
            Err(_) => self.writeback.detached(),
        }
        self.state.modeset();
        self.blanked = false;
        self.mode = Some(mode);
        self.on_screen = frame.framebuffers();
        self.pending.clear();
        self.show(frame);
        let (w, h) = mode.size();
        info!(
            target: "vitrine::kms", output = %self.name, w, h, ?refresh,
            writeback = attach.as_ref().err().map_or("attached", String::as_str), "mode set",
        );
        Ok(ModesetReport {
            writeback_attached: attach,
        })
    }

    /// Whether the modeset works with the writeback connector. Outer errors are about the device, not the connector.
    fn test_attached(&self, blob: &Blob, frame: &FrameState) -> Result<Result<(), String>, Error> {
        let test = |attach| -> Result<(), Error> {
            let request = self.modeset_request(blob, frame, attach)?;
            Ok(self.device.commit(&request.0, TEST).map(|_| ())?)
        };
        if self.writeback_connector.is_none() {
            return Ok(Err(
                "there is no writeback connector for this screen".to_owned()
            ));
        }
        match test(true) {
            Ok(()) => Ok(Ok(())),
            Err(Error::Commit(error)) if error.is_about_configuration() && self.head.is_some() => {
                // If the same fails without it, it is not the writeback connector's fault.
                test(false)?;
                warn!(target: "vitrine::kms", output = %self.name, %error, "the driver refuses display and writeback on one CRTC");
                Ok(Err(format!(
                    "the driver refuses display and writeback on one CRTC: {error}"
                )))
            }
            Err(error) => Err(error),
        }
    }

    /// The full state: mode, connectors, planes; what else hangs on the CRTC is taken off, except foreign planes.
    fn modeset_request(
        &self,
        blob: &Blob,
        frame: &FrameState,
        attach: bool,
    ) -> Result<(AtomicRequest, Vec<Blob>), Error> {
        let mut request = AtomicRequest::new(self.crtc.id);
        self.clear_conflicts(&mut request, &self.device.snapshot(false)?)?;
        request.enable(&self.crtc, blob.id());
        if let Some(head) = &self.head {
            request.route(head, Some(self.crtc.id));
        }
        if let Some(writeback) = &self.writeback_connector {
            request.route(writeback, attach.then_some(self.crtc.id));
        }
        for props in self.plane_props.values() {
            request.reset_plane(props).hide(props);
        }
        let blobs = self.fill(&mut request, frame)?;
        Ok((request, blobs))
    }

    /// Others on our CRTC, and other CRTCs that lose their last connector to us.
    pub(super) fn clear_conflicts(
        &self,
        request: &mut AtomicRequest,
        snapshot: &Snapshot,
    ) -> Result<(), Error> {
        let fd = self.device.fd();
        let ours = |id| {
            [&self.head, &self.writeback_connector]
                .into_iter()
                .flatten()
                .any(|c| c.id == id)
        };
        for plane in snapshot
            .planes
            .iter()
            .filter(|plane| plane.crtc == Some(self.crtc.id))
        {
            let known = self.plane_props.contains_key(&plane.id);
            if !known && !self.foreign_planes.contains(&plane.id) {
                request.hide(&PlaneProps::read(fd, plane.id)?);
            }
        }
        for connector in &snapshot.connectors {
            if connector.crtc == Some(self.crtc.id) && !ours(connector.id) {
                request.route(&ConnectorProps::read(fd, connector.id)?, None);
            }
        }
        let stolen = snapshot
            .connectors
            .iter()
            .filter(|c| ours(c.id))
            .filter_map(|c| c.crtc);
        for other in stolen.filter(|&other| other != self.crtc.id) {
            let left = |c: &&super::snapshot::Connector| c.crtc == Some(other) && !ours(c.id);
            if !snapshot.connectors.iter().any(|c| left(&c)) {
                self.switch_off(request, snapshot, other)?;
            }
        }
        Ok(())
    }

    fn switch_off(
        &self,
        request: &mut AtomicRequest,
        snapshot: &Snapshot,
        crtc: crtc::Handle,
    ) -> Result<(), Error> {
        let fd = self.device.fd();
        request.disable(&CrtcProps::read(fd, crtc)?);
        for plane in snapshot
            .planes
            .iter()
            .filter(|plane| plane.crtc == Some(crtc))
        {
            // A foreign plane cannot stay on a CRTC that is off; the kernel then refuses, and that is right.
            if !self.foreign_planes.contains(&plane.id) && !self.plane_props.contains_key(&plane.id)
            {
                request.hide(&PlaneProps::read(fd, plane.id)?);
            }
        }
        Ok(())
    }

    /// Switches the CRTC off and takes its connectors and planes away. After that, dropping the pipeline does nothing.
    ///
    /// # Errors
    /// What the kernel says; the pipeline then still counts as on.
    pub fn disable(&mut self) -> Result<(), CommitError> {
        if self.state.state() == State::Off {
            return Ok(());
        }
        self.state.may_modeset()?;
        let mut off = AtomicRequest::new(self.crtc.id);
        self.add_off(&mut off);
        self.commit_off(&off)
    }

    /// Commits a request that switches the CRTC off, or what of that is possible under a foreign plane.
    pub(super) fn commit_off(&mut self, off: &AtomicRequest) -> Result<(), CommitError> {
        let taken = self.device.commit(off, AtomicCommitFlags::ALLOW_MODESET);
        match taken {
            Err(error) if error.is_about_configuration() && self.is_shared() => {
                debug!(target: "vitrine::kms", output = %self.name, %error, "another's plane is on the CRTC; leaving it on");
                let leave = self.leave_request();
                self.device
                    .commit(&leave, AtomicCommitFlags::ALLOW_MODESET)?;
            }
            other => {
                other?;
            }
        }
        self.after_off();
        Ok(())
    }

    /// Takes our own planes off and leaves the CRTC running: a CRTC cannot be switched off under a plane, and the foreign
    /// ones are not ours to take off.
    fn leave_request(&self) -> AtomicRequest {
        let mut request = AtomicRequest::new(self.crtc.id);
        for props in self.plane_props.values() {
            request.hide(props);
        }
        if let (Some(_), Some(writeback)) = (&self.head, &self.writeback_connector) {
            request.route(writeback, None);
        }
        request
    }

    /// Planes, connectors and CRTC off.
    pub(super) fn add_off(&self, request: &mut AtomicRequest) {
        for props in self.plane_props.values() {
            request.hide(props);
        }
        for connector in [&self.head, &self.writeback_connector]
            .into_iter()
            .flatten()
        {
            request.route(connector, None);
        }
        request.disable(&self.crtc);
    }

    fn after_off(&mut self) {
        self.writeback.detached();
        self.state.disabled();
        self.on_screen.clear();
        self.pending.clear();
        self.last = None;
    }

    /// The session lost the device, as at a VT switch. Nothing is committed; jobs in flight are no longer believed.
    pub fn pause(&mut self) {
        self.state.pause();
        self.writeback.disturbed();
    }

    /// The device is ours again: the full state with a new mode blob and the last frame. `None` if the CRTC was off.
    ///
    /// # Errors
    /// As [`Pipeline::modeset`]; the CRTC then counts as off.
    pub fn resume(&mut self, now: Time) -> Result<Option<ModesetReport>, Error> {
        let was_on = self.state.resume();
        match (was_on, self.mode, self.last.clone()) {
            (true, Some(mode), Some(mut frame)) => {
                forget_moment(&mut frame);
                self.modeset(mode, &frame, now).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Shows again what the CRTC showed before us; where that is gone, switches it off.
    fn restore(&mut self) -> Result<(), Error> {
        let fd = self.device.fd().clone();
        let saved = self.saved.take();
        if let Some(saved) = saved.filter(SavedState::shows_something) {
            let mut request = AtomicRequest::new(self.crtc.id);
            for props in self.plane_props.values() {
                request.hide(props);
            }
            for connector in [&self.head, &self.writeback_connector]
                .into_iter()
                .flatten()
            {
                if !saved.routes(connector.id) {
                    request.route(connector, None);
                }
            }
            let _blobs = saved.apply(&fd, &mut request)?;
            match self
                .device
                .commit(&request, AtomicCommitFlags::ALLOW_MODESET)
            {
                Ok(_) => {
                    debug!(target: "vitrine::kms", output = %self.name, "screen restored");
                    self.after_off();
                    return Ok(());
                }
                Err(error) if error.is_about_configuration() => {
                    debug!(target: "vitrine::kms", output = %self.name, %error, "not restorable");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.disable()?)
    }
}

/// Fences and damage belong to one commit, not to the picture.
fn forget_moment(frame: &mut FrameState) {
    let overlays = frame.overlays.iter_mut().map(|(_, update)| update);
    for update in [&mut frame.primary]
        .into_iter()
        .chain(&mut frame.cursor)
        .chain(overlays)
    {
        update.in_fence = None;
        update.damage = None;
    }
}

impl Drop for Pipeline {
    // Runs before the fields drop: removing a framebuffer that is still shown would switch its plane off untidily.
    fn drop(&mut self) {
        let blank = self.blanked && self.state.state() == State::Off;
        if !self.state.is_taken() && !blank {
            return;
        }
        match self.restore() {
            Ok(()) => {}
            // Racing with a VT switch; the next master sets everything anyway.
            Err(Error::Commit(CommitError::NotMaster)) => {
                debug!(target: "vitrine::kms", output = %self.name, "not master at exit");
            }
            Err(error) => {
                warn!(target: "vitrine::kms", output = %self.name, %error, "the screen could not be given back");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refresh(clock: u32, total: (u16, u16), vscan: u16, flags: u32) -> Duration {
        let (htotal, vtotal) = total;
        let mode = drm_ffi::drm_mode_modeinfo {
            clock,
            htotal,
            vtotal,
            vscan,
            flags,
            ..Default::default()
        };
        refresh_of(&mode.into())
    }

    #[test]
    fn the_time_of_a_refresh_is_that_of_the_mode_and_no_number_in_a_mode_is_too_odd() {
        let (interlaced, doubled) = (1 << 4, 1 << 5);
        let full_hd = |flags| refresh(148_500, (2200, 1125), 0, flags);
        let ns = |n| Duration::from_nanos(n);
        assert_eq!(full_hd(0), ns(16_666_666));
        assert_eq!(full_hd(interlaced), ns(8_333_333));
        assert_eq!(full_hd(doubled), ns(33_333_333));
        let sixty = ns(16_666_667);
        assert_eq!(refresh(0, (2200, 1125), 0, 0), sixty);
        assert_eq!(refresh(148_500, (0, 0), 0, 0), sixty);
        for clock in [1, u32::MAX] {
            assert!(refresh(clock, (u16::MAX, u16::MAX), u16::MAX, doubled) > sixty);
        }
    }
}
