//! Draws a screen's scene into its next scanout buffer, with pixman or GLES through Smithay's renderer traits.
//!
//! Must not know: KMS, capture. Comes from: `output/`, which brings the target buffer; `shell/`, which says what is on
//! the screen. Goes to: `output/`, which commits the buffer with the damage that is returned here.

mod cursor;
mod curtain;
mod gpu;
mod mark;
mod slot;
mod waiting;
mod window;

use smithay::{
    backend::{
        allocator::{
            dmabuf::{Dmabuf, DmabufMappingMode},
            format::{get_bpp, FormatSet},
            gbm::GbmDevice,
            Buffer as _,
        },
        drm::DrmDeviceFd,
        egl::{EGLContext, EGLDisplay},
        renderer::{
            damage::OutputDamageTracker,
            element::{
                memory::MemoryRenderBufferRenderElement, solid::SolidColorRenderElement,
                surface::WaylandSurfaceRenderElement, AsRenderElements, Element,
                RenderElementStates,
            },
            gles::GlesRenderer,
            pixman::PixmanRenderer,
            sync::SyncPoint,
            Bind, Color32F, ImportAll, ImportDma, ImportMem,
        },
    },
    output::Output,
    reexports::wayland_server::protocol::wl_shm,
    utils::{Physical, Point, Rectangle, Scale, Transform},
};

use crate::{geometry::Rect, shell::Shell};

pub use cursor::{CursorPicture, CursorSprite, SpriteLook};
pub use gpu::{GpuAbilities, GpuCopied, GpuCopy};
pub use mark::Mark;
pub use slot::{Canvas, SlotDamage};
pub use waiting::window_waits;
pub use window::{WindowCanvas, WindowTarget};

/// Behind all windows: black, as every kiosk shows.
const BACKGROUND: Color32F = Color32F::new(0.0, 0.0, 0.0, 1.0);

/// The largest element that is drawn, in pixels: pixman counts coordinates in 16 bits, and a client may ask for any size.
const MAX_EXTENT: i32 = 16_384;

/// Why a scene could not be drawn.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The renderer cannot start.
    #[error("renderer {name} cannot start on this device: {reason}; `renderer = \"pixman\"` works everywhere")]
    Start {
        /// The renderer's name in compositor.toml.
        name: &'static str,
        /// What EGL, GL or pixman said.
        reason: String,
    },
    /// A draw failed.
    #[error("drawing failed: {0}")]
    Draw(String),
    /// A client's buffer cannot be used.
    #[error("the buffer cannot be imported: {0}")]
    Import(String),
}

/// wl_shm formats beyond the two that every server has; both renderers draw them.
pub fn extra_shm_formats() -> Vec<wl_shm::Format> {
    vec![wl_shm::Format::Xbgr8888, wl_shm::Format::Abgr8888]
}

smithay::backend::renderer::element::render_elements! {
    /// One thing on a screen.
    pub SceneElement<R> where R: ImportAll + ImportMem;
    /// A client's surface.
    Surface = WaylandSurfaceRenderElement<R>,
    /// The pointer where no plane shows it.
    Cursor = MemoryRenderBufferRenderElement<R>,
    /// The mark of a screen that is captured, or what hides a locked session.
    Solid = SolidColorRenderElement,
}

/// The renderer of the session.
#[derive(Debug)]
pub enum Renderer {
    /// On the CPU; the default without a GPU.
    Pixman(PixmanRenderer),
    /// On the GPU, or llvmpipe when asked for.
    Gles(Box<GlesRenderer>),
}

/// What there is to draw.
#[derive(Debug)]
pub struct Scene<'a> {
    /// The windows.
    pub shell: &'a Shell,
    /// The screen.
    pub output: &'a Output,
    /// The pointer, when it has to be drawn here; already relative to the output.
    pub cursor: Option<&'a CursorSprite>,
    /// Present while the screen is to show that it is captured.
    pub mark: Option<&'a Mark>,
}

/// Damage since the last frame, the same without the pointer, and damage by buffer age: three questions, so three trackers.
#[derive(Debug)]
pub struct SceneDamage {
    frame: OutputDamageTracker,
    bare: OutputDamageTracker,
    buffers: OutputDamageTracker,
    incomplete: bool,
}

impl SceneDamage {
    /// Begins with everything damaged.
    pub fn new(output: &Output) -> Self {
        Self {
            frame: OutputDamageTracker::from_output(output),
            bare: OutputDamageTracker::from_output(output),
            buffers: OutputDamageTracker::from_output(output),
            incomplete: false,
        }
    }

    /// Whether the last scene lacked something that could not be drawn yet. Nobody tells when it can be.
    pub fn is_incomplete(&self) -> bool {
        self.incomplete
    }
}

/// The outcome of a draw.
#[derive(Debug)]
pub struct Drawn {
    /// What changed since the previous frame, in mode pixels.
    pub damage: Vec<Rect>,
    /// The same of the scene without the pointer.
    pub bare_damage: Vec<Rect>,
    /// Signals when the pixels are in the buffer.
    pub sync: SyncPoint,
    /// Which surface is visible and how.
    pub states: RenderElementStates,
}

/// A buffer to draw into and how many frames old its contents are (0: unknown).
#[derive(Debug)]
pub struct Target<'a> {
    /// The buffer.
    pub canvas: &'a mut Canvas,
    /// Frames since it was last drawn.
    pub age: usize,
}

impl Renderer {
    /// The software renderer.
    ///
    /// # Errors
    /// When pixman cannot be set up.
    pub fn pixman() -> Result<Self, RenderError> {
        PixmanRenderer::new()
            .map(Renderer::Pixman)
            .map_err(|e| RenderError::Start {
                name: "pixman",
                reason: e.to_string(),
            })
    }

    /// GLES on the given device.
    ///
    /// # Errors
    /// When EGL or GLES is missing or refuses the device.
    pub fn gles(gbm: GbmDevice<DrmDeviceFd>) -> Result<Self, RenderError> {
        let start = |reason: String| RenderError::Start {
            name: "gles",
            reason,
        };
        // SAFETY: the GBM device outlives the display: EGLDisplay keeps its own clone of it.
        let display = unsafe { EGLDisplay::new(gbm) }.map_err(|e| start(e.to_string()))?;
        let context = EGLContext::new(&display).map_err(|e| start(e.to_string()))?;
        // SAFETY: the context was made here and is current on no other thread.
        let renderer = unsafe { GlesRenderer::new(context) }.map_err(|e| start(e.to_string()))?;
        Ok(Renderer::Gles(Box::new(renderer)))
    }

    /// The name as in compositor.toml.
    pub fn name(&self) -> &'static str {
        match self {
            Renderer::Pixman(_) => "pixman",
            Renderer::Gles(_) => "gles",
        }
    }

    /// Formats of dmabufs that clients may bring.
    pub fn dmabuf_formats(&self) -> Vec<smithay::backend::allocator::Format> {
        match self {
            Renderer::Pixman(pixman) => pixman.dmabuf_formats().iter().copied().collect(),
            Renderer::Gles(gles) => gles.dmabuf_formats().iter().copied().collect(),
        }
    }

    /// Whether a client's dmabuf can be drawn.
    ///
    /// # Errors
    /// When the renderer refuses it: wrong format, modifier, layout, or not a dma-buf at all.
    pub fn import_dmabuf(&mut self, dmabuf: &Dmabuf) -> Result<(), RenderError> {
        match self {
            Renderer::Pixman(pixman) => {
                check_extent(dmabuf)?;
                if waiting::waits(dmabuf) {
                    // The import would wait for the fence. It is made when the buffer is drawn.
                    return check_kind(dmabuf, &pixman.dmabuf_formats());
                }
                ImportDma::import_dmabuf(pixman, dmabuf, None)
                    .map(drop)
                    .map_err(|e| RenderError::Import(e.to_string()))
            }
            Renderer::Gles(gles) => {
                gpu::check_memory(gles, dmabuf)?;
                gles.import_dmabuf(dmabuf, None)
                    .map(drop)
                    .map_err(|e| RenderError::Import(e.to_string()))
            }
        }
    }

    /// Lets go of what was imported of buffers that are gone. Drawing does that too, but on a screen that stands still a client
    /// could pile up mappings of memory that it has long destroyed.
    pub fn forget_dead_buffers(&mut self) {
        use smithay::backend::renderer::Renderer as _;
        let result = match self {
            Renderer::Pixman(pixman) => pixman.cleanup_texture_cache().map_err(|e| e.to_string()),
            Renderer::Gles(gles) => gles.cleanup_texture_cache().map_err(|e| e.to_string()),
        };
        if let Err(error) = result {
            tracing::debug!(target: "vitrine::render", error, "dead buffers stay until the next draw");
        }
    }

    /// Draws the scene if anything changed. `target` is asked for only then; `None` from it ends without drawing.
    ///
    /// # Errors
    /// When the target cannot be bound or a draw call fails; the trackers are then to be made anew.
    pub fn draw<'t>(
        &mut self,
        scene: &Scene<'_>,
        damage: &mut SceneDamage,
        target: impl FnOnce() -> Option<Target<'t>>,
    ) -> Result<Option<Drawn>, RenderError> {
        match self {
            Renderer::Pixman(pixman) => {
                let Some(changes) = changes(pixman, scene, damage)? else {
                    return Ok(None);
                };
                let Some(Target { canvas, age }) = target() else {
                    return Ok(None);
                };
                match canvas {
                    Canvas::Cpu { image, .. } => draw(pixman, changes, damage, image, age),
                    Canvas::Dmabuf(dmabuf) => draw(pixman, changes, damage, dmabuf, age),
                }
            }
            Renderer::Gles(gles) => {
                let gles = gles.as_mut();
                let Some(changes) = changes(gles, scene, damage)? else {
                    return Ok(None);
                };
                let Some(Target { canvas, age }) = target() else {
                    return Ok(None);
                };
                match canvas {
                    Canvas::Dmabuf(dmabuf) => draw(gles, changes, damage, dmabuf, age),
                    Canvas::Cpu { .. } => Err(RenderError::Draw(
                        "the scanout buffer is for another renderer".to_owned(),
                    )),
                }
            }
        }
        .map(Some)
    }
}

/// A software import maps the buffer: a stride or offset past the end of the file would be a SIGBUS later.
fn check_extent(dmabuf: &Dmabuf) -> Result<(), RenderError> {
    let refuse = |why: &str| Err(RenderError::Import(why.to_owned()));
    let (Some(fd), Some(stride), Some(offset)) = (
        dmabuf.handles().next(),
        dmabuf.strides().next(),
        dmabuf.offsets().next(),
    ) else {
        return refuse("it has no plane");
    };
    let Ok(length) = rustix::fs::seek(fd, rustix::fs::SeekFrom::End(0)) else {
        return refuse("its file descriptor is no dma-buf");
    };
    let bits = get_bpp(dmabuf.format().code).unwrap_or(32);
    let line = u64::from(dmabuf.width()) * (bits as u64).div_ceil(8);
    if u64::from(stride) < line {
        return refuse("its stride is shorter than a line");
    }
    let needed = u64::from(offset) + u64::from(stride) * u64::from(dmabuf.height());
    if needed > length {
        return refuse("offset, stride and height reach past its end");
    }
    Ok(())
}

/// What can be said of a buffer without a word to the kernel that could wait: whether pixman can draw such ones.
fn check_kind(dmabuf: &Dmabuf, known: &FormatSet) -> Result<(), RenderError> {
    let refuse = |why: &str| Err(RenderError::Import(why.to_owned()));
    if dmabuf.num_planes() != 1 || !known.contains(&dmabuf.format()) {
        return refuse("pixman draws linear memory of one plane in formats that it has announced");
    }
    match dmabuf.map_plane(0, DmabufMappingMode::READ) {
        Ok(_) => Ok(()),
        Err(error) => Err(RenderError::Import(error.to_string())),
    }
}

/// A scene and what of it is new.
struct Changes<R>
where
    R: smithay::backend::renderer::Renderer + ImportAll + ImportMem,
    R::TextureId: Clone + Send + 'static,
{
    elements: Vec<SceneElement<R>>,
    damage: Vec<Rect>,
    bare_damage: Vec<Rect>,
}

fn changes<R>(
    renderer: &mut R,
    scene: &Scene<'_>,
    damage: &mut SceneDamage,
) -> Result<Option<Changes<R>>, RenderError>
where
    R: smithay::backend::renderer::Renderer + ImportAll + ImportMem,
    R::TextureId: Clone + Send + 'static,
{
    let Parts {
        elements,
        of_pointer,
        incomplete,
    } = scene_elements(renderer, scene);
    damage.incomplete = incomplete;
    let bare = elements.get(of_pointer..).unwrap_or_default();
    let bare_damage = changed(&mut damage.bare, bare, scene.output)?;
    let mut changed = changed(&mut damage.frame, &elements, scene.output)?;
    if changed.is_empty() {
        // What changed below an opaque pointer is no damage of the screen, but somebody may look without the pointer.
        changed = bare_damage.clone();
    }
    Ok((!changed.is_empty()).then_some(Changes {
        elements,
        damage: changed,
        bare_damage,
    }))
}

fn draw<R, T>(
    renderer: &mut R,
    changes: Changes<R>,
    damage: &mut SceneDamage,
    target: &mut T,
    age: usize,
) -> Result<Drawn, RenderError>
where
    R: smithay::backend::renderer::Renderer + ImportAll + ImportMem + Bind<T>,
    R::TextureId: Clone + Send + 'static,
{
    let failed = |text: String| RenderError::Draw(text);
    let mut framebuffer = renderer.bind(target).map_err(|e| failed(e.to_string()))?;
    let result = damage
        .buffers
        .render_output(
            renderer,
            &mut framebuffer,
            age,
            &changes.elements,
            BACKGROUND,
        )
        .map_err(|e| failed(e.to_string()))?;
    Ok(Drawn {
        damage: changes.damage,
        bare_damage: changes.bare_damage,
        sync: result.sync,
        states: result.states,
    })
}

/// What changed since the tracker was asked last, in the pixels of the mode.
fn changed<R>(
    tracker: &mut OutputDamageTracker,
    elements: &[SceneElement<R>],
    output: &Output,
) -> Result<Vec<Rect>, RenderError>
where
    R: smithay::backend::renderer::Renderer + ImportAll + ImportMem,
    R::TextureId: Clone + Send + 'static,
{
    let damage = tracker
        .damage_output(1, elements)
        .map_err(|e| RenderError::Draw(e.to_string()))?
        .0;
    let damage = damage.filter(|rects| !rects.is_empty());
    Ok(damage.map_or_else(Vec::new, |rects| mode_pixels(output, rects)))
}

/// Damage in the pixels of the mode. With a rotated output the whole screen: simple and never too little.
fn mode_pixels(output: &Output, damage: &[Rectangle<i32, Physical>]) -> Vec<Rect> {
    if output.current_transform() == Transform::Normal {
        return damage
            .iter()
            .map(|r| Rect::new((r.loc.x, r.loc.y).into(), (r.size.w, r.size.h).into()))
            .collect();
    }
    let size = output
        .current_mode()
        .map(|mode| mode.size)
        .unwrap_or_default();
    vec![Rect::from_size((size.w, size.h).into())]
}

/// What a scene is made of.
struct Parts<R>
where
    R: smithay::backend::renderer::Renderer + ImportAll + ImportMem,
    R::TextureId: Clone + Send + 'static,
{
    /// Front to back, as the damage tracker wants them.
    elements: Vec<SceneElement<R>>,
    /// How many of the first ones are the pointer.
    of_pointer: usize,
    /// Something was left out, since drawing it would wait for a fence.
    incomplete: bool,
}

fn scene_elements<R>(renderer: &mut R, scene: &Scene<'_>) -> Parts<R>
where
    R: smithay::backend::renderer::Renderer + ImportAll + ImportMem,
    R::TextureId: Clone + Send + 'static,
{
    let scale = Scale::from(scene.output.current_scale().fractional_scale());
    let mut parts = Parts {
        elements: Vec::new(),
        of_pointer: 0,
        incomplete: false,
    };
    let mark = scene.mark.and_then(|mark| mark.element(scene.output));
    parts.elements.extend(mark.map(SceneElement::Solid));
    match scene.cursor {
        Some(cursor) if cursor.waits() => parts.incomplete = true,
        Some(cursor) => parts.elements.extend(cursor.elements(renderer, scale)),
        None => {}
    }
    parts.of_pointer = parts.elements.len();
    let Some(area) = scene.shell.space.output_geometry(scene.output) else {
        return parts;
    };
    if let Some(curtain) = scene.shell.curtain() {
        parts.incomplete |= curtain::draw(renderer, curtain, scene.output, &mut parts.elements);
        return parts;
    }
    for window in scene.shell.space.elements_for_output(scene.output).rev() {
        let Some(location) = scene.shell.space.element_location(window) else {
            continue;
        };
        if window_waits(window) {
            parts.incomplete = true;
            continue;
        }
        let origin = location - window.geometry().loc - area.loc;
        let origin: Point<i32, Physical> = origin.to_physical_precise_round(scale);
        let of_window = window.render_elements::<SceneElement<R>>(renderer, origin, scale, 1.0);
        parts.elements.extend(of_window);
    }
    // One surface that no renderer can draw would fail the whole screen, and for all others.
    let fits = |element: &SceneElement<R>| {
        let size = element.geometry(scale).size;
        size.w <= MAX_EXTENT && size.h <= MAX_EXTENT
    };
    let of_pointer = parts.elements.iter().take(parts.of_pointer);
    parts.of_pointer = of_pointer.filter(|e| fits(e)).count();
    parts.elements.retain(fits);
    parts
}
