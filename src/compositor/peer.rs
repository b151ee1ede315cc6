//! Finds out who is at the other end of a socket.
//!
//! The kernel notes pid and uid of whoever called connect(). The program has to be read from /proc, where three things may
//! go wrong: the process is gone and its pid belongs to another (a pidfd of the socket tells, on Linux 6.5 and newer), its
//! path is one of another mount namespace (the file at that path here is not the same file), or the file was replaced since
//! (the same). In each of these cases the program is unknown. What cannot be known at all: whether the process will run
//! another program later, or is led by another one (a debugger, a preloaded library, a passed socket).

use std::{
    fs::{metadata, read_link},
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::{fs::MetadataExt, net::UnixStream},
    },
    path::{Path, PathBuf},
};

use rustix::event::{poll, PollFd, PollFlags};

use crate::policy::{Origin, Peer};

/// SO_PEERPIDFD of asm-generic/socket.h (Linux 6.5); the architectures that differ have no display controllers.
const SO_PEERPIDFD: libc::c_int = 77;

/// What can be known of a client that has just connected.
pub(super) fn identify(stream: &UnixStream, origin: Origin) -> Peer {
    let Ok(credentials) = rustix::net::sockopt::socket_peercred(stream) else {
        return Peer {
            origin,
            ..Peer::default()
        };
    };
    let pid = credentials.pid.as_raw_nonzero().get();
    let process = peer_process(stream);
    let executable = executable(
        Path::new("/proc")
            .join(pid.to_string())
            .join("exe")
            .as_path(),
    );
    Peer {
        pid,
        uid: Some(credentials.uid.as_raw()),
        // Asked after reading: if the process lives now, the pid was its own before.
        executable: executable.filter(|_| process.may_live()),
        origin,
    }
}

/// The path behind the link in /proc, if that path leads here to the very file that the process runs.
fn executable(link: &Path) -> Option<PathBuf> {
    let path = read_link(link).ok()?;
    let running = metadata(link).ok()?;
    let here = metadata(&path).ok()?;
    ((running.dev(), running.ino()) == (here.dev(), here.ino())).then_some(path)
}

/// The process that connected, as the socket names it.
enum Process {
    /// The kernel is too old to say (before Linux 6.5): the pid is all there is.
    Unknown,
    /// It is gone already.
    Gone,
    /// By a descriptor, which never means another process.
    Here(OwnedFd),
}

impl Process {
    fn may_live(&self) -> bool {
        match self {
            Process::Unknown => true,
            Process::Gone => false,
            Process::Here(pidfd) => lives(pidfd),
        }
    }
}

fn peer_process(stream: &UnixStream) -> Process {
    let mut fd: libc::c_int = -1;
    let mut length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4);
    // SAFETY: the kernel writes at most `length` bytes to `fd`, which is that long and lives until after the call.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &raw mut length,
        )
    };
    if result == 0 && fd >= 0 {
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
        return Process::Here(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    match std::io::Error::last_os_error().raw_os_error() {
        Some(libc::ENOPROTOOPT) => Process::Unknown,
        _ => Process::Gone,
    }
}

/// A pidfd becomes readable when its process ends.
fn lives(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    let now = rustix::time::Timespec::default();
    matches!(poll(&mut fds, Some(&now)), Ok(0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_peer_is_its_process_its_user_and_its_program() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = identify(&ours, Origin::Public);
        assert_eq!(peer.pid, rustix::process::getpid().as_raw_nonzero().get());
        assert_eq!(peer.uid, Some(rustix::process::getuid().as_raw()));
        assert_eq!(peer.executable, Some(std::env::current_exe().unwrap()));
    }

    #[test]
    fn a_process_that_has_ended_does_not_live() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        child.wait().unwrap();
        assert!(!lives(&pidfd));
        let me = rustix::process::getpid();
        let pidfd = rustix::process::pidfd_open(me, rustix::process::PidfdFlags::empty()).unwrap();
        assert!(lives(&pidfd));
    }

    #[test]
    fn a_program_whose_path_leads_nowhere_is_unknown() {
        let dir = tempfile::tempdir().unwrap();
        let (program, link) = (dir.path().join("program"), dir.path().join("exe"));
        std::fs::write(&program, "").unwrap();
        symlink(&program, &link).unwrap();
        assert_eq!(executable(&link), Some(program.clone()));
        std::fs::remove_file(&program).unwrap();
        assert_eq!(executable(&link), None);
    }
}
