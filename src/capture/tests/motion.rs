//! Full motion: pictures that change without a commit of ours.

use super::*;

fn capture(motion: Motion) -> OutputCapture {
    let mut capture = OutputCapture::new(CaptureConfig::default(), REFRESH, Arc::new(|| {}));
    capture.set_motion(motion);
    capture
        .set_buffers(format(), memories(&stamped(4)), ms(0))
        .unwrap();
    capture
}

/// One refresh with a commit that changes nothing; the damage that was delivered.
fn refresh(capture: &mut OutputCapture, job: u64, now: Time) -> Vec<Vec<Rect>> {
    capture.arm(JobId(job), Producer::Writeback, now).unwrap();
    capture.committed(&[], Some(JobId(job)));
    assert_ne!(
        capture.demand(now),
        Demand::Now,
        "the job in flight answers"
    );
    capture.complete(JobId(job), now, now);
    let delivered = capture.poll(now).into_iter().map(|event| match event {
        CaptureEvent::Deliver { damage, .. } => damage,
        CaptureEvent::Void { .. } | CaptureEvent::Written { .. } => panic!("nobody holds anything"),
    });
    delivered.collect()
}

#[test]
fn in_full_motion_each_request_is_due_at_once_and_each_frame_has_changed_all_over() {
    let mut capture = capture(Motion::Full);
    let session = capture.open_session(ClientId(1), COPY);
    assert_eq!(capture.demand(ms(1)), Demand::None, "nobody captures");
    for n in 0..5 {
        let now = ms(100 * n + 10);
        capture.request(session, now).unwrap();
        assert_eq!(capture.demand(now), Demand::Now);
        assert_eq!(refresh(&mut capture, n, now), [[format().full()]]);
        assert_eq!(
            capture.demand(ms(100 * n + 90)),
            Demand::None,
            "nobody asks"
        );
    }
}

#[test]
fn in_full_motion_a_new_session_is_not_given_an_old_picture() {
    let mut capture = capture(Motion::Full);
    let first = capture.open_session(ClientId(1), COPY);
    capture.request(first, ms(0)).unwrap();
    assert_eq!(refresh(&mut capture, 0, ms(10)).len(), 1);
    let second = capture.open_session(ClientId(2), COPY);
    capture.request(second, ms(500)).unwrap();
    assert!(capture.poll(ms(500)).is_empty());
    assert_eq!(capture.demand(ms(500)), Demand::Now);
    assert_eq!(refresh(&mut capture, 1, ms(510)).len(), 1);
}

#[test]
fn with_damage_a_still_picture_is_captured_once() {
    let mut capture = capture(Motion::Damage);
    let session = capture.open_session(ClientId(1), COPY);
    capture.request(session, ms(0)).unwrap();
    assert_eq!(refresh(&mut capture, 0, ms(10)).len(), 1);
    capture.request(session, ms(100)).unwrap();
    assert_eq!(capture.demand(ms(100)), Demand::OnDamage);
}
