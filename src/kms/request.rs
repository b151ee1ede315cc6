//! A typed atomic request: properties by handle and value, plus the one pointer that the kernel writes through.
//!
//! It holds no file descriptor and no blob: whoever fills it keeps these alive until the commit returned.

use drm::control::{
    atomic::AtomicModeReq, connector, crtc, framebuffer, plane, property, RawResourceHandle,
};

use super::props::{ConnectorProps, CrtcProps, PlaneProps};

/// A rectangle of a framebuffer in 16.16 fixed point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceRect {
    /// Left edge.
    pub x: u32,
    /// Top edge.
    pub y: u32,
    /// Width.
    pub w: u32,
    /// Height.
    pub h: u32,
}

impl SourceRect {
    /// From pixels, which may be fractions. Negative and overlarge values are cut to what the field holds; the kernel
    /// then refuses what lies outside the framebuffer.
    pub fn from_pixels(x: f64, y: f64, w: f64, h: f64) -> Self {
        // A float to integer cast saturates.
        let fixed = |v: f64| (v * 65536.0).round() as u32;
        Self {
            x: fixed(x),
            y: fixed(y),
            w: fixed(w),
            h: fixed(h),
        }
    }
}

/// Where a plane shows a framebuffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// The CRTC.
    pub crtc: crtc::Handle,
    /// The framebuffer.
    pub fb: framebuffer::Handle,
    /// Part of the framebuffer.
    pub source: SourceRect,
    /// x, y, width, height on the CRTC, in pixels of the mode.
    pub target: (i32, i32, u32, u32),
}

/// An atomic request under construction.
#[derive(Debug, Clone)]
pub struct AtomicRequest {
    pub(crate) properties: AtomicModeReq,
    /// Connector and WRITEBACK_OUT_FENCE_PTR property of a job; the commit fills in the address.
    pub(crate) out_fence: Option<(connector::Handle, property::Handle)>,
    /// Whether it routes a CRTC to a writeback connector; the fault plan can refuse that.
    pub(crate) attaches_writeback: bool,
    /// Whether it shows something on a cursor plane; the fault plan can refuse that, too.
    pub(crate) shows_cursor: bool,
    pub(crate) crtc: crtc::Handle,
}

impl AtomicRequest {
    /// An empty request; `crtc` is only for the counters.
    pub(crate) fn new(crtc: crtc::Handle) -> Self {
        Self {
            properties: AtomicModeReq::new(),
            out_fence: None,
            attaches_writeback: false,
            shows_cursor: false,
            crtc,
        }
    }

    /// Sets any property to a raw value.
    pub fn set(
        &mut self,
        object: impl Into<RawResourceHandle>,
        property: property::Handle,
        value: u64,
    ) -> &mut Self {
        self.properties
            .add_raw_property(object.into(), property, value);
        self
    }

    fn set_signed(
        &mut self,
        object: impl Into<RawResourceHandle>,
        property: property::Handle,
        value: i32,
    ) -> &mut Self {
        // The kernel reads signed properties as two's complement in 64 bits.
        self.set(object, property, i64::from(value) as u64)
    }

    /// Shows a framebuffer on a plane.
    pub fn show(&mut self, plane: &PlaneProps, at: Placement) -> &mut Self {
        let (x, y, w, h) = at.target;
        self.set(plane.id, plane.fb_id, u64::from(u32::from(at.fb)))
            .set(plane.id, plane.crtc_id, u64::from(u32::from(at.crtc)))
            .set(plane.id, plane.src_x, u64::from(at.source.x))
            .set(plane.id, plane.src_y, u64::from(at.source.y))
            .set(plane.id, plane.src_w, u64::from(at.source.w))
            .set(plane.id, plane.src_h, u64::from(at.source.h))
            .set_signed(plane.id, plane.crtc_x, x)
            .set_signed(plane.id, plane.crtc_y, y)
            .set(plane.id, plane.crtc_w, u64::from(w))
            .set(plane.id, plane.crtc_h, u64::from(h))
    }

    /// The click point of a cursor, where the plane has the properties (virtual machines).
    pub fn hotspot(&mut self, plane: &PlaneProps, (x, y): (i32, i32)) -> &mut Self {
        if let (Some(px), Some(py)) = (plane.hotspot_x, plane.hotspot_y) {
            self.set_signed(plane.id, px, x).set_signed(plane.id, py, y);
        }
        self
    }

    /// Takes a plane off the screen.
    pub fn hide(&mut self, plane: &PlaneProps) -> &mut Self {
        self.hide_raw(plane.id, plane.fb_id, plane.crtc_id)
    }

    pub(crate) fn hide_raw(
        &mut self,
        plane: plane::Handle,
        fb_id: property::Handle,
        crtc_id: property::Handle,
    ) -> &mut Self {
        self.set(plane, fb_id, 0).set(plane, crtc_id, 0)
    }

    /// Properties of a plane that a previous owner may have left at odd values (rotation, alpha), back to plain ones.
    pub fn reset_plane(&mut self, plane: &PlaneProps) -> &mut Self {
        for &(property, value) in &plane.resets {
            self.set(plane.id, property, value);
        }
        self
    }

    /// Switches a CRTC on with a mode blob.
    pub fn enable(&mut self, crtc: &CrtcProps, mode_blob: u64) -> &mut Self {
        self.set(crtc.id, crtc.mode_id, mode_blob)
            .set(crtc.id, crtc.active, 1);
        for &(property, value) in &crtc.resets {
            self.set(crtc.id, property, value);
        }
        self
    }

    /// Lights a CRTC that has a mode, or darkens it. It keeps the mode.
    pub fn light(&mut self, crtc: &CrtcProps, lit: bool) -> &mut Self {
        self.set(crtc.id, crtc.active, u64::from(lit))
    }

    /// Switches a CRTC off.
    pub fn disable(&mut self, crtc: &CrtcProps) -> &mut Self {
        self.set(crtc.id, crtc.active, 0)
            .set(crtc.id, crtc.mode_id, 0)
    }

    /// Routes a connector to a CRTC, or to none.
    pub fn route(&mut self, connector: &ConnectorProps, crtc: Option<crtc::Handle>) -> &mut Self {
        self.attaches_writeback |= connector.writeback.is_some() && crtc.is_some();
        let value = crtc.map_or(0, |crtc| u64::from(u32::from(crtc)));
        self.set(connector.id, connector.crtc_id, value)
    }

    /// Adds a writeback job: the framebuffer and, unless only tested, the wish for an out-fence. Does nothing on a
    /// connector without these properties.
    pub fn write_back(
        &mut self,
        connector: &ConnectorProps,
        fb: framebuffer::Handle,
        want_fence: bool,
    ) -> &mut Self {
        if let Some(writeback) = &connector.writeback {
            self.set(connector.id, writeback.fb_id, u64::from(u32::from(fb)));
            if want_fence {
                self.out_fence = Some((connector.id, writeback.out_fence_ptr));
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_rectangles_are_fixed_point_and_saturate() {
        let rect = SourceRect::from_pixels(1.0, 0.5, -3.0, 1e12);
        assert_eq!(
            rect,
            SourceRect {
                x: 65536,
                y: 32768,
                w: 0,
                h: u32::MAX
            }
        );
    }
}
