//! Who captured what: one event in the log when a capture begins and one when it ends, whatever ends it. And who switched a
//! screen.

use crate::{
    capture::{Producer, SessionId},
    policy::{Peer, Sandbox},
};

/// A client switches an output off or on.
pub fn output_power(peer: &Peer, output: &str, on: bool) {
    let none = Sandbox::default();
    let sandbox = peer.sandbox().unwrap_or(&none);
    tracing::info!(
        target: "vitrine::audit",
        pid = peer.pid, uid = peer.uid, executable = ?peer.executable.as_deref().unwrap_or("?".as_ref()),
        origin = peer.origin.name(), sandbox_engine = ?sandbox.engine, app_id = ?sandbox.app_id,
        instance_id = ?sandbox.instance_id,
        protocol = "wlr-output-power-management", output, power = if on { "on" } else { "off" },
        "output is switched"
    );
}

/// A capture, from its begin to its end: dropping it writes the second event.
///
/// All events have the target `vitrine::audit`, which is used for nothing else. Names that a client or a sandbox chose
/// are written with escapes: they cannot forge a line.
#[derive(Debug)]
pub(super) struct Audit {
    peer: Peer,
    protocol: &'static str,
    source: String,
    session: SessionId,
    frames: u64,
    bytes: u64,
    written_back: u64,
    rendered: u64,
}

impl Audit {
    /// `source` is what is captured, e.g. an output's name.
    pub(super) fn begin(
        peer: Peer,
        protocol: &'static str,
        source: String,
        session: SessionId,
    ) -> Self {
        let none = Sandbox::default();
        let sandbox = peer.sandbox().unwrap_or(&none);
        tracing::info!(
            target: "vitrine::audit",
            pid = peer.pid, uid = peer.uid, executable = ?peer.executable.as_deref().unwrap_or("?".as_ref()),
            origin = peer.origin.name(), sandbox_engine = ?sandbox.engine, app_id = ?sandbox.app_id,
            instance_id = ?sandbox.instance_id,
            protocol, source = %source, %session,
            "capture begins"
        );
        Self {
            peer,
            protocol,
            source,
            session,
            frames: 0,
            bytes: 0,
            written_back: 0,
            rendered: 0,
        }
    }

    /// The client was given a picture: `bytes` were copied, written, or may be read.
    pub(super) fn frame(&mut self, producer: Producer, bytes: u64) {
        self.frames += 1;
        self.bytes += bytes;
        match producer {
            Producer::Writeback => self.written_back += 1,
            Producer::Render => self.rendered += 1,
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        let producer = match (self.written_back, self.rendered) {
            (0, 0) => "none",
            (_, 0) => "writeback",
            (0, _) => "render",
            (_, _) => "both",
        };
        let none = Sandbox::default();
        let sandbox = self.peer.sandbox().unwrap_or(&none);
        tracing::info!(
            target: "vitrine::audit",
            pid = self.peer.pid, uid = self.peer.uid,
            executable = ?self.peer.executable.as_deref().unwrap_or("?".as_ref()),
            origin = self.peer.origin.name(), sandbox_engine = ?sandbox.engine, app_id = ?sandbox.app_id,
            instance_id = ?sandbox.instance_id,
            protocol = self.protocol, source = %self.source, session = %self.session,
            producer, frames = self.frames, bytes = self.bytes,
            "capture ends"
        );
    }
}
