//! Clients' buffers that the writeback connector may write: each is imported once, and forgotten with its buffer.
//!
//! Pure bookkeeping over whatever an import gives. Must not know: who wants a frame, and whether a job still writes what is
//! forgotten here; the job keeps its framebuffer itself.

use smithay::backend::allocator::dmabuf::{Dmabuf, WeakDmabuf};

/// Buffers that are remembered. Streams take turns between two to four.
const MAX: usize = 16;

#[derive(Debug)]
struct Known<F> {
    buffer: WeakDmabuf,
    /// `None`: it was tried, and cannot be written.
    framebuffer: Option<F>,
}

/// The buffers of one screen, the one used last at the end.
#[derive(Debug)]
pub struct Targets<F> {
    known: Vec<Known<F>>,
    imports: u64,
}

impl<F> Default for Targets<F> {
    fn default() -> Self {
        Self {
            known: Vec::new(),
            imports: 0,
        }
    }
}

impl<F: Clone> Targets<F> {
    /// The framebuffer of a client's buffer, made with `import` when it is seen for the first time. `None`: it has none.
    pub fn framebuffer(
        &mut self,
        buffer: &Dmabuf,
        import: impl FnOnce(&Dmabuf) -> Option<F>,
    ) -> Option<F> {
        let known = match self.position(buffer) {
            Some(place) => self.known.remove(place),
            None => {
                self.imports += 1;
                Known {
                    buffer: buffer.weak(),
                    framebuffer: import(buffer),
                }
            }
        };
        let framebuffer = known.framebuffer.clone();
        if self.known.len() >= MAX {
            self.known.remove(0);
        }
        self.known.push(known);
        framebuffer
    }

    /// The driver refused a job with this buffer: it is not tried again.
    pub fn refuse(&mut self, buffer: &Dmabuf) {
        if let Some(known) = self
            .position(buffer)
            .and_then(|place| self.known.get_mut(place))
        {
            known.framebuffer = None;
        }
    }

    /// Forgets the buffers that their clients have destroyed.
    pub fn sweep(&mut self) {
        self.known.retain(|known| !known.buffer.is_gone());
    }

    /// All have to be tried anew, as after a change of the mode.
    pub fn clear(&mut self) {
        self.known.clear();
    }

    /// How often a buffer was imported.
    pub fn imports(&self) -> u64 {
        self.imports
    }

    fn position(&self, buffer: &Dmabuf) -> Option<usize> {
        let weak = buffer.weak();
        self.known.iter().position(|known| known.buffer == weak)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use std::sync::Arc;

    use smithay::backend::allocator::{dmabuf::DmabufFlags, Fourcc, Modifier};

    use super::*;

    fn buffer() -> Dmabuf {
        let flags = DmabufFlags::empty();
        let mut builder = Dmabuf::builder((4, 4), Fourcc::Xrgb8888, Modifier::Linear, flags);
        let fd = std::fs::File::open("/dev/null").unwrap();
        builder.add_plane(fd.into(), 0, 0, 16);
        builder.build().unwrap()
    }

    #[test]
    fn a_buffer_is_imported_once_whether_that_works_or_not() {
        let mut targets = Targets::default();
        let (good, bad) = (buffer(), buffer());
        for _ in 0..3 {
            assert_eq!(targets.framebuffer(&good, |_| Some(7)), Some(7));
            assert_eq!(targets.framebuffer(&bad, |_| None), None);
        }
        assert_eq!(targets.imports(), 2);
        targets.refuse(&good);
        assert_eq!(targets.framebuffer(&good, |_| Some(8)), None);
        targets.clear();
        assert_eq!(targets.framebuffer(&good, |_| Some(8)), Some(8));
    }

    #[test]
    fn what_is_destroyed_is_let_go_and_a_job_may_keep_it() {
        let mut targets = Targets::default();
        let framebuffer = Arc::new(());
        let dying = buffer();
        let job = targets.framebuffer(&dying, |_| Some(framebuffer.clone()));
        targets.sweep();
        assert_eq!(Arc::strong_count(&framebuffer), 3);
        drop(dying);
        targets.sweep();
        assert_eq!(Arc::strong_count(&framebuffer), 2);
        drop(job);
        assert_eq!(Arc::strong_count(&framebuffer), 1);
    }

    #[test]
    fn no_more_than_a_bounded_number_is_kept_and_the_ones_in_use_stay() {
        let mut targets = Targets::default();
        let used = buffer();
        let others: Vec<_> = (0..3 * MAX).map(|_| buffer()).collect();
        for (n, other) in others.iter().enumerate() {
            assert_eq!(
                targets.framebuffer(&used, |_| Some(usize::MAX)),
                Some(usize::MAX)
            );
            assert_eq!(targets.framebuffer(other, |_| Some(n)), Some(n));
            assert!(targets.known.len() <= MAX);
        }
        assert_eq!(targets.imports(), 3 * MAX as u64 + 1);
    }
}
