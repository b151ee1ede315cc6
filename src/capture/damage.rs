//! A bounded set of changed rectangles.

use crate::geometry::Rect;

/// So many rectangles are kept apart; beyond, the two that fit best become one. Copies and protocol messages cost per
/// rectangle, and a session that never asks must not make a list grow.
const MAX_RECTS: usize = 16;

/// A set of changed pixels as at most 16 rectangles inside of a picture's bounds. It never forgets a pixel that was
/// added; it may name more.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DamageSet {
    rects: Vec<Rect>,
}

impl DamageSet {
    /// Nothing has changed.
    pub const fn new() -> Self {
        Self { rects: Vec::new() }
    }

    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.rects.is_empty()
    }

    /// The rectangles; they may overlap.
    pub fn rects(&self) -> &[Rect] {
        &self.rects
    }

    /// Forgets all and returns what there was.
    pub fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// The rectangles themselves.
    pub fn into_rects(self) -> Vec<Rect> {
        self.rects
    }

    /// Adds the part of `rect` that lies inside of `bounds`. Any values are allowed in `rect`.
    pub fn add(&mut self, rect: Rect, bounds: Rect) {
        let Some(rect) = clip(rect, bounds) else {
            return;
        };
        if self.rects.iter().any(|have| have.contains_rect(rect)) {
            return;
        }
        self.rects.retain(|have| !rect.contains_rect(*have));
        if self.rects.len() < MAX_RECTS {
            self.rects.push(rect);
            return;
        }
        let best = self
            .rects
            .iter_mut()
            .min_by_key(|have| area(have.merge(rect)) - area(**have));
        if let Some(best) = best {
            *best = best.merge(rect);
        }
    }

    /// Adds the parts of all of `other`'s rectangles that lie inside of `bounds`.
    pub fn merge(&mut self, other: &DamageSet, bounds: Rect) {
        for rect in &other.rects {
            self.add(*rect, bounds);
        }
    }
}

/// The part of `rect` inside of `bounds`, if any. Computed in 64 bits: clients may send rectangles at the limits of i32.
pub(crate) fn clip(rect: Rect, bounds: Rect) -> Option<Rect> {
    let span = |start: i32, length: i32, low: i32, room: i32| {
        let from = i64::from(start).max(i64::from(low));
        let to = (i64::from(start) + i64::from(length)).min(i64::from(low) + i64::from(room));
        // Both lie inside of `bounds` when `from < to`, so that they fit again.
        (from < to).then(|| Some((i32::try_from(from).ok()?, i32::try_from(to - from).ok()?)))?
    };
    let (x, w) = span(rect.loc.x, rect.size.w, bounds.loc.x, bounds.size.w)?;
    let (y, h) = span(rect.loc.y, rect.size.h, bounds.loc.y, bounds.size.h)?;
    Some(Rect::new((x, y).into(), (w, h).into()))
}

fn area(rect: Rect) -> i64 {
    i64::from(rect.size.w) * i64::from(rect.size.h)
}
