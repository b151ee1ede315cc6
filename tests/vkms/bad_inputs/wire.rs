//! Bytes that are no messages, and floods of what a message may carry.

use std::{
    io::{Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
};

use wayland_protocols::wp::linux_dmabuf::zv1::client::zwp_linux_dmabuf_v1::ZwpLinuxDmabufV1;

use super::{memory, not_busy, Fine, Trial};
use crate::{
    clients::{clock, Flooder},
    machine::{self, Machine, SECOND},
};

/// Another connection, without a library.
fn wire() -> UnixStream {
    let folder = std::env::var("XDG_RUNTIME_DIR").unwrap();
    UnixStream::connect(format!("{folder}/wayland-test")).unwrap()
}

/// wl_display's request with this opcode and new id.
fn request(opcode: u32, id: u32) -> Vec<u8> {
    [1_u32, 12 << 16 | opcode, id]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect()
}

#[test]
fn bytes_that_are_no_messages() {
    machine::boot(Machine::default(), |guest| {
        let mut trial = Trial::new(guest);
        // Half a message, and silence.
        let mut half = wire();
        half.write_all(&request(0, 2)[..7]).unwrap();
        trial.go_on("half a message");
        for garbage in [
            vec![0xff_u8; 4096],
            vec![0_u8; 4096],
            request(77, 2),
            [1_u32, 4 << 16, 2]
                .iter()
                .flat_map(|word| word.to_ne_bytes())
                .collect(),
            [99_u32, 12 << 16, 2]
                .iter()
                .flat_map(|word| word.to_ne_bytes())
                .collect(),
        ] {
            let mut stream = wire();
            let _ = stream.write_all(&garbage);
            trial.go_on("garbage");
            // It hears an error or the end, whichever way: never silence.
            stream.set_read_timeout(Some(SECOND * 10)).unwrap();
            let mut heard = [0; 4096];
            match stream.read(&mut heard) {
                Ok(length) => assert!(length <= heard.len()),
                Err(error) => assert_eq!(
                    error.kind(),
                    std::io::ErrorKind::ConnectionReset,
                    "{:02x?}",
                    &garbage[..12]
                ),
            }
        }
        // Ten thousand registries and syncs of somebody who never reads.
        let mut deaf = wire();
        deaf.set_write_timeout(Some(SECOND * 5)).unwrap();
        for id in 0..10_000 {
            if deaf
                .write_all(&request(1, 2 + 2 * id))
                .and_then(|()| deaf.write_all(&request(0, 3 + 2 * id)))
                .is_err()
            {
                break; // disconnected for it
            }
        }
        trial.go_on("ten thousand registries");
        drop(deaf);
        trial.of(
            "ten thousand registries of a client that listens",
            Fine,
            |client| {
                for _ in 0..10 {
                    for _ in 0..100 {
                        client.conn.display().get_registry(&client.qh, ());
                    }
                    client.roundtrip().unwrap();
                    client.state.globals.clear();
                }
            },
        );
        trial.go_on("half a message for a while");
        drop(half);
        trial.finish();
    });
}

#[test]
fn a_flood_of_file_descriptors_and_connections() {
    machine::boot(Machine::default(), |guest| {
        let mut trial = Trial::new(guest);
        trial.of("six hundred descriptors", Fine, |client| {
            let manager: ZwpLinuxDmabufV1 = client.bind(3, ()).unwrap();
            let fd = memory(4096);
            for _ in 0..600 / 4 {
                let params = manager.create_params(&client.qh, not_busy());
                for plane in 0..4 {
                    params.add(fd.as_fd(), plane, 0, 256, 0, 0);
                }
                client.roundtrip().unwrap();
            }
        });
        let crowd: Vec<UnixStream> = (0..300).map(|_| wire()).collect();
        trial.go_on("three hundred connections");
        drop(crowd);
        trial.go_on("three hundred ends");
        trial.finish();
    });
}

#[test]
fn clients_that_send_without_an_end_have_a_share_of_each_turn() {
    machine::boot(Machine::default(), |guest| {
        let mut trial = Trial::new(guest);
        let flooders: Vec<_> = (0..2).map(|_| Flooder::new(trial.stage.client())).collect();
        let begun = clock::now();
        let mut pictures = 0;
        // One word for each of them.
        let said = |trial: &Trial<'_>| {
            trial
                .stage
                .vitrine
                .log()
                .matches("sends without an end")
                .count()
        };
        while said(&trial) < 2 {
            trial.go_on("a flood");
            pictures += 1;
        }
        println!(
            "{pictures} pictures in {:?}, until it was said",
            clock::now() - begun
        );
        let begun = clock::now();
        (0..20).for_each(|_| trial.go_on("a flood that is known"));
        println!("20 more in {:?}", clock::now() - begun);
        for flooder in flooders {
            flooder.stop().unwrap();
        }
        assert_eq!(said(&trial), 2);
        trial.finish();
    });
}
