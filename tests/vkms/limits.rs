//! What happens when the system's limits are reached.

use std::{os::unix::net::UnixStream, path::PathBuf};

use crate::{
    machine::{self, Machine, SECOND},
    stage::Setup,
};

/// `accept` fails then, and must not end the session.
#[test]
fn clients_beyond_the_limit_of_descriptors_wait_until_others_leave() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().descriptors(80).start(guest);
        let (mut client, mut painter) = stage.painter();
        painter.present(&mut client, 1).unwrap();
        let socket =
            PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR").unwrap()).join("wayland-test");
        let crowd: Vec<_> = (0..100)
            .map(|_| UnixStream::connect(&socket).unwrap())
            .collect();
        machine::wait_until("the limit", SECOND * 20, || {
            stage
                .vitrine
                .log()
                .contains("a client could not be accepted")
        });
        drop(crowd);
        let mut late = stage.client();
        late.roundtrip().unwrap();
        painter.present(&mut client, 2).unwrap();
        stage.finish("Virtual-1");
    });
}
