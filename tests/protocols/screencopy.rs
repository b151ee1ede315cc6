//! wlr-screencopy-unstable-v1: what a client gets, and when.

use smithay::utils::Transform;
use wayland_client::protocol::{wl_output::WlOutput, wl_shm};
use wayland_protocols_wlr::screencopy::v1::client::{
    zwlr_screencopy_frame_v1::ZwlrScreencopyFrameV1 as Frame,
    zwlr_screencopy_manager_v1::ZwlrScreencopyManagerV1 as Manager,
};

use crate::{
    client::{Buffer, Client},
    inbox::Told,
    server::{Server, HEIGHT, WIDTH},
    streaming::WHOLE,
};

/// A client of screencopy.
pub struct Copier {
    pub client: Client,
    pub manager: Manager,
    pub output: WlOutput,
}

/// What a frame told until `ready`.
#[derive(Debug, PartialEq, Eq)]
pub struct Ready {
    pub damage: Vec<[i32; 4]>,
    pub time: (u64, u32),
}

impl Copier {
    pub fn new(server: &mut Server) -> Self {
        let client = Client::new(server);
        let manager = client.bind(3);
        let output = client.bind(4);
        Self {
            client,
            manager,
            output,
        }
    }

    pub fn whole(&self) -> Frame {
        self.manager
            .capture_output(1, &self.output, &self.client.handle(), ())
    }

    pub fn region(&self, [x, y, w, h]: [i32; 4]) -> Frame {
        self.manager
            .capture_output_region(1, &self.output, x, y, w, h, &self.client.handle(), ())
    }

    /// Width and height that a frame asks for.
    pub fn size(&mut self, server: &mut Server, frame: &Frame) -> (u32, u32) {
        self.client.roundtrip(server);
        let told = self.client.take(frame);
        let [Told::Buffer {
            format: wl_shm::Format::Xrgb8888,
            size,
            stride,
        }, Told::BufferDone] = told[..]
        else {
            panic!("not buffer, buffer_done: {told:?}");
        };
        assert_eq!(stride, size.0 * 4);
        size
    }

    pub fn ready(&mut self, server: &mut Server, frame: &Frame) -> Ready {
        self.client.roundtrip(server);
        server.finish_copies();
        self.client.roundtrip(server);
        let mut told = self.client.take(frame).into_iter().peekable();
        while matches!(
            told.peek(),
            Some(Told::Buffer { .. } | Told::LinuxDmabuf(..) | Told::BufferDone)
        ) {
            told.next();
        }
        assert!(matches!(told.next(), Some(Told::Flags(0))), "no flags");
        let mut damage = Vec::new();
        while let Some(Told::Damage(rect)) = told.peek() {
            damage.push(*rect);
            told.next();
        }
        damage.sort();
        let (Some(Told::CopyReady(seconds, nanoseconds)), None) = (told.next(), told.next()) else {
            panic!("the last event is not ready");
        };
        Ready {
            damage,
            time: (seconds, nanoseconds),
        }
    }

    /// Nothing but the announcement was told.
    pub fn expect_waiting(&mut self, server: &mut Server, frame: &Frame) {
        self.client.roundtrip(server);
        server.finish_copies();
        self.client.roundtrip(server);
        let told = self.client.take(frame);
        let announced = |told: &Told| matches!(told, Told::Buffer { .. } | Told::BufferDone);
        assert!(told.iter().all(announced), "told already: {told:?}");
    }

    pub fn expect_failed(&mut self, server: &mut Server, frame: &Frame) {
        self.client.roundtrip(server);
        server.finish_copies();
        self.client.roundtrip(server);
        let told = self.client.take(frame);
        assert!(matches!(told.last(), Some(Told::CopyFailed)), "{told:?}");
    }
}

/// A client whose first picture is there, with this pixel everywhere.
pub fn streaming(pixel: u32) -> (Server, Copier, Buffer) {
    let mut server = Server::new();
    let mut copier = Copier::new(&mut server);
    let buffer = copier.client.buffer(WIDTH, HEIGHT);
    let frame = copier.whole();
    frame.copy_with_damage(&buffer.object);
    copier.client.roundtrip(&mut server);
    server.flip(WHOLE, pixel);
    copier.ready(&mut server, &frame);
    frame.destroy();
    (server, copier, buffer)
}

#[test]
fn a_frame_asks_for_xrgb_of_the_outputs_size() {
    let mut server = Server::new();
    let mut copier = Copier::new(&mut server);
    let frame = copier.whole();
    assert_eq!(copier.size(&mut server, &frame), (64, 48));
}

#[test]
fn older_versions_are_told_of_wl_shm_only_and_have_no_end_of_the_list() {
    let mut server = Server::with_dmabuf_device(Some(0xe280));
    for version in [1, 2] {
        let mut copier = Copier::new(&mut server);
        copier.manager = copier.client.bind(version);
        let frame = copier.whole();
        copier.client.roundtrip(&mut server);
        let told = copier.client.take(&frame);
        assert!(matches!(told[..], [Told::Buffer { .. }]), "{told:?}");
    }
}

#[test]
fn a_device_brings_a_dmabuf_of_the_frames_own_format() {
    let mut server = Server::with_dmabuf_device(Some(0xe280));
    let mut copier = Copier::new(&mut server);
    let frame = copier.region([0, 0, 10, 20]);
    copier.client.roundtrip(&mut server);
    let told = copier.client.take(&frame);
    let xrgb = u32::from_le_bytes(*b"XR24");
    assert!(
        matches!(
            told[..],
            [Told::Buffer { size: (10, 20), .. }, Told::LinuxDmabuf(format, 10, 20), Told::BufferDone]
                if format == xrgb
        ),
        "{told:?}"
    );
}

#[test]
fn a_copy_needs_no_change_and_has_the_time_of_its_flip() {
    let mut server = Server::new();
    let mut copier = Copier::new(&mut server);
    server.flip(WHOLE, 7);
    let buffer = copier.client.buffer(WIDTH, HEIGHT);
    let frame = copier.whole();
    frame.copy(&buffer.object);
    copier.client.roundtrip(&mut server);
    assert!(server.wants_frame(), "a copy waits for damage");
    let time = server.flip_unchanged();
    let ready = copier.ready(&mut server, &frame);
    assert_eq!(ready.time, time);
    assert!(ready.damage.is_empty(), "damage of a plain copy");
    assert!(buffer.pixels().iter().all(|pixel| *pixel == 7));
}

#[test]
fn each_copy_in_a_row_is_of_another_flip() {
    let (mut server, mut copier, buffer) = streaming(1);
    let mut times = Vec::new();
    for _ in 0..3 {
        let frame = copier.whole();
        frame.copy(&buffer.object);
        copier.expect_waiting(&mut server, &frame);
        assert!(server.wants_frame());
        server.flip_unchanged();
        times.push(copier.ready(&mut server, &frame).time);
        frame.destroy();
    }
    times.dedup();
    assert_eq!(times.len(), 3, "one flip was given twice: {times:?}");
}

#[test]
fn a_copy_is_whole_whatever_the_client_had_before() {
    let (mut server, mut copier, _) = streaming(1);
    let other = copier.client.buffer(WIDTH, HEIGHT);
    other.fill(0xdead_beef);
    let frame = copier.whole();
    frame.copy_with_damage(&other.object);
    copier.client.roundtrip(&mut server);
    server.flip([10, 20, 5, 4], 2);
    let ready = copier.ready(&mut server, &frame);
    assert_eq!(ready.damage, [[10, 20, 5, 4]]);
    let count = |pixel| other.pixels().iter().filter(|p| **p == pixel).count();
    assert_eq!((count(1), count(2)), (64 * 48 - 20, 20));
}

#[test]
fn the_first_copy_with_damage_needs_none_and_is_wholly_damaged() {
    let mut server = Server::new();
    let mut copier = Copier::new(&mut server);
    let buffer = copier.client.buffer(WIDTH, HEIGHT);
    let frame = copier.whole();
    frame.copy_with_damage(&buffer.object);
    copier.client.roundtrip(&mut server);
    assert!(server.wants_frame());
    let time = server.flip_unchanged();
    let ready = copier.ready(&mut server, &frame);
    assert_eq!((ready.damage, ready.time), (vec![WHOLE], time));
}

#[test]
fn copy_with_damage_waits_for_a_change() {
    let (mut server, mut copier, buffer) = streaming(1);
    let frame = copier.whole();
    frame.copy_with_damage(&buffer.object);
    copier.expect_waiting(&mut server, &frame);
    assert!(!server.wants_frame());
    server.flip_unchanged();
    copier.expect_waiting(&mut server, &frame);
    let time = server.flip([1, 2, 3, 4], 2);
    let ready = copier.ready(&mut server, &frame);
    assert_eq!((ready.damage, ready.time), (vec![[1, 2, 3, 4]], time));
}

#[test]
fn damage_between_two_copies_is_not_lost() {
    let (mut server, mut copier, buffer) = streaming(1);
    server.flip([0, 0, 4, 4], 2);
    server.flip([40, 30, 4, 4], 3);
    let frame = copier.whole();
    frame.copy_with_damage(&buffer.object);
    copier.client.roundtrip(&mut server);
    assert!(server.wants_frame(), "damage that happened is waited for");
    server.flip_unchanged();
    let ready = copier.ready(&mut server, &frame);
    assert_eq!(ready.damage, [[0, 0, 4, 4], [40, 30, 4, 4]]);
}

#[test]
fn a_region_is_the_region_and_its_damage_counts_from_its_corner() {
    let mut server = Server::new();
    let mut copier = Copier::new(&mut server);
    let buffer = copier.client.buffer(10, 8);
    let frame = copier.region([20, 30, 10, 8]);
    frame.copy_with_damage(&buffer.object);
    assert_eq!(copier.size(&mut server, &frame), (10, 8));
    server.flip([22, 33, 1, 2], 5);
    let ready = copier.ready(&mut server, &frame);
    assert_eq!(ready.damage, [[0, 0, 10, 8]]);
    let fives: Vec<(i32, i32)> = (0..80)
        .map(|i| (i % 10, i / 10))
        .filter(|(x, y)| buffer.pixel(*x, *y) == 5)
        .collect();
    assert_eq!(fives, [(2, 3), (2, 4)]);

    // What changes elsewhere is no damage here; what reaches over the edge is cut.
    let frame = copier.region([20, 30, 10, 8]);
    frame.copy_with_damage(&buffer.object);
    copier.client.roundtrip(&mut server);
    server.flip([0, 0, 20, 48], 6);
    copier.expect_waiting(&mut server, &frame);
    assert!(!server.wants_frame());
    server.flip([28, 0, 30, 32], 7);
    let ready = copier.ready(&mut server, &frame);
    assert_eq!(ready.damage, [[8, 0, 2, 2]]);
}

#[test]
fn a_region_is_clipped_to_the_output() {
    let mut server = Server::new();
    let mut copier = Copier::new(&mut server);
    let frame = copier.region([-5, 40, 15, 1000]);
    assert_eq!(copier.size(&mut server, &frame), (10, 8));
}

#[test]
fn a_region_is_logical_and_frames_are_what_the_controller_reads() {
    let mut server = Server::new();
    server.set_scale(2);
    server.set_transform(Transform::_90);
    let mut copier = Copier::new(&mut server);
    // Upright, the output has 24x32 logical pixels.
    let frame = copier.region([0, 0, 3, 2]);
    assert_eq!(copier.size(&mut server, &frame), (4, 6));
    let buffer = copier.client.buffer(4, 6);
    frame.copy(&buffer.object);
    copier.client.roundtrip(&mut server);
    // Its top left is at the bottom left of the buffer.
    server.flip([0, 42, 4, 6], 9);
    copier.ready(&mut server, &frame);
    assert!(buffer.pixels().iter().all(|pixel| *pixel == 9));
}

#[test]
fn two_copies_at_once_are_both_answered() {
    let (mut server, mut copier, buffer) = streaming(1);
    let second = copier.client.buffer(WIDTH, HEIGHT);
    server.flip(WHOLE, 2);
    let frames = [copier.whole(), copier.whole()];
    frames[0].copy(&buffer.object);
    frames[1].copy(&second.object);
    copier.client.roundtrip(&mut server);
    server.flip_unchanged();
    for frame in &frames {
        copier.ready(&mut server, frame);
    }
    assert_eq!((buffer.pixel(0, 0), second.pixel(0, 0)), (2, 2));
}

#[test]
fn sessions_live_from_frame_to_frame_and_end_with_the_last_object() {
    let (mut server, mut copier, buffer) = streaming(1);
    for n in 0..5 {
        let frame = copier.whole();
        frame.copy(&buffer.object);
        copier.client.roundtrip(&mut server);
        server.flip(WHOLE, n);
        copier.ready(&mut server, &frame);
        frame.destroy();
    }
    copier.client.roundtrip(&mut server);
    let counts = server.counts();
    assert_eq!(
        (counts.screencopy_sessions, counts.screencopy_frames),
        (1, 0)
    );
    copier.manager.destroy();
    copier.client.roundtrip(&mut server);
    assert_eq!(server.counts().screencopy_sessions, 0);
    assert!(!server.knows_clients());
}

#[test]
fn the_number_of_sessions_is_bounded_whatever_regions_a_client_looks_at() {
    let (mut server, mut copier, _) = streaming(1);
    let buffer = copier.client.buffer(4, 4);
    for n in 0..40 {
        let frame = copier.region([n, n, 4, 4]);
        frame.copy(&buffer.object);
        copier.client.roundtrip(&mut server);
        server.flip(WHOLE, n as u32);
        copier.ready(&mut server, &frame);
        frame.destroy();
    }
    assert_eq!(buffer.pixel(3, 3), 39);
    assert_eq!(server.counts().screencopy_sessions, 16);
}

#[test]
fn a_mode_change_fails_what_waits_and_what_comes_too_late() {
    let (mut server, mut copier, buffer) = streaming(1);
    let waiting = copier.whole();
    waiting.copy_with_damage(&buffer.object);
    let late = copier.whole();
    copier.client.roundtrip(&mut server);
    copier.client.take(&late);
    server.set_mode(0, 128, 96);
    copier.expect_failed(&mut server, &waiting);
    late.copy(&buffer.object);
    copier.expect_failed(&mut server, &late);
    let next = copier.whole();
    assert_eq!(copier.size(&mut server, &next), (128, 96));
}

#[test]
fn an_output_that_goes_fails_what_waits_and_what_comes_too_late() {
    let (mut server, mut copier, buffer) = streaming(1);
    let waiting = copier.whole();
    waiting.copy_with_damage(&buffer.object);
    let late = copier.whole();
    copier.client.roundtrip(&mut server);
    server.remove_output(0);
    copier.expect_failed(&mut server, &waiting);
    late.copy(&buffer.object);
    copier.expect_failed(&mut server, &late);
    let next = copier.whole();
    copier.expect_failed(&mut server, &next);
    assert_eq!(server.counts().screencopy_sessions, 0);
}

#[test]
fn the_flip_between_announcement_and_copy_is_captured_for_a_client_that_streams() {
    let (mut server, mut copier, buffer) = streaming(1);
    server.flip([0, 0, 4, 4], 2);
    let frame = copier.whole();
    copier.client.roundtrip(&mut server);
    let before = server.jobs();
    let time = server.flip([8, 0, 4, 4], 3);
    assert_eq!(server.jobs(), before + 1, "the announcement says nothing");
    frame.copy_with_damage(&buffer.object);
    let ready = copier.ready(&mut server, &frame);
    assert_eq!(ready.time, time);
    assert_eq!(ready.damage, [[0, 0, 4, 4], [8, 0, 4, 4]]);
}
