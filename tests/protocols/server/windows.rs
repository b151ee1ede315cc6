//! Windows: each has one colour.

use std::{sync::Arc, time::Duration};

use drm_fourcc::{DrmFourcc, DrmModifier};
use vitrine::{
    capture::{CaptureConfig, Demand, FrameFormat, JobId, OutputCapture, Producer, SlotMemory},
    protocols,
    time::Time,
};

use super::{
    state::{State, Window},
    Server,
};

impl Server {
    /// Opens a window, and makes it known to clients.
    pub fn open_window(&mut self, title: &str, size: (u32, u32)) {
        let handle = self.state.toplevels.new_toplevel::<State>(title, "app");
        let refresh = Duration::from_millis(16);
        self.state.windows.push(Window {
            identifier: handle.identifier().into(),
            handle,
            capture: OutputCapture::new(CaptureConfig::default(), refresh, Arc::new(|| {})),
            slots: Vec::new(),
            pixel: 0,
        });
        self.resize_window(self.state.windows.len() - 1, size);
    }

    /// The window's application gives it another title.
    pub fn rename_window(&mut self, nth: usize, title: &str) {
        let handle = &self.state.windows[nth].handle;
        handle.send_title(title);
        handle.send_done();
        self.dispatch();
    }

    pub fn resize_window(&mut self, nth: usize, (width, height): (u32, u32)) {
        let now = self.now();
        let window = &mut self.state.windows[nth];
        window.slots = (0..3).map(|_| Arc::default()).collect();
        let memories = window
            .slots
            .iter()
            .map(|slot| slot.clone() as Arc<dyn SlotMemory>);
        let format = FrameFormat {
            width,
            height,
            fourcc: DrmFourcc::Xrgb8888,
            modifier: DrmModifier::Linear,
            stride: width * 4,
            offset: 0,
        };
        window
            .capture
            .set_buffers(format, memories.collect(), now)
            .unwrap();
        let identifier = window.identifier.clone();
        protocols::toplevel_changed(&mut self.state, &identifier);
        self.deliver();
    }

    /// The window has this colour now.
    pub fn paint_window(&mut self, nth: usize, pixel: u32) {
        let window = &mut self.state.windows[nth];
        window.pixel = pixel;
        let full = window.capture.format().unwrap().full();
        window.capture.committed(&[full], None);
        self.deliver();
    }

    pub fn close_window(&mut self, nth: usize) {
        let window = self.state.windows.remove(nth);
        protocols::toplevel_gone(&mut self.state, &window.identifier);
        self.state.toplevels.remove_toplevel(&window.handle);
        self.dispatch();
    }

    pub(super) fn draw_windows(&mut self, now: Time) {
        let mut polled = Vec::new();
        for window in &mut self.state.windows {
            if window.capture.demand(now) == Demand::Now {
                self.next_job += 1;
                let job = JobId(self.next_job);
                let slot = window.capture.arm(job, Producer::Render, now).unwrap();
                let format = window.capture.format().unwrap();
                window.slots[usize::from(slot.index)].write(|bytes| {
                    *bytes = window
                        .pixel
                        .to_le_bytes()
                        .repeat((format.width * format.height) as usize);
                });
                window.capture.committed(&[], Some(job));
                window.capture.complete(job, now, now);
            }
            polled.push((window.identifier.clone(), window.capture.poll(now)));
        }
        for (identifier, events) in polled {
            protocols::deliver_toplevel(&mut self.state, &identifier, events);
        }
    }
}
