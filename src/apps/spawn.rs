//! The fork and what the child gets: a session of its own, an open signal mask, and an environment that points to us.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command},
};

use crate::config::CursorSection;

/// What is told to the application through its environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppEnvironment {
    /// The socket's name: WAYLAND_DISPLAY.
    pub wayland_display: OsString,
    /// The control socket's path, if there is one: VITRINE_SOCKET.
    pub control_socket: Option<PathBuf>,
    /// XCURSOR_THEME and XCURSOR_SIZE.
    pub cursor: CursorSection,
}

/// Ours or our parent's, and wrong or dangerous in the application: another display, an inherited Wayland connection,
/// and service manager variables with which a child could speak in our name.
const NOT_INHERITED: [&str; 10] = [
    "DISPLAY",
    "WAYLAND_SOCKET",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "VITRINE_FAULTS",
    "VITRINE_SOCKET",
];

impl AppEnvironment {
    fn apply(&self, command: &mut Command) {
        for name in NOT_INHERITED {
            command.env_remove(name);
        }
        if let Some(path) = &self.control_socket {
            command.env("VITRINE_SOCKET", path);
        }
        command
            .env("WAYLAND_DISPLAY", &self.wayland_display)
            .env("XDG_SESSION_TYPE", "wayland")
            .env("XDG_CURRENT_DESKTOP", "vitrine")
            .env("XCURSOR_THEME", &self.cursor.theme)
            .env("XCURSOR_SIZE", self.cursor.size.to_string());
    }
}

/// Why an application did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no program in the command.
    #[error(
        "no application is named; write `vitrine -- program` or set app.command in compositor.toml"
    )]
    Empty,
    /// No such program.
    #[error(
        "application {program:?} was not found; tried {}; install it or name it with its full path",
        listed(tried)
    )]
    NotFound {
        /// As it was given.
        program: OsString,
        /// Every path that was looked at.
        tried: Vec<PathBuf>,
    },
    /// The program is there but cannot be run.
    #[error(
        "application {} cannot be run: {source}; check its permissions, its interpreter and that it is built for \
         this machine",
        program.display()
    )]
    NotRunnable {
        /// The file.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It could not be watched and was killed.
    #[error(
        "the application cannot be watched (pidfd_open: {source}); Linux 5.3 or newer is needed"
    )]
    Unwatched {
        /// What the system said.
        source: io::Error,
    },
}

impl StartError {
    /// 127 when there is no such program, else 126: what shells answer.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Empty | Self::NotFound { .. } => 127,
            Self::NotRunnable { .. } | Self::Unwatched { .. } => 126,
        }
    }
}

fn listed(paths: &[PathBuf]) -> String {
    let texts: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    if texts.is_empty() {
        "nothing, because PATH is empty".to_owned()
    } else {
        texts.join(", ")
    }
}

/// The files that execvp would try, in its order.
pub(super) fn candidates(program: &OsStr, search: Option<&OsStr>) -> Vec<PathBuf> {
    if program.as_bytes().contains(&b'/') {
        return vec![PathBuf::from(program)];
    }
    search
        .map(|search| {
            env::split_paths(search)
                .map(|folder| folder.join(program))
                .collect()
        })
        .unwrap_or_default()
}

pub(super) fn spawn(
    words: &[impl AsRef<OsStr>],
    environment: &AppEnvironment,
) -> Result<Child, StartError> {
    let mut words = words.iter().map(AsRef::as_ref);
    let program = words
        .next()
        .filter(|program| !program.is_empty())
        .ok_or(StartError::Empty)?;
    let mut command = Command::new(program);
    command.args(words);
    environment.apply(&mut command);
    detach(&mut command);
    command.spawn().map_err(|source| {
        let tried = candidates(program, env::var_os("PATH").as_deref());
        let present = tried.iter().find(|path| path.is_file()).cloned();
        match (source.kind(), present) {
            (io::ErrorKind::NotFound, None) => StartError::NotFound {
                program: program.to_owned(),
                tried,
            },
            (_, present) => StartError::NotRunnable {
                program: present.unwrap_or_else(|| Path::new(program).to_owned()),
                source,
            },
        }
    })
}

/// A session of its own (so that Ctrl+C on our terminal and the terminal's keys are not the application's) and a clean
/// signal state: the event loop blocks the signals that it reads from a signalfd, and a child inherits the mask. An
/// application with SIGTERM blocked would have to be killed, and one with SIGCHLD blocked loses its children. Our raised
/// limit of descriptors is not passed on: programs that use select() break above 1024. Nor is the event loop's priority.
fn detach(command: &mut Command) {
    let descriptors = crate::session::original_descriptor_limit();
    let prepare = move || {
        rustix::process::setsid()?;
        if let Some(limit) = descriptors {
            rustix::process::setrlimit(rustix::process::Resource::Nofile, limit)?;
        }
        crate::session::restore_priority()?;
        let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set that it is given; sigprocmask reads it. Both are plain calls that
        // are allowed between fork and exec, where only this thread exists.
        let result = unsafe {
            libc::sigemptyset(none.as_mut_ptr());
            libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut())
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    // SAFETY: the closure runs between fork and exec in a process that may have had several threads. It makes a few
    // async-signal-safe system calls and allocates nothing.
    unsafe {
        command.pre_exec(prepare);
    }
}
