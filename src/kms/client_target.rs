//! Memory of somebody else as the target of a writeback job.
//!
//! It must not know whose memory it is or who waits for the picture.

use std::{os::fd::AsFd, sync::Arc};

use drm_fourcc::DrmFourcc;
use rustix::{
    event::PollFlags,
    fs::{fcntl_getfl, OFlags},
};
use smithay::backend::{
    allocator::{
        dmabuf::Dmabuf,
        gbm::GbmDevice,
        {Buffer as _, Modifier},
    },
    drm::DrmDeviceFd,
};

use super::{fence::ready, framebuffer::Framebuffer, Error};

/// Pixels that are not aligned to this are left to copies: controllers fetch and store whole words.
const ALIGNMENT: u32 = 4;

/// Why the controller cannot write there.
#[derive(Debug, thiserror::Error)]
pub enum Unsuitable {
    /// Writeback fills the whole picture, one to one.
    #[error("it has {0}x{1} pixels, the mode has {2}x{3}")]
    Size(u32, u32, u32, u32),
    /// What is written to an alpha channel is the controller's own business.
    #[error("its format is {0}, not {1}")]
    Format(DrmFourcc, DrmFourcc),
    /// Writeback connectors have no modifiers.
    #[error("it is not one linear plane")]
    Layout,
    /// A driver would write nevertheless: memory that its owner may only read is another's, such as our own ring.
    #[error("its descriptor is not for writing")]
    ReadOnly,
    /// Offset or stride.
    #[error("its lines begin at odd addresses")]
    Alignment,
    /// The device does not take it.
    #[error(transparent)]
    Import(#[from] Error),
}

/// Makes a framebuffer of a dma-buf for a mode of this size. It keeps the memory as long as it lives, whatever becomes of
/// the descriptor.
///
/// # Errors
/// Why the memory cannot be written by a job.
pub fn import(
    gbm: &GbmDevice<DrmDeviceFd>,
    dmabuf: &Dmabuf,
    size: (u32, u32),
    fourcc: DrmFourcc,
) -> Result<Arc<Framebuffer>, Unsuitable> {
    check(dmabuf, size, fourcc)?;
    Ok(Framebuffer::from_dmabuf(gbm, gbm, dmabuf, false)?)
}

fn check(
    dmabuf: &Dmabuf,
    (width, height): (u32, u32),
    fourcc: DrmFourcc,
) -> Result<(), Unsuitable> {
    let (w, h) = (dmabuf.width(), dmabuf.height());
    if (w, h) != (width, height) {
        return Err(Unsuitable::Size(w, h, width, height));
    }
    let format = dmabuf.format();
    if format.code != fourcc {
        return Err(Unsuitable::Format(format.code, fourcc));
    }
    if dmabuf.num_planes() != 1 || format.modifier != Modifier::Linear || dmabuf.y_inverted() {
        return Err(Unsuitable::Layout);
    }
    let writable = |fd| {
        let flags = fcntl_getfl(fd).unwrap_or(OFlags::empty());
        flags.intersection(OFlags::ACCMODE) == OFlags::RDWR
    };
    if !dmabuf.handles().all(writable) {
        return Err(Unsuitable::ReadOnly);
    }
    let mut numbers = dmabuf.strides().chain(dmabuf.offsets());
    if numbers.any(|number| number % ALIGNMENT != 0) {
        return Err(Unsuitable::Alignment);
    }
    Ok(())
}

/// Whether nobody reads or writes the memory now, as far as its fences tell: writeback does not wait for them.
pub fn is_idle(dmabuf: &Dmabuf) -> bool {
    let idle = |fd: std::os::fd::BorrowedFd<'_>| ready(fd.as_fd(), PollFlags::OUT).unwrap_or(false);
    dmabuf.handles().all(idle)
}

/// Whether nobody writes the memory now, as far as its fences tell.
pub fn is_written(dmabuf: &Dmabuf) -> bool {
    let written = |fd: std::os::fd::BorrowedFd<'_>| ready(fd.as_fd(), PollFlags::IN);
    dmabuf.handles().all(|fd| written(fd).unwrap_or(false))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

    use smithay::backend::allocator::dmabuf::DmabufFlags;

    use super::*;

    const SIZE: (u32, u32) = (64, 48);

    fn check_of(
        fourcc: DrmFourcc,
        modifier: Modifier,
        write: bool,
        (stride, offset): (u32, u32),
        size: (u32, u32),
    ) -> Result<(), Unsuitable> {
        let null = std::fs::File::options()
            .read(true)
            .write(write)
            .open("/dev/null");
        let mut builder = Dmabuf::builder((64, 48), fourcc, modifier, DmabufFlags::empty());
        builder.add_plane(null.unwrap().into(), 0, offset, stride);
        check(&builder.build().unwrap(), size, DrmFourcc::Xrgb8888)
    }

    #[test]
    fn only_what_its_owner_may_write_and_the_controller_can_is_taken() {
        use DrmFourcc::{Argb8888, Xrgb8888};
        let linear = Modifier::Linear;
        assert!(check_of(Xrgb8888, linear, true, (256, 0), SIZE).is_ok());
        assert!(check_of(Xrgb8888, linear, true, (320, 64), SIZE).is_ok());
        let refused = |result| match result {
            Err(error) => error,
            Ok(()) => panic!("taken"),
        };
        let size = refused(check_of(Xrgb8888, linear, true, (256, 0), (65, 48)));
        assert!(matches!(size, Unsuitable::Size(64, 48, 65, 48)));
        let format = refused(check_of(Argb8888, linear, true, (256, 0), SIZE));
        assert!(matches!(format, Unsuitable::Format(Argb8888, Xrgb8888)));
        let implicit = refused(check_of(Xrgb8888, Modifier::Invalid, true, (256, 0), SIZE));
        assert!(matches!(implicit, Unsuitable::Layout));
        // Such as a descriptor of our own ring, which a client got to read it.
        let read_only = refused(check_of(Xrgb8888, linear, false, (256, 0), SIZE));
        assert!(matches!(read_only, Unsuitable::ReadOnly));
        for odd in [(258, 0), (256, 2)] {
            let odd = refused(check_of(Xrgb8888, linear, true, odd, SIZE));
            assert!(matches!(odd, Unsuitable::Alignment));
        }
    }
}
