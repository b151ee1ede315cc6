//! A fullscreen xdg-shell client that draws pictures whose every pixel is known.

use std::{
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc, Mutex,
    },
    time::Duration,
};

use wayland_client::{
    protocol::{wl_compositor, wl_output, wl_region, wl_subcompositor, wl_subsurface, wl_surface},
    Connection, Dispatch, QueueHandle, WEnum,
};
use wayland_protocols::xdg::shell::client::{xdg_surface, xdg_toplevel, xdg_wm_base};

use super::{
    buffers::{Buffer, MemoryKind, XRGB8888},
    connect::{Client, ClientError, State},
    picture::{pattern_picture, Picture, Rect},
    pointer::Pointer,
    presentation::{Feedback, Presentation, Shown},
};

/// How a painter is to be made.
#[derive(Debug, Clone)]
pub struct PainterOptions {
    /// Ask for this output.
    pub output: Option<wl_output::WlOutput>,
    /// How many buffers it draws into in turn; 1 waits for each release.
    pub buffers: usize,
    /// Where their memory comes from.
    pub memory: MemoryKind,
    /// Set the known cursor whenever a pointer enters.
    pub cursor: bool,
    /// Put a subsurface with a pattern of its own at this place.
    pub subsurface: Option<Rect>,
    /// Size where the compositor leaves it to the client.
    pub size: (u32, u32),
    /// The app id.
    pub app_id: String,
}

impl Default for PainterOptions {
    fn default() -> Self {
        Self {
            output: None,
            buffers: 2,
            memory: MemoryKind::Shm,
            cursor: false,
            subsurface: None,
            size: (640, 480),
            app_id: "vitrine.painter".into(),
        }
    }
}

/// What the shell told the toplevel.
#[derive(Debug, Clone, Default)]
pub struct ShellRecord {
    /// Serial of the last configure that was not acknowledged yet.
    pub pending: Option<u32>,
    /// Number of configures.
    pub configures: u32,
    /// Size that the compositor suggests; 0 leaves it to the client.
    pub size: (u32, u32),
    /// The states, as the protocol counts them.
    pub states: Vec<u32>,
    /// The user or the compositor asked to close.
    pub close: bool,
    /// Outputs that the surface entered minus those that it left.
    pub on_outputs: i32,
    /// The scale that the compositor prefers, since version 6 of wl_surface.
    pub scale: Option<i32>,
    /// How it prefers the picture turned, likewise.
    pub transform: Option<wl_output::Transform>,
}

type Shell = Arc<Mutex<ShellRecord>>;

/// The client. Requests are sent by the [`Client`] that it was made on.
#[derive(Debug)]
pub struct Painter {
    /// The surface.
    pub surface: wl_surface::WlSurface,
    /// The window.
    pub toplevel: xdg_toplevel::XdgToplevel,
    xdg: xdg_surface::XdgSurface,
    shell: Shell,
    options: PainterOptions,
    buffers: Vec<Buffer>,
    presentation: Presentation,
    frame_done: Option<Arc<AtomicBool>>,
    content: Picture,
    pointer: Option<Pointer>,
    subsurface: Option<Child>,
}

/// A subsurface and what it shows.
#[derive(Debug)]
struct Child {
    picture: Picture,
    at: (i32, i32),
    _role: wl_subsurface::WlSubsurface,
    _surface: wl_surface::WlSurface,
    _buffer: Buffer,
}

impl Painter {
    /// Makes the window and waits for its first configure. Nothing is on the screen yet.
    pub fn new(client: &mut Client, options: PainterOptions) -> Result<Self, ClientError> {
        let compositor: wl_compositor::WlCompositor = client.bind(4, ())?;
        let wm_base: xdg_wm_base::XdgWmBase = client.bind(1, ())?;
        let shell = Shell::default();
        let surface = compositor.create_surface(&client.qh, Some(Arc::clone(&shell)));
        let xdg = wm_base.get_xdg_surface(&surface, &client.qh, Arc::clone(&shell));
        let toplevel = xdg.get_toplevel(&client.qh, Arc::clone(&shell));
        toplevel.set_app_id(options.app_id.clone());
        toplevel.set_title(options.app_id.clone());
        toplevel.set_fullscreen(options.output.as_ref());
        surface.commit();
        client.wait_for("the first xdg_surface.configure", client.patience(), |_| {
            shell.lock().unwrap().pending
        })?;
        let mut painter = Self {
            surface,
            toplevel,
            xdg,
            shell,
            buffers: Vec::new(),
            presentation: Presentation::new(client)?,
            frame_done: None,
            content: Picture::filled(0, 0, 0),
            pointer: None,
            subsurface: None,
            options,
        };
        painter.acknowledge();
        if painter.options.cursor {
            let cursor = compositor.create_surface(&client.qh, None);
            painter.pointer = Pointer::new(client, cursor)?;
        }
        if let Some(rect) = painter.options.subsurface {
            painter.subsurface = Some(painter.child(client, &compositor, rect)?);
        }
        Ok(painter)
    }

    /// Size of the window in pixels.
    pub fn size(&self) -> (u32, u32) {
        match self.shell.lock().unwrap().size {
            (0, _) | (_, 0) => self.options.size,
            size => size,
        }
    }

    /// What the shell said so far.
    pub fn shell(&self) -> ShellRecord {
        self.shell.lock().unwrap().clone()
    }

    /// Commits pattern `n` over the whole window. Gives the commit's index among [`Self::feedback`].
    pub fn paint(&mut self, client: &mut Client, n: u32) -> Result<usize, ClientError> {
        let (width, height) = self.size();
        self.show(client, n, pattern_picture(n, width, height), None)
    }

    /// Commits pattern `n` inside of `damage` only; the rest stays as it was.
    pub fn paint_part(
        &mut self,
        client: &mut Client,
        n: u32,
        damage: Rect,
    ) -> Result<usize, ClientError> {
        let (width, height) = self.size();
        let mut picture = self.content.clone();
        picture.paste(&pattern_picture(n, width, height), damage);
        self.show(client, n, picture, Some(damage))
    }

    /// Commits any picture of the window's size; `n` only labels the feedback.
    pub fn show(
        &mut self,
        client: &mut Client,
        n: u32,
        picture: Picture,
        damage: Option<Rect>,
    ) -> Result<usize, ClientError> {
        let size = (picture.width, picture.height);
        let commit = self.show_bytes(client, n, size, damage, |bytes, stride| {
            picture.to_lines(bytes, stride);
        })?;
        self.content = picture;
        Ok(commit)
    }

    /// As [`Self::show`] for a client in a hurry: `draw` fills the buffer's lines, whose stride it is told.
    /// [`Self::expected`] does not learn of it.
    pub fn show_bytes(
        &mut self,
        client: &mut Client,
        n: u32,
        size: (u32, u32),
        damage: Option<Rect>,
        draw: impl FnOnce(&mut [u8], u32),
    ) -> Result<usize, ClientError> {
        let index = self.free_buffer(client, size)?;
        let buffer = &mut self.buffers[index];
        let stride = buffer.stride;
        buffer.write(|bytes| draw(bytes, stride));
        self.commit(client, n, index, damage)
    }

    fn commit(
        &mut self,
        client: &mut Client,
        n: u32,
        index: usize,
        damage: Option<Rect>,
    ) -> Result<usize, ClientError> {
        self.acknowledge();
        let buffer = &self.buffers[index];
        buffer.busy.store(true, Ordering::Relaxed);
        let done = Arc::new(AtomicBool::new(false));
        self.surface.frame(&client.qh, Arc::clone(&done));
        self.frame_done = Some(done);
        self.surface.attach(Some(&buffer.proxy), 0, 0);
        let d = damage.unwrap_or(Rect::new(0, 0, i32::MAX, i32::MAX));
        self.surface.damage_buffer(d.x, d.y, d.width, d.height);
        let commit = self.presentation.note(client, &self.surface, n);
        self.surface.commit();
        client.flush()?;
        Ok(commit)
    }

    /// Commits whatever the next free buffer holds, with damage all over: full motion without the time that drawing
    /// takes. What [`Self::expected`] says is wrong until the next picture.
    pub fn flip(&mut self, client: &mut Client, n: u32) -> Result<usize, ClientError> {
        let size = self.size();
        let index = self.free_buffer(client, size)?;
        self.commit(client, n, index, None)
    }

    /// Waits for the frame callback of the last commit.
    pub fn wait_frame(&mut self, client: &mut Client) -> Result<(), ClientError> {
        let Some(done) = self.frame_done.take() else {
            return Ok(());
        };
        client.wait_for("wl_surface.frame", client.patience(), |_| {
            done.load(Ordering::Relaxed).then_some(())
        })?;
        if let Some(pointer) = &mut self.pointer {
            pointer.update();
        }
        Ok(())
    }

    /// Whether the frame callback of the last commit has come, as far as events were dispatched; also if there was none.
    pub fn is_frame_done(&self) -> bool {
        let done = self.frame_done.as_ref();
        done.is_none_or(|done| done.load(Ordering::Relaxed))
    }

    /// Waits until a commit was presented or discarded.
    pub fn wait_shown(&mut self, client: &mut Client, commit: usize) -> Result<Shown, ClientError> {
        let presentation = &self.presentation;
        client.wait_for(
            "wp_presentation_feedback",
            client.patience(),
            |_| match presentation.shown(commit) {
                Shown::Waiting => None,
                shown => Some(shown),
            },
        )
    }

    /// Paints `n` and waits until it is on the screen; gives the time of the flip.
    pub fn present(&mut self, client: &mut Client, n: u32) -> Result<Duration, ClientError> {
        let commit = self.paint(client, n)?;
        self.time_shown(client, commit)
    }

    /// As [`Self::present`] for a commit that was made already.
    pub fn time_shown(
        &mut self,
        client: &mut Client,
        commit: usize,
    ) -> Result<Duration, ClientError> {
        match self.wait_shown(client, commit)? {
            Shown::Presented { time, .. } => Ok(time),
            other => Err(ClientError::Missing(format!(
                "presentation of commit {commit}: {other:?}"
            ))),
        }
    }

    /// Paints these numbers, each when the frame callback of the one before has come.
    pub fn animate(
        &mut self,
        client: &mut Client,
        numbers: impl IntoIterator<Item = u32>,
    ) -> Result<(), ClientError> {
        for n in numbers {
            self.paint(client, n)?;
            self.wait_frame(client)?;
        }
        Ok(())
    }

    /// What the screen must show now, where the window covers it and no pointer is over it.
    pub fn expected(&self) -> Picture {
        let mut picture = self.content.clone();
        if let Some(child) = &self.subsurface {
            picture.overlay(&child.picture, child.at.0, child.at.1);
        }
        picture
    }

    /// All commits and what became of them.
    pub fn feedback(&self) -> Vec<Feedback> {
        self.presentation.all()
    }

    /// In which refresh, as the screen counts them, each commit that was shown was shown.
    pub fn refreshes(&self) -> Vec<u64> {
        let feedback = self.presentation.all().into_iter();
        let shown = feedback.filter_map(|f| match f.shown {
            Shown::Presented { sequence, .. } => Some(sequence),
            Shown::Waiting | Shown::Discarded => None,
        });
        shown.collect()
    }

    /// The pointer, with [`PainterOptions::cursor`] and if the seat has one.
    pub fn pointer(&mut self) -> Option<&mut Pointer> {
        self.pointer.as_mut()
    }

    fn acknowledge(&mut self) {
        if let Some(serial) = self.shell.lock().unwrap().pending.take() {
            self.xdg.ack_configure(serial);
        }
    }

    fn free_buffer(
        &mut self,
        client: &mut Client,
        (width, height): (u32, u32),
    ) -> Result<usize, ClientError> {
        self.buffers
            .retain(|buffer| (buffer.width, buffer.height) == (width, height));
        if self.buffers.len() < self.options.buffers.max(1)
            && self.buffers.iter().all(Buffer::is_busy)
        {
            let memory = self.options.memory;
            self.buffers
                .push(Buffer::new(client, memory, width, height, XRGB8888)?);
        }
        let buffers = &self.buffers;
        client.wait_for("wl_buffer.release", client.patience(), |_| {
            buffers.iter().position(|buffer| !buffer.is_busy())
        })
    }

    fn child(
        &self,
        client: &mut Client,
        compositor: &wl_compositor::WlCompositor,
        rect: Rect,
    ) -> Result<Child, ClientError> {
        let subcompositor: wl_subcompositor::WlSubcompositor = client.bind(1, ())?;
        let surface = compositor.create_surface(&client.qh, None);
        let role = subcompositor.get_subsurface(&surface, &self.surface, &client.qh, ());
        role.set_position(rect.x, rect.y);
        let (width, height) = (rect.width as u32, rect.height as u32);
        let mut buffer = Buffer::new(client, MemoryKind::Shm, width, height, XRGB8888)?;
        // Upside down and in another key than the patterns, so that it is mistaken for none of them.
        let mut picture = pattern_picture(77, width, height);
        picture
            .pixels
            .iter_mut()
            .for_each(|pixel| *pixel ^= 0x00ff_ffff);
        let stride = buffer.stride;
        buffer.write(|bytes| picture.to_lines(bytes, stride));
        surface.attach(Some(&buffer.proxy), 0, 0);
        surface.damage_buffer(0, 0, i32::MAX, i32::MAX);
        surface.commit();
        let at = (rect.x, rect.y);
        Ok(Child {
            picture,
            at,
            _role: role,
            _surface: surface,
            _buffer: buffer,
        })
    }
}

impl Drop for Painter {
    fn drop(&mut self) {
        self.toplevel.destroy();
        self.xdg.destroy();
        self.surface.destroy();
    }
}

impl Dispatch<wl_surface::WlSurface, Option<Shell>> for State {
    fn event(
        _: &mut Self,
        _: &wl_surface::WlSurface,
        event: wl_surface::Event,
        shell: &Option<Shell>,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        let Some(shell) = shell else { return };
        match event {
            wl_surface::Event::Enter { .. } => shell.lock().unwrap().on_outputs += 1,
            wl_surface::Event::Leave { .. } => shell.lock().unwrap().on_outputs -= 1,
            wl_surface::Event::PreferredBufferScale { factor } => {
                shell.lock().unwrap().scale = Some(factor);
            }
            wl_surface::Event::PreferredBufferTransform {
                transform: WEnum::Value(transform),
            } => {
                shell.lock().unwrap().transform = Some(transform);
            }
            _ => {}
        }
    }
}

impl Dispatch<xdg_surface::XdgSurface, Shell> for State {
    fn event(
        _: &mut Self,
        _: &xdg_surface::XdgSurface,
        event: xdg_surface::Event,
        shell: &Shell,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let xdg_surface::Event::Configure { serial } = event {
            let mut shell = shell.lock().unwrap();
            shell.pending = Some(serial);
            shell.configures += 1;
        }
    }
}

impl Dispatch<xdg_toplevel::XdgToplevel, Shell> for State {
    fn event(
        _: &mut Self,
        _: &xdg_toplevel::XdgToplevel,
        event: xdg_toplevel::Event,
        shell: &Shell,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        let mut shell = shell.lock().unwrap();
        match event {
            xdg_toplevel::Event::Configure {
                width,
                height,
                states,
            } => {
                shell.size = (width.max(0) as u32, height.max(0) as u32);
                shell.states = super::copy_capture::words(&states);
            }
            xdg_toplevel::Event::Close => shell.close = true,
            _ => {}
        }
    }
}

impl Dispatch<xdg_wm_base::XdgWmBase, ()> for State {
    fn event(
        _: &mut Self,
        wm_base: &xdg_wm_base::XdgWmBase,
        event: xdg_wm_base::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let xdg_wm_base::Event::Ping { serial } = event {
            wm_base.pong(serial);
        }
    }
}

wayland_client::delegate_noop!(State: ignore wl_compositor::WlCompositor);
wayland_client::delegate_noop!(State: ignore wl_subcompositor::WlSubcompositor);
wayland_client::delegate_noop!(State: ignore wl_subsurface::WlSubsurface);
wayland_client::delegate_noop!(State: ignore wl_region::WlRegion);
