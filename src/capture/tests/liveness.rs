//! Whoever lets go in time keeps receiving, whatever all others do.

use proptest::prelude::*;

use super::{
    model::{op, Op, World},
    *,
};

/// Display at full rate with one client that releases each frame when it has it; nobody else lets anything go. Returns how
/// many frames that client received.
fn stream(world: &mut World, session: SessionId, refreshes: u32) -> u64 {
    let before = world.delivered.get(&session).copied().unwrap_or(0);
    let mut waiting = false;
    for _ in 0..refreshes {
        if !waiting {
            world.request(session);
            waiting = true;
        }
        world.now += 16;
        world.poll();
        world.tell_voids();
        let capture = world.capture.demand(world.now()) != Demand::None;
        world.commit(Some((1, 1, 2, 2)), capture, true);
        world.complete(0);
        world.complete(0);
        world.poll();
        world.tell_voids();
        if let Some(at) = world
            .leases
            .iter()
            .position(|lease| lease.session() == session)
        {
            world.release(at);
            waiting = false;
        }
    }
    world.delivered.get(&session).copied().unwrap_or(0) - before
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_well_behaved_client_keeps_receiving_whatever_happened_before(
        slots in 3..5usize,
        ops in prop::collection::vec(op(), 1..200),
    ) {
        let mut world = World::new(slots);
        for op in ops {
            world.apply(op);
        }
        if world.capture.format().is_none() {
            world.apply(Op::Resize(slots));
        }
        world.calm_down();
        let session = world.open_export(1000);
        world.show_cursor(None);
        // Four clients with a quota of two, and a second for each before its frame is taken back; and one for each slot
        // on which there is a fence.
        stream(&mut world, session, (10 + 5) * 63);
        let received = stream(&mut world, session, 100);
        // Fences that never signal are believed for a grace each time, which a ring of three cannot always bear.
        let least = if world.has_fences() { 70 } else { 90 };
        prop_assert!(received >= least, "{received} of 100");
    }
}

#[test]
fn a_client_that_never_releases_stops_nobody_in_a_ring_of_three() {
    let mut world = World::new(3);
    let holder = world.open_export(1);
    let good = world.open_export(2);
    for _ in 0..8 {
        world.request(holder);
    }
    stream(&mut world, good, 70);
    let received = stream(&mut world, good, 200);
    assert!(received >= 190, "{received} of 200");
    let stats = world.capture.stats();
    assert_eq!(
        stats.clients[&ClientId(1)].frames,
        2,
        "no more than the quota, ever"
    );
    assert!(stats.clients[&ClientId(1)].voids >= 1);
    assert_eq!(stats.clients[&ClientId(2)].voids, 0);
    assert_eq!(stats.buffers, 3);
}

#[test]
fn a_client_that_lets_go_of_a_void_frame_is_served_again() {
    let mut world = World::new(3);
    let holder = world.open_export(1);
    let good = world.open_export(2);
    world.request(holder);
    world.request(holder);
    world.request(holder);
    stream(&mut world, good, 200);
    assert_eq!(world.delivered[&holder], 2);
    world.drop_all_leases();
    world.poll();
    assert_eq!(world.delivered[&holder], 3);
}

#[test]
fn both_views_are_served_from_three_slots_while_the_cursor_is_visible() {
    let mut world = World::new(3);
    world.show_cursor(Some((3, 3)));
    let with_cursor = world.open_export(1);
    let without = world.open_bare_export(2);
    let (mut waiting, mut refreshes) = ([false; 2], 0);
    for n in 0..400 {
        for (session, waiting) in [with_cursor, without].into_iter().zip(&mut waiting) {
            if !std::mem::replace(waiting, true) {
                world.request(session);
            }
        }
        world.now += 16;
        world.poll();
        let capture = world.capture.demand(world.now()) != Demand::None;
        refreshes += u64::from(capture);
        world.show_cursor(Some((n % 8, 3)));
        world.commit(Some((1, 1, 2, 2)), capture, true);
        world.complete(0);
        world.complete(0);
        world.poll();
        for (session, waiting) in [with_cursor, without].into_iter().zip(&mut waiting) {
            let lease = world
                .leases
                .iter()
                .position(|lease| lease.session() == session);
            if let Some(at) = lease {
                world.release(at);
                *waiting = false;
            }
        }
    }
    // One slot is free at a time, so that the views take turns.
    let (one, other) = (world.delivered[&with_cursor], world.delivered[&without]);
    assert!(
        one >= 150 && other >= 150,
        "{one} and {other} of {refreshes}"
    );
    let stats = world.capture.stats();
    assert_eq!((stats.buffers, stats.voids), (3, 0));
}

#[test]
fn a_view_that_nobody_looks_at_any_more_keeps_no_slot() {
    let mut world = World::new(3);
    world.show_cursor(Some((3, 3)));
    let bare = world.open_bare_export(1);
    world.request(bare);
    world.commit(None, true, true);
    world.complete(0);
    world.poll();
    world.drop_all_leases();
    world.apply(Op::Close(0));
    // The holder keeps two frames; the third slot is all that the other one needs.
    let holder = world.open_export(2);
    for _ in 0..2 {
        world.request(holder);
        world.commit(Some((0, 0, 1, 1)), true, true);
        world.complete(0);
        world.poll();
        world.now += 100;
    }
    let good = world.open_export(3);
    world.commit(Some((0, 0, 1, 1)), false, true);
    world.request(good);
    world.commit(None, true, true);
    world.complete(0);
    world.poll();
    assert_eq!(world.delivered.get(&good), Some(&1));
}
