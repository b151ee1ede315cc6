//! ext-image-capture-source-v1: names for what can be captured, outputs and windows.
//!
//! A source is a name and holds nothing open: a source of what is gone stays valid and is inert.

use smithay::{output::Output, wayland::foreign_toplevel_list::ForeignToplevelHandle};
use wayland_protocols::ext::{
    foreign_toplevel_list::v1::server::ext_foreign_toplevel_handle_v1::ExtForeignToplevelHandleV1,
    image_capture_source::v1::server::{
        ext_foreign_toplevel_image_capture_source_manager_v1, ext_image_capture_source_v1,
        ext_output_image_capture_source_manager_v1,
    },
};
use wayland_server::{
    protocol::wl_output::WlOutput, Client, DataInit, Dispatch, DisplayHandle, GlobalDispatch, New,
};

use super::{
    source::{CaptureSource, WeakSource},
    CaptureGlobalData, CaptureHandler, CaptureProtocols,
};

pub use ext_foreign_toplevel_image_capture_source_manager_v1::ExtForeignToplevelImageCaptureSourceManagerV1 as ToplevelSourceManager;
pub use ext_image_capture_source_v1::ExtImageCaptureSourceV1 as Source;
pub use ext_output_image_capture_source_manager_v1::ExtOutputImageCaptureSourceManagerV1 as OutputSourceManager;

/// What a source object names.
#[derive(Debug, Clone)]
pub struct SourceData {
    source: Option<WeakSource>,
}

impl SourceData {
    fn of(output: &WlOutput) -> Self {
        let output = Output::from_resource(output);
        Self {
            source: output.map(|output| WeakSource::Output(output.downgrade())),
        }
    }

    fn of_toplevel(toplevel: &ExtForeignToplevelHandleV1) -> Self {
        let handle = ForeignToplevelHandle::from_resource(toplevel);
        let open = handle.filter(|handle| !handle.is_closed());
        Self {
            source: open.map(|handle| WeakSource::Toplevel(handle.identifier().into())),
        }
    }

    /// What the source names, if that may still exist.
    pub fn source(&self) -> Option<CaptureSource> {
        self.source.as_ref()?.upgrade()
    }
}

impl<D> GlobalDispatch<OutputSourceManager, CaptureGlobalData, D> for CaptureProtocols
where
    D: CaptureHandler
        + GlobalDispatch<OutputSourceManager, CaptureGlobalData>
        + Dispatch<OutputSourceManager, ()>,
{
    fn bind(
        _state: &mut D,
        _display: &DisplayHandle,
        _client: &Client,
        resource: New<OutputSourceManager>,
        _data: &CaptureGlobalData,
        data_init: &mut DataInit<'_, D>,
    ) {
        data_init.init(resource, ());
    }

    fn can_view(client: Client, data: &CaptureGlobalData) -> bool {
        data.allows(&client)
    }
}

impl<D> Dispatch<OutputSourceManager, (), D> for CaptureProtocols
where
    D: CaptureHandler + Dispatch<OutputSourceManager, ()> + Dispatch<Source, SourceData>,
{
    fn request(
        _state: &mut D,
        _client: &Client,
        _resource: &OutputSourceManager,
        request: ext_output_image_capture_source_manager_v1::Request,
        _data: &(),
        _display: &DisplayHandle,
        data_init: &mut DataInit<'_, D>,
    ) {
        use ext_output_image_capture_source_manager_v1::Request;
        match request {
            Request::CreateSource { source, output } => {
                data_init.init(source, SourceData::of(&output));
            }
            Request::Destroy => {}
            // The enum is open for versions that are never announced.
            _ => {}
        }
    }
}

impl<D> GlobalDispatch<ToplevelSourceManager, CaptureGlobalData, D> for CaptureProtocols
where
    D: CaptureHandler
        + GlobalDispatch<ToplevelSourceManager, CaptureGlobalData>
        + Dispatch<ToplevelSourceManager, ()>,
{
    fn bind(
        _state: &mut D,
        _display: &DisplayHandle,
        _client: &Client,
        resource: New<ToplevelSourceManager>,
        _data: &CaptureGlobalData,
        data_init: &mut DataInit<'_, D>,
    ) {
        data_init.init(resource, ());
    }

    fn can_view(client: Client, data: &CaptureGlobalData) -> bool {
        data.allows(&client)
    }
}

impl<D> Dispatch<ToplevelSourceManager, (), D> for CaptureProtocols
where
    D: CaptureHandler + Dispatch<ToplevelSourceManager, ()> + Dispatch<Source, SourceData>,
{
    fn request(
        _state: &mut D,
        _client: &Client,
        _resource: &ToplevelSourceManager,
        request: ext_foreign_toplevel_image_capture_source_manager_v1::Request,
        _data: &(),
        _display: &DisplayHandle,
        data_init: &mut DataInit<'_, D>,
    ) {
        use ext_foreign_toplevel_image_capture_source_manager_v1::Request;
        match request {
            Request::CreateSource {
                source,
                toplevel_handle,
            } => {
                data_init.init(source, SourceData::of_toplevel(&toplevel_handle));
            }
            Request::Destroy => {}
            // The enum is open for versions that are never announced.
            _ => {}
        }
    }
}

impl<D> Dispatch<Source, SourceData, D> for CaptureProtocols
where
    D: CaptureHandler + Dispatch<Source, SourceData>,
{
    fn request(
        _state: &mut D,
        _client: &Client,
        _resource: &Source,
        _request: ext_image_capture_source_v1::Request,
        _data: &SourceData,
        _display: &DisplayHandle,
        _data_init: &mut DataInit<'_, D>,
    ) {
        // `destroy` is all there is, and a source holds nothing.
    }
}
