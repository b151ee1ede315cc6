//! What is said on the control socket. A request is `{"version":1,"request":"capture"}` or, with arguments,
//! `{"version":1,"request":{"log":{"filter":"debug"}}}`; an answer `{"version":1,"ok":{…}}` or `{"version":1,"error":"…"}`.
//!
//! Within a version fields are only added, so readers must ignore what they do not know.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::capture::{Latencies, BOUNDS_MICROS};

/// The version of these words.
pub const VERSION: u32 = 1;

/// A line to the compositor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// [`VERSION`].
    pub version: u32,
    /// What is wanted.
    pub request: Request,
}

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Who answers.
    Version,
    /// The screens.
    Outputs,
    /// What capture did, per output and client.
    Capture,
    /// The same as OpenMetrics text.
    Metrics,
    /// Switch a screen off or on.
    Output {
        /// The connector's name.
        name: String,
        /// What it shall be.
        power: PowerWord,
    },
    /// Log by these directives from now on.
    Log {
        /// As `[log] filter` in compositor.toml.
        filter: String,
    },
    /// Write the frames of `capture.history` as PNG.
    History {
        /// An absolute path; none: `capture.history_dir`.
        directory: Option<PathBuf>,
    },
    /// What became of the last `history`.
    HistoryState,
    /// End the session, as SIGTERM does.
    Quit,
}

/// Whether a screen is switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PowerWord {
    /// It shows a picture.
    #[default]
    On,
    /// It is dark.
    Off,
}

/// A line from the compositor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// [`VERSION`].
    pub version: u32,
    /// The reply, or why there is none.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was done.
    Ok(Reply),
    /// It was not, for this reason.
    Error(String),
}

/// The reply to the request of the same name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// To [`Request::Version`].
    Version {
        /// The compositor's version.
        vitrine: String,
        /// Its process.
        pid: u32,
    },
    /// To [`Request::Outputs`].
    Outputs(Vec<OutputReport>),
    /// To [`Request::Capture`].
    Capture(Vec<CaptureReport>),
    /// To [`Request::Metrics`].
    Metrics(String),
    /// To [`Request::Output`]: it is being switched; [`Request::Outputs`] tells when it is.
    Output(OutputReport),
    /// To [`Request::Log`].
    Log,
    /// To [`Request::History`]: they are being written; [`Request::HistoryState`] tells when they are.
    History {
        /// Where.
        directory: PathBuf,
        /// How many.
        frames: usize,
    },
    /// To [`Request::HistoryState`].
    HistoryState(HistoryReport),
    /// To [`Request::Quit`].
    Quit,
}

/// A screen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutputReport {
    /// The connector's name.
    pub name: String,
    /// Width of the mode in pixels.
    pub width: u32,
    /// Height of the mode in pixels.
    pub height: u32,
    /// Refresh rate of the mode in millihertz.
    pub refresh_millihertz: u32,
    /// Pixels per logical pixel.
    pub scale: f64,
    /// Whether it is on.
    pub power: PowerWord,
    /// Whether it is to be: while it is being switched, that is not the same.
    pub power_wanted: PowerWord,
    /// Why it is not what was asked for last.
    pub power_refused: Option<String>,
    /// Page flips so far.
    pub flips: u64,
    /// Commits so far.
    pub commits: u64,
    /// Of these, modesets.
    pub modesets: u64,
}

/// The capture side of a screen.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct CaptureReport {
    /// The connector's name.
    pub output: String,
    /// Who makes the frames that have the cursor in them: `writeback`, `render` or `none`.
    pub producer: String,
    /// Why it is that one.
    pub reason: String,
    /// Why the writeback connector cannot be used now, if so.
    pub no_writeback: Option<String>,
    /// Why no frame can be captured now.
    pub unavailable: Option<String>,
    /// Of the writeback connector: `trusted`, `probation`, `stalled`, or `none` where there is none.
    pub trust: String,
    /// Page flips so far.
    pub flips: u64,
    /// Frames published.
    pub frames: u64,
    /// Of these, rendered ones: what Vitrine put on the screen, without foreign planes.
    pub rendered: u64,
    /// Of these, frames that the writeback connector wrote into a client's own memory.
    pub passthrough: u64,
    /// Of the rendered ones, those that nobody wrote: what is on the screen was leased itself.
    pub leased: u64,
    /// Frames delivered to clients.
    pub delivered: u64,
    /// Commits without the frame that somebody wanted, and why.
    pub skipped: SkippedReport,
    /// Hardware jobs, probes included.
    pub jobs: u64,
    /// Of these, probes.
    pub probes: u64,
    /// Jobs that never came back in time.
    pub lost: u64,
    /// Jobs that came back too late to be believed.
    pub late: u64,
    /// Jobs that ended with an error.
    pub failed: u64,
    /// Times that the connector was given up for a while.
    pub stalls: u64,
    /// Times that it came back.
    pub recoveries: u64,
    /// Slots in quarantine now.
    pub quarantined: u64,
    /// Slots held by clients (and the history) now.
    pub held: u64,
    /// Buffers that exist now.
    pub buffers: u64,
    /// Copies into clients' memory.
    pub copies: u64,
    /// Of these, copies that the GPU made.
    pub gpu_copies: u64,
    /// Bytes of these copies.
    pub copied_bytes: u64,
    /// Frames taken back from clients.
    pub voids: u64,
    /// Slots used again although fences that clients put there were still pending.
    pub overruled: u64,
    /// Frames kept as history now.
    pub history: u64,
    /// From the flip to the client's "ready".
    pub flip_to_ready: LatencyReport,
    /// Who captures now.
    pub clients: Vec<ClientReport>,
    /// The windows on it that are captured by themselves now.
    pub windows: Vec<WindowReport>,
}

/// The capture of one window, since somebody began to look at it. Its frames are no frames of the output.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WindowReport {
    /// As in ext-foreign-toplevel-list.
    pub identifier: String,
    /// As the application says.
    pub app_id: String,
    /// As the application says.
    pub title: String,
    /// Frames drawn.
    pub frames: u64,
    /// Frames that are being copied now.
    pub held: u64,
    /// Copies into clients' memory.
    pub copies: u64,
    /// Of these, copies that the GPU made.
    pub gpu_copies: u64,
    /// Bytes of these copies.
    pub copied_bytes: u64,
}

/// Commits without capture, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SkippedReport {
    /// The output had no buffers.
    pub no_buffers: u64,
    /// Every slot was in use.
    pub no_free_slot: u64,
    /// The free slots were still resting.
    pub draining: u64,
    /// The writeback connector could not take a job.
    pub connector: u64,
    /// Nobody wanted the frame; no loss.
    pub no_demand: u64,
}

/// One client on one output.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ClientReport {
    /// Its number, as in the log.
    pub client: u64,
    /// Frames delivered.
    pub frames: u64,
    /// Of these, frames that the writeback connector wrote into its memory.
    pub passthrough: u64,
    /// Frames held now.
    pub held: u64,
    /// Copies into its memory.
    pub copies: u64,
    /// Of these, copies that the GPU made.
    pub gpu_copies: u64,
    /// Bytes of these copies.
    pub copied_bytes: u64,
    /// Frames that it held too long.
    pub overdue: u64,
    /// Frames that were taken back from it.
    pub voids: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// From the flip to its "ready".
    pub flip_to_ready: LatencyReport,
}

/// A histogram of times in microseconds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LatencyReport {
    /// How many.
    pub count: u64,
    /// Their sum.
    pub sum_us: u64,
    /// Half of them took at most this long (a bucket's bound); none if nothing was counted or it is above all bounds.
    pub median_us: Option<u64>,
    /// 99 of 100 took at most this long.
    pub p99_us: Option<u64>,
    /// How many fell into each bucket, not added up.
    pub buckets: Vec<BucketReport>,
}

/// One bucket of a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketReport {
    /// Its upper bound; none for the last.
    pub le_us: Option<u64>,
    /// How many fell into it.
    pub count: u64,
}

/// What became of the frames that were written last.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HistoryReport {
    /// Frames are being written now.
    pub writing: bool,
    /// Where the last ones went.
    pub directory: Option<PathBuf>,
    /// The files.
    pub files: Vec<String>,
    /// What went wrong with others.
    pub errors: Vec<String>,
}

impl From<&Latencies> for LatencyReport {
    fn from(latencies: &Latencies) -> Self {
        let bounds = BOUNDS_MICROS.iter().copied().map(Some).chain([None]);
        let buckets = bounds
            .zip(latencies.counts())
            .map(|(le_us, count)| BucketReport {
                le_us,
                count: *count,
            });
        Self {
            count: latencies.count(),
            sum_us: latencies.sum_micros(),
            median_us: latencies.percentile_micros(50),
            p99_us: latencies.percentile_micros(99),
            buckets: buckets.collect(),
        }
    }
}

/// The line that answers a line. `answer` is asked only for a request that can be read and is of our version.
pub fn respond(line: &[u8], answer: impl FnOnce(Request) -> Result<Reply, String>) -> Vec<u8> {
    let outcome = match serde_json::from_slice::<Question>(line) {
        Ok(question) if question.version == VERSION => match answer(question.request) {
            Ok(reply) => Outcome::Ok(reply),
            Err(error) => Outcome::Error(error),
        },
        Ok(question) => Outcome::Error(format!(
            "version {} of the control protocol is not spoken here; this is version {VERSION}: use the `vitrine msg` \
             of the running vitrine",
            question.version
        )),
        Err(error) => Outcome::Error(format!(
            "the request cannot be read: {error}; valid: a line such as {{\"version\":{VERSION},\"request\":\"capture\"}}"
        )),
    };
    encode(outcome)
}

/// An answer as a line.
pub fn encode(outcome: Outcome) -> Vec<u8> {
    let answer = Answer {
        version: VERSION,
        outcome,
    };
    let mut line = serde_json::to_vec(&answer).unwrap_or_else(|error| {
        // No map with odd keys is in it, so this does not happen; a client must get a line all the same.
        tracing::error!(target: super::TARGET, %error, "an answer cannot be written");
        format!(r#"{{"version":{VERSION},"error":"the answer cannot be written"}}"#).into_bytes()
    });
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

    use super::*;

    fn error_of(line: &str) -> String {
        let answer = respond(line.as_bytes(), |_| Ok(Reply::Quit));
        match serde_json::from_slice::<Answer>(&answer).unwrap().outcome {
            Outcome::Error(error) => error,
            Outcome::Ok(reply) => panic!("{line} was answered: {reply:?}"),
        }
    }

    #[test]
    fn requests_are_words_or_words_with_arguments() {
        for (line, request) in [
            (r#"{"version":1,"request":"capture"}"#, Request::Capture),
            (
                r#"{"version":1,"request":"history-state"}"#,
                Request::HistoryState,
            ),
            (
                r#"{"version":1,"request":{"log":{"filter":"debug"}}}"#,
                Request::Log {
                    filter: "debug".to_owned(),
                },
            ),
            (
                r#"{"version":1,"request":{"output":{"name":"DP-1","power":"off"}}}"#,
                Request::Output {
                    name: "DP-1".to_owned(),
                    power: PowerWord::Off,
                },
            ),
            (
                r#"{"version":1,"request":{"history":{"directory":null}}}"#,
                Request::History { directory: None },
            ),
        ] {
            let mut asked = None;
            respond(line.as_bytes(), |request| {
                asked = Some(request);
                Ok(Reply::Quit)
            });
            assert_eq!(asked, Some(request), "{line}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_answered_with_what_is_valid() {
        for line in [
            "",
            "hello",
            "{}",
            r#"{"version":1,"request":"explode"}"#,
            r#"{"version":1,"request":{"log":{}}}"#,
            r#"{"version":1,"request":{"output":{"name":"DP-1","power":"dim"}}}"#,
            r#"{"version":1,"request":"quit","more":1}"#,
            r#"{"version":-1,"request":"quit"}"#,
            &"[".repeat(4000),
        ] {
            let error = error_of(line);
            assert!(error.contains("valid: "), "{error}");
        }
        let other = error_of(r#"{"version":2,"request":"quit"}"#);
        assert!(other.starts_with("version 2 "), "{other}");
    }

    #[test]
    fn an_answer_is_one_line_and_reads_back() {
        let report = CaptureReport {
            output: "Virtual-1\n".to_owned(),
            clients: vec![ClientReport::default()],
            windows: vec![WindowReport {
                title: "two\nlines".to_owned(),
                ..WindowReport::default()
            }],
            flip_to_ready: LatencyReport::from(&Latencies::default()),
            ..CaptureReport::default()
        };
        let reply = Reply::Capture(vec![report]);
        let line = encode(Outcome::Ok(reply.clone()));
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        let answer: Answer = serde_json::from_slice(&line).unwrap();
        assert_eq!(answer.outcome, Outcome::Ok(reply));
    }
}
