//! Draws one window into memory, without the pointer and whatever covers it on a screen.

use smithay::{
    backend::{
        allocator::Fourcc,
        renderer::{
            damage::OutputDamageTracker,
            element::AsRenderElements,
            gles::{GlesRenderer, GlesTexture},
            pixman::PixmanRenderer,
            Bind, ExportMem, ImportAll, ImportMem, Offscreen, Texture,
        },
    },
    desktop::Window,
    utils::{Physical, Point, Rectangle, Scale, Size, Transform},
};

use super::{RenderError, Renderer, SceneElement, BACKGROUND};
use crate::geometry::Rect;

/// Where a window is drawn, and what of it changed.
#[derive(Debug)]
pub struct WindowCanvas {
    size: (i32, i32),
    scale: f64,
    changes: OutputDamageTracker,
    contents: OutputDamageTracker,
    buffer: Option<CanvasBuffer>,
}

#[derive(Debug)]
enum CanvasBuffer {
    Pixman(pixman::Image<'static, 'static>),
    Gles(GlesTexture),
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
            buffer: None,
        }
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
    /// The format of [`draw_window`](Self::draw_window)'s pixels: opaque, four bytes each.
    pub fn window_format(&self) -> Fourcc {
        match self {
            Renderer::Pixman(_) => Fourcc::Xrgb8888,
            // GLES can read back nothing else everywhere.
            Renderer::Gles(_) => Fourcc::Xbgr8888,
        }
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

    /// Draws the window and puts all its pixels into `pixels`, row by row without padding.
    ///
    /// # Errors
    /// When the memory for the canvas is missing or a draw call fails.
    pub fn draw_window(
        &mut self,
        window: &Window,
        canvas: &mut WindowCanvas,
        pixels: &mut Vec<u8>,
    ) -> Result<(), RenderError> {
        match self {
            Renderer::Pixman(pixman) => {
                let mut image = match canvas.buffer.take() {
                    Some(CanvasBuffer::Pixman(image)) => image,
                    Some(CanvasBuffer::Gles(_)) | None => {
                        new_buffer::<PixmanRenderer, _>(pixman, canvas, Fourcc::Xrgb8888)?
                    }
                };
                draw(pixman, window, canvas, &mut image, Fourcc::Xrgb8888, pixels)?;
                canvas.buffer = Some(CanvasBuffer::Pixman(image));
            }
            Renderer::Gles(gles) => {
                let mut texture = match canvas.buffer.take() {
                    Some(CanvasBuffer::Gles(texture)) => texture,
                    Some(CanvasBuffer::Pixman(_)) | None => {
                        new_buffer::<GlesRenderer, _>(gles, canvas, Fourcc::Abgr8888)?
                    }
                };
                draw(
                    gles.as_mut(),
                    window,
                    canvas,
                    &mut texture,
                    Fourcc::Abgr8888,
                    pixels,
                )?;
                canvas.buffer = Some(CanvasBuffer::Gles(texture));
            }
        }
        Ok(())
    }
}

fn failed(error: impl std::fmt::Display) -> RenderError {
    RenderError::Draw(error.to_string())
}

/// A new buffer has no contents: the tracker begins again.
fn new_buffer<R, T>(
    renderer: &mut R,
    canvas: &mut WindowCanvas,
    fourcc: Fourcc,
) -> Result<T, RenderError>
where
    R: Offscreen<T>,
{
    let size: Size<i32, Physical> = canvas.size.into();
    canvas.contents = OutputDamageTracker::new(size, canvas.scale, Transform::Normal);
    renderer
        .create_buffer(fourcc, canvas.size.into())
        .map_err(failed)
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

fn draw<R, T>(
    renderer: &mut R,
    window: &Window,
    canvas: &mut WindowCanvas,
    buffer: &mut T,
    fourcc: Fourcc,
    pixels: &mut Vec<u8>,
) -> Result<(), RenderError>
where
    R: smithay::backend::renderer::Renderer + ImportAll + ImportMem + ExportMem + Bind<T>,
    R::TextureId: Clone + Send + 'static,
{
    let elements = elements(renderer, window, canvas.scale);
    let mut framebuffer = renderer.bind(buffer).map_err(failed)?;
    // The canvas is drawn by nobody else: its contents are always those of the last draw.
    canvas
        .contents
        .render_output(renderer, &mut framebuffer, 1, &elements, BACKGROUND)
        .map_err(failed)?
        .sync
        .wait()
        .map_err(failed)?;
    let whole = Rectangle::from_size(canvas.size.into());
    let mapping = renderer
        .copy_framebuffer(&framebuffer, whole, fourcc)
        .map_err(failed)?;
    let (width, height) = (mapping.width() as usize, mapping.height() as usize);
    let bytes = renderer.map_texture(&mapping).map_err(failed)?;
    let stride = bytes.len().checked_div(height).unwrap_or(0);
    let row = width.saturating_mul(4);
    pixels.clear();
    // The first line is the upper one with both renderers. That a GL mapping says that it is flipped means just that: GL counts
    // from below, and Smithay has drawn the picture the other way up.
    let rows = bytes.chunks_exact(stride.max(1));
    for row in rows.filter_map(|bytes| bytes.get(..row)) {
        pixels.extend_from_slice(row);
    }
    Ok(())
}
