//! Memory on which a fence never signals, as a window's and as a captured frame's: it holds what shows it, and nobody else.

use wayland_client::protocol::wl_surface::WlSurface;

use crate::{
    clients::{
        buffers::{Mapping, XRGB8888},
        copy_capture::{picture_of, CopySession},
        picture::pattern_picture,
        Buffer, Client, MemoryKind, Picture,
    },
    faults::assert_clean,
    fences::Stopped,
    holders::at_rest,
    looker::Looker,
    machine::{self, Machine, SECOND},
    screen,
    stage::{Setup, Stage},
    window::Window,
};

const SIZE: (u32, u32) = (640, 480);

fn pattern(n: u32) -> Picture {
    pattern_picture(n, SIZE.0, SIZE.1)
}

/// A dma-buf with a picture, of which `prepare` is told before the compositor is.
fn dmabuf(client: &mut Client, picture: &Picture, prepare: impl FnOnce(&Mapping)) -> Buffer {
    let (width, height) = SIZE;
    let size = (width, height, width * 4);
    let filled = |memory: &mut Mapping| {
        memory.write(|bytes| picture.to_lines(bytes, size.2));
        prepare(memory);
    };
    Buffer::prepared(client, MemoryKind::Udmabuf, size, XRGB8888, filled).unwrap()
}

/// Captures for so many pictures of somebody else, to see that the loop turns and the screen is shown.
fn nothing_else_stops(stage: &Stage<'_>, eyes: &mut Client, expected: &Picture) {
    for _ in 0..3 {
        screen::picture(eyes).assert_same(expected, "the screen");
    }
    stage.client().roundtrip().unwrap();
}

#[test]
fn a_window_whose_next_buffer_is_never_finished_stays_as_it_is_and_holds_nobody() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let (mut eyes, mut client) = (stage.client(), stage.client());
        let mut window = Window::showing(&mut client, &pattern(1));
        nothing_else_stops(&stage, &mut eyes, &pattern(1));

        let stopped = Stopped::new();
        // Imported with the fence on it, and committed twice.
        let held = dmabuf(&mut client, &pattern(2), |memory| stopped.hold(memory.fd()));
        let proxy = held.proxy.clone();
        window.surface.attach_buffer(held);
        window.surface.proxy.commit();
        window.surface.proxy.attach(Some(&proxy), 0, 0);
        window.surface.proxy.damage_buffer(0, 0, 10, 10);
        window.surface.proxy.commit();
        client.roundtrip().unwrap();
        nothing_else_stops(&stage, &mut eyes, &pattern(1));

        // Another window goes on, and so does this client's own other one.
        let mut other = stage.client();
        Window::showing(&mut other, &pattern(3)).close(&mut other);
        Window::showing(&mut client, &pattern(4)).close(&mut client);
        screen::wait_for(guest, &mut eyes, "first", |picture| {
            picture.difference(&pattern(1)).is_none()
        });

        drop(stopped);
        screen::wait_for(guest, &mut eyes, "second", |picture| {
            picture.difference(&pattern(2)).is_none()
        });
        stage.finish("Virtual-1");
        assert_clean(&guest.dmesg());
    });
}

#[test]
fn clients_and_surfaces_that_go_while_their_buffers_are_unfinished_leave_nothing() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let (mut eyes, mut client) = (stage.client(), stage.client());
        let _window = Window::showing(&mut client, &pattern(1));
        nothing_else_stops(&stage, &mut eyes, &pattern(1));
        let stopped = Stopped::new();
        let before = at_rest(&stage.vitrine);
        for round in 0..10 {
            let mut dying = (round % 2 == 0).then(|| stage.client());
            let dies = dying.is_some();
            let owner = dying.as_mut().unwrap_or(&mut client);
            let mut window = Window::new(owner);
            window.configure(owner);
            let held = dmabuf(owner, &pattern(2), |memory| stopped.hold(memory.fd()));
            window.surface.attach_buffer(held);
            window.surface.proxy.commit();
            owner.roundtrip().unwrap();
            match dies {
                true => drop((window, dying)),
                false => window.close(owner),
            }
        }
        client.roundtrip().unwrap();
        machine::wait_until("the descriptors of before", SECOND * 20, || {
            at_rest(&stage.vitrine) == before
        });
        nothing_else_stops(&stage, &mut eyes, &pattern(1));
        drop(stopped);
        nothing_else_stops(&stage, &mut eyes, &pattern(1));
        stage.finish("Virtual-1");
        assert_clean(&guest.dmesg());
    });
}

#[test]
fn commits_without_an_end_behind_an_unfinished_buffer_end_their_client_and_nobody_else() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let (mut eyes, mut client) = (stage.client(), stage.client());
        let _window = Window::showing(&mut client, &pattern(1));
        let stopped = Stopped::new();
        let hold = |client: &mut Client, commits: u32| {
            let mut window = Window::new(client);
            window.configure(client);
            let held = dmabuf(client, &pattern(2), |memory| stopped.hold(memory.fd()));
            window.surface.attach_buffer(held);
            for _ in 0..commits {
                window.surface.proxy.commit();
            }
            client.roundtrip().map(|()| window)
        };
        // What went with its surface does not count, nor does what was applied.
        for _ in 0..4 {
            hold(&mut client, 990).unwrap().close(&mut client);
        }
        let surface = bare(&client);
        (0..2000).for_each(|_| surface.commit());
        client.roundtrip().unwrap();
        nothing_else_stops(&stage, &mut eyes, &pattern(1));

        // All surfaces of a client together.
        let mut endless = stage.client();
        let _held = hold(&mut endless, 990).unwrap();
        let error = hold(&mut endless, 20).err().unwrap();
        assert_eq!(error.protocol(), Some(("wl_display", 2)), "{error}");
        nothing_else_stops(&stage, &mut eyes, &pattern(1));
        hold(&mut client, 990).unwrap().close(&mut client);
        drop(stopped);
        nothing_else_stops(&stage, &mut eyes, &pattern(1));
        stage.finish("Virtual-1");
        assert_clean(&guest.dmesg());
    });
}

/// A surface without a role.
fn bare(client: &Client) -> WlSurface {
    crate::window::surface(client).proxy
}

#[test]
fn a_window_is_not_drawn_while_a_fence_is_on_what_it_shows() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let (mut eyes, mut client) = (stage.client(), stage.client());
        let mut below = stage.client();
        let _below = Window::showing(&mut below, &pattern(1));
        let mut window = Window::new(&client);
        window.configure(&mut client);
        let shown = dmabuf(&mut client, &pattern(2), |_| {});
        window.surface.attach_buffer(shown);
        window.surface.commit_shown(&mut client);
        nothing_else_stops(&stage, &mut eyes, &pattern(2));

        let stopped = Stopped::new();
        stopped.hold(window.surface.buffer().fd());
        // Nothing new is attached: this makes the compositor draw the old memory once more.
        window.surface.proxy.damage_buffer(0, 0, 100, 100);
        window.surface.proxy.commit();
        client.roundtrip().unwrap();
        screen::wait_for(guest, &mut eyes, "without", |picture| {
            picture.difference(&pattern(1)).is_none()
        });
        nothing_else_stops(&stage, &mut eyes, &pattern(1));
        drop(stopped);
        screen::wait_for(guest, &mut eyes, "again", |picture| {
            picture.difference(&pattern(2)).is_none()
        });
        stage.finish("Virtual-1");
        assert_clean(&guest.dmesg());
    });
}

#[test]
fn fences_on_captured_frames_do_not_hold_the_copies_of_others() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default()
            .with("[capture]\nhold_deadline_ms = 60000")
            .start(guest);
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 1).unwrap();
        let mut copiers: Vec<_> = (0..2)
            .map(|_| {
                let mut client = stage.client();
                let output = client.output(None).unwrap();
                let session = CopySession::open(&mut client, &output, true).unwrap();
                let buffer = session.buffer(&mut client, MemoryKind::Shm).unwrap();
                (client, session, buffer)
            })
            .collect();
        let mut looker = Looker::new(&stage);
        // The newest frame, which is what the others are given too.
        let frame = looker.frame();
        let stopped = Stopped::new();
        stopped.hold(frame.fd());
        for n in 1..30 {
            for (client, session, buffer) in &mut copiers {
                let copied = session.capture(client, buffer, &[]).unwrap().frame();
                drop(copied);
                picture_of(buffer).assert_same(&painter.expected(), &format!("copy of {n}"));
            }
            painter.present(&mut client, n + 1).unwrap();
        }
        drop((frame, stopped));
        let summary = stage.finish("Virtual-1");
        println!("{summary:?}");
        assert!(summary.get("copies") >= 58);
        assert_eq!(summary.get("lost"), 0);
        assert_clean(&guest.dmesg());
    });
}
