//! The test machine keeps its own promises.

use std::{
    env, fs,
    os::fd::{AsFd, BorrowedFd},
    panic::{catch_unwind, AssertUnwindSafe},
    path::Path,
    process::Command,
    time::Duration,
};

use drm::{
    buffer::{Buffer, DrmFourcc},
    control::{connector, property, Device as ControlDevice, PlaneType},
    ClientCapability, Device,
};

use crate::machine::{self, vkms_crc, Guest, Kernel, Machine, Output, Signal, SECOND};

/// The card, opened without a seat.
struct Card(fs::File);

impl AsFd for Card {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Device for Card {}
impl ControlDevice for Card {}

impl Card {
    fn open(guest: &Guest) -> Self {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(guest.card())
            .unwrap();
        let card = Self(file);
        card.set_client_capability(ClientCapability::UniversalPlanes, true)
            .unwrap();
        card.set_client_capability(ClientCapability::Atomic, true)
            .unwrap();
        card.set_client_capability(ClientCapability::WritebackConnectors, true)
            .unwrap();
        card
    }

    fn connectors(&self) -> Vec<connector::Info> {
        let handles = self.resource_handles().unwrap();
        handles
            .connectors()
            .iter()
            .map(|&c| self.get_connector(c, true).unwrap())
            .collect()
    }

    /// Of the screens, in the order of the topology.
    fn states(&self) -> Vec<connector::State> {
        let screens = self.connectors().into_iter();
        screens
            .filter(|c| c.interface() != connector::Interface::Writeback)
            .map(|c| c.state())
            .collect()
    }

    fn writebacks(&self) -> usize {
        let is_writeback = |c: &connector::Info| c.interface() == connector::Interface::Writeback;
        self.connectors().iter().filter(|c| is_writeback(c)).count()
    }

    fn planes(&self, kind: PlaneType) -> usize {
        let is_kind = |plane: &drm::control::plane::Handle| {
            let properties = self.get_properties(*plane).unwrap();
            let (ids, values) = properties.as_props_and_values();
            ids.iter().zip(values).any(|(&id, &value)| {
                let info: property::Info = self.get_property(id).unwrap();
                info.name().to_str() == Ok("type") && value == kind as u64
            })
        };
        self.plane_handles()
            .unwrap()
            .iter()
            .filter(|plane| is_kind(plane))
            .count()
    }
}

/// What `boot` panics with on the host. In the guest it does not return at all.
fn failure_of(boot: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(boot)).expect_err("the machine was to fail");
    panic
        .downcast_ref::<String>()
        .expect("a panic with text")
        .clone()
}

#[test]
fn a_machine_boots_and_has_a_card() {
    let out = machine::boot(Machine::default(), |guest| {
        let card = Card::open(guest);
        assert_eq!(card.get_driver().unwrap().name(), "vkms");
        assert_eq!(card.states(), [connector::State::Connected]);
        assert_eq!(card.writebacks(), 1);
        assert_eq!(card.planes(PlaneType::Cursor), 1);
        assert_eq!(card.planes(PlaneType::Overlay), 0);
        fs::write(guest.out().join("note"), "left behind").unwrap();
    });
    assert_eq!(fs::read_to_string(out.join("note")).unwrap(), "left behind");
}

#[test]
fn the_stock_kernel_boots_too() {
    machine::boot(Machine::default().kernel(Kernel::Stock), |guest| {
        assert_eq!(Card::open(guest).writebacks(), 1);
    });
}

#[test]
fn two_cpus_and_the_default_device_are_to_be_had() {
    machine::boot(Machine::default().cpus(2).default_device(), |guest| {
        assert_eq!(std::thread::available_parallelism().unwrap().get(), 2);
        assert_eq!(Card::open(guest).writebacks(), 1);
    });
}

#[test]
fn a_topology_is_what_was_asked_for() {
    let machine = Machine::default()
        .output(Output::new().overlays(2).writeback(false))
        .output(Output::new().cursor(false).connected(false));
    machine::boot(machine, |guest| {
        let card = Card::open(guest);
        assert_eq!(
            card.states(),
            [connector::State::Connected, connector::State::Disconnected]
        );
        assert_eq!(card.resource_handles().unwrap().crtcs().len(), 2);
        assert_eq!(card.writebacks(), 1);
        assert_eq!(card.planes(PlaneType::Primary), 2);
        assert_eq!(card.planes(PlaneType::Cursor), 1);
        assert_eq!(card.planes(PlaneType::Overlay), 2);
    });
}

#[test]
fn unplugging_a_screen_changes_it_and_tells_udev() {
    let machine = Machine::default()
        .output(Output::new())
        .output(Output::new());
    machine::boot(machine, |guest| {
        let card = Card::open(guest);
        let mut monitor = Command::new("udevadm");
        monitor.args(["monitor", "--udev", "--property", "--subsystem-match=drm"]);
        let monitor = guest.spawn("monitor", monitor);
        machine::wait_until("the monitor", SECOND * 20, || {
            monitor.log().contains("UDEV -")
        });

        guest.set_connector_status(1, false);
        assert_eq!(
            card.states(),
            [connector::State::Connected, connector::State::Disconnected]
        );
        machine::wait_until("the event", SECOND * 20, || {
            monitor.log().contains("HOTPLUG=1")
        });
        guest.set_connector_status(1, true);
        assert_eq!(card.states(), [connector::State::Connected; 2]);
    });
}

#[test]
fn the_crc_is_that_of_the_pixels_on_the_screen() {
    let machine = Machine::default()
        .output(Output::new())
        .output(Output::new());
    machine::boot(machine, |guest| {
        let card = Card::open(guest);
        let screens = card.connectors();
        let crtcs = card.resource_handles().unwrap().crtcs().to_vec();
        assert_eq!(crtcs.len(), 2);
        for (index, &crtc) in crtcs.iter().enumerate() {
            let mut screens = screens
                .iter()
                .filter(|c| c.interface() != connector::Interface::Writeback);
            let screen = screens.nth(index).unwrap();
            let mode = *screen
                .modes()
                .iter()
                .find(|mode| mode.size() == (640, 480))
                .expect("640x480");
            let mut buffer = card
                .create_dumb_buffer((640, 480), DrmFourcc::Xrgb8888, 32)
                .unwrap();
            assert_eq!(buffer.pitch(), 640 * 4);
            let mut mapping = card.map_dumb_buffer(&mut buffer).unwrap();
            for (number, byte) in mapping.as_mut().iter_mut().enumerate() {
                *byte = (number * (index + 7) / 3) as u8;
            }
            let expected = vkms_crc(mapping.as_mut());
            drop(mapping);
            let framebuffer = card.add_framebuffer(&buffer, 24, 32).unwrap();
            let connectors = [screen.handle()];
            card.set_crtc(crtc, Some(framebuffer), (0, 0), &connectors, Some(mode))
                .unwrap();

            let mut reader = guest.crc(index).unwrap();
            let crcs = [reader.next_frame().unwrap(), reader.next_frame().unwrap()];
            assert_eq!(crcs.map(|crc| crc.value), [expected; 2]);
            assert!(crcs[0].frame < crcs[1].frame, "{crcs:?}");
        }
    });
}

#[test]
fn a_panic_in_the_body_is_reported_with_its_message_and_the_logs() {
    let report = failure_of(|| {
        machine::boot::<()>(Machine::default().services(false), |guest| {
            let mut talker = Command::new("sh");
            talker.args(["-c", "echo what the talker said; exit 3"]);
            guest.spawn("talker", talker).wait_exit(SECOND * 20);
            println!("printed by the body");
            panic!("the value was {}", 6 * 7);
        });
    });
    assert!(report.contains("the value was 42"), "{report}");
    assert!(report.contains(file!()), "{report}");
    assert!(report.contains("what the talker said"), "{report}");
    assert!(report.contains("printed by the body"), "{report}");
    assert!(report.contains("Initialized vkms"), "{report}");
}

#[test]
fn an_error_from_the_body_is_a_failure() {
    let report = failure_of(|| {
        machine::boot(
            Machine::default().services(false),
            |_| -> anyhow::Result<()> { anyhow::bail!("no such luck") },
        );
    });
    assert!(report.contains("no such luck"), "{report}");
}

#[test]
fn a_hang_is_reported_with_what_was_running() {
    let report = failure_of(|| {
        let machine = Machine::default().services(false).timeout(SECOND * 4);
        machine::boot(machine, |guest| {
            let mut sleeper = Command::new("sleep");
            sleeper.arg("98765");
            guest.spawn("sleeper", sleeper).wait_exit(Duration::MAX);
        });
    });
    assert!(report.contains("hangs"), "{report}");
    assert!(report.contains("sleep 98765"), "{report}");
}

#[test]
fn a_kernel_that_dies_is_reported_with_its_last_words() {
    let report = failure_of(|| {
        // The end of process 1 is the end of the kernel.
        machine::boot::<()>(Machine::default().services(false), |_| {
            std::process::exit(3)
        });
    });
    assert!(report.contains("went down"), "{report}");
    assert!(report.contains("Attempted to kill init"), "{report}");
}

#[test]
fn a_process_ends_with_its_value() {
    machine::boot(Machine::default().services(false), |guest| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "sleep 45678 & echo ready; wait"]);
        let mut shell = guest.spawn("shell", shell);
        machine::wait_until("the shell", SECOND * 20, || shell.log().contains("ready"));
        assert_eq!(with_argument("45678").len(), 2);
        shell.signal(Signal::TERM);
        shell.wait_exit(SECOND * 20);
        assert_eq!(with_argument("45678").len(), 1);
        drop(shell);
        machine::wait_until("the orphan's end", SECOND * 20, || {
            with_argument("45678").is_empty()
        });
    });
}

#[test]
fn a_machine_goes_when_its_test_is_killed() {
    const TEST: &str = "harness::a_machine_goes_when_its_test_is_killed";
    const INNER: &str = "VITRINE_TEST_TO_BE_KILLED";
    if machine::in_guest() || env::var_os(INNER).is_some() {
        machine::boot(Machine::default(), |guest| {
            fs::write(guest.out().join("ready"), "").unwrap();
            std::thread::sleep(SECOND * 100);
        });
        return;
    }
    let out = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/machine")
        .join(TEST.replace("::", "."));
    let ready = out.join("ready");
    let _ = fs::remove_file(&ready);
    let mut test = Command::new(env::current_exe().unwrap())
        .args(["--exact", TEST])
        .env(INNER, "1")
        .spawn()
        .unwrap();
    // It waits for its turn, which can take long where others run machines too; it has a limit of its own after that.
    machine::wait_until("the machine", SECOND * 3600, || {
        let ended = test.try_wait().unwrap();
        assert!(ended.is_none(), "{ended:?} without a machine");
        ready.exists()
    });
    // The kernel's main process has the run's directory on its command line; those of the guest are
    // the host's too and belong to the same process group. Another checkout may run this very test.
    let kernels = with_argument(out.to_str().unwrap());
    let groups: Vec<_> = kernels
        .iter()
        .filter_map(|&pid| process_group(pid))
        .collect();
    assert!(
        groups.iter().any(|&group| kernels.contains(&group)),
        "{kernels:?} {groups:?}"
    );
    test.kill().unwrap();
    test.wait().unwrap();
    machine::wait_until("the machine's end", SECOND * 20, || {
        pids()
            .filter_map(process_group)
            .all(|group| !kernels.contains(&group))
    });
}

fn pids() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The processes with this text in their command line.
fn with_argument(text: &str) -> Vec<u32> {
    let has = |pid: &u32| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text))
    };
    pids()
        .filter(|pid| has(pid) && *pid != std::process::id())
        .collect()
}

/// The fifth word of `stat`, counted after the name in parentheses. Zombies do not count.
fn process_group(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut words = stat.rsplit_once(')')?.1.split_whitespace();
    let state = words.next()?;
    words.nth(1)?.parse().ok().filter(|_| state != "Z")
}
