//! The pointer on the cursor plane: a part of the picture that no renderer drew.

use std::sync::{Arc, Mutex};

use wayland_client::protocol::wl_seat::WlSeat;

use crate::{
    clients::{
        clock,
        copy_capture::{picture_of, CopySession},
        export_dmabuf::Exporter,
        pointer::{cursor_picture, CURSOR_HOTSPOT},
        Buffer, Client, MemoryKind, OutputInfo, PainterOptions, Picture, Rect,
    },
    machine::{self, vkms_crc, Guest, Machine, SECOND},
    mouse::Mouse,
    screen,
    stage::{Setup, Stage},
    window::{self, Window},
};

/// Corners, edges where the picture hangs over, and places in between.
const PLACES: [(i32, i32); 8] = [
    (100, 50),
    (101, 51),
    (0, 0),
    (639, 479),
    (2, 470),
    (630, 3),
    (320, 240),
    (333, 7),
];

/// Who looks: by reference, and into a buffer that is kept from frame to frame.
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
        let exporter = Exporter::new(&client).unwrap();
        let session = CopySession::open(&mut client, &output, true).unwrap();
        let buffer = session.buffer(&mut client, MemoryKind::Shm).unwrap();
        session.capture(&mut client, &buffer, &[]).unwrap().frame();
        Self {
            client,
            output,
            exporter,
            session,
            buffer,
        }
    }

    /// Waits until the screen looks so, for every oracle there is.
    #[track_caller]
    fn must_see(&mut self, guest: &Guest, expected: &Picture, what: &str) {
        let mut last = None;
        // The mouse's way through the kernel, udev and libinput is a matter of a few frames, where nobody else is at work.
        let end = clock::now() + SECOND * 20;
        while clock::now() < end {
            let frame = self
                .exporter
                .capture(&mut self.client, &self.output, true)
                .unwrap()
                .frame();
            last = frame.picture().difference(expected);
            if last.is_none() {
                break;
            }
        }
        if let Some(difference) = last {
            panic!("{what}: {difference}");
        }
        let crc = guest.crc(0).unwrap().next_frame().unwrap();
        assert_eq!(
            crc.value,
            vkms_crc(&expected.to_bytes()),
            "{what}: the CRTC"
        );
        // Only what changed is copied: a missing rectangle would leave an old pointer behind.
        let one = [Rect::new(320, 400, 1, 1)];
        while picture_of(&self.buffer).difference(expected).is_some() {
            let pending = self
                .session
                .request(&mut self.client, &self.buffer, &one)
                .unwrap();
            match pending.wait_end(&mut self.client, SECOND * 20) {
                Ok((_, end)) => end.unwrap(),
                Err(error) => {
                    let copy = picture_of(&self.buffer);
                    panic!("{what}: {error}; {:?}", copy.difference(expected));
                }
            }
        }
    }
}

fn arrow() -> vitrine::render::CursorPicture {
    vitrine::render::CursorPicture::arrow()
}

/// The picture with the arrow's opaque pixels on top.
pub fn with_arrow(mut picture: Picture, (x, y): (i32, i32)) -> Picture {
    let arrow = arrow();
    let (left, top) = (x - arrow.hotspot.0, y - arrow.hotspot.1);
    for (at, pixel) in (0i32..).zip(&arrow.pixels) {
        let (x, y) = (
            left + at % arrow.width as i32,
            top + at / arrow.width as i32,
        );
        let inside =
            (0..picture.width as i32).contains(&x) && (0..picture.height as i32).contains(&y);
        assert!(matches!(pixel >> 24, 0 | 0xff), "only opaque or clear");
        if inside && pixel >> 24 == 0xff {
            picture.pixels[y as usize * picture.width as usize + x as usize] = pixel & 0x00ff_ffff;
        }
    }
    picture
}

pub fn setup() -> Setup {
    Setup::default().with("[input.pointer]\naccel_profile = \"flat\"\naccel_speed = 0")
}

#[test]
fn the_arrow_is_in_every_captured_picture_and_wherever_it_goes() {
    machine::boot(Machine::default(), |guest| {
        let mut mouse = Mouse::new();
        let stage = setup().start(guest);
        // Until libinput has the mouse, its motion is lost or accelerated.
        let mut probe = stage.client();
        machine::wait_until("the seat's pointer", SECOND * 20, || {
            mouse.by(1, 1);
            has_pointer(&mut probe)
        });
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 5).unwrap();
        let mut eyes = Eyes::new(&stage);
        for (x, y) in PLACES {
            mouse.to(x, y);
            let expected = with_arrow(painter.expected(), (x, y));
            eyes.must_see(guest, &expected, &format!("the arrow at {x}, {y}"));
        }
        // What the application draws below goes on.
        painter.present(&mut client, 6).unwrap();
        let expected = with_arrow(painter.expected(), PLACES[PLACES.len() - 1]);
        eyes.must_see(guest, &expected, "the arrow over another picture");
        let summary = stage.finish("Virtual-1");
        assert_eq!(summary.get("modesets"), 1);
        assert_eq!(summary.get("lost"), 0);
    });
}

#[test]
fn the_cursor_of_an_application_is_in_every_captured_picture_and_wherever_it_goes() {
    machine::boot(Machine::default(), |guest| {
        let mut mouse = Mouse::new();
        let stage = setup().start(guest);
        let mut probe = stage.client();
        // The seat gets its pointer when libinput has found the mouse.
        machine::wait_until("the seat's pointer", SECOND * 20, || {
            mouse.by(1, 1);
            has_pointer(&mut probe)
        });
        let options = PainterOptions {
            cursor: true,
            ..PainterOptions::default()
        };
        let (mut client, mut painter) = stage.painter_with(options);
        painter.present(&mut client, 5).unwrap();
        mouse.to(200, 200);
        let pointer = painter.pointer().expect("the seat has a pointer");
        client
            .wait_for("wl_pointer.enter", SECOND * 20, |_| {
                (pointer.record().entered > 0).then_some(())
            })
            .unwrap();
        pointer.update();
        client.roundtrip().unwrap();
        let mut eyes = Eyes::new(&stage);
        for (x, y) in PLACES {
            mouse.to(x, y);
            let mut expected = painter.expected();
            expected.overlay(
                &cursor_picture(),
                x - CURSOR_HOTSPOT.0,
                y - CURSOR_HOTSPOT.1,
            );
            eyes.must_see(guest, &expected, &format!("the cursor at {x}, {y}"));
        }
        stage.finish("Virtual-1");
    });
}

/// A cursor plane shows pixels as they are; the pictures of applications may be made for another scale.
#[test]
fn a_cursor_for_another_scale_is_as_large_as_it_says_and_points_to_where_the_pointer_is() {
    machine::boot(Machine::default(), |guest| {
        let config = "[[output]]\nconnector = \"*\"\nmode = \"640x480\"\nscale = 2.0\n";
        let mut mouse = Mouse::new();
        let flat = "[input.pointer]\naccel_profile = \"flat\"\naccel_speed = 0";
        let stage = Setup::default().config(config).with(flat).start(guest);
        let mut client = stage.client();
        machine::wait_until("the seat's pointer", SECOND * 20, || {
            mouse.by(1, 1);
            has_pointer(&mut client)
        });
        let (back, front) = (0x20_4060, 0xff_8000);
        let window = Window::showing(&mut client, &Picture::filled(320, 240, back));
        let serial = Arc::<Mutex<u32>>::default();
        let seat: WlSeat = client.bind(5, ()).unwrap();
        let pointer = seat.get_pointer(&client.qh, Arc::clone(&serial));
        mouse.by(1, 1);
        let entered = client.wait_for("wl_pointer.enter", SECOND * 20, |_| {
            Some(*serial.lock().unwrap()).filter(|serial| *serial > 0)
        });
        let mut cursor = window::surface(&client);
        cursor.attach(&mut client, &Picture::filled(16, 16, front));
        cursor.proxy.commit();
        pointer.set_cursor(entered.unwrap(), Some(&cursor.proxy), 4, 4);
        client.roundtrip().unwrap();
        // In places of the output's logical 320x240.
        mouse.to(100, 50);
        // What is enlarged has softer edges, the window at the screen's too.
        let covered = |picture: &Picture| {
            let lines = (0i32..).zip(picture.pixels.chunks(picture.width as usize));
            let mut found = Vec::new();
            for (y, line) in lines.filter(|(y, _)| (4..476).contains(y)) {
                let inside = (0i32..).zip(line).filter(|(x, _)| (4..636).contains(x));
                let on = inside.filter(|(_, pixel)| *pixel & 0xff_ffff != back);
                found.extend(on.map(|(x, _)| (x, y)));
            }
            let (xs, ys) = (found.iter().map(|at| at.0), found.iter().map(|at| at.1));
            let corner = (xs.clone().min(), ys.clone().min());
            (corner, (xs.max(), ys.max()), found.len())
        };
        let wanted = ((Some(192), Some(92)), (Some(223), Some(123)), 32 * 32);
        screen::wait_for(guest, &mut client, "a cursor of 32x32 pixels", |picture| {
            covered(picture) == wanted
        });
        drop(window);
        stage.finish("Virtual-1");
    });
}

pub fn has_pointer(client: &mut Client) -> bool {
    use wayland_client::protocol::wl_compositor::WlCompositor;
    let compositor: WlCompositor = client.bind(4, ()).unwrap();
    let surface = compositor.create_surface(&client.qh, None);
    crate::clients::pointer::Pointer::new(client, surface)
        .unwrap()
        .is_some()
}
