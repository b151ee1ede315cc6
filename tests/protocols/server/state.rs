//! The state that the protocols work on, and what they ask of it.

use std::sync::{
    atomic::{AtomicBool, Ordering},
    Arc,
};

use smithay::{
    backend::allocator::dmabuf::Dmabuf,
    delegate_compositor, delegate_dmabuf, delegate_foreign_toplevel_list, delegate_output,
    delegate_seat,
    input::{Seat, SeatHandler, SeatState},
    output::Output,
    wayland::{
        buffer::BufferHandler,
        compositor::{CompositorClientState, CompositorHandler, CompositorState},
        dmabuf::{DmabufGlobal, DmabufHandler, DmabufState, ImportNotifier},
        foreign_toplevel_list::{
            ForeignToplevelHandle, ForeignToplevelListHandler, ForeignToplevelListState,
        },
        output::OutputHandler,
        shm::{ShmHandler, ShmState},
    },
};
use vitrine::{
    capture::{CopyPool, OutputCapture, PlainMemory},
    delegate_capture_protocols, delegate_guarded_shm,
    protocols::{
        wlr_output_power::OutputPowers, CaptureHandler, CaptureProtocols, CursorView, LoopSender,
    },
    time::Time,
};
use wayland_server::{
    backend::{ClientData, GlobalId},
    protocol::{wl_buffer::WlBuffer, wl_surface::WlSurface},
    Client,
};

use super::power::Power;
use crate::slots::MemorySlot;

/// One screen.
pub(super) struct Screen {
    pub(super) output: Output,
    pub(super) global: GlobalId,
    pub(super) capture: OutputCapture,
    /// What the screen shows.
    pub(super) pixels: Vec<u32>,
    pub(super) size: (i32, i32),
    pub(super) slots: Vec<Arc<MemorySlot>>,
    pub(super) power: Power,
}

/// One window. Its frames have one colour.
pub(super) struct Window {
    pub(super) handle: ForeignToplevelHandle,
    pub(super) identifier: Arc<str>,
    pub(super) capture: OutputCapture,
    pub(super) slots: Vec<Arc<PlainMemory>>,
    pub(super) pixel: u32,
}

/// The compositor's state, as far as this room needs one.
pub(super) struct State {
    pub(super) compositor: CompositorState,
    pub(super) shm: ShmState,
    pub(super) dmabuf: DmabufState,
    pub(super) seats: SeatState<State>,
    pub(super) screens: Vec<Screen>,
    pub(super) pool: CopyPool,
    pub(super) protocols: CaptureProtocols,
    pub(super) sender: LoopSender<State>,
    pub(super) dmabuf_device: Option<u64>,
    /// The pointer: the output that it is on, and how it looks there.
    pub(super) cursor: Option<(usize, CursorView)>,
    pub(super) toplevels: ForeignToplevelListState,
    pub(super) windows: Vec<Window>,
    /// What decisions take for the time. It stands still unless a test lets it pass: how fast the machine is changes nothing.
    pub(super) now: Time,
    pub(super) powers: OutputPowers,
}

impl ForeignToplevelListHandler for State {
    fn foreign_toplevel_list_state(&mut self) -> &mut ForeignToplevelListState {
        &mut self.toplevels
    }
}

impl CaptureHandler for State {
    fn capture_protocols(&mut self) -> &mut CaptureProtocols {
        &mut self.protocols
    }

    fn capture_output(&mut self, output: &Output) -> Option<&mut OutputCapture> {
        let screen = self
            .screens
            .iter_mut()
            .find(|screen| screen.output == *output)?;
        Some(&mut screen.capture)
    }

    fn copy_pool(&self) -> &CopyPool {
        &self.pool
    }

    fn now(&self) -> Time {
        self.now
    }

    // The server polls after each dispatch anyway.
    fn capture_wanted(&mut self, _output: &Output) {}

    fn run_in_loop(&self) -> LoopSender<Self> {
        self.sender.clone()
    }

    fn dmabuf_device(&self) -> Option<u64> {
        self.dmabuf_device
    }

    fn cursor_view(&mut self, output: &Output) -> Option<CursorView> {
        let (nth, view) = self.cursor.as_ref()?;
        (self.screens.get(*nth)?.output == *output).then(|| view.clone())
    }

    fn capture_toplevel(&mut self, identifier: &str) -> Option<&mut OutputCapture> {
        let of = |window: &&mut Window| *window.identifier == *identifier;
        Some(&mut self.windows.iter_mut().find(of)?.capture)
    }

    fn toplevel_wanted(&mut self, _identifier: &str) {}

    fn may_capture(&self, client: &Client) -> bool {
        let data = client.get_data::<Connected>();
        data.is_some_and(|data| !data.denied.load(Ordering::Relaxed))
    }
}

impl BufferHandler for State {
    fn buffer_destroyed(&mut self, _buffer: &WlBuffer) {}
}

impl ShmHandler for State {
    fn shm_state(&self) -> &ShmState {
        &self.shm
    }
}

impl DmabufHandler for State {
    fn dmabuf_state(&mut self) -> &mut DmabufState {
        &mut self.dmabuf
    }

    fn dmabuf_imported(&mut self, _: &DmabufGlobal, _: Dmabuf, notifier: ImportNotifier) {
        let _ = notifier.successful::<State>();
    }
}

impl SeatHandler for State {
    type KeyboardFocus = WlSurface;
    type PointerFocus = WlSurface;
    type TouchFocus = WlSurface;

    fn seat_state(&mut self) -> &mut SeatState<Self> {
        &mut self.seats
    }

    fn cursor_image(&mut self, _: &Seat<Self>, _: smithay::input::pointer::CursorImageStatus) {}
    fn focus_changed(&mut self, _: &Seat<Self>, _: Option<&WlSurface>) {}
}

impl OutputHandler for State {}

impl CompositorHandler for State {
    fn compositor_state(&mut self) -> &mut CompositorState {
        &mut self.compositor
    }

    fn client_compositor_state<'a>(&self, client: &'a Client) -> &'a CompositorClientState {
        &client.get_data::<Connected>().unwrap().compositor
    }

    fn commit(&mut self, _surface: &WlSurface) {}
}

delegate_capture_protocols!(State);
delegate_guarded_shm!(State);
delegate_compositor!(State);
delegate_dmabuf!(State);
delegate_foreign_toplevel_list!(State);
delegate_output!(State);
delegate_seat!(State);

/// What is known of a connected client.
pub(super) struct Connected {
    /// Denied clients do not see the capture globals.
    pub(super) denied: AtomicBool,
    pub(super) compositor: CompositorClientState,
}

impl ClientData for Connected {}
