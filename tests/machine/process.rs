//! Processes of the guest: their output goes to a file that outlives the machine, and they end
//! with the value that stands for them.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::{
        fs::OpenOptionsExt,
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::{
    fs::OFlags,
    process::{kill_process, kill_process_group, Pid, Signal},
};

use super::wait_for;

/// A running process with its own process group. Dropping it kills the group.
#[derive(Debug)]
pub struct Proc {
    name: String,
    child: Child,
    status: Option<ExitStatus>,
    log: PathBuf,
}

impl Proc {
    pub(super) fn spawn(name: &str, out: &Path, mut command: Command) -> io::Result<Self> {
        let log = out.join(format!("{name}.log"));
        let file = open_log(&log)?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0);
        let child = command.spawn()?;
        Ok(Self {
            name: name.to_owned(),
            child,
            status: None,
            log,
        })
    }

    /// The process id, which is also its group's.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it has written to stdout and stderr so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Sends a signal to the process. Nothing happens if it is gone.
    pub fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            let _ = kill_process(pid(&self.child), signal);
        }
    }

    /// How it ended, or `None` while it runs.
    pub fn try_exit(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it still runs after `timeout`.
    #[track_caller]
    pub fn wait_exit(&mut self, timeout: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        wait_for(&what, timeout, || self.try_exit())
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it still runs after `timeout` or ended with anything but success.
    #[track_caller]
    pub fn wait_success(&mut self, timeout: Duration) {
        let status = self.wait_exit(timeout);
        assert!(
            status.success(),
            "{} ended with {status}; it said:\n{}",
            self.name,
            self.log()
        );
    }

    /// Waits until it has written `text`.
    ///
    /// # Panics
    /// If it has not within `timeout`, or at once if it ends without.
    #[track_caller]
    pub fn wait_log(&mut self, text: &str, timeout: Duration) {
        let what = format!("{text:?} from {}", self.name);
        wait_for(&what, timeout, || {
            let ended = self.try_exit();
            if self.log().contains(text) {
                return Some(());
            }
            if let Some(status) = ended {
                panic!(
                    "{} is gone ({status}) without {text:?}; it said:\n{}",
                    self.name,
                    self.log()
                );
            }
            None
        });
    }

    /// Checks that it still runs.
    ///
    /// # Panics
    /// If it has ended.
    #[track_caller]
    pub fn assert_running(&mut self) {
        if let Some(status) = self.try_exit() {
            panic!("{} is gone ({status}); it said:\n{}", self.name, self.log());
        }
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        // Also when it has ended itself: its children may still be there. Not reaping it before
        // keeps the group's number ours, except where `try_exit` did; then the group may be empty.
        let _ = kill_process_group(pid(&self.child), Signal::KILL);
        if self.status.is_none() {
            let _ = self.child.wait();
        }
    }
}

/// A log that is on the host after each write: a machine that hangs is killed with whatever its
/// page cache still holds.
pub(super) fn open_log(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::SYNC.bits()).map_err(io::Error::other)?;
    OpenOptions::new()
        .create(true)
        .append(true)
        .custom_flags(flags)
        .open(path)
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}
