//! Where a GPU draws the pictures of slots that have fences on them.
//!
//! Who has a descriptor of a slot can put fences onto it that never signal. A GPU waits for those before it draws there, and
//! with it all that is drawn later, the screen's own pictures too. So such a picture is drawn into memory of which nobody else
//! has a descriptor, a *draft*, and copied into the slot by the CPU, which looks at no fence (`copier`).

use std::sync::Arc;

use smithay::backend::{allocator::gbm::GbmDevice, drm::DrmDeviceFd};

use super::ring::Slot;
use crate::{
    capture::{PerView, View},
    kms::{Access, RingBuffer},
    render::Canvas,
};

#[derive(Debug)]
struct Draft {
    memory: Arc<Slot>,
    canvas: Canvas,
}

/// The drafts of one screen: at most one for each view, made when it is needed first.
#[derive(Debug, Default)]
pub struct Drafts(PerView<Option<Draft>>);

impl Drafts {
    /// Memory for a picture that looks like those in `slot`, and for the renderer the same.
    ///
    /// # Errors
    /// The draft before is not copied yet, or there is no memory.
    pub fn begin(
        &mut self,
        gbm: &GbmDevice<DrmDeviceFd>,
        view: View,
        slot: &Slot,
    ) -> Result<(Arc<Slot>, &mut Canvas), String> {
        let draft = self.0.get_mut(view);
        if draft.is_none() {
            let format = slot.format();
            let size = (format.width, format.height);
            let access = Access::ReadOnly;
            let buffer = RingBuffer::allocate(gbm, size.0, size.1, format.fourcc, access);
            let memory = Slot::new(buffer.map_err(|error| error.to_string())?);
            let canvas = memory.gpu_canvas().map_err(|error| error.to_string())?;
            let memory = Arc::new(memory);
            *draft = Some(Draft { memory, canvas });
        }
        let Some(Draft { memory, canvas }) = draft else {
            return Err("there is no draft".to_owned());
        };
        // Who copies it has it too.
        if Arc::strong_count(memory) > 1 {
            return Err("the picture before is still being copied".to_owned());
        }
        Ok((Arc::clone(memory), canvas))
    }

    /// The GPU may still draw into one of them: there are others the next time.
    pub fn abandon(&mut self) {
        *self = Self::default();
    }
}
