//! The pixels' way from a frame to a target: row by row, converted where the formats differ.

use drm_fourcc::{DrmFourcc, DrmModifier};

use crate::{
    capture::{
        copy::{CopyError, CopyReport, TargetLayout},
        damage::clip,
        frame::FrameFormat,
    },
    geometry::Rect,
};

/// What is done to each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Conversion {
    bytes_per_pixel: usize,
    /// Red and blue change places.
    swap: bool,
    /// The source's fourth byte is no alpha, but the target's is.
    opaque: bool,
}

/// Byte order and alpha of the 32-bit formats that are converted into each other.
fn order_and_alpha(fourcc: DrmFourcc) -> Option<(bool, bool)> {
    match fourcc {
        DrmFourcc::Xrgb8888 => Some((false, false)),
        DrmFourcc::Argb8888 => Some((false, true)),
        DrmFourcc::Xbgr8888 => Some((true, false)),
        DrmFourcc::Abgr8888 => Some((true, true)),
        _ => None,
    }
}

/// Whether it is one of those that are converted into each other.
pub(super) fn is_plain(fourcc: DrmFourcc) -> bool {
    order_and_alpha(fourcc).is_some()
}

/// Sizes of the formats that writeback connectors offer but that are only copied as they are.
fn bytes_per_pixel(fourcc: DrmFourcc) -> Option<usize> {
    match fourcc {
        DrmFourcc::Rgb565 | DrmFourcc::Bgr565 => Some(2),
        DrmFourcc::Rgb888 | DrmFourcc::Bgr888 => Some(3),
        DrmFourcc::Xrgb2101010
        | DrmFourcc::Argb2101010
        | DrmFourcc::Xbgr2101010
        | DrmFourcc::Abgr2101010 => Some(4),
        DrmFourcc::Xrgb16161616f
        | DrmFourcc::Argb16161616f
        | DrmFourcc::Xbgr16161616f
        | DrmFourcc::Abgr16161616f => Some(8),
        other => order_and_alpha(other).map(|_| 4),
    }
}

fn conversion(from: DrmFourcc, to: DrmFourcc) -> Option<Conversion> {
    if from == to {
        let bytes_per_pixel = bytes_per_pixel(from)?;
        return Some(Conversion {
            bytes_per_pixel,
            swap: false,
            opaque: false,
        });
    }
    let (source, target) = (order_and_alpha(from)?, order_and_alpha(to)?);
    Some(Conversion {
        bytes_per_pixel: 4,
        swap: source.0 != target.0,
        opaque: !source.1 && target.1,
    })
}

/// Whether frames of format `from` can be copied into buffers of format `to`: the same one, or any two of `XRGB8888`,
/// `ARGB8888`, `XBGR8888` and `ABGR8888`.
pub fn can_convert(from: DrmFourcc, to: DrmFourcc) -> bool {
    conversion(from, to).is_some()
}

/// A copy whose formats and sizes fit. Made before the bytes are at hand, so that a wrong buffer is refused without
/// mapping anything.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    conversion: Conversion,
    from: FrameFormat,
    /// What is copied of the frame; inside of it.
    area: Rect,
    to: TargetLayout,
}

impl Plan {
    pub fn new(from: FrameFormat, area: Rect, to: TargetLayout) -> Result<Self, CopyError> {
        let wrong = |what: String| Err(CopyError::BufferConstraints(what));
        if clip(area, from.full()) != Some(area) {
            return wrong(format!(
                "it shows {area:?}, the frame is {}x{}",
                from.width, from.height
            ));
        }
        let size = (u32::try_from(area.size.w), u32::try_from(area.size.h));
        if size != (Ok(to.width), Ok(to.height)) {
            return wrong(format!(
                "it is {}x{}, the frame is {}x{}",
                to.width, to.height, area.size.w, area.size.h
            ));
        }
        let Some(conversion) = conversion(from.fourcc, to.fourcc) else {
            return wrong(format!("{} cannot be made of {}", to.fourcc, from.fourcc));
        };
        // Ring buffers of drivers without modifiers are called Invalid although they are linear.
        if !matches!(from.modifier, DrmModifier::Linear | DrmModifier::Invalid) {
            return wrong(format!(
                "frames with the layout {:?} are not copied",
                from.modifier
            ));
        }
        let row = u64::from(to.width) * conversion.bytes_per_pixel as u64;
        if u64::from(to.stride) < row {
            return wrong(format!(
                "its stride is {} bytes, a row has {row}",
                to.stride
            ));
        }
        Ok(Self {
            conversion,
            from,
            area,
            to,
        })
    }

    /// Copies the rectangles. Nothing is written if one of the two is too short for the picture.
    pub fn run(
        &self,
        source: &[u8],
        target: &mut [u8],
        rects: &[Rect],
    ) -> Result<CopyReport, CopyError> {
        let (needs, has) = (
            self.extent(self.to.offset, self.to.stride),
            target.len() as u64,
        );
        if has < needs {
            let what = format!("it has {has} bytes and needs {needs}");
            return Err(CopyError::BufferConstraints(what));
        }
        let mut report = CopyReport::default();
        for rect in rects.iter().filter_map(|rect| clip(*rect, self.area)) {
            let bytes = self.copy_rect(source, target, rect).ok_or_else(|| {
                std::io::Error::new(
                    std::io::ErrorKind::UnexpectedEof,
                    "the memory of the frame is shorter than its format says",
                )
            })?;
            report.bytes += bytes;
            report.rects += 1;
        }
        Ok(report)
    }

    /// Whether the target has an alpha channel that the frame does not have: it becomes opaque.
    pub fn fills_alpha(&self) -> bool {
        self.conversion.opaque
    }

    /// What a copy of these rectangles by somebody else is; they are inside of the area.
    pub fn report(&self, rects: &[Rect]) -> CopyReport {
        let side = |n: i32| u64::try_from(n).unwrap_or(0);
        let pixels = |rect: &Rect| side(rect.size.w) * side(rect.size.h);
        CopyReport {
            bytes: rects.iter().map(pixels).sum::<u64>() * self.conversion.bytes_per_pixel as u64,
            rects: u32::try_from(rects.len()).unwrap_or(u32::MAX),
            gpu: true,
        }
    }

    /// Bytes from the start of the memory to the end of the last pixel.
    fn extent(&self, offset: u32, stride: u32) -> u64 {
        let row = u64::from(self.to.width) * self.conversion.bytes_per_pixel as u64;
        let rows = u64::from(self.to.height.saturating_sub(1)) * u64::from(stride);
        u64::from(offset) + rows + row
    }

    fn copy_rect(&self, source: &[u8], target: &mut [u8], rect: Rect) -> Option<u64> {
        let bpp = self.conversion.bytes_per_pixel;
        let (x, y) = (
            usize::try_from(rect.loc.x).ok()?,
            usize::try_from(rect.loc.y).ok()?,
        );
        let (w, h) = (
            usize::try_from(rect.size.w).ok()?,
            usize::try_from(rect.size.h).ok()?,
        );
        let (left, top) = (
            usize::try_from(self.area.loc.x).ok()?,
            usize::try_from(self.area.loc.y).ok()?,
        );
        let start = |offset: u32, stride: u32, x: usize, y: usize| {
            y.checked_mul(usize::try_from(stride).ok()?)?
                .checked_add(usize::try_from(offset).ok()?)?
                .checked_add(x.checked_mul(bpp)?)
        };
        let length = w.checked_mul(bpp)?;
        for row in y..y.checked_add(h)? {
            let from = start(self.from.offset, self.from.stride, x, row)?;
            let (x, row) = (x.checked_sub(left)?, row.checked_sub(top)?);
            let to = start(self.to.offset, self.to.stride, x, row)?;
            let from = source.get(from..from.checked_add(length)?)?;
            let to = target.get_mut(to..to.checked_add(length)?)?;
            copy_row(from, to, self.conversion);
        }
        Some(u64::try_from(length).ok()? * u64::try_from(h).ok()?)
    }
}

/// Both have the same length.
fn copy_row(from: &[u8], to: &mut [u8], conversion: Conversion) {
    match (conversion.swap, conversion.opaque) {
        (false, false) => to.copy_from_slice(from),
        (false, true) => each_pixel(from, to, |pixel| pixel | 0xff00_0000),
        (true, false) => each_pixel(from, to, swap_red_and_blue),
        (true, true) => each_pixel(from, to, |pixel| swap_red_and_blue(pixel) | 0xff00_0000),
    }
}

fn swap_red_and_blue(pixel: u32) -> u32 {
    (pixel & 0xff00_ff00) | ((pixel >> 16) & 0xff) | ((pixel & 0xff) << 16)
}

/// DRM's formats are little-endian words whatever the machine is.
fn each_pixel(from: &[u8], to: &mut [u8], convert: impl Fn(u32) -> u32) {
    for (from, to) in from
        .as_chunks::<4>()
        .0
        .iter()
        .zip(to.as_chunks_mut::<4>().0)
    {
        *to = convert(u32::from_le_bytes(*from)).to_le_bytes();
    }
}
