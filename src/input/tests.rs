//! Pure parts, and events of a made-up backend on a real seat. Surfaces need a client: those rules are tested with the
//! whole compositor.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod made;

use proptest::prelude::*;
use smithay::{
    backend::input::{AxisSource, KeyState},
    input::{
        keyboard::{keysyms, Keycode, Keysym, ModifiersState},
        SeatState,
    },
    utils::{Rectangle, Transform},
};

use self::made::{Key, Made, Motion, Place};
use super::*;

fn output(name: &str, area: (i32, i32, i32, i32), transform: Transform) -> OutputArea {
    let (x, y, w, h) = area;
    OutputArea {
        name: name.to_owned(),
        area: Rectangle::new((x, y).into(), (w, h).into()),
        transform,
    }
}

fn plain(name: &str, area: (i32, i32, i32, i32)) -> OutputArea {
    output(name, area, Transform::Normal)
}

/// A screen of 800x600 and, to its right, a lower one.
fn two() -> Vec<OutputArea> {
    vec![
        plain("A", (0, 0, 800, 600)),
        plain("B", (800, 100, 400, 300)),
    ]
}

fn clamped(x: f64, y: f64) -> (f64, f64) {
    let point = clamp((x, y).into(), &two());
    (point.x, point.y)
}

const STEP: f64 = 1.0 / 256.0;

#[test]
fn a_position_outside_goes_to_the_nearest_edge() {
    assert_eq!(clamped(10.5, 20.25), (10.5, 20.25));
    assert_eq!(clamped(-5.0, 700.0), (0.0, 600.0 - STEP));
    assert_eq!(
        clamped(800.0, 200.0),
        (800.0, 200.0),
        "the second output begins where the first ends"
    );
    assert_eq!(clamped(5000.0, 200.0), (1200.0 - STEP, 200.0));
    assert_eq!(
        clamped(802.0, 20.0),
        (800.0 - STEP, 20.0),
        "the corner between them is outside"
    );
    assert_eq!(clamped(1100.0, 80.0), (1100.0, 100.0));
}

#[test]
fn without_outputs_a_position_stays() {
    assert_eq!(clamp((-7.0, 9e9).into(), &[]), (-7.0, 9e9).into());
    assert_eq!(
        clamp((-7.0, 3.0).into(), &[plain("A", (0, 0, 0, 0))]),
        (-7.0, 3.0).into()
    );
    assert_eq!(map_absolute((0.5, 0.5), None, true, &[]), None);
}

fn mapped(
    fraction: (f64, f64),
    target: Option<&str>,
    touch: bool,
    on: &[OutputArea],
) -> (f64, f64) {
    let point = map_absolute(fraction, target, touch, on).unwrap();
    (point.x, point.y)
}

#[test]
fn a_tablet_without_output_spans_all_and_a_touch_screen_lies_on_one() {
    let two = two();
    assert_eq!(mapped((0.5, 0.5), None, false, &two), (600.0, 300.0));
    assert_eq!(mapped((0.5, 0.5), None, true, &two), (400.0, 300.0));
    assert_eq!(mapped((0.5, 0.5), Some("B"), true, &two), (1000.0, 250.0));
    assert_eq!(mapped((0.5, 0.5), Some("B"), false, &two), (1000.0, 250.0));
    assert_eq!(mapped((0.5, 0.5), Some("gone"), true, &two), (400.0, 300.0));
    assert_eq!(
        mapped((1.0, 1.0), None, false, &two[..1]),
        (800.0 - STEP, 600.0 - STEP)
    );
}

/// A panel of 1000x500 whose picture is turned: the finger on the panel's corner must hit the picture's corner that is
/// drawn there. Where it is drawn follows from wl_output's words: the transform is what was done to the content,
/// counter-clockwise.
#[test]
fn a_touch_screen_turns_with_the_picture() {
    let near = |transform, area: (i32, i32, i32, i32), fraction: (f64, f64)| {
        let (x, y) = mapped(fraction, None, true, &[output("A", area, transform)]);
        // Tenths of the logical size tell the corners apart.
        (
            (x - f64::from(area.0)) / f64::from(area.2),
            (y - f64::from(area.1)) / f64::from(area.3),
        )
    };
    let close = |a: (f64, f64), b: (f64, f64)| {
        assert!(
            (a.0 - b.0).abs() < 0.01 && (a.1 - b.1).abs() < 0.01,
            "{a:?} is not {b:?}"
        );
    };
    let (wide, tall) = ((100, 0, 1000, 500), (100, 0, 500, 1000));
    // The panel's top left. Content turned counter-clockwise by 90 degrees has its top right there.
    close(near(Transform::Normal, wide, (0.0, 0.0)), (0.0, 0.0));
    close(near(Transform::_90, tall, (0.0, 0.0)), (1.0, 0.0));
    close(near(Transform::_180, wide, (0.0, 0.0)), (1.0, 1.0));
    close(near(Transform::_270, tall, (0.0, 0.0)), (0.0, 1.0));
    close(near(Transform::Flipped, wide, (0.0, 0.0)), (1.0, 0.0));
    // A point off the corners and the diagonal.
    close(near(Transform::_90, tall, (0.25, 0.1)), (0.9, 0.25));
    close(near(Transform::_270, tall, (0.25, 0.1)), (0.1, 0.75));
}

proptest! {
    #[test]
    fn a_clamped_position_is_on_an_output_and_stays_there(
        x in -1e12..1e12f64, y in -1e12..1e12f64,
        outputs in proptest::collection::vec(
            (-40_000..40_000i32, -40_000..40_000i32, 1..20_000i32, 1..20_000i32), 1..5),
    ) {
        let outputs: Vec<_> = outputs.into_iter().map(|area| plain("X", area)).collect();
        let inside = clamp((x, y).into(), &outputs);
        prop_assert!(outputs.iter().any(|output| output.area.to_f64().contains(inside)));
        prop_assert_eq!(clamp(inside, &outputs), inside);
    }
}

#[test]
fn time_starts_again_after_49_days() {
    assert_eq!(wire_milliseconds(1_999), 1);
    assert_eq!(
        wire_milliseconds((u64::from(u32::MAX) + 1) * 1000 + 5_000),
        5
    );
    let _ = wire_milliseconds(u64::MAX);
}

#[test]
fn scrolling_tells_distance_detents_and_the_end() {
    let scroll = pointer::scroll;
    assert_eq!(
        scroll(AxisSource::Wheel, Some(15.0), Some(120.0)),
        (Some(15.0), Some(120), false)
    );
    assert_eq!(
        scroll(AxisSource::Wheel, None, Some(-60.0)),
        (Some(-7.5), Some(-60), false)
    );
    assert_eq!(
        scroll(AxisSource::Wheel, Some(0.0), Some(0.0)),
        (None, None, false)
    );
    assert_eq!(
        scroll(AxisSource::Finger, Some(3.0), None),
        (Some(3.0), None, false)
    );
    assert_eq!(
        scroll(AxisSource::Finger, Some(0.0), None),
        (None, None, true)
    );
    assert_eq!(scroll(AxisSource::Finger, None, None), (None, None, false));
    assert_eq!(
        scroll(AxisSource::Continuous, Some(0.0), None),
        (None, None, false)
    );
}

#[test]
fn the_compositors_keys_are_found_and_can_be_switched_off() {
    let find = |ctrl_alt: bool, modified: u32, plain: u32, settings: &InputSection| {
        let modifiers = ModifiersState {
            ctrl: ctrl_alt,
            alt: ctrl_alt,
            ..Default::default()
        };
        Shortcut::find(
            &modifiers,
            Keysym::new(modified),
            Some(Keysym::new(plain)),
            settings,
        )
    };
    let on = InputSection {
        terminate_key: true,
        ..Default::default()
    };
    let off = InputSection {
        vt_switch: false,
        ..Default::default()
    };
    use keysyms::*;
    assert_eq!(
        find(true, KEY_XF86Switch_VT_1, KEY_F1, &on),
        Some(Shortcut::ChangeVt(1))
    );
    assert_eq!(
        find(true, KEY_XF86Switch_VT_12, KEY_F12, &on),
        Some(Shortcut::ChangeVt(12))
    );
    assert_eq!(
        find(true, KEY_F3, KEY_F3, &on),
        Some(Shortcut::ChangeVt(3)),
        "keymap without VT keys"
    );
    assert_eq!(
        find(true, KEY_F12 + 1, KEY_F12 + 1, &on),
        None,
        "there is no VT 13"
    );
    assert_eq!(find(false, KEY_F3, KEY_F3, &on), None);
    assert_eq!(find(true, KEY_XF86Switch_VT_1, KEY_F1, &off), None);
    assert_eq!(
        find(true, KEY_BackSpace, KEY_BackSpace, &on),
        Some(Shortcut::Terminate)
    );
    assert_eq!(
        find(true, KEY_Terminate_Server, KEY_BackSpace, &on),
        Some(Shortcut::Terminate)
    );
    assert_eq!(find(false, KEY_BackSpace, KEY_BackSpace, &on), None);
    assert_eq!(find(true, KEY_BackSpace, KEY_BackSpace, &off), None);
}

/// The host without a shell: it notes what it is asked.
struct Host {
    seats: SeatState<Self>,
    seat: Seat<Self>,
    input: Input,
    outputs: Vec<OutputArea>,
    asked: Vec<&'static str>,
}

impl Host {
    fn new(settings: InputSection) -> Self {
        let mut seats = SeatState::new();
        let seat = seats.new_seat("test");
        let input = Input::new(settings);
        Self {
            seats,
            seat,
            input,
            outputs: two(),
            asked: Vec::new(),
        }
    }

    fn key(&mut self, evdev: u32, state: KeyState, count: u32) {
        let event = Key {
            code: evdev + 8,
            state,
            count,
        };
        dispatch::<Self, Made>(self, InputEvent::Keyboard { event });
    }

    fn pointer_at(&self) -> (f64, f64) {
        let point = self.seat.get_pointer().unwrap().current_location();
        (point.x, point.y)
    }
}

impl SeatHandler for Host {
    type KeyboardFocus = WlSurface;
    type PointerFocus = WlSurface;
    type TouchFocus = WlSurface;

    fn seat_state(&mut self) -> &mut SeatState<Self> {
        &mut self.seats
    }
}

impl InputHost for Host {
    fn input(&mut self) -> &mut Input {
        &mut self.input
    }
    fn seat(&self) -> Seat<Self> {
        self.seat.clone()
    }
    fn output_areas(&self) -> Vec<OutputArea> {
        self.outputs.clone()
    }
    fn surface_under(&self, _: Point<f64, Logical>) -> Option<(WlSurface, Point<f64, Logical>)> {
        None
    }
    fn focus_clicked(&mut self, _: &WlSurface, _: Serial) {
        self.asked.push("focus");
    }
    fn finger_down(&mut self, _: Option<&WlSurface>) {}
    fn device_goes(&mut self) {}
    fn keyboard_added(&mut self) {
        self.asked.push("keyboard");
    }
    fn pointer_moved(&mut self) {
        self.asked.push("moved");
    }
    fn activity(&mut self) {}
    fn change_vt(&mut self, vt: i32) {
        self.asked.push(if vt == 2 { "vt 2" } else { "another vt" });
    }
    fn terminate(&mut self) {
        self.asked.push("terminate");
    }
}

// Codes of linux/input-event-codes.h.
const KEY_LEFTCTRL: u32 = 29;
const KEY_LEFTALT: u32 = 56;
const KEY_A: u32 = 30;
const KEY_F2: u32 = 60;

#[test]
fn the_pointer_moves_within_the_outputs() {
    let mut host = Host::new(InputSection::default());
    pointer::add(&mut host);
    assert_eq!(
        host.pointer_at(),
        (400.0, 300.0),
        "it starts in the middle of the first output"
    );
    let motion = |x, y| InputEvent::<Made>::PointerMotion {
        event: Motion(x, y),
    };
    dispatch(&mut host, motion(10.0, -20.0));
    assert_eq!(host.pointer_at(), (410.0, 280.0));
    dispatch(&mut host, motion(1e9, 0.0));
    assert_eq!(host.pointer_at(), (1200.0 - STEP, 280.0));
    host.asked.clear();
    dispatch(&mut host, motion(5.0, 0.0));
    assert!(
        host.asked.is_empty(),
        "at the edge there is nothing to draw"
    );
    let place = InputEvent::<Made>::PointerMotionAbsolute {
        event: Place(0.25, 0.5),
    };
    dispatch(&mut host, place);
    assert_eq!(host.pointer_at(), (300.0, 300.0));
}

#[test]
fn a_pointer_on_an_unplugged_output_comes_back_and_a_resting_one_is_not_drawn_again() {
    let mut host = Host::new(InputSection::default());
    pointer::add(&mut host);
    dispatch(
        &mut host,
        InputEvent::<Made>::PointerMotion {
            event: Motion(600.0, 0.0),
        },
    );
    assert_eq!(host.pointer_at(), (1000.0, 300.0));
    host.outputs.truncate(1);
    host.asked.clear();
    outputs_changed(&mut host);
    assert_eq!(host.pointer_at(), (800.0 - STEP, 300.0));
    assert_eq!(host.asked, ["moved"]);
    outputs_changed(&mut host);
    surfaces_changed(&mut host);
    assert_eq!(host.asked, ["moved"]);
    host.outputs.clear();
    outputs_changed(&mut host);
    assert_eq!(host.pointer_at(), (800.0 - STEP, 300.0));
}

#[test]
fn a_kept_key_is_neither_pressed_nor_released_for_clients() {
    let mut host = Host::new(InputSection::default());
    keyboard::add(&mut host);
    host.asked.clear();
    host.key(KEY_LEFTCTRL, KeyState::Pressed, 1);
    host.key(KEY_LEFTALT, KeyState::Pressed, 1);
    host.key(KEY_F2, KeyState::Pressed, 1);
    assert_eq!(host.asked, ["vt 2"]);
    // The modifiers go up first, as fingers do: the release of F2 is kept all the same.
    host.key(KEY_LEFTCTRL, KeyState::Released, 0);
    host.key(KEY_LEFTALT, KeyState::Released, 0);
    host.key(KEY_F2, KeyState::Released, 0);
    assert_eq!(host.asked, ["vt 2"]);
    host.key(KEY_F2, KeyState::Pressed, 1);
    assert_eq!(
        host.asked,
        ["vt 2"],
        "without modifiers it is the application's"
    );
}

#[test]
fn the_release_of_a_key_is_kept_exactly_when_its_press_was() {
    let mut keys = keyboard::Keys::default();
    let code: Keycode = 10_u32.into();
    let mut filter = |state, shortcut: Option<Shortcut>| keys.filter(code, state, || shortcut);
    let vt = Some(Shortcut::ChangeVt(1));
    use smithay::input::keyboard::FilterResult::{Forward, Intercept};
    assert!(matches!(
        filter(KeyState::Pressed, vt),
        Intercept(Some(Shortcut::ChangeVt(1)))
    ));
    assert!(matches!(filter(KeyState::Released, None), Intercept(None)));
    assert!(matches!(filter(KeyState::Released, None), Forward));
    assert!(matches!(filter(KeyState::Pressed, None), Forward));
    assert!(matches!(filter(KeyState::Released, vt), Forward));
}

#[test]
fn a_key_held_on_two_keyboards_is_one_key() {
    assert!(keyboard::is_first_or_last(KeyState::Pressed, 1));
    assert!(!keyboard::is_first_or_last(KeyState::Pressed, 2));
    let mut host = Host::new(InputSection::default());
    keyboard::add(&mut host);
    let pressed = |host: &Host| host.seat.get_keyboard().unwrap().pressed_keys().len();
    host.key(KEY_A, KeyState::Pressed, 1);
    host.key(KEY_A, KeyState::Pressed, 2);
    host.key(KEY_A, KeyState::Released, 1);
    assert_eq!(pressed(&host), 1, "one of the two still holds it");
    host.key(KEY_A, KeyState::Released, 0);
    assert_eq!(pressed(&host), 0);
}

#[test]
fn a_keymap_that_does_not_exist_gives_the_default_one() {
    let mut settings = InputSection::default();
    settings.keyboard.layout = "no-such-layout".to_owned();
    settings.keyboard.rules = "no-such-rules".to_owned();
    let mut host = Host::new(settings);
    keyboard::add(&mut host);
    assert_eq!(host.asked, ["keyboard"]);
    assert!(host.seat.get_keyboard().is_some());
}

#[test]
fn events_without_seat_capability_or_output_do_nothing() {
    let mut host = Host::new(InputSection::default());
    host.outputs.clear();
    host.key(KEY_A, KeyState::Pressed, 1);
    dispatch(
        &mut host,
        InputEvent::<Made>::PointerMotion {
            event: Motion(1.0, 1.0),
        },
    );
    pointer::add(&mut host);
    host.asked.clear();
    dispatch(
        &mut host,
        InputEvent::<Made>::PointerMotionAbsolute {
            event: Place(0.5, 0.5),
        },
    );
    assert!(host.asked.is_empty());
}
