//! How often a client that captures is woken, in the whole compositor without a device; the test is the display.

use std::sync::{Arc, Mutex};

use drm_fourcc::{DrmFourcc, DrmModifier};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use vitrine::{
    capture::{FrameFormat, JobId, OutputCapture, Producer, SlotMemory},
    compositor::Vitrine,
    time::Time,
};

use crate::{
    client::memory,
    clients::{
        copy_capture::{CopySession, PendingCopy},
        Buffer, Client, MemoryKind, Painter, PainterOptions,
    },
    session_lock::Session,
    slots::{Gate, MemorySlot},
};

const SIDE: u32 = 16;

/// A session with a screen that is captured into memory whose reading can be stopped.
fn start() -> (Session, Arc<Gate>) {
    let session = Session::start("");
    let gate = Arc::new(Gate::default());
    let slots: Vec<_> = (0..4)
        .map(|_| {
            let slot = MemorySlot {
                file: memory(u64::from(SIDE * SIDE * 4)),
                gate: gate.clone(),
                broken: Arc::new(Mutex::new(false)),
            };
            Arc::new(slot) as Arc<dyn SlotMemory>
        })
        .collect();
    let format = FrameFormat {
        width: SIDE,
        height: SIDE,
        fourcc: DrmFourcc::Xrgb8888,
        modifier: DrmModifier::Linear,
        stride: SIDE * 4,
        offset: 0,
    };
    session.with(move |state| {
        let capture = screen(state);
        capture.set_buffers(format, slots, Time::now()).unwrap();
    });
    (session, gate)
}

fn screen(state: &mut Vitrine) -> &mut OutputCapture {
    let mut captures = state.captures.iter_mut();
    let found = captures.find(|(output, _)| output.name() == "TEST-1");
    found.unwrap().1
}

/// Another picture is on the screen, and captured.
fn flip(session: &Session, number: u64) {
    session.with(move |state| {
        let capture = screen(state);
        let full = capture.format().unwrap().full();
        let (job, now) = (JobId(number), Time::now());
        capture.arm(job, Producer::Writeback, now).unwrap();
        capture.committed(&[full], Some(job));
        capture.complete(job, now, now);
    });
}

/// A client that streams the screen.
struct Viewer {
    client: Client,
    stream: CopySession,
    buffer: Buffer,
}

impl Viewer {
    fn new(session: &Session) -> Self {
        let mut client = session.client();
        let output = client.output(Some("TEST-1")).unwrap();
        let stream = CopySession::open(&mut client, &output, true).unwrap();
        let buffer = stream.buffer(&mut client, MemoryKind::Shm).unwrap();
        Self {
            client,
            stream,
            buffer,
        }
    }

    /// Asks for the next frame; a frame of before is destroyed in the same message.
    fn ask(&mut self, before: Option<PendingCopy>) -> PendingCopy {
        drop(before);
        let (client, buffer) = (&mut self.client, &self.buffer);
        self.stream.request(client, buffer, &[]).unwrap()
    }

    fn wait(&mut self, pending: &PendingCopy) {
        let patience = self.client.patience();
        let (_, end) = pending.wait_end(&mut self.client, patience).unwrap();
        end.unwrap();
    }

    /// Whether it would wake up now.
    fn is_told(&self) -> bool {
        let backend = self.client.conn.backend();
        let fd = backend.poll_fd();
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).unwrap() > 0
    }
}

/// Of so many frames of a stream, those that came with nothing told before the end of their copies.
fn quiet_frames(draws: bool, count: u64) -> u64 {
    let (session, gate) = start();
    let (mut viewer, mut other) = (Viewer::new(&session), Viewer::new(&session));
    let _window = draws.then(|| {
        let options = PainterOptions::default();
        Painter::new(&mut viewer.client, options).unwrap()
    });
    let mut frame = None;
    let mut quiet = 0;
    for number in 1..=count {
        // Somebody else gets a new frame, so that this client's next request is answered in the turn that it comes in.
        let theirs = other.ask(None);
        other.client.roundtrip().unwrap();
        flip(&session, number);
        other.wait(&theirs);
        gate.set_closed(true);
        let next = viewer.ask(frame.take());
        gate.wait_for_reader();
        // Others are told all the while, and after two of their turns so is everybody who will be.
        other.client.roundtrip().unwrap();
        other.client.roundtrip().unwrap();
        quiet += u64::from(!viewer.is_told());
        gate.set_closed(false);
        viewer.wait(&next);
        frame = Some(next);
    }
    quiet
}

#[test]
fn a_client_is_woken_by_the_end_of_its_copy_and_not_for_the_frame_that_it_destroyed() {
    let quiet = quiet_frames(false, 20);
    // What is told does not wait for ever: a machine that stands still for long makes it due.
    assert!(
        quiet > 10,
        "only {quiet} of 20 frames came with one message"
    );
}

#[test]
fn a_client_that_draws_is_told_at_once_whatever_is_copied_for_it() {
    let quiet = quiet_frames(true, 20);
    // With the first one nothing was destroyed.
    assert!(quiet <= 1, "{quiet} of 20 frames came with one message");
}

#[test]
fn who_asks_for_an_answer_in_the_middle_of_a_copy_gets_it() {
    let (session, gate) = start();
    let mut viewer = Viewer::new(&session);
    let pending = viewer.ask(None);
    viewer.client.roundtrip().unwrap();
    gate.set_closed(true);
    flip(&session, 1);
    gate.wait_for_reader();
    viewer.client.roundtrip().unwrap();
    assert!(!pending.has_ended());
    gate.set_closed(false);
    viewer.wait(&pending);
}
