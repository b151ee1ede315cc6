//! The display's side of an output's capture: which commit fills which slot, and what became of it.
//!
//! Damage travels with the jobs: what a commit changed belongs to the first frame that shows it. The damage of
//! uncaptured commits waits for the next captured one; the damage of a job that failed goes back to wait.

use std::sync::Arc;

use tracing::{debug, warn};

use crate::{
    capture::{
        damage::DamageSet,
        frame::{FrameInfo, Producer},
        ids::{FrameSeq, JobId, SlotId},
        output_capture::{OutputCapture, Skip, TARGET},
        ring::{NoSlot, SlotState},
    },
    geometry::Rect,
    time::Time,
};

/// What became of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    /// Its frame is the newest now; [`OutputCapture::poll`] delivers it.
    Published(FrameSeq),
    /// Its slot is free (or gone) and nobody sees what it wrote: it was a spare job, the mode changed since, or a newer
    /// frame is published already.
    Discarded,
    /// It was not in flight: never armed, over already, or overdue. An overdue job is never published.
    Unknown,
}

/// A job in flight. Overdue ones live on in the ring alone.
#[derive(Debug)]
pub(crate) struct Job {
    pub id: JobId,
    pub producer: Producer,
    /// Kick or canary: never published.
    pub spare: bool,
    pub generation: u32,
    /// What changed between the previous published frame and this one; `None` until its commit was reported.
    pub damage: Option<DamageSet>,
}

impl OutputCapture {
    /// May the next commit be captured? The answer is given at once. `job` is a number that was never used before; from now on
    /// exactly one of [`unarm`](Self::unarm), [`complete`](Self::complete), [`fail`](Self::fail) or
    /// [`overdue`](Self::overdue) ends it.
    ///
    /// # Errors
    /// Why not; it is counted. Nothing has changed then: commit without capture.
    pub fn arm(&mut self, job: JobId, producer: Producer, now: Time) -> Result<SlotId, Skip> {
        self.take_releases(now);
        let armed = if self.ring.size() == 0 {
            Err(Skip::NoBuffers)
        } else if !self.is_wanted(now) {
            Err(Skip::NoDemand)
        } else {
            self.take_slot(job, producer, false, now)
        };
        if let Err(skip) = armed {
            self.stats.skipped.count(skip);
            self.blocked = matches!(skip, Skip::NoFreeSlot | Skip::Draining);
        } else {
            self.blocked = false;
        }
        armed
    }

    /// A slot for a job that only finds out whether the hardware works (a kick, a canary). No client need want it, and it is
    /// never published. It ends like any other job.
    ///
    /// # Errors
    /// No slot is free now.
    pub fn arm_spare(&mut self, job: JobId, producer: Producer, now: Time) -> Result<SlotId, Skip> {
        self.take_releases(now);
        let armed = self.take_slot(job, producer, true, now);
        self.stats.spare_jobs += u64::from(armed.is_ok());
        armed
    }

    fn take_slot(
        &mut self,
        job: JobId,
        producer: Producer,
        spare: bool,
        now: Time,
    ) -> Result<SlotId, Skip> {
        let memory = &self.memory;
        let idle = |slot: SlotId| memory.get(&slot).is_none_or(|memory| memory.readers_idle());
        let slot = self.ring.arm(job, now, &idle).map_err(|none| match none {
            NoSlot::Empty => Skip::NoBuffers,
            NoSlot::Full => Skip::NoFreeSlot,
            NoSlot::Draining => Skip::Draining,
            NoSlot::JobInUse => Skip::JobInUse,
        })?;
        self.stats.jobs += 1;
        let generation = self.ring.generation();
        self.jobs.push(Job {
            id: job,
            producer,
            spare,
            generation,
            damage: None,
        });
        Ok(slot)
    }

    /// The display took a commit that changed `damage`, with the job `armed` in it, if any. To be called for every
    /// commit, captured or not; rectangles may have any values and are clipped to the mode.
    pub fn committed(&mut self, damage: &[Rect], armed: Option<JobId>) {
        // Without buffers there are no frames to be compared with; the first one will have full damage.
        let Some(bounds) = self.bounds() else {
            return;
        };
        for rect in damage {
            self.pending.add(*rect, bounds);
        }
        let generation = self.ring.generation();
        let job = self.jobs.iter_mut().find(|job| Some(job.id) == armed);
        if let Some(job) = job.filter(|job| !job.spare && job.generation == generation) {
            job.damage
                .get_or_insert_default()
                .merge(&self.pending.take(), bounds);
        }
    }

    /// The commit with this job failed: nothing was written. An unknown job is ignored.
    pub fn unarm(&mut self, job: JobId) {
        if self.end_unpublished(job) {
            self.stats.unarmed += 1;
        }
    }

    /// The job's fence signalled without an error, in time, and nothing speaks against the picture: publish it.
    /// `presented` is when its flip was. Ask [`poll`](Self::poll) for the deliveries.
    pub fn complete(&mut self, job: JobId, presented: Time, now: Time) -> Completion {
        self.take_releases(now);
        let Some(place) = self.jobs.iter().position(|have| have.id == job) else {
            return Completion::Unknown;
        };
        let generation = self.ring.generation();
        let (Some(format), Some(done)) = (self.format, self.jobs.get(place)) else {
            return self.discard(job);
        };
        if done.spare || done.generation != generation {
            return self.discard(job);
        }
        let bounds = format.full();
        // Jobs before this one that are still in flight show an older picture. Their damage is in this one.
        let mut damage = DamageSet::new();
        for older in self.jobs.iter_mut().take(place) {
            if let Some(missed) = older.damage.take() {
                damage.merge(&missed, bounds);
            }
            older.spare = true;
        }
        let done = self.jobs.remove(place);
        match done.damage {
            Some(own) => damage.merge(&own, bounds),
            // Its commit was never reported, so what it changed is not known.
            None => damage.add(bounds, bounds),
        }
        let seq = FrameSeq(self.next_frame);
        let Some(slot) = self.ring.publish(job, seq, now) else {
            self.put_back(place, &damage);
            return Completion::Unknown;
        };
        self.next_frame += 1;
        self.stats.frames += 1;
        self.note_published(seq, &damage, bounds);
        let producer = done.producer;
        let damage = damage.into_rects();
        self.newest = Some(Arc::new(FrameInfo {
            seq,
            slot,
            producer,
            presented,
            format,
            damage,
        }));
        self.forget_memory();
        Completion::Published(seq)
    }

    /// The job's fence signalled with an error, or its picture is not to be trusted though the job is over: its slot is
    /// free, nobody sees it. An unknown job is ignored.
    pub fn fail(&mut self, job: JobId) {
        if self.end_unpublished(job) {
            self.stats.failed += 1;
            debug!(target: TARGET, %job, "capture job failed");
        }
    }

    /// The job's fence did not come in time: the hardware may still write the slot. It is put aside and never published. An
    /// unknown job is ignored.
    pub fn overdue(&mut self, job: JobId) {
        let Some((place, damage)) = self.remove_job(job) else {
            return;
        };
        self.ring.quarantine(job);
        self.stats.lost += 1;
        warn!(target: TARGET, %job, "capture job overdue; its slot is in quarantine");
        self.put_back(place, &damage);
        self.forget_memory();
    }

    /// The fence of an overdue job signalled after all, with or without an error: the slot is free again, and not shown. An
    /// unknown job is ignored.
    pub fn late_fence(&mut self, job: JobId) {
        let quarantined = SlotState::Quarantined(job);
        if self.ring.slots().any(|(_, state)| state == quarantined) {
            self.ring.free(job);
            self.stats.late_fences += 1;
        }
    }

    /// Number of jobs in flight, overdue ones not included.
    pub fn in_flight(&self) -> usize {
        self.jobs.len()
    }

    fn discard(&mut self, job: JobId) -> Completion {
        if self.end_unpublished(job) {
            self.stats.discarded += 1;
        }
        Completion::Discarded
    }

    /// Ends a job in flight whose slot nobody will see, and keeps its damage. Returns whether there was such a job.
    fn end_unpublished(&mut self, job: JobId) -> bool {
        let Some((place, damage)) = self.remove_job(job) else {
            return false;
        };
        self.ring.free(job);
        self.put_back(place, &damage);
        self.forget_memory();
        true
    }

    /// Takes a job out of the list; its place there and the damage of its commit.
    fn remove_job(&mut self, job: JobId) -> Option<(usize, DamageSet)> {
        let place = self.jobs.iter().position(|have| have.id == job)?;
        let job = self.jobs.remove(place);
        // Damage of an old mode says nothing about the new one.
        let of_this_mode = job.generation == self.ring.generation();
        Some((
            place,
            job.damage.filter(|_| of_this_mode).unwrap_or_default(),
        ))
    }

    /// The job that was at `place` shows nothing. Its damage goes to the next commit after it that may become a frame: a
    /// later job in flight, else the one to come. An older job in flight does not show it.
    fn put_back(&mut self, place: usize, damage: &DamageSet) {
        let Some(bounds) = self.bounds() else {
            return;
        };
        let generation = self.ring.generation();
        let mut later = self.jobs.iter_mut().skip(place);
        let next =
            later.find(|job| !job.spare && job.generation == generation && job.damage.is_some());
        let next = next.and_then(|job| job.damage.as_mut());
        next.unwrap_or(&mut self.pending).merge(damage, bounds);
    }
}
