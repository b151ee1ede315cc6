//! The server side of the fixture: the real protocol code, rings and copy threads of Vitrine around in-memory slots.
//! The test plays the display: [`Server::flip`] is a commit, its page flip and its writeback fence.
//!
//! Only these files know how the state looks: the tests use [`Server`] only.

mod hardware;
mod power;
mod state;
mod windows;

use std::{
    os::unix::{fs::FileExt, net::UnixStream},
    sync::{atomic::Ordering, Arc, Mutex},
    time::Duration,
};

use drm_fourcc::{DrmFourcc, DrmModifier};
use smithay::{
    backend::allocator::Format,
    input::SeatState,
    output::{Mode, Output, PhysicalProperties, Subpixel},
    utils::Transform,
    wayland::{
        compositor::CompositorState, dmabuf::DmabufState,
        foreign_toplevel_list::ForeignToplevelListState, shm::ShmState,
    },
};
use vitrine::{
    capture::{
        CaptureConfig, Completion, CopyPool, CursorInFrame, Demand, FrameFormat, JobId,
        OutputCapture, PerView, Producer, Skip, SlotId, SlotMemory,
    },
    geometry::Rect,
    protocols::{
        self, wlr_output_power::OutputPowers, CaptureProtocols, CursorView, LoopTask, ObjectCounts,
    },
    time::Time,
};
use wayland_server::{Client, Display, DisplayHandle};

use self::state::{Connected, Screen, State};
use crate::{
    client::memory,
    slots::{Gate, MemorySlot},
};

/// The server, driven step by step.
pub struct Server {
    display: Display<State>,
    state: State,
    tasks: calloop::channel::Channel<LoopTask<State>>,
    gate: Arc<Gate>,
    broken: Arc<Mutex<bool>>,
    next_job: u64,
    /// Time of the display, moved on by each flip: protocols see it in presentation times.
    clock: Duration,
    pub deny_next_client: bool,
    clients: Vec<Arc<Connected>>,
}

/// The screen's size at the start.
pub const WIDTH: i32 = 64;
/// See [`WIDTH`].
pub const HEIGHT: i32 = 48;

fn rect(x: i32, y: i32, w: i32, h: i32) -> Rect {
    Rect::new((x, y).into(), (w, h).into())
}

impl Server {
    /// A server with one output of 64x48 pixels, shm targets only.
    pub fn new() -> Self {
        Self::with_dmabuf_device(None)
    }

    pub fn with_dmabuf_device(dmabuf_device: Option<u64>) -> Self {
        let display = Display::<State>::new().unwrap();
        let handle = display.handle();
        let (sender, tasks) = calloop::channel::channel();
        let linear = Format {
            code: DrmFourcc::Xrgb8888,
            modifier: DrmModifier::Linear,
        };
        let mut dmabuf = DmabufState::new();
        dmabuf.create_global::<State>(&handle, [linear]);
        let mut seats = SeatState::new();
        seats.new_wl_seat(&handle, "seat").add_pointer();
        let allowed = |client: &Client| {
            client
                .get_data::<Connected>()
                .is_some_and(|data| !data.denied.load(Ordering::Relaxed))
        };
        let state = State {
            compositor: CompositorState::new::<State>(&handle),
            shm: ShmState::new::<State>(
                &handle,
                [wayland_server::protocol::wl_shm::Format::Rgb565],
            ),
            dmabuf,
            seats,
            screens: Vec::new(),
            pool: CopyPool::new(2).unwrap(),
            protocols: CaptureProtocols::new::<State>(&handle, allowed),
            sender: Arc::new(sender),
            dmabuf_device,
            cursor: None,
            toplevels: ForeignToplevelListState::new_with_filter::<State>(&handle, allowed),
            windows: Vec::new(),
            now: Time::from_duration(Duration::from_secs(5)),
            powers: OutputPowers::new::<State>(&handle, allowed),
        };
        let mut server = Self {
            display,
            state,
            tasks,
            gate: Arc::default(),
            broken: Arc::default(),
            next_job: 0,
            clock: Duration::from_secs((1 << 32) + 5),
            deny_next_client: false,
            clients: Vec::new(),
        };
        server.add_output();
        server
    }

    fn handle(&self) -> DisplayHandle {
        self.display.handle()
    }

    pub fn accept(&mut self, stream: UnixStream) {
        let denied = std::mem::take(&mut self.deny_next_client);
        let data = Arc::new(Connected {
            denied: denied.into(),
            compositor: Default::default(),
        });
        self.clients.push(data.clone());
        self.handle().insert_client(stream, data).unwrap();
    }

    /// Takes the right to capture from the nth client that connected, as a change of the rules does. The slots are replaced.
    pub fn revoke(&mut self, nth: usize) {
        self.clients[nth].denied.store(true, Ordering::Relaxed);
        protocols::rights_changed(&mut self.state);
        self.power_rights_changed();
        for nth in 0..self.state.screens.len() {
            self.replace_slots(nth);
        }
        self.dispatch();
    }

    // --- outputs ---

    /// Plugs an output in.
    pub fn add_output(&mut self) {
        let name = format!("TEST-{}", self.state.screens.len() + 1);
        let physical = PhysicalProperties {
            size: (0, 0).into(),
            subpixel: Subpixel::Unknown,
            make: "none".into(),
            model: "none".into(),
        };
        let output = Output::new(name, physical);
        let global = output.create_global::<State>(&self.handle());
        let refresh = Duration::from_millis(16);
        let capture = OutputCapture::new(CaptureConfig::default(), refresh, Arc::new(|| {}));
        self.state.screens.push(Screen {
            output,
            global,
            capture,
            pixels: Vec::new(),
            size: (0, 0),
            slots: Vec::new(),
            power: Default::default(),
        });
        self.set_mode(self.state.screens.len() - 1, WIDTH, HEIGHT);
    }

    /// The output gets another mode, with black pixels.
    pub fn set_mode(&mut self, nth: usize, width: i32, height: i32) {
        let screen = &mut self.state.screens[nth];
        let mode = Mode {
            size: (width, height).into(),
            refresh: 60_000,
        };
        screen.output.change_current_state(
            Some(mode),
            Some(Transform::Normal),
            None,
            Some((0, 0).into()),
        );
        screen.size = (width, height);
        screen.pixels = vec![0; (width * height) as usize];
        self.replace_slots(nth);
        let output = self.state.screens[nth].output.clone();
        protocols::output_changed(&mut self.state, &output);
        self.deliver();
    }

    /// Gives the output's capture other memory.
    fn replace_slots(&mut self, nth: usize) {
        let now = self.now();
        let screen = &mut self.state.screens[nth];
        let (width, height) = screen.size;
        // Rows of frames have padding, to see whether strides are mixed up.
        let stride = width * 4 + 64;
        let slot = || {
            Arc::new(MemorySlot {
                file: memory((stride * height) as u64),
                gate: self.gate.clone(),
                broken: self.broken.clone(),
            })
        };
        screen.slots = (0..4).map(|_| slot()).collect();
        let memories = screen
            .slots
            .iter()
            .map(|slot| slot.clone() as Arc<dyn SlotMemory>);
        let format = FrameFormat {
            width: width as u32,
            height: height as u32,
            fourcc: DrmFourcc::Xrgb8888,
            modifier: DrmModifier::Linear,
            stride: stride as u32,
            offset: 0,
        };
        screen
            .capture
            .set_buffers(format, memories.collect(), now)
            .unwrap();
    }

    pub fn set_scale(&mut self, scale: i32) {
        let scale = smithay::output::Scale::Integer(scale);
        self.state.screens[0]
            .output
            .change_current_state(None, None, Some(scale), None);
    }

    pub fn set_transform(&mut self, transform: Transform) {
        self.state.screens[0]
            .output
            .change_current_state(None, Some(transform), None, None);
    }

    /// The pointer is on this output now, looks like this and points there; or it is nowhere.
    pub fn set_cursor(&mut self, cursor: Option<(usize, CursorView)>) {
        self.state.cursor = cursor;
        protocols::cursor_changed(&mut self.state);
        self.deliver();
    }

    /// Unplugs an output.
    pub fn remove_output(&mut self, nth: usize) {
        let screen = self.state.screens.remove(nth);
        self.handle().remove_global::<State>(screen.global);
        protocols::output_gone(&mut self.state, &screen.output);
        self.power_of_gone(&screen.output);
        self.dispatch();
    }

    /// Tells the room that the first output goes, before the output itself goes.
    pub fn announce_the_end_of_the_output(&mut self) {
        let output = self.state.screens[0].output.clone();
        protocols::output_gone(&mut self.state, &output);
        self.dispatch();
    }

    // --- the display ---

    /// Paints a rectangle and presents the picture; captures it if that is wanted. Returns the presentation time.
    pub fn flip(&mut self, [x, y, w, h]: [i32; 4], pixel: u32) -> (u64, u32) {
        self.flip_on(0, [x, y, w, h], pixel)
    }

    pub fn flip_on(&mut self, nth: usize, [x, y, w, h]: [i32; 4], pixel: u32) -> (u64, u32) {
        let screen = &mut self.state.screens[nth];
        for row in y..y + h {
            let start = (row * screen.size.0 + x) as usize;
            screen.pixels[start..start + w as usize].fill(pixel);
        }
        self.commit(nth, &[rect(x, y, w, h)])
    }

    /// Presents the same picture again.
    pub fn flip_unchanged(&mut self) -> (u64, u32) {
        self.commit(0, &[])
    }

    fn commit(&mut self, nth: usize, damage: &[Rect]) -> (u64, u32) {
        self.clock += Duration::from_nanos(16_666_667);
        let now = self.now();
        let presented = Time::from_duration(self.clock);
        let screen = &mut self.state.screens[nth];
        self.next_job += 1;
        let job = JobId(self.next_job);
        match screen.capture.arm(job, Producer::Writeback, now) {
            Ok(slot) => {
                screen.write(slot);
                screen.capture.committed(damage, Some(job));
                let completion = screen.capture.complete(job, presented, now);
                assert!(
                    matches!(completion, Completion::Published(_)),
                    "{completion:?}"
                );
            }
            Err(Skip::NoBuffers) => panic!("no buffers"),
            Err(_) => screen.capture.committed(damage, None),
        }
        screen.capture.verify_invariants().unwrap();
        self.deliver();
        (self.clock.as_secs(), self.clock.subsec_nanos())
    }

    /// Whether somebody wants the next frame even if nothing changes.
    pub fn wants_frame(&mut self) -> bool {
        let now = self.now();
        self.state.screens[0].capture.demand(now) == Demand::Now
    }

    /// Whether the hardware may write a client's own buffer with the next commit.
    pub fn would_pass_through(&mut self) -> bool {
        let now = self.now();
        let capture = &mut self.state.screens[0].capture;
        capture.allow_direct(PerView::new(|_| true));
        let candidate = capture.direct_candidate(CursorInFrame::Absent, now);
        candidate.is_some()
    }

    /// Jobs that were armed so far.
    pub fn jobs(&self) -> u64 {
        self.state.screens[0].capture.stats().jobs
    }

    /// Slots that somebody holds now.
    pub fn held(&mut self) -> u64 {
        self.deliver();
        self.state.screens[0].capture.stats().held
    }

    /// This much time passes without a flip.
    pub fn pass(&mut self, time: Duration) {
        self.state.now = self.state.now + time;
        self.deliver();
    }

    fn now(&self) -> Time {
        self.state.now
    }

    fn deliver(&mut self) {
        let now = self.now();
        self.draw_windows(now);
        let mut polled = Vec::new();
        for screen in &mut self.state.screens {
            polled.push((screen.output.clone(), screen.capture.poll(now)));
        }
        for (output, events) in polled {
            protocols::deliver(&mut self.state, &output, events);
        }
    }

    // --- the loop ---

    /// Answers all that clients have sent.
    pub fn dispatch(&mut self) {
        self.display.dispatch_clients(&mut self.state).unwrap();
        self.run_tasks();
        self.deliver();
        self.display.flush_clients().unwrap();
    }

    fn run_tasks(&mut self) {
        while let Ok(task) = self.tasks.try_recv() {
            task(&mut self.state);
        }
    }

    /// Lets the workers finish all copies that can be made now.
    pub fn finish_copies(&mut self) {
        self.dispatch();
        for _ in 0..20_000 {
            if self.running_copies() == 0 {
                self.dispatch();
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
            self.dispatch();
        }
        panic!("a copy does not end");
    }

    pub fn running_copies(&mut self) -> usize {
        self.state.protocols.running_copies()
    }

    /// From now on copies stop while they read their frame.
    pub fn hold_copies(&mut self) {
        self.gate.set_closed(true);
    }

    /// Waits until a copy has begun to read.
    pub fn wait_for_held_copy(&mut self) {
        self.gate.wait_for_reader();
    }

    pub fn let_copies_go(&mut self) {
        self.gate.set_closed(false);
    }

    /// Frames can neither be read nor exported.
    pub fn break_memory(&mut self, broken: bool) {
        *self.broken.lock().unwrap() = broken;
    }

    pub fn counts(&self) -> ObjectCounts {
        self.state.protocols.counts()
    }

    /// Whether capture/ still counts a session of anybody.
    pub fn knows_clients(&self) -> bool {
        !self.state.screens[0].capture.stats().clients.is_empty()
    }
}

impl Drop for Server {
    // A failed test must not leave workers behind that wait for the gate.
    fn drop(&mut self) {
        self.gate.set_closed(false);
    }
}

impl Screen {
    fn write(&self, slot: SlotId) {
        let memory = &self.slots[usize::from(slot.index)];
        let stride = (self.size.0 * 4 + 64) as usize;
        for (y, row) in self.pixels.chunks(self.size.0 as usize).enumerate() {
            let bytes: Vec<u8> = row.iter().flat_map(|pixel| pixel.to_ne_bytes()).collect();
            memory
                .file
                .write_all_at(&bytes, (y * stride) as u64)
                .unwrap();
        }
    }
}
