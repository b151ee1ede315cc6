//! Nonsense on the wire: the client that sends it is disconnected, alone.

use std::{
    io::{IoSlice, Write},
    os::{fd::AsFd, unix::net::UnixStream},
};

use rustix::net::{sendmsg, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use wayland_client::protocol::wl_shm::WlShm;

use crate::{
    client::{memory, Buffer, Client},
    inbox::Told,
    server::{Server, HEIGHT, WIDTH},
    streaming::WHOLE,
};

/// A client that is in the middle of a stream.
struct Bystander {
    client: Client,
    session: wayland_protocols::ext::image_copy_capture::v1::client::ext_image_copy_capture_session_v1::ExtImageCopyCaptureSessionV1,
    buffer: Buffer,
}

impl Bystander {
    fn new(server: &mut Server) -> Self {
        let client = Client::new(server);
        let session = client.session();
        let buffer = client.buffer(WIDTH, HEIGHT);
        let mut bystander = Self {
            client,
            session,
            buffer,
        };
        bystander.gets_a_frame(server, 1);
        bystander
    }

    fn gets_a_frame(&mut self, server: &mut Server, pixel: u32) {
        let frame = self.client.captured(&self.session, &self.buffer);
        self.client.roundtrip(server);
        server.flip(WHOLE, pixel);
        self.client.expect_ready(server, &frame);
        assert_eq!(self.buffer.pixel(0, 0), pixel);
        frame.destroy();
    }
}

fn message(object: u32, opcode: u16, arguments: &[u8]) -> Vec<u8> {
    let length = 8 + arguments.len() as u32;
    let mut bytes = object.to_ne_bytes().to_vec();
    bytes.extend((length << 16 | u32::from(opcode)).to_ne_bytes());
    bytes.extend(arguments);
    bytes
}

fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers
        .iter()
        .flat_map(|number| number.to_ne_bytes())
        .collect()
}

/// Whether the server has closed this connection, errors it may have sent before aside.
fn is_closed(server: &mut Server, stream: &UnixStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    server.dispatch();
    server.dispatch();
    let mut bytes = [0; 4096];
    loop {
        match rustix::net::recv(stream, &mut bytes[..], rustix::net::RecvFlags::empty()) {
            Ok((0, _)) | Err(rustix::io::Errno::CONNRESET) => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}

/// Sends the bytes as a new client; says whether it was disconnected, and checks that nobody else was.
fn is_disconnected_alone_by(bytes: &[u8]) -> bool {
    let mut server = Server::new();
    let mut bystander = Bystander::new(&mut server);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    server.accept(theirs);
    server.dispatch();
    let _ = ours.write_all(bytes);
    let closed = is_closed(&mut server, &ours);
    bystander.gets_a_frame(&mut server, 2);
    drop(ours);
    server.dispatch();
    bystander.gets_a_frame(&mut server, 3);
    closed
}

#[test]
fn an_unknown_opcode_ends_the_connection() {
    assert!(is_disconnected_alone_by(&message(1, 17, &[])));
}

#[test]
fn an_unknown_object_ends_the_connection() {
    assert!(is_disconnected_alone_by(&message(4711, 0, &[])));
}

#[test]
fn a_length_below_the_header_ends_the_connection() {
    let bytes = [numbers(&[1]), (4u32 << 16).to_ne_bytes().to_vec()].concat();
    assert!(is_disconnected_alone_by(&bytes));
}

#[test]
fn an_id_that_is_in_use_ends_the_connection() {
    assert!(is_disconnected_alone_by(&message(1, 1, &numbers(&[1]))));
}

#[test]
fn an_id_of_the_servers_range_ends_the_connection() {
    assert!(is_disconnected_alone_by(&message(
        1,
        1,
        &numbers(&[0xff00_0001])
    )));
}

#[test]
fn half_a_message_and_silence_harms_nobody() {
    assert!(!is_disconnected_alone_by(
        &message(1, 1, &numbers(&[2]))[..6]
    ));
}

#[test]
fn a_message_shorter_than_its_arguments_harms_nobody() {
    // wl_display.get_registry without its argument.
    is_disconnected_alone_by(&message(1, 1, &[]));
}

#[test]
fn a_string_that_is_longer_than_its_message_harms_nobody() {
    // get_registry as object 2, then bind with a string of 4 GiB.
    let bytes = [
        message(1, 1, &numbers(&[2])),
        message(2, 0, &numbers(&[1, u32::MAX, 0x6161_6161, 1, 3])),
    ];
    is_disconnected_alone_by(&bytes.concat());
}

#[test]
fn a_string_without_its_end_ends_the_connection() {
    let bytes = [
        message(1, 1, &numbers(&[2])),
        message(2, 0, &numbers(&[1, 4, 0x6161_6161, 1, 3])),
    ];
    assert!(is_disconnected_alone_by(&bytes.concat()));
}

#[test]
fn a_global_that_does_not_exist_ends_the_connection() {
    let bytes = [
        message(1, 1, &numbers(&[2])),
        message(2, 0, &numbers(&[9999, 8, 0x735f_6c77, 0x006d_6873, 1, 3])),
    ];
    assert!(is_disconnected_alone_by(&bytes.concat()));
}

#[test]
fn descriptors_that_belong_to_no_message_harm_nobody() {
    let mut server = Server::new();
    let mut bystander = Bystander::new(&mut server);
    let (ours, theirs) = UnixStream::pair().unwrap();
    server.accept(theirs);
    let file = memory(16);
    let fds = [file.as_fd(); 28];
    for _ in 0..20 {
        let mut space = vec![std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(28))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        let sync = message(1, 1, &numbers(&[2]));
        // The first half of a message carries them.
        let sent = sendmsg(
            &ours,
            &[IoSlice::new(&sync[..1])],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        );
        server.dispatch();
        if sent.is_err() {
            break;
        }
    }
    bystander.gets_a_frame(&mut server, 2);
}

#[test]
fn a_pool_over_a_socket_is_refused() {
    let mut server = Server::new();
    let mut bystander = Bystander::new(&mut server);
    let mut client = Client::new(&mut server);
    let shm: WlShm = client.bind(1);
    let (socket, _other) = UnixStream::pair().unwrap();
    shm.create_pool(socket.as_fd(), 4096, &client.handle(), ());
    let error = client.protocol_error(&mut server);
    assert_eq!(error.object_interface, "wl_shm");
    bystander.gets_a_frame(&mut server, 2);
}

#[test]
fn a_buffer_past_the_end_of_its_pool_is_refused() {
    let mut server = Server::new();
    let mut bystander = Bystander::new(&mut server);
    let extremes = [
        (0, 64, 48, 255),
        (0, 64, 48, i32::MAX),
        (0, i32::MAX, i32::MAX, i32::MAX),
        (-4, 64, 48, 256),
        (i32::MAX, 64, 48, 256),
        (0, 0, 48, 256),
        (0, 64, -1, 256),
        (0, 64, 48, -256),
    ];
    for (offset, width, height, stride) in extremes {
        let mut client = Client::new(&mut server);
        let buffer = client.buffer(WIDTH, HEIGHT);
        let format = wayland_client::protocol::wl_shm::Format::Xrgb8888;
        buffer
            .pool
            .create_buffer(offset, width, height, stride, format, &client.handle(), ());
        let error = client.protocol_error(&mut server);
        assert_eq!(error.object_interface, "wl_shm_pool");
    }
    bystander.gets_a_frame(&mut server, 2);
}

#[test]
fn thousands_of_objects_harm_nobody() {
    let mut server = Server::new();
    let mut bystander = Bystander::new(&mut server);
    let mut client = Client::new(&mut server);
    let source = client.source(0);
    let mut stopped = 0;
    for _ in 0..2_000 {
        let session = client.session_of(&source);
        let _frame = client.frame(&session);
        client.roundtrip(&mut server);
        stopped += usize::from(matches!(client.take(&session)[..], [Told::Stopped]));
    }
    assert_eq!(stopped, 2_000 - 64, "open sessions have no bound");
    bystander.gets_a_frame(&mut server, 2);
    drop(client);
    server.dispatch();
    assert_eq!(server.counts().copy_sessions, 1, "only the bystander's");
    bystander.gets_a_frame(&mut server, 3);
}
