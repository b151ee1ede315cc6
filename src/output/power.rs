//! A screen that is switched off to save power, and on again.
//!
//! Off is a wish first: it takes its turn among the commits, after the flip and the fence of the last one, so that it overtakes
//! no job that a commit would not. While the screen is off nothing is drawn, and nobody is told to draw.

use super::{feedback, screen::Screen, Step, StepContext};
use crate::{
    capture::OutputCapture,
    kms::{pipeline::State, CommitError, Pacing},
    time::Time,
};

/// Time between tries to switch off a screen that came back from another session.
const BLANK_RETRY: std::time::Duration = std::time::Duration::from_secs(1);

/// Whether a screen shows anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PowerMode {
    /// It does, or is about to.
    #[default]
    On,
    /// It is dark.
    Off,
}

impl PowerMode {
    /// For a wish in other words.
    pub const fn of(on: bool) -> Self {
        match on {
            true => Self::On,
            false => Self::Off,
        }
    }

    /// A word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

/// What is wanted of a screen's power, and what became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Power {
    wanted: PowerMode,
    /// Why the last wish was not carried out.
    refused: Option<String>,
    /// Another master was there, and what it left is to be switched off.
    unknown: bool,
    /// What was told of it last.
    told: PowerMode,
    /// A refusal is to be told.
    refusal_untold: bool,
}

/// What is to be told of a screen's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerNews {
    /// It is this now.
    Is(PowerMode),
    /// It could not be switched off after all.
    Refused,
}

/// What the operator and clients are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PowerReport {
    /// What it is.
    pub mode: PowerMode,
    /// What it is to become.
    pub wanted: PowerMode,
    /// Why it is not what was asked for.
    pub refused: Option<String>,
}

impl Power {
    /// What the screen is, given what its CRTC does.
    pub fn mode(&self, crtc: State) -> PowerMode {
        match (self.wanted, crtc) {
            // What comes back from a pause comes back as wanted.
            (wanted, State::Paused { .. }) => wanted,
            (_, State::Asleep) => PowerMode::Off,
            (PowerMode::Off, State::Off) if !self.unknown => PowerMode::Off,
            (_, State::Off | State::Idle | State::FlipPending { .. }) => PowerMode::On,
        }
    }

    fn want(&mut self, mode: PowerMode) {
        self.wanted = mode;
        self.refused = None;
    }

    fn refuse(&mut self, reason: String) {
        self.wanted = PowerMode::On;
        self.refused = Some(reason);
        self.refusal_untold = true;
    }

    fn news(&mut self, crtc: State) -> Option<PowerNews> {
        let mode = self.mode(crtc);
        if std::mem::replace(&mut self.told, mode) != mode {
            return Some(PowerNews::Is(mode));
        }
        std::mem::take(&mut self.refusal_untold).then_some(PowerNews::Refused)
    }
}

impl Screen {
    /// Switches it off or on with the next steps.
    ///
    /// # Errors
    /// Why it cannot be switched off; it stays on.
    pub fn set_power(&mut self, mode: PowerMode) -> Result<(), String> {
        if mode == PowerMode::Off && !self.is_wanted_off() {
            self.may_go_dark().inspect_err(|reason| {
                self.power.refused = Some(reason.clone());
            })?;
        }
        if mode != self.power.wanted {
            self.retry_at = None;
        }
        self.power.want(mode);
        Ok(())
    }

    /// What it is, and is to be.
    pub fn power(&self) -> PowerReport {
        PowerReport {
            mode: self.power.mode(self.pipeline.state()),
            wanted: self.power.wanted,
            refused: self.power.refused.clone(),
        }
    }

    /// What is new of it since the last call.
    pub fn power_news(&mut self) -> Option<PowerNews> {
        self.power.news(self.pipeline.state())
    }

    pub(super) fn is_wanted_off(&self) -> bool {
        self.power.wanted == PowerMode::Off
    }

    /// What others show on planes of their own would go dark, too.
    fn may_go_dark(&self) -> Result<(), String> {
        match self.pipeline.shows_foreign_plane() {
            Ok(false) => Ok(()),
            Ok(true) => {
                Err("a plane that belongs to somebody else shows something there".to_owned())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// The seat is ours again, and the screen is to be dark.
    pub(super) fn resume_dark(&mut self) {
        self.pipeline.resume_dark();
        self.power.unknown = true;
    }

    /// A step of a screen that is to be off. Gives false if it has to be on after all.
    pub(super) fn step_off(&mut self, context: &mut StepContext<'_>, step: &mut Step) -> bool {
        match self.pipeline.state() {
            State::Paused { .. } => {}
            State::Asleep => self.stay_dark(context),
            State::Off if self.power.unknown => self.blank(context, step),
            State::Off => {
                // It was off already: set anew after failures, or never on.
                self.now_dark(context.capture);
                self.stay_dark(context);
            }
            State::FlipPending { .. } => {}
            State::Idle => self.go_dark(context, step),
        }
        step.wake_at(self.watchdog(context.now));
        self.is_wanted_off()
    }

    fn go_dark(&mut self, context: &mut StepContext<'_>, step: &mut Step) {
        if let Some(retry) = self.retry_at.filter(|retry| *retry > context.now) {
            return step.wake_at(Some(retry));
        }
        self.retry_at = None;
        if let Pacing::Wait { until } = self.pipeline.may_commit(context.now) {
            return step.wake_at(until);
        }
        // Whatever the pacing says of frames: no driver is known to bear this under a job.
        let job_time = self.last_flip + self.refresh;
        if self.awaits_job() && context.now < job_time {
            return step.wake_at(Some(job_time));
        }
        if let Err(reason) = self.may_go_dark() {
            return self.stays_on(reason);
        }
        match self.pipeline.sleep() {
            Ok(()) => {
                // What overtook a job is told now.
                self.now_dark(context.capture);
                self.tick(context, step);
            }
            Err(CommitError::Busy | CommitError::NotMaster) => {
                self.retry_at = Some(context.now + self.refresh);
                step.wake_at(self.retry_at);
            }
            Err(error) => self.stays_on(error.to_string()),
        }
    }

    fn stays_on(&mut self, reason: String) {
        tracing::warn!(target: "vitrine::output", output = %self.output.name(), reason, "the output cannot be switched off");
        self.power.refuse(reason);
        self.scene_dirty = true;
    }

    /// Of the CRTC nothing is known but that it is to be off.
    fn blank(&mut self, context: &mut StepContext<'_>, step: &mut Step) {
        if let Some(retry) = self.retry_at.filter(|retry| *retry > context.now) {
            return step.wake_at(Some(retry));
        }
        match self.pipeline.blank() {
            Ok(()) => {
                self.retry_at = None;
                self.now_dark(context.capture);
                self.tick(context, step);
            }
            Err(error) => {
                tracing::warn!(target: "vitrine::output", output = %self.output.name(), %error, "the output cannot be switched off after the return of the seat; trying again");
                self.retry_at = Some(context.now + BLANK_RETRY);
                step.wake_at(self.retry_at);
            }
        }
    }

    fn now_dark(&mut self, capture: &mut OutputCapture) {
        self.power.unknown = false;
        if capture.is_resting() {
            return;
        }
        tracing::info!(target: "vitrine::output", output = %self.output.name(), "output off");
        let ended = self.render_jobs.no_flip();
        self.end_render_jobs(ended, capture, Time::now());
        capture.rest();
        // Who was about to be told to draw is told when there is a screen to draw for.
        self.callbacks_due = None;
        self.look_again = None;
        self.starved_until = None;
        self.uncommitted = None;
        if let Some(feedback) = self.feedback.take() {
            feedback::discarded(feedback);
        }
        self.scene_dirty = true;
    }

    /// What clients commit now is never shown.
    fn stay_dark(&mut self, context: &StepContext<'_>) {
        if std::mem::take(&mut self.scene_dirty) {
            feedback::discard(context.shell, &self.output);
        }
        self.cursor_dirty = false;
    }

    /// It shows a picture again.
    pub(super) fn now_lit(&mut self, capture: &mut OutputCapture) {
        self.power.unknown = false;
        if capture.is_resting() {
            tracing::info!(target: "vitrine::output", output = %self.output.name(), "output on");
            capture.end_rest();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIT: [State; 2] = [
        State::Idle,
        State::FlipPending {
            since: Time::from_duration(std::time::Duration::ZERO),
        },
    ];

    fn wanting(wanted: PowerMode) -> Power {
        Power {
            wanted,
            ..Power::default()
        }
    }

    #[test]
    fn a_screen_is_off_when_it_is_dark_and_not_when_that_is_wanted() {
        for state in LIT {
            assert_eq!(wanting(PowerMode::Off).mode(state), PowerMode::On);
        }
        assert_eq!(wanting(PowerMode::Off).mode(State::Asleep), PowerMode::Off);
        assert_eq!(wanting(PowerMode::On).mode(State::Asleep), PowerMode::Off);
    }

    #[test]
    fn a_screen_that_is_being_switched_on_at_the_start_is_on() {
        assert_eq!(wanting(PowerMode::On).mode(State::Off), PowerMode::On);
    }

    #[test]
    fn without_the_seat_a_screen_is_what_it_will_be_with_it() {
        for was_on in [true, false] {
            for wanted in [PowerMode::On, PowerMode::Off] {
                let paused = State::Paused { was_on };
                assert_eq!(wanting(wanted).mode(paused), wanted);
            }
        }
    }

    #[test]
    fn what_another_session_left_is_no_screen_that_is_off() {
        let mut power = wanting(PowerMode::Off);
        power.unknown = true;
        assert_eq!(power.mode(State::Off), PowerMode::On);
        power.unknown = false;
        assert_eq!(power.mode(State::Off), PowerMode::Off);
    }

    #[test]
    fn a_refusal_leaves_it_on_and_is_forgotten_with_the_next_wish() {
        let mut power = wanting(PowerMode::Off);
        power.refuse("no".to_owned());
        assert_eq!(power.wanted, PowerMode::On);
        assert_eq!(power.refused.as_deref(), Some("no"));
        power.want(PowerMode::Off);
        assert_eq!(power.refused, None);
    }

    #[test]
    fn each_change_and_each_refusal_is_told_once() {
        let mut power = wanting(PowerMode::Off);
        assert_eq!(power.news(State::Idle), None);
        let off = Some(PowerNews::Is(PowerMode::Off));
        assert_eq!(power.news(State::Asleep), off);
        assert_eq!(power.news(State::Asleep), None);
        power.want(PowerMode::On);
        assert_eq!(power.news(State::Asleep), None, "it is not on yet");
        let on = Some(PowerNews::Is(PowerMode::On));
        assert_eq!(power.news(State::Idle), on);
        power.refuse("no".to_owned());
        assert_eq!(power.news(State::Idle), Some(PowerNews::Refused));
        assert_eq!(power.news(State::Idle), None);
    }
}
