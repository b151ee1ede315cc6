//! A client's window with every request in the test's own hands, where `clients::Painter` decides too much.

use std::sync::{
    atomic::{AtomicBool, Ordering},
    Arc, Mutex,
};

use wayland_client::{
    delegate_noop,
    protocol::{wl_compositor, wl_subcompositor, wl_subsurface, wl_surface},
    Connection, Dispatch, QueueHandle,
};
use wayland_protocols::{
    wp::{
        single_pixel_buffer::v1::client::wp_single_pixel_buffer_manager_v1,
        viewporter::client::{wp_viewport, wp_viewporter},
    },
    xdg::shell::client::{xdg_popup, xdg_positioner, xdg_surface, xdg_toplevel, xdg_wm_base},
};

use crate::clients::{
    buffers::XRGB8888,
    painter::ShellRecord,
    presentation::{Presentation, Shown},
    Buffer, Client, MemoryKind, Picture, State,
};

pub type Shell = Arc<Mutex<ShellRecord>>;

/// A surface and the memory of what it shows.
pub struct Surface {
    pub proxy: wl_surface::WlSurface,
    pub shell: Shell,
    buffers: Vec<Buffer>,
    presentation: Presentation,
}

/// A surface without a role.
pub fn surface(client: &Client) -> Surface {
    let compositor: wl_compositor::WlCompositor = client.bind(6, ()).unwrap();
    let shell = Shell::default();
    let proxy = compositor.create_surface(&client.qh, Some(Arc::clone(&shell)));
    let presentation = Presentation::new(client).unwrap();
    Surface {
        proxy,
        shell,
        buffers: Vec::new(),
        presentation,
    }
}

impl Surface {
    /// Attaches a picture in a buffer of its own, all of it damaged.
    pub fn attach(&mut self, client: &mut Client, picture: &Picture) {
        let (width, height) = (picture.width, picture.height);
        let mut buffer = Buffer::new(client, MemoryKind::Shm, width, height, XRGB8888).unwrap();
        let stride = buffer.stride;
        buffer.write(|bytes| picture.to_lines(bytes, stride));
        self.attach_buffer(buffer);
    }

    /// Attaches a buffer, all of it damaged.
    pub fn attach_buffer(&mut self, buffer: Buffer) {
        self.proxy.attach(Some(&buffer.proxy), 0, 0);
        self.proxy.damage_buffer(0, 0, i32::MAX, i32::MAX);
        self.buffers.push(buffer);
    }

    /// The buffer attached last.
    pub fn buffer(&self) -> &Buffer {
        self.buffers.last().unwrap()
    }

    /// Commits and waits until that is on the screen.
    #[track_caller]
    pub fn commit_shown(&mut self, client: &mut Client) {
        match self.commit_answered(client) {
            Shown::Presented { .. } => {}
            other => panic!("the commit was not shown: {other:?}"),
        }
    }

    /// Commits and waits for the presentation feedback.
    #[track_caller]
    pub fn commit_answered(&mut self, client: &mut Client) -> Shown {
        let index = self.presentation.note(client, &self.proxy, 0);
        self.proxy.commit();
        let presentation = &self.presentation;
        let shown =
            client.wait_for(
                "presentation feedback",
                client.patience(),
                |_| match presentation.shown(index) {
                    Shown::Waiting => None,
                    shown => Some(shown),
                },
            );
        shown.unwrap()
    }

    /// Commits with a frame callback and waits for it.
    #[track_caller]
    pub fn commit_and_wait_frame(&mut self, client: &mut Client) {
        let done = Arc::new(AtomicBool::new(false));
        self.proxy.frame(&client.qh, Arc::clone(&done));
        self.proxy.commit();
        let done = || done.load(Ordering::Relaxed).then_some(());
        client
            .wait_for("a frame callback", client.patience(), |_| done())
            .unwrap();
    }
}

/// A toplevel.
pub struct Window {
    pub surface: Surface,
    pub xdg: xdg_surface::XdgSurface,
    pub toplevel: xdg_toplevel::XdgToplevel,
    pub wm_base: xdg_wm_base::XdgWmBase,
}

impl Window {
    /// With its role, before the initial commit.
    pub fn new(client: &Client) -> Self {
        let surface = surface(client);
        let wm_base: xdg_wm_base::XdgWmBase = client.bind(5, ()).unwrap();
        let xdg = wm_base.get_xdg_surface(&surface.proxy, &client.qh, Arc::clone(&surface.shell));
        let toplevel = xdg.get_toplevel(&client.qh, Arc::clone(&surface.shell));
        Self {
            surface,
            xdg,
            toplevel,
            wm_base,
        }
    }

    /// Makes the initial commit and acknowledges the configure; gives the size in it.
    #[track_caller]
    pub fn configure(&mut self, client: &mut Client) -> (u32, u32) {
        self.surface.proxy.commit();
        self.acknowledge(client)
    }

    /// Waits for a configure and acknowledges it; gives the size in it.
    #[track_caller]
    pub fn acknowledge(&mut self, client: &mut Client) -> (u32, u32) {
        let shell = Arc::clone(&self.surface.shell);
        let serial = client.wait_for("a configure", client.patience(), |_| {
            shell.lock().unwrap().pending.take()
        });
        self.xdg.ack_configure(serial.unwrap());
        let size = shell.lock().unwrap().size;
        size
    }

    /// What the shell said so far.
    pub fn record(&self) -> ShellRecord {
        self.surface.shell.lock().unwrap().clone()
    }

    /// A window that shows a picture, made in one go.
    #[track_caller]
    pub fn showing(client: &mut Client, picture: &Picture) -> Self {
        let mut window = Self::new(client);
        window.configure(client);
        window.show(client, picture);
        window
    }

    /// Shows a picture and waits until it is on the screen.
    #[track_caller]
    pub fn show(&mut self, client: &mut Client, picture: &Picture) {
        self.surface.attach(client, picture);
        self.surface.commit_shown(client);
    }

    /// Destroys the window in the protocol's order.
    pub fn close(self, client: &mut Client) {
        self.toplevel.destroy();
        self.xdg.destroy();
        self.surface.proxy.destroy();
        client.roundtrip().unwrap();
    }
}

/// What a popup was told.
#[derive(Debug, Clone, Default)]
pub struct PopupRecord {
    /// Relative to its parent's window geometry.
    pub geometry: (i32, i32, i32, i32),
    pub done: bool,
    pub repositioned: Option<u32>,
}

/// A popup.
pub struct Popup {
    pub surface: Surface,
    pub xdg: xdg_surface::XdgSurface,
    pub proxy: xdg_popup::XdgPopup,
    pub record: Arc<Mutex<PopupRecord>>,
}

impl Popup {
    /// A popup of this size, anchored by its upper left corner to the lower right one of a 1x1 rectangle at `at`, which
    /// may be flipped and slid into the screen.
    pub fn new(
        client: &mut Client,
        parent: &Window,
        at: (i32, i32),
        (width, height): (i32, i32),
    ) -> Self {
        use xdg_positioner::{Anchor, ConstraintAdjustment as Adjust, Gravity};
        let positioner = parent.wm_base.create_positioner(&client.qh, ());
        positioner.set_size(width, height);
        positioner.set_anchor_rect(at.0, at.1, 1, 1);
        positioner.set_anchor(Anchor::BottomRight);
        positioner.set_gravity(Gravity::BottomRight);
        positioner.set_constraint_adjustment(Adjust::FlipX | Adjust::SlideY);
        let surface = surface(client);
        let xdg =
            parent
                .wm_base
                .get_xdg_surface(&surface.proxy, &client.qh, Arc::clone(&surface.shell));
        let record = Arc::default();
        let proxy = xdg.get_popup(
            Some(&parent.xdg),
            &positioner,
            &client.qh,
            Arc::clone(&record),
        );
        positioner.destroy();
        Self {
            surface,
            xdg,
            proxy,
            record,
        }
    }

    /// Makes the initial commit and waits for its place.
    #[track_caller]
    pub fn configure(&mut self, client: &mut Client) -> (i32, i32, i32, i32) {
        self.surface.proxy.commit();
        let shell = Arc::clone(&self.surface.shell);
        let serial = client.wait_for("a configure", client.patience(), |_| {
            shell.lock().unwrap().pending.take()
        });
        self.xdg.ack_configure(serial.unwrap());
        self.record.lock().unwrap().geometry
    }
}

/// A subsurface.
pub struct Child {
    pub surface: Surface,
    pub role: wl_subsurface::WlSubsurface,
}

/// A subsurface of `parent` at a place, without content.
pub fn child(client: &Client, parent: &wl_surface::WlSurface, (x, y): (i32, i32)) -> Child {
    let subcompositor: wl_subcompositor::WlSubcompositor = client.bind(1, ()).unwrap();
    let surface = surface(client);
    let role = subcompositor.get_subsurface(&surface.proxy, parent, &client.qh, ());
    role.set_position(x, y);
    Child { surface, role }
}

/// The viewport of a surface.
pub fn viewport(client: &Client, surface: &wl_surface::WlSurface) -> wp_viewport::WpViewport {
    let viewporter: wp_viewporter::WpViewporter = client.bind(1, ()).unwrap();
    viewporter.get_viewport(surface, &client.qh, ())
}

/// A buffer of one pixel; components go from 0 to u32::MAX.
pub fn single_pixel(
    client: &Client,
    (r, g, b, a): (u32, u32, u32, u32),
) -> wayland_client::protocol::wl_buffer::WlBuffer {
    let manager: wp_single_pixel_buffer_manager_v1::WpSinglePixelBufferManagerV1 =
        client.bind(1, ()).unwrap();
    manager.create_u32_rgba_buffer(r, g, b, a, &client.qh, Arc::new(AtomicBool::new(false)))
}

/// The fullscreen and activated states as xdg_toplevel counts them.
pub const FULLSCREEN: u32 = 2;
pub const ACTIVATED: u32 = 4;

impl Dispatch<xdg_popup::XdgPopup, Arc<Mutex<PopupRecord>>> for State {
    fn event(
        _: &mut Self,
        _: &xdg_popup::XdgPopup,
        event: xdg_popup::Event,
        record: &Arc<Mutex<PopupRecord>>,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        let mut record = record.lock().unwrap();
        match event {
            xdg_popup::Event::Configure {
                x,
                y,
                width,
                height,
            } => record.geometry = (x, y, width, height),
            xdg_popup::Event::PopupDone => record.done = true,
            xdg_popup::Event::Repositioned { token } => record.repositioned = Some(token),
            _ => {}
        }
    }
}

delegate_noop!(State: ignore xdg_positioner::XdgPositioner);
delegate_noop!(State: ignore wp_viewporter::WpViewporter);
delegate_noop!(State: ignore wp_viewport::WpViewport);
delegate_noop!(State: ignore wp_single_pixel_buffer_manager_v1::WpSinglePixelBufferManagerV1);
