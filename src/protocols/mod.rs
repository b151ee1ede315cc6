//! The capture protocols: thin translations between Wayland objects and [`crate::capture`].
//!
//! The room turns requests into `OutputCapture` sessions and requests, and `CaptureEvent`s into Wayland events. It
//! decides nothing about slots, quotas or deadlines (that is the ring's), it knows no DRM, and it touches pixels only
//! through the [`crate::capture::CopyTarget`]s of the copies that it asks for.
//!
//! It is generic over the compositor's state `D`, in the shape of Smithay's own modules: `D` implements
//! [`CaptureHandler`] and invokes [`crate::delegate_capture_protocols!`]. `output/` then feeds the room: [`deliver`]
//! after each `OutputCapture::poll`, [`output_changed`] after a change of mode or format, [`output_gone`] when a
//! screen goes away.

mod audit;
mod captors;
mod clients;
mod no_memory;
mod running;
mod shm_guard;
mod source;
mod surface_guard;
mod target;

pub mod ext_image_capture_source;
pub mod ext_image_copy_capture;
pub mod ext_session_lock;
pub mod wlr_export_dmabuf;
pub mod wlr_output_power;
pub mod wlr_screencopy;
pub mod xdg_output;

use std::{collections::HashSet, fmt, sync::Arc};

use smithay::output::Output;
use wayland_server::{
    backend::{ClientId, GlobalId},
    protocol::wl_buffer::WlBuffer,
    Client, DisplayHandle, GlobalDispatch,
};

use crate::{
    capture::{CaptureEvent, CopyJob, CopyPool, FrameFormat, OutputCapture},
    policy::Peer,
    time::Time,
};

use self::{
    clients::ClientIds,
    ext_image_capture_source::{OutputSourceManager, ToplevelSourceManager},
    ext_image_copy_capture::CopyCaptureManager,
    wlr_export_dmabuf::ExportDmabufManager,
    wlr_screencopy::ScreencopyManager,
};

pub use audit::output_power as audit_output_power;
pub use no_memory::end_for_memory;
pub use shm_guard::GuardedShm;
pub use source::CaptureSource;
pub use surface_guard::{bound_committed_damage, GuardedSurfaces};

/// Something to be run by the event loop with the compositor's state.
pub type LoopTask<D> = Box<dyn FnOnce(&mut D) + Send>;

/// The way from a worker thread into the event loop. Shared: calloop's sender wakes the loop when it is dropped, too.
pub type LoopSender<D> = Arc<calloop::channel::Sender<LoopTask<D>>>;

/// What the compositor's state gives to this room.
pub trait CaptureHandler: Sized + 'static {
    /// The room's own state.
    fn capture_protocols(&mut self) -> &mut CaptureProtocols;

    /// The capture side of an output; `None` once the output is gone, which makes its sources inert.
    fn capture_output(&mut self, output: &Output) -> Option<&mut OutputCapture>;

    /// The threads that copy frames into client buffers.
    fn copy_pool(&self) -> &CopyPool;

    /// Makes a copy, by whatever way is best for it; its `done` is called in every case.
    fn start_copy(&mut self, job: CopyJob) {
        self.copy_pool().submit(job);
    }

    /// Whether a copy that does not end may still write the buffer's memory: it is a target for nobody then.
    fn is_held(&self, _buffer: &WlBuffer) -> bool {
        false
    }

    /// Something was requested or given back on this output: look at `OutputCapture::demand` and `poll` again.
    ///
    /// Called from inside request handlers: schedule the work, do not call [`deliver`] from here.
    fn capture_wanted(&mut self, output: &Output);

    /// This client waits for a frame: what else it is to be told can go with that, if it comes soon.
    fn frame_requested(&mut self, _client: ClientId) {}

    /// A sender whose tasks the event loop runs with `&mut Self`.
    fn run_in_loop(&self) -> LoopSender<Self>;

    /// The DRM render node that clients may allocate dma-buf targets on, as a `dev_t`.
    ///
    /// `None` announces wl_shm targets only: one client in the field panics on a primary node.
    fn dmabuf_device(&self) -> Option<u64>;

    /// The pointer as it is on this output now; `None` when no part of it is there or it is hidden. Asked only while
    /// somebody captures the pointer, after each [`cursor_changed`].
    fn cursor_view(&mut self, output: &Output) -> Option<CursorView>;

    /// The capture side of the window with this identifier; `None` once it is gone.
    fn capture_toplevel(&mut self, identifier: &str) -> Option<&mut OutputCapture>;

    /// As [`capture_wanted`](Self::capture_wanted), for a window.
    fn toplevel_wanted(&mut self, identifier: &str);

    /// Whether the client has the right to capture now. Asked whenever a capture begins: a client that lost the right may
    /// still have objects from before.
    fn may_capture(&self, client: &Client) -> bool;

    /// When the event loop woke up, near enough: a turn has one time, however many clients it serves.
    fn now(&self) -> Time {
        Time::now()
    }

    /// Who the client is, for the audit.
    fn peer(&self, display: &DisplayHandle, client: &Client) -> Peer {
        clients::peer_of(display, client)
    }
}

/// The pointer on one output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorView {
    /// Where it points: pixels of the upright output. May lie outside of it while the picture reaches in.
    pub position: (i32, i32),
    /// What it looks like; `None` if only a GPU can read that.
    pub picture: Option<CursorPixels>,
}

/// The pointer's picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorPixels {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The pixel that points.
    pub hotspot: (i32, i32),
    /// `width * height` pixels, premultiplied ARGB8888.
    pub pixels: Vec<u32>,
}

/// Says which clients see a privileged global.
type Filter = Box<dyn Fn(&Client) -> bool + Send + Sync>;

/// The data of each global of this room: who may see it.
pub struct CaptureGlobalData {
    filter: Filter,
}

impl CaptureGlobalData {
    fn new(filter: impl Fn(&Client) -> bool + Send + Sync + 'static) -> Self {
        Self {
            filter: Box::new(filter),
        }
    }

    fn allows(&self, client: &Client) -> bool {
        (self.filter)(client)
    }
}

impl fmt::Debug for CaptureGlobalData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaptureGlobalData").finish_non_exhaustive()
    }
}

/// The globals of the capture protocols and everything that clients made from them.
#[derive(Debug)]
pub struct CaptureProtocols {
    globals: [GlobalId; 5],
    clients: ClientIds,
    copy: ext_image_copy_capture::CopyCaptures,
    export: wlr_export_dmabuf::Exports,
    screencopy: wlr_screencopy::Screencopies,
}

impl CaptureProtocols {
    /// Announces the globals to each client that `filter` accepts.
    pub fn new<D>(
        display: &DisplayHandle,
        filter: impl Fn(&Client) -> bool + Clone + Send + Sync + 'static,
    ) -> Self
    where
        D: CaptureHandler
            + GlobalDispatch<OutputSourceManager, CaptureGlobalData>
            + GlobalDispatch<ToplevelSourceManager, CaptureGlobalData>
            + GlobalDispatch<CopyCaptureManager, CaptureGlobalData>
            + GlobalDispatch<ExportDmabufManager, CaptureGlobalData>
            + GlobalDispatch<ScreencopyManager, CaptureGlobalData>,
    {
        Self {
            globals: create_globals::<D>(display, filter),
            clients: ClientIds::default(),
            copy: Default::default(),
            export: Default::default(),
            screencopy: Default::default(),
        }
    }

    /// The globals, to disable or remove them.
    pub fn globals(&self) -> &[GlobalId] {
        &self.globals
    }

    /// Announces the globals anew, to each client that `filter` accepts. Gives the old ones, to be taken away: there is no
    /// other way to tell some clients that they are gone, or to show them to others.
    pub fn announce_again<D>(
        &mut self,
        display: &DisplayHandle,
        filter: impl Fn(&Client) -> bool + Clone + Send + Sync + 'static,
    ) -> Vec<GlobalId>
    where
        D: CaptureHandler
            + GlobalDispatch<OutputSourceManager, CaptureGlobalData>
            + GlobalDispatch<ToplevelSourceManager, CaptureGlobalData>
            + GlobalDispatch<CopyCaptureManager, CaptureGlobalData>
            + GlobalDispatch<ExportDmabufManager, CaptureGlobalData>
            + GlobalDispatch<ScreencopyManager, CaptureGlobalData>,
    {
        std::mem::replace(&mut self.globals, create_globals::<D>(display, filter)).into()
    }

    /// Copies that are with the workers now.
    pub fn running_copies(&self) -> usize {
        self.copy.running_copies() + self.screencopy.running_copies()
    }

    /// Clients that wait for the end of a copy, of which they will be told in any case.
    pub fn clients_with_copies(&self) -> HashSet<ClientId> {
        let clients = self.copy.copied_for().chain(self.screencopy.copied_for());
        clients.map(|client| client.id()).collect()
    }

    /// Copies of pictures from before the last [`forget_pictures`] that the workers still have.
    pub fn stale_copies(&mut self) -> usize {
        self.copy.running_mut().stale() + self.screencopy.running_mut().stale()
    }

    /// They take too long: their clients are not told that they have a picture, and get another one.
    pub fn give_up_stale_copies(&mut self) {
        self.copy.running_mut().give_up_stale();
        self.screencopy.running_mut().give_up_stale();
    }

    /// How many sessions and frames exist, for `msg` and leak tests.
    pub fn counts(&self) -> ObjectCounts {
        ObjectCounts {
            copy_sessions: self.copy.session_count(),
            copy_frames: self.copy.frame_count(),
            cursor_sessions: self.copy.cursor_session_count(),
            export_sessions: self.export.session_count(),
            export_frames: self.export.frame_count(),
            screencopy_sessions: self.screencopy.session_count(),
            screencopy_frames: self.screencopy.frame_count(),
        }
    }
}

fn create_globals<D>(
    display: &DisplayHandle,
    filter: impl Fn(&Client) -> bool + Clone + Send + Sync + 'static,
) -> [GlobalId; 5]
where
    D: CaptureHandler
        + GlobalDispatch<OutputSourceManager, CaptureGlobalData>
        + GlobalDispatch<ToplevelSourceManager, CaptureGlobalData>
        + GlobalDispatch<CopyCaptureManager, CaptureGlobalData>
        + GlobalDispatch<ExportDmabufManager, CaptureGlobalData>
        + GlobalDispatch<ScreencopyManager, CaptureGlobalData>,
{
    let data = || CaptureGlobalData::new(filter.clone());
    [
        display.create_global::<D, OutputSourceManager, _>(1, data()),
        display.create_global::<D, ToplevelSourceManager, _>(1, data()),
        display.create_global::<D, CopyCaptureManager, _>(1, data()),
        display.create_global::<D, ExportDmabufManager, _>(1, data()),
        display.create_global::<D, ScreencopyManager, _>(3, data()),
    ]
}

/// How many objects of each kind are alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ObjectCounts {
    /// ext-image-copy-capture sessions, stopped ones included.
    pub copy_sessions: usize,
    /// Cursor session objects of ext-image-copy-capture.
    pub cursor_sessions: usize,
    /// ext-image-copy-capture frame objects.
    pub copy_frames: usize,
    /// Capture sessions that export-dmabuf clients hold open.
    pub export_sessions: usize,
    /// export-dmabuf frame objects.
    pub export_frames: usize,
    /// Capture sessions that screencopy clients hold open.
    pub screencopy_sessions: usize,
    /// screencopy frame objects.
    pub screencopy_frames: usize,
}

/// Hands what `OutputCapture::poll` returned to the clients, and does what is due for the pointer on this output. To be
/// called for each output in each turn of the loop, also without events.
pub fn deliver<D: CaptureHandler>(state: &mut D, output: &Output, events: Vec<CaptureEvent>) {
    deliver_from(state, &CaptureSource::Output(output.clone()), events);
    ext_image_copy_capture::poll_cursor(state, output);
}

/// The same for a window.
pub fn deliver_toplevel<D: CaptureHandler>(
    state: &mut D,
    identifier: &Arc<str>,
    events: Vec<CaptureEvent>,
) {
    deliver_from(state, &CaptureSource::Toplevel(identifier.clone()), events);
}

fn deliver_from<D: CaptureHandler>(
    state: &mut D,
    source: &CaptureSource,
    events: Vec<CaptureEvent>,
) {
    for event in events {
        match event {
            CaptureEvent::Deliver {
                session,
                request,
                lease,
                damage,
            } => {
                let delivery = Delivery {
                    session,
                    request,
                    lease,
                    damage,
                };
                let delivery = match source {
                    CaptureSource::Output(output) => {
                        wlr_export_dmabuf::deliver(state, output, delivery)
                            .and_then(|delivery| wlr_screencopy::deliver(state, output, delivery))
                    }
                    CaptureSource::Cursor(_) | CaptureSource::Toplevel(_) => Some(delivery),
                };
                if let Some(delivery) = delivery {
                    ext_image_copy_capture::deliver(state, source, delivery);
                }
            }
            // Only requests of this protocol name their memory.
            CaptureEvent::Written {
                session,
                request,
                presented,
                damage,
            } => {
                let written = Written {
                    session,
                    request,
                    presented,
                    damage,
                };
                ext_image_copy_capture::written(state, source, &written);
            }
            CaptureEvent::Void { session, frame } => {
                if let CaptureSource::Output(output) = source {
                    wlr_export_dmabuf::void(state, output, session, frame);
                }
                // No client reads the slot under a copy, only a worker, which asks at its end whether the frame is
                // void: for copies nobody has to be told first.
                if let Some(capture) = source.capture(state) {
                    capture.void_told(session, frame);
                }
            }
        }
    }
}

/// The pointer moved, looks different, or went to another output. Cheap; [`deliver`] does the work.
pub fn cursor_changed<D: CaptureHandler>(state: &mut D) {
    ext_image_copy_capture::cursor_changed(state);
}

/// The mode or the format of the output's frames changed: sessions get their constraints again, waiting requests that
/// no longer fit are answered.
pub fn output_changed<D: CaptureHandler>(state: &mut D, output: &Output) {
    ext_image_copy_capture::source_changed(state, &CaptureSource::Output(output.clone()));
    wlr_export_dmabuf::output_changed(state, output);
    wlr_screencopy::output_changed(state, output);
    cursor_changed(state);
}

/// The output goes away: its sessions are stopped, its waiting requests are answered.
///
/// May be called before or after [`CaptureHandler::capture_output`] begins to return `None` for it.
pub fn output_gone<D: CaptureHandler>(state: &mut D, output: &Output) {
    ext_image_copy_capture::source_gone(state, &CaptureSource::Output(output.clone()));
    ext_image_copy_capture::source_gone(state, &CaptureSource::Cursor(output.clone()));
    ext_image_copy_capture::cursor_output_gone(state, output);
    wlr_export_dmabuf::output_gone(state, output);
    wlr_screencopy::output_gone(state, output);
}

/// The size or the format of a window's frames changed.
pub fn toplevel_changed<D: CaptureHandler>(state: &mut D, identifier: &Arc<str>) {
    let source = CaptureSource::Toplevel(identifier.clone());
    ext_image_copy_capture::source_changed(state, &source);
}

/// The window is gone, or unmapped: its sessions are stopped.
pub fn toplevel_gone<D: CaptureHandler>(state: &mut D, identifier: &Arc<str>) {
    let source = CaptureSource::Toplevel(identifier.clone());
    ext_image_copy_capture::source_gone(state, &source);
}

/// The rights of clients changed: captures of those who may no longer ([`CaptureHandler::may_capture`]) end. Sessions are
/// stopped, what waits or is under way fails, what was handed out is declared void. Memory that a client has mapped stays
/// mapped: give each output another ring before its next job.
pub fn rights_changed<D: CaptureHandler>(state: &mut D) {
    ext_image_copy_capture::rights_changed(state);
    wlr_export_dmabuf::rights_changed(state);
    wlr_screencopy::rights_changed(state);
}

/// Pictures that were made so far are for nobody any more: who waits, or was about to be given one, waits for the next. To be
/// called after the outputs' captures and the windows' have let go of theirs. What workers copy at this moment they copy to
/// the end: see [`CaptureProtocols::stale_copies`].
pub fn forget_pictures<D: CaptureHandler>(state: &mut D) {
    ext_image_copy_capture::forget_pictures(state, state.now());
    wlr_screencopy::forget_pictures(state);
}

/// One answered request, on its way to the protocol that asked.
struct Delivery {
    session: crate::capture::SessionId,
    request: crate::capture::RequestId,
    lease: crate::capture::Lease,
    damage: Vec<crate::geometry::Rect>,
}

/// One request whose answer is in the client's memory already.
struct Written {
    session: crate::capture::SessionId,
    request: crate::capture::RequestId,
    presented: Time,
    damage: Vec<crate::geometry::Rect>,
}

/// The three parts in which all the protocols send a time.
fn split_time(time: Time) -> (u32, u32, u32) {
    let time = time.as_duration();
    let [.., s3, s2, s1, s0] = time.as_secs().to_be_bytes();
    let [h3, h2, h1, h0, ..] = time.as_secs().to_be_bytes();
    (
        u32::from_be_bytes([h3, h2, h1, h0]),
        u32::from_be_bytes([s3, s2, s1, s0]),
        time.subsec_nanos(),
    )
}

/// The two halves in which protocols send a DRM format modifier.
fn split_modifier(modifier: u64) -> (u32, u32) {
    let [h3, h2, h1, h0, l3, l2, l1, l0] = modifier.to_be_bytes();
    (
        u32::from_be_bytes([h3, h2, h1, h0]),
        u32::from_be_bytes([l3, l2, l1, l0]),
    )
}

/// The format of the frames that the output makes now; `None` while it has no buffers or is gone.
fn current_format<D: CaptureHandler>(state: &mut D, output: &Output) -> Option<FrameFormat> {
    state.capture_output(output)?.format()
}

/// Implements the dispatch of all capture protocols for a compositor state that is a
/// [`CaptureHandler`](crate::protocols::CaptureHandler).
#[macro_export]
macro_rules! delegate_capture_protocols {
    ($ty:ty) => {
        $crate::delegate_capture_protocols!(@global $ty:
            $crate::protocols::ext_image_capture_source::OutputSourceManager);
        $crate::delegate_capture_protocols!(@global $ty:
            $crate::protocols::ext_image_capture_source::ToplevelSourceManager);
        $crate::delegate_capture_protocols!(@object $ty:
            $crate::protocols::ext_image_capture_source::ToplevelSourceManager, ());
        $crate::delegate_capture_protocols!(@global $ty:
            $crate::protocols::ext_image_copy_capture::CopyCaptureManager);
        $crate::delegate_capture_protocols!(@global $ty:
            $crate::protocols::wlr_export_dmabuf::ExportDmabufManager);
        $crate::delegate_capture_protocols!(@global $ty:
            $crate::protocols::wlr_screencopy::ScreencopyManager);
        $crate::delegate_capture_protocols!(@object $ty:
            $crate::protocols::ext_image_capture_source::OutputSourceManager, ());
        $crate::delegate_capture_protocols!(@object $ty:
            $crate::protocols::ext_image_capture_source::Source,
            $crate::protocols::ext_image_capture_source::SourceData);
        $crate::delegate_capture_protocols!(@object $ty:
            $crate::protocols::ext_image_copy_capture::CopyCaptureManager, ());
        $crate::delegate_capture_protocols!(@object $ty:
            $crate::protocols::ext_image_copy_capture::Session,
            $crate::protocols::ext_image_copy_capture::SessionKey);
        $crate::delegate_capture_protocols!(@object $ty:
            $crate::protocols::ext_image_copy_capture::Frame,
            $crate::protocols::ext_image_copy_capture::FrameKey);
        $crate::delegate_capture_protocols!(@object $ty:
            $crate::protocols::ext_image_copy_capture::CursorSession,
            $crate::protocols::ext_image_copy_capture::CursorKey);
        $crate::delegate_capture_protocols!(@object $ty:
            $crate::protocols::wlr_export_dmabuf::ExportDmabufManager, ());
        $crate::delegate_capture_protocols!(@object $ty:
            $crate::protocols::wlr_export_dmabuf::ExportDmabufFrame,
            $crate::protocols::wlr_export_dmabuf::ExportKey);
        $crate::delegate_capture_protocols!(@object $ty:
            $crate::protocols::wlr_screencopy::ScreencopyManager, ());
        $crate::delegate_capture_protocols!(@object $ty:
            $crate::protocols::wlr_screencopy::Frame,
            $crate::protocols::wlr_screencopy::ScreencopyKey);
    };
    (@global $ty:ty: $interface:ty) => {
        ::wayland_server::delegate_global_dispatch!($ty: [
            $interface: $crate::protocols::CaptureGlobalData
        ] => $crate::protocols::CaptureProtocols);
    };
    (@object $ty:ty: $interface:ty, $data:ty) => {
        ::wayland_server::delegate_dispatch!($ty: [
            $interface: $data
        ] => $crate::protocols::CaptureProtocols);
    };
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn seconds_past_32_bits_are_split_into_both_halves() {
        let time = Time::from_duration(Duration::new((7 << 32) | 9, 11));
        assert_eq!(split_time(time), (7, 9, 11));
    }

    #[test]
    fn a_modifier_is_split_high_half_first() {
        assert_eq!(
            split_modifier(0x0102_0304_0506_0708),
            (0x0102_0304, 0x0506_0708)
        );
    }
}
