//! What capture costs a compositor: N clients for each of N = 1, 2, 4, 8 watch an output on which a
//! painter draws; the table says what each client got and what the compositor paid.
//!
//! Runs against any compositor (WAYLAND_DISPLAY), or with Vitrine on the test machine (`--vkms`, the
//! default where there is no WAYLAND_DISPLAY). The clients are processes of their own, so that the
//! compositor's CPU is its own. On vkms, composition and writeback run in threads of the kernel: a
//! display controller does this in hardware, and it is in no process's bill here either.

#![allow(
    clippy::panic,
    clippy::indexing_slicing,
    reason = "the machine is test code: it fails by panicking"
)]

#[path = "../tests/clients/mod.rs"]
mod clients;
#[path = "../tests/machine/mod.rs"]
mod machine;
mod stage;

use std::{
    collections::BTreeSet,
    env,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{ensure, Context, Result};
use clap::Parser;
use clients::{
    clock::{self, percentile},
    programs::{self, Protocol, CAPTURE, PAINTER},
    CaptureStats, Client,
};
use machine::{Guest, Machine, Output, SECOND};
use stage::{Cpu, Stage};
use vitrine::ipc::{
    message,
    wire::{Answer, Outcome, Reply, Request},
};

/// Measures what capture clients get and what they cost the compositor.
#[derive(Parser, Clone)]
struct Arguments {
    /// Boot the test machine with Vitrine, whatever WAYLAND_DISPLAY says
    #[arg(long)]
    vkms: bool,
    /// Which protocols, in turn
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "export,copy,screencopy"
    )]
    protocol: Vec<Protocol>,
    /// How many clients, in turn
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8")]
    clients: Vec<usize>,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// How often to go through the numbers of clients: what else the machine does then hits all alike
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// The screen's mode on the test machine
    #[arg(long, default_value = "640x480")]
    mode: String,
    /// The compositor's process (default: who listens at the socket)
    #[arg(long)]
    pid: Option<u32>,
    /// Who makes the captured frames on the test machine: `capture.producer` of compositor.toml
    #[arg(long, value_delimiter = ',', default_value = "writeback,render")]
    producer: Vec<String>,
    /// Draw nothing: something else moves on the screen
    #[arg(long)]
    no_painter: bool,
}

fn main() -> Result<()> {
    if let Some(result) = programs::run_if_asked() {
        return result;
    }
    let arguments = Arguments::parse();
    if machine::in_guest() || arguments.vkms || env::var_os("WAYLAND_DISPLAY").is_none() {
        return bench(&arguments);
    }
    let client = Client::from_env()?;
    let pid = match arguments.pid {
        Some(pid) => pid,
        None => client
            .server_pid()
            .context("the compositor's process; name it with --pid")?,
    };
    let directory = stage::target().join("bench");
    measure_all(&arguments, &client, pid, &directory)
}

/// Runs on both sides of the machine: see [`machine::boot`].
fn bench(arguments: &Arguments) -> Result<()> {
    let rows = arguments.protocol.len() * (arguments.clients.len() + 1) * arguments.rounds as usize;
    let rows = rows * arguments.producer.len();
    let each = arguments.seconds + 30.0;
    let timeout = SECOND * 60 + Duration::from_secs_f64(each) * rows as u32;
    let machine = Machine::default()
        .output(Output::new())
        .memory_mib(1024)
        .timeout(timeout)
        .program("bench", env::args().skip(1));
    if !machine::in_guest() {
        stage::build_vitrine()?;
        println!("booting the test machine");
    }
    let arguments = arguments.clone();
    machine::boot(machine, move |guest| -> Result<()> {
        for producer in &arguments.producer {
            println!("\nframes by {producer}");
            measure_producer(&arguments, guest, producer)?;
        }
        Ok(())
    });
    Ok(())
}

fn measure_producer(arguments: &Arguments, guest: &Guest, producer: &str) -> Result<()> {
    let config = format!("[capture]\nproducer = {producer:?}\n");
    let stage = Stage::start_with(guest, &arguments.mode, &config, &[])?;
    let pid = stage.vitrine.pid();
    measure_all(arguments, &stage.client, pid, &guest.out().join("bench"))?;
    for counters in stage.end() {
        println!(
            "\nthe whole time on {}: {} flips, {} writeback jobs, {} frames published, {} \
                 skipped, {} lost, {} modesets",
            counters.get("output"),
            counters.get("flips"),
            counters.get("jobs"),
            counters.get("published"),
            counters.get("skipped"),
            counters.get("lost"),
            counters.get("modesets"),
        );
    }
    Ok(())
}

fn measure_all(arguments: &Arguments, client: &Client, pid: u32, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)?;
    let output = client.output(None)?;
    let (width, height) = output.mode;
    println!(
        "{} {width}x{height}, compositor is process {pid}",
        output.name
    );
    let _painter = match arguments.no_painter {
        true => None,
        false => Some(Running::start(programs::command(PAINTER)?)?),
    };
    let length = Duration::from_secs_f64(arguments.seconds);
    std::thread::sleep(SECOND);
    let before = Cpu::of(pid)?;
    std::thread::sleep(length);
    let idle = Cpu::of(pid)?.since(before);
    println!(
        "without capture: {:.1} % of a CPU, {:.1} % in the main thread\n",
        100.0 * idle.process.as_secs_f64() / length.as_secs_f64(),
        100.0 * idle.main.as_secs_f64() / length.as_secs_f64(),
    );
    let idle_main = idle.main.as_secs_f64() / length.as_secs_f64();
    let mut rows = Vec::new();
    for &protocol in &arguments.protocol {
        let mut of_protocol: Vec<Row> = arguments
            .clients
            .iter()
            .map(|&clients| Row::new(protocol, clients))
            .collect();
        for round in 1..=arguments.rounds {
            println!("{}: round {round} of {}", protocol.name(), arguments.rounds);
            for row in &mut of_protocol {
                row.measure(length, pid, directory)
                    .with_context(|| format!("{protocol:?} with {} clients", row.clients))?;
            }
        }
        rows.extend(of_protocol);
    }
    println!("\nprotocol     N   frames/client   frames/s   flip to ready, ms   CPU ms/frame   of it main   above idle   further client   to N=1   KiB copied");
    println!("                   min     max               median      p99                                                                       /client/frame");
    for row in &rows {
        let one = rows
            .iter()
            .find(|one| one.protocol == row.protocol && one.clients == 1);
        row.print(one, idle_main);
    }
    println!(
        "\nCPU per frame: what the compositor's process used for all its work, drawing included, by the \
         number of different frames\nthat its clients got; above idle: of the main thread, without what it used while nobody captured; further client: what each one after the first adds to the main thread.\nMeasured for {} s, {} times each.",
        arguments.seconds, arguments.rounds
    );
    Ok(())
}

/// One line of the table: the sum of some times between two looks at the compositor's CPU time.
struct Row {
    protocol: Protocol,
    clients: usize,
    length: Duration,
    frames: Vec<usize>,
    distinct: usize,
    latencies: Vec<Duration>,
    cpu: Cpu,
    /// Bytes copied into clients' memory; `None`: the compositor does not tell.
    copied: Option<u64>,
}

impl Row {
    fn new(protocol: Protocol, clients: usize) -> Self {
        Self {
            protocol,
            clients,
            length: Duration::ZERO,
            frames: vec![0; clients],
            distinct: 0,
            latencies: Vec::new(),
            cpu: Cpu::default(),
            copied: Some(0),
        }
    }

    /// Adds one measurement.
    fn measure(&mut self, length: Duration, pid: u32, directory: &Path) -> Result<()> {
        let warm = Duration::from_secs(1);
        let all = length + warm * 2;
        let file = |i: usize| -> PathBuf {
            directory.join(format!("{}-{}-{i}.txt", self.protocol.name(), self.clients))
        };
        let mut running = Vec::new();
        for i in 0..self.clients {
            let _ = std::fs::remove_file(file(i));
            running.push(Running::start(capture_command(
                self.protocol,
                &file(i),
                all,
            )?)?);
        }
        std::thread::sleep(warm);
        let copied_before = copied_bytes();
        let (begin, before) = (clock::now(), Cpu::of(pid)?);
        std::thread::sleep(length);
        let (end, cpu) = (clock::now(), Cpu::of(pid)?.since(before));
        let copied = copied_bytes().zip(copied_before);
        let copied = copied.map(|(after, before)| after.saturating_sub(before));
        self.copied = self.copied.zip(copied).map(|(sum, more)| sum + more);
        for mut client in running {
            client.wait(all + SECOND * 25)?;
        }
        let mut seen = BTreeSet::new();
        for i in 0..self.clients {
            let stats = CaptureStats::load(&file(i)).context("the figures of a capture client")?;
            for (&presented, &latency) in stats.presented.iter().zip(&stats.latencies) {
                if (begin..end).contains(&(presented + latency)) {
                    seen.insert(presented);
                    self.latencies.push(latency);
                    self.frames[i] += 1;
                }
            }
        }
        ensure!(
            !seen.is_empty(),
            "no client got a frame: does anything move on the screen?"
        );
        self.length += end - begin;
        self.distinct += seen.len();
        self.cpu = self.cpu.plus(cpu);
        Ok(())
    }

    /// In milliseconds.
    fn cpu_per_frame(&self) -> f64 {
        self.cpu.process.as_secs_f64() * 1e3 / self.distinct as f64
    }

    /// Of the main thread, in milliseconds.
    fn main_per_frame(&self) -> f64 {
        self.cpu.main.as_secs_f64() * 1e3 / self.distinct as f64
    }

    /// `one`: the row of the same protocol with one client; `idle_main`: seconds of the main thread per second without
    /// capture, for the same painter.
    fn print(&self, one: Option<&Row>, idle_main: f64) {
        let above_idle = self.main_per_frame()
            - idle_main * self.length.as_secs_f64() * 1e3 / self.distinct as f64;
        let further = one
            .filter(|_| self.clients > 1)
            .map(|one| (self.main_per_frame() - one.main_per_frame()) / (self.clients - 1) as f64);
        println!(
            "{:<11} {:>2}  {:>6}  {:>6}  {:>9.1}  {:>10.2}  {:>8.2}  {:>11.2}  {:>11.2}  {:>11.2}  {:>15}  {:>7}  {:>11}",
            self.protocol.name(),
            self.clients,
            self.frames.iter().min().copied().unwrap_or(0),
            self.frames.iter().max().copied().unwrap_or(0),
            self.distinct as f64 / self.length.as_secs_f64(),
            percentile(&self.latencies, 50).as_secs_f64() * 1e3,
            percentile(&self.latencies, 99).as_secs_f64() * 1e3,
            self.cpu_per_frame(),
            self.main_per_frame(),
            above_idle,
            further.map_or("-".to_owned(), |further| format!("{further:.3}")),
            one.map_or("-".to_owned(), |one| format!(
                "{:.2}",
                self.cpu_per_frame() / one.cpu_per_frame()
            )),
            self.copied.map_or("?".to_owned(), |copied| format!(
                "{:.1}",
                copied as f64 / 1024.0 / self.frames.iter().sum::<usize>() as f64
            )),
        );
    }
}

/// What the compositor copied into all its clients' memory so far, if it is a Vitrine that can be asked.
fn copied_bytes() -> Option<u64> {
    let line = message(None, Request::Capture, true).ok()?;
    match serde_json::from_str::<Answer>(&line).ok()?.outcome {
        Outcome::Ok(Reply::Capture(outputs)) => Some(outputs.iter().map(|o| o.copied_bytes).sum()),
        _ => None,
    }
}

fn capture_command(protocol: Protocol, file: &Path, length: Duration) -> Result<Command> {
    let mut command = programs::command(CAPTURE)?;
    command.arg("--quiet").arg("--out").arg(file);
    command.args(["--duration", &length.as_secs_f64().to_string()]);
    command.args(["--protocol", protocol.name()]);
    Ok(command)
}

/// A client process; killed if it is still there at the end.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        Ok(Self(child.with_context(|| format!("{command:?}"))?))
    }

    fn wait(&mut self, patience: Duration) -> Result<()> {
        let deadline = clock::now() + patience;
        loop {
            if let Some(status) = self.0.try_wait()? {
                ensure!(
                    status.success(),
                    "a capture client ended with {status}; see above"
                );
                return Ok(());
            }
            ensure!(clock::now() < deadline, "a capture client does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
