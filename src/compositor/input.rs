//! What `input/` asks of the state, and the libinput source with its pauses.

use smithay::{
    backend::{input::InputEvent, session::Session},
    input::{pointer::CursorImageStatus, Seat},
    reexports::{
        input::{
            event::{DeviceEvent, EventTrait},
            Event, Libinput,
        },
        wayland_server::protocol::wl_surface::WlSurface,
    },
    utils::{Logical, Point, Serial},
};

use super::{Backend, Vitrine};
use crate::input::{self, Input, InputHost, OutputArea};

impl InputHost for Vitrine {
    fn input(&mut self) -> &mut Input {
        &mut self.input
    }

    fn seat(&self) -> Seat<Self> {
        self.seat.clone()
    }

    fn output_areas(&self) -> Vec<OutputArea> {
        let outputs = self.shell.space.outputs();
        outputs
            .filter_map(|output| {
                let area = self.shell.space.output_geometry(output)?;
                Some(OutputArea {
                    name: output.name(),
                    area,
                    transform: output.current_transform(),
                })
            })
            .collect()
    }

    fn surface_under(
        &self,
        location: Point<f64, Logical>,
    ) -> Option<(WlSurface, Point<f64, Logical>)> {
        self.shell.surface_under(location)
    }

    fn focus_clicked(&mut self, surface: &WlSurface, _serial: Serial) {
        if let Some(curtain) = self.shell.curtain_mut() {
            curtain.prefer(surface);
        } else if self.shell.raise(surface) {
            self.scene_changed();
        }
        self.focus_top();
    }

    fn finger_down(&mut self, surface: Option<&WlSurface>) {
        self.close_menus_beside(surface);
    }

    fn device_goes(&mut self) {
        self.close_menus();
    }

    fn keyboard_added(&mut self) {
        self.focus_top();
    }

    fn pointer_moved(&mut self) {
        self.cursor_changed();
    }

    fn activity(&mut self) {}

    fn change_vt(&mut self, vt: i32) {
        if let Some(backend) = self.backend.as_mut() {
            if let Err(error) = backend.session.change_vt(vt) {
                tracing::warn!(target: "vitrine::session", vt, %error, "cannot switch to this terminal");
            }
        }
    }

    fn terminate(&mut self) {
        // Whoever is in front of a locked session may not end it either: what comes after it may be an open one.
        if self.shell.curtain().is_some() {
            tracing::info!(target: "vitrine::compositor", "the session is locked: the key that ends it does nothing");
            return;
        }
        Vitrine::terminate(self);
    }
}

impl Vitrine {
    /// Opens the seat's input devices. A seat without any is fine: they may come later.
    pub(super) fn start_input(&mut self, backend: &Backend) -> anyhow::Result<()> {
        let (source, context) = input::open(backend.session.clone())?;
        self.event_loop
            .insert_source(source, |event, (), state| input::handle(state, event))
            .map_err(|error| anyhow::anyhow!("libinput cannot be watched: {error}"))?;
        self.libinput = Some(context);
        self.take_devices();
        Ok(())
    }

    /// Devices that libinput found or lost by itself, at its start, at a pause or a resume: it keeps these events without
    /// making its descriptor readable, so that the event loop would not see them before somebody touches a device.
    fn take_devices(&mut self) {
        let Some(mut context) = self.libinput.clone() else {
            return;
        };
        if let Err(error) = context.dispatch() {
            tracing::error!(target: "vitrine::input", %error, "the input devices cannot be read");
        }
        for event in &mut context {
            match event {
                Event::Device(DeviceEvent::Added(event)) => {
                    let device = event.device();
                    input::handle(self, InputEvent::DeviceAdded { device });
                }
                Event::Device(DeviceEvent::Removed(event)) => {
                    let device = event.device();
                    input::handle(self, InputEvent::DeviceRemoved { device });
                }
                _ => {}
            }
        }
    }

    pub(super) fn pause_input(&mut self) {
        if let Some(context) = self.libinput.as_ref() {
            context.suspend();
        }
        self.take_devices();
    }

    pub(super) fn resume_input(&mut self) {
        let resumed = self.libinput.as_mut().map(Libinput::resume);
        if let Some(Err(())) = resumed {
            tracing::error!(target: "vitrine::input", "the input devices did not come back; they will when replugged");
        }
        self.take_devices();
    }

    /// Where the pointer is and what it looks like; `None` when there is no pointer or it is hidden.
    pub(super) fn pointer_look(&self) -> Option<(Point<f64, Logical>, CursorImageStatus)> {
        let pointer = self.seat.get_pointer()?;
        match &self.cursor {
            CursorImageStatus::Hidden => None,
            look @ (CursorImageStatus::Named(_) | CursorImageStatus::Surface(_)) => {
                Some((pointer.current_location(), look.clone()))
            }
        }
    }
}
