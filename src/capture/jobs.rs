//! The display's side of an output's capture: which commit fills which slot, and what became of it.
//!
//! Damage travels with the jobs: what a commit changed belongs to the first frame that shows it. The damage of
//! uncaptured commits waits for the next captured one; the damage of a job that failed goes back to wait. Each view has
//! its own damage, since a cursor that moves changes only one of them.

use std::sync::Arc;

use tracing::{debug, warn};

use crate::{
    capture::{
        damage::DamageSet,
        direct::JobTarget,
        frame::{FrameFormat, FrameInfo, Producer, SlotMemory},
        ids::{FrameSeq, JobId, SlotId},
        output_capture::{reading_of, OutputCapture, Skip, TARGET},
        ring::{NoSlot, SlotState},
        view::{CursorInFrame, PerView, View},
    },
    geometry::Rect,
    time::Time,
};

/// What became of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    /// Its frame is the newest now; [`OutputCapture::poll`] delivers it.
    Published(FrameSeq),
    /// It was written into its client's own memory; [`OutputCapture::poll`] tells the client.
    Written(FrameSeq),
    /// Its slot is free (or gone) and nobody sees what it wrote: the mode changed since, or a newer frame is published already.
    Discarded,
    /// It was not in flight: never armed, over already, or overdue. An overdue job is never published.
    Unknown,
}

/// A job in flight.
#[derive(Debug)]
pub(crate) struct Job {
    pub id: JobId,
    pub producer: Producer,
    /// What its frame will have of the cursor.
    pub cursor: CursorInFrame,
    /// The views that its frame is for, as long as no newer frame is there.
    pub views: PerView<bool>,
    pub generation: u32,
    /// What changed in each view between the previous published frame and this one; `None` until its commit was reported,
    /// and in views that it is not for.
    pub damage: PerView<Option<DamageSet>>,
    /// The client's memory that it writes; `None`: its slot.
    pub target: Option<JobTarget>,
}

fn skip_of(none: NoSlot) -> Skip {
    match none {
        NoSlot::Empty => Skip::NoBuffers,
        NoSlot::Full => Skip::NoFreeSlot,
        NoSlot::Draining => Skip::Draining,
        NoSlot::JobInUse => Skip::JobInUse,
    }
}

impl Job {
    /// Whether each of its views has a newer frame.
    pub(crate) fn is_superseded(&self) -> bool {
        !self.views.values().any(|wanted| *wanted)
    }
}

impl OutputCapture {
    /// May the next commit be captured, for both views in one picture? See [`arm_view`](Self::arm_view).
    ///
    /// # Errors
    /// Why not.
    pub fn arm(&mut self, job: JobId, producer: Producer, now: Time) -> Result<SlotId, Skip> {
        self.arm_view(job, producer, CursorInFrame::Absent, now)
    }

    /// May the next commit be captured, in a frame with that of the cursor? The answer is given at once. `job` is a number
    /// that was never used before; from now on exactly one of [`unarm`](Self::unarm), [`complete`](Self::complete),
    /// [`fail`](Self::fail) or [`overdue`](Self::overdue) ends it. One commit may have a job for each view.
    ///
    /// # Errors
    /// Why not. Nothing has changed then: commit without capture, and [count it](Self::note_skip) if you do.
    pub fn arm_view(
        &mut self,
        job: JobId,
        producer: Producer,
        cursor: CursorInFrame,
        now: Time,
    ) -> Result<SlotId, Skip> {
        self.take_releases(now);
        let wanted = |capture: &Self| {
            let mut views = cursor.views();
            views.any(|view| capture.wants_slot(view, producer, now))
        };
        let armed = if self.ring.size() == 0 {
            Err(Skip::NoBuffers)
        } else if !wanted(self) {
            Err(Skip::NoDemand)
        } else {
            let views = PerView::new(|view| cursor.serves(view));
            self.take_slot(job, producer, cursor, views, now)
        };
        self.blocked = matches!(armed, Err(Skip::NoFreeSlot | Skip::Draining));
        armed
    }

    /// As [`arm_view`](Self::arm_view) for the render producer, with a frame that lies in the caller's own `memory`, where its
    /// picture is already. The caller writes nothing there as long as it [is lent](Self::is_lent).
    ///
    /// # Errors
    /// Why not. Nothing has changed then: try [`arm_view`](Self::arm_view).
    pub fn lend_view(
        &mut self,
        job: JobId,
        cursor: CursorInFrame,
        (memory, format): (Arc<dyn SlotMemory>, FrameFormat),
        now: Time,
    ) -> Result<SlotId, Skip> {
        self.take_releases(now);
        let mut views = cursor.views();
        if !views.any(|view| self.wants_slot(view, Producer::Render, now)) {
            return Err(Skip::NoDemand);
        }
        // All frames look alike, and the history would keep what the display needs.
        if self.format != Some(format) || self.history.is_some() {
            return Err(Skip::NoFreeSlot);
        }
        self.settle(now);
        let slot = self.ring.arm_lent(job).map_err(skip_of)?;
        self.memory.insert(slot, memory);
        let views = PerView::new(|view| cursor.serves(view));
        self.note_armed(job, Producer::Render, cursor, views);
        self.blocked = false;
        Ok(slot)
    }

    /// Whether somebody may still read the memory that was lent for this job: its frame is on its way, leased, the newest
    /// one, or rests. Once false, it stays so.
    pub fn is_lent(&mut self, job: JobId, now: Time) -> bool {
        self.take_releases(now);
        self.settle(now);
        self.ring.is_lent_for(job)
    }

    /// A commit went out and was not captured although it was to be. A frame that was not even committed for want of a slot, as of
    /// a screen that stands still, is none that was skipped. Only counts.
    pub fn note_skip(&mut self, skip: Skip) {
        self.stats.skipped.count(skip);
    }

    /// The slot of a job in flight or in quarantine.
    pub fn slot_of(&self, job: JobId) -> Option<SlotId> {
        self.ring.slot_of(job)
    }

    fn take_slot(
        &mut self,
        job: JobId,
        producer: Producer,
        cursor: CursorInFrame,
        views: PerView<bool>,
        now: Time,
    ) -> Result<SlotId, Skip> {
        let slot = self.ring_slot(job, now).or_else(|skip| {
            if skip == Skip::NoFreeSlot && self.unpin_unwatched(now) {
                return self.ring_slot(job, now);
            }
            Err(skip)
        })?;
        self.note_armed(job, producer, cursor, views);
        Ok(slot)
    }

    fn note_armed(
        &mut self,
        job: JobId,
        producer: Producer,
        cursor: CursorInFrame,
        views: PerView<bool>,
    ) {
        self.stats.jobs += 1;
        let generation = self.ring.generation();
        self.jobs.push(Job {
            id: job,
            producer,
            cursor,
            views,
            generation,
            damage: PerView::default(),
            target: None,
        });
    }

    fn ring_slot(&mut self, job: JobId, now: Time) -> Result<SlotId, Skip> {
        let memory = &self.memory;
        let armed = self.ring.arm(job, now, &|slot| reading_of(memory, slot));
        self.forget_memory();
        armed.map_err(skip_of)
    }

    /// A view that nobody looks at does not keep its newest frame when memory is short. Returns whether there was one.
    pub fn unpin_unwatched(&mut self, now: Time) -> bool {
        let mut any = false;
        for view in View::ALL {
            if !self.has_viewers(view) && self.newest.get_mut(view).take().is_some() {
                self.ring.let_view_go(view, now);
                any = true;
            }
        }
        any
    }

    /// The display took a commit that changed `damage` in both views, with the job `armed` in it, if any. See
    /// [`committed_views`](Self::committed_views).
    pub fn committed(&mut self, damage: &[Rect], armed: Option<JobId>) {
        self.committed_views(PerView::new(|_| damage), armed.as_slice());
    }

    /// The display took a commit that changed `damage`, with the jobs `armed` in it, if any. To be called for every
    /// commit, captured or not; rectangles may have any values and are clipped to the mode.
    pub fn committed_views(&mut self, damage: PerView<&[Rect]>, armed: &[JobId]) {
        // Without buffers there are no frames to be compared with; the first one will have full damage.
        let Some(bounds) = self.bounds() else {
            return;
        };
        let generation = self.ring.generation();
        if !armed.is_empty() {
            self.note_foreign_changes();
        }
        for view in View::ALL {
            let pending = self.pending.get_mut(view);
            for rect in *damage.get(view) {
                pending.add(*rect, bounds);
            }
            let job = self.jobs.iter_mut().find(|job| {
                armed.contains(&job.id) && *job.views.get(view) && job.generation == generation
            });
            if let Some(job) = job {
                job.damage
                    .get_mut(view)
                    .get_or_insert_default()
                    .merge(&pending.take(), bounds);
            }
        }
    }

    /// The commit with this job failed: nothing was written. An unknown job is ignored.
    pub fn unarm(&mut self, job: JobId) {
        if self.end_unpublished(job) {
            self.stats.unarmed += 1;
        }
    }

    /// The job's picture is complete, in time, and nothing speaks against it: publish it. `presented` is when its flip was.
    /// Ask [`poll`](Self::poll) for the deliveries.
    pub fn complete(&mut self, job: JobId, presented: Time, now: Time) -> Completion {
        self.take_releases(now);
        let Some(place) = self.jobs.iter().position(|have| have.id == job) else {
            return Completion::Unknown;
        };
        let generation = self.ring.generation();
        let (Some(format), Some(done)) = (self.format, self.jobs.get(place)) else {
            return self.discard(job);
        };
        if done.is_superseded() || done.generation != generation {
            return self.discard(job);
        }
        if let Some(target) = done.target {
            return self.complete_direct(place, target, presented, now);
        }
        let bounds = format.full();
        let views = done.views;
        let damage = self.damage_until(place, bounds);
        let done = self.jobs.remove(place);
        let seq = FrameSeq(self.next_frame);
        let Some(slot) = self.ring.publish(job, seq, views, now) else {
            self.put_back(place, &damage);
            return Completion::Unknown;
        };
        self.next_frame += 1;
        self.count_published(done.producer);
        self.stats.leased += u64::from(self.ring.is_lent(slot));
        let mut changed = DamageSet::new();
        for view in View::ALL.into_iter().filter(|view| *views.get(*view)) {
            self.note_published(seq, view, damage.get(view), bounds);
            changed.merge(damage.get(view), bounds);
        }
        let frame = Arc::new(FrameInfo {
            seq,
            slot,
            producer: done.producer,
            cursor: done.cursor,
            presented,
            format,
            damage: changed.into_rects(),
        });
        for view in View::ALL.into_iter().filter(|view| *views.get(*view)) {
            *self.newest.get_mut(view) = Some(Arc::clone(&frame));
        }
        self.forget_memory();
        Completion::Published(seq)
    }

    /// What the job at `place` shows that no published frame of its views shows. Jobs before it that are still in flight
    /// show an older picture: their damage is in this one, and nobody of these views will see them.
    pub(crate) fn damage_until(&mut self, place: usize, bounds: Rect) -> PerView<DamageSet> {
        let mut damage = PerView::<DamageSet>::default();
        let Some((done, older)) = self
            .jobs
            .get_mut(..=place)
            .and_then(|jobs| jobs.split_last_mut())
        else {
            return damage;
        };
        for view in View::ALL.into_iter().filter(|view| *done.views.get(*view)) {
            let damage = damage.get_mut(view);
            for older in older.iter_mut() {
                if let Some(missed) = older.damage.get_mut(view).take() {
                    damage.merge(&missed, bounds);
                }
                *older.views.get_mut(view) = false;
            }
            match done.damage.get_mut(view).take() {
                Some(own) => damage.merge(&own, bounds),
                // Its commit was never reported, so what it changed is not known.
                None => damage.add(bounds, bounds),
            }
        }
        damage
    }

    pub(crate) fn count_published(&mut self, producer: Producer) {
        self.stats.frames += 1;
        match producer {
            Producer::Writeback => self.stats.by_writeback += 1,
            Producer::Render => self.stats.by_render += 1,
        }
    }

    /// The job ended with an error, or its picture is not to be trusted though the job is over: its slot is free, nobody
    /// sees it. An unknown job is ignored.
    pub fn fail(&mut self, job: JobId) {
        self.never_again_direct(job);
        if self.end_unpublished(job) {
            self.stats.failed += 1;
            debug!(target: TARGET, %job, "capture job failed");
        }
    }

    /// The job's fence did not come in time: the hardware may still write the slot. It is put aside and never published. An
    /// unknown job is ignored.
    pub fn overdue(&mut self, job: JobId) {
        self.never_again_direct(job);
        if let Some(late) = self.jobs.iter().find(|have| have.id == job) {
            let target = late.target_id();
            self.overdue
                .add(job, late.producer, late.generation, target);
        }
        let Some((place, damage)) = self.remove_job(job) else {
            return;
        };
        self.ring.quarantine(job);
        self.stats.lost += 1;
        warn!(target: TARGET, %job, "capture job overdue; what it writes is in quarantine");
        self.put_back(place, &damage);
        self.forget_memory();
    }

    /// The fence of an overdue job signalled after all, with or without an error: the slot is free again, and not shown. An
    /// unknown job is ignored.
    pub fn late_fence(&mut self, job: JobId) {
        let quarantined = SlotState::Quarantined(job);
        if self.ring.slots().any(|(_, state)| state == quarantined) {
            self.ring.free(job);
            self.forget_memory();
            self.stats.late_fences += 1;
        }
        if self.overdue.ended(job) {
            self.stats.late_fences += 1;
        }
    }

    /// Number of jobs in flight, overdue ones not included.
    pub fn in_flight(&self) -> usize {
        self.jobs.len()
    }

    /// Whether a job from before the present ring, in flight or overdue, may still be written. Nobody is told of its picture,
    /// but a client may own the memory, or have it mapped.
    pub fn has_old_jobs(&self) -> bool {
        let generation = self.ring.generation();
        self.jobs.iter().any(|job| job.generation != generation)
            || self.overdue.is_any_before(generation)
    }

    pub(crate) fn discard(&mut self, job: JobId) -> Completion {
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
    fn remove_job(&mut self, job: JobId) -> Option<(usize, PerView<DamageSet>)> {
        let place = self.jobs.iter().position(|have| have.id == job)?;
        let mut job = self.jobs.remove(place);
        // Damage of an old mode says nothing about the new one.
        let of_this_mode = job.generation == self.ring.generation();
        let damage = PerView::new(|view| {
            let damage = job.damage.get_mut(view).take();
            damage.filter(|_| of_this_mode).unwrap_or_default()
        });
        Some((place, damage))
    }

    /// The job that was at `place` shows nothing. Its damage goes to the next commit after it that may become a frame of
    /// the same view: a later job in flight, else the one to come. An older job in flight does not show it.
    fn put_back(&mut self, place: usize, damage: &PerView<DamageSet>) {
        let Some(bounds) = self.bounds() else {
            return;
        };
        let generation = self.ring.generation();
        for view in View::ALL {
            let mut later = self.jobs.iter_mut().skip(place);
            let next = later.find(|job| {
                *job.views.get(view)
                    && job.generation == generation
                    && job.damage.get(view).is_some()
            });
            let next = next.and_then(|job| job.damage.get_mut(view).as_mut());
            next.unwrap_or(self.pending.get_mut(view))
                .merge(damage.get(view), bounds);
        }
    }
}
