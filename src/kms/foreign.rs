//! Planes that belong to somebody else: another virtual machine, a safety core, a process with a DRM lease.
//!
//! Names in words become handles here. That no commit ever names such a plane is the business of `topology` (they are not
//! assigned), `modeset` (they are not reset) and `saved` (they are not restored).

use drm::control::{connector, plane};

use super::{
    pipeline_io::Pipeline,
    snapshot::{bit, Plane, PlaneKind, Snapshot},
    topology::{assign, Preferences},
};
use crate::config::PlaneName;

/// The foreign planes of one output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfOutput {
    /// The output.
    pub connector: connector::Handle,
    /// Its foreign planes, in the order in which they were named.
    pub planes: Vec<plane::Handle>,
    /// Names that mean no plane of this device.
    pub unknown: Vec<PlaneName>,
}

/// Looks up the planes that `wishes` name. An output without a CRTC has no overlay planes to be named by number.
///
/// The planes come into `preferences`; whether an overlay plane is foreign does not change which CRTC an output gets.
pub fn resolve(
    snapshot: &Snapshot,
    preferences: &mut Preferences,
    wishes: &[(connector::Handle, Vec<PlaneName>)],
) -> Vec<OfOutput> {
    if wishes.iter().all(|(_, names)| names.is_empty()) {
        return Vec::new();
    }
    let by_id = |id: u32| {
        let plane = snapshot.planes.iter().find(|p| u32::from(p.id) == id);
        plane.map(|plane| plane.id)
    };
    for name in wishes.iter().flat_map(|(_, names)| names) {
        if let PlaneName::Id(id) = name {
            preferences.foreign_planes.extend(by_id(*id));
        }
    }
    let pairs = assign(snapshot, preferences).pairs();
    let mut outputs = Vec::new();
    for (connector, names) in wishes {
        let mut output = OfOutput {
            connector: *connector,
            planes: Vec::new(),
            unknown: Vec::new(),
        };
        let crtc = pairs.iter().find(|(of, _)| of == connector);
        let position = crtc.and_then(|(_, crtc)| snapshot.crtcs.iter().position(|c| c.id == *crtc));
        for name in names {
            let found = match (name, position) {
                (PlaneName::Id(id), _) => by_id(*id),
                (PlaneName::Overlay(number), Some(crtc)) => overlay(snapshot, crtc, *number),
                (PlaneName::Overlay(_), None) => continue,
            };
            match found {
                Some(plane) => output.planes.push(plane),
                None => output.unknown.push(*name),
            }
        }
        outputs.push(output);
    }
    let all = outputs.iter().flat_map(|output| &output.planes);
    preferences.foreign_planes.extend(all);
    preferences
        .foreign_planes
        .sort_unstable_by_key(|plane| u32::from(*plane));
    preferences.foreign_planes.dedup();
    outputs
}

fn overlay(snapshot: &Snapshot, crtc: usize, number: u32) -> Option<plane::Handle> {
    overlays(snapshot, crtc)
        .nth(usize::try_from(number).ok()?)
        .map(|plane| plane.id)
}

/// The overlay planes that the CRTC at this position can show; `overlay:N` counts in this order.
pub fn overlays(snapshot: &Snapshot, crtc: usize) -> impl Iterator<Item = &Plane> {
    snapshot.planes.iter().filter(move |plane| {
        plane.kind == PlaneKind::Overlay && plane.possible_crtcs & bit(crtc) != 0
    })
}

impl Pipeline {
    /// Whether somebody else commits to this CRTC too.
    pub fn is_shared(&self) -> bool {
        !self.foreign_planes.is_empty()
    }

    /// Other foreign planes than before, as after a hotplug: what was ours among them is not touched again. The primary plane
    /// stays ours.
    pub fn set_foreign_planes(&mut self, foreign: &[plane::Handle]) {
        self.foreign_planes = foreign.to_vec();
        let primary = self.planes.primary;
        self.plane_props
            .retain(|plane, _| *plane == primary || !foreign.contains(plane));
        self.planes
            .overlays
            .retain(|plane| !foreign.contains(plane));
        self.planes.cursor = self.planes.cursor.filter(|plane| !foreign.contains(plane));
    }
}
