//! Client buffers as targets of copies: wl_shm and linear dma-bufs.
//!
//! A target is checked against the frames' format in the event loop ([`check`]) and written by the GPU or on a worker thread
//! ([`open`]). Between the two, and during the copy, the client may do anything with its memory.

use std::{io, slice, sync::Arc, time::Duration};

use rustix::{
    event::{poll, PollFd, PollFlags, Timespec},
    fs::{fstat, seek, SeekFrom},
};
use smithay::{
    backend::allocator::{
        dmabuf::{Dmabuf, DmabufMapping, DmabufMappingMode, DmabufSyncFlags},
        Buffer, Fourcc, Modifier,
    },
    wayland::{
        dmabuf::get_dmabuf,
        shm::{
            shm_format_to_fourcc, with_buffer_contents, with_buffer_contents_mut, BufferAccessError,
        },
    },
};
use wayland_server::{protocol::wl_buffer::WlBuffer, Resource};

use crate::capture::{
    copy::can_convert, CopyError, CopyTarget, DirectBuffer, FrameFormat, Target, TargetId,
    TargetLayout,
};

/// The one modifier that a CPU copy can write.
pub(super) const LINEAR: u64 = 0;

/// So long a copy waits for others to stop using a client's dma-buf. A client can attach a fence that never signals;
/// it must not keep a worker.
const FENCE_PATIENCE: Duration = Duration::from_millis(200);

/// Why a buffer cannot take frames of a format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("the buffer was destroyed")]
    Destroyed,
    #[error("it is neither a wl_shm buffer nor a dma-buf that is taken here")]
    Foreign,
    #[error("it has {0}x{1} pixels, frames have {2}x{3}")]
    Size(u32, u32, u32, u32),
    #[error("its format cannot be made of {0}")]
    Format(Fourcc),
    #[error("its stride is {0} bytes, a row has {1}")]
    Stride(u32, u64),
    #[error("it needs {0} bytes of memory that has {1}")]
    Memory(u64, u64),
    #[error("a copy that the GPU does not end may still write it")]
    Held,
}

/// The formats that wl_shm targets may have, in the order in which they are announced.
///
/// XRGB8888 comes first: one client in the field takes only the first.
pub(super) fn shm_formats(frames: Option<&FrameFormat>) -> Vec<Fourcc> {
    let native = frames.map_or(Fourcc::Xrgb8888, |format| format.fourcc);
    let mut formats = match native {
        // A pointer without its transparency would be a box.
        Fourcc::Argb8888 => vec![Fourcc::Argb8888],
        _ => vec![Fourcc::Xrgb8888, Fourcc::Argb8888],
    };
    formats.retain(|format| can_convert(native, *format));
    if formats.is_empty() {
        formats.push(native);
    }
    formats
}

/// The formats that dma-buf targets may have: that of the frames first.
pub(super) fn dmabuf_formats(frames: Option<&FrameFormat>) -> Vec<Fourcc> {
    let native = frames.map_or(Fourcc::Xrgb8888, |format| format.fourcc);
    let mut formats = shm_formats(frames);
    formats.retain(|format| *format != native);
    formats.insert(0, native);
    formats
}

/// Whether frames of this format can be copied into the buffer.
pub(super) fn check(buffer: &WlBuffer, frames: &FrameFormat, dmabufs: bool) -> Result<(), Unfit> {
    open(buffer, frames, dmabufs).map(drop)
}

/// The buffer as the target of one copy of a frame of this format.
pub(super) fn open(
    buffer: &WlBuffer,
    frames: &FrameFormat,
    dmabufs: bool,
) -> Result<Box<dyn CopyTarget>, Unfit> {
    if !buffer.is_alive() {
        return Err(Unfit::Destroyed);
    }
    if let Ok(dmabuf) = get_dmabuf(buffer) {
        if !dmabufs {
            return Err(Unfit::Foreign);
        }
        let layout = dmabuf_layout(dmabuf)?;
        fits(
            &layout,
            dmabuf_length(dmabuf),
            frames,
            &dmabuf_formats(Some(frames)),
        )?;
        return Ok(Box::new(DmabufTarget {
            dmabuf: dmabuf.clone(),
            layout,
            mapping: None,
        }));
    }
    let (layout, length) = shm_layout(buffer)?;
    fits(&layout, length, frames, &shm_formats(Some(frames)))?;
    Ok(Box::new(ShmTarget {
        buffer: buffer.clone(),
        layout,
    }))
}

/// The memory behind the buffer, if it is a dma-buf: copies and the display controller must not write it at the same time,
/// whatever buffers and frames a client makes of it. `passthrough`: the display controller may write it.
pub(super) fn memory(buffer: &WlBuffer, passthrough: bool) -> Option<Target> {
    let dmabuf = get_dmabuf(buffer).ok()?;
    // Each dma-buf has an inode number of its own.
    let inode = fstat(dmabuf.handles().next()?).ok()?.st_ino;
    Some(Target {
        id: TargetId(inode),
        direct: passthrough.then(|| Arc::new(dmabuf.clone()) as DirectBuffer),
    })
}

/// `length`: of the memory that the layout's offset counts in.
fn fits(
    layout: &TargetLayout,
    length: u64,
    frames: &FrameFormat,
    formats: &[Fourcc],
) -> Result<(), Unfit> {
    if (layout.width, layout.height) != (frames.width, frames.height) {
        return Err(Unfit::Size(
            layout.width,
            layout.height,
            frames.width,
            frames.height,
        ));
    }
    if !formats.contains(&layout.fourcc) {
        return Err(Unfit::Format(frames.fourcc));
    }
    let bytes_per_pixel = smithay::backend::allocator::format::get_bpp(layout.fourcc)
        .and_then(|bits| u64::try_from(bits / 8).ok())
        .ok_or(Unfit::Format(frames.fourcc))?;
    let row = u64::from(layout.width) * bytes_per_pixel;
    if u64::from(layout.stride) < row {
        return Err(Unfit::Stride(layout.stride, row));
    }
    let rows = u64::from(layout.height.saturating_sub(1)) * u64::from(layout.stride);
    let needed = u64::from(layout.offset) + rows + row;
    if length < needed {
        return Err(Unfit::Memory(needed, length));
    }
    Ok(())
}

/// A wl_shm buffer.
struct ShmTarget {
    /// Keeps the pool's mapping, whether or not the object was destroyed.
    buffer: WlBuffer,
    layout: TargetLayout,
}

/// The layout in the pool, and the pool's length. Sizes come from the client, but Smithay has refused negative ones.
pub(super) fn shm_layout(buffer: &WlBuffer) -> Result<(TargetLayout, u64), Unfit> {
    let (data, length) = with_buffer_contents(buffer, |_, length, data| (data, length))
        .map_err(|_| Unfit::Foreign)?;
    let number = |value: i32| u32::try_from(value).map_err(|_| Unfit::Foreign);
    let layout = TargetLayout {
        width: number(data.width)?,
        height: number(data.height)?,
        fourcc: shm_format_to_fourcc(data.format).ok_or(Unfit::Foreign)?,
        stride: number(data.stride)?,
        offset: number(data.offset)?,
    };
    Ok((layout, length as u64))
}

impl CopyTarget for ShmTarget {
    fn layout(&self) -> TargetLayout {
        self.layout
    }

    /// Smithay's guard against SIGBUS is a thread-local that is set around the closure: this must run on the thread
    /// that writes.
    fn with_bytes(&mut self, f: &mut dyn FnMut(&mut [u8])) -> Result<(), CopyError> {
        let written = with_buffer_contents_mut(&self.buffer, |pointer, length, _| {
            if pointer.is_null() {
                // A resize that failed has left the pool without memory.
                return f(&mut []);
            }
            // SAFETY: Smithay holds the pool's lock, so that these bytes stay mapped, writable and without another
            // slice of ours while the closure runs. The client may write them at the same time: the copier only
            // stores through this slice and never looks at what is there. Pages that the file lost become anonymous
            // memory by the SIGBUS guard.
            f(unsafe { slice::from_raw_parts_mut(pointer, length) });
        });
        match written {
            Ok(()) => Ok(()),
            // Smithay has sent the protocol's error already.
            Err(BufferAccessError::BadMap) => Err(CopyError::BufferConstraints(
                "its pool is longer than its file".into(),
            )),
            Err(other) => Err(CopyError::BufferConstraints(other.to_string())),
        }
    }
}

/// A linear dma-buf with one plane; it is mapped only if the CPU writes it.
struct DmabufTarget {
    dmabuf: Dmabuf,
    /// The offset counts from the plane's start, where the mapping begins.
    layout: TargetLayout,
    /// Made at the first access. CPU access ends with the target, which the pool drops before it says that the copy is
    /// complete.
    mapping: Option<DmabufMapping>,
}

fn dmabuf_layout(dmabuf: &Dmabuf) -> Result<TargetLayout, Unfit> {
    if dmabuf.num_planes() != 1 || dmabuf.format().modifier != Modifier::Linear {
        return Err(Unfit::Foreign);
    }
    if dmabuf.y_inverted() {
        return Err(Unfit::Foreign);
    }
    let size = dmabuf.size();
    Ok(TargetLayout {
        width: u32::try_from(size.w).map_err(|_| Unfit::Foreign)?,
        height: u32::try_from(size.h).map_err(|_| Unfit::Foreign)?,
        fourcc: dmabuf.format().code,
        stride: dmabuf.strides().next().ok_or(Unfit::Foreign)?,
        offset: 0,
    })
}

/// Bytes from the plane's start to the end of the memory; 0 if the descriptor has no length (a pipe, a socket).
fn dmabuf_length(dmabuf: &Dmabuf) -> u64 {
    let length = dmabuf
        .handles()
        .next()
        .and_then(|fd| seek(fd, SeekFrom::End(0)).ok());
    let offset = dmabuf.offsets().next().map_or(0, u64::from);
    length.unwrap_or(0).saturating_sub(offset)
}

impl DmabufTarget {
    fn map(&mut self) -> Result<&DmabufMapping, CopyError> {
        if self.mapping.is_none() {
            wait_until_idle(&self.dmabuf)?;
            // This is refused for whatever is no dma-buf, such as a memfd: mapping one would let its owner
            // truncate it under our hands. A dma-buf's memory cannot shrink.
            let begin = DmabufSyncFlags::START | DmabufSyncFlags::WRITE;
            let refused = |error: String| CopyError::BufferConstraints(error);
            self.dmabuf
                .sync_plane(0, begin)
                .map_err(|e| refused(e.to_string()))?;
            match self
                .dmabuf
                .map_plane(0, DmabufMappingMode::READ | DmabufMappingMode::WRITE)
            {
                Ok(mapping) => self.mapping = Some(mapping),
                Err(error) => {
                    self.end_access();
                    return Err(refused(error.to_string()));
                }
            }
        }
        self.mapping
            .as_ref()
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound).into())
    }

    fn end_access(&self) {
        let end = DmabufSyncFlags::END | DmabufSyncFlags::WRITE;
        if let Err(error) = self.dmabuf.sync_plane(0, end) {
            tracing::debug!(target: "vitrine::protocols", %error, "end of CPU access to a client's dma-buf");
        }
    }
}

impl Drop for DmabufTarget {
    fn drop(&mut self) {
        if self.mapping.take().is_some() {
            self.end_access();
        }
    }
}

/// The kernel would wait for the buffer's fences without a bound in the next step.
fn wait_until_idle(dmabuf: &Dmabuf) -> Result<(), CopyError> {
    let Some(fd) = dmabuf.handles().next() else {
        return Err(CopyError::BufferConstraints("it has no memory".into()));
    };
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: i64::from(FENCE_PATIENCE.subsec_nanos()),
    };
    let mut fds = [PollFd::new(&fd, PollFlags::OUT)];
    match poll(&mut fds, Some(&timeout)).map_err(io::Error::from)? {
        0 => Err(CopyError::BufferConstraints(
            "a fence on it does not signal".into(),
        )),
        _ => Ok(()),
    }
}

impl CopyTarget for DmabufTarget {
    fn layout(&self) -> TargetLayout {
        self.layout
    }

    fn with_bytes(&mut self, f: &mut dyn FnMut(&mut [u8])) -> Result<(), CopyError> {
        let mapping = self.map()?;
        // SAFETY: the mapping lives in `self`, is readable and writable, and has this length; no other slice of ours
        // is made of it. Its memory is a dma-buf's, whose length is fixed. The client may write it at the same time:
        // the copier only stores through this slice and never looks at what is there.
        f(unsafe { slice::from_raw_parts_mut(mapping.ptr().cast::<u8>(), mapping.length()) });
        Ok(())
    }

    fn buffer(&self) -> Option<DirectBuffer> {
        Some(Arc::new(self.dmabuf.clone()))
    }
}

#[cfg(test)]
mod tests {
    use drm_fourcc::DrmModifier;

    use super::*;

    fn frames(fourcc: Fourcc) -> FrameFormat {
        let modifier = DrmModifier::Linear;
        FrameFormat {
            width: 64,
            height: 48,
            fourcc,
            modifier,
            stride: 256,
            offset: 0,
        }
    }

    fn layout() -> TargetLayout {
        TargetLayout {
            width: 64,
            height: 48,
            fourcc: Fourcc::Xrgb8888,
            stride: 256,
            offset: 0,
        }
    }

    fn fit(layout: &TargetLayout, length: u64) -> Result<(), Unfit> {
        fits(
            layout,
            length,
            &frames(Fourcc::Xrgb8888),
            &shm_formats(None),
        )
    }

    #[test]
    fn the_last_row_needs_no_padding() {
        let padded = TargetLayout {
            stride: 300,
            ..layout()
        };
        assert_eq!(fit(&padded, 300 * 47 + 256), Ok(()));
        assert_eq!(
            fit(&padded, 300 * 47 + 255),
            Err(Unfit::Memory(300 * 47 + 256, 300 * 47 + 255))
        );
    }

    #[test]
    fn each_way_not_to_fit_is_named() {
        let wide = TargetLayout {
            width: 65,
            ..layout()
        };
        assert_eq!(fit(&wide, u64::MAX), Err(Unfit::Size(65, 48, 64, 48)));
        let narrow = TargetLayout {
            stride: 255,
            ..layout()
        };
        assert_eq!(fit(&narrow, u64::MAX), Err(Unfit::Stride(255, 256)));
        let coloured = TargetLayout {
            fourcc: Fourcc::Rgb565,
            ..layout()
        };
        assert_eq!(
            fit(&coloured, u64::MAX),
            Err(Unfit::Format(Fourcc::Xrgb8888))
        );
        let extreme = TargetLayout {
            stride: u32::MAX,
            offset: u32::MAX,
            ..layout()
        };
        assert!(matches!(fit(&extreme, 1 << 20), Err(Unfit::Memory(..))));
    }

    #[test]
    fn frames_of_a_rare_format_are_offered_as_they_are() {
        assert_eq!(
            shm_formats(Some(&frames(Fourcc::Rgb565))),
            vec![Fourcc::Rgb565]
        );
        assert_eq!(
            shm_formats(Some(&frames(Fourcc::Argb8888))),
            vec![Fourcc::Argb8888]
        );
        assert_eq!(
            dmabuf_formats(Some(&frames(Fourcc::Abgr8888))),
            vec![Fourcc::Abgr8888, Fourcc::Xrgb8888, Fourcc::Argb8888]
        );
    }
}
