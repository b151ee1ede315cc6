//! xdg-output-unstable-v1: where outputs lie in the logical space, and how large they are there.
//!
//! Smithay 0.7.0 has this protocol too, but remembers every object that was ever made until its output goes (40 bytes each, and
//! a look at each at every change), and ends the compositor when a client asks about an output that has gone.

use smithay::output::{Output, WeakOutput};
use wayland_protocols::xdg::xdg_output::zv1::server::{
    zxdg_output_manager_v1::{self, ZxdgOutputManagerV1},
    zxdg_output_v1::{self, ZxdgOutputV1},
};
use wayland_server::{
    backend::ClientId, protocol::wl_output::WlOutput, Client, DataInit, Dispatch, DisplayHandle,
    GlobalDispatch, New, Resource, Weak,
};

/// wl_output.done is an event since then; xdg_output.done is one until then.
const DONE_OF_WL_OUTPUT: u32 = 2;
const NAMES: u32 = 2;
const NO_DONE: u32 = 3;

/// The objects that clients have.
#[derive(Debug)]
pub struct XdgOutputs {
    instances: Vec<Instance>,
}

#[derive(Debug)]
struct Instance {
    object: ZxdgOutputV1,
    wl_output: Weak<WlOutput>,
    output: WeakOutput,
    told: Option<Area>,
}

/// Position and size.
type Area = ((i32, i32), (i32, i32));

fn area_of(output: &Output) -> Area {
    let at = output.current_location();
    let size = output.current_mode().map(|mode| {
        let scale = output.current_scale().fractional_scale();
        let size = mode.size.to_f64().to_logical(scale).to_i32_round::<i32>();
        output.current_transform().transform_size(size)
    });
    let size = size.unwrap_or_default();
    ((at.x, at.y), (size.w, size.h))
}

impl Instance {
    /// Says what is new; `named` with the events that come once.
    fn tell(&mut self, output: &Output, named: bool) {
        let area = area_of(output);
        if self.told.replace(area) == Some(area) {
            return;
        }
        let ((x, y), (width, height)) = area;
        self.object.logical_position(x, y);
        self.object.logical_size(width, height);
        if named && self.object.version() >= NAMES {
            self.object.name(output.name());
            self.object.description(output.description());
        }
        if self.object.version() < NO_DONE {
            self.object.done();
        }
        if let Ok(wl_output) = self.wl_output.upgrade() {
            if wl_output.version() >= DONE_OF_WL_OUTPUT {
                wl_output.done();
            }
        }
    }
}

impl XdgOutputs {
    /// Announces the protocol.
    pub fn new<D>(display: &DisplayHandle) -> Self
    where
        D: GlobalDispatch<ZxdgOutputManagerV1, ()> + 'static,
    {
        display.create_global::<D, ZxdgOutputManagerV1, _>(3, ());
        Self {
            instances: Vec::new(),
        }
    }

    /// Tells clients what changed since the last call. Cheap when nothing did.
    pub fn refresh(&mut self) {
        for instance in &mut self.instances {
            if let Some(output) = instance.output.upgrade() {
                instance.tell(&output, false);
            }
        }
    }
}

/// What the compositor's state gives to this protocol.
pub trait XdgOutputHandler: 'static {
    /// The objects.
    fn xdg_outputs(&mut self) -> &mut XdgOutputs;
}

impl<D> GlobalDispatch<ZxdgOutputManagerV1, (), D> for XdgOutputs
where
    D: GlobalDispatch<ZxdgOutputManagerV1, ()> + Dispatch<ZxdgOutputManagerV1, ()>,
{
    fn bind(
        _state: &mut D,
        _display: &DisplayHandle,
        _client: &Client,
        resource: New<ZxdgOutputManagerV1>,
        _data: &(),
        data_init: &mut DataInit<'_, D>,
    ) {
        data_init.init(resource, ());
    }
}

impl<D> Dispatch<ZxdgOutputManagerV1, (), D> for XdgOutputs
where
    D: XdgOutputHandler + Dispatch<ZxdgOutputManagerV1, ()> + Dispatch<ZxdgOutputV1, ()>,
{
    fn request(
        state: &mut D,
        _client: &Client,
        _manager: &ZxdgOutputManagerV1,
        request: zxdg_output_manager_v1::Request,
        _data: &(),
        _display: &DisplayHandle,
        data_init: &mut DataInit<'_, D>,
    ) {
        if let zxdg_output_manager_v1::Request::GetXdgOutput { id, output } = request {
            let object = data_init.init(id, ());
            // Of an output that is gone there is nothing to tell.
            let Some(known) = Output::from_resource(&output) else {
                return;
            };
            let mut instance = Instance {
                object,
                wl_output: output.downgrade(),
                output: known.downgrade(),
                told: None,
            };
            instance.tell(&known, true);
            state.xdg_outputs().instances.push(instance);
        }
    }
}

impl<D> Dispatch<ZxdgOutputV1, (), D> for XdgOutputs
where
    D: XdgOutputHandler + Dispatch<ZxdgOutputV1, ()>,
{
    fn request(
        _state: &mut D,
        _client: &Client,
        _object: &ZxdgOutputV1,
        _request: zxdg_output_v1::Request,
        _data: &(),
        _display: &DisplayHandle,
        _data_init: &mut DataInit<'_, D>,
    ) {
    }

    fn destroyed(state: &mut D, _client: ClientId, object: &ZxdgOutputV1, _data: &()) {
        let instances = &mut state.xdg_outputs().instances;
        instances.retain(|instance| instance.object != *object);
    }
}

/// Like Smithay's `delegate_output!`, with [`XdgOutputs`] for xdg-output.
#[macro_export]
macro_rules! delegate_outputs {
    ($ty:ty) => {
        ::wayland_server::delegate_global_dispatch!($ty: [
            ::wayland_server::protocol::wl_output::WlOutput: ::smithay::wayland::output::WlOutputData
        ] => ::smithay::wayland::output::OutputManagerState);
        ::wayland_server::delegate_dispatch!($ty: [
            ::wayland_server::protocol::wl_output::WlOutput: ::smithay::wayland::output::OutputUserData
        ] => ::smithay::wayland::output::OutputManagerState);
        ::wayland_server::delegate_global_dispatch!($ty: [
            ::wayland_protocols::xdg::xdg_output::zv1::server::zxdg_output_manager_v1::ZxdgOutputManagerV1: ()
        ] => $crate::protocols::xdg_output::XdgOutputs);
        ::wayland_server::delegate_dispatch!($ty: [
            ::wayland_protocols::xdg::xdg_output::zv1::server::zxdg_output_manager_v1::ZxdgOutputManagerV1: ()
        ] => $crate::protocols::xdg_output::XdgOutputs);
        ::wayland_server::delegate_dispatch!($ty: [
            ::wayland_protocols::xdg::xdg_output::zv1::server::zxdg_output_v1::ZxdgOutputV1: ()
        ] => $crate::protocols::xdg_output::XdgOutputs);
    };
}
