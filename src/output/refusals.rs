//! Jobs that the driver refuses although it takes the same picture without one: after some in a row, none for a while. Pure:
//! the time is an argument.
//!
//! A driver that cannot do it refuses each time, and each refusal costs the display a commit. One that was short of memory
//! for a moment, or of bandwidth while others had more on their planes, can do it again. So the pauses grow, and end.

use std::time::Duration;

use crate::time::Time;

/// So many in a row before a pause.
const BEFORE_A_PAUSE: u32 = 3;

/// The first pause; each one that ends in another refusal is followed by one of twice its length.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What a refusal means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The first one in a row.
    First,
    /// Not the first one; jobs go on.
    Again,
    /// No jobs for this time, the first of such pauses.
    Pause(Duration),
    /// The pause was of no use; another one, of this length.
    LongerPause(Duration),
}

/// The refusals of one screen's jobs since its last modeset.
#[derive(Debug, Clone, Default)]
pub struct Refusals {
    in_a_row: u32,
    pauses: u32,
    pause: Option<Pause>,
}

#[derive(Debug, Clone)]
struct Pause {
    until: Time,
    reason: String,
}

impl Refusals {
    /// The driver refused a commit for its job.
    pub fn refused(&mut self, reason: String, now: Time) -> Refused {
        self.in_a_row = self.in_a_row.saturating_add(1);
        if self.in_a_row < BEFORE_A_PAUSE {
            return match self.in_a_row {
                1 => Refused::First,
                _ => Refused::Again,
            };
        }
        let doubled = 1 << self.pauses.min(6);
        let length = FIRST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE);
        let is_first = self.pauses == 0;
        self.pauses = self.pauses.saturating_add(1);
        let until = now + length;
        self.pause = Some(Pause { until, reason });
        match is_first {
            true => Refused::Pause(length),
            false => Refused::LongerPause(length),
        }
    }

    /// The driver took a job.
    pub fn accepted(&mut self) {
        *self = Self::default();
    }

    /// Ends a pause whose time is over. The next refusal, if it is one, begins the next pause.
    pub fn tick(&mut self, now: Time) {
        self.pause.take_if(|pause| pause.until <= now);
    }

    /// Why there are no jobs now.
    pub fn reason(&self) -> Option<&str> {
        self.pause.as_ref().map(|pause| pause.reason.as_str())
    }

    /// When the pause is over.
    pub fn until(&self) -> Option<Time> {
        self.pause.as_ref().map(|pause| pause.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::from_duration(Duration::from_secs(seconds))
    }

    fn refuse(refusals: &mut Refusals, now: Time) -> Refused {
        refusals.refused("EINVAL".to_owned(), now)
    }

    #[test]
    fn the_third_refusal_in_a_row_begins_a_pause_and_its_end_is_another_chance() {
        let mut refusals = Refusals::default();
        assert_eq!(refuse(&mut refusals, at(0)), Refused::First);
        assert_eq!(refuse(&mut refusals, at(0)), Refused::Again);
        assert_eq!(refusals.reason(), None);
        let first = refuse(&mut refusals, at(0));
        assert_eq!(first, Refused::Pause(Duration::from_secs(1)));
        assert_eq!(refusals.reason(), Some("EINVAL"));
        refusals.tick(at(0));
        assert_eq!(refusals.until(), Some(at(1)));
        refusals.tick(at(1));
        assert_eq!((refusals.reason(), refusals.until()), (None, None));
    }

    #[test]
    fn pauses_of_a_driver_that_never_takes_a_job_grow_to_a_minute() {
        let mut refusals = Refusals::default();
        let mut now = at(0);
        for _ in 0..2 {
            refuse(&mut refusals, now);
        }
        let first = Duration::from_secs(1);
        assert_eq!(refuse(&mut refusals, now), Refused::Pause(first));
        now = now + first;
        refusals.tick(now);
        let pauses = [2, 4, 8, 16, 32, 60, 60].map(Duration::from_secs);
        for pause in pauses {
            assert_eq!(refuse(&mut refusals, now), Refused::LongerPause(pause));
            now = now + pause;
            refusals.tick(now);
        }
    }

    #[test]
    fn a_job_that_is_taken_forgives_all() {
        let mut refusals = Refusals::default();
        for _ in 0..4 {
            refuse(&mut refusals, at(0));
        }
        refusals.accepted();
        assert_eq!(refusals.reason(), None);
        assert_eq!(refuse(&mut refusals, at(0)), Refused::First);
    }
}
