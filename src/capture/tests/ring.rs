//! Random operations at the ring alone.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::capture::ring::{Holder, LeaseId, Limits, Ring, SlotState};

#[derive(Debug, Clone)]
enum Op {
    Arm,
    /// With memory that comes with the job.
    ArmLent,
    Publish(usize, PerView<bool>),
    Free(usize),
    Quarantine(usize),
    Lease(u64, bool),
    Release(usize),
    Void(usize),
    Choose,
    /// Somebody begins to read the slots of this index, or all stop.
    Busy(u16, Reading),
    /// Somebody starves.
    Overrule,
    Advance(u64),
    Reset(u16),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => Just(Op::Arm),
        3 => Just(Op::ArmLent),
        6 => (0..4usize, 0..3u8).prop_map(|(at, views)| Op::Publish(at, PerView {
            with_cursor: views != 1,
            without_cursor: views != 2,
        })),
        2 => (0..4usize).prop_map(Op::Free),
        2 => (0..4usize).prop_map(Op::Quarantine),
        6 => (0..4u64, any::<bool>()).prop_map(|(who, export)| Op::Lease(who, export)),
        5 => (0..8usize).prop_map(Op::Release),
        1 => (0..8usize).prop_map(Op::Void),
        2 => Just(Op::Choose),
        2 => (0..5u16, 0..3usize).prop_map(|(slot, reading)| {
            Op::Busy(slot, [Reading::Over, Reading::Fenced, Reading::Ours][reading])
        }),
        2 => Just(Op::Overrule),
        4 => prop_oneof![0..12u64, 0..600u64].prop_map(Op::Advance),
        1 => prop_oneof![Just(0u16), 3..6u16].prop_map(Op::Reset),
    ]
}

const LIMITS: Limits = Limits {
    house_quota: 1,
    quota: 2,
    hold_deadline: Duration::from_secs(1),
    grace: Duration::from_millis(32),
};

/// Each client has one session, which looks at one view.
fn view_of(client: u64) -> View {
    match client % 2 {
        0 => View::WithCursor,
        _ => View::WithoutCursor,
    }
}

fn pinned(ring: &Ring) -> BTreeSet<SlotId> {
    let newest = View::ALL.into_iter().filter_map(|view| ring.newest(view));
    newest.map(|(slot, _)| slot).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_ring_keeps_its_promises_whatever_happens(
        ops in prop::collection::vec(op(), 1..200),
    ) {
        let mut ring = Ring::new(LIMITS);
        ring.reset(4, ms(0));
        let mut now = 0;
        let (mut next_job, mut next_seq) = (0, 0);
        let mut jobs: Vec<JobId> = Vec::new();
        let mut lost: BTreeSet<SlotId> = BTreeSet::new();
        let mut leases: BTreeMap<LeaseId, (SlotId, Holder, FrameSeq)> = BTreeMap::new();
        // Export leases that were released and may still be sampled.
        let mut sampled: Vec<(SlotId, SessionId, FrameSeq, u64)> = Vec::new();
        let mut busy: BTreeMap<u16, Reading> = BTreeMap::new();
        let reads = |busy: &BTreeMap<u16, Reading>, slot: SlotId| {
            busy.get(&slot.index).copied().unwrap_or(Reading::Over)
        };
        // Since when each slot rests, and those on which a fence was overruled.
        let mut resting: BTreeMap<SlotId, u64> = BTreeMap::new();
        let mut distrusted: BTreeSet<SlotId> = BTreeSet::new();
        for op in ops {
            match op {
                Op::Arm => {
                    let job = JobId(next_job);
                    next_job += 1;
                    let pinned = pinned(&ring);
                    if let Ok(slot) = ring.arm(job, ms(now), &|slot| reads(&busy, slot)) {
                        prop_assert!(!resting.contains_key(&slot) || reads(&busy, slot) == Reading::Over);
                        prop_assert!(leases.values().all(|(held, ..)| *held != slot));
                        prop_assert!(!pinned.contains(&slot));
                        prop_assert!(!lost.contains(&slot), "a quarantined slot was armed");
                        prop_assert!(sampled.iter().all(|(have, .., until)| *have != slot || *until <= now));
                        jobs.push(job);
                    }
                }
                Op::ArmLent => {
                    let job = JobId(next_job);
                    next_job += 1;
                    let there: Vec<SlotId> = ring.slots().map(|(slot, _)| slot).collect();
                    if let Ok(slot) = ring.arm_lent(job) {
                        prop_assert!(!there.contains(&slot), "another memory has that name");
                        prop_assert!(ring.is_lent(slot) && ring.is_lent_for(job));
                        jobs.push(job);
                    }
                }
                Op::Publish(at, views) if at < jobs.len() => {
                    let job = jobs[at];
                    if let Some(slot) = ring.publish(job, FrameSeq(next_seq), views, ms(now)) {
                        prop_assert!(!lost.contains(&slot), "a quarantined slot was published");
                        for view in View::ALL {
                            let newest = ring.newest(view) == Some((slot, FrameSeq(next_seq)));
                            prop_assert_eq!(newest, *views.get(view));
                        }
                        next_seq += 1;
                    }
                }
                Op::Free(at) if at < jobs.len() => {
                    let job = jobs[at];
                    if let Some(slot) = ring.slot_of(job) {
                        lost.remove(&slot);
                    }
                    ring.free(job);
                    jobs.swap_remove(at);
                }
                Op::Quarantine(at) if at < jobs.len() => {
                    let slot = ring.slot_of(jobs[at]);
                    if ring.quarantine(jobs[at]) {
                        lost.insert(slot.unwrap());
                        // It may not be published any more; the list keeps it for its late fence.
                        prop_assert_eq!(ring.publish(jobs[at], FrameSeq(u64::MAX), PerView::new(|_| true), ms(now)), None);
                    }
                }
                Op::Lease(client, export) => {
                    let holder = Holder { client: ClientId(client), session: SessionId(client), export };
                    if let Some((lease, slot)) = ring.lease_newest(holder, view_of(client), ms(now)) {
                        let (newest, seq) = ring.newest(view_of(client)).unwrap();
                        prop_assert_eq!(slot, newest);
                        sampled.retain(|(_, session, old, _)| *session != holder.session || *old >= seq);
                        leases.insert(lease, (slot, holder, seq));
                    }
                }
                Op::Release(at) if at < leases.len() => {
                    let lease = *leases.keys().nth(at).unwrap();
                    let (slot, holder, seq) = leases.remove(&lease).unwrap();
                    let view = view_of(holder.session.0);
                    let newer = ring.newest(view).is_some_and(|_| leases.values().any(|(_, other, newer)| {
                        other.session == holder.session && *newer > seq
                    }));
                    // Conservative: where it is not certain that the session was given nothing newer, expect no grace.
                    if holder.export && !newer && ring.newest(view) == Some((slot, seq)) {
                        sampled.push((slot, holder.session, seq, now + 32));
                    }
                    ring.release(lease, ms(now));
                }
                Op::Void(at) if at < leases.len() => {
                    let (_, holder, seq) = *leases.values().nth(at).unwrap();
                    for lease in ring.void(holder.session, seq) {
                        leases.remove(&lease);
                        // Later, the handle goes too.
                        ring.release(lease, ms(now));
                    }
                }
                Op::Choose => {
                    let newest = View::ALL.map(|view| ring.newest(view).map(|(_, seq)| seq));
                    if let Some((seq, holders)) = ring.choose_void(ms(now)) {
                        prop_assert!(!newest.contains(&Some(seq)));
                        for holder in holders {
                            prop_assert!(ring.is_overdue(holder.client, ms(now)));
                            let void = ring.void(holder.session, seq);
                            prop_assert!(!void.is_empty());
                            for lease in void {
                                leases.remove(&lease);
                                prop_assert!(ring.is_overdue(holder.client, ms(now)));
                                ring.release(lease, ms(now));
                            }
                        }
                    }
                }
                Op::Busy(slot, reading) => {
                    busy.insert(slot, reading);
                }
                Op::Overrule => {
                    ring.settle(ms(now), &|slot| reads(&busy, slot));
                    let before: BTreeMap<_, _> = ring.slots().collect();
                    if let Some((slot, seq)) = ring.overrule_fence(ms(now)) {
                        prop_assert_eq!(before[&slot], SlotState::Draining(seq));
                        prop_assert_eq!(reads(&busy, slot), Reading::Fenced);
                        prop_assert!(!ring.is_lent(slot));
                        prop_assert!(sampled.iter().all(|(have, .., until)| *have != slot || *until <= now));
                        let patience = if distrusted.insert(slot) { 1000 } else { 32 };
                        prop_assert!(now - resting[&slot] >= patience);
                        let free = ring.slots().find(|(have, _)| *have == slot);
                        prop_assert_eq!(free, Some((slot, SlotState::Free)));
                    }
                }
                Op::Advance(by) => now += by,
                Op::Reset(size) => {
                    ring.reset(size, ms(now));
                    sampled.clear();
                }
                Op::Publish(..) | Op::Free(_) | Op::Quarantine(_) | Op::Release(_) | Op::Void(_) => {}
            }
            lost.retain(|slot| slot.generation == ring.generation());
            prop_assert_eq!(ring.verify_invariants(), Ok(()));
            let rests = |slot: &SlotId| ring.slots().any(|(have, state)| {
                have == *slot && matches!(state, SlotState::Draining(_))
            });
            resting.retain(|slot, _| rests(slot));
            for (slot, _) in ring.slots().filter(|(slot, _)| rests(slot)) {
                resting.entry(slot).or_insert(now);
            }
            // No lease without its slot, and memory is constant but for what is held of old modes.
            for (slot, _, seq) in leases.values() {
                let published = SlotState::Published(*seq);
                prop_assert!(ring.slots().any(|(have, state)| have == *slot && state == published));
            }
            let old = ring.slots().filter(|(slot, _)| slot.generation != ring.generation());
            let flying = |state| matches!(state, SlotState::Armed(_));
            for (slot, state) in old {
                prop_assert!(flying(state) || leases.values().any(|(held, ..)| *held == slot));
            }
        }
        // Whatever happened: when all jobs end and all leases go, every slot but the newest ones is free again.
        for job in jobs {
            ring.free(job);
        }
        for lease in leases.into_keys() {
            ring.release(lease, ms(now));
        }
        // Whatever fences there are: those who wait get all of them, one after the other, in the order of their frames.
        ring.settle(ms(now + 32), &|_| Reading::Fenced);
        let late = ms(now + 32 + 1000);
        ring.settle(late, &|_| Reading::Fenced);
        let taken: Vec<_> = std::iter::from_fn(|| ring.overrule_fence(late)).collect();
        prop_assert!(taken.is_sorted_by_key(|(_, seq)| *seq));
        let own = pinned(&ring).into_iter().filter(|slot| !ring.is_lent(*slot)).count();
        let free = ring.slots().filter(|(_, state)| *state == SlotState::Free).count();
        prop_assert_eq!(free + own, usize::from(ring.size()));
        ring.settle(late, &|_| Reading::Over);
        // Of lent ones only those are left that are the newest.
        let pinned = pinned(&ring);
        let lent = pinned.iter().filter(|slot| ring.is_lent(**slot)).count();
        let free = ring.slots().filter(|(_, state)| *state == SlotState::Free).count();
        prop_assert_eq!(free + pinned.len() - lent, usize::from(ring.size()));
        prop_assert_eq!(ring.slots().count(), usize::from(ring.size()) + lent);
    }
}
