//! Cursor sessions of ext-image-copy-capture-v1.

use wayland_client::protocol::{wl_pointer::WlPointer, wl_seat::WlSeat, wl_shm};
use wayland_protocols::ext::image_copy_capture::v1::client::{
    ext_image_copy_capture_cursor_session_v1::ExtImageCopyCaptureCursorSessionV1 as CursorSession,
    ext_image_copy_capture_frame_v1::FailureReason,
    ext_image_copy_capture_manager_v1::ExtImageCopyCaptureManagerV1 as CopyManager,
    ext_image_copy_capture_session_v1::ExtImageCopyCaptureSessionV1 as Session,
};

use vitrine::protocols::{CursorPixels, CursorView};

use crate::{
    client::{Buffer, Client},
    inbox::Told,
    server::Server,
    streaming::{setup, undamaged},
};

/// A pointer of this size and colour that points with this pixel, at that place.
pub fn pointer(
    size: (u32, u32),
    pixel: u32,
    hotspot: (i32, i32),
    position: (i32, i32),
) -> Option<(usize, CursorView)> {
    let picture = CursorPixels {
        width: size.0,
        height: size.1,
        hotspot,
        pixels: vec![pixel; (size.0 * size.1) as usize],
    };
    let picture = Some(picture);
    Some((0, CursorView { position, picture }))
}

const RED: u32 = 0x80ff_0000;
const BLUE: u32 = 0xff00_00ff;

pub fn cursor_session(client: &Client, nth_output: usize) -> CursorSession {
    let seat: WlSeat = client.bind(5);
    let pointer: WlPointer = seat.get_pointer(&client.handle(), ());
    let manager: CopyManager = client.bind(1);
    let source = client.source(nth_output);
    let session = manager.create_pointer_cursor_session(&source, &pointer, &client.handle(), ());
    // As clients in the field do.
    pointer.release();
    source.destroy();
    session
}

pub fn capture_session(client: &Client, cursor: &CursorSession) -> Session {
    cursor.get_capture_session(&client.handle(), ())
}

fn argb(client: &Client, width: i32, height: i32) -> Buffer {
    let buffer = client.buffer_with(width, height, width * 4, wl_shm::Format::Argb8888);
    buffer.fill(0);
    buffer
}

/// A client that follows a red 8x6 pointer at 20,30 and has its picture.
fn following() -> (Server, Client, CursorSession, Session, Buffer) {
    let mut server = Server::new();
    server.set_cursor(pointer((8, 6), RED, (1, 2), (20, 30)));
    let mut client = Client::new(&mut server);
    let cursor = cursor_session(&client, 0);
    let session = capture_session(&client, &cursor);
    client.roundtrip(&mut server);
    let buffer = argb(&client, 8, 6);
    let frame = undamaged(&client, &session, &buffer);
    let ready = client.expect_ready(&mut server, &frame);
    assert_eq!(ready.damage, [[0, 0, 8, 6]]);
    assert!(buffer.pixels().iter().all(|pixel| *pixel == RED));
    frame.destroy();
    client.roundtrip(&mut server);
    client.take(&cursor);
    client.take(&session);
    (server, client, cursor, session, buffer)
}

#[test]
fn enter_comes_first_then_position_and_hotspot() {
    let mut server = Server::new();
    server.set_cursor(pointer((8, 6), RED, (1, 2), (20, 30)));
    let mut client = Client::new(&mut server);
    let cursor = cursor_session(&client, 0);
    client.roundtrip(&mut server);
    client.roundtrip(&mut server);
    let told = client.take(&cursor);
    assert!(
        matches!(
            told[..],
            [Told::Enter, Told::Position(20, 30), Told::Hotspot(1, 2)]
        ),
        "{told:?}"
    );
}

#[test]
fn a_pointer_that_is_elsewhere_is_told_nothing_of_until_it_comes_and_when_it_goes() {
    let mut server = Server::new();
    server.add_output();
    server.set_cursor(pointer((8, 6), RED, (1, 2), (20, 30)));
    let mut client = Client::new(&mut server);
    let cursor = cursor_session(&client, 1);
    client.roundtrip(&mut server);
    client.expect_nothing(&mut server, &cursor);
    let view = pointer((8, 6), RED, (1, 2), (-3, 5)).unwrap().1;
    server.set_cursor(Some((1, view)));
    client.roundtrip(&mut server);
    let told = client.take(&cursor);
    assert!(
        matches!(
            told[..],
            [Told::Enter, Told::Position(-3, 5), Told::Hotspot(1, 2)]
        ),
        "{told:?}"
    );
    server.set_cursor(pointer((8, 6), RED, (1, 2), (63, 5)));
    client.roundtrip(&mut server);
    let told = client.take(&cursor);
    assert!(matches!(told[..], [Told::Leave]), "{told:?}");
    server.set_cursor(None);
    client.expect_nothing(&mut server, &cursor);
}

#[test]
fn a_move_is_a_position_and_no_frame() {
    let (mut server, mut client, cursor, session, buffer) = following();
    let frame = undamaged(&client, &session, &buffer);
    client.roundtrip(&mut server);
    server.set_cursor(pointer((8, 6), RED, (1, 2), (21, 30)));
    server.set_cursor(pointer((8, 6), RED, (1, 2), (21, 30)));
    client.expect_nothing(&mut server, &frame);
    let told = client.take(&cursor);
    assert!(matches!(told[..], [Told::Position(21, 30)]), "{told:?}");
}

#[test]
fn the_pictures_buffers_are_argb_of_its_size() {
    let mut server = Server::with_dmabuf_device(Some(0xe280));
    server.set_cursor(pointer((8, 6), RED, (1, 2), (20, 30)));
    let mut client = Client::new(&mut server);
    let cursor = cursor_session(&client, 0);
    let session = capture_session(&client, &cursor);
    client.roundtrip(&mut server);
    client.roundtrip(&mut server);
    let told = client.take(&session);
    assert!(
        matches!(
            told[..],
            [
                Told::BufferSize(8, 6),
                Told::ShmFormat(wl_shm::Format::Argb8888),
                Told::Done
            ]
        ),
        "{told:?}"
    );
}

#[test]
fn a_new_picture_is_damage() {
    let (mut server, mut client, _cursor, session, buffer) = following();
    let frame = undamaged(&client, &session, &buffer);
    client.expect_nothing(&mut server, &frame);
    server.set_cursor(pointer((8, 6), BLUE, (1, 2), (20, 30)));
    let ready = client.expect_ready(&mut server, &frame);
    assert_eq!(ready.damage, [[0, 0, 8, 6]]);
    assert!(buffer.pixels().iter().all(|pixel| *pixel == BLUE));
}

#[test]
fn a_picture_that_came_while_nobody_asked_is_given_at_once() {
    let (mut server, mut client, _cursor, session, buffer) = following();
    server.set_cursor(pointer((8, 6), BLUE, (1, 2), (20, 30)));
    server.set_cursor(pointer((8, 6), 0xff12_3456, (1, 2), (20, 30)));
    let frame = undamaged(&client, &session, &buffer);
    client.expect_ready(&mut server, &frame);
    assert_eq!(buffer.pixel(7, 5), 0xff12_3456);
}

#[test]
fn a_new_hotspot_is_told_right_before_the_ready_of_its_picture() {
    let (mut server, mut client, cursor, session, buffer) = following();
    server.set_cursor(pointer((8, 6), BLUE, (3, 4), (20, 30)));
    // The client still shows the old picture.
    client.expect_nothing(&mut server, &cursor);
    let frame = undamaged(&client, &session, &buffer);
    client.expect_ready(&mut server, &frame);
    let told = client.take(&cursor);
    assert!(matches!(told[..], [Told::Hotspot(3, 4)]), "{told:?}");

    // The same picture with another hotspot needs a `ready`, too.
    frame.destroy();
    let frame = undamaged(&client, &session, &buffer);
    client.expect_nothing(&mut server, &frame);
    server.set_cursor(pointer((8, 6), BLUE, (0, 0), (20, 30)));
    client.expect_ready(&mut server, &frame);
    let told = client.take(&cursor);
    assert!(matches!(told[..], [Told::Hotspot(0, 0)]), "{told:?}");
}

#[test]
fn a_client_that_only_follows_is_told_of_a_hotspot_at_once() {
    let mut server = Server::new();
    server.set_cursor(pointer((8, 6), RED, (1, 2), (20, 30)));
    let mut client = Client::new(&mut server);
    let cursor = cursor_session(&client, 0);
    client.roundtrip(&mut server);
    client.roundtrip(&mut server);
    client.take(&cursor);
    server.set_cursor(pointer((8, 6), RED, (3, 4), (20, 30)));
    client.roundtrip(&mut server);
    let told = client.take(&cursor);
    assert!(matches!(told[..], [Told::Hotspot(3, 4)]), "{told:?}");
}

#[test]
fn a_picture_of_another_size_brings_constraints_and_refuses_the_old_buffer() {
    let (mut server, mut client, _cursor, session, buffer) = following();
    let frame = undamaged(&client, &session, &buffer);
    client.roundtrip(&mut server);
    server.set_cursor(pointer((16, 16), BLUE, (1, 2), (20, 30)));
    client.expect_failed(&mut server, &frame, FailureReason::BufferConstraints);
    let told = client.take(&session);
    assert!(
        matches!(
            told[..],
            [Told::BufferSize(16, 16), Told::ShmFormat(_), Told::Done]
        ),
        "{told:?}"
    );
    frame.destroy();
    let buffer = argb(&client, 16, 16);
    let frame = undamaged(&client, &session, &buffer);
    client.expect_ready(&mut server, &frame);
    assert_eq!(buffer.pixel(15, 15), BLUE);
}

#[test]
fn a_pointer_that_was_never_seen_gives_no_constraints_until_it_is() {
    let (mut server, mut client) = setup();
    let cursor = cursor_session(&client, 0);
    let session = capture_session(&client, &cursor);
    client.roundtrip(&mut server);
    client.expect_nothing(&mut server, &session);
    server.set_cursor(pointer((8, 6), RED, (1, 2), (20, 30)));
    client.roundtrip(&mut server);
    let told = client.take(&session);
    assert!(matches!(told[0], Told::BufferSize(8, 6)), "{told:?}");
}

#[test]
fn a_frame_waits_while_the_pointer_is_away() {
    let (mut server, mut client, cursor, session, buffer) = following();
    server.set_cursor(None);
    let frame = undamaged(&client, &session, &buffer);
    client.expect_nothing(&mut server, &frame);
    server.set_cursor(pointer((8, 6), BLUE, (1, 2), (5, 5)));
    client.expect_ready(&mut server, &frame);
    assert_eq!(buffer.pixel(0, 0), BLUE);
    let told = client.take(&cursor);
    assert!(
        matches!(
            told[..],
            [
                Told::Leave,
                Told::Enter,
                Told::Position(5, 5),
                Told::Hotspot(1, 2)
            ]
        ),
        "{told:?}"
    );
}

#[test]
fn two_clients_follow_one_pointer_each_at_its_own_pace() {
    let (mut server, mut client, _cursor, session, buffer) = following();
    let mut other = Client::new(&mut server);
    let other_cursor = cursor_session(&other, 0);
    let other_session = capture_session(&other, &other_cursor);
    other.roundtrip(&mut server);
    let other_buffer = argb(&other, 8, 6);
    let frame = undamaged(&other, &other_session, &other_buffer);
    other.expect_ready(&mut server, &frame);
    frame.destroy();
    server.set_cursor(pointer((8, 6), BLUE, (1, 2), (20, 30)));
    let frame = undamaged(&client, &session, &buffer);
    client.expect_ready(&mut server, &frame);
    let late = undamaged(&other, &other_session, &other_buffer);
    other.expect_ready(&mut server, &late);
    assert_eq!((buffer.pixel(0, 0), other_buffer.pixel(0, 0)), (BLUE, BLUE));
}

#[test]
fn an_output_that_goes_stops_the_session_and_the_pointer_leaves() {
    let (mut server, mut client, cursor, session, buffer) = following();
    server.set_cursor(pointer((8, 6), BLUE, (1, 2), (20, 30)));
    server.set_cursor(None);
    client.roundtrip(&mut server);
    client.take(&cursor);
    server.set_cursor(pointer((8, 6), BLUE, (1, 2), (20, 30)));
    client.roundtrip(&mut server);
    client.take(&cursor);
    let frame = undamaged(&client, &session, &buffer);
    client.expect_ready(&mut server, &frame);
    frame.destroy();
    let waiting = undamaged(&client, &session, &buffer);
    client.roundtrip(&mut server);
    server.remove_output(0);
    client.expect_failed(&mut server, &waiting, FailureReason::Stopped);
    let told = client.take(&session);
    assert!(matches!(told[..], [Told::Stopped]), "{told:?}");
    let told = client.take(&cursor);
    assert!(matches!(told[..], [Told::Leave]), "{told:?}");
}

#[test]
fn a_source_that_is_gone_gives_a_stopped_session() {
    let (mut server, mut client) = setup();
    let seat: WlSeat = client.bind(5);
    let pointer: WlPointer = seat.get_pointer(&client.handle(), ());
    let manager: CopyManager = client.bind(1);
    let source = client.source(0);
    client.roundtrip(&mut server);
    server.remove_output(0);
    let cursor = manager.create_pointer_cursor_session(&source, &pointer, &client.handle(), ());
    let session = capture_session(&client, &cursor);
    client.roundtrip(&mut server);
    let told = client.take(&session);
    assert!(matches!(told[..], [Told::Stopped]), "{told:?}");
    assert!(client.take(&cursor).is_empty());
}

#[test]
fn objects_may_be_destroyed_in_any_order_and_leave_nothing() {
    for cursor_first in [true, false] {
        let (mut server, mut client, cursor, session, buffer) = following();
        let frame = undamaged(&client, &session, &buffer);
        client.roundtrip(&mut server);
        if cursor_first {
            cursor.destroy();
            // The capture session lives on.
            client.roundtrip(&mut server);
            server.set_cursor(pointer((8, 6), BLUE, (1, 2), (20, 30)));
            client.expect_ready(&mut server, &frame);
            session.destroy();
            frame.destroy();
        } else {
            frame.destroy();
            session.destroy();
            cursor.destroy();
        }
        client.roundtrip(&mut server);
        let counts = server.counts();
        assert_eq!(
            (
                counts.cursor_sessions,
                counts.copy_sessions,
                counts.copy_frames
            ),
            (0, 0, 0)
        );
    }
}

#[test]
fn a_client_that_dies_in_the_copy_of_a_pointer_harms_nobody() {
    let (mut server, client, _cursor, session, buffer) = following();
    server.set_cursor(pointer((8, 6), BLUE, (1, 2), (20, 30)));
    let _frame = undamaged(&client, &session, &buffer);
    client.connection.flush().unwrap();
    server.dispatch();
    drop(client);
    server.dispatch();
    server.finish_copies();
    assert_eq!(server.counts().cursor_sessions, 0);
    assert_eq!(server.counts().copy_sessions, 0);
    let mut other = Client::new(&mut server);
    let cursor = cursor_session(&other, 0);
    let session = capture_session(&other, &cursor);
    other.roundtrip(&mut server);
    let buffer = argb(&other, 8, 6);
    let frame = undamaged(&other, &session, &buffer);
    other.expect_ready(&mut server, &frame);
    assert_eq!(buffer.pixel(0, 0), BLUE);
}
