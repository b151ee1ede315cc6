//! From a configuration to an exit code: builds the event loop, starts everything in order, leaves in the reverse one.

use std::{ffi::OsString, os::fd::OwnedFd, path::Path};

use anyhow::Context;
use smithay::{
    backend::drm::DrmDeviceFd,
    reexports::{
        calloop::{
            signals::{Signal, Signals},
            EventLoop,
        },
        wayland_server::Display,
    },
    utils::DeviceFd,
};

use crate::{compositor::Vitrine, config::Config, kms, session};

/// Runs the compositor until its session is over; gives the exit code. `file` is where the configuration came from, if the
/// command line named it: SIGHUP reads the access rules again.
///
/// # Errors
/// When there is no seat, no usable display device or no socket; each error says what to do.
pub fn run(
    config: Config,
    file: Option<&Path>,
    socket: Option<&str>,
    app: &[OsString],
) -> anyhow::Result<u8> {
    session::raise_descriptor_limit();
    // Before any thread: a thread that does not block the signal would take it, and the default action with it.
    let signals = Signals::new(&[
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGUSR1,
    ])
    .context("SIGINT, SIGTERM, SIGHUP and SIGUSR1 cannot be watched")?;
    let mut event_loop: EventLoop<'static, Vitrine> =
        EventLoop::try_new().context("the event loop cannot start")?;
    let display = Display::new().context("the Wayland display cannot start")?;
    let mut state = Vitrine::new(
        config,
        display,
        event_loop.handle(),
        event_loop.get_signal(),
    )?;
    state.set_config_file(file.map(Path::to_owned));
    watch_signals(&state, signals)?;
    state.start_backend()?;
    // After the threads that copy and, with a GL driver on the CPU, draw: those keep theirs.
    session::raise_priority(state.config.nice);
    let socket = state.listen(socket)?;
    tracing::info!(target: "vitrine", %socket, "listening");
    if let Some(socket) = state.listen_privileged()? {
        tracing::info!(target: "vitrine", %socket, "listening for privileged clients");
    }
    state.start_control(&socket);
    session::notify_ready();
    let early = start_app(&mut state, app, &socket);
    if early.is_none() {
        event_loop
            .run(None, &mut state, Vitrine::after_turn)
            .context("the event loop failed")?;
    }
    session::notify_stopping();
    state.stop_backend();
    state.stop_control();
    Ok(early.or(state.exit_code).unwrap_or(0))
}

/// Starts the application of the command line, else that of the file; gives an exit code when it cannot start.
fn start_app(state: &mut Vitrine, app: &[OsString], socket: &str) -> Option<u8> {
    let configured = state
        .config
        .app
        .command
        .iter()
        .map(OsString::from)
        .collect();
    let command: Vec<OsString> = if app.is_empty() {
        configured
    } else {
        app.to_vec()
    };
    if command.is_empty() {
        return None;
    }
    match state.start_app(&command, socket) {
        Ok(()) => None,
        Err(error) => {
            tracing::error!(target: "vitrine::apps", %error, "the application did not start");
            eprintln!("vitrine: {error}");
            Some(error.exit_code())
        }
    }
}

fn watch_signals(state: &Vitrine, signals: Signals) -> anyhow::Result<()> {
    state
        .event_loop
        .insert_source(signals, |event, (), state| {
            if event.signal() == Signal::SIGUSR1 {
                return state.save_history("SIGUSR1");
            }
            if event.signal() == Signal::SIGHUP {
                return state.reload_access();
            }
            tracing::info!(target: "vitrine", signal = ?event.signal(), "asked to end");
            state.terminate();
        })
        .map_err(|error| {
            anyhow::anyhow!("SIGINT, SIGTERM and SIGHUP cannot be watched: {error}")
        })?;
    Ok(())
}

/// `vitrine probe`: prints what the devices can do.
///
/// # Errors
/// When a node cannot be opened or is no display device.
pub fn probe(device: Option<&Path>) -> anyhow::Result<()> {
    let nodes = match device {
        Some(path) => vec![path.to_owned()],
        None => card_nodes().context("/dev/dri cannot be read; is a DRM driver loaded?")?,
    };
    anyhow::ensure!(
        !nodes.is_empty(),
        "no /dev/dri/card* node; is a DRM driver loaded?"
    );
    for node in nodes {
        match probe_node(&node) {
            Ok(report) => print!("{report}"),
            Err(error) if device.is_none() => println!("{}: {error}", node.display()),
            Err(error) => return Err(error).with_context(|| node.display().to_string()),
        }
    }
    Ok(())
}

/// Asks one node. Needs no seat; the driver answers TEST_ONLY only to the master, so a running session is in the way.
fn probe_node(node: &Path) -> anyhow::Result<kms::ProbeReport> {
    let device = open_node(node)?;
    Ok(kms::ProbeReport::new(
        &device,
        &kms::Preferences::default(),
    )?)
}

fn open_node(node: &Path) -> anyhow::Result<kms::Device> {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(node)
        .context("cannot be opened; is this user in the group `video`?")?;
    let fd = DrmDeviceFd::new(DeviceFd::from(OwnedFd::from(file)));
    Ok(kms::Device::new(
        fd,
        kms::FaultPlan::from_env("VITRINE_FAULTS")?,
    )?)
}

/// `vitrine selftest`: tries the writeback connectors of the devices and prints what can be trusted; gives the exit code,
/// 0 if captures can be trusted.
///
/// # Errors
/// When a node cannot be opened or is no display device.
pub fn selftest(device: Option<&Path>, time: std::time::Duration) -> anyhow::Result<u8> {
    let nodes = match device {
        Some(path) => vec![path.to_owned()],
        None => card_nodes().context("/dev/dri cannot be read; is a DRM driver loaded?")?,
    };
    let mut results = Vec::new();
    for node in nodes {
        match selftest_node(&node, time) {
            Ok(screens) => {
                println!("{}:", node.display());
                for screen in &screens {
                    print!("{screen}");
                }
                if screens.is_empty() {
                    println!("no screen is connected");
                }
                results.extend(screens);
            }
            Err(error) if device.is_none() => println!("{}: {error:#}", node.display()),
            Err(error) => return Err(error).with_context(|| node.display().to_string()),
        }
    }
    Ok(u8::from(!crate::selftest::passes(&results)))
}

fn selftest_node(
    node: &Path,
    time: std::time::Duration,
) -> anyhow::Result<Vec<crate::selftest::ScreenResult>> {
    let device = open_node(node)?;
    let number = std::os::unix::fs::MetadataExt::rdev(&std::fs::metadata(node)?);
    let card = rustix::fs::minor(number);
    Ok(crate::selftest::test_device(&device, card, time)?)
}

fn card_nodes() -> std::io::Result<Vec<std::path::PathBuf>> {
    let mut nodes: Vec<_> = std::fs::read_dir("/dev/dri")?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("card"))
        })
        .collect();
    nodes.sort();
    Ok(nodes)
}
