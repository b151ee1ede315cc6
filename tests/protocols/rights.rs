//! A client that loses the right to capture: what it has ends, what it keeps is worth nothing, and nobody else notices.

use std::{fs::File, os::unix::fs::FileExt};

use wayland_client::protocol::wl_output::WlOutput;
use wayland_protocols::ext::image_copy_capture::v1::client::ext_image_copy_capture_frame_v1::FailureReason;
use wayland_protocols_wlr::export_dmabuf::v1::client::{
    zwlr_export_dmabuf_frame_v1::CancelReason,
    zwlr_export_dmabuf_manager_v1::ZwlrExportDmabufManagerV1,
};

use crate::{
    client::{Client, ExportedFrame},
    cursor::{capture_session, cursor_session, pointer},
    inbox::Told,
    screencopy::Copier,
    server::{Server, HEIGHT, WIDTH},
    streaming::{copying, setup, streaming, undamaged, waiting, WHOLE},
    toplevel::{listing, source as toplevel_source},
};

#[test]
fn a_waiting_screencopy_frame_fails_and_nothing_follows() {
    let mut server = Server::new();
    let mut copier = Copier::new(&mut server);
    let buffer = copier.client.buffer(WIDTH, HEIGHT);
    let first = copier.whole();
    first.copy(&buffer.object);
    copier.client.roundtrip(&mut server);
    server.flip(WHOLE, 1);
    copier.ready(&mut server, &first);
    let waiting = copier.whole();
    waiting.copy_with_damage(&buffer.object);
    let announced = copier.whole();
    copier.client.roundtrip(&mut server);
    copier.client.take(&waiting);
    copier.client.take(&announced);
    server.revoke(0);
    copier.client.roundtrip(&mut server);
    for frame in [&waiting, &announced] {
        let told = copier.client.take(frame);
        assert!(matches!(told[..], [Told::CopyFailed]), "{told:?}");
    }
    assert!(!server.wants_frame(), "the display still works for it");
    announced.copy(&buffer.object);
    let late = copier.whole();
    copier.client.roundtrip(&mut server);
    let told = copier.client.take(&late);
    assert!(matches!(told[..], [Told::CopyFailed]), "{told:?}");
    server.flip(WHOLE, 2);
    copier.client.expect_nothing(&mut server, &waiting);
    copier.client.expect_nothing(&mut server, &announced);
    assert_eq!(buffer.pixel(0, 0), 1);
    assert_eq!(server.counts().screencopy_sessions, 0);
    assert!(!server.knows_clients());
}

fn pixel(frame: &ExportedFrame) -> u32 {
    let file = File::from(frame.fd.try_clone().unwrap());
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, 0).unwrap();
    u32::from_ne_bytes(bytes)
}

#[test]
fn a_waiting_frame_fails_and_its_session_stops() {
    let (mut server, mut client, session, buffer, frame) = waiting();
    server.revoke(0);
    client.roundtrip(&mut server);
    assert!(matches!(client.take(&session)[..], [.., Told::Stopped]));
    client.expect_failed(&mut server, &frame, FailureReason::Stopped);
    assert!(!server.wants_frame(), "the display still works for it");
    server.flip(WHOLE, 2);
    client.expect_nothing(&mut server, &frame);
    assert_eq!(buffer.pixel(0, 0), 1);
    assert!(!server.knows_clients());
}

#[test]
fn a_frame_under_copy_fails_and_is_not_ready_afterwards() {
    let (mut server, mut client, _session, _buffer, frame) = copying([10, 10, 4, 4]);
    server.revoke(0);
    client.roundtrip(&mut server);
    assert!(matches!(
        client.take(&frame)[..],
        [Told::Failed(FailureReason::Stopped)]
    ));
    server.let_copies_go();
    server.finish_copies();
    client.expect_nothing(&mut server, &frame);
}

#[test]
fn objects_from_before_make_nothing_but_stopped_sessions() {
    let (mut server, mut client) = setup();
    let source = client.source(0);
    let exporter: ZwlrExportDmabufManagerV1 = client.bind(1);
    let output: WlOutput = client.bind(4);
    let session = client.session_of(&source);
    client.roundtrip(&mut server);
    server.revoke(0);
    client.roundtrip(&mut server);
    client.take(&session);
    let buffer = client.buffer(WIDTH, HEIGHT);
    let again = client.captured(&session, &buffer);
    client.expect_failed(&mut server, &again, FailureReason::Stopped);
    let exported = client.export(&exporter, &output);
    client.expect_cancelled(&mut server, &exported, CancelReason::Permanent);
    assert!(!server.wants_frame());
    assert!(!server.knows_clients());
}

#[test]
fn an_exported_frame_is_cancelled_and_its_memory_is_not_written_again() {
    let mut server = Server::new();
    let (mut loser, mut other) = (Client::new(&mut server), Client::new(&mut server));
    let of = |client: &Client| (client.bind(1), client.bind::<WlOutput>(4));
    let ((manager, output), (other_manager, other_output)) = (of(&loser), of(&other));
    let mut held = Vec::new();
    for n in 1..=2 {
        let frame = loser.export(&manager, &output);
        loser.roundtrip(&mut server);
        server.flip(WHOLE, n);
        held.push((loser.expect_exported(&mut server, &frame), frame));
    }
    let waiting = loser.export(&manager, &output);
    loser.roundtrip(&mut server);
    server.revoke(0);
    for (_, frame) in &held {
        loser.expect_cancelled(&mut server, frame, CancelReason::Permanent);
    }
    loser.expect_cancelled(&mut server, &waiting, CancelReason::Permanent);
    // Although it keeps all objects and descriptors: others go on in other memory.
    for n in 3..=60 {
        let frame = other.export(&other_manager, &other_output);
        other.roundtrip(&mut server);
        server.flip(WHOLE, n);
        let got = other.expect_exported(&mut server, &frame);
        assert_eq!(pixel(&got), n);
        frame.destroy();
        assert_eq!(
            (pixel(&held[0].0), pixel(&held[1].0)),
            (1, 2),
            "at flip {n}"
        );
        other.roundtrip(&mut server);
        server.pass(std::time::Duration::from_millis(5));
    }
    assert_eq!(server.counts().export_sessions, 1);
}

#[test]
fn a_session_whose_client_keeps_the_right_goes_on() {
    let (mut server, mut client, session, buffer) = streaming(1);
    let _loser = Client::new(&mut server);
    let frame = undamaged(&client, &session, &buffer);
    client.roundtrip(&mut server);
    client.take(&session);
    server.revoke(1);
    client.expect_nothing(&mut server, &session);
    client.expect_nothing(&mut server, &frame);
    server.flip([1, 1, 1, 1], 2);
    let ready = client.expect_ready(&mut server, &frame);
    assert_eq!(ready.damage, [WHOLE], "the first frame of the new ring");
    assert_eq!((buffer.pixel(1, 1), buffer.pixel(0, 0)), (2, 1));
}

#[test]
fn cursor_sessions_and_window_sessions_stop_too() {
    let mut server = Server::new();
    server.open_window("window", (4, 4));
    server.set_cursor(pointer((4, 4), 1, (0, 0), (5, 5)));
    let (mut client, toplevels) = listing(&mut server);
    let window = client.session_of(&toplevel_source(&client, &toplevels[0]));
    let cursor = cursor_session(&client, 0);
    let picture = capture_session(&client, &cursor);
    client.roundtrip(&mut server);
    client.take(&cursor);
    server.revoke(0);
    client.roundtrip(&mut server);
    assert!(matches!(client.take(&window)[..], [.., Told::Stopped]));
    assert!(matches!(client.take(&picture)[..], [.., Told::Stopped]));
    assert!(matches!(client.take(&cursor)[..], [Told::Leave]));
    server.set_cursor(pointer((4, 4), 2, (0, 0), (6, 6)));
    client.expect_nothing(&mut server, &cursor);
}
