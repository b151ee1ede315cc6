use proptest::prelude::*;

use super::*;

fn covered(set: &DamageSet, x: i32, y: i32) -> bool {
    set.rects().iter().any(|rect| rect.contains((x, y)))
}

proptest! {
    #[test]
    fn a_damage_set_is_bounded_and_forgets_no_pixel(
        rects in prop::collection::vec((-20..70i32, -20..70i32, -5..60i32, -5..60i32), 0..60),
    ) {
        let bounds = format().full();
        let mut set = DamageSet::new();
        let mut pixels = [[false; SIDE as usize]; SIDE as usize];
        for (x, y, w, h) in rects {
            // Smithay's sizes are not negative; clients' rectangles are refused before.
            let (w, h) = (w.max(0), h.max(0));
            set.add(rect(x, y, w, h), bounds);
            for row in y.max(0)..(y + h).min(SIDE as i32) {
                for column in x.max(0)..(x + w).min(SIDE as i32) {
                    pixels[row as usize][column as usize] = true;
                }
            }
        }
        prop_assert!(set.rects().len() <= 16);
        for rect in set.rects() {
            prop_assert!(bounds.contains_rect(*rect) && rect.size.w > 0 && rect.size.h > 0);
        }
        for (y, row) in pixels.iter().enumerate() {
            for (x, changed) in row.iter().enumerate() {
                prop_assert!(!changed || covered(&set, x as i32, y as i32));
            }
        }
    }
}

#[test]
fn rectangles_at_the_limits_of_i32_are_clipped() {
    let mut set = DamageSet::new();
    set.add(
        rect(i32::MIN, i32::MIN, i32::MAX, i32::MAX),
        format().full(),
    );
    assert!(set.is_empty());
    set.add(rect(i32::MAX, 0, i32::MAX, 1), format().full());
    assert!(set.is_empty());
    set.add(rect(-1, 60, i32::MAX, i32::MAX), format().full());
    assert_eq!(set.rects(), [rect(0, 60, 64, 4)]);
}
