//! The locked session: who locked it, and when that may be said.
//!
//! From the request on everything but the lock's surfaces is behind the curtain, and pictures from before are given to nobody
//! any more. `locked` follows when every screen has flipped to the curtain and neither a worker nor the writeback connector
//! writes an older picture. Whoever dies with the lock leaves the session locked.

use std::time::Duration;

use smithay::{
    input::pointer::CursorImageStatus,
    output::Output,
    reexports::{
        calloop::timer::{TimeoutAction, Timer},
        wayland_server::{
            backend::GlobalId, protocol::wl_surface::WlSurface, Client, DisplayHandle,
        },
    },
    utils::{Logical, Size},
};

use super::{ClientState, Vitrine};
use crate::{
    capture::OutputCapture,
    input,
    output::Screen,
    policy::Privilege,
    protocols::{
        self,
        ext_session_lock::{self, Lock, LockSurface, SessionLockHandler},
    },
    shell::Curtain,
    time::Time,
};

/// So long do pictures from before the lock hold `locked` back. A copy that takes longer fails instead: it may hang in memory
/// that its client made.
///
/// A writeback job that takes longer cannot be stopped: the kernel has no abort, and its fence may never come. A session that
/// cannot be locked is worse than what the job may still write: a picture of the time before the lock, into memory of a client
/// that had the right to it, asked for it before the lock, and could as well have got it then. It is not told that it did.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether the session is locked.
#[derive(Debug)]
pub(super) struct Locking {
    global: GlobalId,
    phase: Phase,
    surfaces: Vec<LockSurface>,
}

#[derive(Debug)]
enum Phase {
    Unlocked,
    /// The curtain is on its way to the screens. Without a lock: its client died meanwhile.
    Covering {
        lock: Option<Lock>,
        since: Time,
    },
    /// Nothing is visible any more. Without a lock: nobody is there who could unlock.
    Locked {
        lock: Option<Lock>,
    },
}

impl Locking {
    pub(super) fn new(
        display: &DisplayHandle,
        filter: impl Fn(&Client) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            global: ext_session_lock::announce::<Vitrine>(display, filter),
            phase: Phase::Unlocked,
            surfaces: Vec::new(),
        }
    }

    /// Announces the global anew, and gives the old one, to be taken away.
    pub(super) fn announce_again(
        &mut self,
        display: &DisplayHandle,
        filter: impl Fn(&Client) -> bool + Send + Sync + 'static,
    ) -> GlobalId {
        let new = ext_session_lock::announce::<Vitrine>(display, filter);
        std::mem::replace(&mut self.global, new)
    }

    fn holder(&self) -> Option<&Lock> {
        match &self.phase {
            Phase::Unlocked => None,
            Phase::Covering { lock, .. } | Phase::Locked { lock } => lock.as_ref(),
        }
    }

    fn set_holder(&mut self, to: Option<Lock>) {
        match &mut self.phase {
            Phase::Unlocked => {}
            Phase::Covering { lock, .. } | Phase::Locked { lock } => *lock = to,
        }
    }
}

impl SessionLockHandler for Vitrine {
    fn lock_requested(&mut self, client: &Client, lock: Lock) {
        let data = client.get_data::<ClientState>();
        let allowed = data.is_some_and(|data| data.right(Privilege::SessionLock).is_there());
        if !allowed || self.locking.holder().is_some() {
            tracing::info!(target: "vitrine::lock", allowed, "a lock of the session is refused");
            lock.finished();
            return;
        }
        match self.locking.phase {
            Phase::Unlocked => self.begin_lock(lock),
            Phase::Covering { .. } => self.take_over(lock),
            Phase::Locked { .. } => {
                lock.locked();
                self.take_over(lock);
            }
        }
    }

    fn lock_surface_size(&self, output: &Output) -> Size<i32, Logical> {
        let area = self.shell.space.output_geometry(output);
        area.map(|area| area.size).unwrap_or_default()
    }

    fn lock_surface_added(&mut self, lock: &Lock, surface: LockSurface) {
        if self.locking.holder() != Some(lock) {
            return;
        }
        if let Some(curtain) = self.shell.curtain_mut() {
            curtain.add(surface.output.clone(), surface.surface.clone());
        }
        self.locking.surfaces.push(surface);
    }

    fn lock_surface_gone(&mut self, surface: &WlSurface) {
        self.locking
            .surfaces
            .retain(|known| known.surface != *surface);
        if let Some(curtain) = self.shell.curtain_mut() {
            curtain.remove(surface);
            self.focus_top();
            self.scene_changed();
        }
    }

    fn unlock_requested(&mut self, lock: &Lock) {
        if self.locking.holder() == Some(lock) {
            self.unlock();
        }
    }

    fn lock_gone(&mut self, lock: &Lock, given_up: bool) {
        if self.locking.holder() != Some(lock) {
            return;
        }
        if given_up {
            return self.unlock();
        }
        tracing::warn!(target: "vitrine::lock", "the program that locked the session is gone; the session stays locked until another one takes over");
        self.locking.set_holder(None);
        self.hang_curtain_anew(true);
    }
}

impl Vitrine {
    fn begin_lock(&mut self, lock: Lock) {
        tracing::info!(target: "vitrine::lock", "the session is being locked");
        let now = Time::now();
        self.locking.phase = Phase::Covering {
            lock: Some(lock),
            since: now,
        };
        self.shell.set_curtain(Some(Curtain::default()));
        self.take_input_away();
        self.forget_window_pictures(now);
        self.lock_changed();
        // The frames of before are in the old rings, those that are being made too.
        self.renew_rings();
        protocols::forget_pictures(self);
        // So that there is a turn in which what hangs is given up.
        let timer = Timer::from_duration(PATIENCE);
        let inserted = self
            .event_loop
            .insert_source(timer, |_, (), _| TimeoutAction::Drop);
        if let Err(error) = inserted {
            tracing::error!(target: "vitrine::lock", %error, "no timer for the lock");
        }
    }

    fn take_over(&mut self, lock: Lock) {
        tracing::info!(target: "vitrine::lock", "another program takes the lock over");
        self.locking.set_holder(Some(lock));
        self.hang_curtain_anew(false);
    }

    fn hang_curtain_anew(&mut self, abandoned: bool) {
        self.locking.surfaces.clear();
        if let Some(curtain) = self.shell.curtain_mut() {
            curtain.set_abandoned(abandoned);
        }
        self.focus(None);
        self.scene_changed();
    }

    fn unlock(&mut self) {
        tracing::info!(target: "vitrine::lock", "the session is unlocked");
        self.locking.phase = Phase::Unlocked;
        self.locking.surfaces.clear();
        self.shell.set_curtain(None);
        self.take_input_away();
        self.lock_changed();
        self.focus_top();
    }

    /// Drags, menus, keys and fingers that are down, the pointer's looks: nothing of that crosses the lock, in no direction.
    fn take_input_away(&mut self) {
        self.close_menus();
        input::let_go(self);
        self.shell.activate(None);
        self.cursor = CursorImageStatus::default_named();
        self.cursor_changed();
    }

    fn lock_changed(&mut self) {
        let screens = self
            .backend
            .iter_mut()
            .flat_map(|backend| &mut backend.screens);
        screens.for_each(Screen::lock_changed);
    }

    /// After a turn of the loop: says `locked` once it is true.
    pub(super) fn confirm_lock(&mut self) {
        let Phase::Covering { since, .. } = &self.locking.phase else {
            return;
        };
        let late = Time::now() >= *since + PATIENCE;
        let mut screens = self.backend.iter().flat_map(|backend| &backend.screens);
        if !screens.all(Screen::is_covered) {
            return;
        }
        // Wherever they write to, they are through with it when the lock is there.
        if self.captures.values().any(OutputCapture::has_old_jobs) {
            if !late {
                return;
            }
            tracing::warn!(target: "vitrine::lock", "a writeback job from before the lock does not end; the session is locked all the same");
        }
        if self.capture_protocols.stale_copies() > 0 {
            if !late {
                return;
            }
            tracing::warn!(target: "vitrine::lock", "copies of pictures from before the lock take too long and fail");
            self.capture_protocols.give_up_stale_copies();
        }
        tracing::info!(target: "vitrine::lock", "the session is locked");
        let lock = self.locking.holder().cloned();
        if let Some(lock) = &lock {
            lock.locked();
        }
        self.locking.phase = Phase::Locked { lock };
    }

    /// Outputs came, went or changed: lock surfaces are to have their size.
    pub(super) fn fit_lock_surfaces(&self) {
        for surface in &self.locking.surfaces {
            surface.configure(self.lock_surface_size(&surface.output));
        }
    }
}

crate::delegate_session_locks!(Vitrine);
