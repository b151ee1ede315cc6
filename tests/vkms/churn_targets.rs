//! Coming and going of what captures succeed with: dma-bufs that are written or copied into, and leased pictures.

use crate::{
    churn::{assert_flat, look},
    clients::{export_dmabuf::Exporter, Client, MemoryKind, Painter},
    control::{capture_report, msg},
    faults::assert_clean,
    machine::{self, Guest, Machine, SECOND},
    passthrough::{Viewer, ON},
    stage::{Setup, Stage},
};

/// Turns before the first look, and before each of the two that follow.
const TURNS: [u32; 3] = [20, 40, 40];

/// A window whose pictures never come to an end.
struct Screen {
    client: Client,
    painter: Painter,
    next: u32,
}

impl Screen {
    fn present(&mut self) -> std::time::Duration {
        self.next += 1;
        self.painter.present(&mut self.client, self.next).unwrap()
    }
}

/// Runs turns and looks what is left after each lot of them.
fn churn(guest: &Guest, setup: Setup, mut turn: impl FnMut(&Stage<'_>, &mut Screen, u32)) {
    // A big block is a mapping of its own, and goes when it is freed.
    std::env::set_var("MALLOC_MMAP_THRESHOLD_", "262144");
    let stage = setup.start(guest);
    msg(guest, &["log", "info"]);
    let (client, painter) = stage.painter();
    let mut screen = Screen {
        client,
        painter,
        next: 0,
    };
    let mut n = 0;
    let looks = TURNS.map(|turns| {
        for _ in 0..turns {
            n += 1;
            turn(&stage, &mut screen, n);
        }
        // Buffers that were given away get new memory when it is their turn.
        std::thread::sleep(SECOND * 3 / 2);
        for _ in 0..20 {
            screen.present();
        }
        let now = look(guest, &stage);
        println!("{now:?} after {n} turns");
        now
    });
    // By the second look code and tables were touched by all that happens here; pages of files count as well.
    assert_flat(looks[1], &looks[2..]);
    assert!(!stage.vitrine.log().contains("panicked"));
    let summary = stage.finish("Virtual-1");
    println!("{summary:?}");
    assert_eq!(summary.get("lost") + summary.get("voids"), 0);
    assert_eq!(summary.get("modesets"), 1);
    assert_clean(&guest.dmesg());
}

#[test]
fn dmabufs_that_are_written_and_copied_into_come_and_go_and_leave_nothing_behind() {
    let machine = Machine::default().timeout(SECOND * 600);
    machine::boot(machine, |guest| {
        let mut last = (0, 0);
        churn(guest, Setup::default().with(ON), |stage, screen, n| {
            let kinds = [MemoryKind::Udmabuf, MemoryKind::Heap];
            // Alone: the connector writes its buffers.
            let mut alone = Viewer::new(stage, kinds[n as usize % 2]);
            for _ in 0..2 {
                let shown = screen.present();
                alone.see(&screen.painter, shown, "alone");
            }
            // In company: both get copies.
            let mut other = Viewer::new(stage, kinds[(n as usize + 1) % 2]);
            let pending = [alone.ask(), other.ask()];
            screen.present();
            for (viewer, pending) in [&mut alone, &mut other].into_iter().zip(pending) {
                viewer.wait(pending);
            }
            // They go with nothing, and with a request under way; sometimes with a job in flight.
            drop(other);
            let pending = alone.ask();
            match n % 3 {
                0 => drop((pending, alone)),
                1 => alone.die(pending),
                _ => {
                    screen.painter.paint(&mut screen.client, n).unwrap();
                    alone.die(pending);
                }
            }
            if n % 20 == 0 {
                let report = capture_report(guest);
                let now = (report.passthrough, report.copies);
                println!("{now:?} passed through and copied");
                // Each had its part, or the figures say nothing of it.
                assert!(
                    now.0 >= last.0 + 10 && now.1 >= last.1 + 10,
                    "{last:?} {now:?}"
                );
                last = now;
            }
        });
    });
}

#[test]
fn leased_pictures_come_and_go_and_leave_nothing_behind() {
    let machine = Machine::default().timeout(SECOND * 600);
    machine::boot(machine, |guest| {
        // Who holds two frames on a slow machine is not to be taken for one that never lets go.
        let lines = "[capture]\nproducer = \"render\"\nhold_deadline_ms = 60000";
        let render = Setup::default().with(lines);
        let mut last = 0;
        // Who stays from look to look keeps leasing going; when all are gone it rests for a second.
        let mut resident: Option<(Client, Exporter)> = None;
        churn(guest, render, |stage, screen, n| {
            let (client, exporter) = resident.get_or_insert_with(|| {
                let client = stage.client();
                let exporter = Exporter::new(&client).unwrap();
                (client, exporter)
            });
            let output = client.output(None).unwrap();
            let mut visitor = stage.client();
            let visited = visitor.output(None).unwrap();
            let of_visitor = Exporter::new(&visitor).unwrap();
            let mut held = Vec::new();
            for _ in 0..2 {
                let asked = exporter.request(client, &output, true).unwrap();
                let visit = of_visitor.request(&mut visitor, &visited, true).unwrap();
                visitor.roundtrip().unwrap();
                client.roundtrip().unwrap();
                screen.present();
                drop(asked.wait(client, SECOND * 20).unwrap().frame());
                held.push(visit.wait(&mut visitor, SECOND * 20).unwrap().frame());
            }
            // The visitor goes with two frames in its hands, after it has released them or without a word.
            if n % 2 == 0 {
                drop(held);
                visitor.roundtrip().unwrap();
                drop(visitor);
            } else {
                drop(visitor);
                drop(held);
            }
            if n % 40 == 20 {
                // Before a look.
                resident = None;
                let leased = capture_report(guest).leased;
                println!("{leased} leased");
                assert!(leased >= last + 10, "{last} {leased}");
                last = leased;
            }
        });
    });
}
