//! The guest's process 1: sets the machine up, runs the body, writes down how it went, powers off.
//! Knows of the host only the directory that both see.

use std::{
    env, fs,
    io::Write,
    os::unix::fs::{symlink, PermissionsExt},
    panic::{catch_unwind, AssertUnwindSafe, PanicHookInfo},
    path::Path,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, ThreadId},
    time::Duration,
};

use anyhow::{bail, Context, Result};
use rustix::{
    fs::sync,
    mount::{mount, MountFlags},
    system::{reboot, RebootCommand},
};

use super::{host, process::open_log, topology, Guest, Machine, Outcome, Proc, SECOND};

/// Where the host's directory is in the guest.
pub(super) const OUT: &str = "/run/out";
const RUNTIME_DIR: &str = "/run/user/0";
const HOME: &str = "/run/home";

/// Does all of it; the machine is off at the end.
pub(super) fn run<R: Outcome>(machine: &Machine, body: impl FnOnce(&Guest) -> R) -> ! {
    if let Err(error) = prepare(machine) {
        last_words(&format!("the guest cannot be set up: {error:#}"));
        power_off();
    }
    let panics = Panics::recorded();
    let failure = catch_unwind(AssertUnwindSafe(|| -> Result<Option<String>> {
        let _services = services(machine)?;
        let guest = Guest::new()?;
        Ok(body(&guest).failure())
    }));
    let result = match failure {
        Ok(Ok(None)) => host::PASSED.to_owned(),
        Ok(Ok(Some(reason))) => reason,
        Ok(Err(error)) => format!("the guest cannot be set up: {error:#}"),
        Err(_) => panics.last(),
    };
    let _ = std::io::stdout().flush();
    finish(&result)
}

fn finish(result: &str) -> ! {
    if let Err(error) = fs::write(Path::new(OUT).join(host::RESULT), result) {
        last_words(&format!("the result cannot be written: {error}"));
    }
    power_off()
}

/// Mounts, output and environment: from here on the host hears of everything.
fn prepare(machine: &Machine) -> Result<()> {
    let host_dir = env::var(host::GUEST)?;
    mount_all(&host_dir)?;
    let out = Path::new(OUT);
    rustix::stdio::dup2_stdout(open_log(&out.join(host::STDOUT))?)?;
    rustix::stdio::dup2_stderr(open_log(&out.join(host::STDERR))?)?;
    take_environment(machine)?;
    let timeout = machine.timeout;
    thread::Builder::new()
        .name("watchdog".to_owned())
        .spawn(move || watchdog(timeout))?;
    Ok(())
}

fn mount_all(host_dir: &str) -> Result<()> {
    let plain = |kind: &str, at: &str| -> Result<()> {
        fs::create_dir_all(at).with_context(|| format!("making {at}"))?;
        mount(kind, at, kind, MountFlags::empty(), None)
            .with_context(|| format!("mounting {kind} on {at}"))
    };
    plain("proc", "/proc")?;
    plain("sysfs", "/sys")?;
    plain("debugfs", "/sys/kernel/debug")?;
    plain("configfs", "/sys/kernel/config")?;
    plain("devpts", "/dev/pts")?;
    let hidden = ["/run", "/tmp", "/dev/shm"];
    for dir in hidden {
        plain("tmpfs", dir)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o1777))?;
    }
    fs::set_permissions("/run", fs::Permissions::from_mode(0o755))?;
    // What a shell expects and devtmpfs does not have.
    symlink("/proc/self/fd", "/dev/fd")?;

    let checkout = env!("CARGO_MANIFEST_DIR");
    if hidden
        .iter()
        .any(|dir| Path::new(checkout).starts_with(dir))
    {
        mount_host(checkout, checkout, MountFlags::RDONLY)?;
    }
    mount_host(host_dir, OUT, MountFlags::empty())
}

fn mount_host(dir: &str, at: &str, flags: MountFlags) -> Result<()> {
    fs::create_dir_all(at).with_context(|| format!("making {at}"))?;
    let data = std::ffi::CString::new(dir)?;
    mount("none", at, "hostfs", flags, data.as_c_str())
        .with_context(|| format!("mounting the host's {dir}"))
}

/// The environment comes in a file: the kernel's command line is short and needs quoting.
fn take_environment(machine: &Machine) -> Result<()> {
    let text = fs::read_to_string(Path::new(OUT).join(host::ENVIRONMENT))?;
    for (name, value) in text.split('\0').filter_map(|entry| entry.split_once('=')) {
        env::set_var(name, value);
    }
    for dir in [HOME, RUNTIME_DIR] {
        fs::create_dir_all(dir)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    }
    env::set_var("HOME", HOME);
    // Mesa asks the password file where HOME is, and that one is read-only.
    env::set_var("XDG_CACHE_HOME", format!("{HOME}/.cache"));
    env::set_var("LANG", "C.UTF-8");
    env::set_var("XDG_RUNTIME_DIR", RUNTIME_DIR);
    // There are no VTs in this kernel, and no logind.
    env::set_var("SEATD_VTBOUND", "0");
    env::set_var("LIBSEAT_BACKEND", "seatd");
    for (name, value) in &machine.env {
        env::set_var(name, value);
    }
    Ok(())
}

/// The display, the device manager and the seat.
fn services(machine: &Machine) -> Result<Vec<Proc>> {
    if !machine.default_device {
        topology::create(&machine.outputs())?;
    }
    if !machine.services {
        return Ok(Vec::new());
    }
    let start = |name: &str, command: Command| {
        Proc::spawn(name, Path::new(OUT), command)
            .with_context(|| format!("{name} does not start; run `make deps`"))
    };
    let udevd = [
        "/usr/lib/systemd/systemd-udevd",
        "/lib/systemd/systemd-udevd",
    ]
    .into_iter()
    .find(|path| Path::new(path).exists())
    .context("systemd-udevd is not installed; run `make deps`")?;
    let udevd = start("udevd", Command::new(udevd))?;
    let seatd = start("seatd", Command::new("seatd"))?;
    super::wait_until("udevd to listen", SECOND * 20, || {
        Path::new("/run/udev/control").exists()
    });
    // Only what a compositor looks for: all devices would take ten times as long.
    udevadm(&["trigger", "-s", "drm", "-s", "input"])?;
    udevadm(&["settle", "--timeout=20"])?;
    super::wait_until("seatd to listen", SECOND * 20, || {
        Path::new("/run/seatd.sock").exists()
    });
    Ok(vec![udevd, seatd])
}

fn udevadm(args: &[&str]) -> Result<()> {
    let status = Command::new("udevadm")
        .args(args)
        .status()
        .context("running udevadm")?;
    if !status.success() {
        bail!("udevadm {args:?}: {status}");
    }
    Ok(())
}

/// What the body's thread panicked with; other threads' panics are only on stderr.
struct Panics {
    last: Arc<Mutex<Option<String>>>,
}

impl Panics {
    fn recorded() -> Self {
        let last = Arc::new(Mutex::new(None));
        let body: ThreadId = thread::current().id();
        let previous = std::panic::take_hook();
        let slot = Arc::clone(&last);
        std::panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
            if thread::current().id() == body {
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(info.to_string());
            }
            previous(info);
        }));
        Self { last }
    }

    fn last(&self) -> String {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.clone()
            .unwrap_or_else(|| "a panic without a word".to_owned())
    }
}

/// Ends a machine whose body does not end, saying who is there. The host has a watchdog too, for
/// a kernel that hangs.
fn watchdog(timeout: Duration) {
    thread::sleep(timeout);
    eprintln!("still running after {timeout:?}:");
    let pids = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids {
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        let status = String::from_utf8_lossy(&read("status")).into_owned();
        let state = status
            .lines()
            .find_map(|line| line.strip_prefix("State:"))
            .unwrap_or_default();
        // Kernel threads have no command line.
        if !command.is_empty() {
            eprintln!("{pid} {state} {command}");
        }
    }
    finish(&host::hangs(timeout))
}

/// Something to the kernel's log, which the host reads: nothing else may work yet.
fn last_words(text: &str) {
    let _ = fs::write("/dev/kmsg", format!("<0>vitrine: {text}\n"));
}

fn power_off() -> ! {
    sync();
    let _ = reboot(RebootCommand::PowerOff);
    // Process 1 must not return; if it does the kernel panics, which ends the machine as well.
    std::process::exit(1)
}
