//! The metrics file for node exporter's textfile collector: written anew and renamed, from a thread of its own, so that
//! a reader sees a whole file and a slow disk holds nobody.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::mpsc::{sync_channel, SyncSender, TrySendError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{openmetrics, Snapshot};

/// The tracing target of the room.
const TARGET: &str = "vitrine::metrics";

/// A file that is kept up to date. Dropping it leaves the thread to its end; [`MetricsFile::remove`] takes the file away.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    snapshots: SyncSender<Snapshot>,
    writer: JoinHandle<()>,
}

/// So long may the last numbers be on their way to a slow disk.
const PATIENCE: Duration = Duration::from_secs(2);

impl MetricsFile {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread for us.
    pub fn start(path: PathBuf) -> io::Result<Self> {
        let (snapshots, received) = sync_channel::<Snapshot>(1);
        let file = path.clone();
        let writer = thread::Builder::new()
            .name("metrics".to_owned())
            .spawn(move || {
                let _ = crate::session::restore_priority();
                let mut failed = false;
                for snapshot in received {
                    match write(&file, &openmetrics(&snapshot)) {
                        Ok(()) => failed = false,
                        // Said once, until it works again.
                        Err(error) if !std::mem::replace(&mut failed, true) => {
                            tracing::warn!(target: TARGET, file = %file.display(), %error, "the metrics file cannot be written");
                        }
                        Err(_) => {}
                    }
                }
            })?;
        Ok(Self {
            path,
            snapshots,
            writer,
        })
    }

    /// Writes these numbers. While older ones are still being written these are left out; never blocks.
    pub fn update(&self, snapshot: Snapshot) {
        match self.snapshots.try_send(snapshot) {
            Ok(()) | Err(TrySendError::Full(_)) => {}
            Err(TrySendError::Disconnected(_)) => {
                tracing::warn!(target: TARGET, "the thread for the metrics file is gone");
            }
        }
    }

    /// The session is over: old numbers must not look like live ones.
    pub fn remove(self) {
        // Nor must those that are being written come after it.
        drop(self.snapshots);
        let end = Instant::now() + PATIENCE;
        while !self.writer.is_finished() && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(target: TARGET, %error, "the metrics file stays");
        }
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    // In the same folder, for the rename. The collector only reads *.prom.
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    // A link of that name is not followed, and what a crash has left is replaced.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = File::create_new(&temporary)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;
    use crate::metrics::strict;

    #[test]
    fn the_file_appears_whole_and_nothing_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vitrine.prom");
        let file = MetricsFile::start(path.clone()).unwrap();
        file.update(Snapshot::default());
        let end = Instant::now() + Duration::from_secs(30);
        while !path.exists() {
            assert!(Instant::now() < end, "no file");
            thread::sleep(Duration::from_millis(5));
        }
        strict::check(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        file.remove();
        assert!(!path.exists());
    }

    #[test]
    fn what_is_being_written_at_the_end_does_not_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vitrine.prom");
        for _ in 0..20 {
            let file = MetricsFile::start(path.clone()).unwrap();
            file.update(Snapshot::default());
            file.remove();
            thread::sleep(Duration::from_millis(5));
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_link_in_the_place_of_the_file_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (other, path) = (folder.path().join("other"), folder.path().join("v.prom"));
        fs::write(&other, "mine").unwrap();
        std::os::unix::fs::symlink(&other, folder.path().join("v.prom.new")).unwrap();
        write(&path, "numbers").unwrap();
        assert_eq!(fs::read(&other).unwrap(), b"mine");
        assert_eq!(fs::read(&path).unwrap(), b"numbers");
        fs::write(folder.path().join("v.prom.new"), "half").unwrap();
        write(&path, "more").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"more");
    }
}
