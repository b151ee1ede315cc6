//! `compositor.toml`: what it may say, its defaults, and errors that name the file, the line, the key and what is valid.
//!
//! This room knows no device, no Wayland and no event loop: text goes in, a [`Config`] comes out. Higher rooms read the
//! plain data below. Every key stands in [`schema`]; the reader refuses a key that does not.

mod access;
mod error;
mod read;
mod reader;
pub mod schema;
#[cfg(test)]
mod tests;
mod values;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

pub(crate) use self::values::wildcard_match;
pub use self::{
    access::{AccessAction, AccessDefault, AccessRule, AccessSection, AccessSocket, Privilege},
    error::{ConfigError, Problem},
    values::{
        AccelProfile, DeviceChoice, DmabufTargets, GpuChoice, Indicator, KeyboardRepeat, LogTarget,
        ModeRule, MotionRule, OutputMode, PacingRule, PlaneName, ProducerChoice, RendererChoice,
        SinkRule, TransformRule,
    },
};

/// Everything that compositor.toml can say. [`Config::default`] is what an empty file means.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The KMS device to drive.
    pub drm_device: DeviceChoice,
    /// Who draws the picture.
    pub renderer: RendererChoice,
    /// Nice value of the event loop (-20 to 0), where the system allows it.
    pub nice: i32,
    /// How the screen is captured.
    pub capture: CaptureSection,
    /// Who may capture it.
    pub access: AccessSection,
    /// Rules for outputs, in the order of the file. Which one applies: see [`Config::output`].
    pub outputs: Vec<OutputRule>,
    /// Keyboards, pointers and touch screens.
    pub input: InputSection,
    /// The pointer's picture.
    pub cursor: CursorSection,
    /// The Wayland seat.
    pub seat: SeatSection,
    /// Where messages go.
    pub log: LogSection,
    /// The application to run.
    pub app: AppSection,
    /// Where the counters are written.
    pub metrics: MetricsSection,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            drm_device: DeviceChoice::default(),
            renderer: RendererChoice::default(),
            nice: -10,
            capture: CaptureSection::default(),
            access: AccessSection::default(),
            outputs: Vec::new(),
            input: InputSection::default(),
            cursor: CursorSection::default(),
            seat: SeatSection::default(),
            log: LogSection::default(),
            app: AppSection::default(),
            metrics: MetricsSection::default(),
        }
    }
}

/// `[capture]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureSection {
    /// Buffers in each output's ring (3 to 8).
    pub ring_slots: usize,
    /// Frames that one client may hold at once (1 to 3; less than `ring_slots`).
    pub quota: usize,
    /// A client that holds a frame for longer is behind.
    pub hold_deadline: Duration,
    /// Refreshes that a released slot rests while its client has not been given a newer frame.
    pub grace_refreshes: u32,
    /// Pause between the end of a writeback job and the next one.
    pub cooling: Duration,
    /// Where captured frames come from.
    pub producer: ProducerChoice,
    /// Whether the copy protocol offers dma-buf targets.
    pub dmabuf: DmabufTargets,
    /// Whether the GPU copies into dma-bufs.
    pub gpu_copies: GpuChoice,
    /// Whether the writeback connector may write a lone client's dma-buf itself.
    pub passthrough: bool,
    /// Whether what is on the screen is leased to capture clients itself where it is the whole picture.
    pub lease_primary: bool,
    /// How display commits and writeback jobs take turns.
    pub pacing: PacingRule,
    /// With [`PacingRule::EveryNth`]: a job at most in every n-th commit.
    pub every_nth: u32,
    /// [`PacingRule::Pipelined`] also where the driver is not known to bear it.
    pub pipelined_unlisted: bool,
    /// So many refreshes may a slow job hold the display now and then, after others were overtaken; 1: never more than
    /// the usual one.
    pub hold_refreshes: u32,
    /// How long after its flip a job may take before it counts as lost; eight refreshes at least.
    pub watchdog: Duration,
    /// When a frame is captured.
    pub motion: MotionRule,
    /// Frames that are kept for a look back (0 to 16).
    pub history: usize,
    /// Where they are written; `None`: the state folder.
    pub history_dir: Option<PathBuf>,
    /// Whether the screen shows that it is captured.
    pub indicator: Indicator,
}

impl Default for CaptureSection {
    fn default() -> Self {
        Self {
            ring_slots: 4,
            quota: 2,
            hold_deadline: Duration::from_millis(1000),
            grace_refreshes: 2,
            cooling: Duration::from_millis(2),
            producer: ProducerChoice::Auto,
            dmabuf: DmabufTargets::Auto,
            gpu_copies: GpuChoice::Auto,
            passthrough: true,
            lease_primary: true,
            pacing: PacingRule::Safe,
            every_nth: 2,
            pipelined_unlisted: false,
            hold_refreshes: 4,
            watchdog: Duration::from_millis(250),
            motion: MotionRule::Damage,
            history: 0,
            history_dir: None,
            indicator: Indicator::Off,
        }
    }
}

/// One `[[output]]` table.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputRule {
    /// Connector name as in `vitrine probe`; `*` stands for any run of characters.
    pub connector: String,
    /// `false`: the output stays dark and no application sees it.
    pub enabled: bool,
    /// Which of the connector's modes is set.
    pub mode: ModeRule,
    /// Pixels of the mode per logical pixel.
    pub scale: f64,
    /// How the picture is turned on the panel.
    pub transform: TransformRule,
    /// Top left corner in logical pixels; `None`: to the right of the outputs before it.
    pub position: Option<(i32, i32)>,
    /// When a frame of this output is captured; `None`: as `[capture]` says.
    pub motion: Option<MotionRule>,
    /// How this output's commits and jobs take turns; `None`: as `[capture]` says.
    pub pacing: Option<PacingRule>,
    /// Planes of this output's CRTC that belong to somebody else.
    pub foreign_planes: Vec<PlaneName>,
    /// Name of the socket in XDG_RUNTIME_DIR that leases the foreign planes; empty: none.
    pub lease_socket: String,
    /// What a writeback connector is for.
    pub sink: SinkRule,
    /// Where captured frames of this output come from; `None`: as `[capture]` says.
    pub producer: Option<ProducerChoice>,
    /// Whether this output's connector may write a lone client's dma-buf; `None`: as `[capture]` says.
    pub passthrough: Option<bool>,
    /// Whether what is on this output is leased itself; `None`: as `[capture]` says.
    pub lease_primary: Option<bool>,
}

impl Default for OutputRule {
    fn default() -> Self {
        Self {
            connector: "*".to_owned(),
            enabled: true,
            mode: ModeRule::Preferred,
            scale: 1.0,
            transform: TransformRule::Normal,
            position: None,
            motion: None,
            pacing: None,
            foreign_planes: Vec::new(),
            lease_socket: String::new(),
            sink: SinkRule::Display,
            producer: None,
            passthrough: None,
            lease_primary: None,
        }
    }
}

impl OutputRule {
    /// Whether this rule covers the connector of that name.
    pub fn matches(&self, connector: &str) -> bool {
        values::wildcard_match(&self.connector, connector)
    }
}

/// `[input]`
#[derive(Debug, Clone, PartialEq)]
pub struct InputSection {
    /// Ctrl+Alt+F1 to F12 switch the virtual terminal.
    pub vt_switch: bool,
    /// Ctrl+Alt+Backspace ends the compositor.
    pub terminate_key: bool,
    /// `[input.keyboard]`
    pub keyboard: KeyboardSection,
    /// `[input.pointer]`
    pub pointer: PointerSection,
    /// `[input.touch]`
    pub touch: TouchSection,
}

impl Default for InputSection {
    fn default() -> Self {
        Self {
            vt_switch: true,
            terminate_key: false,
            keyboard: KeyboardSection::default(),
            pointer: PointerSection::default(),
            touch: TouchSection::default(),
        }
    }
}

/// `[input.keyboard]`: the names that xkbcommon compiles to a keymap. An empty name means the system's default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyboardSection {
    /// XKB rules file.
    pub rules: String,
    /// XKB model.
    pub model: String,
    /// XKB layouts, separated by commas.
    pub layout: String,
    /// XKB variants, one per layout, separated by commas.
    pub variant: String,
    /// XKB options, separated by commas.
    pub options: String,
    /// Rate and delay of repeated keys.
    pub repeat: KeyboardRepeat,
}

/// `[input.pointer]`: mice and touchpads. `None` leaves what libinput chose for the device.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PointerSection {
    /// How motion is accelerated.
    pub accel_profile: Option<AccelProfile>,
    /// From -1 (slow) to 1 (fast).
    pub accel_speed: Option<f64>,
    /// Content follows the fingers.
    pub natural_scroll: Option<bool>,
    /// Left and right button change places.
    pub left_handed: Option<bool>,
    /// A tap on a touchpad is a click.
    pub tap: Option<bool>,
}

/// `[input.touch]`
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TouchSection {
    /// Connector of the panel under the touch screen; `None`: libinput's hint, else the first output.
    pub output: Option<String>,
    /// The first two rows of the 3x3 matrix that maps touch positions; `None`: what udev says.
    pub calibration: Option<[f32; 6]>,
}

/// `[cursor]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorSection {
    /// XCursor theme, given to applications as XCURSOR_THEME.
    pub theme: String,
    /// Nominal size in logical pixels, given to applications as XCURSOR_SIZE.
    pub size: u32,
    /// The pointer goes to a plane of its own where there is one.
    pub hardware: bool,
}

impl Default for CursorSection {
    fn default() -> Self {
        Self {
            theme: "default".to_owned(),
            size: 24,
            hardware: true,
        }
    }
}

/// `[seat]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeatSection {
    /// Name of the wl_seat that clients see.
    pub name: String,
}

impl Default for SeatSection {
    fn default() -> Self {
        Self {
            name: "seat0".to_owned(),
        }
    }
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSection {
    /// Where messages go.
    pub target: LogTarget,
    /// tracing filter directives, e.g. `info,vitrine::kms=debug`.
    pub filter: String,
}

impl Default for LogSection {
    fn default() -> Self {
        Self {
            target: LogTarget::Auto,
            filter: "info".to_owned(),
        }
    }
}

/// `[app]`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AppSection {
    /// Program and arguments; empty: none. `vitrine -- app args` replaces it.
    pub command: Vec<String>,
}

/// `[metrics]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsSection {
    /// The file; `None`: none is written.
    pub file: Option<PathBuf>,
    /// How often.
    pub interval: Duration,
}

impl Default for MetricsSection {
    fn default() -> Self {
        Self {
            file: None,
            interval: Duration::from_secs(15),
        }
    }
}

impl Config {
    /// Reads the text of a compositor.toml; `file` only names it in errors.
    ///
    /// # Errors
    /// Every problem of the text at once, in the order of the lines.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        read::config(text, file)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// The file cannot be read, or see [`Config::parse`].
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file).map_err(|source| ConfigError::Unreadable {
            file: file.to_owned(),
            source,
        })?;
        Self::parse(&text, file)
    }

    /// Reads `explicit` if given, else the first of [`search_path`] that exists, else takes the defaults. Says which
    /// file it was.
    ///
    /// # Errors
    /// As [`Config::load`]; an explicit file must exist.
    pub fn find(explicit: Option<&Path>) -> Result<(Self, Option<PathBuf>), ConfigError> {
        if let Some(file) = explicit {
            return Ok((Self::load(file)?, Some(file.to_owned())));
        }
        let home = config_home(|name| std::env::var_os(name));
        Self::first_of(search_path(home.as_deref()))
    }

    /// The first of these files that is there. One that is there and cannot be looked at is an error: the defaults allow more
    /// than what it may say.
    fn first_of(files: Vec<PathBuf>) -> Result<(Self, Option<PathBuf>), ConfigError> {
        for file in files {
            match std::fs::symlink_metadata(&file) {
                Ok(_) => return Ok((Self::load(&file)?, Some(file))),
                Err(error) if is_absence(&error) => {}
                Err(source) => return Err(ConfigError::Unreadable { file, source }),
            }
        }
        Ok((Self::default(), None))
    }

    /// The rule for a connector: the `[[output]]` that names it exactly, else the first whose `*` covers it, else the
    /// defaults.
    pub fn output(&self, connector: &str) -> OutputRule {
        let exact = self.outputs.iter().find(|rule| rule.connector == connector);
        let rule = exact.or_else(|| self.outputs.iter().find(|rule| rule.matches(connector)));
        rule.cloned().unwrap_or_default()
    }
}

fn is_absence(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory)
}

/// Where a user's configuration is. An empty variable is as good as none (XDG base directory specification).
fn config_home(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let variable = |name| variable(name).filter(|value| !value.is_empty());
    let configured = variable("XDG_CONFIG_HOME").map(PathBuf::from);
    configured.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".config")))
}

/// Where a compositor.toml is looked for when the command line names none; the first wins. A relative or missing
/// configuration home is not searched (XDG base directory specification).
pub fn search_path(config_home: Option<&Path>) -> Vec<PathBuf> {
    config_home
        .filter(|home| home.is_absolute())
        .map(|home| home.join("vitrine"))
        .into_iter()
        .chain([PathBuf::from("/etc/vitrine")])
        .map(|folder| folder.join("compositor.toml"))
        .collect()
}
