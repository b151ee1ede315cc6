//! The hardware cursor of one screen: two buffers that take turns, and where the plane is.
//!
//! A picture that does not fit, or a plane that the kernel refuses, is no error: the pointer is drawn into the scene.

use std::sync::Arc;

use smithay::backend::{
    allocator::{
        gbm::{GbmBuffer, GbmBufferFlags, GbmDevice},
        Fourcc,
    },
    drm::DrmDeviceFd,
};

use crate::{geometry::Rect, kms::Framebuffer, render::CursorPicture};

/// What the plane shows.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The picture's framebuffer, of the plane's full size.
    pub framebuffer: Arc<Framebuffer>,
    /// Top left corner on the screen, in mode pixels; may be negative.
    pub at: (i32, i32),
    /// The point of the picture that points, for virtual machines.
    pub hotspot: (i32, i32),
    /// The pixels.
    pub picture: Option<Arc<CursorPicture>>,
}

/// The cursor plane's buffers and state.
#[derive(Debug)]
pub struct CursorPlane {
    size: (u32, u32),
    buffers: [(GbmBuffer, Arc<Framebuffer>); 2],
    /// Which buffer has `picture`.
    front: usize,
    picture: Option<Arc<CursorPicture>>,
}

impl CursorPlane {
    /// Allocates the buffers; `None` when the device has no memory that a cursor plane takes.
    pub fn new(fd: &DrmDeviceFd, gbm: &GbmDevice<DrmDeviceFd>, size: (u32, u32)) -> Option<Self> {
        let buffer = || {
            let flags = GbmBufferFlags::CURSOR | GbmBufferFlags::WRITE;
            let bo = gbm.create_buffer_object::<()>(size.0, size.1, Fourcc::Argb8888, flags);
            let bo = GbmBuffer::from_bo(bo.map_err(|e| e.to_string())?, true);
            let framebuffer = Framebuffer::from_gbm(fd, &bo, false).map_err(|e| e.to_string())?;
            Ok::<_, String>((bo, framebuffer))
        };
        match (buffer(), buffer()) {
            (Ok(a), Ok(b)) => Some(Self {
                size,
                buffers: [a, b],
                front: 0,
                picture: None,
            }),
            (Err(reason), _) | (_, Err(reason)) => {
                tracing::info!(target: "vitrine::output", %reason, "no hardware cursor; the pointer is drawn");
                None
            }
        }
    }

    /// Whether the plane can carry this picture.
    pub fn fits(&self, picture: &CursorPicture) -> bool {
        picture.width <= self.size.0 && picture.height <= self.size.1
    }

    /// Puts the picture into the buffer that is not on the screen, unless it is there already.
    ///
    /// # Errors
    /// When the buffer cannot be written.
    pub fn show(&mut self, picture: &CursorPicture, at: (i32, i32)) -> std::io::Result<Shown> {
        if self.picture.as_deref() != Some(picture) {
            let back = 1 - self.front;
            let bytes = self.padded(picture);
            if let Some((bo, _)) = self.buffers.get_mut(back) {
                bo.write(&bytes)?;
            }
            self.front = back;
            self.picture = Some(Arc::new(picture.clone()));
        }
        let framebuffer = match self.front {
            0 => self.buffers[0].1.clone(),
            _ => self.buffers[1].1.clone(),
        };
        Ok(Shown {
            framebuffer,
            at,
            hotspot: picture.hotspot,
            picture: self.picture.clone(),
        })
    }

    /// The picture in the top left corner of a buffer of the plane's size.
    fn padded(&self, picture: &CursorPicture) -> Vec<u8> {
        let row = self.size.0 as usize * 4;
        let mut bytes = vec![0; row * self.size.1 as usize];
        let lines = picture.pixels.chunks(picture.width.max(1) as usize);
        for (target, line) in bytes.chunks_mut(row).zip(lines) {
            for (target, pixel) in target.chunks_exact_mut(4).zip(line) {
                target.copy_from_slice(&pixel.to_le_bytes());
            }
        }
        bytes
    }

    /// What the plane covers when it shows a picture there.
    pub fn area(&self, shown: &Shown) -> Rect {
        let side = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        Rect::new(
            shown.at.into(),
            (side(self.size.0), side(self.size.1)).into(),
        )
    }
}
