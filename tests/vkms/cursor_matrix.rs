//! The cursor on a plane or in the picture, sessions that want it, sessions that do not and both at once, both producers:
//! whoever asks gets exactly what he asked for, at the same time as all others.

use crate::{
    clients::{
        clock,
        copy_capture::{picture_of, CopySession, PendingCopy},
        export_dmabuf::Exporter,
        screencopy::Screencopy,
        Buffer, Client, MemoryKind, OutputInfo, Picture, Rect,
    },
    cursor::{setup, with_arrow},
    faults::assert_clean,
    machine::{self, vkms_crc, Guest, Machine, Output, SECOND},
    mouse::Mouse,
    stage::{Setup, Stage, Summary},
};

/// Places in the middle, over an edge, in a corner.
const PLACES: [(i32, i32); 4] = [(100, 50), (101, 51), (635, 200), (0, 479)];

/// One view of the screen through all protocols.
struct View {
    client: Client,
    output: OutputInfo,
    exporter: Exporter,
    screencopy: Screencopy,
    session: CopySession,
    buffer: Buffer,
    cursor: bool,
    pending: Option<PendingCopy>,
}

impl View {
    fn open(stage: &Stage<'_>, cursor: bool) -> Self {
        let mut client = stage.client();
        let output = client.output(None).unwrap();
        let session = CopySession::open(&mut client, &output, cursor).unwrap();
        let buffer = session.buffer(&mut client, MemoryKind::Shm).unwrap();
        Self {
            exporter: Exporter::new(&client).unwrap(),
            screencopy: Screencopy::new(&client).unwrap(),
            client,
            output,
            session,
            buffer,
            cursor,
            pending: None,
        }
    }

    fn export(&mut self) -> Picture {
        let frame = self
            .exporter
            .capture(&mut self.client, &self.output, self.cursor);
        frame.unwrap().frame().picture()
    }

    /// A whole picture by screencopy, with `overlay_cursor` or without.
    fn shoot(&mut self) -> Picture {
        let (client, cursor) = (&mut self.client, self.cursor);
        let frame = self.screencopy.frame(client, &self.output, cursor, None);
        let frame = frame.unwrap();
        let buffer = frame.buffer(client, MemoryKind::Shm).unwrap();
        frame.picture(client, &buffer).unwrap()
    }

    /// What it must show of a screen that shows `plain` and, with the cursor, `pointed`.
    fn of<'p>(&self, plain: &'p Picture, pointed: &'p Picture) -> &'p Picture {
        match self.cursor {
            true => pointed,
            false => plain,
        }
    }

    /// Exports until that is seen: the newest frame may be one from before.
    #[track_caller]
    fn export_until(&mut self, expected: &Picture, what: &str) {
        let end = clock::now() + SECOND * 10;
        while clock::now() < end {
            if self.export().difference(expected).is_none() {
                return;
            }
        }
        self.export().assert_same(expected, what);
    }

    /// Waits for the request that is under way, if any, and follows the changes until the buffer shows `expected`.
    #[track_caller]
    fn copy_until(&mut self, expected: &Picture, what: &str) {
        while self.pending.is_some() || picture_of(&self.buffer).difference(expected).is_some() {
            self.ask();
            let pending = self.pending.take().unwrap();
            match pending.wait_end(&mut self.client, SECOND * 20) {
                Ok((_, end)) => end.map(drop).unwrap(),
                Err(error) => {
                    let copy = picture_of(&self.buffer);
                    panic!("{what}: {error}; {:?}", copy.difference(expected));
                }
            }
        }
    }

    fn ask(&mut self) {
        if self.pending.is_none() {
            // Only what changed is copied: a missing rectangle would leave an old pointer behind.
            let one = [Rect::new(320, 400, 1, 1)];
            let asked = self.session.request(&mut self.client, &self.buffer, &one);
            self.pending = Some(asked.unwrap());
        }
    }

    fn named(&self, what: &str) -> String {
        let which = if self.cursor { "with" } else { "without" };
        format!("{what}, {which} the cursor")
    }

    fn is_answered(&mut self) -> bool {
        self.client.roundtrip().unwrap();
        self.pending.as_ref().is_some_and(PendingCopy::has_ended)
    }
}

/// Waits for the pointer to be there; gives the picture that is expected.
fn point(mouse: &mut Mouse, view: &mut View, plain: &Picture, (x, y): (i32, i32)) -> Picture {
    let expected = with_arrow(plain.clone(), (x, y));
    let (end, mut turn) = (clock::now() + SECOND * 30, 0);
    while clock::now() < end {
        // What is sent before the compositor has opened the device is lost.
        if turn % 100 == 0 {
            mouse.to(x, y);
        }
        turn += 1;
        if view.export().difference(&expected).is_none() {
            return expected;
        }
    }
    let difference = view.export().difference(&expected);
    panic!("the pointer at {x}, {y}: {difference:?}");
}

/// The same by the word of the CRTC: there may be nobody who captures the pointer.
fn point_unseen(guest: &Guest, mouse: &mut Mouse, plain: &Picture, (x, y): (i32, i32)) -> Picture {
    let expected = with_arrow(plain.clone(), (x, y));
    let wanted = vkms_crc(&expected.to_bytes());
    let mut turn = 0;
    machine::wait_until("the CRTC to show the pointer", SECOND * 30, || {
        if turn % 50 == 0 {
            mouse.to(x, y);
        }
        turn += 1;
        guest.crc(0).unwrap().next_frame().unwrap().value == wanted
    });
    expected
}

/// Who looks: with the cursor, without it, or one of each.
const ON: &[bool] = &[true];
const OFF: &[bool] = &[false];
const BOTH: &[bool] = &[false, true];

/// All views at the same time, through all protocols, wherever the pointer goes and whatever is painted below.
fn views(machine: Machine, setup: Setup, cursors: &'static [bool], judge: fn(&str, Summary)) {
    machine::boot(machine, move |guest| {
        let stage = setup.start(guest);
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 1).unwrap();
        let open = |cursor: &bool| View::open(&stage, *cursor);
        let mut views: Vec<_> = cursors.iter().map(open).collect();
        for view in &mut views {
            view.copy_until(&painter.expected(), "before the pointer");
        }
        let mut mouse = Mouse::new();
        for (n, place) in (2..).zip(PLACES) {
            let plain = painter.expected();
            for view in views.iter_mut().filter(|view| !view.cursor) {
                view.ask();
            }
            let pointed = point_unseen(guest, &mut mouse, &plain, place);
            for view in &mut views {
                view.export_until(view.of(&plain, &pointed), &view.named("export"));
            }
            // Nobody changes anything now: each is right again after the other.
            for view in &mut views {
                let expected = view.of(&plain, &pointed);
                let (again, shot) = (view.named("export, again"), view.named("screencopy"));
                view.export().assert_same(expected, &again);
                view.shoot().assert_same(expected, &shot);
            }
            for view in &mut views {
                match view.cursor {
                    true => view.copy_until(&pointed, "copy with"),
                    false => assert!(!view.is_answered(), "the pointer woke who does not see it"),
                }
            }
            // Another picture below the pointer, or a part of one: all views follow.
            match n % 2 {
                0 => painter.present(&mut client, n).unwrap(),
                _ => {
                    let part = Rect::new(80, 30, 60, 60);
                    let shown = painter.paint_part(&mut client, n, part).unwrap();
                    painter.time_shown(&mut client, shown).unwrap()
                }
            };
            let plain = painter.expected();
            let pointed = with_arrow(plain.clone(), place);
            for view in &mut views {
                let expected = view.of(&plain, &pointed);
                let what = [
                    "copy, other picture",
                    "export, other picture",
                    "screencopy, other",
                ];
                let [copy, export, shot] = what.map(|what| view.named(what));
                view.copy_until(expected, &copy);
                view.export().assert_same(expected, &export);
                view.shoot().assert_same(expected, &shot);
            }
        }
        drop(views);
        let log_of = guest.out().join("vitrine.log");
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert_eq!(summary.get("lost") + summary.get("voids"), 0);
        assert_clean(&guest.dmesg());
        judge(&std::fs::read_to_string(log_of).unwrap(), summary);
    });
}

/// Both views at the same time.
fn both_views(machine: Machine, setup: Setup, judge: fn(&str, Summary)) {
    views(machine, setup, BOTH, judge);
}

fn with(lines: &str) -> Setup {
    setup().with(lines)
}

const SOFTWARE: &str = "[cursor]\nhardware = false\n";
const RENDER: &str = "[capture]\nproducer = \"render\"\n";

fn both_produce(log: &str, summary: Summary) {
    assert!(summary.get("written_back") > 0 && summary.get("rendered") > 0);
    assert!(log.contains("reason=the writeback connector would show the cursor"));
}

fn only_rendered(_: &str, summary: Summary) {
    assert!(summary.get("rendered") > 0);
    assert_eq!(summary.get("written_back") + summary.get("jobs"), 0);
}

/// The same with pixman: the pictures that are on the screen already are leased, the others are not.
fn leased_and_rendered(log: &str, summary: Summary) {
    let (leased, rendered) = (summary.get("leased"), summary.get("rendered"));
    assert!(leased > 0 && leased < rendered, "{leased} of {rendered}");
    only_rendered(log, summary);
}

#[test]
fn with_the_cursor_on_its_plane_the_connector_writes_one_view_and_the_other_is_rendered() {
    both_views(Machine::default(), setup(), both_produce);
}

#[test]
fn with_the_cursor_in_the_picture_the_connector_writes_one_view_and_the_other_is_rendered() {
    both_views(Machine::default(), with(SOFTWARE), both_produce);
}

#[test]
fn with_the_cursor_on_its_plane_both_views_are_rendered() {
    both_views(Machine::default(), with(RENDER), leased_and_rendered);
}

#[test]
fn with_the_cursor_in_the_picture_both_views_are_rendered() {
    let lines = format!("{SOFTWARE}{RENDER}");
    both_views(Machine::default(), with(&lines), leased_and_rendered);
}

fn only_written(_: &str, summary: Summary) {
    assert!(summary.get("written_back") > 0);
    assert_eq!(summary.get("rendered"), 0);
}

#[test]
fn with_the_cursor_on_its_plane_the_connector_alone_serves_those_who_want_it() {
    views(Machine::default(), setup(), ON, only_written);
}

#[test]
fn with_the_cursor_in_the_picture_the_connector_alone_serves_those_who_want_it() {
    views(Machine::default(), with(SOFTWARE), ON, only_written);
}

#[test]
fn with_the_cursor_on_its_plane_who_does_not_want_it_is_rendered_for_alone() {
    views(Machine::default(), setup(), OFF, both_produce);
}

#[test]
fn with_the_cursor_in_the_picture_who_does_not_want_it_is_rendered_for_alone() {
    views(Machine::default(), with(SOFTWARE), OFF, both_produce);
}

#[test]
fn with_the_cursor_on_its_plane_the_renderer_serves_those_who_want_it() {
    views(Machine::default(), with(RENDER), ON, leased_and_rendered);
}

/// Each picture on the screen is what they want.
#[test]
fn with_the_cursor_on_its_plane_the_renderer_serves_those_who_do_not_want_it() {
    views(Machine::default(), with(RENDER), OFF, |log, summary| {
        assert!(summary.get("leased") > 0);
        only_rendered(log, summary);
    });
}

/// The same for those who want it: it is in what is on the screen.
#[test]
fn with_the_cursor_in_the_picture_the_renderer_serves_those_who_want_it() {
    let lines = format!("{SOFTWARE}{RENDER}");
    views(Machine::default(), with(&lines), ON, |log, summary| {
        assert!(summary.get("leased") > 0);
        only_rendered(log, summary);
    });
}

#[test]
fn with_the_cursor_in_the_picture_the_renderer_serves_those_who_do_not_want_it() {
    let lines = format!("{SOFTWARE}{RENDER}");
    views(Machine::default(), with(&lines), OFF, leased_and_rendered);
}

#[test]
fn three_slots_are_enough_for_both_views() {
    let lines = "[capture]\nring_slots = 3\n";
    both_views(Machine::default(), with(lines), both_produce);
}

#[test]
fn on_a_machine_without_writeback_both_views_are_rendered() {
    let machine = Machine::default().output(Output::new().writeback(false));
    both_views(machine, setup(), |log, summary| {
        leased_and_rendered(log, summary);
        assert!(log.contains("no writeback on this output: captures are rendered"));
    });
}

#[test]
fn with_gles_the_connector_writes_one_view_and_the_other_is_rendered() {
    both_views(
        Machine::default(),
        with("renderer = \"gles\"\n"),
        both_produce,
    );
}

#[test]
fn with_gles_both_views_are_rendered() {
    let lines = format!("renderer = \"gles\"\n{RENDER}");
    both_views(Machine::default(), with(&lines), only_rendered);
}

/// The connector alone cannot leave the cursor out: such sessions wait, and go on when the cursor is gone.
fn writeback_alone(lines: &'static str) {
    machine::boot(Machine::default(), move |guest| {
        let writeback = format!("{lines}[capture]\nproducer = \"writeback\"\n");
        let stage = with(&writeback).start(guest);
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 1).unwrap();
        let plain = painter.expected();
        let (mut with, mut without) = (View::open(&stage, true), View::open(&stage, false));
        // No pointer yet: one frame is for both.
        without.export().assert_same(&plain, "without, no pointer");
        with.export().assert_same(&plain, "with, no pointer");
        without.copy_until(&plain, "copy without, no pointer");
        let mut mouse = Mouse::new();
        for place in PLACES {
            point(&mut mouse, &mut with, &plain, place);
        }
        // The last frame from before the pointer came is still for both.
        let frame = without
            .exporter
            .request(&mut without.client, &without.output, false);
        let before = frame.unwrap();
        without.client.roundtrip().unwrap();
        if before.is_ready() {
            before.picture().assert_same(&plain, "before the pointer");
        }
        drop(before);
        let waiting = without
            .exporter
            .request(&mut without.client, &without.output, false)
            .unwrap();
        without.ask();
        for n in 2..10 {
            painter.present(&mut client, n).unwrap();
            let expected = with_arrow(painter.expected(), PLACES[3]);
            with.copy_until(&expected, "with, other pictures");
        }
        assert!(!without.is_answered(), "a frame from nowhere");
        assert!(!waiting.is_ready() && waiting.cancelled().is_none());
        let log = stage.vitrine.log();
        let said = log.matches("nobody makes captured frames; sessions wait");
        assert_eq!(said.count(), 1, "times that it is said");
        let summary = stage.finish("Virtual-1");
        assert_eq!(summary.get("rendered"), 0);
    });
}

#[test]
fn the_connector_alone_lets_sessions_without_the_cursor_wait_while_it_is_on_its_plane() {
    writeback_alone("");
}

#[test]
fn the_connector_alone_lets_sessions_without_the_cursor_wait_while_it_is_in_the_picture() {
    writeback_alone(SOFTWARE);
}
