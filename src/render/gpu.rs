//! Copies between buffers that the GPU makes, for captures whose client brings a dma-buf.
//!
//! Nothing here waits: a copy is handed to the driver, and what is returned is the fence of its end. It must not know whose
//! buffers these are; whoever asks has made sure that sizes fit and that the target may be written.

use std::ffi::CStr;

use rustix::fs::{seek, SeekFrom};
use smithay::{
    backend::{
        allocator::{
            dmabuf::{Dmabuf, DmabufSyncFlags},
            format::get_bpp,
            Buffer as _,
        },
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

/// Drivers on the CPU draw blocks of so many pixels and lines, beyond the edges of a picture too: into what follows a line,
/// and past the end of memory that is not theirs.
const BLOCK: u32 = 4;

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
        let able = |capability| gles.capabilities().contains(&capability);
        Some(GpuAbilities {
            software: is_software(&name),
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

fn is_software(driver: &str) -> bool {
    let driver = driver.to_lowercase();
    SOFTWARE.iter().any(|word| driver.contains(word))
}

/// Whether a driver on the CPU that uses this memory stays inside of it, and of its lines. They look for themselves at nothing.
fn holds_whole_blocks(dmabuf: &Dmabuf) -> bool {
    let (Some(fd), Some(stride), Some(offset)) = (
        dmabuf.handles().next(),
        dmabuf.strides().next(),
        dmabuf.offsets().next(),
    ) else {
        return false;
    };
    let length = seek(fd, SeekFrom::End(0)).unwrap_or(0);
    let size = (dmabuf.width(), dmabuf.height());
    let bits = get_bpp(dmabuf.format().code).and_then(|bits| u32::try_from(bits).ok());
    let room = length.saturating_sub(u64::from(offset));
    bits.is_some_and(|bits| dmabuf.num_planes() == 1 && blocks_fit(size, bits / 8, stride, room))
}

fn blocks_fit((width, height): (u32, u32), bytes: u32, stride: u32, room: u64) -> bool {
    let whole = |side: u32| u64::from(side).next_multiple_of(u64::from(BLOCK));
    let stride = u64::from(stride);
    whole(width) * u64::from(bytes) <= stride && stride * whole(height) <= room
}

/// A driver on the CPU takes whatever can be mapped, to read it and to write it.
pub(super) fn check_memory(gles: &mut GlesRenderer, dmabuf: &Dmabuf) -> Result<(), RenderError> {
    if !is_software(&driver_name(gles)) {
        return Ok(());
    }
    let refused = |why: &str| Err(RenderError::Import(why.to_owned()));
    // Refused for what is no dma-buf: a file could be truncated while it is mapped.
    for side in [DmabufSyncFlags::START, DmabufSyncFlags::END] {
        if dmabuf.sync_plane(0, side | DmabufSyncFlags::READ).is_err() {
            return refused("its file descriptor is no dma-buf");
        }
    }
    match holds_whole_blocks(dmabuf) {
        true => Ok(()),
        false => refused("its memory or its stride is too short for a GL driver on the CPU"),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_blocks_need_room_behind_the_last_line_and_pixel() {
        let page = 4096;
        assert!(blocks_fit((640, 480), 4, 2560, 2560 * 480));
        assert!(blocks_fit((64, 4), 4, page, 4 * 4096));
        assert!(!blocks_fit((64, 4), 4, page, 4 * 4096 - 1));
        // Memory that ends with the last line.
        assert!(!blocks_fit((64, 1), 4, page, 4096));
        assert!(!blocks_fit((1400, 1050), 4, 8192, 1050 * 8192));
        assert!(blocks_fit((1400, 1050), 4, 8192, 1052 * 8192));
        // A block would reach into the next line.
        assert!(!blocks_fit((201, 99), 4, 804, 1 << 20));
        assert!(blocks_fit((201, 99), 4, 816, 1 << 20));
        assert!(!blocks_fit((u32::MAX, u32::MAX), 4, u32::MAX, u64::MAX));
        assert!(!blocks_fit((1, u32::MAX), 8, u32::MAX, 0));
    }

    #[test]
    fn drivers_on_the_cpu_are_known_by_their_names() {
        assert!(is_software("llvmpipe (LLVM 21.1.8, 256 bits)"));
        assert!(is_software("softpipe"));
        assert!(!is_software("Mali-G52 r1 (Panfrost)"));
        assert!(!is_software("AMD Radeon (radeonsi, LLVM 15.0.6)"));
    }
}
