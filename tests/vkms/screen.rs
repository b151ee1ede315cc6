//! What is on the screen, seen through ext-image-copy-capture.

use crate::{
    clients::{
        copy_capture::{picture_of, CopySession},
        picture::write_png,
        Client, MemoryKind, OutputInfo, Picture,
    },
    machine::{self, Guest, SECOND},
};

/// What `output` shows now. Each time a session of its own: its first frame does not wait for damage.
pub fn of_output(client: &mut Client, output: &OutputInfo) -> Picture {
    let session = CopySession::open(client, output, true).unwrap();
    let buffer = session.buffer(client, MemoryKind::Shm).unwrap();
    session.capture(client, &buffer, &[]).unwrap().frame();
    picture_of(&buffer)
}

/// What the first output shows now.
pub fn picture(client: &mut Client) -> Picture {
    let output = client.output(None).unwrap();
    of_output(client, &output)
}

/// Waits until the first output's picture is as wanted, and keeps it as `<name>.png`.
#[track_caller]
pub fn wait_for(
    guest: &Guest,
    client: &mut Client,
    name: &str,
    mut wanted: impl FnMut(&Picture) -> bool,
) -> Picture {
    let file = guest.out().join(format!("{name}.png"));
    machine::wait_for(&format!("{name} on the screen"), SECOND * 20, || {
        let picture = picture(client);
        write_png(&file, &picture).unwrap();
        wanted(&picture).then_some(picture)
    })
}

/// How many pixels have this colour.
pub fn count(picture: &Picture, colour: u32) -> usize {
    let same = |pixel: &&u32| **pixel & 0xff_ffff == colour;
    picture.pixels.iter().filter(same).count()
}

/// How many pixels are not black.
pub fn lit(picture: &Picture) -> usize {
    picture.pixels.len() - count(picture, 0)
}

/// How many colours there are.
pub fn colours(picture: &Picture) -> usize {
    let all: std::collections::HashSet<u32> =
        picture.pixels.iter().map(|p| p & 0xff_ffff).collect();
    all.len()
}
