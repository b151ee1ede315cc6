//! Which clients' buffers cannot be drawn yet, because a fence on their memory is pending.
//!
//! A commit with such a buffer is not applied before its time (see the compositor's `acquire`). But a client can put a fence onto
//! memory that is on the screen already, and pixman would wait for it in the kernel, the GPU in each picture.

use smithay::{
    backend::{
        allocator::dmabuf::Dmabuf,
        renderer::{buffer_type, utils::RendererSurfaceStateUserData, BufferType},
    },
    desktop::{utils::with_surfaces_surface_tree, Window},
    reexports::{calloop::Interest, wayland_server::protocol::wl_surface::WlSurface},
    wayland::{compositor::SurfaceData, dmabuf::get_dmabuf},
};

/// Whether somebody may still write this memory. Never waits.
pub(super) fn waits(dmabuf: &Dmabuf) -> bool {
    dmabuf.generate_blocker(Interest::READ).is_ok()
}

/// Whether a buffer of this window, its popups' and subsurfaces' included, cannot be drawn now.
pub fn window_waits(window: &Window) -> bool {
    let mut found = false;
    window.with_surfaces(|_, states| found |= content_waits(states));
    found
}

/// The same of a surface and what is below it.
pub(super) fn surface_waits(surface: &WlSurface) -> bool {
    let mut found = false;
    with_surfaces_surface_tree(surface, |_, states| found |= content_waits(states));
    found
}

fn content_waits(states: &SurfaceData) -> bool {
    let Some(state) = states.data_map.get::<RendererSurfaceStateUserData>() else {
        return false;
    };
    // Whoever panicked under this lock has left a buffer or none.
    let state = state
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let Some(buffer) = state.buffer() else {
        return false;
    };
    matches!(buffer_type(buffer), Some(BufferType::Dma)) && get_dmabuf(buffer).is_ok_and(waits)
}
