//! The control socket: JSON lines between `vitrine msg` (or any program of the operator) and the compositor.
//!
//! One request a line, one answer a line, in order. The words are in [`wire`]; what a peer may cost is bounded in
//! [`connection`] (one line in, one answer out, nothing read while an answer waits) and in [`socket`] (so many
//! connections, the longest idle one goes first). The room knows neither Wayland nor DRM nor what the answers mean: the
//! compositor gives them.

mod client;
mod connection;
mod socket;
mod table;
pub mod wire;

pub use self::{
    client::{message, ClientError},
    socket::{socket_name, ControlSocket, SocketError, MAX_CONNECTIONS},
};

/// The environment variable that tells the application, and `vitrine msg` in it, where the socket is.
pub const VARIABLE: &str = "VITRINE_SOCKET";

/// The tracing target of the room.
const TARGET: &str = "vitrine::ipc";
