//! Which pixels of an output's frames a region in logical coordinates is.

use smithay::{
    output::Output,
    utils::{Logical, Physical, Rectangle, Size, Transform},
};

use crate::geometry::Rect;

/// The part of the output's frames that shows this region, clipped to the output; `None` if nothing is left of it or
/// the output has no mode.
///
/// Frames are what the display controller reads: before the output's transform, in pixels of the mode.
pub(super) fn of_region(output: &Output, region: [i32; 4]) -> Option<Rect> {
    let mode = output.current_mode()?.size;
    let scale = output.current_scale().fractional_scale();
    in_frame(mode, output.current_transform(), scale, region)
}

/// All pixels of the output's frames; `None` while it has no mode.
pub(super) fn of_output(output: &Output) -> Option<Rect> {
    let mode = output.current_mode()?.size;
    (mode.w > 0 && mode.h > 0).then(|| Rect::from_size((mode.w, mode.h).into()))
}

fn in_frame(
    mode: Size<i32, Physical>,
    transform: Transform,
    scale: f64,
    [x, y, width, height]: [i32; 4],
) -> Option<Rect> {
    if width <= 0 || height <= 0 {
        return None;
    }
    let upright = transform.transform_size(mode);
    let logical: Size<i32, Logical> = upright.to_f64().to_logical(scale).to_i32_ceil();
    let (left, right) = span(x, width, logical.w, scale, upright.w)?;
    let (top, bottom) = span(y, height, logical.h, scale, upright.h)?;
    let shown: Rectangle<i32, Physical> =
        Rectangle::new((left, top).into(), (right - left, bottom - top).into());
    let raw = transform.invert().transform_rect_in(shown, &upright);
    Some(Rect::new(
        (raw.loc.x, raw.loc.y).into(),
        (raw.size.w, raw.size.h).into(),
    ))
}

/// One axis, from logical to physical: first and last edge, each rounded for itself so that neighbouring regions meet,
/// and at least one pixel apart. Clients choose the values: computed in 64 bits.
fn span(start: i32, length: i32, logical: i32, scale: f64, pixels: i32) -> Option<(i32, i32)> {
    let from = i64::from(start).clamp(0, i64::from(logical));
    let to = (i64::from(start) + i64::from(length)).clamp(0, i64::from(logical));
    if from >= to {
        return None;
    }
    let edge = |at: i64| ((at as f64 * scale).round() as i32).clamp(0, pixels);
    let first = edge(from).min(pixels - 1);
    Some((first, edge(to).max(first + 1)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn area(transform: Transform, scale: f64, region: [i32; 4]) -> Option<[i32; 4]> {
        in_frame((64, 48).into(), transform, scale, region)
            .map(|r| [r.loc.x, r.loc.y, r.size.w, r.size.h])
    }

    #[test]
    fn a_region_is_clipped_to_the_output() {
        let at = |region| area(Transform::Normal, 1.0, region);
        assert_eq!(at([10, 20, 5, 4]), Some([10, 20, 5, 4]));
        assert_eq!(at([-10, -20, 15, 24]), Some([0, 0, 5, 4]));
        assert_eq!(at([60, 40, 100, 100]), Some([60, 40, 4, 8]));
        assert_eq!(at([i32::MIN, 0, i32::MAX, 1]), None);
        assert_eq!(at([0, 0, i32::MAX, i32::MAX]), Some([0, 0, 64, 48]));
        assert_eq!(at([i32::MAX, i32::MAX, i32::MAX, i32::MAX]), None);
        for nothing in [[64, 0, 1, 1], [0, 48, 1, 1], [0, 0, 0, 1], [0, 0, 1, -1]] {
            assert_eq!(at(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn a_scale_multiplies_and_neighbours_meet() {
        assert_eq!(
            area(Transform::Normal, 2.0, [1, 2, 3, 4]),
            Some([2, 4, 6, 8])
        );
        let left = area(Transform::Normal, 1.5, [0, 0, 3, 1]).unwrap();
        let right = area(Transform::Normal, 1.5, [3, 0, 3, 1]).unwrap();
        assert_eq!(left[0] + left[2], right[0]);
        // 48 / 1.5 and 64 / 1.5 logical pixels: the last column is half a logical one.
        assert_eq!(
            area(Transform::Normal, 1.5, [0, 0, 43, 32]),
            Some([0, 0, 64, 48])
        );
    }

    #[test]
    fn a_transform_leads_to_the_pixels_that_the_controller_reads() {
        // wl_output: 90 is counter-clockwise. What is upright's top left lies at the bottom left of the buffer.
        let corner = [0, 0, 2, 3];
        assert_eq!(area(Transform::_90, 1.0, corner), Some([0, 46, 3, 2]));
        assert_eq!(area(Transform::_180, 1.0, corner), Some([62, 45, 2, 3]));
        assert_eq!(area(Transform::_270, 1.0, corner), Some([61, 0, 3, 2]));
        assert_eq!(area(Transform::Flipped, 1.0, corner), Some([62, 0, 2, 3]));
        for transform in [
            Transform::_90,
            Transform::Flipped90,
            Transform::Flipped180,
            Transform::Flipped270,
        ] {
            assert_eq!(
                area(transform, 1.0, [0, 0, 64, 64]),
                Some([0, 0, 64, 48]),
                "{transform:?}"
            );
        }
    }
}
