//! ext-image-copy-capture-v1: any object may die at any moment, and leaves nothing behind.

use crate::{
    client::{memory, Client},
    inbox::Told,
    screencopy::Copier,
    server::Server,
    server::{HEIGHT, WIDTH},
    streaming::{copying, setup, streaming, undamaged, WHOLE},
};

#[test]
fn a_frame_destroyed_while_it_waits_wants_nothing_more() {
    let (mut server, mut client) = setup();
    let session = client.session();
    let buffer = client.buffer(WIDTH, HEIGHT);
    let frame = client.captured(&session, &buffer);
    client.roundtrip(&mut server);
    assert!(server.wants_frame());
    frame.destroy();
    client.roundtrip(&mut server);
    assert!(!server.wants_frame());
}

#[test]
fn a_frame_destroyed_mid_copy_does_not_take_its_damage_with_it() {
    let (mut server, mut client, session, _buffer, frame) = copying([10, 10, 4, 4]);
    frame.destroy();
    client.roundtrip(&mut server);

    // The next frame of the session is there before that copy ends; into another buffer.
    let next_buffer = client.buffer(WIDTH, HEIGHT);
    let next = undamaged(&client, &session, &next_buffer);
    client.roundtrip(&mut server);
    server.let_copies_go();
    let ready = client.expect_ready(&mut server, &next);
    assert_eq!(ready.damage, [WHOLE]);
    assert_eq!((next_buffer.pixel(11, 11), next_buffer.pixel(0, 0)), (2, 1));
}

#[test]
fn two_copies_of_a_session_do_not_overtake_each_other() {
    let (mut server, mut client, session, buffer, frame) = copying(WHOLE);
    frame.destroy();
    client.roundtrip(&mut server);
    server.flip(WHOLE, 3);
    let next = client.captured(&session, &buffer);
    client.roundtrip(&mut server);
    server.flip_unchanged();
    client.roundtrip(&mut server);
    assert_eq!(
        server.running_copies(),
        1,
        "two copies into one buffer at once"
    );
    server.let_copies_go();
    client.expect_ready(&mut server, &next);
    assert!(buffer.pixels().iter().all(|pixel| *pixel == 3));
}

#[test]
fn memory_under_the_copy_of_a_destroyed_frame_is_written_by_nobody_else() {
    for by_screencopy in [false, true] {
        let mut server = Server::with_dmabuf_device(Some(0xe280));
        let mut copier = Copier::new(&mut server);
        // The copies are held before they look at their target, so that a memfd is as good as a dma-buf.
        let file = memory((WIDTH * HEIGHT * 4) as u64);
        let stride = WIDTH as u32 * 4;
        let buffer = copier.client.dmabuf(&file, WIDTH, HEIGHT, stride);
        let ask = |client: &mut Client| {
            let frame = client.frame(&client.session());
            frame.attach_buffer(&buffer);
            frame.capture();
            frame
        };
        let shot = by_screencopy.then(|| copier.whole());
        let frame = match &shot {
            Some(shot) => {
                shot.copy(&buffer);
                None
            }
            None => Some(ask(&mut copier.client)),
        };
        copier.client.roundtrip(&mut server);
        server.hold_copies();
        server.flip(WHOLE, 2);
        server.wait_for_held_copy();
        shot.inspect(|shot| shot.destroy());
        frame.inspect(|frame| frame.destroy());
        let next = ask(&mut copier.client);
        copier.client.roundtrip(&mut server);
        server.flip(WHOLE, 3);
        assert!(!server.would_pass_through() && !server.wants_frame());
        assert_eq!((server.jobs(), server.running_copies()), (1, 1));
        server.let_copies_go();
        server.finish_copies();
        assert!(server.would_pass_through() && server.wants_frame());
        copier.client.expect_nothing(&mut server, &next);
    }
}

#[test]
fn a_frame_destroyed_before_its_copy_could_start_gives_its_slot_back() {
    let (mut server, mut client, session, buffer, frame) = copying([0, 0, 2, 2]);
    frame.destroy();
    client.roundtrip(&mut server);
    server.flip([4, 0, 2, 2], 3);
    let put_off = undamaged(&client, &session, &buffer);
    client.roundtrip(&mut server);
    server.flip_unchanged();
    assert_eq!(server.held(), 2);
    put_off.destroy();
    client.roundtrip(&mut server);
    assert_eq!(server.held(), 1, "only the copy that runs holds a slot");
    server.let_copies_go();
    let next = undamaged(&client, &session, &buffer);
    assert_eq!(client.expect_ready(&mut server, &next).damage, [WHOLE]);
    assert_eq!(
        (buffer.pixel(0, 0), buffer.pixel(4, 0), buffer.pixel(8, 0)),
        (2, 3, 1)
    );
}

#[test]
fn a_buffer_destroyed_mid_copy_is_no_fault() {
    let (mut server, mut client, _session, buffer, frame) = copying(WHOLE);
    buffer.object.destroy();
    buffer.pool.destroy();
    client.roundtrip(&mut server);
    server.let_copies_go();
    client.expect_ready(&mut server, &frame);
    assert_eq!(
        buffer.pixel(0, 0),
        2,
        "the memory is there as long as the copy needs it"
    );
}

#[test]
fn a_frame_outlives_its_session() {
    let (mut server, mut client, session, buffer) = streaming(1);
    let waiting = undamaged(&client, &session, &buffer);
    session.destroy();
    client.roundtrip(&mut server);
    assert_eq!(server.counts().copy_sessions, 1);
    server.flip(WHOLE, 2);
    client.expect_ready(&mut server, &waiting);
    waiting.destroy();
    client.roundtrip(&mut server);
    assert_eq!(server.counts(), Default::default());
    assert!(!server.knows_clients());
}

#[test]
fn a_frame_made_ready_to_go_before_its_session_died_can_still_be_captured() {
    let (mut server, mut client, session, buffer) = streaming(1);
    let frame = client.frame(&session);
    session.destroy();
    frame.attach_buffer(&buffer.object);
    frame.capture();
    client.roundtrip(&mut server);
    server.flip(WHOLE, 2);
    client.expect_ready(&mut server, &frame);
}

#[test]
fn sources_and_managers_may_die_before_their_sessions() {
    let (mut server, mut client) = setup();
    let source = client.source(0);
    let session = client.session_of(&source);
    source.destroy();
    let buffer = client.buffer(WIDTH, HEIGHT);
    let frame = client.captured(&session, &buffer);
    client.roundtrip(&mut server);
    server.flip(WHOLE, 2);
    client.expect_ready(&mut server, &frame);
}

#[test]
fn a_client_killed_mid_copy_leaves_nothing_behind() {
    let (mut server, mut client, session, buffer) = streaming(1);
    undamaged(&client, &session, &buffer);
    client.roundtrip(&mut server);
    server.hold_copies();
    server.flip(WHOLE, 2);
    server.wait_for_held_copy();
    drop((session, client));
    server.dispatch();
    assert_eq!(server.counts(), Default::default());
    server.let_copies_go();
    server.finish_copies();
    assert_eq!(server.held(), 0);
    assert!(!server.knows_clients());
}

#[test]
fn an_output_that_goes_mid_copy_still_ends_the_copy() {
    let mut server = Server::new();
    server.add_output();
    let mut client = Client::new(&mut server);
    let session = client.session_of(&client.source(1));
    let buffer = client.buffer(WIDTH, HEIGHT);
    let frame = client.captured(&session, &buffer);
    client.roundtrip(&mut server);
    server.hold_copies();
    server.flip_on(1, WHOLE, 2);
    server.wait_for_held_copy();
    server.remove_output(1);
    server.let_copies_go();
    client.expect_ready(&mut server, &frame);
    assert!(matches!(client.take(&session).last(), Some(Told::Stopped)));
    assert_eq!(buffer.pixel(0, 0), 2);
}

#[test]
fn a_resize_mid_copy_lets_the_copy_end() {
    let (mut server, mut client, _session, buffer, frame) = copying(WHOLE);
    server.set_mode(0, 16, 16);
    server.let_copies_go();
    client.expect_ready(&mut server, &frame);
    assert_eq!(buffer.pixel(0, 0), 2);
}

#[test]
fn three_hundred_frames_leave_no_object_and_no_slot() {
    let (mut server, mut client, session, buffer) = streaming(0);
    for i in 0..300 {
        let frame = undamaged(&client, &session, &buffer);
        client.roundtrip(&mut server);
        server.flip([i % WIDTH, i % HEIGHT, 1, 1], i as u32);
        client.expect_ready(&mut server, &frame);
        assert_eq!(buffer.pixel(i % WIDTH, i % HEIGHT), i as u32);
        frame.destroy();
    }
    session.destroy();
    client.roundtrip(&mut server);
    assert_eq!(server.counts(), Default::default());
    assert_eq!(server.held(), 0);
}
