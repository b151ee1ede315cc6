//! Surfaces and their roles in every order, against the whole compositor without a device.

use std::sync::{Arc, Mutex};

use vitrine::input::Abilities;
use wayland_client::protocol::{
    wl_pointer::WlPointer, wl_subcompositor::WlSubcompositor, wl_subsurface::WlSubsurface,
};
use wayland_protocols::xdg::shell::client::{
    xdg_popup::XdgPopup, xdg_positioner::XdgPositioner, xdg_surface::XdgSurface,
    xdg_toplevel::XdgToplevel, xdg_wm_base::XdgWmBase,
};

use crate::{
    clients::{picture::Picture, Client},
    hands::Hands,
    seat::{click, has, lift, point, slide, tap, touch, ALL, KEY_A},
    session_lock::Session,
    window::{self, Shell, Surface, Window, FULLSCREEN},
};

#[test]
fn a_subsurface_is_not_its_own_sibling() {
    let session = Session::start("");
    for above in [true, false] {
        let mut client = session.client();
        let window = Window::new(&client);
        let _first = window::child(&client, &window.surface.proxy, (0, 0));
        // The topmost, so that above it nothing is.
        let last = window::child(&client, &window.surface.proxy, (0, 0));
        match above {
            true => last.role.place_above(&last.surface.proxy),
            false => last.role.place_below(&last.surface.proxy),
        }
        let (blamed, code) = client.expect_protocol_error().unwrap();
        assert_eq!((blamed.as_str(), code), ("wl_subsurface", 0));
    }
    session.client().roundtrip().unwrap();
}

#[test]
fn a_window_that_gets_a_parent_later_is_a_dialog_from_then_on() {
    let session = Session::start("");
    let mut client = session.client();
    let mut show = || {
        let mut window = Window::new(&client);
        let (width, height) = window.configure(&mut client);
        let picture = Picture::filled(width, height, 0x22_3344);
        window.surface.attach(&mut client, &picture);
        window.surface.proxy.commit();
        client.roundtrip().unwrap();
        window
    };
    let (parent, window) = (show(), show());
    assert_eq!(window.record().size, (320, 200));
    window.toplevel.set_parent(Some(&parent.toplevel));
    client.roundtrip().unwrap();
    client.roundtrip().unwrap();
    assert_eq!(window.record().size, (0, 0), "it may choose");
    assert!(!window.record().states.contains(&FULLSCREEN));
    window.toplevel.set_parent(None);
    client.roundtrip().unwrap();
    client.roundtrip().unwrap();
    assert_eq!(window.record().size, (320, 200));
    assert!(window.record().states.contains(&FULLSCREEN));
}

/// Numbers that look random and are the same each time (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % sides.max(1)
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.roll(from.len()))
    }
}

/// A client that does what it likes.
struct Chaos {
    client: Client,
    hands: Hands,
    pointer: WlPointer,
    serial: Arc<Mutex<u32>>,
    shell: XdgWmBase,
    positioner: XdgPositioner,
    surfaces: Vec<Surface>,
    roles: Vec<(XdgSurface, Shell)>,
    toplevels: Vec<XdgToplevel>,
    popups: Vec<XdgPopup>,
    children: Vec<WlSubsurface>,
}

impl Chaos {
    fn new(session: &Session) -> Self {
        let mut client = session.client();
        let hands = Hands::new(&mut client);
        hands.take_all(&mut client);
        let serial = Arc::<Mutex<u32>>::default();
        let pointer = hands.seat.get_pointer(&client.qh, Arc::clone(&serial));
        let shell: XdgWmBase = client.bind(5, ()).unwrap();
        let positioner = shell.create_positioner(&client.qh, ());
        positioner.set_size(20, 20);
        positioner.set_anchor_rect(0, 0, 10, 10);
        Self {
            client,
            hands,
            pointer,
            serial,
            shell,
            positioner,
            surfaces: Vec::new(),
            roles: Vec::new(),
            toplevels: Vec::new(),
            popups: Vec::new(),
            children: Vec::new(),
        }
    }

    /// Does one thing; `None` where there is nothing to do it with.
    fn act(&mut self, dice: &mut Dice) -> Option<()> {
        let qh = self.client.qh.clone();
        match dice.roll(12) {
            0 => self.make(dice)?,
            1 => {
                let (xdg, shell) = dice.pick(&self.roles)?;
                xdg.ack_configure(shell.lock().unwrap().pending.take()?);
            }
            2 | 3 => self.show(dice)?,
            4 => {
                let surface = &dice.pick(&self.surfaces)?.proxy;
                if dice.roll(6) == 0 {
                    surface.attach(None, 0, 0);
                }
                surface.commit();
            }
            5 => self.wish(dice)?,
            6 => self.unmake(dice)?,
            7 => {
                let popup = dice.pick(&self.popups)?;
                if dice.roll(10) == 0 {
                    popup.grab(&self.hands.seat, *self.serial.lock().unwrap());
                }
            }
            8 => {
                let token = dice.roll(100) as u32;
                dice.pick(&self.popups)?.reposition(&self.positioner, token);
            }
            9 => {
                let child = dice.pick(&self.children)?;
                let sibling = &dice.pick(&self.surfaces)?.proxy;
                match dice.roll(20) {
                    0 => child.place_above(sibling),
                    1 => child.place_below(sibling),
                    2..=8 => child.set_desync(),
                    9..=12 => child.set_sync(),
                    _ => child.set_position(dice.roll(50) as i32, -20),
                }
            }
            10 => self.make(dice)?,
            _ => {
                let surface = &dice.pick(&self.surfaces)?.proxy;
                surface.frame(&qh, Arc::default());
                surface.set_buffer_scale(1 + dice.roll(2) as i32);
            }
        }
        Some(())
    }

    /// All that was configured is acknowledged before, and what was not is committed without a picture: else it is an error.
    fn show(&mut self, dice: &mut Dice) -> Option<()> {
        for (xdg, shell) in &self.roles {
            if let Some(serial) = shell.lock().unwrap().pending.take() {
                xdg.ack_configure(serial);
            }
        }
        let surface = dice.roll(self.surfaces.len());
        let surface = self.surfaces.get_mut(surface)?;
        let has_role = |(_, shell): &(XdgSurface, Shell)| Arc::ptr_eq(shell, &surface.shell);
        let early = surface.shell.lock().unwrap().configures == 0;
        if !(early && self.roles.iter().any(has_role)) || dice.roll(100) == 0 {
            let size = 1 + dice.roll(400) as u32;
            surface.attach(&mut self.client, &Picture::filled(size, size, 0x44_5566));
        }
        surface.proxy.commit();
        Some(())
    }

    /// New surfaces have one role, with few exceptions: more of them is an error.
    fn make(&mut self, dice: &mut Dice) -> Option<()> {
        let qh = self.client.qh.clone();
        let surface = window::surface(&self.client);
        match dice.roll(8) {
            0 | 1 => {
                let (xdg, shell) = self.role(&surface);
                self.toplevels
                    .push(xdg.get_toplevel(&qh, Arc::clone(&shell)));
                self.roles.push((xdg, shell));
            }
            2..=4 => {
                let (xdg, shell) = self.role(&surface);
                let (parent, _) = dice.pick(&self.roles)?;
                let parent = if dice.roll(20) == 0 { &xdg } else { parent };
                let popup = xdg.get_popup(Some(parent), &self.positioner, &qh, Arc::default());
                if dice.roll(2) == 0 {
                    popup.grab(&self.hands.seat, *self.serial.lock().unwrap());
                }
                self.popups.push(popup);
                self.roles.push((xdg, shell));
            }
            5 | 6 => {
                let subcompositor: WlSubcompositor = self.client.bind(1, ()).unwrap();
                let parent = &dice.pick(&self.surfaces)?.proxy;
                let child = subcompositor.get_subsurface(&surface.proxy, parent, &qh, ());
                self.children.push(child);
            }
            _ => {
                let (xdg, shell) = dice.pick(&self.roles)?;
                match dice.roll(8) {
                    0 => {
                        let (parent, _) = dice.pick(&self.roles)?;
                        let of = Some(parent);
                        let popup = xdg.get_popup(of, &self.positioner, &qh, Arc::default());
                        self.popups.push(popup);
                    }
                    1 => self
                        .toplevels
                        .push(xdg.get_toplevel(&qh, Arc::clone(shell))),
                    _ => {
                        let serial = *self.serial.lock().unwrap();
                        self.pointer.set_cursor(serial, Some(&surface.proxy), 3, 3);
                    }
                }
            }
        }
        self.surfaces.push(surface);
        Some(())
    }

    fn role(&self, surface: &Surface) -> (XdgSurface, Shell) {
        let (shell, qh) = (Arc::clone(&surface.shell), &self.client.qh);
        let xdg = self
            .shell
            .get_xdg_surface(&surface.proxy, qh, Arc::clone(&shell));
        (xdg, shell)
    }

    /// What is out of order is over soon: that is rare.
    fn unmake(&mut self, dice: &mut Dice) -> Option<()> {
        // Serials of roles that go are nothing to acknowledge any more.
        self.client.roundtrip().ok()?;
        for (_, shell) in &self.roles {
            shell.lock().unwrap().pending = None;
        }
        match dice.roll(8) {
            0..=2 => {
                let popup = dice.roll(self.popups.len());
                (popup < self.popups.len()).then(|| self.popups.swap_remove(popup).destroy())?;
            }
            3 | 4 => {
                let top = dice.roll(self.toplevels.len());
                (top < self.toplevels.len()).then(|| self.toplevels.swap_remove(top).destroy())?;
            }
            5 => {
                let child = dice.roll(self.children.len());
                (child < self.children.len())
                    .then(|| self.children.swap_remove(child).destroy())?;
            }
            6 => {
                let role = dice.roll(self.roles.len() * 4);
                (role < self.roles.len()).then(|| self.roles.swap_remove(role).0.destroy())?;
            }
            _ => {
                let surface = dice.roll(self.surfaces.len() * 2);
                (surface < self.surfaces.len())
                    .then(|| self.surfaces.swap_remove(surface).proxy.destroy())?;
            }
        }
        Some(())
    }

    fn wish(&mut self, dice: &mut Dice) -> Option<()> {
        let toplevel = dice.pick(&self.toplevels)?;
        let size = dice.roll(100) as i32;
        match dice.roll(8) {
            0 => toplevel.set_fullscreen(None),
            1 => toplevel.unset_fullscreen(),
            2 => toplevel.set_maximized(),
            3 => toplevel.set_min_size(size, size),
            4 => toplevel.set_max_size(size, size),
            // An older one: circles are an error.
            5 => {
                let parent = dice.roll(self.toplevels.len());
                let child = self.toplevels.get(parent + 1 + dice.roll(3))?;
                child.set_parent(self.toplevels.get(parent));
            }
            6 => toplevel.set_title("x".repeat(dice.roll(300))),
            _ => {
                let (xdg, _) = dice.pick(&self.roles)?;
                xdg.set_window_geometry(-size, 0, 1 + size, 50);
            }
        }
        Some(())
    }

    /// A window as it should be, with a popup, as something to begin with.
    fn begin(&mut self) -> Option<()> {
        let qh = self.client.qh.clone();
        let mut window = Window::new(&self.client);
        window.surface.proxy.commit();
        self.client.roundtrip().ok()?;
        let serial = window.surface.shell.lock().unwrap().pending.take()?;
        window.xdg.ack_configure(serial);
        window
            .surface
            .attach(&mut self.client, &Picture::filled(320, 200, 0x11_2233));
        window.surface.proxy.commit();
        self.client.roundtrip().ok()?;
        let surface = window::surface(&self.client);
        let shell = Arc::clone(&surface.shell);
        let xdg = self
            .shell
            .get_xdg_surface(&surface.proxy, &qh, Arc::clone(&shell));
        let popup = xdg.get_popup(Some(&window.xdg), &self.positioner, &qh, Arc::default());
        self.roles
            .push((window.xdg, Arc::clone(&window.surface.shell)));
        self.roles.push((xdg, shell));
        self.toplevels.push(window.toplevel);
        self.popups.push(popup);
        self.surfaces.extend([window.surface, surface]);
        Some(())
    }
}

/// Hands do what they like, too.
fn fumble(session: &Session, dice: &mut Dice) {
    match dice.roll(6) {
        0 | 1 => point(session, dice.roll(640) as f64, dice.roll(200) as f64),
        2 => click(session),
        3 => tap(session, KEY_A),
        4 => {
            touch(session, dice.roll(320) as f64, dice.roll(200) as f64);
            slide(session, dice.roll(320) as f64, dice.roll(200) as f64);
            lift(session);
        }
        _ => {
            let can = dice.roll(8);
            let abilities = Abilities {
                keyboard: can & 1 == 0,
                pointer: can & 2 == 0,
                touch: can & 4 == 0,
            };
            has(session, abilities);
        }
    }
}

/// Most clients are disconnected after some steps; whoever comes next must find the compositor as it was.
#[test]
fn whatever_clients_do_with_their_surfaces_the_compositor_goes_on() {
    let session = Session::start("");
    for seed in 1..=150 {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        has(&session, ALL);
        let mut chaos = Chaos::new(&session);
        if dice.roll(4) > 0 {
            chaos.begin();
        }
        for _ in 0..200 {
            chaos.act(&mut dice);
            if dice.roll(4) == 0 {
                fumble(&session, &mut dice);
            }
            if dice.roll(3) == 0 && chaos.client.roundtrip().is_err() {
                break;
            }
        }
        drop(chaos);
        let mut bystander = session.client();
        bystander
            .roundtrip()
            .unwrap_or_else(|error| panic!("after seed {seed}: {error}"));
    }
}
