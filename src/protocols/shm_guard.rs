//! wl_shm as Smithay 0.7.0 has it, without the two requests by which a client can end the compositor.
//!
//! Smithay 0.7.0 answers `wl_shm_pool.resize` of a size below 1 with a protocol error and then goes on: it unwraps
//! `NonZeroUsize` of 0 (a panic of the compositor), or unmaps the pool for a size of 16 exabytes. The guard stops after
//! the error.
//!
//! And without the files that can stop it: reading memory that is mapped from FUSE or a network file system waits for
//! somebody else's answer, which a hostile client need never give. The event loop reads pools, so such a pool would stop
//! the display. Memory that clients really use (memfd, tmpfs, a local disk) cannot do that.
//!
//! Everything else goes to [`ShmState`] unchanged.

use smithay::wayland::{
    buffer::BufferHandler,
    shm::{ShmBufferUserData, ShmHandler, ShmPoolUserData, ShmState},
};
use wayland_server::{
    protocol::{
        wl_buffer::WlBuffer,
        wl_shm,
        wl_shm_pool::{Request, WlShmPool},
    },
    Client, DataInit, Dispatch, DisplayHandle, Resource,
};

/// Takes the place of [`ShmState`] for `wl_shm_pool`; see [`crate::delegate_guarded_shm!`].
#[derive(Debug)]
pub struct GuardedShm;

impl<D> Dispatch<WlShmPool, ShmPoolUserData, D> for GuardedShm
where
    D: Dispatch<WlShmPool, ShmPoolUserData>
        + Dispatch<WlBuffer, ShmBufferUserData>
        + BufferHandler
        + ShmHandler
        + 'static,
{
    fn request(
        state: &mut D,
        client: &Client,
        pool: &WlShmPool,
        request: Request,
        data: &ShmPoolUserData,
        display: &DisplayHandle,
        data_init: &mut DataInit<'_, D>,
    ) {
        if let Request::Resize { size } = &request {
            if *size <= 0 {
                pool.post_error(
                    wl_shm::Error::InvalidFd,
                    format!("a pool cannot have {size} bytes"),
                );
                return;
            }
        }
        <ShmState as Dispatch<WlShmPool, ShmPoolUserData, D>>::request(
            state, client, pool, request, data, display, data_init,
        );
    }
}

impl<D> Dispatch<wl_shm::WlShm, (), D> for GuardedShm
where
    D: Dispatch<wl_shm::WlShm, ()>
        + Dispatch<WlShmPool, ShmPoolUserData>
        + Dispatch<WlBuffer, ShmBufferUserData>
        + BufferHandler
        + ShmHandler
        + 'static,
{
    fn request(
        state: &mut D,
        client: &Client,
        shm: &wl_shm::WlShm,
        request: wl_shm::Request,
        data: &(),
        display: &DisplayHandle,
        data_init: &mut DataInit<'_, D>,
    ) {
        if let wl_shm::Request::CreatePool { fd, .. } = &request {
            // A descriptor without a file system (a socket, a pipe) fails in Smithay's mmap.
            if rustix::fs::fstatfs(fd).is_ok_and(|fs| waits_for_somebody(fs.f_type as u64)) {
                shm.post_error(
                    wl_shm::Error::InvalidFd,
                    "a pool must be memory or a local file, not a file of FUSE or a network",
                );
                return;
            }
        }
        <ShmState as Dispatch<wl_shm::WlShm, (), D>>::request(
            state, client, shm, request, data, display, data_init,
        );
    }
}

/// Whether reading a file of this file system (statfs `f_type`, linux/magic.h) can wait for another process or machine.
fn waits_for_somebody(magic: u64) -> bool {
    const FUSE: u64 = 0x6573_5546;
    const NFS: u64 = 0x6969;
    const SMB: u64 = 0x517b;
    const SMB2: u64 = 0xfe53_4d42;
    const CIFS: u64 = 0xff53_4d42;
    const V9FS: u64 = 0x0102_1997;
    const CEPH: u64 = 0x00c3_6400;
    const AFS: u64 = 0x5346_414f;
    const CODA: u64 = 0x7375_7245;
    [FUSE, NFS, SMB, SMB2, CIFS, V9FS, CEPH, AFS, CODA].contains(&(magic & 0xffff_ffff))
}

/// Like Smithay's `delegate_shm!`, with the pool requests going through
/// [`GuardedShm`](crate::protocols::GuardedShm).
#[macro_export]
macro_rules! delegate_guarded_shm {
    ($ty:ty) => {
        ::wayland_server::delegate_global_dispatch!($ty: [
            ::wayland_server::protocol::wl_shm::WlShm: ()
        ] => ::smithay::wayland::shm::ShmState);
        ::wayland_server::delegate_dispatch!($ty: [
            ::wayland_server::protocol::wl_shm::WlShm: ()
        ] => $crate::protocols::GuardedShm);
        ::wayland_server::delegate_dispatch!($ty: [
            ::wayland_server::protocol::wl_shm_pool::WlShmPool: ::smithay::wayland::shm::ShmPoolUserData
        ] => $crate::protocols::GuardedShm);
        ::wayland_server::delegate_dispatch!($ty: [
            ::wayland_server::protocol::wl_buffer::WlBuffer: ::smithay::wayland::shm::ShmBufferUserData
        ] => ::smithay::wayland::shm::ShmState);
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_a_pool_and_a_fuse_file_is_not() {
        const TMPFS: u64 = 0x0102_1994;
        const EXT4: u64 = 0xef53;
        assert!(!waits_for_somebody(TMPFS) && !waits_for_somebody(EXT4));
        assert!(waits_for_somebody(0x6573_5546));
        // f_type is signed on some architectures.
        assert!(waits_for_somebody(i64::from(0xff53_4d42_u32 as i32) as u64));
    }
}
