//! From "something changed" to the screens: marks them dirty and, once per turn of the loop, lets each decide.

use smithay::{
    input::pointer::CursorImageStatus,
    output::Output,
    reexports::{
        calloop::{
            generic::Generic,
            timer::{TimeoutAction, Timer},
            Interest, Mode, PostAction,
        },
        wayland_server::protocol::wl_surface::WlSurface,
    },
};

use super::Vitrine;
use crate::{
    capture::JobId,
    kms::Fence,
    output::{Filled, Order, Owner, PendingFence, Pointer, StepContext, Unfilled},
    protocols,
    time::Time,
};

/// Something that is due but could not be done yet is tried again then: the loop must not spin.
const PASSED_SLEEP: std::time::Duration = std::time::Duration::from_millis(1);

impl Vitrine {
    /// A surface has new content or state.
    pub(super) fn surface_changed(&mut self, surface: &WlSurface) {
        if matches!(&self.cursor, CursorImageStatus::Surface(cursor) if cursor == surface) {
            self.cursor_changed();
        }
        self.scene_changed();
    }

    /// Windows came, went or moved.
    pub(super) fn scene_changed(&mut self) {
        let Some(backend) = self.backend.as_mut() else {
            return;
        };
        for screen in &mut backend.screens {
            screen.scene_changed();
        }
    }

    /// The pointer moved or looks different.
    pub(super) fn cursor_changed(&mut self) {
        protocols::cursor_changed(self);
        let Some(backend) = self.backend.as_mut() else {
            return;
        };
        for screen in &mut backend.screens {
            screen.cursor_changed();
        }
    }

    /// Lets each screen do what is due, delivers captures, and sets the alarm for the next deadline.
    pub(super) fn run_screens(&mut self) {
        // The clients' requests may have taken their time.
        self.turn.set(None);
        let now = self.turn();
        self.check_gpu_copies(now);
        // What the last turn completed goes out first: whose request it answers may want the commit that follows, and
        // whose it does not answer wants it all the more.
        let outputs: Vec<_> = self.captures.keys().cloned().collect();
        for output in &outputs {
            self.deliver_captures(output, now);
        }
        let pointer = self.pointer_look().map(|(at, look)| Pointer { at, look });
        let mut wake: Option<Time> = None;
        let mut fences = Vec::new();
        let mut forget = Vec::new();
        let mut orders = Vec::new();
        if let Some(backend) = self.backend.as_mut() {
            for screen in &mut backend.screens {
                let Some(capture) = self.captures.get_mut(&screen.output) else {
                    continue;
                };
                let mut context = StepContext {
                    now,
                    shell: &self.shell,
                    renderer: &mut self.renderer,
                    capture,
                    pointer: pointer.as_ref(),
                    indicator: self.config.capture.indicator,
                    faults: self.gpu_copies.faults(),
                };
                let step = screen.step(&mut context);
                fences.extend(step.fence);
                orders.extend(step.orders);
                forget.extend(
                    step.forget
                        .into_iter()
                        .map(|job| (screen.output.clone(), job)),
                );
                wake = earliest(wake, step.wake);
            }
        }
        for fence in fences {
            self.watch_fence(fence);
        }
        self.give_orders(orders);
        for key in forget {
            if let Some(token) = self.fences.remove(&key) {
                self.event_loop.remove(token);
            }
        }
        self.run_toplevels(now);
        for output in outputs {
            self.deliver_captures(&output, now);
            let deadline = self
                .captures
                .get(&output)
                .and_then(|capture| capture.next_deadline());
            wake = earliest(wake, deadline);
        }
        self.rest(now);
        self.note_copies(now);
        wake = earliest(wake, self.listening.deadline());
        wake = earliest(wake, self.flushing.deadline(now));
        wake = earliest(wake, self.gpu_copies.next_deadline(now));
        self.set_alarm(wake, now);
    }

    fn watch_fence(&mut self, fence: PendingFence) {
        let PendingFence { output, job, fence } = fence;
        let watched = Generic::new(fence, Interest::READ, Mode::OneShot);
        let key = (output.clone(), job);
        let inserted = self.event_loop.insert_source(watched, move |_, _, state| {
            state.fences.remove(&(output.clone(), job));
            state.fence_signalled(&output, job);
            Ok(PostAction::Remove)
        });
        match inserted {
            Ok(token) => {
                self.fences.insert(key, token);
            }
            // The watchdog of the writeback machine reads the fence's status when its deadline comes.
            Err(error) => {
                tracing::warn!(target: "vitrine::output", %error, "a writeback fence cannot be watched");
            }
        }
    }

    fn fence_signalled(&mut self, output: &Output, job: crate::kms::JobId) {
        let Some(backend) = self.backend.as_mut() else {
            return;
        };
        let Some(screen) = backend.screen(output) else {
            return;
        };
        if let Some(capture) = self.captures.get_mut(output) {
            screen.fence_signalled(job, capture, Time::now());
        }
    }

    /// For the copying thread.
    pub(super) fn give_orders(&mut self, orders: Vec<Order>) {
        for order in orders {
            if let Err(filled) = self.copier.order(order) {
                self.slot_filled(filled);
            }
        }
    }

    /// The copying thread is done with a slot.
    pub(super) fn slot_filled(&mut self, filled: Filled) {
        let output = match &filled.owner {
            Owner::Screen(output) => output.clone(),
            Owner::Window(identifier) => {
                let identifier = identifier.clone();
                return self.window_drawn(&identifier, filled);
            }
        };
        if let Err(Unfilled::Overdue(Some(fence))) = &filled.result {
            self.watch_overdue_slot(&output, filled.job, fence.clone());
        }
        let Some(backend) = self.backend.as_mut() else {
            return;
        };
        let capture = self.captures.get_mut(&output);
        if let (Some(screen), Some(capture)) = (backend.screen(&output), capture) {
            screen.filled(filled, capture, Time::now());
        }
    }

    /// The GPU may still draw into the slot of this job; what tells of the end frees it.
    fn watch_overdue_slot(&self, output: &Output, job: JobId, fence: Fence) {
        let output = output.clone();
        let watched = Generic::new(fence, Interest::READ, Mode::OneShot);
        let inserted = self.event_loop.insert_source(watched, move |_, _, state| {
            if let Some(capture) = state.captures.get_mut(&output) {
                capture.late_fence(job);
            }
            Ok(PostAction::Remove)
        });
        // Then it stays in quarantine until there is another ring.
        if let Err(error) = inserted {
            tracing::warn!(target: "vitrine::output", %error, "a picture that is overdue cannot be watched");
        }
    }

    /// One timer for all deadlines: a turn of the loop is all that a deadline needs.
    fn set_alarm(&mut self, wake: Option<Time>, now: Time) {
        if self.alarm.as_ref().is_some_and(|(at, _)| Some(*at) == wake) {
            return;
        }
        if let Some((_, token)) = self.alarm.take() {
            self.event_loop.remove(token);
        }
        let Some(at) = wake else { return };
        let sleep = if at > now {
            at.saturating_since(now)
        } else {
            PASSED_SLEEP
        };
        let timer = Timer::from_duration(sleep);
        let inserted = self.event_loop.insert_source(timer, |_, (), state| {
            state.alarm = None;
            TimeoutAction::Drop
        });
        match inserted {
            Ok(token) => self.alarm = Some((at, token)),
            Err(error) => {
                tracing::error!(target: "vitrine::compositor", %error, "no timer can be set");
            }
        }
    }
}

fn earliest(a: Option<Time>, b: Option<Time>) -> Option<Time> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}
