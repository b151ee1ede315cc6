//! wlr-output-power-management-unstable-v1: who is told of an output's power, and who may change it. Whether and when an
//! output is switched is the handler's business.

use std::collections::HashSet;

use smithay::output::Output;
use wayland_protocols_wlr::output_power_management::v1::server::{
    zwlr_output_power_manager_v1, zwlr_output_power_v1,
};
use wayland_server::{
    backend::{ClientId, GlobalId},
    Client, DataInit, Dispatch, DisplayHandle, GlobalDispatch, New, Resource, WEnum,
};

use super::CaptureGlobalData;

pub use zwlr_output_power_manager_v1::ZwlrOutputPowerManagerV1 as OutputPowerManager;
pub use zwlr_output_power_v1::ZwlrOutputPowerV1 as OutputPower;

/// What the compositor's state does with power.
pub trait OutputPowerHandler: Sized + 'static {
    /// The room's own state.
    fn output_powers(&mut self) -> &mut OutputPowers;

    /// Whether the client has the right to switch outputs now; it may have objects from a time when it had.
    fn may_switch_outputs(&self, client: &Client) -> bool;

    /// Whether the output is on; `None` if it is gone or is nothing that could be switched.
    fn is_output_on(&mut self, output: &Output) -> Option<bool>;

    /// A client wants the output on or off. [`power_changed`] follows when it is, or [`power_refused`] if it cannot be.
    ///
    /// # Errors
    /// It cannot be.
    fn switch_output(&mut self, client: &Client, output: &Output, on: bool) -> Result<(), String>;
}

/// An object that is valid.
#[derive(Debug)]
struct Control {
    object: OutputPower,
    output: Output,
    /// Its client has asked for another mode, and it is not there yet.
    asked: bool,
}

/// The global, and everything that clients made from it and may use.
#[derive(Debug)]
pub struct OutputPowers {
    global: GlobalId,
    controls: Vec<Control>,
}

impl OutputPowers {
    /// Announces the protocol to each client that `filter` accepts.
    pub fn new<D>(
        display: &DisplayHandle,
        filter: impl Fn(&Client) -> bool + Send + Sync + 'static,
    ) -> Self
    where
        D: GlobalDispatch<OutputPowerManager, CaptureGlobalData> + 'static,
    {
        Self {
            global: announce::<D>(display, filter),
            controls: Vec::new(),
        }
    }

    /// Announces it anew, and gives the old global, to be taken away.
    pub fn announce_again<D>(
        &mut self,
        display: &DisplayHandle,
        filter: impl Fn(&Client) -> bool + Send + Sync + 'static,
    ) -> GlobalId
    where
        D: GlobalDispatch<OutputPowerManager, CaptureGlobalData> + 'static,
    {
        std::mem::replace(&mut self.global, announce::<D>(display, filter))
    }

    /// How many objects are valid, for leak tests.
    pub fn count(&self) -> usize {
        self.controls.len()
    }

    /// These objects are worth nothing any more, and are told so.
    fn fail(&mut self, which: impl Fn(&Control) -> bool) {
        for control in self.controls.extract_if(.., |control| which(control)) {
            control.object.failed();
        }
    }
}

fn announce<D>(
    display: &DisplayHandle,
    filter: impl Fn(&Client) -> bool + Send + Sync + 'static,
) -> GlobalId
where
    D: GlobalDispatch<OutputPowerManager, CaptureGlobalData> + 'static,
{
    display.create_global::<D, OutputPowerManager, _>(1, CaptureGlobalData::new(filter))
}

fn mode_of(on: bool) -> zwlr_output_power_v1::Mode {
    match on {
        true => zwlr_output_power_v1::Mode::On,
        false => zwlr_output_power_v1::Mode::Off,
    }
}

/// The output is on, or off, now: whoever looks is told.
pub fn power_changed<D: OutputPowerHandler>(state: &mut D, output: &Output, on: bool) {
    let controls = &mut state.output_powers().controls;
    for control in controls.iter_mut().filter(|c| c.output == *output) {
        control.asked = false;
        control.object.mode(mode_of(on));
    }
}

/// What was asked for last cannot be done: who asked is told.
pub fn power_refused<D: OutputPowerHandler>(state: &mut D, output: &Output) {
    let powers = state.output_powers();
    powers.fail(|control| control.output == *output && control.asked);
}

/// The output goes away.
pub fn output_gone<D: OutputPowerHandler>(state: &mut D, output: &Output) {
    let powers = state.output_powers();
    powers.fail(|control| control.output == *output);
}

/// The rights of clients changed: what those have who may no longer is worth nothing.
pub fn rights_changed<D: OutputPowerHandler>(state: &mut D) {
    let controls = state.output_powers().controls.iter();
    let clients: Vec<_> = controls.filter_map(|c| c.object.client()).collect();
    let losers = clients
        .into_iter()
        .filter(|client| !state.may_switch_outputs(client));
    let lost: HashSet<ClientId> = losers.map(|client| client.id()).collect();
    let of_loser = |control: &Control| {
        let client = control.object.client();
        client.is_none_or(|client| lost.contains(&client.id()))
    };
    state.output_powers().fail(of_loser);
}

impl<D> GlobalDispatch<OutputPowerManager, CaptureGlobalData, D> for OutputPowers
where
    D: GlobalDispatch<OutputPowerManager, CaptureGlobalData> + Dispatch<OutputPowerManager, ()>,
{
    fn bind(
        _state: &mut D,
        _display: &DisplayHandle,
        _client: &Client,
        resource: New<OutputPowerManager>,
        _data: &CaptureGlobalData,
        data_init: &mut DataInit<'_, D>,
    ) {
        data_init.init(resource, ());
    }

    fn can_view(client: Client, data: &CaptureGlobalData) -> bool {
        data.allows(&client)
    }
}

impl<D> Dispatch<OutputPowerManager, (), D> for OutputPowers
where
    D: OutputPowerHandler + Dispatch<OutputPowerManager, ()> + Dispatch<OutputPower, ()>,
{
    fn request(
        state: &mut D,
        client: &Client,
        _manager: &OutputPowerManager,
        request: zwlr_output_power_manager_v1::Request,
        _data: &(),
        _display: &DisplayHandle,
        data_init: &mut DataInit<'_, D>,
    ) {
        // All else, also in versions that are never announced, needs no answer.
        let zwlr_output_power_manager_v1::Request::GetOutputPower { id, output } = request else {
            return;
        };
        let object = data_init.init(id, ());
        let output = Output::from_resource(&output).filter(|_| state.may_switch_outputs(client));
        let on = output
            .as_ref()
            .and_then(|output| state.is_output_on(output));
        let (Some(output), Some(on)) = (output, on) else {
            return object.failed();
        };
        object.mode(mode_of(on));
        state.output_powers().controls.push(Control {
            object,
            output,
            asked: false,
        });
    }
}

impl<D> Dispatch<OutputPower, (), D> for OutputPowers
where
    D: OutputPowerHandler + Dispatch<OutputPower, ()>,
{
    fn request(
        state: &mut D,
        client: &Client,
        object: &OutputPower,
        request: zwlr_output_power_v1::Request,
        _data: &(),
        _display: &DisplayHandle,
        _data_init: &mut DataInit<'_, D>,
    ) {
        let zwlr_output_power_v1::Request::SetMode { mode } = request else {
            return;
        };
        let on = match mode {
            WEnum::Value(zwlr_output_power_v1::Mode::On) => true,
            WEnum::Value(zwlr_output_power_v1::Mode::Off) => false,
            other => {
                let (error, text) = (
                    zwlr_output_power_v1::Error::InvalidMode,
                    format!("there is no power mode {other:?}"),
                );
                return object.post_error(error, text);
            }
        };
        // An object that was told that it failed asks in vain.
        let controls = state.output_powers().controls.iter();
        let output = controls
            .filter(|control| control.object == *object)
            .map(|control| control.output.clone())
            .next();
        let Some(output) = output else { return };
        let switched = state.switch_output(client, &output, on);
        let is_there = state.is_output_on(&output) == Some(on);
        let powers = state.output_powers();
        match switched {
            Ok(()) => {
                let mine = powers.controls.iter_mut().find(|c| c.object == *object);
                if let Some(mine) = mine {
                    mine.asked = !is_there;
                }
            }
            Err(_) => powers.fail(|control| control.object == *object),
        }
    }

    fn destroyed(state: &mut D, _client: ClientId, object: &OutputPower, _data: &()) {
        let controls = &mut state.output_powers().controls;
        controls.retain(|control| control.object != *object);
    }
}

/// Lets [`OutputPowers`] serve wlr-output-power-management for a state that implements [`OutputPowerHandler`].
#[macro_export]
macro_rules! delegate_output_powers {
    ($ty:ty) => {
        ::wayland_server::delegate_global_dispatch!($ty: [
            $crate::protocols::wlr_output_power::OutputPowerManager:
                $crate::protocols::CaptureGlobalData
        ] => $crate::protocols::wlr_output_power::OutputPowers);
        ::wayland_server::delegate_dispatch!($ty: [
            $crate::protocols::wlr_output_power::OutputPowerManager: ()
        ] => $crate::protocols::wlr_output_power::OutputPowers);
        ::wayland_server::delegate_dispatch!($ty: [
            $crate::protocols::wlr_output_power::OutputPower: ()
        ] => $crate::protocols::wlr_output_power::OutputPowers);
    };
}
