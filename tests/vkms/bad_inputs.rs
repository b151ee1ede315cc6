//! Clients that send nonsense: they get the protocol's error or what they asked for, and everybody else goes on. After each
//! of them a well-behaved client must still bring a picture to the screen.

use std::{
    fs::File,
    io::{Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
};

use rustix::{
    fs::{ftruncate, memfd_create, MemfdFlags},
    pipe::pipe,
};
use wayland_client::protocol::{
    wl_buffer::WlBuffer, wl_compositor::WlCompositor, wl_shm, wl_subcompositor::WlSubcompositor,
    wl_surface::WlSurface,
};
use wayland_protocols::wp::linux_dmabuf::zv1::client::{
    zwp_linux_buffer_params_v1::{Flags, ZwpLinuxBufferParamsV1},
    zwp_linux_dmabuf_v1::ZwpLinuxDmabufV1,
};

use crate::{
    clients::{
        buffers::{allocate, XRGB8888},
        picture::pattern_picture,
        Client, ClientError, MemoryKind, Painter, Picture,
    },
    machine::{self, Machine, SECOND},
    screen,
    stage::{Setup, Stage},
    window::{self, Popup, Window},
};

/// What must come of a hostile client. Where Smithay 0.7.0 is milder than the protocol, or blames another object, that is what
/// is written here: the client gets no error, and nobody else suffers.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    /// This protocol error.
    Error(&'static str, u32),
    /// A protocol error on this interface.
    AnyError(&'static str),
    /// No error: the client lives on.
    Fine,
}
use Outcome::{AnyError, Error, Fine};

/// A stage with a painter that has to survive everything.
pub struct Trial<'g> {
    stage: Stage<'g>,
    client: Client,
    painter: Painter,
    round: u32,
    wrong: Vec<String>,
}

impl<'g> Trial<'g> {
    fn new(guest: &'g machine::Guest) -> Self {
        Self::on(Setup::default().start(guest))
    }

    pub fn on(stage: Stage<'g>) -> Self {
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 0).unwrap();
        Self {
            stage,
            client,
            painter,
            round: 0,
            wrong: Vec::new(),
        }
    }

    /// Lets a hostile client do something, and looks what came of it and whether the painter lives.
    fn of(&mut self, what: &str, wanted: Outcome, act: impl FnOnce(&mut Client)) {
        let mut client = self.stage.client();
        act(&mut client);
        let result = client.roundtrip().and_then(|()| client.roundtrip());
        let good = match (&result, wanted) {
            (Ok(()), Fine) => true,
            (Err(error), Error(interface, code)) => error.protocol() == Some((interface, code)),
            (Err(error), AnyError(interface)) => {
                error.protocol().is_some_and(|(is, _)| is == interface)
            }
            _ => false,
        };
        if !good {
            self.wrong
                .push(format!("{what}: {result:?}, not {wanted:?}"));
        }
        self.go_on(what);
        drop(client);
        self.go_on(what);
    }

    /// The painter's next picture comes to the screen.
    fn go_on(&mut self, what: &str) {
        self.round += 1;
        if let Err(error) = self.painter.present(&mut self.client, self.round) {
            let (log, wrong) = (self.stage.vitrine.log(), &self.wrong);
            let end = log.len().saturating_sub(1500);
            panic!(
                "after {what} nothing is presented any more: {error}\n{wrong:#?}\n{}",
                log.get(end..).unwrap_or(&log)
            );
        }
    }

    fn finish(mut self) {
        assert!(self.wrong.is_empty(), "{:#?}", self.wrong);
        self.stage.vitrine.assert_running();
        let seen = screen::picture(&mut self.client);
        seen.assert_same(&self.painter.expected(), "the painter's last picture");
        let log = self.stage.vitrine.log();
        assert!(!log.contains("panicked"), "{log}");
        self.stage.finish("Virtual-1");
    }
}

fn memory(length: u64) -> OwnedFd {
    let fd = memfd_create("hostile", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, length).unwrap();
    fd
}

fn not_busy() -> Arc<AtomicBool> {
    Arc::default()
}

/// A buffer in a pool; the pool is created with `claimed` bytes whatever the file has.
fn shm_buffer(
    client: &Client,
    fd: BorrowedFd<'_>,
    claimed: i32,
    (offset, width, height, stride): (i32, i32, i32, i32),
    format: wl_shm::Format,
) -> WlBuffer {
    let shm: wl_shm::WlShm = client.bind(1, ()).unwrap();
    let pool = shm.create_pool(fd, claimed, &client.qh, ());
    pool.create_buffer(
        offset,
        width,
        height,
        stride,
        format,
        &client.qh,
        not_busy(),
    )
}

/// Shows a buffer in a window of its own, if making it was no error already.
fn try_show(client: &mut Client, buffer: &WlBuffer) {
    if client.roundtrip().is_ok() {
        show(client, buffer);
    }
}

/// Shows a buffer in a window of its own.
fn show(client: &mut Client, buffer: &WlBuffer) -> Window {
    let mut window = Window::new(client);
    window.configure(client);
    window.surface.proxy.attach(Some(buffer), 0, 0);
    window.surface.proxy.damage_buffer(0, 0, i32::MAX, i32::MAX);
    window.surface.proxy.commit();
    window
}

#[test]
fn shm_that_is_not_what_it_says() {
    machine::boot(Machine::default(), |guest| {
        let mut trial = Trial::new(guest);
        let pool = |claimed: i32| {
            move |client: &mut Client| {
                let shm: wl_shm::WlShm = client.bind(1, ()).unwrap();
                shm.create_pool(memory(4096).as_fd(), claimed, &client.qh, ());
            }
        };
        trial.of("a pool of 0 bytes", AnyError("wl_shm"), pool(0));
        trial.of("a pool of -1 bytes", AnyError("wl_shm"), pool(-1));
        trial.of("a pool in a pipe", AnyError("wl_shm"), |client| {
            let shm: wl_shm::WlShm = client.bind(1, ()).unwrap();
            shm.create_pool(pipe().unwrap().0.as_fd(), 4096, &client.qh, ());
        });
        for size in [0, -1, i32::MIN, 100] {
            trial.of(
                &format!("a pool resized to {size}"),
                AnyError("wl_shm_pool"),
                move |client| {
                    let shm: wl_shm::WlShm = client.bind(1, ()).unwrap();
                    let pool = shm.create_pool(memory(4096).as_fd(), 4096, &client.qh, ());
                    pool.resize(size);
                },
            );
        }
        let good = wl_shm::Format::Xrgb8888;
        for (what, shape) in [
            ("a stride below the width", (0, 16, 16, 32)),
            ("a negative offset", (-4, 16, 16, 64)),
            ("an offset past the end", (4096, 16, 16, 64)),
            ("more lines than there are", (0, 16, 100, 64)),
            ("a stride that overflows", (0, 16, i32::MAX, i32::MAX)),
            ("width 0", (0, 0, 16, 64)),
            ("a negative height", (0, 16, -16, 64)),
            ("an offset that overflows", (i32::MAX, 16, 16, 64)),
            ("a negative stride", (0, 16, 16, -64)),
            ("a width that overflows", (0, i32::MAX, 1, 64)),
        ] {
            trial.of(what, AnyError("wl_shm_pool"), |client| {
                shm_buffer(client, memory(4096).as_fd(), 4096, shape, good);
            });
        }
        trial.of("an unknown format", AnyError("wl_shm_pool"), |client| {
            shm_buffer(
                client,
                memory(4096).as_fd(),
                4096,
                (0, 16, 16, 64),
                wl_shm::Format::Yuv444,
            );
        });
        trial.finish();
    });
}

#[test]
fn shm_files_that_are_shorter_than_their_pool_end_only_their_client() {
    machine::boot(Machine::default(), |guest| {
        let mut trial = Trial::new(guest);
        let length = 640 * 480 * 4;
        let whole = (0, 640, 480, 640 * 4);
        let good = wl_shm::Format::Xrgb8888;
        for kept in [0, 4096, length / 2] {
            let gone = |client: &mut Client| {
                client
                    .wait_for::<()>("the end", SECOND * 10, |_| None)
                    .unwrap_err()
            };
            // Too short from the beginning.
            let mut client = trial.stage.client();
            let fd = memory(kept as u64);
            let buffer = shm_buffer(&client, fd.as_fd(), length, whole, good);
            let _window = show(&mut client, &buffer);
            let error = gone(&mut client);
            assert!(
                !matches!(error, ClientError::Timeout { .. }),
                "{kept}: {error}"
            );
            trial.go_on("a file that is too short");
            // Truncated while it is shown.
            let mut client = trial.stage.client();
            let fd = memory(length as u64);
            let buffer = shm_buffer(&client, fd.as_fd(), length, whole, good);
            let mut window = Window::new(&client);
            window.configure(&mut client);
            window.surface.proxy.attach(Some(&buffer), 0, 0);
            window.surface.proxy.damage_buffer(0, 0, i32::MAX, i32::MAX);
            window.surface.commit_shown(&mut client);
            ftruncate(&fd, kept as u64).unwrap();
            window.surface.proxy.attach(Some(&buffer), 0, 0);
            window.surface.proxy.damage_buffer(0, 0, i32::MAX, i32::MAX);
            window.surface.proxy.commit();
            let error = gone(&mut client);
            assert!(
                !matches!(error, ClientError::Timeout { .. }),
                "{kept}: {error}"
            );
            trial.go_on("a file that was truncated");
        }
        trial.finish();
    });
}

/// A dmabuf request with one plane.
fn params(
    client: &Client,
    fd: BorrowedFd<'_>,
    index: u32,
    offset: u32,
    stride: u32,
) -> ZwpLinuxBufferParamsV1 {
    let manager: ZwpLinuxDmabufV1 = client.bind(3, ()).unwrap();
    let params = manager.create_params(&client.qh, not_busy());
    params.add(fd, index, offset, stride, 0, 0);
    params
}

fn create(client: &Client, params: &ZwpLinuxBufferParamsV1, width: i32, height: i32) -> WlBuffer {
    params.create_immed(
        width,
        height,
        XRGB8888,
        Flags::empty(),
        &client.qh,
        not_busy(),
    )
}

#[test]
fn dmabufs_that_are_none_or_shorter_than_they_say() {
    machine::boot(Machine::default(), |guest| bad_dmabufs(Trial::new(guest)));
}

pub fn bad_dmabufs(mut trial: Trial<'_>) {
    const PARAMS: &str = "zwp_linux_buffer_params_v1";
    let real = || allocate(MemoryKind::Udmabuf, 65536).unwrap();
    let socket = || OwnedFd::from(UnixStream::pair().unwrap().0);
    let null = || OwnedFd::from(File::open("/dev/null").unwrap());
    let fakes: [(&str, OwnedFd); 4] = [
        ("a memfd", memory(65536)),
        ("a pipe", pipe().unwrap().0),
        ("a socket", socket()),
        ("/dev/null", null()),
    ];
    for (what, fd) in fakes {
        // Whoever draws in software can map a memfd as well; the others cannot be drawn at all.
        trial.of(what, AnyError(PARAMS), |client| {
            let buffer = create(client, &params(client, fd.as_fd(), 0, 0, 256), 64, 64);
            try_show(client, &buffer);
        });
    }
    for (what, offset, stride, width, height) in [
        ("an offset past the end", 65536, 256, 64, 64),
        ("an offset that overflows", u32::MAX - 3, 256, 64, 64),
        ("more lines than there are", 0, 256, 64, 1000),
        ("a stride below the width", 0, 64, 64, 64),
        ("a stride that overflows", 0, u32::MAX - 3, 64, 64),
        ("zero width", 0, 256, 0, 64),
        ("a negative height", 0, 256, 64, -64),
        ("a size that overflows", 0, 256, i32::MAX, i32::MAX),
    ] {
        trial.of(what, AnyError(PARAMS), |client| {
            let buffer = create(
                client,
                &params(client, real().as_fd(), 0, offset, stride),
                width,
                height,
            );
            try_show(client, &buffer);
        });
    }
    // Smithay takes it for the first plane.
    trial.of("plane 1 without plane 0", Fine, |client| {
        create(client, &params(client, real().as_fd(), 1, 0, 256), 64, 64);
    });
    trial.of("plane 4", Error(PARAMS, 1), |client| {
        create(client, &params(client, real().as_fd(), 4, 0, 256), 64, 64);
    });
    trial.of("a plane set twice", Error(PARAMS, 2), |client| {
        let params = params(client, real().as_fd(), 0, 0, 256);
        params.add(real().as_fd(), 0, 0, 256, 0, 0);
    });
    trial.of("parameters used twice", Error(PARAMS, 0), |client| {
        let params = params(client, real().as_fd(), 0, 0, 256);
        create(client, &params, 64, 64);
        create(client, &params, 64, 64);
    });
    trial.of("no plane at all", Error(PARAMS, 3), |client| {
        let manager: ZwpLinuxDmabufV1 = client.bind(3, ()).unwrap();
        let params = manager.create_params(&client.qh, not_busy());
        create(client, &params, 64, 64);
    });
    trial.of("a good one", Fine, |client| {
        let buffer = create(client, &params(client, real().as_fd(), 0, 0, 256), 64, 64);
        show(client, &buffer);
    });
    trial.of("a thousand refused ones", Fine, |client| {
        let fd = memory(65536);
        for _ in 0..1000 {
            let params = params(client, fd.as_fd(), 0, 0, 256);
            params.create(64, 64, XRGB8888, Flags::empty());
            params.destroy();
            client.roundtrip().unwrap();
        }
    });
    trial.finish();
}

/// A window that is on the screen.
fn shown(client: &mut Client) -> Window {
    Window::showing(client, &pattern_picture(5, 640, 480))
}

#[test]
fn surfaces_with_impossible_numbers() {
    machine::boot(Machine::default(), |guest| {
        let mut trial = Trial::new(guest);
        trial.of("damage at the limits", Fine, |client| {
            let mut window = shown(client);
            for (x, y, w, h) in [
                (i32::MIN, i32::MIN, i32::MAX, i32::MAX),
                (i32::MAX, i32::MAX, i32::MAX, i32::MAX),
                (0, 0, -5, -5),
                (i32::MIN, 0, i32::MIN, 1),
                (-1, -1, i32::MAX, i32::MAX),
                (5, 5, 0, 0),
            ] {
                window.surface.proxy.damage(x, y, w, h);
                window.surface.proxy.damage_buffer(x, y, w, h);
                let compositor: WlCompositor = client.bind(4, ()).unwrap();
                let region = compositor.create_region(&client.qh, ());
                region.add(x, y, w, h);
                region.subtract(y, x, h, w);
                window.surface.proxy.set_opaque_region(Some(&region));
                window.surface.proxy.set_input_region(Some(&region));
                window.surface.commit_and_wait_frame(client);
            }
        });
        for scale in [0, -1, i32::MIN] {
            trial.of(
                &format!("scale {scale}"),
                Error("wl_surface", 0),
                move |client| {
                    shown(client).surface.proxy.set_buffer_scale(scale);
                },
            );
        }
        trial.of("a huge scale", Fine, |client| {
            let window = shown(client);
            window.surface.proxy.set_buffer_scale(i32::MAX);
            window
                .surface
                .proxy
                .attach(Some(&window.surface.buffer().proxy), 0, 0);
            window.surface.proxy.commit();
        });
        trial.of(
            "a viewport outside of the buffer",
            Error("wp_viewport", 2),
            |client| {
                let window = shown(client);
                window::viewport(client, &window.surface.proxy)
                    .set_source(600.0, 0.0, 100.0, 100.0);
                window.surface.proxy.commit();
            },
        );
        for (x, w) in [(-2.0, 10.0), (0.0, 0.0), (0.0, -7.0)] {
            trial.of(
                &format!("a viewport from {x} for {w}"),
                Error("wp_viewport", 0),
                move |client| {
                    let window = shown(client);
                    window::viewport(client, &window.surface.proxy).set_source(x, 0.0, w, 10.0);
                },
            );
        }
        for (w, h) in [(0, 10), (-1, 10), (i32::MIN, i32::MIN)] {
            trial.of(
                &format!("a viewport of {w}x{h}"),
                Error("wp_viewport", 0),
                move |client| {
                    let window = shown(client);
                    window::viewport(client, &window.surface.proxy).set_destination(w, h);
                },
            );
        }
        trial.of("a part of a pixel without a size", Fine, |client| {
            let window = shown(client);
            window::viewport(client, &window.surface.proxy).set_source(0.0, 0.0, 10.5, 10.0);
            window.surface.proxy.commit();
        });
        trial.of("the largest viewport", Fine, |client| {
            let window = shown(client);
            window::viewport(client, &window.surface.proxy).set_destination(i32::MAX, i32::MAX);
            // Too large to be drawn, so no frame callback is due.
            window.surface.proxy.commit();
        });
        trial.of("a second viewport", AnyError("wl_surface"), |client| {
            let window = shown(client);
            window::viewport(client, &window.surface.proxy);
            window::viewport(client, &window.surface.proxy);
        });
        trial.of("an offset at the limits", Fine, |client| {
            let mut window = shown(client);
            window.surface.proxy.offset(i32::MAX, i32::MIN);
            window.surface.commit_and_wait_frame(client);
            window.surface.proxy.offset(i32::MAX, i32::MIN);
            window.surface.commit_and_wait_frame(client);
        });
        trial.of("ten thousand frame callbacks", Fine, |client| {
            let mut window = shown(client);
            let all: Vec<Arc<AtomicBool>> = (0..10_000).map(|_| not_busy()).collect();
            for done in &all {
                window.surface.proxy.frame(&client.qh, Arc::clone(done));
            }
            window.surface.commit_and_wait_frame(client);
            assert!(
                all.iter().all(|done| done.load(Ordering::Relaxed)),
                "a callback is missing"
            );
        });
        trial.of("a thousand commits without a buffer", Fine, |client| {
            let window = shown(client);
            for _ in 0..1000 {
                window.surface.proxy.commit();
            }
        });
        trial.finish();
    });
}

fn bare(client: &Client) -> WlSurface {
    window::surface(client).proxy
}

#[test]
fn subsurfaces_in_circles_and_far_down() {
    machine::boot(Machine::default(), |guest| {
        let mut trial = Trial::new(guest);
        trial.of(
            "a subsurface of itself",
            AnyError("wl_subcompositor"),
            |client| {
                let surface = bare(client);
                window::child(client, &surface, (0, 0));
                let subcompositor: WlSubcompositor = client.bind(1, ()).unwrap();
                subcompositor.get_subsurface(&surface, &surface, &client.qh, ());
            },
        );
        trial.of("a circle of two", AnyError("wl_subcompositor"), |client| {
            let subcompositor: WlSubcompositor = client.bind(1, ()).unwrap();
            let (a, b) = (bare(client), bare(client));
            subcompositor.get_subsurface(&a, &b, &client.qh, ());
            subcompositor.get_subsurface(&b, &a, &client.qh, ());
        });
        for above in [true, false] {
            trial.of(
                "a place beside a stranger",
                Error("wl_subsurface", 0),
                move |client| {
                    let window = shown(client);
                    let child = window::child(client, &window.surface.proxy, (0, 0));
                    let stranger = bare(client);
                    if above {
                        child.role.place_above(&stranger);
                    } else {
                        child.role.place_below(&stranger);
                    }
                    window.surface.proxy.commit();
                },
            );
        }
        trial.of("a subsurface at the limits", Fine, |client| {
            let mut window = shown(client);
            for (x, y) in [(i32::MIN, i32::MAX), (i32::MAX, i32::MIN)] {
                let mut child = window::child(client, &window.surface.proxy, (x, y));
                child.surface.attach(client, &Picture::filled(8, 8, 0xff));
                child.surface.proxy.commit();
            }
            window.surface.commit_and_wait_frame(client);
        });
        trial.of("a chain of 200 subsurfaces", Fine, |client| {
            let mut window = shown(client);
            let mut parent = window.surface.proxy.clone();
            for _ in 0..200 {
                let mut child = window::child(client, &parent, (1, 1));
                child.role.set_desync();
                child.surface.attach(client, &Picture::filled(8, 8, 0xff00));
                child.surface.proxy.commit();
                parent = child.surface.proxy.clone();
                // The memory may go; the surface stays.
            }
            window.surface.commit_and_wait_frame(client);
        });
        trial.finish();
    });
}

#[test]
fn shell_requests_out_of_order() {
    machine::boot(Machine::default(), |guest| {
        let mut trial = Trial::new(guest);
        trial.of(
            "a buffer before the first configure",
            AnyError("xdg_surface"),
            |client| {
                let mut window = Window::new(client);
                window
                    .surface
                    .attach(client, &Picture::filled(64, 64, 0xff));
                window.surface.proxy.commit();
                client.roundtrip().ok();
            },
        );
        trial.of("an unknown serial", AnyError("xdg_wm_base"), |client| {
            let mut window = Window::new(client);
            window.configure(client);
            window.xdg.ack_configure(0xdead_beef);
        });
        for (w, h) in [(0, 10), (10, -1), (i32::MIN, i32::MIN)] {
            trial.of(
                &format!("a geometry of {w}x{h}"),
                AnyError("xdg_surface"),
                move |client| {
                    let window = shown(client);
                    window.xdg.set_window_geometry(0, 0, w, h);
                    window.surface.proxy.commit();
                },
            );
        }
        trial.of("a geometry at the limits", Fine, |client| {
            let mut window = shown(client);
            for (x, y) in [(i32::MIN, i32::MIN), (i32::MAX, i32::MAX)] {
                window.xdg.set_window_geometry(x, y, i32::MAX, i32::MAX);
                window.surface.commit_and_wait_frame(client);
            }
        });
        for (min, max) in [((-1, 0), (0, 0)), ((0, 0), (0, i32::MIN))] {
            trial.of(
                &format!("sizes {min:?} to {max:?}"),
                AnyError("xdg_toplevel"),
                move |client| {
                    let window = shown(client);
                    window.toplevel.set_min_size(min.0, min.1);
                    window.toplevel.set_max_size(max.0, max.1);
                    window.surface.proxy.commit();
                },
            );
        }
        trial.of(
            "the shell destroyed before its surfaces",
            Error("xdg_wm_base", 1),
            |client| {
                shown(client).wm_base.destroy();
            },
        );
        trial.of(
            "the xdg_surface destroyed before its role",
            AnyError("xdg_wm_base"),
            |client| {
                shown(client).xdg.destroy();
            },
        );
        trial.of("a second role", Fine, |client| {
            let window = Window::new(client);
            window
                .xdg
                .get_toplevel(&client.qh, Arc::clone(&window.surface.shell));
        });
        trial.of(
            "a window that is its own parent",
            AnyError("xdg_toplevel"),
            |client| {
                let window = shown(client);
                window.toplevel.set_parent(Some(&window.toplevel));
                window.surface.proxy.commit();
            },
        );
        trial.of(
            "two windows that are each other's parents",
            AnyError("xdg_toplevel"),
            |client| {
                let (a, b) = (shown(client), shown(client));
                a.toplevel.set_parent(Some(&b.toplevel));
                b.toplevel.set_parent(Some(&a.toplevel));
                a.surface.proxy.commit();
                b.surface.proxy.commit();
            },
        );
        for (w, h) in [(0, 10), (10, 0), (-1, -1)] {
            trial.of(
                &format!("a positioner of {w}x{h}"),
                Error("xdg_positioner", 0),
                move |client| {
                    let window = shown(client);
                    window
                        .wm_base
                        .create_positioner(&client.qh, ())
                        .set_size(w, h);
                },
            );
        }
        trial.of("a popup without a size", Fine, |client| {
            let window = shown(client);
            let positioner = window.wm_base.create_positioner(&client.qh, ());
            let surface = window::surface(client);
            let xdg = window.wm_base.get_xdg_surface(
                &surface.proxy,
                &client.qh,
                Arc::clone(&surface.shell),
            );
            xdg.get_popup(Some(&window.xdg), &positioner, &client.qh, Arc::default());
        });
        trial.of(
            "a popup far away that moves a thousand times",
            Fine,
            |client| {
                let window = shown(client);
                let mut popup =
                    Popup::new(client, &window, (i32::MAX - 10, i32::MAX - 10), (10, 10));
                popup.configure(client);
                popup.surface.attach(client, &Picture::filled(10, 10, 0xff));
                popup.surface.proxy.commit();
                let positioner = window.wm_base.create_positioner(&client.qh, ());
                positioner.set_size(10, 10);
                positioner.set_anchor_rect(0, 0, 1, 1);
                for token in 0..1000 {
                    positioner.set_offset(i32::MAX - token as i32, i32::MIN + token as i32);
                    popup.proxy.reposition(&positioner, token);
                }
            },
        );
        trial.of("a popup whose parent goes first", Fine, |client| {
            let window = shown(client);
            let mut popup = Popup::new(client, &window, (10, 10), (10, 10));
            popup.configure(client);
            window.surface.proxy.attach(None, 0, 0);
            window.surface.proxy.commit();
            popup.surface.attach(client, &Picture::filled(10, 10, 0xff));
            popup.surface.proxy.commit();
        });
        trial.of("requests on a window that has no buffer", Fine, |client| {
            let window = Window::new(client);
            window.toplevel.set_fullscreen(None);
            window.toplevel.set_maximized();
            window.toplevel.set_minimized();
            window.toplevel.unset_fullscreen();
            window.toplevel.set_title("x".repeat(4000));
        });
        trial.finish();
    });
}

/// Another connection, without a library.
fn wire() -> UnixStream {
    let folder = std::env::var("XDG_RUNTIME_DIR").unwrap();
    UnixStream::connect(format!("{folder}/wayland-test")).unwrap()
}

/// wl_display's request with this opcode and new id.
fn request(opcode: u32, id: u32) -> Vec<u8> {
    [1_u32, 12 << 16 | opcode, id]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect()
}

#[test]
fn bytes_that_are_no_messages() {
    machine::boot(Machine::default(), |guest| {
        let mut trial = Trial::new(guest);
        // Half a message, and silence.
        let mut half = wire();
        half.write_all(&request(0, 2)[..7]).unwrap();
        trial.go_on("half a message");
        for garbage in [
            vec![0xff_u8; 4096],
            vec![0_u8; 4096],
            request(77, 2),
            [1_u32, 4 << 16, 2]
                .iter()
                .flat_map(|word| word.to_ne_bytes())
                .collect(),
            [99_u32, 12 << 16, 2]
                .iter()
                .flat_map(|word| word.to_ne_bytes())
                .collect(),
        ] {
            let mut stream = wire();
            let _ = stream.write_all(&garbage);
            trial.go_on("garbage");
            // It hears an error or the end, whichever way: never silence.
            stream.set_read_timeout(Some(SECOND * 10)).unwrap();
            let mut heard = [0; 4096];
            match stream.read(&mut heard) {
                Ok(length) => assert!(length <= heard.len()),
                Err(error) => assert_eq!(
                    error.kind(),
                    std::io::ErrorKind::ConnectionReset,
                    "{:02x?}",
                    &garbage[..12]
                ),
            }
        }
        // Ten thousand registries and syncs of somebody who never reads.
        let mut deaf = wire();
        deaf.set_write_timeout(Some(SECOND * 5)).unwrap();
        for id in 0..10_000 {
            if deaf
                .write_all(&request(1, 2 + 2 * id))
                .and_then(|()| deaf.write_all(&request(0, 3 + 2 * id)))
                .is_err()
            {
                break; // disconnected for it
            }
        }
        trial.go_on("ten thousand registries");
        drop(deaf);
        trial.of(
            "ten thousand registries of a client that listens",
            Fine,
            |client| {
                for _ in 0..10 {
                    for _ in 0..100 {
                        client.conn.display().get_registry(&client.qh, ());
                    }
                    client.roundtrip().unwrap();
                    client.state.globals.clear();
                }
            },
        );
        trial.go_on("half a message for a while");
        drop(half);
        trial.finish();
    });
}

#[test]
fn a_flood_of_file_descriptors_and_connections() {
    machine::boot(Machine::default(), |guest| {
        let mut trial = Trial::new(guest);
        trial.of("six hundred descriptors", Fine, |client| {
            let manager: ZwpLinuxDmabufV1 = client.bind(3, ()).unwrap();
            let fd = memory(4096);
            for _ in 0..600 / 4 {
                let params = manager.create_params(&client.qh, not_busy());
                for plane in 0..4 {
                    params.add(fd.as_fd(), plane, 0, 256, 0, 0);
                }
                client.roundtrip().unwrap();
            }
        });
        let crowd: Vec<UnixStream> = (0..300).map(|_| wire()).collect();
        trial.go_on("three hundred connections");
        drop(crowd);
        trial.go_on("three hundred ends");
        trial.finish();
    });
}
