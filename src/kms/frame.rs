//! What a CRTC shall show, and how that becomes part of a request.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
};

use drm::control::plane;

use super::{
    framebuffer::Framebuffer,
    io::CommitError,
    pipeline_io::Pipeline,
    props::PlaneProps,
    request::{AtomicRequest, Placement, SourceRect},
    saved::Blob,
};
use crate::geometry::Rect;

/// What one plane shows.
#[derive(Debug, Clone)]
pub struct PlaneUpdate {
    /// The picture.
    pub fb: Arc<Framebuffer>,
    /// Part of it: x, y, width, height in pixels of the framebuffer, fractions allowed.
    pub source: (f64, f64, f64, f64),
    /// Where on the screen, in pixels of the mode.
    pub target: Rect,
    /// The hardware waits for this sync_file before it reads the picture.
    pub in_fence: Option<Arc<OwnedFd>>,
    /// What changed since the plane's last picture, in pixels of the framebuffer; none: all of it.
    pub damage: Option<Vec<Rect>>,
    /// Click point, for a cursor.
    pub hotspot: Option<(i32, i32)>,
}

impl PlaneUpdate {
    /// The whole framebuffer, pixel by pixel, with its top left corner at `at`.
    pub fn whole(fb: Arc<Framebuffer>, at: (i32, i32)) -> Self {
        let (w, h) = fb.size();
        let side = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        Self {
            fb,
            source: (0.0, 0.0, f64::from(w), f64::from(h)),
            target: Rect::new(at.into(), (side(w), side(h)).into()),
            in_fence: None,
            damage: None,
            hotspot: None,
        }
    }
}

/// What the CRTC shall show. Planes of the pipeline that are not named are taken off.
#[derive(Debug, Clone)]
pub struct FrameState {
    /// On the primary plane.
    pub primary: PlaneUpdate,
    /// On the cursor plane.
    pub cursor: Option<PlaneUpdate>,
    /// On overlay planes.
    pub overlays: Vec<(plane::Handle, PlaneUpdate)>,
}

impl FrameState {
    /// Only a primary plane.
    pub fn primary(update: PlaneUpdate) -> Self {
        Self {
            primary: update,
            cursor: None,
            overlays: Vec::new(),
        }
    }

    pub(crate) fn framebuffers(&self) -> Vec<Arc<Framebuffer>> {
        [&self.primary]
            .into_iter()
            .chain(&self.cursor)
            .chain(self.overlays.iter().map(|(_, update)| update))
            .map(|update| update.fb.clone())
            .collect()
    }
}

impl Pipeline {
    /// A commit of this frame was taken.
    pub(crate) fn show(&mut self, frame: &FrameState) {
        self.shown.clear();
        self.shown.push(self.planes.primary);
        if frame.cursor.is_some() {
            self.shown.extend(self.planes.cursor);
        }
        self.shown
            .extend(frame.overlays.iter().map(|(plane, _)| *plane));
        self.last = Some(frame.clone());
    }

    /// Fills in the planes that show something, or did until now. The others are not named: each plane of a commit costs the
    /// kernel work, and one that is off is not done before the commit that names it is, which may be after its flip event.
    /// The blobs must live until the commit returned.
    pub(crate) fn fill(
        &self,
        request: &mut AtomicRequest,
        frame: &FrameState,
    ) -> Result<Vec<Blob>, CommitError> {
        let mut blobs = Vec::new();
        for plane in self.planes.all() {
            let Some(props) = self.plane_props.get(&plane) else {
                continue;
            };
            let update = if plane == self.planes.primary {
                Some(&frame.primary)
            } else if Some(plane) == self.planes.cursor {
                request.shows_cursor = frame.cursor.is_some();
                frame.cursor.as_ref()
            } else {
                frame
                    .overlays
                    .iter()
                    .find(|(id, _)| *id == plane)
                    .map(|(_, update)| update)
            };
            match update {
                Some(update) => blobs.extend(self.place(request, props, update)?),
                None if self.shown.contains(&plane) => {
                    request.hide(props);
                }
                None => {}
            }
        }
        Ok(blobs)
    }

    fn place(
        &self,
        request: &mut AtomicRequest,
        props: &PlaneProps,
        update: &PlaneUpdate,
    ) -> Result<Option<Blob>, CommitError> {
        let (x, y, w, h) = update.source;
        let side = |n: i32| u32::try_from(n).unwrap_or(0);
        let (at, size) = (update.target.loc, update.target.size);
        let placement = Placement {
            crtc: self.crtc.id,
            fb: update.fb.id(),
            source: SourceRect::from_pixels(x, y, w, h),
            target: (at.x, at.y, side(size.w), side(size.h)),
        };
        request.show(props, placement);
        let fence = update.in_fence.as_ref().or(update.fb.own_fence());
        if let (Some(fence), Some(property)) = (fence, props.in_fence_fd) {
            // The kernel reads a signed descriptor number; ours are never negative.
            request.set(props.id, property, i64::from(fence.as_raw_fd()) as u64);
        }
        if let Some(hotspot) = update.hotspot {
            request.hotspot(props, hotspot);
        }
        let (Some(damage), Some(property)) = (&update.damage, props.fb_damage_clips) else {
            return Ok(None);
        };
        let mut bytes = damage_clips(damage, update.fb.size());
        if bytes.is_empty() {
            return Ok(None);
        }
        // Only a hint: without memory for it, the commit goes without.
        let Ok(blob) = Blob::new(self.device.fd(), &mut bytes) else {
            return Ok(None);
        };
        request.set(props.id, property, blob.id());
        Ok(Some(blob))
    }
}

/// Rectangles as the kernel reads them (`struct drm_mode_rect`), cut to the framebuffer.
fn damage_clips(damage: &[Rect], (w, h): (u32, u32)) -> Vec<u8> {
    let limit = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    let (w, h) = (limit(w), limit(h));
    damage
        .iter()
        .map(|rect| {
            let (x1, y1) = (rect.loc.x.clamp(0, w), rect.loc.y.clamp(0, h));
            let x2 = rect.loc.x.saturating_add(rect.size.w).clamp(0, w);
            let y2 = rect.loc.y.saturating_add(rect.size.h).clamp(0, h);
            [x1, y1, x2, y2]
        })
        .filter(|[x1, y1, x2, y2]| x1 < x2 && y1 < y2)
        .flat_map(|corners| corners.into_iter().flat_map(i32::to_ne_bytes))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn damage_is_cut_to_the_framebuffer(
            x in any::<i32>(), y in any::<i32>(), w in 0i32.., h in 0i32..,
        ) {
            let clips = damage_clips(&[Rect::new((x, y).into(), (w, h).into())], (640, 480));
            let corners: Vec<i32> = clips
                .chunks_exact(4)
                .filter_map(|bytes| Some(i32::from_ne_bytes(bytes.try_into().ok()?)))
                .collect();
            if let [x1, y1, x2, y2] = corners[..] {
                prop_assert!(0 <= x1 && x1 < x2 && x2 <= 640);
                prop_assert!(0 <= y1 && y1 < y2 && y2 <= 480);
            } else {
                prop_assert!(corners.is_empty());
            }
        }
    }
}
