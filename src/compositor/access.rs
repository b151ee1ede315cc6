//! Rights at work: the sockets that clients come through, sandboxes, and what happens when the rules change.

use std::{
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc, Weak,
    },
};

use anyhow::Context;
use smithay::reexports::{
    rustix::{fs::Mode, process::umask},
    wayland_server::{Client, DisplayHandle, ListeningSocket},
};

use super::{peer, sandboxes, ClientState, Vitrine};
use crate::{
    config::{AccessSection, Config},
    policy::{Origin, Policy, Privilege},
    protocols,
};

/// All there are, in the order in which they are told.
const PRIVILEGES: [Privilege; 3] = [
    Privilege::Capture,
    Privilege::SessionLock,
    Privilege::OutputPower,
];

/// The rules that apply now, and everybody that they apply to.
#[derive(Debug)]
pub(super) struct Access {
    section: AccessSection,
    policy: Policy,
    clients: Vec<Weak<ClientState>>,
    /// Tells the filter of the present capture globals that others have taken their place.
    capture_retired: Arc<AtomicBool>,
    /// The same for the lock's global.
    lock_retired: Arc<AtomicBool>,
    /// The same for that of the outputs' power.
    power_retired: Arc<AtomicBool>,
}

impl Access {
    pub(super) fn new(section: AccessSection, display: &DisplayHandle) -> Self {
        sandboxes::announce(display);
        Self {
            policy: policy(&section),
            section,
            clients: Vec::new(),
            capture_retired: Arc::default(),
            lock_retired: Arc::default(),
            power_retired: Arc::default(),
        }
    }

    /// Who sees the globals of this privilege. To be called once per set of them.
    pub(super) fn filter(
        &mut self,
        privilege: Privilege,
    ) -> impl Fn(&Client) -> bool + Clone + Send + Sync + 'static {
        let retired = Arc::new(AtomicBool::new(false));
        *self.retired(privilege) = retired.clone();
        move |client: &Client| {
            client.get_data::<ClientState>().is_some_and(|data| {
                let right = data.right(privilege);
                // A client may bind what it was told of while it is being told that this is gone. That is no crime; what
                // it makes from it is stopped from the start.
                right.is_there() || (retired.load(Ordering::Relaxed) && right.was_told())
            })
        }
    }

    fn retired(&mut self, privilege: Privilege) -> &mut Arc<AtomicBool> {
        match privilege {
            Privilege::Capture => &mut self.capture_retired,
            Privilege::SessionLock => &mut self.lock_retired,
            Privilege::OutputPower => &mut self.power_retired,
        }
    }
}

fn policy(section: &AccessSection) -> Policy {
    Policy::new(section, rustix::process::getuid().as_raw())
}

impl Vitrine {
    /// Opens the second socket, if the configuration names one; gives its name.
    ///
    /// # Errors
    /// When the name is taken or XDG_RUNTIME_DIR is not writable.
    pub fn listen_privileged(&mut self) -> anyhow::Result<Option<String>> {
        let Some(name) = self.config.access.privileged_socket.clone() else {
            return Ok(None);
        };
        // From its first moment on nobody else may connect. Other threads make no files.
        let before = umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
        let socket = ListeningSocket::bind(&name);
        umask(before);
        let socket = socket.with_context(|| {
            format!("cannot open the privileged socket {name:?}; choose another privileged_socket in [access]")
        })?;
        self.watch_socket(socket, Origin::Privileged)?;
        Ok(Some(name))
    }

    /// Takes a new client's connection.
    pub(super) fn add_client_from(&mut self, stream: UnixStream, origin: Origin) {
        let peer = peer::identify(&stream, origin);
        let policy = &self.access.policy;
        let [capture, session_lock, output_power] =
            PRIVILEGES.map(|privilege| policy.allows(&peer, privilege));
        tracing::debug!(
            target: "vitrine::clients",
            pid = peer.pid, uid = peer.uid, executable = ?peer.executable, origin = ?peer.origin, capture, session_lock, output_power,
            "client accepted"
        );
        let (gone, watched) = (self.listening.gone(), self.listening.watched());
        let data = Arc::new(ClientState::new(peer, gone, watched));
        data.right(Privilege::Capture).set(capture);
        data.right(Privilege::SessionLock).set(session_lock);
        data.right(Privilege::OutputPower).set(output_power);
        self.access
            .clients
            .retain(|client| client.strong_count() > 0);
        self.access.clients.push(Arc::downgrade(&data));
        self.add_connection(stream, data);
    }

    /// Reads the `[access]` section again. A file that is not valid changes nothing.
    pub fn reload_access(&mut self) {
        let section = match Config::find(self.config_file.as_deref()) {
            Ok((config, Some(_))) => config.access,
            // The defaults may allow what the file, on its way from one version to the next, denies.
            Ok((_, None)) => {
                tracing::error!(target: "vitrine::access", "the access rules stay as they are: there is no configuration file any more");
                return;
            }
            Err(error) => {
                tracing::error!(target: "vitrine::access", %error, "the access rules stay as they are: the configuration cannot be read");
                return;
            }
        };
        if section.privileged_socket != self.access.section.privileged_socket {
            tracing::warn!(target: "vitrine::access", "privileged_socket takes effect at the next start");
        }
        self.set_access(section);
    }

    /// Where [`reload_access`](Self::reload_access) looks; `None`: in the usual places.
    pub fn set_config_file(&mut self, file: Option<PathBuf>) {
        self.config_file = file;
    }

    /// Other rules apply from now on. Captures of clients that lose the right end, the globals come and go, and each ring is
    /// replaced: what has a slot mapped, in whatever process, sees nothing that is shown from now on.
    pub fn set_access(&mut self, section: AccessSection) {
        if section == self.access.section {
            tracing::info!(target: "vitrine::access", "access rules read again; nothing changed");
            return;
        }
        self.access.policy = policy(&section);
        self.access.section = section;
        let (lost, gained) = self.judge_again(Privilege::Capture);
        protocols::rights_changed(self);
        self.end_toplevel_lists();
        self.renew_rings();
        if lost + gained > 0 {
            self.announce_capture_again();
        }
        let (lost_lock, gained_lock) = self.judge_again(Privilege::SessionLock);
        if lost_lock + gained_lock > 0 {
            self.announce_lock_again();
        }
        let (lost_power, gained_power) = self.judge_again(Privilege::OutputPower);
        protocols::wlr_output_power::rights_changed(self);
        if lost_power + gained_power > 0 {
            self.announce_power_again();
        }
        tracing::info!(target: "vitrine::access", lost, gained, "access rules changed");
    }

    /// Gives each client what the rules say now; how many lost and gained the right.
    fn judge_again(&self, privilege: Privilege) -> (u32, u32) {
        let (mut lost, mut gained) = (0, 0);
        for client in self.access.clients.iter().filter_map(Weak::upgrade) {
            let allowed = self.access.policy.allows(&client.peer, privilege);
            match (client.right(privilege).set(allowed), allowed) {
                (true, false) => lost += 1,
                (false, true) => gained += 1,
                (true, true) | (false, false) => {}
            }
        }
        (lost, gained)
    }

    /// Whoever holds the lock keeps it: a right that is taken away must not unlock the session.
    fn announce_lock_again(&mut self) {
        let before = self.access.lock_retired.clone();
        let filter = self.access.filter(Privilege::SessionLock);
        let old = self.locking.announce_again(&self.display, filter);
        before.store(true, Ordering::Relaxed);
        self.retire_global(old);
    }

    /// What was switched off stays off.
    fn announce_power_again(&mut self) {
        let before = self.access.power_retired.clone();
        let filter = self.access.filter(Privilege::OutputPower);
        let display = self.display.clone();
        let old = self
            .output_powers
            .announce_again::<Vitrine>(&display, filter);
        before.store(true, Ordering::Relaxed);
        self.retire_global(old);
    }

    fn announce_capture_again(&mut self) {
        let before = self.access.capture_retired.clone();
        let filter = self.access.filter(Privilege::Capture);
        let display = self.display.clone();
        let mut old = self
            .capture_protocols
            .announce_again::<Vitrine>(&display, filter.clone());
        old.push(self.announce_toplevels_again(filter));
        before.store(true, Ordering::Relaxed);
        for global in old {
            self.retire_global(global);
        }
    }

    pub(super) fn renew_rings(&mut self) {
        let now = crate::time::Time::now();
        let Some(backend) = self.backend.as_mut() else {
            return;
        };
        for screen in &mut backend.screens {
            if let Some(capture) = self.captures.get_mut(&screen.output) {
                screen.renew_ring(capture, self.gpu_copies.faults(), now);
            }
        }
    }
}
