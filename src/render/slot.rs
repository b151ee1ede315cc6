//! Draws a scene into memory that is not for the screen: the slots of a capture ring.
//!
//! Damage is counted per slot and view, apart from the screen's own. It must not know what a slot or a view is.

use std::any::Any;

use smithay::{
    backend::{
        allocator::dmabuf::Dmabuf,
        renderer::{damage::OutputDamageTracker, sync::SyncPoint, Bind, ImportAll, ImportMem},
    },
    output::Output,
};

use super::{scene_elements, RenderError, Renderer, Scene, BACKGROUND};

/// What a buffer's memory is for a renderer. Made once per buffer.
pub enum Canvas {
    /// For a GPU, and for pixman where the buffer can be mapped through its dma-buf alone.
    Dmabuf(Dmabuf),
    /// For pixman.
    Cpu {
        /// The pixels.
        image: pixman::Image<'static, 'static>,
        /// Keeps them mapped.
        _memory: Box<dyn Any>,
    },
}

impl std::fmt::Debug for Canvas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Canvas::Dmabuf(_) => "Canvas::Dmabuf",
            Canvas::Cpu { .. } => "Canvas::Cpu",
        })
    }
}

impl Canvas {
    /// XRGB8888 pixels in CPU memory.
    ///
    /// # Errors
    /// pixman refuses size or stride.
    ///
    /// # Safety
    /// `first` points to `stride * height` writable bytes, aligned to 4, that live as long as `memory`. Nobody else in this
    /// process touches them during a draw.
    pub unsafe fn on_memory(
        first: *mut u8,
        (width, height): (u32, u32),
        stride: u32,
        memory: Box<dyn Any>,
    ) -> Result<Self, RenderError> {
        let format = pixman::FormatCode::X8R8G8B8;
        // SAFETY: as the caller promises; `memory` is kept beside the image.
        let image = unsafe {
            pixman::Image::from_raw_mut(
                format,
                width as usize,
                height as usize,
                first.cast(),
                stride as usize,
                false,
            )
        }
        .map_err(|_| RenderError::Draw("pixman refuses the buffer's memory".to_owned()))?;
        Ok(Canvas::Cpu {
            image,
            _memory: memory,
        })
    }
}

/// Damage of one sort of picture, by slot.
#[derive(Debug)]
pub struct SlotDamage {
    tracker: OutputDamageTracker,
    frames: u64,
}

impl SlotDamage {
    /// Begins with everything damaged.
    pub fn new(output: &Output) -> Self {
        Self {
            tracker: OutputDamageTracker::from_output(output),
            frames: 0,
        }
    }

    /// Number of frames drawn so far, which is the number of the last one.
    pub fn frames(&self) -> u64 {
        self.frames
    }
}

impl Renderer {
    /// Draws the scene into a slot whose contents are `age` frames old (1: of the last one; 0: unknown). What is
    /// returned signals when the pixels are there; the frame's number is [`SlotDamage::frames`] then.
    ///
    /// # Errors
    /// The slot cannot be bound, or a draw call failed; the contents are unknown then.
    pub fn draw_slot(
        &mut self,
        scene: &Scene<'_>,
        damage: &mut SlotDamage,
        canvas: &mut Canvas,
        age: usize,
    ) -> Result<SyncPoint, RenderError> {
        let drawn = match (self, canvas) {
            (Renderer::Pixman(pixman), Canvas::Cpu { image, .. }) => {
                draw(pixman, scene, damage, image, age)
            }
            (Renderer::Gles(gles), Canvas::Dmabuf(dmabuf)) => {
                draw(gles.as_mut(), scene, damage, dmabuf, age)
            }
            (Renderer::Pixman(_), Canvas::Dmabuf(_)) | (Renderer::Gles(_), Canvas::Cpu { .. }) => {
                Err("the slot is for another renderer".to_owned())
            }
        };
        drawn.map_err(|error| {
            // Nothing is known of what the tracker counted.
            *damage = SlotDamage {
                tracker: OutputDamageTracker::from_output(scene.output),
                frames: damage.frames + 1,
            };
            RenderError::Draw(error)
        })
    }
}

fn draw<R, T>(
    renderer: &mut R,
    scene: &Scene<'_>,
    damage: &mut SlotDamage,
    target: &mut T,
    age: usize,
) -> Result<SyncPoint, String>
where
    R: smithay::backend::renderer::Renderer + ImportAll + ImportMem + Bind<T>,
    R::TextureId: Clone + Send + 'static,
{
    let elements = scene_elements(renderer, scene).elements;
    let mut framebuffer = renderer.bind(target).map_err(|e| e.to_string())?;
    let result = damage
        .tracker
        .render_output(renderer, &mut framebuffer, age, &elements, BACKGROUND)
        .map_err(|e| e.to_string())?;
    // The tracker counts only frames in which something was drawn.
    if result.damage.is_some() {
        damage.frames += 1;
    }
    Ok(result.sync)
}
