//! What clients are told about a frame: frame callbacks and presentation feedback.

use std::time::Duration;

use smithay::{
    backend::renderer::element::RenderElementStates,
    desktop::utils::{
        send_frames_surface_tree, surface_presentation_feedback_flags_from_states,
        take_presentation_feedback_surface_tree, with_surfaces_surface_tree,
        OutputPresentationFeedback,
    },
    desktop::PopupManager,
    output::Output,
    reexports::{
        wayland_protocols::wp::presentation_time::server::wp_presentation_feedback::Kind,
        wayland_server::protocol::{wl_callback::WlCallback, wl_surface::WlSurface},
    },
    wayland::{
        compositor::{with_surface_tree_downward, SurfaceAttributes, SurfaceData, TraversalAction},
        presentation::{PresentationFeedbackCachedState, Refresh},
        seat::WaylandFocus,
    },
};

use crate::{shell::Shell, time::Time};

/// A surface that is not on any screen still gets a callback this often, so that its client does not hang.
const HIDDEN_THROTTLE: Duration = Duration::from_secs(1);

/// Takes the feedback that clients asked for with the content of the frame that is being committed.
pub fn take(
    shell: &Shell,
    output: &Output,
    states: &RenderElementStates,
) -> OutputPresentationFeedback {
    let mut feedback = OutputPresentationFeedback::new(output);
    if let Some(curtain) = shell.curtain() {
        if let Some(surface) = curtain.surface_on(output) {
            take_presentation_feedback_surface_tree(
                surface,
                &mut feedback,
                |_, _| Some(output.clone()),
                |surface, _| surface_presentation_feedback_flags_from_states(surface, states),
            );
        }
        return feedback;
    }
    for window in shell.space.elements_for_output(output) {
        window.take_presentation_feedback(
            &mut feedback,
            |_, _| Some(output.clone()),
            |surface, _| surface_presentation_feedback_flags_from_states(surface, states),
        );
    }
    feedback
}

/// Whether a client asked for feedback that no frame has taken yet. Where nothing changed on the screen, the answer is
/// still owed: the next refresh presents that commit too.
pub fn is_owed(shell: &Shell, output: &Output) -> bool {
    let mut owed = false;
    let mut look = |_: &WlSurface, states: &SurfaceData| {
        let mut cached = states.cached_state.get::<PresentationFeedbackCachedState>();
        owed |= !cached.current().callbacks.is_empty();
    };
    if let Some(curtain) = shell.curtain() {
        if let Some(surface) = curtain.surface_on(output) {
            with_surfaces_surface_tree(surface, &mut look);
        }
        return owed;
    }
    for window in shell.space.elements_for_output(output) {
        window.with_surfaces(&mut look);
    }
    owed
}

/// The frame is on the screen.
pub fn presented(
    mut feedback: OutputPresentationFeedback,
    at: Time,
    refresh: Duration,
    sequence: u64,
) {
    feedback.presented::<_, smithay::utils::Monotonic>(
        at.as_duration(),
        Refresh::fixed(refresh),
        sequence,
        Kind::Vsync | Kind::HwClock | Kind::HwCompletion,
    );
}

/// The frame will not be on the screen.
pub fn discarded(mut feedback: OutputPresentationFeedback) {
    feedback.discarded();
}

/// Discards the feedback that clients ask for with what is shown on this output alone, which is off.
pub fn discard(shell: &Shell, output: &Output) {
    let unseen = RenderElementStates::default();
    let mut feedback = OutputPresentationFeedback::new(output);
    let on_output = |_: &WlSurface, _: &SurfaceData| Some(output.clone());
    let flags = |surface: &WlSurface, _: &SurfaceData| {
        surface_presentation_feedback_flags_from_states(surface, &unseen)
    };
    match shell.curtain() {
        Some(curtain) => {
            if let Some(surface) = curtain.surface_on(output) {
                take_presentation_feedback_surface_tree(surface, &mut feedback, on_output, flags);
            }
        }
        None => {
            let windows = shell.space.elements_for_output(output);
            for window in windows.filter(|window| {
                // Elsewhere it may be seen.
                shell.space.outputs_for_element(window).len() == 1
            }) {
                window.take_presentation_feedback(&mut feedback, on_output, flags);
            }
        }
    }
    feedback.discarded();
}

/// Frame callbacks of what was drawn, until it is on the screen. What a client commits in between waits for its own flip:
/// a client that draws on its callback would otherwise replace pictures that nobody saw.
///
/// Dropping it is the answer too, so that no client hangs when the screen goes.
#[derive(Debug, Default)]
pub struct DrawnCallbacks(Vec<WlCallback>);

impl DrawnCallbacks {
    /// Takes those of all windows on this output and of the pointer's surface. Windows behind the curtain of a locked session
    /// are on no screen, so that their clients wait.
    pub fn take(&mut self, shell: &Shell, output: &Output, cursor: Option<&WlSurface>) {
        let windows = shell.space.elements_for_output(output);
        for window in windows.filter(|_| shell.curtain().is_none()) {
            if let Some(surface) = window.wl_surface() {
                self.take_tree(&surface);
                for (popup, _) in PopupManager::popups_for_surface(&surface) {
                    self.take_tree(popup.wl_surface());
                }
            }
        }
        let locked = shell
            .curtain()
            .and_then(|curtain| curtain.surface_on(output));
        for surface in locked.into_iter().chain(cursor) {
            self.take_tree(surface);
        }
    }

    fn take_tree(&mut self, surface: &WlSurface) {
        with_surface_tree_downward(
            surface,
            (),
            |_, _, &()| TraversalAction::DoChildren(()),
            |_, states, &()| {
                let mut attributes = states.cached_state.get::<SurfaceAttributes>();
                self.0.append(&mut attributes.current().frame_callbacks);
            },
            |_, _, &()| true,
        );
    }

    /// They are on the screen, or will never be.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the protocol's milliseconds wrap around"
    )]
    pub fn done(&mut self, at: Time) {
        for callback in self.0.drain(..) {
            callback.done(at.as_duration().as_millis() as u32);
        }
    }
}

impl Drop for DrawnCallbacks {
    fn drop(&mut self) {
        self.done(Time::now());
    }
}

/// Tells the clients on this output that now is a good time to draw.
pub fn send_frame_callbacks(shell: &Shell, output: &Output, cursor: Option<&WlSurface>, now: Time) {
    let windows = shell.space.elements_for_output(output);
    for window in windows.filter(|_| shell.curtain().is_none()) {
        window.send_frame(output, now.as_duration(), Some(HIDDEN_THROTTLE), |_, _| {
            Some(output.clone())
        });
    }
    let locked = shell
        .curtain()
        .and_then(|curtain| curtain.surface_on(output));
    for surface in locked.into_iter().chain(cursor) {
        send_frames_surface_tree(surface, output, now.as_duration(), None, |_, _| {
            Some(output.clone())
        });
    }
}
