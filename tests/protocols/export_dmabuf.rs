//! wlr-export-dmabuf-unstable-v1: what a client gets, when it is taken back, and what its death gives back.

use std::{
    fs::File,
    os::{
        fd::AsFd,
        unix::fs::{FileExt, MetadataExt},
    },
    time::Duration,
};

use rustix::{
    fs::{fcntl_getfl, OFlags},
    io::Errno,
    mm::{mmap, MapFlags, ProtFlags},
};
use wayland_client::protocol::wl_output::WlOutput;
use wayland_protocols::ext::image_copy_capture::v1::client::ext_image_copy_capture_frame_v1::FailureReason;
use wayland_protocols_wlr::export_dmabuf::v1::client::{
    zwlr_export_dmabuf_frame_v1::{CancelReason, ZwlrExportDmabufFrameV1},
    zwlr_export_dmabuf_manager_v1::ZwlrExportDmabufManagerV1,
};

use crate::{
    client::{Client, ExportedFrame},
    server::{Server, HEIGHT, WIDTH},
    streaming::WHOLE,
};

/// Longer than the default deadline of a holder.
const PAST_THE_DEADLINE: Duration = Duration::from_secs(2);

struct Exporter {
    client: Client,
    manager: ZwlrExportDmabufManagerV1,
    output: WlOutput,
}

impl Exporter {
    fn new(server: &mut Server) -> Self {
        let client = Client::new(server);
        let manager = client.bind(1);
        let output = client.bind(4);
        Self {
            client,
            manager,
            output,
        }
    }

    fn ask(&mut self, server: &mut Server) -> ZwlrExportDmabufFrameV1 {
        let frame = self.client.export(&self.manager, &self.output);
        self.client.roundtrip(server);
        frame
    }

    fn get(&mut self, server: &mut Server, frame: &ZwlrExportDmabufFrameV1) -> ExportedFrame {
        self.client.expect_exported(server, frame)
    }
}

/// The pixel as the client sees it through the descriptor.
fn pixel(frame: &ExportedFrame, x: i32, y: i32) -> u32 {
    let file = File::from(frame.fd.try_clone().unwrap());
    let at = u64::from(frame.offset) + y as u64 * u64::from(frame.stride) + x as u64 * 4;
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, at).unwrap();
    u32::from_ne_bytes(bytes)
}

fn inode(frame: &ExportedFrame) -> u64 {
    File::from(frame.fd.try_clone().unwrap())
        .metadata()
        .unwrap()
        .ino()
}

#[test]
fn a_frame_is_described_and_timed_as_the_flip() {
    let mut server = Server::new();
    let mut exporter = Exporter::new(&mut server);
    let frame = exporter.ask(&mut server);
    exporter.client.expect_nothing(&mut server, &frame);
    let time = server.flip([3, 4, 1, 1], 0x00ab_cdef);
    let got = exporter.get(&mut server, &frame);
    assert_eq!(got.time, time);
    assert_eq!(got.size, (WIDTH as u32, HEIGHT as u32));
    assert_eq!(got.flags, 1, "transient");
    assert_eq!(got.format.to_le_bytes(), *b"XR24");
    assert_eq!((got.modifier, got.offset), (0, 0));
    assert_eq!(got.stride, WIDTH as u32 * 4 + 64);
    assert_eq!(got.object_size, got.stride * HEIGHT as u32);
    assert_eq!((pixel(&got, 3, 4), pixel(&got, 4, 4)), (0x00ab_cdef, 0));
}

#[test]
fn frames_cannot_be_written() {
    let mut server = Server::new();
    let mut exporter = Exporter::new(&mut server);
    let frame = exporter.ask(&mut server);
    server.flip(WHOLE, 1);
    let got = exporter.get(&mut server, &frame);
    let mode = fcntl_getfl(&got.fd).unwrap() & OFlags::RWMODE;
    assert_eq!(mode, OFlags::RDONLY);
    let map = |protection| {
        let length = got.object_size as usize;
        // SAFETY: a new mapping at an address that the kernel chooses, which nobody uses.
        unsafe {
            mmap(
                std::ptr::null_mut(),
                length,
                protection,
                MapFlags::SHARED,
                got.fd.as_fd(),
                0,
            )
        }
    };
    assert_eq!(
        map(ProtFlags::READ | ProtFlags::WRITE).unwrap_err(),
        Errno::ACCESS
    );
    assert!(map(ProtFlags::READ).is_ok());
}

#[test]
fn eight_clients_share_one_slot_and_one_job_per_frame() {
    let mut server = Server::new();
    let mut exporters: Vec<_> = (0..8).map(|_| Exporter::new(&mut server)).collect();
    for round in 1..=20 {
        let frames: Vec<_> = exporters.iter_mut().map(|e| e.ask(&mut server)).collect();
        let time = server.flip(WHOLE, round);
        let got: Vec<_> = exporters
            .iter_mut()
            .zip(&frames)
            .map(|(exporter, frame)| exporter.get(&mut server, frame))
            .collect();
        for exported in &got {
            assert_eq!(inode(exported), inode(&got[0]), "not the same slot");
            assert_eq!(exported.time, time);
            assert_eq!(pixel(exported, 1, 1), round);
        }
        assert_eq!(server.jobs(), u64::from(round));
        for frame in &frames {
            frame.destroy();
        }
        for exporter in &mut exporters {
            exporter.client.roundtrip(&mut server);
        }
        // Slots rest for a moment after their release.
        server.pass(Duration::from_millis(40));
    }
}

#[test]
fn a_client_that_has_seen_the_newest_frame_gets_the_next_flip_even_without_damage() {
    let mut server = Server::new();
    let mut exporter = Exporter::new(&mut server);
    let first = exporter.ask(&mut server);
    server.flip(WHOLE, 1);
    exporter.get(&mut server, &first);
    first.destroy();
    let second = exporter.ask(&mut server);
    exporter.client.expect_nothing(&mut server, &second);
    assert!(server.wants_frame());
    let time = server.flip_unchanged();
    assert_eq!(exporter.get(&mut server, &second).time, time);
}

#[test]
fn a_client_that_is_behind_gets_the_newest_frame_at_once() {
    let mut server = Server::new();
    let mut first = Exporter::new(&mut server);
    let mut second = Exporter::new(&mut server);
    let frame = first.ask(&mut server);
    let time = server.flip(WHOLE, 1);
    first.get(&mut server, &frame);
    let frame = second.ask(&mut server);
    assert_eq!(second.get(&mut server, &frame).time, time);
    assert_eq!(server.jobs(), 1);
}

#[test]
fn destroying_the_object_is_the_release() {
    let mut server = Server::new();
    let mut exporter = Exporter::new(&mut server);
    let frame = exporter.ask(&mut server);
    server.flip(WHOLE, 1);
    let got = exporter.get(&mut server, &frame);
    assert_eq!(server.held(), 1);
    drop(got);
    exporter.client.roundtrip(&mut server);
    assert_eq!(
        server.held(),
        1,
        "closing the descriptor is not the release"
    );
    frame.destroy();
    exporter.client.roundtrip(&mut server);
    assert_eq!(server.held(), 0);
}

#[test]
fn the_death_of_the_client_is_the_release() {
    let mut server = Server::new();
    let mut exporter = Exporter::new(&mut server);
    let held = exporter.ask(&mut server);
    server.flip(WHOLE, 1);
    exporter.get(&mut server, &held);
    let _waiting = exporter.ask(&mut server);
    assert!(server.wants_frame());
    drop(exporter);
    server.dispatch();
    assert_eq!(server.held(), 0);
    assert!(!server.wants_frame());
    assert_eq!(server.counts(), Default::default());
    assert!(!server.knows_clients());
}

#[test]
fn a_frame_destroyed_while_it_waits_wants_nothing_more() {
    let mut server = Server::new();
    let mut exporter = Exporter::new(&mut server);
    let frame = exporter.ask(&mut server);
    assert!(server.wants_frame());
    frame.destroy();
    exporter.client.roundtrip(&mut server);
    assert!(!server.wants_frame());
    assert_eq!(server.counts().export_frames, 0);
}

#[test]
fn frames_outlive_their_manager() {
    let mut server = Server::new();
    let mut exporter = Exporter::new(&mut server);
    let frame = exporter.ask(&mut server);
    exporter.manager.destroy();
    exporter.client.roundtrip(&mut server);
    server.flip(WHOLE, 1);
    exporter.get(&mut server, &frame);
    frame.destroy();
    exporter.client.roundtrip(&mut server);
    assert_eq!(server.counts(), Default::default());
}

#[test]
fn a_client_that_never_releases_does_not_stop_another_and_its_frames_are_not_written() {
    let mut server = Server::new();
    let mut holder = Exporter::new(&mut server);
    let mut other = Exporter::new(&mut server);
    let mut held = Vec::new();
    for pixel in 1..=2 {
        let frame = holder.ask(&mut server);
        server.flip(WHOLE, pixel);
        let got = holder.get(&mut server, &frame);
        held.push((frame, got));
    }
    // Over its quota it waits, without an error.
    let waiting = holder.ask(&mut server);
    for round in 0..60 {
        let frame = other.ask(&mut server);
        let before = server.jobs();
        let time = server.flip(WHOLE, 100 + round);
        if server.jobs() == before {
            // No slot is free this time: the frame is skipped, not the client.
            frame.destroy();
            other.client.roundtrip(&mut server);
        } else {
            assert_eq!(other.get(&mut server, &frame).time, time);
            frame.destroy();
            other.client.roundtrip(&mut server);
        }
        server.pass(Duration::from_millis(35));
    }
    assert!(server.jobs() > 40, "only {} frames", server.jobs());
    // What it holds was not written.
    for (n, (frame, got)) in held.iter().enumerate() {
        if holder.client.take(frame).is_empty() {
            assert_eq!(pixel(got, 0, 0), n as u32 + 1, "a held frame was written");
        }
    }
    holder.client.expect_nothing(&mut server, &waiting);
}

#[test]
fn frames_that_are_released_out_of_order_are_free_and_the_others_stay_as_they_are() {
    let mut server = Server::new();
    let mut holder = Exporter::new(&mut server);
    let mut held = Vec::new();
    let mut pixel_now = 0;
    for round in 0..12 {
        while held.len() < 2 {
            pixel_now += 1;
            let frame = holder.ask(&mut server);
            server.flip(WHOLE, pixel_now);
            let got = holder.get(&mut server, &frame);
            held.push((frame, got, pixel_now));
        }
        // The newer one first, then the older one, then both at once.
        let released = match round % 3 {
            0 => vec![held.remove(1)],
            1 => vec![held.remove(0)],
            _ => vec![held.remove(1), held.remove(0)],
        };
        for (frame, ..) in &released {
            frame.destroy();
        }
        holder.client.roundtrip(&mut server);
        // The grace of two refreshes, and flips that use whatever is free.
        server.pass(Duration::from_millis(40));
        for (_, got, shown) in &held {
            assert_eq!(pixel(got, 0, 0), *shown, "a held frame was written");
        }
        assert_eq!(server.held(), held.len() as u64);
    }
    for (frame, ..) in held {
        frame.destroy();
    }
    holder.client.roundtrip(&mut server);
    assert_eq!(server.held(), 0);
}

#[test]
fn frames_of_holders_past_the_deadline_are_cancelled_when_others_starve() {
    let mut server = Server::new();
    // Three holders of different frames and the newest: no slot is left.
    let mut holders = Vec::new();
    for pixel in 1..=4 {
        let mut holder = Exporter::new(&mut server);
        // The newest frame is old now, so that the holder gets the next and not the same.
        server.flip(WHOLE, 0);
        let frame = holder.ask(&mut server);
        server.flip(WHOLE, pixel);
        let got = holder.get(&mut server, &frame);
        holders.push((holder, frame, got));
    }
    let mut other = Exporter::new(&mut server);
    let behind = other.ask(&mut server);
    other.get(&mut server, &behind);
    behind.destroy();
    let starving = other.ask(&mut server);
    let jobs = server.jobs();
    server.flip(WHOLE, 50);
    assert_eq!(server.jobs(), jobs, "a slot that is held was written");
    for (holder, frame, _) in &mut holders {
        holder.client.expect_nothing(&mut server, frame);
    }

    server.pass(PAST_THE_DEADLINE);
    let (holder, frame, _) = &mut holders[0];
    holder
        .client
        .expect_cancelled(&mut server, frame, CancelReason::Temporary);
    let time = server.flip(WHOLE, 51);
    let got = other.get(&mut server, &starving);
    assert_eq!((got.time, pixel(&got, 0, 0)), (time, 51));
    for (holder, frame, got) in &mut holders[1..] {
        let kept = holder.client.take(frame).is_empty();
        assert!(
            !kept || pixel(got, 0, 0) != 51,
            "a frame that was not cancelled was written"
        );
    }
}

#[test]
fn a_resize_cancels_what_waits_and_keeps_what_is_held() {
    let mut server = Server::new();
    let mut exporter = Exporter::new(&mut server);
    let held = exporter.ask(&mut server);
    server.flip(WHOLE, 1);
    let got = exporter.get(&mut server, &held);
    let waiting = exporter.ask(&mut server);
    server.set_mode(0, 32, 16);
    exporter
        .client
        .expect_cancelled(&mut server, &waiting, CancelReason::Resizing);
    exporter.client.expect_nothing(&mut server, &held);

    let next = exporter.ask(&mut server);
    server.flip([0, 0, 32, 16], 2);
    assert_eq!(exporter.get(&mut server, &next).size, (32, 16));
    assert_eq!(pixel(&got, 63, 47), 1);
}

#[test]
fn an_output_that_goes_cancels_for_ever_what_waits_and_what_comes() {
    let mut server = Server::new();
    server.add_output();
    let mut exporter = Exporter::new(&mut server);
    exporter.output = exporter.client.bind_nth(1, 4);
    let held = exporter.ask(&mut server);
    server.flip_on(1, WHOLE, 1);
    let got = exporter.get(&mut server, &held);
    let waiting = exporter.ask(&mut server);
    server.remove_output(1);
    exporter
        .client
        .expect_cancelled(&mut server, &waiting, CancelReason::Permanent);
    let late = exporter.ask(&mut server);
    exporter
        .client
        .expect_cancelled(&mut server, &late, CancelReason::Permanent);
    exporter.client.expect_nothing(&mut server, &held);
    assert_eq!(pixel(&got, 0, 0), 1);
    held.destroy();
    exporter.client.roundtrip(&mut server);
}

#[test]
fn an_end_that_is_announced_early_closes_all_sessions() {
    let mut server = Server::new();
    let mut exporter = Exporter::new(&mut server);
    let waiting = exporter.ask(&mut server);
    let session = exporter.client.session();
    let buffer = exporter.client.buffer(WIDTH, HEIGHT);
    let copy = exporter.client.captured(&session, &buffer);
    exporter.client.roundtrip(&mut server);
    assert!(server.knows_clients());
    server.announce_the_end_of_the_output();
    assert!(
        !server.knows_clients(),
        "capture/ keeps sessions of an output that goes"
    );
    assert!(!server.wants_frame());
    exporter
        .client
        .expect_cancelled(&mut server, &waiting, CancelReason::Permanent);
    exporter
        .client
        .expect_failed(&mut server, &copy, FailureReason::Stopped);
}

#[test]
fn without_descriptors_a_frame_is_cancelled_for_now() {
    let mut server = Server::new();
    let mut exporter = Exporter::new(&mut server);
    server.break_memory(true);
    let frame = exporter.ask(&mut server);
    server.flip(WHOLE, 1);
    exporter
        .client
        .expect_cancelled(&mut server, &frame, CancelReason::Temporary);
    assert_eq!(server.held(), 0);
    server.break_memory(false);
    let frame = exporter.ask(&mut server);
    server.flip(WHOLE, 2);
    exporter.get(&mut server, &frame);
}

#[test]
fn a_flood_of_requests_is_bounded_and_each_is_answered() {
    let mut server = Server::new();
    let mut exporter = Exporter::new(&mut server);
    let frames: Vec<_> = (0..200).map(|_| exporter.ask(&mut server)).collect();
    let cancelled = frames
        .iter()
        .filter(|frame| !exporter.client.take(*frame).is_empty())
        .count();
    assert!(cancelled >= 100, "{cancelled} of 200 were refused");
    let mut other = Exporter::new(&mut server);
    let frame = other.ask(&mut server);
    server.flip(WHOLE, 1);
    other.get(&mut server, &frame);
}
