//! Jobs that did not end in time. Nothing stops the hardware, so that what they write is kept from everybody, until it is
//! known that they are over.
//!
//! The slot of such a job is in quarantine in the ring, and goes with it at a change of mode, a lock or other rules. The
//! memory may be seen even then: a client may have mapped the slot for an earlier frame, or own the memory. So jobs are
//! remembered here apart from the ring.

use crate::capture::{
    frame::Producer,
    ids::{JobId, TargetId},
};

#[derive(Debug)]
struct Late {
    job: JobId,
    producer: Producer,
    generation: u32,
    /// The client's memory that it writes; `None`: its slot.
    target: Option<TargetId>,
}

/// The overdue jobs of one output. After one of them the hardware gets no job for clients until it is proven, so they are few.
#[derive(Debug, Default)]
pub(crate) struct Overdue(Vec<Late>);

impl Overdue {
    pub fn add(
        &mut self,
        job: JobId,
        producer: Producer,
        generation: u32,
        target: Option<TargetId>,
    ) {
        self.0.push(Late {
            job,
            producer,
            generation,
            target,
        });
    }

    /// The job is over after all. Returns whether it was one with a client's memory.
    pub fn ended(&mut self, job: JobId) -> bool {
        let place = self.0.iter().position(|late| late.job == job);
        place.is_some_and(|place| self.0.swap_remove(place).target.is_some())
    }

    /// All of the connector's but the job in flight are over; that says nothing of what a GPU draws. Returns those of them that
    /// had a client's memory.
    pub fn left_behind(&mut self, in_flight: Option<JobId>) -> Vec<JobId> {
        let over =
            |late: &mut Late| late.producer == Producer::Writeback && Some(late.job) != in_flight;
        let left_behind = self.0.extract_if(.., over);
        let with_target = left_behind.filter(|late| late.target.is_some());
        with_target.map(|late| late.job).collect()
    }

    /// The clients' memory that may still be written.
    pub fn targets(&self) -> impl Iterator<Item = TargetId> + '_ {
        self.0.iter().filter_map(|late| late.target)
    }

    /// Whether one may still write a picture from before this generation of the ring.
    pub fn is_any_before(&self, generation: u32) -> bool {
        self.0.iter().any(|late| late.generation != generation)
    }

    /// The same of those that the connector writes: whose end its proof would tell.
    pub fn is_any_provable_before(&self, generation: u32) -> bool {
        let provable = |late: &&Late| late.producer == Producer::Writeback;
        let mut provable = self.0.iter().filter(provable);
        provable.any(|late| late.generation != generation)
    }
}
