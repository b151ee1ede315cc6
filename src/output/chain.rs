//! The scanout buffers of one screen: which may be drawn into next, and how old its contents are.
//!
//! Pure bookkeeping over buffer numbers; `output/` keeps the buffers. A buffer is busy while it is on the screen, waits
//! for its flip, or is still read by a writeback job or by a copy of the render producer.

/// Number of scanout buffers: one on screen, one to draw into, one that a late writeback job may still read, one that a
/// slow copy may still read.
pub const BUFFERS: usize = 4;

/// Which buffer is where. The numbers are indices below [`BUFFERS`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    on_screen: Option<usize>,
    pending: Option<usize>,
    /// The buffer that the job in flight reads.
    held: Option<usize>,
    /// The buffer that copies of the render producer read, and how many.
    copied: Option<(usize, usize)>,
    /// The frame in which each buffer was drawn last.
    drawn: [Option<u64>; BUFFERS],
    frame: u64,
}

impl Chain {
    /// A buffer that nobody reads and the age of its contents in frames (0: unknown), the most recent first.
    pub fn next(&self) -> Option<(usize, usize)> {
        (0..BUFFERS)
            .filter(|index| !self.is_busy(*index))
            .max_by_key(|index| self.drawn.get(*index).copied().flatten())
            .map(|index| (index, self.age(index)))
    }

    fn is_busy(&self, index: usize) -> bool {
        let copied = self.copied.map(|(copied, _)| copied);
        [self.on_screen, self.pending, self.held, copied].contains(&Some(index))
    }

    fn age(&self, index: usize) -> usize {
        let drawn = self.drawn.get(index).copied().flatten();
        drawn.map_or(0, |drawn| {
            usize::try_from(self.frame.saturating_sub(drawn)).unwrap_or(0) + 1
        })
    }

    /// The buffer was drawn with the newest scene.
    pub fn drawn(&mut self, index: usize) {
        self.frame += 1;
        if let Some(drawn) = self.drawn.get_mut(index) {
            *drawn = Some(self.frame);
        }
    }

    /// What was drawn last, whether it was shown or not.
    pub fn latest(&self) -> Option<usize> {
        (0..BUFFERS)
            .filter(|index| self.drawn.get(*index).copied().flatten().is_some())
            .max_by_key(|index| self.drawn.get(*index).copied().flatten())
    }

    /// The buffer was committed; with `captured` a writeback job reads it too.
    pub fn committed(&mut self, index: usize, captured: bool) {
        self.pending = Some(index);
        if captured {
            self.held = Some(index);
        }
    }

    /// The flip event came.
    pub fn flipped(&mut self) {
        if let Some(index) = self.pending.take() {
            self.on_screen = Some(index);
        }
    }

    /// The writeback job is over, or given up with the screen having moved on.
    pub fn job_over(&mut self) {
        self.held = None;
    }

    /// Whether a copy of this buffer may begin: only one buffer at a time is kept for copies, so that one to draw into is
    /// always left.
    pub fn may_copy(&self, index: usize) -> bool {
        self.copied.is_none_or(|(copied, _)| copied == index)
    }

    /// A copy of the buffer begins, after [`Chain::may_copy`] allowed it.
    pub fn copy_begins(&mut self, index: usize) {
        self.copied.get_or_insert((index, 0)).1 += 1;
    }

    /// A copy is over.
    pub fn copy_over(&mut self) {
        self.copied = match self.copied {
            Some((index, count)) if count > 1 => Some((index, count - 1)),
            Some(_) | None => None,
        };
    }

    /// The contents are unknown after a failed draw or a new mode: everything is to be drawn in full.
    pub fn forget(&mut self) {
        self.drawn = [None; BUFFERS];
    }

    /// Nothing is on the screen any more.
    pub fn blanked(&mut self) {
        *self = Self {
            drawn: self.drawn,
            frame: self.frame,
            // A worker still reads it.
            copied: self.copied,
            ..Self::default()
        };
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        reason = "tests fail by panicking"
    )]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ages_count_frames_since_the_buffer_was_drawn() {
        let mut chain = Chain::default();
        assert_eq!(chain.next().map(|(_, age)| age), Some(0));
        let mut drawn = Vec::new();
        for _ in 0..4 {
            let (index, age) = chain.next().unwrap();
            drawn.push((index, age));
            chain.drawn(index);
            chain.committed(index, false);
            chain.flipped();
        }
        // Two buffers alternate: the others are for late readers.
        assert_eq!(drawn[0].1, 0);
        assert_eq!(drawn[1].1, 0);
        assert_eq!(drawn[2], (drawn[0].0, 2));
        assert_eq!(drawn[3], (drawn[1].0, 2));
    }

    proptest! {
        #[test]
        fn a_buffer_that_is_read_is_never_drawn(ops in proptest::collection::vec(0u8..7, 1..200)) {
            let mut chain = Chain::default();
            let mut copies: Vec<usize> = Vec::new();
            for op in ops {
                match op {
                    0 | 1 | 4 if chain.pending.is_none() => {
                        if let Some((index, _)) = chain.next() {
                            prop_assert!(chain.on_screen != Some(index) && chain.held != Some(index));
                            prop_assert!(!copies.contains(&index));
                            chain.drawn(index);
                            chain.committed(index, op == 1 && chain.held.is_none());
                            if op == 4 && chain.may_copy(index) {
                                chain.copy_begins(index);
                                copies.push(index);
                            }
                        }
                    }
                    2 => chain.flipped(),
                    3 => chain.job_over(),
                    5 if !copies.is_empty() => {
                        copies.pop();
                        chain.copy_over();
                    }
                    6 if copies.len() == 1 => {
                        // The other view of the same commit.
                        prop_assert!(chain.may_copy(copies[0]));
                        chain.copy_begins(copies[0]);
                        copies.push(copies[0]);
                    }
                    _ => {}
                }
                // With no flip pending there is always a buffer to draw into: the display never waits for a job.
                prop_assert!(chain.pending.is_some() || chain.next().is_some());
            }
        }
    }
}
