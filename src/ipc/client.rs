//! The other end: what `vitrine msg` does.

use std::{
    ffi::OsString,
    io::{self, BufRead, BufReader, Write},
    os::unix::{fs::FileTypeExt, net::UnixStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    table,
    wire::{Answer, Outcome, OutputReport, Question, Reply, Request, VERSION},
    VARIABLE,
};

/// How long the compositor may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often it is asked whether a screen is switched.
const POWER_LOOK: Duration = Duration::from_millis(20);

/// How long the pictures of the history may take, and how often it is asked.
const HISTORY_PATIENCE: Duration = Duration::from_secs(60);
const HISTORY_LOOK: Duration = Duration::from_millis(100);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No session is found.
    #[error("no vitrine is running here: {0}; name its socket with --socket or {VARIABLE}")]
    NoSocket(String),
    /// The socket does not work.
    #[error("{}: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What came is no answer.
    #[error("the answer cannot be read: {0}; is the running vitrine of another version?")]
    Unreadable(String),
    /// The compositor says no.
    #[error("{0}")]
    Refused(String),
}

/// Asks the compositor at `socket` (else the one that the environment names, else the only one that runs) and gives the
/// text to print.
///
/// # Errors
/// See [`ClientError`].
pub fn message(socket: Option<&Path>, request: Request, json: bool) -> Result<String, ClientError> {
    let path = match socket {
        Some(path) => path.to_owned(),
        None => find(
            std::env::var_os(VARIABLE),
            std::env::var_os("XDG_RUNTIME_DIR"),
        )?,
    };
    let mut line = ask(&path, &request)?;
    let mut reply = reply_in(&line)?;
    if matches!(reply, Reply::History { .. }) {
        (line, reply) = wait_for_history(&path)?;
    }
    if let Reply::Output(report) = reply {
        (line, reply) = wait_for_power(&path, report)?;
    }
    if json {
        return Ok(line);
    }
    let failed = match &reply {
        Reply::HistoryState(state) if !state.errors.is_empty() => Some(state.errors.join("; ")),
        _ => None,
    };
    match failed {
        Some(errors) => Err(ClientError::Refused(errors)),
        None => Ok(table::print(&reply)),
    }
}

/// One request and its answer's line.
fn ask(path: &Path, request: &Request) -> Result<String, ClientError> {
    let failed = |source| ClientError::Io {
        path: path.to_owned(),
        source,
    };
    let question = Question {
        version: VERSION,
        request: request.clone(),
    };
    let mut line = serde_json::to_string(&question)
        .map_err(|error| failed(io::Error::other(error.to_string())))?;
    line.push('\n');
    let stream = UnixStream::connect(path).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    (&stream).write_all(line.as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    BufReader::new(&stream)
        .read_line(&mut answer)
        .map_err(failed)?;
    if answer.is_empty() {
        return Err(failed(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(answer)
}

fn reply_in(line: &str) -> Result<Reply, ClientError> {
    let answer: Answer =
        serde_json::from_str(line).map_err(|error| ClientError::Unreadable(error.to_string()))?;
    match answer.outcome {
        Outcome::Ok(reply) => Ok(reply),
        Outcome::Error(error) => Err(ClientError::Refused(error)),
    }
}

/// Switching takes a refresh or two. Gives the line that tells what the outputs are then.
fn wait_for_power(path: &Path, asked: OutputReport) -> Result<(String, Reply), ClientError> {
    let end = Instant::now() + PATIENCE;
    loop {
        let line = ask(path, &Request::Outputs)?;
        let Reply::Outputs(outputs) = reply_in(&line)? else {
            return Err(ClientError::Unreadable(line));
        };
        let output = outputs.into_iter().find(|output| output.name == asked.name);
        let Some(output) = output else {
            return Err(ClientError::Refused(format!("{} is gone", asked.name)));
        };
        if let Some(reason) = &output.power_refused {
            return Err(ClientError::Refused(reason.clone()));
        }
        if output.power == asked.power_wanted {
            return Ok((line, Reply::Output(output)));
        }
        if Instant::now() >= end {
            let late = format!("{} is not switched yet; the log may tell why", asked.name);
            return Err(ClientError::Refused(late));
        }
        std::thread::sleep(POWER_LOOK);
    }
}

fn wait_for_history(path: &Path) -> Result<(String, Reply), ClientError> {
    let end = Instant::now() + HISTORY_PATIENCE;
    loop {
        let line = ask(path, &Request::HistoryState)?;
        let reply = reply_in(&line)?;
        match &reply {
            Reply::HistoryState(state) if state.writing && Instant::now() < end => {
                std::thread::sleep(HISTORY_LOOK);
            }
            _ => return Ok((line, reply)),
        }
    }
}

/// The socket that the environment names, else the only one in the runtime directory.
fn find(variable: Option<OsString>, runtime_dir: Option<OsString>) -> Result<PathBuf, ClientError> {
    if let Some(path) = variable.filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let Some(folder) = runtime_dir.filter(|folder| !folder.is_empty()) else {
        return Err(ClientError::NoSocket("XDG_RUNTIME_DIR is not set".into()));
    };
    let folder = PathBuf::from(folder);
    let mut found: Vec<PathBuf> = std::fs::read_dir(&folder)
        .map_err(|source| ClientError::Io {
            path: folder.clone(),
            source,
        })?
        .filter_map(Result::ok)
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("vitrine-")
                && name.ends_with(".sock")
                && entry.file_type().is_ok_and(|kind| kind.is_socket())
        })
        .map(|entry| entry.path())
        .collect();
    match (found.pop(), found.is_empty()) {
        (Some(path), true) => Ok(path),
        (Some(_), false) => Err(ClientError::NoSocket(format!(
            "there are several in {}",
            folder.display()
        ))),
        (None, _) => Err(ClientError::NoSocket(format!(
            "there is no vitrine-*.sock in {}",
            folder.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn the_only_socket_is_found_and_several_are_not_guessed() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = Some(OsString::from(folder.path()));
        assert!(find(None, runtime.clone()).is_err());
        std::fs::write(folder.path().join("vitrine-no.sock"), "").unwrap();
        let first = folder.path().join("vitrine-wayland-1.sock");
        let _listener = UnixListener::bind(&first).unwrap();
        assert_eq!(find(None, runtime.clone()).unwrap(), first);
        let _other = UnixListener::bind(folder.path().join("vitrine-wayland-2.sock")).unwrap();
        let error = find(None, runtime.clone()).unwrap_err().to_string();
        assert!(error.contains("several"), "{error}");
        assert_eq!(find(Some("/x".into()), runtime).unwrap(), Path::new("/x"));
        assert!(find(None, None).is_err());
    }
}
