//! ext-image-copy-capture-v1 where the hardware writes the client's own memory: what the client is told, and what happens when
//! something goes away under the job.

use std::{fs::File, os::unix::fs::FileExt};

use vitrine::capture::Completion;
use wayland_client::protocol::wl_buffer::WlBuffer;
use wayland_protocols::ext::image_copy_capture::v1::client::{
    ext_image_copy_capture_frame_v1::{ExtImageCopyCaptureFrameV1 as Frame, FailureReason},
    ext_image_copy_capture_session_v1::ExtImageCopyCaptureSessionV1 as Session,
};

use crate::{
    client::{memory, Client},
    inbox::Told,
    server::{Server, HEIGHT, WIDTH},
    streaming::WHOLE,
};

/// What takes the place of a dma-buf: the protocol sees a descriptor.
struct Target {
    object: WlBuffer,
    file: File,
    width: i32,
}

impl Target {
    fn new(client: &Client, width: i32, height: i32) -> Self {
        let file = memory(width as u64 * height as u64 * 4);
        Self {
            object: client.dmabuf(&file, width, height, width as u32 * 4),
            file,
            width,
        }
    }

    fn pixel(&self, x: i32, y: i32) -> u32 {
        let mut bytes = [0; 4];
        let at = (y * self.width + x) as u64 * 4;
        self.file.read_exact_at(&mut bytes, at).unwrap();
        u32::from_ne_bytes(bytes)
    }
}

fn captured(client: &Client, session: &Session, target: &Target) -> Frame {
    let frame = client.frame(session);
    frame.attach_buffer(&target.object);
    frame.capture();
    frame
}

/// A lone client that waits for its first frame.
fn waiting() -> (Server, Client, Session, Target, Frame) {
    let mut server = Server::with_dmabuf_device(Some(0xe280));
    server.allow_passthrough();
    let mut client = Client::new(&mut server);
    let session = client.session();
    let target = Target::new(&client, WIDTH, HEIGHT);
    let frame = captured(&client, &session, &target);
    client.roundtrip(&mut server);
    client.take(&session);
    (server, client, session, target, frame)
}

#[test]
fn what_the_hardware_has_written_is_ready_then_with_its_flip_and_damage_and_nothing_is_copied() {
    let (mut server, mut client, session, target, frame) = waiting();
    let job = server.begin_job(WHOLE, 1).unwrap();
    client.expect_nothing(&mut server, &frame);
    assert_eq!(target.pixel(0, 0), 0);
    let (completion, time) = server.end_job(&job);
    assert!(matches!(completion, Completion::Written(_)));
    let ready = client.expect_ready(&mut server, &frame);
    assert_eq!((ready.damage, ready.time), (vec![WHOLE], time));
    frame.destroy();
    let other = Target::new(&client, WIDTH, HEIGHT);
    let frame = captured(&client, &session, &other);
    client.expect_nothing(&mut server, &frame);
    let job = server.begin_job([10, 20, 5, 4], 2).unwrap();
    let (_, time) = server.end_job(&job);
    let ready = client.expect_ready(&mut server, &frame);
    assert_eq!((ready.damage, ready.time), (vec![[10, 20, 5, 4]], time));
    // The hardware writes all of the picture, and nothing else does.
    assert_eq!((other.pixel(10, 20), other.pixel(0, 0)), (2, 1));
    assert_eq!((target.pixel(10, 20), server.copies()), (1, 0));
}

#[test]
fn a_frame_destroyed_under_its_job_does_not_take_its_damage_with_it() {
    let (mut server, mut client, session, target, frame) = waiting();
    let job = server.begin_job(WHOLE, 1).unwrap();
    frame.destroy();
    client.roundtrip(&mut server);
    // The same memory again, while it is written.
    let next = captured(&client, &session, &target);
    client.roundtrip(&mut server);
    assert!(server.begin_job(WHOLE, 2).is_none(), "two writers");
    assert!(!server.wants_frame());
    let (completion, _) = server.end_job(&job);
    assert_eq!(completion, Completion::Discarded);
    client.expect_nothing(&mut server, &next);
    let job = server.begin_job([0, 0, 1, 1], 3).unwrap();
    server.end_job(&job);
    assert_eq!(client.expect_ready(&mut server, &next).damage, [WHOLE]);
    assert_eq!((target.pixel(0, 0), target.pixel(1, 1)), (3, 1));
}

#[test]
fn a_buffer_destroyed_under_its_job_fails_for_constraints_and_the_next_frame_is_whole() {
    let (mut server, mut client, session, target, frame) = waiting();
    let job = server.begin_job(WHOLE, 1).unwrap();
    target.object.destroy();
    client.roundtrip(&mut server);
    server.end_job(&job);
    client.expect_failed(&mut server, &frame, FailureReason::BufferConstraints);
    frame.destroy();
    let target = Target::new(&client, WIDTH, HEIGHT);
    let next = captured(&client, &session, &target);
    client.roundtrip(&mut server);
    let job = server.begin_job([0, 0, 1, 1], 2).unwrap();
    server.end_job(&job);
    assert_eq!(client.expect_ready(&mut server, &next).damage, [WHOLE]);
    assert_eq!(target.pixel(1, 1), 1);
}

#[test]
fn a_change_of_the_mode_under_a_job_fails_its_frame_and_the_next_one_has_the_new_size() {
    let (mut server, mut client, session, old, frame) = waiting();
    let job = server.begin_job(WHOLE, 1).unwrap();
    server.set_mode(0, 32, 24);
    client.expect_failed(&mut server, &frame, FailureReason::BufferConstraints);
    let told = client.take(&session);
    assert!(matches!(told[0], Told::BufferSize(32, 24)), "{told:?}");
    frame.destroy();
    let target = Target::new(&client, 32, 24);
    let next = captured(&client, &session, &target);
    client.roundtrip(&mut server);
    let new = server.begin_job([0, 0, 32, 24], 2).unwrap();
    // What the hardware still had to write is the old picture, in the old memory.
    let (completion, _) = server.end_job(&job);
    assert_eq!(completion, Completion::Discarded);
    client.expect_nothing(&mut server, &next);
    assert_eq!(target.pixel(0, 0), 0);
    let (completion, time) = server.end_job(&new);
    assert!(matches!(completion, Completion::Written(_)));
    let ready = client.expect_ready(&mut server, &next);
    assert_eq!((ready.damage, ready.time), (vec![[0, 0, 32, 24]], time));
    assert_eq!((target.pixel(31, 23), old.pixel(0, 0)), (2, 1));
    assert_eq!(server.copies(), 0);
}

#[test]
fn a_right_that_goes_under_a_job_ends_its_frame_and_nothing_follows() {
    let (mut server, mut client, session, _target, frame) = waiting();
    let job = server.begin_job(WHOLE, 1).unwrap();
    server.revoke(0);
    client.roundtrip(&mut server);
    assert!(matches!(client.take(&session)[..], [.., Told::Stopped]));
    client.expect_failed(&mut server, &frame, FailureReason::Stopped);
    let (completion, _) = server.end_job(&job);
    assert_eq!(completion, Completion::Discarded);
    client.expect_nothing(&mut server, &frame);
    assert!(!server.wants_frame() && !server.knows_clients());
}

#[test]
fn a_client_that_dies_under_its_job_leaves_nothing_behind() {
    let (mut server, client, session, target, frame) = waiting();
    let job = server.begin_job(WHOLE, 1).unwrap();
    drop((client, session, frame));
    server.dispatch();
    assert_eq!(server.counts(), Default::default());
    let (completion, _) = server.end_job(&job);
    assert_eq!(completion, Completion::Discarded);
    server.dispatch();
    assert_eq!(target.pixel(0, 0), 1, "the job keeps the memory");
    assert_eq!(server.held(), 0);
    assert!(!server.knows_clients());
}
