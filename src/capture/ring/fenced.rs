//! Slots that nothing keeps from being used again but fences of others.
//!
//! Whoever was given a slot's descriptor, even one for reading only, can put a fence onto it at any time, also one that
//! never signals, and nobody can tell whose it is. So these fences are believed as long as a client may hold a frame, and
//! then no longer if somebody starves: the client has let go of the frame, and has had a grace.
//!
//! Since it may go on like that for ever, a slot on which a fence was overruled is *distrusted* as long as it exists: fences on
//! it are believed for one grace more. Else whoever has descriptors of all slots could make each of them rest for the whole
//! deadline each time that it was used.

use std::time::Duration;

use super::{Ring, Slot, SlotState};
use crate::{
    capture::ids::{FrameSeq, SlotId},
    time::Time,
};

impl Ring {
    /// Makes the slot free that has waited for fences of others for too long, of several the one with the oldest frame.
    /// To be called only while somebody starves, after [`Ring::settle`]. Slots that are read for us are never taken, and lent ones
    /// neither: a frame can always do without those.
    pub fn overrule_fence(&mut self, now: Time) -> Option<(SlotId, FrameSeq)> {
        let generation = self.generation;
        let limits = self.limits;
        let patience = |slot: &Slot| match slot.distrusted {
            false => limits.hold_deadline,
            true => limits.grace.min(limits.hold_deadline),
        };
        let own = self
            .slots
            .iter_mut()
            .filter(|slot| slot.id.generation == generation && slot.lent.is_none());
        let late = own.filter(|slot| slot.is_fenced_for(patience(slot), now));
        let slot = late.min_by_key(|slot| slot.state.seq())?;
        let seq = slot.state.seq()?;
        slot.state = SlotState::Free;
        slot.fenced = None;
        slot.distrusted = true;
        Some((slot.id, seq))
    }
}

impl Slot {
    fn is_fenced_for(&self, patience: Duration, now: Time) -> bool {
        let late = |since: Time| now.saturating_since(since) >= patience;
        self.fenced.is_some_and(late)
    }
}
