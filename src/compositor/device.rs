//! The display device of the session: opening it, its screens as they come and go, pause and resume, the way out.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use smithay::{
    backend::{
        allocator::gbm::GbmDevice,
        drm::{DrmDeviceFd, DrmNode, NodeType},
        session::{
            libseat::{LibSeatSession, LibSeatSessionNotifier},
            Event as SessionEvent, Session,
        },
        udev::{UdevBackend, UdevEvent},
    },
    output::Output,
    reexports::{
        calloop::{
            generic::Generic,
            timer::{TimeoutAction, Timer},
            Interest, Mode, PostAction,
        },
        wayland_server::backend::GlobalId,
    },
};

use super::{
    renderer_choice::{choose, Chosen},
    sinks::{motion, pacing},
    Vitrine,
};
use crate::{
    capture::OutputCapture,
    config::{DmabufTargets, OutputRule},
    input::outputs_changed,
    kms::{self, topology::Sink, KmsEvent},
    output::{describe, Screen, ScreenReport, ScreenSetup},
    protocols,
    render::Renderer,
    session,
};

/// How long a removed output's global can still be bound: clients learn of a removal later than we do.
const GLOBAL_AFTERLIFE: Duration = Duration::from_secs(10);

/// The session's display device.
pub struct Backend {
    /// The seat.
    pub session: LibSeatSession,
    /// Screens in the order of the device's connectors.
    pub screens: Vec<Screen>,
    pub(super) device: kms::Device,
    pub(super) gbm: GbmDevice<DrmDeviceFd>,
    node: PathBuf,
    dev_id: libc::dev_t,
    render_node: Option<DrmNode>,
    /// False while another session has the seat.
    active: bool,
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backend")
            .field("node", &self.node)
            .field("active", &self.active)
            .finish()
    }
}

impl Backend {
    /// The screen that shows this output.
    pub fn screen(&mut self, output: &Output) -> Option<&mut Screen> {
        self.screens
            .iter_mut()
            .find(|screen| screen.output == *output)
    }

    /// What the screen of this output did.
    pub fn report(&self, output: &Output) -> Option<ScreenReport> {
        let screen = self
            .screens
            .iter()
            .find(|screen| screen.output == *output)?;
        Some(screen.status(&self.device))
    }

    /// The number of the node that is driven.
    pub fn dev_id(&self) -> libc::dev_t {
        self.dev_id
    }

    /// The render node that clients may allocate on; none on display-only devices as vkms.
    pub fn render_node(&self) -> Option<DrmNode> {
        self.render_node
    }
}

/// Reads directories of /sys: not for every frame.
fn find_render_node(dev_id: libc::dev_t) -> Option<DrmNode> {
    let primary = DrmNode::from_dev_id(dev_id).ok()?;
    primary.node_with_type(NodeType::Render)?.ok()
}

/// An output's Wayland global, kept with the output.
struct OutputGlobal(GlobalId);

impl Vitrine {
    /// Opens seat, device, screens and input, and watches them.
    ///
    /// # Errors
    /// When there is no seat or no device with atomic modesetting; the text says what to do.
    pub fn start_backend(&mut self) -> anyhow::Result<()> {
        let (mut seat_session, notifier) = session::open_seat()?;
        let (device, node) = open_first(&mut seat_session, &self.config.drm_device)?;
        let gbm = GbmDevice::new(device.fd().clone())
            .with_context(|| format!("{}: GBM cannot be used", node.display()))?;
        let dev_id = device
            .fd()
            .dev_id()
            .context("the display device has no number")?;
        let backend = Backend {
            session: seat_session,
            screens: Vec::new(),
            device,
            gbm,
            node,
            dev_id,
            render_node: find_render_node(dev_id),
            active: true,
        };
        self.choose_renderer(&backend)?;
        let gpu = self.renderer.gpu();
        self.choose_copier(gpu.as_ref())?;
        // The software EGL of Mesa 22.3 on a display-only device takes a foreign dma-buf and then dies drawing it, as it cannot
        // map it. Newer ones can: where the operator trusts such a driver with copies he trusts it with this. pixman maps it
        // itself.
        let node = backend.render_node();
        if node.is_some() || gpu.is_none() || self.has_gpu_copies() {
            self.announce_dmabuf(Some(node.map_or(dev_id, |node| node.dev_id())));
        } else if self.config.capture.dmabuf == DmabufTargets::On {
            tracing::warn!(target: "vitrine::render", "dma-bufs are not offered, neither for windows nor for captures: GLES cannot read them safely on a device without a render node. `renderer = \"pixman\"` can");
        }
        self.watch_device(&backend, notifier)?;
        self.start_input(&backend)?;
        self.backend = Some(backend);
        self.rescan();
        Ok(())
    }

    fn choose_renderer(&mut self, backend: &Backend) -> anyhow::Result<()> {
        let has_render_node = backend.render_node().is_some();
        let start_gles = || Renderer::gles(backend.gbm.clone());
        match choose(self.config.renderer, has_render_node, start_gles)? {
            // It is what we begin with.
            Chosen::Pixman => {}
            Chosen::Gles(gles) => self.renderer = gles,
            Chosen::FellBack(error) => {
                tracing::warn!(target: "vitrine::render", %error, "falling back to pixman");
            }
        }
        tracing::info!(target: "vitrine::render", renderer = self.renderer.name(), "renderer chosen");
        Ok(())
    }

    fn watch_device(
        &mut self,
        backend: &Backend,
        notifier: LibSeatSessionNotifier,
    ) -> anyhow::Result<()> {
        let unwatched = |what: &str, error: &dyn std::fmt::Display| {
            anyhow::anyhow!("{what} cannot be watched: {error}")
        };
        let events = Generic::new(backend.device.clone(), Interest::READ, Mode::Level);
        self.event_loop
            .insert_source(events, |_, _, state| {
                state.device_events();
                Ok(PostAction::Continue)
            })
            .map_err(|error| unwatched("the display device", &error))?;
        self.event_loop
            .insert_source(notifier, |event, (), state| match event {
                SessionEvent::PauseSession => state.pause(),
                SessionEvent::ActivateSession => state.resume(),
            })
            .map_err(|error| unwatched("the seat", &error))?;
        let udev = UdevBackend::new(backend.session.seat())
            .context("udev cannot be watched; is udevd running?")?;
        self.event_loop
            .insert_source(udev, |event, (), state| state.udev_event(&event))
            .map_err(|error| unwatched("udev", &error))?;
        Ok(())
    }

    fn udev_event(&mut self, event: &UdevEvent) {
        let Some(backend) = self.backend.as_ref() else {
            return;
        };
        match event {
            UdevEvent::Changed { device_id } if *device_id == backend.dev_id => self.rescan(),
            UdevEvent::Removed { device_id } if *device_id == backend.dev_id => {
                tracing::error!(target: "vitrine::kms", node = %backend.node.display(), "the display device is gone");
                self.quit(1);
            }
            UdevEvent::Added { .. } | UdevEvent::Changed { .. } | UdevEvent::Removed { .. } => {}
        }
    }

    /// Looks at the connectors again: new screens are added, gone ones removed, the others stay as they are.
    pub fn rescan(&mut self) {
        let Some(backend) = self.backend.as_mut() else {
            return;
        };
        let snapshot = match backend.device.snapshot(true) {
            Ok(snapshot) => snapshot,
            Err(error) => {
                tracing::error!(target: "vitrine::kms", %error, "the connectors cannot be read");
                return;
            }
        };
        let held = backend.screens.iter().map(Screen::held).collect();
        let (preferences, foreign) = self.wishes(&snapshot, held);
        let assignment = kms::assign(&snapshot, &preferences);
        for left_out in &assignment.unassigned {
            tracing::warn!(target: "vitrine::kms", connector = %left_out.name, reason = %left_out.reason, "screen stays dark");
        }
        self.remove_gone(&assignment);
        self.foreign_planes_changed(&preferences.foreign_planes);
        for sink in assignment.sinks() {
            self.add_screen(sink, &snapshot, &preferences.foreign_planes);
        }
        self.offer_leases(&foreign);
        self.place_outputs();
    }

    fn remove_gone(&mut self, assignment: &kms::Assignment) {
        let Some(backend) = self.backend.as_mut() else {
            return;
        };
        let pairs = assignment.pairs();
        let (stay, gone): (Vec<Screen>, Vec<Screen>) = std::mem::take(&mut backend.screens)
            .into_iter()
            .partition(|screen| pairs.contains(&screen.pair()));
        backend.screens = stay;
        let device = backend.device.clone();
        for screen in gone {
            tracing::info!(target: "vitrine::output", output = %screen.output.name(), "screen gone");
            screen.log_summary(&device, self.captures.get(&screen.output));
            self.remove_output(&screen.output);
        }
    }

    fn add_screen(
        &mut self,
        sink: Sink<'_>,
        snapshot: &kms::Snapshot,
        foreign: &[drm::control::plane::Handle],
    ) {
        let Some(backend) = self.backend.as_mut() else {
            return;
        };
        if backend
            .screens
            .iter()
            .any(|screen| screen.pair() == (sink.connector(), sink.crtc()))
        {
            return;
        }
        let rule = self.config.output(sink.name());
        let Some((output, mode)) = describe(sink, snapshot, &rule) else {
            return;
        };
        let setup = ScreenSetup {
            device: &backend.device,
            gbm: &backend.gbm,
            sink,
            foreign,
            mode,
            software: matches!(self.renderer, Renderer::Pixman(_)),
            cooling: self.config.capture.cooling,
            pacing: pacing(&self.config.capture, &rule, &backend.device),
            hold_refreshes: self.config.capture.hold_refreshes,
            watchdog: self.config.capture.watchdog,
            producer: rule.producer.unwrap_or(self.config.capture.producer),
            passthrough: rule.passthrough.unwrap_or(self.config.capture.passthrough),
            lease_primary: rule
                .lease_primary
                .unwrap_or(self.config.capture.lease_primary)
                && self.config.capture.history == 0,
            hardware_cursor: self.config.cursor.hardware,
        };
        match Screen::new(setup, output.clone()) {
            Ok(screen) => {
                backend.screens.push(screen);
                self.add_output(output, &rule);
            }
            Err(error) => {
                tracing::error!(target: "vitrine::output", connector = %sink.name(), %error, "screen cannot be used");
            }
        }
    }

    /// Announces an output to clients and gives it its capture side. Also the way in for protocol tests.
    pub fn add_output(&mut self, output: Output, rule: &OutputRule) {
        let global = output.create_global::<Vitrine>(&self.display);
        output
            .user_data()
            .insert_if_missing(|| OutputGlobal(global));
        let refresh = refresh_of(&output);
        let config = self.capture_config();
        let waker = self.waker();
        let mut capture = OutputCapture::new(config, refresh, waker);
        capture.set_motion(motion(&self.config.capture, rule));
        self.captures.insert(output.clone(), capture);
        let at = rule.position.unwrap_or((0, 0));
        self.shell.space.map_output(&output, at);
        self.place_outputs();
    }

    /// Takes an output away from clients: captures stop, windows move.
    pub fn remove_output(&mut self, output: &Output) {
        protocols::output_gone(self, output);
        protocols::wlr_output_power::output_gone(self, output);
        self.close_lease_socket(output);
        self.captures.remove(output);
        self.forget_fences(output);
        self.shell.space.unmap_output(output);
        if let Some(OutputGlobal(global)) = output.user_data().get::<OutputGlobal>() {
            self.retire_global(global.clone());
        }
        self.place_outputs();
    }

    /// Fences of a screen that is gone are nobody's any more, and one that never signals would stay for ever.
    fn forget_fences(&mut self, output: &Output) {
        let gone = self.fences.extract_if(|(of, _), _| of == output);
        for (_, token) in gone {
            self.event_loop.remove(token);
        }
    }

    pub(super) fn retire_global(&mut self, global: GlobalId) {
        self.display.disable_global::<Vitrine>(global.clone());
        let timer = Timer::from_duration(GLOBAL_AFTERLIFE);
        let inserted = self.event_loop.insert_source(timer, move |_, (), state| {
            state.display.remove_global::<Vitrine>(global.clone());
            TimeoutAction::Drop
        });
        if let Err(error) = inserted {
            tracing::debug!(target: "vitrine::output", %error, "a removed output's global stays disabled");
        }
    }

    /// Places outputs without a configured position side by side, then the windows.
    fn place_outputs(&mut self) {
        let mut outputs: Vec<Output> = self.shell.space.outputs().cloned().collect();
        outputs.sort_by_key(Output::name);
        let mut right = 0;
        for output in outputs {
            let at = self
                .config
                .output(&output.name())
                .position
                .unwrap_or((right, 0));
            self.shell.space.map_output(&output, at);
            output.change_current_state(None, None, None, Some(at.into()));
            if let Some(area) = self.shell.space.output_geometry(&output) {
                right = right.max(area.loc.x + area.size.w);
            }
        }
        self.shell.arrange();
        self.fit_lock_surfaces();
        outputs_changed(self);
        self.scene_changed();
    }

    fn device_events(&mut self) {
        let Some(backend) = self.backend.as_mut() else {
            return;
        };
        let events = match backend.device.events() {
            Ok(events) => events,
            Err(error) => {
                tracing::error!(target: "vitrine::kms", %error, "the device's events cannot be read");
                return;
            }
        };
        for event in events {
            let KmsEvent::Flip {
                crtc,
                time,
                sequence,
            } = event;
            let screen = backend
                .screens
                .iter_mut()
                .find(|screen| screen.pair().1 == crtc);
            let Some(screen) = screen else { continue };
            if let Some(capture) = self.captures.get_mut(&screen.output) {
                screen.flipped(time, u64::from(sequence), capture);
            }
        }
    }

    /// The seat goes to another session: nothing may be committed any more, and it may already be refused.
    fn pause(&mut self) {
        tracing::info!(target: "vitrine::session", "session paused");
        if let Some(backend) = self.backend.as_mut() {
            backend.active = false;
            for screen in &mut backend.screens {
                screen.pause();
            }
        }
        self.pause_input();
    }

    fn resume(&mut self) {
        tracing::info!(target: "vitrine::session", "session resumed");
        if let Some(backend) = self.backend.as_mut() {
            backend.active = true;
            for screen in &mut backend.screens {
                screen.resume();
            }
        }
        self.resume_input();
        // Screens may have come or gone meanwhile.
        self.rescan();
    }

    /// Leaves: says what was done, gives the screens back as they were found.
    pub fn stop_backend(&mut self) {
        let Some(mut backend) = self.backend.take() else {
            return;
        };
        for screen in &backend.screens {
            screen.log_summary(&backend.device, self.captures.get(&screen.output));
        }
        for output in backend.screens.iter().map(|screen| &screen.output) {
            self.close_lease_socket(output);
        }
        // Dropping a screen gives it back as it was found; the pipelines go before the device.
        backend.screens.clear();
        self.app = None;
    }
}

/// Opens the first node that can do atomic modesetting; with a configured node only that one.
fn open_first(
    session: &mut LibSeatSession,
    choice: &crate::config::DeviceChoice,
) -> anyhow::Result<(kms::Device, PathBuf)> {
    let mut refusals = Vec::new();
    for node in session::display_nodes(choice, &session.seat())? {
        match open_node(session, &node) {
            Ok(device) => {
                tracing::info!(target: "vitrine::kms", node = %node.display(), driver = device.driver(), "display device opened");
                return Ok((device, node));
            }
            Err(error) => refusals.push(format!("{}: {error:#}", node.display())),
        }
    }
    anyhow::bail!("no usable display device:\n  {}", refusals.join("\n  "))
}

fn open_node(session: &mut LibSeatSession, node: &std::path::Path) -> anyhow::Result<kms::Device> {
    let plan = kms::FaultPlan::from_env("VITRINE_FAULTS")?;
    let fd = session::open_device(session, node)?;
    let device = kms::Device::new(DrmDeviceFd::new(fd), plan)?;
    let snapshot = device.snapshot(true)?;
    anyhow::ensure!(
        snapshot.heads().next().is_some(),
        "it has no connector for a screen"
    );
    Ok(device)
}

/// One refresh of the output's mode.
pub(super) fn refresh_of(output: &Output) -> Duration {
    let millihertz = output
        .current_mode()
        .map_or(60_000, |mode| mode.refresh.max(1_000));
    Duration::from_secs_f64(1_000.0 / f64::from(millihertz))
}
