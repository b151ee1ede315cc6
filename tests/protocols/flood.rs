//! Clients that send faster than anybody reads, without an end: everybody else goes on, in the whole compositor without a device.

use std::{
    io::ErrorKind,
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        Arc,
    },
};

use smithay::wayland::compositor::{with_states, SurfaceAttributes};
use vitrine::compositor::Vitrine;
use wayland_client::{
    backend::WaylandError,
    protocol::{wl_compositor::WlCompositor, wl_subcompositor::WlSubcompositor},
};
use wayland_protocols::wp::security_context::v1::client::{
    wp_security_context_manager_v1::WpSecurityContextManagerV1 as ContextManager,
    wp_security_context_v1::WpSecurityContextV1 as Context,
};
use wayland_server::{protocol::wl_surface::WlSurface, Resource};

use crate::{
    clients::{
        buffers::ARGB8888, Buffer, Client, Flooder, MemoryKind, Painter, PainterOptions, State,
    },
    session_lock::Session,
};

#[test]
fn clients_that_send_without_an_end_hold_nobody_and_are_not_ended() {
    let session = Session::start("");
    let mut other = session.client();
    let flooders: Vec<_> = (0..2).map(|_| Flooder::new(session.client())).collect();
    for round in 1..=2 {
        // Each of them sends in this round, and it is not over before that.
        let before: Vec<u64> = flooders.iter().map(Flooder::blocks).collect();
        let mut turns = 0;
        while flooders
            .iter()
            .zip(&before)
            .any(|(flooder, before)| flooder.blocks() == *before)
        {
            other.roundtrip().unwrap();
            session.with(|_| {});
            turns += 1;
        }
        session.client().roundtrip().unwrap();
        println!("round {round}: {turns} round trips of another client");
        assert!(turns > 0);
    }
    for flooder in flooders {
        flooder.stop().unwrap();
    }
    other.roundtrip().unwrap();
}

#[test]
fn who_never_stops_sending_is_heard_less_often_after_a_while() {
    let session = Session::start("");
    let mut other = session.client();
    let flooder = Flooder::new(session.client());
    // Round trips of another client while the flooder sends a block. It is read one buffer a turn at least, and has 16 in a
    // block; so there are many more round trips only where it is not read in most turns.
    let mut turns_of_a_block = || {
        let before = flooder.blocks();
        let mut turns = 0;
        while flooder.blocks() == before {
            other.roundtrip().unwrap();
            turns += 1;
        }
        turns
    };
    // Now and then a machine does not let it send, either.
    let mut many = 0;
    for _ in 0..100 {
        many = if turns_of_a_block() >= 80 {
            many + 1
        } else {
            0
        };
        if many == 4 {
            break;
        }
    }
    assert_eq!(many, 4, "it is read all the time");
    flooder.stop().unwrap();
}

/// Has several threads connect to a socket without an end, and another client go on meanwhile.
fn crowd(socket: &Path, other: &mut Client) {
    let ends = Arc::<AtomicBool>::default();
    let connections = Arc::<AtomicU64>::default();
    let crowd: Vec<_> = (0..4)
        .map(|_| {
            let (ends, connections) = (ends.clone(), connections.clone());
            let socket = socket.to_owned();
            std::thread::spawn(move || {
                while !ends.load(Ordering::Relaxed) {
                    let _ = UnixStream::connect(&socket);
                    connections.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut turns = 0;
    let mut result = Ok(());
    while result.is_ok() && (connections.load(Ordering::Relaxed) < 2000 || turns < 20) {
        result = other.roundtrip();
        turns += 1;
    }
    ends.store(true, Ordering::Relaxed);
    result.unwrap();
    let connections = connections.load(Ordering::Relaxed);
    println!("{turns} round trips, {connections} connections");
    for one in crowd {
        one.join().unwrap();
    }
    let stream = UnixStream::connect(socket).unwrap();
    Client::from_stream(stream).unwrap().roundtrip().unwrap();
}

#[test]
fn clients_that_come_and_go_without_an_end_hold_nobody() {
    let session = Session::start("");
    crowd(session.socket(), &mut session.client());
}

#[test]
fn a_sandbox_out_of_which_clients_come_without_an_end_holds_nobody_and_has_an_end() {
    let session = Session::start("");
    let mut client = session.client();
    let manager: ContextManager = client.bind(1, ()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("sandbox");
    let listener = UnixListener::bind(&socket).unwrap();
    let (theirs, end) = rustix::pipe::pipe().unwrap();
    let context = manager.create_listener(listener.as_fd(), theirs.as_fd(), &client.qh, ());
    context.set_app_id("crowd".to_owned());
    context.commit();
    client.roundtrip().unwrap();
    drop((listener, theirs));
    crowd(&socket, &mut client);
    drop(end);
    // Nobody listens any more, once that was heard of.
    while UnixStream::connect(&socket).is_ok() {
        client.roundtrip().unwrap();
    }
}

wayland_client::delegate_noop!(State: ignore ContextManager);
wayland_client::delegate_noop!(State: ignore Context);

#[test]
fn a_client_that_has_much_to_say_and_to_hear_at_once_is_served() {
    let session = Session::start("");
    let mut client = session.client();
    let compositor: WlCompositor = client.bind(4, ()).unwrap();
    let surface = compositor.create_surface(&client.qh, None);
    let answers: Vec<_> = (0..10_000).map(|_| Arc::<AtomicBool>::default()).collect();
    for _ in 0..100_000 {
        surface.frame(&client.qh, Arc::default());
    }
    // Until all of it is sent, which needs somebody who reads.
    let unsent = |error: WaylandError| match error {
        WaylandError::Io(error) => error.kind() == ErrorKind::WouldBlock,
        WaylandError::Protocol(_) => false,
    };
    while client.conn.flush().is_err_and(unsent) {
        std::thread::yield_now();
    }
    for answer in &answers {
        client.conn.display().sync(&client.qh, answer.clone());
    }
    client.roundtrip().unwrap();
    assert!(answers.iter().all(|answer| answer.load(Ordering::Relaxed)));
}

/// Rectangles of damage that all surfaces have, committed or not.
fn kept_damage(state: &mut Vitrine) -> usize {
    let display = &state.display;
    let handle = display.backend_handle();
    let (mut clients, mut objects) = (Vec::new(), Vec::new());
    handle.with_all_clients(|client| clients.push(client));
    for client in clients {
        let all = handle.with_all_objects_for(client, |object| objects.push(object));
        all.unwrap();
    }
    let surfaces = objects
        .into_iter()
        .filter_map(|object| WlSurface::from_id(display, object).ok());
    let damage = |surface| {
        with_states(&surface, |states| {
            let mut attributes = states.cached_state.get::<SurfaceAttributes>();
            attributes.pending().damage.len() + attributes.current().damage.len()
        })
    };
    surfaces.map(damage).sum()
}

#[test]
fn a_region_has_a_bound_and_so_has_damage() {
    let session = Session::start("");
    let mut client = session.client();
    let compositor: WlCompositor = client.bind(4, ()).unwrap();
    let surface = compositor.create_surface(&client.qh, None);
    let mut most = 0;
    for n in 0..2000 {
        surface.damage_buffer(n, n, 1, 1);
        surface.damage(n, n, 1, 1);
        if n % 100 == 0 {
            client.roundtrip().unwrap();
            most = most.max(session.with(kept_damage));
        }
    }
    assert!((200..=256).contains(&most), "{most} rectangles are kept");
    // Damage waits for a buffer, commit by commit.
    let mut most = 0;
    for n in 0..2000 {
        surface.damage_buffer(n, n, 1, 1);
        surface.commit();
        if n % 100 == 0 {
            client.roundtrip().unwrap();
            most = most.max(session.with(kept_damage));
        }
    }
    assert!((200..=256).contains(&most), "{most} rectangles are kept");
    surface.commit();
    let region = compositor.create_region(&client.qh, ());
    for n in 0..Flooder::MOST_RECTANGLES {
        region.add(n, n, 1, 1);
    }
    client.roundtrip().unwrap();
    region.subtract(0, 0, 1, 1);
    let error = client.roundtrip().unwrap_err();
    assert_eq!(error.protocol(), Some(("wl_display", 2)));
}

#[test]
fn a_subsurface_may_wait_long_for_its_parent_and_not_for_ever() {
    let session = Session::start("");
    let (mut client, mut other) = (session.client(), session.client());
    let compositor: WlCompositor = client.bind(4, ()).unwrap();
    let subcompositor: WlSubcompositor = client.bind(1, ()).unwrap();
    let parent = compositor.create_surface(&client.qh, None);
    let child = compositor.create_surface(&client.qh, None);
    let _subsurface = subcompositor.get_subsurface(&child, &parent, &client.qh, ());
    for _ in 0..3 {
        (0..9_999).for_each(|_| child.commit());
        client.roundtrip().unwrap();
        parent.commit();
        client.roundtrip().unwrap();
    }
    (0..10_001).for_each(|_| child.commit());
    let error = client.roundtrip().unwrap_err();
    assert_eq!(error.protocol(), Some(("wl_display", 2)));
    other.roundtrip().unwrap();
}

#[test]
fn a_window_that_acknowledges_nothing_is_not_answered_for_ever() {
    let session = Session::start("");
    let (mut client, mut other) = (session.client(), session.client());
    let window = Painter::new(&mut client, PainterOptions::default()).unwrap();
    for _ in 0..900 {
        window.toplevel.set_maximized();
    }
    client.roundtrip().unwrap();
    for _ in 0..200 {
        window.toplevel.unset_fullscreen();
    }
    let error = client.roundtrip().unwrap_err();
    assert_eq!(error.protocol(), Some(("wl_display", 2)));
    other.roundtrip().unwrap();
}

#[test]
fn an_opaque_region_of_any_shape_stops_nobody() {
    let session = Session::start("");
    let mut client = session.client();
    let compositor: WlCompositor = client.bind(4, ()).unwrap();
    let surface = compositor.create_surface(&client.qh, None);
    let region = compositor.create_region(&client.qh, ());
    // Strips that cross each other.
    for n in (0..Flooder::MOST_RECTANGLES).step_by(2) {
        region.add(n * 2, 0, 1, 10_000);
        region.add(0, n * 2 + 1, 10_000, 1);
    }
    surface.set_opaque_region(Some(&region));
    let size = (4000, 4000, 16_000);
    let buffer = Buffer::prepared(&mut client, MemoryKind::Shm, size, ARGB8888, |_| {}).unwrap();
    for _ in 0..20 {
        surface.attach(Some(&buffer.proxy), 0, 0);
        surface.damage_buffer(0, 0, 4000, 4000);
        surface.commit();
    }
    client.roundtrip().unwrap();
}
