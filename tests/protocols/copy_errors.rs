//! ext-image-copy-capture-v1: every protocol error, and every way in which a frame fails.

use std::os::fd::OwnedFd;

use wayland_client::{protocol::wl_seat::WlSeat, protocol::wl_shm, Proxy};
use wayland_protocols::ext::image_copy_capture::v1::client::{
    ext_image_copy_capture_cursor_session_v1::{
        self as cursor_v1, ExtImageCopyCaptureCursorSessionV1,
    },
    ext_image_copy_capture_frame_v1::{
        self as frame_v1, ExtImageCopyCaptureFrameV1, FailureReason,
    },
    ext_image_copy_capture_manager_v1::{
        self as manager_v1, ExtImageCopyCaptureManagerV1, Options,
    },
    ext_image_copy_capture_session_v1 as session_v1,
};

use crate::{
    client::{memory, Buffer, Client},
    inbox::Told,
    server::{Server, HEIGHT, WIDTH},
    streaming::{setup, WHOLE},
};

/// Another client still gets frames.
fn assert_others_go_on(server: &mut Server) {
    // The newest frame is old now, so that the other client waits for the next.
    server.flip(WHOLE, 0);
    let mut other = Client::new(server);
    let session = other.session();
    let buffer = other.buffer(WIDTH, HEIGHT);
    let frame = other.captured(&session, &buffer);
    other.roundtrip(server);
    server.flip(WHOLE, 0x0012_3456);
    other.expect_ready(server, &frame);
    assert_eq!(buffer.pixel(WIDTH - 1, HEIGHT - 1), 0x0012_3456);
}

#[test]
fn unknown_option_bits_are_an_invalid_option() {
    for bits in [2, 3, 0x8000_0000] {
        let (mut server, mut client) = setup();
        let manager: ExtImageCopyCaptureManagerV1 = client.bind(1);
        let source = client.source(0);
        manager.create_session(
            &source,
            Options::from_bits_retain(bits),
            &client.handle(),
            (),
        );
        client.expect_error(
            &mut server,
            &manager,
            manager_v1::Error::InvalidOption.into(),
        );
        assert_others_go_on(&mut server);
    }
}

#[test]
fn no_option_at_all_is_valid() {
    let (mut server, mut client) = setup();
    let manager: ExtImageCopyCaptureManagerV1 = client.bind(1);
    let source = client.source(0);
    let session = manager.create_session(&source, Options::empty(), &client.handle(), ());
    client.roundtrip(&mut server);
    assert!(matches!(client.take(&session).last(), Some(Told::Done)));
}

#[test]
fn a_second_frame_before_the_first_is_destroyed_is_a_duplicate() {
    let (mut server, mut client) = setup();
    let session = client.session();
    let _first = client.frame(&session);
    let _second = client.frame(&session);
    client.expect_error(
        &mut server,
        &session,
        session_v1::Error::DuplicateFrame.into(),
    );
    assert_others_go_on(&mut server);
}

#[test]
fn a_second_frame_after_the_first_is_destroyed_is_none() {
    let (mut server, mut client) = setup();
    let session = client.session();
    client.frame(&session).destroy();
    let second = client.frame(&session);
    client.expect_nothing(&mut server, &second);
}

#[test]
fn a_duplicate_of_a_ready_frame_is_still_a_duplicate() {
    let (mut server, mut client) = setup();
    let session = client.session();
    let buffer = client.buffer(WIDTH, HEIGHT);
    let frame = client.captured(&session, &buffer);
    client.roundtrip(&mut server);
    server.flip(WHOLE, 1);
    client.expect_ready(&mut server, &frame);
    let _second = client.frame(&session);
    client.expect_error(
        &mut server,
        &session,
        session_v1::Error::DuplicateFrame.into(),
    );
}

#[test]
fn capture_without_a_buffer_is_no_buffer() {
    let (mut server, mut client) = setup();
    let frame = client.frame(&client.session());
    frame.capture();
    client.expect_error(&mut server, &frame, frame_v1::Error::NoBuffer.into());
    assert_others_go_on(&mut server);
}

#[test]
fn damage_off_the_buffer_or_empty_is_invalid() {
    let wrong = [
        [-1, 0, 1, 1],
        [0, -1, 1, 1],
        [i32::MIN, 0, 1, 1],
        [0, 0, 0, 1],
        [0, 0, 1, 0],
        [0, 0, -1, 1],
        [0, 0, 1, i32::MIN],
    ];
    for [x, y, w, h] in wrong {
        let (mut server, mut client) = setup();
        let frame = client.frame(&client.session());
        frame.damage_buffer(x, y, w, h);
        client.expect_error(
            &mut server,
            &frame,
            frame_v1::Error::InvalidBufferDamage.into(),
        );
        assert_others_go_on(&mut server);
    }
}

#[test]
fn every_request_after_capture_is_already_captured() {
    let after: [fn(&ExtImageCopyCaptureFrameV1, &Buffer); 3] = [
        |frame, buffer| frame.attach_buffer(&buffer.object),
        |frame, _| frame.damage_buffer(0, 0, 1, 1),
        |frame, _| frame.capture(),
    ];
    for request in after {
        let (mut server, mut client) = setup();
        let buffer = client.buffer(WIDTH, HEIGHT);
        let frame = client.captured(&client.session(), &buffer);
        request(&frame, &buffer);
        client.expect_error(&mut server, &frame, frame_v1::Error::AlreadyCaptured.into());
        assert_others_go_on(&mut server);
    }
}

#[test]
fn a_failed_frame_is_already_captured_too() {
    let (mut server, mut client) = setup();
    let buffer = client.buffer(WIDTH, HEIGHT - 1);
    let frame = client.captured(&client.session(), &buffer);
    client.expect_failed(&mut server, &frame, FailureReason::BufferConstraints);
    frame.capture();
    client.expect_error(&mut server, &frame, frame_v1::Error::AlreadyCaptured.into());
}

fn cursor_session(client: &Client) -> ExtImageCopyCaptureCursorSessionV1 {
    let manager: ExtImageCopyCaptureManagerV1 = client.bind(1);
    let seat: WlSeat = client.bind(5);
    let pointer = seat.get_pointer(&client.handle(), ());
    let source = client.source(0);
    let session = manager.create_pointer_cursor_session(&source, &pointer, &client.handle(), ());
    // As clients do.
    pointer.release();
    session
}

#[test]
fn a_second_capture_session_of_a_cursor_session_is_a_duplicate() {
    let (mut server, mut client) = setup();
    let cursor = cursor_session(&client);
    let _first = cursor.get_capture_session(&client.handle(), ());
    let _second = cursor.get_capture_session(&client.handle(), ());
    client.expect_error(
        &mut server,
        &cursor,
        cursor_v1::Error::DuplicateSession.into(),
    );
    assert_others_go_on(&mut server);
}

#[test]
fn a_second_capture_session_is_a_duplicate_even_if_the_first_is_destroyed() {
    let (mut server, mut client) = setup();
    let cursor = cursor_session(&client);
    cursor.get_capture_session(&client.handle(), ()).destroy();
    let _second = cursor.get_capture_session(&client.handle(), ());
    client.expect_error(
        &mut server,
        &cursor,
        cursor_v1::Error::DuplicateSession.into(),
    );
}

#[test]
fn a_buffer_of_the_wrong_size_fails_for_constraints_and_at_once() {
    for (width, height) in [
        (WIDTH - 1, HEIGHT),
        (WIDTH, HEIGHT + 1),
        (HEIGHT, WIDTH),
        (1, 1),
    ] {
        let (mut server, mut client) = setup();
        let buffer = client.buffer(width, height);
        let frame = client.captured(&client.session(), &buffer);
        client.expect_failed(&mut server, &frame, FailureReason::BufferConstraints);
    }
}

#[test]
fn a_buffer_of_a_format_that_was_not_announced_fails_for_constraints() {
    let (mut server, mut client) = setup();
    let buffer = client.buffer_with(WIDTH, HEIGHT, WIDTH * 2, wl_shm::Format::Rgb565);
    let frame = client.captured(&client.session(), &buffer);
    client.expect_failed(&mut server, &frame, FailureReason::BufferConstraints);
}

#[test]
fn a_buffer_that_was_destroyed_before_capture_fails_for_constraints() {
    let (mut server, mut client) = setup();
    let buffer = client.buffer(WIDTH, HEIGHT);
    let frame = client.frame(&client.session());
    frame.attach_buffer(&buffer.object);
    buffer.object.destroy();
    frame.capture();
    client.expect_failed(&mut server, &frame, FailureReason::BufferConstraints);
}

#[test]
fn a_dmabuf_fails_for_constraints_where_none_was_announced() {
    let (mut server, mut client) = setup();
    let file: OwnedFd = memory((WIDTH * HEIGHT * 4) as u64).into();
    let buffer = client.dmabuf(&file, WIDTH, HEIGHT, WIDTH as u32 * 4);
    let frame = client.frame(&client.session());
    frame.attach_buffer(&buffer);
    frame.capture();
    client.expect_failed(&mut server, &frame, FailureReason::BufferConstraints);
}

#[test]
fn a_memfd_or_a_socket_that_poses_as_a_dmabuf_fails_for_constraints() {
    let file: OwnedFd = memory((WIDTH * HEIGHT * 4) as u64).into();
    let socket: OwnedFd = std::os::unix::net::UnixStream::pair().unwrap().0.into();
    for fd in [file, socket] {
        let mut server = Server::with_dmabuf_device(Some(0xe280));
        let mut client = Client::new(&mut server);
        let buffer = client.dmabuf(&fd, WIDTH, HEIGHT, WIDTH as u32 * 4);
        let frame = client.frame(&client.session());
        frame.attach_buffer(&buffer);
        frame.damage_buffer(0, 0, WIDTH, HEIGHT);
        frame.capture();
        client.roundtrip(&mut server);
        server.flip(WHOLE, 5);
        client.expect_failed(&mut server, &frame, FailureReason::BufferConstraints);
        assert_others_go_on(&mut server);
    }
}

#[test]
fn the_session_is_answered_at_once_after_failed_constraints() {
    let (mut server, mut client) = setup();
    let session = client.session();
    let good = client.buffer(WIDTH, HEIGHT);
    let frame = client.captured(&session, &good);
    client.roundtrip(&mut server);
    server.flip(WHOLE, 7);
    client.expect_ready(&mut server, &frame);
    frame.destroy();

    let bad = client.buffer(WIDTH, HEIGHT * 2);
    let frame = client.captured(&session, &bad);
    client.expect_failed(&mut server, &frame, FailureReason::BufferConstraints);
    frame.destroy();

    let fresh = client.buffer(WIDTH, HEIGHT);
    let frame = client.captured(&session, &fresh);
    let ready = client.expect_ready(&mut server, &frame);
    assert_eq!(ready.damage, [WHOLE]);
    assert_eq!(fresh.pixel(3, 3), 7);
}

#[test]
fn a_resize_sends_all_constraints_again_and_fails_the_waiting_frame() {
    let (mut server, mut client) = setup();
    let session = client.session();
    let buffer = client.buffer(WIDTH, HEIGHT);
    let frame = client.captured(&session, &buffer);
    client.roundtrip(&mut server);
    client.take(&session);

    server.set_mode(0, 32, 24);
    client.expect_failed(&mut server, &frame, FailureReason::BufferConstraints);
    frame.destroy();
    let told = client.take(&session);
    assert!(matches!(told[0], Told::BufferSize(32, 24)), "{told:?}");
    assert!(matches!(told.last(), Some(Told::Done)), "{told:?}");

    let buffer = client.buffer(32, 24);
    let frame = client.captured(&session, &buffer);
    client.roundtrip(&mut server);
    assert!(server.wants_frame());
    server.flip([0, 0, 32, 24], 9);
    let ready = client.expect_ready(&mut server, &frame);
    assert_eq!(ready.damage, [[0, 0, 32, 24]]);
    assert!(buffer.pixels().iter().all(|pixel| *pixel == 9));
}

#[test]
fn a_source_of_a_gone_output_gives_a_stopped_session() {
    let (mut server, mut client) = setup();
    server.add_output();
    client.roundtrip(&mut server);
    let source = client.source(1);
    client.roundtrip(&mut server);
    server.remove_output(1);
    let session = client.session_of(&source);
    client.roundtrip(&mut server);
    assert!(matches!(client.take(&session)[..], [Told::Stopped]));
    let buffer = client.buffer(WIDTH, HEIGHT);
    let frame = client.captured(&session, &buffer);
    client.expect_failed(&mut server, &frame, FailureReason::Stopped);
}

#[test]
fn an_output_that_goes_away_stops_its_sessions_and_no_others() {
    let (mut server, mut client) = setup();
    server.add_output();
    client.roundtrip(&mut server);
    let (stays, goes) = (client.session(), client.session_of(&client.source(1)));
    let buffers = [client.buffer(WIDTH, HEIGHT), client.buffer(WIDTH, HEIGHT)];
    let waits = client.captured(&stays, &buffers[0]);
    let fails = client.captured(&goes, &buffers[1]);
    client.roundtrip(&mut server);
    client.take(&stays);
    client.take(&goes);

    server.remove_output(1);
    client.expect_failed(&mut server, &fails, FailureReason::Stopped);
    assert!(matches!(client.take(&goes)[..], [Told::Stopped]));
    client.expect_nothing(&mut server, &stays);
    server.flip(WHOLE, 3);
    client.expect_ready(&mut server, &waits);
    fails.destroy();
    let after = client.captured(&goes, &buffers[1]);
    client.expect_failed(&mut server, &after, FailureReason::Stopped);
}

#[test]
fn trouble_with_the_frames_memory_is_tried_again_before_it_fails_as_unknown() {
    let (mut server, mut client) = setup();
    let buffer = client.buffer(WIDTH, HEIGHT);
    let session = client.session();
    let frame = client.captured(&session, &buffer);
    client.roundtrip(&mut server);
    server.break_memory(true);
    server.flip(WHOLE, 4);
    client.expect_failed(&mut server, &frame, FailureReason::Unknown);
    assert_eq!(
        server.jobs(),
        1,
        "a picture that cannot be read was captured again"
    );

    server.break_memory(false);
    frame.destroy();
    let frame = client.captured(&session, &buffer);
    assert_eq!(client.expect_ready(&mut server, &frame).damage, [WHOLE]);
}

#[test]
fn a_pool_that_is_longer_than_its_file_kills_its_client_alone() {
    let (mut server, mut client) = setup();
    let session = client.session();
    let buffer = client.buffer(WIDTH, HEIGHT);
    let frame = client.captured(&session, &buffer);
    client.roundtrip(&mut server);
    buffer.file.set_len(0).unwrap();
    server.flip(WHOLE, 5);
    server.finish_copies();
    client.expect_error(&mut server, &buffer.object, wl_shm::Error::InvalidFd.into());
    assert!(frame.is_alive());
    server.dispatch();
    assert_eq!(server.counts(), Default::default());
    assert_others_go_on(&mut server);
}

#[test]
fn a_pool_that_grows_during_a_copy_is_written_where_it_is_then() {
    let (mut server, mut client) = setup();
    let session = client.session();
    let buffer = client.buffer(WIDTH, HEIGHT);
    let frame = client.captured(&session, &buffer);
    client.roundtrip(&mut server);
    server.hold_copies();
    server.flip(WHOLE, 6);
    server.wait_for_held_copy();
    let grown = buffer.stride * buffer.height * 64;
    buffer.file.set_len(grown as u64).unwrap();
    buffer.pool.resize(grown);
    client.roundtrip(&mut server);
    server.let_copies_go();
    client.expect_ready(&mut server, &frame);
    assert!(buffer.pixels().iter().all(|pixel| *pixel == 6));
}

#[test]
fn a_pool_of_no_size_is_an_error_and_not_the_end_of_the_server() {
    for size in [0, -1, i32::MIN] {
        let (mut server, mut client) = setup();
        let buffer = client.buffer(WIDTH, HEIGHT);
        buffer.pool.resize(size);
        client.expect_error(&mut server, &buffer.pool, wl_shm::Error::InvalidFd.into());
        assert_others_go_on(&mut server);
    }
}
