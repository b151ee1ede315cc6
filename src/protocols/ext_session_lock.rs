//! ext-session-lock-v1: the rules of the protocol. Whether and when the session is locked is the handler's business.
//!
//! Smithay 0.7.0 has this protocol too, but there `unlock_and_destroy` on any lock object unlocks, be it one that was
//! refused (the error is posted and the request carried out all the same), its handler is not told which lock a surface is
//! for, and an output whose lock surface was destroyed never gets another one.

use std::sync::{Mutex, MutexGuard, PoisonError};

use smithay::{
    backend::renderer::{buffer_dimensions, utils::with_renderer_surface_state},
    output::Output,
    utils::{Logical, Size},
    wayland::{
        compositor::{self, BufferAssignment, CompositorHandler, SurfaceAttributes},
        viewporter::ViewportCachedState,
    },
};
use wayland_protocols::ext::session_lock::v1::server::{
    ext_session_lock_manager_v1, ext_session_lock_surface_v1, ext_session_lock_v1,
};
use wayland_server::{
    backend::{ClientId, GlobalId},
    protocol::{wl_output::WlOutput, wl_surface::WlSurface},
    Client, DataInit, Dispatch, DisplayHandle, GlobalDispatch, New, Resource, Weak,
};

use super::CaptureGlobalData;

pub use ext_session_lock_manager_v1::ExtSessionLockManagerV1 as LockManager;
pub use ext_session_lock_surface_v1::ExtSessionLockSurfaceV1 as LockSurfaceObject;
pub use ext_session_lock_v1::ExtSessionLockV1 as LockObject;

const ROLE: &str = "ext_session_lock_surface_v1";

/// Configures that a client has not acknowledged; older ones are forgotten.
const MAX_CONFIGURES: usize = 64;

/// What the compositor's state does with locks.
pub trait SessionLockHandler: CompositorHandler + 'static {
    /// A client asks to lock the session. Answer now or later with [`Lock::locked`] or [`Lock::finished`].
    fn lock_requested(&mut self, client: &Client, lock: Lock);

    /// The size that a lock surface on this output is to have.
    fn lock_surface_size(&self, output: &Output) -> Size<i32, Logical>;

    /// A surface wants to cover an output in the name of this lock.
    fn lock_surface_added(&mut self, lock: &Lock, surface: LockSurface);

    /// It does not any more, whatever lock it was of.
    fn lock_surface_gone(&mut self, surface: &WlSurface);

    /// The client of a lock that was told `locked` wants to unlock.
    fn unlock_requested(&mut self, lock: &Lock);

    /// The object is gone without that: with `given_up` by its client's own word, which it can say only before it was told
    /// `locked`; else its client died.
    fn lock_gone(&mut self, lock: &Lock, given_up: bool);
}

/// Takes the requests apart; see the head of the file.
#[derive(Debug)]
pub struct SessionLocks;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Locked,
    Finished,
}

#[derive(Debug)]
struct State {
    told: Told,
    /// The client has said that it needs the object no more, in an orderly way.
    over: bool,
    surfaces: Vec<(Output, Weak<LockSurfaceObject>)>,
}

/// The data of a lock object.
#[derive(Debug)]
pub struct LockData(Mutex<State>);

impl LockData {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lock object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock(LockObject);

impl Lock {
    fn data(&self) -> Option<&LockData> {
        self.0.data()
    }

    /// The session is locked: the client may suspend the machine now, and unlock later.
    pub fn locked(&self) {
        self.tell(Told::Locked, LockObject::locked);
    }

    /// The lock is refused.
    pub fn finished(&self) {
        self.tell(Told::Finished, LockObject::finished);
    }

    fn tell(&self, what: Told, send: impl FnOnce(&LockObject)) {
        if let Some(data) = self.data() {
            let mut state = data.lock();
            if state.told == Told::Nothing {
                state.told = what;
                send(&self.0);
            }
        }
    }
}

/// A surface that covers an output.
#[derive(Debug, Clone)]
pub struct LockSurface {
    /// The surface.
    pub surface: WlSurface,
    /// The output.
    pub output: Output,
}

impl LockSurface {
    /// Asks the client for another size, if it is another one.
    pub fn configure(&self, size: Size<i32, Logical>) {
        with_role(&self.surface, |role| role.configure(size));
    }
}

/// The data of a lock surface object; without a surface it covers nothing.
#[derive(Debug)]
pub struct LockSurfaceData(Option<Weak<WlSurface>>);

/// What is kept with the surface.
#[derive(Debug)]
struct Role {
    object: LockSurfaceObject,
    /// Sent and not acknowledged.
    configures: Vec<(u32, Size<i32, Logical>)>,
    asked: Option<Size<i32, Logical>>,
    acked: Option<Size<i32, Logical>>,
}

impl Role {
    fn new(object: LockSurfaceObject) -> Self {
        Self {
            object,
            configures: Vec::new(),
            asked: None,
            acked: None,
        }
    }

    fn configure(&mut self, size: Size<i32, Logical>) {
        if self.asked.replace(size) == Some(size) {
            return;
        }
        let serial = u32::from(crate::shell::next_serial());
        if self.configures.len() >= MAX_CONFIGURES {
            self.configures.remove(0);
        }
        self.configures.push((serial, size));
        let side = |side: i32| u32::try_from(side).unwrap_or(0);
        self.object.configure(serial, side(size.w), side(size.h));
    }

    fn ack(&mut self, serial: u32) {
        let sent = self.configures.iter().position(|(sent, _)| *sent == serial);
        match sent.and_then(|at| self.configures.drain(..=at).next_back()) {
            Some((_, size)) => self.acked = Some(size),
            None => self.object.post_error(
                ext_session_lock_surface_v1::Error::InvalidSerial,
                format!("{serial} is no configure that waits for its acknowledgement"),
            ),
        }
    }
}

type RoleData = Mutex<Role>;

fn with_role<T>(surface: &WlSurface, f: impl FnOnce(&mut Role) -> T) -> Option<T> {
    compositor::with_states(surface, |states| {
        let role = states.data_map.get::<RoleData>()?;
        let mut role = role.lock().unwrap_or_else(PoisonError::into_inner);
        Some(f(&mut role))
    })
}

/// Announces the protocol to each client that `filter` accepts.
pub fn announce<D>(
    display: &DisplayHandle,
    filter: impl Fn(&Client) -> bool + Send + Sync + 'static,
) -> GlobalId
where
    D: GlobalDispatch<LockManager, CaptureGlobalData> + 'static,
{
    display.create_global::<D, LockManager, _>(1, CaptureGlobalData::new(filter))
}

impl<D> GlobalDispatch<LockManager, CaptureGlobalData, D> for SessionLocks
where
    D: GlobalDispatch<LockManager, CaptureGlobalData> + Dispatch<LockManager, ()>,
{
    fn bind(
        _state: &mut D,
        _display: &DisplayHandle,
        _client: &Client,
        resource: New<LockManager>,
        _data: &CaptureGlobalData,
        data_init: &mut DataInit<'_, D>,
    ) {
        data_init.init(resource, ());
    }

    fn can_view(client: Client, data: &CaptureGlobalData) -> bool {
        data.allows(&client)
    }
}

impl<D> Dispatch<LockManager, (), D> for SessionLocks
where
    D: SessionLockHandler + Dispatch<LockManager, ()> + Dispatch<LockObject, LockData>,
{
    fn request(
        state: &mut D,
        client: &Client,
        _manager: &LockManager,
        request: ext_session_lock_manager_v1::Request,
        _data: &(),
        _display: &DisplayHandle,
        data_init: &mut DataInit<'_, D>,
    ) {
        if let ext_session_lock_manager_v1::Request::Lock { id } = request {
            let data = LockData(Mutex::new(State {
                told: Told::Nothing,
                over: false,
                surfaces: Vec::new(),
            }));
            let lock = Lock(data_init.init(id, data));
            state.lock_requested(client, lock);
        }
    }
}

impl<D> Dispatch<LockObject, LockData, D> for SessionLocks
where
    D: SessionLockHandler
        + Dispatch<LockObject, LockData>
        + Dispatch<LockSurfaceObject, LockSurfaceData>,
{
    fn request(
        state: &mut D,
        _client: &Client,
        object: &LockObject,
        request: ext_session_lock_v1::Request,
        data: &LockData,
        _display: &DisplayHandle,
        data_init: &mut DataInit<'_, D>,
    ) {
        use ext_session_lock_v1::{Error, Request};
        let told = data.lock().told;
        match request {
            Request::GetLockSurface {
                id,
                surface,
                output,
            } => get_surface(state, object, data, (id, surface, &output), data_init),
            Request::UnlockAndDestroy if told == Told::Locked => {
                data.lock().over = true;
                state.unlock_requested(&Lock(object.clone()));
            }
            Request::UnlockAndDestroy => object.post_error(
                Error::InvalidUnlock,
                "this lock was not told that the session is locked",
            ),
            Request::Destroy if told == Told::Locked => object.post_error(
                Error::InvalidDestroy,
                "the session is locked: unlock_and_destroy is the way out",
            ),
            Request::Destroy => {
                data.lock().over = true;
                state.lock_gone(&Lock(object.clone()), true);
            }
            // The enum is open for versions that are never announced.
            _ => {}
        }
    }

    fn destroyed(state: &mut D, _client: ClientId, object: &LockObject, data: &LockData) {
        if !data.lock().over {
            state.lock_gone(&Lock(object.clone()), false);
        }
    }
}

fn get_surface<D>(
    state: &mut D,
    object: &LockObject,
    data: &LockData,
    (id, surface, output): (New<LockSurfaceObject>, WlSurface, &WlOutput),
    data_init: &mut DataInit<'_, D>,
) where
    D: SessionLockHandler + Dispatch<LockSurfaceObject, LockSurfaceData>,
{
    use ext_session_lock_v1::Error;
    // An output that is gone meanwhile, or a lock that was refused: the object is one, and covers nothing.
    let output = Output::from_resource(output).filter(|_| data.lock().told != Told::Finished);
    let covers = output.is_some().then(|| surface.downgrade());
    let new = data_init.init(id, LockSurfaceData(covers));
    let live = |surface: &Weak<LockSurfaceObject>| surface.upgrade().is_ok();
    let taken = with_role(&surface, |role| role.object.is_alive());
    if compositor::give_role(&surface, ROLE).is_err() || taken == Some(true) {
        object.post_error(Error::Role, "the surface has a role already");
        return;
    }
    if has_buffer(&surface) {
        object.post_error(
            Error::AlreadyConstructed,
            "the surface has a buffer already",
        );
        return;
    }
    let Some(output) = output else { return };
    {
        let surfaces = &mut data.lock().surfaces;
        surfaces.retain(|(_, surface)| live(surface));
        if surfaces.iter().any(|(covered, _)| *covered == output) {
            object.post_error(
                Error::DuplicateOutput,
                "the output has a lock surface already",
            );
            return;
        }
        surfaces.push((output.clone(), new.downgrade()));
    }
    let role = Role::new(new);
    let known = compositor::with_states(&surface, |states| {
        if let Some(known) = states.data_map.get::<RoleData>() {
            *known.lock().unwrap_or_else(PoisonError::into_inner) = role;
            return true;
        }
        states
            .data_map
            .insert_if_missing_threadsafe(|| Mutex::new(role));
        false
    });
    if !known {
        compositor::add_pre_commit_hook::<D, _>(&surface, |_, _, surface| before_commit(surface));
    }
    let surface = LockSurface { surface, output };
    surface.configure(state.lock_surface_size(&surface.output));
    state.lock_surface_added(&Lock(object.clone()), surface);
}

fn has_buffer(surface: &WlSurface) -> bool {
    let attached = compositor::with_states(surface, |states| {
        let mut attributes = states.cached_state.get::<SurfaceAttributes>();
        let is_new = |buffer: &Option<BufferAssignment>| {
            matches!(buffer, Some(BufferAssignment::NewBuffer(_)))
        };
        is_new(&attributes.pending().buffer) || is_new(&attributes.current().buffer)
    });
    attached
        || with_renderer_surface_state(surface, |state| state.buffer().is_some()).unwrap_or(false)
}

/// The buffer has to have the size that was acknowledged.
fn before_commit(surface: &WlSurface) {
    use ext_session_lock_surface_v1::Error;
    let read = with_role(surface, |role| {
        let alive = role.object.is_alive();
        alive.then(|| (role.object.clone(), role.acked))
    });
    let Some((object, acked)) = read.flatten() else {
        return;
    };
    let Some(acked) = acked else {
        object.post_error(
            Error::CommitBeforeFirstAck,
            "the first configure is not acknowledged",
        );
        return;
    };
    match pending_size(surface) {
        Pending::Nothing => {}
        Pending::Removed => object.post_error(Error::NullBuffer, "a lock surface needs its buffer"),
        Pending::Size(size) if size == acked => {}
        Pending::Size(size) => object.post_error(
            Error::DimensionsMismatch,
            format!(
                "{}x{} was acknowledged, and the surface is {}x{}",
                acked.w, acked.h, size.w, size.h
            ),
        ),
    }
}

enum Pending {
    Nothing,
    Removed,
    Size(Size<i32, Logical>),
}

fn pending_size(surface: &WlSurface) -> Pending {
    compositor::with_states(surface, |states| {
        let mut attributes = states.cached_state.get::<SurfaceAttributes>();
        let pending = attributes.pending();
        let buffer = match &pending.buffer {
            None => return Pending::Nothing,
            Some(BufferAssignment::Removed) => return Pending::Removed,
            Some(BufferAssignment::NewBuffer(buffer)) => buffer,
        };
        let Some(size) = buffer_dimensions(buffer) else {
            return Pending::Nothing;
        };
        let mut viewport = states.cached_state.get::<ViewportCachedState>();
        let size = viewport.pending().dst.unwrap_or_else(|| {
            let scale = pending.buffer_scale.max(1);
            size.to_logical(scale, pending.buffer_transform.into())
        });
        Pending::Size(size)
    })
}

impl<D> Dispatch<LockSurfaceObject, LockSurfaceData, D> for SessionLocks
where
    D: SessionLockHandler + Dispatch<LockSurfaceObject, LockSurfaceData>,
{
    fn request(
        _state: &mut D,
        _client: &Client,
        _object: &LockSurfaceObject,
        request: ext_session_lock_surface_v1::Request,
        data: &LockSurfaceData,
        _display: &DisplayHandle,
        _data_init: &mut DataInit<'_, D>,
    ) {
        if let ext_session_lock_surface_v1::Request::AckConfigure { serial } = request {
            let surface = data.0.as_ref().and_then(|surface| surface.upgrade().ok());
            if let Some(surface) = surface {
                with_role(&surface, |role| role.ack(serial));
            }
        }
    }

    fn destroyed(
        state: &mut D,
        _client: ClientId,
        _object: &LockSurfaceObject,
        data: &LockSurfaceData,
    ) {
        let surface = data.0.as_ref().and_then(|surface| surface.upgrade().ok());
        if let Some(surface) = surface {
            state.lock_surface_gone(&surface);
        }
    }
}

/// Lets [`SessionLocks`] serve ext-session-lock for a state that implements [`SessionLockHandler`].
#[macro_export]
macro_rules! delegate_session_locks {
    ($ty:ty) => {
        ::wayland_server::delegate_global_dispatch!($ty: [
            $crate::protocols::ext_session_lock::LockManager: $crate::protocols::CaptureGlobalData
        ] => $crate::protocols::ext_session_lock::SessionLocks);
        ::wayland_server::delegate_dispatch!($ty: [
            $crate::protocols::ext_session_lock::LockManager: ()
        ] => $crate::protocols::ext_session_lock::SessionLocks);
        ::wayland_server::delegate_dispatch!($ty: [
            $crate::protocols::ext_session_lock::LockObject: $crate::protocols::ext_session_lock::LockData
        ] => $crate::protocols::ext_session_lock::SessionLocks);
        ::wayland_server::delegate_dispatch!($ty: [
            $crate::protocols::ext_session_lock::LockSurfaceObject: $crate::protocols::ext_session_lock::LockSurfaceData
        ] => $crate::protocols::ext_session_lock::SessionLocks);
    };
}
