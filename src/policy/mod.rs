//! Who may do what: from what is known of a client to a yes or no. Data in, data out.
//!
//! Must not know: Wayland, sockets, /proc. Comes from: `config` (the rules) and `compositor` (what is known of a client).
//! Goes to: the filters of the privileged globals.

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use crate::config::{
    wildcard_match, AccessAction, AccessDefault, AccessRule, AccessSection, AccessSocket,
};

pub use crate::config::Privilege;

/// What is known of a client since it connected. It never changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peer {
    /// Its process when it connected; 0 if the kernel does not tell.
    pub pid: i32,
    /// Its user when it connected; `None` if the kernel does not tell.
    pub uid: Option<u32>,
    /// Its program, if that is certain.
    pub executable: Option<PathBuf>,
    /// Where it connected.
    pub origin: Origin,
}

/// The socket that a client came through.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Origin {
    /// The one that applications are started with.
    #[default]
    Public,
    /// The one whose clients have every right.
    Privileged,
    /// One that was handed to a sandbox (security-context-v1).
    Sandbox(Sandbox),
}

/// What the maker of a sandbox says of it. The clients inside cannot choose it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sandbox {
    /// Who made the sandbox.
    pub engine: Option<String>,
    /// The application, in the engine's words.
    pub app_id: Option<String>,
    /// The sandbox itself, in the engine's words.
    pub instance_id: Option<String>,
}

impl Origin {
    /// A word for it, as in compositor.toml.
    pub fn name(&self) -> &'static str {
        match self {
            Origin::Public => "public",
            Origin::Privileged => "privileged",
            Origin::Sandbox(_) => "sandbox",
        }
    }
}

impl Peer {
    /// The sandbox that the client is in.
    pub fn sandbox(&self) -> Option<&Sandbox> {
        match &self.origin {
            Origin::Sandbox(sandbox) => Some(sandbox),
            Origin::Public | Origin::Privileged => None,
        }
    }

    /// Whether the client may make sandboxes: a sandboxed one may not, or it could name itself as it likes.
    pub fn may_sandbox(&self) -> bool {
        self.sandbox().is_none()
    }
}

/// The operator's rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    own_uid: u32,
    default: AccessDefault,
    rules: Vec<AccessRule>,
}

impl Policy {
    /// The rules of a configuration, for a compositor that runs as `own_uid`.
    pub fn new(section: &AccessSection, own_uid: u32) -> Self {
        Self {
            own_uid,
            default: section.default,
            rules: section.rules.clone(),
        }
    }

    /// Whether the client has the right: by its socket, else by the first rule that matches, else by the default.
    pub fn allows(&self, peer: &Peer, privilege: Privilege) -> bool {
        if peer.origin == Origin::Privileged {
            return true;
        }
        let about_it = |rule: &&AccessRule| rule.globals.contains(&privilege);
        let mut rules = self.rules.iter().filter(about_it);
        match rules.find(|rule| matches(rule, peer)) {
            Some(rule) => rule.action == AccessAction::Allow,
            None => match self.default {
                AccessDefault::Allow => true,
                AccessDefault::Deny => false,
                AccessDefault::SameUser => {
                    peer.sandbox().is_none() && peer.uid == Some(self.own_uid)
                }
            },
        }
    }
}

/// An unknown fact matches no rule that asks for it. So a `deny` by executable is no protection, which the manual says.
fn matches(rule: &AccessRule, peer: &Peer) -> bool {
    let sandbox = peer.sandbox();
    // Whoever writes `allow` for a user or a program has not thought of what runs in a sandbox; a rule has to name it.
    if sandbox.is_some() && rule.action == AccessAction::Allow && !names_a_sandbox(rule) {
        return false;
    }
    let socket = match rule.socket {
        AccessSocket::Any => true,
        AccessSocket::Public => sandbox.is_none(),
        AccessSocket::Sandbox => sandbox.is_some(),
    };
    let executable = || peer.executable.as_deref().and_then(|path| path.to_str());
    let engine = || sandbox?.engine.as_deref();
    let app_id = || sandbox?.app_id.as_deref();
    let instance_id = || sandbox?.instance_id.as_deref();
    socket
        && rule.uid.is_none_or(|uid| peer.uid == Some(uid))
        && fits(rule.executable.as_deref(), executable)
        && fits(rule.sandbox_engine.as_deref(), engine)
        && fits(rule.app_id.as_deref(), app_id)
        && fits(rule.instance_id.as_deref(), instance_id)
}

fn names_a_sandbox(rule: &AccessRule) -> bool {
    rule.socket == AccessSocket::Sandbox
        || rule.sandbox_engine.is_some()
        || rule.app_id.is_some()
        || rule.instance_id.is_some()
}

fn fits<'a>(pattern: Option<&str>, fact: impl FnOnce() -> Option<&'a str>) -> bool {
    pattern.is_none_or(|pattern| fact().is_some_and(|fact| wildcard_match(pattern, fact)))
}
