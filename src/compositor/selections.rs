//! What has been copied: the clipboard, the primary selection, and drag and drop.
//!
//! Smithay keeps them. It notices only at the next change of the focus that a source is gone, though, with its client or
//! without: until then the focused client would offer to paste what nobody has. So the requests of devices and sources pass
//! through here, to know which source is in which selection.

use std::{collections::HashMap, os::fd::OwnedFd};

use smithay::{
    input::Seat,
    reexports::{
        wayland_protocols::wp::primary_selection::zv1::server::{
            zwp_primary_selection_device_manager_v1::ZwpPrimarySelectionDeviceManagerV1,
            zwp_primary_selection_device_v1::{self, ZwpPrimarySelectionDeviceV1},
            zwp_primary_selection_source_v1::{self, ZwpPrimarySelectionSourceV1},
        },
        wayland_server::{
            backend::{ClientId, ObjectId},
            delegate_dispatch, delegate_global_dispatch,
            protocol::{
                wl_data_device::{self, WlDataDevice},
                wl_data_device_manager::WlDataDeviceManager,
                wl_data_source::{self, WlDataSource},
            },
            Client, DataInit, Dispatch, DisplayHandle, Resource,
        },
    },
    wayland::selection::{
        data_device::{
            clear_data_device_selection, ClientDndGrabHandler, DataDeviceHandler, DataDeviceState,
            DataDeviceUserData, DataSourceUserData, ServerDndGrabHandler,
        },
        primary_selection::{
            clear_primary_selection, PrimaryDeviceManagerGlobalData, PrimaryDeviceUserData,
            PrimarySelectionHandler, PrimarySelectionState, PrimarySourceUserData,
        },
        SelectionHandler, SelectionSource, SelectionTarget,
    },
};

use super::Vitrine;

/// The names of all forms that one source may offer, in bytes. They are told to whoever has the focus, all at once, and must
/// be little beside what may wait for a client. Text processors offer some dozens.
const MAX_FORMS: usize = 64 * 1024;

/// What a name costs beside its letters.
const PER_FORM: usize = 16;

/// Which sources there are, and which of them can be pasted from.
#[derive(Debug, Default)]
pub(super) struct Selections {
    clipboard: Option<ObjectId>,
    primary: Option<ObjectId>,
    /// What a client wants to put into a selection now.
    wanted: Option<ObjectId>,
    /// The bytes of what each source offers.
    forms: HashMap<ObjectId, usize>,
    /// Sources that went in this turn.
    gone: Vec<ObjectId>,
}

impl Selections {
    /// Whether a source may offer one more form, with a name of so many bytes.
    fn may_offer(&mut self, source: ObjectId, name: usize) -> bool {
        let bytes = self.forms.entry(source).or_default();
        let more = bytes.saturating_add(name).saturating_add(PER_FORM);
        let may = more <= MAX_FORMS;
        if may {
            *bytes = more;
        }
        may
    }
}

impl Vitrine {
    /// A source is gone, by its client's wish or with the client.
    fn source_gone(&mut self, source: ObjectId) {
        self.selections.forms.remove(&source);
        self.selections.gone.push(source);
    }

    /// Takes what is gone out of the selections. Not when it goes: Smithay tells the source that it is out of use, and then it
    /// would still hear that.
    pub(super) fn forget_sources(&mut self) {
        for gone in std::mem::take(&mut self.selections.gone) {
            if self
                .selections
                .clipboard
                .take_if(|it| *it == gone)
                .is_some()
            {
                clear_data_device_selection(&self.display, &self.seat);
            }
            if self.selections.primary.take_if(|it| *it == gone).is_some() {
                clear_primary_selection(&self.display, &self.seat);
            }
        }
    }
}

impl SelectionHandler for Vitrine {
    type SelectionUserData = ();

    fn new_selection(
        &mut self,
        target: SelectionTarget,
        source: Option<SelectionSource>,
        _seat: Seat<Self>,
    ) {
        let source = source.and(self.selections.wanted.take());
        match target {
            SelectionTarget::Clipboard => self.selections.clipboard = source,
            SelectionTarget::Primary => self.selections.primary = source,
        }
    }
}

impl Dispatch<WlDataDevice, DataDeviceUserData> for Vitrine {
    fn request(
        state: &mut Self,
        client: &Client,
        device: &WlDataDevice,
        request: wl_data_device::Request,
        data: &DataDeviceUserData,
        display: &DisplayHandle,
        data_init: &mut DataInit<'_, Self>,
    ) {
        if let wl_data_device::Request::SetSelection { source, .. } = &request {
            state.selections.wanted = source.as_ref().map(Resource::id);
        }
        <DataDeviceState as Dispatch<WlDataDevice, DataDeviceUserData, Self>>::request(
            state, client, device, request, data, display, data_init,
        );
    }
}

impl Dispatch<WlDataSource, DataSourceUserData> for Vitrine {
    fn request(
        state: &mut Self,
        client: &Client,
        source: &WlDataSource,
        request: wl_data_source::Request,
        data: &DataSourceUserData,
        display: &DisplayHandle,
        data_init: &mut DataInit<'_, Self>,
    ) {
        if let wl_data_source::Request::Offer { mime_type } = &request {
            if !state.selections.may_offer(source.id(), mime_type.len()) {
                return;
            }
        }
        <DataDeviceState as Dispatch<WlDataSource, DataSourceUserData, Self>>::request(
            state, client, source, request, data, display, data_init,
        );
    }

    fn destroyed(
        state: &mut Self,
        client: ClientId,
        source: &WlDataSource,
        data: &DataSourceUserData,
    ) {
        <DataDeviceState as Dispatch<WlDataSource, DataSourceUserData, Self>>::destroyed(
            state, client, source, data,
        );
        state.source_gone(source.id());
    }
}

impl Dispatch<ZwpPrimarySelectionDeviceV1, PrimaryDeviceUserData> for Vitrine {
    fn request(
        state: &mut Self,
        client: &Client,
        device: &ZwpPrimarySelectionDeviceV1,
        request: zwp_primary_selection_device_v1::Request,
        data: &PrimaryDeviceUserData,
        display: &DisplayHandle,
        data_init: &mut DataInit<'_, Self>,
    ) {
        if let zwp_primary_selection_device_v1::Request::SetSelection { source, .. } = &request {
            state.selections.wanted = source.as_ref().map(Resource::id);
        }
        <PrimarySelectionState as Dispatch<
            ZwpPrimarySelectionDeviceV1,
            PrimaryDeviceUserData,
            Self,
        >>::request(state, client, device, request, data, display, data_init);
    }
}

impl Dispatch<ZwpPrimarySelectionSourceV1, PrimarySourceUserData> for Vitrine {
    fn request(
        state: &mut Self,
        client: &Client,
        source: &ZwpPrimarySelectionSourceV1,
        request: zwp_primary_selection_source_v1::Request,
        data: &PrimarySourceUserData,
        display: &DisplayHandle,
        data_init: &mut DataInit<'_, Self>,
    ) {
        if let zwp_primary_selection_source_v1::Request::Offer { mime_type } = &request {
            if !state.selections.may_offer(source.id(), mime_type.len()) {
                return;
            }
        }
        <PrimarySelectionState as Dispatch<
            ZwpPrimarySelectionSourceV1,
            PrimarySourceUserData,
            Self,
        >>::request(state, client, source, request, data, display, data_init);
    }

    fn destroyed(
        state: &mut Self,
        client: ClientId,
        source: &ZwpPrimarySelectionSourceV1,
        data: &PrimarySourceUserData,
    ) {
        <PrimarySelectionState as Dispatch<
            ZwpPrimarySelectionSourceV1,
            PrimarySourceUserData,
            Self,
        >>::destroyed(state, client, source, data);
        state.source_gone(source.id());
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

delegate_global_dispatch!(Vitrine: [WlDataDeviceManager: ()] => DataDeviceState);
delegate_dispatch!(Vitrine: [WlDataDeviceManager: ()] => DataDeviceState);
delegate_global_dispatch!(Vitrine: [
    ZwpPrimarySelectionDeviceManagerV1: PrimaryDeviceManagerGlobalData
] => PrimarySelectionState);
delegate_dispatch!(Vitrine: [ZwpPrimarySelectionDeviceManagerV1: ()] => PrimarySelectionState);
