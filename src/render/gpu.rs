//! Copies between buffers that the GPU makes, for captures whose client brings a dma-buf.
//!
//! Nothing here waits: a copy is handed to the driver, and what is returned is the fence of its end. It must not know whose
//! buffers these are; whoever asks has made sure that sizes fit and that the target may be written.

use std::ffi::CStr;

use smithay::{
    backend::{
        allocator::{dmabuf::Dmabuf, Buffer as _},
        egl::fence::EGLFence,
        renderer::{
            gles::{ffi, Capability, GlesError, GlesFrame, GlesRenderer, GlesTarget},
            sync::SyncPoint,
            Bind, BlitFrame, Color32F, Frame, Renderer as _, TextureFilter,
        },
    },
    utils::{Physical, Point, Rectangle, Transform},
};

use super::{RenderError, Renderer};
use crate::geometry::Rect;

/// What a GL driver calls a renderer on the CPU.
const SOFTWARE: [&str; 4] = ["llvmpipe", "softpipe", "swrast", "swiftshader"];

/// What the renderer's driver can do for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuAbilities {
    /// The driver's name for itself.
    pub name: String,
    /// It draws on the CPU.
    pub software: bool,
    /// The end of what it does can be awaited by anybody, without blocking.
    pub native_fences: bool,
    /// It copies between buffers.
    pub blits: bool,
}

/// A copy.
#[derive(Debug, Clone, Copy)]
pub struct GpuCopy<'a> {
    /// Pixels of the source.
    pub rects: &'a [Rect],
    /// The pixel of the source that becomes the target's first one.
    pub origin: (i32, i32),
    /// The target has an alpha channel that the source does not have.
    pub opaque: bool,
}

/// A copy that the GPU has been given.
#[derive(Debug)]
pub struct GpuCopied {
    /// Signals when the GPU is done: until then it reads the one buffer and writes the other.
    pub sync: SyncPoint,
    /// Whether the driver took all of it.
    pub taken: Result<(), RenderError>,
}

impl Renderer {
    /// What its driver can do; `None` without one.
    pub fn gpu(&mut self) -> Option<GpuAbilities> {
        let Renderer::Gles(gles) = self else {
            return None;
        };
        let name = driver_name(gles);
        let lower = name.to_lowercase();
        let able = |capability| gles.capabilities().contains(&capability);
        Some(GpuAbilities {
            software: SOFTWARE.iter().any(|word| lower.contains(word)),
            native_fences: EGLFence::supports_importing(gles.egl_context().display())
                && able(Capability::ExportFence),
            blits: able(Capability::Blit),
            name,
        })
    }

    /// Hands a copy to the GPU.
    ///
    /// # Errors
    /// One of the buffers cannot be bound; the GPU has nothing to do then.
    pub fn copy_by_gpu(
        &mut self,
        from: &Dmabuf,
        to: &Dmabuf,
        copy: GpuCopy<'_>,
    ) -> Result<GpuCopied, RenderError> {
        let Renderer::Gles(gles) = self else {
            return Err(RenderError::Draw("there is no GPU".to_owned()));
        };
        copy_between(gles, from.clone(), to.clone(), copy).map_err(failed)
    }
}

fn failed(error: GlesError) -> RenderError {
    RenderError::Draw(error.to_string())
}

fn driver_name(gles: &mut GlesRenderer) -> String {
    let name = gles.with_context(|gl| {
        // SAFETY: the context is current in this closure; the string is the driver's, ends with NUL, and lives with it.
        unsafe {
            let name = gl.GetString(ffi::RENDERER);
            let name = (!name.is_null()).then(|| CStr::from_ptr(name.cast()));
            name.map(|name| name.to_string_lossy().into_owned())
        }
    });
    name.ok().flatten().unwrap_or_default()
}

fn copy_between(
    gles: &mut GlesRenderer,
    mut from: Dmabuf,
    mut to: Dmabuf,
    copy: GpuCopy<'_>,
) -> Result<GpuCopied, GlesError> {
    let (width, height) = (to.size().w, to.size().h);
    let source = gles.bind(&mut from)?;
    let mut target = gles.bind(&mut to)?;
    let mut frame = gles.render(&mut target, (width, height).into(), Transform::Normal)?;
    let taken = submit(&mut frame, &source, copy).map_err(failed);
    Ok(GpuCopied {
        sync: frame.finish()?,
        taken,
    })
}

fn submit<'b>(
    frame: &mut GlesFrame<'_, 'b>,
    source: &GlesTarget<'b>,
    copy: GpuCopy<'_>,
) -> Result<(), GlesError> {
    let origin: Point<i32, Physical> = copy.origin.into();
    let mut written = Vec::with_capacity(copy.rects.len());
    for rect in copy.rects {
        let at: Point<i32, Physical> = (rect.loc.x, rect.loc.y).into();
        let from = Rectangle::new(at, (rect.size.w, rect.size.h).into());
        let to = Rectangle::new(at - origin, from.size);
        frame.blit_from(source, from, to, TextureFilter::Nearest)?;
        written.push(to);
    }
    if copy.opaque {
        // That a missing alpha is one is in GL's rules, but not in every driver.
        write_channels(frame, [false, false, false, true])?;
        let cleared = frame.clear(Color32F::new(0.0, 0.0, 0.0, 1.0), &written);
        write_channels(frame, [true; 4])?;
        cleared?;
    }
    Ok(())
}

/// Which of red, green, blue and alpha are drawn.
fn write_channels(frame: &mut GlesFrame<'_, '_>, [r, g, b, a]: [bool; 4]) -> Result<(), GlesError> {
    frame.with_context(|gl| {
        // SAFETY: the context is current in this closure, and the call takes plain values.
        unsafe { gl.ColorMask(r.into(), g.into(), b.into(), a.into()) };
    })
}
