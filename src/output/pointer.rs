//! How the pointer comes onto one screen: on its cursor plane, or drawn into the scene.

use smithay::{
    backend::renderer::utils::with_renderer_surface_state,
    input::pointer::{CursorImageStatus, CursorImageSurfaceData},
    output::Output,
    reexports::wayland_server::protocol::wl_surface::WlSurface,
    utils::{Logical, Point, Rectangle, Transform},
    wayland::compositor::with_states,
};

use super::Pointer;
use crate::render::{CursorPicture, CursorSprite, SpriteLook};

/// The pointer as this screen sees it.
#[derive(Debug)]
pub struct LocalPointer {
    /// Hotspot's place, in logical coordinates of the screen.
    pub at: Point<f64, Logical>,
    /// The picture when its pixels can be read, and are as the screen's.
    pub picture: Option<CursorPicture>,
    /// The client's surface, when the client brings the picture.
    pub surface: Option<WlSurface>,
    hotspot: Point<i32, Logical>,
}

impl LocalPointer {
    /// The pointer, if it is on this screen, which has this scale.
    pub fn on(pointer: &Pointer, area: Rectangle<i32, Logical>, scale: f64) -> Option<Self> {
        if !area.to_f64().contains(pointer.at) {
            return None;
        }
        let at = pointer.at - area.loc.to_f64();
        match &pointer.look {
            CursorImageStatus::Hidden => None,
            CursorImageStatus::Named(_) => {
                let picture = CursorPicture::arrow();
                let hotspot = Point::from(picture.hotspot);
                Some(Self {
                    at,
                    picture: Some(picture),
                    surface: None,
                    hotspot,
                })
            }
            CursorImageStatus::Surface(surface) => {
                let hotspot = hotspot_of(surface);
                let at_pixel = hotspot.to_f64().to_physical(scale).to_i32_round::<i32>();
                let picture = CursorPicture::of_surface(surface, (at_pixel.x, at_pixel.y))
                    .filter(|_| has_pixels_of_the_screen(surface, scale));
                Some(Self {
                    at,
                    picture,
                    surface: Some(surface.clone()),
                    hotspot,
                })
            }
        }
    }

    /// Top left corner of the picture on the screen, in mode pixels.
    pub fn corner(&self, output: &Output) -> (i32, i32) {
        let scale = output.current_scale().fractional_scale();
        let corner = (self.at - self.hotspot.to_f64())
            .to_physical(scale)
            .to_i32_round::<i32>();
        (corner.x, corner.y)
    }

    /// For the renderer, where no plane carries it.
    pub fn sprite(&self) -> Option<CursorSprite> {
        let look = match (&self.surface, &self.picture) {
            (Some(surface), _) => SpriteLook::Surface(surface.clone()),
            (None, Some(picture)) => SpriteLook::from_picture(picture),
            (None, None) => return None,
        };
        Some(CursorSprite {
            at: self.at - self.hotspot.to_f64(),
            look,
        })
    }
}

/// Whether a pixel of the buffer is one of a screen of this scale, as a plane would show it: it is neither scaled nor turned, nor
/// is a part of it left out.
fn has_pixels_of_the_screen(surface: &WlSurface, scale: f64) -> bool {
    with_renderer_surface_state(surface, |state| {
        let (view, size) = (state.view()?, state.buffer_size()?);
        let whole = view.dst == size && view.src == Rectangle::from_size(size.to_f64());
        let upright = state.buffer_transform() == Transform::Normal;
        Some(whole && upright && f64::from(state.buffer_scale()) == scale)
    })
    .flatten()
    .unwrap_or(false)
}

fn hotspot_of(surface: &WlSurface) -> Point<i32, Logical> {
    with_states(surface, |states| {
        let data = states.data_map.get::<CursorImageSurfaceData>()?;
        Some(data.lock().ok()?.hotspot)
    })
    .unwrap_or_default()
}
