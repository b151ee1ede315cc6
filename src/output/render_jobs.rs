//! Jobs of the render producer in flight: each waits for its flip and for its pixels, in any order.
//!
//! Pure bookkeeping. A job whose flip will not come any more is over only when its pixels are: until then somebody writes
//! the slot.

use crate::{capture::JobId, time::Time};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flip {
    Waiting,
    At(Time),
    Never,
}

#[derive(Debug, Clone, Copy)]
struct Flying {
    job: JobId,
    flip: Flip,
    /// Whether the pixels are right, once they are there.
    written: Option<bool>,
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Its picture was on the screen since then, and is in its slot.
    Good(JobId, Time),
    /// Nobody may see its slot.
    Bad(JobId),
}

/// The jobs of one screen.
#[derive(Debug, Default)]
pub struct RenderJobs {
    flying: Vec<Flying>,
}

impl RenderJobs {
    /// The commit of this job was taken.
    pub fn committed(&mut self, job: JobId) {
        self.flying.push(Flying {
            job,
            flip: Flip::Waiting,
            written: None,
        });
    }

    /// The flip event of the last commit came.
    pub fn flipped(&mut self, at: Time) -> Vec<Ended> {
        self.flip(Flip::At(at))
    }

    /// No flip event will come for what was committed so far.
    pub fn no_flip(&mut self) -> Vec<Ended> {
        self.flip(Flip::Never)
    }

    fn flip(&mut self, to: Flip) -> Vec<Ended> {
        let waiting = |flying: &&mut Flying| flying.flip == Flip::Waiting;
        for flying in self.flying.iter_mut().filter(waiting) {
            flying.flip = to;
        }
        self.take_ended()
    }

    /// The pixels of a job are in its slot, or will not come.
    pub fn written(&mut self, job: JobId, right: bool) -> Vec<Ended> {
        for flying in self.flying.iter_mut().filter(|flying| flying.job == job) {
            flying.written.get_or_insert(right);
        }
        self.take_ended()
    }

    fn take_ended(&mut self) -> Vec<Ended> {
        let mut ended = Vec::new();
        self.flying.retain(|flying| {
            let end = match (flying.flip, flying.written) {
                (Flip::At(time), Some(true)) => Ended::Good(flying.job, time),
                (Flip::At(_) | Flip::Never, Some(_)) => Ended::Bad(flying.job),
                (Flip::Waiting, _) | (_, None) => return true,
            };
            ended.push(end);
            false
        });
        ended
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_duration(Duration::from_millis(ms))
    }

    #[test]
    fn flip_and_pixels_come_in_any_order_and_the_time_is_that_of_the_flip() {
        let mut jobs = RenderJobs::default();
        jobs.committed(JobId(1));
        assert_eq!(jobs.written(JobId(1), true), []);
        assert_eq!(jobs.flipped(at(16)), [Ended::Good(JobId(1), at(16))]);
        jobs.committed(JobId(2));
        assert_eq!(jobs.flipped(at(32)), []);
        jobs.committed(JobId(3));
        assert_eq!(jobs.flipped(at(48)), []);
        assert_eq!(
            jobs.written(JobId(2), true),
            [Ended::Good(JobId(2), at(32))]
        );
        assert_eq!(jobs.written(JobId(3), false), [Ended::Bad(JobId(3))]);
    }

    #[test]
    fn a_job_without_flip_ends_only_when_nobody_writes_its_slot() {
        let mut jobs = RenderJobs::default();
        jobs.committed(JobId(1));
        assert_eq!(jobs.no_flip(), []);
        assert_eq!(jobs.flipped(at(16)), []);
        assert_eq!(jobs.written(JobId(1), true), [Ended::Bad(JobId(1))]);
    }
}
