//! The look back: writes the frames that `capture.history` keeps as PNG files, named by when they were on the screen.
//!
//! A thread of its own holds the leases, reads and encodes; nothing here decides which frames are kept. It knows
//! neither Wayland nor DRM.

mod name;
mod picture;

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{
    capture::{FrameInfo, Lease},
    time::Time,
};

pub use self::name::default_directory;

/// The frames of one output, oldest first.
#[derive(Debug)]
pub struct Reel {
    /// The connector's name.
    pub output: String,
    /// The frames.
    pub frames: Vec<Arc<Lease>>,
}

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// Names of files.
    pub files: Vec<String>,
    /// What went wrong with others.
    pub errors: Vec<String>,
}

/// Writes the frames into `directory`, which is made if it is not there, readable by its owner only. `done` is called in
/// the thread at the end.
///
/// # Errors
/// The system has no thread for us.
pub fn write(
    directory: PathBuf,
    reels: Vec<Reel>,
    done: impl FnOnce(Written) + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let origin = clock_origin(SystemTime::now(), Time::now());
    thread::Builder::new()
        .name("history".to_owned())
        .spawn(move || {
            let _ = crate::session::restore_priority();
            done(write_all(&directory, reels, origin));
        })
}

/// When CLOCK_MONOTONIC was zero, as time since 1970.
fn clock_origin(wall: SystemTime, now: Time) -> Duration {
    let wall = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
    wall.saturating_sub(now.as_duration())
}

fn write_all(directory: &Path, reels: Vec<Reel>, origin: Duration) -> Written {
    let mut written = Written::default();
    let made = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory);
    if let Err(error) = made {
        let error = format!("{}: {error}", directory.display());
        written.errors.push(error);
        return written;
    }
    for reel in reels {
        for lease in reel.frames {
            let info = Arc::clone(lease.frame());
            let file = name::of_file(&reel.output, origin + info.presented.as_duration());
            match write_one(directory, &file, &reel.output, &info, &lease) {
                Ok(()) => written.files.push(file),
                Err(error) => written.errors.push(format!("{file}: {error}")),
            }
            // Its slot is free again before the next picture is encoded.
            drop(lease);
        }
    }
    written
}

fn write_one(
    directory: &Path,
    file: &str,
    output: &str,
    info: &FrameInfo,
    lease: &Lease,
) -> io::Result<()> {
    let temporary = directory.join(format!(".{file}.new"));
    let texts = [
        ("Output", output.to_owned()),
        ("Frame", info.seq.to_string()),
        ("Producer", format!("{:?}", info.producer).to_lowercase()),
        (
            "Presentation time (CLOCK_MONOTONIC, s)",
            seconds(info.presented.as_duration()),
        ),
    ];
    let out = create(&temporary)?;
    let encoded = encode(BufWriter::new(out), info, lease, &texts);
    let renamed = encoded.and_then(|()| fs::rename(&temporary, directory.join(file)));
    if renamed.is_err() {
        // What is left of a full disk.
        let _ = fs::remove_file(&temporary);
    }
    renamed
}

/// A new file, whatever has its name: in a folder that others can write to that may be a link to where they cannot.
fn create(path: &Path) -> io::Result<fs::File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path)
}

/// All digits: a floating number has too few of them after some weeks.
fn seconds(time: Duration) -> String {
    format!("{}.{:09}", time.as_secs(), time.subsec_nanos())
}

fn encode(
    mut out: BufWriter<fs::File>,
    info: &FrameInfo,
    lease: &Lease,
    texts: &[(&str, String)],
) -> io::Result<()> {
    let mut result = Ok(());
    lease.memory().read(&mut |bytes| {
        result = picture::encode(&mut out, &info.format, bytes, texts);
    })?;
    result?;
    out.flush()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error_that_names_it() {
        let written = write_all(Path::new("/proc/no/such"), Vec::new(), Duration::ZERO);
        assert!(written.files.is_empty());
        assert!(written.errors.join("").starts_with("/proc/no/such: "));
    }

    #[test]
    fn a_link_in_the_place_of_a_file_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (other, file) = (folder.path().join("other"), folder.path().join("file"));
        fs::write(&other, "mine").unwrap();
        std::os::unix::fs::symlink(&other, &file).unwrap();
        create(&file).unwrap().write_all(b"new").unwrap();
        assert_eq!(fs::read(&other).unwrap(), b"mine");
        assert_eq!(fs::read(&file).unwrap(), b"new");
        // What a crash has left is replaced.
        create(&file).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"");
    }

    #[test]
    fn times_are_exact_to_the_nanosecond_after_years() {
        let time = Duration::new(300_000_000, 7);
        assert_eq!(seconds(time), "300000000.000000007");
    }

    #[test]
    fn monotonic_time_is_told_in_wall_clock_time() {
        let wall = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let now = Time::from_duration(Duration::from_secs(1000));
        assert_eq!(clock_origin(wall, now), Duration::from_secs(999_000));
    }
}
