//! Kiosk policy over Smithay's desktop helpers: which window is on which screen, how large, and who has the focus.
//!
//! The rules are cage's: a main window fills its screen, a dialog (a window with a parent) is centred above it, the
//! newest window has the focus. Must not know: devices, rendering, capture. Comes from: `compositor/`, which forwards
//! the xdg-shell requests. Goes to: `output/`, which asks what is on a screen.

mod curtain;
mod place;
mod popups;
mod scale;

use smithay::{
    desktop::{PopupKind, PopupManager, Space, Window, WindowSurfaceType},
    output::Output,
    reexports::{
        wayland_protocols::xdg::{
            decoration::zv1::server::zxdg_toplevel_decoration_v1::Mode as DecorationMode,
            shell::server::xdg_toplevel::State as ToplevelFlag,
        },
        wayland_server::protocol::wl_surface::WlSurface,
    },
    utils::{IsAlive, Logical, Point, Rectangle, SERIAL_COUNTER},
    wayland::{
        compositor::{get_parent, with_states},
        seat::WaylandFocus,
        shell::xdg::{PopupSurface, PositionerState, SurfaceCachedState, ToplevelSurface},
    },
};

pub use curtain::Curtain;
pub use place::{centred, Placement};
pub use popups::popup_root;

/// The windows, their places and their order.
#[derive(Debug, Default)]
pub struct Shell {
    /// Mapped windows and outputs in the global logical space; the last element is on top.
    pub space: Space<Window>,
    /// Popups of all windows.
    pub popups: PopupManager,
    /// Windows that have no buffer yet.
    unmapped: Vec<Window>,
    /// While the session is locked.
    curtain: Option<Curtain>,
}

/// Where a window was asked to be, kept with the window.
#[derive(Debug, Default)]
struct Wish(std::cell::RefCell<Option<Output>>);

impl Shell {
    /// Takes a new toplevel; it becomes visible with its first buffer.
    pub fn add_toplevel(&mut self, surface: ToplevelSurface) {
        self.unmapped.push(Window::new_wayland_window(surface));
    }

    /// Forgets a toplevel whose object is gone.
    pub fn remove_toplevel(&mut self, surface: &ToplevelSurface) {
        self.unmapped
            .retain(|window| window.toplevel() != Some(surface));
        if let Some(window) = self.window_of_toplevel(surface) {
            self.space.unmap_elem(&window);
        }
    }

    /// Remembers the output that a client asked to be full screen on, and moves the window there.
    pub fn wish_output(&mut self, surface: &ToplevelSurface, output: Option<Output>) {
        let Some(window) = self.window_of_toplevel(surface) else {
            return;
        };
        if let Some(output) = output {
            let wish = window.user_data().get_or_insert(Wish::default);
            *wish.0.borrow_mut() = Some(output);
        }
        if surface.is_initial_configure_sent() {
            self.configure(&window);
            self.move_to_place(&window);
            // Each request is answered by a configure, even when nothing changes (xdg-shell, set_fullscreen).
            surface.send_configure();
        }
    }

    /// A window has another parent, and may be a dialog now, or none any more.
    pub fn place_again(&mut self, surface: &ToplevelSurface) {
        let Some(window) = self.window_of_toplevel(surface) else {
            return;
        };
        if surface.is_initial_configure_sent() {
            self.configure(&window);
            surface.send_pending_configure();
            self.move_to_place(&window);
        }
    }

    /// A surface committed: configures, maps or unmaps its window. Says whether the set of visible windows changed.
    pub fn commit(&mut self, surface: &WlSurface) -> bool {
        self.popups.commit(surface);
        self.configure_popup(surface);
        let Some(root) = root_of(surface) else {
            return false;
        };
        if let Some(window) = self.mapped(&root) {
            window.on_commit();
            if root == *surface && !has_buffer(surface) {
                self.unmap(window);
                return true;
            }
            // Its size may be another one now, also that of a full-screen window which ignored what it was given.
            self.move_to_place(&window);
            return false;
        }
        if root != *surface {
            return false;
        }
        self.commit_unmapped(surface)
    }

    fn commit_unmapped(&mut self, surface: &WlSurface) -> bool {
        let Some(at) = self.unmapped.iter().position(|w| is_of(w, surface)) else {
            return false;
        };
        let Some(window) = self.unmapped.get(at).cloned() else {
            return false;
        };
        let Some(toplevel) = window.toplevel() else {
            return false;
        };
        if !toplevel.is_initial_configure_sent() {
            if has_buffer(surface) {
                // Posts the protocol's error: a buffer before the first configure.
                toplevel.ensure_configured();
                return false;
            }
            self.configure(&window);
            toplevel.send_configure();
            return false;
        }
        if !has_buffer(surface) {
            return false;
        }
        self.unmapped.remove(at);
        window.on_commit();
        self.space.map_element(window.clone(), (0, 0), true);
        self.move_to_place(&window);
        true
    }

    fn unmap(&mut self, window: Window) {
        self.space.unmap_elem(&window);
        if let Some(toplevel) = window.toplevel() {
            toplevel.reset_initial_configure_sent();
        }
        self.unmapped.push(window);
    }

    /// Places all windows anew after outputs came, went or changed.
    pub fn arrange(&mut self) {
        let windows: Vec<Window> = self.space.elements().cloned().collect();
        for window in windows.iter().chain(self.unmapped.clone().iter()) {
            let Some(toplevel) = window.toplevel() else {
                continue;
            };
            if toplevel.is_initial_configure_sent() {
                self.configure(window);
                toplevel.send_pending_configure();
            }
        }
        for window in &windows {
            self.move_to_place(window);
        }
        self.space.refresh();
    }

    /// The surface that should have the keyboard: the top window's, or the lock's.
    pub fn top_surface(&self) -> Option<WlSurface> {
        if let Some(curtain) = &self.curtain {
            return curtain.keyboard_surface();
        }
        self.space
            .elements()
            .next_back()
            .and_then(|window| window.wl_surface().map(|s| s.into_owned()))
    }

    /// Raises the window that a surface belongs to, and its dialogs above it, as an open dialog is not to be lost behind
    /// its parent. Says whether the order changed.
    pub fn raise(&mut self, surface: &WlSurface) -> bool {
        let Some(window) = root_of(surface).and_then(|root| self.mapped(&root)) else {
            return false;
        };
        let before: Vec<Window> = self.space.elements().cloned().collect();
        self.space.raise_element(&window, true);
        for other in &before {
            if self.is_above(other, &window) {
                self.space.raise_element(other, true);
            }
        }
        !self.space.elements().eq(before.iter())
    }

    /// Whether `window` is a dialog of `parent`, or a dialog of its dialogs.
    fn is_above(&self, window: &Window, parent: &Window) -> bool {
        let mut at = window.clone();
        // Never more steps than there are windows, whatever clients claim of their parents.
        for _ in 0..self.space.elements().len() {
            let above = at.toplevel().and_then(ToplevelSurface::parent);
            let Some(next) = above.and_then(|surface| self.mapped(&surface)) else {
                return false;
            };
            if next == *parent {
                return true;
            }
            at = next;
        }
        false
    }

    /// Marks the window of `surface`, which may be its menu, as the active one and tells the others that they are not.
    pub fn activate(&mut self, surface: Option<&WlSurface>) {
        let root = surface.map(|surface| self.window_below(surface));
        for window in self.space.elements() {
            let active = root.as_ref().is_some_and(|root| is_of(window, root));
            window.set_activated(active);
            // Also when that changed nothing: mapping an element activates it in the space, and nobody has told it yet.
            if let Some(toplevel) = window.toplevel() {
                toplevel.send_pending_configure();
            }
        }
    }

    /// The surface below a point of the logical space, and where its top left corner is.
    pub fn surface_under(
        &self,
        at: Point<f64, Logical>,
    ) -> Option<(WlSurface, Point<f64, Logical>)> {
        if let Some(curtain) = &self.curtain {
            return self.lock_surface_under(curtain, at);
        }
        self.space.elements().rev().find_map(|window| {
            let location = self.space.element_location(window)? - window.geometry().loc;
            let (surface, offset) =
                window.surface_under(at - location.to_f64(), WindowSurfaceType::ALL)?;
            Some((surface, (offset + location).to_f64()))
        })
    }

    /// The surface of the window that a popup belongs to; `surface` itself if it is none.
    fn window_below(&self, surface: &WlSurface) -> WlSurface {
        let root = match self.popups.find_popup(surface) {
            Some(PopupKind::Xdg(popup)) => popup_root(&popup),
            Some(PopupKind::InputMethod(_)) | None => None,
        };
        root.unwrap_or_else(|| surface.clone())
    }

    /// Takes a new popup; a popup whose parent is gone is dismissed by Smithay.
    pub fn add_popup(&mut self, popup: PopupSurface, positioner: PositionerState) {
        if popup.get_parent_surface().is_some() && popup_root(&popup).is_none() {
            tracing::debug!(target: "vitrine::shell", "a popup that belongs to no window is dismissed");
            return popup.send_popup_done();
        }
        self.place_popup(&popup, positioner);
        if let Err(error) = self.popups.track_popup(PopupKind::Xdg(popup)) {
            tracing::debug!(target: "vitrine::shell", %error, "popup refused");
        }
    }

    /// Gives a popup a new place inside its screen.
    pub fn place_popup(&self, popup: &PopupSurface, positioner: PositionerState) {
        let positioner = bounded(positioner);
        let geometry = self.popup_bounds(popup).map_or_else(
            || positioner.get_geometry(),
            |t| positioner.get_unconstrained_geometry(t),
        );
        popup.with_pending_state(|state| {
            state.geometry = geometry;
            state.positioner = positioner;
        });
    }

    /// The screen's rectangle in the coordinates of the popup's parent.
    fn popup_bounds(&self, popup: &PopupSurface) -> Option<Rectangle<i32, Logical>> {
        let kind = PopupKind::Xdg(popup.clone());
        let root = popup_root(popup)?;
        let window = self.mapped(&root)?;
        let output = self.output_of(&window)?;
        let mut bounds = self.space.output_geometry(&output)?;
        bounds.loc -= self.space.element_location(&window)?;
        bounds.loc -= smithay::desktop::get_popup_toplevel_coords(&kind);
        Some(bounds)
    }

    fn configure_popup(&self, surface: &WlSurface) {
        if let Some(PopupKind::Xdg(popup)) = self.popups.find_popup(surface) {
            if !popup.is_initial_configure_sent() {
                if let Err(error) = popup.send_configure() {
                    tracing::debug!(target: "vitrine::shell", %error, "popup not configured");
                }
            }
        }
    }

    /// The output that shows a window, or will: the one that was asked for, else its parent's, else the first.
    pub fn output_of(&self, window: &Window) -> Option<Output> {
        let mut at = window.clone();
        // Never more steps than there are windows, whatever clients claim of their parents.
        for _ in 0..=self.space.elements().len() {
            let wish = at.user_data().get::<Wish>();
            let wish = wish.and_then(|wish| wish.0.borrow().clone());
            if let Some(output) = wish.filter(|wish| self.space.outputs().any(|o| o == wish)) {
                return Some(output);
            }
            let parent = at.toplevel().and_then(ToplevelSurface::parent);
            let Some(parent) = parent.and_then(|parent| self.mapped(&parent)) else {
                break;
            };
            at = parent;
        }
        self.space.outputs().next().cloned()
    }

    fn configure(&self, window: &Window) {
        let Some(toplevel) = window.toplevel() else {
            return;
        };
        let output = self.output_of(window);
        let area = output
            .as_ref()
            .and_then(|output| self.space.output_geometry(output));
        let full = placement(window) == Placement::Full;
        // Before its first picture, so that this is one of the right scale.
        scale::tell_window(window, output.as_slice());
        toplevel.with_pending_state(|state| {
            state.decoration_mode = Some(DecorationMode::ServerSide);
            state.bounds = area.map(|area| area.size);
            state.size = area.filter(|_| full).map(|area| area.size);
            if full && area.is_some() {
                state.states.set(ToplevelFlag::Fullscreen);
            } else {
                state.states.unset(ToplevelFlag::Fullscreen);
            }
        });
    }

    fn move_to_place(&mut self, window: &Window) {
        let area = self
            .output_of(window)
            .and_then(|output| self.space.output_geometry(&output));
        let Some(area) = area else { return };
        let target = match placement(window) {
            // A client that ignores the size it was given is shown in the middle, as xdg-shell asks for.
            Placement::Full | Placement::Centred => centred(area, window.geometry().size),
        };
        if self.space.element_location(window) != Some(target) {
            self.relocate(window, target);
        }
    }

    /// Moves a window without changing the order: `Space::map_element` alone would raise it.
    fn relocate(&mut self, window: &Window, target: Point<i32, Logical>) {
        let order: Vec<_> = self
            .space
            .elements()
            .map(|other| {
                (
                    other.clone(),
                    self.space.element_location(other).unwrap_or_default(),
                )
            })
            .collect();
        for (other, location) in order {
            let location = if other == *window { target } else { location };
            self.space.map_element(other, location, false);
        }
    }

    fn mapped(&self, root: &WlSurface) -> Option<Window> {
        self.space
            .elements()
            .find(|window| is_of(window, root))
            .cloned()
    }

    /// Whether this is the surface of a window that is shown.
    pub fn shows(&self, root: &WlSurface) -> bool {
        self.mapped(root).is_some()
    }

    fn window_of_toplevel(&self, surface: &ToplevelSurface) -> Option<Window> {
        let mut all = self.space.elements().chain(self.unmapped.iter());
        all.find(|window| window.toplevel() == Some(surface))
            .cloned()
    }

    /// Housekeeping once per loop turn: dead windows and popups go, output enter/leave and scales are sent.
    pub fn refresh(&mut self) {
        self.space.refresh();
        self.popups.cleanup();
        self.tell_scales();
        self.unmapped.retain(|window| window.alive());
    }
}

/// The positioner with numbers that can be added: Smithay does it without a care for overflow, and clients send any.
fn bounded(mut positioner: PositionerState) -> PositionerState {
    const FAR: i32 = 1 << 20;
    let near = |number: &mut i32| *number = (*number).clamp(-FAR, FAR);
    near(&mut positioner.offset.x);
    near(&mut positioner.offset.y);
    near(&mut positioner.anchor_rect.loc.x);
    near(&mut positioner.anchor_rect.loc.y);
    near(&mut positioner.anchor_rect.size.w);
    near(&mut positioner.anchor_rect.size.h);
    near(&mut positioner.rect_size.w);
    near(&mut positioner.rect_size.h);
    positioner
}

fn is_of(window: &Window, surface: &WlSurface) -> bool {
    window.wl_surface().is_some_and(|own| *own == *surface)
}

/// The root of a surface's subsurface tree.
fn root_of(surface: &WlSurface) -> Option<WlSurface> {
    let mut root = surface.clone();
    while let Some(parent) = get_parent(&root) {
        root = parent;
    }
    Some(root)
}

fn has_buffer(surface: &WlSurface) -> bool {
    smithay::backend::renderer::utils::with_renderer_surface_state(surface, |state| {
        state.buffer().is_some()
    })
    .unwrap_or(false)
}

fn placement(window: &Window) -> Placement {
    let Some(toplevel) = window.toplevel() else {
        return Placement::Full;
    };
    let (min, max) = with_states(toplevel.wl_surface(), |states| {
        let mut cached = states.cached_state.get::<SurfaceCachedState>();
        (cached.current().min_size, cached.current().max_size)
    });
    Placement::of(toplevel.parent().is_some(), min, max)
}

/// The next serial of the whole compositor.
pub fn next_serial() -> smithay::utils::Serial {
    SERIAL_COUNTER.next_serial()
}
