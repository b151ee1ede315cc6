//! Pairing things of two kinds: as many pairs as possible, and among these the pairs with the greatest gain.
//!
//! Knows nothing of displays. Sizes are small (connectors, CRTCs, planes), so clarity goes before speed.

/// For each of `left` things, the index of its partner among `right` things. `gain` is none where a pair is impossible.
///
/// The result has the greatest possible number of pairs and, of those, the greatest sum of gains.
pub(crate) fn best_matching(
    left: usize,
    right: usize,
    gain: impl Fn(usize, usize) -> Option<i64>,
) -> Vec<Option<usize>> {
    let mut partner_of_left: Vec<Option<usize>> = vec![None; left];
    let mut partner_of_right: Vec<Option<usize>> = vec![None; right];
    // Each round adds one pair along the best alternating path, so that every prefix is the best of its size.
    while let Some(path) = best_path(&partner_of_left, &partner_of_right, &gain) {
        for (l, r) in path {
            if let Some(slot) = partner_of_left.get_mut(l) {
                *slot = Some(r);
            }
            if let Some(slot) = partner_of_right.get_mut(r) {
                *slot = Some(l);
            }
        }
    }
    partner_of_left
}

/// The new pairs of the best alternating path from a single left thing to a single right one; none if there is no path.
fn best_path(
    partner_of_left: &[Option<usize>],
    partner_of_right: &[Option<usize>],
    gain: &impl Fn(usize, usize) -> Option<i64>,
) -> Option<Vec<(usize, usize)>> {
    let left = partner_of_left.len();
    // For each left thing: the gain of the best way to make it single, and who takes its partner then.
    let mut reach: Vec<Option<(i64, Option<usize>)>> = partner_of_left
        .iter()
        .map(|partner| {
            if partner.is_none() {
                Some((0, None))
            } else {
                None
            }
        })
        .collect();
    for _ in 0..left {
        for l in 0..left {
            let Some(Some((so_far, _))) = reach.get(l).copied() else {
                continue;
            };
            for (r, &holder) in partner_of_right.iter().enumerate() {
                let Some(holder) = holder.filter(|&holder| holder != l) else {
                    continue;
                };
                let (Some(won), Some(lost)) = (gain(l, r), gain(holder, r)) else {
                    continue;
                };
                let total = so_far + won - lost;
                if let Some(entry) = reach.get_mut(holder) {
                    if entry.is_none_or(|(best, _)| total > best) {
                        *entry = Some((total, Some(l)));
                    }
                }
            }
        }
    }
    let singles = || {
        partner_of_right
            .iter()
            .enumerate()
            .filter(|(_, holder)| holder.is_none())
    };
    let (_, mut l, mut r) = (0..left)
        .filter_map(|l| Some((l, reach.get(l).copied().flatten()?.0)))
        .flat_map(|(l, so_far)| {
            singles().filter_map(move |(r, _)| Some((so_far + gain(l, r)?, l, r)))
        })
        // The first of equals, so that the result does not depend on anything but the order of things.
        .reduce(|best, next| if next.0 > best.0 { next } else { best })?;
    let mut path = vec![(l, r)];
    while let Some((_, Some(previous))) = reach.get(l).copied().flatten() {
        r = partner_of_left.get(l).copied().flatten()?;
        l = previous;
        path.push((l, r));
        if path.len() > left {
            debug_assert!(false, "a best path has no circle");
            return None;
        }
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, clippy::expect_used)]
    use super::*;
    use proptest::prelude::*;

    type Gains = Vec<Vec<Option<i64>>>;

    /// All matchings, tried one by one: (number of pairs, sum of gains) of the best.
    fn by_force(gains: &Gains, l: usize, used: u32) -> (usize, i64) {
        let Some(row) = gains.get(l) else {
            return (0, 0);
        };
        let mut best = by_force(gains, l + 1, used);
        for (r, gain) in row.iter().enumerate() {
            if let (Some(gain), 0) = (gain, used & (1 << r)) {
                let (pairs, sum) = by_force(gains, l + 1, used | (1 << r));
                best = best.max((pairs + 1, sum + gain));
            }
        }
        best
    }

    fn gains() -> impl Strategy<Value = Gains> {
        (0usize..6, 0usize..6).prop_flat_map(|(l, r)| {
            let gain = proptest::option::weighted(0.6, -20i64..20);
            proptest::collection::vec(proptest::collection::vec(gain, r), l)
        })
    }

    proptest! {
        #[test]
        fn no_other_matching_is_larger_or_gains_more(gains in gains()) {
            let right = gains.first().map_or(0, Vec::len);
            let found = best_matching(gains.len(), right, |l, r| gains[l][r]);
            let mut used = 0u32;
            let (mut pairs, mut sum) = (0, 0);
            for (l, r) in found.iter().enumerate() {
                if let Some(r) = r {
                    prop_assert_eq!(used & (1 << r), 0, "{} has two partners", r);
                    used |= 1 << r;
                    pairs += 1;
                    sum += gains[l][*r].expect("only possible pairs");
                }
            }
            prop_assert_eq!((pairs, sum), by_force(&gains, 0, 0));
        }
    }
}
