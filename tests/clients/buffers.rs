//! Memory that a client shares with the compositor: memfd behind wl_shm, or a real dma-buf made
//! without a GPU (udmabuf, dma-heap) behind linux-dmabuf.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr::NonNull,
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
};

use rustix::{
    fs::{fcntl_add_seals, ftruncate, memfd_create, MemfdFlags, SealFlags},
    ioctl::{ioctl, opcode, Ioctl, IoctlOutput, Opcode},
    mm::{mmap, munmap, MapFlags, ProtFlags},
};
use wayland_client::{
    protocol::{wl_buffer, wl_shm, wl_shm_pool},
    Connection, Dispatch, QueueHandle,
};
use wayland_protocols::wp::linux_dmabuf::zv1::client::{
    zwp_linux_buffer_params_v1 as params, zwp_linux_dmabuf_v1 as dmabuf,
};

use super::connect::{Client, ClientError, State};

/// DRM_FORMAT_XRGB8888.
pub const XRGB8888: u32 = 0x3432_5258;
/// DRM_FORMAT_ARGB8888.
pub const ARGB8888: u32 = 0x3432_5241;
/// DRM_FORMAT_MOD_LINEAR.
pub const LINEAR: u64 = 0;

/// Where a buffer's memory comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MemoryKind {
    /// memfd and wl_shm.
    #[default]
    Shm,
    /// A memfd turned into a dma-buf by /dev/udmabuf.
    Udmabuf,
    /// A dma-buf of /dev/dma_heap/system.
    Heap,
}

/// A wl_buffer of 32-bit pixels with its memory mapped. Dropping it destroys the wl_buffer.
#[derive(Debug)]
pub struct Buffer {
    /// The object.
    pub proxy: wl_buffer::WlBuffer,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Bytes from line to line.
    pub stride: u32,
    /// Set when the buffer is given to the compositor, cleared by `release`.
    pub busy: Arc<AtomicBool>,
    memory: Mapping,
}

impl Buffer {
    /// Makes a buffer of this DRM format, with lines that follow each other without padding.
    pub fn new(
        client: &mut Client,
        kind: MemoryKind,
        width: u32,
        height: u32,
        fourcc: u32,
    ) -> Result<Self, ClientError> {
        Self::with_stride(client, kind, width, height, width * 4, fourcc)
    }

    /// As [`Self::new`], with a stride of one's own; it may be nonsense, to see what happens.
    pub fn with_stride(
        client: &mut Client,
        kind: MemoryKind,
        width: u32,
        height: u32,
        stride: u32,
        fourcc: u32,
    ) -> Result<Self, ClientError> {
        Self::prepared(client, kind, (width, height, stride), fourcc, |_| {})
    }

    /// The same, with something done to the memory before the compositor hears of it.
    pub fn prepared(
        client: &mut Client,
        kind: MemoryKind,
        (width, height, stride): (u32, u32, u32),
        fourcc: u32,
        prepare: impl FnOnce(&mut Mapping),
    ) -> Result<Self, ClientError> {
        let length = (stride.max(width * 4) as usize * height as usize).next_multiple_of(4096);
        let fd = allocate(kind, length)
            .map_err(|error| ClientError::System(format!("allocating from {kind:?}"), error))?;
        let mut memory = Mapping::new(fd.as_fd(), length, true)
            .map_err(|error| ClientError::System(format!("mapping {kind:?}"), error))?;
        prepare(&mut memory);
        let busy = Arc::new(AtomicBool::new(false));
        let proxy = match kind {
            MemoryKind::Shm => {
                let shm: wl_shm::WlShm = client.bind(1, ())?;
                let pool = shm.create_pool(fd.as_fd(), length as i32, &client.qh, ());
                let format = shm_format(fourcc);
                let proxy = pool.create_buffer(
                    0,
                    width as i32,
                    height as i32,
                    stride as i32,
                    format,
                    &client.qh,
                    Arc::clone(&busy),
                );
                pool.destroy();
                proxy
            }
            MemoryKind::Udmabuf | MemoryKind::Heap => import(
                client,
                fd.as_fd(),
                (width, height, stride, fourcc),
                Arc::clone(&busy),
            )?,
        };
        Ok(Self {
            proxy,
            width,
            height,
            stride,
            busy,
            memory,
        })
    }

    /// Writes with the memory's caches in order.
    pub fn write<T>(&mut self, f: impl FnOnce(&mut [u8]) -> T) -> T {
        self.memory.write(f)
    }

    /// Reads with the memory's caches in order.
    pub fn read<T>(&self, f: impl FnOnce(&[u8]) -> T) -> T {
        self.memory.read(f)
    }

    /// The descriptor of its memory.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.memory.fd()
    }

    /// The compositor still reads it.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.proxy.destroy();
    }
}

fn shm_format(fourcc: u32) -> wl_shm::Format {
    match fourcc {
        ARGB8888 => wl_shm::Format::Argb8888,
        XRGB8888 => wl_shm::Format::Xrgb8888,
        other => wl_shm::Format::try_from(other).expect("a format that wl_shm knows"),
    }
}

/// How wl_shm counts a DRM format.
pub fn shm_code(fourcc: u32) -> u32 {
    match fourcc {
        ARGB8888 => 0,
        XRGB8888 => 1,
        other => other,
    }
}

fn import(
    client: &mut Client,
    fd: BorrowedFd<'_>,
    (width, height, stride, fourcc): (u32, u32, u32, u32),
    busy: Arc<AtomicBool>,
) -> Result<wl_buffer::WlBuffer, ClientError> {
    let manager: dmabuf::ZwpLinuxDmabufV1 = client.bind(4, ())?;
    let failed = Arc::new(AtomicBool::new(false));
    let params = manager.create_params(&client.qh, Arc::clone(&failed));
    params.add(fd, 0, 0, stride, (LINEAR >> 32) as u32, LINEAR as u32);
    let buffer = params.create_immed(
        width as i32,
        height as i32,
        fourcc,
        params::Flags::empty(),
        &client.qh,
        busy,
    );
    client.roundtrip()?;
    params.destroy();
    manager.destroy();
    if failed.load(Ordering::Relaxed) {
        return Err(ClientError::Missing(
            "import of this dma-buf (params.failed)".into(),
        ));
    }
    Ok(buffer)
}

/// Memory of this many bytes, a multiple of the page size.
pub fn allocate(kind: MemoryKind, length: usize) -> io::Result<OwnedFd> {
    match kind {
        MemoryKind::Shm => memfd(length),
        MemoryKind::Udmabuf => {
            let memfd = memfd(length)?;
            let device = open("/dev/udmabuf")?;
            let request = UdmabufCreate {
                memfd: std::os::fd::AsRawFd::as_raw_fd(&memfd) as u32,
                flags: 1, // close on exec
                offset: 0,
                size: length as u64,
            };
            // SAFETY: UDMABUF_CREATE reads this very structure and returns a new descriptor.
            Ok(unsafe { ioctl(&device, request) }?)
        }
        MemoryKind::Heap => {
            let device = open("/dev/dma_heap/system")?;
            let request = HeapAllocation {
                len: length as u64,
                fd: 0,
                fd_flags: 0o2_000_002, // O_CLOEXEC | O_RDWR
                heap_flags: 0,
            };
            // SAFETY: DMA_HEAP_IOCTL_ALLOC reads and fills this very structure.
            Ok(unsafe { ioctl(&device, request) }?)
        }
    }
}

fn open(path: &str) -> io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
}

fn memfd(length: usize) -> io::Result<OwnedFd> {
    let fd = memfd_create(
        "vitrine-client",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )?;
    ftruncate(&fd, length as u64)?;
    fcntl_add_seals(&fd, SealFlags::SHRINK)?; // udmabuf insists on it
    Ok(fd)
}

/// A mapping of a descriptor; dma-bufs are synchronised around each access.
#[derive(Debug)]
pub struct Mapping {
    address: NonNull<u8>,
    length: usize,
    fd: OwnedFd,
    is_dmabuf: bool,
}

// SAFETY: the mapping belongs to this value alone and its address is valid in every thread.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `length` bytes from the start.
    pub fn new(fd: BorrowedFd<'_>, length: usize, writable: bool) -> io::Result<Self> {
        let prot = if writable {
            ProtFlags::READ | ProtFlags::WRITE
        } else {
            ProtFlags::READ
        };
        // SAFETY: a new mapping at an address that the kernel chooses; unmapped in `drop`.
        let address = unsafe { mmap(std::ptr::null_mut(), length, prot, MapFlags::SHARED, fd, 0) }?;
        let address = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let fd = fd.try_clone_to_owned()?;
        let is_dmabuf =
            sync(fd.as_fd(), SYNC_READ).is_ok() && sync(fd.as_fd(), SYNC_READ | SYNC_END).is_ok();
        Ok(Self {
            address,
            length,
            fd,
            is_dmabuf,
        })
    }

    /// Reads between the two halves of DMA_BUF_IOCTL_SYNC.
    pub fn read<T>(&self, f: impl FnOnce(&[u8]) -> T) -> T {
        self.bracket(SYNC_READ, || {
            // SAFETY: mapped for `length` bytes as long as `self` lives. The other side may write
            // meanwhile, which is what the tests are there to find out.
            f(unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.length) })
        })
    }

    /// Writes, in the same way.
    pub fn write<T>(&mut self, f: impl FnOnce(&mut [u8]) -> T) -> T {
        let address = self.address.as_ptr();
        self.bracket(SYNC_WRITE, || {
            // SAFETY: as in `read`; `Buffer` maps writable, and `&mut self` makes it the only view.
            f(unsafe { std::slice::from_raw_parts_mut(address, self.length) })
        })
    }

    /// What is mapped.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn bracket<T>(&self, direction: u64, f: impl FnOnce() -> T) -> T {
        if self.is_dmabuf {
            sync(self.fd.as_fd(), direction).expect("DMA_BUF_IOCTL_SYNC start");
        }
        let value = f();
        if self.is_dmabuf {
            sync(self.fd.as_fd(), direction | SYNC_END).expect("DMA_BUF_IOCTL_SYNC end");
        }
        value
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this address and length; no reference outlives `self`.
        let _ = unsafe { munmap(self.address.as_ptr().cast(), self.length) };
    }
}

const SYNC_READ: u64 = 1;
const SYNC_WRITE: u64 = 2;
const SYNC_END: u64 = 4;

fn sync(fd: BorrowedFd<'_>, flags: u64) -> io::Result<()> {
    const SYNC: Opcode = opcode::write::<u64>(b'b', 0);
    // SAFETY: DMA_BUF_IOCTL_SYNC reads a structure of one 64-bit word.
    Ok(unsafe { ioctl(fd, rustix::ioctl::Setter::<SYNC, u64>::new(flags)) }?)
}

/// struct udmabuf_create of the kernel's interface.
#[repr(C)]
struct UdmabufCreate {
    memfd: u32,
    flags: u32,
    offset: u64,
    size: u64,
}

// SAFETY: opcode and structure are those of linux/udmabuf.h; the result is a new descriptor.
unsafe impl Ioctl for UdmabufCreate {
    type Output = OwnedFd;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        opcode::write::<Self>(b'u', 0x42)
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        std::ptr::from_mut(self).cast()
    }

    unsafe fn output_from_ptr(
        out: IoctlOutput,
        _: *mut std::ffi::c_void,
    ) -> rustix::io::Result<OwnedFd> {
        // SAFETY: the kernel returned a descriptor that nobody else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(out) })
    }
}

/// struct dma_heap_allocation_data of the kernel's interface.
#[repr(C)]
struct HeapAllocation {
    len: u64,
    fd: u32,
    fd_flags: u32,
    heap_flags: u64,
}

// SAFETY: opcode and structure are those of linux/dma-heap.h; `fd` is a new descriptor.
unsafe impl Ioctl for HeapAllocation {
    type Output = OwnedFd;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::read_write::<Self>(b'H', 0)
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        std::ptr::from_mut(self).cast()
    }

    unsafe fn output_from_ptr(
        _: IoctlOutput,
        data: *mut std::ffi::c_void,
    ) -> rustix::io::Result<OwnedFd> {
        // SAFETY: `data` is the pointer that `as_ptr` gave; the kernel put its descriptor there.
        Ok(unsafe { OwnedFd::from_raw_fd((*data.cast::<Self>()).fd as i32) })
    }
}

impl Dispatch<wl_buffer::WlBuffer, Arc<AtomicBool>> for State {
    fn event(
        _: &mut Self,
        _: &wl_buffer::WlBuffer,
        event: wl_buffer::Event,
        busy: &Arc<AtomicBool>,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let wl_buffer::Event::Release = event {
            busy.store(false, Ordering::Relaxed);
        }
    }
}

impl Dispatch<params::ZwpLinuxBufferParamsV1, Arc<AtomicBool>> for State {
    fn event(
        _: &mut Self,
        _: &params::ZwpLinuxBufferParamsV1,
        event: params::Event,
        failed: &Arc<AtomicBool>,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let params::Event::Failed = event {
            failed.store(true, Ordering::Relaxed);
        }
    }
}

impl Dispatch<dmabuf::ZwpLinuxDmabufV1, ()> for State {
    fn event(
        state: &mut Self,
        _: &dmabuf::ZwpLinuxDmabufV1,
        event: dmabuf::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let dmabuf::Event::Modifier {
            format,
            modifier_hi,
            modifier_lo,
        } = event
        {
            let modifier = (u64::from(modifier_hi) << 32) | u64::from(modifier_lo);
            state.dmabuf_formats.push((format, modifier));
        }
    }
}

wayland_client::delegate_noop!(State: ignore wl_shm_pool::WlShmPool);
