//! The small protocols: shm, dmabuf, outputs, and those that Smithay answers alone.

use smithay::{
    backend::allocator::dmabuf::Dmabuf,
    delegate_dmabuf, delegate_presentation, delegate_single_pixel_buffer, delegate_viewporter,
    wayland::{
        dmabuf::{DmabufFeedbackBuilder, DmabufGlobal, DmabufHandler, DmabufState, ImportNotifier},
        output::OutputHandler,
        shm::{ShmHandler, ShmState},
        tablet_manager::TabletSeatHandler,
    },
};

use super::Vitrine;
use crate::protocols::xdg_output::{XdgOutputHandler, XdgOutputs};

impl ShmHandler for Vitrine {
    fn shm_state(&self) -> &ShmState {
        &self.globals.shm
    }
}

impl Vitrine {
    /// Announces linux-dmabuf with what the renderer can import; version 4 with feedback when a device is known.
    pub fn announce_dmabuf(&mut self, device: Option<libc::dev_t>) {
        let formats = self.renderer.dmabuf_formats();
        if let Some(old) = self.dmabuf_global.take() {
            self.globals
                .dmabuf
                .destroy_global::<Vitrine>(&self.display, old);
        }
        let feedback =
            device.map(|device| DmabufFeedbackBuilder::new(device, formats.clone()).build());
        let global = match feedback {
            Some(Ok(feedback)) => self
                .globals
                .dmabuf
                .create_global_with_default_feedback::<Vitrine>(&self.display, &feedback),
            Some(Err(error)) => {
                tracing::warn!(target: "vitrine::compositor", %error, "no dmabuf feedback; announcing version 3");
                self.globals
                    .dmabuf
                    .create_global::<Vitrine>(&self.display, formats)
            }
            None => self
                .globals
                .dmabuf
                .create_global::<Vitrine>(&self.display, formats),
        };
        self.dmabuf_global = Some(global);
    }
}

impl DmabufHandler for Vitrine {
    fn dmabuf_state(&mut self) -> &mut DmabufState {
        &mut self.globals.dmabuf
    }

    fn dmabuf_imported(
        &mut self,
        _global: &DmabufGlobal,
        dmabuf: Dmabuf,
        notifier: ImportNotifier,
    ) {
        match self.renderer.import_dmabuf(&dmabuf) {
            Ok(()) => {
                // An error here means that the client died meanwhile; nothing is left to answer.
                let _ = notifier.successful::<Vitrine>();
            }
            Err(error) => {
                tracing::debug!(target: "vitrine::compositor", %error, "a client's dmabuf cannot be imported");
                notifier.failed();
            }
        }
    }
}

impl OutputHandler for Vitrine {}

impl XdgOutputHandler for Vitrine {
    fn xdg_outputs(&mut self) -> &mut XdgOutputs {
        &mut self.globals.xdg_outputs
    }
}

// cursor-shape-v1 can also name tablet tools, so Smithay wants this handler.
impl TabletSeatHandler for Vitrine {}

crate::delegate_guarded_shm!(Vitrine);
delegate_dmabuf!(Vitrine);
crate::delegate_outputs!(Vitrine);
delegate_presentation!(Vitrine);
delegate_viewporter!(Vitrine);
delegate_single_pixel_buffer!(Vitrine);
