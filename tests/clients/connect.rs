//! One connection to a compositor: globals, outputs, and waiting with a deadline.
//!
//! Objects keep what they are told in records of their own (`Arc<Mutex<…>>` as user data), so
//! [`State`] holds only what belongs to the connection: the registry, outputs, formats.

use std::{
    env,
    os::{fd::AsFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
    time::Duration,
};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use wayland_client::{
    backend::WaylandError,
    protocol::{wl_callback, wl_registry, wl_shm},
    Connection, Dispatch, DispatchError, EventQueue, Proxy, QueueHandle,
};

use super::{clock, output::OutputInfo};

/// How long a client waits for an answer that it must get, unless told otherwise.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What can go wrong for a client. Protocol errors keep their parts, so that a test can ask for the
/// very error that it provoked.
#[derive(Debug)]
pub enum ClientError {
    /// The socket could not be reached.
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The compositor did not answer in time.
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long.
        after: Duration,
    },
    /// The compositor raised a protocol error on this connection.
    Protocol {
        /// Interface of the object that was blamed.
        interface: String,
        /// The interface's error code.
        code: u32,
        /// What the compositor said.
        message: String,
    },
    /// The compositor closed the connection without an error.
    Disconnected(String),
    /// The compositor does not announce something that was asked for.
    Missing(String),
    /// A system call of the client itself failed.
    System(String, std::io::Error),
}

impl std::fmt::Display for ClientError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connect { path, source } => {
                write!(f, "no compositor answers at {}: {source}", path.display())
            }
            Self::Timeout { what, after } => {
                write!(
                    f,
                    "the compositor did not answer within {after:?}: waited for {what}"
                )
            }
            Self::Protocol {
                interface,
                code,
                message,
            } => {
                write!(f, "protocol error {code} on {interface}: {message}")
            }
            Self::Disconnected(why) => write!(f, "the compositor closed the connection: {why}"),
            Self::Missing(what) => write!(f, "the compositor does not offer {what}"),
            Self::System(what, source) => write!(f, "{what}: {source}"),
        }
    }
}

impl std::error::Error for ClientError {}

impl ClientError {
    /// Interface and code, if this is a protocol error.
    pub fn protocol(&self) -> Option<(&str, u32)> {
        match self {
            Self::Protocol {
                interface, code, ..
            } => Some((interface, *code)),
            _ => None,
        }
    }
}

/// What the registry announced.
#[derive(Debug, Clone)]
pub struct Global {
    /// The registry's number.
    pub name: u32,
    /// Interface.
    pub interface: String,
    /// Highest version.
    pub version: u32,
}

/// What belongs to the connection as a whole.
#[derive(Debug, Default)]
pub struct State {
    /// All present globals.
    pub globals: Vec<Global>,
    /// All outputs that were ever announced; see [`OutputInfo::gone`].
    pub outputs: Vec<OutputInfo>,
    /// Formats of wl_shm (as wl_shm counts them), once it was bound.
    pub shm_formats: Vec<u32>,
    /// Formats and modifiers of linux-dmabuf, once it was bound.
    pub dmabuf_formats: Vec<(u32, u64)>,
}

/// A connection with its event queue.
pub struct Client {
    /// The connection.
    pub conn: Connection,
    /// For requests that create objects.
    pub qh: QueueHandle<State>,
    /// What the connection knows.
    pub state: State,
    queue: EventQueue<State>,
    registry: wl_registry::WlRegistry,
    patience: Duration,
}

impl Client {
    /// Connects to a socket: an absolute path, or a name below XDG_RUNTIME_DIR.
    pub fn connect(display: impl AsRef<Path>) -> Result<Self, ClientError> {
        let display = display.as_ref();
        let path = if display.is_absolute() {
            display.to_owned()
        } else {
            PathBuf::from(env::var_os("XDG_RUNTIME_DIR").unwrap_or_default()).join(display)
        };
        let stream = UnixStream::connect(&path).map_err(|source| ClientError::Connect {
            path: path.clone(),
            source,
        })?;
        Self::from_stream(stream)
    }

    /// Connects to `$WAYLAND_DISPLAY`, or `wayland-0`.
    pub fn from_env() -> Result<Self, ClientError> {
        Self::connect(env::var_os("WAYLAND_DISPLAY").unwrap_or_else(|| "wayland-0".into()))
    }

    /// Connects again and again until the compositor answers, at most for `patience`.
    pub fn connect_when_ready(
        display: impl AsRef<Path>,
        patience: Duration,
    ) -> Result<Self, ClientError> {
        let deadline = clock::now() + patience;
        loop {
            match Self::connect(display.as_ref()) {
                Err(ClientError::Connect { .. }) if clock::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                other => return other,
            }
        }
    }

    /// Takes over a connected socket and learns the globals and outputs.
    pub fn from_stream(stream: UnixStream) -> Result<Self, ClientError> {
        let conn = Connection::from_socket(stream)
            .map_err(|error| ClientError::Disconnected(error.to_string()))?;
        let queue = conn.new_event_queue();
        let qh = queue.handle();
        let registry = conn.display().get_registry(&qh, ());
        let state = State::default();
        let mut client = Self {
            conn,
            qh,
            state,
            queue,
            registry,
            patience: PATIENCE,
        };
        client.roundtrip()?;
        client.learn_outputs()?;
        Ok(client)
    }

    /// How long [`Self::roundtrip`] and other obligatory answers may take.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// See [`Self::set_patience`].
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Sends all requests so far and waits until the compositor has handled them.
    pub fn roundtrip(&mut self) -> Result<(), ClientError> {
        let done = Arc::new(AtomicBool::new(false));
        self.conn.display().sync(&self.qh, Arc::clone(&done));
        self.wait_for("wl_display.sync", self.patience, |_| {
            done.load(Ordering::Relaxed).then_some(())
        })
    }

    /// Dispatches events until `answer` gives something; an error after `patience`.
    pub fn wait_for<T>(
        &mut self,
        what: &str,
        patience: Duration,
        mut answer: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<T, ClientError> {
        let deadline = clock::now() + patience;
        loop {
            self.dispatch_ready()?;
            if let Some(answer) = answer(&mut self.state) {
                return Ok(answer);
            }
            let left = deadline.saturating_sub(clock::now());
            if left.is_zero() {
                return Err(ClientError::Timeout {
                    what: what.to_owned(),
                    after: patience,
                });
            }
            self.read_for(left)?;
        }
    }

    /// Dispatches events for this long; fine if there are none.
    pub fn dispatch_for(&mut self, time: Duration) -> Result<(), ClientError> {
        match self.wait_for::<()>("nothing", time, |_| None) {
            Ok(()) | Err(ClientError::Timeout { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Waits for the protocol error that a test provoked. `Ok` never means "no error".
    pub fn expect_protocol_error(&mut self) -> Result<(String, u32), ClientError> {
        let patience = self.patience;
        match self.wait_for::<()>("a protocol error", patience, |_| None) {
            Err(ClientError::Protocol {
                interface, code, ..
            }) => Ok((interface, code)),
            Err(error) => Err(error),
            Ok(()) => unreachable!("the answer is always None"),
        }
    }

    /// Sends the requests so far without waiting.
    pub fn flush(&self) -> Result<(), ClientError> {
        match self.conn.flush() {
            Ok(()) => Ok(()),
            Err(WaylandError::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {
                Ok(())
            }
            Err(error) => Err(self.explain(error.into())),
        }
    }

    /// Binds the first global of this interface, at most with `version`.
    pub fn bind<I, U>(&self, version: u32, data: U) -> Result<I, ClientError>
    where
        I: Proxy + 'static,
        U: Send + Sync + 'static,
        State: Dispatch<I, U>,
    {
        let interface = I::interface().name;
        let global = self
            .state
            .globals
            .iter()
            .find(|global| global.interface == interface)
            .ok_or_else(|| ClientError::Missing(interface.to_owned()))?;
        Ok(self
            .registry
            .bind(global.name, version.min(global.version), &self.qh, data))
    }

    /// Version of a global, or None if the compositor does not announce it.
    pub fn version_of(&self, interface: &str) -> Option<u32> {
        let found = self
            .state
            .globals
            .iter()
            .find(|global| global.interface == interface);
        found.map(|global| global.version)
    }

    /// Process id of who listens at the socket: the compositor, unless a proxy is between.
    pub fn server_pid(&self) -> Option<u32> {
        let fd = self.conn.backend().poll_fd().try_clone_to_owned().ok()?;
        let peer = rustix::net::sockopt::socket_peercred(fd).ok()?;
        u32::try_from(peer.pid.as_raw_nonzero().get()).ok()
    }

    /// The registry, for binding what this module does not know.
    pub fn registry(&self) -> &wl_registry::WlRegistry {
        &self.registry
    }

    fn dispatch_ready(&mut self) -> Result<(), ClientError> {
        match self.queue.dispatch_pending(&mut self.state) {
            Ok(_) => {}
            Err(error) => return Err(self.explain(error)),
        }
        self.flush_or_hear()
    }

    /// A failed write may only mean that the compositor has closed after sending an error: that
    /// error is still in the socket, and it is the one that matters.
    fn flush_or_hear(&mut self) -> Result<(), ClientError> {
        let Err(error) = self.flush() else {
            return Ok(());
        };
        for _ in 0..8 {
            if self.read_for(Duration::from_millis(50)).is_err() {
                break;
            }
        }
        match self.conn.protocol_error() {
            Some(_) => Err(self.explain(DispatchError::Backend(WaylandError::Io(
                std::io::ErrorKind::BrokenPipe.into(),
            )))),
            None => Err(error),
        }
    }

    fn read_for(&mut self, time: Duration) -> Result<(), ClientError> {
        let Some(guard) = self.queue.prepare_read() else {
            return Ok(());
        };
        let timeout = Timespec {
            tv_sec: time.as_secs().min(3600) as i64,
            tv_nsec: i64::from(time.subsec_nanos()),
        };
        let fd = guard.connection_fd();
        let mut fds = [PollFd::from_borrowed_fd(
            fd.as_fd(),
            PollFlags::IN | PollFlags::ERR,
        )];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => Ok(()),
            Ok(_) => match guard.read() {
                Ok(_) => Ok(()),
                Err(WaylandError::Io(e)) if e.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
                Err(error) => Err(self.explain(error.into())),
            },
            Err(error) => Err(ClientError::System("poll".into(), error.into())),
        }
    }

    fn explain(&self, error: DispatchError) -> ClientError {
        if let Some(error) = self.conn.protocol_error() {
            return ClientError::Protocol {
                interface: error.object_interface,
                code: error.code,
                message: error.message,
            };
        }
        match error {
            DispatchError::Backend(WaylandError::Io(error)) => {
                ClientError::Disconnected(error.to_string())
            }
            other => ClientError::Disconnected(other.to_string()),
        }
    }
}

impl Dispatch<wl_registry::WlRegistry, ()> for State {
    fn event(
        state: &mut Self,
        registry: &wl_registry::WlRegistry,
        event: wl_registry::Event,
        _: &(),
        _: &Connection,
        qh: &QueueHandle<Self>,
    ) {
        match event {
            wl_registry::Event::Global {
                name,
                interface,
                version,
            } => {
                if interface == "wl_output" {
                    state.output_announced(registry, name, version, qh);
                }
                state.globals.push(Global {
                    name,
                    interface,
                    version,
                });
            }
            wl_registry::Event::GlobalRemove { name } => {
                state.globals.retain(|global| global.name != name);
                state.output_removed(name);
            }
            _ => {}
        }
    }
}

impl Dispatch<wl_callback::WlCallback, Arc<AtomicBool>> for State {
    fn event(
        _: &mut Self,
        _: &wl_callback::WlCallback,
        _: wl_callback::Event,
        done: &Arc<AtomicBool>,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        done.store(true, Ordering::Relaxed);
    }
}

impl Dispatch<wl_shm::WlShm, ()> for State {
    fn event(
        state: &mut Self,
        _: &wl_shm::WlShm,
        event: wl_shm::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let wl_shm::Event::Format { format } = event {
            state.shm_formats.push(format.into());
        }
    }
}
