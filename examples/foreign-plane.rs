//! Somebody else's pictures: asks Vitrine's `lease_socket` for a DRM lease and shows numbered pictures on the first leased
//! plane, at its own pace. Knows nothing of Wayland, as the other virtual machine of a real system would not.
//!
//! Picture `n` is one colour, the number `n` in the blue and green byte and 0x77 in the red one.

use std::{
    fs::File,
    io::{self, IoSliceMut, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Parser;
use drm::{
    control::{
        atomic::AtomicModeReq, crtc, dumbbuffer::DumbBuffer, framebuffer, plane, property,
        AtomicCommitFlags, Device as ControlDevice, Event,
    },
    ClientCapability, Device,
};
use rustix::{
    io::Errno,
    net::{recvmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags},
};

/// Shows numbered pictures on a leased plane.
#[derive(Parser)]
struct Arguments {
    /// Name of the socket in $XDG_RUNTIME_DIR
    #[arg(long, default_value = "vitrine-lease")]
    socket: String,
    /// Number of pictures
    #[arg(long, default_value_t = 10)]
    pictures: u32,
    /// Milliseconds from one to the next; 0: as fast as the CRTC takes them
    #[arg(long, default_value_t = 200)]
    interval: u64,
    /// Show picture N not before there is a file of this name with N at its end
    #[arg(long)]
    when: Option<PathBuf>,
    /// Side of the square, in pixels
    #[arg(long, default_value_t = 64)]
    size: u32,
    /// Left edge
    #[arg(long, default_value_t = 0)]
    x: u32,
    /// Top edge
    #[arg(long, default_value_t = 0)]
    y: u32,
    /// Leave the last picture on the plane and wait to be killed
    #[arg(long)]
    stay: bool,
    /// Write a line for each picture: its number, the time of its flip in nanoseconds, refused commits before it
    #[arg(long)]
    out: PathBuf,
}

struct Lease(File);

impl AsFd for Lease {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
impl Device for Lease {}
impl ControlDevice for Lease {}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let (lease, line) = ask(&arguments.socket)?;
    println!("leased {}", line.trim_end());
    let lease = Lease(File::from(lease));
    lease.set_client_capability(ClientCapability::UniversalPlanes, true)?;
    lease.set_client_capability(ClientCapability::Atomic, true)?;
    let resources = lease.resource_handles()?;
    let planes = lease.plane_handles()?;
    println!(
        "the lease shows {} CRTCs, {} planes, {} connectors",
        resources.crtcs().len(),
        planes.len(),
        resources.connectors().len(),
    );
    let crtc = *resources.crtcs().first().context("no CRTC is leased")?;
    let plane = *planes.first().context("no plane is leased")?;
    let mut screen = Screen::new(&lease, plane, crtc, &arguments)?;
    let mut out = File::create(&arguments.out)?;
    for n in 1..=arguments.pictures {
        if let Some(when) = &arguments.when {
            let file = PathBuf::from(format!("{}{n}", when.display()));
            while !file.exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let (time, refused) = screen.show(n)?;
        writeln!(out, "{n} {} {refused}", time.as_nanos())?;
        std::thread::sleep(Duration::from_millis(arguments.interval));
    }
    println!("all shown");
    if arguments.stay {
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    }
    Ok(())
}

/// Gets the lease and the line that says what it holds.
fn ask(socket: &str) -> Result<(OwnedFd, String)> {
    let directory = std::env::var_os("XDG_RUNTIME_DIR").context("XDG_RUNTIME_DIR is not set")?;
    let path = PathBuf::from(directory).join(socket);
    let stream = UnixStream::connect(&path).with_context(|| path.display().to_string())?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut text = [0; 512];
    let got = recvmsg(
        &stream,
        &mut [IoSliceMut::new(&mut text)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let line = String::from_utf8_lossy(text.get(..got.bytes).unwrap_or_default()).into_owned();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message {
            if let Some(fd) = fds.next() {
                return Ok((fd, line));
            }
        }
    }
    anyhow::bail!("no lease: {line}")
}

struct Screen<'a> {
    lease: &'a Lease,
    plane: plane::Handle,
    crtc: crtc::Handle,
    buffers: Vec<(DumbBuffer, framebuffer::Handle)>,
    properties: Vec<(String, property::Handle)>,
    at: (u32, u32),
    size: u32,
}

impl<'a> Screen<'a> {
    fn new(
        lease: &'a Lease,
        plane: plane::Handle,
        crtc: crtc::Handle,
        arguments: &Arguments,
    ) -> Result<Self> {
        let size = arguments.size;
        let mut buffers = Vec::new();
        for _ in 0..3 {
            let buffer =
                lease.create_dumb_buffer((size, size), drm_fourcc::DrmFourcc::Xrgb8888, 32)?;
            let framebuffer = lease.add_framebuffer(&buffer, 24, 32)?;
            buffers.push((buffer, framebuffer));
        }
        let mut properties = Vec::new();
        for (id, _) in lease.get_properties(plane)? {
            let name = lease
                .get_property(id)?
                .name()
                .to_string_lossy()
                .into_owned();
            properties.push((name, id));
        }
        Ok(Self {
            lease,
            plane,
            crtc,
            buffers,
            properties,
            at: (arguments.x, arguments.y),
            size,
        })
    }

    /// Shows picture `n`; gives the time of its flip and how often the kernel sent us to wait for our turn.
    fn show(&mut self, n: u32) -> Result<(Duration, u32)> {
        let index = n as usize % self.buffers.len();
        let Some((buffer, framebuffer)) = self.buffers.get_mut(index) else {
            anyhow::bail!("no buffer {index}");
        };
        let colour = (0xff77_0000 | (n & 0xffff)).to_le_bytes();
        for pixel in self.lease.map_dumb_buffer(buffer)?.chunks_exact_mut(4) {
            pixel.copy_from_slice(&colour);
        }
        let (side, (x, y)) = (u64::from(self.size), self.at);
        let values = [
            ("FB_ID", u64::from(u32::from(*framebuffer))),
            ("CRTC_ID", u64::from(u32::from(self.crtc))),
            ("SRC_X", 0),
            ("SRC_Y", 0),
            ("SRC_W", side << 16),
            ("SRC_H", side << 16),
            ("CRTC_X", u64::from(x)),
            ("CRTC_Y", u64::from(y)),
            ("CRTC_W", side),
            ("CRTC_H", side),
        ];
        let mut request = AtomicModeReq::new();
        for (name, value) in values {
            let found = self.properties.iter().find(|(known, _)| known == name);
            let (_, id) = found.with_context(|| format!("the plane has no {name}"))?;
            request.add_raw_property(self.plane.into(), *id, value);
        }
        let mut refused = 0;
        loop {
            let flags = AtomicCommitFlags::NONBLOCK | AtomicCommitFlags::PAGE_FLIP_EVENT;
            match self.lease.atomic_commit(flags, request.clone()) {
                Ok(()) => break,
                Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => {
                    refused += 1;
                    std::thread::sleep(Duration::from_micros(500));
                }
                Err(error) => return Err(error.into()),
            }
        }
        loop {
            for event in receive(self.lease)? {
                if let Event::PageFlip(flip) = event {
                    return Ok((flip.duration, refused));
                }
            }
        }
    }
}

/// The lease's descriptor does not block.
fn receive(lease: &Lease) -> io::Result<drm::control::Events> {
    use rustix::event::{poll, PollFd, PollFlags};
    poll(&mut [PollFd::new(lease, PollFlags::IN)], None)?;
    lease.receive_events()
}
