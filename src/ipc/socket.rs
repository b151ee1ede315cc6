//! The listening end of the control socket, and who is connected.

use std::{
    cell::Cell,
    io,
    os::{
        fd::AsFd,
        unix::{fs::FileTypeExt, net::UnixListener, net::UnixStream},
    },
    path::{Path, PathBuf},
    rc::Rc,
};

use rustix::{
    fs::{fchmod, Mode as FileMode},
    net::{
        bind, listen, socket_with, sockopt::socket_peercred, AddressFamily, SocketAddrUnix,
        SocketFlags, SocketType,
    },
};
use smithay::reexports::calloop::{LoopHandle, RegistrationToken};

use super::{connection::Connection, wire, wire::Reply, wire::Request, TARGET};
use crate::listener::{Arrival, Listener};

/// So many peers may be connected. For one more the longest idle one goes.
pub const MAX_CONNECTIONS: usize = 8;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 8;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// There is no place for it.
    #[error("no control socket: XDG_RUNTIME_DIR is not set to an absolute path")]
    NoRuntimeDir,
    /// Something else has its name.
    #[error("no control socket: {} exists and is no socket; remove it", .0.display())]
    InTheWay(PathBuf),
    /// The system refused.
    #[error("no control socket at {}: {source}", path.display())]
    Refused {
        /// Where.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// The name of the control socket that belongs to a Wayland socket.
pub fn socket_name(display: &str) -> String {
    format!("vitrine-{display}.sock")
}

/// The control socket. Dropping it removes its file.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    peers: Vec<Peer>,
    requests: u64,
}

#[derive(Debug)]
struct Peer {
    token: RegistrationToken,
    active: Rc<Cell<u64>>,
}

impl ControlSocket {
    /// Opens the socket (only its owner may connect) and answers what comes in. `own` finds this value in the state,
    /// `answer` gives the replies.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn open<D: 'static>(
        runtime_dir: &Path,
        display: &str,
        event_loop: &LoopHandle<'static, D>,
        own: fn(&mut D) -> Option<&mut ControlSocket>,
        answer: fn(&mut D, Request) -> Result<Reply, String>,
    ) -> Result<Self, SocketError> {
        if !runtime_dir.is_absolute() {
            return Err(SocketError::NoRuntimeDir);
        }
        let path = runtime_dir.join(socket_name(display));
        remove_stale(&path)?;
        let refused = |source: io::Error| SocketError::Refused {
            path: path.clone(),
            source,
        };
        let listener = listen_at(&path).map_err(refused)?;
        let handle = event_loop.clone();
        let accept = move |state: &mut D, stream: UnixStream| {
            let Some(socket) = own(state).filter(|_| is_ours(&stream)) else {
                return;
            };
            socket.make_room(&handle);
            let active = Rc::new(Cell::new(socket.requests));
            let connection = match Connection::new(stream, Rc::clone(&active)) {
                Ok(connection) => connection,
                Err(error) => {
                    tracing::warn!(target: TARGET, %error, "a control connection cannot be used");
                    return;
                }
            };
            let inserted = handle.insert_source(connection, move |line, (), state| {
                let number = own(state).map_or(0, |socket| {
                    socket.requests += 1;
                    socket.requests
                });
                (
                    wire::respond(&line, |request| answer(state, request)),
                    number,
                )
            });
            match (inserted, own(state)) {
                (Ok(token), Some(socket)) => socket.peers.push(Peer { token, active }),
                (Ok(token), None) => handle.remove(token),
                (Err(error), _) => {
                    tracing::warn!(target: TARGET, %error, "a control connection cannot be watched");
                }
            }
        };
        event_loop
            .insert_source(Listener::of(listener), move |arrival, (), state| match arrival {
                Arrival::Connection(stream) => accept(state, stream),
                Arrival::Resting(error) => {
                    tracing::warn!(target: TARGET, %error, "a control connection could not be accepted; trying again until one can");
                }
                Arrival::Closed(error) => {
                    tracing::error!(target: TARGET, %error, "the control socket is closed");
                }
            })
            .map_err(|error| refused(io::Error::other(error.to_string())))?;
        Ok(Self {
            path,
            peers: Vec::new(),
            requests: 0,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many are connected.
    pub fn connections(&self) -> usize {
        self.peers.iter().filter(|peer| peer.is_alive()).count()
    }

    fn make_room<D>(&mut self, event_loop: &LoopHandle<'static, D>) {
        self.peers.retain(Peer::is_alive);
        if self.peers.len() < MAX_CONNECTIONS {
            return;
        }
        let idle = self
            .peers
            .iter()
            .enumerate()
            .min_by_key(|(_, peer)| peer.active.get());
        if let Some(idle) = idle.map(|(place, _)| place) {
            tracing::debug!(target: TARGET, "too many control connections; the longest idle one is closed");
            event_loop.remove(self.peers.remove(idle).token);
        }
    }
}

impl Peer {
    /// The event source holds the other half.
    fn is_alive(&self) -> bool {
        Rc::strong_count(&self.active) > 1
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(target: TARGET, %error, "the control socket's file stays");
        }
    }
}

/// The Wayland socket's lock says that the name is ours: what is left of a session that crashed may go.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            std::fs::remove_file(path).map_err(|source| SocketError::Refused {
                path: path.to_owned(),
                source,
            })
        }
        Ok(_) => Err(SocketError::InTheWay(path.to_owned())),
        Err(_) => Ok(()),
    }
}

fn listen_at(path: &Path) -> io::Result<UnixListener> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The file gets the mode of the socket's inode: there is no moment at which others could connect.
    fchmod(&socket, FileMode::RUSR | FileMode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, BACKLOG)?;
    Ok(UnixListener::from(socket))
}

/// The mode of the file says the same, but may be changed by mistake.
fn is_ours(stream: &UnixStream) -> bool {
    match socket_peercred(stream.as_fd()) {
        Ok(peer) => peer.uid.is_root() || peer.uid == rustix::process::geteuid(),
        Err(error) => {
            tracing::warn!(target: TARGET, %error, "a control connection without credentials is refused");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "tests fail by panicking"
    )]

    use std::{
        io::{BufRead, BufReader, Read, Write},
        os::unix::fs::PermissionsExt,
        time::Duration,
    };

    use smithay::reexports::calloop::EventLoop;

    use super::*;

    const VERSION_REQUEST: &[u8] = b"{\"version\":1,\"request\":\"version\"}\n";

    #[derive(Default)]
    struct State {
        socket: Option<ControlSocket>,
        asked: usize,
    }

    /// The real socket in an event loop that turns when the test says so.
    struct Server {
        event_loop: EventLoop<'static, State>,
        state: State,
        folder: tempfile::TempDir,
    }

    impl Server {
        fn start() -> Self {
            let event_loop = EventLoop::try_new().unwrap();
            let folder = tempfile::tempdir().unwrap();
            let socket = ControlSocket::open(
                folder.path(),
                "wayland-9",
                &event_loop.handle(),
                |state: &mut State| state.socket.as_mut(),
                |state, _| {
                    state.asked += 1;
                    Ok(Reply::Metrics("x".repeat(100_000)))
                },
            );
            let state = State {
                socket: Some(socket.unwrap()),
                asked: 0,
            };
            Self {
                event_loop,
                state,
                folder,
            }
        }

        fn turn(&mut self, count: usize) {
            for _ in 0..count {
                let at_once = Some(Duration::ZERO);
                self.event_loop.dispatch(at_once, &mut self.state).unwrap();
            }
        }

        fn socket(&self) -> &ControlSocket {
            self.state.socket.as_ref().unwrap()
        }

        fn connect(&mut self) -> UnixStream {
            let stream = UnixStream::connect(self.socket().path()).unwrap();
            stream.set_nonblocking(true).unwrap();
            self.turn(2);
            stream
        }
    }

    /// Takes what has come.
    fn drain(stream: &mut UnixStream) -> Result<usize, io::ErrorKind> {
        let mut chunk = [0; 65536];
        let mut total = 0;
        loop {
            match stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof),
                Ok(count) => total += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(total),
                Err(error) => return Err(error.kind()),
            }
        }
    }

    #[test]
    fn a_request_is_answered_and_the_file_is_private_and_goes_with_the_socket() {
        let mut server = Server::start();
        let path = server.socket().path().to_owned();
        assert_eq!(path, server.folder.path().join("vitrine-wayland-9.sock"));
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut peer = server.connect();
        peer.write_all(VERSION_REQUEST).unwrap();
        server.turn(3);
        let mut line = String::new();
        BufReader::new(&peer).read_line(&mut line).unwrap();
        assert!(line.starts_with("{\"version\":1,\"ok\":"), "{line:.80}");
        server.state.socket = None;
        assert!(!path.exists());
    }

    #[test]
    fn a_peer_that_never_reads_is_asked_nothing_more_and_holds_nobody() {
        let mut server = Server::start();
        let mut deaf = server.connect();
        // Until even the kernel takes no more of it.
        let mut said = 0;
        for _ in 0..400 {
            said += deaf.write(VERSION_REQUEST).unwrap_or(0);
            server.turn(1);
        }
        let asked = server.state.asked;
        assert!(
            asked < 100 && said > asked * VERSION_REQUEST.len(),
            "{asked}"
        );
        server.turn(50);
        assert_eq!(server.state.asked, asked);
        let mut other = server.connect();
        other.write_all(VERSION_REQUEST).unwrap();
        server.turn(3);
        assert!(drain(&mut other).unwrap() > 100_000);
        // It reads at last, and gets the rest.
        while server.state.asked < asked + 3 {
            drain(&mut deaf).unwrap();
            server.turn(1);
        }
    }

    #[test]
    fn one_peer_too_many_costs_the_longest_idle_one_its_place() {
        let mut server = Server::start();
        let mut peers: Vec<UnixStream> = (0..MAX_CONNECTIONS).map(|_| server.connect()).collect();
        for peer in peers.iter_mut().skip(1) {
            peer.write_all(VERSION_REQUEST).unwrap();
            server.turn(3);
            drain(peer).unwrap();
        }
        let mut more: Vec<UnixStream> = (0..3).map(|_| server.connect()).collect();
        assert_eq!(server.socket().connections(), MAX_CONNECTIONS);
        assert_eq!(drain(&mut peers[0]), Err(io::ErrorKind::UnexpectedEof));
        let last = more.last_mut().unwrap();
        last.write_all(VERSION_REQUEST).unwrap();
        server.turn(3);
        assert!(drain(last).unwrap() > 0);
        drop((peers, more));
        server.turn(MAX_CONNECTIONS);
        assert_eq!(server.socket().connections(), 0);
    }

    #[test]
    fn what_a_crashed_session_left_is_replaced_and_a_file_is_not() {
        let event_loop: EventLoop<'static, State> = EventLoop::try_new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let open = || {
            ControlSocket::open(
                folder.path(),
                "wayland-9",
                &event_loop.handle(),
                |state: &mut State| state.socket.as_mut(),
                |_, _| Ok(Reply::Quit),
            )
        };
        let path = folder.path().join(socket_name("wayland-9"));
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(open().unwrap());
        std::fs::write(&path, "mine").unwrap();
        let error = open().unwrap_err().to_string();
        assert!(error.contains("is no socket"), "{error}");
    }
}
