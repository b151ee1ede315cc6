//! Pictures: deterministic patterns that tell their own number, comparison in words, PNG files.
//! Pixels are XRGB8888 as a `u32` each; the upper byte is no part of the picture.

use std::{collections::BTreeSet, fs::File, io::BufWriter, path::Path};

use anyhow::{ensure, Context, Result};

/// A rectangle in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rect {
    /// Left edge.
    pub x: i32,
    /// Upper edge.
    pub y: i32,
    /// Width.
    pub width: i32,
    /// Height.
    pub height: i32,
}

impl Rect {
    /// A rectangle.
    pub fn new(x: i32, y: i32, width: i32, height: i32) -> Self {
        Self {
            x,
            y,
            width,
            height,
        }
    }

    /// Whether a pixel lies inside.
    pub fn contains(&self, x: i32, y: i32) -> bool {
        x >= self.x && y >= self.y && x < self.x + self.width && y < self.y + self.height
    }
}

/// A picture in memory, lines without padding.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// `width * height` pixels.
    pub pixels: Vec<u32>,
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Picture {}x{} of {:?}",
            self.width,
            self.height,
            identify(self)
        )
    }
}

/// The pattern number `n`: see [`pattern_picture`].
pub fn pattern(n: u32, width: u32, height: u32) -> Vec<u32> {
    let shift = n.wrapping_mul(3).wrapping_add(29 * (n >> 8));
    let code = code(n);
    let mut pixels = Vec::with_capacity(width as usize * height as usize);
    for y in 0..height {
        for x in 0..width {
            let red = x.wrapping_add(shift) & 0xff;
            let green = y.wrapping_add(shift) & 0x7f | ((code >> (x % 64)) as u32 & 1) << 7;
            let blue = (x ^ y).wrapping_add(shift) & 0xff;
            pixels.push(red << 16 | green << 8 | blue);
        }
    }
    pixels
}

/// A picture in which every pixel depends on `n`, x and y, and which says its number: the upper bit
/// of green of any 64 pixels beginning at a multiple of 64 is `n` and a checksum of it.
pub fn pattern_picture(n: u32, width: u32, height: u32) -> Picture {
    Picture {
        width,
        height,
        pixels: pattern(n, width, height),
    }
}

fn code(n: u32) -> u64 {
    u64::from(n) << 32 | u64::from(checksum(n))
}

fn checksum(n: u32) -> u32 {
    let mixed = (n ^ n >> 16).wrapping_mul(0x7feb_352d) ^ 0x5bd1_e995;
    (mixed ^ mixed >> 15).wrapping_mul(0x846c_a68b)
}

/// The number of the pattern that a picture shows: the one with the most lines.
pub fn identify(picture: &Picture) -> Option<u32> {
    let mut numbers: Vec<u32> = groups(picture).collect();
    numbers.sort_unstable();
    numbers
        .chunk_by(|a, b| a == b)
        .max_by_key(|same| same.len())
        .map(|same| same[0])
}

/// All numbers that can be read in a picture: more than one means that it is torn or that only a part was
/// drawn anew.
pub fn identify_all(picture: &Picture) -> BTreeSet<u32> {
    groups(picture).collect()
}

fn groups(picture: &Picture) -> impl Iterator<Item = u32> + '_ {
    let lines = picture.pixels.chunks_exact(picture.width.max(1) as usize);
    lines
        .flat_map(|line| line.chunks_exact(64))
        .filter_map(|group| {
            let code = group.iter().enumerate().fold(0, |code, (bit, pixel)| {
                code | u64::from(pixel >> 15 & 1) << bit
            });
            let n = (code >> 32) as u32;
            (checksum(n) == code as u32).then_some(n)
        })
}

impl Picture {
    /// A picture of one colour.
    pub fn filled(width: u32, height: u32, colour: u32) -> Self {
        Self {
            width,
            height,
            pixels: vec![colour; width as usize * height as usize],
        }
    }

    /// From lines of little-endian 32-bit pixels. None if `bytes` are too few.
    pub fn from_lines(bytes: &[u8], width: u32, height: u32, stride: u32) -> Option<Self> {
        let mut pixels = Vec::with_capacity(width as usize * height as usize);
        for y in 0..height as usize {
            let start = y * stride as usize;
            let line = bytes.get(start..start + width as usize * 4)?;
            pixels.extend(
                line.chunks_exact(4)
                    .map(|p| u32::from_le_bytes([p[0], p[1], p[2], 0])),
            );
        }
        Some(Self {
            width,
            height,
            pixels,
        })
    }

    /// Writes lines of little-endian 32-bit pixels, opaque.
    pub fn to_lines(&self, bytes: &mut [u8], stride: u32) {
        let width = self.width.max(1) as usize;
        for (y, line) in self.pixels.chunks_exact(width).enumerate() {
            let out = &mut bytes[y * stride as usize..][..width * 4];
            for (out, pixel) in out.chunks_exact_mut(4).zip(line) {
                out.copy_from_slice(&(pixel | 0xff00_0000).to_le_bytes());
            }
        }
    }

    /// The bytes B, G, R, 0xff of all pixels: what a framebuffer of this picture holds.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.pixels
            .iter()
            .flat_map(|pixel| (pixel | 0xff00_0000).to_le_bytes())
            .collect()
    }

    /// Colour of one pixel, 0xRRGGBB.
    pub fn at(&self, x: u32, y: u32) -> u32 {
        self.pixels[y as usize * self.width as usize + x as usize] & 0x00ff_ffff
    }

    /// Copies `rect` of `other` (of the same size) into this picture.
    pub fn paste(&mut self, other: &Picture, rect: Rect) {
        for y in rect.y.max(0)..(rect.y + rect.height).min(self.height as i32) {
            for x in rect.x.max(0)..(rect.x + rect.width).min(self.width as i32) {
                let index = y as usize * self.width as usize + x as usize;
                self.pixels[index] = other.pixels[index];
            }
        }
    }

    /// Puts a smaller picture on top, its upper left corner at `(x, y)`, clipped.
    pub fn overlay(&mut self, other: &Picture, x: i32, y: i32) {
        for oy in 0..other.height {
            for ox in 0..other.width {
                let (px, py) = (x + ox as i32, y + oy as i32);
                if px >= 0 && py >= 0 && px < self.width as i32 && py < self.height as i32 {
                    let index = py as usize * self.width as usize + px as usize;
                    self.pixels[index] = other.at(ox, oy);
                }
            }
        }
    }

    /// What is different, in words; None if every pixel's colour is the same.
    pub fn difference(&self, other: &Picture) -> Option<String> {
        if (self.width, self.height) != (other.width, other.height) {
            return Some(format!("{self:?} and {other:?} differ in size"));
        }
        let different = |i: &usize| (self.pixels[*i] ^ other.pixels[*i]) & 0x00ff_ffff != 0;
        let wrong: Vec<usize> = (0..self.pixels.len()).filter(different).collect();
        let &first = wrong.first()?;
        let width = self.width as usize;
        let (min_x, max_x) = wrong
            .iter()
            .map(|i| i % width)
            .fold((width, 0), |(min, max), x| (min.min(x), max.max(x)));
        Some(format!(
            "{} of {} pixels differ, within columns {min_x} to {max_x} and lines {} to {}; the \
             first at ({}, {}): {:06x} and {:06x}; {self:?} and {other:?}",
            wrong.len(),
            self.pixels.len(),
            first / width,
            wrong[wrong.len() - 1] / width,
            first % width,
            first / width,
            self.pixels[first] & 0x00ff_ffff,
            other.pixels[first] & 0x00ff_ffff,
        ))
    }

    /// Fails the test with [`Self::difference`].
    #[track_caller]
    pub fn assert_same(&self, other: &Picture, what: &str) {
        if let Some(difference) = self.difference(other) {
            panic!("{what}: {difference}");
        }
    }

    fn rgb(&self) -> Vec<u8> {
        let rgb = |p: &u32| [(p >> 16) as u8, (p >> 8) as u8, *p as u8];
        self.pixels.iter().flat_map(rgb).collect()
    }
}

/// Writes a PNG file.
pub fn write_png(path: &Path, picture: &Picture) -> Result<()> {
    write_apng(path, std::slice::from_ref(picture), 1)
}

/// Writes an animated PNG that repeats for ever; each picture stays for `delay_ms`.
pub fn write_apng(path: &Path, pictures: &[Picture], delay_ms: u16) -> Result<()> {
    let first = pictures.first().context("no picture to write")?;
    let file = File::create(path).with_context(|| path.display().to_string())?;
    let mut encoder = png::Encoder::new(BufWriter::new(file), first.width, first.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    if pictures.len() > 1 {
        encoder.set_animated(pictures.len() as u32, 0)?;
        encoder.set_frame_delay(delay_ms, 1000)?;
    }
    let mut writer = encoder.write_header()?;
    for picture in pictures {
        let same = (picture.width, picture.height) == (first.width, first.height);
        ensure!(
            same,
            "pictures of different sizes: {first:?} and {picture:?}"
        );
        writer.write_image_data(&picture.rgb())?;
    }
    Ok(writer.finish()?)
}
