//! Programs that know nothing of Vitrine, from Debian's packages: they run, their picture is on the screen, they end.
//!
//! Three of Debian 12's weston clients cannot be here, for reasons of their own. weston-simple-dmabuf-feedback asks libdrm for
//! the device, and libdrm does not find devices on the kernel's faux bus, where vkms is. weston-presentation-shm and
//! weston-simple-damage bind xdg_wm_base with whatever version is announced but know only version 1, and abort at
//! xdg_toplevel.configure_bounds.

use std::process::Command;

use crate::{
    clients::Picture,
    machine::{self, Guest, Machine, Signal, SECOND},
    screen,
    stage::{Setup, Stage},
};

/// Starts a program as a client, waits for its picture, ends it with SIGINT, which it takes for a wish to end.
fn shows(guest: &Guest, program: &[&str], wanted: impl FnMut(&Picture) -> bool) {
    let stage = Setup::default().start(guest);
    let mut watcher = stage.client();
    assert_eq!(
        screen::lit(&screen::picture(&mut watcher)),
        0,
        "not black before"
    );
    let mut command = Command::new(program[0]);
    command.args(&program[1..]);
    let mut client = stage.spawn(program[0], command);
    screen::wait_for(guest, &mut watcher, program[0], wanted);
    client.assert_running();
    client.signal(Signal::INT);
    client.wait_success(SECOND * 20);
    screen::wait_for(guest, &mut watcher, "after", |picture| {
        screen::lit(picture) == 0
    });
    finish(stage);
}

fn finish(stage: Stage<'_>) {
    let log = stage.vitrine.log();
    assert!(
        !log.contains("broke the protocol"),
        "a client was refused:\n{log}"
    );
    assert_eq!(stage.finish("Virtual-1").get("lost"), 0);
}

/// Pixels that can only belong to foot's text.
fn bright(picture: &Picture) -> usize {
    picture
        .pixels
        .iter()
        .filter(|pixel| *pixel >> 16 & 0xff > 0xa0)
        .count()
}

/// Each interface with the lowest version that applications may count on.
const GLOBALS: &[(&str, u32)] = &[
    ("wl_compositor", 6),
    ("wl_subcompositor", 1),
    ("wl_shm", 1),
    ("wl_seat", 7),
    ("wl_output", 4),
    ("wl_data_device_manager", 3),
    ("xdg_wm_base", 5),
    ("zxdg_output_manager_v1", 3),
    ("zxdg_decoration_manager_v1", 1),
    ("zwp_linux_dmabuf_v1", 4),
    ("zwp_primary_selection_device_manager_v1", 1),
    ("wp_viewporter", 1),
    ("wp_presentation", 1),
    ("wp_single_pixel_buffer_manager_v1", 1),
    ("wp_cursor_shape_manager_v1", 1),
    ("ext_output_image_capture_source_manager_v1", 1),
    ("ext_image_copy_capture_manager_v1", 1),
    ("zwlr_export_dmabuf_manager_v1", 1),
    ("zwlr_screencopy_manager_v1", 3),
    ("ext_foreign_toplevel_list_v1", 1),
    ("ext_foreign_toplevel_image_capture_source_manager_v1", 1),
];

#[test]
fn wayland_info_lists_every_global_that_applications_count_on() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let mut info = stage.spawn("wayland-info", Command::new("wayland-info"));
        info.wait_success(SECOND * 20);
        let text = info.log();
        let mut missing = Vec::new();
        for (interface, least) in GLOBALS {
            let head = format!("interface: '{interface}',");
            let version = text
                .lines()
                .find(|line| line.starts_with(&head))
                .and_then(|line| {
                    let number = line.split("version:").nth(1)?.split(',').next()?;
                    number.trim().parse::<u32>().ok()
                });
            if version.is_none_or(|version| version < *least) {
                missing.push(format!("{interface}: {version:?}, not {least}"));
            }
        }
        assert!(missing.is_empty(), "{missing:#?}\n{text}");
        assert!(
            text.contains("width: 640 px, height: 480 px"),
            "no mode in:\n{text}"
        );
        assert!(
            text.contains("name: Virtual-1"),
            "no output name in:\n{text}"
        );
        finish(stage);
    });
}

#[test]
fn weston_simple_shm_is_on_the_screen_and_ends_cleanly() {
    machine::boot(Machine::default(), |guest| {
        shows(guest, &["weston-simple-shm"], |picture| {
            screen::lit(picture) > 30_000
        });
    });
}

#[test]
fn weston_simple_egl_is_on_the_screen_and_ends_cleanly() {
    machine::boot(Machine::default(), |guest| {
        // The triangle has many colours between red, green and blue.
        shows(guest, &["weston-simple-egl", "-o"], |picture| {
            screen::colours(picture) > 1000
        });
    });
}

#[test]
fn weston_subsurfaces_are_on_the_screen() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let mut watcher = stage.client();
        let mut client = stage.spawn("weston-subsurfaces", Command::new("weston-subsurfaces"));
        screen::wait_for(guest, &mut watcher, "weston-subsurfaces", |picture| {
            screen::lit(picture) > 30_000
        });
        client.assert_running();
        drop(client);
        finish(stage);
    });
}

#[test]
fn foot_writes_its_text_on_the_screen_and_its_exit_code_is_ours() {
    machine::boot(Machine::default(), |guest| {
        let script =
            "printf '\\033[?25lVITRINE\\n'; until [ -e /tmp/enough ]; do sleep 0.05; done; exit 5";
        let mut command = Command::new(env!("CARGO_BIN_EXE_vitrine"));
        command
            .env("RUST_LOG", "info,vitrine=debug")
            .args(["-s", "wayland-test", "--"]);
        command.args([
            "foot",
            "-o",
            "colors.background=203040",
            "-o",
            "colors.foreground=ffe0a0",
        ]);
        let mut vitrine = guest.spawn("vitrine", {
            command.args(["sh", "-c", script]);
            command
        });
        vitrine.wait_log("listening", SECOND * 30);
        let mut watcher =
            crate::clients::Client::connect_when_ready("wayland-test", SECOND * 20).unwrap();
        let picture = screen::wait_for(guest, &mut watcher, "foot", |picture| {
            // Letters are grey at their edges; their insides are bright.
            bright(picture) > 20
        });
        // Paper everywhere, ink only where the first line is.
        assert!(screen::count(&picture, 0x20_3040) > picture.pixels.len() * 9 / 10);
        let below = picture.pixels.iter().skip(picture.width as usize * 100);
        assert!(
            below.clone().all(|pixel| pixel & 0xff_ffff == 0x20_3040),
            "ink below the first lines"
        );
        std::fs::write("/tmp/enough", "").unwrap();
        assert_eq!(
            vitrine.wait_exit(SECOND * 20).code(),
            Some(5),
            "{}",
            vitrine.log()
        );
    });
}
