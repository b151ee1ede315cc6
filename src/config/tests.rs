//! The schema, the reader, compositor.toml and the manual must say the same; mistakes must be told in useful words.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests fail by panicking"
)]

mod mistakes;

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::{schema, search_path, values::wildcard_match, *};

const SHIPPED: &str = include_str!("../../compositor.toml");
const MANUAL: &str = include_str!("../../docs/configuration.md");

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("compositor.toml"))
}

fn complaint(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

/// A file that sets one key of a section.
fn with_key(section: &schema::Section, key: &str, value: &str) -> String {
    let required = required(section, key);
    format!("{}\n{required}{key} = {value}\n", section.header)
}

/// The line that a table must have besides the key.
fn required(section: &schema::Section, key: &str) -> &'static str {
    match (section.header, key) {
        ("[[output]]", "connector") | ("[[access.rule]]", "action") => "",
        ("[[output]]", _) => "connector = \"X-1\"\n",
        ("[[access.rule]]", _) => "action = 'allow'\n",
        _ => "",
    }
}

/// Values of each key at the edges: what is taken and what is refused. None of the taken ones is the default.
fn edges(header: &str, key: &str) -> (&'static [&'static str], &'static [&'static str]) {
    match (header, key) {
        ("", "drm_device") => (&["'/dev/dri/card1'"], &["''", "'card0'", "1"]),
        ("", "renderer") => (&["'pixman'", "'gles'"], &["'vulkan'", "'Pixman'", "true"]),
        ("", "nice") => (&["-20", "0"], &["-21", "1", "-5.0", "'-5'"]),
        ("[capture]", "ring_slots") => (&["3", "8"], &["2", "9", "-1", "4.0", "'4'", "4294967300"]),
        ("[capture]", "quota") => (&["1", "3"], &["0", "4", "true"]),
        ("[capture]", "hold_deadline_ms") => (&["50", "60000"], &["49", "60001"]),
        ("[capture]", "grace_refreshes") => (&["0", "60"], &["-1", "61"]),
        ("[capture]", "cooling_ms") => (
            &["0", "0.5", "100"],
            &["-0.1", "100.1", "nan", "inf", "'2'"],
        ),
        ("[capture]", "producer") => (
            &["'render'", "'writeback'"],
            &["'default'", "'gpu'", "''", "true"],
        ),
        ("[capture]", "dmabuf") => (&["'on'", "'off'"], &["true", "'yes'"]),
        ("[capture]", "gpu_copies") => (&["'on'", "'off'"], &["true", "'gpu'"]),
        ("[capture]", "passthrough") => (&["false"], &["'auto'", "1"]),
        ("[[output]]", "passthrough") => (&["true", "false"], &["1", "'yes'"]),
        ("[capture]", "lease_primary") => (&["false"], &["'auto'", "1"]),
        ("[[output]]", "lease_primary") => (&["true", "false"], &["1", "'yes'"]),
        ("[capture]", "pacing") => (&["'every_nth'", "'pipelined'"], &["'auto'", "2", "'fast'"]),
        ("[capture]", "every_nth") => (&["3", "60"], &["1", "61", "2.0"]),
        ("[capture]", "pipelined_unlisted") => (&["true"], &["1", "'yes'"]),
        ("[capture]", "hold_refreshes") => (&["1", "8"], &["0", "9"]),
        ("[capture]", "watchdog_ms") => (&["1000", "60000"], &["249", "60001"]),
        ("[capture]", "motion") => (&["'full'"], &["'auto'", "true"]),
        ("[[output]]", "motion") => (&["'damage'", "'full'"], &["true", "'none'"]),
        ("[[output]]", "pacing") => (&["'safe'", "'every_nth'", "'pipelined'"], &["2", "'fast'"]),
        ("[[output]]", "foreign_planes") => (
            &["[31]", "['overlay:0', 4294967295]", "['overlay:63']"],
            &[
                "31",
                "[0]",
                "[-1]",
                "['overlay:']",
                "['overlay:64']",
                "['overlay:+1']",
                "['cursor']",
                "[4294967296]",
            ],
        ),
        ("[[output]]", "lease_socket") => (&["'lease'"], &["'a/b'", "'..'", "1", "\"a\\u0000\""]),
        ("[[output]]", "sink") => (&["'writeback'"], &["'none'", "false"]),
        ("[capture]", "history") => (&["1", "16"], &["-1", "17", "'4'"]),
        ("[capture]", "history_dir") => (&["'/var/lib/a'"], &["''", "'a'", "1"]),
        ("[capture]", "indicator") => (&["'mark'"], &["true", "'on'"]),
        ("[access]", "default") => (&["'allow'", "'deny'"], &["'all'", "true"]),
        ("[access]", "privileged_socket") => (
            &["'wayland-privileged'"],
            &["'/run/x'", "'../x'", "'.'", "true", "\"a\\u0000\""],
        ),
        ("[[access.rule]]", "action") => (&["'allow'", "'deny'"], &["true", "'grant'"]),
        ("[[access.rule]]", "globals") => (
            &[
                "['session-lock']",
                "['output-power']",
                "['capture', 'session-lock', 'output-power']",
            ],
            &[
                "[]",
                "'capture'",
                "['capture', 'shm']",
                "['*']",
                "['power']",
            ],
        ),
        ("[[access.rule]]", "executable") => (
            &["'/usr/bin/grim'", "'/opt/*/capture'", "'*'"],
            &["'grim'", "''", "'./grim'", "1"],
        ),
        ("[[access.rule]]", "uid") => (&["0", "4294967294"], &["-1", "4294967295", "'root'"]),
        ("[[access.rule]]", "socket") => (
            &["'public'", "'sandbox'"],
            &["'privileged'", "'wayland-1'", "1"],
        ),
        ("[[access.rule]]", _) => (&["'org.example.App'", "'*'"], &["''", "1", "\"a\\u0000\""]),
        ("[[output]]", "connector") => {
            (&["'DP-1'", "'HDMI-*'"], &["''", "' '", "7", "\"a\\u0000\""])
        }
        ("[[output]]", "enabled") => (&["false"], &["0", "'no'"]),
        ("[[output]]", "mode") => (
            &["'1280x720'", "'1280x720@59.94'", "'65535x1@1000'"],
            &[
                "'1280'",
                "'x'",
                "'0x0'",
                "'+1x1'",
                "'65536x1'",
                "'1x1@'",
                "'1x1@0'",
                "'1x1@-60'",
                "'1x1@1e2'",
                "'1x1@1001'",
                "'1x1@60.0.0'",
                "[1280, 720]",
            ],
        ),
        ("[[output]]", "scale") => (
            &["0.5", "2", "8"],
            &["0.49", "8.1", "0", "-1", "nan", "'2'"],
        ),
        ("[[output]]", "transform") => (
            &[
                "'90'",
                "'180'",
                "'270'",
                "'flipped'",
                "'flipped-90'",
                "'flipped-180'",
                "'flipped-270'",
            ],
            &["90", "'45'", "'flipped-0'"],
        ),
        ("[[output]]", "position") => (
            &["[0, 0]", "[-32768, 32767]"],
            &[
                "[0]",
                "[0, 0, 0]",
                "[32768, 0]",
                "[0.5, 0]",
                "'left'",
                "{ x = 0, y = 0 }",
            ],
        ),
        ("[[output]]", "producer") => (
            &["'auto'", "'render'", "'writeback'"],
            &["''", "'gpu'", "false"],
        ),
        ("[input]", "vt_switch") => (&["false"], &["'off'"]),
        ("[input]", "terminate_key") => (&["true"], &["'Ctrl+Alt+Backspace'"]),
        ("[input.keyboard]", "repeat_rate") => (&["0", "200"], &["-1", "201", "2.5"]),
        ("[input.keyboard]", "repeat_delay") => (&["50", "10000"], &["49", "10001"]),
        ("[input.keyboard]", _) => (&["'de'"], &["1", "['de']", "\"d\\u0000e\"", "\"d\\ne\""]),
        ("[input.pointer]", "accel_profile") => (&["'flat'", "'adaptive'"], &["'none'", "0"]),
        ("[input.pointer]", "accel_speed") => {
            (&["-1", "0", "1.0"], &["-1.1", "1.1", "nan", "'fast'"])
        }
        ("[input.pointer]", _) => (&["true", "false"], &["1", "'true'"]),
        ("[input.touch]", "output") => (&["'DSI-1'"], &["''", "1"]),
        ("[input.touch]", "calibration") => (
            &["[1, 0, 0.0, 0, 1, 0.5]"],
            &[
                "[1, 0, 0, 0, 1]",
                "[1, 0, 0, 0, 1, 0, 0]",
                "[1, 0, 0, 0, 1, nan]",
                "'none'",
            ],
        ),
        ("[cursor]", "theme") => (&["'Adwaita'"], &["''", "1"]),
        ("[cursor]", "size") => (&["1", "512"], &["0", "513", "'big'"]),
        ("[cursor]", "hardware") => (&["false"], &["'auto'", "0"]),
        ("[seat]", "name") => (&["'kiosk'"], &["''", "\"a\\u0000\"", "0"]),
        ("[log]", "target") => (&["'stderr'", "'journald'"], &["'file'", "1"]),
        ("[log]", "filter") => (
            &["'debug'", "'vitrine::kms=trace'"],
            &["''", "'vitrine=loud'", "3"],
        ),
        ("[app]", "command") => (
            &["['foot']", "['sh', '-c', \"a\\nb\"]"],
            &["'foot'", "['']", "['a', 1]", "[\"a\\u0000\"]"],
        ),
        ("[metrics]", "file") => (&["'/run/a.prom'"], &["''", "'a.prom'", "'/run/a.txt'", "1"]),
        ("[metrics]", "interval_s") => (&["1", "3600"], &["0", "3601", "1.5"]),
        _ => panic!("{header} {key} has no values in this test"),
    }
}

#[test]
fn the_shipped_file_says_the_defaults_and_every_key() {
    let outputs = vec![OutputRule::default()];
    assert_eq!(
        parse(SHIPPED).unwrap(),
        Config {
            outputs,
            ..Config::default()
        }
    );
    // A rule changes something whatever it says, so the one in the file is commented out, as `#key = …` without a space.
    let shipped = SHIPPED.replace("\n#[[", "\n[[");
    let is_key = |line: &str| line.starts_with('#') && !line.starts_with("# ") && line.len() > 1;
    let shipped: String = shipped
        .lines()
        .map(|line| if is_key(line) { &line[1..] } else { line })
        .flat_map(|line| [line, "\n"])
        .collect();
    assert_eq!(parse(&shipped).unwrap().access.rules.len(), 1);
    for section in schema::SECTIONS {
        let body = match section.header {
            "" => shipped.split("\n[").next().unwrap(),
            header => {
                let at = shipped.find(&format!("\n{header}\n")).expect(header);
                shipped[at + 1..].split("\n[").next().unwrap()
            }
        };
        for key in section.keys {
            let line = format!("\n{} = ", key.name);
            assert!(
                body.contains(&line),
                "{} is missing in {}",
                key.name,
                section.place()
            );
        }
    }
}

#[test]
fn an_empty_file_means_the_defaults() {
    assert_eq!(parse("").unwrap(), Config::default());
    let headers = "[capture]\n[input]\n[input.touch]\n[cursor]\n[seat]\n[log]\n[app]\n";
    assert_eq!(parse(headers).unwrap(), Config::default());
}

#[test]
fn the_manual_names_every_key_and_every_valid_value() {
    for section in schema::SECTIONS {
        let title = match section.header {
            "" => "## Top level".to_owned(),
            header => format!("## `{header}`"),
        };
        let at = MANUAL.find(&format!("\n{title}\n")).expect(&title);
        let body = MANUAL[at + 1..].split("\n## ").next().unwrap();
        for key in section.keys {
            let row = format!("\n| `{}` | {} |", key.name, key.valid);
            assert!(body.contains(&row), "{title} has no line that begins {row}");
        }
    }
}

#[test]
fn every_key_takes_its_edges_and_refuses_what_is_beyond() {
    for section in schema::SECTIONS {
        for key in section.keys {
            let (good, bad) = edges(section.header, key.name);
            assert!(!bad.is_empty());
            for value in good {
                let config = parse(&with_key(section, key.name, value)).unwrap();
                let mut plain = Config::default();
                if section.header == "[[output]]" {
                    plain.outputs = vec![OutputRule {
                        connector: "X-1".to_owned(),
                        ..OutputRule::default()
                    }];
                }
                if section.header == "[[access.rule]]" && key.name != "action" {
                    plain = parse("[[access.rule]]\naction = 'allow'\n").unwrap();
                }
                // [0, 0] is a position and "auto" is none: everything taken here changes something.
                assert_ne!(
                    config,
                    plain,
                    "{} = {value} in {} does nothing",
                    key.name,
                    section.place()
                );
            }
            for value in bad {
                let text = complaint(&with_key(section, key.name, value));
                let line = 2 + required(section, key.name).lines().count();
                let start = format!("compositor.toml:{line}: bad value ");
                let end = format!(
                    " for \"{}\" in {}; valid: {}",
                    key.name,
                    section.place(),
                    key.valid
                );
                assert!(
                    text.starts_with(&start) && text.ends_with(&end),
                    "{value}: {text}"
                );
            }
        }
    }
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_valid_one() {
    assert_eq!(
        complaint("# a\n\nrendrer = \"gles\"\n"),
        "compositor.toml:3: unknown key \"rendrer\" in the top level; valid keys: drm_device, renderer, nice, capture, \
         access, output, input, cursor, seat, log, app, metrics; did you mean \"renderer\"?"
    );
    assert_eq!(
        complaint("[capture]\nring_slots = 3\nqouta = 1\n"),
        "compositor.toml:3: unknown key \"qouta\" in [capture]; valid keys: ring_slots, quota, hold_deadline_ms, \
         grace_refreshes, cooling_ms, producer, dmabuf, gpu_copies, passthrough, lease_primary, pacing, every_nth, \
         pipelined_unlisted, hold_refreshes, watchdog_ms, motion, history, history_dir, indicator; did you mean \"quota\"?"
    );
    let far = complaint("[seat]\nwallpaper = 1\n");
    assert_eq!(
        far,
        "compositor.toml:2: unknown key \"wallpaper\" in [seat]; valid keys: name"
    );
}

#[test]
fn an_exact_connector_goes_before_a_pattern_and_patterns_go_in_order() {
    let config = parse(
        "[[output]]\nconnector = 'HDMI-*'\nscale = 2\n[[output]]\nconnector = '*'\nscale = 3\n\
         [[output]]\nconnector = 'HDMI-A-2'\nscale = 4\n",
    )
    .unwrap();
    let scale = |connector| config.output(connector).scale;
    assert_eq!(
        (scale("HDMI-A-1"), scale("HDMI-A-2"), scale("DP-1")),
        (2.0, 4.0, 3.0)
    );
    assert_eq!(Config::default().output("Virtual-1"), OutputRule::default());
}

#[test]
fn a_star_stands_for_any_run_of_characters() {
    for (pattern, text) in [
        ("*", ""),
        ("*", "DP-1"),
        ("DP-*", "DP-"),
        ("*-1", "DP-1"),
        ("H*A*1", "HDMI-A-1"),
        ("a*a", "aa"),
        ("**", "x"),
        ("DP-1", "DP-1"),
        ("*ab", "aab"),
        ("*a*b", "aab"),
    ] {
        assert!(wildcard_match(pattern, text), "{pattern} {text}");
    }
    for (pattern, text) in [
        ("DP-1", "DP-11"),
        ("DP-*", "eDP-1"),
        ("a*a", "a"),
        ("", "x"),
        ("*-1", "DP-12"),
        ("a*b*b", "ab"),
    ] {
        assert!(!wildcard_match(pattern, text), "{pattern} {text}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = Config::load(Path::new("/nonexistent/vitrine.toml")).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("/nonexistent/vitrine.toml: cannot be read: "),
        "{error}"
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("latin1.toml");
    std::fs::write(&file, b"[seat]\nname = \"\xe9\"\n").unwrap();
    assert!(matches!(
        Config::load(&file),
        Err(ConfigError::Unreadable { .. })
    ));
}

#[test]
fn the_users_file_goes_before_the_systems() {
    let system = PathBuf::from("/etc/vitrine/compositor.toml");
    let user = PathBuf::from("/home/x/.config/vitrine/compositor.toml");
    assert_eq!(
        search_path(Some(Path::new("/home/x/.config"))),
        [user, system.clone()]
    );
    assert_eq!(search_path(Some(Path::new("relative"))), search_path(None));
    assert_eq!(search_path(None), [system]);
}

#[test]
fn an_empty_configuration_home_is_none() {
    let home = |set: &[(&str, &str)]| {
        let set: Vec<(String, String)> = set
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        config_home(move |name| {
            let found = set.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.into())
        })
    };
    let user = ("HOME", "/home/x");
    let usual = Some(PathBuf::from("/home/x/.config"));
    assert_eq!(home(&[user]), usual);
    assert_eq!(home(&[user, ("XDG_CONFIG_HOME", "")]), usual);
    assert_eq!(
        home(&[user, ("XDG_CONFIG_HOME", "/c")]),
        Some(PathBuf::from("/c"))
    );
    assert_eq!(home(&[("HOME", "")]), None);
    assert_eq!(home(&[]), None);
}

#[test]
fn a_file_that_is_there_and_cannot_be_read_is_not_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("a.toml"), folder.path().join("b.toml"));
    std::fs::write(&second, "nice = -3").unwrap();
    let find = || Config::first_of(vec![first.clone(), second.clone()]);
    assert_eq!(find().unwrap().1.as_ref(), Some(&second));
    // Below a file there is nothing either.
    let below = Config::first_of(vec![second.join("c.toml")]).unwrap();
    assert_eq!(below, (Config::default(), None));
    // A link that leads nowhere, a folder: somebody meant something by it.
    std::os::unix::fs::symlink("nowhere", &first).unwrap();
    let error = find().unwrap_err().to_string();
    assert!(error.contains("a.toml: cannot be read"), "{error}");
    std::fs::remove_file(&first).unwrap();
    std::fs::create_dir(&first).unwrap();
    assert!(find().is_err());
    // A name that no file can have, in place of a folder that may not be entered: root may enter all.
    let long = folder.path().join("x".repeat(300)).join("a.toml");
    assert!(Config::first_of(vec![long, second]).is_err());
}

#[test]
fn the_mode_that_the_rule_means_is_chosen() {
    let mode = |width, height, refresh_millihertz, preferred| OutputMode {
        width,
        height,
        refresh_millihertz,
        preferred,
    };
    let modes = [
        mode(1920, 1080, 60_000, false),
        mode(1280, 720, 59_940, false),
        mode(1280, 720, 60_000, false),
        mode(1280, 720, 50_000, false),
        mode(1024, 768, 75_000, false),
        mode(1024, 768, 60_000, true),
    ];
    let choose = |text| ModeRule::parse(text).unwrap().choose(&modes);
    assert_eq!(choose("preferred"), Some(5));
    assert_eq!(choose("1280x720@59.94"), Some(1));
    assert_eq!(choose("1280x720@60"), Some(2));
    assert_eq!(choose("1280x720@50"), Some(3));
    assert_eq!(
        choose("1280x720"),
        Some(2),
        "the fastest when none is preferred"
    );
    assert_eq!(
        choose("1024x768"),
        Some(5),
        "the preferred one although another is faster"
    );
    assert_eq!(choose("1280x720@75"), None);
    assert_eq!(choose("640x480"), None);
    assert_eq!(
        ModeRule::Preferred.choose(&modes[..3]),
        Some(0),
        "the first when none is preferred"
    );
    assert_eq!(ModeRule::Preferred.choose(&[]), None);
}

proptest! {
    #[test]
    fn no_text_crashes_the_reader(text in "\\PC{0,80}(\n\\PC{0,40}){0,4}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_damage_to_a_good_file_crashes_the_reader(at in 0..SHIPPED.len(), junk in "[\\[\\]=\"{}#.,\n a0-]{0,3}", cut in 0usize..30) {
        // The file is ASCII: every index is a boundary.
        let start = at;
        let end = (at + cut).min(SHIPPED.len());
        let _ = parse(&format!("{}{junk}{}", &SHIPPED[..start], &SHIPPED[end..]));
    }

    #[test]
    fn every_complaint_names_a_line_of_the_file(line in 1usize..20) {
        let text = format!("{}bogus = 1\n", "\n".repeat(line - 1));
        let start = format!("compositor.toml:{line}: ");
        prop_assert!(complaint(&text).starts_with(&start));
    }
}
