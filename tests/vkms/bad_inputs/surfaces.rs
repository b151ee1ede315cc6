//! Surfaces and subsurfaces with numbers and relations that cannot be.

use std::sync::{
    atomic::{AtomicBool, Ordering},
    Arc,
};

use wayland_client::protocol::{
    wl_compositor::WlCompositor, wl_subcompositor::WlSubcompositor, wl_surface::WlSurface,
};

use super::{not_busy, shown, AnyError, Error, Fine, Trial};
use crate::{
    clients::{Client, Picture},
    machine::{self, Machine},
    window,
};

#[test]
fn surfaces_with_impossible_numbers() {
    machine::boot(Machine::default(), |guest| {
        let mut trial = Trial::new(guest);
        trial.of("damage at the limits", Fine, |client| {
            let mut window = shown(client);
            for (x, y, w, h) in [
                (i32::MIN, i32::MIN, i32::MAX, i32::MAX),
                (i32::MAX, i32::MAX, i32::MAX, i32::MAX),
                (0, 0, -5, -5),
                (i32::MIN, 0, i32::MIN, 1),
                (-1, -1, i32::MAX, i32::MAX),
                (5, 5, 0, 0),
            ] {
                window.surface.proxy.damage(x, y, w, h);
                window.surface.proxy.damage_buffer(x, y, w, h);
                let compositor: WlCompositor = client.bind(4, ()).unwrap();
                let region = compositor.create_region(&client.qh, ());
                region.add(x, y, w, h);
                region.subtract(y, x, h, w);
                window.surface.proxy.set_opaque_region(Some(&region));
                window.surface.proxy.set_input_region(Some(&region));
                window.surface.commit_and_wait_frame(client);
            }
        });
        for scale in [0, -1, i32::MIN] {
            trial.of(
                &format!("scale {scale}"),
                Error("wl_surface", 0),
                move |client| {
                    shown(client).surface.proxy.set_buffer_scale(scale);
                },
            );
        }
        trial.of("a huge scale", Fine, |client| {
            let window = shown(client);
            window.surface.proxy.set_buffer_scale(i32::MAX);
            window
                .surface
                .proxy
                .attach(Some(&window.surface.buffer().proxy), 0, 0);
            window.surface.proxy.commit();
        });
        trial.of(
            "a viewport outside of the buffer",
            Error("wp_viewport", 2),
            |client| {
                let window = shown(client);
                window::viewport(client, &window.surface.proxy)
                    .set_source(600.0, 0.0, 100.0, 100.0);
                window.surface.proxy.commit();
            },
        );
        for (x, w) in [(-2.0, 10.0), (0.0, 0.0), (0.0, -7.0)] {
            trial.of(
                &format!("a viewport from {x} for {w}"),
                Error("wp_viewport", 0),
                move |client| {
                    let window = shown(client);
                    window::viewport(client, &window.surface.proxy).set_source(x, 0.0, w, 10.0);
                },
            );
        }
        for (w, h) in [(0, 10), (-1, 10), (i32::MIN, i32::MIN)] {
            trial.of(
                &format!("a viewport of {w}x{h}"),
                Error("wp_viewport", 0),
                move |client| {
                    let window = shown(client);
                    window::viewport(client, &window.surface.proxy).set_destination(w, h);
                },
            );
        }
        trial.of("a part of a pixel without a size", Fine, |client| {
            let window = shown(client);
            window::viewport(client, &window.surface.proxy).set_source(0.0, 0.0, 10.5, 10.0);
            window.surface.proxy.commit();
        });
        trial.of("the largest viewport", Fine, |client| {
            let window = shown(client);
            window::viewport(client, &window.surface.proxy).set_destination(i32::MAX, i32::MAX);
            // Too large to be drawn, so no frame callback is due.
            window.surface.proxy.commit();
        });
        trial.of("a second viewport", AnyError("wl_surface"), |client| {
            let window = shown(client);
            window::viewport(client, &window.surface.proxy);
            window::viewport(client, &window.surface.proxy);
        });
        trial.of("an offset at the limits", Fine, |client| {
            let mut window = shown(client);
            window.surface.proxy.offset(i32::MAX, i32::MIN);
            window.surface.commit_and_wait_frame(client);
            window.surface.proxy.offset(i32::MAX, i32::MIN);
            window.surface.commit_and_wait_frame(client);
        });
        trial.of("ten thousand frame callbacks", Fine, |client| {
            let mut window = shown(client);
            let all: Vec<Arc<AtomicBool>> = (0..10_000).map(|_| not_busy()).collect();
            for done in &all {
                window.surface.proxy.frame(&client.qh, Arc::clone(done));
            }
            window.surface.commit_and_wait_frame(client);
            assert!(
                all.iter().all(|done| done.load(Ordering::Relaxed)),
                "a callback is missing"
            );
        });
        trial.of("a thousand commits without a buffer", Fine, |client| {
            let window = shown(client);
            for _ in 0..1000 {
                window.surface.proxy.commit();
            }
        });
        trial.finish();
    });
}

fn bare(client: &Client) -> WlSurface {
    window::surface(client).proxy
}

#[test]
fn subsurfaces_in_circles_and_far_down() {
    machine::boot(Machine::default(), |guest| {
        let mut trial = Trial::new(guest);
        trial.of(
            "a subsurface of itself",
            AnyError("wl_subcompositor"),
            |client| {
                let surface = bare(client);
                window::child(client, &surface, (0, 0));
                let subcompositor: WlSubcompositor = client.bind(1, ()).unwrap();
                subcompositor.get_subsurface(&surface, &surface, &client.qh, ());
            },
        );
        trial.of("a circle of two", AnyError("wl_subcompositor"), |client| {
            let subcompositor: WlSubcompositor = client.bind(1, ()).unwrap();
            let (a, b) = (bare(client), bare(client));
            subcompositor.get_subsurface(&a, &b, &client.qh, ());
            subcompositor.get_subsurface(&b, &a, &client.qh, ());
        });
        for above in [true, false] {
            trial.of(
                "a place beside a stranger",
                Error("wl_subsurface", 0),
                move |client| {
                    let window = shown(client);
                    let child = window::child(client, &window.surface.proxy, (0, 0));
                    let stranger = bare(client);
                    if above {
                        child.role.place_above(&stranger);
                    } else {
                        child.role.place_below(&stranger);
                    }
                    window.surface.proxy.commit();
                },
            );
        }
        trial.of("a subsurface at the limits", Fine, |client| {
            let mut window = shown(client);
            for (x, y) in [(i32::MIN, i32::MAX), (i32::MAX, i32::MIN)] {
                let mut child = window::child(client, &window.surface.proxy, (x, y));
                child.surface.attach(client, &Picture::filled(8, 8, 0xff));
                child.surface.proxy.commit();
            }
            window.surface.commit_and_wait_frame(client);
        });
        trial.of("a chain of 200 subsurfaces", Fine, |client| {
            let mut window = shown(client);
            let mut parent = window.surface.proxy.clone();
            for _ in 0..200 {
                let mut child = window::child(client, &parent, (1, 1));
                child.role.set_desync();
                child.surface.attach(client, &Picture::filled(8, 8, 0xff00));
                child.surface.proxy.commit();
                parent = child.surface.proxy.clone();
                // The memory may go; the surface stays.
            }
            window.surface.commit_and_wait_frame(client);
        });
        trial.finish();
    });
}
