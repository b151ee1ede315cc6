//! Tells surfaces at which scale, and how turned, they are shown. From version 6 of wl_surface on clients go by this alone: they
//! look neither at the outputs that a surface enters nor at the scale of those.

use smithay::{
    desktop::{utils::with_surfaces_surface_tree, Window},
    output::Output,
    reexports::wayland_server::protocol::wl_surface::WlSurface,
    utils::{Logical, Point},
    wayland::compositor::{send_surface_state, SurfaceData},
};

use super::Shell;

impl Shell {
    /// Tells all surfaces that are shown what has changed for them.
    pub(super) fn tell_scales(&self) {
        for window in self.space.elements() {
            tell_window(window, &self.space.outputs_for_element(window));
        }
        for (output, surface) in self.curtain.iter().flat_map(|curtain| curtain.surfaces()) {
            with_surfaces_surface_tree(surface, |surface, states| tell(surface, states, output));
        }
    }

    /// The surface that is the pointer's picture is at this place now.
    pub fn cursor_surface_at(&self, surface: &WlSurface, at: Point<f64, Logical>) {
        for output in self.space.outputs() {
            let area = self.space.output_geometry(output);
            if area.is_some_and(|area| area.to_f64().contains(at)) {
                output.enter(surface);
                with_surfaces_surface_tree(surface, |surface, states| {
                    tell(surface, states, output);
                });
            } else {
                output.leave(surface);
            }
        }
    }
}

/// Of several outputs the finest counts: its picture can be made smaller, and a coarse one not finer.
pub(super) fn tell_window(window: &Window, outputs: &[Output]) {
    let finest = outputs
        .iter()
        .max_by_key(|output| output.current_scale().integer_scale());
    if let Some(output) = finest {
        window.with_surfaces(|surface, states| tell(surface, states, output));
    }
}

/// Only what is new is sent.
fn tell(surface: &WlSurface, states: &SurfaceData, output: &Output) {
    let scale = output.current_scale().integer_scale();
    send_surface_state(surface, states, scale, output.current_transform());
}
