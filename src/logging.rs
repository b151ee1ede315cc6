//! Sets up tracing: to standard error or to systemd's journal. Called once by `main`.

use std::{io::IsTerminal, sync::OnceLock};

use tracing_subscriber::{
    layer::SubscriberExt, reload, util::SubscriberInitExt, EnvFilter, Layer, Registry,
};

use crate::config::{LogSection, LogTarget};

/// The filter in use. The subscriber is one per process, and so is this.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The directives cannot be read.
    #[error(
        "{origin}: bad log filter {filter:?}: {source}; valid: e.g. \"info,vitrine::kms=debug\""
    )]
    Filter {
        /// Where the directives come from.
        origin: &'static str,
        /// The directives.
        filter: String,
        /// What is wrong with them.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The journal's socket is not there.
    #[error("the journal cannot be reached: {0}; use target = \"stderr\" in [log]")]
    Journal(#[source] std::io::Error),
    /// [`start`] was called before.
    #[error("logging is already set up")]
    Twice,
    /// [`start`] was not called before.
    #[error("logging is not set up, so its filter cannot be changed")]
    NotStarted,
}

/// Sends all events of the process to where `section` says. `filter` is the command line's and wins over VITRINE_LOG,
/// RUST_LOG and the file, in this order.
///
/// # Errors
/// See [`LoggingError`].
pub fn start(section: &LogSection, filter: Option<&str>) -> Result<(), LoggingError> {
    let (origin, directives) =
        pick_filter(filter, |name| std::env::var(name).ok(), &section.filter);
    let (filter, handle) = reload::Layer::new(read_filter(origin, directives)?);
    let journal = match section.target {
        LogTarget::Stderr => false,
        LogTarget::Journald => true,
        LogTarget::Auto => stderr_is_journal(),
    };
    let layer = if journal {
        tracing_journald::layer()
            .map_err(LoggingError::Journal)?
            .boxed()
    } else {
        tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .boxed()
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init()
        .map_err(|_| LoggingError::Twice)?;
    FILTER.set(handle).map_err(|_| LoggingError::Twice)
}

/// Another filter from now on.
///
/// # Errors
/// The directives cannot be read (nothing has changed then), or there is no log.
pub fn set_filter(directives: &str) -> Result<(), LoggingError> {
    let filter = read_filter("vitrine msg log", directives.to_owned())?;
    let handle = FILTER.get().ok_or(LoggingError::NotStarted)?;
    handle.reload(filter).map_err(|_| LoggingError::NotStarted)
}

fn read_filter(origin: &'static str, directives: String) -> Result<EnvFilter, LoggingError> {
    EnvFilter::try_new(&directives).map_err(|source| LoggingError::Filter {
        origin,
        filter: directives,
        source,
    })
}

/// The directives that count, and where they were said. An empty variable is as good as none.
fn pick_filter(
    command_line: Option<&str>,
    variable: impl Fn(&str) -> Option<String>,
    file: &str,
) -> (&'static str, String) {
    let variable = |name| variable(name).filter(|text| !text.trim().is_empty());
    if let Some(directives) = command_line {
        ("--log", directives.to_owned())
    } else if let Some(directives) = variable("VITRINE_LOG") {
        ("VITRINE_LOG", directives)
    } else if let Some(directives) = variable("RUST_LOG") {
        ("RUST_LOG", directives)
    } else {
        ("compositor.toml", file.to_owned())
    }
}

fn stderr_is_journal() -> bool {
    let Some(stream) = std::env::var_os("JOURNAL_STREAM") else {
        return false;
    };
    rustix::fs::fstat(std::io::stderr())
        .is_ok_and(|stat| is_stream(&stream.to_string_lossy(), stat.st_dev, stat.st_ino))
}

/// JOURNAL_STREAM is `device:inode` of the stream that systemd connected; a shell may have redirected ours since.
fn is_stream(variable: &str, device: u64, inode: u64) -> bool {
    variable
        .split_once(':')
        .is_some_and(|(left, right)| left.parse() == Ok(device) && right.parse() == Ok(inode))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    #[test]
    fn the_nearest_filter_wins() {
        let all = |name: &str| Some(format!("from-{name}"));
        let rust_only = |name: &str| (name == "RUST_LOG").then(|| "r".to_owned());
        let empty = |_: &str| Some(" ".to_owned());
        assert_eq!(pick_filter(Some("x"), all, "f"), ("--log", "x".to_owned()));
        assert_eq!(
            pick_filter(None, all, "f"),
            ("VITRINE_LOG", "from-VITRINE_LOG".to_owned())
        );
        assert_eq!(
            pick_filter(None, rust_only, "f"),
            ("RUST_LOG", "r".to_owned())
        );
        assert_eq!(
            pick_filter(None, empty, "f"),
            ("compositor.toml", "f".to_owned())
        );
    }

    #[test]
    fn the_journal_is_used_only_when_standard_error_is_its_stream() {
        assert!(is_stream("8:1234", 8, 1234));
        for other in ["8:1235", "9:1234", "8", "", "8:", "a:b", "8:1234:1"] {
            assert!(!is_stream(other, 8, 1234), "{other}");
        }
    }

    #[test]
    fn a_bad_filter_names_its_origin() {
        let error = start(&LogSection::default(), Some("vitrine=loud"))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("--log: bad log filter \"vitrine=loud\""),
            "{error}"
        );
    }
}
