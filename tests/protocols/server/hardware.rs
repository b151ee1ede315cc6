//! A display controller that writes the memory of a lone client.

use std::{
    fs::File,
    os::{fd::AsFd, unix::fs::FileExt},
    time::Duration,
};

use smithay::backend::allocator::{dmabuf::Dmabuf, Buffer};
use vitrine::{
    capture::{Completion, CursorInFrame, JobId, PerView},
    time::Time,
};

use super::{rect, Server};

/// A job in flight.
pub struct HardwareJob {
    id: JobId,
    memory: File,
    stride: usize,
    picture: Vec<u32>,
    width: usize,
    presented: Duration,
}

impl Server {
    /// From now on the first output's hardware may write clients' memory.
    pub fn allow_passthrough(&mut self) {
        let capture = &mut self.state.screens[0].capture;
        capture.allow_direct(PerView::new(|_| true));
    }

    /// Paints a rectangle and presents the picture, with a job into the memory of the client that waits. `None`: the room wants
    /// no such job.
    pub fn begin_job(&mut self, [x, y, w, h]: [i32; 4], pixel: u32) -> Option<HardwareJob> {
        let now = self.now();
        let screen = &mut self.state.screens[0];
        let cursor = CursorInFrame::Absent;
        let candidate = screen.capture.direct_candidate(cursor, now)?;
        let dmabuf = candidate.buffer.downcast_ref::<Dmabuf>().unwrap();
        let handle = dmabuf.handles().next().unwrap();
        for row in y..y + h {
            let start = (row * screen.size.0 + x) as usize;
            screen.pixels[start..start + w as usize].fill(pixel);
        }
        self.clock += Duration::from_nanos(16_666_667);
        self.next_job += 1;
        let job = HardwareJob {
            id: JobId(self.next_job),
            memory: handle.as_fd().try_clone_to_owned().unwrap().into(),
            stride: dmabuf.strides().next().unwrap() as usize,
            picture: screen.pixels.clone(),
            width: dmabuf.size().w as usize,
            presented: self.clock,
        };
        screen.capture.arm_direct(job.id, &candidate, cursor);
        screen.capture.committed(&[rect(x, y, w, h)], Some(job.id));
        screen.capture.verify_invariants().unwrap();
        self.deliver();
        Some(job)
    }

    /// The hardware has written its memory, and says so in time.
    pub fn end_job(&mut self, job: &HardwareJob) -> (Completion, (u64, u32)) {
        for (y, row) in job.picture.chunks(job.width).enumerate() {
            let bytes: Vec<u8> = row.iter().flat_map(|pixel| pixel.to_ne_bytes()).collect();
            let at = (y * job.stride) as u64;
            job.memory.write_all_at(&bytes, at).unwrap();
        }
        let (presented, now) = (Time::from_duration(job.presented), self.now());
        let screen = &mut self.state.screens[0];
        let completion = screen.capture.complete(job.id, presented, now);
        screen.capture.verify_invariants().unwrap();
        self.deliver();
        let time = (job.presented.as_secs(), job.presented.subsec_nanos());
        (completion, time)
    }

    /// Copies into clients' memory so far.
    pub fn copies(&self) -> u64 {
        self.state.screens[0].capture.stats().copies
    }
}
