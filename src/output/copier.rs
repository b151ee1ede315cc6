//! The thread that fills slots for the render producer: copies of scanout buffers with the cursor on top, and waits for
//! pictures that a GPU draws, those of captured windows too. The event loop never does either.
//!
//! It must not know sessions or views. The scanout buffer is kept by `chain`, the slot by its job, until the end is told.

use std::{
    sync::{mpsc, Arc},
    thread,
    time::Duration,
};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use smithay::{backend::renderer::sync::SyncPoint, output::Output};

use super::{ring::Slot, scanout::ReadableScanout};
use crate::{
    capture::{copy::copy_pixels, JobId, SlotMemory, TargetLayout},
    geometry::Rect,
    kms::{fence::FenceFault, Fence, FenceStatus},
    render::CursorPicture,
};

/// A GPU that has not drawn a picture by then is not going to.
const GPU_PATIENCE: Duration = Duration::from_secs(2);

/// The cursor over a copied picture.
#[derive(Debug)]
pub struct Overlay {
    /// Its pixels.
    pub picture: Arc<CursorPicture>,
    /// Top left corner in mode pixels.
    pub at: (i32, i32),
}

impl Overlay {
    /// What it covers.
    pub fn area(&self) -> Rect {
        let side = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        let size = (side(self.picture.width), side(self.picture.height));
        Rect::new(self.at.into(), size.into())
    }
}

/// What is to be done for a job.
#[derive(Debug)]
pub enum Work {
    /// Copy, then blend the cursor.
    Copy {
        /// From there.
        from: Arc<ReadableScanout>,
        /// To there.
        to: Arc<Slot>,
        /// These pixels.
        rects: Vec<Rect>,
        /// And this on top.
        overlay: Option<Overlay>,
    },
    /// The GPU draws a draft; copy it when that is done.
    Fair {
        /// Wait for that first, if it is not done already.
        until: Option<Box<Work>>,
        /// From there.
        from: Arc<Slot>,
        /// To there.
        to: Arc<Slot>,
    },
    /// The GPU draws; say when it is done.
    Wait(SyncPoint),
    /// The same, known by its fence.
    Watch(Fence),
}

/// Whose picture it is.
#[derive(Debug, Clone, PartialEq)]
pub enum Owner {
    /// A screen's.
    Screen(Output),
    /// A window's, by its identifier.
    Window(Arc<str>),
}

/// Work for a job of a capture.
#[derive(Debug)]
pub struct Order {
    /// Whose.
    pub owner: Owner,
    /// For which job.
    pub job: JobId,
    /// What.
    pub work: Work,
}

/// The end of an order.
#[derive(Debug)]
pub struct Filled {
    /// Whose.
    pub owner: Owner,
    /// Which job's.
    pub job: JobId,
    /// Whether a scanout buffer was read for it.
    pub copied: bool,
    /// Bytes written by the CPU, or why the slot is not what it should be.
    pub result: Result<u64, Unfilled>,
}

/// Why a slot does not hold its picture.
#[derive(Debug, thiserror::Error)]
pub enum Unfilled {
    /// Nobody writes it any more.
    #[error("{0}")]
    Failed(String),
    /// The GPU may still draw into it, until the fence signals; without one nothing tells.
    #[error("the GPU did not finish in time")]
    Overdue(Option<Fence>),
}

/// The thread. Dropping it lets it end when its work is done.
#[derive(Debug)]
pub struct Copier {
    orders: mpsc::Sender<Order>,
}

impl Copier {
    /// Starts it. `tell` is called on that thread with each end; it must not block.
    ///
    /// # Errors
    /// The system lets us start no thread.
    pub fn new(tell: impl Fn(Filled) + Send + 'static) -> std::io::Result<Self> {
        let (orders, work) = mpsc::channel::<Order>();
        thread::Builder::new()
            .name("render-copy".to_owned())
            .spawn(move || {
                for order in work {
                    tell(fill(order));
                }
            })?;
        Ok(Self { orders })
    }

    /// Takes an order. Never blocks; each output has at most two copies at a time, and each window one picture.
    ///
    /// # Errors
    /// The end of the order, when the thread is gone.
    pub fn order(&self, order: Order) -> Result<(), Filled> {
        self.orders.send(order).map_err(|refused| {
            let Order { owner, job, work } = refused.0;
            Filled {
                owner,
                job,
                copied: work.reads_scanout(),
                result: Err(unwaited(work)),
            }
        })
    }
}

/// Nobody did the work, or waited for it.
fn unwaited(work: Work) -> Unfilled {
    match work {
        Work::Copy { .. } | Work::Fair { until: None, .. } => {
            Unfilled::Failed("the copying thread is gone".to_owned())
        }
        Work::Fair {
            until: Some(work), ..
        } => unwaited(*work),
        Work::Wait(sync) => Unfilled::Overdue(sync.export().map(Fence::from_sync_file)),
        Work::Watch(fence) => Unfilled::Overdue(Some(fence)),
    }
}

impl Work {
    /// The work of waiting for what the GPU draws, if it has not done so already. A fault is for tests.
    pub fn until(sync: SyncPoint, fault: Option<FenceFault>) -> Option<Self> {
        if fault.is_none() && sync.is_reached() {
            return None;
        }
        let faulty = fault.and_then(|fault| Fence::with_fault(sync.export()?, fault).ok());
        Some(faulty.map_or(Work::Wait(sync), Work::Watch))
    }

    fn reads_scanout(&self) -> bool {
        match self {
            Work::Copy { .. } => true,
            Work::Fair { .. } | Work::Wait(_) | Work::Watch(_) => false,
        }
    }
}

fn fill(order: Order) -> Filled {
    let Order { owner, job, work } = order;
    let copied = work.reads_scanout();
    Filled {
        owner,
        job,
        copied,
        result: run(&work),
    }
}

fn run(work: &Work) -> Result<u64, Unfilled> {
    match work {
        Work::Copy {
            from,
            to,
            rects,
            overlay,
        } => copy(from, to, rects, overlay.as_ref()).map_err(Unfilled::Failed),
        Work::Fair { until, from, to } => {
            if let Some(drawn) = until {
                run(drawn)?;
            }
            copy_draft(from, to).map_err(Unfilled::Failed)
        }
        Work::Wait(sync) => wait(sync).map(|()| 0),
        Work::Watch(fence) => watch(fence, GPU_PATIENCE).map(|()| 0),
    }
}

/// All of it. Nobody else has a descriptor of the draft, so that the kernel's word on it comes at once.
fn copy_draft(from: &Slot, to: &Slot) -> Result<u64, String> {
    let (format, layout) = (from.format(), to.target_layout());
    let mut outcome = Err("the memory was not given".to_owned());
    let mut written = Ok(());
    let read = from.read(&mut |source| {
        written = to.write(&mut |target| {
            outcome = copy_pixels(format, source, layout, target, &[format.full()])
                .map(|report| report.bytes)
                .map_err(|error| error.to_string());
        });
    });
    read.and(written).map_err(|error| error.to_string())?;
    outcome
}

fn wait(sync: &SyncPoint) -> Result<(), Unfilled> {
    match sync.export() {
        Some(fence) => watch(&Fence::from_sync_file(fence), GPU_PATIENCE),
        None => sync.wait().map_err(|_| Unfilled::Overdue(None)),
    }
}

fn watch(fence: &Fence, patience: Duration) -> Result<(), Unfilled> {
    let patience = Timespec::try_from(patience).ok();
    let mut fds = [PollFd::new(fence, PollFlags::IN)];
    match rustix::io::retry_on_intr(|| poll(&mut fds, patience.as_ref())) {
        Ok(0) | Err(_) => Err(Unfilled::Overdue(Some(fence.clone()))),
        Ok(_) => match fence.status() {
            FenceStatus::Failed(errno) => {
                let error = format!("the GPU's fence has the error {errno}");
                Err(Unfilled::Failed(error))
            }
            FenceStatus::Signaled | FenceStatus::Pending => Ok(()),
        },
    }
}

fn copy(
    from: &ReadableScanout,
    to: &Slot,
    rects: &[Rect],
    overlay: Option<&Overlay>,
) -> Result<u64, String> {
    let layout = to.target_layout();
    let mut outcome = Err("the memory was not given".to_owned());
    // The chain keeps the buffer from being drawn into until the end of this order is told.
    let read = from.with_bytes(|source| {
        to.write(&mut |target| {
            outcome = copy_pixels(from.format(), source, layout, target, rects)
                .map(|report| report.bytes)
                .map_err(|error| error.to_string());
            if let Some(overlay) = overlay {
                blend(overlay, layout, target);
            }
        })
    });
    read.and_then(|written| written)
        .map_err(|error| error.to_string())?;
    outcome
}

/// Puts the premultiplied cursor over XRGB8888 pixels; what is outside of the picture is left out.
fn blend(overlay: &Overlay, layout: TargetLayout, target: &mut [u8]) {
    let width = usize::try_from(overlay.picture.width).unwrap_or(0).max(1);
    let (stride, offset) = (layout.stride as usize, layout.offset as usize);
    for (row, line) in overlay.picture.pixels.chunks(width).enumerate() {
        let y = i64::from(overlay.at.1) + row as i64;
        if !(0..i64::from(layout.height)).contains(&y) {
            continue;
        }
        for (column, pixel) in line.iter().enumerate() {
            let x = i64::from(overlay.at.0) + column as i64;
            if !(0..i64::from(layout.width)).contains(&x) {
                continue;
            }
            let at = offset + y as usize * stride + x as usize * 4;
            if let Some(below) = target.get_mut(at..at + 4) {
                over(*pixel, below);
            }
        }
    }
}

fn over(pixel: u32, below: &mut [u8]) {
    let alpha = pixel >> 24;
    if alpha == 0 {
        return;
    }
    for (channel, below) in pixel.to_le_bytes().into_iter().zip(below).take(3) {
        let under = (u32::from(*below) * (255 - alpha) + 127) / 255;
        *below = u8::try_from(u32::from(channel) + under).unwrap_or(u8::MAX);
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        reason = "tests fail by panicking"
    )]

    use rustix::pipe::pipe;

    use super::*;

    #[test]
    fn a_picture_that_the_gpu_does_not_end_is_overdue_and_not_failed() {
        // Whatever descriptor is good for a fault.
        let (fd, _) = pipe().unwrap();
        let never = Fence::with_fault(fd, FenceFault::Never).unwrap();
        let end = watch(&never, Duration::ZERO);
        assert!(matches!(end, Err(Unfilled::Overdue(Some(_)))), "{end:?}");
        assert!(matches!(
            unwaited(Work::Watch(never)),
            Unfilled::Overdue(Some(_))
        ));
    }

    #[test]
    fn a_fence_with_an_error_is_the_end_of_a_picture() {
        // A descriptor that is no fence cannot be asked, and counts as failed.
        let (fd, writer) = pipe().unwrap();
        drop(writer);
        let end = watch(&Fence::from_sync_file(fd), Duration::ZERO);
        assert!(matches!(end, Err(Unfilled::Failed(_))), "{end:?}");
    }

    #[test]
    fn the_cursor_is_cut_at_the_edges_and_its_clear_pixels_change_nothing() {
        let layout = TargetLayout {
            width: 4,
            height: 4,
            fourcc: drm_fourcc::DrmFourcc::Xrgb8888,
            stride: 16,
            offset: 0,
        };
        let picture = CursorPicture {
            width: 2,
            height: 2,
            hotspot: (0, 0),
            pixels: vec![0xffff_0000, 0, 0xff00_ff00, 0xff00_00ff],
        };
        let overlay = |at| Overlay {
            picture: Arc::new(picture.clone()),
            at,
        };
        let mut target = [0x10u8; 64];
        blend(&overlay((-1, -1)), layout, &mut target);
        assert_eq!(target[..4], [0xff, 0, 0, 0x10]);
        assert!(target[4..].iter().all(|byte| *byte == 0x10));
        blend(&overlay((3, 3)), layout, &mut target);
        assert_eq!(target[60..], [0, 0, 0xff, 0x10]);
        assert!(target[4..60].iter().all(|byte| *byte == 0x10));
    }

    #[test]
    fn half_transparent_pixels_let_half_of_the_picture_through() {
        let mut below = [200, 100, 0, 7];
        over(0x8040_0020, &mut below);
        assert_eq!(below, [32 + 100, 50, 64, 7]);
    }
}
