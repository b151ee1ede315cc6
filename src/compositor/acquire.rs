//! Commits whose buffer is still being written: they are applied when the fences on its memory have signalled.
//!
//! A fence that never signals holds its surface and nothing else, and of that no more commits than are allowed to wait
//! (`held`). Each dma-buf is watched once, however many commits wait for it, and not longer than there is a surface that does.

use std::{
    collections::HashMap,
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
};

use smithay::{
    backend::allocator::dmabuf::Dmabuf,
    reexports::{
        calloop::{Interest, RegistrationToken},
        wayland_server::{protocol::wl_surface::WlSurface, Client, Resource},
    },
    wayland::{
        compositor::{
            add_blocker, add_pre_commit_hook, with_states, Blocker, BlockerState, BufferAssignment,
            CompositorHandler, SurfaceAttributes,
        },
        dmabuf::get_dmabuf,
    },
};

use super::Vitrine;

/// The dma-bufs that commits wait for.
#[derive(Debug, Default)]
pub(super) struct Acquire {
    watched: HashMap<Dmabuf, Watch>,
}

#[derive(Debug)]
struct Watch {
    token: RegistrationToken,
    waiting: Vec<Waiting>,
}

/// A surface with commits that wait for a dma-buf.
#[derive(Debug)]
struct Waiting {
    surface: WlSurface,
    hold: Hold,
}

/// Keeps a commit back until it is let go.
#[derive(Debug, Clone, Default)]
struct Hold(Arc<AtomicBool>);

impl Hold {
    fn let_go(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Blocker for Hold {
    fn state(&self) -> BlockerState {
        match self.0.load(Ordering::Acquire) {
            true => BlockerState::Released,
            false => BlockerState::Pending,
        }
    }
}

impl Watch {
    /// What keeps a commit of this surface back.
    fn hold(&mut self, surface: &WlSurface) -> Hold {
        if let Some(known) = self.waiting.iter().find(|known| known.surface == *surface) {
            return known.hold.clone();
        }
        let hold = Hold::default();
        self.waiting.push(Waiting {
            surface: surface.clone(),
            hold: hold.clone(),
        });
        hold
    }
}

/// From now on this surface's commits wait for their buffers.
pub(super) fn watch_commits(surface: &WlSurface) {
    add_pre_commit_hook::<Vitrine, _>(surface, |state, _, surface| {
        state.count_commit(surface);
        if let Some(dmabuf) = new_dmabuf(surface) {
            state.wait_for(dmabuf, surface);
        }
    });
}

/// The dma-buf that the pending commit attaches.
fn new_dmabuf(surface: &WlSurface) -> Option<Dmabuf> {
    with_states(surface, |states| {
        let mut attributes = states.cached_state.get::<SurfaceAttributes>();
        match &attributes.pending().buffer {
            Some(BufferAssignment::NewBuffer(buffer)) => get_dmabuf(buffer).ok().cloned(),
            Some(BufferAssignment::Removed) | None => None,
        }
    })
}

impl Vitrine {
    fn wait_for(&mut self, dmabuf: Dmabuf, surface: &WlSurface) {
        // Asked again even if it is watched: its fences may be others by now.
        let Ok((_, source)) = dmabuf.generate_blocker(Interest::READ) else {
            return;
        };
        if let Some(watch) = self.acquire.watched.get_mut(&dmabuf) {
            return add_blocker(surface, watch.hold(surface));
        }
        let inserted = self.event_loop.insert_source(source, |(), dmabuf, state| {
            state.acquired(dmabuf);
            Ok(())
        });
        match inserted {
            Ok(token) => {
                let waiting = Vec::new();
                let mut watch = Watch { token, waiting };
                add_blocker(surface, watch.hold(surface));
                self.acquire.watched.insert(dmabuf, watch);
            }
            // Then the commit is applied, and its window is drawn when nothing on it is pending.
            Err(error) => {
                tracing::warn!(target: "vitrine::compositor", %error, "a client's fence cannot be watched");
            }
        }
    }

    /// Nobody writes this dma-buf any more. The event loop has removed what watched it.
    fn acquired(&mut self, dmabuf: &Dmabuf) {
        let Some(watch) = self.acquire.watched.remove(dmabuf) else {
            return;
        };
        let mut clients: Vec<Client> = Vec::new();
        for waiting in watch.waiting {
            waiting.hold.let_go();
            clients.extend(waiting.surface.client().filter(|it| !clients.contains(it)));
        }
        for client in clients {
            self.apply_commits(&client);
        }
    }

    /// Applies what nothing keeps back any more.
    fn apply_commits(&mut self, client: &Client) {
        let display = self.display.clone();
        let commits = self.client_compositor_state(client);
        commits.blocker_cleared(self, &display);
    }

    /// Nothing of this surface waits any more, and nothing is watched for its sake.
    pub(super) fn forget_commits(&mut self, surface: &WlSurface) {
        let event_loop = &self.event_loop;
        let mut held_others = false;
        self.acquire.watched.retain(|_, watch| {
            watch.waiting.retain(|waiting| {
                let stays = waiting.surface != *surface;
                if !stays {
                    waiting.hold.let_go();
                    held_others = true;
                }
                stays
            });
            let wanted = !watch.waiting.is_empty();
            if !wanted {
                event_loop.remove(watch.token);
            }
            wanted
        });
        // A parent's commit may have waited with that of this surface. Not now: the surface is not quite gone yet.
        if let (true, Some(client)) = (held_others, surface.client()) {
            event_loop.insert_idle(move |state| state.apply_commits(&client));
        }
    }
}
