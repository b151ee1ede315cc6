//! Pictures that are captured without a copy: what is on the screen is leased itself. Each frame is right, nobody can write
//! it, and who has it mapped sees nothing later that is not for him.

use std::os::fd::AsFd;

use crate::{
    clients::{
        buffers::Mapping, copy_capture::picture_of, export_dmabuf::MappedFrame,
        session_lock::Locker, Buffer, Client, CopySession, ExportedFrame, Exporter, MemoryKind,
        OutputInfo, Painter, Rect,
    },
    control::capture_report,
    faults::assert_clean,
    fences::Stopped,
    film::Film,
    machine::{self, vkms_crc, Guest, Machine, Output, SECOND},
    stage::{Setup, Stage, Summary},
};

const RENDER: &str = "[capture]\nproducer = 'render'\n";

/// Looks at the screen through both protocols.
struct Eyes {
    client: Client,
    output: OutputInfo,
    exporter: Exporter,
    session: CopySession,
    buffer: Buffer,
}

impl Eyes {
    fn new(stage: &Stage<'_>) -> Self {
        let mut client = stage.client();
        let output = client.output(None).unwrap();
        let session = CopySession::open(&mut client, &output, true).unwrap();
        let buffer = session.buffer(&mut client, MemoryKind::Shm).unwrap();
        Self {
            exporter: Exporter::new(&client).unwrap(),
            client,
            output,
            session,
            buffer,
        }
    }

    fn export(&mut self) -> ExportedFrame {
        let frame = self.exporter.capture(&mut self.client, &self.output, true);
        frame.unwrap().frame()
    }
}

/// Paints whole pictures and parts, and compares what is captured with them and with the checksum of the screen.
fn all_is_true(guest: &Guest, stage: &Stage<'_>) {
    let (mut client, mut painter) = stage.painter();
    painter.present(&mut client, 1).unwrap();
    let mut eyes = Eyes::new(stage);
    for n in 2..40u32 {
        let at = |n: u32, range: u32| i32::try_from(n * 37 % range).unwrap();
        let part = Rect::new(at(n, 500), at(n + 3, 400), 60 + at(n, 60), 50);
        let shown = match n % 4 {
            0 => painter.present(&mut client, n).unwrap(),
            _ => {
                let shown = painter.paint_part(&mut client, n, part).unwrap();
                painter.time_shown(&mut client, shown).unwrap()
            }
        };
        let expected = painter.expected();
        let frame = eyes.export();
        assert!(frame.presented() >= shown, "older than the screen");
        let what = format!("export of picture {n}");
        frame.picture().assert_same(&expected, &what);
        let crc = guest.crc(0).unwrap().next_frame().unwrap().value;
        assert_eq!(vkms_crc(&frame.picture().to_bytes()), crc, "{what}");
        assert_nobody_can_write(&frame);
        let copied = eyes.session.capture(&mut eyes.client, &eyes.buffer, &[]);
        let copied = copied.unwrap().frame();
        assert!(copied.presented >= shown, "older than the screen");
        picture_of(&eyes.buffer).assert_same(&expected, &format!("copy of {n}"));
        let whole = Rect::new(0, 0, 640, 480);
        let changed = if n % 4 == 0 { whole } else { part };
        if n > 2 {
            assert_eq!(copied.damage, [changed], "what changed in picture {n}");
        }
    }
}

#[track_caller]
fn assert_nobody_can_write(frame: &ExportedFrame) {
    assert!(frame.is_read_only());
    let writable = Mapping::new(frame.fd().as_fd(), 4096, true);
    assert!(writable.is_err(), "a client can draw on the screen");
}

fn assert_nothing_was_copied(summary: &Summary) {
    let (leased, rendered) = (summary.get("leased"), summary.get("rendered"));
    assert!(leased >= 38 && leased == rendered, "{leased} of {rendered}");
    assert_eq!(summary.get("rendered_bytes"), 0);
    assert_eq!(summary.get("written_back"), 0);
}

#[test]
fn a_picture_that_is_whole_is_leased_and_nothing_is_copied() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().with(RENDER).start(guest);
        all_is_true(guest, &stage);
        let told = capture_report(guest);
        assert!(
            told.leased >= 38 && told.leased == told.rendered,
            "{told:?}"
        );
        assert_eq!((told.producer.as_str(), told.buffers), ("render", 4));
        assert_nothing_was_copied(&stage.finish("Virtual-1"));
        assert_clean(&guest.dmesg());
    });
}

#[test]
fn on_a_machine_without_writeback_nothing_is_copied_either() {
    let machine = Machine::default().output(Output::new().writeback(false));
    machine::boot(machine, |guest| {
        let stage = Setup::default().start(guest);
        all_is_true(guest, &stage);
        assert_nothing_was_copied(&stage.finish("Virtual-1"));
    });
}

#[test]
fn where_the_driver_refuses_the_writeback_connector_nothing_is_copied_either() {
    machine::boot(Machine::default(), |guest| {
        let setup = Setup::default().faults("modeset-writeback=EINVAL");
        let stage = setup.start(guest);
        all_is_true(guest, &stage);
        assert_nothing_was_copied(&stage.finish("Virtual-1"));
    });
}

#[test]
fn while_the_connector_is_faulty_its_stand_in_leases_and_then_it_writes_again() {
    machine::boot(Machine::default().timeout(SECOND * 240), |guest| {
        let setup = Setup::default().faults("fence:20..22=never,fence:40..41=never");
        let stage = setup.start(guest);
        let mut film = Film::begin(&stage, None, 1);
        let recovered = || {
            stage
                .vitrine
                .log()
                .matches("writeback connector recovered")
                .count()
                >= 2
        };
        let mut turns = 0;
        film.roll_long(SECOND * 180, "the connector, twice", |_| {
            turns += 1;
            turns % 64 == 0 && recovered()
        });
        film.shoot(10);
        drop(film.cut());
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        // A busy machine is late with some of them.
        assert!(summary.get("written_back") + summary.get("late") >= 30);
        assert_eq!(summary.get("leased"), summary.get("rendered"));
        assert!(summary.get("leased") > 0 && summary.get("rendered_bytes") == 0);
        assert_clean(&guest.dmesg());
    });
}

#[test]
fn two_clients_have_one_buffer_and_a_still_screen_is_leased_again_and_again() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().with(RENDER).start(guest);
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 1).unwrap();
        let (mut one, mut other) = (Eyes::new(&stage), Eyes::new(&stage));
        let mut seen = Vec::new();
        for n in 0..30 {
            // Without a change in between: each gets a frame of another flip, and all of them are the one buffer.
            let (first, second) = (one.export(), other.export());
            assert_eq!(first.buffer_id(), second.buffer_id(), "round {n}");
            first.picture().assert_same(&painter.expected(), "a frame");
            seen.push((first.buffer_id(), first.presented()));
        }
        assert!(seen.windows(2).all(|pair| pair[0].0 == pair[1].0));
        assert!(seen.windows(2).all(|pair| pair[0].1 < pair[1].1));
        let summary = stage.finish("Virtual-1");
        assert_eq!(summary.get("rendered_bytes"), 0);
        assert_eq!(summary.get("leased"), summary.get("rendered"));
    });
}

#[test]
fn with_a_history_the_screen_keeps_its_buffers() {
    machine::boot(Machine::default(), |guest| {
        let lines = format!("{RENDER}history = 3\n");
        let stage = Setup::default().with(&lines).start(guest);
        all_is_true(guest, &stage);
        assert_eq!(capture_report(guest).history, 3);
        let summary = stage.finish("Virtual-1");
        assert_eq!(summary.get("leased"), 0);
        assert!(summary.get("rendered_bytes") > 0);
    });
}

/// A client that has all buffers mapped that it was ever given.
struct Maps(Vec<(u64, MappedFrame)>);

impl Maps {
    fn collect(stage: &Stage<'_>, painter: &mut Painter, client: &mut Client) -> Self {
        let mut eyes = Eyes::new(stage);
        let mut maps = Self(Vec::new());
        for n in 1..20 {
            painter.present(client, n).unwrap();
            let frame = eyes.export();
            let known = |(id, _): &(u64, MappedFrame)| *id == frame.buffer_id();
            if !maps.0.iter().any(known) {
                maps.0.push((frame.buffer_id(), frame.map().unwrap()));
            }
        }
        assert!(maps.0.len() >= 2, "{} buffers", maps.0.len());
        maps
    }
}

#[test]
fn whoever_stops_capturing_sees_nothing_more_through_what_it_has_mapped() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().with(RENDER).start(guest);
        let (mut client, mut painter) = stage.painter();
        for round in 0..3 {
            let maps = Maps::collect(&stage, &mut painter, &mut client);
            let ends = || stage.vitrine.log().matches("capture ends").count();
            machine::wait_until("the end of its capture", SECOND * 20, || {
                ends() > round * 2 + 1
            });
            let kept: Vec<_> = maps.0.iter().map(|(_, map)| map.picture()).collect();
            for n in 100..140 {
                painter.present(&mut client, n).unwrap();
                for ((_, map), then) in maps.0.iter().zip(&kept) {
                    map.picture().assert_same(then, &format!("at picture {n}"));
                }
            }
        }
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        // At the end of captures the display takes its time; until it leases again, there are copies.
        assert!(summary.get("leased") >= 19);
        assert_eq!(summary.get("modesets"), 1);
    });
}

#[test]
fn what_was_mapped_before_the_lock_shows_neither_the_lock_nor_anything_after_it() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().with(RENDER).start(guest);
        let (mut client, mut painter) = stage.painter();
        // Somebody goes on capturing all the time, so that it is not the end of captures that counts.
        let mut other = Eyes::new(&stage);
        drop(other.export());
        let maps = Maps::collect(&stage, &mut painter, &mut client);
        let mut holder = Eyes::new(&stage);
        let held = holder.export();
        let held_map = held.map().unwrap();
        let kept: Vec<_> = maps.0.iter().map(|(_, map)| map.picture()).collect();
        let kept_held = held_map.picture();
        let mut lock_client = stage.client();
        let lock = Locker::lock(&mut lock_client).unwrap();
        let unchanged = |what: &str| {
            for ((_, map), then) in maps.0.iter().zip(&kept) {
                map.picture().assert_same(then, what);
            }
            held_map.picture().assert_same(&kept_held, what);
        };
        let covered = lock_client.output(None).unwrap();
        let surface = lock.cover(&mut lock_client, &covered, 50).unwrap();
        lock_client.roundtrip().unwrap();
        let shown = vkms_crc(&surface.expected(50).to_bytes());
        let crc = || guest.crc(0).unwrap().next_frame().unwrap().value;
        machine::wait_until("the lock's picture", SECOND * 20, || crc() == shown);
        for _ in 0..20 {
            let frame = other.export();
            assert!(maps.0.iter().all(|(id, _)| *id != frame.buffer_id()));
            unchanged("while it is locked");
        }
        lock.unlock(&mut lock_client).unwrap();
        for n in 100..140 {
            painter.present(&mut client, n).unwrap();
            unchanged("after the lock");
        }
        drop((held, holder));
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert_eq!(summary.get("rendered_bytes"), 0);
        assert!(summary.get("leased") >= 40);
    });
}

#[test]
fn fences_on_what_was_leased_delay_neither_the_display_nor_other_captures() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().with(RENDER).start(guest);
        let (mut client, mut painter) = stage.painter();
        let (mut eyes, mut other) = (Eyes::new(&stage), Eyes::new(&stage));
        let mut known = Vec::new();
        for n in 1..30 {
            painter.present(&mut client, n).unwrap();
            let frame = eyes.export();
            if known.iter().all(|(id, _)| *id != frame.buffer_id()) {
                known.push((frame.buffer_id(), frame.fd()));
            }
        }
        assert!(known.len() >= 2, "{} buffers", known.len());
        let stopped = Stopped::new();
        known.iter().for_each(|(_, fd)| stopped.hold(fd));
        for n in 30..90 {
            painter.present(&mut client, n).unwrap();
            let copied = other.session.capture(&mut other.client, &other.buffer, &[]);
            copied.unwrap().frame();
            picture_of(&other.buffer).assert_same(&painter.expected(), &format!("copy of {n}"));
        }
        drop((stopped, eyes, other));
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert_clean(&guest.dmesg());
    });
}

#[test]
fn whoever_keeps_all_that_it_was_ever_leased_gets_copies_in_the_end() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().with(RENDER).start(guest);
        let (mut client, mut painter) = stage.painter();
        let leased = || capture_report(guest).leased;
        let mut kept = std::collections::BTreeMap::new();
        let mut round = |painter: &mut Painter| {
            let before = leased();
            let mut eyes = Eyes::new(&stage);
            for n in 0..10 {
                painter.present(&mut client, n).unwrap();
                let frame = eyes.export();
                frame.picture().assert_same(&painter.expected(), "a frame");
                kept.insert(frame.buffer_id(), frame.fd());
            }
            let by_lease = leased() - before;
            drop(eyes);
            // All that was given away gets new memory, and leases begin again.
            for n in 10..90 {
                painter.present(&mut client, n).unwrap();
            }
            (by_lease, kept.len())
        };
        let rounds: Vec<_> = (0..14).map(|_| round(&mut painter)).collect();
        println!("leased, and memories so far: {rounds:?}");
        assert!(rounds[0].0 > 0, "nothing is leased to begin with");
        // Seven that the screen has, as many that it had before, and those of the ring.
        assert!(rounds.iter().all(|(_, memories)| *memories <= 18));
        drop(kept);
        let mut eyes = Eyes::new(&stage);
        let before = leased();
        for n in 0..120 {
            painter.present(&mut client, n).unwrap();
            drop(eyes.export());
        }
        assert!(leased() > before, "it has let go of all");
        drop(eyes);
        println!("{:?}", stage.finish("Virtual-1"));
    });
}
