//! What always holds in a ring, whatever happened to it.

use std::collections::BTreeSet;

use super::{Ring, SlotState};
use crate::capture::view::View;

impl Ring {
    /// Says which promise is broken, if one is. For tests and debug builds.
    ///
    /// # Errors
    /// The sentence that names the broken promise.
    pub fn verify_invariants(&self) -> Result<(), String> {
        let check = |holds: bool, what: &str| {
            holds
                .then_some(())
                .ok_or_else(|| format!("{what}: {self:#?}"))
        };
        let indices: BTreeSet<u16> = self.own().map(|slot| slot.id.index).collect();
        check(
            self.own().count() == usize::from(self.size)
                && indices.iter().copied().eq(0..self.size),
            "a slot of the current generation is lost or there twice",
        )?;
        let lent = || self.current().filter(|slot| slot.lent.is_some());
        let places: BTreeSet<u16> = lent().map(|slot| slot.id.index).collect();
        check(
            lent().count() == places.len()
                && places.len() <= usize::from(self.size)
                && places.iter().all(|place| *place >= self.size),
            "there are too many lent slots, or two with one name",
        )?;
        let mut jobs = BTreeSet::new();
        let mut frames = BTreeSet::new();
        let mut leases = BTreeSet::new();
        let mut clients = BTreeSet::new();
        for slot in &self.slots {
            let newest = self.is_pinned(slot.id);
            let leased = !slot.leases.is_empty();
            check(
                slot.id.generation <= self.generation,
                "a slot is of the future",
            )?;
            check(
                slot.lent.is_none() || slot.state != SlotState::Free,
                "a lent slot is there although it is over",
            )?;
            check(
                slot.fenced.is_none()
                    || (matches!(slot.state, SlotState::Draining(_)) && slot.graces.is_empty()),
                "a slot that does not rest, or rests for its grace, waits for fences",
            )?;
            match slot.state {
                SlotState::Free | SlotState::Armed(_) | SlotState::Quarantined(_) => {
                    check(!leased, "a writable slot is leased")?;
                    check(slot.graces.is_empty(), "a writable slot has a grace")?;
                    check(!newest, "the newest frame is not published")?;
                }
                SlotState::Draining(_) => check(!leased && !newest, "a held slot drains")?,
                SlotState::Published(_) => {
                    check(
                        leased || newest,
                        "a published slot has no reason to be kept",
                    )?;
                }
            }
            check(
                slot.id.generation == self.generation
                    || leased
                    || matches!(slot.state, SlotState::Armed(_)),
                "a slot of an old generation outlived its last lease",
            )?;
            check(
                slot.state.job().is_none_or(|job| jobs.insert(job)),
                "a job has two slots",
            )?;
            check(
                slot.seq().is_none_or(|seq| frames.insert(seq)),
                "a frame has two slots",
            )?;
            for held in &slot.leases {
                check(leases.insert(held.id), "a lease is there twice")?;
                clients.insert(held.holder.client);
            }
        }
        check(
            self.ghosts.iter().all(|ghost| leases.insert(ghost.id)),
            "a void lease holds a slot",
        )?;
        for (newest, seq) in View::ALL.into_iter().filter_map(|view| self.newest(view)) {
            let pinned = self
                .current()
                .find(|slot| slot.id == newest)
                .map(|slot| slot.state);
            check(
                pinned == Some(SlotState::Published(seq)),
                "the newest frame is not pinned",
            )?;
        }
        for client in clients {
            check(
                self.held_by(client) <= self.quota_of(client),
                "a client holds more than its quota",
            )?;
        }
        Ok(())
    }
}
