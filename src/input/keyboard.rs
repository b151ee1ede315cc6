//! Keys: a few belong to the compositor, the rest goes to the focus.

use std::collections::HashSet;

use smithay::{
    backend::input::{InputBackend, KeyState, KeyboardKeyEvent},
    input::keyboard::{
        keysyms, FilterResult, Keycode, Keysym, KeysymHandle, ModifiersState, XkbConfig,
    },
    utils::SERIAL_COUNTER,
};

use super::{wire_time, InputHost};
use crate::config::{InputSection, KeyboardSection};

/// What a key combination means to the compositor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortcut {
    /// Switch to this virtual terminal.
    ChangeVt(i32),
    /// End the compositor.
    Terminate,
}

impl Shortcut {
    /// The meaning of a key. `modified` is its symbol with all modifiers applied, `plain` without any: keymaps differ
    /// in whether Ctrl+Alt+F1 has a symbol of its own.
    pub fn find(
        modifiers: &ModifiersState,
        modified: Keysym,
        plain: Option<Keysym>,
        settings: &InputSection,
    ) -> Option<Self> {
        let both = modifiers.ctrl && modifiers.alt;
        let numbered = |symbol: u32, first: u32| {
            symbol
                .checked_sub(first)
                .filter(|n| *n < 12)
                .and_then(|n| i32::try_from(n + 1).ok())
        };
        let vt = numbered(modified.raw(), keysyms::KEY_XF86Switch_VT_1).or_else(|| {
            plain
                .filter(|_| both)
                .and_then(|plain| numbered(plain.raw(), keysyms::KEY_F1))
        });
        if let Some(vt) = vt.filter(|_| settings.vt_switch) {
            return Some(Self::ChangeVt(vt));
        }
        let end = modified.raw() == keysyms::KEY_Terminate_Server
            || (both && plain.is_some_and(|plain| plain.raw() == keysyms::KEY_BackSpace));
        (end && settings.terminate_key).then_some(Self::Terminate)
    }
}

/// Keys that are down and belong to the compositor: their release must not reach a client that never saw the press.
#[derive(Debug, Default)]
pub(super) struct Keys {
    kept: HashSet<Keycode>,
}

impl Keys {
    /// Whether the compositor keeps this press or release, and what it means.
    pub(super) fn filter(
        &mut self,
        code: Keycode,
        state: KeyState,
        shortcut: impl FnOnce() -> Option<Shortcut>,
    ) -> FilterResult<Option<Shortcut>> {
        match state {
            KeyState::Pressed => match shortcut() {
                Some(shortcut) => {
                    self.kept.insert(code);
                    FilterResult::Intercept(Some(shortcut))
                }
                None => {
                    self.kept.remove(&code);
                    FilterResult::Forward
                }
            },
            KeyState::Released if self.kept.remove(&code) => FilterResult::Intercept(None),
            KeyState::Released => FilterResult::Forward,
        }
    }
}

/// The same key can be held on two keyboards. Clients know one keyboard: they see the first press and the last release.
/// `count` is the number of devices that hold the key after the event.
pub(super) fn is_first_or_last(state: KeyState, count: u32) -> bool {
    match state {
        KeyState::Pressed => count <= 1,
        KeyState::Released => count == 0,
    }
}

pub(super) fn key<D: InputHost, B: InputBackend>(host: &mut D, event: &B::KeyboardKeyEvent) {
    let Some(keyboard) = host.seat().get_keyboard() else {
        return;
    };
    let (code, state) = (event.key_code(), event.state());
    if !is_first_or_last(state, event.count()) {
        return;
    }
    let serial = SERIAL_COUNTER.next_serial();
    let shortcut = keyboard.input(
        host,
        code,
        state,
        serial,
        wire_time(event),
        |host: &mut D, modifiers: &ModifiersState, symbols: KeysymHandle<'_>| {
            let input = host.input();
            let settings = &input.settings;
            input.keys.filter(code, state, || {
                let plain = symbols.raw_latin_sym_or_raw_current_sym();
                Shortcut::find(modifiers, symbols.modified_sym(), plain, settings)
            })
        },
    );
    match shortcut.flatten() {
        Some(Shortcut::ChangeVt(vt)) => host.change_vt(vt),
        Some(Shortcut::Terminate) => host.terminate(),
        None => {}
    }
}

/// Gives the seat a keyboard if it has none.
pub(super) fn add<D: InputHost>(host: &mut D) {
    let mut seat = host.seat();
    if seat.get_keyboard().is_some() {
        return;
    }
    let settings = host.input().settings.keyboard.clone();
    // Both are at most 10,000 by the schema.
    let number = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    let (delay, rate) = (
        number(settings.repeat.delay_ms),
        number(settings.repeat.rate),
    );
    let added = seat.add_keyboard(names(&settings), delay, rate).or_else(|error| {
        tracing::warn!(
            %error, layout = settings.layout, variant = settings.variant, options = settings.options,
            "no keymap for [input.keyboard]; the default keymap is used: check the names against `man \
             xkeyboard-config`"
        );
        seat.add_keyboard(XkbConfig::default(), delay, rate)
    });
    match added {
        Ok(_) => host.keyboard_added(),
        Err(error) => {
            tracing::error!(%error, "no keymap at all, keyboards stay off: install xkb-data");
        }
    }
}

/// Nobody has the keyboard.
pub(super) fn let_go<D: InputHost>(host: &mut D) {
    if let Some(keyboard) = host.seat().get_keyboard() {
        keyboard.unset_grab(host);
        keyboard.set_focus(host, None, SERIAL_COUNTER.next_serial());
    }
}

/// Takes the keyboard from the seat. Smithay 0.7.0 panics when somebody uses a keyboard that its seat has no more, and the
/// pointer's half of a menu's grab would, at its end.
pub(super) fn remove<D: InputHost>(host: &mut D) {
    host.device_goes();
    let_go(host);
    host.seat().remove_keyboard();
    host.input().keys = Keys::default();
}

fn names(settings: &KeyboardSection) -> XkbConfig<'_> {
    XkbConfig {
        rules: &settings.rules,
        model: &settings.model,
        layout: &settings.layout,
        variant: &settings.variant,
        options: (!settings.options.is_empty()).then(|| settings.options.clone()),
    }
}
