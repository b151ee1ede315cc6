//! wlr-output-power-management: who is told what, and what is an error.

use wayland_client::{
    protocol::wl_output::WlOutput, Connection, Dispatch, Proxy, QueueHandle, WEnum,
};
use wayland_protocols_wlr::output_power_management::v1::client::{
    zwlr_output_power_manager_v1::ZwlrOutputPowerManagerV1 as Manager,
    zwlr_output_power_v1::{self as power_v1, Mode, ZwlrOutputPowerV1 as Power},
};

use crate::{
    client::Client,
    inbox::{Inbox, Told},
    server::Server,
};

impl Dispatch<Power, ()> for Inbox {
    fn event(
        told: &mut Self,
        object: &Power,
        event: power_v1::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        let event = match event {
            power_v1::Event::Mode { mode } => Told::PowerMode(mode == WEnum::Value(Mode::On)),
            power_v1::Event::Failed => Told::PowerFailed,
            other => panic!("{other:?}"),
        };
        told.events.push((object.id(), event));
    }
}

wayland_client::delegate_noop!(Inbox: Manager);

/// The power of the nth output.
fn power_of(client: &Client, nth: usize) -> Power {
    let manager: Manager = client.bind(1);
    let output: WlOutput = client.bind_nth(nth, 4);
    let power = manager.get_output_power(&output, &client.handle(), ());
    // What was made from it lives on.
    manager.destroy();
    power
}

#[track_caller]
fn expect_modes(client: &mut Client, server: &mut Server, power: &Power, modes: &[bool]) {
    client.roundtrip(server);
    let told = client.take(power);
    let got: Vec<_> = told
        .iter()
        .map(|told| match told {
            Told::PowerMode(on) => *on,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(got, modes);
}

#[track_caller]
fn expect_failed(client: &mut Client, server: &mut Server, power: &Power) {
    client.roundtrip(server);
    let told = client.take(power);
    assert!(matches!(told[..], [Told::PowerFailed]), "{told:?}");
}

fn setup() -> (Server, Client, Power) {
    let mut server = Server::new();
    let mut client = Client::new(&mut server);
    let power = power_of(&client, 0);
    expect_modes(&mut client, &mut server, &power, &[true]);
    (server, client, power)
}

#[test]
fn an_object_is_told_the_mode_at_once_and_each_change() {
    let (mut server, mut client, power) = setup();
    power.set_mode(Mode::Off);
    client.roundtrip(&mut server);
    assert_eq!(server.power_asked(0), [false]);
    // It is told when it is so, and not when it is asked.
    client.expect_nothing(&mut server, &power);
    server.set_power(0, false);
    expect_modes(&mut client, &mut server, &power, &[false]);
    let late = power_of(&client, 0);
    expect_modes(&mut client, &mut server, &late, &[false]);
    server.set_power(0, true);
    for power in [&power, &late] {
        expect_modes(&mut client, &mut server, power, &[true]);
    }
}

#[test]
fn all_who_look_at_an_output_are_told_and_nobody_else() {
    let (mut server, mut client, power) = setup();
    server.add_output();
    let mut other = Client::new(&mut server);
    let (same, another) = (power_of(&other, 0), power_of(&other, 1));
    other.roundtrip(&mut server);
    other.take(&same);
    other.take(&another);
    power.set_mode(Mode::Off);
    client.roundtrip(&mut server);
    assert_eq!(
        (server.power_asked(0), server.power_asked(1)),
        (vec![false], vec![])
    );
    server.set_power(0, false);
    expect_modes(&mut client, &mut server, &power, &[false]);
    expect_modes(&mut other, &mut server, &same, &[false]);
    other.expect_nothing(&mut server, &another);
}

#[test]
fn a_mode_that_does_not_exist_is_an_error() {
    for mode in [2, u32::MAX] {
        let (mut server, mut client, power) = setup();
        let request = power_v1::Request::SetMode {
            mode: WEnum::Unknown(mode),
        };
        power.send_request(request).unwrap();
        client.expect_error(&mut server, &power, 1);
        assert!(server.power_asked(0).is_empty());
        assert_eq!(server.power_objects(), 0);
    }
}

#[test]
fn a_wish_that_is_refused_fails_for_who_had_it() {
    let (mut server, mut client, power) = setup();
    let onlooker = power_of(&client, 0);
    client.roundtrip(&mut server);
    client.take(&onlooker);
    server.refuse_power(0);
    power.set_mode(Mode::Off);
    expect_failed(&mut client, &mut server, &power);
    client.expect_nothing(&mut server, &onlooker);
    server.power_asked(0);
    // It is worth nothing any more.
    power.set_mode(Mode::Off);
    client.roundtrip(&mut server);
    assert!(server.power_asked(0).is_empty());
    client.expect_nothing(&mut server, &power);
    server.set_power(0, false);
    expect_modes(&mut client, &mut server, &onlooker, &[false]);
    client.expect_nothing(&mut server, &power);
}

#[test]
fn what_turns_out_to_be_impossible_fails_for_who_asked_and_waits() {
    let (mut server, mut client, power) = setup();
    let (onlooker, served, content) = (
        power_of(&client, 0),
        power_of(&client, 0),
        power_of(&client, 0),
    );
    client.roundtrip(&mut server);
    for power in [&onlooker, &served, &content] {
        client.take(power);
    }
    served.set_mode(Mode::Off);
    client.roundtrip(&mut server);
    server.set_power(0, false);
    server.set_power(0, true);
    client.roundtrip(&mut server);
    for power in [&power, &onlooker, &served, &content] {
        client.take(power);
    }
    // It asks for what is there already.
    content.set_mode(Mode::On);
    power.set_mode(Mode::Off);
    client.roundtrip(&mut server);
    server.fail_power(0);
    expect_failed(&mut client, &mut server, &power);
    for power in [&onlooker, &served, &content] {
        client.expect_nothing(&mut server, power);
    }
}

#[test]
fn an_output_that_goes_away_fails_its_objects_and_no_others() {
    let (mut server, mut client, power) = setup();
    server.add_output();
    client.roundtrip(&mut server);
    let other = power_of(&client, 1);
    client.roundtrip(&mut server);
    client.take(&other);
    let output: WlOutput = client.bind(4);
    let manager: Manager = client.bind(1);
    client.roundtrip(&mut server);
    server.remove_output(0);
    expect_failed(&mut client, &mut server, &power);
    client.expect_nothing(&mut server, &other);
    // Whoever has not heard of it yet is told as well.
    let late = manager.get_output_power(&output, &client.handle(), ());
    expect_failed(&mut client, &mut server, &late);
    late.set_mode(Mode::Off);
    client.roundtrip(&mut server);
    client.expect_nothing(&mut server, &late);
    other.set_mode(Mode::Off);
    client.roundtrip(&mut server);
    assert_eq!(server.power_asked(0), [false]);
    assert_eq!(server.power_objects(), 1);
}

#[test]
fn who_loses_the_right_is_told_that_it_failed_and_switches_nothing() {
    let (mut server, mut client, power) = setup();
    let mut other = Client::new(&mut server);
    let kept = power_of(&other, 0);
    expect_modes(&mut other, &mut server, &kept, &[true]);
    let (manager, output): (Manager, WlOutput) = (client.bind(1), client.bind(4));
    client.roundtrip(&mut server);
    server.revoke(0);
    expect_failed(&mut client, &mut server, &power);
    power.set_mode(Mode::Off);
    let late = manager.get_output_power(&output, &client.handle(), ());
    expect_failed(&mut client, &mut server, &late);
    late.set_mode(Mode::Off);
    client.roundtrip(&mut server);
    assert!(server.power_asked(0).is_empty());
    other.expect_nothing(&mut server, &kept);
    kept.set_mode(Mode::Off);
    other.roundtrip(&mut server);
    assert_eq!(server.power_asked(0), [false]);
}

#[test]
fn a_client_without_the_right_does_not_see_the_global() {
    let mut server = Server::new();
    server.deny_next_client = true;
    let denied = Client::new(&mut server);
    let allowed = Client::new(&mut server);
    let name = Manager::interface().name;
    assert!(!denied.sees(name) && allowed.sees(name));
}

#[test]
fn objects_that_are_destroyed_or_whose_client_dies_leave_nothing() {
    let (mut server, mut client, power) = setup();
    for _ in 0..50 {
        for _ in 0..20 {
            power_of(&client, 0).destroy();
        }
        client.roundtrip(&mut server);
    }
    assert_eq!(server.power_objects(), 1);
    power.set_mode(Mode::Off);
    power.destroy();
    client.roundtrip(&mut server);
    server.set_power(0, false);
    server.fail_power(0);
    let kept: Vec<Power> = (0..20).map(|_| power_of(&client, 0)).collect();
    client.roundtrip(&mut server);
    assert_eq!(server.power_objects(), 20);
    drop((kept, client));
    server.dispatch();
    server.set_power(0, true);
    assert_eq!(server.power_objects(), 0);
}
