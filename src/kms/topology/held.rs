//! What screens that are on have, and keep: a screen is made once, so what it was made with is nobody else's while it stays.

use drm::control::{connector, crtc, plane};

use super::{Planes, Work};
use crate::kms::snapshot::Connector;

/// What a screen that is on has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its connector.
    pub connector: connector::Handle,
    /// Its CRTC.
    pub crtc: crtc::Handle,
    /// Its planes.
    pub planes: Planes,
    /// The writeback connector that runs beside it.
    pub writeback: Option<connector::Handle>,
}

impl<'a> Work<'a> {
    /// What the screen of this pair has already.
    pub(super) fn held(&self, (connector, crtc): &(&Connector, usize)) -> Option<&'a Held> {
        let crtc = self.snapshot.crtcs.get(*crtc)?.id;
        let pair = (connector.id, crtc);
        let mut held = self.preferences.held.iter();
        held.find(|held| (held.connector, held.crtc) == pair)
    }

    /// The planes for each of these screens, on the CRTCs at these positions; none where no primary plane is left.
    pub(super) fn planes_for(&mut self, placed: &[(&Connector, usize)]) -> Vec<Option<Planes>> {
        let settled: Vec<Option<Planes>> = placed
            .iter()
            .map(|pair| Some(self.without_foreign(self.held(pair)?)))
            .collect();
        let of_settled = settled.iter().flatten().flat_map(Planes::all);
        self.used_planes.extend(of_settled);
        let reserved = self.reserved_for_capture(placed);
        self.used_planes.extend(&reserved);
        let of_placed = placed.iter().zip(&settled);
        let open = of_placed.filter(|(_, planes)| planes.is_none());
        let open: Vec<usize> = open.map(|((_, crtc), _)| *crtc).collect();
        let mut new = self.new_planes_for(&open).into_iter();
        self.used_planes.retain(|plane| !reserved.contains(plane));
        let mut planes = settled;
        for planes in planes.iter_mut().filter(|planes| planes.is_none()) {
            *planes = new.next().flatten();
        }
        planes
    }

    /// Planes of screens that exist only for capture, whose CRTCs none of these takes: they are placed later, and stay.
    fn reserved_for_capture(&self, placed: &[(&Connector, usize)]) -> Vec<plane::Handle> {
        let crtc = |(_, position): &(&Connector, usize)| self.snapshot.crtcs.get(*position);
        let taken: Vec<crtc::Handle> = placed.iter().filter_map(crtc).map(|crtc| crtc.id).collect();
        let held = self.preferences.held.iter();
        held.filter(|held| self.preferences.capture_only.contains(&held.connector))
            .filter(|held| !taken.contains(&held.crtc))
            .flat_map(|held| held.planes.all())
            .filter(|plane| !self.used_planes.contains(plane))
            .collect()
    }

    fn without_foreign(&self, held: &Held) -> Planes {
        let ours = |plane: &plane::Handle| !self.preferences.foreign_planes.contains(plane);
        let Planes {
            primary,
            cursor,
            overlays,
        } = &held.planes;
        Planes {
            primary: *primary,
            cursor: cursor.filter(ours),
            overlays: overlays.iter().copied().filter(ours).collect(),
        }
    }
}
