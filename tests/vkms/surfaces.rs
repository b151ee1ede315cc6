//! What a client can say of a surface's content, pixel by pixel: subsurfaces, viewports, scale, transform.
//! Each test runs with both renderers.

use wayland_client::protocol::wl_output::Transform;

use crate::{
    clients::{picture::pattern_picture, Client, MemoryKind, PainterOptions, Picture, Rect},
    machine::{self, Machine},
    screen,
    stage::{Setup, Stage},
    window::{self, Window},
};

/// The renderer that a test is for.
fn started<'g>(guest: &'g machine::Guest, renderer: &str) -> Stage<'g> {
    let stage = Setup::default()
        .with(&format!("renderer = \"{renderer}\""))
        .start(guest);
    let wanted = format!("renderer=\"{renderer}\"");
    assert!(
        stage.vitrine.log().contains(&wanted),
        "not drawn by {renderer}: {}",
        stage.vitrine.log()
    );
    stage
}

fn machine() -> Machine {
    Machine::default()
        .memory_mib(2048)
        .timeout(machine::SECOND * 180)
}

fn client(stage: &Stage<'_>) -> Client {
    let mut client = stage.client();
    // The first frame of llvmpipe compiles its shaders.
    client.set_patience(machine::SECOND * 60);
    client
}

fn finish(stage: Stage<'_>) {
    let log = stage.vitrine.log();
    assert!(!log.contains("ERROR"), "{log}");
    let summary = stage.finish("Virtual-1");
    assert_eq!(summary.get("modesets"), 1);
    assert_eq!(summary.get("lost"), 0);
}

/// Each pixel `n` times in both directions.
fn enlarged(picture: &Picture, n: u32) -> Picture {
    let (width, height) = (picture.width * n, picture.height * n);
    let at = |i: u32| picture.at(i % width / n, i / width / n);
    Picture {
        width,
        height,
        pixels: (0..width * height).map(at).collect(),
    }
}

/// The buffer with which a client shows `upright` under this transform: turned counter-clockwise after it was mirrored.
fn transformed(upright: &Picture, transform: Transform) -> Picture {
    let (w, h) = (upright.width, upright.height);
    let turned = matches!(
        transform,
        Transform::_90 | Transform::_270 | Transform::Flipped90 | Transform::Flipped270
    );
    let (width, height) = if turned { (h, w) } else { (w, h) };
    let mut buffer = Picture::filled(width, height, 0);
    for y in 0..h {
        for x in 0..w {
            let mirrored = match transform {
                Transform::Flipped
                | Transform::Flipped90
                | Transform::Flipped180
                | Transform::Flipped270 => w - 1 - x,
                _ => x,
            };
            let (bx, by) = match transform {
                Transform::_90 | Transform::Flipped90 => (y, w - 1 - mirrored),
                Transform::_180 | Transform::Flipped180 => (w - 1 - mirrored, h - 1 - y),
                Transform::_270 | Transform::Flipped270 => (h - 1 - y, mirrored),
                _ => (mirrored, y),
            };
            buffer.pixels[(by * width + bx) as usize] = upright.at(x, y);
        }
    }
    buffer
}

fn pictures_are_byte_equal(renderer: &str) {
    machine::boot(machine(), |guest| {
        let stage = started(guest, renderer);
        for memory in [MemoryKind::Shm, MemoryKind::Udmabuf] {
            let mut client = client(&stage);
            if renderer == "gles" && memory == MemoryKind::Udmabuf {
                // Software EGL on a device without a render node cannot draw foreign memory: it is not offered.
                assert_eq!(client.version_of("zwp_linux_dmabuf_v1"), None);
                continue;
            }
            let options = PainterOptions {
                memory,
                subsurface: Some(Rect::new(100, 50, 64, 40)),
                ..Default::default()
            };
            let mut painter = crate::clients::Painter::new(&mut client, options).unwrap();
            for n in [1, 2, 300] {
                painter.present(&mut client, n).unwrap();
                screen::picture(&mut client)
                    .assert_same(&painter.expected(), &format!("{memory:?}"));
            }
            // Only a part is drawn anew, in each of the scanout buffers.
            for n in 301..307 {
                let part = Rect::new(10 * (n as i32 - 300), 100, 64, 64);
                let commit = painter.paint_part(&mut client, n, part).unwrap();
                painter.time_shown(&mut client, commit).unwrap();
                screen::picture(&mut client)
                    .assert_same(&painter.expected(), &format!("{memory:?}, {part:?}"));
            }
        }
        finish(stage);
    });
}

#[test]
fn pixman_draws_the_clients_bytes() {
    pictures_are_byte_equal("pixman");
}

#[test]
fn gles_draws_the_clients_bytes() {
    pictures_are_byte_equal("gles");
}

fn subsurfaces_move_and_stack(renderer: &str) {
    machine::boot(machine(), |guest| {
        let stage = started(guest, renderer);
        let mut client = client(&stage);
        let back = pattern_picture(3, 640, 480);
        let mut parent = Window::new(&client);
        // Without it the geometry would grow with each subsurface beyond the edge.
        parent.xdg.set_window_geometry(0, 0, 640, 480);
        parent.configure(&mut client);
        parent.show(&mut client, &back);
        let (red, green) = (
            Picture::filled(80, 60, 0xc0_2010),
            Picture::filled(80, 60, 0x10_c020),
        );
        let mut first = window::child(&client, &parent.surface.proxy, (100, 100));
        let mut second = window::child(&client, &parent.surface.proxy, (140, 120));
        first.surface.attach(&mut client, &red);
        first.surface.proxy.commit();
        second.surface.attach(&mut client, &green);
        second.surface.proxy.commit();
        parent.surface.commit_shown(&mut client);
        let mut expected = back.clone();
        expected.overlay(&red, 100, 100);
        expected.overlay(&green, 140, 120);
        screen::picture(&mut client).assert_same(&expected, "two subsurfaces");
        // The other order.
        second.role.place_below(&first.surface.proxy);
        parent.surface.commit_shown(&mut client);
        let mut expected = back.clone();
        expected.overlay(&green, 140, 120);
        expected.overlay(&red, 100, 100);
        screen::picture(&mut client).assert_same(&expected, "the other order");
        // Below the parent, which covers it.
        second.role.place_below(&parent.surface.proxy);
        first.role.set_position(-20, 460);
        parent.surface.commit_shown(&mut client);
        let mut expected = back.clone();
        expected.overlay(&red, -20, 460);
        screen::picture(&mut client).assert_same(&expected, "over the edge");
        // A desynchronised one shows its commits at once.
        first.role.set_desync();
        parent.surface.commit_shown(&mut client);
        first.surface.attach(&mut client, &green);
        first.surface.commit_shown(&mut client);
        expected.overlay(&green, -20, 460);
        screen::picture(&mut client).assert_same(&expected, "desynchronised");
        // Without content it is gone.
        first.surface.proxy.attach(None, 0, 0);
        first.surface.proxy.commit();
        screen::wait_for(guest, &mut client, "no subsurface", |picture| {
            picture.difference(&back).is_none()
        });
        // So it is without itself, though nobody commits anything.
        first.surface.attach(&mut client, &green);
        first.surface.commit_shown(&mut client);
        screen::picture(&mut client).assert_same(&expected, "once more");
        first.role.destroy();
        first.surface.proxy.destroy();
        screen::wait_for(guest, &mut client, "a destroyed subsurface", |picture| {
            picture.difference(&back).is_none()
        });
        finish(stage);
    });
}

#[test]
fn pixman_draws_subsurfaces_in_their_places_and_order() {
    subsurfaces_move_and_stack("pixman");
}

#[test]
fn gles_draws_subsurfaces_in_their_places_and_order() {
    subsurfaces_move_and_stack("gles");
}

/// The inside of blocks of one colour, where no filter reaches over an edge.
fn assert_blocks(shown: &Picture, blocks: &Picture, size: u32) {
    for y in (0..shown.height).filter(|y| (2..size - 2).contains(&(y % size))) {
        for x in (0..shown.width).filter(|x| (2..size - 2).contains(&(x % size))) {
            let (is, wanted) = (
                shown.at(x, y) & 0xff_ffff,
                blocks.at(x / size, y / size) & 0xff_ffff,
            );
            assert_eq!(is, wanted, "pixel {x}, {y} is {is:06x}, not {wanted:06x}");
        }
    }
}

fn viewports_crop_and_scale(renderer: &str) {
    machine::boot(machine(), |guest| {
        let stage = started(guest, renderer);
        let mut client = client(&stage);
        let mut window = Window::new(&client);
        window.configure(&mut client);
        let viewport = window::viewport(&client, &window.surface.proxy);
        // Cropped: a part of a larger picture, pixel for pixel.
        let large = pattern_picture(11, 720, 560);
        viewport.set_source(40.0, 30.0, 640.0, 480.0);
        window.show(&mut client, &large);
        let mut expected = Picture::filled(640, 480, 0);
        expected.overlay(&large, -40, -30);
        screen::picture(&mut client).assert_same(&expected, "cropped");
        // Scaled up, whole.
        let blocks = pattern_picture(12, 16, 12);
        viewport.set_source(-1.0, -1.0, -1.0, -1.0);
        viewport.set_destination(640, 480);
        window.show(&mut client, &enlarged(&blocks, 20));
        assert_blocks(&screen::picture(&mut client), &blocks, 40);
        // Cropped and scaled down: the middle of a picture.
        let blocks = pattern_picture(13, 16, 12);
        let mut large = Picture::filled(1480, 1160, 0xff_00ff);
        large.overlay(&enlarged(&blocks, 80), 100, 100);
        viewport.set_source(100.0, 100.0, 1280.0, 960.0);
        window.show(&mut client, &large);
        assert_blocks(&screen::picture(&mut client), &blocks, 40);
        // One pixel over the whole screen.
        let buffer =
            window::single_pixel(&client, (0x2020_2020, 0x8080_8080, 0xe0e0_e0e0, u32::MAX));
        viewport.set_source(-1.0, -1.0, -1.0, -1.0);
        window.surface.proxy.attach(Some(&buffer), 0, 0);
        window.surface.proxy.damage_buffer(0, 0, i32::MAX, i32::MAX);
        window.surface.commit_shown(&mut client);
        // llvmpipe's blending is off by one in some tiles.
        let off = if renderer == "gles" { 1 } else { 0 };
        for pixel in screen::picture(&mut client).pixels {
            let near =
                |shift: u32, wanted: i32| ((pixel >> shift & 0xff) as i32 - wanted).abs() <= off;
            assert!(
                near(16, 0x20) && near(8, 0x80) && near(0, 0xe0),
                "a single pixel is {pixel:06x}"
            );
        }
        finish(stage);
    });
}

#[test]
fn pixman_crops_and_scales_as_the_viewport_says() {
    viewports_crop_and_scale("pixman");
}

#[test]
fn gles_crops_and_scales_as_the_viewport_says() {
    viewports_crop_and_scale("gles");
}

fn scale_and_transform(renderer: &str) {
    machine::boot(machine(), |guest| {
        let stage = started(guest, renderer);
        let mut client = client(&stage);
        let mut window = Window::new(&client);
        window.configure(&mut client);
        let picture = pattern_picture(21, 640, 480);
        window.surface.proxy.set_buffer_scale(2);
        window.show(&mut client, &enlarged(&picture, 2));
        screen::picture(&mut client).assert_same(&picture, "scale 2");
        window.surface.proxy.set_buffer_scale(1);
        for (n, transform) in [
            Transform::_90,
            Transform::_180,
            Transform::_270,
            Transform::Flipped,
            Transform::Flipped90,
            Transform::Flipped180,
            Transform::Flipped270,
            Transform::Normal,
        ]
        .into_iter()
        .enumerate()
        {
            let picture = pattern_picture(30 + n as u32, 640, 480);
            window.surface.proxy.set_buffer_transform(transform);
            window.show(&mut client, &transformed(&picture, transform));
            screen::picture(&mut client).assert_same(&picture, &format!("{transform:?}"));
        }
        finish(stage);
    });
}

#[test]
fn pixman_undoes_buffer_scale_and_transform() {
    scale_and_transform("pixman");
}

#[test]
fn gles_undoes_buffer_scale_and_transform() {
    scale_and_transform("gles");
}
