//! wlr-screencopy on an output: whole frames into wl_shm.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use wayland_client::{Connection, Dispatch, QueueHandle};
use wayland_protocols_wlr::screencopy::v1::client::zwlr_screencopy_frame_v1::{
    self as frame_v1, ZwlrScreencopyFrameV1 as FrameObject,
};

pub use wayland_protocols_wlr::screencopy::v1::client::zwlr_screencopy_manager_v1::ZwlrScreencopyManagerV1 as ScreencopyManager;

use super::{
    buffers::{Buffer, MemoryKind, XRGB8888},
    connect::{Client, ClientError, State},
    copy_capture::picture_of,
    output::OutputInfo,
    picture::Picture,
};

#[derive(Debug, Default)]
struct Record {
    size: (u32, u32),
    announced: bool,
    presented: Duration,
    end: Option<Result<(), ()>>,
}

/// A frame with its buffer. Dropping it destroys the frame object.
#[derive(Debug)]
pub struct ScreencopyFrame {
    /// The object.
    pub proxy: FrameObject,
    /// Where the picture goes.
    pub buffer: Option<Buffer>,
    record: Arc<Mutex<Record>>,
}

impl ScreencopyFrame {
    /// A frame that nothing was asked of, without waiting.
    pub fn begin(
        client: &mut Client,
        output: &OutputInfo,
        cursor: bool,
    ) -> Result<Self, ClientError> {
        let manager: ScreencopyManager = client.bind(3, ())?;
        let record = Arc::<Mutex<Record>>::default();
        let proxy = manager.capture_output(
            i32::from(cursor),
            &output.proxy,
            &client.qh,
            Arc::clone(&record),
        );
        manager.destroy();
        client.flush()?;
        Ok(Self {
            proxy,
            buffer: None,
            record,
        })
    }

    /// Width and height of the picture, once that was told.
    pub fn size(&self) -> Option<(u32, u32)> {
        let record = self.record.lock().unwrap();
        record.announced.then_some(record.size)
    }

    /// A frame with a buffer that nothing was asked of; `None` if the compositor says at once that there will be none.
    pub fn announced(
        client: &mut Client,
        output: &OutputInfo,
        cursor: bool,
    ) -> Result<Option<Self>, ClientError> {
        let mut frame = Self::begin(client, output, cursor)?;
        client.wait_for("a screencopy frame's buffer", client.patience(), |_| {
            (frame.size().is_some() || frame.ended().is_some()).then_some(())
        })?;
        let (Some((width, height)), None) = (frame.size(), frame.ended()) else {
            return Ok(None);
        };
        frame.buffer = Some(Buffer::new(
            client,
            MemoryKind::Shm,
            width,
            height,
            XRGB8888,
        )?);
        Ok(Some(frame))
    }

    /// Asks for the picture; with `damage` only when something changed.
    pub fn ask(&self, client: &Client, damage: bool) -> Result<(), ClientError> {
        if let Some(buffer) = &self.buffer {
            match damage {
                true => self.proxy.copy_with_damage(&buffer.proxy),
                false => self.proxy.copy(&buffer.proxy),
            }
        }
        client.flush()
    }

    /// Whether it ended, and how: when it was presented, or not at all.
    pub fn ended(&self) -> Option<Option<Duration>> {
        let record = self.record.lock().unwrap();
        record.end.map(|end| end.ok().map(|()| record.presented))
    }

    /// Waits for the end; the picture, if there is one.
    pub fn wait(&self, client: &mut Client) -> Result<Option<Picture>, ClientError> {
        let end = client.wait_for("a screencopy frame", client.patience(), |_| self.ended())?;
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

impl Dispatch<FrameObject, Arc<Mutex<Record>>> for State {
    fn event(
        _: &mut Self,
        _: &FrameObject,
        event: frame_v1::Event,
        record: &Arc<Mutex<Record>>,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        let mut record = record.lock().unwrap();
        match event {
            frame_v1::Event::Buffer { width, height, .. } => record.size = (width, height),
            frame_v1::Event::BufferDone => record.announced = true,
            frame_v1::Event::Ready {
                tv_sec_hi,
                tv_sec_lo,
                tv_nsec,
            } => {
                let seconds = u64::from(tv_sec_hi) << 32 | u64::from(tv_sec_lo);
                record.presented = Duration::new(seconds, tv_nsec);
                record.end = Some(Ok(()));
            }
            frame_v1::Event::Failed => record.end = Some(Err(())),
            _ => {}
        }
    }
}

wayland_client::delegate_noop!(State: ignore ScreencopyManager);
