//! A running vitrine to test against: starts it in the machine, connects clients, reads its summary.

use std::{collections::BTreeMap, process::Command};

use crate::{
    clients::{Client, Painter, PainterOptions},
    machine::{Guest, Proc, Signal, SECOND},
    newer::Programs,
};

/// How vitrine is started.
pub struct Setup {
    config: String,
    faults: String,
    filter: &'static str,
    descriptors: Option<u32>,
    inside: bool,
    hasty: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            config: "[[output]]\nconnector = \"*\"\nmode = \"640x480\"\n".to_owned(),
            faults: String::new(),
            filter: "info,vitrine=debug",
            descriptors: None,
            inside: false,
            hasty: false,
        }
    }
}

impl Setup {
    /// Another configuration file; without it every output runs at 640x480.
    pub fn config(mut self, text: &str) -> Self {
        self.config = text.to_owned();
        self
    }

    /// Lines at the beginning of the configuration file.
    pub fn with(mut self, lines: &str) -> Self {
        self.config = format!("{lines}\n{}", self.config);
        self
    }

    /// Injected faults, in the words of VITRINE_FAULTS.
    pub fn faults(mut self, plan: &str) -> Self {
        self.faults = plan.to_owned();
        self
    }

    /// Lets vitrine open only so many descriptors.
    pub fn descriptors(mut self, limit: u32) -> Self {
        self.descriptors = Some(limit);
        self
    }

    /// A job counts as lost as soon as by default. Otherwise it is given so long that one that is lost is the connector's
    /// doing, or a fault's, and not that of a busy host: there 250 ms have been too short for ten ms of work.
    pub fn hasty(mut self) -> Self {
        self.hasty = true;
        self
    }

    /// What is logged, as in RUST_LOG.
    pub fn filter(mut self, directives: &'static str) -> Self {
        self.filter = directives;
        self
    }

    /// Runs vitrine in the tree of newer programs, with the C library and the GL of that.
    pub fn inside(mut self, _: &Programs) -> Self {
        self.inside = true;
        self
    }

    /// Starts vitrine without an application.
    pub fn start<'g>(self, guest: &'g Guest) -> Stage<'g> {
        let file = guest.out().join("compositor.toml");
        std::fs::write(&file, with_time(&self.config, self.hasty)).unwrap();
        let mut words = match self.inside {
            false => vec![env!("CARGO_BIN_EXE_vitrine").to_owned()],
            true => Programs::vitrine(),
        };
        if let Some(limit) = self.descriptors {
            let script = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
            words.splice(0..0, ["sh".to_owned(), "-c".to_owned(), script]);
        }
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command.arg("-c").arg(&file).args(["-s", "wayland-test"]);
        command.env("RUST_LOG", self.filter);
        if !self.faults.is_empty() {
            command.env("VITRINE_FAULTS", &self.faults);
        }
        let mut vitrine = guest.spawn("vitrine", command);
        vitrine.wait_log("mode set", SECOND * 30);
        Stage { guest, vitrine }
    }
}

/// The configuration with more time for jobs.
pub fn with_time(config: &str, hasty: bool) -> String {
    const TABLE: &str = "[capture]\n";
    const TIME: &str = "[capture]\nwatchdog_ms = 2000\n";
    match (hasty, config.contains(TABLE)) {
        (true, _) => config.to_owned(),
        (false, true) => config.replacen(TABLE, TIME, 1),
        (false, false) => format!("{config}\n{TIME}"),
    }
}

/// Vitrine, running.
pub struct Stage<'g> {
    pub guest: &'g Guest,
    pub vitrine: Proc,
}

impl Stage<'_> {
    /// A new connection.
    pub fn client(&self) -> Client {
        let mut client = Client::connect_when_ready("wayland-test", SECOND * 20).unwrap();
        client.set_patience(SECOND * 20);
        client
    }

    /// A connection with a full-screen window on the first output.
    pub fn painter(&self) -> (Client, Painter) {
        self.painter_with(PainterOptions::default())
    }

    /// The same with options.
    pub fn painter_with(&self, options: PainterOptions) -> (Client, Painter) {
        let mut client = self.client();
        let painter = Painter::new(&mut client, options).unwrap();
        (client, painter)
    }

    /// A client program in a process of its own.
    pub fn spawn(&self, name: &str, mut command: Command) -> Proc {
        command.env("WAYLAND_DISPLAY", "wayland-test");
        self.guest.spawn(name, command)
    }

    /// Waits until somebody has begun to capture by screencopy.
    pub fn wait_for_capture(&self, patience: std::time::Duration) {
        crate::machine::wait_until("a capture", patience, || {
            let log = self.vitrine.log();
            let begins = |line: &&str| line.contains("capture begins");
            let mut lines = log.lines().filter(begins);
            lines.any(|line| line.contains("protocol=\"wlr-screencopy\""))
        });
    }

    /// Waits until as many slots of the first output are in quarantine as jobs are owed for ever. On a busy machine the
    /// display may have overtaken the last job, whose slot is there until its fence comes.
    #[track_caller]
    pub fn wait_for_slots(&self, owed: u64) {
        let mut last = 0;
        let what = format!("{owed} slots in quarantine");
        crate::machine::wait_until(&what, SECOND * 20, || {
            let now = crate::control::capture_report(self.guest).quarantined;
            if now != std::mem::replace(&mut last, now) {
                println!("{now} slots in quarantine, {owed} of them owed");
            }
            now == owed
        });
    }

    /// Ends vitrine and gives its counters of an output.
    pub fn finish(mut self, output: &str) -> Summary {
        self.vitrine.signal(Signal::TERM);
        let status = self.vitrine.wait_exit(SECOND * 20);
        assert_eq!(status.code(), Some(0), "vitrine did not end cleanly");
        Summary::read(&self.vitrine.log(), output)
    }
}

/// The counters that vitrine writes when an output ends.
#[derive(Debug)]
pub struct Summary(BTreeMap<String, u64>);

impl Summary {
    /// The last summary of `output` in a log.
    pub fn read(log: &str, output: &str) -> Self {
        let is_it =
            |line: &&str| line.contains("summary") && line.contains(&format!("output={output} "));
        let line = log
            .lines()
            .rfind(is_it)
            .unwrap_or_else(|| panic!("no summary of {output}"));
        let pairs = line
            .split_whitespace()
            .filter_map(|word| word.split_once('='));
        Self(
            pairs
                .filter_map(|(key, value)| Some((key.to_owned(), value.parse().ok()?)))
                .collect(),
        )
    }

    /// One counter.
    pub fn get(&self, key: &str) -> u64 {
        *self
            .0
            .get(key)
            .unwrap_or_else(|| panic!("the summary has no {key}: {self:?}"))
    }
}
