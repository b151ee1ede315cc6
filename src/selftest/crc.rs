//! The checksum that the CRTC itself makes of what it shows, from debugfs. Where it is there and its formula is known, it
//! is a witness that needs neither our renderer nor the writeback connector.

use std::{
    fs::{self, File, OpenOptions},
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use rustix::event::{poll, PollFd, PollFlags, Timespec};

/// Frames that are looked at until one is of the picture on the screen.
const FRAMES: usize = 10;

/// What the CRTC says of a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Witness {
    /// The same as the capture.
    Agrees,
    /// Something else.
    Differs,
    /// It could not be asked.
    Absent(String),
}

/// Asks CRTC number `crtc` of device number `card` whether it shows these pixels (XRGB8888 without padding).
pub(super) fn ask(driver: &str, card: u32, crtc: usize, pixels: &[u8]) -> Witness {
    if driver != "vkms" {
        return Witness::Absent(format!(
            "the formula of {driver}'s checksum is not known here"
        ));
    }
    let expected = vkms(pixels);
    match read(card, crtc) {
        Ok(values) if values.contains(&expected) => Witness::Agrees,
        Ok(values) if values.is_empty() => Witness::Absent("the CRTC made none in time".to_owned()),
        Ok(_) => Witness::Differs,
        Err(error) => Witness::Absent(error.to_string()),
    }
}

fn read(card: u32, crtc: usize) -> std::io::Result<Vec<u32>> {
    let folder = PathBuf::from(format!("/sys/kernel/debug/dri/{card}/crtc-{crtc}/crc"));
    fs::write(folder.join("control"), "auto")?;
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let mut data: File = OpenOptions::new()
        .read(true)
        .custom_flags(nonblocking)
        .open(folder.join("data"))?;
    let mut values = Vec::new();
    let patience = Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    for _ in 0..FRAMES {
        let mut fds = [PollFd::new(&data, PollFlags::IN)];
        if poll(&mut fds, Some(&patience))? == 0 {
            break;
        }
        // One line a read: the frame's number and its checksum.
        let mut line = [0; 256];
        let count = match data.read(&mut line) {
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        let line = String::from_utf8_lossy(line.get(..count).unwrap_or_default()).into_owned();
        let value = line.trim_end_matches('\0').split_whitespace().nth(1);
        let value = value.and_then(|value| value.strip_prefix("0x"));
        values.extend(value.and_then(|digits| u32::from_str_radix(digits, 16).ok()));
    }
    Ok(values)
}

/// vkms sums four 16-bit channels a pixel, A, R, G, B, A always opaque, with the kernel's `crc32_le` from 0 and without
/// the final inversion. 8 bits become 16 by repetition, so both bytes of a channel are the same.
fn vkms(pixels: &[u8]) -> u32 {
    let table: [u32; 256] = std::array::from_fn(|byte| {
        (0..8).fold(u32::try_from(byte).unwrap_or(0), |rest, _| {
            (rest >> 1) ^ if rest & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    });
    let step = |crc: u32, byte: u8| {
        let index = usize::from(crc.to_le_bytes()[0] ^ byte);
        (crc >> 8) ^ table.get(index).copied().unwrap_or(0)
    };
    let mut crc = 0;
    for [blue, green, red, _] in pixels.as_chunks::<4>().0 {
        for channel in [0xff, *red, *green, *blue] {
            crc = step(step(crc, channel), channel);
        }
    }
    crc
}
