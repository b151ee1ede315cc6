//! From the operator's rules for outputs to what `kms` and `capture` are told: which connectors become screens, whose the
//! planes are, how jobs are paced, what counts as motion.

use drm::control::{connector, plane};

use super::Vitrine;
use crate::{
    capture::Motion,
    config::{CaptureSection, MotionRule, OutputRule, PacingRule, PlaneName, SinkRule},
    kms::{self, drivers, foreign, topology::Held, PacingMode},
};

impl Vitrine {
    /// What an assignment is to keep to, and the foreign planes of each output.
    pub(super) fn wishes(
        &self,
        snapshot: &kms::Snapshot,
        held: Vec<Held>,
    ) -> (kms::Preferences, Vec<foreign::OfOutput>) {
        let rule = |connector: &kms::snapshot::Connector| self.config.output(&connector.name);
        let disabled = snapshot
            .heads()
            .filter(|head| !rule(head).enabled)
            .map(|head| head.id)
            .collect();
        let own_screen = |rule: OutputRule| rule.sink == SinkRule::Writeback && rule.enabled;
        let capture_only = snapshot
            .writebacks()
            .filter(|writeback| own_screen(rule(writeback)))
            .map(|writeback| writeback.id)
            .collect();
        let mut preferences = kms::Preferences {
            keep: held
                .iter()
                .map(|held| (held.connector, held.crtc))
                .collect(),
            held,
            disabled,
            capture_only,
            ..Default::default()
        };
        let names: Vec<(connector::Handle, Vec<PlaneName>)> = snapshot
            .connectors
            .iter()
            .map(|connector| (connector.id, rule(connector).foreign_planes))
            .filter(|(_, names)| !names.is_empty())
            .collect();
        let outputs = foreign::resolve(snapshot, &mut preferences, &names);
        for output in &outputs {
            let name = snapshot
                .connector(output.connector)
                .map(|c| c.name.as_str());
            for plane in &output.unknown {
                tracing::error!(target: "vitrine::kms", connector = name, %plane, "foreign_planes names no plane of this device; `vitrine probe` lists them");
            }
        }
        (preferences, outputs)
    }

    /// Tells the screens that stay which planes are not theirs.
    pub(super) fn foreign_planes_changed(&mut self, foreign: &[plane::Handle]) {
        let screens = self
            .backend
            .iter_mut()
            .flat_map(|backend| &mut backend.screens);
        for screen in screens {
            screen.set_foreign_planes(foreign);
        }
    }
}

/// How jobs of this output are paced on this device.
pub(super) fn pacing(
    section: &CaptureSection,
    rule: &OutputRule,
    device: &kms::Device,
) -> PacingMode {
    let driver = device.driver();
    match rule.pacing.unwrap_or(section.pacing) {
        PacingRule::Safe => PacingMode::Safe,
        PacingRule::EveryNth => PacingMode::EveryNth(section.every_nth),
        PacingRule::Pipelined
            if drivers::bears_pipelining(&driver) || section.pipelined_unlisted =>
        {
            PacingMode::Pipelined
        }
        PacingRule::Pipelined => {
            tracing::warn!(target: "vitrine::kms", %driver, "this driver is not known to bear pacing = \"pipelined\"; using \"safe\" (pipelined_unlisted = true insists)");
            PacingMode::Safe
        }
    }
}

/// What counts as a change of this output.
pub(super) fn motion(section: &CaptureSection, rule: &OutputRule) -> Motion {
    match rule.motion.unwrap_or(section.motion) {
        MotionRule::Damage => Motion::Damage,
        MotionRule::Full => Motion::Full,
    }
}
