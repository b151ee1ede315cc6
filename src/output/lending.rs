//! Scanout buffers as captured frames: where what is on the primary plane is the whole picture, it is leased itself.
//!
//! `chain` says whether the display can do without one more buffer for a while, `capture` when it may be drawn into again.
//! Descriptors of these buffers are with clients like those of a ring, and the display draws into them whether somebody
//! captures or not. So a buffer that was given away is not drawn into any more, but gets new memory first, when the ring
//! is renewed (the rights changed, the session was locked) and when nobody captures any longer. The old memory lives as long
//! as somebody keeps a descriptor of it. So that this is not without bound, nothing more is leased while clients keep as many
//! buffers as the screen has.

#[cfg(test)]
mod model;

use std::{sync::Arc, time::Duration};

use super::{
    chain::Chain,
    produce::RenderJob,
    scanout::{self, ReadableScanout, ScanoutBuffer},
    screen::{Picture, Screen},
    StepContext,
};
use crate::{
    capture::{self, CursorInFrame, FrameFormat, OutputCapture, SlotId, SlotMemory},
    render::{CursorSprite, Drawn, RenderError, Scene, Target},
    time::Time,
};

/// New memory costs the display some of its time. A client that begins and ends captures all the time shall not make it
/// spend that with each frame: after the end of all captures nothing is leased for a while, but copied.
const PAUSE: Duration = Duration::from_secs(1);

impl Screen {
    /// Takes back what was lent and is read by nobody any more.
    pub(super) fn take_back_lent(&mut self, capture: &mut OutputCapture, now: Time) {
        let buffers = &self.buffers;
        let is_exposed = |index: usize| buffers.get(index).is_some_and(|b| b.is_exposed());
        take_back(&mut self.chain, capture, is_exposed, now);
    }

    /// What was given away until now shows nothing more.
    pub(super) fn spend_exposed(&mut self) {
        let buffers = &self.buffers;
        let is_exposed = |index: usize| buffers.get(index).is_some_and(|b| b.is_exposed());
        spend(&mut self.chain, is_exposed);
    }

    /// Draws the scene, if it changed, into the next buffer. After a failure everything is to be drawn anew.
    pub(super) fn draw_next(
        &mut self,
        context: &mut StepContext<'_>,
        cursor: Option<&CursorSprite>,
    ) -> Result<Option<Drawn>, RenderError> {
        self.take_back_lent(context.capture, context.now);
        let scene = Scene {
            shell: context.shell,
            output: &self.output,
            cursor,
            mark: self.marked.then_some(&self.mark),
        };
        let (width, height) = self.mode.size();
        let size = (u32::from(width), u32::from(height));
        let memory = || scanout::allocate_one(&self.gbm, size, self.software);
        let (chain, buffers) = (&mut self.chain, &mut self.buffers);
        let given_away = &mut self.given_away;
        let retire = |old: ScanoutBuffer| {
            given_away.extend(Some(old).filter(ScanoutBuffer::is_kept_elsewhere));
        };
        let (mut used, mut failed) = (None, None);
        let drawn = context.renderer.draw(&scene, &mut self.scene, || {
            match next_buffer(chain, buffers, memory, retire) {
                Ok(next) => {
                    let (index, buffer, age) = next?;
                    used = Some(index);
                    let canvas = &mut buffer.canvas;
                    Some(Target { canvas, age })
                }
                Err(error) => {
                    failed = Some(RenderError::Draw(error.to_string()));
                    None
                }
            }
        });
        let drawn = failed.map_or(drawn, Err);
        match (&drawn, used) {
            (Ok(Some(_)), Some(index)) => self.chain.drawn(index),
            (Ok(_), _) => {}
            (Err(_), _) => self.redraw_all(),
        }
        drawn
    }

    /// Lends the picture that is about to be committed for a frame, if it is that frame and the display can do without it.
    pub(super) fn lend(
        &mut self,
        context: &mut StepContext<'_>,
        cursor: CursorInFrame,
        picture: &Picture,
    ) -> Option<RenderJob> {
        let memory = self.lendable(cursor, picture)?;
        if self.has_given_away_too_much() {
            self.chain.lend_nothing_until(context.now + PAUSE);
            return None;
        }
        self.take_back_lent(context.capture, context.now);
        let job = capture::JobId(self.next_job().0);
        let format = memory.format();
        let loan = Loan {
            index: picture.index,
            job,
            cursor,
            memory: (memory, format),
        };
        let slot = lend(&mut self.chain, context.capture, loan, context.now)?;
        Some(RenderJob {
            job,
            slot,
            cursor,
            lent: true,
        })
    }

    /// Looks only if it may be so.
    fn has_given_away_too_much(&mut self) -> bool {
        let limit = self.buffers.len();
        if self.given_away.len() >= limit {
            self.given_away.retain(ScanoutBuffer::is_kept_elsewhere);
        }
        self.given_away.len() >= limit
    }

    fn lendable(&self, cursor: CursorInFrame, picture: &Picture) -> Option<Arc<ReadableScanout>> {
        // A cursor on its plane is not in the buffer; one that was drawn is.
        let is_whole = match cursor {
            CursorInFrame::Absent => true,
            CursorInFrame::Shown => picture.cursor.is_none(),
            CursorInFrame::LeftOut => picture.cursor.is_some(),
        };
        let buffer = self.buffers.get(picture.index).filter(|_| is_whole)?;
        buffer.lendable().cloned()
    }
}

/// A buffer for a frame.
struct Loan {
    index: usize,
    job: capture::JobId,
    cursor: CursorInFrame,
    memory: (Arc<dyn SlotMemory>, FrameFormat),
}

fn lend(chain: &mut Chain, capture: &mut OutputCapture, loan: Loan, now: Time) -> Option<SlotId> {
    let Loan {
        index,
        job,
        cursor,
        memory,
    } = loan;
    if !chain.may_lend(index, now) && capture.unpin_unwatched(now) {
        chain.take_back(|job| capture.is_lent(job, now));
    }
    if !chain.may_lend(index, now) {
        return None;
    }
    let slot = capture.lend_view(job, cursor, memory, now).ok()?;
    chain.lend(index, job);
    Some(slot)
}

fn take_back(
    chain: &mut Chain,
    capture: &mut OutputCapture,
    is_exposed: impl Fn(usize) -> bool,
    now: Time,
) {
    chain.take_back(|job| capture.is_lent(job, now));
    let is_open = |index: usize| is_exposed(index) && !chain.is_spent(index);
    if !capture.is_watched() && (0..chain.len()).any(is_open) {
        // Nobody is told any more that this screen is looked at.
        capture.unpin_unwatched(now);
        spend(chain, is_exposed);
        chain.lend_nothing_until(now + PAUSE);
    }
}

/// What was given away shows nothing more: its buffers get new memory before they are drawn into. What is lent may just be
/// on its way to somebody.
fn spend(chain: &mut Chain, is_exposed: impl Fn(usize) -> bool) {
    for index in 0..chain.len() {
        if is_exposed(index) || chain.is_lent(index) {
            chain.spend(index);
        }
    }
}

/// The buffer to draw into and its age, with new memory if it is spent; what it had goes to `retire`. That it is spent and there is no memory is an error:
/// the display waits a moment, and nobody sees what is not for him.
fn next_buffer<'b, B, E>(
    chain: &mut Chain,
    buffers: &'b mut [B],
    memory: impl FnOnce() -> Result<B, E>,
    retire: impl FnOnce(B),
) -> Result<Option<(usize, &'b mut B, usize)>, E> {
    let Some((index, mut age)) = chain.next() else {
        return Ok(None);
    };
    let Some(buffer) = buffers.get_mut(index) else {
        return Ok(None);
    };
    if chain.is_spent(index) {
        retire(std::mem::replace(buffer, memory()?));
        chain.replaced(index);
        age = 0;
    }
    Ok(Some((index, buffer, age)))
}
