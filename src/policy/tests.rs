#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use std::path::Path;

use proptest::{prelude::*, sample::select};

use super::*;
use crate::config::Config;

const OWN: u32 = 1000;

fn policy(text: &str) -> Policy {
    let config = Config::parse(text, Path::new("compositor.toml")).unwrap();
    Policy::new(&config.access, OWN)
}

fn public(uid: u32, executable: &str) -> Peer {
    Peer {
        pid: 1,
        uid: Some(uid),
        executable: Some(executable.into()),
        origin: Origin::Public,
    }
}

fn sandboxed(engine: &str, app_id: &str) -> Peer {
    let sandbox = Sandbox {
        engine: Some(engine.into()),
        app_id: Some(app_id.into()),
        instance_id: None,
    };
    Peer {
        origin: Origin::Sandbox(sandbox),
        ..public(OWN, "/app/bin/app")
    }
}

fn may(policy: &Policy, peer: &Peer) -> bool {
    policy.allows(peer, Privilege::Capture)
}

#[test]
fn by_default_the_same_user_may_and_sandboxes_and_others_may_not() {
    let policy = policy("");
    assert!(may(&policy, &public(OWN, "/usr/bin/grim")));
    assert!(!may(&policy, &public(0, "/usr/bin/grim")));
    assert!(!may(&policy, &sandboxed("org.flatpak", "org.example.App")));
    let unknown = Peer::default();
    assert!(!may(&policy, &unknown));
}

#[test]
fn an_allow_list_admits_exactly_the_named_one() {
    let policy = policy(
        "[access]\ndefault = 'deny'\n[[access.rule]]\naction = 'allow'\nexecutable = '/usr/bin/grim'\n",
    );
    assert!(may(&policy, &public(OWN, "/usr/bin/grim")));
    for other in ["/usr/bin/grim2", "/tmp/usr/bin/grim", "/usr/bin/Grim", ""] {
        assert!(!may(&policy, &public(OWN, other)), "{other}");
    }
    let nameless = Peer {
        executable: None,
        ..public(OWN, "")
    };
    assert!(!may(&policy, &nameless));
}

#[test]
fn the_first_rule_that_matches_decides() {
    let deny = "[[access.rule]]\naction = 'deny'\nexecutable = '/opt/*'\n";
    let allow = "[[access.rule]]\naction = 'allow'\nuid = 7\n";
    let peer = public(7, "/opt/x");
    assert!(!may(&policy(&format!("{deny}{allow}")), &peer));
    assert!(may(&policy(&format!("{allow}{deny}")), &peer));
}

#[test]
fn an_allow_that_names_no_sandbox_does_not_reach_into_one_but_a_deny_does() {
    let peer = sandboxed("org.flatpak", "org.example.App");
    for open in ["", "uid = 1000\n", "executable = '*'\n", "socket = 'any'\n"] {
        let rule = format!("[[access.rule]]\naction = 'allow'\n{open}");
        assert!(!may(&policy(&rule), &peer), "{open}");
    }
    for named in [
        "socket = 'sandbox'\n",
        "sandbox_engine = 'org.flatpak'\n",
        "app_id = 'org.example.*'\n",
    ] {
        let rule = format!("[[access.rule]]\naction = 'allow'\n{named}");
        assert!(may(&policy(&rule), &peer), "{named}");
    }
    let deny = "[access]\ndefault = 'allow'\n[[access.rule]]\naction = 'deny'\nuid = 1000\n";
    assert!(!may(&policy(deny), &peer));
    assert!(may(&policy("[access]\ndefault = 'allow'\n"), &peer));
}

#[test]
fn a_sandbox_that_says_nothing_of_itself_matches_no_name() {
    let rule = "[[access.rule]]\naction = 'allow'\napp_id = '*'\n";
    let nameless = Peer {
        origin: Origin::Sandbox(Sandbox::default()),
        ..public(OWN, "/app")
    };
    assert!(!may(&policy(rule), &nameless));
    assert!(may(&policy(rule), &sandboxed("e", "a")));
}

fn some_rule() -> impl Strategy<Value = String> {
    let pattern = || select(&["*", "a", "a*", "/b", "/b*"][..]);
    let line = |key: &'static str, value: BoxedStrategy<String>| {
        proptest::option::of(value)
            .prop_map(move |value| value.map_or(String::new(), |v| format!("{key} = {v}\n")))
    };
    let word = |s: &str| format!("'{s}'");
    (
        select(&["allow", "deny"][..]),
        line(
            "executable",
            select(&["'*'", "'/b'", "'/b*'"][..])
                .prop_map(str::to_owned)
                .boxed(),
        ),
        line("uid", (0u32..3).prop_map(|n| n.to_string()).boxed()),
        line(
            "socket",
            select(&["'any'", "'public'", "'sandbox'"][..])
                .prop_map(str::to_owned)
                .boxed(),
        ),
        line("app_id", pattern().prop_map(word).boxed()),
        line("sandbox_engine", pattern().prop_map(word).boxed()),
    )
        .prop_map(|(action, a, b, c, d, e)| {
            format!("[[access.rule]]\naction = '{action}'\n{a}{b}{c}{d}{e}")
        })
}

fn some_peer() -> impl Strategy<Value = Peer> {
    let name = || proptest::option::of(select(&["a", "ab", "b"][..]).prop_map(str::to_owned));
    let origin = prop_oneof![
        Just(Origin::Public),
        Just(Origin::Privileged),
        (name(), name()).prop_map(|(engine, app_id)| Origin::Sandbox(Sandbox {
            engine,
            app_id,
            instance_id: None
        })),
    ];
    let executable = proptest::option::of(select(&["/b", "/bc", "/c"][..]).prop_map(PathBuf::from));
    (proptest::option::of(0u32..3), executable, origin).prop_map(|(uid, executable, origin)| Peer {
        pid: 1,
        uid,
        executable,
        origin,
    })
}

proptest! {
    #[test]
    fn a_privileged_client_has_every_right(rules in prop::collection::vec(some_rule(), 0..5), peer in some_peer(), default in select(&["allow", "deny", "same-user"][..])) {
        let policy = policy(&format!("[access]\ndefault = '{default}'\n{}", rules.concat()));
        let peer = Peer { origin: Origin::Privileged, ..peer };
        prop_assert!(may(&policy, &peer));
    }

    #[test]
    fn a_deny_in_front_takes_the_right_from_all_others(rules in prop::collection::vec(some_rule(), 0..5), peer in some_peer()) {
        let text = format!("[[access.rule]]\naction = 'deny'\n{}", rules.concat());
        prop_assert_eq!(may(&policy(&text), &peer), peer.origin == Origin::Privileged);
    }

    #[test]
    fn a_rule_behind_one_that_decides_changes_nothing(rules in prop::collection::vec(some_rule(), 1..5), more in some_rule(), peer in some_peer()) {
        // With both defaults the same answer: some rule decided.
        let with = |default: &str, last: &str| policy(&format!("[access]\ndefault = '{default}'\n{}{last}", rules.concat()));
        let (yes, no) = (may(&with("allow", ""), &peer), may(&with("deny", ""), &peer));
        if yes == no {
            prop_assert_eq!(may(&with("allow", &more), &peer), yes);
            prop_assert_eq!(may(&with("deny", &more), &peer), yes);
        }
    }

    #[test]
    fn only_a_rule_that_names_sandboxes_lets_one_in(rules in prop::collection::vec(some_rule(), 0..5), peer in some_peer()) {
        let policy = policy(&rules.concat());
        if peer.sandbox().is_some() && may(&policy, &peer) {
            let named = |rule: &&AccessRule| rule.action == AccessAction::Allow && names_a_sandbox(rule);
            prop_assert!(policy.rules.iter().any(|rule| named(&rule)));
        }
    }

    #[test]
    fn an_unknown_program_or_user_is_never_admitted_by_name(rules in prop::collection::vec(some_rule(), 0..5), peer in some_peer()) {
        let policy = policy(&format!("[access]\ndefault = 'deny'\n{}", rules.concat()));
        let unknown = Peer { executable: None, uid: None, ..peer.clone() };
        if unknown.origin == Origin::Public && may(&policy, &unknown) {
            let asks = |rule: &AccessRule| rule.executable.is_some() || rule.uid.is_some();
            prop_assert!(policy.rules.iter().any(|rule| rule.action == AccessAction::Allow && !asks(rule)));
        }
    }
}
