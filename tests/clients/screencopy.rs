//! wlr-screencopy-unstable-v1, version 3: frames of an output or a part of it, and a loop with figures.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use wayland_client::{Connection, Dispatch, QueueHandle};
use wayland_protocols_wlr::screencopy::v1::client::{
    zwlr_screencopy_frame_v1 as frame, zwlr_screencopy_manager_v1 as manager,
};

pub use manager::ZwlrScreencopyManagerV1 as ScreencopyManager;

use super::{
    buffers::{Buffer, MemoryKind, ARGB8888, XRGB8888},
    clock,
    connect::{Client, ClientError, State},
    copy_capture::picture_of,
    output::OutputInfo,
    picture::{Picture, Rect},
    stats::CaptureStats,
};

/// What the frame object was told.
#[derive(Debug, Clone, Default)]
pub struct ScreencopyRecord {
    /// wl_shm's format, width, height and bytes from line to line.
    pub shm: Option<(u32, u32, u32, u32)>,
    /// DRM format, width and height.
    pub dmabuf: Option<(u32, u32, u32)>,
    /// `buffer_done` came.
    pub done: bool,
    /// Flags (1: the lines are upside down).
    pub flags: u32,
    /// Damage, where the copy waited for it.
    pub damage: Vec<Rect>,
    /// When the flip presented the frame and when `ready` was read, or nothing: `failed`.
    pub end: Option<Option<(Duration, Duration)>>,
}

type Shared = Arc<Mutex<ScreencopyRecord>>;

/// The protocol's manager.
#[derive(Debug)]
pub struct Screencopy {
    manager: ScreencopyManager,
}

/// One frame object. Dropping it destroys it.
#[derive(Debug)]
pub struct ScreencopyFrame {
    /// The object.
    pub proxy: frame::ZwlrScreencopyFrameV1,
    /// Where the picture goes, if it was [`announced`](Self::announced).
    pub buffer: Option<Buffer>,
    record: Shared,
}

impl Screencopy {
    /// Binds the global.
    pub fn new(client: &Client) -> Result<Self, ClientError> {
        Ok(Self {
            manager: client.bind(3, ())?,
        })
    }

    /// A frame of the output, or of a part of it in logical coordinates, without waiting.
    pub fn begin(
        &self,
        client: &Client,
        output: &OutputInfo,
        overlay_cursor: bool,
        region: Option<Rect>,
    ) -> Result<ScreencopyFrame, ClientError> {
        let record = Shared::default();
        let data = Arc::clone(&record);
        let (cursor, qh) = (i32::from(overlay_cursor), &client.qh);
        let proxy = match region {
            None => self.manager.capture_output(cursor, &output.proxy, qh, data),
            Some(r) => self.manager.capture_output_region(
                cursor,
                &output.proxy,
                r.x,
                r.y,
                r.width,
                r.height,
                qh,
                data,
            ),
        };
        client.flush()?;
        Ok(ScreencopyFrame {
            proxy,
            buffer: None,
            record,
        })
    }

    /// The same, and waits until it says which buffers it takes (or that it failed).
    pub fn frame(
        &self,
        client: &mut Client,
        output: &OutputInfo,
        overlay_cursor: bool,
        region: Option<Rect>,
    ) -> Result<ScreencopyFrame, ClientError> {
        let frame = self.begin(client, output, overlay_cursor, region)?;
        client.wait_for("the frame's buffer types", client.patience(), |_| {
            let record = frame.record.lock().unwrap();
            (record.done || record.end.is_some()).then_some(())
        })?;
        Ok(frame)
    }

    /// Captures until `stop` says so after a frame, or none comes for `patience` (not an error: the screen may stand
    /// still). Each copy waits for damage, and all go into the same buffer.
    pub fn run(
        &self,
        client: &mut Client,
        output: &OutputInfo,
        overlay_cursor: bool,
        kind: MemoryKind,
        patience: Duration,
        mut stop: impl FnMut(&CaptureStats, &Buffer) -> bool,
    ) -> Result<CaptureStats, ClientError> {
        let begin = clock::now();
        let mut stats = CaptureStats::default();
        let mut buffer: Option<Buffer> = None;
        loop {
            let frame = self.frame(client, output, overlay_cursor, None)?;
            let target = match buffer.take() {
                Some(buffer) if frame.takes(&buffer) => buffer,
                _ => frame.buffer(client, kind)?,
            };
            let target = buffer.insert(target);
            frame.copy(client, target, true)?;
            let end = match frame.wait_end(client, patience) {
                Err(ClientError::Timeout { .. }) => break,
                other => other?,
            };
            stats.elapsed = clock::now() - begin;
            let Some((presented, ready)) = end else {
                stats.failures += 1;
                break;
            };
            stats.frame(presented, ready);
            if stop(&stats, target) {
                break;
            }
        }
        Ok(stats)
    }
}

impl Drop for Screencopy {
    fn drop(&mut self) {
        self.manager.destroy();
    }
}

impl ScreencopyFrame {
    /// All that it was told so far.
    pub fn record(&self) -> ScreencopyRecord {
        self.record.lock().unwrap().clone()
    }

    fn takes(&self, buffer: &Buffer) -> bool {
        let record = self.record.lock().unwrap();
        let (width, height) = (buffer.width, buffer.height);
        record
            .shm
            .is_some_and(|(_, w, h, _)| (w, h) == (width, height))
            || record
                .dmabuf
                .is_some_and(|(_, w, h)| (w, h) == (width, height))
    }

    /// Makes a buffer as the frame demands.
    pub fn buffer(&self, client: &mut Client, kind: MemoryKind) -> Result<Buffer, ClientError> {
        let record = self.record();
        let missing = || ClientError::Missing(format!("a buffer type of {kind:?} for this frame"));
        if kind == MemoryKind::Shm {
            let (format, width, height, stride) = record.shm.ok_or_else(missing)?;
            let fourcc = match format {
                0 => ARGB8888,
                1 => XRGB8888,
                other => other,
            };
            return Buffer::with_stride(client, kind, width, height, fourcc, stride);
        }
        let (fourcc, width, height) = record.dmabuf.ok_or_else(missing)?;
        Buffer::new(client, kind, width, height, fourcc)
    }

    /// Asks for the picture, at once or when something has changed since this client's last one.
    pub fn copy(
        &self,
        client: &Client,
        buffer: &Buffer,
        with_damage: bool,
    ) -> Result<(), ClientError> {
        match with_damage {
            true => self.proxy.copy_with_damage(&buffer.proxy),
            false => self.proxy.copy(&buffer.proxy),
        }
        client.flush()
    }

    /// Waits for the end: when the flip presented the frame and when `ready` was read; `None`: it failed.
    pub fn wait_end(
        &self,
        client: &mut Client,
        patience: Duration,
    ) -> Result<Option<(Duration, Duration)>, ClientError> {
        client.wait_for("the captured frame", patience, |_| {
            self.record.lock().unwrap().end
        })
    }

    /// Copies at once into this buffer, waits, and reads the picture; panics if the capture fails.
    #[track_caller]
    pub fn picture(&self, client: &mut Client, buffer: &Buffer) -> Result<Picture, ClientError> {
        self.copy(client, buffer, false)?;
        let end = self.wait_end(client, client.patience())?;
        assert!(end.is_some(), "the capture failed");
        Ok(picture_of(buffer))
    }

    /// A frame of the whole output that nothing was asked of, without waiting.
    pub fn begin(client: &Client, output: &OutputInfo, cursor: bool) -> Result<Self, ClientError> {
        Screencopy::new(client)?.begin(client, output, cursor, None)
    }

    /// A frame of the whole output with a buffer in wl_shm; `None` if the compositor says at once that there will be none.
    pub fn announced(
        client: &mut Client,
        output: &OutputInfo,
        cursor: bool,
    ) -> Result<Option<Self>, ClientError> {
        let mut frame = Screencopy::new(client)?.frame(client, output, cursor, None)?;
        if frame.ended().is_some() {
            return Ok(None);
        }
        frame.buffer = Some(frame.buffer(client, MemoryKind::Shm)?);
        Ok(Some(frame))
    }

    /// Asks for the picture in its own buffer; with `damage` only when something changed.
    pub fn ask(&self, client: &Client, damage: bool) -> Result<(), ClientError> {
        match &self.buffer {
            Some(buffer) => self.copy(client, buffer, damage),
            None => Ok(()),
        }
    }

    /// Width and height of the picture in wl_shm, once that was told.
    pub fn size(&self) -> Option<(u32, u32)> {
        let record = self.record.lock().unwrap();
        let told = record.shm.filter(|_| record.done);
        told.map(|(_, width, height, _)| (width, height))
    }

    /// Whether it ended, and how: when it was presented, or not at all.
    pub fn ended(&self) -> Option<Option<Duration>> {
        let record = self.record.lock().unwrap();
        record.end.map(|end| end.map(|(presented, _)| presented))
    }

    /// Waits for the end; the picture in its own buffer, if there is one.
    pub fn wait(&self, client: &mut Client) -> Result<Option<Picture>, ClientError> {
        let end = self.wait_end(client, client.patience())?;
        Ok(end.and_then(|_| self.buffer.as_ref().map(picture_of)))
    }

    /// A whole capture, as grim makes one.
    pub fn capture(
        client: &mut Client,
        output: &OutputInfo,
        cursor: bool,
    ) -> Result<Option<Picture>, ClientError> {
        let Some(frame) = Self::announced(client, output, cursor)? else {
            return Ok(None);
        };
        frame.ask(client, false)?;
        frame.wait(client)
    }
}

impl Drop for ScreencopyFrame {
    fn drop(&mut self) {
        self.proxy.destroy();
    }
}

impl Dispatch<frame::ZwlrScreencopyFrameV1, Shared> for State {
    fn event(
        _: &mut Self,
        _: &frame::ZwlrScreencopyFrameV1,
        event: frame::Event,
        record: &Shared,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        let mut record = record.lock().unwrap();
        match event {
            frame::Event::Buffer {
                format,
                width,
                height,
                stride,
            } => record.shm = Some((format.into(), width, height, stride)),
            frame::Event::LinuxDmabuf {
                format,
                width,
                height,
            } => record.dmabuf = Some((format, width, height)),
            frame::Event::BufferDone => record.done = true,
            frame::Event::Flags { flags } => record.flags = flags.into(),
            frame::Event::Damage {
                x,
                y,
                width,
                height,
            } => {
                let rect = Rect::new(x as i32, y as i32, width as i32, height as i32);
                record.damage.push(rect);
            }
            frame::Event::Ready {
                tv_sec_hi,
                tv_sec_lo,
                tv_nsec,
            } => {
                let presented = clock::from_protocol(tv_sec_hi, tv_sec_lo, tv_nsec);
                record.end = Some(Some((presented, clock::now())));
            }
            frame::Event::Failed => record.end = Some(None),
            _ => {}
        }
    }
}

wayland_client::delegate_noop!(State: ignore manager::ZwlrScreencopyManagerV1);
