//! What the capture protocols need from the state.

use std::sync::{atomic::Ordering, Arc};

use smithay::{
    output::Output,
    reexports::wayland_server::{Client, DisplayHandle},
};

use super::{ClientState, Vitrine};
use crate::{
    capture::{CaptureConfig, CopyPool, OutputCapture},
    config::DmabufTargets,
    policy::Peer,
    protocols::{self, CaptureHandler, CaptureProtocols, LoopSender},
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

    fn capture_wanted(&mut self, _output: &Output) {
        // after_turn looks at every screen once the requests of this turn are all in.
    }

    fn run_in_loop(&self) -> LoopSender<Self> {
        self.tasks.clone()
    }

    fn dmabuf_device(&self) -> Option<u64> {
        let backend = self.backend.as_ref()?;
        let render = backend.render_node().map(|node| node.dev_id());
        match self.config.capture.dmabuf {
            DmabufTargets::Off => None,
            DmabufTargets::Auto => render,
            DmabufTargets::On => render.or(Some(backend.dev_id())),
        }
    }

    fn may_capture(&self, client: &Client) -> bool {
        client
            .get_data::<ClientState>()
            .is_some_and(ClientState::may_capture)
    }

    fn peer(&self, _display: &DisplayHandle, client: &Client) -> Peer {
        let data = client.get_data::<ClientState>();
        data.map(|data| data.peer.clone()).unwrap_or_default()
    }
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
        let event_loop = std::thread::current().id();
        Arc::new(move || {
            // after_turn looks at all captures anyway: no need to wake ourselves up.
            if std::thread::current().id() == event_loop {
                released.store(true, Ordering::Relaxed);
                return;
            }
            // The loop is gone only at exit; nobody waits for a slot then.
            let _ = tasks.send(Box::new(|_: &mut Vitrine| {}));
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
