//! What is logged, where it goes, and whose doing each line is.

use std::{collections::BTreeMap, os::unix::net::UnixDatagram, process::Command};

use wayland_client::protocol::wl_compositor::WlCompositor;

use crate::{
    clients::{export_dmabuf::Exporter, Client},
    machine::{self, Machine, Signal, SECOND},
    stage::Setup,
};

#[test]
fn each_line_says_which_screen_and_which_client_it_is_about() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 1).unwrap();
        let output = client.output(None).unwrap();
        let exporter = Exporter::new(&client).unwrap();
        exporter.capture(&mut client, &output, true).unwrap();
        let mut wrong = stage.client();
        let compositor: WlCompositor = wrong.bind(4, ()).unwrap();
        let surface = compositor.create_surface(&wrong.qh, None);
        surface.set_buffer_scale(0);
        wrong.expect_protocol_error().unwrap();
        let log = stage.vitrine.log();
        let with = |words: &[&str]| {
            let fits = |line: &&str| words.iter().all(|word| line.contains(word));
            log.lines().find(fits).unwrap_or_else(|| {
                panic!("no line with {words:?} in:\n{log}");
            })
        };
        with(&["output{name=Virtual-1}", "vitrine::kms"]);
        with(&[
            "client{number=",
            "vitrine::capture",
            "capture session opened",
        ]);
        let pid = format!("pid={}", std::process::id());
        with(&["client{number=", &pid, "broke the protocol"]);
        stage.finish("Virtual-1");
    });
}

#[test]
fn the_journal_gets_the_audit_with_its_fields() {
    machine::boot(Machine::default(), |guest| {
        std::fs::create_dir_all("/run/systemd/journal").unwrap();
        let journal = UnixDatagram::bind("/run/systemd/journal/socket").unwrap();
        journal.set_read_timeout(Some(SECOND * 20)).unwrap();
        let config = guest.out().join("compositor.toml");
        std::fs::write(&config, "[log]\ntarget = \"journald\"\n").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_vitrine"));
        command.env_remove("RUST_LOG").arg("-c").arg(&config);
        command.args(["-s", "wayland-test"]);
        let mut vitrine = guest.spawn("vitrine", command);
        // Its socket's queue is short, and nobody but us empties it.
        let (entries, received) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut entry = [0; 1 << 16];
            while let Ok(length) = journal.recv(&mut entry) {
                if entries.send(fields(&entry[..length])).is_err() {
                    return;
                }
            }
        });
        let mut client = Client::connect_when_ready("wayland-test", SECOND * 20).unwrap();
        let output = client.output(None).unwrap();
        let exporter = Exporter::new(&client).unwrap();
        let frame = exporter.capture(&mut client, &output, true);
        drop(frame.unwrap().frame());
        drop(client);
        let mut audit = Vec::new();
        while audit.len() < 2 {
            let entry = received.recv_timeout(SECOND * 20);
            let entry = entry.unwrap_or_else(|_| panic!("two events of the audit, not {audit:?}"));
            if entry
                .get("TARGET")
                .is_some_and(|target| target == "vitrine::audit")
            {
                audit.push(entry);
            }
        }
        let pid = std::process::id().to_string();
        for (entry, message) in audit.iter().zip(["capture begins", "capture ends"]) {
            assert_eq!(entry["MESSAGE"], message);
            assert_eq!(entry["F_PID"], pid, "{entry:?}");
            assert_eq!(entry["F_PROTOCOL"], "wlr-export-dmabuf", "{entry:?}");
            assert_eq!(entry["F_SOURCE"], "Virtual-1", "{entry:?}");
        }
        assert_eq!(audit[1]["F_FRAMES"], "1");
        vitrine.signal(Signal::TERM);
        vitrine.wait_exit(SECOND * 20);
    });
}

/// An entry of journald's native protocol: `NAME=value`, or the name, the length and the bytes.
fn fields(mut entry: &[u8]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    while let Some(end) = entry.iter().position(|byte| *byte == b'\n') {
        let (line, rest) = (&entry[..end], &entry[end + 1..]);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if let Some(equals) = line.iter().position(|byte| *byte == b'=') {
            fields.insert(text(&line[..equals]), text(&line[equals + 1..]));
            entry = rest;
        } else {
            let (length, rest) = rest.split_at(8);
            let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
            fields.insert(text(line), text(&rest[..length]));
            entry = &rest[length + 1..];
        }
    }
    fields
}
