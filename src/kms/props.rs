//! Properties of KMS objects, looked up once by name and then used by type.
//!
//! A missing property that every atomic driver has is an error with the object's name; an optional one is `None`.

use std::collections::HashMap;

use drm::control::{
    connector, crtc, plane, property, Device as _, PropertyValueSet, ResourceHandle,
};
use smithay::backend::drm::DrmDeviceFd;

use super::Error;

/// A property of one object and its value when it was read.
#[derive(Debug, Clone)]
pub struct Property {
    /// Id of the property.
    pub id: property::Handle,
    /// The raw value at that moment.
    pub value: u64,
    /// False: the kernel refuses to set it.
    pub mutable: bool,
    /// Type, with the values of an enumeration.
    pub kind: property::ValueType,
}

/// All properties of one object, by name.
#[derive(Debug, Clone, Default)]
pub struct ObjectProperties(HashMap<String, Property>);

impl ObjectProperties {
    /// Asks the device.
    ///
    /// # Errors
    /// If the object is gone.
    pub fn read<H: ResourceHandle>(fd: &DrmDeviceFd, object: H) -> Result<Self, Error> {
        let values: PropertyValueSet = fd
            .get_properties(object)
            .map_err(Error::io("reading the properties of an object"))?;
        let mut by_name = HashMap::new();
        for (&id, &value) in &values {
            let info = fd
                .get_property(id)
                .map_err(Error::io("reading a property"))?;
            let name = info.name().to_string_lossy().into_owned();
            let property = Property {
                id,
                value,
                mutable: info.mutable(),
                kind: info.value_type(),
            };
            by_name.insert(name, property);
        }
        Ok(Self(by_name))
    }

    /// A property, if the object has it.
    pub fn get(&self, name: &str) -> Option<&Property> {
        self.0.get(name)
    }

    /// Its value, if the object has it.
    pub fn value(&self, name: &str) -> Option<u64> {
        self.get(name).map(|property| property.value)
    }

    fn id(&self, name: &str) -> Option<property::Handle> {
        self.get(name).map(|property| property.id)
    }

    fn require(
        &self,
        object: impl Fn() -> String,
        name: &'static str,
    ) -> Result<property::Handle, Error> {
        self.id(name).ok_or_else(|| Error::MissingProperty {
            object: object(),
            property: name,
        })
    }

    /// `name` with the value it shall be reset to, if it exists and can be set.
    fn reset(&self, name: &str, value: ResetTo) -> Option<(property::Handle, u64)> {
        let property = self.get(name).filter(|property| property.mutable)?;
        let value = match value {
            ResetTo::Raw(value) => value,
            ResetTo::Named(wanted) => match &property.kind {
                property::ValueType::Enum(values) => {
                    let (_, names) = values.values();
                    names
                        .iter()
                        .find(|v| v.name().to_bytes() == wanted.as_bytes())?
                        .value()
                }
                _ => return None,
            },
        };
        Some((property.id, value))
    }

    /// What [`super::request::AtomicRequest::reset_plane`] changes, as it is now.
    pub(crate) fn reset_on_plane(&self) -> impl Iterator<Item = &Property> {
        self.reset_by(PLANE_RESETS)
    }

    /// What [`super::request::AtomicRequest::enable`] changes besides the mode, as it is now.
    pub(crate) fn reset_on_crtc(&self) -> impl Iterator<Item = &Property> {
        self.reset_by(CRTC_RESETS)
    }

    fn reset_by(&self, table: &'static [(&str, ResetTo)]) -> impl Iterator<Item = &Property> {
        let found = table.iter().filter_map(|(name, _)| self.get(name));
        found.filter(|property| property.mutable)
    }

    fn resets(&self, table: &[(&str, ResetTo)]) -> Vec<(property::Handle, u64)> {
        table
            .iter()
            .filter_map(|&(name, value)| self.reset(name, value))
            .collect()
    }
}

#[derive(Clone, Copy)]
enum ResetTo {
    Raw(u64),
    Named(&'static str),
}

/// DRM_MODE_ROTATE_0.
const ROTATE_0: u64 = 1;

/// What another owner of a plane may have changed and would show in our picture.
const PLANE_RESETS: &[(&str, ResetTo)] = &[
    ("rotation", ResetTo::Raw(ROTATE_0)),
    ("alpha", ResetTo::Raw(0xffff)),
    ("pixel blend mode", ResetTo::Named("Pre-multiplied")),
    ("SCALING_FILTER", ResetTo::Named("Default")),
];

/// The same for a CRTC: colour management off, no variable refresh.
const CRTC_RESETS: &[(&str, ResetTo)] = &[
    ("GAMMA_LUT", ResetTo::Raw(0)),
    ("DEGAMMA_LUT", ResetTo::Raw(0)),
    ("CTM", ResetTo::Raw(0)),
    ("VRR_ENABLED", ResetTo::Raw(0)),
];

/// Properties of a plane.
#[derive(Debug, Clone)]
#[allow(
    missing_docs,
    reason = "each field is the kernel's property of that name"
)]
pub struct PlaneProps {
    pub id: plane::Handle,
    pub fb_id: property::Handle,
    pub crtc_id: property::Handle,
    pub src_x: property::Handle,
    pub src_y: property::Handle,
    pub src_w: property::Handle,
    pub src_h: property::Handle,
    pub crtc_x: property::Handle,
    pub crtc_y: property::Handle,
    pub crtc_w: property::Handle,
    pub crtc_h: property::Handle,
    pub in_fence_fd: Option<property::Handle>,
    pub fb_damage_clips: Option<property::Handle>,
    pub hotspot_x: Option<property::Handle>,
    pub hotspot_y: Option<property::Handle>,
    pub resets: Vec<(property::Handle, u64)>,
}

impl PlaneProps {
    /// Looks them up.
    ///
    /// # Errors
    /// If the plane is gone or the driver is not atomic.
    pub fn read(fd: &DrmDeviceFd, id: plane::Handle) -> Result<Self, Error> {
        let all = ObjectProperties::read(fd, id)?;
        let need = |name| all.require(|| format!("plane {}", u32::from(id)), name);
        Ok(Self {
            id,
            fb_id: need("FB_ID")?,
            crtc_id: need("CRTC_ID")?,
            src_x: need("SRC_X")?,
            src_y: need("SRC_Y")?,
            src_w: need("SRC_W")?,
            src_h: need("SRC_H")?,
            crtc_x: need("CRTC_X")?,
            crtc_y: need("CRTC_Y")?,
            crtc_w: need("CRTC_W")?,
            crtc_h: need("CRTC_H")?,
            in_fence_fd: all.id("IN_FENCE_FD"),
            fb_damage_clips: all.id("FB_DAMAGE_CLIPS"),
            hotspot_x: all.id("HOTSPOT_X"),
            hotspot_y: all.id("HOTSPOT_Y"),
            resets: all.resets(PLANE_RESETS),
        })
    }
}

/// Properties of a CRTC.
#[derive(Debug, Clone)]
#[allow(
    missing_docs,
    reason = "each field is the kernel's property of that name"
)]
pub struct CrtcProps {
    pub id: crtc::Handle,
    pub active: property::Handle,
    pub mode_id: property::Handle,
    pub resets: Vec<(property::Handle, u64)>,
}

impl CrtcProps {
    /// Looks them up.
    ///
    /// # Errors
    /// If the driver is not atomic.
    pub fn read(fd: &DrmDeviceFd, id: crtc::Handle) -> Result<Self, Error> {
        let all = ObjectProperties::read(fd, id)?;
        let need = |name| all.require(|| format!("CRTC {}", u32::from(id)), name);
        Ok(Self {
            id,
            active: need("ACTIVE")?,
            mode_id: need("MODE_ID")?,
            resets: all.resets(CRTC_RESETS),
        })
    }
}

/// Properties that only writeback connectors have.
#[derive(Debug, Clone, Copy)]
#[allow(
    missing_docs,
    reason = "each field is the kernel's property of that name"
)]
pub struct WritebackProps {
    pub fb_id: property::Handle,
    pub out_fence_ptr: property::Handle,
}

/// Properties of a connector.
#[derive(Debug, Clone)]
#[allow(
    missing_docs,
    reason = "each field is the kernel's property of that name"
)]
pub struct ConnectorProps {
    pub id: connector::Handle,
    pub crtc_id: property::Handle,
    /// Only on a writeback connector.
    pub writeback: Option<WritebackProps>,
}

impl ConnectorProps {
    /// Looks them up.
    ///
    /// # Errors
    /// If the connector is gone or the driver is not atomic.
    pub fn read(fd: &DrmDeviceFd, id: connector::Handle) -> Result<Self, Error> {
        let all = ObjectProperties::read(fd, id)?;
        let writeback = match (all.id("WRITEBACK_FB_ID"), all.id("WRITEBACK_OUT_FENCE_PTR")) {
            (Some(fb_id), Some(out_fence_ptr)) => Some(WritebackProps {
                fb_id,
                out_fence_ptr,
            }),
            _ => None,
        };
        Ok(Self {
            id,
            crtc_id: all.require(|| format!("connector {}", u32::from(id)), "CRTC_ID")?,
            writeback,
        })
    }
}
