//! The scanout buffers of one screen: which may be drawn into next, and how old its contents are.
//!
//! Pure bookkeeping over buffer numbers; `output/` keeps the buffers. A buffer is busy while it is on the screen, waits
//! for its flip, is still read by a writeback job or by a copy of the render producer, or is lent to `capture`, whose
//! clients read it then. So many may be lent that the display always has the ones that it needs.
//!
//! A buffer that clients may have mapped, and that is to show them nothing more, is *spent*: it gets new memory before
//! anything is drawn into it. What it was lent for lives on in the old memory, and does not keep the display from it.

use crate::{capture::JobId, time::Time};

/// Buffers that the display needs for itself: one on screen, one to draw into, one that a late writeback job may still
/// read, one that a slow copy may still read.
pub const BUFFERS: usize = 4;

/// So many more where pictures are lent: the one that is being captured, the newest one, and one that its reader has not
/// let go of yet. A stream lives on these; who wants more gets copies.
pub const LENDABLE: usize = 3;

/// One buffer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Buffer {
    /// The frame in which it was drawn last.
    drawn: Option<u64>,
    /// The jobs that it is lent for.
    loans: Vec<JobId>,
    /// It needs new memory before it is drawn into.
    spent: bool,
}

impl Buffer {
    /// Whether somebody may read it who must not see the next picture there.
    fn is_out(&self) -> bool {
        !self.spent && !self.loans.is_empty()
    }
}

/// Which buffer is where. The numbers are indices below [`Chain::len`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    on_screen: Option<usize>,
    pending: Option<usize>,
    /// The buffer that the job in flight reads.
    held: Option<usize>,
    /// The buffer that copies of the render producer read, and how many.
    copied: Option<(usize, usize)>,
    buffers: Vec<Buffer>,
    lendable: usize,
    /// Nothing is lent before that.
    lends_from: Time,
    frame: u64,
}

impl Chain {
    /// A chain in which so many buffers may be lent at once.
    pub fn new(lendable: usize) -> Self {
        Self {
            on_screen: None,
            pending: None,
            held: None,
            copied: None,
            buffers: vec![Buffer::default(); BUFFERS + lendable],
            lendable,
            lends_from: Time::default(),
            frame: 0,
        }
    }

    /// Number of buffers.
    pub fn len(&self) -> usize {
        self.buffers.len()
    }

    /// A buffer that nobody reads and the age of its contents in frames (0: unknown), the most recent first; a spent one only
    /// if there is no other.
    pub fn next(&self) -> Option<(usize, usize)> {
        let buffers = self.buffers.iter().enumerate();
        buffers
            .filter(|(index, _)| !self.is_busy(*index))
            .max_by_key(|(_, buffer)| (!buffer.spent, buffer.drawn))
            .map(|(index, _)| (index, self.age(index)))
    }

    fn is_busy(&self, index: usize) -> bool {
        let copied = self.copied.map(|(copied, _)| copied);
        [self.on_screen, self.pending, self.held, copied].contains(&Some(index))
            || self.buffers.get(index).is_some_and(Buffer::is_out)
    }

    fn age(&self, index: usize) -> usize {
        let drawn = self.buffers.get(index).and_then(|buffer| buffer.drawn);
        drawn.map_or(0, |drawn| {
            usize::try_from(self.frame.saturating_sub(drawn)).unwrap_or(0) + 1
        })
    }

    /// The buffer was drawn with the newest scene.
    pub fn drawn(&mut self, index: usize) {
        self.frame += 1;
        if let Some(buffer) = self.buffers.get_mut(index) {
            buffer.drawn = Some(self.frame);
        }
    }

    /// What was drawn last, whether it was shown or not.
    pub fn latest(&self) -> Option<usize> {
        let drawn = |(index, buffer): (usize, &Buffer)| Some((buffer.drawn?, index));
        let buffers = self.buffers.iter().enumerate();
        buffers.filter_map(drawn).max().map(|(_, index)| index)
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

    /// Whether this buffer, with the picture in it, may be lent: it is already, or so many others are that the display can do
    /// without one more.
    pub fn may_lend(&self, index: usize, now: Time) -> bool {
        if now < self.lends_from {
            return false;
        }
        let Some(buffer) = self.buffers.get(index).filter(|buffer| !buffer.spent) else {
            return false;
        };
        let out = self.buffers.iter().filter(|buffer| buffer.is_out());
        buffer.is_out() || out.count() < self.lendable
    }

    /// Lends nothing until then.
    pub fn lend_nothing_until(&mut self, time: Time) {
        self.lends_from = time;
    }

    /// The buffer is lent for a job, after [`Chain::may_lend`] allowed it.
    pub fn lend(&mut self, index: usize, job: JobId) {
        if let Some(buffer) = self.buffers.get_mut(index) {
            buffer.loans.push(job);
        }
    }

    /// Forgets what was given back: `is_lent` tells for which jobs somebody may still read.
    pub fn take_back(&mut self, mut is_lent: impl FnMut(JobId) -> bool) {
        for buffer in &mut self.buffers {
            buffer.loans.retain(|job| is_lent(*job));
        }
    }

    /// Whether the buffer is lent, in its present memory or in what it had before.
    pub fn is_lent(&self, index: usize) -> bool {
        let buffer = self.buffers.get(index);
        buffer.is_some_and(|buffer| !buffer.loans.is_empty())
    }

    /// Nothing more is to be drawn into the memory that this buffer has now.
    pub fn spend(&mut self, index: usize) {
        if let Some(buffer) = self.buffers.get_mut(index) {
            buffer.spent = true;
        }
    }

    /// Whether the buffer needs new memory before it is drawn into.
    pub fn is_spent(&self, index: usize) -> bool {
        self.buffers.get(index).is_some_and(|buffer| buffer.spent)
    }

    /// The buffer has new memory, which nobody else has.
    pub fn replaced(&mut self, index: usize) {
        if let Some(buffer) = self.buffers.get_mut(index) {
            *buffer = Buffer::default();
        }
    }

    /// The contents are unknown after a failed draw or a new mode: everything is to be drawn in full.
    pub fn forget(&mut self) {
        for buffer in &mut self.buffers {
            buffer.drawn = None;
        }
    }

    /// Nothing is on the screen any more. Workers and clients still read what they read.
    pub fn blanked(&mut self) {
        (self.on_screen, self.pending, self.held) = (None, None, None);
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
        let mut chain = Chain::new(0);
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

    /// Draws the next buffer and shows it.
    fn show(chain: &mut Chain) -> usize {
        let (index, _) = chain.next().unwrap();
        chain.drawn(index);
        chain.committed(index, false);
        chain.flipped();
        index
    }

    #[test]
    fn a_lent_buffer_is_drawn_again_only_when_it_was_given_back() {
        let mut chain = Chain::new(2);
        let first = show(&mut chain);
        chain.lend(first, JobId(1));
        for _ in 0..12 {
            assert_ne!(show(&mut chain), first);
        }
        for index in (0..chain.len()).filter(|index| *index != first) {
            chain.lend(index, JobId(2));
        }
        assert_eq!(chain.next(), None);
        chain.take_back(|job| job == JobId(2));
        assert_eq!(chain.next().map(|(index, _)| index), Some(first));
    }

    #[test]
    fn no_more_buffers_are_lent_than_the_display_can_do_without() {
        let mut chain = Chain::new(2);
        for job in [1, 2] {
            let index = show(&mut chain);
            assert!(chain.may_lend(index, Time::default()));
            chain.lend(index, JobId(job));
        }
        let on_screen = chain.on_screen.unwrap();
        assert!(
            chain.may_lend(on_screen, Time::default()),
            "it is lent already"
        );
        let index = show(&mut chain);
        assert!(!chain.may_lend(index, Time::default()));
        chain.take_back(|job| job == JobId(2));
        assert!(chain.may_lend(index, Time::default()));
    }

    #[test]
    fn a_spent_buffer_is_the_last_choice_and_its_old_loans_keep_it_from_nobody() {
        let mut chain = Chain::new(1);
        let lent = show(&mut chain);
        chain.lend(lent, JobId(1));
        chain.spend(lent);
        assert!(
            !chain.may_lend(lent, Time::default()),
            "what is spent is shown to nobody more"
        );
        for _ in 0..12 {
            assert_ne!(show(&mut chain), lent);
        }
        (0..chain.len()).for_each(|index| chain.spend(index));
        let (index, _) = chain.next().unwrap();
        assert!(chain.is_spent(index));
        chain.replaced(index);
        assert_eq!(chain.next(), Some((index, 0)), "new memory has no contents");
        assert!(!chain.is_lent(index));
    }

    proptest! {
        #[test]
        fn a_buffer_that_is_read_is_never_drawn(
            lendable in 0..4usize,
            ops in proptest::collection::vec(0u8..11, 1..200),
        ) {
            let mut chain = Chain::new(lendable);
            let mut copies: Vec<usize> = Vec::new();
            let mut loans: Vec<(JobId, usize)> = Vec::new();
            let mut jobs = 0;
            for op in ops {
                match op {
                    0 | 1 | 4 | 7 if chain.pending.is_none() => {
                        if let Some((index, _)) = chain.next() {
                            prop_assert!(chain.on_screen != Some(index) && chain.held != Some(index));
                            prop_assert!(!copies.contains(&index));
                            if chain.is_spent(index) {
                                chain.replaced(index);
                                loans.retain(|(_, lent)| *lent != index);
                            }
                            prop_assert!(loans.iter().all(|(_, lent)| *lent != index));
                            chain.drawn(index);
                            chain.committed(index, op == 1 && chain.held.is_none());
                            if op == 4 && chain.may_copy(index) {
                                chain.copy_begins(index);
                                copies.push(index);
                            }
                            if op == 7 && chain.may_lend(index, Time::default()) {
                                jobs += 1;
                                chain.lend(index, JobId(jobs));
                                loans.push((JobId(jobs), index));
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
                    8 if !loans.is_empty() => {
                        loans.remove(0);
                        chain.take_back(|job| loans.iter().any(|(lent, _)| *lent == job));
                    }
                    9 => chain.blanked(),
                    10 => (0..chain.len()).step_by(2).for_each(|index| chain.spend(index)),
                    _ => {}
                }
                // With no flip pending there is always a buffer to draw into: the display never waits for a reader.
                prop_assert!(chain.pending.is_some() || chain.next().is_some());
            }
        }
    }
}
