//! The pointer's picture: our own arrow, or a client's surface; drawn into the scene or copied to a cursor plane.

use smithay::{
    backend::{
        allocator::Fourcc,
        renderer::{
            element::{
                memory::{MemoryRenderBuffer, MemoryRenderBufferRenderElement},
                surface::render_elements_from_surface_tree,
                Kind,
            },
            utils::with_renderer_surface_state,
            ImportAll, ImportMem,
        },
    },
    reexports::wayland_server::protocol::{wl_shm, wl_surface::WlSurface},
    utils::{Logical, Physical, Point, Scale, Transform},
    wayland::{shm::with_buffer_contents, single_pixel_buffer::get_single_pixel_buffer},
};

use super::{waiting::surface_waits, SceneElement};

/// Width and height of the arrow.
const ARROW: (usize, usize) = (16, 24);

/// Pixels of a pointer image: premultiplied ARGB8888, row by row without padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorPicture {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The point of the picture that points.
    pub hotspot: (i32, i32),
    /// `width * height` pixels.
    pub pixels: Vec<u32>,
}

impl CursorPicture {
    /// The built-in arrow, so that a board without a cursor theme has a pointer.
    pub fn arrow() -> Self {
        let (width, height) = ARROW;
        let pixels = (0..width * height)
            .map(|at| arrow_pixel(at % width, at / width))
            .collect();
        Self {
            width: width as u32,
            height: height as u32,
            hotspot: (0, 0),
            pixels,
        }
    }

    /// The picture on a client's cursor surface; `None` when it has none or one that only a GPU can read.
    pub fn of_surface(surface: &WlSurface, hotspot: (i32, i32)) -> Option<Self> {
        with_renderer_surface_state(surface, |state| {
            let buffer = state.buffer()?;
            if let Ok(single) = get_single_pixel_buffer(buffer) {
                let [r, g, b, a] = single.rgba8888();
                let pixel = u32::from_be_bytes([a, r, g, b]);
                return Some(Self {
                    width: 1,
                    height: 1,
                    hotspot,
                    pixels: vec![pixel],
                });
            }
            with_buffer_contents(buffer, |start, length, data| {
                // SAFETY: Smithay guarantees `length` readable bytes at `start` (SIGBUS guarded) during this closure.
                let bytes = unsafe { std::slice::from_raw_parts(start, length) };
                shm_pixels(bytes, &data).map(|pixels| Self {
                    width: data.width as u32,
                    height: data.height as u32,
                    hotspot,
                    pixels,
                })
            })
            .ok()
            .flatten()
        })
        .flatten()
    }
}

fn shm_pixels(bytes: &[u8], data: &smithay::wayland::shm::BufferData) -> Option<Vec<u32>> {
    let opaque = match data.format {
        wl_shm::Format::Argb8888 => 0,
        wl_shm::Format::Xrgb8888 => 0xff00_0000,
        _ => return None,
    };
    let (offset, stride) = (
        usize::try_from(data.offset).ok()?,
        usize::try_from(data.stride).ok()?,
    );
    let (width, height) = (
        usize::try_from(data.width).ok()?,
        usize::try_from(data.height).ok()?,
    );
    let mut pixels = Vec::with_capacity(width.checked_mul(height)?);
    for row in 0..height {
        let start = offset.checked_add(stride.checked_mul(row)?)?;
        let line = bytes.get(start..start.checked_add(width.checked_mul(4)?)?)?;
        pixels.extend(line.chunks_exact(4).map(|p| match p {
            &[b, g, r, a] => u32::from_le_bytes([b, g, r, a]) | opaque,
            _ => 0,
        }));
    }
    Some(pixels)
}

/// A black arrow with a white edge: a triangle below the diagonal with a stem.
fn arrow_pixel(x: usize, y: usize) -> u32 {
    const BLACK: u32 = 0xff00_0000;
    const WHITE: u32 = 0xffff_ffff;
    let inside = |x: isize, y: isize| {
        let triangle = x >= 0 && x <= y && x + y <= 22 && y <= 17;
        let stem = (5..=8).contains(&x) && (12..=21).contains(&y);
        triangle || stem
    };
    let (x, y) = (x as isize, y as isize);
    let edge = [(0, 1), (1, 0), (0, -1), (-1, 0)]
        .iter()
        .any(|(dx, dy)| !inside(x + dx, y + dy));
    match (inside(x, y), edge) {
        (true, true) => WHITE,
        (true, false) => BLACK,
        (false, _) => 0,
    }
}

/// A pointer that is drawn into the scene.
#[derive(Debug)]
pub struct CursorSprite {
    /// The pointer's position on the output, hotspot already subtracted for surfaces' own offset.
    pub at: Point<f64, Logical>,
    /// What to draw.
    pub look: SpriteLook,
}

/// Where the sprite's pixels come from.
#[derive(Debug)]
pub enum SpriteLook {
    /// Our own picture.
    Picture(MemoryRenderBuffer),
    /// A client's cursor surface.
    Surface(WlSurface),
}

impl SpriteLook {
    /// A picture as something the renderers can draw.
    pub fn from_picture(picture: &CursorPicture) -> Self {
        let bytes: Vec<u8> = picture
            .pixels
            .iter()
            .flat_map(|p| p.to_le_bytes())
            .collect();
        let size = (picture.width as i32, picture.height as i32);
        SpriteLook::Picture(MemoryRenderBuffer::from_slice(
            &bytes,
            Fourcc::Argb8888,
            size,
            1,
            Transform::Normal,
            None,
        ))
    }
}

impl CursorSprite {
    /// It cannot be drawn yet.
    pub(super) fn waits(&self) -> bool {
        match &self.look {
            SpriteLook::Surface(surface) => surface_waits(surface),
            SpriteLook::Picture(_) => false,
        }
    }

    pub(super) fn elements<R>(&self, renderer: &mut R, scale: Scale<f64>) -> Vec<SceneElement<R>>
    where
        R: smithay::backend::renderer::Renderer + ImportAll + ImportMem,
        R::TextureId: Clone + Send + 'static,
    {
        let at: Point<f64, Physical> = self.at.to_physical(scale);
        match &self.look {
            SpriteLook::Surface(surface) => render_elements_from_surface_tree(
                renderer,
                surface,
                at.to_i32_round::<i32>(),
                scale,
                1.0,
                Kind::Cursor,
            ),
            SpriteLook::Picture(buffer) => MemoryRenderBufferRenderElement::from_buffer(
                renderer,
                at,
                buffer,
                None,
                None,
                None,
                Kind::Cursor,
            )
            .map(|element| vec![SceneElement::from(element)])
            .unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arrow_points_with_an_opaque_pixel_and_leaves_its_corner_clear() {
        let arrow = CursorPicture::arrow();
        assert_eq!(arrow.pixels.len(), ARROW.0 * ARROW.1);
        assert_eq!(arrow.pixels.first().map(|p| p >> 24), Some(0xff));
        assert_eq!(arrow.pixels.last(), Some(&0));
        assert!(arrow.pixels.contains(&0xff00_0000) && arrow.pixels.contains(&0xffff_ffff));
    }
}
