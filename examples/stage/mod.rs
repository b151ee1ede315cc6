//! What the demo and the benchmark share: Vitrine on the test machine, and the CPU
//! time of a process.
#![allow(dead_code, reason = "each program uses a part of it")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{ensure, Context, Result};

use crate::{
    clients::{stats::key_values, Client},
    machine::{Guest, Proc, SECOND},
};

/// The display that Vitrine is told to open.
const SOCKET: &str = "wayland-stage";

/// The program that is shown: beside the examples' directory.
pub fn vitrine_binary() -> Result<PathBuf> {
    let me = env::current_exe().context("the path of this program")?;
    let profile = me.ancestors().nth(2).context("the build directory")?;
    Ok(profile.join("vitrine"))
}

/// Builds Vitrine in the profile of this program: `cargo run --example` builds only the example.
pub fn build_vitrine() -> Result<()> {
    if let Some(cargo) = env::var_os("CARGO") {
        let mut build = Command::new(cargo);
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        // With the examples, so that cargo chooses the same features of the dependencies and builds them once.
        build.args(["build", "--quiet", "--bins", "--examples"]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        ensure!(
            build.status()?.success(),
            "vitrine does not build; see above"
        );
    }
    let binary = vitrine_binary()?;
    ensure!(
        binary.exists(),
        "{} is missing; run `cargo build --bin vitrine`, or this program by `cargo run`",
        binary.display()
    );
    Ok(())
}

/// Vitrine running in the guest.
pub struct Stage {
    /// The compositor.
    pub vitrine: Proc,
    /// A connection, for looking at the outputs.
    pub client: Client,
}

impl Stage {
    /// Starts Vitrine with this mode and application and waits until it takes clients. The clients
    /// of this process and its children find it by WAYLAND_DISPLAY.
    #[allow(dead_code, reason = "not every example needs it")]
    pub fn start(guest: &Guest, mode: &str, app: &[&str]) -> Result<Self> {
        Self::start_with(guest, mode, "", app)
    }

    /// The same with more of a configuration file.
    pub fn start_with(guest: &Guest, mode: &str, more: &str, app: &[&str]) -> Result<Self> {
        let config = guest.out().join("compositor.toml");
        fs::write(
            &config,
            format!("{more}[[output]]\nconnector = \"*\"\nmode = \"{mode}\"\n"),
        )?;
        let mut command = Command::new(vitrine_binary()?);
        command.arg("-c").arg(&config).args(["--socket", SOCKET]);
        command.env("NO_COLOR", "1");
        if env::var_os("RUST_LOG").is_none() {
            command.env("RUST_LOG", "info");
        }
        if !app.is_empty() {
            command.arg("--").args(app);
        }
        // A second one has a log of its own.
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let name = match STARTED.fetch_add(1, Ordering::Relaxed) {
            0 => "vitrine".to_owned(),
            more => format!("vitrine-{}", more + 1),
        };
        let mut vitrine = guest.spawn(&name, command);
        env::set_var("WAYLAND_DISPLAY", SOCKET);
        let patience = SECOND * 30;
        let client = Client::connect_when_ready(SOCKET, patience).or_else(|error| {
            vitrine.try_exit();
            anyhow::bail!("{error}; vitrine said:\n{}", vitrine.log())
        })?;
        Ok(Self { vitrine, client })
    }

    /// Asks Vitrine to end and gives the counters of its summary, per output in the log's order.
    pub fn end(mut self) -> Vec<Counters> {
        self.vitrine.signal(crate::machine::Signal::TERM);
        self.vitrine.wait_exit(SECOND * 20);
        let log = self.vitrine.log();
        let lines = log.lines().filter(|line| line.contains("vitrine::stats"));
        lines.map(|line| Counters(key_values(line))).collect()
    }
}

/// Counters of one output.
pub struct Counters(std::collections::BTreeMap<String, String>);

impl Counters {
    /// The counter as printed, or `?` where this Vitrine has none of that name.
    pub fn get(&self, key: &str) -> &str {
        self.0.get(key).map_or("?", String::as_str)
    }
}

/// CPU time that a process has used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu {
    /// All threads, also those that have ended.
    pub process: Duration,
    /// The main thread: the event loop of a compositor.
    pub main: Duration,
}

impl Cpu {
    /// Up to now. It counts in the kernel's ticks of 10 ms.
    pub fn of(pid: u32) -> Result<Self> {
        Ok(Self {
            process: cpu_time(&format!("/proc/{pid}/stat"))?,
            main: cpu_time(&format!("/proc/{pid}/task/{pid}/stat"))?,
        })
    }

    /// The sum.
    pub fn plus(self, other: Self) -> Self {
        Self {
            process: self.process + other.process,
            main: self.main + other.main,
        }
    }

    /// Since an earlier look.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            process: self.process.saturating_sub(earlier.process),
            main: self.main.saturating_sub(earlier.main),
        }
    }
}

/// Ticks a second in /proc, the same on all of Linux' architectures but one that is gone.
const USER_HZ: u32 = 100;

/// utime and stime of a stat file, which come 14th and 15th. The name in parentheses before them may
/// hold anything.
fn cpu_time(path: &str) -> Result<Duration> {
    let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
    let (_, rest) = text
        .rsplit_once(')')
        .with_context(|| format!("{path}: {text}"))?;
    let ticks: u64 = rest
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|n| n.parse::<u64>().ok())
        .sum();
    Ok(Duration::from_secs(ticks) / USER_HZ)
}

/// The checkout's target directory.
pub fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target")
}
