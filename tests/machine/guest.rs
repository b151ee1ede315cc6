//! What a body is given: the machine seen from the inside.

use std::{
    fs::{self, OpenOptions},
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use rustix::fs::OFlags;

use super::{crc::CrcReader, init::OUT, process::open_log, topology, Proc};

/// The running machine.
#[derive(Debug)]
pub struct Guest {
    card: u32,
}

impl Guest {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            card: topology::card_number()?,
        })
    }

    /// The directory that is `target/machine/<test>/` on the host: what is written here stays.
    pub fn out(&self) -> &Path {
        Path::new(OUT)
    }

    /// The vkms device's node, `/dev/dri/cardN`.
    pub fn card(&self) -> PathBuf {
        PathBuf::from(format!("/dev/dri/card{}", self.card))
    }

    /// Plugs or unplugs the screen of output `index`, counted in the order of the topology.
    ///
    /// # Panics
    /// If there is no such output, or the machine has vkms' default device.
    #[track_caller]
    pub fn set_connector_status(&self, index: usize, connected: bool) {
        if let Err(error) = topology::set_connected(index, connected) {
            panic!("output {index} cannot be (un)plugged: {error:#}");
        }
    }

    /// The checksums of what CRTC `index` shows from now on.
    ///
    /// # Errors
    /// If the CRTC is off or somebody else reads them.
    pub fn crc(&self, index: usize) -> Result<CrcReader> {
        CrcReader::open(self.card, index)
    }

    /// Starts a process; its stdout and stderr go to `<name>.log` in [`Guest::out`].
    ///
    /// # Panics
    /// If it does not start.
    #[track_caller]
    pub fn spawn(&self, name: &str, command: Command) -> Proc {
        match Proc::spawn(name, self.out(), command) {
            Ok(process) => process,
            Err(error) => panic!("{name} does not start: {error}"),
        }
    }

    /// Runs a program to its end and returns its stdout; stderr goes to `<name>.log`.
    ///
    /// # Errors
    /// If it does not start or does not end with success.
    pub fn run(&self, name: &str, mut command: Command) -> Result<String> {
        let log = self.out().join(format!("{name}.log"));
        command.stdin(Stdio::null()).stderr(open_log(&log)?);
        let output = command
            .output()
            .with_context(|| format!("{name} does not start"))?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        anyhow::ensure!(
            output.status.success(),
            "{name} ended with {}; it said:\n{stdout}{}",
            output.status,
            fs::read_to_string(&log).unwrap_or_default()
        );
        Ok(stdout)
    }

    /// Keeps a CPU busy until it is dropped.
    #[track_caller]
    pub fn busy_loop(&self) -> Proc {
        let mut command = Command::new("sh");
        command.args(["-c", "while :; do :; done"]);
        self.spawn("busy-loop", command)
    }

    /// The kernel's messages since boot.
    pub fn dmesg(&self) -> String {
        read_kmsg().unwrap_or_else(|error| format!("/dev/kmsg cannot be read: {error}"))
    }
}

/// One record per read, `priority,sequence,microseconds,flags;text`, until there is no more.
fn read_kmsg() -> Result<String> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits())?;
    let mut kmsg = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open("/dev/kmsg")?;
    let mut text = String::new();
    let mut record = [0; 8192];
    while let Ok(length) = kmsg.read(&mut record) {
        let record = String::from_utf8_lossy(record.get(..length).unwrap_or_default());
        text.push_str(
            record
                .split_once(';')
                .map_or(&*record, |(_, message)| message),
        );
    }
    Ok(text)
}
