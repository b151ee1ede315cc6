//! What happens when the system's limits are reached.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
};

use crate::{
    access::{runtime, sandbox},
    clients::Client,
    machine::{self, Machine, SECOND},
    stage::{Setup, Stage},
};

/// More connections than there are descriptors.
fn crowd(socket: &PathBuf) -> Vec<UnixStream> {
    let connect = |_| UnixStream::connect(socket).unwrap();
    (0..100).map(connect).collect()
}

/// How often this was logged.
fn said(stage: &Stage<'_>, what: &str) -> usize {
    stage.vitrine.log().matches(what).count()
}

/// Waits until it is logged once more than that.
fn wait_said(stage: &Stage<'_>, what: &str, before: usize) {
    machine::wait_until(what, SECOND * 20, || said(stage, what) > before);
}

/// `accept` fails then, and must not end the session.
#[test]
fn clients_beyond_the_limit_of_descriptors_wait_until_others_leave() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().descriptors(80).start(guest);
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 1).unwrap();
        let crowd = crowd(&runtime("wayland-test"));
        wait_said(&stage, "a client could not be accepted", 0);
        drop(crowd);
        let mut late = stage.client();
        late.roundtrip().unwrap();
        painter.present(&mut client, 2).unwrap();
        stage.finish("Virtual-1");
    });
}

/// The socket of a sandbox is not closed because others have all descriptors, nor is the control socket.
#[test]
fn clients_of_a_sandbox_and_of_the_control_socket_wait_for_descriptors_too() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().descriptors(80).start(guest);
        let mut outside = stage.client();
        let path = runtime("sandboxed");
        let _end = sandbox(
            &mut outside,
            "sandboxed",
            UnixListener::bind(&path).unwrap(),
        );
        Client::connect(path.clone()).unwrap().roundtrip().unwrap();
        let (of_sandbox, of_control) = (
            "a client of a sandbox could not be accepted",
            "a control connection could not be accepted",
        );
        for _ in 0..2 {
            let before = (said(&stage, of_sandbox), said(&stage, of_control));
            let crowd = crowd(&path);
            wait_said(&stage, of_sandbox, before.0);
            let mut control = UnixStream::connect(runtime("vitrine-wayland-test.sock")).unwrap();
            wait_said(&stage, of_control, before.1);
            drop(crowd);
            let request = b"{\"version\":1,\"request\":\"version\"}\n";
            control.write_all(request).unwrap();
            let mut answer = String::new();
            BufReader::new(control).read_line(&mut answer).unwrap();
            assert!(answer.contains("version"), "{answer}");
            // Those who waited have gone, and it is again for whoever comes.
            let mut inside = Client::connect(path.clone()).unwrap();
            inside.set_patience(SECOND * 20);
            inside.roundtrip().unwrap();
        }
        assert_eq!(said(&stage, "the socket of a sandbox cannot be used"), 0);
        stage.finish("Virtual-1");
    });
}
