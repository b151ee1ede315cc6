//! Rights by user: clients of other users than Vitrine's own.

use std::{fs, os::unix::fs::PermissionsExt};

use rustix::{process::Uid, thread::set_thread_uid};

use crate::{
    clients::{identify, Client, Exporter},
    machine::{self, Machine},
    rights::{sees, CAPTURE},
    stage::Setup,
};

/// Connects as another user: the kernel notes who connects.
fn client_of(uid: u32) -> Client {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").unwrap();
    let socket = std::path::Path::new(&runtime).join("wayland-test");
    for (path, mode) in [(runtime.as_ref(), 0o755), (socket.as_path(), 0o777)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let connect = move || {
        // Of this thread only.
        set_thread_uid(Uid::from_raw(uid)).unwrap();
        Client::connect("wayland-test").unwrap()
    };
    std::thread::spawn(connect).join().unwrap()
}

#[test]
fn a_rule_admits_one_other_user_and_keeps_its_own_out() {
    let rules = "[[access.rule]]\naction = 'allow'\nuid = 4711\n\
                 [[access.rule]]\naction = 'deny'\nuid = 0\n";
    machine::boot(Machine::default(), move |guest| {
        let stage = Setup::default().with(rules).start(guest);
        let (mut own, mut painter) = stage.painter();
        painter.present(&mut own, 5).unwrap();
        assert!(sees(&own, &CAPTURE).iter().all(|seen| !seen));
        let other = client_of(4712);
        assert!(sees(&other, &CAPTURE).iter().all(|seen| !seen));
        assert_eq!(sees(&other, &["wl_output"]), [true]);
        let mut admitted = client_of(4711);
        assert!(sees(&admitted, &CAPTURE).iter().all(|seen| *seen));
        let exporter = Exporter::new(&admitted).unwrap();
        let output = admitted.output(None).unwrap();
        let frame = exporter.capture(&mut admitted, &output, true).unwrap();
        assert_eq!(identify(&frame.frame().picture()), Some(5));
        let log = stage.vitrine.log();
        let begins = log.lines().find(|line| line.contains("capture begins"));
        assert!(
            begins.is_some_and(|line| line.contains("uid=4711")),
            "{begins:?}"
        );
        stage.finish("Virtual-1");
    });
}

#[test]
fn without_a_rule_only_vitrines_own_user_may_capture() {
    machine::boot(Machine::default(), |guest| {
        let stage = Setup::default().start(guest);
        assert!(sees(&stage.client(), &CAPTURE).iter().all(|seen| *seen));
        assert!(sees(&client_of(4711), &CAPTURE).iter().all(|seen| !seen));
        stage.finish("Virtual-1");
    });
}
