//! Sandboxes: security-context-v1, by which a sandbox engine hands a socket of its own into the sandbox.
//!
//! Smithay keeps the contexts. It takes every descriptor for a socket, though, and what is none would be a sandbox that
//! nobody ever gets into; so the manager's requests pass through here first.

use std::os::fd::AsFd;

use smithay::{
    reexports::{
        rustix::net::{sockopt, AddressFamily, SocketType},
        wayland_protocols::wp::security_context::v1::server::{
            wp_security_context_manager_v1::{self, WpSecurityContextManagerV1},
            wp_security_context_v1::WpSecurityContextV1,
        },
        wayland_server::{
            delegate_dispatch, delegate_global_dispatch, Client, DataInit, Dispatch, DisplayHandle,
            Resource,
        },
    },
    wayland::security_context::{
        SecurityContext, SecurityContextGlobalData, SecurityContextHandler,
        SecurityContextListenerSource, SecurityContextState, SecurityContextUserData,
    },
};

use super::{sockets::ClientSocket, Vitrine};
use crate::policy::{Origin, Sandbox};

impl SecurityContextHandler for Vitrine {
    fn context_created(&mut self, source: SecurityContextListenerSource, context: SecurityContext) {
        let sandbox = Sandbox {
            engine: context.sandbox_engine,
            app_id: context.app_id,
            instance_id: context.instance_id,
        };
        tracing::info!(
            target: "vitrine::access",
            engine = ?sandbox.engine, app_id = ?sandbox.app_id, instance_id = ?sandbox.instance_id, "sandbox made"
        );
        let inserted =
            self.event_loop
                .insert_source(ClientSocket(source), move |connection, (), state| match connection {
                    Ok(stream) => state.add_client_from(stream, Origin::Sandbox(sandbox.clone())),
                    Err(error) => {
                        tracing::warn!(target: "vitrine::access", %error, "the socket of a sandbox cannot be used and is closed");
                    }
                });
        if let Err(error) = inserted {
            tracing::warn!(target: "vitrine::access", %error, "the socket of a sandbox cannot be watched");
        }
    }
}

impl Dispatch<WpSecurityContextManagerV1, ()> for Vitrine {
    fn request(
        state: &mut Self,
        client: &Client,
        manager: &WpSecurityContextManagerV1,
        request: wp_security_context_manager_v1::Request,
        data: &(),
        display: &DisplayHandle,
        data_init: &mut DataInit<'_, Self>,
    ) {
        if let wp_security_context_manager_v1::Request::CreateListener { listen_fd, .. } = &request
        {
            if !listens(listen_fd) {
                return manager.post_error(
                    wp_security_context_manager_v1::Error::InvalidListenFd,
                    "listen_fd must be a Unix stream socket that listens",
                );
            }
        }
        <SecurityContextState as Dispatch<WpSecurityContextManagerV1, (), Self>>::request(
            state, client, manager, request, data, display, data_init,
        );
    }
}

/// Whether clients can connect to this: bound, listening, and of the one kind that Wayland is spoken on.
fn listens(fd: impl AsFd) -> bool {
    let fd = fd.as_fd();
    sockopt::socket_domain(fd) == Ok(AddressFamily::UNIX)
        && sockopt::socket_type(fd) == Ok(SocketType::STREAM)
        && sockopt::socket_acceptconn(fd) == Ok(true)
}

delegate_global_dispatch!(Vitrine: [WpSecurityContextManagerV1: SecurityContextGlobalData] => SecurityContextState);
delegate_dispatch!(Vitrine: [WpSecurityContextV1: SecurityContextUserData] => SecurityContextState);

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
