//! wp_presentation: when was a commit really on the screen?

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use wayland_client::{protocol::wl_surface, Connection, Dispatch, QueueHandle, WEnum};
use wayland_protocols::wp::presentation_time::client::{wp_presentation, wp_presentation_feedback};

use super::{
    clock,
    connect::{Client, ClientError, State},
};

/// What the compositor said of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Nothing yet.
    Waiting,
    /// On the screen.
    Presented {
        /// On CLOCK_MONOTONIC.
        time: Duration,
        /// Refresh interval.
        refresh: Duration,
        /// The output's vblank counter.
        sequence: u64,
        /// Flag bits of wp_presentation_feedback.
        flags: u32,
    },
    /// Replaced before it was ever shown.
    Discarded,
}

/// One commit's story.
#[derive(Debug, Clone, Copy)]
pub struct Feedback {
    /// Number of the picture.
    pub n: u32,
    /// When it was committed.
    pub committed: Duration,
    /// What became of it.
    pub shown: Shown,
}

type Record = (Arc<Mutex<Vec<Feedback>>>, usize);

/// The feedback of all commits of one surface, in order.
#[derive(Debug)]
pub struct Presentation {
    manager: Option<wp_presentation::WpPresentation>,
    record: Arc<Mutex<Vec<Feedback>>>,
}

impl Presentation {
    /// Works without the protocol too: then all commits stay [`Shown::Waiting`].
    pub fn new(client: &Client) -> Result<Self, ClientError> {
        let manager = match client.version_of("wp_presentation") {
            Some(_) => Some(client.bind(1, ())?),
            None => None,
        };
        Ok(Self {
            manager,
            record: Arc::default(),
        })
    }

    /// To be called before the commit.
    pub fn note(&self, client: &Client, surface: &wl_surface::WlSurface, n: u32) -> usize {
        let mut record = self.record.lock().unwrap();
        let index = record.len();
        record.push(Feedback {
            n,
            committed: clock::now(),
            shown: Shown::Waiting,
        });
        if let Some(manager) = &self.manager {
            manager.feedback(surface, &client.qh, (Arc::clone(&self.record), index));
        }
        index
    }

    /// Whether the compositor has the protocol.
    pub fn is_supported(&self) -> bool {
        self.manager.is_some()
    }

    /// What became of the commit with this index.
    pub fn shown(&self, index: usize) -> Shown {
        self.record.lock().unwrap()[index].shown
    }

    /// All so far.
    pub fn all(&self) -> Vec<Feedback> {
        self.record.lock().unwrap().clone()
    }
}

impl Dispatch<wp_presentation_feedback::WpPresentationFeedback, Record> for State {
    fn event(
        _: &mut Self,
        _: &wp_presentation_feedback::WpPresentationFeedback,
        event: wp_presentation_feedback::Event,
        (record, index): &Record,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        use wp_presentation_feedback::Event;
        let shown = match event {
            Event::Presented {
                tv_sec_hi,
                tv_sec_lo,
                tv_nsec,
                refresh,
                seq_hi,
                seq_lo,
                flags,
            } => Shown::Presented {
                time: clock::from_protocol(tv_sec_hi, tv_sec_lo, tv_nsec),
                refresh: Duration::from_nanos(refresh.into()),
                sequence: (u64::from(seq_hi) << 32) | u64::from(seq_lo),
                flags: match flags {
                    WEnum::Value(flags) => flags.bits(),
                    WEnum::Unknown(bits) => bits,
                },
            },
            Event::Discarded => Shown::Discarded,
            _ => return,
        };
        record.lock().unwrap()[*index].shown = shown;
    }
}

wayland_client::delegate_noop!(State: ignore wp_presentation::WpPresentation);
