//! Fences that clients put onto captured frames and that never signal.

use super::{
    model::{Op, World},
    *,
};

/// Puts a fence onto each slot that there is, for ever.
fn fence_all(world: &mut World) {
    for slot in 0..8 {
        world.apply(Op::Fence(slot, true));
    }
}

/// One refresh with a new picture for a client that lets go of each frame at once. Returns whether it got one.
fn refresh(world: &mut World, session: SessionId) -> bool {
    let before = world.delivered.get(&session).copied();
    world.request(session);
    world.now += 16;
    world.poll();
    let capture = world.capture.demand(world.now()) != Demand::None;
    world.commit(Some((1, 1, 2, 2)), capture, true);
    world.complete(0);
    world.poll();
    world.drop_all_leases();
    world.poll();
    world.delivered.get(&session).copied() != before
}

/// So many of them; returns how many frames the client got.
fn refreshes(world: &mut World, session: SessionId, count: usize) -> usize {
    (0..count).filter(|_| refresh(world, session)).count()
}

#[test]
fn fences_that_never_signal_starve_others_once_and_no_longer_than_a_holder_would() {
    for slots in 3..6 {
        let mut world = World::new(slots);
        let good = world.open_copy(1);
        (0..20).for_each(|_| assert!(refresh(&mut world, good)));
        fence_all(&mut world);
        // Slots that were free when the fences came are used up first; then it is a second.
        let (mut longest, mut run) = (0, 0);
        for _ in 0..200 + 63 * slots {
            run = if refresh(&mut world, good) {
                0
            } else {
                run + 1
            };
            longest = longest.max(run);
        }
        assert!((55..=66).contains(&longest), "{longest} refreshes");
        let received = refreshes(&mut world, good, 100);
        assert!(received >= 90, "{received} of 100 with {slots} slots");
        assert!(world.capture.stats().overruled >= 90);
    }
}

#[test]
fn fences_are_believed_for_good_while_nobody_waits() {
    let mut world = World::new(3);
    let good = world.open_export(1);
    (0..20).for_each(|_| assert!(refresh(&mut world, good)));
    fence_all(&mut world);
    world.poll();
    for _ in 0..1000 {
        world.now += 16;
        world.poll();
    }
    assert_eq!(world.capture.stats().overruled, 0);
}

/// The hardware of ours that still reads a slot may have been given up by everybody.
#[test]
fn a_slot_that_is_read_for_us_is_never_taken_back_whoever_waits() {
    let mut world = World::new(3);
    let good = world.open_export(1);
    for _ in 0..3 {
        assert!(refresh(&mut world, good));
        let (newest, _) = world.capture.ring.newest(View::WithCursor).unwrap();
        world.apply(Op::Busy(usize::from(newest.index), true));
    }
    fence_all(&mut world);
    let mut received = refreshes(&mut world, good, 1000);
    assert_eq!((received, world.capture.stats().overruled), (0, 0));
    // The end of our reads is the beginning of the wait for the fences.
    for at in 0..3 {
        world.apply(Op::Busy(at, false));
    }
    received = refreshes(&mut world, good, 50);
    assert_eq!(received, 0);
    // That of the newest frame begins when there is a newer one.
    refreshes(&mut world, good, 80);
    received = refreshes(&mut world, good, 100);
    assert!(received >= 90, "{received}");
}

#[test]
fn another_ring_believes_fences_again() {
    let mut world = World::new(3);
    let good = world.open_copy(1);
    fence_all(&mut world);
    refreshes(&mut world, good, 200);
    let before = world.capture.stats().overruled;
    assert!(before > 0);
    world.resize(3);
    (0..10).for_each(|_| assert!(refresh(&mut world, good)));
    fence_all(&mut world);
    let received = refreshes(&mut world, good, 60);
    assert!(received <= 2, "{received}");
}
