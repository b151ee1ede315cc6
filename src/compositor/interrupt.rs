//! Ends the reading of a client that sends without an end, so that everybody else has a turn.
//!
//! wayland-server reads a client until its socket is empty, and a client that sends faster than we read never lets it be
//! empty: the display and all others would stand still for as long as it likes. There is no word in wayland-server's
//! interface to end that, and not every request comes by our code (`wl_display.sync` does not). But the descriptor that it
//! reads can be led to another socket while it reads. So a thread does that when a client has had its share of a turn: the
//! client's own socket stays as it is, with all that waits in it, and wayland-server finds an empty one (the *gate*) and
//! stops, as it does when a client has no more to say. When it has returned, the descriptor is led back. Nobody is ended
//! and nothing is lost; the client goes on in the next turn. So nothing bad comes of it either when it is not the client
//! that was slow but the machine.
//!
//! A timer of the kernel wakes the thread; as long as clients have little to say it sleeps for ever.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::{ManuallyDrop, MaybeUninit},
    os::{
        fd::{AsFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc, Mutex, MutexGuard, PoisonError,
    },
    thread::JoinHandle,
    time::Duration,
};

use rustix::{
    io::{dup3, retry_on_intr, DupFlags, Errno},
    net::{
        recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    },
    time::{
        timerfd_create, timerfd_settime, Itimerspec, TimerfdClockId, TimerfdFlags,
        TimerfdTimerFlags, Timespec,
    },
};
use smithay::reexports::wayland_server::backend::ClientId;

/// So long are clients read before the loop does something else: a part of a refresh, and some thousand requests. Eight that
/// stream take less on the slowest of machines; to cut those short would cost turns, and nobody has asked for too much.
const SHARE: Duration = Duration::from_millis(4);

/// What wayland-server puts into one message: bytes and descriptors.
const MESSAGE: usize = 4096;
const DESCRIPTORS: usize = 28;

/// Watches how long clients are read.
#[derive(Debug)]
pub(super) struct Interrupt {
    watched: Watched,
    thread: Option<JoinHandle<()>>,
}

/// Where a client's data notes its end, too.
pub(super) type Watched = Arc<Shared>;

#[derive(Debug)]
pub(super) struct Shared {
    timer: OwnedFd,
    /// The share of this turn is used up.
    over: AtomicBool,
    reading: Mutex<Reading>,
}

#[derive(Debug, Default)]
struct Reading {
    now: Option<Now>,
    /// The thread shall end.
    ends: bool,
}

/// The client that is read now.
#[derive(Debug)]
struct Now {
    client: ClientId,
    /// wayland-server's descriptor of its socket, until that may be closed.
    socket: Option<RawFd>,
    /// The other end of the gate, if that is what the descriptor leads to.
    gate: Option<UnixStream>,
}

/// How the reading of a client ended.
#[derive(Debug)]
pub(super) enum End {
    /// It had no more to say, or is gone.
    Silent,
    /// Its share was used up.
    Cut,
    /// Its share was used up, and it cannot be heard any more.
    Broken(io::Error),
}

impl Interrupt {
    /// # Errors
    /// Out of descriptors.
    pub fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
        let watched = Shared {
            timer,
            over: AtomicBool::new(false),
            reading: Mutex::default(),
        };
        Ok(Self {
            watched: Arc::new(watched),
            thread: None,
        })
    }

    /// Starts the thread, with the priority of the calling one: the event loop's, which it has to interrupt.
    ///
    /// # Errors
    /// The system lets us start no thread.
    pub fn start(&mut self) -> io::Result<()> {
        if self.thread.is_none() {
            let watched = self.watched.clone();
            let thread = std::thread::Builder::new().name("turns".to_owned());
            self.thread = Some(thread.spawn(move || watched.run())?);
        }
        Ok(())
    }

    pub fn watched(&self) -> Watched {
        self.watched.clone()
    }

    /// Clients are read from now on.
    pub fn begin(&self) {
        self.watched.over.store(false, Ordering::Relaxed);
        self.watched.set_timer(SHARE);
    }

    /// Whether they have been read for long enough.
    pub fn is_over(&self) -> bool {
        self.watched.over.load(Ordering::Relaxed)
    }

    /// No client is read any more.
    pub fn end(&self) {
        self.watched.set_timer(Duration::ZERO);
    }

    /// wayland-server begins to read this client by this descriptor.
    pub fn enter(&self, client: ClientId, socket: RawFd) {
        let mut reading = self.watched.lock();
        reading.now = Some(Now {
            client,
            socket: Some(socket),
            gate: None,
        });
        if self.is_over() {
            // The timer ran out in between, and would not do so again: this one has a share of its own.
            self.watched.set_timer(SHARE);
        }
    }

    /// wayland-server has stopped reading it; `socket` is the client's.
    pub fn leave(&self, socket: &OwnedFd) -> End {
        let Some(now) = self.watched.lock().now.take() else {
            return End::Silent;
        };
        let Some(gate) = now.gate else {
            return End::Silent;
        };
        let passed_on = pass_on(&gate, socket);
        let led_back = match now.socket {
            Some(descriptor) => lead(descriptor, socket),
            None => return End::Silent,
        };
        match led_back.and(passed_on) {
            Ok(()) => End::Cut,
            Err(error) => End::Broken(error),
        }
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.watched.lock().ends = true;
        self.watched.set_timer(Duration::from_nanos(1));
        if let Some(thread) = self.thread.take() {
            // It ends at once and has nothing to say.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// This client's connection ends, and its descriptor may become another file's at any time after this.
    pub fn disconnected(&self, client: &ClientId) {
        if let Some(now) = &mut self.lock().now {
            if now.client == *client {
                now.socket = None;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Reading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the thread after this time, or not at all.
    fn set_timer(&self, after: Duration) {
        let spec = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: 0,
                tv_nsec: after.subsec_nanos().into(),
            },
        };
        let set = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec);
        debug_assert!(set.is_ok(), "a timer and a time of ours are valid");
    }

    /// The thread.
    fn run(&self) {
        let mut expirations = [0; 8];
        loop {
            // Waits until the timer has run out.
            if let Err(error) = retry_on_intr(|| rustix::io::read(&self.timer, &mut expirations)) {
                return tracing::error!(
                    target: "vitrine::clients", %error,
                    "clients that send without an end are not interrupted any more"
                );
            }
            let mut reading = self.lock();
            if reading.ends {
                return;
            }
            self.over.store(true, Ordering::Relaxed);
            if let Some(Err(error)) = reading.now.as_mut().map(Now::cut) {
                // Nobody has descriptors for it any more. The next time may be better.
                self.set_timer(SHARE);
                tracing::debug!(target: "vitrine::clients", %error, "a client cannot be interrupted yet");
            }
        }
    }
}

impl Now {
    /// From now on wayland-server finds the gate in place of the client's socket.
    fn cut(&mut self) -> io::Result<()> {
        let (None, Some(descriptor)) = (&self.gate, self.socket) else {
            return Ok(());
        };
        let (gate, empty) = UnixStream::pair()?;
        lead(descriptor, &empty)?;
        self.gate = Some(gate);
        Ok(())
    }
}

/// Leads wayland-server's descriptor to this socket.
fn lead(descriptor: RawFd, socket: impl AsFd) -> io::Result<()> {
    // SAFETY: it is open: wayland-server closes a client's socket only after it has said so (`disconnected`), which takes the
    // descriptor away; and who calls this has taken it from what `disconnected` looks at, under its lock or on its thread. It
    // is not closed here, and what it leads to in between is a socket to wayland-server as well.
    let mut descriptor = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(descriptor) });
    retry_on_intr(|| dup3(&socket, &mut descriptor, DupFlags::CLOEXEC))?;
    Ok(())
}

/// Passes on what wayland-server wrote into the gate: that happens when a megabyte waits for the client, and with the last
/// words to one that broke the protocol.
///
/// # Errors
/// The client has not read that megabyte.
fn pass_on(gate: &UnixStream, socket: &OwnedFd) -> io::Result<()> {
    loop {
        let mut bytes = [0; MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut received = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let length = match retry_on_intr(|| recvmsg(gate, &mut slices, &mut received, flags)) {
            Ok(message) => message.bytes,
            Err(Errno::AGAIN) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let message = bytes.get(..length).unwrap_or_default();
        if message.is_empty() {
            return Ok(());
        }
        let descriptors: Vec<OwnedFd> = received
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            })
            .flatten()
            .collect();
        match send(socket, message, &descriptors) {
            Ok(()) => {}
            // It is gone, which wayland-server will find.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn send(socket: &OwnedFd, message: &[u8], descriptors: &[OwnedFd]) -> io::Result<()> {
    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&borrowed));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let slices = [IoSlice::new(message)];
    let sent = retry_on_intr(|| sendmsg(socket, &slices, &mut ancillary, flags))?;
    if sent < message.len() {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use std::{
        fs::File,
        io::{Read, Write},
        os::fd::AsRawFd,
    };

    use smithay::reexports::wayland_server::Display;

    use super::*;

    /// A client, and its connection as wayland-server and as we have it.
    struct Connected {
        id: ClientId,
        /// Another client's.
        other: ClientId,
        client: UnixStream,
        theirs: UnixStream,
        ours: OwnedFd,
    }

    impl Connected {
        fn new() -> Self {
            // Numbers of clients come from a display only.
            let mut display = Display::<()>::new().unwrap().handle();
            let mut id = || {
                let (stream, _) = UnixStream::pair().unwrap();
                display.insert_client(stream, Arc::new(())).unwrap().id()
            };
            let (id, other) = (id(), id());
            let (client, theirs) = UnixStream::pair().unwrap();
            let ours = theirs.try_clone().unwrap().into();
            theirs.set_nonblocking(true).unwrap();
            Self {
                id,
                other,
                client,
                theirs,
                ours,
            }
        }

        fn enter(&self, interrupt: &Interrupt) {
            interrupt.enter(self.id.clone(), self.theirs.as_raw_fd());
        }
    }

    fn cut(interrupt: &Interrupt) {
        let mut reading = interrupt.watched.lock();
        let now = reading.now.as_mut().unwrap();
        now.cut().unwrap();
    }

    fn would_block(result: io::Result<usize>) -> bool {
        result.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    fn receive(from: &UnixStream) -> io::Result<usize> {
        let (length, _) = rustix::net::recv(from, &mut [0; 64], RecvFlags::DONTWAIT)?;
        Ok(length)
    }

    #[test]
    fn a_client_that_is_cut_is_silent_for_a_while_and_nothing_is_lost() {
        let interrupt = Interrupt::new().unwrap();
        let mut it = Connected::new();
        it.client.write_all(b"asked").unwrap();
        it.enter(&interrupt);
        cut(&interrupt);
        cut(&interrupt);
        assert!(would_block(receive(&it.theirs)));
        // What it is told in between comes to it, with descriptors.
        let (out, into) = rustix::pipe::pipe().unwrap();
        let theirs = it.theirs.try_clone().unwrap().into();
        send(&theirs, b"told", &[into]).unwrap();
        it.theirs.write_all(b" more").unwrap();
        drop(theirs);
        assert!(matches!(interrupt.leave(&it.ours), End::Cut));

        let mut bytes = [0; 64];
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut received = RecvAncillaryBuffer::new(&mut space);
        let message = recvmsg(&it.client, &mut slices, &mut received, RecvFlags::empty()).unwrap();
        let mut descriptors = received.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
            _ => Vec::new(),
        });
        let mut pipe = File::from(descriptors.next().unwrap());
        pipe.write_all(b"x").unwrap();
        File::from(out).read_exact(&mut [0]).unwrap();
        let mut told = bytes.get(..message.bytes).unwrap().to_vec();
        let length = it.client.read(&mut bytes).unwrap();
        told.extend(bytes.get(..length).unwrap());
        assert_eq!(told, b"told more");
        // And now it is heard.
        let length = it.theirs.read(&mut bytes).unwrap();
        assert_eq!(bytes.get(..length).unwrap(), b"asked");
        it.enter(&interrupt);
        assert!(matches!(interrupt.leave(&it.ours), End::Silent));
    }

    #[test]
    fn who_is_gone_is_not_touched_any_more_and_hears_why() {
        let interrupt = Interrupt::new().unwrap();
        let mut it = Connected::new();
        it.client.write_all(b"asked").unwrap();
        it.enter(&interrupt);
        interrupt.watched().disconnected(&it.id);
        cut(&interrupt);
        assert_eq!(receive(&it.theirs).unwrap(), 5);
        assert!(matches!(interrupt.leave(&it.ours), End::Silent));
        // Another one's end is nothing to this one; and its own comes while it is cut.
        it.enter(&interrupt);
        interrupt.watched().disconnected(&it.other);
        cut(&interrupt);
        it.theirs.write_all(b"why").unwrap();
        interrupt.watched().disconnected(&it.id);
        drop(it.theirs);
        assert!(matches!(interrupt.leave(&it.ours), End::Silent));
        let mut bytes = [0; 3];
        it.client.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, *b"why");
    }

    #[test]
    fn a_client_whose_socket_is_full_is_broken_when_it_is_told_more() {
        let interrupt = Interrupt::new().unwrap();
        let mut it = Connected::new();
        while it.theirs.write(&[0; MESSAGE]).is_ok() {}
        it.enter(&interrupt);
        cut(&interrupt);
        it.theirs.write_all(b"more").unwrap();
        assert!(matches!(interrupt.leave(&it.ours), End::Broken(_)));
        // Not so one that is gone: its end is another matter.
        it.enter(&interrupt);
        cut(&interrupt);
        it.theirs.write_all(b"more").unwrap();
        drop(it.client);
        assert!(matches!(interrupt.leave(&it.ours), End::Cut));
    }

    /// Reads what somebody writes without an end; gives how much that was.
    fn read_for_ever(it: &mut Connected) -> usize {
        let mut read = 0;
        loop {
            it.client.write_all(&[1; 64]).unwrap();
            match receive(&it.theirs) {
                Ok(length) => read += length,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    return read;
                }
            }
        }
    }

    #[test]
    fn a_share_that_is_over_before_anybody_is_read_is_no_licence() {
        let mut interrupt = Interrupt::new().unwrap();
        interrupt.start().unwrap();
        let mut it = Connected::new();
        interrupt.begin();
        while !interrupt.is_over() {
            std::thread::yield_now();
        }
        it.enter(&interrupt);
        read_for_ever(&mut it);
        assert!(matches!(interrupt.leave(&it.ours), End::Cut));
    }

    #[test]
    fn the_thread_ends_a_reading_that_would_never_end() {
        let mut interrupt = Interrupt::new().unwrap();
        interrupt.start().unwrap();
        let mut it = Connected::new();
        for _ in 0..3 {
            interrupt.begin();
            it.enter(&interrupt);
            let read = read_for_ever(&mut it);
            assert!(read > 0);
            assert!(interrupt.is_over());
            assert!(matches!(interrupt.leave(&it.ours), End::Cut));
            interrupt.end();
            assert_eq!(receive(&it.theirs).unwrap(), 64);
        }
    }
}
