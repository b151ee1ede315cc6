//! What each slot of the ring holds, so that the render producer writes only what a slot lacks.
//!
//! Pure bookkeeping. A slot that anybody else wrote, or whose writing failed, is unknown and is written in full.

use std::collections::HashMap;

use crate::{
    capture::{DamageSet, SlotId, View},
    geometry::Rect,
};

#[derive(Debug)]
enum Content {
    /// A copy of the primary scanout buffer as it was at some commit, but for these pixels.
    Copy { lacks: DamageSet },
    /// Drawn by the renderer for a view, as its frame of that number.
    Drawn { view: View, frame: u64 },
}

/// The slots of one screen.
#[derive(Debug, Default)]
pub struct SlotContents {
    slots: HashMap<SlotId, Content>,
}

impl SlotContents {
    /// A commit changed the primary scanout buffer there.
    pub fn primary_changed(&mut self, damage: &[Rect], bounds: Rect) {
        for content in self.slots.values_mut() {
            if let Content::Copy { lacks } = content {
                for rect in damage {
                    lacks.add(*rect, bounds);
                }
            }
        }
    }

    /// Somebody else writes the slot, or its writing failed.
    pub fn forget(&mut self, slot: SlotId) {
        self.slots.remove(&slot);
    }

    /// Nothing is known of any slot.
    pub fn forget_all(&mut self) {
        self.slots.clear();
    }

    /// The slot becomes a copy of the primary scanout buffer with `overlay` changed on top of it. Returns what is to be
    /// copied.
    pub fn copy(&mut self, slot: SlotId, overlay: Option<Rect>, bounds: Rect) -> Vec<Rect> {
        let needed = match self.slots.remove(&slot) {
            Some(Content::Copy { lacks }) => lacks.into_rects(),
            Some(Content::Drawn { .. }) | None => vec![bounds],
        };
        let mut lacks = DamageSet::new();
        if let Some(overlay) = overlay {
            lacks.add(overlay, bounds);
        }
        self.slots.insert(slot, Content::Copy { lacks });
        needed
    }

    /// Age of the slot for the next drawing of a view, when `frames` were drawn of it: 1 for the last one, 0 unknown.
    pub fn age(&self, slot: SlotId, view: View, frames: u64) -> usize {
        match self.slots.get(&slot) {
            Some(Content::Drawn { view: have, frame }) if *have == view => {
                usize::try_from(frames.saturating_sub(*frame)).map_or(0, |age| age + 1)
            }
            Some(Content::Drawn { .. } | Content::Copy { .. }) | None => 0,
        }
    }

    /// The slot was drawn as frame `frame` of a view.
    pub fn drawn(&mut self, slot: SlotId, view: View, frame: u64) {
        self.slots.insert(slot, Content::Drawn { view, frame });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: (i32, i32) = (64, 64);

    fn bounds() -> Rect {
        Rect::from_size(BOUNDS.into())
    }

    fn rect(x: i32, y: i32, w: i32, h: i32) -> Rect {
        Rect::new((x, y).into(), (w, h).into())
    }

    fn slot(index: u16) -> SlotId {
        SlotId {
            index,
            generation: 1,
        }
    }

    #[test]
    fn a_slot_is_copied_in_full_once_and_then_only_what_it_lacks() {
        let mut slots = SlotContents::default();
        assert_eq!(slots.copy(slot(0), None, bounds()), [bounds()]);
        slots.primary_changed(&[rect(1, 1, 2, 2)], bounds());
        assert_eq!(slots.copy(slot(1), None, bounds()), [bounds()]);
        slots.primary_changed(&[rect(9, 9, 2, 2)], bounds());
        assert_eq!(
            slots.copy(slot(0), None, bounds()),
            [rect(1, 1, 2, 2), rect(9, 9, 2, 2)]
        );
        assert_eq!(slots.copy(slot(1), None, bounds()), [rect(9, 9, 2, 2)]);
        assert_eq!(slots.copy(slot(1), None, bounds()), []);
    }

    #[test]
    fn the_place_of_a_blended_cursor_is_copied_again() {
        let mut slots = SlotContents::default();
        slots.copy(slot(0), Some(rect(-4, 60, 8, 8)), bounds());
        assert_eq!(slots.copy(slot(0), None, bounds()), [rect(0, 60, 4, 4)]);
    }

    #[test]
    fn what_somebody_else_wrote_is_unknown() {
        let mut slots = SlotContents::default();
        slots.copy(slot(0), None, bounds());
        slots.forget(slot(0));
        assert_eq!(slots.copy(slot(0), None, bounds()), [bounds()]);
        slots.drawn(slot(0), View::WithCursor, 3);
        assert_eq!(slots.age(slot(0), View::WithCursor, 5), 3);
        assert_eq!(slots.age(slot(0), View::WithoutCursor, 5), 0);
        assert_eq!(slots.copy(slot(0), None, bounds()), [bounds()]);
        assert_eq!(slots.age(slot(0), View::WithCursor, 5), 0);
    }
}
