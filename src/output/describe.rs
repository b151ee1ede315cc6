//! A connector as a Wayland output: name, size, modes, and the mode that the operator's rule picks.

use smithay::output::{Mode as OutputMode, Output, PhysicalProperties, Scale, Subpixel};

use crate::{
    config::{self, OutputRule},
    kms::{topology::Sink, Snapshot},
};

/// Makes the output of a screen and chooses its mode; `None`, with a message, when the rule fits none of its modes and it
/// has no other.
pub fn describe(
    sink: Sink<'_>,
    snapshot: &Snapshot,
    rule: &OutputRule,
) -> Option<(Output, drm::control::Mode)> {
    let connector = snapshot
        .connectors
        .iter()
        .find(|connector| connector.id == sink.connector())?;
    let modes: Vec<config::OutputMode> = connector.modes.iter().map(plain_mode).collect();
    let mode = match rule
        .mode
        .choose(&modes)
        .and_then(|index| connector.modes.get(index))
    {
        Some(mode) => *mode,
        None => {
            let mode = *connector.modes.first()?;
            tracing::warn!(
                target: "vitrine::output",
                connector = %sink.name(),
                wanted = ?rule.mode,
                used = %mode_name(&mode),
                "the screen has no such mode; `vitrine probe` lists those that it has"
            );
            mode
        }
    };
    let (width, height) = connector.size_mm.unwrap_or((0, 0));
    let side = |mm: u32| i32::try_from(mm).unwrap_or(0);
    let output = Output::new(
        sink.name().to_owned(),
        PhysicalProperties {
            size: (side(width), side(height)).into(),
            subpixel: Subpixel::Unknown,
            make: "Unknown".to_owned(),
            model: sink.name().to_owned(),
        },
    );
    for mode in &connector.modes {
        output.add_mode(OutputMode::from(*mode));
    }
    if let Some(preferred) = connector.modes.first() {
        output.set_preferred(OutputMode::from(*preferred));
    }
    output.change_current_state(
        Some(OutputMode::from(mode)),
        Some(rule.transform.into()),
        Some(Scale::Fractional(rule.scale)),
        None,
    );
    Some((output, mode))
}

fn plain_mode(mode: &drm::control::Mode) -> config::OutputMode {
    let (width, height) = mode.size();
    let refresh = OutputMode::from(*mode).refresh;
    config::OutputMode {
        width,
        height,
        refresh_millihertz: u32::try_from(refresh).unwrap_or(0),
        preferred: mode
            .mode_type()
            .contains(drm::control::ModeTypeFlags::PREFERRED),
    }
}

/// The mode as users write it, like `640x480@60`.
pub fn mode_name(mode: &drm::control::Mode) -> String {
    let (width, height) = mode.size();
    format!("{width}x{height}@{}", mode.vrefresh())
}
