//! Which window a popup belongs to.

use smithay::{
    reexports::wayland_server::protocol::wl_surface::WlSurface,
    wayland::{
        compositor::{get_role, with_states},
        shell::xdg::{PopupSurface, XdgPopupSurfaceData, XDG_POPUP_ROLE},
    },
};

/// So many popups may lie above each other.
const DEPTH: usize = 64;

/// The surface below all popups that a popup lies above, a window's; `None` if there is none.
///
/// As Smithay 0.7.0 lets a popup be its own parent, directly or by others, its own function for this may never end. Others of it
/// go through popups in recursions, and a stack has an end: so popups that are too far from their window have none.
pub fn popup_root(popup: &PopupSurface) -> Option<WlSurface> {
    let mut surface = popup.get_parent_surface()?;
    for _ in 0..DEPTH {
        if get_role(&surface) != Some(XDG_POPUP_ROLE) {
            return Some(surface);
        }
        surface = with_states(&surface, |states| {
            let data = states.data_map.get::<XdgPopupSurfaceData>()?;
            data.lock().ok()?.parent.clone()
        })?;
    }
    None
}
