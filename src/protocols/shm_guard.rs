//! wl_shm as Smithay 0.7.0 has it, without the two requests by which a client can end the compositor.
//!
//! Smithay 0.7.0 answers `wl_shm_pool.resize` of a size below 1 with a protocol error and then goes on: it unwraps
//! `NonZeroUsize` of 0 (a panic of the compositor), or unmaps the pool for a size of 16 exabytes. The guard stops after
//! the error. Everything else goes to [`ShmState`] unchanged.

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
        ] => ::smithay::wayland::shm::ShmState);
        ::wayland_server::delegate_dispatch!($ty: [
            ::wayland_server::protocol::wl_shm_pool::WlShmPool: ::smithay::wayland::shm::ShmPoolUserData
        ] => $crate::protocols::GuardedShm);
        ::wayland_server::delegate_dispatch!($ty: [
            ::wayland_server::protocol::wl_buffer::WlBuffer: ::smithay::wayland::shm::ShmBufferUserData
        ] => ::smithay::wayland::shm::ShmState);
    };
}
