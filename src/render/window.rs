//! Draws one window into memory, without the pointer and whatever covers it on a screen.
//!
//! pixman draws and is through. GLES is told to draw into a buffer, and what is returned signals when it has done so.

use std::collections::HashMap;

use smithay::{
    backend::{
        allocator::{dmabuf::Dmabuf, Fourcc},
        renderer::{
            damage::OutputDamageTracker, element::AsRenderElements, gles::GlesRenderer,
            pixman::PixmanRenderer, sync::SyncPoint, Bind, ExportMem, ImportAll, ImportMem,
            Offscreen, Texture,
        },
    },
    desktop::Window,
    utils::{Physical, Point, Rectangle, Scale, Size, Transform},
};

use super::{RenderError, Renderer, SceneElement, BACKGROUND};
use crate::geometry::Rect;

/// Opaque, four bytes each.
const FORMAT: Fourcc = Fourcc::Xrgb8888;

/// How a window is drawn, and what of it changed.
#[derive(Debug)]
pub struct WindowCanvas {
    size: (i32, i32),
    scale: f64,
    changes: OutputDamageTracker,
    contents: OutputDamageTracker,
    image: Option<pixman::Image<'static, 'static>>,
    /// Pictures that the GPU has drawn; the number of the last one.
    drawn: u64,
    /// The number of the picture that lies in each buffer.
    buffers: HashMap<u16, u64>,
}

/// Where a window is drawn.
#[derive(Debug)]
pub enum WindowTarget<'a> {
    /// With pixman: all pixels, row by row without padding.
    Memory(&'a mut Vec<u8>),
    /// With GLES: a buffer, and its number among those of the canvas.
    Buffer(&'a Dmabuf, u16),
}

impl WindowCanvas {
    /// A canvas of this size in pixels for a window that is drawn at this scale. Nothing is allocated before a draw.
    pub fn new(size: (i32, i32), scale: f64) -> Self {
        let tracker = || {
            let size: Size<i32, Physical> = size.into();
            OutputDamageTracker::new(size, scale, Transform::Normal)
        };
        Self {
            size,
            scale,
            changes: tracker(),
            contents: tracker(),
            image: None,
            drawn: 0,
            buffers: HashMap::new(),
        }
    }

    /// Nothing is known of what was drawn.
    fn begin_again(&mut self) {
        let size: Size<i32, Physical> = self.size.into();
        self.contents = OutputDamageTracker::new(size, self.scale, Transform::Normal);
        self.buffers.clear();
    }

    /// How many pictures old the contents of a buffer are: 1 for the last one, 0 unknown.
    fn age(&self, buffer: u16) -> usize {
        let age = |drawn: &u64| usize::try_from(self.drawn.saturating_sub(*drawn)).ok();
        let age = self.buffers.get(&buffer).and_then(age);
        age.map_or(0, |age| age.saturating_add(1))
    }

    /// Width and height in pixels.
    pub fn size(&self) -> (i32, i32) {
        self.size
    }

    /// The scale at which the window is drawn.
    pub fn scale(&self) -> f64 {
        self.scale
    }
}

impl Renderer {
    /// The format of a captured window's pixels: opaque, four bytes each.
    pub fn window_format(&self) -> Fourcc {
        FORMAT
    }

    /// What changed in the window since the last call, in pixels of the canvas. Draws nothing.
    ///
    /// # Errors
    /// When a client's buffer cannot be imported.
    pub fn window_damage(
        &mut self,
        window: &Window,
        canvas: &mut WindowCanvas,
    ) -> Result<Vec<Rect>, RenderError> {
        match self {
            Renderer::Pixman(pixman) => damage(pixman, window, canvas),
            Renderer::Gles(gles) => damage(gles.as_mut(), window, canvas),
        }
    }

    /// Draws the window. What is returned signals when its pixels are there.
    ///
    /// # Errors
    /// When the memory for the canvas is missing, a draw call fails, or the target is for another renderer. What was in the
    /// target is not there any more.
    pub fn draw_window(
        &mut self,
        window: &Window,
        canvas: &mut WindowCanvas,
        target: WindowTarget<'_>,
    ) -> Result<SyncPoint, RenderError> {
        let drawn = match (self, target) {
            (Renderer::Pixman(pixman), WindowTarget::Memory(pixels)) => {
                draw_into_memory(pixman, window, canvas, pixels).map(|()| SyncPoint::signaled())
            }
            (Renderer::Gles(gles), WindowTarget::Buffer(buffer, number)) => {
                draw_into_buffer(gles, window, canvas, buffer.clone(), number)
            }
            (Renderer::Pixman(_), WindowTarget::Buffer(..))
            | (Renderer::Gles(_), WindowTarget::Memory(_)) => {
                Err(failed("the memory is for another renderer"))
            }
        };
        drawn.inspect_err(|_| canvas.begin_again())
    }
}

fn failed(error: impl std::fmt::Display) -> RenderError {
    RenderError::Draw(error.to_string())
}

fn elements<R>(renderer: &mut R, window: &Window, scale: f64) -> Vec<SceneElement<R>>
where
    R: smithay::backend::renderer::Renderer + ImportAll + ImportMem,
    R::TextureId: Clone + Send + 'static,
{
    let scale = Scale::from(scale);
    let origin = Point::default() - window.geometry().loc;
    let origin: Point<i32, Physical> = origin.to_physical_precise_round(scale);
    window.render_elements(renderer, origin, scale, 1.0)
}

fn damage<R>(
    renderer: &mut R,
    window: &Window,
    canvas: &mut WindowCanvas,
) -> Result<Vec<Rect>, RenderError>
where
    R: smithay::backend::renderer::Renderer + ImportAll + ImportMem,
    R::TextureId: Clone + Send + 'static,
{
    let elements = elements(renderer, window, canvas.scale);
    let (changed, _) = canvas.changes.damage_output(1, &elements).map_err(failed)?;
    let changed = changed.into_iter().flatten();
    Ok(changed
        .map(|r| Rect::new((r.loc.x, r.loc.y).into(), (r.size.w, r.size.h).into()))
        .collect())
}

fn draw_into_buffer(
    gles: &mut GlesRenderer,
    window: &Window,
    canvas: &mut WindowCanvas,
    mut buffer: Dmabuf,
    number: u16,
) -> Result<SyncPoint, RenderError> {
    let elements = elements(gles, window, canvas.scale);
    let age = canvas.age(number);
    let mut framebuffer = gles.bind(&mut buffer).map_err(failed)?;
    let result = canvas
        .contents
        .render_output(gles, &mut framebuffer, age, &elements, BACKGROUND)
        .map_err(failed)?;
    // The tracker counts only pictures in which something was drawn.
    canvas.drawn += u64::from(result.damage.is_some());
    canvas.buffers.insert(number, canvas.drawn);
    Ok(result.sync)
}

fn draw_into_memory(
    pixman: &mut PixmanRenderer,
    window: &Window,
    canvas: &mut WindowCanvas,
    pixels: &mut Vec<u8>,
) -> Result<(), RenderError> {
    let mut image = match canvas.image.take() {
        Some(image) => image,
        None => {
            canvas.begin_again();
            let size = canvas.size.into();
            pixman.create_buffer(FORMAT, size).map_err(failed)?
        }
    };
    let elements = elements(pixman, window, canvas.scale);
    let mut framebuffer = pixman.bind(&mut image).map_err(failed)?;
    // The image is drawn by nobody else: its contents are always those of the last draw.
    canvas
        .contents
        .render_output(pixman, &mut framebuffer, 1, &elements, BACKGROUND)
        .map_err(failed)?
        .sync
        .wait()
        .map_err(failed)?;
    let whole = Rectangle::from_size(canvas.size.into());
    let mapping = pixman
        .copy_framebuffer(&framebuffer, whole, FORMAT)
        .map_err(failed)?;
    let (width, height) = (mapping.width() as usize, mapping.height() as usize);
    let bytes = pixman.map_texture(&mapping).map_err(failed)?;
    let stride = bytes.len().checked_div(height).unwrap_or(0);
    let row = width.saturating_mul(4);
    pixels.clear();
    let rows = bytes.chunks_exact(stride.max(1));
    for row in rows.filter_map(|bytes| bytes.get(..row)) {
        pixels.extend_from_slice(row);
    }
    drop(framebuffer);
    canvas.image = Some(image);
    Ok(())
}
