//! The copies that the workers have, and which of them are of pictures that nobody may be given any more.

use crate::capture::CopyError;

/// When a copy was given to the workers, as counted by [`Running::all_stale`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Era(u64);

/// Counts copies.
#[derive(Debug, Default)]
pub(super) struct Running {
    era: u64,
    /// Copies of earlier eras fail, although the worker says that all is well.
    void_before: u64,
    now: usize,
    stale: usize,
}

impl Running {
    /// A copy goes to the workers.
    pub fn begin(&mut self) -> Era {
        self.now += 1;
        Era(self.era)
    }

    /// It came back. What the worker says of it may be overruled.
    pub fn end<T>(&mut self, era: Era, result: Result<T, CopyError>) -> Result<T, CopyError> {
        self.now = self.now.saturating_sub(1);
        if era.0 < self.era {
            self.stale = self.stale.saturating_sub(1);
        }
        match era.0 < self.void_before {
            true => Err(CopyError::Void),
            false => result,
        }
    }

    /// Copies that the workers have now.
    pub fn count(&self) -> usize {
        self.now
    }

    /// Pictures from now on are another matter: who has to be sure that all earlier ones are with their clients asks
    /// [`stale`](Self::stale).
    pub fn all_stale(&mut self) {
        self.era += 1;
        self.stale = self.now;
    }

    /// Copies from before the last [`all_stale`](Self::all_stale) that are not over.
    pub fn stale(&self) -> usize {
        self.stale
    }

    /// Those fail, whenever they come to their end.
    pub fn give_up_stale(&mut self) {
        self.void_before = self.era;
        self.stale = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_copies_from_before_are_stale_and_only_those_given_up_fail() {
        let mut running = Running::default();
        let (old, older) = (running.begin(), running.begin());
        running.all_stale();
        let new = running.begin();
        assert_eq!((running.count(), running.stale()), (3, 2));
        assert!(running.end(older, Ok(())).is_ok());
        assert_eq!((running.count(), running.stale()), (2, 1));
        running.give_up_stale();
        assert_eq!(running.stale(), 0);
        assert!(matches!(running.end(old, Ok(())), Err(CopyError::Void)));
        assert!(running.end(new, Ok(())).is_ok());
        assert_eq!((running.count(), running.stale()), (0, 0));
    }
}
