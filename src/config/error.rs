//! What can be wrong with a compositor.toml, in words that say what to do.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

/// One thing that is wrong in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1.
    pub line: usize,
    /// What is wrong and what is valid.
    pub message: String,
}

/// Why there is no [`super::Config`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or may not be read.
    #[error("{}: cannot be read: {source}", file.display())]
    Unreadable {
        /// The file that was asked for.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The text says something that is not valid.
    #[error("{}", Listed { file, problems })]
    Invalid {
        /// The file that the text comes from.
        file: PathBuf,
        /// At least one, in the order of the lines.
        problems: Vec<Problem>,
    },
}

struct Listed<'a> {
    file: &'a Path,
    problems: &'a [Problem],
}

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.problems.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            write!(
                f,
                "{}:{}: {}",
                self.file.display(),
                problem.line,
                problem.message
            )?;
        }
        Ok(())
    }
}
