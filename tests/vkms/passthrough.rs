//! The connector writes a lone client's own dma-buf: no copy, the right pixels, and all as before when the client is not alone.
//! `passthrough_faults` has what can go wrong.

use std::time::Duration;

use crate::{
    clients::{
        buffers::{ARGB8888, XRGB8888},
        copy_capture::{picture_of, CopiedFrame, CopySession, FailureReason, PendingCopy},
        export_dmabuf::Exporter,
        Buffer, Client, MemoryKind, Painter, Picture, Rect,
    },
    control::capture_report,
    cursor::{setup, with_arrow},
    faults::assert_clean,
    film::{self, seldom, Window},
    machine::{self, Guest, Machine, SECOND},
    mouse::Mouse,
    stage::{Setup, Stage, Summary},
};

pub const ON: &str = "[capture]\ndmabuf = \"on\"";

/// A client with a session and two buffers that it uses in turn.
pub struct Viewer {
    pub client: Client,
    pub session: CopySession,
    pub buffers: Vec<Buffer>,
    pub turn: usize,
}

impl Viewer {
    pub fn new(stage: &Stage<'_>, kind: MemoryKind) -> Self {
        Self::connected(stage.client(), None, kind)
    }

    /// By this connection, on the named output or the first one.
    pub fn connected(client: Client, output: Option<&str>, kind: MemoryKind) -> Self {
        Self::open(client, output, true, |client| {
            let buffer = |client: &mut Client| Buffer::new(client, kind, 640, 480, XRGB8888);
            vec![buffer(client).unwrap(), buffer(client).unwrap()]
        })
    }

    fn with(stage: &Stage<'_>, buffers: impl FnOnce(&mut Client) -> Vec<Buffer>) -> Self {
        Self::open(stage.client(), None, true, buffers)
    }

    fn open(
        mut client: Client,
        output: Option<&str>,
        cursor: bool,
        buffers: impl FnOnce(&mut Client) -> Vec<Buffer>,
    ) -> Self {
        let output = client.output(output).unwrap();
        let session = CopySession::open(&mut client, &output, cursor).unwrap();
        let mut buffers = buffers(&mut client);
        for buffer in &mut buffers {
            buffer.write(|bytes| bytes.fill(0x5a));
        }
        Self {
            client,
            session,
            buffers,
            turn: 0,
        }
    }

    /// Dies with a request under way: the connection first, so that nothing is said about the objects.
    pub fn die(self, pending: PendingCopy) {
        let Self {
            client,
            session,
            buffers,
            ..
        } = self;
        drop(client);
        drop((pending, session, buffers));
    }

    pub fn buffer(&self) -> &Buffer {
        &self.buffers[self.turn % self.buffers.len()]
    }

    /// Asks for a frame into the next buffer; the compositor has the request when this returns.
    pub fn ask(&mut self) -> PendingCopy {
        self.turn += 1;
        let buffer = &self.buffers[self.turn % self.buffers.len()];
        let one = [Rect::new(0, 0, 1, 1)];
        let pending = self.session.request(&mut self.client, buffer, &one);
        self.client.roundtrip().unwrap();
        pending.unwrap()
    }

    pub fn wait(&mut self, pending: PendingCopy) -> CopiedFrame {
        let buffer = &self.buffers[self.turn % self.buffers.len()];
        pending.wait(&mut self.client, buffer).unwrap().frame()
    }

    pub fn capture(&mut self) -> CopiedFrame {
        let pending = self.ask();
        self.wait(pending)
    }

    pub fn pictures(&self) -> Vec<Picture> {
        self.buffers.iter().map(picture_of).collect()
    }

    /// Nothing was written into the buffers since `pictures`.
    #[track_caller]
    pub fn assert_untouched(&self, pictures: &[Picture], what: &str) {
        for (now, then) in self.pictures().iter().zip(pictures) {
            now.assert_same(then, what);
        }
    }

    /// Captures until the frame is not older than `shown`, and holds it against what the painter drew.
    pub fn see(&mut self, painter: &Painter, shown: Duration, what: &str) {
        while self.capture().presented < shown {}
        picture_of(self.buffer()).assert_same(&painter.expected(), what);
    }
}

/// Copies are only made where the display did not wait for a job, as on a machine that is busy.
#[track_caller]
fn assert_nothing_copied(summary: &Summary) {
    assert!(
        summary.get("copies") <= summary.get("overtaken") + summary.get("late"),
        "{summary:?}"
    );
    assert!(summary.get("passthrough") > 0);
}

#[test]
fn a_lone_clients_dmabufs_are_written_by_the_connector_and_nothing_is_copied() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().with(ON).start(guest);
        let (mut client, mut painter) = stage.painter();
        let mut seen = 0;
        for kind in [MemoryKind::Udmabuf, MemoryKind::Heap] {
            let mut viewer = Viewer::new(&stage, kind);
            for n in 1..=8 {
                seen += 1;
                let shown = painter.present(&mut client, seen).unwrap();
                viewer.see(&painter, shown, &format!("picture {n} in {kind:?}"));
            }
            // A request that is there before the change, and its damage.
            let pending = viewer.ask();
            seen += 1;
            let rect = Rect::new(40, 30, 200, 100);
            let commit = painter.paint_part(&mut client, seen, rect).unwrap();
            painter.time_shown(&mut client, commit).unwrap();
            let frame = viewer.wait(pending);
            frame.picture.assert_same(&painter.expected(), "a part");
            assert_eq!(frame.damage, [rect]);
        }
        // Lines with padding are nothing special.
        let mut padded = Viewer::with(&stage, |client| {
            let kind = MemoryKind::Udmabuf;
            vec![Buffer::with_stride(client, kind, 640, 480, 2624, XRGB8888).unwrap()]
        });
        let shown = painter.present(&mut client, 100).unwrap();
        padded.see(&painter, shown, "with padding");
        let report = capture_report(guest);
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert_nothing_copied(&summary);
        assert!(summary.get("passthrough") + summary.get("copies") >= 19);
        assert_eq!(report.passthrough, summary.get("passthrough"));
        assert_eq!(report.clients[0].passthrough + report.clients[0].copies, 1);
        assert_eq!(summary.get("imports"), 5, "once per buffer");
        assert_eq!(summary.get("modesets"), 1);
        assert_clean(&guest.dmesg());
    });
}

/// Six pictures for a viewer who is alone.
pub fn alone(
    guest: &Guest,
    viewer: &mut Viewer,
    (client, painter): (&mut Client, &mut Painter),
    first: u32,
) {
    let before = capture_report(guest).passthrough;
    for n in first..first + 6 {
        let shown = painter.present(client, n).unwrap();
        viewer.see(painter, shown, &format!("picture {n}, alone"));
    }
    let passed = capture_report(guest).passthrough - before;
    assert!(passed >= 3, "{passed} of 6 frames passed through");
}

#[test]
fn with_company_frames_come_from_the_ring_and_afterwards_from_the_connector_again() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().with(ON).start(guest);
        let (mut client, mut painter) = stage.painter();
        let mut viewer = Viewer::new(&stage, MemoryKind::Udmabuf);
        alone(guest, &mut viewer, (&mut client, &mut painter), 1);
        let before = capture_report(guest);

        // One that reads our slots, and one with memory of its own. All ask, and then the picture changes.
        let mut reader = stage.client();
        let output = reader.output(None).unwrap();
        let exporter = Exporter::new(&reader).unwrap();
        let mut second = Viewer::new(&stage, MemoryKind::Heap);
        for n in 100..108 {
            let (of_viewer, of_second) = (viewer.ask(), second.ask());
            let of_reader = exporter.request(&mut reader, &output, true).unwrap();
            reader.roundtrip().unwrap();
            let shown = painter.present(&mut client, n).unwrap();
            for (viewer, pending) in [(&mut viewer, of_viewer), (&mut second, of_second)] {
                let frame = viewer.wait(pending);
                // A first frame may show the screen as it was.
                match frame.presented >= shown {
                    true => frame.picture.assert_same(&painter.expected(), "in company"),
                    false => viewer.see(&painter, shown, "in company, then"),
                }
            }
            let mut frame = of_reader.wait(&mut reader, SECOND * 20).unwrap().frame();
            while frame.presented() < shown {
                let next = exporter.capture(&mut reader, &output, true);
                frame = next.unwrap().frame();
            }
            let what = "through the ring, beside one with its own memory";
            frame.picture().assert_same(&painter.expected(), what);
        }
        let copies = capture_report(guest).copies - before.copies;
        assert!(copies >= 8, "{copies} copies in company");
        drop((exporter, reader, second));

        alone(guest, &mut viewer, (&mut client, &mut painter), 200);
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
    });
}

#[test]
fn the_cursor_is_in_what_the_connector_writes_and_who_does_not_want_it_gets_a_copy() {
    machine::boot(Machine::default(), |guest| {
        let mut mouse = Mouse::new();
        let stage = setup().with(ON).start(guest);
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 1).unwrap();
        let mut with = Viewer::new(&stage, MemoryKind::Udmabuf);
        let expected = with_arrow(painter.expected(), (100, 50));
        let mut turn = 0;
        machine::wait_until("the pointer", SECOND * 30, || {
            // What is sent before the compositor has opened the device is lost.
            if turn % 20 == 0 {
                mouse.to(100, 50);
            }
            turn += 1;
            painter.present(&mut client, 1).unwrap();
            with.capture().picture.difference(&expected).is_none()
        });
        let before = capture_report(guest);
        for n in 2..6 {
            let shown = painter.present(&mut client, n).unwrap();
            while with.capture().presented < shown {}
            let expected = with_arrow(painter.expected(), (100, 50));
            picture_of(with.buffer()).assert_same(&expected, "with the cursor");
        }
        let between = capture_report(guest);
        assert!(between.passthrough > before.passthrough);
        drop(with);
        let mut without = Viewer::open(stage.client(), None, false, |client| {
            vec![Buffer::new(client, MemoryKind::Udmabuf, 640, 480, XRGB8888).unwrap()]
        });
        for n in 6..10 {
            let shown = painter.present(&mut client, n).unwrap();
            without.see(&painter, shown, "without the cursor");
        }
        assert_eq!(capture_report(guest).passthrough, between.passthrough);
        stage.finish("Virtual-1");
    });
}

#[test]
fn what_the_connector_cannot_write_is_copied_as_ever() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().with(ON).start(guest);
        let (mut client, mut painter) = stage.painter();
        let mut n = 0;
        for kind in [MemoryKind::Udmabuf, MemoryKind::Heap] {
            let mut viewer = Viewer::with(&stage, |client| {
                vec![Buffer::new(client, kind, 640, 480, ARGB8888).unwrap()]
            });
            for _ in 0..4 {
                n += 1;
                let shown = painter.present(&mut client, n).unwrap();
                viewer.see(&painter, shown, &format!("with alpha, in {kind:?}"));
            }
        }
        let log = stage.vitrine.log();
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert_eq!(summary.get("passthrough"), 0);
        assert!(summary.get("copies") >= 8);
        let said = log.matches("cannot be written by the connector").count();
        assert_eq!(said, 2, "once per buffer");
    });
}

#[test]
fn where_the_operator_does_not_want_it_frames_are_copied() {
    machine::boot(Machine::default(), |guest| {
        let lines = format!("{ON}\npassthrough = false");
        let stage = Setup::default().with(&lines).start(guest);
        let (mut client, mut painter) = stage.painter();
        let mut viewer = Viewer::new(&stage, MemoryKind::Udmabuf);
        for n in 1..=4 {
            let shown = painter.present(&mut client, n).unwrap();
            viewer.see(&painter, shown, "without passthrough");
        }
        let summary = stage.finish("Virtual-1");
        assert_eq!(summary.get("passthrough"), 0);
        assert!(summary.get("copies") >= 4);
    });
}

/// A client that captures as fast as it can while a window never stands still. Each frame is held against what
/// wp_presentation said of that moment.
pub struct Stream {
    pub viewer: Viewer,
    pub window: Window,
    pending: Option<PendingCopy>,
    taken: Vec<(Duration, Result<u32, String>)>,
    /// Why no further frame is asked for.
    pub over: Option<FailureReason>,
}

impl Stream {
    pub fn begin(stage: &Stage<'_>) -> Self {
        Self {
            viewer: Viewer::new(stage, MemoryKind::Udmabuf),
            window: Window::open(stage, None, 1),
            pending: None,
            taken: Vec::new(),
            over: None,
        }
    }

    pub fn turn(&mut self) {
        let moment = Duration::from_millis(1);
        self.window.turn(moment);
        self.viewer.client.dispatch_for(moment).unwrap();
        match self.pending.as_ref().and_then(PendingCopy::ended) {
            Some(Ok(presented)) => {
                self.taken
                    .push((presented, self.shows(self.viewer.buffer())));
                self.pending = None;
            }
            Some(Err(reason)) => {
                self.over = Some(reason);
                self.pending = None;
            }
            None => {}
        }
        if self.pending.is_none() && self.over.is_none() {
            self.pending = Some(self.viewer.ask());
        }
    }

    /// Goes on with another client.
    pub fn change_viewer(&mut self, viewer: Viewer) {
        self.viewer = viewer;
        self.pending = None;
        self.over = None;
    }

    /// Which picture a buffer shows.
    pub fn shows(&self, buffer: &Buffer) -> Result<u32, String> {
        buffer.read(|bytes| film::read(bytes, (640, 480), buffer.stride))
    }

    pub fn run(&mut self, frames: usize) {
        let enough = self.taken.len() + frames;
        self.run_until("the stream", |stream| stream.taken.len() >= enough);
        assert_eq!(self.over, None);
    }

    pub fn run_until(&mut self, what: &str, mut enough: impl FnMut(&Self) -> bool) {
        machine::wait_until(what, SECOND * 60, || {
            self.turn();
            enough(self)
        });
    }

    /// Goes on until so many frames have passed through since the start; gives their number. On a busy machine most jobs may be
    /// overtaken, and their frames are copies.
    pub fn run_until_passed(&mut self, guest: &Guest, frames: u64) -> u64 {
        let mut passed = 0;
        let mut enough = seldom(|| {
            passed = capture_report(guest).passthrough;
            passed >= frames
        });
        let what = format!("{frames} frames that passed through");
        self.run_until(&what, |_| enough());
        drop(enough);
        passed
    }

    /// Frames so far that were on the screen after that time.
    pub fn taken_after(&self, time: Duration) -> usize {
        let later = |(presented, _): &&(Duration, Result<u32, String>)| *presented > time;
        self.taken.iter().filter(later).count()
    }

    /// Holds all frames against the truth; the number of flips from the first to the last.
    pub fn finish(mut self) -> usize {
        let (first, last) = (self.taken[0].0, self.taken.last().unwrap().0);
        machine::wait_until("the word about the last one", SECOND * 20, || {
            self.window.turn(Duration::from_millis(1));
            let shown = self.window.shown();
            shown.last().is_some_and(|(time, _)| *time > last)
        });
        let shown = self.window.shown();
        for (presented, shows) in &self.taken {
            let before = |(time, _): &&(Duration, u32)| time <= presented;
            // The first may show the screen before the window.
            if let Some((time, n)) = shown.iter().rev().find(before) {
                let told = self.window.lost();
                let excused = shows.as_ref().is_ok_and(|n| told.contains(n));
                assert!(
                    shows.as_ref() == Ok(n) || excused,
                    "{shows:?} at {presented:?}, where picture {n} was shown since {time:?}"
                );
            }
        }
        let meanwhile = |(time, _): &&(Duration, u32)| (first..=last).contains(time);
        shown.iter().filter(meanwhile).count()
    }
}

#[test]
fn two_hundred_frames_of_a_stream_cost_an_import_for_each_buffer_and_are_all_true() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().with(ON).start(guest);
        let mut stream = Stream::begin(&stage);
        stream.run(200);
        let flips = stream.finish();
        let summary = stage.finish("Virtual-1");
        println!("200 frames of {flips} flips; {summary:?}");
        assert_nothing_copied(&summary);
        assert_eq!(summary.get("imports"), 2);
    });
}

#[test]
fn a_stream_that_takes_turns_with_a_buffer_that_cannot_be_written_has_every_second_frame_passed() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().with(ON).start(guest);
        let mut stream = Stream::begin(&stage);
        stream.change_viewer(Viewer::with(&stage, |client| {
            let buffer = |client: &mut Client, fourcc| {
                Buffer::new(client, MemoryKind::Udmabuf, 640, 480, fourcc).unwrap()
            };
            vec![buffer(client, XRGB8888), buffer(client, ARGB8888)]
        }));
        stream.run(60);
        // The frames of a slow machine are no stream, or overtaken.
        stream.run_until_passed(guest, 20);
        stream.finish();
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert!(summary.get("passthrough") >= 20 && summary.get("copies") >= 25);
    });
}
