//! The seat: focus, popup grabs, and what the pointer looks like.

use smithay::{
    desktop::{PopupGrab, PopupKeyboardGrab, PopupKind, PopupPointerGrab, PopupUngrabStrategy},
    input::{
        keyboard::LedState,
        pointer::{CursorImageStatus, Focus},
        Seat, SeatHandler, SeatState,
    },
    reexports::wayland_server::{
        backend::ClientId,
        delegate_dispatch, delegate_global_dispatch,
        protocol::{
            wl_keyboard::WlKeyboard,
            wl_pointer::WlPointer,
            wl_seat::{self, WlSeat},
            wl_surface::WlSurface,
            wl_touch::WlTouch,
        },
        Client, DataInit, Dispatch, DisplayHandle, Resource,
    },
    utils::{IsAlive, Serial},
    wayland::{
        seat::{KeyboardUserData, PointerUserData, SeatGlobalData, SeatUserData, TouchUserData},
        selection::{data_device::set_data_device_focus, primary_selection::set_primary_focus},
    },
};

use super::Vitrine;
use crate::shell::next_serial;

impl SeatHandler for Vitrine {
    type KeyboardFocus = WlSurface;
    type PointerFocus = WlSurface;
    type TouchFocus = WlSurface;

    fn seat_state(&mut self) -> &mut SeatState<Self> {
        &mut self.seat_state
    }

    fn focus_changed(&mut self, seat: &Seat<Self>, focused: Option<&WlSurface>) {
        let client = focused.and_then(|surface| self.display.get_client(surface.id()).ok());
        set_data_device_focus(&self.display, seat, client.clone());
        set_primary_focus(&self.display, seat, client);
        self.shell.activate(focused);
    }

    fn led_state_changed(&mut self, _seat: &Seat<Self>, leds: LedState) {
        self.input.devices().show_leds(leds);
    }

    fn cursor_image(&mut self, _seat: &Seat<Self>, image: CursorImageStatus) {
        self.cursor = image;
        self.cursor_changed();
    }
}

impl Vitrine {
    /// Gives the keyboard to the top window.
    pub(super) fn focus_top(&mut self) {
        let top = self.shell.top_surface();
        self.focus(top);
    }

    /// Gives the keyboard to this surface.
    pub(super) fn focus(&mut self, surface: Option<WlSurface>) {
        if let Some(keyboard) = self.seat.get_keyboard() {
            if keyboard.current_focus() != surface {
                keyboard.set_focus(self, surface, next_serial());
            }
        } else {
            // Without a keyboard the window is active all the same: clients dim or pause inactive windows.
            self.shell.activate(surface.as_ref());
        }
    }

    /// After a turn of the loop: a focus that died goes to the window that is now on top, a dead cursor to the arrow.
    pub(super) fn update_focus(&mut self) {
        let keyboard_lost = self.seat.get_keyboard().is_some_and(|keyboard| {
            !keyboard.is_grabbed() && keyboard.current_focus().is_none_or(|focus| !focus.alive())
        });
        if keyboard_lost && self.shell.top_surface().is_some() {
            self.focus_top();
        }
        if let CursorImageStatus::Surface(surface) = &self.cursor {
            if !surface.alive() {
                self.cursor = CursorImageStatus::default_named();
                self.cursor_changed();
            }
        }
    }

    /// xdg_popup.grab: the popup gets keyboard and pointer until it is dismissed.
    pub(super) fn grab_popup(
        &mut self,
        popup: PopupKind,
        root: WlSurface,
        seat: &Seat<Self>,
        serial: Serial,
    ) {
        if self.shell.curtain().is_some() {
            // Nobody but the lock's surfaces gets input.
            return;
        }
        let mut grab = match self.shell.popups.grab_popup(root, popup, seat, serial) {
            Ok(grab) => grab,
            Err(error) => {
                tracing::debug!(target: "vitrine::shell", %error, "popup grab refused");
                return;
            }
        };
        if !self.grab_keyboard(seat, &mut grab, serial) {
            return;
        }
        if let Some(pointer) = seat.get_pointer() {
            if pointer.is_grabbed()
                && !(pointer.has_grab(serial)
                    || pointer.has_grab(grab.previous_serial().unwrap_or(serial)))
            {
                grab.ungrab(PopupUngrabStrategy::All);
                return;
            }
            pointer.set_grab(self, PopupPointerGrab::new(&grab), serial, Focus::Keep);
        }
    }

    fn grab_keyboard(
        &mut self,
        seat: &Seat<Self>,
        grab: &mut PopupGrab<Self>,
        serial: Serial,
    ) -> bool {
        let Some(keyboard) = seat.get_keyboard() else {
            return true;
        };
        if keyboard.is_grabbed()
            && !(keyboard.has_grab(serial)
                || keyboard.has_grab(grab.previous_serial().unwrap_or(serial)))
        {
            grab.ungrab(PopupUngrabStrategy::All);
            return false;
        }
        keyboard.set_focus(self, grab.current_grab(), serial);
        keyboard.set_grab(self, PopupKeyboardGrab::new(grab), serial);
        true
    }
}

delegate_global_dispatch!(Vitrine: [WlSeat: SeatGlobalData<Vitrine>] => SeatState<Vitrine>);
delegate_dispatch!(Vitrine: [WlPointer: PointerUserData<Vitrine>] => SeatState<Vitrine>);
delegate_dispatch!(Vitrine: [WlKeyboard: KeyboardUserData<Vitrine>] => SeatState<Vitrine>);
delegate_dispatch!(Vitrine: [WlTouch: TouchUserData<Vitrine>] => SeatState<Vitrine>);

/// As Smithay's, but a pointer object that is made while the pointer is over its client's surface hears of that.
impl Dispatch<WlSeat, SeatUserData<Vitrine>> for Vitrine {
    fn request(
        state: &mut Self,
        client: &Client,
        seat: &WlSeat,
        request: wl_seat::Request,
        data: &SeatUserData<Vitrine>,
        display: &DisplayHandle,
        data_init: &mut DataInit<'_, Self>,
    ) {
        let pointer = matches!(request, wl_seat::Request::GetPointer { .. });
        <SeatState<Vitrine> as Dispatch<WlSeat, SeatUserData<Vitrine>, Vitrine>>::request(
            state, client, seat, request, data, display, data_init,
        );
        if pointer {
            // Not now: the new object has its data only when this request is done.
            let client = client.clone();
            state
                .event_loop
                .insert_idle(move |state| crate::input::pointer_object_added(state, &client));
        }
    }

    fn destroyed(state: &mut Self, client: ClientId, seat: &WlSeat, data: &SeatUserData<Vitrine>) {
        <SeatState<Vitrine> as Dispatch<WlSeat, SeatUserData<Vitrine>, Vitrine>>::destroyed(
            state, client, seat, data,
        );
    }
}
