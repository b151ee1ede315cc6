//! Whether and how long the clients that only capture rest (`listening`).

use std::time::Duration;

use crate::time::Time;

/// A rest where a flip or a fence is to come, which ends it: only a bound.
const LONG_REST: Duration = Duration::from_millis(40);

/// A rest where nothing else is to come, as a part of a refresh. Clients that answer at once, and the application's next
/// picture, are within it; for who waits for nothing but us it is the delay of its request, which is in time for the next
/// refresh all the same.
const SHORT_REST: u32 = 4;

/// The refresh of a screen whose mode is unknown.
const USUAL_REFRESH: Duration = Duration::from_micros(16_667);

/// For one client alone a rest saves nothing.
const WORTH_A_REST: usize = 2;

/// Whether and how long the patient set rests.
#[derive(Debug, Default)]
pub(super) struct Rest {
    began: Time,
    pub until: Option<Time>,
}

/// How long a rest may be where nothing is to come, with screens of this refresh.
pub(super) fn short(refresh: Option<Duration>) -> Duration {
    refresh.unwrap_or(USUAL_REFRESH) / SHORT_REST
}

impl Rest {
    /// A turn in which `told` clients were told of a frame; `coming`: a flip or a fence will make another turn; `short`: how
    /// long a rest may be where none will.
    pub fn turn(&mut self, now: Time, told: usize, coming: bool, short: Duration) {
        if told >= WORTH_A_REST {
            self.began = now;
            self.until = Some(now + LONG_REST);
        }
        self.until = self.until.filter(|until| *until > now).map(|until| {
            let soon = now + short;
            if coming {
                self.began + LONG_REST
            } else {
                until.min(soon)
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(2);

    fn at(ms: u64) -> Time {
        Time::from_duration(Duration::from_millis(ms))
    }

    #[test]
    fn only_several_clients_with_a_frame_make_a_rest() {
        let mut rest = Rest::default();
        rest.turn(at(1), 0, true, SHORT);
        assert_eq!(rest.until, None);
        rest.turn(at(1), 1, true, SHORT);
        assert_eq!(rest.until, None);
        rest.turn(at(1), 2, true, SHORT);
        assert_eq!(rest.until, Some(at(1) + LONG_REST));
    }

    #[test]
    fn a_rest_is_short_once_nothing_is_to_come() {
        let mut rest = Rest::default();
        rest.turn(at(1), 8, true, SHORT);
        rest.turn(at(5), 0, false, SHORT);
        assert_eq!(rest.until, Some(at(5) + SHORT));
        rest.turn(at(6), 0, false, SHORT);
        assert_eq!(rest.until, Some(at(5) + SHORT), "no turn prolongs it");
        rest.turn(at(5) + SHORT, 0, false, SHORT);
        assert_eq!(rest.until, None);
    }

    #[test]
    fn a_commit_makes_a_short_rest_a_long_one() {
        let mut rest = Rest::default();
        rest.turn(at(1), 8, false, SHORT);
        assert_eq!(rest.until, Some(at(1) + SHORT));
        rest.turn(at(2), 0, true, SHORT);
        assert_eq!(rest.until, Some(at(1) + LONG_REST));
        rest.turn(at(17), 0, false, SHORT);
        assert_eq!(rest.until, Some(at(17) + SHORT));
    }

    #[test]
    fn frames_prolong_a_rest_and_time_ends_it() {
        let mut rest = Rest::default();
        rest.turn(at(1), 8, true, SHORT);
        rest.turn(at(20), 8, true, SHORT);
        assert_eq!(rest.until, Some(at(20) + LONG_REST));
        rest.turn(at(20) + LONG_REST, 1, true, SHORT);
        assert_eq!(rest.until, None);
    }
}
