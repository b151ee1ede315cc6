//! The states of one CRTC, and what they allow. Pure: no kernel, no clock; `pipeline_io` does what follows.

use std::time::Duration;

use crate::time::Time;

/// How long a flip event may take before it counts as lost. Kernels wait ten seconds for a flip before they give up; a
/// screen in a virtual machine can be stopped for seconds.
pub const FLIP_LOST_AFTER: Duration = Duration::from_secs(12);

/// What the CRTC is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Switched off, or never switched on.
    Off,
    /// Dark to save power: it shows nothing, and has its mode, its connectors and its planes still.
    Asleep,
    /// On, and nothing is under way: a commit is allowed.
    Idle,
    /// A commit waits for its flip event.
    FlipPending {
        /// When it was committed.
        since: Time,
    },
    /// Another DRM master has the device. Nothing is touched.
    Paused {
        /// Whether the CRTC was on.
        was_on: bool,
    },
}

/// Why no commit is possible now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Blocked {
    /// A modeset is needed first.
    #[error("the CRTC is off")]
    Off,
    /// The flip event of the last commit has not come.
    #[error("the previous flip is pending")]
    FlipPending,
    /// Not DRM master.
    #[error("the session is paused")]
    Paused,
}

/// What a flip event meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flip {
    /// The last commit is on the screen.
    Done,
    /// It belongs to a commit from before a pause or modeset.
    Stale,
    /// Nobody waited for it.
    Unexpected,
}

/// The state machine.
#[derive(Debug, Clone)]
pub struct PipelineState {
    state: State,
    /// Flip events that the kernel still owes. They come in order, so only the last belongs to the last commit.
    owed: u32,
}

impl Default for PipelineState {
    fn default() -> Self {
        Self {
            state: State::Off,
            owed: 0,
        }
    }
}

impl PipelineState {
    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether the CRTC shows a picture of ours (also while a flip is pending).
    pub fn is_on(&self) -> bool {
        match self.state {
            State::Idle | State::FlipPending { .. } => true,
            State::Off | State::Asleep | State::Paused { .. } => false,
        }
    }

    /// Whether something of ours is on the CRTC that it must be freed of at the end.
    pub fn is_taken(&self) -> bool {
        self.is_on() || self.state == State::Asleep
    }

    /// Whether a frame commit is possible now.
    ///
    /// # Errors
    /// Why not.
    pub fn may_commit(&self) -> Result<(), Blocked> {
        match self.state {
            State::Idle => Ok(()),
            State::Off | State::Asleep => Err(Blocked::Off),
            State::FlipPending { .. } => Err(Blocked::FlipPending),
            State::Paused { .. } => Err(Blocked::Paused),
        }
    }

    /// Whether a modeset is possible now: always, unless paused.
    ///
    /// # Errors
    /// [`Blocked::Paused`].
    pub fn may_modeset(&self) -> Result<(), Blocked> {
        match self.state {
            State::Off | State::Asleep | State::Idle | State::FlipPending { .. } => Ok(()),
            State::Paused { .. } => Err(Blocked::Paused),
        }
    }

    /// A frame commit succeeded.
    pub fn committed(&mut self, now: Time) {
        debug_assert!(self.may_commit().is_ok());
        self.owed += 1;
        self.state = State::FlipPending { since: now };
    }

    /// A blocking modeset succeeded. It waited for what was pending, so the picture is there.
    pub fn modeset(&mut self) {
        debug_assert!(self.may_modeset().is_ok());
        self.state = State::Idle;
    }

    /// The CRTC is dark and keeps the rest.
    pub fn slept(&mut self) {
        debug_assert!(self.is_taken());
        self.state = State::Asleep;
    }

    /// The CRTC was switched off.
    pub fn disabled(&mut self) {
        self.state = match self.state {
            State::Paused { .. } => State::Paused { was_on: false },
            State::Off | State::Asleep | State::Idle | State::FlipPending { .. } => State::Off,
        };
    }

    /// A flip event came.
    pub fn flipped(&mut self) -> Flip {
        let Some(left) = self.owed.checked_sub(1) else {
            return Flip::Unexpected;
        };
        self.owed = left;
        match self.state {
            State::FlipPending { .. } if left == 0 => {
                self.state = State::Idle;
                Flip::Done
            }
            State::Off
            | State::Asleep
            | State::Idle
            | State::FlipPending { .. }
            | State::Paused { .. } => Flip::Stale,
        }
    }

    /// When the pending flip counts as lost.
    pub fn flip_deadline(&self) -> Option<Time> {
        match self.state {
            State::FlipPending { since } => Some(since + FLIP_LOST_AFTER),
            State::Off | State::Asleep | State::Idle | State::Paused { .. } => None,
        }
    }

    /// Gives up on a flip event whose deadline passed; true if that happened.
    pub fn tick(&mut self, now: Time) -> bool {
        let lost = self.flip_deadline().is_some_and(|deadline| now >= deadline);
        if lost {
            self.owed = 0;
            self.state = State::Idle;
        }
        lost
    }

    /// The session was paused: another master may be in front.
    pub fn pause(&mut self) {
        self.state = match self.state {
            State::Idle | State::FlipPending { .. } => State::Paused { was_on: true },
            State::Off | State::Asleep => State::Paused { was_on: false },
            State::Paused { was_on } => State::Paused { was_on },
        };
    }

    /// The session is ours again. The CRTC counts as off; true: it was on and needs its modeset again.
    pub fn resume(&mut self) -> bool {
        match self.state {
            State::Paused { was_on } => {
                self.state = State::Off;
                was_on
            }
            State::Off | State::Asleep | State::Idle | State::FlipPending { .. } => false,
        }
    }

    /// Panics if the machine contradicts itself; for tests.
    #[cfg(test)]
    pub fn verify_invariants(&self) {
        if let State::FlipPending { .. } = self.state {
            assert!(self.owed > 0, "a pending flip without an event to come");
        }
        assert_eq!(self.may_commit().is_ok(), self.state == State::Idle);
        assert!(self.is_taken() || !self.is_on());
        assert_eq!(
            self.flip_deadline().is_some(),
            self.may_commit() == Err(Blocked::FlipPending)
        );
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> Time {
        Time::from_duration(Duration::from_millis(ms))
    }

    #[test]
    fn a_flip_from_before_a_pause_does_not_complete_the_commit_after_it() {
        let mut state = PipelineState::default();
        state.modeset();
        state.committed(at(0));
        state.pause();
        assert!(state.resume());
        state.modeset();
        state.committed(at(100));
        assert_eq!(state.flipped(), Flip::Stale);
        assert_eq!(state.may_commit(), Err(Blocked::FlipPending));
        assert_eq!(state.flipped(), Flip::Done);
        assert_eq!(state.flipped(), Flip::Unexpected);
    }

    #[test]
    fn a_lost_flip_does_not_stop_the_display_for_ever() {
        let mut state = PipelineState::default();
        state.modeset();
        state.committed(at(0));
        assert!(!state.tick(at(11_999)));
        assert!(state.tick(at(12_000)));
        assert_eq!(state.may_commit(), Ok(()));
    }

    #[test]
    fn a_sleeping_crtc_takes_no_frame_and_is_lit_by_a_modeset() {
        let mut state = PipelineState::default();
        state.modeset();
        state.committed(at(0));
        state.slept();
        assert_eq!(state.may_commit(), Err(Blocked::Off));
        assert!(!state.is_on() && state.is_taken());
        // The flip that was pending is nobody's any more.
        assert_eq!(state.flipped(), Flip::Stale);
        assert_eq!(state.flip_deadline(), None);
        state.modeset();
        assert_eq!(state.may_commit(), Ok(()));
    }

    #[test]
    fn a_crtc_that_slept_before_a_pause_is_not_lit_after_it() {
        let mut state = PipelineState::default();
        state.modeset();
        state.slept();
        state.pause();
        assert!(!state.resume());
        assert_eq!(state.state(), State::Off);
    }

    #[derive(Debug, Clone)]
    enum Op {
        Modeset,
        Sleep,
        Commit,
        Flip,
        Disable,
        Pause,
        Resume,
        Wait(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            1 => Just(Op::Modeset),
            1 => Just(Op::Sleep),
            3 => Just(Op::Commit),
            3 => Just(Op::Flip),
            1 => Just(Op::Disable),
            1 => Just(Op::Pause),
            1 => Just(Op::Resume),
            1 => (0u64..20_000).prop_map(Op::Wait),
        ]
    }

    proptest! {
        #[test]
        fn a_flip_completes_exactly_the_last_commit(ops in proptest::collection::vec(op(), 0..60)) {
            let mut state = PipelineState::default();
            let mut now = 0;
            // The kernel's side: numbers of commits whose event is still to come.
            let mut queue = std::collections::VecDeque::new();
            let mut last = 0u32;
            for op in ops {
                match op {
                    Op::Modeset => if state.may_modeset().is_ok() { state.modeset() },
                    Op::Sleep => if state.is_taken() { state.slept() },
                    Op::Commit => if state.may_commit().is_ok() {
                        last += 1;
                        queue.push_back(last);
                        state.committed(at(now));
                    },
                    Op::Flip => if let Some(commit) = queue.pop_front() {
                        let waiting = matches!(state.state(), State::FlipPending { .. });
                        let done = state.flipped() == Flip::Done;
                        prop_assert_eq!(done, waiting && commit == last);
                    },
                    Op::Disable => state.disabled(),
                    Op::Pause => state.pause(),
                    Op::Resume => { state.resume(); }
                    Op::Wait(ms) => {
                        now += ms;
                        if state.tick(at(now)) { queue.clear() }
                    }
                }
                state.verify_invariants();
            }
        }
    }
}
