//! What a CRTC showed before us, to give it back at exit.
//!
//! Framebuffers of an earlier process may be gone by then; the caller then switches the CRTC off cleanly instead.

use drm::control::{connector, crtc, plane, property, Device as _};
use smithay::backend::drm::DrmDeviceFd;

use super::{
    props::{ObjectProperties, Property},
    request::AtomicRequest,
    snapshot::Snapshot,
    Error,
};

/// A property blob, removed from the kernel at drop. Commits that used it keep their own reference.
pub(crate) struct Blob {
    fd: DrmDeviceFd,
    id: u32,
}

impl Blob {
    pub(crate) fn new(fd: &DrmDeviceFd, data: &mut [u8]) -> Result<Self, Error> {
        let blob = drm_ffi::mode::create_property_blob(std::os::fd::AsFd::as_fd(fd), data)
            .map_err(Error::io("creating a property blob"))?;
        Ok(Self {
            fd: fd.clone(),
            id: blob.blob_id,
        })
    }

    /// For a mode.
    pub(crate) fn mode(fd: &DrmDeviceFd, mode: &drm::control::Mode) -> Result<Self, Error> {
        let value = fd
            .create_property_blob(mode)
            .map_err(Error::io("creating a mode blob"))?;
        let id = u32::try_from(property::RawValue::from(value)).unwrap_or(0);
        Ok(Self { fd: fd.clone(), id })
    }

    pub(crate) fn id(&self) -> u64 {
        u64::from(self.id)
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        if let Err(error) = self.fd.destroy_property_blob(self.id()) {
            tracing::debug!(target: "vitrine::kms", %error, "removing a property blob failed");
        }
    }
}

type Values = Vec<(property::Handle, u64)>;

/// A value of a CRTC that we change.
enum Value {
    Plain(u64),
    /// What is in the blob: the blob itself goes with its maker.
    Blob(Vec<u8>),
}

impl Value {
    fn of(fd: &DrmDeviceFd, property: &Property) -> Result<Self, Error> {
        match (&property.kind, property.value) {
            (property::ValueType::Blob, id) if id != 0 => fd
                .get_property_blob(id)
                .map(Value::Blob)
                .map_err(Error::io("reading what the screen's colours were")),
            (_, value) => Ok(Value::Plain(value)),
        }
    }
}

/// Properties of a plane that say what it shows and where.
const PLANE_PROPERTIES: [&str; 10] = [
    "FB_ID", "CRTC_ID", "SRC_X", "SRC_Y", "SRC_W", "SRC_H", "CRTC_X", "CRTC_Y", "CRTC_W", "CRTC_H",
];

/// The earlier state of a CRTC that was active.
pub struct SavedState {
    crtc: crtc::Handle,
    active: property::Handle,
    mode_id: property::Handle,
    mode: Vec<u8>,
    values: Vec<(property::Handle, Value)>,
    connectors: Vec<(connector::Handle, property::Handle)>,
    planes: Vec<(plane::Handle, Values)>,
}

impl SavedState {
    /// What `crtc` shows now, but for foreign planes; none if it is off or shows nothing.
    ///
    /// # Errors
    /// If the device is gone.
    pub(crate) fn read(
        fd: &DrmDeviceFd,
        snapshot: &Snapshot,
        crtc: crtc::Handle,
        foreign: &[plane::Handle],
    ) -> Result<Option<Self>, Error> {
        let props = ObjectProperties::read(fd, crtc)?;
        let (Some(active), Some(mode_id)) = (props.get("ACTIVE"), props.get("MODE_ID")) else {
            return Ok(None);
        };
        if active.value != 1 || mode_id.value == 0 {
            return Ok(None);
        }
        let mode = fd
            .get_property_blob(mode_id.value)
            .map_err(Error::io("reading the mode that the screen had"))?;
        let mut saved = Self {
            crtc,
            active: active.id,
            mode_id: mode_id.id,
            mode,
            values: Vec::new(),
            connectors: Vec::new(),
            planes: Vec::new(),
        };
        for property in props.reset_on_crtc() {
            saved.values.push((property.id, Value::of(fd, property)?));
        }
        for connector in snapshot.connectors.iter().filter(|c| c.crtc == Some(crtc)) {
            if let Some(property) = ObjectProperties::read(fd, connector.id)?.get("CRTC_ID") {
                saved.connectors.push((connector.id, property.id));
            }
        }
        for plane in snapshot
            .planes
            .iter()
            .filter(|plane| plane.crtc == Some(crtc) && !foreign.contains(&plane.id))
        {
            let props = ObjectProperties::read(fd, plane.id)?;
            let place = PLANE_PROPERTIES.iter().filter_map(|name| props.get(name));
            let values = place.chain(props.reset_on_plane());
            saved
                .planes
                .push((plane.id, values.map(|p| (p.id, p.value)).collect()));
        }
        Ok(Some(saved))
    }

    /// Whether there was anything to be seen. That it still exists is not asked: the answer would come with a handle of the
    /// memory, and a commit that names a framebuffer that is gone is refused anyway.
    pub(crate) fn shows_something(&self) -> bool {
        !self.planes.is_empty()
    }

    /// Whether it routes `connector`.
    pub(crate) fn routes(&self, connector: connector::Handle) -> bool {
        self.connectors.iter().any(|(id, _)| *id == connector)
    }

    /// Fills `request`. The blobs must live until the commit returned.
    pub(crate) fn apply(
        &self,
        fd: &DrmDeviceFd,
        request: &mut AtomicRequest,
    ) -> Result<Vec<Blob>, Error> {
        let blob = Blob::new(fd, &mut self.mode.clone())?;
        request
            .set(self.crtc, self.mode_id, blob.id())
            .set(self.crtc, self.active, 1);
        for &(connector, property) in &self.connectors {
            request.set(connector, property, u64::from(u32::from(self.crtc)));
        }
        for (plane, values) in &self.planes {
            for &(property, value) in values {
                request.set(*plane, property, value);
            }
        }
        let mut blobs = vec![blob];
        for (property, value) in &self.values {
            let value = match value {
                Value::Plain(value) => *value,
                Value::Blob(data) => {
                    let blob = Blob::new(fd, &mut data.clone())?;
                    let id = blob.id();
                    blobs.push(blob);
                    id
                }
            };
            request.set(self.crtc, *property, value);
        }
        Ok(blobs)
    }
}
