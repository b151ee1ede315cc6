//! Taking the requests of many capture clients in one turn of the event loop.
//!
//! A frame that went to several clients makes all of them ask again within a moment, each with a message of its own. Taken
//! one by one, every message costs a turn of the loop, and the loop's own cost then grows with the clients. So after such a
//! delivery the clients' messages rest for a moment, at most once per frame, and are then taken together. What clients are
//! told, flips and fences does not wait.

use std::time::Duration;

use smithay::reexports::calloop::timer::{TimeoutAction, Timer};

use super::Vitrine;

/// How long messages rest: long enough for clients to wake up and ask, an eighth of a refresh at 60 Hz.
const REST: Duration = Duration::from_millis(2);

/// Clients that must have been served at once to make it worth while.
const CLIENTS: usize = 2;

impl Vitrine {
    /// So many clients were just given a frame.
    pub(super) fn gather_requests(&mut self, served: usize) {
        if served < CLIENTS || self.gathering {
            return;
        }
        let Some(display) = self.display_token else {
            return;
        };
        let timer = Timer::from_duration(REST);
        let inserted = self.event_loop.insert_source(timer, move |_, (), state| {
            state.gathering = false;
            if let Err(error) = state.event_loop.enable(&display) {
                tracing::error!(target: "vitrine::compositor", %error, "clients are not heard any more");
                state.quit(1);
            }
            TimeoutAction::Drop
        });
        let Ok(timer) = inserted else {
            return;
        };
        match self.event_loop.disable(&display) {
            Ok(()) => self.gathering = true,
            Err(_) => self.event_loop.remove(timer),
        }
    }
}
