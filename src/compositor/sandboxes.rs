//! Sandboxes: security-context-v1, by which a sandbox engine hands a socket of its own into the sandbox.
//!
//! Smithay has this protocol too. But it takes every descriptor for a socket, and from a socket it takes all connections that
//! wait, so that a sandboxed program which connects again and again would have the event loop to itself.

use std::{
    cell::Cell,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixListener,
    },
    rc::Rc,
    sync::{Mutex, PoisonError},
};

use smithay::reexports::{
    calloop::{generic::Generic, Interest, Mode, PostAction, RegistrationToken},
    rustix::net::{sockopt, AddressFamily, SocketType},
    wayland_protocols::wp::security_context::v1::server::{
        wp_security_context_manager_v1::{self, WpSecurityContextManagerV1},
        wp_security_context_v1::{self, WpSecurityContextV1},
    },
    wayland_server::{Client, DataInit, Dispatch, DisplayHandle, GlobalDispatch, New, Resource},
};

use super::{ClientState, Vitrine};
use crate::{
    listener::{Arrival, Listener},
    policy::{Origin, Sandbox},
};

/// The version of security-context-v1.
const VERSION: u32 = 1;

/// What a sandbox engine has said of a sandbox so far; nothing any more when it has been made.
#[derive(Debug)]
pub struct Context(Mutex<Option<Draft>>);

#[derive(Debug)]
struct Draft {
    listener: UnixListener,
    /// Hangs up when the sandbox takes no more connections.
    end: OwnedFd,
    sandbox: Sandbox,
}

/// Marks the global of this file.
#[derive(Debug)]
pub struct Contexts;

/// Announces the protocol, to clients that are in no sandbox themselves.
pub(super) fn announce(display: &DisplayHandle) {
    display.create_global::<Vitrine, WpSecurityContextManagerV1, _>(VERSION, Contexts);
}

impl GlobalDispatch<WpSecurityContextManagerV1, Contexts> for Vitrine {
    fn bind(
        _state: &mut Self,
        _display: &DisplayHandle,
        _client: &Client,
        resource: New<WpSecurityContextManagerV1>,
        _data: &Contexts,
        data_init: &mut DataInit<'_, Self>,
    ) {
        data_init.init(resource, ());
    }

    fn can_view(client: Client, _data: &Contexts) -> bool {
        let data = client.get_data::<ClientState>();
        data.is_some_and(|data| data.peer.may_sandbox())
    }
}

impl Dispatch<WpSecurityContextManagerV1, ()> for Vitrine {
    fn request(
        _state: &mut Self,
        _client: &Client,
        manager: &WpSecurityContextManagerV1,
        request: wp_security_context_manager_v1::Request,
        _data: &(),
        _display: &DisplayHandle,
        data_init: &mut DataInit<'_, Self>,
    ) {
        use wp_security_context_manager_v1::Request;
        match request {
            Request::CreateListener {
                id,
                listen_fd,
                close_fd,
            } => {
                let draft = listens(&listen_fd).then(|| Draft {
                    listener: listen_fd.into(),
                    end: close_fd,
                    sandbox: Sandbox::default(),
                });
                let is_good = draft.is_some();
                data_init.init(id, Context(Mutex::new(draft)));
                if !is_good {
                    manager.post_error(
                        wp_security_context_manager_v1::Error::InvalidListenFd,
                        "listen_fd must be a Unix stream socket that listens",
                    );
                }
            }
            Request::Destroy => {}
            // The enum is open for versions that are never announced.
            _ => {}
        }
    }
}

impl Dispatch<WpSecurityContextV1, Context> for Vitrine {
    fn request(
        state: &mut Self,
        _client: &Client,
        context: &WpSecurityContextV1,
        request: wp_security_context_v1::Request,
        data: &Context,
        _display: &DisplayHandle,
        _data_init: &mut DataInit<'_, Self>,
    ) {
        use wp_security_context_v1::{Error, Request};
        if matches!(request, Request::Destroy) {
            return;
        }
        let mut data = data.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(draft) = &mut *data else {
            return context.post_error(Error::AlreadyUsed, "this sandbox has been made");
        };
        let sandbox = &mut draft.sandbox;
        let (place, word) = match request {
            Request::SetSandboxEngine { name } => (&mut sandbox.engine, name),
            Request::SetAppId { app_id } => (&mut sandbox.app_id, app_id),
            Request::SetInstanceId { instance_id } => (&mut sandbox.instance_id, instance_id),
            Request::Commit => {
                let draft = data.take();
                drop(data);
                if let Some(Err(error)) = draft.map(|draft| state.make_sandbox(draft)) {
                    tracing::warn!(target: "vitrine::access", %error, "the socket of a sandbox cannot be watched");
                }
                return;
            }
            // As above.
            _ => return,
        };
        if place.replace(word).is_some() {
            context.post_error(
                Error::AlreadySet,
                "this has been said of the sandbox before",
            );
        }
    }
}

impl Vitrine {
    /// Takes connections from a sandbox, until its end hangs up.
    fn make_sandbox(&mut self, draft: Draft) -> io::Result<()> {
        let Draft {
            listener,
            end,
            sandbox,
        } = draft;
        tracing::info!(
            target: "vitrine::access",
            engine = ?sandbox.engine, app_id = ?sandbox.app_id, instance_id = ?sandbox.instance_id, "sandbox made"
        );
        listener.set_nonblocking(true)?;
        // Whichever of the two ends takes the other along.
        let tokens: Rc<Cell<[Option<RegistrationToken>; 2]>> = Rc::default();
        let [of_end, of_listener] = [tokens.clone(), tokens.clone()];
        let source = Listener::of(listener);
        let connections = self.event_loop.insert_source(source, move |arrival, (), state| match arrival {
            Arrival::Connection(stream) => {
                state.add_client_from(stream, Origin::Sandbox(sandbox.clone()));
            }
            Arrival::Resting(error) => {
                tracing::warn!(target: "vitrine::access", engine = ?sandbox.engine, %error, "a client of a sandbox could not be accepted; trying again until one can");
            }
            Arrival::Closed(error) => {
                tracing::warn!(target: "vitrine::access", engine = ?sandbox.engine, %error, "the socket of a sandbox cannot be used and is closed");
                let [_, end] = of_end.take();
                end.inspect(|token| state.event_loop.remove(*token));
            }
        });
        let connections = connections.map_err(|error| io::Error::other(error.error))?;
        let source = Generic::new(end, Interest::READ, Mode::Level);
        let end = self.event_loop.insert_source(source, move |_, _, state| {
            let [listener, _] = of_listener.take();
            listener.inspect(|token| state.event_loop.remove(*token));
            Ok(PostAction::Remove)
        });
        match end {
            Ok(end) => tokens.set([Some(connections), Some(end)]),
            Err(error) => {
                self.event_loop.remove(connections);
                return Err(io::Error::other(error.error));
            }
        }
        Ok(())
    }
}

/// Whether clients can connect to this: bound, listening, and of the one kind that Wayland is spoken on.
fn listens(fd: impl AsFd) -> bool {
    let fd = fd.as_fd();
    sockopt::socket_domain(fd) == Ok(AddressFamily::UNIX)
        && sockopt::socket_type(fd) == Ok(SocketType::STREAM)
        && sockopt::socket_acceptconn(fd) == Ok(true)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use std::{
        fs::File,
        net::TcpListener,
        os::unix::net::{UnixDatagram, UnixListener, UnixStream},
    };

    use super::*;

    #[test]
    fn only_a_unix_stream_socket_that_listens_will_do() {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        assert!(listens(&listener));
        let connected = UnixStream::connect(folder.path().join("socket")).unwrap();
        assert!(!listens(&connected));
        assert!(!listens(UnixDatagram::unbound().unwrap()));
        assert!(!listens(TcpListener::bind("127.0.0.1:0").unwrap()));
        assert!(!listens(File::open("/dev/null").unwrap()));
    }
}
