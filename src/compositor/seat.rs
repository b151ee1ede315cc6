//! The seat: focus, and what the pointer looks like.

use smithay::{
    input::{
        keyboard::LedState,
        pointer::{CursorImageStatus, PointerHandle},
        Seat, SeatHandler, SeatState,
    },
    reexports::{
        wayland_protocols::wp::cursor_shape::v1::server::{
            wp_cursor_shape_device_v1::{self, WpCursorShapeDeviceV1},
            wp_cursor_shape_manager_v1::{self, WpCursorShapeManagerV1},
        },
        wayland_server::{
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
    },
    utils::IsAlive,
    wayland::{
        cursor_shape::{CursorShapeDeviceUserData, CursorShapeManagerState},
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

    /// After a turn of the loop: the window on top has the keyboard, unless a menu has it; a dead cursor becomes the arrow.
    pub(super) fn update_focus(&mut self) {
        self.forget_closed_menus();
        let keyboard = self.seat.get_keyboard();
        if keyboard.is_some_and(|keyboard| !keyboard.is_grabbed()) {
            self.focus_top();
        }
        if let CursorImageStatus::Surface(surface) = &self.cursor {
            if !surface.alive() {
                self.cursor = CursorImageStatus::default_named();
                self.cursor_changed();
            } else if let Some(pointer) = self.seat.get_pointer() {
                let at = pointer.current_location();
                self.shell.cursor_surface_at(surface, at);
            }
        }
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

/// The cursor shape of a pointer object that has no pointer: it does nothing.
#[derive(Debug)]
struct NoPointer;

impl Dispatch<WpCursorShapeDeviceV1, NoPointer> for Vitrine {
    fn request(
        _: &mut Self,
        _: &Client,
        _: &WpCursorShapeDeviceV1,
        _: wp_cursor_shape_device_v1::Request,
        _: &NoPointer,
        _: &DisplayHandle,
        _: &mut DataInit<'_, Self>,
    ) {
    }
}

/// As Smithay's; but Smithay 0.7.0 makes no object for a wl_pointer of before its device was plugged in, or of after it was
/// unplugged, which a client may well have, and wayland-server panics then.
impl Dispatch<WpCursorShapeManagerV1, ()> for Vitrine {
    fn request(
        state: &mut Self,
        client: &Client,
        manager: &WpCursorShapeManagerV1,
        request: wp_cursor_shape_manager_v1::Request,
        data: &(),
        display: &DisplayHandle,
        data_init: &mut DataInit<'_, Self>,
    ) {
        use wp_cursor_shape_manager_v1::Request::GetPointer;
        match request {
            GetPointer {
                cursor_shape_device,
                pointer,
            } if PointerHandle::from_resource(&pointer)
                .is_none_or(|of| state.seat.get_pointer() != Some(of)) =>
            {
                data_init.init(cursor_shape_device, NoPointer);
            }
            request => {
                <CursorShapeManagerState as Dispatch<_, _, Vitrine>>::request(
                    state, client, manager, request, data, display, data_init,
                );
            }
        }
    }
}

delegate_global_dispatch!(Vitrine: [WpCursorShapeManagerV1: ()] => CursorShapeManagerState);
delegate_dispatch!(Vitrine: [WpCursorShapeDeviceV1: CursorShapeDeviceUserData<Vitrine>] => CursorShapeManagerState);
