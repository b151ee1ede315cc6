//! The capture memory of one screen: GBM buffers as the slots of `capture`'s ring.

use std::{collections::HashMap, io, os::fd::OwnedFd, sync::Arc};

use smithay::backend::{allocator::gbm::GbmDevice, drm::DrmDeviceFd};

use crate::{
    capture::{FrameFormat, OutputCapture, SlotId, SlotMemory},
    kms::{self, Access, Framebuffer, RingBuffer},
    time::Time,
};

/// A ring buffer as the memory of a slot.
#[derive(Debug)]
struct Slot(RingBuffer);

impl SlotMemory for Slot {
    fn export(&self) -> io::Result<OwnedFd> {
        self.0.export()
    }

    fn read(&self, f: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        self.0.read(f)
    }

    fn readers_idle(&self) -> bool {
        self.0.readers_idle()
    }
}

/// The framebuffers that belong to the slots.
#[derive(Debug)]
pub struct CaptureBuffers {
    framebuffers: HashMap<SlotId, Arc<Framebuffer>>,
}

impl CaptureBuffers {
    /// Allocates a ring of `slots` buffers of the mode's size and gives it to the capture side.
    ///
    /// # Errors
    /// When there is not enough memory that the controller can write.
    pub fn allocate(
        gbm: &GbmDevice<DrmDeviceFd>,
        (width, height): (u32, u32),
        fourcc: drm_fourcc::DrmFourcc,
        capture: &mut OutputCapture,
        now: Time,
    ) -> Result<Self, CaptureBuffersError> {
        let mut buffers = Vec::new();
        for _ in 0..capture.config().slots() {
            buffers.push(RingBuffer::allocate(
                gbm,
                width,
                height,
                fourcc,
                Access::ReadOnly,
            )?);
        }
        // All are alike: same size, same format, LINEAR.
        let Some(first) = buffers.first() else {
            return Err(crate::capture::BufferError::TooFew { given: 0 }.into());
        };
        let layout = first.layout();
        let format = FrameFormat {
            width,
            height,
            fourcc,
            modifier: first.modifier(),
            stride: layout.stride,
            offset: layout.offset,
        };
        let all: Vec<_> = buffers
            .iter()
            .map(|buffer| buffer.framebuffer().clone())
            .collect();
        let slots = buffers
            .into_iter()
            .map(|b| Arc::new(Slot(b)) as Arc<dyn SlotMemory>);
        let generation = capture.set_buffers(format, slots.collect(), now)?;
        let framebuffers = (0..)
            .map(|index| SlotId { index, generation })
            .zip(all)
            .collect();
        Ok(Self { framebuffers })
    }

    /// The framebuffer of a slot of this ring.
    pub fn framebuffer(&self, slot: SlotId) -> Option<&Arc<Framebuffer>> {
        self.framebuffers.get(&slot)
    }
}

/// Why there is no ring.
#[derive(Debug, thiserror::Error)]
pub enum CaptureBuffersError {
    /// The device gave no buffer.
    #[error(transparent)]
    Allocation(#[from] kms::Error),
    /// The capture side refused them.
    #[error(transparent)]
    Ring(#[from] crate::capture::BufferError),
}
