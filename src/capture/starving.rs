//! Who holds up others, and what is taken back from whom so that everybody gets frames.

use tracing::{info, warn};

use crate::{
    capture::output_capture::{CaptureEvent, Demand, OutputCapture, TARGET},
    time::Time,
};

impl OutputCapture {
    /// If somebody waits and no slot will be free for the next frame, one is taken back.
    pub(crate) fn help_the_starving(&mut self, now: Time, events: &mut Vec<CaptureEvent>) {
        // Whoever is written to directly needs no slot.
        let demand = match self.lone_direct(now) {
            Some(_) => Demand::None,
            None => self.demand_of_waiters(now),
        };
        let starving = demand == Demand::Now;
        if demand != Demand::None && !self.ring.will_have_room() {
            // What is let go of comes before what is held: nobody has to be told, and it is there at once.
            let has_room = self.overrule_fence(now);
            if starving && !has_room {
                self.take_back(now, events);
            }
        }
        self.blocked = starving && !self.ring.has_room();
    }

    /// Says who holds frames too long.
    pub(crate) fn note_overdue(&mut self, now: Time) {
        for (holder, frame) in self.ring.newly_overdue(now) {
            let Some(client) = self.clients.get_mut(&holder.client) else {
                continue;
            };
            client.stats.overdue += 1;
            if !std::mem::replace(&mut client.overdue_logged, true) {
                info!(
                    target: TARGET, client = %holder.client, session = %holder.session, %frame,
                    deadline = ?self.config.hold_deadline,
                    "client holds a frame past the deadline; it gets no new one until it lets go \
                     (said once per client)",
                );
            }
        }
    }

    /// Others starve: takes the oldest overdue frame back.
    fn take_back(&mut self, now: Time, events: &mut Vec<CaptureEvent>) {
        let Some((frame, holders)) = self.ring.choose_void(now) else {
            return;
        };
        for holder in holders {
            events.push(CaptureEvent::Void {
                session: holder.session,
                frame,
            });
            self.stats.voids += 1;
            let Some(client) = self.clients.get_mut(&holder.client) else {
                continue;
            };
            client.stats.voids += 1;
            if !std::mem::replace(&mut client.void_logged, true) {
                warn!(
                    target: TARGET, client = %holder.client, session = %holder.session, %frame,
                    "frame taken back from a client that held it past the deadline while others waited \
                     (said once per client)",
                );
            }
        }
    }

    /// Others starve: uses a slot again that was let go of long ago, but has fences on it. Returns whether there is one.
    fn overrule_fence(&mut self, now: Time) -> bool {
        let Some((slot, frame)) = self.ring.overrule_fence(now) else {
            return false;
        };
        self.stats.overruled += 1;
        if !std::mem::replace(&mut self.overruled_logged, true) {
            warn!(
                target: TARGET, ?slot, %frame, deadline = ?self.config.hold_deadline,
                "fences that some client put onto a captured frame do not signal, and others wait: its memory is \
                 used again (said once per output)",
            );
        }
        true
    }
}
