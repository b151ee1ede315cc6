//! Cursor sessions of ext-image-copy-capture-v1 and the real pointer: where it is, and what it looks like.

use wayland_client::protocol::{
    wl_compositor::WlCompositor, wl_seat::WlSeat, wl_surface::WlSurface,
};

use crate::{
    clients::{
        buffers::ARGB8888,
        cursor_session::{told, CursorRecord, CursorSession},
        pointer::{Pointer, CURSOR_HOTSPOT, CURSOR_SIZE},
        Buffer, Client, CopySession, MemoryKind, Painter, PainterOptions,
    },
    cursor::setup,
    machine::{self, Machine, Output, SECOND},
    mouse::Mouse,
    stage::Stage,
};

/// In the middle, in the corner beside the second screen, at an edge.
const PLACES: [(i32, i32); 3] = [(200, 150), (639, 479), (0, 7)];

/// The application's n-th cursor: no two pixels alike, and of every opacity; premultiplied, as wl_surface has it.
fn glass(n: u32) -> Vec<u32> {
    let pixel = |i: u32| {
        let (x, y) = (i % CURSOR_SIZE, i / CURSOR_SIZE);
        let alpha = 255 - y * 8;
        let part = |value: u32| value * alpha / 255;
        alpha << 24 | part(0xc0 + n) << 16 | part(x * 7) << 8 | part(0x40 + x)
    };
    (0..CURSOR_SIZE * CURSOR_SIZE).map(pixel).collect()
}

/// Who follows the pointer of one output.
struct Follower {
    client: Client,
    cursor: CursorSession,
    session: CopySession,
}

impl Follower {
    fn new(stage: &Stage<'_>, output: &str) -> Self {
        let mut client = stage.client();
        let output = client.output(Some(output)).unwrap();
        let seat: WlSeat = client.bind(5, ()).unwrap();
        let pointer = seat.get_pointer(&client.qh, ());
        let begun = CopySession::begin_cursor(&mut client, &output, &pointer);
        let (cursor, session) = begun.unwrap();
        client.roundtrip().unwrap();
        Self {
            client,
            cursor,
            session,
        }
    }

    #[track_caller]
    fn wait(&mut self, what: &str, is_it: impl Fn(CursorRecord) -> bool) -> CursorRecord {
        let cursor = &self.cursor;
        let found = self.client.wait_for(what, SECOND * 20, |_| {
            let told = told(cursor);
            is_it(told).then_some(told)
        });
        found.unwrap_or_else(|error| panic!("{error}; {:?}", told(&self.cursor)))
    }

    /// The pointer's picture, with what is opaque in it and what is not.
    fn picture(&mut self) -> Vec<u32> {
        let constraints = self.session.constraints();
        assert_eq!(constraints.size, (CURSOR_SIZE, CURSOR_SIZE));
        let (side, kind) = (CURSOR_SIZE, MemoryKind::Shm);
        let buffer = Buffer::new(&mut self.client, kind, side, side, ARGB8888).unwrap();
        let end = self.session.capture(&mut self.client, &buffer, &[]);
        end.unwrap().frame();
        let word = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        buffer.read(|bytes| bytes.chunks_exact(4).map(word).collect())
    }
}

/// A window on an output whose cursor is made of glass.
struct Application {
    client: Client,
    painter: Painter,
    pointer: Pointer,
    surface: WlSurface,
    glass: Vec<Buffer>,
}

impl Application {
    /// The seat must have a pointer.
    fn new(stage: &Stage<'_>, output: &str) -> Self {
        let mut client = stage.client();
        let options = PainterOptions {
            output: Some(client.output(Some(output)).unwrap().proxy),
            ..PainterOptions::default()
        };
        let mut painter = Painter::new(&mut client, options).unwrap();
        painter.present(&mut client, 1).unwrap();
        let compositor: WlCompositor = client.bind(4, ()).unwrap();
        let surface = compositor.create_surface(&client.qh, None);
        let pointer = Pointer::new(&mut client, surface.clone()).unwrap().unwrap();
        Self {
            client,
            painter,
            pointer,
            surface,
            glass: Vec::new(),
        }
    }

    fn show(&mut self, n: u32) {
        let (side, kind) = (CURSOR_SIZE, MemoryKind::Shm);
        let mut buffer = Buffer::new(&mut self.client, kind, side, side, ARGB8888).unwrap();
        buffer.write(|bytes| {
            for (to, pixel) in bytes.chunks_exact_mut(4).zip(glass(n)) {
                to.copy_from_slice(&pixel.to_le_bytes());
            }
        });
        self.surface.attach(Some(&buffer.proxy), 0, 0);
        self.surface.damage_buffer(0, 0, i32::MAX, i32::MAX);
        self.surface.commit();
        self.client.roundtrip().unwrap();
        self.glass.push(buffer);
    }

    /// Sets the cursor when the pointer has come.
    fn wait_entered(&mut self) {
        let pointer = &self.pointer;
        let entered = self.client.wait_for("wl_pointer.enter", SECOND * 20, |_| {
            (pointer.record().entered > 0).then_some(())
        });
        entered.unwrap();
        self.pointer.update();
        self.client.roundtrip().unwrap();
    }
}

#[test]
fn a_cursor_session_follows_the_real_pointer_until_it_leaves_for_another_screen() {
    let machine = Machine::default().output(Output::new());
    machine::boot(machine.output(Output::new()), |guest| {
        let mut mouse = Mouse::new();
        let stage = setup().start(guest);
        let mut probe = stage.client();
        // Until libinput has the mouse, its motion is lost or accelerated.
        machine::wait_until("the seat's pointer", SECOND * 20, || {
            mouse.by(1, 1);
            crate::cursor::has_pointer(&mut probe)
        });
        mouse.to(5, 5);
        let mut application = Application::new(&stage, "Virtual-1");
        application.wait_entered();
        let [mut here, mut there] = ["Virtual-1", "Virtual-2"].map(|o| Follower::new(&stage, o));
        for (n, place) in (0..).zip(PLACES) {
            mouse.to(place.0, place.1);
            application.show(n);
            let what = format!("the pointer at {place:?}");
            here.wait(&what, |told| told.position == Some(place));
            let told = here.wait("its hotspot", |t| t.hotspot == Some(CURSOR_HOTSPOT));
            assert_eq!((told.entered, told.left), (1, 0), "at {place:?}");
            assert!(here.picture() == glass(n), "another picture at {place:?}");
            if place == PLACES[1] {
                there.wait("its part there", |told| told.position == Some((-1, 479)));
            }
        }
        // In the corner its picture hung over on the other screen, and so it was there as well.
        let told = there.wait("the pointer to leave again", |told| told.left > 0);
        assert_eq!((told.entered, told.left), (1, 1));

        mouse.to(640 + 50, 60);
        let told = here.wait("the pointer to leave", |told| told.left > 0);
        assert_eq!((told.entered, told.left), (1, 1));
        let told = there.wait("the pointer there", |told| told.position == Some((50, 60)));
        assert_eq!((told.entered, told.left), (2, 1));
        // And back, over the same window.
        mouse.to(320, 240);
        there.wait("the pointer to leave", |told| told.left == 2);
        here.wait("the pointer again", |told| {
            told.entered == 2 && told.position == Some((320, 240))
        });
        let Application {
            client, painter, ..
        } = application;
        drop((painter, client));
        stage.finish("Virtual-1");
    });
}
