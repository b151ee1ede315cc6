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
        // Four clients with a quota of two, and a second for each before its frame is taken back.
        stream(&mut world, session, 10 * 63);
        let received = stream(&mut world, session, 100);
        prop_assert!(received >= 90, "{received} of 100");
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
