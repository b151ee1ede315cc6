//! What happened, counted: per output and per client. Counters only grow; the fields that say "now" are gauges.

use std::collections::BTreeMap;

use crate::capture::{ids::ClientId, latency::Latencies, output_capture::Skip};

/// What happened on one output.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaptureStats {
    /// Frames published.
    pub frames: u64,
    /// Of these, frames that the writeback connector wrote.
    pub by_writeback: u64,
    /// Of these, frames that the render producer wrote.
    pub by_render: u64,
    /// Of these, frames that the writeback connector wrote into a client's own memory.
    pub passthrough: u64,
    /// Of those that the render producer made, the ones that nobody wrote: what is on the screen was leased itself.
    pub leased: u64,
    /// Jobs that were given a slot or a client's memory.
    pub jobs: u64,
    /// Jobs that were given back because their commit failed.
    pub unarmed: u64,
    /// Jobs whose fence reported an error.
    pub failed: u64,
    /// Jobs whose fence did not come in time.
    pub lost: u64,
    /// Jobs that completed but were not published: a newer frame was there already, or the mode had changed.
    pub discarded: u64,
    /// Lost jobs whose fence came after all.
    pub late_fences: u64,
    /// Slots in quarantine now.
    pub quarantined: u64,
    /// Slots now leased.
    pub held: u64,
    /// Buffers that exist now, those of older modes included.
    pub buffers: u64,
    /// Commits without capture, by reason.
    pub skipped: SkipCounts,
    /// Frames delivered to sessions.
    pub delivered: u64,
    /// Copies made into client memory.
    pub copies: u64,
    /// Of these, copies that the GPU made.
    pub gpu_copies: u64,
    /// Bytes of these copies.
    pub copied_bytes: u64,
    /// Frames that were taken back from a client.
    pub voids: u64,
    /// Slots that were used again although fences of others, which did not signal in time, were still on them.
    pub overruled: u64,
    /// From the flip to "ready", over all clients.
    pub ready: Latencies,
    /// The clients with a session or a lease now.
    pub clients: BTreeMap<ClientId, ClientStats>,
}

/// Commits without capture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SkipCounts {
    /// The output has no buffers.
    pub no_buffers: u64,
    /// Nobody wanted the frame.
    pub no_demand: u64,
    /// All slots were held, pinned, in flight or in quarantine.
    pub no_free_slot: u64,
    /// The only slots left were resting after their release, or a GPU still read them.
    pub draining: u64,
    /// The render producer still copied the picture before.
    pub producer_busy: u64,
    /// The number of the job was in use.
    pub job_in_use: u64,
}

impl SkipCounts {
    /// Commits that were not captured although somebody wanted the frame.
    pub fn wanted(&self) -> u64 {
        let Self {
            no_buffers,
            no_demand: _,
            no_free_slot,
            draining,
            producer_busy,
            job_in_use,
        } = *self;
        no_buffers + no_free_slot + draining + producer_busy + job_in_use
    }

    pub(crate) fn count(&mut self, skip: Skip) {
        let counter = match skip {
            Skip::NoBuffers => &mut self.no_buffers,
            Skip::NoDemand => &mut self.no_demand,
            Skip::NoFreeSlot => &mut self.no_free_slot,
            Skip::Draining => &mut self.draining,
            Skip::ProducerBusy => &mut self.producer_busy,
            Skip::JobInUse => &mut self.job_in_use,
        };
        *counter += 1;
    }
}

/// What happened to one client on one output. It is forgotten with the client's last session and lease.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientStats {
    /// Frames delivered.
    pub frames: u64,
    /// Of these, frames that the hardware wrote into its memory.
    pub passthrough: u64,
    /// Frames held now.
    pub held: u64,
    /// Copies made into its memory.
    pub copies: u64,
    /// Of these, copies that the GPU made.
    pub gpu_copies: u64,
    /// Bytes of these copies.
    pub copied_bytes: u64,
    /// Frames that it held past the deadline.
    pub overdue: u64,
    /// Frames that were taken back from it.
    pub voids: u64,
    /// Requests that were refused because too many waited already.
    pub refused: u64,
    /// From the flip to "ready".
    pub ready: Latencies,
}
