//! The test machine: an integration test is an ordinary test function whose body runs in a fresh
//! user-mode kernel with vkms.
//!
//! ```ignore
//! #[test]
//! fn the_screen_comes_up() {
//!     machine::boot(Machine::default().output(Output::new().overlay(1)), |guest| {
//!         let vitrine = guest.spawn("vitrine", Command::new(env!("CARGO_BIN_EXE_vitrine")));
//!         machine::wait_until("the first flip", SECOND * 10, || vitrine.log().contains("flip"));
//!     });
//! }
//! ```
//!
//! `boot` is reached twice. On the host it starts the kernel with this very program as init, told
//! to run this very test. There, being process 1, it sets the machine up, runs the body, writes
//! down how it went and powers off; the host reads that and passes or panics with all that is
//! known. The host's files are the root file system, read-only; [`Guest::out`] is the one directory
//! that outlives the machine (`target/machine/<test>/` on the host).
//!
//! This module knows nothing of Vitrine, so that an example can include it with `#[path]`.

// Not every program that includes this module uses all of it.
#![allow(dead_code, unused_imports)]

mod crc;
mod guest;
mod host;
mod init;
mod process;
mod topology;

use std::{
    any::type_name_of_val,
    collections::BTreeSet,
    fmt,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

pub use crc::{vkms_crc, Crc, CrcReader};
pub use guest::Guest;
pub use process::Proc;
pub use rustix::process::Signal;
pub use topology::Output;

/// One second, to write `SECOND * 10`.
pub const SECOND: Duration = Duration::from_secs(1);

/// Which of the two kernels that `make kernel` builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// vkms with our patch: no writeback job is lost. Sound hardware.
    Counted,
    /// vkms as it is: loses writeback jobs under load, for ever. Faulty hardware.
    Stock,
}

/// What machine a test wants. `Machine::default()` has one screen with a cursor plane and
/// writeback, the counted kernel, udev and seatd.
#[derive(Debug, Clone)]
pub struct Machine {
    kernel: Kernel,
    outputs: Vec<Output>,
    default_device: bool,
    memory_mib: u32,
    cpus: u32,
    fast: bool,
    services: bool,
    timeout: Duration,
    env: Vec<(String, String)>,
    program: Option<(String, Vec<String>)>,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            kernel: Kernel::Counted,
            outputs: Vec::new(),
            default_device: false,
            memory_mib: 1024,
            cpus: 1,
            fast: true,
            services: true,
            timeout: Duration::from_secs(300),
            env: Vec::new(),
            program: None,
        }
    }
}

impl Machine {
    /// Boots this kernel instead of [`Kernel::Counted`].
    pub fn kernel(mut self, kernel: Kernel) -> Self {
        self.kernel = kernel;
        self
    }

    /// Adds a screen. Without any the machine has one [`Output::new`].
    pub fn output(mut self, output: Output) -> Self {
        self.outputs.push(output);
        self
    }

    /// Takes the device that vkms makes by itself (one screen, cursor, overlays, writeback) instead of one
    /// made in configfs. Its connector's status cannot be changed.
    pub fn default_device(mut self) -> Self {
        self.default_device = true;
        self
    }

    /// The machine's memory, in MiB (1024). Only what is touched costs the host anything.
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// One or two CPUs (1). With two, programs run side by side, but waking a thread on the other
    /// CPU can take until its next timer tick, 10 ms: not for tests of latency or rate.
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// Whether user space runs under seccomp (the default) or under ptrace, which is slower.
    pub fn fast(mut self, fast: bool) -> Self {
        self.fast = fast;
        self
    }

    /// Whether udevd and seatd run (they do). Without them the machine is up a little sooner.
    pub fn services(mut self, services: bool) -> Self {
        self.services = services;
        self
    }

    /// How long the machine may run in all (300 s) before it counts as hung.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets a variable of the body's environment. `PATH`, `RUST_LOG`, `RUST_BACKTRACE` and
    /// `VITRINE_*` are taken over from the host's.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// For a program that is not a test: `name` stands for the test's, and `args` are what the
    /// program is given in the guest.
    pub fn program<S: Into<String>>(
        mut self,
        name: &str,
        args: impl IntoIterator<Item = S>,
    ) -> Self {
        self.program = Some((name.to_owned(), args.into_iter().map(Into::into).collect()));
        self
    }

    fn outputs(&self) -> Vec<Output> {
        if self.outputs.is_empty() {
            vec![Output::new()]
        } else {
            self.outputs.clone()
        }
    }
}

/// What a body may return: nothing, or a `Result` so that it can use `?`.
pub trait Outcome {
    /// Why the body failed, if it did.
    fn failure(self) -> Option<String>;
}

impl Outcome for () {
    fn failure(self) -> Option<String> {
        None
    }
}

impl<E: fmt::Debug> Outcome for Result<(), E> {
    fn failure(self) -> Option<String> {
        self.err()
            .map(|error| format!("the body returned an error: {error:?}"))
    }
}

/// Runs `body` in a fresh machine and returns the host's directory with all that it left behind.
/// Once per test function, as the guest finds the body by running the function again. What stands
/// in the function before `boot` runs on both sides.
///
/// # Panics
/// On the host, if the body panicked or returned an error, if the machine did not boot, or if it
/// ran longer than [`Machine::timeout`]. The message says what happened and quotes the logs.
#[track_caller]
pub fn boot<R: Outcome>(machine: Machine, body: impl FnOnce(&Guest) -> R) -> PathBuf {
    let test = match &machine.program {
        Some((name, _)) => name.clone(),
        None => test_name(std::thread::current().name(), type_name_of_val(&body)),
    };
    if in_guest() {
        init::run(&machine, body);
    }
    let first = BOOTED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(test.clone());
    assert!(
        first,
        "{test} boots twice; give each boot a test function of its own"
    );
    match host::run(&machine, &test) {
        Ok(out) => out,
        Err(report) => panic!("{report}"),
    }
}

static BOOTED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Whether this program runs as a machine's init.
pub fn in_guest() -> bool {
    std::env::var_os(host::GUEST).is_some() && std::process::id() == 1
}

/// libtest and nextest name a test's thread after it, so helpers may call `boot` for a test. Where
/// the main thread does it, the function that holds the body must be the test itself:
/// `crate::module::test::{{closure}}` is `module::test`.
fn test_name(thread: Option<&str>, body: &str) -> String {
    if let Some(name) = thread.filter(|&name| name != "main") {
        return name.to_owned();
    }
    let mut name = body;
    while let Some(outer) = name.strip_suffix("::{{closure}}") {
        name = outer;
    }
    name.split_once("::")
        .map_or(name, |(_, name)| name)
        .to_owned()
}

/// Waits until `condition` holds.
///
/// # Panics
/// If it does not within `timeout`, saying `what` was waited for.
#[track_caller]
pub fn wait_until(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, timeout, || condition().then_some(()));
}

/// Waits until `attempt` gives something, and returns it.
///
/// # Panics
/// If it does not within `timeout`, saying `what` was waited for.
#[track_caller]
pub fn wait_for<T>(what: &str, timeout: Duration, mut attempt: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(
            started.elapsed() < timeout,
            "waited {timeout:?} in vain for {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
