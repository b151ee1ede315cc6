//! How most tests of ext-image-copy-capture begin: with a client that has its first frame, and maybe waits for the next.

use wayland_protocols::ext::image_copy_capture::v1::client::{
    ext_image_copy_capture_frame_v1::ExtImageCopyCaptureFrameV1 as Frame,
    ext_image_copy_capture_session_v1::ExtImageCopyCaptureSessionV1 as Session,
};

use crate::{
    client::{Buffer, Client},
    server::{Server, HEIGHT, WIDTH},
};

pub const WHOLE: [i32; 4] = [0, 0, WIDTH, HEIGHT];

/// A server with one output, and a client.
pub fn setup() -> (Server, Client) {
    let mut server = Server::new();
    let client = Client::new(&mut server);
    (server, client)
}

/// A client whose first frame is ready, with this pixel everywhere.
pub fn streaming(pixel: u32) -> (Server, Client, Session, Buffer) {
    let (mut server, mut client) = setup();
    let session = client.session();
    let buffer = client.buffer(WIDTH, HEIGHT);
    let frame = client.captured(&session, &buffer);
    client.roundtrip(&mut server);
    server.flip(WHOLE, pixel);
    client.expect_ready(&mut server, &frame);
    frame.destroy();
    client.roundtrip(&mut server);
    client.take(&session);
    (server, client, session, buffer)
}

/// A frame that has no damage of the client's own.
pub fn undamaged(client: &Client, session: &Session, buffer: &Buffer) -> Frame {
    let frame = client.frame(session);
    frame.attach_buffer(&buffer.object);
    frame.capture();
    frame
}

/// A client that has pixel 1 everywhere and waits for the next frame.
pub fn waiting() -> (Server, Client, Session, Buffer, Frame) {
    let (mut server, mut client, session, buffer) = streaming(1);
    let frame = undamaged(&client, &session, &buffer);
    client.roundtrip(&mut server);
    (server, client, session, buffer, frame)
}

/// The same, and a copy of the next frame has begun and is held: pixel 2 in this rectangle.
pub fn copying(rect: [i32; 4]) -> (Server, Client, Session, Buffer, Frame) {
    let (mut server, client, session, buffer, frame) = waiting();
    server.hold_copies();
    server.flip(rect, 2);
    server.wait_for_held_copy();
    (server, client, session, buffer, frame)
}
