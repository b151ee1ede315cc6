//! Copies that the GPU makes. The test machine's GPU is llvmpipe, of a Mesa that is newer than Debian 12's: vitrine runs in the
//! tree of newer programs (`newer`), and these tests say that they were skipped where that is missing.

use crate::{
    clients::{
        buffers::{ARGB8888, XRGB8888},
        MemoryKind,
    },
    copies::{random_damage, Copier},
    faults::assert_clean,
    machine::{self, Guest, Machine, SECOND},
    newer::{tree, Programs},
    stage::{Setup, Stage},
};

/// All copies are to go to the GPU, and none past it.
const ON: &str =
    "renderer = \"gles\"\n[capture]\ndmabuf = \"on\"\ngpu_copies = \"on\"\npassthrough = false";

fn with_gpu(test: impl FnOnce(&Guest, &Programs)) {
    let Some(tree) = tree("wl-mirror") else {
        return;
    };
    let machine = Machine::default().memory_mib(2048).timeout(SECOND * 240);
    machine::boot(machine, |guest| test(guest, &Programs::mount(&tree)));
}

fn start<'g>(guest: &'g Guest, programs: &Programs, setup: Setup) -> Stage<'g> {
    let stage = setup.with(ON).inside(programs).start(guest);
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
