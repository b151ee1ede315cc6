//! A pattern that proves whether a buffer was written: some pixels, spread over the picture, with values that depend on
//! the job. Pure: works on bytes.

use super::writeback::JobId;

/// Pixels in the pattern.
const PIXELS: u32 = 256;

/// Size of a pixel of the formats that the ring uses, in bytes.
const PIXEL_BYTES: usize = 4;

/// What is left of a canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CanaryState {
    /// All of it: nobody wrote.
    Intact,
    /// Some of it: the job was not completed.
    Partial,
    /// Nothing: the buffer was written.
    Gone,
}

/// Geometry of a buffer with four bytes per pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// Bytes from one row to the next.
    pub stride: u32,
    /// Bytes before the first row.
    pub offset: u32,
}

/// Writes the canary of `job`. Pixels that do not fit into `bytes` are left out.
pub fn write(bytes: &mut [u8], layout: Layout, job: JobId) {
    for (at, value) in pattern(layout, job) {
        if let Some(pixel) = bytes.get_mut(at..at + PIXEL_BYTES) {
            pixel.copy_from_slice(&value);
        }
    }
}

/// What is left of the canary of `job`. A picture that has one of its pixels by chance (1 of 2^24) counts as partial,
/// which is the safe side.
pub fn check(bytes: &[u8], layout: Layout, job: JobId) -> CanaryState {
    let mut left = 0u32;
    let mut all = 0u32;
    for (at, value) in pattern(layout, job) {
        all += 1;
        // The fourth byte of X formats is the writer's to choose, so three are compared.
        let (found, expected) = (bytes.get(at..at + 3), value.get(..3));
        left += u32::from(found.is_none() || found == expected);
    }
    match left {
        // A buffer without pixels proves nothing.
        0 if all > 0 => CanaryState::Gone,
        left if left == all => CanaryState::Intact,
        _ => CanaryState::Partial,
    }
}

/// Byte position and value of each pixel: rows evenly spread from the first to the last, columns as they fall.
fn pattern(layout: Layout, job: JobId) -> impl Iterator<Item = (usize, [u8; PIXEL_BYTES])> {
    let Layout {
        width,
        height,
        stride,
        offset,
    } = layout;
    let pixels = if width == 0 || height == 0 { 0 } else { PIXELS };
    let mut taken = std::collections::HashSet::new();
    (0..pixels).filter_map(move |n| {
        let random = splitmix64(job.0.wrapping_mul(0x1_0000).wrapping_add(u64::from(n)));
        let row = u64::from(n) * u64::from(height - 1) / u64::from(PIXELS - 1);
        let column = (random >> 32) % u64::from(width);
        let at = u64::from(offset) + row * u64::from(stride) + column * 4;
        let at = usize::try_from(at).ok().filter(|&at| taken.insert(at))?;
        Some((at, splitmix64(random).to_le_bytes().first_chunk().copied()?))
    })
}

/// The generator of that name: every input gives another, well-mixed output.
fn splitmix64(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_canary_is_seen_until_it_is_overwritten(
            width in 1u32..80, height in 1u32..80, padding in 0u32..16, job in any::<u64>(),
            color in any::<u8>(),
        ) {
            let layout = Layout { width, height, stride: (width + padding) * 4, offset: 0 };
            let mut bytes = vec![0u8; (layout.stride * height) as usize];
            let job = JobId(job);
            write(&mut bytes, layout, job);
            prop_assert_eq!(check(&bytes, layout, job), CanaryState::Intact);
            let half = bytes.len() / 2;
            if height > 1 {
                bytes.get_mut(half..).unwrap_or_default().fill(color);
                prop_assert_eq!(check(&bytes, layout, job), CanaryState::Partial);
            }
            bytes.fill(color);
            prop_assert_ne!(check(&bytes, layout, job), CanaryState::Intact);
        }
    }

    #[test]
    fn the_canary_of_another_job_is_none_of_this_job() {
        let layout = Layout {
            width: 640,
            height: 480,
            stride: 2560,
            offset: 0,
        };
        let mut bytes = vec![0u8; 2560 * 480];
        write(&mut bytes, layout, JobId(1));
        assert_eq!(check(&bytes, layout, JobId(2)), CanaryState::Gone);
        assert_eq!(check(&bytes, layout, JobId(1)), CanaryState::Intact);
    }

    #[test]
    fn memory_that_is_too_short_is_no_proof() {
        let layout = Layout {
            width: 640,
            height: 480,
            stride: 2560,
            offset: 0,
        };
        assert_eq!(check(&[], layout, JobId(1)), CanaryState::Intact);
    }
}
