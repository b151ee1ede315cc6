//! Frames that are copied into the memory of clients: only what changed is written, and yet the whole picture is right.

use crate::{
    clients::{
        buffers::{ARGB8888, XRGB8888},
        copy_capture::{picture_of, CopySession},
        export_dmabuf::Exporter,
        identify,
        screencopy::Screencopy,
        Buffer, Client, MemoryKind, Painter, PainterOptions, Picture, Rect,
    },
    control::capture_report,
    machine::{self, vkms_crc, Machine, SECOND},
    stage::{Setup, Stage},
};

/// A generator of that name, so that a failure comes again.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % u64::from(limit)) as u32
    }

    /// From one pixel to a good part of the screen, at times over its edge.
    fn rect(&mut self) -> Rect {
        let largest = [4, 40, 300][self.below(3) as usize];
        let side = |random: &mut Self| 1 + random.below(largest) as i32;
        let (width, height) = (side(self), side(self));
        let (x, y) = (self.below(640) as i32, self.below(480) as i32);
        Rect::new(x, y, width, height)
    }
}

/// A session with one buffer that is never cleared: what the compositor does not copy stays old.
pub struct Copier {
    pub client: Client,
    pub session: CopySession,
    pub buffer: Buffer,
    /// It captures each so many rounds.
    rhythm: u32,
    /// Bytes that had to be copied for what it was given: what was told to have changed, and what it called worthless.
    owed: u64,
}

/// Bytes of these rectangles on the screen. Where they overlap they are copied as often, and none is told that lies in another.
fn bytes_of(told: &[Rect], worthless: Rect) -> u64 {
    let area = |rect: &Rect| rect.width as u64 * rect.height as u64;
    let within = |r: &Rect| r.contains(worthless.x, worthless.y);
    let more = if told.iter().any(within) {
        0
    } else {
        area(&worthless)
    };
    (told.iter().map(area).sum::<u64>() + more) * 4
}

impl Copier {
    pub fn new(stage: &Stage<'_>, kind: MemoryKind, fourcc: u32, rhythm: u32) -> Self {
        let mut client = stage.client();
        let output = client.output(None).unwrap();
        let session = CopySession::open(&mut client, &output, true).unwrap();
        let (width, height) = session.constraints().size;
        let mut buffer = Buffer::new(&mut client, kind, width, height, fourcc).unwrap();
        buffer.write(|bytes| bytes.fill(0x5a));
        Self {
            client,
            session,
            buffer,
            rhythm,
            owed: 0,
        }
    }

    /// Captures until the frame is not older than `shown`. The client itself declares but one pixel to be worthless.
    pub fn capture(&mut self, shown: std::time::Duration) -> Vec<Rect> {
        let mut damage = Vec::new();
        loop {
            let one = [Rect::new(639, 479, 1, 1)];
            let outcome = self.session.capture(&mut self.client, &self.buffer, &one);
            let frame = outcome.unwrap().frame();
            self.owed += bytes_of(&frame.damage, one[0]);
            damage.extend(frame.damage);
            if frame.presented >= shown {
                return damage;
            }
        }
    }

    pub fn assert_opaque(&self) {
        let clear = |bytes: &[u8]| {
            bytes
                .chunks_exact(4)
                .filter(|pixel| pixel[3] != 0xff)
                .count()
        };
        assert_eq!(self.buffer.read(clear), 0, "pixels that are not opaque");
    }
}

pub fn random_damage(stage: &Stage<'_>, copiers: &mut [Copier], seed: u64, rounds: u32) {
    let mut random = SplitMix(seed);
    let (mut client, mut painter) = stage.painter();
    let mut shown = painter.present(&mut client, 1).unwrap();
    for copier in copiers.iter_mut() {
        copier.capture(shown);
        let what = format!("the first frame of the one with rhythm {}", copier.rhythm);
        picture_of(&copier.buffer).assert_same(&painter.expected(), &what);
    }
    for round in 1..=rounds {
        // Sometimes several commits end up in one flip.
        let mut changed = Vec::new();
        for _ in 0..=random.below(3) {
            let rect = random.rect();
            let commit = painter.paint_part(&mut client, round + 1, rect).unwrap();
            changed.push(rect);
            if random.below(2) == 0 {
                painter.wait_shown(&mut client, commit).unwrap();
            }
        }
        // The last one is shown for certain, and what is under it.
        let rect = random.rect();
        let commit = painter.paint_part(&mut client, round + 1, rect).unwrap();
        changed.push(rect);
        shown = painter.time_shown(&mut client, commit).unwrap();
        for copier in copiers.iter_mut().filter(|c| round % c.rhythm == 0) {
            let damage = copier.capture(shown);
            let what = format!("round {round}, rhythm {}", copier.rhythm);
            picture_of(&copier.buffer).assert_same(&painter.expected(), &what);
            for rect in &changed {
                assert!(
                    covers(&damage, *rect),
                    "{what}: {rect:?} is not in {damage:?}"
                );
            }
        }
    }
}

/// Whether the rectangles together contain all of `rect` that is on the screen.
fn covers(damage: &[Rect], rect: Rect) -> bool {
    let on_screen = |from: i32, length: i32, limit: i32| from..(from + length).min(limit);
    on_screen(rect.y, rect.height, 480).all(|y| {
        on_screen(rect.x, rect.width, 640).all(|x| damage.iter().any(|d| d.contains(x, y)))
    })
}

#[test]
fn copies_are_exact_after_random_damage_in_every_format_and_at_every_rhythm() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let mut copiers = [
            Copier::new(&stage, MemoryKind::Shm, XRGB8888, 1),
            Copier::new(&stage, MemoryKind::Shm, ARGB8888, 3),
            Copier::new(&stage, MemoryKind::Shm, ARGB8888, 7),
        ];
        random_damage(&stage, &mut copiers, 1, 42);
        copiers[1].assert_opaque();
        copiers[2].assert_opaque();
        let copies = copiers.len() as u64 + 42 + 14 + 6;
        let mut clients = capture_report(guest).clients;
        clients.sort_by_key(|client| client.client);
        let of_clients = copiers.iter().zip(&clients);
        let owed =
            of_clients.map(|(copier, client)| (copier.rhythm, copier.owed, client.copied_bytes));
        let owed: Vec<_> = owed.collect();
        drop(copiers);
        let summary = stage.finish("Virtual-1");
        println!("rhythm, bytes owed and copied: {owed:?}; {summary:?}");
        assert_eq!(owed.len(), 3);
        assert!(summary.get("copies") >= copies);
        // What was told to have changed and not a byte more. (In seven rounds more may change than there are rectangles to
        // keep apart; then the client's own is put together with one of them.)
        for (rhythm, owed, copied) in owed {
            match rhythm {
                1 | 3 => assert_eq!(copied, owed, "rhythm {rhythm}"),
                _ => assert!(copied >= owed, "rhythm {rhythm}: {copied} of {owed}"),
            }
        }
        // Far less than whole pictures was copied.
        let whole = summary.get("copies") * 640 * 480 * 4;
        assert!(
            summary.get("copied_bytes") * 2 < whole,
            "damage is not used"
        );
        assert_eq!(summary.get("modesets"), 1);
    });
}

/// Of the dma-bufs that a process has in its memory.
fn mappings(stage: &Stage<'_>) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", stage.vitrine.pid())).unwrap();
    maps.lines().filter(|line| line.contains("dmabuf")).count()
}

/// It is mapped when it is made, and a copy maps nothing more, not even while it is under way.
#[test]
fn one_mapping_of_a_slot_serves_all_copies_of_its_frames() {
    const CLIENTS: usize = 8;
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 1).unwrap();
        let mut copiers: Vec<Copier> = Vec::new();
        let mut most = vec![mappings(&stage)];
        let mut picture = 1;
        for clients in [1, CLIENTS] {
            while copiers.len() < clients {
                copiers.push(Copier::new(&stage, MemoryKind::Shm, XRGB8888, 1));
            }
            let mut seen = 0;
            for _ in 0..12 {
                picture += 1;
                let ask = |c: &mut Copier| c.session.request(&mut c.client, &c.buffer, &[]);
                let asked: Vec<_> = copiers.iter_mut().map(|c| ask(c).unwrap()).collect();
                painter.paint(&mut client, picture).unwrap();
                for (copier, pending) in copiers.iter_mut().zip(asked) {
                    seen = seen.max(mappings(&stage));
                    let frame = pending.wait(&mut copier.client, &copier.buffer);
                    frame.unwrap().frame();
                }
            }
            most.push(seen.max(mappings(&stage)));
        }
        drop(copiers);
        let summary = stage.finish("Virtual-1");
        println!("{most:?} mappings with 0, 1 and {CLIENTS} clients; {summary:?}");
        assert!(summary.get("copies") >= 12 * (1 + CLIENTS as u64));
        assert!(most[0] as u64 >= summary.get("buffers"), "{most:?}");
        assert!(most.iter().all(|count| *count == most[0]), "{most:?}");
    });
}

#[test]
fn copies_into_dmabufs_are_exact_too() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default()
            .with("[capture]\ndmabuf = \"on\"\npassthrough = false")
            .start(guest);
        let mut copiers = [
            Copier::new(&stage, MemoryKind::Udmabuf, XRGB8888, 1),
            Copier::new(&stage, MemoryKind::Heap, ARGB8888, 2),
        ];
        for copier in &copiers {
            let constraints = copier.session.constraints();
            assert!(constraints.dmabuf_device.is_some());
            let formats: Vec<_> = constraints.dmabuf_formats.iter().map(|f| f.0).collect();
            assert!(formats.contains(&XRGB8888) && formats.contains(&ARGB8888));
        }
        random_damage(&stage, &mut copiers, 2, 12);
        copiers[1].assert_opaque();
        drop(copiers);
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert!(summary.get("copies") >= 2 + 12 + 6);
    });
}

#[test]
fn screencopy_into_dmabufs_is_exact_too() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default()
            .with("[capture]\ndmabuf = \"on\"")
            .start(guest);
        screencopy_into_dmabufs(&stage, Rect::new(100, 50, 201, 99));
        stage.finish("Virtual-1");
    });
}

/// Takes the screen and a part of it, into buffers of each sort.
pub fn screencopy_into_dmabufs(stage: &Stage<'_>, region: Rect) {
    let (mut client, mut painter) = stage.painter();
    let mut eyes = stage.client();
    let output = eyes.output(None).unwrap();
    let screencopy = Screencopy::new(&eyes).unwrap();
    // The buffers are kept: what a copy leaves out stays old.
    let mut buffers = Vec::new();
    for kind in [MemoryKind::Udmabuf, MemoryKind::Heap] {
        for part in [None, Some(region)] {
            let frame = screencopy.frame(&mut eyes, &output, true, part).unwrap();
            let size = part.map_or((640, 480), |part| (part.width as u32, part.height as u32));
            assert_eq!(frame.record().dmabuf, Some((XRGB8888, size.0, size.1)));
            let mut buffer = frame.buffer(&mut eyes, kind).unwrap();
            buffer.write(|bytes| bytes.fill(0x5a));
            buffers.push((kind, part, buffer));
        }
    }
    for n in [1, 2, 500] {
        painter.present(&mut client, n).unwrap();
        let whole = painter.expected();
        for (kind, part, buffer) in &buffers {
            let frame = screencopy.frame(&mut eyes, &output, true, *part).unwrap();
            let taken = frame.picture(&mut eyes, buffer).unwrap();
            let expected = part.map_or(whole.clone(), |part| cut(&whole, part));
            taken.assert_same(&expected, &format!("{n} in {kind:?}, {part:?}"));
        }
    }
    // With damage, as those that record do it.
    let (_, _, buffer) = &buffers[0];
    for n in 600..606 {
        let frame = screencopy.frame(&mut eyes, &output, true, None).unwrap();
        frame.copy(&eyes, buffer, true).unwrap();
        painter.present(&mut client, n).unwrap();
        let end = frame.wait_end(&mut eyes, SECOND * 20).unwrap();
        assert!(end.is_some(), "{n}: the capture failed");
        let whole = [Rect::new(0, 0, 640, 480)];
        assert_eq!(frame.record().damage, whole);
        picture_of(buffer).assert_same(&painter.expected(), "with damage");
    }
}

pub fn cut(picture: &Picture, part: Rect) -> Picture {
    let mut cut = Picture::filled(part.width as u32, part.height as u32, 0);
    for (place, pixel) in cut.pixels.iter_mut().enumerate() {
        let (x, y) = (place as u32 % cut.width, place as u32 / cut.width);
        *pixel = picture.at(part.x as u32 + x, part.y as u32 + y);
    }
    cut
}

#[test]
fn without_being_told_so_a_device_without_render_node_offers_no_dmabuf_targets() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let copier = Copier::new(&stage, MemoryKind::Shm, XRGB8888, 1);
        let constraints = copier.session.constraints();
        assert_eq!(constraints.dmabuf_device, None);
        assert_eq!(constraints.dmabuf_formats, []);
        drop(copier);
        let mut client = stage.client();
        let output = client.output(None).unwrap();
        let screencopy = Screencopy::new(&client).unwrap();
        let frame = screencopy.frame(&mut client, &output, true, None).unwrap();
        assert_eq!(frame.record().dmabuf, None);
        drop(frame);
        stage.finish("Virtual-1");
    });
}

/// Draws from real dma-bufs and looks at what is on the screen.
fn shows_dmabufs(stage: &Stage<'_>, memory: MemoryKind) {
    let options = PainterOptions {
        memory,
        buffers: 3,
        ..PainterOptions::default()
    };
    let (mut client, mut painter) = stage.painter_with(options);
    let mut eyes = stage.client();
    let output = eyes.output(None).unwrap();
    let exporter = Exporter::new(&eyes).unwrap();
    let mut look = |painter: &Painter, shown, what: &str| loop {
        let frame = exporter.capture(&mut eyes, &output, true).unwrap().frame();
        if frame.presented() >= shown {
            frame.picture().assert_same(&painter.expected(), what);
            let crc = stage.guest.crc(0).unwrap().next_frame().unwrap();
            assert_eq!(
                crc.value,
                vkms_crc(&painter.expected().to_bytes()),
                "{what}"
            );
            return;
        }
    };
    for n in 1..=8 {
        let shown = painter.present(&mut client, n).unwrap();
        look(&painter, shown, &format!("picture {n} from {memory:?}"));
    }
    let mut random = SplitMix(3);
    for n in 9..=16 {
        let commit = painter.paint_part(&mut client, n, random.rect()).unwrap();
        let shown = painter.time_shown(&mut client, commit).unwrap();
        look(&painter, shown, &format!("part {n} from {memory:?}"));
    }
}

#[test]
fn dmabufs_of_applications_are_shown_without_a_gpu() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        shows_dmabufs(&stage, MemoryKind::Udmabuf);
        shows_dmabufs(&stage, MemoryKind::Heap);
        stage.finish("Virtual-1");
    });
}

/// The picture's time is that of the flip that its application was told.
#[test]
fn a_frame_has_the_time_of_the_flip_that_its_application_was_told() {
    const ROUNDS: u32 = 40;
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 1000).unwrap();
        let mut eyes = stage.client();
        let output = eyes.output(None).unwrap();
        let session = CopySession::open(&mut eyes, &output, true).unwrap();
        let buffer = session.buffer(&mut eyes, MemoryKind::Shm).unwrap();
        session.capture(&mut eyes, &buffer, &[]).unwrap().frame();
        let exporter = Exporter::new(&eyes).unwrap();
        let mut later = 0;
        for n in 1..=ROUNDS {
            let pending = session.request(&mut eyes, &buffer, &[]).unwrap();
            // The request is there before the picture, so that the picture's own flip is captured.
            eyes.roundtrip().unwrap();
            let shown = painter.present(&mut client, n).unwrap();
            let copy = pending.wait(&mut eyes, &buffer).unwrap().frame();
            assert_eq!(identify(&copy.picture), Some(n));
            assert!(copy.presented >= shown, "{:?} < {shown:?}", copy.presented);
            later += u64::from(copy.presented != shown);
            let export = exporter.capture(&mut eyes, &output, true).unwrap().frame();
            assert_eq!(identify(&export.picture()), Some(n));
            assert_eq!(
                export.presented(),
                copy.presented,
                "of one and the same frame"
            );
        }
        let summary = stage.finish("Virtual-1");
        println!("{later} of {ROUNDS} captured with a later flip; {summary:?}");
        // Only where the machine was so slow that the first job came too late to be believed.
        assert!(later <= summary.get("late") + summary.get("missed"));
        assert!(later < u64::from(ROUNDS) / 2);
    });
}
