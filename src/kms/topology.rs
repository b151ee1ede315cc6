//! Which connector is driven by which CRTC, with which planes and which writeback connector. Pure: a snapshot and
//! preferences in, an assignment out.
//!
//! Rules, strongest first: as many screens as possible; pairs that exist stay, with all that they have; a screen goes where
//! the writeback connector can run beside it; then the order of the device's lists.

mod clones;
mod held;

use drm::control::{connector, crtc, plane};

use clones::{can_clone, no_clone};
pub use held::Held;

use super::{
    matching::best_matching,
    snapshot::{bit, Connector, Plane, PlaneKind, Snapshot},
};

/// What the caller wants of an assignment.
#[derive(Debug, Clone, Default)]
pub struct Preferences {
    /// Pairs that exist and shall stay, normally [`Assignment::pairs`] of the last one.
    pub keep: Vec<(connector::Handle, crtc::Handle)>,
    /// What the screens of these pairs have besides. A screen that stays has its planes and its writeback connector for good:
    /// it gets no others, and nobody else gets them.
    pub held: Vec<Held>,
    /// Planes that belong to somebody else: never assigned, never touched.
    pub foreign_planes: Vec<plane::Handle>,
    /// Connectors that shall stay dark, though a screen is there.
    pub disabled: Vec<connector::Handle>,
    /// Writeback connectors that shall be screens of their own, only for capture, if a CRTC is left over for them. They
    /// serve no other screen.
    pub capture_only: Vec<connector::Handle>,
}

/// The planes of one CRTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planes {
    /// Carries the picture.
    pub primary: plane::Handle,
    /// Carries the cursor, if there is such a plane.
    pub cursor: Option<plane::Handle>,
    /// May carry more.
    pub overlays: Vec<plane::Handle>,
}

impl Planes {
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = plane::Handle> + '_ {
        [self.primary]
            .into_iter()
            .chain(self.cursor)
            .chain(self.overlays.iter().copied())
    }
}

/// What writeback a screen can have. Decided by the masks; the driver's word is TEST_ONLY, at the modeset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WritebackClass {
    /// This writeback connector can run beside the screen, on the same CRTC.
    Clone(connector::Handle),
    /// There is a writeback connector, but it wants a CRTC of its own: it cannot see this screen.
    WritebackOnly {
        /// Why not beside the screen.
        reason: String,
    },
    /// No writeback.
    None {
        /// Why not.
        reason: String,
    },
}

impl WritebackClass {
    /// The connector that runs beside the screen.
    pub fn connector(&self) -> Option<connector::Handle> {
        match self {
            Self::Clone(connector) => Some(*connector),
            Self::WritebackOnly { .. } | Self::None { .. } => None,
        }
    }
}

/// A screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its connector.
    pub connector: connector::Handle,
    /// The connector's name, like `HDMI-A-1`.
    pub name: String,
    /// Its CRTC.
    pub crtc: crtc::Handle,
    /// Its planes.
    pub planes: Planes,
    /// Its writeback.
    pub writeback: WritebackClass,
}

/// A screen that exists only for capture: a writeback connector alone on a CRTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureOnly {
    /// The writeback connector.
    pub connector: connector::Handle,
    /// Its name, like `Writeback-1`.
    pub name: String,
    /// Its CRTC.
    pub crtc: crtc::Handle,
    /// Its planes.
    pub planes: Planes,
}

/// What a CRTC's picture is for: a screen, or a writeback connector that stands for one.
#[derive(Debug, Clone, Copy)]
pub enum Sink<'a> {
    /// Somebody may be in front of it.
    Head(&'a Head),
    /// Only captures see it.
    CaptureOnly(&'a CaptureOnly),
}

impl<'a> Sink<'a> {
    /// Its connector.
    pub fn connector(self) -> connector::Handle {
        match self {
            Self::Head(head) => head.connector,
            Self::CaptureOnly(only) => only.connector,
        }
    }

    /// The connector's name.
    pub fn name(self) -> &'a str {
        match self {
            Self::Head(head) => &head.name,
            Self::CaptureOnly(only) => &only.name,
        }
    }

    /// Its CRTC.
    pub fn crtc(self) -> crtc::Handle {
        match self {
            Self::Head(head) => head.crtc,
            Self::CaptureOnly(only) => only.crtc,
        }
    }

    /// Its planes.
    pub fn planes(self) -> &'a Planes {
        match self {
            Self::Head(head) => &head.planes,
            Self::CaptureOnly(only) => &only.planes,
        }
    }
}

/// A connected screen that stays dark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unassigned {
    /// Its connector.
    pub connector: connector::Handle,
    /// The connector's name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// The result of [`assign`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Screens, in the order of the device's connectors.
    pub heads: Vec<Head>,
    /// Screens only for capture; empty unless wanted.
    pub capture_only: Vec<CaptureOnly>,
    /// Connected screens that got nothing.
    pub unassigned: Vec<Unassigned>,
}

impl Assignment {
    /// Screens, then those only for capture.
    pub fn sinks(&self) -> impl Iterator<Item = Sink<'_>> {
        let heads = self.heads.iter().map(Sink::Head);
        heads.chain(self.capture_only.iter().map(Sink::CaptureOnly))
    }

    /// Which connector is on which CRTC, for [`Preferences::keep`].
    pub fn pairs(&self) -> Vec<(connector::Handle, crtc::Handle)> {
        self.sinks()
            .map(|sink| (sink.connector(), sink.crtc()))
            .collect()
    }
}

/// Assigns everything at once.
///
/// CRTCs are matched before planes. Where planes are scarce, a new screen could so take a CRTC from one that is on and
/// then get no plane for it; in that case the screens that are on stay alone.
pub fn assign(snapshot: &Snapshot, preferences: &Preferences) -> Assignment {
    let all = assign_once(snapshot, preferences);
    let pairs = all.pairs();
    if preferences.keep.iter().all(|pair| pairs.contains(pair)) {
        return all;
    }
    let is_kept = |id| preferences.keep.iter().any(|(kept, _)| *kept == id);
    let newcomers = snapshot.heads().filter(|head| !is_kept(head.id));
    let mut settled = preferences.clone();
    settled.disabled.extend(newcomers.map(|head| head.id));
    let mut kept = assign_once(snapshot, &settled);
    if kept.heads.len() < all.heads.len() {
        return all;
    }
    // Those that are no news were left out of nothing.
    let dark = |id| {
        let mut reported = kept.unassigned.iter();
        !kept.sinks().any(|sink| sink.connector() == id)
            && !reported.any(|screen| screen.connector == id)
    };
    let left_out = all
        .heads
        .iter()
        .filter(|head| !is_kept(head.connector))
        .map(|head| Unassigned {
            connector: head.connector,
            name: head.name.clone(),
            reason: "the device's planes do not suffice for all screens; disable another output"
                .to_owned(),
        });
    let others = all
        .unassigned
        .iter()
        .filter(|screen| dark(screen.connector) && !is_kept(screen.connector))
        .cloned();
    let left_out: Vec<Unassigned> = left_out.chain(others).collect();
    kept.unassigned.extend(left_out);
    kept
}

fn assign_once(snapshot: &Snapshot, preferences: &Preferences) -> Assignment {
    let mut work = Work {
        snapshot,
        preferences,
        used_planes: preferences.foreign_planes.clone(),
    };
    let mut result = Assignment::default();
    let wanted: Vec<&Connector> = snapshot
        .heads()
        .filter(|head| head.connected && !head.non_desktop && !head.modes.is_empty())
        .filter(|head| !preferences.disabled.contains(&head.id))
        .collect();

    // CRTCs for connectors.
    let crtcs = work.crtcs_for(&wanted, &[]);
    let mut placed: Vec<(&Connector, usize)> = Vec::new();
    for (&connector, crtc) in wanted.iter().zip(&crtcs) {
        match crtc {
            Some(crtc) => placed.push((connector, *crtc)),
            None => result.unassigned.push(work.no_crtc(connector)),
        }
    }

    // Writeback connectors for those, then planes.
    let writebacks: Vec<&Connector> = work.writebacks_for_screens().collect();
    let settled: Vec<Option<&Held>> = placed.iter().map(|pair| work.held(pair)).collect();
    let clones = best_matching(placed.len(), writebacks.len(), |l, r| {
        let ((head, crtc), writeback) = (placed.get(l)?, writebacks.get(r)?);
        let has = |held: &Held| held.writeback == Some(writeback.id);
        let open = match settled.get(l).copied().flatten() {
            Some(held) => has(held),
            None => !settled.iter().flatten().any(|held| has(held)),
        };
        if !open {
            return None;
        }
        let now_there = i64::from(writeback.crtc == snapshot.crtcs.get(*crtc).map(|c| c.id));
        can_clone(head, writeback, bit(*crtc)).then_some(now_there)
    });
    let used: Vec<connector::Handle> = clones
        .iter()
        .flatten()
        .filter_map(|&r| Some(writebacks.get(r)?.id))
        .collect();
    let masks: Vec<usize> = placed.iter().map(|(_, crtc)| *crtc).collect();
    let planes = work.planes_for(&placed);
    for (n, (connector, crtc)) in placed.iter().enumerate() {
        let Some(id) = snapshot.crtcs.get(*crtc).map(|crtc| crtc.id) else {
            continue;
        };
        let Some(planes) = planes.get(n).cloned().flatten() else {
            result.unassigned.push(Unassigned {
                connector: connector.id,
                name: connector.name.clone(),
                reason: format!("CRTC {} has no primary plane left", u32::from(id)),
            });
            continue;
        };
        let mine = clones
            .get(n)
            .copied()
            .flatten()
            .and_then(|r| writebacks.get(r));
        let writeback = match mine {
            Some(writeback) => WritebackClass::Clone(writeback.id),
            None => no_clone(connector, *crtc, &writebacks, &used),
        };
        let name = connector.name.clone();
        result.heads.push(Head {
            connector: connector.id,
            name,
            crtc: id,
            planes,
            writeback,
        });
    }

    let only: Vec<&Connector> = snapshot
        .writebacks()
        .filter(|writeback| preferences.capture_only.contains(&writeback.id))
        .collect();
    work.place_capture_only(&only, &masks, &mut result);
    result
}

struct Work<'a> {
    snapshot: &'a Snapshot,
    preferences: &'a Preferences,
    used_planes: Vec<plane::Handle>,
}

impl<'a> Work<'a> {
    /// Writeback connectors that are not spoken for.
    fn writebacks_for_screens(&self) -> impl Iterator<Item = &'a Connector> {
        let own = &self.preferences.capture_only;
        self.snapshot
            .writebacks()
            .filter(|writeback| !own.contains(&writeback.id))
    }

    /// Positions of CRTCs for `connectors`, avoiding the positions in `taken`.
    fn crtcs_for(&self, connectors: &[&Connector], taken: &[usize]) -> Vec<Option<usize>> {
        best_matching(connectors.len(), self.snapshot.crtcs.len(), |l, r| {
            let (connector, crtc) = (connectors.get(l)?, self.snapshot.crtcs.get(r)?);
            if connector.possible_crtcs() & bit(r) == 0 || taken.contains(&r) {
                return None;
            }
            // Of those that are placed now: what is unplugged keeps nothing.
            let of_others = |id| {
                let held = self.preferences.held.iter();
                let mut of_this = held.filter(|held| held.planes.primary == id);
                of_this.any(|held| {
                    let mut others = connectors.iter().filter(|c| c.id != connector.id);
                    others.any(|other| other.id == held.connector)
                })
            };
            let primary = |plane: &&Plane| {
                plane.kind == PlaneKind::Primary
                    && plane.possible_crtcs & bit(r) != 0
                    && !self.used_planes.contains(&plane.id)
                    && !of_others(plane.id)
            };
            self.snapshot.planes.iter().find(primary)?;
            let preferences = self.preferences;
            let kept = preferences.keep.contains(&(connector.id, crtc.id));
            // A screen that exists only for capture stays as well, where a physical one can go elsewhere.
            let occupied = preferences.keep.iter().any(|(other, of_other)| {
                *of_other == crtc.id
                    && *other != connector.id
                    && preferences.capture_only.contains(other)
            });
            let routed = connector.crtc == Some(crtc.id);
            let clone = self
                .writebacks_for_screens()
                .any(|writeback| can_clone(connector, writeback, bit(r)));
            // All connectors together must not outweigh one rule above: there are at most 32 CRTCs.
            let stay = i64::from(kept) - i64::from(occupied);
            Some(stay * 10_000 + i64::from(clone) * 100 + i64::from(routed))
        })
    }

    /// The planes for each of the CRTCs at these positions, of those that nobody has; none where no primary plane is left.
    fn new_planes_for(&mut self, crtcs: &[usize]) -> Vec<Option<Planes>> {
        let primaries = self.planes_of_kind(crtcs, PlaneKind::Primary);
        let cursors = self.planes_of_kind(crtcs, PlaneKind::Cursor);
        let mut result: Vec<Option<Planes>> = primaries
            .into_iter()
            .zip(cursors)
            .map(|(primary, cursor)| {
                Some(Planes {
                    primary: primary?,
                    cursor,
                    overlays: vec![],
                })
            })
            .collect();
        self.used_planes
            .extend(result.iter().flatten().flat_map(Planes::all));
        // Overlays go round: each to the CRTC that has the fewest so far.
        for plane in &self.snapshot.planes {
            if plane.kind != PlaneKind::Overlay || self.used_planes.contains(&plane.id) {
                continue;
            }
            let fewest = crtcs
                .iter()
                .zip(result.iter_mut())
                .filter(|(crtc, _)| plane.possible_crtcs & bit(**crtc) != 0)
                .filter_map(|(_, planes)| planes.as_mut())
                .min_by_key(|planes| planes.overlays.len());
            if let Some(planes) = fewest {
                planes.overlays.push(plane.id);
                self.used_planes.push(plane.id);
            }
        }
        result
    }

    fn planes_of_kind(&self, crtcs: &[usize], kind: PlaneKind) -> Vec<Option<plane::Handle>> {
        let planes: Vec<&Plane> = self
            .snapshot
            .planes
            .iter()
            .filter(|plane| plane.kind == kind && !self.used_planes.contains(&plane.id))
            .collect();
        let found = best_matching(crtcs.len(), planes.len(), |l, r| {
            let (crtc, plane) = (crtcs.get(l)?, planes.get(r)?);
            let crtc_id = self.snapshot.crtcs.get(*crtc).map(|c| c.id);
            // Where there are too few planes, a screen that is on keeps its own.
            let kept = self
                .preferences
                .keep
                .iter()
                .any(|(_, kept)| Some(*kept) == crtc_id);
            let gain = i64::from(kept) * 100 + i64::from(plane.crtc == crtc_id);
            (plane.possible_crtcs & bit(*crtc) != 0).then_some(gain)
        });
        found
            .into_iter()
            .map(|r| Some(planes.get(r?)?.id))
            .collect()
    }

    fn place_capture_only(
        &mut self,
        free: &[&Connector],
        taken: &[usize],
        result: &mut Assignment,
    ) {
        let crtcs = self.crtcs_for(free, taken);
        let mut placed: Vec<(&Connector, usize)> = Vec::new();
        for (&connector, crtc) in free.iter().zip(crtcs) {
            match crtc.filter(|_| !connector.modes.is_empty()) {
                Some(crtc) => placed.push((connector, crtc)),
                None => result.unassigned.push(not_placed(connector)),
            }
        }
        for ((connector, crtc), planes) in placed.iter().zip(self.planes_for(&placed)) {
            let (Some(planes), Some(crtc)) = (planes, self.snapshot.crtcs.get(*crtc)) else {
                result.unassigned.push(not_placed(connector));
                continue;
            };
            result.capture_only.push(CaptureOnly {
                connector: connector.id,
                name: connector.name.clone(),
                crtc: crtc.id,
                planes,
            });
        }
    }

    fn no_crtc(&self, connector: &Connector) -> Unassigned {
        let reason = if connector.encoders.is_empty() {
            "the driver lists no encoder for it".to_owned()
        } else {
            format!(
                "the device's {} CRTCs do not suffice for all screens; disable another output",
                self.snapshot.crtcs.len()
            )
        };
        Unassigned {
            connector: connector.id,
            name: connector.name.clone(),
            reason,
        }
    }
}

fn not_placed(connector: &Connector) -> Unassigned {
    Unassigned {
        connector: connector.id,
        name: connector.name.clone(),
        reason: "no CRTC with a primary plane, or no mode, is left for it as a screen of its own; disable another \
                 output, or take away its sink = \"writeback\""
            .to_owned(),
    }
}

#[cfg(test)]
#[path = "topology_tests.rs"]
mod tests;
