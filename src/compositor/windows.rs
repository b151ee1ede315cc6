//! Surfaces and windows: wl_compositor, xdg-shell and xdg-decoration.

use smithay::{
    backend::renderer::utils::on_commit_buffer_handler,
    delegate_xdg_decoration,
    desktop::PopupKind,
    input::Seat,
    output::Output,
    reexports::{
        wayland_protocols::xdg::decoration::zv1::server::zxdg_toplevel_decoration_v1::Mode,
        wayland_server::{
            protocol::{
                wl_buffer::WlBuffer, wl_output::WlOutput, wl_seat::WlSeat, wl_surface::WlSurface,
            },
            Client, Resource,
        },
    },
    utils::Serial,
    wayland::{
        buffer::BufferHandler,
        compositor::{
            is_sync_subsurface, with_states, CompositorClientState, CompositorHandler,
            CompositorState,
        },
        shell::xdg::{
            decoration::XdgDecorationHandler, PopupSurface, PositionerState, ToplevelSurface,
            XdgPopupSurfaceData, XdgShellHandler, XdgShellState, XdgToplevelSurfaceData,
        },
    },
};

use super::{acquire, ClientState, Vitrine};
use crate::{
    protocols::{bound_committed_damage, end_for_memory},
    shell::popup_root,
};

/// So many answers of ours to one window may wait to be acknowledged. Smithay keeps them until then, and a client that
/// reads them is not stopped by its buffer.
const MAX_UNHEARD: usize = 1000;

impl CompositorHandler for Vitrine {
    fn compositor_state(&mut self) -> &mut CompositorState {
        &mut self.globals.compositor
    }

    #[allow(
        clippy::expect_used,
        reason = "every client is inserted by add_client_from with this data"
    )]
    fn client_compositor_state<'a>(&self, client: &'a Client) -> &'a CompositorClientState {
        &client
            .get_data::<ClientState>()
            .expect("inserted by add_client_from")
            .compositor
    }

    fn new_surface(&mut self, surface: &WlSurface) {
        if let Some(client) = surface.client() {
            self.listening.draws(&client.id());
        }
        acquire::watch_commits(surface);
    }

    fn destroyed(&mut self, surface: &WlSurface) {
        self.forget_commits(surface);
        // A subsurface goes without a commit of anybody.
        self.scene_changed();
    }

    fn commit(&mut self, surface: &WlSurface) {
        bound_committed_damage(surface);
        on_commit_buffer_handler::<Self>(surface);
        if is_sync_subsurface(surface) {
            return;
        }
        if self.shell.commit(surface) {
            self.focus_top();
        }
        self.surface_changed(surface);
    }
}

impl BufferHandler for Vitrine {
    fn buffer_destroyed(&mut self, _buffer: &WlBuffer) {
        // What the renderer made of it goes later in this turn: now the buffer's data is still there.
        self.buffers_died = true;
    }
}

impl XdgShellHandler for Vitrine {
    fn xdg_shell_state(&mut self) -> &mut XdgShellState {
        &mut self.globals.xdg_shell
    }

    fn new_toplevel(&mut self, surface: ToplevelSurface) {
        self.shell.add_toplevel(surface);
    }

    fn toplevel_destroyed(&mut self, surface: ToplevelSurface) {
        self.shell.remove_toplevel(&surface);
        self.focus_top();
        self.scene_changed();
    }

    fn new_popup(&mut self, surface: PopupSurface, positioner: PositionerState) {
        self.shell.add_popup(surface, positioner);
    }

    fn popup_destroyed(&mut self, _surface: PopupSurface) {
        self.scene_changed();
    }

    fn reposition_request(
        &mut self,
        surface: PopupSurface,
        positioner: PositionerState,
        token: u32,
    ) {
        if !self.may_ask(surface.wl_surface()) {
            return;
        }
        self.shell.place_popup(&surface, positioner);
        surface.send_repositioned(token);
    }

    fn grab(&mut self, surface: PopupSurface, seat: WlSeat, serial: Serial) {
        let Some(seat) = Seat::<Vitrine>::from_resource(&seat) else {
            return;
        };
        let Some(root) = popup_root(&surface) else {
            return;
        };
        self.grab_popup(PopupKind::Xdg(surface), root, &seat, serial);
    }

    fn parent_changed(&mut self, surface: ToplevelSurface) {
        self.shell.place_again(&surface);
        self.scene_changed();
    }

    fn fullscreen_request(&mut self, surface: ToplevelSurface, output: Option<WlOutput>) {
        let output = output.as_ref().and_then(Output::from_resource);
        self.wish_output(&surface, output);
        self.scene_changed();
    }

    fn unfullscreen_request(&mut self, surface: ToplevelSurface) {
        // A kiosk's windows stay full screen; the answer says so.
        self.wish_output(&surface, None);
    }

    fn maximize_request(&mut self, surface: ToplevelSurface) {
        self.wish_output(&surface, None);
    }

    fn unmaximize_request(&mut self, surface: ToplevelSurface) {
        self.wish_output(&surface, None);
    }
}

impl Vitrine {
    fn wish_output(&mut self, surface: &ToplevelSurface, output: Option<Output>) {
        if self.may_ask(surface.wl_surface()) {
            self.shell.wish_output(surface, output);
        }
    }

    /// Whether a window asks for something and is to be answered; ends a client that has never heard a thousand answers.
    fn may_ask(&self, surface: &WlSurface) -> bool {
        if unheard(surface) < MAX_UNHEARD {
            return true;
        }
        if let Some(client) = surface.client() {
            end_for_memory(
                &self.display,
                &client,
                "more than 1000 configures of a window wait to be acknowledged",
            );
        }
        false
    }
}

/// How many configures of this window or popup wait to be acknowledged.
fn unheard(surface: &WlSurface) -> usize {
    with_states(surface, |states| {
        let toplevel = states.data_map.get::<XdgToplevelSurfaceData>();
        let popup = states.data_map.get::<XdgPopupSurfaceData>();
        let of_toplevel = toplevel
            .and_then(|data| data.lock().ok())
            .map(|data| data.pending_configures().len());
        let of_popup = popup
            .and_then(|data| data.lock().ok())
            .map(|data| data.pending_configures().len());
        of_toplevel.or(of_popup).unwrap_or_default()
    })
}

impl XdgDecorationHandler for Vitrine {
    fn new_decoration(&mut self, toplevel: ToplevelSurface) {
        self.request_mode(toplevel, Mode::ServerSide);
    }

    fn request_mode(&mut self, toplevel: ToplevelSurface, _mode: Mode) {
        // Full-screen windows have no borders; "server side" makes clients draw none.
        toplevel.with_pending_state(|state| state.decoration_mode = Some(Mode::ServerSide));
        if toplevel.is_initial_configure_sent() && self.may_ask(toplevel.wl_surface()) {
            toplevel.send_configure();
        }
    }

    fn unset_mode(&mut self, toplevel: ToplevelSurface) {
        self.request_mode(toplevel, Mode::ServerSide);
    }
}

crate::delegate_guarded_surfaces!(Vitrine);
delegate_xdg_decoration!(Vitrine);
