//! The list of windows for clients (ext-foreign-toplevel-list), and captures of single windows.
//!
//! The list follows the windows that are mapped; once per turn of the loop it is compared with them. A window is drawn
//! into memory only while somebody captures it, and only when a frame is due.

use std::{sync::Arc, time::Duration};

use drm_fourcc::DrmModifier;
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

use super::{device::refresh_of, Vitrine};
use crate::{
    capture::{
        CaptureConfig, Demand, FrameFormat, JobId, OutputCapture, PlainMemory, Producer, SlotMemory,
    },
    protocols::{self, CaptureHandler},
    render::{Renderer, WindowCanvas},
    time::Time,
};

/// A window whose sides are longer is not captured: no renderer draws it, and a client chooses the size.
const LONGEST_SIDE: i32 = 16_384;

/// The windows that clients were told of.
#[derive(Debug)]
pub struct Toplevels {
    list: ForeignToplevelListState,
    /// The list's present global.
    global: GlobalId,
    windows: Vec<Toplevel>,
}

#[derive(Debug)]
struct Toplevel {
    window: Window,
    handle: ForeignToplevelHandle,
    identifier: Arc<str>,
    title: String,
    app_id: String,
    capture: Option<WindowCapture>,
}

/// The frames of one window, while somebody has a session on it.
#[derive(Debug)]
struct WindowCapture {
    capture: OutputCapture,
    canvas: Option<WindowCanvas>,
    slots: Vec<Arc<PlainMemory>>,
    last_job: u64,
    /// It was said that drawing fails.
    failing: bool,
}

impl Toplevels {
    pub(super) fn new(list: ForeignToplevelListState) -> Self {
        Self {
            global: list.global(),
            list,
            windows: Vec::new(),
        }
    }

    fn find(&mut self, identifier: &str) -> Option<&mut Toplevel> {
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

    /// The capture side of a window; made when somebody asks for it first.
    pub(super) fn window_capture(&mut self, identifier: &str) -> Option<&mut OutputCapture> {
        let config = CaptureConfig {
            ring_slots: CaptureConfig::MIN_SLOTS,
            // The history is of screens. With one a window would never be without a viewer.
            history: 0,
            ..self.capture_config()
        };
        let waker = self.waker();
        let refresh = self
            .shell
            .space
            .outputs()
            .next()
            .map_or(Duration::from_millis(16), refresh_of);
        let known = self.toplevels.find(identifier)?;
        let capture = known.capture.get_or_insert_with(|| WindowCapture {
            capture: OutputCapture::new(config, refresh, waker),
            canvas: None,
            slots: Vec::new(),
            last_job: 0,
            failing: false,
        });
        Some(&mut capture.capture)
    }

    /// The session is being locked: captures of windows have no pictures, and forget those that they had. They get other
    /// memory when they go on.
    pub(super) fn forget_window_pictures(&mut self, now: Time) {
        let captures = self.toplevels.windows.iter_mut();
        for capture in captures.filter_map(|known| known.capture.as_mut()) {
            capture.canvas = None;
            capture.capture.clear_buffers(now);
        }
    }

    /// Draws the captured windows that are due, and delivers.
    pub(super) fn run_toplevels(&mut self, now: Time) {
        if self
            .toplevels
            .windows
            .iter()
            .all(|known| known.capture.is_none())
        {
            return;
        }
        let mut resized = Vec::new();
        let mut polled = Vec::new();
        for known in &mut self.toplevels.windows {
            let Some(capture) = &mut known.capture else {
                continue;
            };
            if !capture.capture.is_watched() {
                known.capture = None;
                continue;
            }
            if self.shell.curtain().is_some() {
                // Nothing of a window is shown to anybody now.
                polled.push((known.identifier.clone(), capture.capture.poll(now)));
                continue;
            }
            let scale = scale_of(&self.shell, &known.window);
            if capture.fit(&known.window, scale, &self.renderer, now) {
                resized.push(known.identifier.clone());
            }
            capture.step(&known.window, &mut self.renderer, now);
            polled.push((known.identifier.clone(), capture.capture.poll(now)));
        }
        for identifier in resized {
            protocols::toplevel_changed(self, &identifier);
        }
        for (identifier, events) in polled {
            protocols::deliver_toplevel(self, &identifier, events);
        }
    }
}

/// The scale of the screen that the window is on.
fn scale_of(shell: &crate::shell::Shell, window: &Window) -> f64 {
    let outputs = shell.space.outputs_for_element(window);
    let output = outputs.first();
    output.map_or(1.0, |output| output.current_scale().fractional_scale())
}

impl Toplevel {
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

impl WindowCapture {
    /// Makes a ring of the window's size if it has another one; returns whether it did.
    fn fit(&mut self, window: &Window, scale: f64, renderer: &Renderer, now: Time) -> bool {
        let size = window
            .geometry()
            .size
            .to_physical_precise_round::<_, i32>(scale);
        let fitting = self
            .canvas
            .as_ref()
            .is_some_and(|canvas| canvas.size() == (size.w, size.h) && canvas.scale() == scale);
        if fitting {
            return false;
        }
        let side = 1..=LONGEST_SIDE;
        if !side.contains(&size.w) || !side.contains(&size.h) {
            if self.canvas.take().is_some() {
                self.capture.clear_buffers(now);
            }
            return false;
        }
        self.canvas = Some(WindowCanvas::new((size.w, size.h), scale));
        self.slots = (0..CaptureConfig::MIN_SLOTS)
            .map(|_| Arc::default())
            .collect();
        let memories = self
            .slots
            .iter()
            .map(|slot| Arc::clone(slot) as Arc<dyn SlotMemory>);
        let width = size.w.unsigned_abs();
        let format = FrameFormat {
            width,
            height: size.h.unsigned_abs(),
            fourcc: renderer.window_format(),
            modifier: DrmModifier::Linear,
            stride: width * 4,
            offset: 0,
        };
        if let Err(error) = self.capture.set_buffers(format, memories.collect(), now) {
            tracing::error!(target: "vitrine::capture", %error, "a window cannot be captured");
        }
        true
    }

    /// Notes what changed, and draws a frame if one is due.
    fn step(&mut self, window: &Window, renderer: &mut Renderer, now: Time) {
        let Some(canvas) = &mut self.canvas else {
            return;
        };
        match renderer.window_damage(window, canvas) {
            Ok(damage) if damage.is_empty() => {}
            Ok(damage) => self.capture.committed(&damage, None),
            Err(error) => return self.note_failure(&error),
        }
        if self.capture.demand(now) != Demand::Now {
            return;
        }
        self.last_job += 1;
        let job = JobId(self.last_job);
        let Ok(slot) = self.capture.arm(job, Producer::Render, now) else {
            return;
        };
        let Some(memory) = self.slots.get(usize::from(slot.index)) else {
            return self.capture.fail(job);
        };
        let mut drawn = Ok(());
        memory.write(|pixels| drawn = renderer.draw_window(window, canvas, pixels));
        self.capture.committed(&[], Some(job));
        match drawn {
            Ok(()) => {
                self.failing = false;
                self.capture.complete(job, now, now);
            }
            Err(error) => {
                self.capture.fail(job);
                self.note_failure(&error);
            }
        }
    }

    fn note_failure(&mut self, error: &crate::render::RenderError) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(target: "vitrine::capture", %error, "a captured window cannot be drawn");
        }
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
