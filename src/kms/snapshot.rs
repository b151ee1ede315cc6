//! What a device has, as plain data: the input of the pure parts.
//!
//! [`Snapshot::read`] asks the kernel once; after that nothing here knows the device. Take a new one after a hotplug
//! event.

use std::collections::BTreeSet;

use drm::control::{
    connector, crtc, plane, property, Device as _, Mode, PlaneType, ResourceHandles,
};
use drm_fourcc::{DrmFormat, DrmFourcc, DrmModifier};
use smithay::backend::drm::DrmDeviceFd;

use super::{props::ObjectProperties, Error};

/// One bit per object, by the position in the device's list.
pub type Mask = u32;

/// The mask with only bit `index`; none for an index that no mask can hold.
pub fn bit(index: usize) -> Mask {
    u32::try_from(index)
        .ok()
        .and_then(|index| 1u32.checked_shl(index))
        .unwrap_or(0)
}

/// An encoder of a connector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoder {
    /// Position in the device's list of encoders; `clones` counts by it.
    pub index: usize,
    /// CRTCs that can feed it.
    pub possible_crtcs: Mask,
    /// Encoders that can run on the same CRTC at the same time.
    pub possible_clones: Mask,
}

/// A connector.
#[derive(Debug, Clone, PartialEq)]
pub struct Connector {
    /// Its id.
    pub id: connector::Handle,
    /// Its name as users know it, like `HDMI-A-1`.
    pub name: String,
    /// Whether it is a writeback connector: never a screen.
    pub writeback: bool,
    /// Whether a screen is there. (Writeback connectors say connected or unknown; it means nothing.)
    pub connected: bool,
    /// Whether the driver says that it is no desktop screen, as for head-mounted displays.
    pub non_desktop: bool,
    /// Modes, preferred first as the kernel sorts them.
    pub modes: Vec<Mode>,
    /// Width and height of the screen in millimetres, when known.
    pub size_mm: Option<(u32, u32)>,
    /// Its encoders.
    pub encoders: Vec<Encoder>,
    /// Formats that it can write; empty unless `writeback`.
    pub formats: Vec<DrmFourcc>,
    /// The CRTC it is routed to now.
    pub crtc: Option<crtc::Handle>,
}

/// A CRTC. Its bit in the masks is its position in [`Snapshot::crtcs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crtc {
    /// Its id.
    pub id: crtc::Handle,
    /// Whether it is switched on now.
    pub active: bool,
}

/// The kind of a plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PlaneKind {
    /// One per CRTC, carries the full picture.
    Primary,
    /// Anything else on top or below.
    Overlay,
    /// Small and quick to move.
    Cursor,
}

/// A plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plane {
    /// Its id.
    pub id: plane::Handle,
    /// Its kind.
    pub kind: PlaneKind,
    /// CRTCs that can show it.
    pub possible_crtcs: Mask,
    /// Formats with modifiers; `Invalid` where the driver announces no modifiers.
    pub formats: Vec<DrmFormat>,
    /// The CRTC it is on now.
    pub crtc: Option<crtc::Handle>,
}

/// A device's objects at one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Snapshot {
    /// Connectors, heads and writeback.
    pub connectors: Vec<Connector>,
    /// CRTCs.
    pub crtcs: Vec<Crtc>,
    /// Planes.
    pub planes: Vec<Plane>,
    /// Largest cursor size that the driver says it can always show, in pixels.
    pub cursor_size: (u32, u32),
}

impl Snapshot {
    /// Asks the device. With `probe`, connectors are asked for their EDID again (slow, but needed after hotplug).
    ///
    /// # Errors
    /// If the device is gone. A connector that vanishes meanwhile (MST) is left out.
    pub fn read(fd: &DrmDeviceFd, probe: bool) -> Result<Self, Error> {
        let resources = fd
            .resource_handles()
            .map_err(Error::io("listing display objects"))?;
        let mut snapshot = Self {
            cursor_size: cursor_size(fd),
            ..Self::default()
        };
        for &id in resources.crtcs() {
            let active = ObjectProperties::read(fd, id)?.value("ACTIVE") == Some(1);
            snapshot.crtcs.push(Crtc { id, active });
        }
        for &id in resources.connectors() {
            match read_connector(fd, &resources, id, probe) {
                Ok(connector) => snapshot.connectors.push(connector),
                Err(error) => {
                    tracing::debug!(target: "vitrine::kms", ?id, %error, "connector vanished");
                }
            }
        }
        for id in fd.plane_handles().map_err(Error::io("listing planes"))? {
            snapshot.planes.push(read_plane(fd, &resources, id)?);
        }
        Ok(snapshot)
    }

    /// The connector with that id.
    pub fn connector(&self, id: connector::Handle) -> Option<&Connector> {
        self.connectors.iter().find(|connector| connector.id == id)
    }

    /// The plane with that id.
    pub fn plane(&self, id: plane::Handle) -> Option<&Plane> {
        self.planes.iter().find(|plane| plane.id == id)
    }

    /// Connectors that can be screens, connected or not.
    pub fn heads(&self) -> impl Iterator<Item = &Connector> {
        self.connectors
            .iter()
            .filter(|connector| !connector.writeback)
    }

    /// Writeback connectors.
    pub fn writebacks(&self) -> impl Iterator<Item = &Connector> {
        self.connectors
            .iter()
            .filter(|connector| connector.writeback)
    }
}

impl Connector {
    /// CRTCs that some encoder of it can be fed by.
    pub fn possible_crtcs(&self) -> Mask {
        self.encoders
            .iter()
            .fold(0, |mask, encoder| mask | encoder.possible_crtcs)
    }

    /// The mode that the screen prefers, else its first.
    pub fn preferred_mode(&self) -> Option<Mode> {
        use drm::control::ModeTypeFlags;
        let preferred = |mode: &&Mode| mode.mode_type().contains(ModeTypeFlags::PREFERRED);
        self.modes
            .iter()
            .find(preferred)
            .or_else(|| self.modes.first())
            .copied()
    }
}

fn cursor_size(fd: &DrmDeviceFd) -> (u32, u32) {
    use drm::{Device as _, DriverCapability};
    let ask = |cap| {
        fd.get_driver_capability(cap)
            .ok()
            .and_then(|v| u32::try_from(v).ok())
    };
    // 64 is what drivers without the capability can do, by the kernel's documentation of it.
    (
        ask(DriverCapability::CursorWidth).unwrap_or(64),
        ask(DriverCapability::CursorHeight).unwrap_or(64),
    )
}

fn read_connector(
    fd: &DrmDeviceFd,
    resources: &ResourceHandles,
    id: connector::Handle,
    probe: bool,
) -> Result<Connector, Error> {
    let info = fd
        .get_connector(id, probe)
        .map_err(Error::io("reading a connector"))?;
    let props = ObjectProperties::read(fd, id)?;
    let writeback = info.interface() == connector::Interface::Writeback;
    let formats = match props.value("WRITEBACK_PIXEL_FORMATS") {
        Some(blob) if writeback && blob != 0 => read_fourccs(
            &fd.get_property_blob(blob)
                .map_err(Error::io("reading WRITEBACK_PIXEL_FORMATS"))?,
        ),
        _ => Vec::new(),
    };
    let mut encoders = Vec::new();
    for &encoder in info.encoders() {
        // Not `get_encoder` of the `drm` crate: its `possible_clones()` is not implemented and panics.
        let raw = drm_ffi::mode::get_encoder(std::os::fd::AsFd::as_fd(fd), encoder.into())
            .map_err(Error::io("reading an encoder"))?;
        if let Some(index) = resources
            .encoders()
            .iter()
            .position(|&other| other == encoder)
        {
            encoders.push(Encoder {
                index,
                possible_crtcs: raw.possible_crtcs,
                possible_clones: raw.possible_clones,
            });
        }
    }
    Ok(Connector {
        id,
        name: format!("{}-{}", info.interface().as_str(), info.interface_id()),
        writeback,
        connected: info.state() == connector::State::Connected,
        non_desktop: props.value("non-desktop") == Some(1),
        modes: info.modes().iter().copied().filter(is_sound).collect(),
        size_mm: info.size(),
        encoders,
        formats,
        crtc: props.value("CRTC_ID").and_then(handle),
    })
}

/// Whether a mode is one: it has pixels, and lines that take time. The rest of us divides by these.
fn is_sound(mode: &Mode) -> bool {
    let (width, height) = mode.size();
    let ((_, _, htotal), (_, _, vtotal)) = (mode.hsync(), mode.vsync());
    ![width, height, htotal, vtotal].contains(&0)
}

fn read_plane(
    fd: &DrmDeviceFd,
    resources: &ResourceHandles,
    id: plane::Handle,
) -> Result<Plane, Error> {
    let info = fd.get_plane(id).map_err(Error::io("reading a plane"))?;
    let props = ObjectProperties::read(fd, id)?;
    let kind = match props.value("type") {
        Some(value) if value == PlaneType::Primary as u64 => PlaneKind::Primary,
        Some(value) if value == PlaneType::Cursor as u64 => PlaneKind::Cursor,
        _ => PlaneKind::Overlay,
    };
    let usable = resources.filter_crtcs(info.possible_crtcs());
    let possible_crtcs = resources
        .crtcs()
        .iter()
        .enumerate()
        .filter(|(_, crtc)| usable.contains(crtc))
        .fold(0, |mask, (index, _)| mask | bit(index));
    let modifiers = match props.value("IN_FORMATS") {
        Some(blob) if blob != 0 => fd
            .get_property_blob(blob)
            .map(|data| read_in_formats(&data))
            .unwrap_or_default(),
        _ => BTreeSet::new(),
    };
    let mut formats: Vec<DrmFormat> = modifiers
        .into_iter()
        .filter_map(|(code, modifier)| {
            Some(DrmFormat {
                code: DrmFourcc::try_from(code).ok()?,
                modifier: DrmModifier::from(modifier),
            })
        })
        .collect();
    if formats.is_empty() {
        formats = info
            .formats()
            .iter()
            .filter_map(|&code| DrmFourcc::try_from(code).ok())
            .map(|code| DrmFormat {
                code,
                modifier: DrmModifier::Invalid,
            })
            .collect();
    }
    Ok(Plane {
        id,
        kind,
        possible_crtcs,
        formats,
        crtc: props.value("CRTC_ID").and_then(handle),
    })
}

/// The handle in a property value that is an object id; 0 is none.
pub(crate) fn handle<H: From<drm::control::RawResourceHandle>>(
    value: property::RawValue,
) -> Option<H> {
    u32::try_from(value).ok().and_then(drm::control::from_u32)
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    let bytes = data.get(at..at.checked_add(8)?)?;
    bytes.try_into().ok().map(u64::from_ne_bytes)
}

/// The fourccs in a WRITEBACK_PIXEL_FORMATS blob; unknown ones are skipped.
fn read_fourccs(data: &[u8]) -> Vec<DrmFourcc> {
    (0..data.len() / 4)
        .filter_map(|n| u32_at(data, n * 4))
        .filter_map(|code| DrmFourcc::try_from(code).ok())
        .collect()
}

/// Pairs of fourcc and modifier in an IN_FORMATS blob (`struct drm_format_modifier_blob`). What lies outside the blob
/// is left out.
fn read_in_formats(data: &[u8]) -> BTreeSet<(u32, u64)> {
    let mut pairs = BTreeSet::new();
    let header = |n: usize| u32_at(data, n * 4).map_or(0, |value| value as usize);
    let (formats, formats_at, modifiers, modifiers_at) =
        (header(2), header(3), header(4), header(5));
    // Each modifier entry: u64 mask of formats, u32 index of the mask's first format, u32 padding, u64 modifier.
    for entry in 0..modifiers.min(data.len() / 24) {
        let at = modifiers_at.saturating_add(entry * 24);
        let (Some(mask), Some(first), Some(modifier)) = (
            u64_at(data, at),
            u32_at(data, at + 8),
            u64_at(data, at + 16),
        ) else {
            break;
        };
        for n in (0..64).filter(|n| mask & (1 << n) != 0) {
            let index = first as usize + n;
            if index >= formats {
                break;
            }
            if let Some(code) = u32_at(data, formats_at.saturating_add(index * 4)) {
                pairs.insert((code, modifier));
            }
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn in_formats_pairs_each_modifier_with_its_formats() {
        let mut blob = Vec::new();
        for word in [1u32, 0, 3, 24, 2, 40] {
            blob.extend(word.to_ne_bytes());
        }
        for code in [0xa, 0xb, 0xc, 0u32] {
            blob.extend(code.to_ne_bytes());
        }
        for (mask, first, modifier) in [(0b101u64, 0u32, 7u64), (0b1, 1, 9)] {
            blob.extend(mask.to_ne_bytes());
            blob.extend(first.to_ne_bytes());
            blob.extend(0u32.to_ne_bytes());
            blob.extend(modifier.to_ne_bytes());
        }
        let expected = BTreeSet::from([(0xa, 7), (0xc, 7), (0xb, 9)]);
        assert_eq!(read_in_formats(&blob), expected);
    }

    proptest! {
        #[test]
        fn a_sound_mode_has_a_refresh_rate_and_pixels(
            clock in any::<u32>(), numbers in proptest::array::uniform4(0u16..3), vscan in any::<u16>(),
        ) {
            let [hdisplay, vdisplay, htotal, vtotal] = numbers;
            let mode = drm_ffi::drm_mode_modeinfo {
                clock,
                hdisplay,
                vdisplay,
                htotal,
                vtotal,
                vscan,
                ..Default::default()
            };
            let mode = Mode::from(mode);
            prop_assert_eq!(is_sound(&mode), !numbers.contains(&0));
            if is_sound(&mode) {
                // Smithay divides by the totals.
                prop_assert!(smithay::output::Mode::from(mode).size.w > 0);
            }
        }

        #[test]
        fn any_bytes_are_survived(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            read_in_formats(&data);
            read_fourccs(&data);
        }
    }
}
