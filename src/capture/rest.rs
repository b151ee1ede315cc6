//! An output that is off: nothing is captured and nothing is given, until it shows a picture again.
//!
//! Sessions stay, requests wait, leases and the history are kept. What was captured before is delivered to nobody after that, so
//! that no old picture passes for a new one; the newest frame stays pinned until there is a newer one, as ever, since whoever
//! holds it must not be late because of the pause.

use crate::capture::{
    ids::FrameSeq,
    output_capture::OutputCapture,
    view::{PerView, View},
};

/// Whether the output rests, and which frames are too old.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    resting: bool,
    /// Frames before this one are of the time before.
    not_before: u64,
}

impl Rest {
    /// Whether nobody is to be given anything now.
    pub fn is_on(&self) -> bool {
        self.resting
    }

    /// Whether a frame is of the time before the last rest.
    pub fn is_outdated(&self, frame: FrameSeq) -> bool {
        frame.0 < self.not_before
    }
}

impl OutputCapture {
    /// The output is off. Jobs in flight end as usual and show nobody anything.
    pub fn rest(&mut self) {
        self.rest.resting = true;
        self.forget_shown();
    }

    /// The output is on again. The next frame of each session is wholly damaged.
    pub fn end_rest(&mut self) {
        if std::mem::take(&mut self.rest.resting) {
            self.forget_shown();
        }
    }

    /// Whether the output is off.
    pub fn is_resting(&self) -> bool {
        self.rest.is_on()
    }

    fn forget_shown(&mut self) {
        self.take_back_written();
        self.rest.not_before = self.next_frame;
        self.pending = PerView::default();
        self.blocked = false;
        for job in &mut self.jobs {
            for view in View::ALL {
                *job.views.get_mut(view) = false;
                *job.damage.get_mut(view) = None;
            }
        }
        for session in self.sessions.values_mut() {
            session.start_anew();
        }
    }
}
