//! The names of things in the capture room. Each is its own type, so that a wrong mix does not compile.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

number! {
    /// A client of the compositor, as `protocols/` numbers them. Quotas and deadlines are per client.
    ClientId, "client-"
}
number! {
    /// A published frame of one output. Later frames have greater numbers; numbers are never used again.
    FrameSeq, "frame-"
}
number! {
    /// One client's wish to see one output, for as long as it lasts.
    SessionId, "session-"
}
number! {
    /// One frame that a session asked for.
    RequestId, "request-"
}
number! {
    /// The memory behind a client's buffer: two buffers on the same memory have the same number.
    TargetId, "target-"
}
number! {
    /// One job that fills a slot. The caller of `arm` chooses the numbers and never uses one again.
    JobId, "job-"
}

impl ClientId {
    /// The compositor itself, which keeps a history. No client has this number.
    pub const HOUSE: ClientId = ClientId(u64::MAX);
}

/// A buffer of the ring: its place in the buffers given to `set_buffers`, and which call of that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId {
    /// Place in the list of buffers of this generation.
    pub index: u16,
    /// Counts the calls of `set_buffers`; slots of different modes never have the same one.
    pub generation: u32,
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot-{}.{}", self.generation, self.index)
    }
}
