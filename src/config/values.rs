//! The kinds of values that keys can have, and how their text is read.

use std::path::PathBuf;

/// `drm_device`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The seat's primary GPU.
    #[default]
    Auto,
    /// This device node.
    Path(PathBuf),
}

/// `renderer`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RendererChoice {
    /// GLES when the device has a render node, else pixman.
    #[default]
    Auto,
    /// Software.
    Pixman,
    /// OpenGL ES 2 or newer.
    Gles,
}

/// `capture.producer`, `output.producer`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProducerChoice {
    /// From the writeback connector where it works and shows what is asked for, else rendered.
    #[default]
    Auto,
    /// A frame comes from the writeback connector or not at all.
    Writeback,
    /// Always rendered.
    Render,
}

/// `capture.dmabuf`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DmabufTargets {
    /// Offered when the device has a render node that clients can allocate on.
    #[default]
    Auto,
    /// Always offered.
    On,
    /// Only shared memory is offered.
    Off,
}

/// `capture.gpu_copies`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GpuChoice {
    /// The GPU copies into dma-bufs where there is one.
    #[default]
    Auto,
    /// A GL driver that draws on the CPU counts as a GPU.
    On,
    /// Worker threads make all copies.
    Off,
}

/// `capture.pacing`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PacingRule {
    /// The next commit waits for the end of a writeback job, for a bounded time.
    #[default]
    Safe,
    /// The same, and a job at most in every k-th commit (`capture.every_nth`).
    EveryNth,
    /// Commits do not wait, where the driver is known to bear it.
    Pipelined,
}

/// `capture.motion`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MotionRule {
    /// A frame is captured when Vitrine's own picture changed.
    #[default]
    Damage,
    /// While somebody captures, each refresh is a frame.
    Full,
}

/// `output.sink`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SinkRule {
    /// A writeback connector serves the capture of another output.
    #[default]
    Display,
    /// A writeback connector is a screen of its own, that only captures see.
    Writeback,
}

/// An entry of `output.foreign_planes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaneName {
    /// The kernel's object id.
    Id(u32),
    /// `overlay:N`: of the overlay planes that the output's CRTC can show, the one at this position.
    Overlay(u32),
}

impl PlaneName {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let number = text.strip_prefix("overlay:")?;
        let plain = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let number = plain.then(|| number.parse().ok()).flatten()?;
        (number < 64).then_some(Self::Overlay(number))
    }
}

impl std::fmt::Display for PlaneName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Overlay(number) => write!(f, "overlay:{number}"),
        }
    }
}

/// `output.mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ModeRule {
    /// The mode that the screen prefers.
    #[default]
    Preferred,
    /// A mode of that size.
    Size {
        /// Pixels across.
        width: u16,
        /// Lines.
        height: u16,
        /// Refreshes per 1000 seconds; `None`: the preferred one of that size, else the fastest.
        refresh_millihertz: Option<u32>,
    },
}

/// What [`ModeRule::choose`] must know about a mode of the hardware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputMode {
    /// Pixels across.
    pub width: u16,
    /// Lines.
    pub height: u16,
    /// Refreshes per 1000 seconds.
    pub refresh_millihertz: u32,
    /// The screen asks for this one.
    pub preferred: bool,
}

/// How far a mode's refresh may be from the rule's: "60" is meant to find 59.94.
const REFRESH_TOLERANCE_MILLIHERTZ: u32 = 500;

impl ModeRule {
    /// The index of the mode that the rule means; `None` if the hardware has no such mode.
    pub fn choose(self, modes: &[OutputMode]) -> Option<usize> {
        let numbered = || modes.iter().enumerate();
        match self {
            Self::Preferred => numbered()
                .find(|(_, mode)| mode.preferred)
                .or_else(|| numbered().next())
                .map(|(index, _)| index),
            Self::Size {
                width,
                height,
                refresh_millihertz,
            } => numbered()
                .filter(|(_, mode)| mode.width == width && mode.height == height)
                .filter(|(_, mode)| {
                    refresh_millihertz.is_none_or(|wanted| {
                        mode.refresh_millihertz.abs_diff(wanted) <= REFRESH_TOLERANCE_MILLIHERTZ
                    })
                })
                .max_by_key(|(index, mode)| match refresh_millihertz {
                    Some(wanted) => (
                        false,
                        u32::MAX - mode.refresh_millihertz.abs_diff(wanted),
                        usize::MAX - index,
                    ),
                    None => (mode.preferred, mode.refresh_millihertz, usize::MAX - index),
                })
                .map(|(index, _)| index),
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        if text == "preferred" {
            return Some(Self::Preferred);
        }
        let (size, refresh) = match text.split_once('@') {
            Some((size, refresh)) => (size, Some(refresh)),
            None => (text, None),
        };
        let (width, height) = size.split_once('x')?;
        let refresh_millihertz = match refresh {
            Some(refresh) => Some(millihertz(refresh)?),
            None => None,
        };
        Some(Self::Size {
            width: digits(width)?,
            height: digits(height)?,
            refresh_millihertz,
        })
    }
}

/// A positive number of digits only (`u16::from_str` would take a sign).
fn digits(text: &str) -> Option<u16> {
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
        .filter(|n| *n > 0)
}

/// `60`, `59.94` in hertz to millihertz, at most 1000 Hz.
fn millihertz(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let hertz: f64 = plain.then(|| text.parse().ok()).flatten()?;
    (1.0..=1000.0)
        .contains(&hertz)
        .then(|| (hertz * 1000.0).round() as u32)
}

/// `output.transform`, in the words of wl_output: counter-clockwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "the names are wl_output's")]
pub enum TransformRule {
    #[default]
    Normal,
    Rotated90,
    Rotated180,
    Rotated270,
    Flipped,
    Flipped90,
    Flipped180,
    Flipped270,
}

impl From<TransformRule> for smithay::utils::Transform {
    fn from(rule: TransformRule) -> Self {
        match rule {
            TransformRule::Normal => Self::Normal,
            TransformRule::Rotated90 => Self::_90,
            TransformRule::Rotated180 => Self::_180,
            TransformRule::Rotated270 => Self::_270,
            TransformRule::Flipped => Self::Flipped,
            TransformRule::Flipped90 => Self::Flipped90,
            TransformRule::Flipped180 => Self::Flipped180,
            TransformRule::Flipped270 => Self::Flipped270,
        }
    }
}

/// `capture.indicator`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Indicator {
    /// Nothing on the screen tells of a capture.
    #[default]
    Off,
    /// A small mark in the corner of each screen that somebody captures.
    Mark,
}

/// `input.keyboard.repeat_*`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyboardRepeat {
    /// Characters per second; 0: none.
    pub rate: u32,
    /// Milliseconds until the first repetition.
    pub delay_ms: u32,
}

impl Default for KeyboardRepeat {
    fn default() -> Self {
        Self {
            rate: 25,
            delay_ms: 600,
        }
    }
}

/// `input.pointer.accel_profile`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccelProfile {
    /// The same factor at each speed.
    Flat,
    /// Faster motion goes further.
    Adaptive,
}

/// `log.target`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogTarget {
    /// journald when standard error is connected to it, else standard error.
    #[default]
    Auto,
    /// Standard error.
    Stderr,
    /// systemd's journal.
    Journald,
}

/// Whether `pattern` describes the whole of `text`; `*` stands for any run of characters.
pub(crate) fn wildcard_match(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(head) else {
        return false;
    };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let tail = pieces.pop().unwrap_or_default();
    for piece in pieces {
        match text.split_once(piece) {
            Some((_, after)) => text = after,
            None => return false,
        }
    }
    text.ends_with(tail)
}

/// Whether tracing takes the directives. Asked here so that a mistake is reported with its line.
pub(super) fn filter_is_valid(directives: &str) -> bool {
    tracing_subscriber::EnvFilter::try_new(directives).is_ok()
}
