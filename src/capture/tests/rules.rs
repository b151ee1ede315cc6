//! The rules of delivery, one by one.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

pub fn output() -> OutputCapture {
    let mut capture = OutputCapture::new(CaptureConfig::default(), REFRESH, Arc::new(|| {}));
    capture
        .set_buffers(format(), memories(&stamped(4)), ms(0))
        .unwrap();
    capture
}

/// One captured commit, from the question to the fence.
pub fn capture_commit(
    capture: &mut OutputCapture,
    job: u64,
    damage: &[Rect],
    now: u64,
) -> FrameSeq {
    capture
        .arm(JobId(job), Producer::Writeback, ms(now))
        .unwrap();
    capture.committed(damage, Some(JobId(job)));
    match capture.complete(JobId(job), ms(now), ms(now)) {
        Completion::Published(seq) => seq,
        other => panic!("{other:?}"),
    }
}

pub fn deliveries(events: &[CaptureEvent]) -> Vec<(SessionId, FrameSeq, Vec<Rect>)> {
    let deliveries = events.iter().filter_map(|event| match event {
        CaptureEvent::Deliver {
            session,
            lease,
            damage,
            ..
        } => Some((*session, lease.frame().seq, damage.clone())),
        CaptureEvent::Void { .. } | CaptureEvent::Written { .. } => None,
    });
    deliveries.collect()
}

#[test]
fn nobody_asks_so_nothing_is_captured() {
    let mut capture = output();
    assert_eq!(capture.demand(ms(0)), Demand::None);
    assert_eq!(
        capture.arm(JobId(1), Producer::Writeback, ms(0)),
        Err(Skip::NoDemand)
    );
    capture.open_session(ClientId(1), EXPORT);
    assert_eq!(capture.demand(ms(0)), Demand::None);
    assert_eq!(capture.stats().jobs, 0);
}

#[test]
fn eight_clients_share_one_job_and_one_slot() {
    let mut capture = output();
    for client in 0..8 {
        let session = capture.open_session(ClientId(client), EXPORT);
        capture.request(session, ms(1)).unwrap();
    }
    assert_eq!(capture.demand(ms(1)), Demand::Now);
    let seq = capture_commit(&mut capture, 1, &[], 1);
    let events = capture.poll(ms(2));
    let all = deliveries(&events);
    assert_eq!(all.len(), 8);
    assert!(all
        .iter()
        .all(|(_, have, damage)| *have == seq && *damage == [format().full()]));
    let stats = capture.stats();
    assert_eq!(
        (stats.jobs, stats.frames, stats.held, stats.delivered),
        (1, 1, 1, 8)
    );
}

#[test]
fn a_first_request_takes_the_newest_frame_only_while_it_is_current() {
    let mut capture = output();
    let first = capture.open_session(ClientId(1), COPY);
    capture.request(first, ms(1)).unwrap();
    assert_eq!(capture.demand(ms(1)), Demand::Now);
    let seq = capture_commit(&mut capture, 1, &[], 1);
    drop(capture.poll(ms(2)));
    let second = capture.open_session(ClientId(2), COPY);
    capture.request(second, ms(3)).unwrap();
    let events = capture.poll(ms(3));
    assert_eq!(deliveries(&events), [(second, seq, vec![format().full()])]);
    // A commit that nobody captured makes it stale.
    capture.committed(&[rect(0, 0, 1, 1)], None);
    let third = capture.open_session(ClientId(3), COPY);
    capture.request(third, ms(4)).unwrap();
    assert!(capture.poll(ms(4)).is_empty());
    assert_eq!(capture.demand(ms(4)), Demand::Now);
}

#[test]
fn a_copy_session_that_has_seen_it_all_waits_for_damage() {
    let mut capture = output();
    let session = capture.open_session(ClientId(1), COPY);
    capture.request(session, ms(1)).unwrap();
    capture_commit(&mut capture, 1, &[], 1);
    drop(capture.poll(ms(2)));
    capture.request(session, ms(3)).unwrap();
    assert!(capture.poll(ms(3)).is_empty());
    assert_eq!(capture.demand(ms(3)), Demand::OnDamage);
    // A frame for somebody else that changed nothing does not wake it.
    let export = capture.open_session(ClientId(2), EXPORT);
    capture.request(export, ms(4)).unwrap();
    drop(capture.poll(ms(4)));
    capture.request(export, ms(4)).unwrap();
    assert_eq!(capture.demand(ms(4)), Demand::Now);
    let seq = capture_commit(&mut capture, 2, &[], 4);
    let events = capture.poll(ms(5));
    assert_eq!(deliveries(&events), [(export, seq, vec![])]);
    // What an uncaptured commit changed is due at once, and delivered with what changes then.
    capture.committed(&[rect(1, 1, 2, 2)], None);
    assert_eq!(capture.demand(ms(6)), Demand::Now);
    let seq = capture_commit(&mut capture, 3, &[rect(8, 8, 2, 2)], 6);
    let events = capture.poll(ms(7));
    let damage = vec![rect(1, 1, 2, 2), rect(8, 8, 2, 2)];
    assert_eq!(deliveries(&events), [(session, seq, damage)]);
}

#[test]
fn a_session_that_missed_a_frame_is_answered_at_once() {
    let mut capture = output();
    let slow = capture.open_session(ClientId(1), COPY);
    let fast = capture.open_session(ClientId(2), COPY);
    for session in [slow, fast] {
        capture.request(session, ms(1)).unwrap();
    }
    capture_commit(&mut capture, 1, &[], 1);
    drop(capture.poll(ms(2)));
    for (job, x) in [(2, 0), (3, 8)] {
        capture.request(fast, ms(job)).unwrap();
        capture_commit(&mut capture, job, &[rect(x, 0, 4, 4)], job);
        drop(capture.poll(ms(job)));
    }
    capture.request(slow, ms(9)).unwrap();
    let events = capture.poll(ms(9));
    let damage = vec![rect(0, 0, 4, 4), rect(8, 0, 4, 4)];
    assert_eq!(deliveries(&events), [(slow, FrameSeq(2), damage)]);
}

#[test]
fn an_invalidated_session_is_answered_at_once_and_in_full() {
    let mut capture = output();
    let session = capture.open_session(ClientId(1), COPY);
    capture.request(session, ms(1)).unwrap();
    let seq = capture_commit(&mut capture, 1, &[], 1);
    drop(capture.poll(ms(2)));
    capture.invalidate_session(session);
    capture.request(session, ms(3)).unwrap();
    let events = capture.poll(ms(3));
    assert_eq!(deliveries(&events), [(session, seq, vec![format().full()])]);
}

#[test]
fn a_request_that_comes_while_a_job_is_in_flight_wants_no_second_one() {
    let mut capture = output();
    let first = capture.open_session(ClientId(1), EXPORT);
    capture.request(first, ms(1)).unwrap();
    capture.arm(JobId(1), Producer::Writeback, ms(1)).unwrap();
    capture.committed(&[rect(0, 0, 9, 9)], Some(JobId(1)));
    let second = capture.open_session(ClientId(2), COPY);
    capture.request(second, ms(2)).unwrap();
    assert_eq!(capture.demand(ms(2)), Demand::None);
    // The display moves on before the fence. Those who waited get the frame all the same, with its own time.
    capture.committed(&[rect(0, 0, 1, 1)], None);
    assert_eq!(
        capture.complete(JobId(1), ms(1), ms(30)),
        Completion::Published(FrameSeq(0))
    );
    assert_eq!(capture.newest(View::WithCursor).unwrap().presented, ms(1));
    assert_eq!(deliveries(&capture.poll(ms(30))).len(), 2);
}

#[test]
fn the_damage_of_a_lost_job_is_in_the_next_frame() {
    let mut capture = output();
    let session = capture.open_session(ClientId(1), COPY);
    capture.request(session, ms(1)).unwrap();
    capture_commit(&mut capture, 1, &[], 1);
    drop(capture.poll(ms(1)));
    capture.request(session, ms(2)).unwrap();
    capture.arm(JobId(2), Producer::Writeback, ms(2)).unwrap();
    capture.committed(&[rect(0, 0, 4, 4)], Some(JobId(2)));
    capture.overdue(JobId(2));
    assert_eq!(capture.demand(ms(3)), Demand::Now);
    capture_commit(&mut capture, 3, &[], 4);
    assert_eq!(
        deliveries(&capture.poll(ms(4))),
        [(session, FrameSeq(1), vec![rect(0, 0, 4, 4)])]
    );
    let stats = capture.stats();
    assert_eq!(
        (stats.lost, stats.quarantined, stats.late_fences),
        (1, 1, 0)
    );
    // Its fence comes at last: the slot is free, and the frame is not shown.
    assert_eq!(
        capture.complete(JobId(2), ms(2), ms(50)),
        Completion::Unknown
    );
    capture.late_fence(JobId(2));
    assert_eq!(capture.stats().quarantined, 0);
    assert_eq!(capture.newest(View::WithCursor).unwrap().seq, FrameSeq(1));
}

#[test]
fn a_released_export_slot_rests_for_the_grace_and_the_display_skips() {
    let mut capture = OutputCapture::new(CaptureConfig::default(), REFRESH, Arc::new(|| {}));
    capture
        .set_buffers(format(), memories(&stamped(3)), ms(0))
        .unwrap();
    // Two viewers hold one older frame each, so that with the newest the ring of three is full.
    let viewers: Vec<_> = (0..3)
        .map(|client| capture.open_session(ClientId(client), EXPORT))
        .collect();
    let mut held = Vec::new();
    for (job, session) in (1..).zip(&viewers) {
        capture.request(*session, ms(job)).unwrap();
        held.extend(capture.poll(ms(job)));
        if held.len() < job as usize {
            capture_commit(&mut capture, job, &[rect(0, 0, 1, 1)], job);
            held.extend(capture.poll(ms(job)));
        }
        // The next viewer's first frame must be a new one.
        capture.committed(&[rect(0, 0, 1, 1)], None);
    }
    assert_eq!(capture.stats().held, 3);
    capture.request(viewers[2], ms(10)).unwrap();
    assert_eq!(
        capture.arm(JobId(9), Producer::Writeback, ms(10)),
        Err(Skip::NoFreeSlot)
    );
    drop(held.remove(0));
    assert_eq!(
        capture.arm(JobId(9), Producer::Writeback, ms(10)),
        Err(Skip::Draining)
    );
    assert_eq!(capture.next_deadline(), Some(ms(42)));
    assert_eq!(
        capture.arm(JobId(9), Producer::Writeback, ms(41)),
        Err(Skip::Draining)
    );
    assert!(capture.arm(JobId(9), Producer::Writeback, ms(42)).is_ok());
    // Whether anything was committed instead is not known here.
    assert_eq!(capture.stats().skipped.wanted(), 0);
    capture.note_skip(Skip::Draining);
    capture.note_skip(Skip::NoDemand);
    let skipped = capture.stats().skipped;
    assert_eq!((skipped.draining, skipped.no_demand), (1, 1));
    assert_eq!(skipped.wanted(), 1);
}

#[test]
fn the_newest_frame_may_be_kept_while_nothing_newer_is_there() {
    // Clients keep what they show until the next frame comes. If the display stands still, that is not their fault.
    let mut capture = output();
    let session = capture.open_session(ClientId(1), EXPORT);
    capture.request(session, ms(1)).unwrap();
    capture_commit(&mut capture, 1, &[], 1);
    let held = capture.poll(ms(1));
    capture.request(session, ms(2)).unwrap();
    assert!(capture.poll(ms(100_000)).is_empty());
    assert_eq!(capture.demand(ms(100_000)), Demand::Now);
    capture_commit(&mut capture, 2, &[], 100_000);
    assert_eq!(deliveries(&capture.poll(ms(100_000))).len(), 1);
    drop(held);
}

#[test]
fn over_quota_a_request_waits_and_wants_no_job() {
    let mut capture = output();
    let session = capture.open_session(ClientId(1), EXPORT);
    let mut held = Vec::new();
    for job in 1..3 {
        capture.request(session, ms(job)).unwrap();
        capture_commit(&mut capture, job, &[], job);
        held.extend(capture.poll(ms(job)));
    }
    assert_eq!(held.len(), 2);
    for _ in 0..requests::MAX_WAITING {
        capture.request(session, ms(3)).unwrap();
    }
    assert_eq!(capture.request(session, ms(3)), Err(RequestError::TooMany));
    assert_eq!(capture.demand(ms(3)), Demand::None);
    drop(held.remove(0));
    assert_eq!(capture.demand(ms(4)), Demand::Now);
    assert_eq!(capture.stats().clients[&ClientId(1)].refused, 1);
}

/// It may still read what it holds, and nobody else needs the slot: there is no reason to take it back.
#[test]
fn who_holds_an_old_frame_past_the_deadline_waits_until_it_lets_go_and_loses_nothing_while_there_is_room(
) {
    let mut capture = output();
    let [holder, other] = [1, 2].map(|client| capture.open_session(ClientId(client), EXPORT));
    capture.request(holder, ms(1)).unwrap();
    capture_commit(&mut capture, 1, &[], 1);
    let held = capture.poll(ms(1));
    capture.request(other, ms(2)).unwrap();
    drop(capture.poll(ms(2)));
    capture.request(other, ms(10)).unwrap();
    let newest = capture_commit(&mut capture, 2, &[], 10);
    assert_eq!(deliveries(&capture.poll(ms(10)))[0].0, other);
    capture.request(holder, ms(1010)).unwrap();
    for now in [1010, 5000] {
        assert!(capture.poll(ms(now)).is_empty(), "neither served nor void");
        assert_eq!(capture.demand(ms(now)), Demand::None);
    }
    let stats = capture.stats();
    let of_holder = &stats.clients[&ClientId(1)];
    assert_eq!((of_holder.overdue, of_holder.voids), (1, 0));
    drop(held);
    let answer = deliveries(&capture.poll(ms(5001)));
    assert_eq!((answer[0].0, answer[0].1), (holder, newest));
}

#[test]
fn a_change_of_mode_starts_all_sessions_anew_and_keeps_held_frames() {
    let mut capture = output();
    let session = capture.open_session(ClientId(1), EXPORT);
    capture.request(session, ms(1)).unwrap();
    capture_commit(&mut capture, 1, &[], 1);
    let held = capture.poll(ms(1));
    capture.request(session, ms(2)).unwrap();
    capture.arm(JobId(2), Producer::Writeback, ms(2)).unwrap();
    capture.committed(&[], Some(JobId(2)));
    assert_eq!(
        capture.set_buffers(format(), memories(&stamped(4)), ms(3)),
        Ok(2)
    );
    assert_eq!(capture.stats().buffers, 4 + 2);
    assert_eq!(
        capture.complete(JobId(2), ms(3), ms(3)),
        Completion::Discarded
    );
    assert_eq!(capture.stats().buffers, 4 + 1);
    assert_eq!(capture.demand(ms(3)), Demand::Now);
    drop(held);
    capture.poll(ms(3));
    assert_eq!(capture.stats().buffers, 4);
    capture.clear_buffers(ms(4));
    assert_eq!(capture.stats().buffers, 0);
    assert_eq!(capture.demand(ms(4)), Demand::None);
    assert_eq!(
        capture.arm(JobId(3), Producer::Writeback, ms(4)),
        Err(Skip::NoBuffers)
    );
}

#[test]
fn two_buffers_are_no_ring() {
    let mut capture = OutputCapture::new(CaptureConfig::default(), REFRESH, Arc::new(|| {}));
    let refused = capture.set_buffers(format(), memories(&stamped(2)), ms(0));
    assert_eq!(refused, Err(BufferError::TooFew { given: 2 }));
}

#[test]
fn a_lease_dropped_on_another_thread_wakes_the_loop_once_per_batch() {
    let woken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&woken);
    let waker = Arc::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let mut capture = OutputCapture::new(CaptureConfig::default(), REFRESH, waker);
    capture
        .set_buffers(format(), memories(&stamped(3)), ms(0))
        .unwrap();
    for client in 0..3 {
        let session = capture.open_session(ClientId(client), COPY);
        capture.request(session, ms(1)).unwrap();
    }
    capture_commit(&mut capture, 1, &[], 1);
    let events = capture.poll(ms(1));
    assert_eq!(events.len(), 3);
    std::thread::spawn(move || drop(events)).join().unwrap();
    assert_eq!(woken.load(Ordering::Relaxed), 1);
    capture.poll(ms(2));
    assert_eq!(capture.stats().held, 0);
}

#[test]
fn a_session_that_looks_at_an_area_waits_for_damage_there() {
    let mut capture = output();
    let area = rect(10, 10, 20, 20);
    let session = capture.open_area_session(ClientId(1), COPY, area);
    capture.request(session, ms(1)).unwrap();
    let first = capture_commit(&mut capture, 1, &[], 1);
    assert_eq!(
        deliveries(&capture.poll(ms(1))),
        [(session, first, vec![area])]
    );
    capture.request(session, ms(2)).unwrap();
    // Elsewhere, captured or not: no reason to capture for this one.
    capture.committed(&[rect(0, 0, 10, 64)], None);
    assert_eq!(capture.demand(ms(2)), Demand::OnDamage);
    capture_commit(&mut capture, 2, &[rect(30, 0, 10, 64)], 2);
    assert!(capture.poll(ms(2)).is_empty());
    assert_eq!(capture.demand(ms(2)), Demand::OnDamage);
    capture.committed(&[rect(0, 0, 11, 11)], None);
    assert_eq!(capture.demand(ms(3)), Demand::Now);
    let third = capture_commit(&mut capture, 3, &[], 3);
    assert_eq!(
        deliveries(&capture.poll(ms(3))),
        [(session, third, vec![rect(10, 10, 1, 1)])]
    );
    capture.verify_invariants().unwrap();
}

#[test]
fn a_fresh_request_is_answered_by_a_newer_frame_without_damage() {
    let mut capture = output();
    let session = capture.open_session(ClientId(1), COPY);
    capture.request_fresh(session, None, ms(1)).unwrap();
    let first = capture_commit(&mut capture, 1, &[], 1);
    assert_eq!(deliveries(&capture.poll(ms(1)))[0].1, first);
    capture.request_fresh(session, None, ms(2)).unwrap();
    assert!(capture.poll(ms(2)).is_empty(), "the same frame twice");
    assert_eq!(capture.demand(ms(2)), Demand::Now);
    capture.arm(JobId(2), Producer::Writeback, ms(2)).unwrap();
    capture.committed(&[], Some(JobId(2)));
    assert_eq!(capture.demand(ms(2)), Demand::None, "one job is enough");
    capture.complete(JobId(2), ms(2), ms(2));
    let delivered = deliveries(&capture.poll(ms(2)));
    assert_eq!(delivered.len(), 1);
    assert!(delivered[0].1 > first);
    // The wish ends with its request.
    capture.request(session, ms(3)).unwrap();
    assert_eq!(capture.demand(ms(3)), Demand::OnDamage);
}
