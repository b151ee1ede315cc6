//! The small protocols: shm, dmabuf, outputs, selections, and those that Smithay answers alone.

use std::os::fd::OwnedFd;

use smithay::{
    backend::allocator::dmabuf::Dmabuf,
    delegate_data_device, delegate_dmabuf, delegate_presentation, delegate_primary_selection,
    delegate_single_pixel_buffer, delegate_viewporter,
    input::Seat,
    reexports::wayland_server::{backend::ClientId, Resource},
    wayland::{
        dmabuf::{DmabufFeedbackBuilder, DmabufGlobal, DmabufHandler, DmabufState, ImportNotifier},
        output::OutputHandler,
        selection::{
            data_device::{
                clear_data_device_selection, ClientDndGrabHandler, DataDeviceHandler,
                DataDeviceState, ServerDndGrabHandler,
            },
            primary_selection::{
                clear_primary_selection, PrimarySelectionHandler, PrimarySelectionState,
            },
            SelectionHandler, SelectionSource, SelectionTarget,
        },
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

impl SelectionHandler for Vitrine {
    type SelectionUserData = ();

    fn new_selection(
        &mut self,
        target: SelectionTarget,
        source: Option<SelectionSource>,
        seat: Seat<Self>,
    ) {
        // Only who has the keyboard may set it.
        let focus = seat.get_keyboard().and_then(|keys| keys.current_focus());
        let owner = focus.filter(|_| source.is_some()).and_then(|s| s.client());
        let owner = owner.map(|client| client.id());
        match target {
            SelectionTarget::Clipboard => self.selections.clipboard = owner,
            SelectionTarget::Primary => self.selections.primary = owner,
        }
    }
}

/// Which clients have what is in the clipboard and in the primary selection.
#[derive(Debug, Default)]
pub(super) struct Selections {
    clipboard: Option<ClientId>,
    primary: Option<ClientId>,
}

impl Vitrine {
    /// A client is gone, and with it what it had copied. Smithay notices that only when the focus changes: until then the
    /// focused client would offer to paste what nobody has.
    pub(super) fn forget_selections(&mut self, gone: &ClientId) {
        if self.selections.clipboard.take_if(|o| o == gone).is_some() {
            clear_data_device_selection(&self.display, &self.seat);
        }
        if self.selections.primary.take_if(|o| o == gone).is_some() {
            clear_primary_selection(&self.display, &self.seat);
        }
    }
}

impl DataDeviceHandler for Vitrine {
    fn data_device_state(&self) -> &DataDeviceState {
        &self.globals.data_device
    }
}

impl ClientDndGrabHandler for Vitrine {}

impl ServerDndGrabHandler for Vitrine {
    fn send(&mut self, _mime_type: String, _fd: OwnedFd, _seat: Seat<Self>) {}
}

impl PrimarySelectionHandler for Vitrine {
    fn primary_selection_state(&self) -> &PrimarySelectionState {
        &self.globals.primary_selection
    }
}

// cursor-shape-v1 can also name tablet tools, so Smithay wants this handler.
impl TabletSeatHandler for Vitrine {}

crate::delegate_guarded_shm!(Vitrine);
delegate_dmabuf!(Vitrine);
crate::delegate_outputs!(Vitrine);
delegate_data_device!(Vitrine);
delegate_primary_selection!(Vitrine);
delegate_presentation!(Vitrine);
delegate_viewporter!(Vitrine);
delegate_single_pixel_buffer!(Vitrine);
