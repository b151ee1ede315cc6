//! What can be captured, and where its frames come from.

use std::sync::Arc;

use smithay::{
    output::{Output, WeakOutput},
    utils::Transform,
};

use crate::{
    capture::{FrameFormat, OutputCapture},
    protocols::CaptureHandler,
};

/// What a copy session captures. Each has frames of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CaptureSource {
    /// All that an output shows.
    Output(Output),
    /// The pointer's picture while it is on an output.
    Cursor(Output),
    /// One window, by its identifier in ext-foreign-toplevel-list.
    Toplevel(Arc<str>),
}

impl CaptureSource {
    /// Its sessions and frames; `None` once it is gone.
    pub(super) fn capture<'a, D: CaptureHandler>(
        &self,
        state: &'a mut D,
    ) -> Option<&'a mut OutputCapture> {
        match self {
            CaptureSource::Output(output) => state.capture_output(output),
            CaptureSource::Cursor(output) => state.capture_protocols().copy.cursor_of(output),
            CaptureSource::Toplevel(identifier) => state.capture_toplevel(identifier),
        }
    }

    /// How its frames look; `None` while it has no buffers or is gone.
    pub(super) fn format<D: CaptureHandler>(&self, state: &mut D) -> Option<FrameFormat> {
        self.capture(state)?.format()
    }

    /// Something was requested or given back.
    pub(super) fn wanted<D: CaptureHandler>(&self, state: &mut D) {
        match self {
            CaptureSource::Output(output) | CaptureSource::Cursor(output) => {
                state.capture_wanted(output);
            }
            CaptureSource::Toplevel(identifier) => state.toplevel_wanted(identifier),
        }
    }

    /// For the log.
    pub(super) fn name(&self) -> String {
        match self {
            CaptureSource::Output(output) => output.name(),
            CaptureSource::Cursor(output) => format!("cursor on {}", output.name()),
            CaptureSource::Toplevel(identifier) => format!("toplevel {identifier}"),
        }
    }

    /// What was applied to the picture. Pointers and windows are drawn upright.
    pub(super) fn transform(&self) -> Transform {
        match self {
            CaptureSource::Output(output) => output.current_transform(),
            CaptureSource::Cursor(_) | CaptureSource::Toplevel(_) => Transform::Normal,
        }
    }

    /// Width and height that its frames will have, while it has no buffers yet.
    pub(super) fn coming_size(&self) -> Option<(u32, u32)> {
        match self {
            CaptureSource::Output(output) => {
                let size = output.current_mode()?.size;
                Some((u32::try_from(size.w).ok()?, u32::try_from(size.h).ok()?))
            }
            CaptureSource::Cursor(_) | CaptureSource::Toplevel(_) => None,
        }
    }

    /// Whether the display controller may write a client's buffer instead of ours: the picture is the controller's, and as it
    /// is.
    pub(super) fn takes_passthrough(&self) -> bool {
        matches!(self, CaptureSource::Output(_)) && self.transform() == Transform::Normal
    }

    /// Whether clients may bring dma-bufs. Not for the few pixels of a pointer.
    pub(super) fn takes_dmabufs(&self) -> bool {
        !matches!(self, CaptureSource::Cursor(_))
    }
}

/// A name for a source that does not keep it.
#[derive(Debug, Clone)]
pub(super) enum WeakSource {
    Output(WeakOutput),
    Toplevel(Arc<str>),
}

impl WeakSource {
    pub(super) fn upgrade(&self) -> Option<CaptureSource> {
        match self {
            WeakSource::Output(output) => output.upgrade().map(CaptureSource::Output),
            WeakSource::Toplevel(identifier) => Some(CaptureSource::Toplevel(identifier.clone())),
        }
    }
}
