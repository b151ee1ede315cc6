//! Captures of single windows: each is drawn into memory of its own, only while somebody captures it, and only when a frame is
//! due.
//!
//! With pixman a picture is there when it is drawn. With GLES the GPU draws it into a buffer of the device; the copying thread
//! waits for that, and the frame is published when it says so. One picture of a window is drawn at a time.

use std::{sync::Arc, time::Duration};

use drm_fourcc::DrmModifier;
use smithay::{
    backend::{allocator::gbm::GbmDevice, drm::DrmDeviceFd, renderer::sync::SyncPoint},
    desktop::Window,
};

use super::{device::refresh_of, Vitrine};
use crate::{
    capture::{
        CaptureConfig, CaptureStats, Demand, FrameFormat, JobId, OutputCapture, PlainMemory,
        Producer, SlotId, SlotMemory,
    },
    kms::fault::FaultPlan,
    output::{Filled, Order, Owner, WindowSlot, Work},
    protocols,
    render::{window_waits, RenderError, Renderer, WindowCanvas, WindowTarget},
    time::Time,
};

/// A window whose sides are longer is not captured: no renderer draws it, and a client chooses the size.
const LONGEST_SIDE: i32 = 16_384;

/// The least time between two tries to get memory for pictures.
const RETRY: Duration = Duration::from_secs(1);

/// The frames of one window, while somebody has a session on it.
#[derive(Debug)]
pub(super) struct WindowCapture {
    capture: OutputCapture,
    canvas: Option<WindowCanvas>,
    slots: Slots,
    /// The GPU draws a picture. One of a ring that is gone is still waited for.
    drawing: Option<Drawing>,
    /// There was no memory for pictures; not before then it is asked for again.
    retry_at: Option<Time>,
    /// It was said that drawing fails.
    failing: bool,
}

#[derive(Debug)]
enum Slots {
    /// For pixman.
    Memory(Vec<Arc<PlainMemory>>),
    /// For GLES.
    Buffers(Vec<Arc<WindowSlot>>),
}

#[derive(Debug)]
struct Drawing {
    job: JobId,
    since: Time,
}

/// What drawing needs.
struct Studio<'a> {
    renderer: &'a mut Renderer,
    gbm: Option<&'a GbmDevice<DrmDeviceFd>>,
    /// The number of the last picture of any window: one that comes late must not be taken for one of a later capture.
    last_job: &'a mut u64,
    faults: &'a FaultPlan,
    orders: &'a mut Vec<Order>,
}

impl Vitrine {
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
            slots: Slots::Memory(Vec::new()),
            drawing: None,
            retry_at: None,
            failing: false,
        });
        Some(&mut capture.capture)
    }

    /// The session is being locked: captures of windows have no pictures, and forget those that they had. They get other
    /// memory when they go on.
    pub(super) fn forget_window_pictures(&mut self, now: Time) {
        let captures = self.toplevels.windows.iter_mut();
        for capture in captures.filter_map(|known| known.capture.as_mut()) {
            capture.forget_pictures(now);
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
        let mut orders = Vec::new();
        let mut studio = Studio {
            renderer: &mut self.renderer,
            gbm: self.backend.as_ref().map(|backend| &backend.gbm),
            last_job: &mut self.toplevels.last_job,
            faults: self.gpu_copies.faults(),
            orders: &mut orders,
        };
        for known in &mut self.toplevels.windows {
            let ended = |capture: &WindowCapture| !capture.capture.is_watched();
            if known.capture.as_ref().is_some_and(ended) {
                if let Some(report) = known.report() {
                    self.toplevels.past.add(&report);
                }
                known.capture = None;
            }
            let Some(capture) = &mut known.capture else {
                continue;
            };
            if self.shell.curtain().is_some() {
                // Nothing of a window is shown to anybody now.
                polled.push((known.identifier.clone(), capture.capture.poll(now)));
                continue;
            }
            let scale = scale_of(&self.shell, &known.window);
            if capture.fit(&known.window, scale, &studio, now) {
                resized.push(known.identifier.clone());
            }
            capture.step(&known.window, &known.identifier, &mut studio, now);
            polled.push((known.identifier.clone(), capture.capture.poll(now)));
        }
        self.give_orders(orders);
        for identifier in resized {
            protocols::toplevel_changed(self, &identifier);
        }
        for (identifier, events) in polled {
            protocols::deliver_toplevel(self, &identifier, events);
        }
    }

    /// The GPU has drawn a window, or will not; the turn of the loop does the rest.
    pub(super) fn window_drawn(&mut self, identifier: &str, filled: Filled) {
        let known = self.toplevels.find(identifier);
        if let Some(capture) = known.and_then(|known| known.capture.as_mut()) {
            capture.drawn(filled, Time::now());
        }
    }
}

/// The scale of the screen that the window is on.
fn scale_of(shell: &crate::shell::Shell, window: &Window) -> f64 {
    let outputs = shell.space.outputs_for_element(window);
    let output = outputs.first();
    output.map_or(1.0, |output| output.current_scale().fractional_scale())
}

impl Slots {
    /// As many as a ring needs, and how their pixels lie.
    fn allocate(
        studio: &Studio<'_>,
        (width, height): (u32, u32),
    ) -> std::io::Result<(Self, FrameFormat)> {
        let fourcc = studio.renderer.window_format();
        let count = 0..CaptureConfig::MIN_SLOTS;
        if let Renderer::Pixman(_) = studio.renderer {
            let format = FrameFormat {
                width,
                height,
                fourcc,
                modifier: DrmModifier::Linear,
                stride: width.saturating_mul(4),
                offset: 0,
            };
            let slots = count.map(|_| Arc::default()).collect();
            return Ok((Slots::Memory(slots), format));
        }
        let gbm = studio.gbm.ok_or(std::io::ErrorKind::NotFound)?;
        let slots = count
            .map(|_| WindowSlot::allocate(gbm, (width, height), fourcc).map(Arc::new))
            .collect::<Result<Vec<_>, _>>()?;
        // All are alike.
        let first = slots.first().ok_or(std::io::ErrorKind::NotFound)?;
        let format = first.format();
        Ok((Slots::Buffers(slots), format))
    }

    fn memories(&self) -> Vec<Arc<dyn SlotMemory>> {
        match self {
            Slots::Memory(slots) => slots.iter().map(|slot| slot.clone() as _).collect(),
            Slots::Buffers(slots) => slots.iter().map(|slot| slot.clone() as _).collect(),
        }
    }
}

impl WindowCapture {
    pub(super) fn stats(&self) -> CaptureStats {
        self.capture.stats()
    }

    fn forget_pictures(&mut self, now: Time) {
        self.canvas = None;
        self.capture.clear_buffers(now);
    }

    /// Makes a ring of the window's size if it has another one; returns whether it did.
    fn fit(&mut self, window: &Window, scale: f64, studio: &Studio<'_>, now: Time) -> bool {
        let size = window
            .geometry()
            .size
            .to_physical_precise_round::<_, i32>(scale);
        let size = (size.w, size.h);
        let fitting = self
            .canvas
            .as_ref()
            .is_some_and(|canvas| canvas.size() == size && canvas.scale() == scale);
        if fitting || self.retry_at.is_some_and(|at| now < at) {
            return false;
        }
        self.retry_at = None;
        let side = 1..=LONGEST_SIDE;
        if !side.contains(&size.0) || !side.contains(&size.1) {
            if self.canvas.is_some() {
                self.forget_pictures(now);
            }
            return false;
        }
        let pixels = (size.0.unsigned_abs(), size.1.unsigned_abs());
        let set = Slots::allocate(studio, pixels)
            .map_err(|error| error.to_string())
            .and_then(|(slots, format)| {
                let set = self.capture.set_buffers(format, slots.memories(), now);
                set.map_err(|error| error.to_string()).map(|_| slots)
            });
        match set {
            Ok(slots) => {
                self.slots = slots;
                self.canvas = Some(WindowCanvas::new(size, scale));
                true
            }
            Err(error) => {
                self.note_failure(&format!("there is no memory for its pictures: {error}"));
                self.retry_at = Some(now + RETRY);
                self.forget_pictures(now);
                false
            }
        }
    }

    /// Notes what changed, and draws a frame if one is due.
    fn step(&mut self, window: &Window, identifier: &Arc<str>, studio: &mut Studio<'_>, now: Time) {
        let Some(canvas) = &mut self.canvas else {
            return;
        };
        if window_waits(window) {
            // The screen that shows it looks again, and with it this.
            return;
        }
        match studio.renderer.window_damage(window, canvas) {
            Ok(damage) if damage.is_empty() => {}
            Ok(damage) => self.capture.committed(&damage, None),
            Err(error) => return self.note_failure(&error.to_string()),
        }
        if self.drawing.is_some() || self.capture.demand(now) != Demand::Now {
            return;
        }
        *studio.last_job += 1;
        let job = JobId(*studio.last_job);
        let Ok(slot) = self.capture.arm(job, Producer::Render, now) else {
            return;
        };
        let drawn = draw(&self.slots, slot, window, canvas, studio.renderer);
        self.capture.committed(&[], Some(job));
        let fault = studio.faults.window(job.0);
        match drawn {
            Ok(sync) => match Work::until(sync, fault) {
                Some(work) => {
                    self.drawing = Some(Drawing { job, since: now });
                    studio.orders.push(Order {
                        owner: Owner::Window(identifier.clone()),
                        job,
                        work,
                    });
                }
                None => {
                    self.failing = false;
                    self.capture.complete(job, now, now);
                }
            },
            Err(error) => {
                self.capture.fail(job);
                self.note_failure(&error.to_string());
            }
        }
    }

    fn drawn(&mut self, filled: Filled, now: Time) {
        let Some(Drawing { job, since }) = self.drawing.take_if(|d| d.job == filled.job) else {
            return;
        };
        match filled.result {
            Ok(_) => {
                self.failing = false;
                self.capture.complete(job, since, now);
            }
            Err(error) => {
                // The GPU may still draw into this slot: the next pictures get other memory.
                self.forget_pictures(now);
                self.capture.fail(job);
                self.note_failure(&error.to_string());
            }
        }
    }

    fn note_failure(&mut self, error: &str) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(target: "vitrine::capture", error, "a captured window cannot be drawn");
        }
    }
}

fn draw(
    slots: &Slots,
    slot: SlotId,
    window: &Window,
    canvas: &mut WindowCanvas,
    renderer: &mut Renderer,
) -> Result<SyncPoint, RenderError> {
    let missing = || RenderError::Draw("the slot is of another ring".to_owned());
    let index = usize::from(slot.index);
    match slots {
        Slots::Memory(slots) => {
            let memory = slots.get(index).ok_or_else(missing)?;
            let mut drawn = Err(missing());
            memory.write(|pixels| {
                drawn = renderer.draw_window(window, canvas, WindowTarget::Memory(pixels));
            });
            drawn
        }
        Slots::Buffers(slots) => {
            let buffer = slots.get(index).ok_or_else(missing)?.dmabuf();
            let target = WindowTarget::Buffer(buffer, slot.index);
            renderer.draw_window(window, canvas, target)
        }
    }
}
