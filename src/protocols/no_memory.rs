//! The end of a client that has us keep more than anybody needs: `wl_display.error` with `no_memory`, which is the
//! protocols' word for it where an interface has none of its own.

use std::ffi::CString;

use wayland_server::{
    backend::{protocol::Interface, DisconnectReason},
    Client, DisplayHandle,
};

/// Only its name is asked for. wayland-server has the interface too, and does not give it away.
static WL_DISPLAY: Interface = Interface {
    name: "wl_display",
    version: 1,
    requests: &[],
    events: &[],
    c_ptr: None,
};

/// The display is every client's first object.
const DISPLAY_ID: u32 = 1;

/// `no_memory` of `wl_display.error`.
const NO_MEMORY: u32 = 2;

/// Ends a client for what it has us keep.
pub fn end_for_memory(display: &DisplayHandle, client: &Client, why: &str) {
    let handle = display.backend_handle();
    match handle.object_for_protocol_id(client.id(), &WL_DISPLAY, DISPLAY_ID) {
        Ok(object) => {
            handle.post_error(object, NO_MEMORY, CString::new(why).unwrap_or_default());
        }
        // It is gone already.
        Err(_) => handle.kill_client(client.id(), DisconnectReason::ConnectionClosed),
    }
}
