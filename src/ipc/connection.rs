//! One peer of the control socket as an event source: lines come out, answers go in.
//!
//! A peer costs at most one line of input and one answer: while an answer has not been taken by the kernel, nothing is
//! read. One request is answered per turn of the event loop, so that a flood of them cannot hold the display.

use std::{
    cell::Cell,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    rc::Rc,
};

use smithay::reexports::calloop::{
    generic::Generic, EventSource, Interest, Mode, Poll, PostAction, Readiness, Token, TokenFactory,
};

use super::wire::{self, Outcome};

/// The longest line that is read: a path and a few words.
pub(super) const MAX_LINE: usize = 8 * 1024;

/// What a peer said that is not answered, and what it has not taken.
#[derive(Debug, Default)]
struct Buffers {
    input: Vec<u8>,
    output: Vec<u8>,
    /// So much of `output` is sent.
    sent: usize,
    /// The peer will say nothing more, or nothing that we read.
    deaf: bool,
}

/// The peer.
#[derive(Debug)]
pub(super) struct Connection {
    source: Generic<UnixStream>,
    buffers: Buffers,
    /// The number of its last request, for the choice of the longest idle one. Its death shows in the count of owners.
    active: Rc<Cell<u64>>,
}

impl Connection {
    /// # Errors
    /// If the stream cannot be made non-blocking.
    pub(super) fn new(stream: UnixStream, active: Rc<Cell<u64>>) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            source: Generic::new(stream, Interest::READ, Mode::Level),
            buffers: Buffers::default(),
            active,
        })
    }
}

impl Buffers {
    /// Sends what waits, reads what fits, and answers at most one request. Returns what to wait for; `None`: it is over.
    fn turn<S: Read + Write>(
        &mut self,
        stream: &mut S,
        answer: &mut impl FnMut(&[u8]) -> Vec<u8>,
    ) -> io::Result<Option<Interest>> {
        self.send(stream)?;
        if self.output.is_empty() {
            if !self.has_line() && !self.deaf {
                self.receive(stream)?;
            }
            if let Some(line) = self.take_line() {
                self.output = answer(&line);
            } else if self.input.len() >= MAX_LINE {
                self.output = wire::encode(Outcome::Error(format!(
                    "a request is a line of at most {MAX_LINE} bytes"
                )));
                self.input = Vec::new();
                self.deaf = true;
            }
            self.send(stream)?;
        }
        Ok(self.wants())
    }

    fn wants(&self) -> Option<Interest> {
        match (self.output.is_empty(), self.has_line(), self.deaf) {
            // The next request is here already: come back in the next turn of the loop.
            (false, _, _) | (true, true, _) => Some(Interest::WRITE),
            (true, false, false) => Some(Interest::READ),
            (true, false, true) => None,
        }
    }

    fn has_line(&self) -> bool {
        self.input.contains(&b'\n')
    }

    fn take_line(&mut self) -> Option<Vec<u8>> {
        let end = self.input.iter().position(|byte| *byte == b'\n')?;
        let rest = self.input.split_off(end + 1);
        let mut line = std::mem::replace(&mut self.input, rest);
        line.pop();
        Some(line)
    }

    fn receive(&mut self, stream: &mut impl Read) -> io::Result<()> {
        let mut chunk = [0; MAX_LINE];
        let room = MAX_LINE - self.input.len().min(MAX_LINE);
        let Some(chunk) = chunk.get_mut(..room) else {
            return Ok(());
        };
        match stream.read(chunk) {
            Ok(0) => self.deaf = true,
            Ok(count) => self.input.extend(chunk.iter().take(count)),
            Err(error) if is_later(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn send(&mut self, stream: &mut impl Write) -> io::Result<()> {
        while let Some(rest) = self.output.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match stream.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if is_later(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        // A long answer's memory is not kept for short ones.
        self.output = Vec::new();
        self.sent = 0;
        Ok(())
    }
}

fn is_later(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

impl EventSource for Connection {
    /// A request, without its line end.
    type Event = Vec<u8>;
    /// Nothing.
    type Metadata = ();
    /// The answer, with its line end, and the number of the request.
    type Ret = (Vec<u8>, u64);
    type Error = io::Error;

    fn process_events<F>(
        &mut self,
        readiness: Readiness,
        token: Token,
        mut callback: F,
    ) -> io::Result<PostAction>
    where
        F: FnMut(Self::Event, &mut Self::Metadata) -> Self::Ret,
    {
        let (buffers, active) = (&mut self.buffers, &self.active);
        let mut wanted = None;
        self.source.process_events(readiness, token, |_, stream| {
            let mut answer = |line: &[u8]| {
                let (answer, number) = callback(line.to_vec(), &mut ());
                active.set(number);
                answer
            };
            // The file is neither dropped nor replaced; `&UnixStream` reads and writes.
            let mut stream: &UnixStream = stream;
            wanted = buffers
                .turn(&mut stream, &mut answer)
                .unwrap_or_else(|error| {
                    tracing::debug!(target: super::TARGET, %error, "a control connection broke");
                    None
                });
            Ok(PostAction::Continue)
        })?;
        let Some(wanted) = wanted else {
            return Ok(PostAction::Remove);
        };
        let same = (wanted.readable, wanted.writable)
            == (self.source.interest.readable, self.source.interest.writable);
        self.source.interest = wanted;
        Ok(if same {
            PostAction::Continue
        } else {
            PostAction::Reregister
        })
    }

    fn register(
        &mut self,
        poll: &mut Poll,
        factory: &mut TokenFactory,
    ) -> smithay::reexports::calloop::Result<()> {
        self.source.register(poll, factory)
    }

    fn reregister(
        &mut self,
        poll: &mut Poll,
        factory: &mut TokenFactory,
    ) -> smithay::reexports::calloop::Result<()> {
        self.source.reregister(poll, factory)
    }

    fn unregister(&mut self, poll: &mut Poll) -> smithay::reexports::calloop::Result<()> {
        self.source.unregister(poll)
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "tests fail by panicking"
    )]

    use std::collections::VecDeque;

    use super::*;

    /// A peer that says these chunks and takes so many bytes per write until it is full.
    #[derive(Default)]
    struct Peer {
        says: VecDeque<Vec<u8>>,
        ends: bool,
        takes: usize,
        took: Vec<u8>,
    }

    impl Read for Peer {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            match self.says.pop_front() {
                Some(mut chunk) => {
                    let rest = chunk.split_off(chunk.len().min(into.len()));
                    if !rest.is_empty() {
                        self.says.push_front(rest);
                    }
                    into[..chunk.len()].copy_from_slice(&chunk);
                    Ok(chunk.len())
                }
                None if self.ends => Ok(0),
                None => Err(io::ErrorKind::WouldBlock.into()),
            }
        }
    }

    impl Write for Peer {
        fn write(&mut self, from: &[u8]) -> io::Result<usize> {
            let count = from.len().min(self.takes);
            if count == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.takes -= count;
            self.took.extend(&from[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn echo(line: &[u8]) -> Vec<u8> {
        [b"<", line, b">\n"].concat()
    }

    fn interest(turn: io::Result<Option<Interest>>) -> Option<(bool, bool)> {
        turn.unwrap()
            .map(|wanted| (wanted.readable, wanted.writable))
    }

    const READ: Option<(bool, bool)> = Some((true, false));
    const WRITE: Option<(bool, bool)> = Some((false, true));

    #[test]
    fn one_request_is_answered_per_turn() {
        let mut peer = Peer {
            says: [b"a\nb\nc".to_vec(), b"\n".to_vec()].into(),
            takes: 1000,
            ..Peer::default()
        };
        let mut buffers = Buffers::default();
        assert_eq!(interest(buffers.turn(&mut peer, &mut echo)), WRITE);
        assert_eq!(peer.took, b"<a>\n");
        assert_eq!(interest(buffers.turn(&mut peer, &mut echo)), READ);
        assert_eq!(interest(buffers.turn(&mut peer, &mut echo)), READ);
        assert_eq!(peer.took, b"<a>\n<b>\n<c>\n");
    }

    #[test]
    fn nothing_is_read_from_a_peer_that_does_not_take_its_answer() {
        let mut peer = Peer {
            says: (0..100).map(|_| b"a\n".to_vec()).collect(),
            takes: 2,
            ..Peer::default()
        };
        let mut buffers = Buffers::default();
        for _ in 0..50 {
            assert_eq!(interest(buffers.turn(&mut peer, &mut echo)), WRITE);
        }
        assert_eq!((peer.says.len(), buffers.input.len()), (99, 0));
        peer.takes = 1000;
        assert_eq!(interest(buffers.turn(&mut peer, &mut echo)), READ);
        assert_eq!(peer.took, b"<a>\n<a>\n");
    }

    #[test]
    fn a_line_without_an_end_is_refused_and_not_kept() {
        let mut peer = Peer {
            says: (0..10_000).map(|_| vec![b'x'; 1000]).collect(),
            takes: 1000,
            ..Peer::default()
        };
        let mut buffers = Buffers::default();
        let mut turns = 0;
        while buffers.turn(&mut peer, &mut echo).unwrap().is_some() {
            turns += 1;
            assert!(buffers.input.len() <= MAX_LINE);
        }
        assert!(turns <= MAX_LINE / 1000 + 1, "{turns}");
        assert!(String::from_utf8(peer.took).unwrap().contains("at most"));
    }

    #[test]
    fn the_last_request_before_the_end_is_answered() {
        let mut peer = Peer {
            says: [b"a\n".to_vec()].into(),
            ends: true,
            takes: 1000,
            ..Peer::default()
        };
        let mut buffers = Buffers::default();
        assert_eq!(interest(buffers.turn(&mut peer, &mut echo)), READ);
        assert_eq!(interest(buffers.turn(&mut peer, &mut echo)), None);
        assert_eq!(peer.took, b"<a>\n");
    }
}
