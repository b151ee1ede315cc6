//! What hides everything while the session is locked: one colour on every screen, and above it the lock's surfaces.
//!
//! It must not know who may lock, or when the lock is confirmed; that is `compositor/lock`'s.

use smithay::{
    backend::renderer::{element::Id, utils::with_renderer_surface_state},
    desktop::{utils::under_from_surface_tree, WindowSurfaceType},
    output::Output,
    reexports::wayland_server::protocol::wl_surface::WlSurface,
    utils::{IsAlive, Logical, Point},
};

use super::{root_of, Shell};

/// Until the lock has surfaces, and behind them: dark, and not quite the black of a screen that is off.
const WAITING: [f32; 3] = [0.125, 0.125, 0.125];

/// Nobody is there who could unlock.
const ABANDONED: [f32; 3] = [0.375, 0.0, 0.0];

/// Drawn across every screen while the session is locked.
#[derive(Debug)]
pub struct Curtain {
    /// In the order in which they came; the first that has a buffer gets the keyboard, unless another is preferred.
    surfaces: Vec<(Output, WlSurface)>,
    preferred: Option<WlSurface>,
    abandoned: bool,
    /// Of the coloured rectangle. Another colour is another rectangle, or damage would not know of the change.
    cloth: Id,
}

impl Default for Curtain {
    fn default() -> Self {
        Self {
            surfaces: Vec::new(),
            preferred: None,
            abandoned: false,
            cloth: Id::new(),
        }
    }
}

impl Curtain {
    /// Shows a surface on an output. One output has one.
    pub fn add(&mut self, output: Output, surface: WlSurface) {
        self.remove(&surface);
        output.enter(&surface);
        self.surfaces.push((output, surface));
    }

    /// The surface is one of a lock no more.
    pub fn remove(&mut self, surface: &WlSurface) {
        self.surfaces.retain(|(output, known)| {
            if known == surface {
                output.leave(known);
            }
            known != surface
        });
    }

    /// The lock that owned the surfaces is gone (`true`), or there is one again.
    pub fn set_abandoned(&mut self, abandoned: bool) {
        let surfaces = std::mem::take(&mut self.surfaces);
        for (output, surface) in surfaces {
            output.leave(&surface);
        }
        *self = Self {
            abandoned,
            ..Self::default()
        };
    }

    /// All surfaces, and where they are.
    pub(super) fn surfaces(&self) -> impl Iterator<Item = &(Output, WlSurface)> {
        self.surfaces.iter()
    }

    /// The surface that an output shows, once it has a picture.
    pub fn surface_on(&self, output: &Output) -> Option<&WlSurface> {
        let mut surfaces = self.surfaces.iter();
        let shown = surfaces.find(|(on, surface)| on == output && is_shown(surface));
        shown.map(|(_, surface)| surface)
    }

    /// The colour, and what the damage trackers know it by.
    pub fn cloth(&self) -> ([f32; 3], &Id) {
        let colour = if self.abandoned { ABANDONED } else { WAITING };
        (colour, &self.cloth)
    }

    /// Somebody clicked on this surface: it gets the keyboard, if it is one of the lock's.
    pub fn prefer(&mut self, surface: &WlSurface) {
        let root = root_of(surface);
        self.preferred = root.filter(|root| self.surfaces.iter().any(|(_, known)| known == root));
    }

    /// The surface that gets the keyboard.
    pub(super) fn keyboard_surface(&self) -> Option<WlSurface> {
        let mut shown = self.surfaces.iter().map(|(_, surface)| surface);
        let shown = shown
            .clone()
            .find(|surface| Some(*surface) == self.preferred.as_ref() && is_shown(surface))
            .or_else(|| shown.find(|surface| is_shown(surface)));
        shown.cloned()
    }
}

fn is_shown(surface: &WlSurface) -> bool {
    surface.alive()
        && with_renderer_surface_state(surface, |state| state.buffer().is_some()).unwrap_or(false)
}

impl Shell {
    /// What hides everything else, while the session is locked.
    pub fn curtain(&self) -> Option<&Curtain> {
        self.curtain.as_ref()
    }

    /// The same, to be changed.
    pub fn curtain_mut(&mut self) -> Option<&mut Curtain> {
        self.curtain.as_mut()
    }

    /// Hides everything, or (`None`) shows it again.
    pub fn set_curtain(&mut self, curtain: Option<Curtain>) {
        self.curtain = curtain;
    }

    /// The lock's surface below a point.
    pub(super) fn lock_surface_under(
        &self,
        curtain: &Curtain,
        at: Point<f64, Logical>,
    ) -> Option<(WlSurface, Point<f64, Logical>)> {
        let output = self.space.output_under(at).next()?;
        let area = self.space.output_geometry(output)?;
        let surface = curtain.surface_on(output)?;
        let (found, offset) =
            under_from_surface_tree(surface, at, area.loc, WindowSurfaceType::ALL)?;
        Some((found, offset.to_f64()))
    }
}
