//! Clients that send nonsense: they get the protocol's error or what they asked for, and everybody else goes on. After each
//! of them a well-behaved client must still bring a picture to the screen.

mod shell;
mod surfaces;
mod wire;

use std::{
    fs::File,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{atomic::AtomicBool, Arc},
};

use rustix::{
    fs::{ftruncate, memfd_create, MemfdFlags},
    pipe::pipe,
};
use wayland_client::protocol::{wl_buffer::WlBuffer, wl_shm};
use wayland_protocols::wp::linux_dmabuf::zv1::client::{
    zwp_linux_buffer_params_v1::{Flags, ZwpLinuxBufferParamsV1},
    zwp_linux_dmabuf_v1::ZwpLinuxDmabufV1,
};

use crate::{
    clients::{
        buffers::{allocate, XRGB8888},
        picture::pattern_picture,
        Client, ClientError, MemoryKind, Painter,
    },
    machine::{self, Machine, SECOND},
    screen,
    stage::{Setup, Stage},
    window::Window,
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
                    .wait_for::<()>("the end", SECOND * 20, |_| None)
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
