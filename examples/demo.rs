//! `make demo`: boots the test machine, runs Vitrine there with a terminal as its application, and
//! captures the screen with five clients at once. What they saw is in target/demo/ afterwards.

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
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use clients::{
    programs::{self, CAPTURE},
    CaptureStats,
};
use machine::{Guest, Machine, Output, Proc, SECOND};
use stage::{Counters, Cpu, Stage};

/// Shows Vitrine at work on a machine that it boots.
#[derive(Parser, Clone)]
struct Arguments {
    /// The application on the screen
    #[arg(long, value_enum, default_value = "foot")]
    app: App,
    /// The screen's mode
    #[arg(long, default_value = "640x480")]
    mode: String,
    /// How long the clients capture, in seconds
    #[arg(long, default_value_t = 6.0)]
    seconds: f64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum App {
    /// A terminal with something moving in it
    Foot,
    /// Weston's animation in shared memory
    SimpleShm,
}

/// Export-dmabuf clients that run beside the copying one.
const EXPORTERS: usize = 4;

/// Coloured waves below a headline, 256 colours, by the awk of any Debian.
const WAVES: &str = r#"printf '\033[?25l'; sleep 1; size=$(stty size); exec awk -v lines="${size% *}" -v columns="${size#* }" 'BEGIN {
  while (++t) {
    s = "\033[H\033[0;1m  Vitrine: this is the real screen, frame " t " of the terminal\033[0m\033[K\r\n\033[K\r\n"
    for (y = 2; y < lines; y++) {
      for (x = 0; x < columns; x += 2) {
        v = sin(x / 7 + t / 9) + sin(y / 4 - t / 13) + sin((x + 2 * y) / 11 + t / 17)
        s = s "\033[48;5;" (16 + 36 * int(2.5 + 0.8 * v) + 6 * int(5 * y / lines) + int(5 * x / columns)) "m  "
      }
      s = s "\033[0m" (y < lines - 1 ? "\r\n" : "")
    }
    printf "%s", s; fflush(); system("sleep 0.03")
  }
}'"#;

fn main() -> Result<()> {
    if let Some(result) = programs::run_if_asked() {
        return result;
    }
    demo(&Arguments::parse())
}

/// Runs on both sides of the machine: see [`machine::boot`].
fn demo(arguments: &Arguments) -> Result<()> {
    let machine = Machine::default()
        .output(Output::new())
        .timeout(SECOND * 180 + Duration::from_secs_f64(arguments.seconds))
        .program("demo", env::args().skip(1));
    if !machine::in_guest() {
        println!("demo: building vitrine");
        stage::build_vitrine()?;
        println!(
            "demo: booting a machine with a display controller that has a writeback connector"
        );
    }
    let arguments = arguments.clone();
    let out = machine::boot(machine, move |guest| show(guest, &arguments));
    keep(&out)
}

/// In the guest.
fn show(guest: &Guest, arguments: &Arguments) -> Result<()> {
    let app: &[&str] = match arguments.app {
        App::Foot => &["foot", "sh", "-c", WAVES],
        App::SimpleShm => &["weston-simple-shm"],
    };
    println!("demo: starting vitrine with {}", app.first().unwrap_or(&""));
    let stage = Stage::start(guest, &arguments.mode, app)?;
    // Give the application time to draw its first picture.
    std::thread::sleep(SECOND * 2);
    println!(
        "demo: capturing for {} s: one ext-image-copy-capture client, {EXPORTERS} export-dmabuf clients",
        arguments.seconds
    );
    let seconds = arguments.seconds.to_string();
    let before = Cpu::of(stage.vitrine.pid())?;
    let mut running = Vec::new();
    for client in Client::cast() {
        let mut command = programs::command(CAPTURE)?;
        command
            .arg("--out")
            .arg(guest.out().join(client.stats_file()));
        command.args(["--duration", &seconds, "--protocol", client.protocol]);
        if let Some((option, file)) = client.picture {
            command.arg(option).arg(guest.out().join(file));
        }
        let process = guest.spawn(&client.name, command);
        running.push((client, process));
    }
    std::thread::sleep(Duration::from_secs_f64(arguments.seconds));
    let cpu = Cpu::of(stage.vitrine.pid())?.since(before);
    println!("demo: writing the pictures");
    for (_, process) in &mut running {
        process.wait_success(SECOND * 60);
    }
    println!("demo: ending vitrine");
    let counters = stage.end();
    let table = table(guest, &running, cpu, arguments.seconds, &counters)?;
    fs::write(guest.out().join("table.txt"), &table)?;
    println!("\n{table}");
    Ok(())
}

/// A client of the demo.
struct Client {
    name: String,
    protocol: &'static str,
    picture: Option<(&'static str, &'static str)>,
}

impl Client {
    fn cast() -> Vec<Self> {
        let copy = Self {
            name: "copy".into(),
            protocol: "copy",
            picture: Some(("--png", "screen.png")),
        };
        let export = |i| Self {
            name: format!("export-{i}"),
            protocol: "export",
            picture: (i == 1).then_some(("--apng", "screen.apng")),
        };
        [copy]
            .into_iter()
            .chain((1..=EXPORTERS).map(export))
            .collect()
    }

    fn stats_file(&self) -> String {
        format!("{}.txt", self.name)
    }
}

fn table(
    guest: &Guest,
    running: &[(Client, Proc)],
    cpu: Cpu,
    seconds: f64,
    counters: &[Counters],
) -> Result<String> {
    let mut table = String::new();
    writeln!(
        table,
        "client      protocol                frames   per second   flip to ready, ms"
    )?;
    writeln!(
        table,
        "                                                          median      p99"
    )?;
    for (client, _) in running {
        let stats = CaptureStats::load(&guest.out().join(client.stats_file()))?;
        writeln!(
            table,
            "{:<11} {:<22} {:>7} {:>12.1} {:>10.2} {:>8.2}",
            client.name,
            if client.protocol == "copy" {
                "ext-image-copy-capture"
            } else {
                "wlr-export-dmabuf"
            },
            stats.frames,
            stats.frames as f64 / stats.elapsed.as_secs_f64().max(1e-3),
            stats.median().as_secs_f64() * 1e3,
            stats.p99().as_secs_f64() * 1e3,
        )?;
    }
    for screen in counters {
        writeln!(
            table,
            "\n{}: {} flips, {} writeback jobs, {} frames published, {} delivered, {} skipped, {} lost; \
             {} modesets, {} buffers",
            screen.get("output"),
            screen.get("flips"),
            screen.get("jobs"),
            screen.get("published"),
            screen.get("delivered"),
            screen.get("skipped"),
            screen.get("lost"),
            screen.get("modesets"),
            screen.get("buffers"),
        )?;
    }
    writeln!(
        table,
        "compositor: {:.1} % of a CPU while capturing, {:.1} % in its main thread (drawing included; vkms itself \
         works in the kernel)",
        100.0 * cpu.process.as_secs_f64() / seconds,
        100.0 * cpu.main.as_secs_f64() / seconds,
    )?;
    Ok(table)
}

/// On the host: takes what is worth keeping out of the machine's directory.
fn keep(out: &Path) -> Result<()> {
    let directory: PathBuf = stage::target().join("demo");
    fs::create_dir_all(&directory)?;
    println!("demo: done. In {}:", directory.display());
    for (file, what) in [
        ("screen.png", "the screen, through ext-image-copy-capture"),
        (
            "screen.apng",
            "the screen moving, through export-dmabuf (open it in a browser)",
        ),
        ("table.txt", "the table above"),
        ("vitrine.log", "what vitrine logged"),
    ] {
        let to = directory.join(file);
        let bytes = fs::copy(out.join(file), &to).with_context(|| format!("no {file} was made"))?;
        println!("  {file:<12} {:>5} KiB  {what}", bytes.div_ceil(1024));
    }
    Ok(())
}
