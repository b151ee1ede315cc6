//! The CRTC's checksums from debugfs: what the display controller put on the screen, told by
//! nobody who drew it.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
};

use anyhow::{Context, Result};

/// The checksum of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crc {
    /// The CRTC's vblank counter.
    pub frame: u32,
    /// vkms: CRC-32 of the pixels as XRGB8888 (no padding, alpha as composed).
    pub value: u32,
}

/// A CRTC whose frames are being summed, until this is dropped. At most 128 frames wait unread.
#[derive(Debug)]
pub struct CrcReader {
    lines: BufReader<File>,
}

impl CrcReader {
    /// Starts summing. The CRTC must be on.
    pub(super) fn open(card: u32, crtc: usize) -> Result<Self> {
        let dir = format!("/sys/kernel/debug/dri/{card}/crtc-{crtc}/crc");
        fs::write(format!("{dir}/control"), "auto").with_context(|| format!("{dir}/control"))?;
        let data = File::open(format!("{dir}/data"))
            .with_context(|| format!("{dir}/data: is CRTC {crtc} on?"))?;
        Ok(Self {
            lines: BufReader::with_capacity(1024, data),
        })
    }

    /// The next frame's, waiting for it.
    pub fn next_frame(&mut self) -> Result<Crc> {
        let mut line = String::new();
        self.lines.read_line(&mut line).context("reading CRCs")?;
        parse(&line).with_context(|| format!("not a CRC: {line:?}"))
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
