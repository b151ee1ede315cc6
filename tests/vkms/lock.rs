//! The locked session in captures: nothing of it is in any picture that is given from `locked` on. `lock_life` has what else
//! happens to a lock.

use std::{sync::Arc, time::Duration};

use wayland_protocols::ext::foreign_toplevel_list::v1::client::ext_foreign_toplevel_list_v1::ExtForeignToplevelListV1 as List;

use crate::{
    clients::{
        clock,
        copy_capture::picture_of,
        session_lock::{Locker, CURTAIN},
        Client, CopySession, Exporter, MemoryKind, OutputInfo, PainterOptions, Picture,
        ScreencopyFrame,
    },
    faults::assert_clean,
    film::Film,
    machine::{self, vkms_crc, Guest, Machine, SECOND},
    stage::Setup,
    toplevels::{source, Listed},
};

/// One picture by each protocol.
fn by_all(client: &mut Client, output: &OutputInfo) -> [Picture; 3] {
    let exporter = Exporter::new(client).unwrap();
    let exported = exporter.capture(client, output, true).unwrap().frame();
    let session = CopySession::open(client, output, true).unwrap();
    let buffer = session.buffer(client, MemoryKind::Shm).unwrap();
    let copied = session.capture(client, &buffer, &[]).unwrap().frame();
    let screencopy = ScreencopyFrame::capture(client, output, true).unwrap();
    [exported.picture(), copied.picture, screencopy.unwrap()]
}

#[track_caller]
pub fn all_show(client: &mut Client, output: &OutputInfo, expected: &Picture, what: &str) {
    for (picture, by) in by_all(client, output)
        .iter()
        .zip(["export", "copy", "screencopy"])
    {
        picture.assert_same(expected, &format!("{what}, by {by}"));
    }
}

/// The checksum of a frame that the screen shows from now on.
pub fn crc_now(guest: &Guest, screen: usize) -> u32 {
    guest.crc(screen).unwrap().next_frame().unwrap().value
}

pub fn plain(colour: u32) -> Picture {
    Picture::filled(640, 480, colour)
}

fn captures_follow_the_lock(guest: &Guest, setup: Setup) {
    let stage = setup.start(guest);
    let (mut app, mut painter) = stage.painter();
    painter.present(&mut app, 7).unwrap();
    let mut watcher = stage.client();
    let output = watcher.output(None).unwrap();
    all_show(
        &mut watcher,
        &output,
        &painter.expected(),
        "before the lock",
    );

    let mut lock_client = stage.client();
    let lock = Locker::lock(&mut lock_client).unwrap();
    let curtain = vkms_crc(&plain(CURTAIN).to_bytes());
    assert_eq!(crc_now(guest, 0), curtain, "the screen at `locked`");
    all_show(
        &mut watcher,
        &output,
        &plain(CURTAIN),
        "no lock surface yet",
    );
    let covered = lock_client.output(None).unwrap();
    let mut surface = lock.cover(&mut lock_client, &covered, 100).unwrap();
    lock_client.roundtrip().unwrap();
    let crc = vkms_crc(&surface.expected(100).to_bytes());
    machine::wait_until("the lock's picture", SECOND * 20, || {
        crc_now(guest, 0) == crc
    });
    // The application does not stop drawing.
    painter.paint(&mut app, 8).unwrap();
    app.roundtrip().unwrap();
    all_show(
        &mut watcher,
        &output,
        &surface.expected(100),
        "the lock's surface",
    );
    surface.show(&mut lock_client, 101).unwrap();
    lock_client.roundtrip().unwrap();
    let crc = vkms_crc(&surface.expected(101).to_bytes());
    machine::wait_until("the lock's next picture", SECOND * 20, || {
        crc_now(guest, 0) == crc
    });
    all_show(
        &mut watcher,
        &output,
        &surface.expected(101),
        "the lock's next picture",
    );
    // A lock surface that is gone leaves the curtain.
    surface.proxy.destroy();
    lock_client.roundtrip().unwrap();
    machine::wait_until("the curtain again", SECOND * 20, || {
        crc_now(guest, 0) == curtain
    });
    all_show(
        &mut watcher,
        &output,
        &plain(CURTAIN),
        "without the lock's surface",
    );

    lock.unlock(&mut lock_client).unwrap();
    let crc = vkms_crc(&painter.expected().to_bytes());
    machine::wait_until("the application", SECOND * 20, || crc_now(guest, 0) == crc);
    all_show(&mut watcher, &output, &painter.expected(), "after the lock");
    painter.present(&mut app, 9).unwrap();
    all_show(&mut watcher, &output, &painter.expected(), "and on");
    stage.finish("Virtual-1");
    assert_clean(&guest.dmesg());
}

#[test]
fn captured_pictures_of_a_locked_session_are_the_locks() {
    machine::boot(Machine::default(), |guest| {
        captures_follow_the_lock(guest, Setup::default());
    });
}

#[test]
fn the_render_producers_pictures_of_a_locked_session_are_the_locks_too() {
    machine::boot(Machine::default(), |guest| {
        let setup = Setup::default().with("[capture]\nproducer = 'render'\n");
        captures_follow_the_lock(guest, setup);
    });
}

/// Locks while the film runs; whatever the cameras are given from `locked` on does not show the window.
fn lock_in_a_film(guest: &Guest, setup: Setup) {
    let stage = setup.start(guest);
    let mut film = Film::begin(&stage, None, 1);
    film.cameras.with_screencopy();
    let curtain = vkms_crc(&plain(CURTAIN).to_bytes());
    for round in 1..=8 {
        film.shoot(10);
        let mut lock_client = stage.client();
        let lock = Locker::ask(&mut lock_client).unwrap();
        film.roll_until("the lock", |_| {
            lock_client
                .dispatch_for(Duration::from_micros(100))
                .unwrap();
            lock.record().locked
        });
        assert_eq!(crc_now(guest, 0), curtain, "the screen at `locked`");
        // What was sent before is read now, and counts as before.
        film.cameras.client.roundtrip().unwrap();
        film.cameras.harvest();
        let before = film.cameras.taken.len();
        let end = clock::now() + SECOND / 2;
        while clock::now() < end {
            film.turn();
        }
        for taken in &film.cameras.taken[before..] {
            assert!(
                taken.shows.is_err(),
                "round {round}: after `locked` a captured frame shows picture {taken:?}"
            );
        }
        println!(
            "round {round}: {} frames while locked",
            film.cameras.taken.len() - before
        );
        // What follows is to be true again.
        film.cameras.taken.clear();
        lock.unlock(&mut lock_client).unwrap();
        film.cameras.client.roundtrip().unwrap();
        film.roll_until("the window again", |film| {
            film.cameras
                .taken
                .last()
                .is_some_and(|taken| taken.shows.is_ok())
        });
        film.cameras.taken.clear();
    }
    assert!(
        film.cameras.cancelled.is_empty(),
        "{:?}",
        film.cameras.cancelled
    );
    assert!(film.cameras.failed.is_empty(), "{:?}", film.cameras.failed);
    film.show(5);
    film.shoot(10);
    drop(film.cut());
    let summary = stage.finish("Virtual-1");
    println!("{summary:?}");
    assert_clean(&guest.dmesg());
}

#[test]
fn no_frame_that_is_delivered_after_locked_shows_the_application() {
    machine::boot(Machine::default(), |guest| {
        lock_in_a_film(guest, Setup::default());
    });
}

#[test]
fn no_rendered_frame_that_is_delivered_after_locked_shows_the_application() {
    machine::boot(Machine::default(), |guest| {
        lock_in_a_film(
            guest,
            Setup::default().with("[capture]\nproducer = 'render'\n"),
        );
    });
}

#[test]
fn captures_of_a_window_pause_while_the_session_is_locked() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let (mut app, mut painter) = stage.painter_with(PainterOptions {
            app_id: "app".to_owned(),
            ..Default::default()
        });
        painter.present(&mut app, 11).unwrap();
        let mut watcher = stage.client();
        let listed = Listed::default();
        let _list: List = watcher.bind(1, Arc::clone(&listed)).unwrap();
        let source = source(&mut watcher, &listed, "app");
        let session = CopySession::open_source(&mut watcher, &source, false).unwrap();
        let buffer = session.buffer(&mut watcher, MemoryKind::Shm).unwrap();
        session.capture(&mut watcher, &buffer, &[]).unwrap().frame();
        picture_of(&buffer).assert_same(&painter.expected(), "the window");
        let before = picture_of(&buffer);
        let waiting = session.request(&mut watcher, &buffer, &[]).unwrap();
        watcher.roundtrip().unwrap();

        let mut lock_client = stage.client();
        let lock = Locker::lock(&mut lock_client).unwrap();
        for n in 12..30 {
            painter.paint(&mut app, n).unwrap();
            app.roundtrip().unwrap();
            watcher.roundtrip().unwrap();
        }
        // The window may still be named, and nothing of it is seen.
        let late = CopySession::open_source(&mut watcher, &source, false);
        let late = late.map(|late| late.record().done);
        assert!(
            late.is_err() || late.is_ok_and(|done| done == 0),
            "a session of a hidden window got constraints"
        );
        assert!(!waiting.has_ended(), "a frame of a window behind the lock");
        picture_of(&buffer).assert_same(&before, "the buffer of the waiting frame");

        lock.unlock(&mut lock_client).unwrap();
        waiting.wait(&mut watcher, &buffer).unwrap().frame();
        picture_of(&buffer).assert_same(&painter.expected(), "the window after the lock");
        assert!(!session.record().stopped);
        stage.finish("Virtual-1");
    });
}

#[test]
fn the_history_forgets_what_was_before_the_lock() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default()
            .with("[capture]\nhistory = 4\n")
            .start(guest);
        let (mut app, mut painter) = stage.painter();
        for n in 1..8 {
            painter.present(&mut app, n).unwrap();
        }
        let mut lock_client = stage.client();
        let lock = Locker::lock(&mut lock_client).unwrap();
        let folder = guest.out().join("history");
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_vitrine"));
        command.args(["msg", "history"]).arg(&folder);
        command.env("WAYLAND_DISPLAY", "wayland-test");
        println!("{}", guest.run("msg", command).unwrap());
        let files = || std::fs::read_dir(&folder).map_or(0, Iterator::count);
        machine::wait_until("the curtain's picture", SECOND * 20, || files() > 0);
        std::thread::sleep(SECOND / 2);
        for file in std::fs::read_dir(&folder).unwrap() {
            let path = file.unwrap().path();
            let colours = colours_of(&path);
            assert_eq!(colours, [CURTAIN], "{}", path.display());
        }
        lock.unlock(&mut lock_client).unwrap();
        stage.finish("Virtual-1");
    });
}

/// The colours in a PNG.
fn colours_of(path: &std::path::Path) -> Vec<u32> {
    let decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(path).unwrap()));
    let mut reader = decoder.read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut bytes).unwrap();
    let step = info.line_size / info.width as usize;
    let colour = |p: &[u8]| u32::from(p[0]) << 16 | u32::from(p[1]) << 8 | u32::from(p[2]);
    let mut colours: Vec<u32> = bytes[..info.buffer_size()]
        .chunks_exact(step)
        .map(colour)
        .collect();
    colours.sort_unstable();
    colours.dedup();
    colours
}

#[test]
fn a_frame_that_was_published_before_the_lock_is_given_to_nobody_after_it() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let (mut app, mut painter) = stage.painter();
        painter.present(&mut app, 1).unwrap();
        // Who asks by export-dmabuf is given the newest frame at once, if it is newer than its last one. It was made for
        // somebody else.
        let (mut behind, mut other) = (stage.client(), stage.client());
        let output = behind.output(None).unwrap();
        let exporter = Exporter::new(&behind).unwrap();
        let first = exporter
            .capture(&mut behind, &output, true)
            .unwrap()
            .frame();
        first
            .picture()
            .assert_same(&painter.expected(), "the first frame");
        drop(first);
        let mut lock_client = stage.client();
        for n in 2..12 {
            painter.present(&mut app, n).unwrap();
            let theirs = other.output(None).unwrap();
            let [exported, ..] = by_all(&mut other, &theirs);
            exported.assert_same(&painter.expected(), "the newest frame");
            let lock = Locker::lock(&mut lock_client).unwrap();
            let late = exporter
                .capture(&mut behind, &output, true)
                .unwrap()
                .frame();
            late.picture()
                .assert_same(&plain(CURTAIN), "asked for after `locked`");
            drop(late);
            lock.unlock(&mut lock_client).unwrap();
            machine::wait_until("the application", SECOND * 20, || {
                crc_now(guest, 0) == vkms_crc(&painter.expected().to_bytes())
            });
            let again = exporter
                .capture(&mut behind, &output, true)
                .unwrap()
                .frame();
            again
                .picture()
                .assert_same(&painter.expected(), "after the lock");
        }
        stage.finish("Virtual-1");
    });
}
