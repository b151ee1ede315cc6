//! Slots whose memory is lent to the ring for one frame, by whoever shows its picture already.

use super::{NoSlot, Ring, Slot, SlotState};
use crate::capture::ids::{JobId, SlotId};

impl Ring {
    /// Gives the job a slot of its own whose memory is lent. There are at most as many of these as the ring has slots.
    pub fn arm_lent(&mut self, job: JobId) -> Result<SlotId, NoSlot> {
        if self.slot_of(job).is_some() {
            return Err(NoSlot::JobInUse);
        }
        if self.size == 0 {
            return Err(NoSlot::Empty);
        }
        let places = self.size..self.size.saturating_mul(2);
        let taken = |index: &u16| self.current().any(|slot| slot.id.index == *index);
        let index = places.clone().find(|index| !taken(index));
        let index = index.ok_or(NoSlot::Full)?;
        let id = SlotId {
            index,
            generation: self.generation,
        };
        self.jobs += 1;
        self.slots.push(Slot {
            id,
            state: SlotState::Armed(job),
            leases: Vec::new(),
            graces: Vec::new(),
            fenced: None,
            distrusted: false,
            armed_at: self.jobs,
            lent: Some(job),
        });
        Ok(id)
    }

    /// Whether the slot's memory is lent, and not yet the ring's alone: that of an older generation is.
    pub fn is_lent(&self, slot: SlotId) -> bool {
        slot.generation == self.generation
            && self
                .slots
                .iter()
                .any(|have| have.id == slot && have.lent.is_some())
    }

    /// Whether the slot that came with this job is still there.
    pub fn is_lent_for(&self, job: JobId) -> bool {
        self.slots.iter().any(|slot| slot.lent == Some(job))
    }
}
