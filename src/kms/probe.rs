//! What a device can, in words: the text of `vitrine probe`.
//!
//! Reads the device and asks TEST_ONLY; changes nothing. Without DRM master TEST_ONLY cannot be asked, and the report says
//! so.

use std::fmt;

use drm::control::{connector, crtc, plane, AtomicCommitFlags, Mode};
use drm_fourcc::DrmModifier;

use super::{
    device::Device,
    foreign::overlays,
    io::CommitError,
    modeset::refresh_of,
    props::{ConnectorProps, CrtcProps},
    request::AtomicRequest,
    saved::Blob,
    snapshot::{bit, Connector, PlaneKind, Snapshot},
    topology::{assign, Assignment, Preferences, Sink, WritebackClass},
    Error,
};

/// Everything that is known about a device. Prints as text for people.
#[derive(Debug)]
pub struct ProbeReport {
    /// Path of the device.
    pub device: String,
    /// Kernel driver.
    pub driver: String,
    /// Whether the kernel shows writeback connectors, or why not.
    pub writeback: Result<(), String>,
    /// Whether cursor planes take a hotspot.
    pub cursor_hotspot: bool,
    /// The objects.
    pub snapshot: Snapshot,
    /// What Vitrine would do with them.
    pub assignment: Assignment,
    /// For each screen with writeback: what TEST_ONLY says.
    pub tested: Vec<(connector::Handle, Result<(), CommitError>)>,
}

impl ProbeReport {
    /// Asks the device.
    ///
    /// # Errors
    /// If the device is gone.
    pub fn new(device: &Device, preferences: &Preferences) -> Result<Self, Error> {
        let snapshot = device.snapshot(true)?;
        let assignment = assign(&snapshot, preferences);
        let mut tested = Vec::new();
        for head in &assignment.heads {
            let mode = snapshot
                .connector(head.connector)
                .and_then(Connector::preferred_mode);
            if let (Some(writeback), Some(mode)) = (head.writeback.connector(), mode) {
                let answer = test_clone(device, head.connector, writeback, head.crtc, mode)?;
                tested.push((head.connector, answer));
            }
        }
        Ok(Self {
            device: device
                .path()
                .map_or_else(|| "?".to_owned(), |p| p.display().to_string()),
            driver: device.driver(),
            writeback: device.writeback().map_err(str::to_owned),
            cursor_hotspot: device.cursor_hotspot(),
            snapshot,
            assignment,
            tested,
        })
    }
}

/// Asks the driver whether screen and writeback run on one CRTC. No plane is in the request: drivers take an empty CRTC.
fn test_clone(
    device: &Device,
    head: connector::Handle,
    writeback: connector::Handle,
    crtc: crtc::Handle,
    mode: Mode,
) -> Result<Result<(), CommitError>, Error> {
    let fd = device.fd();
    let blob = Blob::mode(fd, &mode)?;
    let mut request = AtomicRequest::new(crtc);
    request
        .enable(&CrtcProps::read(fd, crtc)?, blob.id())
        .route(&ConnectorProps::read(fd, head)?, Some(crtc))
        .route(&ConnectorProps::read(fd, writeback)?, Some(crtc));
    let flags = AtomicCommitFlags::TEST_ONLY | AtomicCommitFlags::ALLOW_MODESET;
    Ok(device.commit(&request, flags).map(|_| ()))
}

impl fmt::Display for ProbeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} (driver {})", self.device, self.driver)?;
        match &self.writeback {
            Ok(()) => writeln!(f, "  writeback connectors: the kernel shows them")?,
            Err(reason) => writeln!(f, "  writeback connectors: none, {reason}")?,
        }
        let (w, h) = self.snapshot.cursor_size;
        let hotspot = if self.cursor_hotspot {
            ", with hotspot"
        } else {
            ""
        };
        writeln!(f, "  cursor: up to {w}x{h}{hotspot}")?;
        for connector in self.snapshot.heads() {
            self.head(f, connector)?;
        }
        for connector in self.snapshot.writebacks() {
            self.writeback_connector(f, connector)?;
        }
        self.planes(f)
    }
}

impl ProbeReport {
    fn head(&self, f: &mut fmt::Formatter<'_>, connector: &Connector) -> fmt::Result {
        let status = match (connector.connected, connector.non_desktop) {
            (false, _) => "not connected",
            (true, true) => "connected, but not a desktop screen",
            (true, false) => "connected",
        };
        writeln!(f, "  {}: {status}", connector.name)?;
        modes(f, connector)?;
        if let Some(dark) = self
            .assignment
            .unassigned
            .iter()
            .find(|dark| dark.connector == connector.id)
        {
            writeln!(f, "    stays dark: {}", dark.reason)?;
        }
        let Some(head) = self
            .assignment
            .heads
            .iter()
            .find(|head| head.connector == connector.id)
        else {
            return Ok(());
        };
        let cursor = head
            .planes
            .cursor
            .map_or("none".to_owned(), |c| u32::from(c).to_string());
        writeln!(
            f,
            "    CRTC {}, primary plane {}, cursor plane {cursor}, {} overlay planes",
            u32::from(head.crtc),
            u32::from(head.planes.primary),
            head.planes.overlays.len(),
        )?;
        match &head.writeback {
            WritebackClass::Clone(id) => {
                let name = self
                    .snapshot
                    .connector(*id)
                    .map_or("?", |c| c.name.as_str());
                write!(f, "    writeback: clone, {name} runs beside the screen; ")?;
                match self
                    .tested
                    .iter()
                    .find(|(tested, _)| *tested == connector.id)
                {
                    Some((_, Ok(()))) => writeln!(f, "TEST_ONLY agrees"),
                    Some((_, Err(CommitError::NotMaster))) => {
                        writeln!(f, "not tested (another process is DRM master)")
                    }
                    Some((_, Err(error))) => writeln!(f, "but TEST_ONLY refuses: {error}"),
                    None => writeln!(f, "not tested (no mode)"),
                }
            }
            WritebackClass::WritebackOnly { reason } => {
                writeln!(f, "    writeback: only on a CRTC of its own: {reason}")
            }
            WritebackClass::None { reason } => writeln!(f, "    writeback: none: {reason}"),
        }
    }

    fn writeback_connector(
        &self,
        f: &mut fmt::Formatter<'_>,
        connector: &Connector,
    ) -> fmt::Result {
        let formats: Vec<String> = connector.formats.iter().map(ToString::to_string).collect();
        writeln!(f, "  {}: writes {}", connector.name, formats.join(" "))?;
        let mask = connector.possible_crtcs();
        writeln!(f, "    possible CRTCs: {}", self.crtcs(mask))
    }

    fn crtcs(&self, mask: u32) -> String {
        let possible = self
            .snapshot
            .crtcs
            .iter()
            .enumerate()
            .filter(|(n, _)| mask & bit(*n) != 0);
        let ids: Vec<String> = possible.map(|(_, c)| u32::from(c.id).to_string()).collect();
        if ids.is_empty() {
            "none".to_owned()
        } else {
            ids.join(" ")
        }
    }

    /// What `foreign_planes` of which output may call this plane.
    fn overlay_names(&self, plane: plane::Handle) -> String {
        let of = |sink: Sink<'_>| {
            let crtc = sink.crtc();
            let position = self.snapshot.crtcs.iter().position(|c| c.id == crtc)?;
            let number = overlays(&self.snapshot, position).position(|o| o.id == plane)?;
            Some(format!(", overlay:{number} of {}", sink.name()))
        };
        self.assignment.sinks().filter_map(of).collect()
    }

    fn planes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = |plane: plane::Handle| u32::from(plane);
        for plane in &self.snapshot.planes {
            let kind = match plane.kind {
                PlaneKind::Primary => "primary",
                PlaneKind::Overlay => "overlay",
                PlaneKind::Cursor => "cursor",
            };
            let mut formats: Vec<String> = Vec::new();
            for format in &plane.formats {
                let plain = matches!(format.modifier, DrmModifier::Linear | DrmModifier::Invalid);
                let star = if plain { "" } else { "*" };
                let text = format!("{}{star}", format.code);
                if !formats.contains(&text) {
                    formats.push(text);
                }
            }
            writeln!(
                f,
                "  plane {} ({kind}{}), CRTCs {}: {}",
                id(plane.id),
                self.overlay_names(plane.id),
                self.crtcs(plane.possible_crtcs),
                formats.join(" "),
            )?;
        }
        Ok(())
    }
}

fn modes(f: &mut fmt::Formatter<'_>, connector: &Connector) -> fmt::Result {
    let text = |mode: &Mode| {
        let (w, h) = mode.size();
        let hertz = 1.0 / refresh_of(mode).as_secs_f64();
        format!("{w}x{h}@{hertz:.2}")
    };
    let Some(preferred) = connector.preferred_mode() else {
        return writeln!(f, "    no modes");
    };
    let all: Vec<String> = connector.modes.iter().map(text).collect();
    writeln!(
        f,
        "    preferred mode {}, of {}: {}",
        text(&preferred),
        all.len(),
        all.join(" ")
    )
}
