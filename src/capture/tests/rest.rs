//! An output that is off: what waits, what is kept, what is never given.

use super::{
    rules::{capture_commit, deliveries, output},
    *,
};

fn full() -> Rect {
    format().full()
}

/// A session of each kind that has a frame, and asks for the next.
fn waiting(capture: &mut OutputCapture, kind: SessionKind) -> (SessionId, Vec<CaptureEvent>) {
    let session = capture.open_session(ClientId(1), kind);
    capture.request(session, ms(0)).unwrap();
    capture_commit(capture, 1, &[full()], 0);
    let events = capture.poll(ms(0));
    assert_eq!(deliveries(&events).len(), 1);
    capture.request(session, ms(1)).unwrap();
    (session, events)
}

#[test]
fn who_waits_is_answered_with_a_whole_frame_of_after_the_rest() {
    for kind in [EXPORT, COPY] {
        let mut capture = output();
        let (session, held) = waiting(&mut capture, kind);
        capture.rest();
        assert_eq!(capture.demand(ms(2)), Demand::None);
        assert_eq!(
            capture.arm(JobId(2), Producer::Writeback, ms(2)),
            Err(Skip::NoDemand)
        );
        // Whoever comes meanwhile waits, too, although there is a newest frame.
        let late = capture.open_session(ClientId(2), kind);
        capture.request(late, ms(3)).unwrap();
        assert!(capture.poll(ms(4)).is_empty());
        capture.end_rest();
        assert!(capture.poll(ms(5)).is_empty());
        assert_eq!(capture.demand(ms(5)), Demand::Now);
        drop(held);
        let seq = capture_commit(&mut capture, 2, &[], 6);
        let mut got = deliveries(&capture.poll(ms(6)));
        got.sort_by_key(|(session, ..)| *session);
        assert_eq!(
            got,
            [(session, seq, vec![full()]), (late, seq, vec![full()])]
        );
    }
}

#[test]
fn a_job_of_before_ends_and_is_shown_to_nobody() {
    let mut capture = output();
    let (session, held) = waiting(&mut capture, EXPORT);
    capture.arm(JobId(2), Producer::Writeback, ms(2)).unwrap();
    capture.committed(&[full()], Some(JobId(2)));
    capture.rest();
    assert_eq!(
        capture.complete(JobId(2), ms(2), ms(3)),
        Completion::Discarded
    );
    assert!(capture.poll(ms(3)).is_empty());
    capture.end_rest();
    assert_eq!(capture.demand(ms(4)), Demand::Now);
    let seq = capture_commit(&mut capture, 3, &[], 4);
    assert_eq!(
        deliveries(&capture.poll(ms(4))),
        [(session, seq, vec![full()])]
    );
    drop(held);
}

/// The newest frame is pinned as long as there is no newer one, so that its holder costs nobody anything and is not late.
#[test]
fn who_holds_the_last_frame_through_a_long_rest_gets_the_next_one() {
    let mut capture = output();
    let (session, held) = waiting(&mut capture, EXPORT);
    capture.rest();
    assert!(capture.poll(ms(60_000)).is_empty());
    capture.end_rest();
    let seq = capture_commit(&mut capture, 2, &[], 60_001);
    assert_eq!(
        deliveries(&capture.poll(ms(60_001))),
        [(session, seq, vec![full()])]
    );
    assert_eq!(capture.stats().voids, 0);
    drop(held);
}

#[test]
fn a_picture_that_was_written_and_not_told_is_told_to_nobody() {
    let mut capture = output();
    capture.allow_direct(PerView::new(|_| true));
    let session = capture.open_session(ClientId(1), COPY);
    let target = Target {
        id: TargetId(1),
        direct: Some(Arc::new(1u64)),
    };
    capture.request_into(session, Some(target), ms(0)).unwrap();
    let candidate = capture.direct_candidate(CursorInFrame::Absent, ms(0));
    capture.arm_direct(JobId(1), &candidate.unwrap(), CursorInFrame::Absent);
    capture.committed(&[full()], Some(JobId(1)));
    let completion = capture.complete(JobId(1), ms(1), ms(1));
    assert!(matches!(completion, Completion::Written(_)));
    capture.rest();
    assert!(capture.poll(ms(2)).is_empty());
    assert_eq!(capture.verify_invariants(), Ok(()));
    capture.end_rest();
    let seq = capture_commit(&mut capture, 2, &[], 3);
    assert_eq!(
        deliveries(&capture.poll(ms(3))),
        [(session, seq, vec![full()])]
    );
}

#[test]
fn the_history_keeps_what_it_has() {
    let config = CaptureConfig {
        history: 2,
        ..CaptureConfig::default()
    };
    let mut capture = OutputCapture::new(config, REFRESH, Arc::new(|| {}));
    let memory = stamped(config.slots());
    capture
        .set_buffers(format(), memories(&memory), ms(0))
        .unwrap();
    let kept = |capture: &OutputCapture| -> Vec<FrameSeq> {
        let history = capture.history();
        history.iter().map(|lease| lease.frame().seq).collect()
    };
    let mut all = Vec::new();
    for job in 1..=3 {
        all.push(capture_commit(&mut capture, job, &[full()], job));
        capture.poll(ms(job));
    }
    capture.rest();
    capture.poll(ms(10));
    assert_eq!(kept(&capture), all[1..]);
    capture.end_rest();
    assert_eq!(capture.demand(ms(11)), Demand::Now);
    all.push(capture_commit(&mut capture, 4, &[], 11));
    capture.poll(ms(11));
    assert_eq!(kept(&capture), all[2..]);
}
