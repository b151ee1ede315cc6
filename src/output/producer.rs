//! The pure decision who makes the frames of a view: the writeback connector, the render producer, or nobody now.
//!
//! Data in, data out. It must not know when a frame is due; that is `schedule`'s.

use std::fmt;

use crate::{
    capture::{PerView, Producer, View},
    config::ProducerChoice,
};

/// What can be had of the writeback connector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connector {
    /// It is attached and trusted.
    Trusted,
    /// It lost a job; probes are to prove it.
    Suspect,
    /// There is none, or the driver refuses it.
    Missing,
}

/// Where the cursor is on this output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CursorPlace {
    /// Not visible here: both views are the same.
    Hidden,
    /// On a plane of its own.
    OnPlane,
    /// Drawn into the picture.
    InScene,
}

/// All that the decision depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// What the operator wants.
    pub policy: ProducerChoice,
    /// The connector.
    pub connector: Connector,
    /// The cursor.
    pub cursor: CursorPlace,
    /// Whether slots can be written by us at all.
    pub can_render: bool,
}

/// Why it is this producer, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// compositor.toml says so.
    Configured,
    /// The connector works and shows what is asked for.
    ConnectorWorks,
    /// There is no connector that works with this output.
    NoConnector,
    /// The connector lost jobs and has not been proven since.
    ConnectorSuspect,
    /// What the connector writes has the cursor in it.
    CursorInPicture,
    /// The driver lets nobody but the hardware write capture buffers.
    CannotRender,
}

impl Reason {
    /// Whether an operator should look at it: something is missing or broken.
    pub const fn is_trouble(self) -> bool {
        match self {
            Reason::Configured | Reason::ConnectorWorks | Reason::CursorInPicture => false,
            Reason::NoConnector | Reason::ConnectorSuspect | Reason::CannotRender => true,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Configured => "configured",
            Reason::ConnectorWorks => "the writeback connector works",
            Reason::NoConnector => "no writeback connector can be used",
            Reason::ConnectorSuspect => "the writeback connector lost a job and is being probed",
            Reason::CursorInPicture => "the writeback connector would show the cursor",
            Reason::CannotRender => "capture buffers cannot be written by the renderer",
        })
    }
}

/// Who makes the frames of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// `None`: sessions of this view wait.
    pub producer: Option<Producer>,
    /// Why.
    pub reason: Reason,
}

impl Decision {
    /// For the log.
    pub fn name(&self) -> &'static str {
        self.producer.map_or("none", Producer::name)
    }
}

/// Decides for one view.
pub fn decide(view: View, facts: Facts) -> Decision {
    let refusal = match (facts.connector, facts.cursor, view) {
        (Connector::Missing, _, _) => Some(Reason::NoConnector),
        (_, CursorPlace::OnPlane | CursorPlace::InScene, View::WithoutCursor) => {
            Some(Reason::CursorInPicture)
        }
        (Connector::Suspect, _, _) => Some(Reason::ConnectorSuspect),
        (Connector::Trusted, CursorPlace::Hidden, _)
        | (Connector::Trusted, CursorPlace::OnPlane | CursorPlace::InScene, View::WithCursor) => {
            None
        }
    };
    let rendered = |reason| match facts.can_render {
        true => Decision {
            producer: Some(Producer::Render),
            reason,
        },
        false => Decision {
            producer: None,
            reason: Reason::CannotRender,
        },
    };
    match (facts.policy, refusal) {
        (ProducerChoice::Render, _) => rendered(Reason::Configured),
        (ProducerChoice::Auto | ProducerChoice::Writeback, None) => Decision {
            producer: Some(Producer::Writeback),
            reason: Reason::ConnectorWorks,
        },
        (ProducerChoice::Auto, Some(reason)) => rendered(reason),
        (ProducerChoice::Writeback, Some(reason)) => Decision {
            producer: None,
            reason,
        },
    }
}

/// Remembers what was said, so that each change is said once.
#[derive(Debug, Default)]
pub struct Reporter {
    said: PerView<Option<Decision>>,
}

impl Reporter {
    /// Whether this is to be said: it is not what was said last about the view.
    pub fn is_news(&mut self, view: View, decision: Decision) -> bool {
        self.said.get_mut(view).replace(decision) != Some(decision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = Facts> {
        let policies = [
            ProducerChoice::Auto,
            ProducerChoice::Writeback,
            ProducerChoice::Render,
        ];
        let connectors = [Connector::Trusted, Connector::Suspect, Connector::Missing];
        let cursors = [
            CursorPlace::Hidden,
            CursorPlace::OnPlane,
            CursorPlace::InScene,
        ];
        policies.into_iter().flat_map(move |policy| {
            connectors.into_iter().flat_map(move |connector| {
                cursors.into_iter().flat_map(move |cursor| {
                    [true, false].into_iter().map(move |can_render| Facts {
                        policy,
                        connector,
                        cursor,
                        can_render,
                    })
                })
            })
        })
    }

    #[test]
    fn writeback_is_a_guarantee_and_never_a_stand_in() {
        for facts in all().filter(|facts| facts.policy == ProducerChoice::Writeback) {
            for view in View::ALL {
                assert_ne!(
                    decide(view, facts).producer,
                    Some(Producer::Render),
                    "{facts:?}"
                );
            }
        }
    }

    #[test]
    fn a_visible_cursor_is_never_written_into_a_view_without_it() {
        for facts in all().filter(|facts| facts.cursor != CursorPlace::Hidden) {
            let decision = decide(View::WithoutCursor, facts);
            assert_ne!(decision.producer, Some(Producer::Writeback), "{facts:?}");
        }
    }

    #[test]
    fn auto_always_has_a_producer_where_slots_can_be_written() {
        let auto = all().filter(|facts| facts.policy == ProducerChoice::Auto && facts.can_render);
        for facts in auto {
            for view in View::ALL {
                assert!(decide(view, facts).producer.is_some(), "{facts:?}");
            }
        }
    }

    #[test]
    fn only_a_trusted_connector_writes_and_auto_prefers_it() {
        for facts in all() {
            let decision = decide(View::WithCursor, facts);
            let writes = decision.producer == Some(Producer::Writeback);
            let trusted = facts.connector == Connector::Trusted;
            assert_eq!(
                writes,
                trusted && facts.policy != ProducerChoice::Render,
                "{facts:?}"
            );
        }
    }

    #[test]
    fn a_hidden_cursor_gives_both_views_the_same_producer() {
        for facts in all().filter(|facts| facts.cursor == CursorPlace::Hidden) {
            let [one, other] = View::ALL.map(|view| decide(view, facts));
            assert_eq!(one, other);
        }
    }

    #[test]
    fn each_change_is_said_once() {
        let mut reporter = Reporter::default();
        let render = Decision {
            producer: Some(Producer::Render),
            reason: Reason::NoConnector,
        };
        assert!(reporter.is_news(View::WithCursor, render));
        assert!(!reporter.is_news(View::WithCursor, render));
        assert!(reporter.is_news(View::WithoutCursor, render));
        let other = Decision {
            reason: Reason::ConnectorSuspect,
            ..render
        };
        assert!(reporter.is_news(View::WithCursor, other));
    }
}
