//! With the cursor or without it: the two pictures that one output has, and what is kept for each.
//!
//! While the cursor is not visible both pictures are the same, and one frame serves both.

/// One of the two pictures of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum View {
    /// The cursor is in the picture where it is on the screen.
    WithCursor,
    /// The cursor is left out.
    WithoutCursor,
}

impl View {
    /// Both, in a fixed order.
    pub const ALL: [Self; 2] = [View::WithCursor, View::WithoutCursor];

    /// In words, for the log.
    pub const fn name(self) -> &'static str {
        match self {
            View::WithCursor => "with cursor",
            View::WithoutCursor => "without cursor",
        }
    }
}

/// What a frame has of the cursor, and so whom it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CursorInFrame {
    /// The cursor was not visible on the output: the frame serves both views.
    Absent,
    /// The cursor was visible and is in the frame.
    Shown,
    /// The cursor was visible and is not in the frame.
    LeftOut,
}

impl CursorInFrame {
    /// Whether a session of this view may be given such a frame.
    pub const fn serves(self, view: View) -> bool {
        match (self, view) {
            (CursorInFrame::Absent, _)
            | (CursorInFrame::Shown, View::WithCursor)
            | (CursorInFrame::LeftOut, View::WithoutCursor) => true,
            (CursorInFrame::Shown, View::WithoutCursor)
            | (CursorInFrame::LeftOut, View::WithCursor) => false,
        }
    }

    /// The content of a frame that is made for one view while the cursor is visible.
    pub const fn of(view: View) -> Self {
        match view {
            View::WithCursor => CursorInFrame::Shown,
            View::WithoutCursor => CursorInFrame::LeftOut,
        }
    }

    /// The views that it serves.
    pub fn views(self) -> impl Iterator<Item = View> {
        View::ALL.into_iter().filter(move |view| self.serves(*view))
    }
}

/// One value for each view.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PerView<T> {
    /// Of the picture with the cursor.
    pub with_cursor: T,
    /// Of the picture without it.
    pub without_cursor: T,
}

impl<T> PerView<T> {
    /// Makes the value of each view.
    pub fn new(mut of: impl FnMut(View) -> T) -> Self {
        Self {
            with_cursor: of(View::WithCursor),
            without_cursor: of(View::WithoutCursor),
        }
    }

    /// The value of a view.
    pub const fn get(&self, view: View) -> &T {
        match view {
            View::WithCursor => &self.with_cursor,
            View::WithoutCursor => &self.without_cursor,
        }
    }

    /// The value of a view, to be changed.
    pub fn get_mut(&mut self, view: View) -> &mut T {
        match view {
            View::WithCursor => &mut self.with_cursor,
            View::WithoutCursor => &mut self.without_cursor,
        }
    }

    /// Both values.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        [&self.with_cursor, &self.without_cursor].into_iter()
    }
}
