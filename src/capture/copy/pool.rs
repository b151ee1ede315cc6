//! The worker threads that copy.

use std::{
    collections::VecDeque,
    panic::{catch_unwind, AssertUnwindSafe},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tracing::error;

use crate::capture::{
    copy::{pixels::Plan, CopyError, CopyJob, CopyReport},
    output_capture::TARGET,
};

/// So many copies may wait. Each copy session has at most one, so that this is a bound on sessions that copy at once.
const MAX_WAITING: usize = 64;

/// So long does the end of the pool wait for copies that run. A copy can hang for ever in memory that a client
/// provides (a file on a network); the process must be able to end all the same.
const END_PATIENCE: Duration = Duration::from_millis(500);

/// Threads that copy frames. Dropping it refuses what waits, gives running copies half a second, and leaves a copy that
/// hangs to the end of the process.
#[derive(Debug)]
pub struct CopyPool {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<CopyJob>,
    workers: usize,
    closing: bool,
}

impl CopyPool {
    /// Starts up to `threads` workers, at least one; two are enough for most machines.
    ///
    /// # Errors
    /// The system lets us start not even one thread.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            ended: Condvar::new(),
        });
        let pool = Self { shared };
        for number in 0..threads.max(1) {
            let shared = Arc::clone(&pool.shared);
            pool.shared.lock().workers += 1;
            let name = format!("copy-{number}");
            let started = thread::Builder::new()
                .name(name)
                .spawn(move || shared.work());
            if let Err(error) = started {
                let mut state = pool.shared.lock();
                state.workers -= 1;
                if state.workers == 0 {
                    drop(state);
                    return Err(error);
                }
                break;
            }
        }
        Ok(pool)
    }

    /// Takes a copy. Never blocks: when too many wait already, the job's `done` is called at once with
    /// [`CopyError::Busy`].
    pub fn submit(&self, job: CopyJob) {
        let mut state = self.shared.lock();
        if state.closing || state.queue.len() >= MAX_WAITING {
            drop(state);
            job.finish(Err(CopyError::Busy));
            return;
        }
        state.queue.push_back(job);
        drop(state);
        self.shared.work.notify_one();
    }
}

impl Drop for CopyPool {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.shared.lock();
            state.closing = true;
            std::mem::take(&mut state.queue)
        };
        self.shared.work.notify_all();
        for job in waiting {
            job.finish(Err(CopyError::Busy));
        }
        let state = self.shared.lock();
        let running = |state: &mut State| state.workers > 0;
        // Whether they ended or hang, there is nothing more to do.
        drop(
            self.shared
                .ended
                .wait_timeout_while(state, END_PATIENCE, running),
        );
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Workers only die outside of the lock, so that poison says nothing about the state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(mut job) = self.next_job() {
            let result = catch_unwind(AssertUnwindSafe(|| copy(&mut job)));
            let result = result.unwrap_or_else(|_| {
                error!(target: TARGET, lease = ?job.lease, "a copy panicked");
                Err(CopyError::Panicked)
            });
            job.finish(result);
        }
        self.lock().workers -= 1;
        self.ended.notify_all();
    }

    /// Waits for the next job; `None` at the end of the pool.
    fn next_job(&self) -> Option<CopyJob> {
        let idle = |state: &mut State| state.queue.is_empty() && !state.closing;
        let state = self.lock();
        let mut state = self
            .work
            .wait_while(state, idle)
            .unwrap_or_else(PoisonError::into_inner);
        state.queue.pop_front()
    }
}

fn copy(job: &mut CopyJob) -> Result<CopyReport, CopyError> {
    if job.lease.is_void() {
        return Err(CopyError::Void);
    }
    let format = job.lease.frame().format;
    let area = job.area.unwrap_or_else(|| format.full());
    let plan = Plan::new(format, area, job.target.layout())?;
    let mut outcome = None;
    let mut target_outcome = Ok(());
    let (target, rects) = (&mut job.target, &job.rects);
    job.lease.memory().read(&mut |source| {
        target_outcome = target.with_bytes(&mut |bytes| {
            outcome = Some(plan.run(source, bytes, rects));
        });
    })?;
    target_outcome?;
    outcome.unwrap_or_else(|| {
        Err(CopyError::Io(std::io::Error::other(
            "the memory of the frame or the buffer was not given",
        )))
    })
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CopyPool").finish_non_exhaustive()
    }
}
