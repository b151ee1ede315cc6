//! wlr-export-dmabuf-unstable-v1: frames by reference, held as long as the value lives.

use std::{
    collections::{BTreeSet, VecDeque},
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::fs::{fcntl_getfl, fstat, OFlags};
use wayland_client::{Connection, Dispatch, Proxy, QueueHandle, WEnum};
use wayland_protocols_wlr::export_dmabuf::v1::client::{
    zwlr_export_dmabuf_frame_v1 as frame, zwlr_export_dmabuf_manager_v1 as manager,
};

use super::{
    buffers::Mapping,
    clock,
    connect::{Client, ClientError, State},
    output::OutputInfo,
    picture::Picture,
    stats::CaptureStats,
};

pub use frame::CancelReason;

/// One memory object of a frame.
#[derive(Debug)]
pub struct Object {
    /// The dma-buf.
    pub fd: OwnedFd,
    /// Its size in bytes.
    pub size: u32,
    /// Where the plane begins.
    pub offset: u32,
    /// Bytes from line to line.
    pub stride: u32,
    /// Which plane.
    pub plane: u32,
}

/// What the frame object was told.
#[derive(Debug, Default)]
struct FrameRecord {
    size: (u32, u32),
    offset: (u32, u32),
    buffer_flags: u32,
    flags: u32,
    format: u32,
    modifier: u64,
    announced: u32,
    objects: Vec<Object>,
    ready: Option<(Duration, Duration)>,
    cancelled: Option<CancelReason>,
}

type Shared = Arc<Mutex<FrameRecord>>;

/// A request for a frame, and afterwards the frame: dropping it is the release.
#[derive(Debug)]
pub struct ExportedFrame {
    /// The object.
    pub proxy: frame::ZwlrExportDmabufFrameV1,
    record: Shared,
}

/// How a request ended.
#[derive(Debug)]
pub enum ExportOutcome {
    /// A frame to read, until it is dropped.
    Ready(ExportedFrame),
    /// `cancel`, with the protocol's reason.
    Cancelled(CancelReason),
}

impl ExportOutcome {
    /// The frame; panics if it was cancelled.
    #[track_caller]
    pub fn frame(self) -> ExportedFrame {
        match self {
            Self::Ready(frame) => frame,
            Self::Cancelled(reason) => panic!("the export was cancelled: {reason:?}"),
        }
    }
}

/// What a client does with its frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holding {
    /// Destroy as soon as it is ready.
    ReleaseAtOnce,
    /// Keep this many newest ones.
    Keep(usize),
    /// Never destroy any.
    Forever,
}

/// The protocol's manager.
#[derive(Debug)]
pub struct Exporter {
    manager: manager::ZwlrExportDmabufManagerV1,
}

impl Exporter {
    /// Binds the global.
    pub fn new(client: &Client) -> Result<Self, ClientError> {
        Ok(Self {
            manager: client.bind(1, ())?,
        })
    }

    /// Asks for a frame.
    pub fn request(
        &self,
        client: &mut Client,
        output: &OutputInfo,
        overlay_cursor: bool,
    ) -> Result<ExportedFrame, ClientError> {
        let record = Shared::default();
        let proxy = self.manager.capture_output(
            i32::from(overlay_cursor),
            &output.proxy,
            &client.qh,
            Arc::clone(&record),
        );
        client.flush()?;
        Ok(ExportedFrame { proxy, record })
    }

    /// Asks for a frame and waits for it.
    pub fn capture(
        &self,
        client: &mut Client,
        output: &OutputInfo,
        overlay_cursor: bool,
    ) -> Result<ExportOutcome, ClientError> {
        let frame = self.request(client, output, overlay_cursor)?;
        let patience = client.patience();
        frame.wait(client, patience)
    }

    /// Captures until `stop` says so after a frame, or none comes for `patience` (not an error).
    /// Held frames are released at the end.
    pub fn run(
        &self,
        client: &mut Client,
        output: &OutputInfo,
        holding: Holding,
        patience: Duration,
        mut stop: impl FnMut(&CaptureStats, &ExportedFrame) -> bool,
    ) -> Result<CaptureStats, ClientError> {
        let begin = clock::now();
        let mut stats = CaptureStats::default();
        let mut held = VecDeque::new();
        let mut buffers = BTreeSet::new();
        let mut last = begin;
        loop {
            let pending = self.request(client, output, true)?;
            let frame = match pending.wait(client, patience) {
                Err(ClientError::Timeout { .. }) => break,
                Ok(ExportOutcome::Ready(frame)) => frame,
                Ok(ExportOutcome::Cancelled(CancelReason::Permanent)) => {
                    stats.failures += 1;
                    break;
                }
                Ok(ExportOutcome::Cancelled(_)) => {
                    stats.failures += 1;
                    if clock::now() > last + patience {
                        break;
                    }
                    // Some compositors cancel at once, as long as they have nothing to export.
                    client.dispatch_for(Duration::from_millis(10))?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            last = clock::now();
            stats.elapsed = last - begin;
            stats.frame(frame.presented(), frame.ready());
            buffers.insert(frame.buffer_id());
            stats.buffers = buffers.len();
            let enough = stop(&stats, &frame);
            held.push_back(frame);
            let keep = match holding {
                Holding::ReleaseAtOnce => 0,
                Holding::Keep(frames) => frames,
                Holding::Forever => usize::MAX,
            };
            while held.len() > keep {
                held.pop_front();
            }
            if enough {
                break;
            }
        }
        Ok(stats)
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.manager.destroy();
    }
}

impl ExportedFrame {
    /// Waits for `ready` or `cancel`.
    pub fn wait(
        self,
        client: &mut Client,
        patience: Duration,
    ) -> Result<ExportOutcome, ClientError> {
        let record = Arc::clone(&self.record);
        let cancelled = client.wait_for("the exported frame", patience, |_| {
            let record = record.lock().unwrap();
            record.cancelled.map(Some).or(record.ready.map(|_| None))
        })?;
        Ok(match cancelled {
            Some(reason) => ExportOutcome::Cancelled(reason),
            None => ExportOutcome::Ready(self),
        })
    }

    /// Whether `ready` came, as far as events were dispatched.
    pub fn is_ready(&self) -> bool {
        self.record.lock().unwrap().ready.is_some()
    }

    /// A `cancel` that came, also after `ready`: the frame is void then.
    pub fn cancelled(&self) -> Option<CancelReason> {
        self.record.lock().unwrap().cancelled
    }

    /// When the flip presented it; zero before `ready`.
    pub fn presented(&self) -> Duration {
        self.record.lock().unwrap().ready.unwrap_or_default().0
    }

    /// When `ready` was read from the socket; zero before.
    pub fn ready(&self) -> Duration {
        self.record.lock().unwrap().ready.unwrap_or_default().1
    }

    /// Width and height in pixels.
    pub fn size(&self) -> (u32, u32) {
        self.record.lock().unwrap().size
    }

    /// DRM format and modifier.
    pub fn format(&self) -> (u32, u64) {
        let record = self.record.lock().unwrap();
        (record.format, record.modifier)
    }

    /// Flags of the `frame` event (1 is transient).
    pub fn flags(&self) -> u32 {
        self.record.lock().unwrap().flags
    }

    /// Number of objects announced and received.
    pub fn objects(&self) -> (u32, usize) {
        let record = self.record.lock().unwrap();
        (record.announced, record.objects.len())
    }

    /// The first object's descriptor, duplicated.
    pub fn fd(&self) -> OwnedFd {
        let record = self.record.lock().unwrap();
        record.objects[0]
            .fd
            .try_clone()
            .expect("a spare descriptor")
    }

    /// Inode of the first object's dma-buf: the same number is the same memory.
    pub fn buffer_id(&self) -> u64 {
        let record = self.record.lock().unwrap();
        record
            .objects
            .first()
            .and_then(|object| fstat(&object.fd).ok())
            .map_or(0, |s| s.st_ino)
    }

    /// Whether the descriptor was given without the right to write.
    pub fn is_read_only(&self) -> bool {
        let flags = fcntl_getfl(self.fd()).expect("F_GETFL");
        flags & OFlags::RWMODE == OFlags::RDONLY
    }

    /// Maps the frame, to look at it several times.
    pub fn map(&self) -> std::io::Result<MappedFrame> {
        let record = self.record.lock().unwrap();
        let object = &record.objects[0];
        let (width, height) = record.size;
        let length = object.offset as usize + object.stride as usize * height as usize;
        Ok(MappedFrame {
            mapping: Mapping::new(object.fd.as_fd(), length, false)?,
            width,
            height,
            offset: object.offset as usize,
            stride: object.stride,
        })
    }

    /// Reads the frame.
    pub fn picture(&self) -> Picture {
        self.map().expect("mapping a dma-buf for reading").picture()
    }
}

/// A frame in this process's memory. Outlives the frame object, so that a test can look at what
/// happens to a slot after its release.
#[derive(Debug)]
pub struct MappedFrame {
    mapping: Mapping,
    width: u32,
    height: u32,
    offset: usize,
    stride: u32,
}

impl MappedFrame {
    /// The bytes of the lines, and their stride.
    pub fn read<T>(&self, look: impl FnOnce(&[u8], u32) -> T) -> T {
        self.mapping
            .read(|bytes| look(&bytes[self.offset..], self.stride))
    }

    /// What is there now.
    pub fn picture(&self) -> Picture {
        let Self {
            width,
            height,
            offset,
            stride,
            ..
        } = *self;
        self.mapping
            .read(|bytes| Picture::from_lines(bytes.get(offset..)?, width, height, stride))
            .expect("the mapping is as long as the frame")
    }
}

impl Drop for ExportedFrame {
    fn drop(&mut self) {
        self.proxy.destroy();
        if let Some(backend) = self.proxy.backend().upgrade() {
            // A release that stays in the client's own buffer would be no release. An error here
            // is a connection that is gone, and with it the frame.
            let _ = backend.flush();
        }
    }
}

impl Dispatch<frame::ZwlrExportDmabufFrameV1, Shared> for State {
    fn event(
        _: &mut Self,
        _: &frame::ZwlrExportDmabufFrameV1,
        event: frame::Event,
        record: &Shared,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        let mut record = record.lock().unwrap();
        match event {
            frame::Event::Frame {
                width,
                height,
                offset_x,
                offset_y,
                buffer_flags,
                flags,
                format,
                mod_high,
                mod_low,
                num_objects,
            } => {
                record.size = (width, height);
                record.offset = (offset_x, offset_y);
                record.buffer_flags = buffer_flags;
                record.flags = flags.into();
                record.format = format;
                record.modifier = (u64::from(mod_high) << 32) | u64::from(mod_low);
                record.announced = num_objects;
            }
            frame::Event::Object {
                fd,
                size,
                offset,
                stride,
                plane_index,
                ..
            } => {
                record.objects.push(Object {
                    fd,
                    size,
                    offset,
                    stride,
                    plane: plane_index,
                });
            }
            frame::Event::Ready {
                tv_sec_hi,
                tv_sec_lo,
                tv_nsec,
            } => {
                let presented = clock::from_protocol(tv_sec_hi, tv_sec_lo, tv_nsec);
                record.ready = Some((presented, clock::now()));
            }
            frame::Event::Cancel { reason } => {
                record.cancelled = Some(match reason {
                    WEnum::Value(reason) => reason,
                    WEnum::Unknown(_) => CancelReason::Permanent,
                });
            }
            _ => {}
        }
    }
}

wayland_client::delegate_noop!(State: ignore manager::ZwlrExportDmabufManagerV1);
