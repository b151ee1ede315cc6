//! Counters of what was asked of the kernel, per CRTC. They only grow.
//!
//! Tests and `vitrine msg` read them; nothing decides by them.

use std::{collections::HashMap, sync::Mutex};

use drm::control::crtc;

use super::io::CommitError;

/// Counters of one CRTC since the device was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CrtcStats {
    /// Successful commits that changed something (all but TEST_ONLY).
    pub commits: u64,
    /// Of these, the ones with ALLOW_MODESET.
    pub modesets: u64,
    /// TEST_ONLY commits, successful or not.
    pub tests: u64,
    /// Writeback jobs queued.
    pub jobs: u64,
    /// Page flip events received.
    pub flips: u64,
    /// Commits (not tests) that the kernel refused, without the next two.
    pub refused: u64,
    /// Commits refused with EBUSY.
    pub busy: u64,
    /// Commits refused because we are not DRM master; expected around a VT switch.
    pub not_master: u64,
}

/// A copy of all counters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// By CRTC.
    pub crtcs: HashMap<crtc::Handle, CrtcStats>,
}

impl Stats {
    /// The counters of `crtc`; zeros if nothing was done with it.
    pub fn of(&self, crtc: crtc::Handle) -> CrtcStats {
        self.crtcs.get(&crtc).copied().unwrap_or_default()
    }
}

/// What a commit was for, as far as counting goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    Test,
    Modeset,
    Frame { job: bool },
}

/// The live counters, shared by the device and its pipelines.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<Stats>);

impl Counters {
    fn with(&self, crtc: crtc::Handle, change: impl FnOnce(&mut CrtcStats)) {
        let mut stats = self
            .0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        change(stats.crtcs.entry(crtc).or_default());
    }

    pub(crate) fn flip(&self, crtc: crtc::Handle) {
        self.with(crtc, |c| c.flips += 1);
    }

    pub(crate) fn commit<T>(
        &self,
        crtc: crtc::Handle,
        what: Counted,
        result: &Result<T, CommitError>,
    ) {
        self.with(crtc, |c| match (what, result) {
            (Counted::Test, _) => c.tests += 1,
            (Counted::Modeset, Ok(_)) => {
                c.commits += 1;
                c.modesets += 1;
            }
            (Counted::Frame { job }, Ok(_)) => {
                c.commits += 1;
                c.jobs += u64::from(job);
            }
            (_, Err(CommitError::Busy)) => c.busy += 1,
            (_, Err(CommitError::NotMaster)) => c.not_master += 1,
            (_, Err(_)) => c.refused += 1,
        });
    }

    pub(crate) fn read(&self) -> Stats {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clone()
    }
}
