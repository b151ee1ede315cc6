//! Which buffer a frame asks for, and whether the one that the client brings is that.

use smithay::{
    backend::allocator::{format::get_bpp, Buffer as _, Fourcc, Modifier},
    output::Output,
    wayland::{dmabuf::get_dmabuf, shm::fourcc_to_shm_format},
};
use wayland_server::{protocol::wl_buffer::WlBuffer, Resource};

use crate::{
    capture::FrameFormat,
    geometry::Rect,
    protocols::{
        current_format,
        target::{self, Unfit},
        CaptureHandler,
    },
};

use super::Frame;

const EVENT_DMABUF_SINCE: u32 = 3;

/// What a frame is to show.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Subject {
    pub(super) output: Output,
    /// In pixels of the output's frames.
    pub(super) area: Rect,
    pub(super) overlay_cursor: bool,
}

/// What the client was told to bring.
#[derive(Debug, Clone)]
pub(super) struct Offer {
    pub(super) subject: Subject,
    /// Width and height of the output's frames. With another mode the buffer and the area mean nothing.
    frames: (u32, u32),
    /// The pixels of the area as a picture of its own.
    picture: FrameFormat,
    /// The format and the stride of a wl_shm buffer.
    shm: (Fourcc, u32),
    /// Whether a dma-buf of the picture's format is taken, too.
    dmabuf: bool,
}

/// Why a buffer is not taken.
pub(super) enum Refusal {
    /// The client was told otherwise.
    Error(Unfit),
    /// The protocol has no way to tell the client beforehand: dma-bufs that a CPU cannot write.
    Failed(Unfit),
}

impl Offer {
    /// `None`: the output is gone, or does not have the area any more.
    pub(super) fn of<D: CaptureHandler>(state: &mut D, subject: Subject) -> Option<Self> {
        // An output that is gone or going has no capture side.
        state.capture_output(&subject.output)?;
        let frames = frames_of(state, &subject.output)?;
        let picture = picture_of(&frames, subject.area)?;
        let fourcc = target::shm_formats(Some(&frames)).into_iter().next()?;
        Some(Self {
            frames: (frames.width, frames.height),
            shm: (fourcc, stride_of(picture.width, fourcc)?),
            dmabuf: state.dmabuf_device().is_some(),
            picture,
            subject,
        })
    }

    /// Tells the client.
    pub(super) fn send(&self, object: &Frame) {
        let (width, height) = (self.picture.width, self.picture.height);
        let (fourcc, stride) = self.shm;
        if let Some(format) = fourcc_to_shm_format(fourcc) {
            object.buffer(format, width, height, stride);
        }
        if object.version() >= EVENT_DMABUF_SINCE {
            if self.dmabuf {
                object.linux_dmabuf(self.picture.fourcc as u32, width, height);
            }
            object.buffer_done();
        }
    }

    /// Whether frames like these still have that picture.
    pub(super) fn still_holds(&self, frames: &FrameFormat) -> bool {
        self.frames == (frames.width, frames.height)
    }

    /// Whether this is such a buffer.
    pub(super) fn check(&self, buffer: &WlBuffer) -> Result<(), Refusal> {
        let picture = &self.picture;
        if let (Ok(dmabuf), true) = (get_dmabuf(buffer), self.dmabuf) {
            let number = |side: i32| u32::try_from(side).unwrap_or(0);
            let (width, height) = (number(dmabuf.size().w), number(dmabuf.size().h));
            if (width, height) != (picture.width, picture.height) {
                let unfit = Unfit::Size(width, height, picture.width, picture.height);
                return Err(Refusal::Error(unfit));
            }
            if dmabuf.format().code != picture.fourcc {
                return Err(Refusal::Error(Unfit::Format(picture.fourcc)));
            }
            return target::check(buffer, picture, true).map_err(Refusal::Failed);
        }
        let (layout, _) = target::shm_layout(buffer).map_err(Refusal::Error)?;
        let (fourcc, stride) = self.shm;
        target::check(buffer, picture, false).map_err(Refusal::Error)?;
        if layout.fourcc != fourcc {
            return Err(Refusal::Error(Unfit::Format(picture.fourcc)));
        }
        if layout.stride != stride {
            return Err(Refusal::Error(Unfit::Stride(
                layout.stride,
                u64::from(stride),
            )));
        }
        Ok(())
    }
}

/// The pixels of an area as a picture of its own, without padding.
pub(super) fn picture_of(frames: &FrameFormat, area: Rect) -> Option<FrameFormat> {
    if !frames.full().contains_rect(area) {
        return None;
    }
    let width = u32::try_from(area.size.w).ok()?;
    Some(FrameFormat {
        width,
        height: u32::try_from(area.size.h).ok()?,
        stride: stride_of(width, frames.fourcc)?,
        offset: 0,
        ..*frames
    })
}

fn stride_of(width: u32, fourcc: Fourcc) -> Option<u32> {
    width.checked_mul(u32::try_from(get_bpp(fourcc)? / 8).ok()?)
}

/// How the output's frames look now, or will look while it has no buffers yet.
fn frames_of<D: CaptureHandler>(state: &mut D, output: &Output) -> Option<FrameFormat> {
    current_format(state, output).or_else(|| {
        let mode = output.current_mode()?.size;
        let width = u32::try_from(mode.w).ok()?;
        Some(FrameFormat {
            width,
            height: u32::try_from(mode.h).ok()?,
            fourcc: Fourcc::Xrgb8888,
            modifier: Modifier::Linear,
            stride: stride_of(width, Fourcc::Xrgb8888)?,
            offset: 0,
        })
    })
}
