//! What a screen did so far, for people and programs who ask.

use super::{power::PowerMode, power::PowerReport, screen::Screen};
use crate::capture::View;
use crate::kms::{self, writeback::Trust, writeback::WritebackStats, CrtcStats};

/// A screen's counters and states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScreenReport {
    /// Whether it is on, and is to be.
    pub power: PowerReport,
    /// The mode's width and height.
    pub size: (u32, u32),
    /// Page flips.
    pub flips: u64,
    /// Commits without a job although somebody wanted the frame, because of the connector's state.
    pub missed: u64,
    /// What was asked of the kernel.
    pub crtc: CrtcStats,
    /// What became of the jobs.
    pub jobs: WritebackStats,
    /// How far the connector is believed.
    pub trust: Trust,
    /// Who makes the frames that have the cursor in them: `writeback`, `render` or `none`.
    pub producer: &'static str,
    /// Why it is that one.
    pub reason: String,
    /// Why no job is possible on this screen now.
    pub no_writeback: Option<String>,
}

impl Screen {
    /// The counters and states now.
    pub fn status(&self, device: &kms::Device) -> ScreenReport {
        let (width, height) = self.mode.size();
        let decision = *self.decisions().get(View::WithCursor);
        let power = self.power();
        let (producer, reason) = match power.mode {
            PowerMode::On => (decision.name(), decision.reason.to_string()),
            PowerMode::Off => ("none", "the output is off".to_owned()),
        };
        ScreenReport {
            size: (u32::from(width), u32::from(height)),
            flips: self.flips,
            missed: self.missed,
            crtc: device.stats().of(self.pair.1),
            jobs: self.pipeline.writeback().stats(),
            trust: self.pipeline.writeback().trust(),
            producer,
            reason,
            power,
            no_writeback: self.writeback_trouble().map(str::to_owned),
        }
    }
}
