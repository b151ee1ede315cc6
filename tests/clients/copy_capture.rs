//! ext-image-copy-capture-v1 on an output: sessions, single frames, and a loop with figures.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use wayland_client::{protocol::wl_pointer::WlPointer, Connection, Dispatch, QueueHandle, WEnum};
use wayland_protocols::ext::{
    image_capture_source::v1::client::{
        ext_image_capture_source_v1 as source,
        ext_output_image_capture_source_manager_v1 as outputs,
    },
    image_copy_capture::v1::client::{
        ext_image_copy_capture_frame_v1 as frame, ext_image_copy_capture_manager_v1 as manager,
        ext_image_copy_capture_session_v1 as session,
    },
};

use super::{
    buffers::{shm_code, Buffer, MemoryKind, ARGB8888, XRGB8888},
    clock,
    connect::{Client, ClientError, State},
    cursor_session::{CursorSession, SharedCursor},
    output::OutputInfo,
    picture::{Picture, Rect},
    stats::CaptureStats,
};

/// What the session demands of buffers, as last ended by `done`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Constraints {
    /// Width and height in pixels.
    pub size: (u32, u32),
    /// Formats for wl_shm, as wl_shm counts them, in the order sent.
    pub shm_formats: Vec<u32>,
    /// Device for dma-bufs (a dev_t).
    pub dmabuf_device: Option<u64>,
    /// DRM formats with their modifiers.
    pub dmabuf_formats: Vec<(u32, Vec<u64>)>,
}

/// All that a session was told.
#[derive(Debug, Clone, Default)]
pub struct SessionRecord {
    /// The last complete set.
    pub constraints: Constraints,
    /// The set that is being sent.
    incoming: Constraints,
    /// Number of `done`.
    pub done: u32,
    /// The session is over.
    pub stopped: bool,
    /// Order of the events' names, for tests of the order.
    pub events: Vec<&'static str>,
}

/// A frame that was copied.
#[derive(Debug, Clone)]
pub struct CopiedFrame {
    /// The picture.
    pub picture: Picture,
    /// Damage as the compositor told it.
    pub damage: Vec<Rect>,
    /// When the flip presented it.
    pub presented: Duration,
    /// When `ready` was read from the socket.
    pub ready: Duration,
    /// The output's transform.
    pub transform: u32,
}

/// How a frame ended.
#[derive(Debug, Clone)]
pub enum CopyOutcome {
    /// Copied.
    Ready(CopiedFrame),
    /// `failed`, with the protocol's reason.
    Failed(FailureReason),
}

pub use frame::FailureReason;

impl CopyOutcome {
    /// The frame; panics on a failure.
    #[track_caller]
    pub fn frame(self) -> CopiedFrame {
        match self {
            Self::Ready(frame) => frame,
            Self::Failed(reason) => panic!("the capture failed: {reason:?}"),
        }
    }
}

#[derive(Debug, Default)]
struct FrameRecord {
    damage: Vec<Rect>,
    presented: Duration,
    transform: u32,
    end: Option<(Duration, Result<(), FailureReason>)>,
}

type SharedSession = Arc<Mutex<SessionRecord>>;
type SharedFrame = Arc<Mutex<FrameRecord>>;

/// A capture session. Dropping it destroys the session object.
#[derive(Debug)]
pub struct CopySession {
    /// The object.
    pub proxy: session::ExtImageCopyCaptureSessionV1,
    record: SharedSession,
}

/// A frame that was asked for and has not ended. Dropping it destroys the frame object.
#[derive(Debug)]
pub struct PendingCopy {
    /// The object.
    pub proxy: frame::ExtImageCopyCaptureFrameV1,
    record: SharedFrame,
}

impl CopySession {
    /// Opens a session and waits for its constraints (or for `stopped`).
    pub fn open(
        client: &mut Client,
        output: &OutputInfo,
        paint_cursors: bool,
    ) -> Result<Self, ClientError> {
        let session = Self::begin(client, output, paint_cursors)?;
        session.wait_constraints(client)?;
        Ok(session)
    }

    fn wait_constraints(&self, client: &mut Client) -> Result<(), ClientError> {
        let record = Arc::clone(&self.record);
        client.wait_for("the session's constraints", client.patience(), |_| {
            let record = record.lock().unwrap();
            (record.done > 0 || record.stopped).then_some(())
        })
    }

    /// Opens a session without waiting.
    pub fn begin(
        client: &mut Client,
        output: &OutputInfo,
        paint_cursors: bool,
    ) -> Result<Self, ClientError> {
        let outputs: outputs::ExtOutputImageCaptureSourceManagerV1 = client.bind(1, ())?;
        let source = outputs.create_source(&output.proxy, &client.qh, ());
        let session = Self::begin_source(client, &source, paint_cursors);
        source.destroy();
        outputs.destroy();
        session
    }

    /// As [`Self::open`], for any source.
    pub fn open_source(
        client: &mut Client,
        source: &source::ExtImageCaptureSourceV1,
        paint_cursors: bool,
    ) -> Result<Self, ClientError> {
        let session = Self::begin_source(client, source, paint_cursors)?;
        session.wait_constraints(client)?;
        Ok(session)
    }

    fn begin_source(
        client: &mut Client,
        source: &source::ExtImageCaptureSourceV1,
        paint_cursors: bool,
    ) -> Result<Self, ClientError> {
        let manager: manager::ExtImageCopyCaptureManagerV1 = client.bind(1, ())?;
        let options = match paint_cursors {
            true => manager::Options::PaintCursors,
            false => manager::Options::empty(),
        };
        let record = SharedSession::default();
        let proxy = manager.create_session(source, options, &client.qh, Arc::clone(&record));
        manager.destroy();
        client.flush()?;
        Ok(Self { proxy, record })
    }

    /// A session on the picture of an output's pointer, and the cursor session that it is of. The seat must have a pointer.
    pub fn begin_cursor(
        client: &mut Client,
        output: &OutputInfo,
        pointer: &WlPointer,
    ) -> Result<(CursorSession, Self), ClientError> {
        let outputs: outputs::ExtOutputImageCaptureSourceManagerV1 = client.bind(1, ())?;
        let manager: manager::ExtImageCopyCaptureManagerV1 = client.bind(1, ())?;
        let source = outputs.create_source(&output.proxy, &client.qh, ());
        let told = SharedCursor::default();
        let cursor = manager.create_pointer_cursor_session(&source, pointer, &client.qh, told);
        source.destroy();
        outputs.destroy();
        manager.destroy();
        let record = SharedSession::default();
        let proxy = cursor.get_capture_session(&client.qh, Arc::clone(&record));
        client.flush()?;
        Ok((cursor, Self { proxy, record }))
    }

    /// All that the session was told so far.
    pub fn record(&self) -> SessionRecord {
        self.record.lock().unwrap().clone()
    }

    /// The constraints of the last `done`.
    pub fn constraints(&self) -> Constraints {
        self.record.lock().unwrap().constraints.clone()
    }

    /// Makes a buffer that the constraints allow: XRGB8888 if possible, else ARGB8888.
    pub fn buffer(&self, client: &mut Client, kind: MemoryKind) -> Result<Buffer, ClientError> {
        let Constraints {
            size,
            shm_formats,
            dmabuf_formats,
            ..
        } = self.constraints();
        let allowed = |fourcc: &u32| match kind {
            MemoryKind::Shm => shm_formats.contains(&shm_code(*fourcc)),
            _ => dmabuf_formats.iter().any(|(format, _)| format == fourcc),
        };
        let fourcc = [XRGB8888, ARGB8888]
            .into_iter()
            .find(allowed)
            .ok_or_else(|| {
                ClientError::Missing(format!("XRGB8888 or ARGB8888 for {kind:?} in this session"))
            })?;
        Buffer::new(client, kind, size.0, size.1, fourcc)
    }

    /// A frame object that nothing was asked of yet.
    pub fn frame(&self, client: &Client) -> PendingCopy {
        let record = SharedFrame::default();
        let proxy = self.proxy.create_frame(&client.qh, Arc::clone(&record));
        PendingCopy { proxy, record }
    }

    /// Asks for a frame into `buffer`. An empty `damage` means the whole buffer.
    pub fn request(
        &self,
        client: &mut Client,
        buffer: &Buffer,
        damage: &[Rect],
    ) -> Result<PendingCopy, ClientError> {
        let frame = self.frame(client);
        let proxy = &frame.proxy;
        proxy.attach_buffer(&buffer.proxy);
        let whole = [Rect::new(0, 0, buffer.width as i32, buffer.height as i32)];
        for rect in if damage.is_empty() {
            &whole[..]
        } else {
            damage
        } {
            proxy.damage_buffer(rect.x, rect.y, rect.width, rect.height);
        }
        proxy.capture();
        client.flush()?;
        Ok(frame)
    }

    /// Asks for a frame and waits for it.
    pub fn capture(
        &self,
        client: &mut Client,
        buffer: &Buffer,
        damage: &[Rect],
    ) -> Result<CopyOutcome, ClientError> {
        let pending = self.request(client, buffer, damage)?;
        pending.wait(client, buffer)
    }

    /// Captures until `stop` says so after a frame, or none comes for `patience` (not an error:
    /// the screen may stand still). `stop` gets the figures and the buffer with the new frame.
    pub fn run(
        &self,
        client: &mut Client,
        kind: MemoryKind,
        patience: Duration,
        mut stop: impl FnMut(&CaptureStats, &Buffer) -> bool,
    ) -> Result<CaptureStats, ClientError> {
        let begin = clock::now();
        let mut stats = CaptureStats::default();
        let mut buffer = self.buffer(client, kind)?;
        // After the first, the buffer holds the last frame: only what changed has to be copied.
        let mut damage = vec![Rect::new(0, 0, buffer.width as i32, buffer.height as i32)];
        loop {
            let pending = self.request(client, &buffer, &damage)?;
            let end = match pending.wait_end(client, patience) {
                Err(ClientError::Timeout { .. }) => break,
                other => other?,
            };
            stats.elapsed = clock::now() - begin;
            match end {
                (ready, Ok(())) => {
                    stats.frame(pending.record.lock().unwrap().presented, ready);
                    damage = vec![Rect::new(0, 0, 1, 1)];
                    if stop(&stats, &buffer) {
                        break;
                    }
                }
                (_, Err(FailureReason::BufferConstraints)) => {
                    stats.failures += 1;
                    buffer = self.buffer(client, kind)?;
                    damage = vec![Rect::new(0, 0, buffer.width as i32, buffer.height as i32)];
                }
                (_, Err(_)) => {
                    stats.failures += 1;
                    break;
                }
            }
        }
        Ok(stats)
    }
}

impl Drop for CopySession {
    fn drop(&mut self) {
        self.proxy.destroy();
    }
}

impl PendingCopy {
    /// Whether it ended (ready or failed), as far as events were dispatched.
    pub fn has_ended(&self) -> bool {
        self.record.lock().unwrap().end.is_some()
    }

    /// The end, if it came: when the frame was presented, or why there is none.
    pub fn ended(&self) -> Option<Result<Duration, FailureReason>> {
        let record = self.record.lock().unwrap();
        let (_, end) = record.end?;
        Some(end.map(|()| record.presented))
    }

    /// Waits for the end with the client's patience.
    pub fn wait(self, client: &mut Client, buffer: &Buffer) -> Result<CopyOutcome, ClientError> {
        let end = self.wait_end(client, client.patience())?;
        Ok(match end {
            (_, Err(reason)) => CopyOutcome::Failed(reason),
            (ready, Ok(())) => {
                let mut record = self.record.lock().unwrap();
                CopyOutcome::Ready(CopiedFrame {
                    picture: picture_of(buffer),
                    damage: std::mem::take(&mut record.damage),
                    presented: record.presented,
                    ready,
                    transform: record.transform,
                })
            }
        })
    }

    /// Waits for the end: when it came, and whether it was `ready`.
    pub fn wait_end(
        &self,
        client: &mut Client,
        patience: Duration,
    ) -> Result<(Duration, Result<(), FailureReason>), ClientError> {
        client.wait_for("the captured frame", patience, |_| {
            self.record.lock().unwrap().end
        })
    }
}

impl Drop for PendingCopy {
    fn drop(&mut self) {
        self.proxy.destroy();
    }
}

/// What a buffer holds.
pub fn picture_of(buffer: &Buffer) -> Picture {
    let Buffer {
        width,
        height,
        stride,
        ..
    } = *buffer;
    buffer
        .read(|bytes| Picture::from_lines(bytes, width, height, stride))
        .expect("the buffer is as long as its size says")
}

/// An array of 32-bit words as events carry it.
pub fn words(bytes: &[u8]) -> Vec<u32> {
    bytes
        .chunks_exact(4)
        .map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}

fn long_words(bytes: &[u8]) -> Vec<u64> {
    let word = |b: &[u8]| b.try_into().map(u64::from_ne_bytes).unwrap_or_default();
    bytes.chunks_exact(8).map(word).collect()
}

impl Dispatch<session::ExtImageCopyCaptureSessionV1, SharedSession> for State {
    fn event(
        _: &mut Self,
        _: &session::ExtImageCopyCaptureSessionV1,
        event: session::Event,
        record: &SharedSession,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        let mut record = record.lock().unwrap();
        let name = match event {
            session::Event::BufferSize { width, height } => {
                record.incoming.size = (width, height);
                "buffer_size"
            }
            session::Event::ShmFormat { format } => {
                record.incoming.shm_formats.push(format.into());
                "shm_format"
            }
            session::Event::DmabufDevice { device } => {
                record.incoming.dmabuf_device = long_words(&device).first().copied();
                "dmabuf_device"
            }
            session::Event::DmabufFormat { format, modifiers } => {
                record
                    .incoming
                    .dmabuf_formats
                    .push((format, long_words(&modifiers)));
                "dmabuf_format"
            }
            session::Event::Done => {
                record.constraints = std::mem::take(&mut record.incoming);
                record.done += 1;
                "done"
            }
            session::Event::Stopped => {
                record.stopped = true;
                "stopped"
            }
            _ => "unknown",
        };
        record.events.push(name);
    }
}

impl Dispatch<frame::ExtImageCopyCaptureFrameV1, SharedFrame> for State {
    fn event(
        _: &mut Self,
        _: &frame::ExtImageCopyCaptureFrameV1,
        event: frame::Event,
        record: &SharedFrame,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        let mut record = record.lock().unwrap();
        match event {
            frame::Event::Transform { transform } => record.transform = transform.into(),
            frame::Event::Damage {
                x,
                y,
                width,
                height,
            } => {
                record.damage.push(Rect::new(x, y, width, height));
            }
            frame::Event::PresentationTime {
                tv_sec_hi,
                tv_sec_lo,
                tv_nsec,
            } => {
                record.presented = clock::from_protocol(tv_sec_hi, tv_sec_lo, tv_nsec);
            }
            frame::Event::Ready => record.end = Some((clock::now(), Ok(()))),
            frame::Event::Failed { reason } => {
                let reason = match reason {
                    WEnum::Value(reason) => reason,
                    WEnum::Unknown(_) => FailureReason::Unknown,
                };
                record.end = Some((clock::now(), Err(reason)));
            }
            _ => {}
        }
    }
}

wayland_client::delegate_noop!(State: ignore outputs::ExtOutputImageCaptureSourceManagerV1);
wayland_client::delegate_noop!(State: ignore source::ExtImageCaptureSourceV1);
wayland_client::delegate_noop!(State: ignore manager::ExtImageCopyCaptureManagerV1);
