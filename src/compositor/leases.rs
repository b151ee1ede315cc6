//! `lease_socket`: who connects gets a DRM lease of an output's foreign planes, with its CRTC and connector, since the
//! kernel leases no plane without them.
//!
//! The answer is one line of text, `connector N crtc N planes N N`, with the lease's descriptor beside it; or a line that
//! begins with `error:`. Then the connection is closed. The lease ends when its last descriptor is closed, or with the
//! output. Who may reach the socket may also switch the output off: it has mode 0600, in a directory that is the user's own.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::{FileTypeExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use drm::control::{connector, crtc, plane, LeaseId};
use rustix::net::{sendmsg, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use smithay::{output::Output, reexports::calloop::RegistrationToken};

use super::Vitrine;
use crate::{
    kms::foreign::OfOutput,
    listener::{Arrival, Listener},
    output::PowerMode,
};

/// What is leased.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Objects {
    connector: connector::Handle,
    crtc: crtc::Handle,
    planes: Vec<plane::Handle>,
}

impl Objects {
    fn line(&self) -> String {
        let (connector, crtc) = (u32::from(self.connector), u32::from(self.crtc));
        let planes: String = self
            .planes
            .iter()
            .map(|p| format!(" {}", u32::from(*p)))
            .collect();
        format!("connector {connector} crtc {crtc} planes{planes}\n")
    }
}

/// The socket of one output, kept with it.
#[derive(Debug)]
struct LeaseSocket {
    path: PathBuf,
    token: RegistrationToken,
    leases: Vec<LeaseId>,
}

type Slot = RefCell<Option<LeaseSocket>>;

impl Vitrine {
    /// Opens the sockets of outputs that have foreign planes and do not have theirs yet.
    pub(super) fn offer_leases(&mut self, foreign: &[OfOutput]) {
        let Some(backend) = self.backend.as_ref() else {
            return;
        };
        let mut offers = Vec::new();
        for screen in &backend.screens {
            let (connector, crtc) = screen.pair();
            let name = self.config.output(&screen.output.name()).lease_socket;
            let planes = foreign.iter().find(|of| of.connector == connector);
            let planes = planes.map(|of| of.planes.clone()).unwrap_or_default();
            let objects = Objects {
                connector,
                crtc,
                planes,
            };
            if !name.is_empty() {
                offers.push((screen.output.clone(), name, objects));
            }
        }
        for (output, name, objects) in offers {
            let slot = output.user_data().get_or_insert(Slot::default);
            if slot.borrow().is_some() {
                continue;
            }
            if objects.planes.is_empty() {
                tracing::error!(target: "vitrine::kms", output = %output.name(), "lease_socket without foreign_planes: there is nothing to lease");
                continue;
            }
            match self.open_lease_socket(&output, &name, objects) {
                Ok(socket) => {
                    tracing::info!(target: "vitrine::kms", output = %output.name(), path = %socket.path.display(), "foreign planes can be leased");
                    *slot.borrow_mut() = Some(socket);
                }
                Err(error) => {
                    tracing::error!(target: "vitrine::kms", output = %output.name(), socket = %name, %error, "the lease socket cannot be opened");
                }
            }
        }
    }

    fn open_lease_socket(
        &self,
        output: &Output,
        name: &str,
        objects: Objects,
    ) -> io::Result<LeaseSocket> {
        let directory = std::env::var_os("XDG_RUNTIME_DIR")
            .ok_or_else(|| io::Error::other("XDG_RUNTIME_DIR is not set"))?;
        let path = Path::new(&directory).join(name);
        remove_stale(&path)?;
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        let output = output.clone();
        let token = self
            .event_loop
            .insert_source(Listener::of(listener), move |arrival, (), state| match arrival {
                Arrival::Connection(stream) => state.lease_to(&stream, &output, &objects),
                Arrival::Resting(error) => {
                    tracing::warn!(target: "vitrine::kms", output = %output.name(), %error, "who asks for a lease could not be accepted; trying again until somebody can");
                }
                Arrival::Closed(error) => {
                    tracing::error!(target: "vitrine::kms", output = %output.name(), %error, "the lease socket is closed");
                }
            })
            .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(LeaseSocket {
            path,
            token,
            leases: Vec::new(),
        })
    }

    fn lease_to(&self, stream: &UnixStream, output: &Output, objects: &Objects) {
        let Some(backend) = self.backend.as_ref() else {
            return;
        };
        let device = &backend.device;
        let mut screens = backend.screens.iter();
        let screen = screens.find(|screen| screen.output == *output);
        // A lessee could light what is to be dark.
        let leased = match screen.map(|screen| screen.power().wanted) {
            Some(PowerMode::Off) => Err(io::Error::other("the output is off")),
            _ => device.lease(objects.connector, objects.crtc, &objects.planes),
        };
        let sent = match leased {
            Ok((lease, fd)) => {
                tracing::info!(target: "vitrine::kms", output = %output.name(), planes = objects.line().trim_end(), "leased to another process");
                if let Some(slot) = output.user_data().get::<Slot>() {
                    if let Some(socket) = slot.borrow_mut().as_mut() {
                        // The kernel gives the numbers of leases that are over out again.
                        socket.leases.retain(|other| *other != lease);
                        socket.leases.push(lease);
                    }
                }
                send(stream, &objects.line(), Some(&fd))
            }
            Err(error) => {
                tracing::warn!(target: "vitrine::kms", output = %output.name(), %error, "a lease was asked for and cannot be given");
                send(stream, &format!("error: {error}\n"), None)
            }
        };
        if let Err(error) = sent {
            tracing::warn!(target: "vitrine::kms", output = %output.name(), %error, "who asked for a lease did not take it");
        }
    }

    /// Whether somebody has a lease of the output now.
    pub(super) fn is_leased(&self, output: &Output) -> bool {
        let slot = output.user_data().get::<Slot>();
        let Some(slot) = slot else { return false };
        let (slot, backend) = (slot.borrow(), self.backend.as_ref());
        let (Some(socket), Some(backend)) = (slot.as_ref(), backend) else {
            return false;
        };
        if socket.leases.is_empty() {
            return false;
        }
        match backend.device.leases() {
            Ok(running) => socket.leases.iter().any(|lease| running.contains(lease)),
            Err(error) => {
                tracing::warn!(target: "vitrine::kms", %error, "the leases of the device cannot be read");
                true
            }
        }
    }

    /// The output goes: nobody can lease its planes any more, and leases end.
    pub(super) fn close_lease_socket(&mut self, output: &Output) {
        let Some(slot) = output.user_data().get::<Slot>() else {
            return;
        };
        let Some(socket) = slot.borrow_mut().take() else {
            return;
        };
        self.event_loop.remove(socket.token);
        if let Err(error) = std::fs::remove_file(&socket.path) {
            tracing::debug!(target: "vitrine::kms", path = %socket.path.display(), %error, "lease socket not removed");
        }
        if let Some(backend) = self.backend.as_ref() {
            for lease in socket.leases {
                backend.device.end_lease(lease);
            }
        }
    }
}

/// A socket that nobody listens on is of a process that was killed. All else is left alone.
fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(found) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    let dead = found.file_type().is_socket() && UnixStream::connect(path).is_err();
    match dead {
        true => std::fs::remove_file(path),
        false => Err(io::ErrorKind::AddrInUse.into()),
    }
}

fn send(stream: &UnixStream, line: &str, fd: Option<&OwnedFd>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = fd.map(|fd| [fd.as_fd()]);
    if let Some(fds) = &fds {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    let text = [IoSlice::new(line.as_bytes())];
    // The peer's buffer is empty: a line fits, and nothing waits.
    sendmsg(
        stream,
        &text,
        &mut ancillary,
        SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
    )?;
    Ok(())
}
