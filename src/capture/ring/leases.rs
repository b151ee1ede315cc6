//! Who holds what: leases, their release, and frames that are taken back.

use super::{Ghost, Held, Holder, LeaseId, Ring};
use crate::{
    capture::{
        ids::{ClientId, FrameSeq, SessionId, SlotId},
        view::View,
    },
    time::Time,
};

impl Ring {
    /// Leases the newest frame of a view. `None` if there is none, the client holds its quota of other frames, or is overdue.
    /// The session's older frames need no grace any more: it has a newer one.
    pub fn lease_newest(
        &mut self,
        holder: Holder,
        view: View,
        now: Time,
    ) -> Option<(LeaseId, SlotId)> {
        if !self.may_lease_newest(holder.client, view, now) {
            return None;
        }
        let (id, seq) = self.newest(view)?;
        let slot = self.slots.iter_mut().find(|slot| slot.id == id)?;
        let lease = LeaseId(self.next_lease);
        self.next_lease += 1;
        slot.leases.push(Held {
            id: lease,
            holder,
            since: None,
            overdue: false,
            void_asked: false,
        });
        self.given.insert(holder.session, seq);
        for slot in &mut self.slots {
            if slot.state.seq().is_some_and(|older| older < seq) {
                slot.graces
                    .retain(|(session, _)| *session != holder.session);
            }
        }
        Some((lease, id))
    }

    /// Whether the client may be given the newest frame of a view.
    pub fn may_lease_newest(&self, client: ClientId, view: View, now: Time) -> bool {
        let Some((newest, _)) = self.newest(view) else {
            return false;
        };
        (self.is_held_by(newest, client) || self.held_by(client) < self.quota_of(client))
            && !self.is_overdue(client, now)
    }

    /// Whether the client may be given a frame that does not exist yet.
    pub fn may_lease_another(&self, client: ClientId, now: Time) -> bool {
        self.held_by(client) < self.quota_of(client) && !self.is_overdue(client, now)
    }

    pub(super) fn quota_of(&self, client: ClientId) -> usize {
        if client == ClientId::HOUSE {
            self.limits.house_quota
        } else {
            self.limits.quota
        }
    }

    /// The handle of a lease is gone. An unknown number is ignored.
    pub fn release(&mut self, lease: LeaseId, now: Time) {
        self.ghosts.retain(|ghost| ghost.id != lease);
        let Some((slot, held)) = self.take_lease(lease) else {
            return;
        };
        let session = held.holder.session;
        let given = self.given.get(&session).copied();
        let until = now + self.limits.grace;
        if let Some(slot) = self.slots.iter_mut().find(|have| have.id == slot) {
            if held.holder.export && (given.is_none() || given == slot.seq()) {
                slot.graces.retain(|(have, _)| *have != session);
                slot.graces.push((session, until));
            }
        }
        self.let_go();
    }

    /// The client was told that a frame is void, or is gone: its leases on it are worth nothing, and the slot needs no grace.
    /// Returns these leases; their handles may still exist, and count for the quota until they are released.
    pub fn void(&mut self, session: SessionId, seq: FrameSeq) -> Vec<LeaseId> {
        let mut void = Vec::new();
        for slot in self
            .slots
            .iter_mut()
            .filter(|slot| slot.state.seq() == Some(seq))
        {
            slot.leases.retain(|held| {
                let keep = held.holder.session != session;
                if !keep {
                    void.push(Ghost {
                        id: held.id,
                        client: held.holder.client,
                        seq,
                    });
                }
                keep
            });
        }
        let leases = void.iter().map(|ghost| ghost.id).collect();
        self.ghosts.extend(void);
        self.let_go();
        leases
    }

    /// The session is closed. Leases that it still has stay; they rest for the whole grace when they are released.
    pub fn forget(&mut self, session: SessionId) {
        self.given.remove(&session);
    }

    /// The leases that passed the hold deadline since the last call.
    pub fn newly_overdue(&mut self, now: Time) -> Vec<(Holder, FrameSeq)> {
        let deadline = self.limits.hold_deadline;
        let mut found = Vec::new();
        for slot in &mut self.slots {
            let Some(seq) = slot.state.seq() else {
                continue;
            };
            for held in &mut slot.leases {
                if !held.overdue && held.is_overdue(deadline, now) {
                    held.overdue = true;
                    found.push((held.holder, seq));
                }
            }
        }
        found
    }

    fn take_lease(&mut self, lease: LeaseId) -> Option<(SlotId, Held)> {
        for slot in &mut self.slots {
            if let Some(place) = slot.leases.iter().position(|held| held.id == lease) {
                return Some((slot.id, slot.leases.swap_remove(place)));
            }
        }
        None
    }
}
