//! Sessions that stream: between two of their requests there is a moment in which nobody asks, and a flip in that moment is
//! wanted all the same.

use super::{
    rules::{capture_commit, deliveries, output},
    *,
};

/// Asks at `asked`, and the answer is there at once.
fn turn(capture: &mut OutputCapture, session: SessionId, job: u64, asked: u64) -> Lease {
    capture.request(session, ms(asked)).unwrap();
    capture_commit(capture, job, &[rect(0, 0, 8, 8)], asked);
    let mut events = capture.poll(ms(asked));
    match (events.pop(), events.pop()) {
        (Some(CaptureEvent::Deliver { lease, .. }), None) => lease,
        other => panic!("not one delivery: {other:?}"),
    }
}

fn hand_over(capture: &mut OutputCapture, session: SessionId, lease: Lease, at: u64) {
    drop(lease);
    capture.copy_handed_over(session, ms(at));
}

/// A session that has asked for a second frame soon after the first one, at 10 ms.
fn streaming() -> (OutputCapture, SessionId, Lease) {
    let mut capture = output();
    let session = capture.open_session(ClientId(1), COPY);
    let first = turn(&mut capture, session, 1, 1);
    assert_eq!(
        capture.demand(ms(2)),
        Demand::None,
        "one frame is no stream"
    );
    hand_over(&mut capture, session, first, 2);
    let second = turn(&mut capture, session, 2, 10);
    (capture, session, second)
}

#[test]
fn the_next_flip_is_captured_however_long_the_copy_takes_during_which_nobody_can_ask() {
    let (mut capture, session, lease) = streaming();
    assert_eq!(capture.demand(ms(500)), Demand::OnDamage);
    hand_over(&mut capture, session, lease, 501);
    assert_eq!(capture.demand(ms(502)), Demand::OnDamage);
    assert_eq!(capture.demand(ms(501 + 3 * 16)), Demand::None);
}

#[test]
fn one_frame_waits_for_a_stream_and_not_more() {
    let (mut capture, session, lease) = streaming();
    let waits = capture_commit(&mut capture, 3, &[rect(0, 0, 8, 8)], 20);
    assert_eq!(capture.demand(ms(21)), Demand::None);
    hand_over(&mut capture, session, lease, 22);
    capture.request(session, ms(23)).unwrap();
    let events = capture.poll(ms(23));
    assert_eq!(
        deliveries(&events),
        [(session, waits, vec![rect(0, 0, 8, 8)])]
    );
}

#[test]
fn a_stream_that_asks_late_once_is_still_expected_and_one_that_does_so_again_is_not() {
    let (mut capture, session, lease) = streaming();
    hand_over(&mut capture, session, lease, 11);
    let late = turn(&mut capture, session, 3, 200);
    assert_eq!(capture.demand(ms(200)), Demand::OnDamage);
    hand_over(&mut capture, session, late, 201);
    let late_again = turn(&mut capture, session, 4, 400);
    assert_eq!(capture.demand(ms(400)), Demand::None);
    hand_over(&mut capture, session, late_again, 401);
    // In time again.
    let _lease = turn(&mut capture, session, 5, 410);
    assert_eq!(capture.demand(ms(410)), Demand::OnDamage);
}
