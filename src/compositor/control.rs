//! The answers to the control socket, and the metrics file.

use std::{
    path::{Path, PathBuf},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use smithay::{
    output::Output,
    reexports::calloop::timer::{TimeoutAction, Timer},
};

use super::Vitrine;
use crate::{
    capture::{CaptureStats, ClientStats},
    history::{self, Reel, Written},
    ipc::{
        wire::{
            CaptureReport, ClientReport, HistoryReport, LatencyReport, OutputReport, PowerWord,
            Reply, Request, SkippedReport,
        },
        ControlSocket,
    },
    kms::writeback::Trust,
    metrics::{openmetrics, MetricsFile, Snapshot},
    output::{PowerMode, ScreenReport},
};

/// What operators and their programs have to do with.
#[derive(Debug, Default)]
pub(super) struct Control {
    socket: Option<ControlSocket>,
    metrics: Option<MetricsFile>,
    history: HistoryReport,
    /// Writes frames, or has written the last ones.
    writer: Option<JoinHandle<()>>,
}

/// How long the end of the session waits for frames that are being written.
const WRITER_PATIENCE: Duration = Duration::from_secs(20);

impl Vitrine {
    /// Opens the control socket beside the Wayland socket `display`, and begins to write the metrics file. Without them
    /// the session goes on; what is missing is logged.
    pub fn start_control(&mut self, display: &str) {
        let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").unwrap_or_default();
        let opened = ControlSocket::open(
            Path::new(&runtime_dir),
            display,
            &self.event_loop,
            |state: &mut Vitrine| state.control.socket.as_mut(),
            Vitrine::answer,
        );
        match opened {
            Ok(socket) => {
                tracing::info!(target: "vitrine::ipc", path = %socket.path().display(), "control socket open");
                self.control.socket = Some(socket);
            }
            Err(error) => {
                tracing::warn!(target: "vitrine::ipc", %error, "`vitrine msg` will not work");
            }
        }
        self.start_metrics();
    }

    /// The end of the session: files that speak of a running one go.
    pub fn stop_control(&mut self) {
        self.wait_for_history();
        self.control.socket = None;
        if let Some(file) = self.control.metrics.take() {
            file.remove();
        }
    }

    /// Where the control socket is.
    pub(super) fn control_path(&self) -> Option<PathBuf> {
        let socket = self.control.socket.as_ref()?;
        Some(socket.path().to_owned())
    }

    fn start_metrics(&mut self) {
        let section = &self.config.metrics;
        let Some(path) = section.file.clone() else {
            return;
        };
        let interval = section.interval;
        match MetricsFile::start(path) {
            Ok(file) => self.control.metrics = Some(file),
            Err(error) => {
                tracing::warn!(target: "vitrine::metrics", %error, "no metrics file");
                return;
            }
        }
        let timer = Timer::from_duration(Duration::ZERO);
        let inserted = self.event_loop.insert_source(timer, move |_, (), state| {
            let snapshot = state.snapshot();
            match state.control.metrics.as_ref() {
                Some(file) => {
                    file.update(snapshot);
                    TimeoutAction::ToDuration(interval)
                }
                None => TimeoutAction::Drop,
            }
        });
        if let Err(error) = inserted {
            tracing::warn!(target: "vitrine::metrics", %error, "no timer for the metrics file");
        }
    }

    fn answer(&mut self, request: Request) -> Result<Reply, String> {
        match request {
            Request::Version => Ok(Reply::Version {
                vitrine: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
            }),
            Request::Outputs => Ok(Reply::Outputs(self.snapshot().outputs)),
            Request::Capture => Ok(Reply::Capture(self.snapshot().captures)),
            Request::Output { name, power } => self.switch_by_request(&name, power),
            Request::Metrics => Ok(Reply::Metrics(openmetrics(&self.snapshot()))),
            Request::Log { filter } => {
                crate::logging::set_filter(&filter).map_err(|error| error.to_string())?;
                tracing::info!(target: "vitrine", filter, "log filter changed");
                Ok(Reply::Log)
            }
            Request::History { directory } => self
                .write_history(directory)
                .map(|(directory, frames)| Reply::History { directory, frames }),
            Request::HistoryState => Ok(Reply::HistoryState(self.control.history.clone())),
            Request::Quit => {
                tracing::info!(target: "vitrine", "asked to end by the control socket");
                self.terminate();
                Ok(Reply::Quit)
            }
        }
    }

    fn switch_by_request(&mut self, name: &str, power: PowerWord) -> Result<Reply, String> {
        self.set_power_by_name(name, PowerMode::of(power == PowerWord::On))?;
        let outputs = self.snapshot().outputs;
        let mut outputs = outputs.into_iter();
        let report = outputs.find(|report| report.name == name);
        report
            .map(Reply::Output)
            .ok_or_else(|| "the output is gone".to_owned())
    }

    /// Writes the frames that are kept as PNG, in the background: into `directory`, else the configured one. Gives the
    /// folder and the number of frames.
    pub(super) fn write_history(
        &mut self,
        directory: Option<PathBuf>,
    ) -> Result<(PathBuf, usize), String> {
        if self.config.capture.history == 0 {
            return Err(
                "no frames are kept: set `history` in [capture] of compositor.toml to their number"
                    .to_owned(),
            );
        }
        if self.is_writing() {
            return Err("frames are being written already; try again when they are".to_owned());
        }
        let directory = directory
            .or_else(|| self.config.capture.history_dir.clone())
            .unwrap_or_else(|| {
                let root = rustix::process::geteuid().is_root();
                history::default_directory(root, |name| std::env::var_os(name))
            });
        if !directory.is_absolute() {
            return Err(format!("{} is no absolute path", directory.display()));
        }
        let reels: Vec<Reel> = self
            .captures
            .iter()
            .map(|(output, capture)| Reel {
                output: output.name(),
                frames: capture.history(),
            })
            .collect();
        let frames = reels.iter().map(|reel| reel.frames.len()).sum();
        self.control.history = HistoryReport {
            writing: true,
            directory: Some(directory.clone()),
            ..HistoryReport::default()
        };
        let tasks = self.tasks.clone();
        let folder = directory.clone();
        let done = move |written: Written| {
            log_written(&folder, &written);
            // At the end of the session nobody listens any more.
            let _ = tasks.send(Box::new(move |state: &mut Vitrine| {
                let history = &mut state.control.history;
                history.writing = false;
                (history.files, history.errors) = (written.files, written.errors);
            }));
        };
        match history::write(directory.clone(), reels, done) {
            Ok(writer) => self.control.writer = Some(writer),
            Err(error) => {
                self.control.history.writing = false;
                return Err(format!("no thread to write the frames: {error}"));
            }
        }
        Ok((directory, frames))
    }

    /// As [`Vitrine::write_history`], where nobody waits for an answer: on SIGUSR1 or after a crash.
    pub fn save_history(&mut self, why: &str) {
        match self.write_history(None) {
            Ok((directory, frames)) => {
                tracing::info!(target: "vitrine::history", why, frames, directory = %directory.display(), "writing the last frames");
            }
            Err(error) => {
                tracing::info!(target: "vitrine::history", why, error, "no frames written")
            }
        }
    }

    fn is_writing(&self) -> bool {
        let writer = self.control.writer.as_ref();
        writer.is_some_and(|writer| !writer.is_finished())
    }

    /// The process must not end in the middle of a picture.
    fn wait_for_history(&self) {
        let end = Instant::now() + WRITER_PATIENCE;
        while self.is_writing() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        if self.is_writing() {
            tracing::warn!(target: "vitrine::history", "the last frames are not all written");
        }
    }

    /// All counters now, in the order of the outputs' names.
    fn snapshot(&self) -> Snapshot {
        let mut outputs: Vec<&Output> = self.captures.keys().collect();
        outputs.sort_by_key(|output| output.name());
        let mut snapshot = Snapshot::default();
        for output in outputs {
            let screen = self
                .backend
                .as_ref()
                .and_then(|backend| backend.report(output));
            let capture = self.captures.get(output);
            let stats = capture.map(|capture| capture.stats()).unwrap_or_default();
            let history = capture.map_or(0, |capture| capture.history().len());
            snapshot
                .outputs
                .push(output_report(output, screen.as_ref()));
            snapshot.captures.push(CaptureReport {
                history: u64::try_from(history).unwrap_or(u64::MAX),
                ..capture_report(output, screen.as_ref(), &stats)
            });
        }
        self.add_windows(&mut snapshot);
        snapshot
    }

    /// The captured windows, each with the screen that it is on.
    fn add_windows(&self, snapshot: &mut Snapshot) {
        snapshot.windows = self.toplevels.past;
        for known in &self.toplevels.windows {
            let Some(report) = known.report() else {
                continue;
            };
            snapshot.windows.add(&report);
            snapshot.windows.captured += 1;
            let on = self.shell.space.outputs_for_element(&known.window);
            let name = on.first().map(Output::name);
            let mut captures = snapshot.captures.iter();
            // One that is on no screen is told of with the first.
            let place = captures.position(|capture| Some(&capture.output) == name.as_ref());
            if let Some(capture) = snapshot.captures.get_mut(place.unwrap_or(0)) {
                capture.windows.push(report);
            }
        }
    }
}

fn log_written(directory: &Path, written: &Written) {
    let (directory, files) = (directory.display(), written.files.len());
    if written.errors.is_empty() {
        tracing::info!(target: "vitrine::history", %directory, files, "the last frames are written");
    } else {
        tracing::error!(target: "vitrine::history", %directory, files, errors = written.errors.join("; "), "not all of the last frames could be written");
    }
}

fn output_report(output: &Output, screen: Option<&ScreenReport>) -> OutputReport {
    let mode = output.current_mode();
    let (width, height) = screen.map_or((0, 0), |screen| screen.size);
    OutputReport {
        name: output.name(),
        width,
        height,
        refresh_millihertz: mode.map_or(0, |mode| u32::try_from(mode.refresh).unwrap_or(0)),
        scale: output.current_scale().fractional_scale(),
        power: screen.map_or(PowerWord::On, |screen| power_word(screen.power.mode)),
        power_wanted: screen.map_or(PowerWord::On, |screen| power_word(screen.power.wanted)),
        power_refused: screen.and_then(|screen| screen.power.refused.clone()),
        flips: screen.map_or(0, |screen| screen.flips),
        commits: screen.map_or(0, |screen| screen.crtc.commits),
        modesets: screen.map_or(0, |screen| screen.crtc.modesets),
    }
}

fn power_word(mode: PowerMode) -> PowerWord {
    match mode {
        PowerMode::On => PowerWord::On,
        PowerMode::Off => PowerWord::Off,
    }
}

fn capture_report(
    output: &Output,
    screen: Option<&ScreenReport>,
    stats: &CaptureStats,
) -> CaptureReport {
    let (producer, reason) = match screen {
        Some(screen) => (screen.producer, screen.reason.clone()),
        None => ("none", "there is no display device".to_owned()),
    };
    let no_writeback = screen.and_then(|screen| screen.no_writeback.clone());
    let jobs = screen.map(|screen| screen.jobs).unwrap_or_default();
    let attached = screen.filter(|_| no_writeback.is_none());
    let trust = match attached.map(|screen| screen.trust) {
        Some(Trust::Trusted) => "trusted",
        Some(Trust::Probation { .. }) => "probation",
        Some(Trust::Stalled { .. }) => "stalled",
        None => "none",
    };
    CaptureReport {
        output: output.name(),
        unavailable: (producer == "none").then(|| reason.clone()),
        producer: producer.to_owned(),
        reason,
        no_writeback,
        trust: trust.to_owned(),
        flips: screen.map_or(0, |screen| screen.flips),
        frames: stats.frames,
        rendered: stats.by_render,
        passthrough: stats.passthrough,
        leased: stats.leased,
        delivered: stats.delivered,
        skipped: SkippedReport {
            no_buffers: stats.skipped.no_buffers,
            no_free_slot: stats.skipped.no_free_slot,
            draining: stats.skipped.draining,
            connector: screen.map_or(0, |screen| screen.missed),
            no_demand: stats.skipped.no_demand,
        },
        jobs: jobs.jobs,
        probes: jobs.probes,
        lost: jobs.lost,
        late: jobs.late,
        failed: jobs.failed,
        stalls: jobs.stalls,
        recoveries: jobs.recoveries,
        quarantined: stats.quarantined,
        held: stats.held,
        buffers: stats.buffers,
        copies: stats.copies,
        gpu_copies: stats.gpu_copies,
        copied_bytes: stats.copied_bytes,
        voids: stats.voids,
        overruled: stats.overruled,
        history: 0, // The caller knows.
        flip_to_ready: LatencyReport::from(&stats.ready),
        clients: stats
            .clients
            .iter()
            .map(|(id, client)| client_report(id.0, client))
            .collect(),
        windows: Vec::new(), // As above.
    }
}

fn client_report(client: u64, stats: &ClientStats) -> ClientReport {
    ClientReport {
        client,
        frames: stats.frames,
        passthrough: stats.passthrough,
        held: stats.held,
        copies: stats.copies,
        gpu_copies: stats.gpu_copies,
        copied_bytes: stats.copied_bytes,
        overdue: stats.overdue,
        voids: stats.voids,
        refused: stats.refused,
        flip_to_ready: LatencyReport::from(&stats.ready),
    }
}
