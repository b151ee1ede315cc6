//! What a commit of one screen shows: draws the scene's damage into the next scanout buffer, and places the pointer and the mark.
//!
//! It must not know jobs or captures; `screen` commits what comes from here.

use std::sync::Arc;

use smithay::{backend::renderer::sync::SyncPoint, utils::Transform};

use super::{
    feedback,
    pointer::LocalPointer,
    screen::{Picture, Screen, RETRY_REFRESHES},
    StepContext,
};
use crate::{
    config::Indicator,
    geometry::Rect,
    kms::CommitError,
    render::{Drawn, RenderError},
};

impl Screen {
    /// Draws the scene and places the pointer. `None`: nothing is new and nothing is forced.
    pub(super) fn draw(&mut self, context: &mut StepContext<'_>, force: bool) -> Option<Picture> {
        let moved = self.place_cursor(context);
        let mut drawn = None;
        let mut owed = false;
        // Before the draw: one that fails is to be tried again.
        if std::mem::take(&mut self.scene_dirty) || self.chain.latest().is_none() {
            drawn = self.draw_scene(context);
            self.look_again = self
                .scene
                .is_incomplete()
                .then_some(context.now + self.refresh);
            owed = drawn.is_none() && feedback::is_owed(context.shell, &self.output);
        }
        self.cursor_dirty = false;
        let waiting = self.uncommitted.take();
        let still = drawn.is_none() && moved.is_empty() && waiting.is_none() && !owed;
        if still && !force {
            return None;
        }
        let index = self.chain.latest()?;
        let mut changes = waiting.unwrap_or_default();
        let mut fence = None;
        if let Some(drawn) = drawn {
            self.cover.drawn = context.shell.curtain().is_some();
            fence = in_fence(&drawn.sync);
            changes.scene.extend(drawn.damage);
            changes.bare.extend(drawn.bare_damage);
            self.untold = Some(drawn.states);
        } else if owed {
            self.untold.get_or_insert_default();
        }
        changes.cursor.extend(moved);
        let cursor = self.cursor_surface.as_ref();
        self.callbacks.take(context.shell, &self.output, cursor);
        Some(Picture {
            index,
            changes,
            still,
            fence,
            cursor: self.shown_cursor.clone(),
        })
    }

    fn draw_scene(&mut self, context: &mut StepContext<'_>) -> Option<Drawn> {
        let sprite = match self.drawn_cursor {
            true => self
                .local_pointer(context)
                .and_then(|pointer| pointer.sprite()),
            false => None,
        };
        self.scenes += 1;
        let drawn = match context.faults.scene(self.scenes) {
            false => self.draw_next(context, sprite.as_ref()),
            true => {
                self.redraw_all();
                Err(RenderError::Draw("a planned fault".to_owned()))
            }
        };
        match drawn {
            Ok(drawn) => {
                self.draw_failed = false;
                drawn
            }
            Err(error) => {
                if !std::mem::replace(&mut self.draw_failed, true) {
                    tracing::error!(target: "vitrine::render", output = %self.output.name(), %error, "the scene could not be drawn; trying again");
                }
                self.retry_at = Some(context.now + self.refresh * RETRY_REFRESHES);
                None
            }
        }
    }

    /// The mark comes with the first session and goes with the last.
    pub(super) fn place_mark(&mut self, context: &StepContext<'_>) {
        let marked = context.indicator == Indicator::Mark && context.capture.has_sessions();
        if marked != self.marked {
            self.marked = marked;
            self.scene_dirty = true;
        }
    }

    pub(super) fn local_pointer(&self, context: &StepContext<'_>) -> Option<LocalPointer> {
        let area = context.shell.space.output_geometry(&self.output)?;
        let scale = self.output.current_scale().fractional_scale();
        LocalPointer::on(context.pointer?, area, scale)
    }

    /// Decides how the pointer is shown; returns what of the screen the cursor plane changes.
    fn place_cursor(&mut self, context: &StepContext<'_>) -> Vec<Rect> {
        if !self.cursor_dirty {
            return Vec::new();
        }
        let pointer = self.local_pointer(context);
        self.cursor_surface = pointer.as_ref().and_then(|pointer| pointer.surface.clone());
        let before = self.shown_cursor.take();
        let mut given_up = None;
        let upright = self.output.current_transform() == Transform::Normal;
        if let (Some(plane), Some(pointer)) = (self.cursor.as_mut().filter(|_| upright), &pointer) {
            if let Some(picture) = pointer
                .picture
                .as_ref()
                .filter(|picture| plane.fits(picture))
            {
                match plane.show(picture, pointer.corner(&self.output)) {
                    Ok(shown) => self.shown_cursor = Some(shown),
                    Err(error) => {
                        tracing::warn!(target: "vitrine::output", %error, "the cursor plane cannot be written; the pointer is drawn");
                        given_up = before.as_ref().map(|before| plane.area(before));
                        self.cursor = None;
                    }
                }
            }
        }
        let drawn = pointer.is_some() && self.shown_cursor.is_none();
        if drawn || self.drawn_cursor {
            self.scene_dirty = true;
        }
        self.drawn_cursor = drawn;
        let Some(plane) = self.cursor.as_ref() else {
            return given_up.into_iter().collect();
        };
        let same = match (&before, &self.shown_cursor) {
            (Some(a), Some(b)) => a.at == b.at && Arc::ptr_eq(&a.framebuffer, &b.framebuffer),
            (None, None) => true,
            _ => false,
        };
        if same {
            return Vec::new();
        }
        [&before, &self.shown_cursor]
            .into_iter()
            .flatten()
            .map(|shown| plane.area(shown))
            .collect()
    }

    /// Whether it is the pointer on its plane that the display controller does not take.
    pub(super) fn blames_cursor(&self, picture: &Picture, error: &CommitError) -> bool {
        if picture.cursor.is_none() || !error.is_about_configuration() {
            return false;
        }
        let mut frame = self.frame_state(picture);
        let refused = self.pipeline.test(&frame, None).is_err();
        frame.cursor = None;
        refused && self.pipeline.test(&frame, None).is_ok()
    }

    /// The pointer is drawn into the picture from now on. What its plane shows yet is part of what the next commit changes.
    pub(super) fn give_up_cursor_plane(&mut self, error: &CommitError) {
        tracing::warn!(target: "vitrine::output", output = %self.output.name(), %error, "the display controller refuses the cursor plane; the pointer is drawn");
        let (plane, shown) = (self.cursor.take(), self.shown_cursor.take());
        let area = plane.zip(shown).map(|(plane, shown)| plane.area(&shown));
        let changes = self.uncommitted.get_or_insert_default();
        changes.cursor.extend(area);
        self.cursor_dirty = true;
        (self.failures, self.retry_at) = (0, None);
    }
}

/// The renderer's fence for the plane, where it has not signalled and the driver can wait for it.
fn in_fence(sync: &SyncPoint) -> Option<std::os::fd::OwnedFd> {
    if sync.is_reached() {
        return None;
    }
    sync.export()
}
