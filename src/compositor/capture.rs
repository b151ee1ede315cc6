//! What the capture protocols need from the state.

use std::sync::{atomic::Ordering, Arc};

use smithay::{
    backend::renderer::utils::with_renderer_surface_state,
    input::pointer::{CursorImageStatus, CursorImageSurfaceData},
    output::Output,
    reexports::wayland_server::{
        backend::ClientId, protocol::wl_buffer::WlBuffer, Client, DisplayHandle,
    },
    utils::{Logical, Point, Rectangle, Size},
    wayland::compositor::with_states,
};

use super::{ClientState, Vitrine};
use crate::{
    capture::{CaptureConfig, CopyJob, CopyPool, OutputCapture},
    config::DmabufTargets,
    policy::Peer,
    protocols::{self, CaptureHandler, CaptureProtocols, CursorPixels, CursorView, LoopSender},
    render::CursorPicture,
    time::Time,
};

impl CaptureHandler for Vitrine {
    fn capture_protocols(&mut self) -> &mut CaptureProtocols {
        &mut self.capture_protocols
    }

    fn capture_output(&mut self, output: &Output) -> Option<&mut OutputCapture> {
        self.captures.get_mut(output)
    }

    fn copy_pool(&self) -> &CopyPool {
        &self.copy_pool
    }

    fn start_copy(&mut self, job: CopyJob) {
        self.copy(job);
    }

    fn is_held(&self, buffer: &WlBuffer) -> bool {
        self.is_held_by_gpu(buffer)
    }

    fn capture_wanted(&mut self, _output: &Output) {
        // after_turn looks at every screen once the requests of this turn are all in.
    }

    fn frame_requested(&mut self, client: ClientId) {
        self.listening.captures(&client);
        self.flushing.may_wait(client);
    }

    fn run_in_loop(&self) -> LoopSender<Self> {
        self.tasks.clone()
    }

    fn dmabuf_device(&self) -> Option<u64> {
        // Without linux-dmabuf nobody can make such a buffer.
        self.dmabuf_global.as_ref()?;
        let backend = self.backend.as_ref()?;
        let render = backend.render_node().map(|node| node.dev_id());
        match self.config.capture.dmabuf {
            DmabufTargets::Off => None,
            DmabufTargets::Auto => render,
            DmabufTargets::On => render.or(Some(backend.dev_id())),
        }
    }

    fn cursor_view(&mut self, output: &Output) -> Option<CursorView> {
        let area = self.shell.space.output_geometry(output)?;
        let (at, look) = self.pointer_look()?;
        let look = cursor_look(&look)?;
        let shown = look.area_around(at);
        // The picture counts, not the point: it may reach in from a neighbour.
        if !area.to_f64().overlaps(shown) {
            return None;
        }
        let scale = output.current_scale().fractional_scale();
        let position = (at - area.loc.to_f64())
            .to_physical(scale)
            .to_i32_floor::<i32>();
        Some(CursorView {
            position: (position.x, position.y),
            picture: look.picture,
        })
    }

    fn capture_toplevel(&mut self, identifier: &str) -> Option<&mut OutputCapture> {
        self.window_capture(identifier)
    }

    fn toplevel_wanted(&mut self, _identifier: &str) {
        // As for outputs: after_turn looks.
    }

    fn may_capture(&self, client: &Client) -> bool {
        client
            .get_data::<ClientState>()
            .is_some_and(ClientState::may_capture)
    }

    fn now(&self) -> Time {
        self.turn()
    }

    fn peer(&self, _display: &DisplayHandle, client: &Client) -> Peer {
        let data = client.get_data::<ClientState>();
        data.map(|data| data.peer.clone()).unwrap_or_default()
    }
}

/// The pointer's picture and how large it is on a screen.
struct CursorLook {
    picture: Option<CursorPixels>,
    hotspot: Point<f64, Logical>,
    size: Size<f64, Logical>,
}

impl CursorLook {
    fn area_around(&self, at: Point<f64, Logical>) -> Rectangle<f64, Logical> {
        Rectangle::new(at - self.hotspot, self.size)
    }
}

fn cursor_look(status: &CursorImageStatus) -> Option<CursorLook> {
    let (picture, hotspot, scale) = match status {
        CursorImageStatus::Hidden => return None,
        CursorImageStatus::Named(_) => {
            let arrow = CursorPicture::arrow();
            let hotspot = arrow.hotspot;
            (Some(arrow), hotspot, 1)
        }
        CursorImageStatus::Surface(surface) => {
            let hotspot = with_states(surface, |states| {
                let data = states.data_map.get::<CursorImageSurfaceData>()?;
                Some(data.lock().ok()?.hotspot)
            });
            let hotspot = hotspot.map_or((0, 0), |at| (at.x, at.y));
            let scale = with_renderer_surface_state(surface, |state| state.buffer_scale());
            (
                CursorPicture::of_surface(surface, hotspot),
                hotspot,
                scale.unwrap_or(1).max(1),
            )
        }
    };
    // A picture that only a GPU can read has at least the point that points.
    let (width, height) = picture.as_ref().map_or((1, 1), |p| (p.width, p.height));
    Some(CursorLook {
        hotspot: Point::from((f64::from(hotspot.0), f64::from(hotspot.1))),
        size: Size::from((
            f64::from(width) / f64::from(scale),
            f64::from(height) / f64::from(scale),
        )),
        picture: picture.map(|picture| CursorPixels {
            width: picture.width,
            height: picture.height,
            hotspot: (
                hotspot.0.saturating_mul(scale),
                hotspot.1.saturating_mul(scale),
            ),
            pixels: picture.pixels,
        }),
    })
}

impl Vitrine {
    pub(super) fn capture_config(&self) -> CaptureConfig {
        let section = &self.config.capture;
        CaptureConfig {
            ring_slots: section.ring_slots,
            quota: section.quota,
            hold_deadline: section.hold_deadline,
            grace_refreshes: section.grace_refreshes,
            history: section.history,
        }
    }

    /// Wakes the loop from any thread: leases are given back by copy workers.
    pub(super) fn waker(&self) -> Arc<dyn Fn() + Send + Sync> {
        let tasks = self.tasks.clone();
        let released = self.released.clone();
        let woken = self.woken.clone();
        let event_loop = std::thread::current().id();
        Arc::new(move || {
            // after_turn looks at all captures anyway: no need to wake ourselves up.
            if std::thread::current().id() == event_loop {
                released.store(true, Ordering::Relaxed);
                return;
            }
            // Once is enough for all that happens until the loop comes to it.
            if woken.swap(true, Ordering::AcqRel) {
                return;
            }
            let heard = |state: &mut Vitrine| state.woken.store(false, Ordering::Release);
            // The loop is gone only at exit; nobody waits for a slot then.
            let _ = tasks.send(Box::new(heard));
        })
    }

    /// Sends what the capture side of this output has for its clients.
    pub(super) fn deliver_captures(&mut self, output: &Output, now: Time) {
        let Some(capture) = self.captures.get_mut(output) else {
            return;
        };
        let events = capture.poll(now);
        protocols::deliver(self, output, events);
    }
}

crate::delegate_capture_protocols!(Vitrine);
