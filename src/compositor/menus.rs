//! Menus: popups that have keyboard and pointer until they are dismissed (xdg_popup.grab).
//!
//! Smithay notices that a menu has gone only when something is pressed or moved, and then gives the keyboard to the menu's
//! window, whatever is on top by then; it knows nothing of fingers; and it sees a seat's menus as one stack, so that whoever
//! opens one while another client's is still there is blamed for that. So it is looked after here.

use smithay::{
    desktop::{
        PopupGrab, PopupKeyboardGrab, PopupKind, PopupManager, PopupPointerGrab,
        PopupUngrabStrategy,
    },
    input::{pointer::Focus, Seat},
    reexports::wayland_server::{protocol::wl_surface::WlSurface, Resource},
    utils::Serial,
};

use super::Vitrine;
use crate::shell::next_serial;

/// Menus of one window, each opened from the one before.
#[derive(Debug)]
pub(super) struct Menu {
    grab: PopupGrab<Vitrine>,
    /// The window's surface.
    root: WlSurface,
}

impl Vitrine {
    /// xdg_popup.grab: the popup gets keyboard and pointer until it is dismissed.
    pub(super) fn grab_popup(
        &mut self,
        popup: PopupKind,
        root: WlSurface,
        seat: &Seat<Self>,
        serial: Serial,
    ) {
        if !self.may_open_menus(&root) {
            tracing::debug!(target: "vitrine::shell", "a menu of who has no input is dismissed");
            let _ = PopupManager::dismiss_popup(&root, &popup);
            return;
        }
        self.close_menus_beside(Some(&root));
        let popups = &mut self.shell.popups;
        let mut grab = match popups.grab_popup(root.clone(), popup, seat, serial) {
            Ok(grab) => grab,
            Err(error) => {
                tracing::debug!(target: "vitrine::shell", %error, "popup grab refused");
                return;
            }
        };
        if is_taken(seat, &grab) {
            // With the menus that it was opened from.
            grab.ungrab(PopupUngrabStrategy::All);
            return self.close_menus();
        }
        if let Some(keyboard) = seat.get_keyboard() {
            keyboard.set_focus(self, grab.current_grab(), serial);
            keyboard.set_grab(self, PopupKeyboardGrab::new(&grab), serial);
        }
        if let Some(pointer) = seat.get_pointer() {
            pointer.set_grab(self, PopupPointerGrab::new(&grab), serial, Focus::Keep);
        }
        self.menu = Some(Menu { grab, root });
    }

    /// A client that nobody works with cannot take the keyboard from the others; nor can anybody while the session is locked.
    fn may_open_menus(&self, root: &WlSurface) -> bool {
        let same = |surface: &WlSurface| surface.id().same_client_as(&root.id());
        let keyboard = self.seat.get_keyboard();
        let pointer = self.seat.get_pointer();
        let keys = keyboard.and_then(|keyboard| keyboard.current_focus());
        let pointed = pointer.and_then(|pointer| pointer.current_focus());
        let works = keys.as_ref().is_none_or(same) || pointed.as_ref().is_some_and(same);
        works && self.shell.curtain().is_none()
    }

    /// Closes the menus that are open; their clients are told.
    pub(super) fn close_menus(&mut self) {
        if let Some(mut menu) = self.menu.take() {
            menu.grab.ungrab(PopupUngrabStrategy::All);
            self.release(&menu.grab);
        }
    }

    /// Closes the menus that are open if they are of another client than `surface`, or if there is none.
    pub(super) fn close_menus_beside(&mut self, surface: Option<&WlSurface>) {
        let of_it = |menu: &Menu| surface.is_some_and(|s| s.id().same_client_as(&menu.root.id()));
        if self.menu.as_ref().is_some_and(|menu| !of_it(menu)) {
            self.close_menus();
        }
    }

    /// Takes keyboard and pointer from menus that their clients have closed, or whose window is not shown any more.
    pub(super) fn forget_closed_menus(&mut self) {
        let Some(menu) = &self.menu else { return };
        if menu.grab.has_ended() || !self.shell.shows(&menu.root) {
            self.close_menus();
        }
    }

    fn release(&mut self, grab: &PopupGrab<Self>) {
        if let Some(keyboard) = self.seat.get_keyboard() {
            // Nothing else grabs it.
            keyboard.unset_grab(self);
        }
        if let Some(pointer) = self.seat.get_pointer() {
            if pointer.has_grab(grab.serial()) {
                pointer.unset_grab(self, next_serial(), crate::input::now());
            }
        }
    }
}

/// Whether something else than the menus that this one was opened from has keyboard or pointer: a button that is held, a drag.
fn is_taken(seat: &Seat<Vitrine>, grab: &PopupGrab<Vitrine>) -> bool {
    let serials = [Some(grab.serial()), grab.previous_serial()];
    let mut ours = serials.into_iter().flatten();
    let keyboard = seat.get_keyboard().is_some_and(|keyboard| {
        keyboard.is_grabbed() && !ours.clone().any(|serial| keyboard.has_grab(serial))
    });
    let pointer = seat.get_pointer().is_some_and(|pointer| {
        pointer.is_grabbed() && !ours.any(|serial| pointer.has_grab(serial))
    });
    keyboard || pointer
}
