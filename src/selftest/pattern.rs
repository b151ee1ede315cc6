//! The known pictures, and how a captured one is held against them. Pure.

use crate::kms::canary::Layout;

/// So many different pictures there are; one more begins again.
pub(super) const KINDS: usize = 8;

/// The pixel of picture `kind` as XRGB8888 in memory order: blue, green, red, 0xff. Flat pictures find a wrong range or
/// bit depth, gradients rounding, noise a wrong stride or order, and all differ from each other in each row.
fn pixel(kind: usize, x: u32, y: u32, layout: Layout) -> [u8; 4] {
    let low = |n: u32| n.to_le_bytes()[0];
    let mark = low(u32::try_from(kind).unwrap_or(0).wrapping_mul(29));
    // The left edge of each row tells the pictures apart.
    if x < 8 {
        return [mark, low(y), mark ^ 0xff, 0xff];
    }
    let [b, g, r] = match kind % KINDS {
        0 => [0, 0, 0],
        1 => [0xff, 0xff, 0xff],
        2 => [low(x), low(y), low(x ^ y)],
        3 => {
            let scaled = |n: u32, of: u32| low((n * 255).checked_div(of.max(1)).unwrap_or(0));
            [scaled(x, layout.width), scaled(y, layout.height), 0x80]
        }
        4 if (x / 16 + y / 16).is_multiple_of(2) => [0xff, 0, 0],
        4 => [0, 0xff, 0xff],
        _ => {
            let seed = x.wrapping_mul(0x9e37_79b1) ^ y.wrapping_mul(0x85eb_ca77);
            let [b, g, r, _] = (seed ^ u32::from(mark))
                .wrapping_mul(0xc2b2_ae35)
                .to_le_bytes();
            [b, g, r]
        }
    };
    [b, g, r, 0xff]
}

/// Paints picture `kind`.
pub(super) fn paint(bytes: &mut [u8], layout: Layout, kind: usize) {
    for y in 0..layout.height {
        let Some(row) = row_mut(bytes, layout, y) else {
            return;
        };
        for (x, to) in (0..).zip(row.as_chunks_mut::<4>().0) {
            *to = pixel(kind, x, y, layout);
        }
    }
}

/// The greatest difference of a colour channel between the bytes and picture `kind`, in every `step`th row; 255 also for
/// memory that is too short.
pub(super) fn difference(bytes: &[u8], layout: Layout, kind: usize, step: usize) -> u8 {
    let mut greatest = 0;
    for y in (0..layout.height).step_by(step.max(1)) {
        let Some(row) = row(bytes, layout, y) else {
            return u8::MAX;
        };
        for (x, have) in (0..).zip(row.as_chunks::<4>().0) {
            let want = pixel(kind, x, y, layout);
            // The fourth byte means nothing.
            for (have, want) in have.iter().zip(want).take(3) {
                greatest = greatest.max(have.abs_diff(want));
            }
        }
    }
    greatest
}

/// The rows without padding, for checksums.
pub(super) fn packed(bytes: &[u8], layout: Layout) -> Vec<u8> {
    (0..layout.height)
        .filter_map(|y| row(bytes, layout, y))
        .flatten()
        .copied()
        .collect()
}

fn span(layout: Layout, y: u32) -> std::ops::Range<usize> {
    let start = layout.offset as usize + layout.stride as usize * y as usize;
    start..start + layout.width as usize * 4
}

fn row(bytes: &[u8], layout: Layout, y: u32) -> Option<&[u8]> {
    bytes.get(span(layout, y))
}

fn row_mut(bytes: &mut [u8], layout: Layout, y: u32) -> Option<&mut [u8]> {
    bytes.get_mut(span(layout, y))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "tests fail by panicking")]

    use super::*;

    const LAYOUT: Layout = Layout {
        width: 64,
        height: 32,
        stride: 300,
        offset: 12,
    };

    fn painted(kind: usize) -> Vec<u8> {
        let mut bytes = vec![7; 12 + 300 * 32];
        paint(&mut bytes, LAYOUT, kind);
        bytes
    }

    #[test]
    fn each_picture_is_itself_and_none_of_the_others_in_any_row() {
        for a in 0..KINDS {
            let bytes = painted(a);
            for b in 0..KINDS {
                let differs = difference(&bytes, LAYOUT, b, 1);
                assert_eq!(differs == 0, a == b, "{a} and {b}: {differs}");
                assert_eq!(
                    difference(&bytes, LAYOUT, b, 31) == 0,
                    a == b,
                    "{a} and {b}"
                );
            }
        }
    }

    #[test]
    fn one_wrong_pixel_is_found_and_its_fourth_byte_means_nothing() {
        let mut bytes = painted(5);
        let at = 12 + 300 * 20 + 4 * 63;
        bytes[at + 3] = 0;
        assert_eq!(difference(&bytes, LAYOUT, 5, 1), 0);
        bytes[at + 1] ^= 2;
        assert_eq!(difference(&bytes, LAYOUT, 5, 1), 2);
        assert_eq!(difference(&bytes[..at], LAYOUT, 5, 1), u8::MAX);
    }

    #[test]
    fn packed_rows_have_no_padding() {
        let packed = packed(&painted(2), LAYOUT);
        assert_eq!(packed.len(), 64 * 32 * 4);
        assert!(!packed.windows(4).any(|four| four == [7; 4]));
    }
}
