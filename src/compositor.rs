//! The state that the event loop owns, and the wiring of the rooms.
//!
//! Everything that Wayland clients can reach begins here; `compositor/` holds the protocol handlers, one theme a file.
//! The state is complete without any hardware: screens are added when a device is there, so protocol tests run the
//! same state without a kernel.

mod access;
mod acquire;
mod app;
mod capture;
mod clients;
mod control;
mod device;
mod flush;
mod frames;
mod gpu_copies;
mod handlers;
mod held;
mod input;
mod interrupt;
mod leases;
mod listening;
mod lock;
mod menus;
mod peer;
mod power;
mod renderer_choice;
mod rest;
mod sandboxes;
mod seat;
mod selections;
mod sinks;
mod sockets;
mod toplevels;
mod window_capture;
mod windows;

use std::{
    cell::Cell,
    collections::HashMap,
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
};

use anyhow::Context;
use smithay::{
    input::{pointer::CursorImageStatus, Seat, SeatState},
    output::Output,
    reexports::{
        calloop::{channel, LoopHandle, LoopSignal, RegistrationToken},
        wayland_server::{BindError, Display, DisplayHandle, ListeningSocket},
    },
    wayland::{
        compositor::CompositorState,
        cursor_shape::CursorShapeManagerState,
        dmabuf::{DmabufGlobal, DmabufState},
        foreign_toplevel_list::ForeignToplevelListState,
        presentation::PresentationState,
        selection::{data_device::DataDeviceState, primary_selection::PrimarySelectionState},
        shell::xdg::{decoration::XdgDecorationState, XdgShellState},
        shm::ShmState,
        single_pixel_buffer::SinglePixelBufferState,
        viewporter::ViewporterState,
    },
};

use crate::{
    capture::{CopyPool, OutputCapture},
    config::Config,
    input::{surfaces_changed, Input},
    kms::JobId,
    output::Copier,
    policy::{Origin, Privilege},
    protocols::{
        wlr_output_power::OutputPowers, xdg_output::XdgOutputs, CaptureProtocols, LoopSender,
        LoopTask,
    },
    render::Renderer,
    shell::Shell,
    time::Time,
};

pub use clients::ClientState;
pub use device::Backend;

/// Bytes that may wait for one client before it is disconnected: a client that is stopped for a moment under a fast
/// pointer must survive, one that never reads must not grow our memory without bound.
const CLIENT_BUFFER_BYTES: usize = 1 << 20;

/// The numbers that a socket without a name may have; 0 is left to those who choose it.
const DISPLAY_NUMBERS: std::ops::Range<usize> = 1..33;

/// Worker threads that copy captured pixels into clients' buffers.
const COPY_THREADS: usize = 2;

/// The compositor: one value, owned by the event loop.
pub struct Vitrine {
    /// The operator's settings.
    pub config: Config,
    /// The Wayland display.
    pub display: DisplayHandle,
    /// The event loop that owns this state.
    pub event_loop: LoopHandle<'static, Vitrine>,
    /// Ends the event loop.
    pub signal: LoopSignal,
    /// Exit status once the session is over.
    pub exit_code: Option<u8>,
    /// Windows and their places.
    pub shell: Shell,
    /// The one seat.
    pub seat: Seat<Vitrine>,
    /// What the pointer looks like.
    pub cursor: CursorImageStatus,
    /// Draws the scene; also imports clients' buffers.
    pub renderer: Renderer,
    /// The display device with its screens; none in protocol tests.
    pub backend: Option<Backend>,
    /// The capture side of each output.
    pub captures: HashMap<Output, OutputCapture>,
    /// The application that this session exists for.
    pub app: Option<crate::apps::App>,
    /// The configuration that the command line named.
    config_file: Option<std::path::PathBuf>,
    access: access::Access,
    /// Whether the session is locked, and by whom.
    locking: lock::Locking,
    output_powers: OutputPowers,
    globals: Globals,
    seat_state: SeatState<Vitrine>,
    toplevels: toplevels::Toplevels,
    capture_protocols: CaptureProtocols,
    copy_pool: CopyPool,
    gpu_copies: gpu_copies::GpuCopies,
    /// Fills slots for the render producer.
    copier: Copier,
    tasks: LoopSender<Vitrine>,
    dmabuf_global: Option<DmabufGlobal>,
    /// What commits wait for.
    acquire: acquire::Acquire,
    input: Input,
    libinput: Option<smithay::reexports::input::Libinput>,
    /// The next deadline of all screens and captures.
    alarm: Option<(Time, RegistrationToken)>,
    flushing: flush::Flushing,
    listening: listening::Listening,
    /// When this turn of the event loop first asked for the time.
    turn: Cell<Option<Time>>,
    /// A client's buffer was destroyed in this turn.
    buffers_died: bool,
    /// A lease was dropped in this turn.
    released: Arc<AtomicBool>,
    /// A worker dropped a lease, and the loop has not heard of it yet.
    woken: Arc<AtomicBool>,
    /// Writeback fences in the event loop.
    fences: HashMap<(Output, JobId), RegistrationToken>,
    selections: selections::Selections,
    /// The menu that has keyboard and pointer, or had them last.
    menu: Option<menus::Menu>,
    /// The control socket, and what is written in the background.
    control: control::Control,
}

/// Smithay's protocol states; each keeps its globals alive.
struct Globals {
    compositor: CompositorState,
    xdg_shell: XdgShellState,
    shm: ShmState,
    dmabuf: DmabufState,
    data_device: DataDeviceState,
    primary_selection: PrimarySelectionState,
    xdg_outputs: XdgOutputs,
    _decoration: XdgDecorationState,
    _presentation: PresentationState,
    _viewporter: ViewporterState,
    _single_pixel: SinglePixelBufferState,
    _cursor_shape: CursorShapeManagerState,
}

impl Globals {
    fn new(display: &DisplayHandle) -> Self {
        Self {
            compositor: CompositorState::new_v6::<Vitrine>(display),
            xdg_shell: XdgShellState::new::<Vitrine>(display),
            shm: ShmState::new::<Vitrine>(display, crate::render::extra_shm_formats()),
            dmabuf: DmabufState::new(),
            data_device: DataDeviceState::new::<Vitrine>(display),
            primary_selection: PrimarySelectionState::new::<Vitrine>(display),
            xdg_outputs: XdgOutputs::new::<Vitrine>(display),
            _decoration: XdgDecorationState::new::<Vitrine>(display),
            _presentation: PresentationState::new::<Vitrine>(
                display,
                rustix::time::ClockId::Monotonic as u32,
            ),
            _viewporter: ViewporterState::new::<Vitrine>(display),
            _single_pixel: SinglePixelBufferState::new::<Vitrine>(display),
            _cursor_shape: CursorShapeManagerState::new::<Vitrine>(display),
        }
    }
}

impl Vitrine {
    /// The whole compositor without a device: all globals exist, no output yet.
    ///
    /// # Errors
    /// When the event loop or the software renderer refuses (out of memory or file descriptors).
    pub fn new(
        config: Config,
        display: Display<Vitrine>,
        event_loop: LoopHandle<'static, Vitrine>,
        signal: LoopSignal,
    ) -> anyhow::Result<Self> {
        let display_handle = display.handle();
        display_handle.set_default_max_buffer_size(CLIENT_BUFFER_BYTES);
        let globals = Globals::new(&display_handle);
        let mut seat_state = SeatState::new();
        let seat = seat_state.new_wl_seat(&display_handle, config.seat.name.clone());
        let mut access = access::Access::new(config.access.clone(), &display_handle);
        let filter = access.filter(Privilege::Capture);
        let locking = lock::Locking::new(&display_handle, access.filter(Privilege::SessionLock));
        let output_powers =
            OutputPowers::new::<Vitrine>(&display_handle, access.filter(Privilege::OutputPower));
        let toplevels = toplevels::Toplevels::new(ForeignToplevelListState::new_with_filter::<
            Vitrine,
        >(&display_handle, filter.clone()));
        let capture_protocols = CaptureProtocols::new::<Vitrine>(&display_handle, filter);
        let (tasks, task_source) = channel::channel::<LoopTask<Vitrine>>();
        let tasks = Arc::new(tasks);
        insert_tasks(&event_loop, task_source)?;
        let listening = listening::Listening::new(&event_loop, display)?;
        let results = tasks.clone();
        let copier = Copier::new(move |filled| {
            // The loop is gone only at exit; nobody waits for a frame then.
            let _ = results.send(Box::new(|state: &mut Vitrine| state.slot_filled(filled)));
        })
        .context("the rendering thread cannot start")?;
        Ok(Self {
            shell: Shell::default(),
            seat,
            cursor: CursorImageStatus::default_named(),
            renderer: Renderer::pixman().context("the software renderer cannot start")?,
            backend: None,
            app: None,
            exit_code: None,
            config_file: None,
            access,
            locking,
            output_powers,
            toplevels,
            globals,
            seat_state,
            capture_protocols,
            copy_pool: CopyPool::new(COPY_THREADS).context("the copy threads cannot start")?,
            gpu_copies: gpu_copies::GpuCopies::default(),
            copier,
            tasks,
            dmabuf_global: None,
            acquire: acquire::Acquire::default(),
            captures: HashMap::new(),
            input: Input::new(config.input.clone()),
            libinput: None,
            alarm: None,
            flushing: flush::Flushing::default(),
            listening,
            turn: Cell::default(),
            buffers_died: false,
            released: Arc::default(),
            woken: Arc::default(),
            fences: HashMap::new(),
            selections: selections::Selections::default(),
            menu: None,
            control: control::Control::default(),
            config,
            display: display_handle,
            event_loop,
            signal,
        })
    }

    /// Opens a listening socket with a free name and gives that name.
    ///
    /// # Errors
    /// When XDG_RUNTIME_DIR is unset or not writable, or all names are taken.
    pub fn listen(&mut self, name: Option<&str>) -> anyhow::Result<String> {
        self.listening
            .start()
            .context("the thread that interrupts clients cannot start")?;
        let socket = match name {
            Some(name) => ListeningSocket::bind(name),
            None => ListeningSocket::bind_auto("wayland", DISPLAY_NUMBERS),
        }
        .map_err(|error| no_socket(name, &error))?;
        let name = socket.socket_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        self.watch_socket(socket, Origin::Public)?;
        Ok(name)
    }

    /// Housekeeping after each turn of the event loop: places, focus, what is due, and the clients' events.
    pub fn after_turn(&mut self) {
        self.hear_resting_clients();
        self.forget_sources();
        self.shell.refresh();
        self.update_focus();
        surfaces_changed(self);
        self.refresh_toplevels();
        self.released.store(false, Ordering::Relaxed);
        self.run_screens();
        if self.released.swap(false, Ordering::Relaxed) {
            // A delivery found nobody any more; somebody else may wait for that slot.
            self.run_screens();
        }
        self.tell_power();
        self.confirm_lock();
        self.globals.xdg_outputs.refresh();
        if std::mem::take(&mut self.buffers_died) {
            self.renderer.forget_dead_buffers();
        }
        self.flush();
        self.turn.set(None);
    }

    /// The time of this turn of the event loop.
    fn turn(&self) -> Time {
        let now = self.turn.get().unwrap_or_else(Time::now);
        self.turn.set(Some(now));
        now
    }

    /// Ends the session with this exit status.
    pub fn quit(&mut self, code: u8) {
        self.exit_code.get_or_insert(code);
        self.signal.stop();
        self.signal.wakeup();
    }
}

/// Why there is no Wayland socket, and what to do.
fn no_socket(name: Option<&str>, error: &BindError) -> anyhow::Error {
    let folder = std::env::var_os("XDG_RUNTIME_DIR").unwrap_or_default();
    let folder = folder.display();
    match (error, name) {
        (BindError::AlreadyInUse, Some(name)) => anyhow::anyhow!(
            "the Wayland socket {name} in {folder} is in use by another compositor; `--socket` names another one"
        ),
        (BindError::AlreadyInUse, None) => {
            anyhow::anyhow!("all Wayland sockets in {folder} are in use; `--socket` names another one")
        }
        (BindError::RuntimeDirNotSet, _) => anyhow::anyhow!(
            "no Wayland socket: XDG_RUNTIME_DIR is not set to an absolute path; it names a directory of this user, e.g. /run/user/1000"
        ),
        (BindError::PermissionDenied, _) | (BindError::Io(_), _) => anyhow::anyhow!(
            "no Wayland socket: XDG_RUNTIME_DIR is {folder}, and it must be a directory that this user can write to: \
             {error}"
        ),
    }
}

fn insert_tasks(
    event_loop: &LoopHandle<'static, Vitrine>,
    source: channel::Channel<LoopTask<Vitrine>>,
) -> anyhow::Result<()> {
    event_loop
        .insert_source(source, |event, _, state| {
            if let channel::Event::Msg(task) = event {
                task(state);
            }
        })
        .map_err(|error| anyhow::anyhow!("cannot watch the workers' results: {error}"))?;
    Ok(())
}
