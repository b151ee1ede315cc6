//! What capture clients get is what is on the screen.

use crate::{
    clients::{
        copy_capture::{picture_of, CopySession},
        export_dmabuf::Exporter,
        MemoryKind,
    },
    machine::{self, vkms_crc, Machine},
    stage::Setup,
};

#[test]
fn captured_pixels_are_those_that_the_client_drew_and_the_crtc_checked() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let (mut client, mut painter) = stage.painter();
        let mut capturer = stage.client();
        let output = capturer.output(None).unwrap();
        let session = CopySession::open(&mut capturer, &output, true).unwrap();
        let exporter = Exporter::new(&capturer).unwrap();
        for n in [1, 7, 1000] {
            let shown = painter.present(&mut client, n).unwrap();
            let expected = painter.expected();
            let exported = exporter
                .capture(&mut capturer, &output, true)
                .unwrap()
                .frame();
            exported.picture().assert_same(&expected, "export-dmabuf");
            assert!(
                exported.presented() >= shown,
                "captured before it was shown"
            );
            drop(exported);
            let buffer = session.buffer(&mut capturer, MemoryKind::Shm).unwrap();
            let copied = session
                .capture(&mut capturer, &buffer, &[])
                .unwrap()
                .frame();
            assert!(copied.presented >= shown);
            picture_of(&buffer).assert_same(&expected, "ext-image-copy-capture");
            let crc = guest.crc(0).unwrap().next_frame().unwrap();
            assert_eq!(
                crc.value,
                vkms_crc(&expected.to_bytes()),
                "the CRTC shows something else"
            );
            clients_png(guest, n, &picture_of(&buffer));
        }
        let summary = stage.finish("Virtual-1");
        assert_eq!(summary.get("modesets"), 1);
        assert_eq!(summary.get("lost"), 0);
        println!("{summary:?}");
    });
}

fn clients_png(guest: &crate::machine::Guest, n: u32, picture: &crate::clients::Picture) {
    crate::clients::picture::write_png(&guest.out().join(format!("{n}.png")), picture).unwrap();
}
