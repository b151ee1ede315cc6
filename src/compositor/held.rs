//! Commits that wait, counted for each client.
//!
//! A commit whose buffer is not finished waits, with all later ones of its surface (`acquire`); one of a synchronised
//! subsurface waits for its parent's. Smithay keeps each of them whole, and a client can go on committing for as long as
//! it likes.

use std::sync::{
    atomic::{AtomicUsize, Ordering},
    Arc,
};

use smithay::{
    reexports::wayland_server::{protocol::wl_surface::WlSurface, Client, DisplayHandle, Resource},
    wayland::compositor::{is_sync_subsurface, with_states, Cacheable},
};

use super::{ClientState, Vitrine};
use crate::protocols::end_for_memory;

/// For unfinished buffers. Who keeps to the protocol has no more unfinished commits than buffers, and others in between at
/// the rate of a fast mouse for as long as a driver takes to give up a job that hangs.
const MAX_UNFINISHED: usize = 1000;

/// For parents' commits. To commit without them is odd and allowed: more than two minutes of a film, with less than 10 MB.
const MAX_CACHED: usize = 10_000;

/// How many commits of a client wait, by what for.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    unfinished: Counter,
    cached: Counter,
}

type Counter = Arc<AtomicUsize>;

/// A part of each commit, which Smithay keeps as long as the commit waits.
#[derive(Debug, Default)]
struct Held {
    /// Of the pending state: what the next commit is counted with.
    counter: Option<Counter>,
    /// Of a commit.
    _ticket: Option<Ticket>,
}

/// One that waits.
#[derive(Debug)]
struct Ticket(Counter);

impl Ticket {
    fn new(counter: Counter) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Cacheable for Held {
    fn commit(&mut self, _: &DisplayHandle) -> Self {
        Self {
            counter: None,
            _ticket: self.counter.take().map(Ticket::new),
        }
    }

    /// It is applied, or one with another that waits: in either case it waits no more by itself.
    fn merge_into(self, _: &mut Self, _: &DisplayHandle) {}
}

impl Vitrine {
    /// Counts a commit that this surface is about to make; ends a client that has too many already.
    pub(super) fn count_commit(&self, surface: &WlSurface) {
        let Some(client) = surface.client() else {
            return;
        };
        let Some(data) = client.get_data::<ClientState>() else {
            return;
        };
        let (counter, most) = match is_sync_subsurface(surface) {
            true => (&data.waiting.cached, MAX_CACHED),
            false => (&data.waiting.unfinished, MAX_UNFINISHED),
        };
        if counter.load(Ordering::Relaxed) >= most {
            return self.end_for_commits(&client, most);
        }
        with_states(surface, |states| {
            let mut held = states.cached_state.get::<Held>();
            held.pending().counter = Some(counter.clone());
        });
    }

    fn end_for_commits(&self, client: &Client, most: usize) {
        let why = format!("more than {most} commits wait to be applied");
        end_for_memory(&self.display, client, &why);
    }
}
