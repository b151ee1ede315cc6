//! The mark on a screen that somebody captures.

use smithay::{
    backend::renderer::element::{solid::SolidColorRenderElement, Id, Kind},
    output::Output,
    utils::{Physical, Rectangle},
};

use smithay::backend::renderer::{utils::CommitCounter, Color32F};

/// Pixels on each side; small, but two columns of a character on a text screen.
pub const MARK_SIDE: i32 = 8;

/// Opaque red: no desktop draws a square of it in this corner.
const RED: Color32F = Color32F::new(1.0, 0.0, 0.0, 1.0);

/// A red square in the top right corner, above all windows. One per screen, so that the damage tracker knows it again.
#[derive(Debug, Clone)]
pub struct Mark(Id);

impl Default for Mark {
    fn default() -> Self {
        Self(Id::new())
    }
}

impl Mark {
    pub(super) fn element(&self, output: &Output) -> Option<SolidColorRenderElement> {
        let mode = output.current_mode()?.size;
        let size = output.current_transform().transform_size(mode);
        let area: Rectangle<i32, Physical> = Rectangle::new(
            ((size.w - MARK_SIDE).max(0), 0).into(),
            (MARK_SIDE, MARK_SIDE).into(),
        );
        Some(SolidColorRenderElement::new(
            self.0.clone(),
            area,
            CommitCounter::default(),
            RED,
            Kind::Unspecified,
        ))
    }
}
