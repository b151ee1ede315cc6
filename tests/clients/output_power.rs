//! wlr-output-power-management-unstable-v1: a program that switches outputs off and on, as wlopm does.

use std::sync::{Arc, Mutex};

use wayland_client::{Connection, Dispatch, QueueHandle, WEnum};
use wayland_protocols_wlr::output_power_management::v1::client::{
    zwlr_output_power_manager_v1::ZwlrOutputPowerManagerV1 as Manager,
    zwlr_output_power_v1::{self as power_v1, Mode, ZwlrOutputPowerV1 as PowerObject},
};

use super::{
    connect::{Client, ClientError, State},
    output::OutputInfo,
};

/// What an object was told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PowerRecord {
    /// On (true) or off, in order.
    pub modes: Vec<bool>,
    /// `failed` came.
    pub failed: bool,
}

/// The power of one output.
#[derive(Debug)]
pub struct OutputPower {
    /// The object.
    pub proxy: PowerObject,
    record: Arc<Mutex<PowerRecord>>,
}

impl OutputPower {
    /// Asks for an object; what it is told at once is there when this returns.
    pub fn of(client: &mut Client, output: &OutputInfo) -> Result<Self, ClientError> {
        let manager: Manager = client.bind(1, ())?;
        let record = Arc::<Mutex<PowerRecord>>::default();
        let proxy = manager.get_output_power(&output.proxy, &client.qh, Arc::clone(&record));
        manager.destroy();
        client.roundtrip()?;
        Ok(Self { proxy, record })
    }

    /// What it was told so far.
    pub fn record(&self) -> PowerRecord {
        self.record.lock().unwrap().clone()
    }

    /// What it was told last, if it is valid.
    pub fn is_on(&self) -> Option<bool> {
        let record = self.record();
        record.modes.last().copied().filter(|_| !record.failed)
    }

    /// Asks for a mode without waiting.
    pub fn ask(&self, client: &Client, on: bool) -> Result<(), ClientError> {
        self.proxy.set_mode(if on { Mode::On } else { Mode::Off });
        client.flush()
    }

    /// Switches it and waits until it is so, or failed.
    pub fn set(&self, client: &mut Client, on: bool) -> Result<(), ClientError> {
        self.ask(client, on)?;
        client.wait_for("an output's power", client.patience(), |_| {
            let record = self.record();
            (record.failed || record.modes.last() == Some(&on)).then_some(())
        })
    }
}

impl Dispatch<PowerObject, Arc<Mutex<PowerRecord>>> for State {
    fn event(
        _: &mut Self,
        _: &PowerObject,
        event: power_v1::Event,
        record: &Arc<Mutex<PowerRecord>>,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        let mut record = record.lock().unwrap();
        match event {
            power_v1::Event::Mode { mode } => record.modes.push(mode == WEnum::Value(Mode::On)),
            power_v1::Event::Failed => record.failed = true,
            _ => {}
        }
    }
}

wayland_client::delegate_noop!(State: ignore Manager);
