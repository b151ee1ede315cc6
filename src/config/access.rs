//! `[access]`: who may use the globals that show or change what belongs to others. What the rules mean is `policy`'s.

use super::{
    reader::{choice, name, text, whole, Problems, Table, Value},
    schema,
};

/// `[access]`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccessSection {
    /// Who has the right when no rule says anything.
    pub default: AccessDefault,
    /// A second socket in XDG_RUNTIME_DIR whose clients have every right; `None`: there is none.
    pub privileged_socket: Option<String>,
    /// In the order of the file; the first that matches decides.
    pub rules: Vec<AccessRule>,
}

/// `access.default`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccessDefault {
    /// Clients of Vitrine's own user that are in no sandbox.
    #[default]
    SameUser,
    /// Everybody, sandboxed clients too.
    Allow,
    /// Nobody.
    Deny,
}

/// A kind of globals that not everybody may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Privilege {
    /// Everything that shows pixels of the screen or of other clients.
    Capture,
    /// Locking the session, and with it unlocking it again.
    SessionLock,
    /// Switching outputs off and on.
    OutputPower,
}

/// `access.rule.action`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessAction {
    /// The client has the right.
    Allow,
    /// It has not.
    Deny,
}

/// `access.rule.socket`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccessSocket {
    /// Any.
    #[default]
    Any,
    /// The one that applications are started with.
    Public,
    /// That of a sandbox (security-context-v1).
    Sandbox,
}

/// One `[[access.rule]]`. A field that is `None` does not matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRule {
    /// What it decides.
    pub action: AccessAction,
    /// About which globals.
    pub globals: Vec<Privilege>,
    /// The client's program; `*` stands for any run of characters.
    pub executable: Option<String>,
    /// The client's user.
    pub uid: Option<u32>,
    /// Where it connected.
    pub socket: AccessSocket,
    /// Who made the sandbox; `*` stands for any run of characters.
    pub sandbox_engine: Option<String>,
    /// The sandboxed application, in the engine's words; `*` stands for any run of characters.
    pub app_id: Option<String>,
    /// The sandbox itself, in the engine's words; `*` stands for any run of characters.
    pub instance_id: Option<String>,
}

pub(super) fn read(table: &Table<'_>, problems: &Problems<'_>) -> AccessSection {
    let defaults = &[
        ("same-user", AccessDefault::SameUser),
        ("allow", AccessDefault::Allow),
        ("deny", AccessDefault::Deny),
    ];
    AccessSection {
        default: table
            .get("default", |v| choice(v, defaults))
            .unwrap_or_default(),
        privileged_socket: table.get("privileged_socket", socket_name).flatten(),
        rules: rules(table, problems),
    }
}

fn rules(access: &Table<'_>, problems: &Problems<'_>) -> Vec<AccessRule> {
    let mut rules = Vec::new();
    for (table, span) in access.tables("rule", schema::ACCESS_RULE) {
        match rule(&table) {
            Some(rule) => rules.push(rule),
            None if table.has("action") => {}
            None => problems.add(
                span,
                "[[access.rule]] has no \"action\"; write action = \"allow\" or action = \"deny\""
                    .to_owned(),
            ),
        }
    }
    rules
}

fn rule(table: &Table<'_>) -> Option<AccessRule> {
    let actions = &[("allow", AccessAction::Allow), ("deny", AccessAction::Deny)];
    let sockets = &[
        ("any", AccessSocket::Any),
        ("public", AccessSocket::Public),
        ("sandbox", AccessSocket::Sandbox),
    ];
    let action = table.get("action", |v| choice(v, actions));
    // Read although there may be no action: all mistakes are told at once.
    let (globals, executable, uid, socket, sandbox_engine, app_id, instance_id) = (
        table.get("globals", privileges),
        table.get("executable", executable),
        table.get("uid", |v| whole(v, 0..=u32::MAX - 1)),
        table.get("socket", |v| choice(v, sockets)),
        table.get("sandbox_engine", name),
        table.get("app_id", name),
        table.get("instance_id", name),
    );
    Some(AccessRule {
        action: action?,
        globals: globals.unwrap_or_else(|| vec![Privilege::Capture]),
        executable,
        uid,
        socket: socket.unwrap_or_default(),
        sandbox_engine,
        app_id,
        instance_id,
    })
}

fn privileges(value: &Value<'_>) -> Option<Vec<Privilege>> {
    let words = &[
        ("capture", Privilege::Capture),
        ("session-lock", Privilege::SessionLock),
        ("output-power", Privilege::OutputPower),
    ];
    let list = value.get_ref().as_array()?;
    let list: Option<Vec<_>> = list.iter().map(|word| choice(word, words)).collect();
    list.filter(|list| !list.is_empty())
}

/// A path that could never match would be a rule that silently does nothing.
fn executable(value: &Value<'_>) -> Option<String> {
    name(value).filter(|path| path.starts_with(['/', '*']))
}

fn socket_name(value: &Value<'_>) -> Option<Option<String>> {
    let name = text(value)?;
    if name.is_empty() {
        return Some(None);
    }
    (!name.contains('/') && !name.starts_with('.')).then_some(Some(name))
}
