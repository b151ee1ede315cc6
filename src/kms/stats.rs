//! Counters of what was asked of the kernel, per CRTC. They only grow.
//!
//! Tests and `vitrine msg` read them; nothing decides by them.

use std::{collections::HashMap, sync::Mutex};

use drm::control::{crtc, AtomicCommitFlags};

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

    /// Counts a commit by what the kernel was asked: its flags, and whether it has a job. What its maker meant it to be
    /// is not asked, so that a frame with ALLOW_MODESET would be seen.
    pub(crate) fn commit<T>(
        &self,
        crtc: crtc::Handle,
        flags: AtomicCommitFlags,
        job: bool,
        result: &Result<T, CommitError>,
    ) {
        let is_test = flags.contains(AtomicCommitFlags::TEST_ONLY);
        let is_modeset = flags.contains(AtomicCommitFlags::ALLOW_MODESET);
        self.with(crtc, |c| match result {
            _ if is_test => c.tests += 1,
            Ok(_) => {
                c.commits += 1;
                c.modesets += u64::from(is_modeset);
                c.jobs += u64::from(job);
            }
            Err(CommitError::Busy) => c.busy += 1,
            Err(CommitError::NotMaster) => c.not_master += 1,
            Err(_) => c.refused += 1,
        });
    }

    pub(crate) fn read(&self) -> Stats {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clone()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const FRAME: AtomicCommitFlags =
        AtomicCommitFlags::NONBLOCK.union(AtomicCommitFlags::PAGE_FLIP_EVENT);
    const MODESET: AtomicCommitFlags = AtomicCommitFlags::ALLOW_MODESET;
    const TEST: AtomicCommitFlags = AtomicCommitFlags::TEST_ONLY;

    fn counted(commits: &[(AtomicCommitFlags, bool, Result<(), CommitError>)]) -> CrtcStats {
        let crtc = drm::control::from_u32(7).unwrap();
        let counters = Counters::default();
        for (flags, job, result) in commits {
            counters.commit(crtc, *flags, *job, result);
        }
        counters.read().of(crtc)
    }

    #[test]
    fn a_modeset_is_what_has_the_flag_and_is_no_test() {
        let stats = counted(&[
            (MODESET, false, Ok(())),
            (FRAME, true, Ok(())),
            (TEST | MODESET, false, Ok(())),
            (TEST, false, Err(CommitError::NoMemory)),
        ]);
        assert_eq!((stats.commits, stats.modesets), (2, 1));
        assert_eq!((stats.tests, stats.jobs, stats.refused), (2, 1, 0));
    }

    #[test]
    fn a_frame_that_may_set_a_mode_does_not_hide_among_the_frames() {
        let stats = counted(&[(MODESET, false, Ok(())), (FRAME | MODESET, true, Ok(()))]);
        assert_eq!((stats.commits, stats.modesets, stats.jobs), (2, 2, 1));
    }

    #[test]
    fn what_the_kernel_refuses_is_counted_by_its_reason_alone() {
        let stats = counted(&[
            (MODESET, false, Err(CommitError::Busy)),
            (FRAME, true, Err(CommitError::NotMaster)),
            (FRAME, true, Err(CommitError::NoMemory)),
        ]);
        let expected = CrtcStats {
            busy: 1,
            not_master: 1,
            refused: 1,
            ..Default::default()
        };
        assert_eq!(stats, expected);
    }
}
