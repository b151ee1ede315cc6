//! The list of windows for clients (ext-foreign-toplevel-list).
//!
//! The list follows the windows that are mapped; once per turn of the loop it is compared with them. `window_capture` draws
//! those that are captured.

use std::sync::Arc;

use smithay::{
    desktop::Window,
    reexports::{
        wayland_protocols::ext::foreign_toplevel_list::v1::server::{
            ext_foreign_toplevel_handle_v1::ExtForeignToplevelHandleV1,
            ext_foreign_toplevel_list_v1::ExtForeignToplevelListV1,
        },
        wayland_server::{
            backend::GlobalId, delegate_dispatch, Client, DataInit, Dispatch, DisplayHandle,
            GlobalDispatch, New, Resource,
        },
    },
    wayland::{
        compositor::with_states,
        foreign_toplevel_list::{
            ForeignToplevelHandle, ForeignToplevelListGlobalData, ForeignToplevelListHandler,
            ForeignToplevelListState,
        },
        shell::xdg::XdgToplevelSurfaceData,
    },
};

use super::{window_capture::WindowCapture, Vitrine};
use crate::{
    ipc::wire::WindowReport,
    metrics::WindowTotals,
    protocols::{self, CaptureHandler},
};

/// The windows that clients were told of.
#[derive(Debug)]
pub struct Toplevels {
    list: ForeignToplevelListState,
    /// The list's present global.
    global: GlobalId,
    pub(super) windows: Vec<Toplevel>,
    /// The number of the last picture of any window.
    pub(super) last_job: u64,
    /// What captures did that have ended.
    pub(super) past: WindowTotals,
}

#[derive(Debug)]
pub(super) struct Toplevel {
    pub(super) window: Window,
    handle: ForeignToplevelHandle,
    pub(super) identifier: Arc<str>,
    title: String,
    app_id: String,
    pub(super) capture: Option<WindowCapture>,
}

impl Toplevels {
    pub(super) fn new(list: ForeignToplevelListState) -> Self {
        Self {
            global: list.global(),
            list,
            windows: Vec::new(),
            last_job: 0,
            past: WindowTotals::default(),
        }
    }

    pub(super) fn find(&mut self, identifier: &str) -> Option<&mut Toplevel> {
        self.windows
            .iter_mut()
            .find(|known| *known.identifier == *identifier)
    }
}

impl ForeignToplevelListHandler for Vitrine {
    fn foreign_toplevel_list_state(&mut self) -> &mut ForeignToplevelListState {
        &mut self.toplevels.list
    }
}

/// Title and app id as the client has set them.
fn names_of(window: &Window) -> (String, String) {
    let names = window.toplevel().and_then(|toplevel| {
        with_states(toplevel.wl_surface(), |states| {
            let data = states.data_map.get::<XdgToplevelSurfaceData>()?;
            let data = data.lock().ok()?;
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            Some((text(&data.title), text(&data.app_id)))
        })
    });
    names.unwrap_or_default()
}

impl Vitrine {
    /// Announces the list anew, to each client that `filter` accepts, and gives the old global, to be taken away. Lists that
    /// clients have go on.
    pub(super) fn announce_toplevels_again(
        &mut self,
        filter: impl Fn(&Client) -> bool + Send + Sync + 'static,
    ) -> GlobalId {
        // Whoever binds it gets the windows of the list that there is: all that this one is made for is its global.
        let other = ForeignToplevelListState::new_with_filter::<Vitrine>(&self.display, filter);
        std::mem::replace(&mut self.toplevels.global, other.global())
    }

    /// The lists of clients that may no longer capture end: they are told of no window any more.
    pub(super) fn end_toplevel_lists(&mut self) {
        let backend = self.display.backend_handle();
        let mut clients = Vec::new();
        backend.with_all_clients(|client| clients.push(client));
        let mut objects = Vec::new();
        for client in clients {
            // The client may be gone by now.
            let _ = backend.with_all_objects_for(client, |object| {
                if object.interface().name == ExtForeignToplevelListV1::interface().name {
                    objects.push(object);
                }
            });
        }
        for object in objects {
            let Ok(list) = ExtForeignToplevelListV1::from_id(&self.display, object) else {
                continue;
            };
            let Some(client) = list.client().filter(|client| !self.may_capture(client)) else {
                continue;
            };
            for handle in self.toplevel_handles() {
                for toplevel in handle.resources_for_client(&client) {
                    toplevel.closed();
                    forget_handle(self, &client, &toplevel, &handle);
                }
            }
            forget_list(self, &client, &list);
            list.finished();
        }
    }

    fn toplevel_handles(&self) -> Vec<ForeignToplevelHandle> {
        let windows = self.toplevels.windows.iter();
        windows.map(|known| known.handle.clone()).collect()
    }

    /// Tells clients which windows came, went or have another name.
    pub(super) fn refresh_toplevels(&mut self) {
        let mapped: Vec<Window> = self.shell.space.elements().cloned().collect();
        let (stay, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.toplevels.windows)
            .into_iter()
            .partition(|known| mapped.contains(&known.window));
        self.toplevels.windows = stay;
        for known in gone {
            if let Some(report) = known.report() {
                self.toplevels.past.add(&report);
            }
            protocols::toplevel_gone(self, &known.identifier);
            self.toplevels.list.remove_toplevel(&known.handle);
        }
        for window in mapped {
            let (title, app_id) = names_of(&window);
            let known = &mut self.toplevels.windows;
            if let Some(known) = known.iter_mut().find(|known| known.window == window) {
                known.rename(title, app_id);
                continue;
            }
            let list = &mut self.toplevels.list;
            let handle = list.new_toplevel::<Vitrine>(&title, &app_id);
            self.toplevels.windows.push(Toplevel {
                window,
                identifier: handle.identifier().into(),
                handle,
                title,
                app_id,
                capture: None,
            });
        }
    }
}

impl Toplevel {
    /// What its capture does, if there is one.
    pub(super) fn report(&self) -> Option<WindowReport> {
        let stats = self.capture.as_ref()?.stats();
        Some(WindowReport {
            identifier: self.identifier.to_string(),
            app_id: self.app_id.clone(),
            title: self.title.clone(),
            frames: stats.frames,
            held: stats.held,
            copies: stats.copies,
            gpu_copies: stats.gpu_copies,
            copied_bytes: stats.copied_bytes,
        })
    }

    fn rename(&mut self, title: String, app_id: String) {
        if self.title == title && self.app_id == app_id {
            return;
        }
        self.handle.send_title(&title);
        self.handle.send_app_id(&app_id);
        self.handle.send_done();
        self.title = title;
        self.app_id = app_id;
    }
}

/// For Smithay the object is gone: it sends no more through it.
fn forget_list(state: &mut Vitrine, client: &Client, list: &ExtForeignToplevelListV1) {
    <ForeignToplevelListState as Dispatch<ExtForeignToplevelListV1, (), Vitrine>>::destroyed(
        state,
        client.id(),
        list,
        &(),
    );
}

/// The same for a window's object.
fn forget_handle(
    state: &mut Vitrine,
    client: &Client,
    toplevel: &ExtForeignToplevelHandleV1,
    handle: &ForeignToplevelHandle,
) {
    <ForeignToplevelListState as Dispatch<
        ExtForeignToplevelHandleV1,
        ForeignToplevelHandle,
        Vitrine,
    >>::destroyed(state, client.id(), toplevel, handle);
}

/// As Smithay's own, but who binds a global that is being taken away because the right is gone gets a list that has ended.
impl GlobalDispatch<ExtForeignToplevelListV1, ForeignToplevelListGlobalData> for Vitrine {
    fn bind(
        state: &mut Self,
        display: &DisplayHandle,
        client: &Client,
        resource: New<ExtForeignToplevelListV1>,
        data: &ForeignToplevelListGlobalData,
        data_init: &mut DataInit<'_, Self>,
    ) {
        if state.may_capture(client) {
            <ForeignToplevelListState as GlobalDispatch<_, _, Self>>::bind(
                state, display, client, resource, data, data_init,
            );
        } else {
            data_init.init(resource, ()).finished();
        }
    }

    fn can_view(client: Client, data: &ForeignToplevelListGlobalData) -> bool {
        <ForeignToplevelListState as GlobalDispatch<ExtForeignToplevelListV1, _, Self>>::can_view(
            client, data,
        )
    }
}

delegate_dispatch!(Vitrine: [ExtForeignToplevelListV1: ()] => ForeignToplevelListState);
delegate_dispatch!(Vitrine: [ExtForeignToplevelHandleV1: ForeignToplevelHandle] => ForeignToplevelListState);
