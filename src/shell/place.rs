//! Pure placement rules of the kiosk: numbers in, numbers out.

use smithay::utils::{Logical, Point, Rectangle, Size};

/// How a window uses its screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// The window gets the screen's size.
    Full,
    /// The window keeps its own size in the middle of the screen.
    Centred,
}

impl Placement {
    /// A window with a parent is a dialog, and so is one that says it cannot be resized (min = max, both given).
    pub fn of(has_parent: bool, min: Size<i32, Logical>, max: Size<i32, Logical>) -> Self {
        let fixed = min.w > 0 && min.h > 0 && min == max;
        if has_parent || fixed {
            Placement::Centred
        } else {
            Placement::Full
        }
    }
}

/// Where a window of `size` begins to be in the middle of `area`; a window that is too large begins in the corner.
pub fn centred(area: Rectangle<i32, Logical>, size: Size<i32, Logical>) -> Point<i32, Logical> {
    let middle = |room: i32, length: i32| room.saturating_sub(length).max(0) / 2;
    area.loc + Point::from((middle(area.size.w, size.w), middle(area.size.h, size.h)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area() -> Rectangle<i32, Logical> {
        Rectangle::new((100, 50).into(), (640, 480).into())
    }

    #[test]
    fn a_full_screen_window_begins_in_the_corner() {
        assert_eq!(centred(area(), (640, 480).into()), Point::from((100, 50)));
    }

    #[test]
    fn a_small_window_is_in_the_middle_and_a_huge_one_in_the_corner() {
        assert_eq!(centred(area(), (40, 80).into()), Point::from((400, 250)));
        assert_eq!(
            centred(area(), (i32::MAX, i32::MAX).into()),
            Point::from((100, 50))
        );
    }

    #[test]
    fn dialogs_keep_their_size() {
        let zero = Size::from((0, 0));
        assert_eq!(Placement::of(false, zero, zero), Placement::Full);
        assert_eq!(Placement::of(true, zero, zero), Placement::Centred);
        assert_eq!(
            Placement::of(false, (10, 10).into(), (10, 10).into()),
            Placement::Centred
        );
    }
}
