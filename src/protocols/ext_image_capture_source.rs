//! ext-image-capture-source-v1: names for what can be captured. Outputs only, for now.
//!
//! A source is a name and holds nothing open: a source of an output that is gone stays valid and is inert.

use smithay::output::{Output, WeakOutput};
use wayland_protocols::ext::image_capture_source::v1::server::{
    ext_image_capture_source_v1, ext_output_image_capture_source_manager_v1,
};
use wayland_server::{
    protocol::wl_output::WlOutput, Client, DataInit, Dispatch, DisplayHandle, GlobalDispatch, New,
};

use super::{CaptureGlobalData, CaptureHandler, CaptureProtocols};

pub use ext_image_capture_source_v1::ExtImageCaptureSourceV1 as Source;
pub use ext_output_image_capture_source_manager_v1::ExtOutputImageCaptureSourceManagerV1 as OutputSourceManager;

/// What a source object names.
#[derive(Debug, Clone)]
pub struct SourceData {
    output: Option<WeakOutput>,
}

impl SourceData {
    fn of(output: &WlOutput) -> Self {
        Self {
            output: Output::from_resource(output).map(|output| output.downgrade()),
        }
    }

    /// The output that the source names, if it still exists.
    pub fn output(&self) -> Option<Output> {
        self.output.as_ref()?.upgrade()
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
