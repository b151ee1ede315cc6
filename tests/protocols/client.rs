//! A real Wayland client that is driven step by step and keeps all that it was told.

use std::{
    fs::File,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::FileExt, net::UnixStream},
    },
};

use rustix::fs::{memfd_create, MemfdFlags};
use wayland_client::{
    backend::{protocol::ProtocolError, ObjectId, WaylandError},
    protocol::{
        wl_buffer::WlBuffer,
        wl_output::WlOutput,
        wl_registry::WlRegistry,
        wl_shm::{self, WlShm},
        wl_shm_pool::WlShmPool,
    },
    Connection, Dispatch, EventQueue, Proxy, QueueHandle,
};
use wayland_protocols::{
    ext::{
        image_capture_source::v1::client::{
            ext_image_capture_source_v1::ExtImageCaptureSourceV1 as Source,
            ext_output_image_capture_source_manager_v1::ExtOutputImageCaptureSourceManagerV1 as SourceManager,
        },
        image_copy_capture::v1::client::{
            ext_image_copy_capture_frame_v1::{
                self as frame_v1, ExtImageCopyCaptureFrameV1 as Frame,
            },
            ext_image_copy_capture_manager_v1::{
                ExtImageCopyCaptureManagerV1 as CopyManager, Options,
            },
            ext_image_copy_capture_session_v1::ExtImageCopyCaptureSessionV1 as Session,
        },
    },
    wp::linux_dmabuf::zv1::client::{
        zwp_linux_buffer_params_v1::Flags as BufferFlags, zwp_linux_dmabuf_v1::ZwpLinuxDmabufV1,
    },
};
use wayland_protocols_wlr::export_dmabuf::v1::client::{
    zwlr_export_dmabuf_frame_v1::{self as export_v1, ZwlrExportDmabufFrameV1 as ExportFrame},
    zwlr_export_dmabuf_manager_v1::ZwlrExportDmabufManagerV1 as ExportManager,
};

use crate::{
    inbox::{Inbox, Told},
    server::Server,
};

/// The client.
pub struct Client {
    pub connection: Connection,
    queue: EventQueue<Inbox>,
    told: Inbox,
    registry: WlRegistry,
}

/// What the protocol calls frame metadata and `ready`, collected.
#[derive(Debug, PartialEq, Eq)]
pub struct ReadyFrame {
    pub transform: u32,
    pub damage: Vec<[i32; 4]>,
    pub time: (u64, u32),
}

/// What an export-dmabuf frame told until `ready`.
#[derive(Debug)]
pub struct ExportedFrame {
    pub size: (u32, u32),
    pub flags: u32,
    pub format: u32,
    pub modifier: u64,
    pub fd: OwnedFd,
    pub object_size: u32,
    pub offset: u32,
    pub stride: u32,
    pub time: (u64, u32),
}

impl Client {
    pub fn new(server: &mut Server) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        server.accept(theirs);
        let connection = Connection::from_socket(ours).unwrap();
        let queue = connection.new_event_queue();
        let registry = connection.display().get_registry(&queue.handle(), ());
        let mut client = Self {
            connection,
            queue,
            told: Inbox::default(),
            registry,
        };
        client.roundtrip(server);
        client
    }

    pub fn handle(&self) -> QueueHandle<Inbox> {
        self.queue.handle()
    }

    /// Sends everything, has the server answer everything, and reads it. Panics if the server disconnects us.
    pub fn roundtrip(&mut self, server: &mut Server) {
        if let Err(error) = self.try_roundtrip(server) {
            panic!("the server disconnected a client that did nothing wrong: {error}");
        }
    }

    pub fn try_roundtrip(&mut self, server: &mut Server) -> Result<(), WaylandError> {
        let wanted = self.told.syncs + 1;
        self.connection.display().sync(&self.queue.handle(), ());
        for _ in 0..100 {
            let flushed = self.connection.flush();
            server.dispatch();
            self.read()?;
            flushed?;
            if self.told.syncs >= wanted {
                return Ok(());
            }
        }
        panic!("the server did not answer a sync");
    }

    /// Takes what has arrived, without asking for more.
    fn read(&mut self) -> Result<(), WaylandError> {
        if let Some(guard) = self.queue.prepare_read() {
            match guard.read() {
                Ok(_) => {}
                Err(WaylandError::Io(e)) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    // The last events before the end still count.
                    let _ = self.queue.dispatch_pending(&mut self.told);
                    return Err(error);
                }
            }
        }
        match self.queue.dispatch_pending(&mut self.told) {
            Ok(_) => Ok(()),
            Err(wayland_client::DispatchError::Backend(error)) => Err(error),
            Err(error) => panic!("{error}"),
        }
    }

    /// Expects that what was sent ends the connection with this error.
    pub fn expect_error(&mut self, server: &mut Server, object: &impl Proxy, code: u32) {
        let error = self.protocol_error(server);
        let found = (error.object_id, error.object_interface.as_str(), error.code);
        let id = object.id();
        assert_eq!(
            found,
            (id.protocol_id(), id.interface().name, code),
            "{}",
            error.message
        );
    }

    /// Expects that the connection ends with a protocol error, and returns it.
    pub fn protocol_error(&mut self, server: &mut Server) -> ProtocolError {
        for _ in 0..100 {
            if self.try_roundtrip(server).is_err() {
                return self
                    .connection
                    .protocol_error()
                    .expect("disconnected without an error");
            }
        }
        panic!("no protocol error came");
    }

    pub fn bind<I>(&self, version: u32) -> I
    where
        I: Proxy + 'static,
        Inbox: Dispatch<I, ()>,
    {
        self.bind_nth(0, version)
    }

    pub fn bind_nth<I>(&self, nth: usize, version: u32) -> I
    where
        I: Proxy + 'static,
        Inbox: Dispatch<I, ()>,
    {
        let interface = I::interface().name;
        let (name, _, _) = self
            .told
            .globals
            .iter()
            .filter(|(_, i, _)| i == interface)
            .nth(nth)
            .unwrap_or_else(|| panic!("{interface} is not announced"));
        self.registry.bind(*name, version, &self.handle(), ())
    }

    pub fn sees(&self, interface: &str) -> bool {
        self.told.globals.iter().any(|(_, i, _)| i == interface)
    }

    /// All that the object was told and nobody has taken yet.
    pub fn take(&mut self, object: &impl Proxy) -> Vec<Told> {
        let id = object.id();
        let (taken, kept) = std::mem::take(&mut self.told.events)
            .into_iter()
            .partition(|(of, _)| *of == id);
        self.told.events = kept;
        let taken: Vec<(ObjectId, Told)> = taken;
        taken.into_iter().map(|(_, told)| told).collect()
    }

    // --- ext-image-copy-capture ---

    pub fn source(&self, nth_output: usize) -> Source {
        let output: WlOutput = self.bind_nth(nth_output, 4);
        let manager: SourceManager = self.bind(1);
        manager.create_source(&output, &self.handle(), ())
    }

    pub fn session_of(&self, source: &Source) -> Session {
        let manager: CopyManager = self.bind(1);
        manager.create_session(source, Options::PaintCursors, &self.handle(), ())
    }

    pub fn session(&self) -> Session {
        self.session_of(&self.source(0))
    }

    pub fn frame(&self, session: &Session) -> Frame {
        session.create_frame(&self.handle(), ())
    }

    /// A frame with this buffer, wholly damaged, captured.
    pub fn captured(&self, session: &Session, buffer: &Buffer) -> Frame {
        let frame = self.frame(session);
        frame.attach_buffer(&buffer.object);
        frame.damage_buffer(0, 0, buffer.width, buffer.height);
        frame.capture();
        frame
    }

    /// Nothing was told yet.
    pub fn expect_nothing(&mut self, server: &mut Server, object: &impl Proxy) {
        self.roundtrip(server);
        let told = self.take(object);
        assert!(told.is_empty(), "told already: {told:?}");
    }

    /// Waits for copies, and expects `ready`.
    pub fn expect_ready(&mut self, server: &mut Server, frame: &Frame) -> ReadyFrame {
        self.roundtrip(server);
        server.finish_copies();
        self.roundtrip(server);
        let told = self.take(frame);
        let mut ready = ReadyFrame {
            transform: u32::MAX,
            damage: Vec::new(),
            time: (0, 0),
        };
        let (last, first) = told.split_last().expect("the frame was told nothing");
        assert!(matches!(last, Told::Ready), "{told:?}");
        for event in first {
            match event {
                Told::Transform(transform) => ready.transform = *transform,
                Told::Damage(rect) => ready.damage.push(*rect),
                Told::Time(seconds, nanoseconds) => ready.time = (*seconds, *nanoseconds),
                other => panic!("{other:?} before ready"),
            }
        }
        ready
    }

    pub fn expect_failed(
        &mut self,
        server: &mut Server,
        frame: &Frame,
        reason: frame_v1::FailureReason,
    ) {
        self.roundtrip(server);
        server.finish_copies();
        self.roundtrip(server);
        let told = self.take(frame);
        assert!(
            matches!(&told[..], [Told::Failed(r)] if *r == reason),
            "{told:?}"
        );
    }

    // --- export-dmabuf ---

    pub fn export(&self, manager: &ExportManager, output: &WlOutput) -> ExportFrame {
        manager.capture_output(1, output, &self.handle(), ())
    }

    pub fn expect_exported(&mut self, server: &mut Server, frame: &ExportFrame) -> ExportedFrame {
        self.roundtrip(server);
        let mut told = self.take(frame).into_iter();
        let events = (told.next(), told.next(), told.next(), told.next());
        let (
            Some(Told::ExportFrame {
                size,
                flags,
                format,
                modifier,
                objects: 1,
            }),
            Some(Told::ExportObject {
                index: 0,
                fd,
                size: object_size,
                offset,
                stride,
                plane: 0,
            }),
            Some(Told::ExportReady(seconds, nanoseconds)),
            None,
        ) = events
        else {
            panic!("not frame, object, ready: {events:?}");
        };
        let time = (seconds, nanoseconds);
        ExportedFrame {
            size,
            flags,
            format,
            modifier,
            fd,
            object_size,
            offset,
            stride,
            time,
        }
    }

    pub fn expect_cancelled(
        &mut self,
        server: &mut Server,
        frame: &ExportFrame,
        reason: export_v1::CancelReason,
    ) {
        self.roundtrip(server);
        let told = self.take(frame);
        assert!(
            matches!(&told[..], [Told::Cancel(r)] if *r == reason),
            "{told:?}"
        );
    }

    // --- buffers ---

    pub fn buffer(&self, width: i32, height: i32) -> Buffer {
        self.buffer_with(width, height, width * 4, wl_shm::Format::Xrgb8888)
    }

    pub fn buffer_with(
        &self,
        width: i32,
        height: i32,
        stride: i32,
        format: wl_shm::Format,
    ) -> Buffer {
        let shm: WlShm = self.bind(1);
        let file = memory((stride * height) as u64);
        let pool = shm.create_pool(file.as_fd(), stride * height, &self.handle(), ());
        let object = pool.create_buffer(0, width, height, stride, format, &self.handle(), ());
        Buffer {
            object,
            pool,
            file,
            width,
            height,
            stride,
        }
    }

    /// A wl_buffer by linux-dmabuf over any descriptor.
    pub fn dmabuf(&self, fd: &impl AsFd, width: i32, height: i32, stride: u32) -> WlBuffer {
        let dmabuf: ZwpLinuxDmabufV1 = self.bind(3);
        let params = dmabuf.create_params(&self.handle(), ());
        params.add(fd.as_fd(), 0, 0, stride, 0, 0);
        let xrgb = smithay::backend::allocator::Fourcc::Xrgb8888 as u32;
        params.create_immed(
            width,
            height,
            xrgb,
            BufferFlags::empty(),
            &self.handle(),
            (),
        )
    }
}

/// Anonymous memory of this size.
pub fn memory(size: u64) -> File {
    let file = File::from(memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(size).unwrap();
    file
}

/// A wl_shm buffer in a pool of its own.
pub struct Buffer {
    pub object: WlBuffer,
    pub pool: WlShmPool,
    pub file: File,
    pub width: i32,
    pub height: i32,
    pub stride: i32,
}

impl Buffer {
    pub fn fill(&self, pixel: u32) {
        let bytes = pixel
            .to_ne_bytes()
            .repeat((self.stride / 4 * self.height) as usize);
        self.file.write_all_at(&bytes, 0).unwrap();
    }

    pub fn pixel(&self, x: i32, y: i32) -> u32 {
        let mut bytes = [0; 4];
        self.file
            .read_exact_at(&mut bytes, (y * self.stride + x * 4) as u64)
            .unwrap();
        u32::from_ne_bytes(bytes)
    }

    /// All pixels, row by row, without the padding.
    pub fn pixels(&self) -> Vec<u32> {
        let at = |i: i32| self.pixel(i % self.width, i / self.width);
        (0..self.width * self.height).map(at).collect()
    }
}
