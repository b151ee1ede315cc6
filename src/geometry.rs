//! Rectangles in the pixels of an output's mode, before any output transform: the coordinates of scanout and capture.

/// A rectangle in the pixels of an output's buffer.
pub type Rect = smithay::utils::Rectangle<i32, smithay::utils::Buffer>;

/// A size in the pixels of an output's buffer.
pub type Size = smithay::utils::Size<i32, smithay::utils::Buffer>;
