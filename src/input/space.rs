//! Where on the outputs a device's position is. Pure geometry.

use smithay::utils::{Logical, Point, Rectangle, Size, Transform};

/// The smallest step that a client can be told (24.8 fixed point). An output's right and bottom edges are outside, and
/// a position that rounds to the edge would be too.
const STEP: f64 = 1.0 / 256.0;

/// An output on which input can happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputArea {
    /// Connector name.
    pub name: String,
    /// Place and size in logical coordinates, after the transform.
    pub area: Rectangle<i32, Logical>,
    /// How the picture is turned on the panel.
    pub transform: Transform,
}

/// `location`, or the point on an output that is nearest to it. Without outputs all stays as it is.
pub fn clamp(location: Point<f64, Logical>, outputs: &[OutputArea]) -> Point<f64, Logical> {
    let distance = |other: &Point<f64, Logical>| {
        let (x, y) = (other.x - location.x, other.y - location.y);
        x * x + y * y
    };
    outputs
        .iter()
        .filter(|output| !output.area.is_empty())
        .map(|output| nearest_within(location, output.area))
        .min_by(|a, b| distance(a).total_cmp(&distance(b)))
        .unwrap_or(location)
}

fn nearest_within(
    location: Point<f64, Logical>,
    area: Rectangle<i32, Logical>,
) -> Point<f64, Logical> {
    let area = area.to_f64();
    let within = |value: f64, start: f64, length: f64| value.min(start + length - STEP).max(start);
    Point::from((
        within(location.x, area.loc.x, area.size.w),
        within(location.y, area.loc.y, area.size.h),
    ))
}

/// The place of an absolute position, given as fractions (0 to 1) of the device's own axes.
///
/// A device with a `target` lies on that output's panel and turns with it. One without lies on the first output if
/// there is only one, or if `touch` (a finger points at one panel); else it spans all outputs, like the tablet that a
/// virtual machine has in place of a mouse. `None`: there is no output.
pub fn map_absolute(
    fraction: (f64, f64),
    target: Option<&str>,
    touch: bool,
    outputs: &[OutputArea],
) -> Option<Point<f64, Logical>> {
    let named = target.and_then(|name| outputs.iter().find(|output| output.name == name));
    let first = outputs.first()?;
    let location = match named {
        Some(output) => on_panel(fraction, output),
        None if touch || outputs.len() == 1 => on_panel(fraction, first),
        None => across(fraction, outputs),
    };
    Some(clamp(location, outputs))
}

fn on_panel(fraction: (f64, f64), output: &OutputArea) -> Point<f64, Logical> {
    let area = output.area.to_f64();
    let panel: Size<f64, Logical> = output.transform.invert().transform_size(area.size);
    let position = Point::from((fraction.0 * panel.w, fraction.1 * panel.h));
    area.loc + output.transform.transform_point_in(position, &panel)
}

fn across(fraction: (f64, f64), outputs: &[OutputArea]) -> Point<f64, Logical> {
    let all = outputs
        .iter()
        .map(|output| output.area)
        .reduce(Rectangle::merge)
        .unwrap_or_default()
        .to_f64();
    all.loc + Point::from((fraction.0 * all.size.w, fraction.1 * all.size.h))
}
