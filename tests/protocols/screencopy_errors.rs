//! wlr-screencopy-unstable-v1: what a client does wrong, and clients that go in the middle.

use wayland_client::protocol::wl_shm::Format;
use wayland_protocols_wlr::screencopy::v1::client::zwlr_screencopy_frame_v1::Error;

use crate::{
    client::memory,
    inbox::Told,
    screencopy::{streaming, Copier},
    server::{Server, HEIGHT, WIDTH},
    streaming::WHOLE,
};

/// Another client still gets its picture.
fn others_go_on(server: &mut Server) {
    let mut other = Copier::new(server);
    let buffer = other.client.buffer(WIDTH, HEIGHT);
    server.flip(WHOLE, 0x77);
    let frame = other.whole();
    frame.copy(&buffer.object);
    other.client.roundtrip(server);
    server.flip_unchanged();
    other.ready(server, &frame);
    assert_eq!(buffer.pixel(0, 0), 0x77);
    drop((frame, other));
    server.dispatch();
}

#[test]
fn a_second_copy_is_an_error_whichever_it_is() {
    for second_waits in [false, true] {
        let (mut server, mut copier, buffer) = streaming(1);
        let frame = copier.whole();
        frame.copy(&buffer.object);
        if second_waits {
            frame.copy_with_damage(&buffer.object);
        } else {
            frame.copy(&buffer.object);
        }
        copier
            .client
            .expect_error(&mut server, &frame, Error::AlreadyUsed as u32);
        drop(copier);
        others_go_on(&mut server);
        assert_eq!(server.counts().screencopy_frames, 0);
    }
}

#[test]
fn a_copy_after_ready_is_an_error() {
    let (mut server, mut copier, buffer) = streaming(1);
    let frame = copier.whole();
    frame.copy(&buffer.object);
    copier.client.roundtrip(&mut server);
    server.flip(WHOLE, 2);
    copier.ready(&mut server, &frame);
    frame.copy(&buffer.object);
    copier
        .client
        .expect_error(&mut server, &frame, Error::AlreadyUsed as u32);
}

#[test]
fn each_wrong_buffer_is_an_error() {
    let xrgb = Format::Xrgb8888;
    let wrong = [
        (WIDTH - 1, HEIGHT, WIDTH * 4, xrgb),
        (WIDTH, HEIGHT + 1, WIDTH * 4, xrgb),
        (WIDTH, HEIGHT, WIDTH * 4 + 4, xrgb),
        (WIDTH, HEIGHT, WIDTH * 4, Format::Argb8888),
        (WIDTH, HEIGHT, WIDTH * 2, Format::Rgb565),
    ];
    for (width, height, stride, format) in wrong {
        let (mut server, mut copier, _) = streaming(1);
        let buffer = copier.client.buffer_with(width, height, stride, format);
        let frame = copier.whole();
        frame.copy(&buffer.object);
        copier
            .client
            .expect_error(&mut server, &frame, Error::InvalidBuffer as u32);
        drop(copier);
        others_go_on(&mut server);
    }
}

#[test]
fn a_dmabuf_where_none_was_offered_is_an_error() {
    let (mut server, mut copier, _) = streaming(1);
    let fd = memory(64 * 48 * 4);
    let buffer = copier.client.dmabuf(&fd, WIDTH, HEIGHT, 256);
    let frame = copier.whole();
    frame.copy(&buffer);
    copier
        .client
        .expect_error(&mut server, &frame, Error::InvalidBuffer as u32);
}

#[test]
fn a_dmabuf_of_another_size_is_an_error_and_one_that_cannot_be_written_fails() {
    let mut server = Server::with_dmabuf_device(Some(0xe280));
    let mut copier = Copier::new(&mut server);
    // A memfd is no dma-buf: nothing tells so before it is mapped.
    let fd = memory(64 * 48 * 4);
    let pretender = copier.client.dmabuf(&fd, WIDTH, HEIGHT, 256);
    let frame = copier.whole();
    frame.copy(&pretender);
    copier.client.roundtrip(&mut server);
    server.flip(WHOLE, 1);
    copier.expect_failed(&mut server, &frame);
    let small = copier.client.dmabuf(&fd, WIDTH, HEIGHT - 1, 256);
    let frame = copier.whole();
    frame.copy(&small);
    copier
        .client
        .expect_error(&mut server, &frame, Error::InvalidBuffer as u32);
    drop(copier);
    others_go_on(&mut server);
}

#[test]
fn a_region_without_pixels_fails_and_a_copy_on_its_way_is_no_error() {
    let (mut server, mut copier, buffer) = streaming(1);
    let nothing = [
        [WIDTH, 0, 1, 1],
        [-10, -10, 10, 10],
        [0, 0, 0, 5],
        [0, 0, -5, 5],
        [i32::MIN, i32::MIN, i32::MAX, i32::MAX],
        [i32::MAX, i32::MAX, i32::MAX, i32::MAX],
    ];
    for region in nothing {
        let frame = copier.region(region);
        frame.copy(&buffer.object);
        copier.client.roundtrip(&mut server);
        let told = copier.client.take(&frame);
        assert!(
            matches!(told[..], [Told::CopyFailed]),
            "{region:?}: {told:?}"
        );
        frame.destroy();
    }
    assert_eq!(server.counts().screencopy_sessions, 1);
}

#[test]
fn a_client_that_dies_while_it_waits_or_is_copied_leaves_nothing() {
    for dies_in_copy in [false, true] {
        let (mut server, mut copier, buffer) = streaming(1);
        let frame = copier.whole();
        frame.copy_with_damage(&buffer.object);
        copier.client.roundtrip(&mut server);
        if dies_in_copy {
            server.hold_copies();
            server.flip(WHOLE, 2);
            server.wait_for_held_copy();
        }
        drop(copier);
        server.dispatch();
        server.let_copies_go();
        server.finish_copies();
        let counts = server.counts();
        assert_eq!(
            (counts.screencopy_frames, counts.screencopy_sessions),
            (0, 0)
        );
        assert_eq!(server.held(), 0);
        assert!(!server.knows_clients());
        others_go_on(&mut server);
    }
}

#[test]
fn a_frame_destroyed_in_its_copy_does_not_share_its_buffer_with_the_next() {
    let (mut server, mut copier, buffer) = streaming(1);
    let frame = copier.whole();
    frame.copy_with_damage(&buffer.object);
    copier.client.roundtrip(&mut server);
    server.hold_copies();
    server.flip(WHOLE, 2);
    server.wait_for_held_copy();
    frame.destroy();
    let next = copier.whole();
    next.copy_with_damage(&buffer.object);
    copier.client.roundtrip(&mut server);
    // The next one has a session of its own, which knows nothing and is answered anew.
    assert_eq!(server.counts().screencopy_sessions, 2);
    server.let_copies_go();
    let ready = copier.ready(&mut server, &next);
    assert_eq!(ready.damage, [WHOLE]);
    assert_eq!(buffer.pixel(5, 5), 2);
}

#[test]
fn a_buffer_destroyed_or_cut_short_in_its_copy_harms_nobody() {
    let (mut server, mut copier, buffer) = streaming(1);
    let frame = copier.whole();
    frame.copy_with_damage(&buffer.object);
    copier.client.roundtrip(&mut server);
    server.hold_copies();
    server.flip(WHOLE, 2);
    server.wait_for_held_copy();
    buffer.object.destroy();
    buffer.pool.destroy();
    buffer.file.set_len(0).unwrap();
    let _ = copier.client.try_roundtrip(&mut server);
    server.let_copies_go();
    server.finish_copies();
    others_go_on(&mut server);
}

#[test]
fn trouble_that_is_not_the_clients_is_tried_again_and_then_fails() {
    let (mut server, mut copier, buffer) = streaming(1);
    server.break_memory(true);
    let frame = copier.whole();
    frame.copy_with_damage(&buffer.object);
    copier.client.roundtrip(&mut server);
    for n in 0..3 {
        server.flip(WHOLE, n);
        server.finish_copies();
    }
    copier.expect_failed(&mut server, &frame);
    server.break_memory(false);
    server.flip(WHOLE, 9);
    let frame = copier.whole();
    frame.copy_with_damage(&buffer.object);
    copier.client.roundtrip(&mut server);
    server.flip_unchanged();
    assert_eq!(copier.ready(&mut server, &frame).damage, [WHOLE]);
    assert_eq!(buffer.pixel(0, 0), 9);
}

#[test]
fn more_copies_at_once_than_a_client_may_have_fail() {
    let (mut server, mut copier, buffer) = streaming(1);
    let frames: Vec<_> = (0..20)
        .map(|_| {
            let frame = copier.whole();
            frame.copy_with_damage(&buffer.object);
            frame
        })
        .collect();
    copier.client.roundtrip(&mut server);
    let mut failed = 0;
    for frame in &frames {
        let told = copier.client.take(frame);
        failed += usize::from(matches!(told.last(), Some(Told::CopyFailed)));
    }
    assert_eq!(failed, 4);
}
