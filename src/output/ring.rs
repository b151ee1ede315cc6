//! The capture memory of one screen: GBM buffers as the slots of `capture`'s ring.

use std::{
    collections::HashMap,
    io,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{Arc, OnceLock},
};

use smithay::backend::{
    allocator::{
        dmabuf::{Dmabuf, DmabufFlags},
        gbm::GbmDevice,
    },
    drm::DrmDeviceFd,
};

use super::draft::Drafts;
use crate::{
    capture::{
        DirectBuffer, FrameFormat, OutputCapture, Reader, Readers, Reading, SlotId, SlotMemory,
        TargetLayout,
    },
    kms::{self, Access, Framebuffer, RingBuffer},
    render::Canvas,
    time::Time,
};

/// A ring buffer as the memory of a slot.
#[derive(Debug)]
pub struct Slot {
    buffer: RingBuffer,
    /// Made once, when a GPU is to know it: a renderer keeps one import for each.
    gpu: OnceLock<Option<Arc<Dmabuf>>>,
    readers: Readers,
}

impl Slot {
    /// How its pixels lie in memory, for a copy into it.
    pub fn target_layout(&self) -> TargetLayout {
        let layout = self.buffer.layout();
        TargetLayout {
            width: layout.width,
            height: layout.height,
            fourcc: self.buffer.fourcc(),
            stride: layout.stride,
            offset: layout.offset,
        }
    }

    /// How its pixels lie in memory, for a copy of it.
    pub fn format(&self) -> FrameFormat {
        let layout = self.buffer.layout();
        FrameFormat {
            width: layout.width,
            height: layout.height,
            fourcc: self.buffer.fourcc(),
            modifier: self.buffer.modifier(),
            stride: layout.stride,
            offset: layout.offset,
        }
    }

    /// Whether a GPU that is to draw into it would wait for somebody.
    pub fn is_fenced(&self) -> bool {
        !self.buffer.fences_idle()
    }

    /// Lets `f` write the slot, while it is armed for a job of the render producer.
    ///
    /// # Errors
    /// The driver does not let it be written.
    pub fn write(&self, f: &mut dyn FnMut(&mut [u8])) -> io::Result<()> {
        self.buffer.write(f)
    }
}

impl SlotMemory for Slot {
    fn export(&self) -> io::Result<OwnedFd> {
        self.buffer.export()
    }

    fn dmabuf(&self) -> Option<BorrowedFd<'_>> {
        Some(self.buffer.dmabuf())
    }

    fn read(&self, f: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        self.buffer.read(f)
    }

    fn buffer(&self) -> Option<DirectBuffer> {
        Some(self.gpu()?.clone() as DirectBuffer)
    }

    fn begin_reading(&self) -> Option<Reader> {
        Some(self.readers.begin())
    }

    fn reading(&self) -> Reading {
        self.readers.reading(|| self.buffer.fences_idle())
    }
}

/// The buffers that belong to the slots.
#[derive(Debug)]
pub struct CaptureBuffers {
    slots: HashMap<SlotId, Arc<Slot>>,
    /// For the renderer, made when a slot is drawn for the first time.
    canvases: HashMap<SlotId, Canvas>,
    /// For a GPU, where a slot has fences on it.
    pub drafts: Drafts,
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
        let mut all = Vec::new();
        for _ in 0..capture.config().slots() {
            let buffer = RingBuffer::allocate(gbm, width, height, fourcc, Access::ReadOnly)?;
            all.push(Arc::new(Slot::new(buffer)));
        }
        // All are alike: same size, same format, LINEAR.
        let Some(first) = all.first() else {
            return Err(crate::capture::BufferError::TooFew { given: 0 }.into());
        };
        let format = first.format();
        let memory = all
            .iter()
            .map(|slot| Arc::clone(slot) as Arc<dyn SlotMemory>);
        let generation = capture.set_buffers(format, memory.collect(), now)?;
        let slots = (0..)
            .map(|index| SlotId { index, generation })
            .zip(all)
            .collect();
        Ok(Self {
            slots,
            canvases: HashMap::new(),
            drafts: Drafts::default(),
        })
    }

    /// The framebuffer of a slot of this ring.
    pub fn framebuffer(&self, slot: SlotId) -> Option<&Arc<Framebuffer>> {
        self.slots.get(&slot).map(|slot| slot.buffer.framebuffer())
    }

    /// A slot of this ring.
    pub fn slot(&self, slot: SlotId) -> Option<&Arc<Slot>> {
        self.slots.get(&slot)
    }

    /// Whether this process can write the slots. From then on it reads them, too, without a word to the kernel.
    ///
    /// # Errors
    /// What the driver says.
    pub fn check_writable(&self) -> io::Result<()> {
        let mut slots = self.slots.values();
        slots.try_for_each(|slot| slot.buffer.writable().map(drop))
    }

    /// A slot for the renderer to draw into: by pixman through our own mapping, by a GPU through the dma-buf.
    ///
    /// # Errors
    /// The slot is unknown, or the driver does not let it be written.
    pub fn canvas(&mut self, id: SlotId, software: bool) -> Result<&mut Canvas, String> {
        use std::collections::hash_map::Entry;
        let entry = match self.canvases.entry(id) {
            Entry::Occupied(canvas) => return Ok(canvas.into_mut()),
            Entry::Vacant(entry) => entry,
        };
        let slot = self.slots.get(&id).ok_or("the slot is of another ring")?;
        let canvas = match software {
            true => slot.cpu_canvas()?,
            false => slot.gpu_canvas().map_err(|error| error.to_string())?,
        };
        Ok(entry.insert(canvas))
    }
}

impl Slot {
    fn cpu_canvas(&self) -> Result<Canvas, String> {
        let mapping = self.buffer.writable().map_err(|error| error.to_string())?;
        let layout = self.buffer.layout();
        let first = mapping
            .as_ptr()
            .wrapping_add(usize::try_from(layout.offset).unwrap_or(0));
        let size = (layout.width, layout.height);
        // SAFETY: the mapping covers offset + stride * height bytes, begins with a page, and goes along; a slot is drawn into
        // only while it is armed, when nobody reads it.
        unsafe { Canvas::on_memory(first, size, layout.stride, Box::new(mapping)) }
            .map_err(|error| error.to_string())
    }

    /// A buffer that was not exported to anybody yet.
    pub(super) fn new(buffer: RingBuffer) -> Self {
        Self {
            buffer,
            gpu: OnceLock::new(),
            readers: Readers::default(),
        }
    }

    /// The slot for a GPU.
    fn gpu(&self) -> Option<&Arc<Dmabuf>> {
        let make = || {
            let unknown = |error: &io::Error| {
                tracing::warn!(target: "vitrine::output", %error, "a capture buffer is not for the GPU");
            };
            let gpu = gpu_buffer(&self.buffer).inspect_err(unknown);
            gpu.ok().map(Arc::new)
        };
        self.gpu.get_or_init(make).as_ref()
    }

    /// For a GPU to draw into.
    pub(super) fn gpu_canvas(&self) -> io::Result<Canvas> {
        let gpu = self.gpu().ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Canvas::Dmabuf(Dmabuf::clone(gpu)))
    }
}

fn gpu_buffer(buffer: &RingBuffer) -> io::Result<Dmabuf> {
    let layout = buffer.layout();
    let side = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    let mut builder = Dmabuf::builder(
        (side(layout.width), side(layout.height)),
        buffer.fourcc(),
        buffer.modifier(),
        DmabufFlags::empty(),
    );
    builder.add_plane(buffer.export()?, 0, layout.offset, layout.stride);
    Ok(builder.build().ok_or(io::ErrorKind::InvalidInput)?)
}

impl CaptureBuffersError {
    /// As if there were no memory.
    pub(super) fn planned() -> Self {
        let error = io::ErrorKind::OutOfMemory.into();
        kms::Error::io("allocating a writeback buffer, by a planned fault")(error).into()
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
