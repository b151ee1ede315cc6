//! DRM leases: another process may commit to some of our objects, while we keep the use of all.
//!
//! The kernel wants a CRTC, a connector and a plane in each lease (drivers/gpu/drm/drm_lease.c), takes no object that is
//! leased already, and ends a lease when the last descriptor of it is closed. The lessor may go on using what it leased.

use std::{io, os::fd::OwnedFd};

use drm::control::{connector, crtc, plane, Device as _, LeaseId, RawResourceHandle};

use super::device::Device;

impl Device {
    /// Leases these objects; the descriptor is the lessee's.
    ///
    /// # Errors
    /// EBUSY: one of them is leased already. EACCES: we are not DRM master now.
    pub fn lease(
        &self,
        connector: connector::Handle,
        crtc: crtc::Handle,
        planes: &[plane::Handle],
    ) -> io::Result<(LeaseId, OwnedFd)> {
        let mut objects: Vec<RawResourceHandle> = vec![connector.into(), crtc.into()];
        objects.extend(planes.iter().map(|plane| RawResourceHandle::from(*plane)));
        let flags = rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NONBLOCK;
        self.fd().create_lease(&objects, flags.bits())
    }

    /// The leases that are not over: whose last descriptor is not closed.
    ///
    /// # Errors
    /// If the device is gone.
    pub fn leases(&self) -> io::Result<Vec<LeaseId>> {
        self.fd().list_lessees()
    }

    /// Ends a lease; one that is over is ignored.
    pub fn end_lease(&self, lease: LeaseId) {
        if let Err(error) = self.fd().revoke_lease(lease) {
            tracing::debug!(target: "vitrine::kms", %error, "lease is over already");
        }
    }
}
