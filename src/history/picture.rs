//! Pixels to PNG, row by row.

use std::io::{self, Write};

use drm_fourcc::DrmFourcc;

use crate::capture::FrameFormat;

/// Writes the picture, without alpha: a screen has none.
pub(super) fn encode(
    out: &mut impl Write,
    format: &FrameFormat,
    bytes: &[u8],
    texts: &[(&str, String)],
) -> io::Result<()> {
    let red_first = match format.fourcc {
        DrmFourcc::Xrgb8888 | DrmFourcc::Argb8888 => false,
        DrmFourcc::Xbgr8888 | DrmFourcc::Abgr8888 => true,
        other => {
            let what = format!("frames of format {other} cannot be written as PNG");
            return Err(io::Error::new(io::ErrorKind::Unsupported, what));
        }
    };
    let mut encoder = png::Encoder::new(out, format.width, format.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    // There is little time after a crash, and the slots are waited for.
    encoder.set_compression(png::Compression::Fast);
    for (keyword, text) in texts {
        encoder.add_text_chunk((*keyword).to_owned(), text.clone())?;
    }
    let mut writer = encoder.write_header()?;
    let mut stream = writer.stream_writer()?;
    let (width, stride) = (format.width as usize * 4, format.stride as usize);
    let mut row = Vec::with_capacity(format.width as usize * 3);
    for number in 0..format.height as usize {
        let start = format.offset as usize + number * stride;
        let pixels = bytes.get(start..start + width).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the memory of the frame is shorter than its format says",
            )
        })?;
        row.clear();
        for [first, green, third, _] in pixels.as_chunks::<4>().0 {
            let (red, blue) = if red_first {
                (first, third)
            } else {
                (third, first)
            };
            row.extend([*red, *green, *blue]);
        }
        stream.write_all(&row)?;
    }
    stream.finish()?;
    writer.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        reason = "tests fail by panicking"
    )]

    use drm_fourcc::DrmModifier;

    use super::*;

    fn format(fourcc: DrmFourcc) -> FrameFormat {
        FrameFormat {
            width: 2,
            height: 2,
            fourcc,
            modifier: DrmModifier::Linear,
            stride: 12,
            offset: 4,
        }
    }

    /// Two rows of two pixels, with an offset and a padded stride.
    const BYTES: [u8; 24] = [
        99, 99, 99, 99, 1, 2, 3, 0, 4, 5, 6, 0, 88, 88, 88, 88, 7, 8, 9, 0, 10, 11, 12, 0,
    ];

    fn decoded(fourcc: DrmFourcc) -> (Vec<u8>, Vec<(String, String)>) {
        let mut png = Vec::new();
        encode(
            &mut png,
            &format(fourcc),
            &BYTES,
            &[("Output", "DP-1".to_owned())],
        )
        .unwrap();
        let mut reader = png::Decoder::new(io::Cursor::new(png)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        let texts = &reader.info().uncompressed_latin1_text;
        let texts = texts
            .iter()
            .map(|chunk| (chunk.keyword.clone(), chunk.text.clone()));
        (pixels, texts.collect())
    }

    #[test]
    fn pixels_and_texts_come_back() {
        let (pixels, texts) = decoded(DrmFourcc::Xrgb8888);
        assert_eq!(pixels, [3, 2, 1, 6, 5, 4, 9, 8, 7, 12, 11, 10]);
        assert_eq!(texts, [("Output".to_owned(), "DP-1".to_owned())]);
        assert_eq!(
            decoded(DrmFourcc::Abgr8888).0,
            (1..=12).collect::<Vec<u8>>()
        );
    }

    #[test]
    fn what_is_too_short_or_of_another_format_is_refused() {
        let mut out = Vec::new();
        assert!(encode(&mut out, &format(DrmFourcc::Xrgb8888), &BYTES[..23], &[]).is_err());
        assert!(encode(&mut out, &format(DrmFourcc::Rgb565), &BYTES, &[]).is_err());
    }
}
