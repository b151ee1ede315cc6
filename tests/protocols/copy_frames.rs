//! ext-image-copy-capture-v1: what a client gets, and when.

use smithay::utils::Transform;
use wayland_client::protocol::{wl_output, wl_shm};

use crate::{
    client::Client,
    inbox::Told,
    server::{Server, HEIGHT, WIDTH},
    streaming::{copying, setup, streaming, undamaged, waiting, WHOLE},
};

#[test]
fn constraints_begin_with_the_size_and_xrgb() {
    let (mut server, mut client) = setup();
    let session = client.session();
    client.roundtrip(&mut server);
    let told = client.take(&session);
    assert!(
        matches!(
            told[..],
            [
                Told::BufferSize(64, 48),
                Told::ShmFormat(wl_shm::Format::Xrgb8888),
                Told::ShmFormat(wl_shm::Format::Argb8888),
                Told::Done
            ]
        ),
        "{told:?}"
    );
}

#[test]
fn a_device_brings_dmabuf_formats_the_frames_own_first_and_linear() {
    let mut server = Server::with_dmabuf_device(Some(0xe280));
    let mut client = Client::new(&mut server);
    let session = client.session();
    client.roundtrip(&mut server);
    let told = client.take(&session);
    let xrgb = u32::from_le_bytes(*b"XR24");
    let argb = u32::from_le_bytes(*b"AR24");
    let [_, _, _, Told::DmabufDevice(0xe280), Told::DmabufFormat(first, linear), Told::DmabufFormat(second, _), Told::Done] =
        &told[..]
    else {
        panic!("{told:?}");
    };
    assert_eq!((*first, *second), (xrgb, argb));
    assert_eq!(linear[..], [0]);
}

#[test]
fn a_denied_client_does_not_see_the_globals() {
    let mut server = Server::new();
    server.deny_next_client = true;
    let denied = Client::new(&mut server);
    let allowed = Client::new(&mut server);
    for global in [
        "ext_output_image_capture_source_manager_v1",
        "ext_image_copy_capture_manager_v1",
        "zwlr_export_dmabuf_manager_v1",
        "zwlr_screencopy_manager_v1",
        "ext_foreign_toplevel_image_capture_source_manager_v1",
        "ext_foreign_toplevel_list_v1",
    ] {
        assert!(!denied.sees(global), "{global}");
        assert!(allowed.sees(global), "{global}");
    }
    assert!(denied.sees("wl_output"));
}

#[test]
fn the_first_frame_needs_no_change_and_is_wholly_damaged() {
    let (mut server, mut client) = setup();
    let session = client.session();
    let buffer = client.buffer(WIDTH, HEIGHT);
    buffer.fill(0xdead_beef);
    // The client damages nothing, so that all comes from the frame's own damage.
    let frame = undamaged(&client, &session, &buffer);
    client.roundtrip(&mut server);
    assert!(server.wants_frame(), "the first frame waits for damage");
    let time = server.flip_unchanged();
    let ready = client.expect_ready(&mut server, &frame);
    assert_eq!(ready.damage, [WHOLE]);
    assert_eq!(ready.time, time);
    assert!(buffer.pixels().iter().all(|pixel| *pixel == 0));
}

#[test]
fn times_past_32_bits_of_seconds_are_those_of_the_flip() {
    let (mut server, mut client, _session, _buffer, frame) = waiting();
    let time = server.flip([0, 0, 1, 1], 2);
    assert!(time.0 > u64::from(u32::MAX));
    assert_eq!(client.expect_ready(&mut server, &frame).time, time);
}

#[test]
fn the_transform_is_the_outputs() {
    let (mut server, mut client, session, buffer) = streaming(1);
    server.set_transform(Transform::_90);
    let frame = undamaged(&client, &session, &buffer);
    client.roundtrip(&mut server);
    server.flip([0, 0, 1, 1], 2);
    let ready = client.expect_ready(&mut server, &frame);
    assert_eq!(ready.transform, u32::from(wl_output::Transform::_90));
}

#[test]
fn a_later_frame_waits_for_a_change_and_tells_what_changed() {
    let (mut server, mut client, session, buffer) = streaming(1);
    let frame = undamaged(&client, &session, &buffer);
    client.expect_nothing(&mut server, &frame);
    assert!(!server.wants_frame());
    let time = server.flip([10, 20, 5, 4], 2);
    let ready = client.expect_ready(&mut server, &frame);
    assert_eq!(ready.damage, [[10, 20, 5, 4]]);
    assert_eq!(ready.time, time);
    assert_eq!(buffer.pixel(10, 20), 2);
    assert_eq!(buffer.pixel(14, 23), 2);
    assert_eq!(buffer.pixel(15, 23), 1);
}

#[test]
fn ready_does_not_come_before_the_copy_is_complete() {
    let (mut server, mut client, _session, buffer, frame) = copying(WHOLE);
    client.expect_nothing(&mut server, &frame);
    assert_eq!(buffer.pixel(0, 0), 1);
    server.let_copies_go();
    client.expect_ready(&mut server, &frame);
    assert_eq!(buffer.pixel(0, 0), 2);
}

#[test]
fn a_session_that_missed_frames_is_answered_at_once_with_all_their_damage() {
    let (mut server, mut client, session, buffer) = streaming(1);
    // Another client makes frames happen.
    let mut other = Client::new(&mut server);
    let its_session = other.session();
    let its_buffer = other.buffer(WIDTH, HEIGHT);
    for (rect, pixel) in [([0, 0, 4, 4], 2), ([40, 30, 4, 4], 3)] {
        let frame = other.captured(&its_session, &its_buffer);
        other.roundtrip(&mut server);
        server.flip(rect, pixel);
        other.expect_ready(&mut server, &frame);
        frame.destroy();
    }
    let jobs = server.jobs();
    let frame = undamaged(&client, &session, &buffer);
    let mut ready = client.expect_ready(&mut server, &frame);
    ready.damage.sort();
    assert_eq!(ready.damage, [[0, 0, 4, 4], [40, 30, 4, 4]]);
    assert_eq!(
        server.jobs(),
        jobs,
        "a frame was made for a session that is behind"
    );
    assert_eq!(
        (buffer.pixel(1, 1), buffer.pixel(41, 31), buffer.pixel(9, 9)),
        (2, 3, 1)
    );
}

#[test]
fn damage_of_flips_that_nobody_captured_is_not_lost() {
    let (mut server, mut client, session, buffer) = streaming(1);
    server.flip([0, 0, 4, 4], 2);
    server.flip([8, 0, 4, 4], 3);
    let frame = undamaged(&client, &session, &buffer);
    client.roundtrip(&mut server);
    assert!(
        server.wants_frame(),
        "waits for damage that has happened already"
    );
    server.flip_unchanged();
    let mut ready = client.expect_ready(&mut server, &frame);
    ready.damage.sort();
    assert_eq!(ready.damage, [[0, 0, 4, 4], [8, 0, 4, 4]]);
    assert_eq!((buffer.pixel(0, 0), buffer.pixel(8, 0)), (2, 3));
}

#[test]
fn what_is_copied_is_the_union_of_both_damages() {
    let (mut server, mut client, session, buffer) = streaming(1);
    buffer.fill(0xdead_beef);
    let frame = client.frame(&session);
    frame.attach_buffer(&buffer.object);
    frame.damage_buffer(2, 2, 3, 3);
    // Reaches past the limits of i32 and of the buffer.
    frame.damage_buffer(60, 40, i32::MAX, i32::MAX);
    frame.capture();
    client.roundtrip(&mut server);
    server.flip([20, 20, 2, 2], 7);
    let ready = client.expect_ready(&mut server, &frame);
    assert_eq!(
        ready.damage,
        [[20, 20, 2, 2]],
        "the client's own damage is not the frame's"
    );
    let expected = |x: i32, y: i32| match (x, y) {
        (2..5, 2..5) => 1,
        (60.., 40..) => 1,
        (20..22, 20..22) => 7,
        _ => 0xdead_beef,
    };
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            assert_eq!(buffer.pixel(x, y), expected(x, y), "at {x},{y}");
        }
    }
}

#[test]
fn any_amount_of_buffer_damage_is_taken() {
    let (mut server, mut client, session, buffer) = streaming(1);
    buffer.fill(0);
    let frame = client.frame(&session);
    frame.attach_buffer(&buffer.object);
    for i in 0..20_000 {
        frame.damage_buffer(i % WIDTH, i / WIDTH % HEIGHT, 1, 1);
        if i % 500 == 0 {
            client.roundtrip(&mut server);
        }
    }
    frame.capture();
    client.roundtrip(&mut server);
    server.flip([0, 0, 1, 1], 1);
    client.expect_ready(&mut server, &frame);
    assert!(buffer.pixels().iter().all(|pixel| *pixel == 1));
}

#[test]
fn a_stride_with_padding_and_an_alpha_channel_are_respected() {
    let (mut server, mut client, session, _) = streaming(0x0011_2233);
    let buffer = client.buffer_with(WIDTH, HEIGHT, WIDTH * 4 + 36, wl_shm::Format::Argb8888);
    buffer.fill(0x5555_5555);
    let frame = client.captured(&session, &buffer);
    client.roundtrip(&mut server);
    server.flip([0, 0, 1, 1], 0x0044_5566);
    client.expect_ready(&mut server, &frame);
    assert_eq!(buffer.pixel(0, 0), 0xff44_5566);
    assert_eq!(buffer.pixel(WIDTH - 1, HEIGHT - 1), 0xff11_2233);
    assert_eq!(
        buffer.pixel(WIDTH, 0),
        0x5555_5555,
        "the padding was written"
    );
}

#[test]
fn the_last_attached_buffer_is_the_one() {
    let (mut server, mut client, session, first) = streaming(1);
    let second = client.buffer(WIDTH, HEIGHT);
    let frame = client.frame(&session);
    frame.attach_buffer(&first.object);
    frame.attach_buffer(&second.object);
    frame.damage_buffer(0, 0, WIDTH, HEIGHT);
    frame.capture();
    client.roundtrip(&mut server);
    server.flip(WHOLE, 2);
    client.expect_ready(&mut server, &frame);
    assert_eq!((first.pixel(0, 0), second.pixel(0, 0)), (1, 2));
}

#[test]
fn two_sessions_get_the_same_flip_from_one_job() {
    let (mut server, mut client, session, buffer) = streaming(1);
    let second_session = client.session();
    let second_buffer = client.buffer(WIDTH, HEIGHT);
    let first = client.captured(&second_session, &second_buffer);
    client.expect_ready(&mut server, &first);
    first.destroy();
    let frames = [
        client.captured(&session, &buffer),
        client.captured(&second_session, &second_buffer),
    ];
    client.roundtrip(&mut server);
    let jobs = server.jobs();
    let time = server.flip(WHOLE, 2);
    for frame in &frames {
        assert_eq!(client.expect_ready(&mut server, frame).time, time);
    }
    assert_eq!(server.jobs(), jobs + 1);
    assert_eq!(buffer.pixels(), second_buffer.pixels());
}

#[test]
fn more_sessions_than_the_pool_takes_at_once_all_get_their_frame() {
    let mut server = Server::new();
    let mut all: Vec<_> = (0..40)
        .map(|_| {
            let mut client = Client::new(&mut server);
            let buffer = client.buffer(WIDTH, HEIGHT);
            let frame = client.captured(&client.session(), &buffer);
            client.roundtrip(&mut server);
            (client, buffer, frame)
        })
        .collect();
    server.hold_copies();
    let time = server.flip(WHOLE, 8);
    assert!(server.running_copies() < 40, "the pool has no bound");
    server.let_copies_go();
    for (client, buffer, frame) in &mut all {
        assert_eq!(client.expect_ready(&mut server, frame).time, time);
        assert_eq!(buffer.pixel(WIDTH - 1, HEIGHT - 1), 8);
    }
    assert_eq!(server.jobs(), 1);
}
