//! A client that sends faster than anybody reads, without an end.

use std::{
    io::Write,
    os::unix::net::UnixStream,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        Arc,
    },
    thread::JoinHandle,
};

use wayland_client::{protocol::wl_compositor::WlCompositor, Proxy};

use super::Client;

/// What a flooder sends at once, in bytes.
const BLOCK: usize = 64 << 10;

/// A client that sends the same good request for as long as it is there.
pub struct Flooder {
    ends: Arc<AtomicBool>,
    blocks: Arc<AtomicU64>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
    client: Client,
}

impl Flooder {
    /// Rectangles of a region that is as large as one may be.
    pub const MOST_RECTANGLES: i32 = 4096;

    /// Begins.
    pub fn new(mut client: Client) -> Self {
        let compositor: WlCompositor = client.bind(4, ()).unwrap();
        let surface = compositor.create_surface(&client.qh, None);
        let region = compositor.create_region(&client.qh, ());
        for n in 0..Self::MOST_RECTANGLES {
            region.add(n, n, 1, 1);
        }
        client.roundtrip().unwrap();
        // wl_surface.set_input_region: as much work for us as one request can be, and it leaves nothing behind, however often
        // it is sent.
        let ids = (surface.id().protocol_id(), region.id().protocol_id());
        let words = [ids.0, 12 << 16 | 5, ids.1];
        let request: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let block = request.repeat(BLOCK / request.len());
        let socket = client.conn.backend().poll_fd().try_clone_to_owned();
        let mut socket = UnixStream::from(socket.unwrap());
        let (ends, blocks) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (told, sent) = (ends.clone(), blocks.clone());
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                socket.write_all(&block)?;
                sent.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        Self {
            ends,
            blocks,
            thread: Some(thread),
            client,
        }
    }

    /// How often it has sent all that it has to say.
    pub fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed)
    }

    /// Stops it.
    ///
    /// # Errors
    /// It could not send until the end, or is not answered.
    pub fn stop(mut self) -> std::io::Result<()> {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()?;
        // All that it sent was good, and is answered.
        self.client.roundtrip().map_err(std::io::Error::other)
    }
}

impl Drop for Flooder {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
