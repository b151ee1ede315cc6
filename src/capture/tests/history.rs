//! What is kept of the last frames, and that nobody else pays for it.

use super::*;

const DEPTH: usize = 3;

fn output() -> (OutputCapture, Vec<Arc<Stamped>>) {
    let config = CaptureConfig {
        ring_slots: 3,
        history: DEPTH,
        ..CaptureConfig::default()
    };
    let mut capture = OutputCapture::new(config, REFRESH, Arc::new(|| {}));
    let memory = stamped(config.slots());
    capture
        .set_buffers(format(), memories(&memory), ms(0))
        .unwrap();
    (capture, memory)
}

/// A commit with damage and a job, if that is possible; whether it was.
fn commit(capture: &mut OutputCapture, job: u64) -> Option<FrameSeq> {
    let now = ms(job * 16);
    capture.demand(now);
    let armed = capture.arm(JobId(job), Producer::Writeback, now).is_ok();
    capture.committed(&[rect(0, 0, 1, 1)], armed.then_some(JobId(job)));
    let seq = match armed.then(|| capture.complete(JobId(job), now, now)) {
        Some(Completion::Published(seq)) => Some(seq),
        _ => None,
    };
    assert!(
        capture.poll(now).is_empty(),
        "the history's frames are nobody's"
    );
    capture.verify_invariants().unwrap();
    seq
}

fn kept(capture: &OutputCapture) -> Vec<FrameSeq> {
    let history = capture.history();
    history.iter().map(|lease| lease.frame().seq).collect()
}

#[test]
fn the_last_frames_are_kept_though_nobody_asks() {
    let (mut capture, memory) = output();
    assert_eq!(
        capture.demand(ms(0)),
        Demand::Now,
        "the first is due at once"
    );
    let all: Vec<FrameSeq> = (1..=40)
        .map(|job| commit(&mut capture, job).unwrap())
        .collect();
    assert_eq!(kept(&capture), all[40 - DEPTH..]);
    assert_eq!(capture.demand(ms(1000)), Demand::OnDamage);
    let stats = capture.stats();
    assert_eq!((stats.frames, stats.delivered, stats.voids), (40, 0, 0));
    assert!(stats.clients.is_empty(), "it is no client");
    assert!(!capture.has_sessions());
    assert_eq!(memory.len(), 3 + DEPTH);
}

#[test]
fn it_is_never_late_and_never_taken_from() {
    let (mut capture, _memory) = output();
    for job in 1..=10 {
        commit(&mut capture, job);
    }
    let frames = kept(&capture);
    assert_eq!(capture.next_deadline(), None);
    // Hours later.
    assert!(capture.poll(ms(9_999_999)).is_empty());
    assert_eq!(kept(&capture), frames);
    let next = commit(&mut capture, 1_000_000).unwrap();
    assert_eq!(
        kept(&capture).last(),
        Some(&next),
        "it is overdue like a client"
    );
}

#[test]
fn a_writer_that_is_slow_stops_the_history_and_not_the_clients() {
    let (mut capture, _memory) = output();
    for job in 1..=10 {
        commit(&mut capture, job);
    }
    let writing = capture.history();
    let client = capture.open_session(ClientId(1), COPY);
    for job in 11..=60 {
        let now = ms(job * 16);
        capture.request(client, now).unwrap();
        assert_ne!(capture.demand(now), Demand::None);
        capture.arm(JobId(job), Producer::Writeback, now).unwrap();
        capture.committed(&[rect(0, 0, 1, 1)], Some(JobId(job)));
        capture.complete(JobId(job), now, now);
        assert_eq!(capture.poll(now).len(), 1, "the client's frame");
        assert!(capture.stats().held <= DEPTH as u64 + 2);
        capture.verify_invariants().unwrap();
    }
    assert!(writing.iter().all(|lease| !lease.is_void()));
    let before = kept(&capture);
    drop(writing);
    for job in 61..=70 {
        commit(&mut capture, job);
    }
    assert_ne!(kept(&capture), before);
    assert_eq!(kept(&capture).len(), DEPTH);
}

#[test]
fn greedy_clients_leave_the_history_its_slots() {
    let (mut capture, _memory) = output();
    let mut held = Vec::new();
    for job in 1..=20 {
        let now = ms(job * 16);
        for client in 1..=2 {
            let session = capture.open_session(ClientId(client), EXPORT);
            let _ = capture.request(session, now);
        }
        capture.demand(now);
        if capture.arm(JobId(job), Producer::Writeback, now).is_ok() {
            capture.committed(&[rect(0, 0, 1, 1)], Some(JobId(job)));
            capture.complete(JobId(job), now, now);
        }
        held.extend(capture.poll(now));
    }
    assert!(kept(&capture).len() >= DEPTH - 1);
    assert!(capture.stats().held <= 3 + DEPTH as u64);
}

#[test]
fn a_new_mode_begins_with_an_empty_history() {
    let (mut capture, _memory) = output();
    for job in 1..=5 {
        commit(&mut capture, job);
    }
    let memory = stamped(3 + DEPTH);
    capture
        .set_buffers(format(), memories(&memory), ms(200))
        .unwrap();
    assert!(kept(&capture).is_empty());
    assert_eq!(capture.stats().buffers, 3 + DEPTH as u64);
    for job in 20..=25 {
        commit(&mut capture, job);
    }
    assert_eq!(kept(&capture).len(), DEPTH);
}
