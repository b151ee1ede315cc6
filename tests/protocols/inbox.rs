//! What a client is told, kept for the tests to look at.

use std::os::fd::OwnedFd;

use wayland_client::{
    backend::ObjectId,
    delegate_noop,
    protocol::{
        wl_buffer::WlBuffer,
        wl_callback::{self, WlCallback},
        wl_output::WlOutput,
        wl_pointer::WlPointer,
        wl_registry::{self, WlRegistry},
        wl_seat::WlSeat,
        wl_shm::{self, WlShm},
        wl_shm_pool::WlShmPool,
    },
    Connection, Dispatch, Proxy, QueueHandle, WEnum,
};
use wayland_protocols::{
    ext::{
        foreign_toplevel_list::v1::client::{
            ext_foreign_toplevel_handle_v1::{
                self as toplevel_v1, ExtForeignToplevelHandleV1 as Toplevel,
            },
            ext_foreign_toplevel_list_v1::{
                self as list_v1, ExtForeignToplevelListV1 as ToplevelList,
            },
        },
        image_capture_source::v1::client::{
            ext_foreign_toplevel_image_capture_source_manager_v1::ExtForeignToplevelImageCaptureSourceManagerV1 as ToplevelSourceManager,
            ext_image_capture_source_v1::ExtImageCaptureSourceV1 as Source,
            ext_output_image_capture_source_manager_v1::ExtOutputImageCaptureSourceManagerV1 as SourceManager,
        },
        image_copy_capture::v1::client::{
            ext_image_copy_capture_cursor_session_v1::{
                self as cursor_v1, ExtImageCopyCaptureCursorSessionV1 as CursorSession,
            },
            ext_image_copy_capture_frame_v1::{
                self as frame_v1, ExtImageCopyCaptureFrameV1 as Frame,
            },
            ext_image_copy_capture_manager_v1::ExtImageCopyCaptureManagerV1 as CopyManager,
            ext_image_copy_capture_session_v1::{
                self as session_v1, ExtImageCopyCaptureSessionV1 as Session,
            },
        },
    },
    wp::linux_dmabuf::zv1::client::{
        zwp_linux_buffer_params_v1::ZwpLinuxBufferParamsV1, zwp_linux_dmabuf_v1::ZwpLinuxDmabufV1,
    },
};
use wayland_protocols_wlr::{
    export_dmabuf::v1::client::{
        zwlr_export_dmabuf_frame_v1::{self as export_v1, ZwlrExportDmabufFrameV1 as ExportFrame},
        zwlr_export_dmabuf_manager_v1::ZwlrExportDmabufManagerV1 as ExportManager,
    },
    screencopy::v1::client::{
        zwlr_screencopy_frame_v1::{
            self as screencopy_v1, ZwlrScreencopyFrameV1 as ScreencopyFrame,
        },
        zwlr_screencopy_manager_v1::ZwlrScreencopyManagerV1 as ScreencopyManager,
    },
};

/// An event, as the tests look at it.
#[derive(Debug)]
pub enum Told {
    BufferSize(u32, u32),
    ShmFormat(wl_shm::Format),
    DmabufDevice(u64),
    DmabufFormat(u32, Vec<u64>),
    Done,
    Stopped,
    Transform(u32),
    Damage([i32; 4]),
    Time(u64, u32),
    Ready,
    Failed(frame_v1::FailureReason),
    ExportFrame {
        size: (u32, u32),
        flags: u32,
        format: u32,
        modifier: u64,
        objects: u32,
    },
    ExportObject {
        index: u32,
        fd: OwnedFd,
        size: u32,
        offset: u32,
        stride: u32,
        plane: u32,
    },
    ExportReady(u64, u32),
    Cancel(export_v1::CancelReason),
    Buffer {
        format: wl_shm::Format,
        size: (u32, u32),
        stride: u32,
    },
    LinuxDmabuf(u32, u32, u32),
    BufferDone,
    Flags(u32),
    CopyReady(u64, u32),
    CopyFailed,
    Enter,
    Leave,
    Position(i32, i32),
    Hotspot(i32, i32),
    NewToplevel(Toplevel),
    Finished,
    Title(String),
    AppId(String),
    Identifier(String),
    Closed,
    PowerMode(bool),
    PowerFailed,
}

/// All that a client was told and that no test has looked at.
#[derive(Default)]
pub struct Inbox {
    pub globals: Vec<(u32, String, u32)>,
    pub events: Vec<(ObjectId, Told)>,
    pub syncs: usize,
}

// --- what wayland-client calls ---

impl Dispatch<WlRegistry, ()> for Inbox {
    fn event(
        told: &mut Self,
        _: &WlRegistry,
        event: wl_registry::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        match event {
            wl_registry::Event::Global {
                name,
                interface,
                version,
            } => {
                told.globals.push((name, interface, version));
            }
            wl_registry::Event::GlobalRemove { name } => told.globals.retain(|g| g.0 != name),
            _ => {}
        }
    }
}

impl Dispatch<WlCallback, ()> for Inbox {
    fn event(
        told: &mut Self,
        _: &WlCallback,
        _: wl_callback::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        told.syncs += 1;
    }
}

impl Dispatch<Session, ()> for Inbox {
    fn event(
        told: &mut Self,
        object: &Session,
        event: session_v1::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        use session_v1::Event;
        let event = match event {
            Event::BufferSize { width, height } => Told::BufferSize(width, height),
            Event::ShmFormat {
                format: WEnum::Value(format),
            } => Told::ShmFormat(format),
            Event::DmabufDevice { device } => {
                Told::DmabufDevice(u64::from_ne_bytes(device.try_into().unwrap()))
            }
            Event::DmabufFormat { format, modifiers } => {
                let modifiers = modifiers.chunks(8).map(|m| m.try_into().unwrap());
                Told::DmabufFormat(format, modifiers.map(u64::from_ne_bytes).collect())
            }
            Event::Done => Told::Done,
            Event::Stopped => Told::Stopped,
            other => panic!("{other:?}"),
        };
        told.events.push((object.id(), event));
    }
}

fn seconds(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

impl Dispatch<Frame, ()> for Inbox {
    fn event(
        told: &mut Self,
        object: &Frame,
        event: frame_v1::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        use frame_v1::Event;
        let event = match event {
            Event::Transform { transform } => Told::Transform(transform.into()),
            Event::Damage {
                x,
                y,
                width,
                height,
            } => Told::Damage([x, y, width, height]),
            Event::PresentationTime {
                tv_sec_hi,
                tv_sec_lo,
                tv_nsec,
            } => Told::Time(seconds(tv_sec_hi, tv_sec_lo), tv_nsec),
            Event::Ready => Told::Ready,
            Event::Failed {
                reason: WEnum::Value(reason),
            } => Told::Failed(reason),
            other => panic!("{other:?}"),
        };
        told.events.push((object.id(), event));
    }
}

impl Dispatch<ExportFrame, ()> for Inbox {
    fn event(
        told: &mut Self,
        object: &ExportFrame,
        event: export_v1::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        use export_v1::Event;
        let event = match event {
            Event::Frame {
                width,
                height,
                offset_x: 0,
                offset_y: 0,
                buffer_flags: 0,
                flags,
                format,
                mod_high,
                mod_low,
                num_objects,
            } => Told::ExportFrame {
                size: (width, height),
                flags: flags.into(),
                format,
                modifier: seconds(mod_high, mod_low),
                objects: num_objects,
            },
            Event::Object {
                index,
                fd,
                size,
                offset,
                stride,
                plane_index: plane,
            } => Told::ExportObject {
                index,
                fd,
                size,
                offset,
                stride,
                plane,
            },
            Event::Ready {
                tv_sec_hi,
                tv_sec_lo,
                tv_nsec,
            } => Told::ExportReady(seconds(tv_sec_hi, tv_sec_lo), tv_nsec),
            Event::Cancel {
                reason: WEnum::Value(reason),
            } => Told::Cancel(reason),
            other => panic!("{other:?}"),
        };
        told.events.push((object.id(), event));
    }
}

impl Dispatch<CursorSession, ()> for Inbox {
    fn event(
        told: &mut Self,
        object: &CursorSession,
        event: cursor_v1::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        use cursor_v1::Event;
        let event = match event {
            Event::Enter => Told::Enter,
            Event::Leave => Told::Leave,
            Event::Position { x, y } => Told::Position(x, y),
            Event::Hotspot { x, y } => Told::Hotspot(x, y),
            other => panic!("{other:?}"),
        };
        told.events.push((object.id(), event));
    }
}

impl Dispatch<ToplevelList, ()> for Inbox {
    fn event(
        told: &mut Self,
        object: &ToplevelList,
        event: list_v1::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        let event = match event {
            list_v1::Event::Toplevel { toplevel } => Told::NewToplevel(toplevel),
            list_v1::Event::Finished => Told::Finished,
            other => panic!("{other:?}"),
        };
        told.events.push((object.id(), event));
    }

    wayland_client::event_created_child!(Inbox, ToplevelList, [
        list_v1::EVT_TOPLEVEL_OPCODE => (Toplevel, ()),
    ]);
}

impl Dispatch<Toplevel, ()> for Inbox {
    fn event(
        told: &mut Self,
        object: &Toplevel,
        event: toplevel_v1::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        use toplevel_v1::Event;
        let event = match event {
            Event::Title { title } => Told::Title(title),
            Event::AppId { app_id } => Told::AppId(app_id),
            Event::Identifier { identifier } => Told::Identifier(identifier),
            Event::Done => Told::Done,
            Event::Closed => Told::Closed,
            other => panic!("{other:?}"),
        };
        told.events.push((object.id(), event));
    }
}

impl Dispatch<ScreencopyFrame, ()> for Inbox {
    fn event(
        told: &mut Self,
        object: &ScreencopyFrame,
        event: screencopy_v1::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        use screencopy_v1::Event;
        let event = match event {
            Event::Buffer {
                format: WEnum::Value(format),
                width,
                height,
                stride,
            } => Told::Buffer {
                format,
                size: (width, height),
                stride,
            },
            Event::LinuxDmabuf {
                format,
                width,
                height,
            } => Told::LinuxDmabuf(format, width, height),
            Event::BufferDone => Told::BufferDone,
            Event::Flags { flags } => Told::Flags(flags.into()),
            Event::Damage {
                x,
                y,
                width,
                height,
            } => Told::Damage([x, y, width, height].map(|n| n as i32)),
            Event::Ready {
                tv_sec_hi,
                tv_sec_lo,
                tv_nsec,
            } => Told::CopyReady(seconds(tv_sec_hi, tv_sec_lo), tv_nsec),
            Event::Failed => Told::CopyFailed,
            other => panic!("{other:?}"),
        };
        told.events.push((object.id(), event));
    }
}

delegate_noop!(Inbox: ignore WlOutput);
delegate_noop!(Inbox: ignore WlShm);
delegate_noop!(Inbox: ignore WlShmPool);
delegate_noop!(Inbox: ignore WlBuffer);
delegate_noop!(Inbox: ignore WlSeat);
delegate_noop!(Inbox: ignore WlPointer);
delegate_noop!(Inbox: ignore ZwpLinuxDmabufV1);
delegate_noop!(Inbox: ignore ZwpLinuxBufferParamsV1);
delegate_noop!(Inbox: Source);
delegate_noop!(Inbox: SourceManager);
delegate_noop!(Inbox: CopyManager);
delegate_noop!(Inbox: ExportManager);
delegate_noop!(Inbox: ScreencopyManager);
delegate_noop!(Inbox: ToplevelSourceManager);
