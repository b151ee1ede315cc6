//! Faults on purpose: the atomic ioctl that fails, and the fence that lies, when a test says so.
//!
//! The plan is a comma-separated list, for example
//! `commit:10=EBUSY,commit:20..30=EINVAL,fence:5=never,fence:7=error,fence:9=late250,copy:3=refused,modeset-writeback=EINVAL`:
//!
//! - `commit:N=ERRNO`, `commit:A..B=ERRNO`: the N-th (A-th to B-th, both included) frame commit of the device fails.
//!   Counting starts at 1; modesets and TEST_ONLY commits do not count.
//! - `test:N=ERRNO`, `modeset:N=ERRNO`: the same for TEST_ONLY commits and for real ALLOW_MODESET ones.
//! - `fence:N=never|error|lateMS`: the out-fence of the N-th writeback job never signals, signals with EIO, or signals MS
//!   milliseconds after its commit at the earliest. A range is possible here too.
//! - `copy:N=refused|never|error|lateMS`: the N-th copy that the GPU is to make fails at once, or its fence does as above.
//! - `window:N=never|error|lateMS`: the same for the N-th picture of a window that the GPU draws.
//! - `draw:N=never|error|lateMS`: the same for the N-th captured picture of a screen that the GPU draws.
//! - `job:N=ERRNO`: the N-th frame commit that carries a writeback job fails. (It counts as a commit, too.)
//! - `scene:N=refused`: the N-th picture of a screen cannot be drawn.
//! - `ring:N=refused`: there is no memory for the N-th capture ring of a screen.
//! - `modeset-writeback=ERRNO`: every request that attaches a writeback connector fails, as on kernels whose clone check
//!   refuses it.
//! - `cursor=ERRNO`: every request that shows something on a cursor plane fails, TEST_ONLY ones as well;
//!   `cursor-commit=ERRNO`: only real ones, as with a driver whose TEST_ONLY promises too much.
//!
//! ERRNO is one of EBUSY, EINVAL, ENOMEM, EACCES, ENODEV, ENOSPC.

use std::{
    ops::RangeInclusive,
    os::fd::OwnedFd,
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use drm::control::AtomicCommitFlags;
use rustix::io::Errno;
use tracing::warn;

use super::{
    fence::{Fence, FenceFault},
    io::{CommitError, KmsIo},
    request::AtomicRequest,
};

/// What a fault plan does not understand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("fault plan: `{word}`: {why}. Valid are {VALID}")]
pub struct FaultPlanError {
    /// The part that was not understood.
    pub word: String,
    /// What is wrong with it.
    pub why: &'static str,
}

const VALID: &str = "commit:N=ERRNO, commit:A..B=ERRNO, test:N=ERRNO, modeset:N=ERRNO, \
                     fence:N=never|error|lateMS, copy:N=refused|never|error|lateMS, \
                     window:N=never|error|lateMS, draw:N=never|error|lateMS, job:N=ERRNO, scene:N=refused, ring:N=refused, modeset-writeback=ERRNO, \
                     cursor=ERRNO, cursor-commit=ERRNO, separated by commas, with ERRNO one of EBUSY, EINVAL, ENOMEM, EACCES, ENODEV, ENOSPC";

type Rules<T> = Vec<(RangeInclusive<u64>, T)>;

/// What goes wrong with a copy that the GPU makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyFault {
    /// The driver does not take it.
    Refused,
    /// Its fence lies.
    Fence(FenceFault),
}

/// Which commits and fences shall go wrong. Empty: none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FaultPlan {
    commits: Rules<Errno>,
    tests: Rules<Errno>,
    modesets: Rules<Errno>,
    fences: Rules<FenceFault>,
    copies: Rules<CopyFault>,
    windows: Rules<FenceFault>,
    drawings: Rules<FenceFault>,
    jobs: Rules<Errno>,
    scenes: Rules<()>,
    rings: Rules<()>,
    modeset_writeback: Option<Errno>,
    cursor: Option<Errno>,
    cursor_commit: Option<Errno>,
}

impl FaultPlan {
    /// The plan in the environment variable `name`; empty if it is not set.
    ///
    /// # Errors
    /// [`FaultPlanError`] names the word and what is valid.
    pub fn from_env(name: &str) -> Result<Self, FaultPlanError> {
        match std::env::var_os(name) {
            None => Ok(Self::default()),
            Some(value) => value.to_string_lossy().parse(),
        }
    }

    /// What is planned for the n-th copy of the GPU, counted from 1.
    pub fn copy(&self, n: u64) -> Option<CopyFault> {
        planned(&self.copies, n)
    }

    /// What is planned for the n-th picture of a window, counted from 1.
    pub fn window(&self, n: u64) -> Option<FenceFault> {
        planned(&self.windows, n)
    }

    /// What is planned for the n-th captured picture of a screen, counted from 1.
    pub fn drawing(&self, n: u64) -> Option<FenceFault> {
        planned(&self.drawings, n)
    }

    /// Whether the n-th picture of a screen is not to be drawn, counted from 1.
    pub fn scene(&self, n: u64) -> bool {
        planned(&self.scenes, n).is_some()
    }

    /// Whether there is to be no memory for the n-th ring of a screen, counted from 1.
    pub fn ring(&self, n: u64) -> bool {
        planned(&self.rings, n).is_some()
    }

    /// Whether nothing is planned.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl FromStr for FaultPlan {
    type Err = FaultPlanError;

    fn from_str(text: &str) -> Result<Self, FaultPlanError> {
        let mut plan = Self::default();
        for word in text
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty())
        {
            plan.add(word).map_err(|why| FaultPlanError {
                word: word.to_owned(),
                why,
            })?;
        }
        Ok(plan)
    }
}

impl FaultPlan {
    fn add(&mut self, word: &str) -> Result<(), &'static str> {
        let (what, effect) = word.split_once('=').ok_or("there is no `=`")?;
        let always = match what {
            "modeset-writeback" => Some(&mut self.modeset_writeback),
            "cursor" => Some(&mut self.cursor),
            "cursor-commit" => Some(&mut self.cursor_commit),
            _ => None,
        };
        if let Some(always) = always {
            *always = Some(errno(effect)?);
            return Ok(());
        }
        let (what, which) = what.split_once(':').ok_or("unknown word before `=`")?;
        let which = range(which)?;
        match what {
            "commit" => self.commits.push((which, errno(effect)?)),
            "test" => self.tests.push((which, errno(effect)?)),
            "modeset" => self.modesets.push((which, errno(effect)?)),
            "fence" => self.fences.push((which, fence_fault(effect)?)),
            "job" => self.jobs.push((which, errno(effect)?)),
            "ring" if effect == "refused" => self.rings.push((which, ())),
            "scene" if effect == "refused" => self.scenes.push((which, ())),
            "draw" => self.drawings.push((which, fence_fault(effect)?)),
            "window" => self.windows.push((which, fence_fault(effect)?)),
            "copy" if effect == "refused" => self.copies.push((which, CopyFault::Refused)),
            "copy" => self
                .copies
                .push((which, CopyFault::Fence(fence_fault(effect)?))),
            _ => return Err("unknown word before `:`"),
        }
        Ok(())
    }
}

fn range(text: &str) -> Result<RangeInclusive<u64>, &'static str> {
    const NUMBER: &str = "a number from 1 or a range A..B is needed after `:`";
    let number = |text: &str| match text.parse::<u64>() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err(NUMBER),
    };
    match text.split_once("..") {
        None => number(text).map(|n| n..=n),
        Some((a, b)) => {
            let (a, b) = (number(a)?, number(b)?);
            if a > b {
                return Err("the range ends before it begins");
            }
            Ok(a..=b)
        }
    }
}

fn errno(text: &str) -> Result<Errno, &'static str> {
    Ok(match text {
        "EBUSY" => Errno::BUSY,
        "EINVAL" => Errno::INVAL,
        "ENOMEM" => Errno::NOMEM,
        "EACCES" => Errno::ACCESS,
        "ENODEV" => Errno::NODEV,
        "ENOSPC" => Errno::NOSPC,
        _ => return Err("unknown ERRNO after `=`"),
    })
}

fn fence_fault(text: &str) -> Result<FenceFault, &'static str> {
    match text {
        "never" => Ok(FenceFault::Never),
        "error" => Ok(FenceFault::Error),
        late => late
            .strip_prefix("late")
            .and_then(|ms| ms.parse().ok())
            .map(|ms| FenceFault::Late(Duration::from_millis(ms)))
            .ok_or("a fence can be never, error or lateMS (milliseconds)"),
    }
}

fn planned<T: Copy>(rules: &Rules<T>, n: u64) -> Option<T> {
    rules
        .iter()
        .find(|(range, _)| range.contains(&n))
        .map(|&(_, effect)| effect)
}

/// A [`KmsIo`] that follows a [`FaultPlan`] and otherwise hands on to the real one.
#[derive(Debug)]
pub struct FaultyIo<I> {
    real: I,
    plan: FaultPlan,
    commits: AtomicU64,
    tests: AtomicU64,
    modesets: AtomicU64,
    jobs: AtomicU64,
    fences: AtomicU64,
}

impl<I> FaultyIo<I> {
    /// Wraps `real`.
    pub fn new(real: I, plan: FaultPlan) -> Self {
        warn!(target: "vitrine::kms", ?plan, "faults are injected into the display device");
        Self {
            real,
            plan,
            commits: AtomicU64::new(0),
            tests: AtomicU64::new(0),
            modesets: AtomicU64::new(0),
            jobs: AtomicU64::new(0),
            fences: AtomicU64::new(0),
        }
    }

    fn fault(&self, request: &AtomicRequest, flags: AtomicCommitFlags) -> Option<Errno> {
        if let (true, Some(errno)) = (request.attaches_writeback, self.plan.modeset_writeback) {
            return Some(errno);
        }
        let is_test = flags.contains(AtomicCommitFlags::TEST_ONLY);
        if request.shows_cursor {
            let real = self.plan.cursor_commit.filter(|_| !is_test);
            if let Some(errno) = self.plan.cursor.or(real) {
                return Some(errno);
            }
        }
        let next = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed) + 1;
        let job = request.out_fence.map(|_| next(&self.jobs));
        let (rules, counter) = if is_test {
            (&self.plan.tests, &self.tests)
        } else if flags.contains(AtomicCommitFlags::ALLOW_MODESET) {
            (&self.plan.modesets, &self.modesets)
        } else {
            (&self.plan.commits, &self.commits)
        };
        let commit = planned(rules, next(counter));
        job.and_then(|job| planned(&self.plan.jobs, job)).or(commit)
    }
}

impl<I: KmsIo> KmsIo for FaultyIo<I> {
    fn commit(
        &self,
        request: &AtomicRequest,
        flags: AtomicCommitFlags,
    ) -> Result<Option<OwnedFd>, CommitError> {
        match self.fault(request, flags) {
            Some(errno) => Err(CommitError::from_errno(errno)),
            None => self.real.commit(request, flags),
        }
    }

    fn fence(&self, fd: OwnedFd) -> Fence {
        let n = self.fences.fetch_add(1, Ordering::Relaxed) + 1;
        let Some(fault) = planned(&self.plan.fences, n) else {
            return self.real.fence(fd);
        };
        match fd
            .try_clone()
            .map_err(|_| Errno::MFILE)
            .and_then(|fd| Fence::with_fault(fd, fault))
        {
            Ok(fence) => fence,
            Err(errno) => {
                warn!(target: "vitrine::kms", %errno, "a planned fence fault could not be made");
                self.real.fence(fd)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_documented_example_is_understood() {
        let plan: FaultPlan = "commit:10=EBUSY,commit:20..30=EINVAL,fence:5=never,fence:7=error,\
                               fence:9=late250,copy:3=refused,copy:4..5=never,window:1=error,draw:2=never,modeset-writeback=EINVAL,\
                               job:6=ENOMEM,scene:3=refused,ring:2=refused,cursor=EINVAL,cursor-commit=ENOSPC"
            .parse()
            .unwrap();
        assert_eq!(planned(&plan.commits, 10), Some(Errno::BUSY));
        assert_eq!(planned(&plan.commits, 11), None);
        assert_eq!(planned(&plan.commits, 30), Some(Errno::INVAL));
        assert_eq!(planned(&plan.commits, 31), None);
        assert_eq!(
            planned(&plan.fences, 9),
            Some(FenceFault::Late(Duration::from_millis(250)))
        );
        assert_eq!(plan.copy(3), Some(CopyFault::Refused));
        assert_eq!(plan.copy(5), Some(CopyFault::Fence(FenceFault::Never)));
        assert_eq!(plan.copy(6), None);
        assert_eq!(plan.window(1), Some(FenceFault::Error));
        assert_eq!(plan.drawing(2), Some(FenceFault::Never));
        assert_eq!(plan.modeset_writeback, Some(Errno::INVAL));
        assert_eq!(planned(&plan.jobs, 6), Some(Errno::NOMEM));
        assert!(plan.scene(3) && !plan.scene(4));
        assert!(plan.ring(2) && !plan.ring(3));
        assert_eq!(plan.cursor, Some(Errno::INVAL));
        assert_eq!(plan.cursor_commit, Some(Errno::NOSPC));
    }

    #[test]
    fn an_unknown_word_says_what_is_valid() {
        for word in [
            "nonsense",
            "commit:0=EBUSY",
            "commit:5..2=EBUSY",
            "commit:1=EWHAT",
            "fence:1=soon",
            "x:1=EBUSY",
        ] {
            let error = word.parse::<FaultPlan>().unwrap_err();
            assert_eq!(error.word, word);
            assert!(
                error.to_string().contains("fence:N=never|error|lateMS"),
                "{error}"
            );
        }
    }

    #[test]
    fn nothing_planned_is_an_empty_plan() {
        assert!(" , ".parse::<FaultPlan>().unwrap().is_empty());
        assert!(FaultPlan::from_env("VITRINE_A_NAME_THAT_NOBODY_SETS")
            .unwrap()
            .is_empty());
    }
}
