//! Each capture has one beginning and one end in the log, whoever or whatever ends it.

use std::{collections::BTreeMap, fs};

use crate::{
    clients::{
        copy_capture::SessionRecord, programs, screencopy::Screencopy, Buffer, Client, CopySession,
        Exporter, MemoryKind,
    },
    machine::{self, Guest, Machine, Output, Signal, SECOND},
    rights::reload,
    stage::{Setup, Stage},
};

const OPEN: &str = "[access]\nprivileged_socket = 'wayland-privileged'\n";
const CLOSED: &str = "[access]\nprivileged_socket = 'wayland-privileged'\ndefault = 'deny'\n";
const PROTOCOLS: [&str; 3] = [
    "ext-image-copy-capture",
    "wlr-export-dmabuf",
    "wlr-screencopy",
];

/// What the log says of one session.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Account {
    protocol: String,
    begins: u32,
    ends: u32,
    frames: u64,
}

/// All sessions, by source and number.
fn accounts(log: &str) -> BTreeMap<(String, String), Account> {
    let mut accounts: BTreeMap<_, Account> = BTreeMap::new();
    for line in log.lines().filter(|line| line.contains("vitrine::audit")) {
        let of = |key: &str| {
            let pair = |word: &str| Some(word.strip_prefix(key)?.strip_prefix('=')?.to_owned());
            line.split_whitespace().find_map(pair)
        };
        let session = (of("source").unwrap(), of("session").unwrap());
        let account = accounts.entry(session).or_default();
        let protocol = of("protocol").unwrap();
        let protocol = protocol.trim_matches('"').to_owned();
        if line.contains("capture begins") {
            account.begins += 1;
            account.protocol = protocol;
        } else {
            assert!(line.contains("capture ends"), "{line}");
            assert_eq!(account.protocol, protocol, "{line}");
            account.ends += 1;
            account.frames += of("frames").unwrap().parse::<u64>().unwrap();
        }
    }
    accounts
}

/// One capture by each protocol, with a frame each.
struct Party {
    client: Client,
    exporter: Exporter,
    session: CopySession,
    _buffer: Buffer,
    screencopy: Screencopy,
}

impl Party {
    fn new(stage: &Stage<'_>) -> Self {
        let mut client = stage.client();
        let output = client.output(Some("Virtual-2")).unwrap();
        let exporter = Exporter::new(&client).unwrap();
        exporter
            .capture(&mut client, &output, true)
            .unwrap()
            .frame();
        let session = CopySession::open(&mut client, &output, true).unwrap();
        let buffer = session.buffer(&mut client, MemoryKind::Shm).unwrap();
        session.capture(&mut client, &buffer, &[]).unwrap().frame();
        let screencopy = Screencopy::new(&client).unwrap();
        let frame = screencopy.frame(&mut client, &output, true, None).unwrap();
        let target = frame.buffer(&mut client, MemoryKind::Shm).unwrap();
        frame.picture(&mut client, &target).unwrap();
        Self {
            client,
            exporter,
            session,
            _buffer: buffer,
            screencopy,
        }
    }
}

/// Waits for so many sessions with an end, and holds all of them against what must be.
#[track_caller]
fn assert_ended(stage: &Stage<'_>, sessions: usize, how: &str) {
    machine::wait_until(how, SECOND * 30, || {
        let accounts = accounts(&stage.vitrine.log());
        accounts.len() == sessions && accounts.values().all(|account| account.ends > 0)
    });
    for (session, account) in accounts(&stage.vitrine.log()) {
        let counts = (account.begins, account.ends);
        assert_eq!(counts, (1, 1), "{how}: {session:?}, {account:?}");
        assert!(account.frames >= 1, "{how}: {session:?}, {account:?}");
    }
}

/// One client for each protocol, killed while it waits for the next frame.
fn kill(guest: &Guest, stage: &Stage<'_>, sessions: usize) {
    let programs: Vec<_> = ["export", "copy", "screencopy"]
        .into_iter()
        .map(|protocol| {
            let figures = guest.out().join(format!("{protocol}.txt"));
            let mut command = programs::command(programs::CAPTURE).unwrap();
            command.args(["--protocol", protocol, "--output", "Virtual-2"]);
            command.arg("--out").arg(&figures);
            (stage.spawn(protocol, command), figures)
        })
        .collect();
    machine::wait_until("a frame for each", SECOND * 30, || {
        let has = |text: String| {
            text.lines()
                .any(|l| l.starts_with("frames=") && l != "frames=0")
        };
        let mut figures = programs
            .iter()
            .map(|(_, figures)| fs::read_to_string(figures));
        figures.all(|text| text.is_ok_and(has))
    });
    for (mut program, _) in programs {
        program.signal(Signal::KILL);
        program.wait_exit(SECOND * 20);
    }
    assert_ended(stage, sessions, "by a kill");
}

#[test]
fn each_capture_has_one_end_in_the_log_however_it_ends() {
    let two = Machine::default()
        .output(Output::new())
        .output(Output::new());
    machine::boot(two, |guest| {
        let mut stage = Setup::default().with(OPEN).start(guest);

        let party = Party::new(&stage);
        let mut client = party.client;
        drop((party.exporter, party.session, party.screencopy));
        client.roundtrip().unwrap();
        assert_ended(&stage, 3, "by destruction");
        drop(client);

        kill(guest, &stage, 6);

        let mut party = Party::new(&stage);
        reload(guest, &mut stage, CLOSED, "access rules changed");
        assert_ended(&stage, 9, "by the loss of the right");
        party.client.roundtrip().unwrap();
        let stopped: SessionRecord = party.session.record();
        assert!(stopped.stopped);
        reload(guest, &mut stage, OPEN, "access rules changed");
        // What is left of it has no second end.
        drop(party);

        let mut party = Party::new(&stage);
        guest.set_connector_status(1, false);
        assert_ended(&stage, 12, "by the unplugged screen");
        party.client.roundtrip().unwrap();
        drop(party);

        stage.client().roundtrip().unwrap();
        assert_ended(&stage, 12, "after all");
        let accounts = accounts(&stage.vitrine.log());
        for protocol in PROTOCOLS {
            let of = accounts.values().filter(|a| a.protocol == protocol);
            assert_eq!(of.count(), 4, "{protocol}");
        }
        stage.finish("Virtual-1");
    });
}
