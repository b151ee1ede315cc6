//! Windows as sources of ext-image-copy-capture-v1.

use wayland_protocols::ext::{
    foreign_toplevel_list::v1::client::{
        ext_foreign_toplevel_handle_v1::ExtForeignToplevelHandleV1 as Toplevel,
        ext_foreign_toplevel_list_v1::ExtForeignToplevelListV1 as ToplevelList,
    },
    image_capture_source::v1::client::{
        ext_foreign_toplevel_image_capture_source_manager_v1::ExtForeignToplevelImageCaptureSourceManagerV1 as ToplevelSourceManager,
        ext_image_capture_source_v1::ExtImageCaptureSourceV1 as Source,
    },
    image_copy_capture::v1::client::ext_image_copy_capture_frame_v1::FailureReason,
};

use crate::{
    client::Client,
    inbox::Told,
    server::{Server, HEIGHT, WIDTH},
    streaming::undamaged,
};

/// A client and the windows that it was told of.
pub fn listing(server: &mut Server) -> (Client, Vec<Toplevel>) {
    let (client, _, toplevels) = list(server);
    (client, toplevels)
}

/// The same with the list itself.
fn list(server: &mut Server) -> (Client, ToplevelList, Vec<Toplevel>) {
    let mut client = Client::new(server);
    let list: ToplevelList = client.bind(1);
    client.roundtrip(server);
    let told = client.take(&list).into_iter();
    let toplevels = told.map(|told| match told {
        Told::NewToplevel(toplevel) => toplevel,
        other => panic!("{other:?}"),
    });
    let toplevels = toplevels.collect();
    (client, list, toplevels)
}

pub fn source(client: &Client, toplevel: &Toplevel) -> Source {
    let manager: ToplevelSourceManager = client.bind(1);
    manager.create_source(toplevel, &client.handle(), ())
}

#[test]
fn a_window_is_listed_with_its_names_and_an_identifier() {
    let mut server = Server::new();
    server.open_window("first", (10, 10));
    let (mut client, toplevels) = listing(&mut server);
    let told = client.take(&toplevels[0]);
    let [Told::Identifier(identifier), Told::Title(title), Told::AppId(app_id), Told::Done] =
        &told[..]
    else {
        panic!("{told:?}");
    };
    assert_eq!((title.as_str(), app_id.as_str()), ("first", "app"));
    assert!(!identifier.is_empty() && identifier.len() <= 32);
    server.close_window(0);
    client.roundtrip(&mut server);
    assert!(matches!(client.take(&toplevels[0])[..], [Told::Closed]));
}

#[test]
fn a_window_that_is_renamed_stays_the_same_window() {
    let mut server = Server::new();
    server.open_window("first", (10, 8));
    server.open_window("second", (10, 8));
    let (mut client, toplevels) = listing(&mut server);
    let session = client.session_of(&source(&client, &toplevels[0]));
    client.roundtrip(&mut server);
    for object in &toplevels {
        client.take(object);
    }
    client.take(&session);
    server.rename_window(0, "other");
    client.roundtrip(&mut server);
    let told = client.take(&toplevels[0]);
    // What has not changed is not told again, and the identifier never changes.
    let [Told::Title(title), Told::Done] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(title, "other");
    client.expect_nothing(&mut server, &toplevels[1]);
    client.expect_nothing(&mut server, &session);
    let buffer = client.buffer(10, 8);
    let frame = undamaged(&client, &session, &buffer);
    client.expect_ready(&mut server, &frame);
    // Who comes now is told the present name.
    let (mut late, toplevels) = listing(&mut server);
    let told = late.take(&toplevels[0]);
    let named = |told: &Told| matches!(told, Told::Title(title) if title == "other");
    assert!(told.iter().any(named), "{told:?}");
}

#[test]
fn a_list_that_is_stopped_is_finished_and_its_windows_go_on() {
    let mut server = Server::new();
    server.open_window("first", (10, 8));
    let (mut client, list, toplevels) = list(&mut server);
    let (mut other, other_list, _) = self::list(&mut server);
    let session = client.session_of(&source(&client, &toplevels[0]));
    client.roundtrip(&mut server);
    client.take(&toplevels[0]);
    client.take(&session);
    list.stop();
    client.roundtrip(&mut server);
    let told = client.take(&list);
    assert!(matches!(told[..], [Told::Finished]), "{told:?}");
    server.open_window("second", (10, 8));
    client.expect_nothing(&mut server, &list);
    other.roundtrip(&mut server);
    let told = other.take(&other_list);
    assert!(matches!(told[..], [Told::NewToplevel(_)]), "{told:?}");
    // Only new windows were declined.
    server.rename_window(0, "other");
    client.roundtrip(&mut server);
    let told = client.take(&toplevels[0]);
    assert!(matches!(told[..], [Told::Title(_), Told::Done]), "{told:?}");
    let buffer = client.buffer(10, 8);
    let frame = undamaged(&client, &session, &buffer);
    client.expect_ready(&mut server, &frame);
    list.destroy();
    server.close_window(0);
    client.roundtrip(&mut server);
    assert!(matches!(client.take(&toplevels[0])[..], [Told::Closed]));
    let told = client.take(&session);
    assert!(matches!(told[..], [Told::Stopped]), "{told:?}");
}

#[test]
fn a_windows_frames_are_the_windows_and_not_the_screens() {
    let mut server = Server::new();
    server.open_window("first", (10, 8));
    server.open_window("second", (12, 9));
    server.flip([0, 0, WIDTH, HEIGHT], 0xff);
    server.paint_window(0, 0x11);
    server.paint_window(1, 0x22);
    let (mut client, toplevels) = listing(&mut server);
    for (toplevel, size, pixel) in [
        (&toplevels[0], (10, 8), 0x11),
        (&toplevels[1], (12, 9), 0x22),
    ] {
        let session = client.session_of(&source(&client, toplevel));
        client.roundtrip(&mut server);
        let told = client.take(&session);
        assert!(
            matches!(told[0], Told::BufferSize(w, h) if (w, h) == size),
            "{told:?}"
        );
        let buffer = client.buffer(size.0 as i32, size.1 as i32);
        let frame = undamaged(&client, &session, &buffer);
        let ready = client.expect_ready(&mut server, &frame);
        assert_eq!(ready.damage, [[0, 0, size.0 as i32, size.1 as i32]]);
        assert_eq!(ready.transform, 0);
        assert!(buffer.pixels().iter().all(|p| *p == pixel));
        frame.destroy();

        let frame = undamaged(&client, &session, &buffer);
        client.expect_nothing(&mut server, &frame);
        let nth = usize::from(pixel == 0x22);
        server.paint_window(nth, pixel + 1);
        client.expect_ready(&mut server, &frame);
        assert_eq!(buffer.pixel(0, 0), pixel + 1);
    }
}

#[test]
fn a_window_that_is_resized_brings_constraints_and_refuses_the_old_buffer() {
    let mut server = Server::new();
    server.open_window("first", (10, 8));
    let (mut client, toplevels) = listing(&mut server);
    let session = client.session_of(&source(&client, &toplevels[0]));
    let buffer = client.buffer(10, 8);
    let frame = undamaged(&client, &session, &buffer);
    client.expect_ready(&mut server, &frame);
    frame.destroy();
    let frame = undamaged(&client, &session, &buffer);
    client.roundtrip(&mut server);
    client.take(&session);
    server.resize_window(0, (20, 16));
    client.expect_failed(&mut server, &frame, FailureReason::BufferConstraints);
    let told = client.take(&session);
    assert!(matches!(told[0], Told::BufferSize(20, 16)), "{told:?}");
}

#[test]
fn a_window_that_closes_stops_its_sessions_and_no_others() {
    let mut server = Server::new();
    server.open_window("first", (10, 8));
    server.open_window("second", (10, 8));
    let (mut client, toplevels) = listing(&mut server);
    let sources = [0, 1].map(|nth| source(&client, &toplevels[nth]));
    let sessions = [0, 1].map(|nth: usize| client.session_of(&sources[nth]));
    let buffer = client.buffer(10, 8);
    let frame = undamaged(&client, &sessions[0], &buffer);
    client.expect_ready(&mut server, &frame);
    frame.destroy();
    let waiting = undamaged(&client, &sessions[0], &buffer);
    client.roundtrip(&mut server);
    client.take(&sessions[0]);
    client.take(&sessions[1]);
    server.close_window(0);
    client.expect_failed(&mut server, &waiting, FailureReason::Stopped);
    assert!(matches!(client.take(&sessions[0])[..], [Told::Stopped]));
    assert!(client.take(&sessions[1]).is_empty());
    // Both names of the window are inert now.
    let again = client.session_of(&sources[0]);
    let late = client.session_of(&source(&client, &toplevels[0]));
    client.roundtrip(&mut server);
    assert!(matches!(client.take(&again)[..], [Told::Stopped]));
    assert!(matches!(client.take(&late)[..], [Told::Stopped]));
}
