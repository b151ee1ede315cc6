//! Listening sockets in the event loop, in a shape that survives their errors: an error of an event source would end the
//! event loop, and with it the session, and a connection that cannot be accepted would wake it for ever.
//!
//! `accept` fails as long as the process, or the system, has no descriptor left. The connections wait in the kernel's queue
//! meanwhile. So a listener *rests* after an error: nothing is asked of it for a moment, and then it is tried again.
//!
//! A few connections are taken in each turn: who connects again and again without an end is not the only one there.

use std::{
    io,
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    time::Duration,
};

use rustix::io::Errno;
use smithay::reexports::{
    calloop::{
        self,
        generic::Generic,
        timer::{TimeoutAction, Timer},
        EventSource, Interest, Mode, Poll, PostAction, Readiness, Token, TokenFactory,
    },
    wayland_server::ListeningSocket,
};

/// How long a rest is.
const REST: Duration = Duration::from_millis(200);

/// So many connections are taken in a turn.
const AT_ONCE: usize = 8;

/// What a listener has to say.
#[derive(Debug)]
pub enum Arrival {
    /// Somebody has connected.
    Connection(UnixStream),
    /// Nobody can be accepted now; it is tried again in a moment. Said once until a connection comes.
    Resting(io::Error),
    /// Nobody can ever be accepted here: the socket is none, or was shut down by somebody else who has it.
    Closed(io::Error),
}

/// A source of connections that rests after an error.
#[derive(Debug)]
pub struct Listener<S> {
    source: S,
    /// The end of a rest.
    timer: Timer,
    rests: bool,
    /// Whether the source is what the event loop watches now.
    watched: bool,
    failing: bool,
}

impl<S> Listener<S> {
    /// Takes connections from a source, whose errors are those of `accept`.
    pub fn new(source: S) -> Self {
        Self {
            source,
            timer: Timer::from_duration(REST),
            rests: false,
            watched: false,
            failing: false,
        }
    }
}

impl<S: Accept> Listener<Acceptor<S>> {
    /// Takes connections from a socket that does not block.
    pub fn of(socket: S) -> Self {
        Self::new(Acceptor(Generic::new(socket, Interest::READ, Mode::Level)))
    }
}

/// A socket that does not block.
pub trait Accept: AsFd {
    /// The next connection; `None` if nobody waits.
    ///
    /// # Errors
    /// What `accept` fails with.
    fn next(&self) -> io::Result<Option<UnixStream>>;
}

impl Accept for UnixListener {
    fn next(&self) -> io::Result<Option<UnixStream>> {
        match self.accept() {
            Ok((stream, _)) => Ok(Some(stream)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Accept for ListeningSocket {
    fn next(&self) -> io::Result<Option<UnixStream>> {
        self.accept()
    }
}

/// Whether another try makes no sense.
fn is_final(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    let none = [Errno::BADF, Errno::INVAL, Errno::NOTSOCK, Errno::OPNOTSUPP];
    errno.is_some_and(|errno| none.contains(&errno))
}

impl<S> EventSource for Listener<S>
where
    S: EventSource<Event = UnixStream, Metadata = (), Ret = (), Error = io::Error>,
{
    type Event = Arrival;
    type Metadata = ();
    type Ret = ();
    type Error = io::Error;

    fn process_events<F: FnMut(Arrival, &mut ())>(
        &mut self,
        readiness: Readiness,
        token: Token,
        mut callback: F,
    ) -> io::Result<PostAction> {
        if self.rests {
            let mut over = false;
            let timer = self.timer.process_events(readiness, token, |_, ()| {
                over = true;
                TimeoutAction::Drop
            });
            timer.map_err(io::Error::other)?;
            self.rests = !over;
            return Ok(match over {
                true => PostAction::Reregister,
                false => PostAction::Continue,
            });
        }
        let failing = &mut self.failing;
        let outcome = self
            .source
            .process_events(readiness, token, |stream, meta| {
                *failing = false;
                callback(Arrival::Connection(stream), meta);
            });
        Ok(match outcome {
            Ok(action) => action,
            Err(error) if is_final(&error) => {
                callback(Arrival::Closed(error), &mut ());
                PostAction::Remove
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    callback(Arrival::Resting(error), &mut ());
                }
                self.rests = true;
                self.timer.set_duration(REST);
                PostAction::Reregister
            }
        })
    }

    fn register(&mut self, poll: &mut Poll, tokens: &mut TokenFactory) -> calloop::Result<()> {
        if self.rests {
            return self.timer.register(poll, tokens);
        }
        self.source.register(poll, tokens)?;
        self.watched = true;
        Ok(())
    }

    fn reregister(&mut self, poll: &mut Poll, tokens: &mut TokenFactory) -> calloop::Result<()> {
        self.unregister(poll)?;
        self.register(poll, tokens)
    }

    fn unregister(&mut self, poll: &mut Poll) -> calloop::Result<()> {
        self.timer.unregister(poll)?;
        match std::mem::take(&mut self.watched) {
            true => self.source.unregister(poll),
            false => Ok(()),
        }
    }
}

/// The connections of a socket.
#[derive(Debug)]
pub struct Acceptor<S: AsFd>(Generic<S>);

impl<S: Accept> EventSource for Acceptor<S> {
    type Event = UnixStream;
    type Metadata = ();
    type Ret = ();
    type Error = io::Error;

    fn process_events<F: FnMut(UnixStream, &mut ())>(
        &mut self,
        readiness: Readiness,
        token: Token,
        mut callback: F,
    ) -> io::Result<PostAction> {
        self.0.process_events(readiness, token, |_, socket| {
            for _ in 0..AT_ONCE {
                match socket.next()? {
                    Some(stream) => callback(stream, &mut ()),
                    None => break,
                }
            }
            Ok(PostAction::Continue)
        })
    }

    fn register(&mut self, poll: &mut Poll, tokens: &mut TokenFactory) -> calloop::Result<()> {
        self.0.register(poll, tokens)
    }

    fn reregister(&mut self, poll: &mut Poll, tokens: &mut TokenFactory) -> calloop::Result<()> {
        self.0.reregister(poll, tokens)
    }

    fn unregister(&mut self, poll: &mut Poll) -> calloop::Result<()> {
        self.0.unregister(poll)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

    use std::{cell::RefCell, rc::Rc, time::Instant};

    use smithay::reexports::calloop::EventLoop;

    use super::*;

    /// What `accept` says, in this order; then there are connections.
    type Script = Rc<RefCell<Vec<Errno>>>;

    /// A real socket of which `accept` fails as long as the script says.
    struct Scripted(Acceptor<UnixListener>, Script);

    impl EventSource for Scripted {
        type Event = UnixStream;
        type Metadata = ();
        type Ret = ();
        type Error = io::Error;

        fn process_events<F: FnMut(UnixStream, &mut ())>(
            &mut self,
            readiness: Readiness,
            token: Token,
            callback: F,
        ) -> io::Result<PostAction> {
            if let Some(errno) = self.1.borrow_mut().pop() {
                return Err(errno.into());
            }
            self.0.process_events(readiness, token, callback)
        }

        fn register(&mut self, poll: &mut Poll, tokens: &mut TokenFactory) -> calloop::Result<()> {
            self.0.register(poll, tokens)
        }

        fn reregister(
            &mut self,
            poll: &mut Poll,
            tokens: &mut TokenFactory,
        ) -> calloop::Result<()> {
            self.0.reregister(poll, tokens)
        }

        fn unregister(&mut self, poll: &mut Poll) -> calloop::Result<()> {
            self.0.unregister(poll)
        }
    }

    /// Turns the loop until so much was said, and returns it with the number of turns.
    fn said(errors: &[Errno], count: usize) -> (Vec<String>, usize) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let socket = UnixListener::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let script: Script = Rc::new(RefCell::new(errors.iter().rev().copied().collect()));
        let acceptor = Acceptor(Generic::new(socket, Interest::READ, Mode::Level));
        let listener = Listener::new(Scripted(acceptor, script));
        let mut event_loop = EventLoop::<Vec<String>>::try_new().unwrap();
        let inserted = event_loop
            .handle()
            .insert_source(listener, |arrival, (), said| {
                said.push(match arrival {
                    Arrival::Connection(_) => "connection".to_owned(),
                    Arrival::Resting(error) => format!("rests {error}"),
                    Arrival::Closed(error) => format!("closed {error}"),
                });
            });
        inserted.unwrap();
        let _waiting = UnixStream::connect(&path).unwrap();
        let (mut said, mut turns) = (Vec::new(), 0);
        let end = Instant::now() + Duration::from_secs(20);
        while said.len() < count && Instant::now() < end {
            event_loop
                .dispatch(Duration::from_secs(1), &mut said)
                .unwrap();
            turns += 1;
        }
        (said, turns)
    }

    #[test]
    fn a_listener_rests_after_each_error_and_says_so_once() {
        let errors = [Errno::MFILE, Errno::NFILE, Errno::CONNABORTED];
        let (said, turns) = said(&errors, 2);
        assert_eq!(said.len(), 2, "{said:?}");
        assert_eq!(
            said.first(),
            Some(&format!("rests {}", io::Error::from(Errno::MFILE)))
        );
        assert_eq!(said.last().map(String::as_str), Some("connection"));
        // An error and the end of a rest each, and no turns in between.
        assert!(turns <= 8, "{turns} turns");
    }

    #[test]
    fn what_is_no_socket_is_closed() {
        let (said, _) = said(&[Errno::INVAL], 1);
        assert_eq!(said, [format!("closed {}", io::Error::from(Errno::INVAL))]);
    }
}
