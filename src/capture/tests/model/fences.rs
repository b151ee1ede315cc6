//! What fences of clients may do to an output, and what not.

use super::*;

/// The longest step of time in a random life, and the shortest wait that a ring may have.
const STEP: u64 = 700;

#[derive(Debug, Default)]
pub struct FenceWatch {
    /// Slots that rest for nothing but a fence, since when.
    resting: BTreeMap<SlotId, u64>,
    /// Slots on which one was overruled.
    overruled: BTreeSet<SlotId>,
    /// How often that was.
    count: u64,
    /// Since when somebody waits for a slot of which nobody has one but fences.
    starving: Option<u64>,
}

impl FenceWatch {
    /// A slot was armed: it was free, and what is put onto it from now on says nothing of before.
    pub fn armed(&mut self, slot: SlotId) {
        assert!(
            !self.resting.contains_key(&slot),
            "armed while it rests for a fence"
        );
    }
}

impl World {
    pub fn has_fences(&self) -> bool {
        let mut memory = self.memory.values();
        memory.any(|memory| memory.fenced.load(Ordering::Relaxed))
    }

    fn is_fenced(&self, slot: SlotId) -> bool {
        self.memory[&slot].reading() == Reading::Fenced
    }

    /// A fence is overruled only if somebody starves, the memory is not read for us, and it was waited for; and then it is.
    pub(super) fn verify_fences(&mut self) {
        let now = self.now;
        let demand = self.capture.demand(self.now());
        let states: BTreeMap<SlotId, SlotState> = self.capture.ring.slots().collect();
        let was = std::mem::take(&mut self.fences.resting);
        let mut overruled = 0;
        for (slot, since) in &was {
            let is_free = states.get(slot) == Some(&SlotState::Free);
            if !is_free || !self.is_fenced(*slot) {
                continue;
            }
            overruled += 1;
            let before = !self.fences.overruled.insert(*slot);
            let patience = if before { 32 } else { 1000 };
            assert!(now - since >= patience, "too early, {before}");
            assert_ne!(demand, Demand::None, "nobody starved");
        }
        let counted = self.capture.stats().overruled;
        assert_eq!(counted, self.fences.count + overruled);
        assert!(overruled <= 1, "one is enough");
        self.fences.count = counted;
        for (slot, state) in &states {
            if matches!(state, SlotState::Draining(_)) && self.is_fenced(*slot) {
                let since = was.get(slot).copied().unwrap_or(now);
                self.fences.resting.insert(*slot, since);
            }
        }
        let newest = View::ALL.map(|view| self.capture.ring.newest(view).map(|(slot, _)| slot));
        let of_ring = states
            .keys()
            .filter(|slot| slot.generation == self.capture.ring.generation());
        let mut all = of_ring
            .map(|slot| newest.contains(&Some(*slot)) || self.fences.resting.contains_key(slot));
        let starving = demand == Demand::Now && self.capture.lone_direct(self.now()).is_none();
        if starving && all.all(|only_fences| only_fences) {
            let since = *self.fences.starving.get_or_insert(now);
            // The look that begins the wait and the one that ends it may each come a step late.
            assert!(now - since < 32 + 1000 + 2 * STEP, "starved by fences");
        } else {
            self.fences.starving = None;
        }
    }
}
