//! The host's side: starts the kernel as a child process, watches it, and tells what happened.
//! Knows nothing of what runs inside.

use std::{
    env,
    fmt::Write as _,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write as _},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{flock, statvfs, FlockOperation},
    process::{
        getpid, getppid, kill_process_group, set_parent_process_death_signal, setrlimit, waitid,
        Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions,
    },
    thread::{sched_getaffinity, sched_setaffinity, CpuSet},
};

use super::{Kernel, Machine};

/// Set for the guest's process 1: the host's directory for this run.
pub(super) const GUEST: &str = "VITRINE_GUEST";
/// The files in that directory.
pub(super) const ENVIRONMENT: &str = "environment";
pub(super) const RESULT: &str = "result";
pub(super) const STDOUT: &str = "stdout.log";
pub(super) const STDERR: &str = "stderr.log";
const CONSOLE: &str = "console.log";
/// What [`RESULT`] says of a body that came to its end.
pub(super) const PASSED: &str = "passed";

const TICK: Duration = Duration::from_millis(10);
/// What the guest's own watchdog has, which can tell more, before the host's takes over.
const GRACE: Duration = Duration::from_secs(10);
/// How much of each log a report quotes.
const QUOTED_LINES: usize = 40;

/// Boots, waits for the end, and returns the directory of the run or a report of the failure.
pub(super) fn run(machine: &Machine, test: &str) -> Result<PathBuf, String> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let root = target.join("machine");
    let out = root.join(test.replace("::", "."));
    let setup = |error: io::Error| format!("{test}: {}: {error}", out.display());

    let linux = kernel(&target, machine.kernel)?;
    let slot = Slot::take(&root).map_err(setup)?;
    // Not before the slot is ours: another run of the same test may still be in there.
    let _ = fs::remove_dir_all(&out);
    fs::create_dir_all(&out).map_err(setup)?;
    fs::write(out.join(ENVIRONMENT), environment()).map_err(setup)?;

    let mut command = command(machine, test, &linux, &out).map_err(setup)?;
    if machine.cpus == 1 {
        slot.bind(&mut command);
    }
    let mut running = Running::start(command).map_err(|error| {
        format!(
            "{} does not start: {error}; run `make kernel`",
            linux.display()
        )
    })?;
    let ended = running.watch(machine.timeout + GRACE, &out);
    drop(running);

    let what = match (ended, fs::read_to_string(out.join(RESULT))) {
        (true, Ok(result)) if result == PASSED => return Ok(out),
        (_, Ok(result)) => result,
        (true, Err(_)) => "the machine went down before the test ended (a kernel panic, or the \
                           test was not found under its name)"
            .to_owned(),
        (false, Err(_)) => format!("{}, nor did the kernel react", hangs(machine.timeout)),
    };
    Err(report(test, &what, &out))
}

/// What a result says of a body that took too long.
pub(super) fn hangs(timeout: Duration) -> String {
    format!("the machine hangs: no end after {timeout:?}")
}

/// Where `make kernel` left the program.
fn kernel(target: &Path, kernel: Kernel) -> Result<PathBuf, String> {
    let dir = env::var_os("VITRINE_KERNEL_DIR").map_or(target.join("kernel"), PathBuf::from);
    let linux = dir.join(match kernel {
        Kernel::Counted => "counted/linux",
        Kernel::Stock => "stock/linux",
    });
    if linux.exists() {
        Ok(linux)
    } else {
        Err(format!(
            "there is no test kernel at {}: run `make kernel`",
            linux.display()
        ))
    }
}

fn environment() -> String {
    let wanted = |name: &str| {
        matches!(name, "PATH" | "RUST_LOG" | "RUST_BACKTRACE")
            || (name.starts_with("VITRINE_") && name != GUEST)
    };
    env::vars()
        .filter(|(name, _)| wanted(name))
        .map(|(name, value)| match name.as_str() {
            // udevd and seatd live where an unprivileged user's PATH may not lead.
            "PATH" => format!("PATH={value}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin\0"),
            _ => format!("{name}={value}\0"),
        })
        .collect()
}

fn command(machine: &Machine, test: &str, linux: &Path, out: &Path) -> io::Result<Command> {
    let program = env::current_exe()?;
    for path in [&program, out] {
        // The kernel's command line has no way to write one.
        if path
            .to_str()
            .is_none_or(|text| text.contains(char::is_whitespace))
        {
            return Err(io::Error::other(
                "a path with a space cannot be given to the kernel",
            ));
        }
    }
    let console = File::create(out.join(CONSOLE))?;
    let mut command = Command::new(linux);
    command
        .arg(format!("mem={}M", machine.memory_mib))
        .args(["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"])
        .arg(format!("init={}", program.display()))
        .args([
            "con=null",
            "con0=null",
            "ssl=null",
            "earlyprintk",
            "keep_bootcon",
            // Said here, or user-mode Linux appends it, to our arguments.
            "console=tty0",
        ])
        .arg(format!("uml_dir={}", out.display()))
        .args(["umid=uml"])
        .arg(format!(
            "vkms.create_default_dev={}",
            u8::from(machine.default_device)
        ))
        .args([
            "vkms.enable_overlay=1",
            "vkms.enable_writeback=1",
            "vkms.enable_cursor=1",
        ]);
    // `auto` falls back to ptrace where the host (a strict container) allows no seccomp filters;
    // more than one CPU is not to be had without them.
    match (machine.cpus, machine.fast) {
        (1, true) => command.arg("seccomp=auto"),
        (1, false) => command.arg("seccomp=off"),
        (cpus, _) => command.args(["seccomp=on".to_owned(), format!("ncpus={cpus}")]),
    };
    command.arg(format!("{GUEST}={}", out.display())).arg("--");
    match &machine.program {
        Some((_, args)) => command.args(args),
        None => command.args([
            "--exact",
            test,
            "--include-ignored",
            "--nocapture",
            "--test-threads=1",
        ]),
    };
    command
        .env("TMPDIR", memory_dir(machine, out)?)
        .current_dir(out)
        .stdin(Stdio::null())
        .stdout(console.try_clone()?)
        .stderr(console)
        .process_group(0);
    let parent = getpid();
    // SAFETY: only system calls between fork and exec; nothing allocates or takes a lock.
    unsafe {
        command.pre_exec(move || {
            // The machine goes with its test, however that ends...
            set_parent_process_death_signal(Some(Signal::KILL))?;
            if getppid() != Some(parent) {
                return Err(io::Error::other("the test is gone"));
            }
            // ...and leaves no core file when the kernel panics.
            setrlimit(
                Resource::Core,
                Rlimit {
                    current: Some(0),
                    maximum: Some(0),
                },
            )?;
            Ok(())
        })
    };
    Ok(command)
}

/// Where the machine's memory is: a file that has no name any more once the kernel runs. In real
/// memory if there is room (containers often have 64 MiB), else in the run's directory.
fn memory_dir(machine: &Machine, out: &Path) -> io::Result<PathBuf> {
    let shm = Path::new("/dev/shm");
    let needed = u64::from(machine.memory_mib) << 20;
    let room = statvfs(shm).is_ok_and(|fs| fs.f_bavail.saturating_mul(fs.f_frsize) > needed);
    Ok(if room { shm.to_owned() } else { out.to_owned() })
}

/// The kernel's process group; gone when this is.
struct Running {
    child: Child,
    group: Pid,
}

impl Running {
    fn start(mut command: Command) -> io::Result<Self> {
        let child = command.spawn()?;
        let group = Pid::from_child(&child);
        Ok(Self { child, group })
    }

    /// Passes on what the body prints until the machine is off. `false` if it hangs.
    fn watch(&mut self, timeout: Duration, out: &Path) -> bool {
        let started = Instant::now();
        let mut stdout = Tail::of(out.join(STDOUT));
        let mut stderr = Tail::of(out.join(STDERR));
        loop {
            let ended = self.has_ended();
            print!("{}", stdout.news());
            let _ = io::stdout().flush();
            eprint!("{}", stderr.news());
            if ended || started.elapsed() > timeout {
                return ended;
            }
            thread::sleep(TICK);
        }
    }

    /// Does not reap it: until then its number cannot be another process group's.
    fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(waitid(WaitId::Pid(self.group), options), Ok(None))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Each process of the guest is one of the host's, in this group.
        let _ = kill_process_group(self.group, Signal::KILL);
        let _ = self.child.wait();
    }
}

/// The growing end of a file.
struct Tail {
    path: PathBuf,
    read: u64,
}

impl Tail {
    fn of(path: PathBuf) -> Self {
        Self { path, read: 0 }
    }

    /// What was written since the last call.
    fn news(&mut self) -> String {
        let mut bytes = Vec::new();
        let Ok(mut file) = File::open(&self.path) else {
            return String::new();
        };
        if file.seek(SeekFrom::Start(self.read)).is_ok() && file.read_to_end(&mut bytes).is_ok() {
            self.read += bytes.len() as u64;
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The right to run a machine, and the CPU to run it on. There are as many as CPUs: machines are busy, and
/// tests that starve each other prove nothing. Shared by all checkouts of this user.
struct Slot {
    _lock: File,
    cpu: usize,
}

impl Slot {
    fn take(root: &Path) -> io::Result<Self> {
        let dir = cache().unwrap_or(root.to_owned()).join("slots");
        fs::create_dir_all(&dir)?;
        let allowed = sched_getaffinity(None)?;
        let cpus: Vec<usize> = (0..CpuSet::MAX_CPU)
            .filter(|&n| allowed.is_set(n))
            .collect();
        loop {
            for &cpu in &cpus {
                let file = File::create(dir.join(cpu.to_string()))?;
                if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                    return Ok(Self { _lock: file, cpu });
                }
            }
            thread::sleep(TICK);
        }
    }

    /// Keeps a machine on this CPU. A system call in user-mode Linux is a message between two of the host's
    /// processes, of which one always waits for the other: across CPUs each message wakes a sleeping CPU, which
    /// takes several times as long as the call.
    fn bind(&self, command: &mut Command) {
        let mut one = CpuSet::new();
        one.set(self.cpu);
        // SAFETY: only a system call between fork and exec; nothing allocates or takes a lock.
        unsafe {
            command.pre_exec(move || Ok(sched_setaffinity(None, &one)?));
        }
    }
}

/// Where `kernel.sh` keeps the kernels, by the same rule.
fn cache() -> Option<PathBuf> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
    if let Some(cache) = variable("VITRINE_CACHE") {
        return Some(cache.into());
    }
    let base = variable("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| Some(Path::new(&variable("HOME")?).join(".cache")))?;
    Some(base.join("vitrine"))
}

/// Everything that is known, the most telling first.
fn report(test: &str, what: &str, out: &Path) -> String {
    let mut text = format!("{test} failed in the test machine: {what}\n");
    let mut logs: Vec<_> = fs::read_dir(out)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".log"))
        .collect();
    logs.sort();
    for name in logs {
        let bytes = fs::read(out.join(&name)).unwrap_or_default();
        let log = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = log.lines().collect();
        let quoted = lines
            .get(lines.len().saturating_sub(QUOTED_LINES)..)
            .unwrap_or_default();
        if !quoted.is_empty() {
            let _ = write!(text, "--- the end of {name}\n{}\n", quoted.join("\n"));
        }
    }
    let _ = write!(text, "--- all of it is in {}", out.display());
    text
}
