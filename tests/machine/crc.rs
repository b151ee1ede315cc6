//! The CRTC's checksums from debugfs: what the display controller put on the screen, told by
//! nobody who drew it.

use std::{
    fs::{self, File},
    io::Read,
};

use anyhow::{Context, Result};

/// The checksum of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crc {
    /// The CRTC's vblank counter.
    pub frame: u32,
    /// See [`vkms_crc`].
    pub value: u32,
}

/// The checksum that vkms has for a frame of these pixels: XRGB8888 in memory order (B, G, R, X),
/// all lines without padding.
///
/// vkms sums what its composer holds before it writes anything back: four 16-bit channels a pixel,
/// A, R, G, B, A always opaque; the CRC is the kernel's `crc32_le` from 0, without final inversion.
pub fn vkms_crc(xrgb8888: &[u8]) -> u32 {
    let table = table();
    let step = |crc: u32, byte: u8| (crc >> 8) ^ table[usize::from(crc.to_le_bytes()[0] ^ byte)];
    let mut crc = 0;
    for pixel in xrgb8888.chunks_exact(4) {
        // 8 bits become 16 by repetition (times 257), so both bytes of a channel are the same.
        for channel in [0xff, pixel[2], pixel[1], pixel[0]] {
            crc = step(step(crc, channel), channel);
        }
    }
    crc
}

/// Of the reflected polynomial 0x04c11db7, one entry a byte.
fn table() -> [u32; 256] {
    std::array::from_fn(|byte| {
        (0..8).fold(byte as u32, |rest, _| {
            (rest >> 1) ^ if rest & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}

/// A CRTC whose frames are being summed, until this is dropped. At most 128 frames wait unread.
#[derive(Debug)]
pub struct CrcReader {
    data: File,
}

impl CrcReader {
    /// Starts summing. The CRTC must be on.
    pub(super) fn open(card: u32, crtc: usize) -> Result<Self> {
        let dir = format!("/sys/kernel/debug/dri/{card}/crtc-{crtc}/crc");
        fs::write(format!("{dir}/control"), "auto").with_context(|| format!("{dir}/control"))?;
        let data = File::open(format!("{dir}/data"))
            .with_context(|| format!("{dir}/data: is CRTC {crtc} on?"))?;
        Ok(Self { data })
    }

    /// The next frame's, waiting for it.
    pub fn next_frame(&mut self) -> Result<Crc> {
        // Each read gives one line (with a zero byte at its end), of 23 bytes here.
        let mut line = [0; 256];
        let length = self.data.read(&mut line).context("reading CRCs")?;
        let line = String::from_utf8_lossy(&line[..length]);
        parse(line.trim_end_matches('\0')).with_context(|| format!("not a CRC: {line:?}"))
    }
}

/// `0xFRAME 0xVALUE`
fn parse(line: &str) -> Option<Crc> {
    let mut words = line.split_whitespace().map(|word| {
        let digits = word.strip_prefix("0x")?;
        u32::from_str_radix(digits, 16).ok()
    });
    Some(Crc {
        frame: words.next()??,
        value: words.next()??,
    })
}
