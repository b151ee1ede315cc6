//! Copies that the GPU makes. The test machine's GPU is llvmpipe, of a Mesa that is newer than Debian 12's: vitrine runs in the
//! tree of newer programs (`newer`), and these tests say that they were skipped where that is missing.

use std::sync::Arc;

use wayland_protocols::ext::foreign_toplevel_list::v1::client::ext_foreign_toplevel_list_v1::ExtForeignToplevelListV1 as List;

use crate::{
    bad_inputs::{bad_dmabufs, Trial},
    clients::{
        buffers::{ARGB8888, XRGB8888},
        copy_capture::{picture_of, CopySession},
        screencopy::Screencopy,
        Buffer, Client, MemoryKind, Painter, PainterOptions, Rect,
    },
    control::capture_report,
    copies::{cut, random_damage, screencopy_into_dmabufs, Copier},
    faults::assert_clean,
    machine::{self, Guest, Machine, SECOND},
    newer::{tree, Programs},
    stage::{Setup, Stage},
    toplevels::{source, Listed},
};

/// All copies are to go to the GPU, and none past it.
pub const ON: &str =
    "renderer = \"gles\"\n[capture]\ndmabuf = \"on\"\ngpu_copies = \"on\"\npassthrough = false";

pub fn with_gpu(test: impl FnOnce(&Guest, &Programs)) {
    let Some(tree) = tree("wl-mirror") else {
        return;
    };
    let machine = Machine::default().memory_mib(2048).timeout(SECOND * 240);
    machine::boot(machine, |guest| test(guest, &Programs::mount(&tree)));
}

pub fn start<'g>(guest: &'g Guest, programs: &Programs, setup: Setup) -> Stage<'g> {
    start_with(guest, programs, setup, ON)
}

pub fn start_with<'g>(
    guest: &'g Guest,
    programs: &Programs,
    setup: Setup,
    lines: &str,
) -> Stage<'g> {
    let stage = setup.with(lines).inside(programs).start(guest);
    let log = stage.vitrine.log();
    assert!(
        log.contains("copies into dma-bufs are made by the GPU"),
        "{log}"
    );
    stage
}

#[test]
fn copies_by_the_gpu_are_exact_after_random_damage_and_for_two_clients_at_once() {
    with_gpu(|guest, programs| {
        let stage = start(guest, programs, Setup::default());
        let mut copiers = [
            Copier::new(&stage, MemoryKind::Udmabuf, XRGB8888, 1),
            Copier::new(&stage, MemoryKind::Heap, ARGB8888, 2),
        ];
        random_damage(&stage, &mut copiers, 2, 12);
        copiers[1].assert_opaque();
        drop(copiers);
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert!(summary.get("copies") >= 2 + 12 + 6);
        assert_eq!(summary.get("gpu_copies"), summary.get("copies"));
        // Far less than whole pictures was copied.
        let whole = summary.get("copies") * 640 * 480 * 4;
        assert!(
            summary.get("copied_bytes") * 2 < whole,
            "damage is not used"
        );
        assert_clean(&guest.dmesg());
    });
}

#[test]
fn the_gpu_copies_for_screencopy_too_and_parts_of_the_screen() {
    with_gpu(|guest, programs| {
        let stage = start(guest, programs, Setup::default());
        screencopy_into_dmabufs(&stage, Rect::new(101, 53, 200, 100));
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert!(summary.get("copies") >= 12 + 6);
        assert_eq!(summary.get("gpu_copies"), summary.get("copies"));
    });
}

/// No GPU copies, and a driver that is not trusted with the memory of clients.
fn without_gpu(stage: Stage<'_>, reason: &str) {
    let log = stage.vitrine.log();
    let driver = "copies are made by worker threads gpu=\"llvmpipe";
    assert!(log.contains(driver) && log.contains(reason), "{log}");
    let mut client = stage.client();
    assert_eq!(client.version_of("zwp_linux_dmabuf_v1"), None);
    Buffer::new(&mut client, MemoryKind::Udmabuf, 64, 64, XRGB8888).unwrap_err();
    let mut copiers = [
        Copier::new(&stage, MemoryKind::Shm, XRGB8888, 1),
        Copier::new(&stage, MemoryKind::Shm, ARGB8888, 2),
    ];
    random_damage(&stage, &mut copiers, 2, 6);
    copiers[1].assert_opaque();
    drop(copiers);
    let summary = stage.finish("Virtual-1");
    assert!(summary.get("copies") >= 2 + 6 + 3);
    assert_eq!(summary.get("gpu_copies"), 0);
}

#[test]
fn without_being_told_so_a_driver_that_draws_on_the_cpu_copies_nothing() {
    with_gpu(|guest, programs| {
        let lines = ON.replace("gpu_copies = \"on\"\n", "");
        let setup = Setup::default().with(&lines).inside(programs);
        without_gpu(setup.start(guest), "draws on the CPU");
    });
}

/// Debian 12's Mesa on this machine. It would take dma-bufs of clients, and die of them.
#[test]
fn a_driver_without_native_fences_copies_nothing_whatever_it_is_told() {
    let machine = Machine::default().memory_mib(2048).timeout(SECOND * 240);
    machine::boot(machine, |guest| {
        without_gpu(Setup::default().with(ON).start(guest), "no native fences");
    });
}

#[test]
fn dmabufs_that_are_none_or_shorter_than_they_say_harm_no_driver_on_the_cpu() {
    with_gpu(|guest, programs| bad_dmabufs(Trial::on(start(guest, programs, Setup::default()))));
}

#[test]
fn what_the_gpu_refuses_or_fails_with_is_copied_by_workers_from_then_on() {
    with_gpu(|guest, programs| {
        // The first copies of both are good.
        let setup = Setup::default().faults("copy:3=refused,copy:4=error");
        let stage = start(guest, programs, setup);
        let mut copiers = [
            Copier::new(&stage, MemoryKind::Udmabuf, XRGB8888, 1),
            Copier::new(&stage, MemoryKind::Heap, ARGB8888, 1),
        ];
        random_damage(&stage, &mut copiers, 4, 8);
        copiers[1].assert_opaque();
        let log = stage.vitrine.log();
        let refused = log
            .matches("the GPU cannot copy into a client's buffer")
            .count();
        assert_eq!(refused, 2, "once per buffer");
        // Another buffer is another chance.
        let mut third = [Copier::new(&stage, MemoryKind::Heap, XRGB8888, 1)];
        let before = capture_report(guest);
        random_damage(&stage, &mut third, 5, 2);
        let after = capture_report(guest);
        assert_eq!(
            after.gpu_copies - before.gpu_copies,
            after.copies - before.copies
        );
        drop((copiers, third));
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert_eq!(before.gpu_copies, 2);
        assert!(before.copies >= 18);
    });
}

pub fn window(app_id: &str) -> PainterOptions {
    PainterOptions {
        app_id: app_id.to_owned(),
        ..Default::default()
    }
}

/// A window called "below", which another one covers.
pub fn covered(stage: &Stage<'_>) -> [(Client, Painter); 2] {
    [("below", 11), ("above", 22)].map(|(app_id, n)| {
        let (mut client, mut painter) = stage.painter_with(window(app_id));
        painter.present(&mut client, n).unwrap();
        (client, painter)
    })
}

pub fn watch(client: &mut Client, app_id: &str) -> CopySession {
    let listed = Listed::default();
    let _list: List = client.bind(1, Arc::clone(&listed)).unwrap();
    let source = source(client, &listed, app_id);
    CopySession::open_source(client, &source, false).unwrap()
}

#[test]
fn a_covered_window_goes_to_dmabufs_by_the_gpu() {
    with_gpu(|guest, programs| {
        let setup = Setup::default().filter("info,vitrine=debug,vitrine::capture=trace");
        let stage = start(guest, programs, setup);
        let [(mut below_client, mut below), _above] = covered(&stage);
        let mut watcher = stage.client();
        let session = watch(&mut watcher, "below");
        for (kind, fourcc) in [
            (MemoryKind::Udmabuf, XRGB8888),
            (MemoryKind::Heap, ARGB8888),
        ] {
            let mut buffer = Buffer::new(&mut watcher, kind, 640, 480, fourcc).unwrap();
            buffer.write(|bytes| bytes.fill(0x5a));
            let all = [Rect::new(0, 0, 640, 480)];
            let capture = |watcher: &mut Client, damage: &[Rect]| {
                session.capture(watcher, &buffer, damage).unwrap().frame();
                picture_of(&buffer)
            };
            let n = 30 + fourcc % 7;
            below.paint(&mut below_client, n).unwrap();
            capture(&mut watcher, &all).assert_same(&below.expected(), "the window below");
            for step in 0..8 {
                let part = Rect::new(10 + 30 * step, 20, 64, 33);
                below
                    .paint_part(&mut below_client, n + 1 + step as u32, part)
                    .unwrap();
                let picture = capture(&mut watcher, &[]);
                picture.assert_same(&below.expected(), &format!("{part:?} of it"));
            }
        }
        let log = stage.vitrine.log();
        assert!(log.matches("the GPU copies").count() >= 18);
        assert!(!log.contains("a worker copies"));
        drop((session, watcher));
        stage.finish("Virtual-1");
    });
}

/// Drivers on the CPU work in blocks of four pixels and lines, also where the memory ends with the last line. Such buffers are
/// not taken.
#[test]
fn nothing_is_written_past_the_end_of_a_buffer() {
    with_gpu(|guest, programs| {
        past_no_end(guest, programs, (1440, 900), true);
        past_no_end(guest, programs, (1400, 1050), false);
    });
}

/// Captures a screen of this size, and parts of it, into memory that ends with the last line.
fn past_no_end(guest: &Guest, programs: &Programs, screen: (u32, u32), whole: bool) {
    let (width, height) = screen;
    let outputs = format!("[[output]]\nconnector = \"*\"\nmode = \"{width}x{height}\"\n");
    let stage = start(guest, programs, Setup::default().config(&outputs));
    let (mut client, mut painter) = stage.painter();
    painter.present(&mut client, 1).unwrap();
    let kind = MemoryKind::Udmabuf;
    for (width, height) in [(64, 1), (64, 3), (1, 1), (640, 5), (96, 65)] {
        // Each line is a page.
        let mut client = stage.client();
        Buffer::with_stride(&mut client, kind, width, height, 4096, XRGB8888).unwrap_err();
    }
    // Nor is one whose blocks reach into the next line.
    Buffer::new(&mut stage.client(), kind, 97, 100, XRGB8888).unwrap_err();

    let mut eyes = stage.client();
    let output = eyes.output(None).unwrap();
    let screencopy = Screencopy::new(&eyes).unwrap();
    for (width, height) in [(11, 4), (640, 8), (1000, 300)] {
        let part = Rect::new(11, 7, width, height);
        let frame = screencopy.frame(&mut eyes, &output, true, Some(part));
        let (width, height) = (width as u32, height as u32);
        let buffer = Buffer::with_stride(&mut eyes, kind, width, height, 4096, XRGB8888);
        let picture = frame.unwrap().picture(&mut eyes, &buffer.unwrap());
        let expected = cut(&painter.expected(), part);
        picture
            .unwrap()
            .assert_same(&expected, &format!("{part:?}"));
    }
    let session = CopySession::open(&mut eyes, &output, true).unwrap();
    for (fourcc, n) in [(XRGB8888, 2), (ARGB8888, 3)] {
        painter.present(&mut client, n).unwrap();
        let mut maker = stage.client();
        let client = if whole { &mut eyes } else { &mut maker };
        let buffer = Buffer::with_stride(client, kind, width, height, 8192, fourcc);
        assert_eq!(buffer.is_ok(), whole);
        let Ok(buffer) = buffer else { continue };
        let all = [Rect::new(0, 0, width as i32, height as i32)];
        let frame = session.capture(&mut eyes, &buffer, &all).unwrap();
        let picture = frame.frame().picture;
        picture.assert_same(&painter.expected(), &format!("{width}x{height}"));
    }
    drop((session, screencopy));
    let summary = stage.finish("Virtual-1");
    let copies = 3 + if whole { 2 } else { 0 };
    assert_eq!(summary.get("copies"), copies);
    assert_eq!(summary.get("gpu_copies"), copies);
}
