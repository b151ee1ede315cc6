//! When a job goes into a client's own memory, and what that means for everybody else.

use super::{
    model::{op, Op, World},
    *,
};
use proptest::prelude::*;

struct Rig {
    capture: OutputCapture,
    now: u64,
    next_job: u64,
}

fn target(id: u64) -> Target {
    Target {
        id: TargetId(id),
        direct: Some(Arc::new(id)),
    }
}

impl Rig {
    fn new(config: CaptureConfig) -> Self {
        let mut capture = OutputCapture::new(config, REFRESH, Arc::new(|| {}));
        let buffers = memories(&stamped(config.slots()));
        capture.set_buffers(format(), buffers, ms(0)).unwrap();
        capture.allow_direct(PerView::new(|_| true));
        Self {
            capture,
            now: 1000,
            next_job: 1,
        }
    }

    fn now(&self) -> Time {
        ms(self.now)
    }

    /// A client that asks for a frame in its own memory.
    fn ask(&mut self, session: SessionId, id: u64) -> RequestId {
        let now = self.now();
        let request = self.capture.request_into(session, Some(target(id)), now);
        request.unwrap()
    }

    /// A commit that changed `damage`, with a job into the client's memory; `None` if the room does not want that.
    fn commit_direct(&mut self, damage: &[Rect]) -> Option<JobId> {
        let (now, cursor) = (self.now(), CursorInFrame::Absent);
        let candidate = self.capture.direct_candidate(cursor, now)?;
        let job = self.job();
        self.capture.arm_direct(job, &candidate, cursor);
        self.capture.committed(damage, Some(job));
        Some(job)
    }

    /// The same with a job into the ring.
    fn commit_ring(&mut self, damage: &[Rect]) -> Result<JobId, Skip> {
        let job = self.job();
        let now = self.now();
        self.capture.arm(job, Producer::Writeback, now)?;
        self.capture.committed(damage, Some(job));
        Ok(job)
    }

    fn job(&mut self) -> JobId {
        self.next_job += 1;
        self.now += 100;
        JobId(self.next_job)
    }

    fn complete(&mut self, job: JobId) -> Vec<CaptureEvent> {
        let now = self.now();
        self.capture.complete(job, now, now);
        self.poll()
    }

    fn poll(&mut self) -> Vec<CaptureEvent> {
        let now = self.now();
        let events = self.capture.poll(now);
        assert_eq!(self.capture.verify_invariants(), Ok(()));
        events
    }

    fn candidate(&self) -> Option<SessionId> {
        let candidate = self
            .capture
            .direct_candidate(CursorInFrame::Absent, self.now());
        candidate.map(|candidate| candidate.session())
    }

    fn demand(&mut self) -> Demand {
        let now = self.now();
        self.capture.demand(now)
    }

    /// A lone client that has its first frame already.
    fn streaming(&mut self) -> SessionId {
        let session = self.capture.open_session(ClientId(1), COPY);
        self.ask(session, 1);
        let job = self.commit_direct(&[]).unwrap();
        assert!(written(&self.complete(job)).is_some());
        session
    }
}

fn rig() -> Rig {
    Rig::new(CaptureConfig::default())
}

fn written(events: &[CaptureEvent]) -> Option<(SessionId, Vec<Rect>)> {
    match events {
        [CaptureEvent::Written {
            session, damage, ..
        }] => Some((*session, damage.clone())),
        _ => None,
    }
}

fn delivered(events: &[CaptureEvent]) -> Vec<SessionId> {
    let deliveries = events.iter().filter_map(|event| match event {
        CaptureEvent::Deliver { session, .. } => Some(*session),
        CaptureEvent::Written { .. } | CaptureEvent::Void { .. } => None,
    });
    deliveries.collect()
}

#[test]
fn a_lone_client_gets_each_picture_in_its_own_memory_with_the_damage_since_its_last_one() {
    let mut rig = rig();
    let session = rig.capture.open_session(ClientId(1), COPY);
    rig.ask(session, 1);
    assert_eq!(rig.candidate(), Some(session));
    let job = rig.commit_direct(&[rect(0, 0, 8, 8)]).unwrap();
    let events = rig.complete(job);
    assert_eq!(written(&events), Some((session, vec![format().full()])));
    // What changed while it did not ask counts too.
    rig.capture.committed(&[rect(8, 8, 8, 8)], None);
    rig.ask(session, 2);
    assert_eq!(rig.demand(), Demand::Now);
    let job = rig.commit_direct(&[rect(32, 32, 8, 8)]).unwrap();
    let (_, damage) = written(&rig.complete(job)).unwrap();
    assert_eq!(damage, [rect(8, 8, 8, 8), rect(32, 32, 8, 8)]);
    let stats = rig.capture.stats();
    assert_eq!(
        (stats.passthrough, stats.frames, stats.delivered),
        (2, 2, 2)
    );
    assert_eq!(stats.clients[&ClientId(1)].passthrough, 2);
    assert_eq!(stats.held, 0);
}

#[test]
fn company_history_a_part_or_a_word_of_the_operator_keep_jobs_in_the_ring() {
    let mut rig = rig();
    let session = rig.capture.open_session(ClientId(1), COPY);
    rig.ask(session, 1);
    let other = rig.capture.open_session(ClientId(2), EXPORT);
    assert_eq!(
        rig.candidate(),
        Some(session),
        "who does not ask is no company"
    );
    let now = rig.now();
    let request = rig.capture.request(other, now).unwrap();
    assert_eq!(rig.candidate(), None);
    rig.capture.cancel(request);
    assert_eq!(rig.candidate(), Some(session));
    rig.capture.expect_request(other, now);
    assert_eq!(rig.candidate(), None, "who is about to ask is company");
    rig.capture.close_session(other);
    assert_eq!(rig.candidate(), Some(session));
    rig.capture.allow_direct(PerView::new(|_| false));
    assert_eq!(rig.candidate(), None);

    let mut rig = Rig::new(CaptureConfig {
        history: 1,
        ..CaptureConfig::default()
    });
    let session = rig.capture.open_session(ClientId(1), COPY);
    rig.ask(session, 1);
    assert_eq!(rig.candidate(), None, "the history needs slots");

    let mut rig = self::rig();
    let part = rig
        .capture
        .open_area_session(ClientId(1), COPY, rect(0, 0, 8, 8));
    rig.ask(part, 1);
    assert_eq!(rig.candidate(), None, "the hardware writes whole pictures");
}

#[test]
fn a_view_is_never_written_with_the_wrong_cursor() {
    let mut rig = rig();
    let session = rig.capture.open_session(ClientId(1), BARE_COPY);
    rig.ask(session, 1);
    let now = rig.now();
    let of = |cursor| rig.capture.direct_candidate(cursor, now).is_some();
    assert!(!of(CursorInFrame::Shown));
    assert!(of(CursorInFrame::Absent) && of(CursorInFrame::LeftOut));
}

#[test]
fn who_comes_while_a_job_is_in_flight_gets_the_next_one_and_never_that_memory() {
    let mut rig = rig();
    let owner = rig.streaming();
    rig.ask(owner, 1);
    let direct = rig.commit_direct(&[rect(0, 0, 8, 8)]).unwrap();
    let newcomer = rig.capture.open_session(ClientId(2), EXPORT);
    let now = rig.now();
    rig.capture.request(newcomer, now).unwrap();
    assert_eq!(
        rig.demand(),
        Demand::Now,
        "the job in flight is not for all"
    );
    let events = rig.complete(direct);
    assert_eq!(written(&events).unwrap().0, owner);
    rig.ask(owner, 1);
    assert_eq!(rig.candidate(), None);
    let ring = rig.commit_ring(&[rect(8, 8, 8, 8)]).unwrap();
    assert_eq!(delivered(&rig.complete(ring)), [owner, newcomer]);
}

#[test]
fn what_only_the_owner_has_seen_is_due_to_everybody_else() {
    let mut rig = rig();
    let other = rig.capture.open_session(ClientId(2), COPY);
    let now = rig.now();
    rig.capture.request(other, now).unwrap();
    let job = rig.commit_ring(&[]).unwrap();
    assert_eq!(delivered(&rig.complete(job)), [other]);
    rig.now += 100;
    let owner = rig.capture.open_session(ClientId(1), COPY);
    rig.ask(owner, 1);
    // The picture in the ring is current, and good enough for a first one.
    assert_eq!(delivered(&rig.poll()), [owner]);
    rig.now += 100;
    rig.ask(owner, 1);
    let job = rig.commit_direct(&[rect(0, 0, 8, 8)]).unwrap();
    assert!(written(&rig.complete(job)).is_some());
    assert!(rig.capture.newest(View::WithCursor).is_none(), "stale");
    rig.now += 100;
    let now = rig.now();
    rig.capture.request(other, now).unwrap();
    assert!(rig.poll().is_empty());
    assert_eq!(rig.demand(), Demand::Now);
    let job = rig.commit_ring(&[]).unwrap();
    let events = rig.complete(job);
    let [CaptureEvent::Deliver { damage, .. }] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(*damage, [rect(0, 0, 8, 8)]);
}

#[test]
fn memory_under_a_job_is_written_by_nobody_else_whatever_becomes_of_its_frame() {
    let mut rig = rig();
    let session = rig.streaming();
    let request = rig.ask(session, 7);
    let job = rig.commit_direct(&[rect(0, 0, 8, 8)]).unwrap();
    // The frame object is destroyed, and the next one names the same memory.
    rig.capture.cancel(request);
    rig.capture.invalidate_session(session);
    rig.ask(session, 7);
    assert_eq!(rig.demand(), Demand::None);
    assert!(rig.poll().is_empty());
    assert!(rig.complete(job).is_empty(), "nobody waits for that one");
    assert_eq!(rig.demand(), Demand::Now);
    let job = rig.commit_direct(&[]).unwrap();
    let (_, damage) = written(&rig.complete(job)).unwrap();
    assert_eq!(damage, [format().full()]);
}

#[test]
fn memory_under_a_copy_gets_no_job_and_no_other_copy_whatever_becomes_of_its_frame() {
    for closed in [false, true] {
        let mut rig = rig();
        let mut session = rig.streaming();
        let request = rig.ask(session, 7);
        rig.capture.refuse_direct(session);
        let job = rig.commit_ring(&[rect(0, 0, 8, 8)]).unwrap();
        let copy = rig.complete(job);
        assert_eq!(delivered(&copy), [session]);
        // The frame object is destroyed while a worker copies, and perhaps its session; the next one names the same memory.
        rig.capture.cancel(request);
        rig.capture.invalidate_session(session);
        if closed {
            rig.capture.close_session(session);
            session = rig.capture.open_session(ClientId(1), COPY);
        }
        rig.ask(session, 7);
        // Other memory is free.
        let other = rig.capture.open_session(ClientId(2), COPY);
        rig.ask(other, 8);
        assert_eq!(delivered(&rig.poll()), [other]);
        rig.capture.close_session(other);
        rig.capture.committed(&[rect(8, 8, 8, 8)], None);
        assert_eq!((rig.candidate(), rig.demand()), (None, Demand::None));
        assert!(rig.commit_ring(&[]).is_err(), "it would be copied there");
        drop(copy);
        assert!(rig.poll().is_empty());
        assert_eq!(
            (rig.candidate(), rig.demand()),
            (Some(session), Demand::Now)
        );
        let job = rig.commit_direct(&[]).unwrap();
        let (_, damage) = written(&rig.complete(job)).unwrap();
        assert_eq!(damage, [format().full()]);
    }
}

#[test]
fn memory_that_a_copy_without_end_may_write_gets_no_job_and_other_memory_does() {
    let mut rig = rig();
    let session = rig.streaming();
    rig.ask(session, 7);
    rig.capture.refuse_target(TargetId(8));
    assert_eq!(rig.candidate(), Some(session));
    rig.capture.refuse_target(TargetId(7));
    assert_eq!(rig.candidate(), None);
    let job = rig.commit_ring(&[rect(0, 0, 8, 8)]).unwrap();
    assert_eq!(delivered(&rig.complete(job)), [session]);
    rig.ask(session, 8);
    assert_eq!(rig.candidate(), Some(session));
}

#[test]
fn an_overdue_job_is_never_believed_and_its_memory_is_free_with_its_fence_or_with_a_proof() {
    for proof in [false, true] {
        let mut rig = rig();
        let session = rig.streaming();
        rig.ask(session, 7);
        let job = rig.commit_direct(&[rect(0, 0, 8, 8)]).unwrap();
        rig.capture.overdue(job);
        assert!(rig.capture.waits_for_proof());
        assert_eq!(rig.demand(), Demand::None);
        let now = rig.now();
        assert_eq!(rig.capture.complete(job, now, now), Completion::Unknown);
        assert_eq!(rig.capture.release_targets(Some(job)), []);
        assert!(rig.capture.waits_for_proof(), "it is still in flight");
        match proof {
            true => assert_eq!(rig.capture.release_targets(None), [job]),
            false => rig.capture.late_fence(job),
        }
        assert!(!rig.capture.waits_for_proof());
        assert_eq!(rig.demand(), Demand::Now);
        assert_eq!(rig.candidate(), None, "one such job for a request");
        let job = rig.commit_ring(&[]).unwrap();
        assert_eq!(delivered(&rig.complete(job)), [session]);
        rig.ask(session, 8);
        rig.now += 100;
        assert!(rig.commit_direct(&[rect(0, 0, 8, 8)]).is_some());
    }
}

#[test]
fn a_job_that_fails_is_followed_by_one_into_the_ring_and_a_commit_that_fails_by_another_try() {
    let mut rig = rig();
    let session = rig.streaming();
    rig.ask(session, 1);
    let job = rig.commit_direct(&[rect(0, 0, 8, 8)]).unwrap();
    rig.capture.unarm(job);
    assert_eq!(rig.candidate(), Some(session));
    let job = rig.commit_direct(&[rect(0, 0, 8, 8)]).unwrap();
    rig.capture.fail(job);
    assert_eq!((rig.candidate(), rig.demand()), (None, Demand::Now));
    let job = rig.commit_ring(&[]).unwrap();
    assert_eq!(delivered(&rig.complete(job)), [session]);
    // The next request begins anew, and nothing is captured ahead of it.
    let now = rig.now();
    rig.capture.expect_request(session, now);
    assert!(rig.commit_ring(&[rect(0, 0, 8, 8)]).is_err());
    rig.ask(session, 1);
    assert_eq!(rig.candidate(), Some(session));
}

#[test]
fn a_change_of_mode_voids_the_job_in_flight() {
    let mut rig = rig();
    let session = rig.streaming();
    rig.ask(session, 1);
    let job = rig.commit_direct(&[]).unwrap_or(JobId(0));
    let now = rig.now();
    let buffers = memories(&stamped(4));
    rig.capture.set_buffers(format(), buffers, now).unwrap();
    assert!(rig.complete(job).is_empty());
    assert_eq!(rig.demand(), Demand::Now);
    let job = rig.commit_direct(&[]).unwrap();
    assert_eq!(written(&rig.complete(job)).unwrap().0, session);
}

#[test]
fn a_job_of_before_counts_until_it_is_over_whether_it_is_in_time_and_whatever_it_writes() {
    for (direct, late) in [(true, false), (true, true), (false, false), (false, true)] {
        for proof in [false, true] {
            let mut rig = rig();
            let session = rig.streaming();
            rig.ask(session, 7);
            let job = match direct {
                true => rig.commit_direct(&[rect(0, 0, 8, 8)]).unwrap(),
                false => rig.commit_ring(&[rect(0, 0, 8, 8)]).unwrap(),
            };
            assert!(!rig.capture.has_old_jobs(), "it shows the present");
            if late {
                rig.capture.overdue(job);
            }
            // As when the session is locked.
            let now = rig.now();
            rig.capture.clear_buffers(now);
            let buffers = memories(&stamped(4));
            rig.capture.set_buffers(format(), buffers, now).unwrap();
            assert!(rig.capture.has_old_jobs());
            if !late {
                // The commit of the next picture did not wait for it.
                rig.capture.overdue(job);
            }
            drop(rig.capture.release_targets(Some(job)));
            assert!(rig.capture.has_old_jobs(), "it may still be written");
            assert!(rig.capture.waits_for_proof(), "a probe would tell");
            match proof {
                true => drop(rig.capture.release_targets(None)),
                false => rig.capture.late_fence(job),
            }
            assert!(!rig.capture.has_old_jobs() && !rig.capture.waits_for_proof());
            assert!(rig.poll().is_empty(), "nobody is told of it");
        }
    }
}

#[test]
fn a_proof_of_the_connector_says_nothing_of_what_a_gpu_still_draws() {
    let mut rig = rig();
    let session = rig.streaming();
    rig.ask(session, 7);
    let (job, now) = (JobId(900), rig.now());
    let slot = rig
        .capture
        .arm_view(job, Producer::Render, CursorInFrame::Absent, now);
    slot.unwrap();
    rig.capture.committed(&[rect(0, 0, 8, 8)], Some(job));
    rig.capture.overdue(job);
    rig.capture.clear_buffers(now);
    let buffers = memories(&stamped(4));
    rig.capture.set_buffers(format(), buffers, now).unwrap();
    assert!(!rig.capture.waits_for_proof(), "no probe would tell");
    drop(rig.capture.release_targets(None));
    assert!(rig.capture.has_old_jobs(), "it may still be drawn");
    rig.capture.late_fence(job);
    assert!(!rig.capture.has_old_jobs());
}

#[test]
fn a_picture_that_is_complete_but_not_told_when_all_have_to_go_is_given_to_nobody() {
    let mut rig = rig();
    let session = rig.streaming();
    let request = rig.ask(session, 1);
    let job = rig.commit_direct(&[rect(0, 0, 8, 8)]).unwrap();
    let now = rig.now();
    assert!(matches!(
        rig.capture.complete(job, now, now),
        Completion::Written(_)
    ));
    // As when the session is locked.
    rig.capture.clear_buffers(now);
    let buffers = memories(&stamped(4));
    rig.capture.set_buffers(format(), buffers, now).unwrap();
    assert!(rig.poll().is_empty());
    let job = rig.commit_ring(&[]).unwrap();
    match &rig.complete(job)[..] {
        [CaptureEvent::Deliver {
            request: answered, ..
        }] => assert_eq!(*answered, request),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stream_into_its_own_memory_is_not_captured_ahead_and_any_other_is() {
    for direct in [true, false] {
        let mut rig = rig();
        let session = rig.capture.open_session(ClientId(1), COPY);
        for n in 0..3 {
            match direct {
                true => drop(rig.ask(session, 1)),
                false => {
                    let now = rig.now();
                    rig.capture.request(session, now).unwrap();
                }
            }
            let damage = [rect(n * 8, 0, 8, 8)];
            let job = match direct {
                true => rig.commit_direct(&damage).unwrap(),
                false => rig.commit_ring(&damage).unwrap(),
            };
            rig.complete(job);
            // Back at once, as a stream is.
            rig.now -= 90;
        }
        let now = rig.now();
        rig.capture.expect_request(session, now);
        assert_eq!(
            rig.demand(),
            Demand::OnDamage,
            "the display leaves it the gap"
        );
        rig.next_job += 1;
        let (job, now) = (JobId(rig.next_job), rig.now());
        let ahead = rig.capture.arm(job, Producer::Writeback, now);
        assert_eq!(ahead.is_err(), direct);
    }
}

/// One buffer of two cannot be written, or neither. What is captured ahead would take the next request from the hardware.
#[test]
fn a_buffer_that_is_refused_costs_the_other_one_nothing() {
    for bad in [&[1][..], &[1, 2]] {
        let mut rig = rig();
        let session = rig.capture.open_session(ClientId(1), COPY);
        let (mut passed, mut ahead) = (0, 0);
        for turn in 0..20 {
            let id = 1 + turn % 2;
            rig.ask(session, id);
            let damage = [rect(0, 0, 8, 8)];
            let mut events = rig.poll();
            if events.is_empty() {
                if bad.contains(&id) {
                    assert_eq!(rig.candidate(), Some(session));
                    rig.capture.refuse_direct(session);
                }
                let job = rig.commit_direct(&damage);
                let job = job.or_else(|| rig.commit_ring(&damage).ok());
                events = rig.complete(job.unwrap());
            }
            passed += i32::from(written(&events).is_some());
            // Before the copy is over, and the client is back at once.
            if let Ok(job) = rig.commit_ring(&damage) {
                ahead += 1;
                rig.complete(job);
            }
            drop(events);
            rig.poll();
            rig.now -= 190;
        }
        match bad {
            [_] => assert_eq!((passed, ahead), (10, 0)),
            _ => assert!(passed == 0 && ahead >= 9, "{ahead} captured ahead"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    /// Lone clients are common; the random lives of many are not where passthrough happens most.
    #[test]
    fn a_lone_client_is_written_to_directly_again_whatever_happened_before(
        ops in prop::collection::vec(op(), 1..150),
    ) {
        let mut world = World::new(4);
        for op in ops {
            world.apply(op);
        }
        if world.capture.format().is_none() {
            world.apply(Op::Resize(4));
        }
        world.apply(Op::Allow(true));
        world.calm_down();
        world.drop_all_leases();
        for client in 0..4 {
            world.apply(Op::Kill(client));
        }
        world.show_cursor(None);
        let session = world.open_copy(2000);
        // The first is taken from the ring, if that is current.
        world.request_into(session, 0, true);
        world.poll();
        let before = world.passed_through;
        for n in 0..20 {
            world.request_into(session, n % 2, true);
            world.now += 16;
            world.commit(Some((1, 1, 2, 2)), true, true);
            world.complete(0);
            world.poll();
            world.drop_all_leases();
        }
        let passed = world.passed_through - before;
        prop_assert!(passed >= 19, "{passed} of 20");
    }
}
