//! xdg-shell's requests out of their order.

use std::sync::Arc;

use super::{shown, AnyError, Error, Fine, Trial};
use crate::{
    clients::Picture,
    machine::{self, Machine},
    window::{self, Popup, Window},
};

#[test]
fn shell_requests_out_of_order() {
    machine::boot(Machine::default(), |guest| {
        let mut trial = Trial::new(guest);
        trial.of(
            "a buffer before the first configure",
            AnyError("xdg_surface"),
            |client| {
                let mut window = Window::new(client);
                window
                    .surface
                    .attach(client, &Picture::filled(64, 64, 0xff));
                window.surface.proxy.commit();
                client.roundtrip().ok();
            },
        );
        trial.of("an unknown serial", AnyError("xdg_wm_base"), |client| {
            let mut window = Window::new(client);
            window.configure(client);
            window.xdg.ack_configure(0xdead_beef);
        });
        for (w, h) in [(0, 10), (10, -1), (i32::MIN, i32::MIN)] {
            trial.of(
                &format!("a geometry of {w}x{h}"),
                AnyError("xdg_surface"),
                move |client| {
                    let window = shown(client);
                    window.xdg.set_window_geometry(0, 0, w, h);
                    window.surface.proxy.commit();
                },
            );
        }
        trial.of("a geometry at the limits", Fine, |client| {
            let mut window = shown(client);
            for (x, y) in [(i32::MIN, i32::MIN), (i32::MAX, i32::MAX)] {
                window.xdg.set_window_geometry(x, y, i32::MAX, i32::MAX);
                window.surface.commit_and_wait_frame(client);
            }
        });
        for (min, max) in [((-1, 0), (0, 0)), ((0, 0), (0, i32::MIN))] {
            trial.of(
                &format!("sizes {min:?} to {max:?}"),
                AnyError("xdg_toplevel"),
                move |client| {
                    let window = shown(client);
                    window.toplevel.set_min_size(min.0, min.1);
                    window.toplevel.set_max_size(max.0, max.1);
                    window.surface.proxy.commit();
                },
            );
        }
        trial.of(
            "the shell destroyed before its surfaces",
            Error("xdg_wm_base", 1),
            |client| {
                shown(client).wm_base.destroy();
            },
        );
        trial.of(
            "the xdg_surface destroyed before its role",
            AnyError("xdg_wm_base"),
            |client| {
                shown(client).xdg.destroy();
            },
        );
        trial.of("a second role", Fine, |client| {
            let window = Window::new(client);
            window
                .xdg
                .get_toplevel(&client.qh, Arc::clone(&window.surface.shell));
        });
        trial.of(
            "a window that is its own parent",
            AnyError("xdg_toplevel"),
            |client| {
                let window = shown(client);
                window.toplevel.set_parent(Some(&window.toplevel));
                window.surface.proxy.commit();
            },
        );
        trial.of(
            "two windows that are each other's parents",
            AnyError("xdg_toplevel"),
            |client| {
                let (a, b) = (shown(client), shown(client));
                a.toplevel.set_parent(Some(&b.toplevel));
                b.toplevel.set_parent(Some(&a.toplevel));
                a.surface.proxy.commit();
                b.surface.proxy.commit();
            },
        );
        for (w, h) in [(0, 10), (10, 0), (-1, -1)] {
            trial.of(
                &format!("a positioner of {w}x{h}"),
                Error("xdg_positioner", 0),
                move |client| {
                    let window = shown(client);
                    window
                        .wm_base
                        .create_positioner(&client.qh, ())
                        .set_size(w, h);
                },
            );
        }
        trial.of("a popup without a size", Fine, |client| {
            let window = shown(client);
            let positioner = window.wm_base.create_positioner(&client.qh, ());
            let surface = window::surface(client);
            let xdg = window.wm_base.get_xdg_surface(
                &surface.proxy,
                &client.qh,
                Arc::clone(&surface.shell),
            );
            xdg.get_popup(Some(&window.xdg), &positioner, &client.qh, Arc::default());
        });
        trial.of(
            "a popup far away that moves a thousand times",
            Fine,
            |client| {
                let window = shown(client);
                let mut popup =
                    Popup::new(client, &window, (i32::MAX - 10, i32::MAX - 10), (10, 10));
                popup.configure(client);
                popup.surface.attach(client, &Picture::filled(10, 10, 0xff));
                popup.surface.proxy.commit();
                let positioner = window.wm_base.create_positioner(&client.qh, ());
                positioner.set_size(10, 10);
                positioner.set_anchor_rect(0, 0, 1, 1);
                for token in 0..1000 {
                    positioner.set_offset(i32::MAX - token as i32, i32::MIN + token as i32);
                    popup.proxy.reposition(&positioner, token);
                }
            },
        );
        trial.of("a popup whose parent goes first", Fine, |client| {
            let window = shown(client);
            let mut popup = Popup::new(client, &window, (10, 10), (10, 10));
            popup.configure(client);
            window.surface.proxy.attach(None, 0, 0);
            window.surface.proxy.commit();
            popup.surface.attach(client, &Picture::filled(10, 10, 0xff));
            popup.surface.proxy.commit();
        });
        trial.of("requests on a window that has no buffer", Fine, |client| {
            let window = Window::new(client);
            window.toplevel.set_fullscreen(None);
            window.toplevel.set_maximized();
            window.toplevel.set_minimized();
            window.toplevel.unset_fullscreen();
            window.toplevel.set_title("x".repeat(4000));
        });
        trial.finish();
    });
}
