//! Outputs as a client sees them: wl_output and xdg_output.

use wayland_client::{
    protocol::{wl_output, wl_registry},
    Connection, Dispatch, Proxy, QueueHandle, WEnum,
};
use wayland_protocols::xdg::xdg_output::zv1::client::{zxdg_output_manager_v1, zxdg_output_v1};

use super::connect::{Client, ClientError, State};

/// An output and what the compositor says of it.
#[derive(Debug, Clone)]
pub struct OutputInfo {
    /// The registry's number.
    pub global: u32,
    /// The object.
    pub proxy: wl_output::WlOutput,
    /// Name of the connector (wl_output 4 or xdg_output), empty if never told.
    pub name: String,
    /// Human readable description.
    pub description: String,
    /// Width and height of the current mode in pixels, untransformed.
    pub mode: (u32, u32),
    /// Refresh of the current mode in mHz.
    pub refresh: u32,
    /// Transform as wl_output counts it.
    pub transform: u32,
    /// Integer scale.
    pub scale: i32,
    /// Logical position, from xdg_output.
    pub logical_position: (i32, i32),
    /// Logical size, from xdg_output.
    pub logical_size: (i32, i32),
    /// How many times `done` was sent.
    pub done: u32,
    /// The global is gone.
    pub gone: bool,
}

impl State {
    pub(super) fn output_announced(
        &mut self,
        registry: &wl_registry::WlRegistry,
        global: u32,
        version: u32,
        qh: &QueueHandle<Self>,
    ) {
        let proxy = registry.bind(global, version.min(4), qh, global);
        self.outputs.push(OutputInfo {
            global,
            proxy,
            name: String::new(),
            description: String::new(),
            mode: (0, 0),
            refresh: 0,
            transform: 0,
            scale: 1,
            logical_position: (0, 0),
            logical_size: (0, 0),
            done: 0,
            gone: false,
        });
    }

    pub(super) fn output_removed(&mut self, global: u32) {
        if let Some(output) = self.output_of(global) {
            output.gone = true;
        }
    }

    /// The newest of that number: a compositor may give the number of an output that is long gone to a new one.
    fn output_of(&mut self, global: u32) -> Option<&mut OutputInfo> {
        self.outputs
            .iter_mut()
            .rev()
            .find(|output| output.global == global)
    }
}

impl Client {
    pub(super) fn learn_outputs(&mut self) -> Result<(), ClientError> {
        if self.version_of("zxdg_output_manager_v1").is_some() {
            let manager: zxdg_output_manager_v1::ZxdgOutputManagerV1 = self.bind(3, ())?;
            for output in &self.state.outputs {
                manager.get_xdg_output(&output.proxy, &self.qh, output.global);
            }
        }
        self.roundtrip()
    }

    /// The outputs that are there now.
    pub fn outputs(&self) -> Vec<OutputInfo> {
        self.state
            .outputs
            .iter()
            .filter(|output| !output.gone)
            .cloned()
            .collect()
    }

    /// The output with this name, or the first one for None.
    pub fn output(&self, name: Option<&str>) -> Result<OutputInfo, ClientError> {
        let outputs = self.outputs();
        let found = outputs
            .iter()
            .find(|output| name.is_none_or(|name| output.name == name));
        found.cloned().ok_or_else(|| {
            let names: Vec<_> = outputs.iter().map(|output| output.name.as_str()).collect();
            ClientError::Missing(format!("output {name:?}; there are {names:?}"))
        })
    }
}

impl Dispatch<wl_output::WlOutput, u32> for State {
    fn event(
        state: &mut Self,
        _: &wl_output::WlOutput,
        event: wl_output::Event,
        global: &u32,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        let Some(output) = state.output_of(*global) else {
            return;
        };
        match event {
            wl_output::Event::Mode {
                flags,
                width,
                height,
                refresh,
            } => {
                let current = match flags {
                    WEnum::Value(flags) => flags.contains(wl_output::Mode::Current),
                    WEnum::Unknown(_) => false,
                };
                if current {
                    output.mode = (width.max(0) as u32, height.max(0) as u32);
                    output.refresh = refresh.max(0) as u32;
                }
            }
            wl_output::Event::Geometry { transform, .. } => output.transform = transform.into(),
            wl_output::Event::Scale { factor } => output.scale = factor,
            wl_output::Event::Name { name } => output.name = name,
            wl_output::Event::Description { description } => output.description = description,
            wl_output::Event::Done => output.done += 1,
            _ => {}
        }
    }
}

impl Dispatch<zxdg_output_v1::ZxdgOutputV1, u32> for State {
    fn event(
        state: &mut Self,
        _: &zxdg_output_v1::ZxdgOutputV1,
        event: zxdg_output_v1::Event,
        global: &u32,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        let Some(output) = state.output_of(*global) else {
            return;
        };
        match event {
            zxdg_output_v1::Event::LogicalPosition { x, y } => output.logical_position = (x, y),
            zxdg_output_v1::Event::LogicalSize { width, height } => {
                output.logical_size = (width, height);
            }
            zxdg_output_v1::Event::Name { name } => output.name = name,
            zxdg_output_v1::Event::Description { description } => output.description = description,
            _ => {}
        }
    }
}

wayland_client::delegate_noop!(State: ignore zxdg_output_manager_v1::ZxdgOutputManagerV1);
