//! Tests of the assignment: the known devices, and random ones.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use proptest::prelude::*;

use super::*;
use crate::kms::snapshot::{Crtc, Encoder, Mask};

fn id<H: From<drm::control::RawResourceHandle>>(n: usize) -> H {
    drm::control::from_u32(u32::try_from(n).unwrap()).unwrap()
}

fn mode() -> drm::control::Mode {
    drm_ffi::drm_mode_modeinfo {
        hdisplay: 640,
        vdisplay: 480,
        ..Default::default()
    }
    .into()
}

fn connector(n: usize, writeback: bool, encoders: Vec<Encoder>) -> Connector {
    Connector {
        id: id(100 + n),
        name: format!("{}-{n}", if writeback { "Writeback" } else { "Virtual" }),
        writeback,
        connected: true,
        non_desktop: false,
        modes: vec![mode()],
        size_mm: None,
        encoders,
        formats: vec![],
        crtc: None,
    }
}

fn plane(n: usize, kind: PlaneKind, possible_crtcs: Mask) -> Plane {
    Plane {
        id: id(200 + n),
        kind,
        possible_crtcs,
        formats: vec![],
        crtc: None,
    }
}

/// `outputs` times: CRTC, connector and writeback connector that clone each other, primary, cursor, overlay.
fn vkms(outputs: usize) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for n in 0..outputs {
        let (head, writeback) = (2 * n, 2 * n + 1);
        let possible_clones = bit(head) | bit(writeback);
        let encoder = |index| Encoder {
            index,
            possible_crtcs: bit(n),
            possible_clones,
        };
        snapshot.crtcs.push(Crtc {
            id: id(n + 1),
            active: false,
        });
        snapshot
            .connectors
            .push(connector(head, false, vec![encoder(head)]));
        snapshot
            .connectors
            .push(connector(writeback, true, vec![encoder(writeback)]));
        for (m, kind) in [PlaneKind::Primary, PlaneKind::Cursor, PlaneKind::Overlay]
            .into_iter()
            .enumerate()
        {
            snapshot.planes.push(plane(3 * n + m, kind, bit(n)));
        }
    }
    snapshot
}

#[test]
fn a_writeback_connector_is_never_a_screen() {
    let result = assign(&vkms(2), &Preferences::default());
    assert_eq!(result.heads.len(), 2);
    assert!(result
        .heads
        .iter()
        .all(|head| head.name.starts_with("Virtual")));
    assert!(result.unassigned.is_empty() && result.capture_only.is_empty());
    let classes: Vec<_> = result
        .heads
        .iter()
        .map(|h| h.writeback.connector())
        .collect();
    assert_eq!(classes, [Some(id(101)), Some(id(103))]);
    assert!(result
        .heads
        .iter()
        .all(|h| h.planes.cursor.is_some() && h.planes.overlays.len() == 1));
}

#[test]
fn encoders_that_do_not_clone_leave_a_capture_only_screen() {
    let mut snapshot = vkms(1);
    snapshot.connectors[0].encoders[0].possible_clones = bit(0);
    let preferences = Preferences {
        capture_only: vec![id(101)],
        ..Default::default()
    };
    let result = assign(&snapshot, &preferences);
    assert_eq!(result.heads[0].writeback.connector(), None);
    // The only CRTC is taken by the screen.
    assert!(result.capture_only.is_empty());
    assert_eq!(result.unassigned[0].connector, id(101));
    snapshot.connectors[0].connected = false;
    let result = assign(&snapshot, &preferences);
    assert!(result.heads.is_empty());
    assert_eq!(result.capture_only[0].crtc, id(1));
}

#[test]
fn foreign_planes_are_named_by_id_or_by_position_and_nobody_gets_them() {
    use crate::{config::PlaneName, kms::foreign::resolve};
    let mut snapshot = vkms(2);
    let extra = snapshot.planes.len();
    snapshot
        .planes
        .push(plane(extra, PlaneKind::Overlay, bit(1)));
    let mut preferences = Preferences::default();
    let wishes = [
        (id(100), vec![PlaneName::Overlay(0), PlaneName::Id(999)]),
        (id(102), vec![PlaneName::Overlay(1), PlaneName::Overlay(2)]),
    ];
    let outputs = resolve(&snapshot, &mut preferences, &wishes);
    let overlay_of_first = snapshot.planes[2].id;
    assert_eq!(outputs[0].planes, [overlay_of_first]);
    assert_eq!(outputs[0].unknown, [PlaneName::Id(999)]);
    assert_eq!(outputs[1].planes, [snapshot.planes[extra].id]);
    assert_eq!(outputs[1].unknown, [PlaneName::Overlay(2)]);
    assert_eq!(preferences.foreign_planes.len(), 2);
    let result = assign(&snapshot, &preferences);
    assert!(result.heads[0].planes.overlays.is_empty());
    assert_eq!(result.heads[1].planes.overlays, [snapshot.planes[5].id]);
    // A plane that is named by its id is foreign to all, whoever names it.
    let mut preferences = Preferences::default();
    let by_id = PlaneName::Id(u32::from(snapshot.planes[5].id));
    resolve(&snapshot, &mut preferences, &[(id(100), vec![by_id])]);
    let result = assign(&snapshot, &preferences);
    assert!(!result.heads[1]
        .planes
        .overlays
        .contains(&snapshot.planes[5].id));
}

#[test]
fn a_writeback_connector_that_is_a_screen_serves_no_other() {
    let mut snapshot = vkms(2);
    snapshot.connectors[2].connected = false;
    // Every encoder may be cloned with every other, on each CRTC.
    for encoder in snapshot.connectors.iter_mut().flat_map(|c| &mut c.encoders) {
        (encoder.possible_crtcs, encoder.possible_clones) = (0b11, 0b1111);
    }
    let preferences = Preferences {
        capture_only: vec![id(101)],
        ..Default::default()
    };
    let result = assign(&snapshot, &preferences);
    assert_eq!(result.heads[0].writeback.connector(), Some(id(103)));
    assert_eq!(result.capture_only[0].connector, id(101));
    assert_ne!(result.capture_only[0].crtc, result.heads[0].crtc);
    assert_eq!(result.pairs().len(), 2);
}

#[test]
fn without_a_writeback_connector_the_class_is_none() {
    let mut snapshot = vkms(1);
    snapshot.connectors.remove(1);
    let result = assign(&snapshot, &Preferences::default());
    assert!(matches!(
        result.heads[0].writeback,
        WritebackClass::None { .. }
    ));
}

#[test]
fn a_second_screen_does_not_move_the_first() {
    // Both connectors can be on both CRTCs; the first screen is on the second CRTC.
    let mut snapshot = vkms(2);
    for connector in &mut snapshot.connectors {
        connector.encoders[0].possible_crtcs = 0b11;
    }
    let keep = vec![(id(100), id(2))];
    let result = assign(
        &snapshot,
        &Preferences {
            keep,
            ..Default::default()
        },
    );
    assert_eq!(result.pairs(), [(id(100), id(2)), (id(102), id(1))]);
}

#[test]
fn a_foreign_plane_is_never_assigned() {
    let foreign_planes = vec![id(202)];
    let result = assign(
        &vkms(1),
        &Preferences {
            foreign_planes,
            ..Default::default()
        },
    );
    assert_eq!(result.heads[0].planes.overlays, []);
}

#[test]
fn a_screen_that_gets_no_crtc_is_reported() {
    let mut snapshot = vkms(2);
    snapshot.crtcs.truncate(1);
    let result = assign(&snapshot, &Preferences::default());
    assert_eq!(result.heads.len(), 1);
    assert_eq!(result.unassigned[0].name, "Virtual-2");
}

prop_compose! {
    fn any_connector(n: usize)(
        writeback in any::<bool>(), connected in proptest::bool::weighted(0.8),
        possible_crtcs in 0u32..16, possible_clones in any::<u32>(),
    ) -> Connector {
        let encoder = Encoder { index: n, possible_crtcs, possible_clones };
        Connector { connected, ..connector(n, writeback, vec![encoder]) }
    }
}

prop_compose! {
    fn any_snapshot()(crtcs in 0usize..5, connectors in 0usize..7, planes in 0usize..10)(
        crtcs in Just(crtcs),
        connectors in (0..connectors).map(any_connector).collect::<Vec<_>>(),
        planes in proptest::collection::vec((0u8..3, 0u32..16), planes),
    ) -> Snapshot {
        let kinds = [PlaneKind::Primary, PlaneKind::Overlay, PlaneKind::Cursor];
        Snapshot {
            crtcs: (0..crtcs).map(|n| Crtc { id: id(n + 1), active: false }).collect(),
            connectors,
            planes: planes
                .into_iter()
                .enumerate()
                .map(|(n, (kind, mask))| plane(n, kinds[usize::from(kind)], mask))
                .collect(),
            cursor_size: (64, 64),
        }
    }
}

fn verify_invariants(snapshot: &Snapshot, preferences: &Preferences, result: &Assignment) {
    let position = |crtc| snapshot.crtcs.iter().position(|c| c.id == crtc).unwrap();
    let mut crtcs = Vec::new();
    let mut planes = Vec::new();
    let mut connectors = Vec::new();
    for head in &result.heads {
        let connector = snapshot.connector(head.connector).unwrap();
        assert!(!connector.writeback && connector.connected);
        connectors.push(head.connector);
        if let Some(writeback) = head.writeback.connector() {
            let writeback = snapshot.connector(writeback).unwrap();
            assert!(writeback.writeback);
            assert!(can_clone(connector, writeback, bit(position(head.crtc))));
            connectors.push(writeback.id);
        }
    }
    for only in &result.capture_only {
        assert!(snapshot.connector(only.connector).unwrap().writeback);
        connectors.push(only.connector);
    }
    for (connector, crtc) in result.pairs() {
        let mask = snapshot.connector(connector).unwrap().possible_crtcs();
        assert_ne!(
            mask & bit(position(crtc)),
            0,
            "a CRTC that cannot feed the connector"
        );
        crtcs.push(crtc);
    }
    let only = result
        .capture_only
        .iter()
        .map(|only| (only.crtc, &only.planes));
    for (crtc, of_crtc) in result.heads.iter().map(|h| (h.crtc, &h.planes)).chain(only) {
        for plane in of_crtc.all() {
            let possible = snapshot.plane(plane).unwrap().possible_crtcs;
            assert_ne!(
                possible & bit(position(crtc)),
                0,
                "a plane that the CRTC cannot show"
            );
            assert!(!preferences.foreign_planes.contains(&plane));
            planes.push(u32::from(plane));
        }
    }
    let unique = |mut ids: Vec<u32>| {
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        ids.len() == all
    };
    assert!(unique(planes), "a plane on two CRTCs");
    assert!(
        unique(crtcs.into_iter().map(u32::from).collect()),
        "a CRTC with two screens"
    );
    assert!(
        unique(connectors.into_iter().map(u32::from).collect()),
        "a connector twice"
    );
    let connected = snapshot.heads().filter(|head| head.connected).count();
    let own = |c: &&Connector| preferences.capture_only.contains(&c.id);
    let wanted = connected + snapshot.writebacks().filter(own).count();
    assert_eq!(
        result.heads.len() + result.capture_only.len() + result.unassigned.len(),
        wanted,
        "a screen forgotten"
    );
}

fn unique<T: PartialEq>(all: &[T]) -> bool {
    (1..all.len()).all(|n| !all[n..].contains(&all[n - 1]))
}

/// The screens as the compositor has them: they stay as they were made as long as their pair is assigned.
#[derive(Default)]
struct Desk(Vec<Held>);

impl Desk {
    fn rescan(&mut self, snapshot: &Snapshot, capture_only: &[connector::Handle]) {
        let preferences = Preferences {
            keep: self
                .0
                .iter()
                .map(|held| (held.connector, held.crtc))
                .collect(),
            held: self.0.clone(),
            capture_only: capture_only.to_vec(),
            ..Default::default()
        };
        let assignment = assign(snapshot, &preferences);
        verify_invariants(snapshot, &preferences, &assignment);
        let pairs = assignment.pairs();
        self.0
            .retain(|held| pairs.contains(&(held.connector, held.crtc)));
        for sink in assignment.sinks() {
            let (connector, crtc) = (sink.connector(), sink.crtc());
            if !self
                .0
                .iter()
                .any(|held| (held.connector, held.crtc) == (connector, crtc))
            {
                let writeback = match sink {
                    Sink::Head(head) => head.writeback.connector(),
                    Sink::CaptureOnly(_) => None,
                };
                let planes = sink.planes().clone();
                self.0.push(Held {
                    connector,
                    crtc,
                    planes,
                    writeback,
                });
            }
        }
        let planes: Vec<_> = self.0.iter().flat_map(|held| held.planes.all()).collect();
        assert!(unique(&planes), "a plane of two screens: {:?}", self.0);
        let writebacks: Vec<_> = self.0.iter().filter_map(|held| held.writeback).collect();
        assert!(
            unique(&writebacks),
            "a writeback connector of two screens: {:?}",
            self.0
        );
    }
}

#[test]
fn a_screen_that_is_gone_or_only_for_capture_keeps_nothing_from_a_new_one() {
    // Two screens and a writeback connector that is one for itself, and one CRTC for all of them.
    let mut snapshot = vkms(2);
    for encoder in snapshot.connectors.iter_mut().flat_map(|c| &mut c.encoders) {
        encoder.possible_crtcs = 0b1;
    }
    snapshot.crtcs.truncate(1);
    let mut desk = Desk::default();
    let only = [id(101)];
    for (first, second, expected) in [
        (false, false, 101),
        (true, false, 100),
        (false, true, 102),
        (false, false, 101),
    ] {
        snapshot.connectors[0].connected = first;
        snapshot.connectors[2].connected = second;
        desk.rescan(&snapshot, &only);
        let on: Vec<_> = desk.0.iter().map(|held| held.connector).collect();
        assert_eq!(on, [id(expected)]);
    }
}

#[test]
fn a_screen_does_not_take_the_crtc_of_one_that_is_only_for_capture() {
    // A screen, a writeback connector that is one for itself, and two CRTCs for both of them.
    let mut snapshot = vkms(2);
    for encoder in snapshot.connectors.iter_mut().flat_map(|c| &mut c.encoders) {
        encoder.possible_crtcs = 0b11;
    }
    snapshot.connectors.truncate(2);
    snapshot.connectors[0].connected = false;
    let mut desk = Desk::default();
    let only = [id(101)];
    desk.rescan(&snapshot, &only);
    let before = desk.0.clone();
    snapshot.connectors[0].connected = true;
    desk.rescan(&snapshot, &only);
    assert_eq!(desk.0.len(), 2);
    assert_eq!(desk.0[..1], before);
}

proptest! {
    #[test]
    fn what_a_screen_has_is_given_to_no_other_while_it_stays(
        snapshot in any_snapshot(), plugs in proptest::collection::vec(0usize..7, 1..12), capture_only in any::<bool>(),
    ) {
        let mut snapshot = snapshot;
        let all = snapshot.writebacks().map(|writeback| writeback.id);
        let capture_only: Vec<_> = all.filter(|_| capture_only).collect();
        let mut desk = Desk::default();
        for which in plugs {
            if let Some(connector) = snapshot.connectors.get_mut(which) {
                connector.connected = !connector.connected;
            }
            desk.rescan(&snapshot, &capture_only);
        }
    }

    #[test]
    fn any_device_gets_a_valid_assignment(
        snapshot in any_snapshot(), foreign in 0usize..12, capture_only in any::<bool>(),
    ) {
        let foreign_planes = vec![id(200 + foreign)];
        let all = snapshot.writebacks().map(|writeback| writeback.id);
        let capture_only = all.filter(|_| capture_only).collect();
        let preferences = Preferences { foreign_planes, capture_only, ..Default::default() };
        verify_invariants(&snapshot, &preferences, &assign(&snapshot, &preferences));
    }

    #[test]
    fn assigning_again_takes_nothing_away(snapshot in any_snapshot()) {
        let first = assign(&snapshot, &Preferences::default());
        let keep = first.pairs();
        let second = assign(&snapshot, &Preferences { keep, ..Default::default() });
        // Where planes are scarce, knowing what is settled may find room for one more.
        for pair in first.pairs() {
            prop_assert!(second.pairs().contains(&pair), "{:?} was moved", pair);
        }
    }

    #[test]
    fn unplugging_one_screen_leaves_the_others(snapshot in any_snapshot(), which in 0usize..6) {
        let first = assign(&snapshot, &Preferences::default());
        let mut snapshot = snapshot;
        if let Some(connector) = snapshot.connectors.get_mut(which) {
            connector.connected = false;
        }
        let gone = id::<connector::Handle>(100 + which);
        let keep = first.pairs();
        // A screen without a primary plane has no pair to keep and may take a CRTC; compare devices without such.
        prop_assume!(first.unassigned.is_empty());
        let second = assign(&snapshot, &Preferences { keep, ..Default::default() });
        for pair in first.pairs().into_iter().filter(|(connector, _)| *connector != gone) {
            prop_assert!(second.pairs().contains(&pair), "{:?} was moved", pair);
        }
    }
}
