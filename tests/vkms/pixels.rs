//! Pixels of a picture that is composed of two surfaces, one of them in a dma-buf: captures against what was
//! drawn and what the display controller says it showed.

use std::process::Command;

use crate::{
    clients::{
        identify, Buffer, Client, CopySession, Exporter, MemoryKind, Painter, PainterOptions,
        Picture, Rect,
    },
    machine::{self, vkms_crc, Guest, Machine, Proc, SECOND},
};

const SOCKET: &str = "wayland-pixels";

fn start(guest: &Guest) -> (Proc, Client) {
    let config = guest.out().join("compositor.toml");
    std::fs::write(
        &config,
        "[[output]]\nconnector = \"*\"\nmode = \"640x480\"\n",
    )
    .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vitrine"));
    command.arg("-c").arg(config).args(["--socket", SOCKET]);
    let vitrine = guest.spawn("vitrine", command);
    let client = Client::connect_when_ready(SOCKET, SECOND * 30).unwrap();
    (vitrine, client)
}

/// Frames keep coming while something is on its way; takes the first that shows picture `n`.
fn exported(client: &mut Client, exporter: &Exporter, n: u32) -> Picture {
    let output = client.output(None).unwrap();
    for _ in 0..30 {
        let frame = exporter.capture(client, &output, true).unwrap().frame();
        assert!(frame.is_read_only());
        let picture = frame.picture();
        if identify(&picture) == Some(n) {
            return picture;
        }
    }
    panic!("picture {n} was never exported");
}

fn copied(client: &mut Client, session: &CopySession, buffer: &Buffer, n: u32) -> Picture {
    for _ in 0..30 {
        let frame = session.capture(client, buffer, &[]).unwrap().frame();
        if identify(&frame.picture) == Some(n) {
            return frame.picture;
        }
    }
    panic!("picture {n} was never copied");
}

#[test]
fn captures_of_a_subsurface_over_a_dmabuf_are_what_was_drawn_and_what_the_crtc_summed() {
    machine::boot(Machine::default(), captures_agree);
}

fn captures_agree(guest: &Guest) {
    let (_vitrine, mut client) = start(guest);
    let options = PainterOptions {
        subsurface: Some(Rect::new(128, 96, 256, 160)),
        memory: MemoryKind::Udmabuf,
        ..PainterOptions::default()
    };
    let mut painter = Painter::new(&mut client, options).unwrap();
    let output = client.output(None).unwrap();
    let exporter = Exporter::new(&client).unwrap();
    let mut session = None;
    for n in [1, 2, 300, 70_000] {
        painter.present(&mut client, n).unwrap();
        let expected = painter.expected();
        let export = exported(&mut client, &exporter, n);
        export.assert_same(&expected, &format!("picture {n} through export-dmabuf"));
        let (session, buffer) = session.get_or_insert_with(|| {
            let session = CopySession::open(&mut client, &output, true).unwrap();
            let buffer = session.buffer(&mut client, MemoryKind::Shm).unwrap();
            (session, buffer)
        });
        let copy = copied(&mut client, session, buffer, n);
        copy.assert_same(
            &expected,
            &format!("picture {n} through ext-image-copy-capture"),
        );
        // The screen stands still, but what was composed last before is summed first.
        let wanted = vkms_crc(&expected.to_bytes());
        let mut crcs = guest.crc(0).unwrap();
        let seen: Vec<u32> = (0..5).map(|_| crcs.next_frame().unwrap().value).collect();
        assert_eq!(
            seen.last(),
            Some(&wanted),
            "picture {n}: the CRTC summed {seen:08x?}"
        );
    }
}
