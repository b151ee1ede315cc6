//! What must be true of an output at any time.

use super::*;

impl World {
    pub(super) fn check_delivery(
        &mut self,
        session: SessionId,
        request: RequestId,
        lease: &Lease,
        damage: &[Rect],
    ) {
        let frame = lease.frame();
        assert!(!self.resting, "a frame of an output that is off");
        assert!(
            frame.seq >= self.not_before,
            "a frame of before the output was off"
        );
        let viewer = self
            .viewers
            .get_mut(&session)
            .expect("delivered to a closed session");
        assert!(
            viewer.waiting.remove(&request),
            "answered what was not asked"
        );
        assert_eq!(
            frame.seq,
            self.capture.newest(viewer.view).unwrap().seq,
            "not the newest frame"
        );
        let (shows, slot, _) = self.frames.get(&frame.seq).expect("no job made this frame");
        assert_eq!(*slot, frame.slot, "one frame in two slots");
        assert!(
            frame.cursor.serves(viewer.view),
            "a frame of the other view"
        );
        let shows = shows.get(viewer.view);
        assert!(
            viewer.anew || viewer.last.is_none_or(|last| last < frame.seq),
            "seen already"
        );
        assert!(viewer.export || !damage.is_empty(), "a copy of nothing");
        if viewer.anew {
            assert_eq!(damage, [format().full()]);
        }
        for rect in damage {
            paint(&mut viewer.picture, *rect, |x, y| shows[y][x]);
        }
        assert_eq!(
            viewer.picture, *shows,
            "the damage does not cover what changed"
        );
        viewer.anew = false;
        viewer.last = Some(frame.seq);
        self.sampled
            .retain(|(slot, who, _)| *who != session || *slot == frame.slot);
        *self.delivered.entry(session).or_default() += 1;
    }

    pub(super) fn check_written(
        &mut self,
        session: SessionId,
        request: RequestId,
        shows: &Shows,
        damage: &[Rect],
    ) {
        assert!(!self.resting, "a frame of an output that is off");
        let viewer = self.viewers.get_mut(&session).unwrap();
        assert!(
            viewer.waiting.remove(&request),
            "answered what was not asked"
        );
        let shows = shows.get(viewer.view);
        assert!(!damage.is_empty(), "a picture of nothing new");
        if viewer.anew {
            assert_eq!(damage, [format().full()]);
        }
        for rect in damage {
            paint(&mut viewer.picture, *rect, |x, y| shows[y][x]);
        }
        assert_eq!(
            viewer.picture, *shows,
            "the damage does not cover what changed"
        );
        viewer.anew = false;
        *self.delivered.entry(session).or_default() += 1;
    }

    pub(super) fn verify(&self) {
        assert_eq!(self.capture.verify_invariants(), Ok(()));
        let flying = self.flying.iter().map(|flying| flying.generation);
        let overdue = self.overdue.iter().filter(|late| !late.left_behind);
        let mut writing = flying.chain(overdue.map(|late| late.generation));
        let generation = self.capture.ring.generation();
        assert_eq!(
            self.capture.has_old_jobs(),
            writing.any(|of| of != generation)
        );
        for memory in &self.targets {
            assert!(
                memory.handed.is_none_or(|stamp| stamp == memory.stamp),
                "a client's memory was written after it was told that its frame is ready"
            );
        }
        let mut held: BTreeMap<ClientId, BTreeSet<FrameSeq>> = BTreeMap::new();
        let mut slots = BTreeSet::new();
        for lease in &self.leases {
            let frame = lease.frame();
            if let Some(viewer) = self.viewers.get(&lease.session()) {
                held.entry(viewer.client).or_default().insert(frame.seq);
            }
            if lease.is_void() {
                continue;
            }
            slots.insert(frame.slot);
            let (_, _, job) = self.frames[&frame.seq];
            let stamp = self.memory[&frame.slot].stamp.load(Ordering::Relaxed);
            assert_eq!(stamp, job.0, "written while leased");
        }
        let quota = self.capture.config().quota;
        assert!(
            held.values().all(|frames| frames.len() <= quota),
            "over quota: {held:?}"
        );
        for newest in View::ALL
            .into_iter()
            .filter_map(|view| self.capture.newest(view))
        {
            let stamp = self.memory[&newest.slot].stamp.load(Ordering::Relaxed);
            assert_eq!(
                stamp, self.frames[&newest.seq].2 .0,
                "the newest frame was written over"
            );
            slots.insert(newest.slot);
        }
        // Memory: one ring, what is held of older ones, and at most the jobs that were in flight at a change of mode.
        let ring = self.memory.keys().map(|slot| slot.generation).max();
        let old = slots
            .iter()
            .filter(|slot| Some(slot.generation) != ring)
            .count();
        let of_ring = self
            .memory
            .keys()
            .filter(|slot| Some(slot.generation) == ring)
            .count();
        let buffers = self.capture.stats().buffers as usize;
        assert!(
            buffers <= of_ring + old + self.flying.len(),
            "{buffers} buffers"
        );
    }
}
