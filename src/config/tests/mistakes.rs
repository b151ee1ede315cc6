//! What is told of files that are wrong.

use super::*;

#[test]
fn an_unknown_table_is_an_unknown_key() {
    let text = complaint("[input.keybord]\nlayout = \"de\"\n");
    assert!(
        text.starts_with("compositor.toml:1: unknown key \"keybord\" in [input];"),
        "{text}"
    );
    assert!(text.ends_with("did you mean \"keyboard\"?"), "{text}");
}

#[test]
fn a_bad_value_is_shown_with_what_is_valid() {
    assert_eq!(
        complaint("\n[capture]\nring_slots = 9\n"),
        "compositor.toml:3: bad value 9 for \"ring_slots\" in [capture]; valid: a whole number from 3 to 8"
    );
}

#[test]
fn a_long_value_is_shortened_in_the_message() {
    let text = complaint(&format!("renderer = \"{}\"\n", "é".repeat(5000)));
    assert!(text.chars().count() < 200, "{text}");
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_lines() {
    let text = complaint("[log]\ntarget = 1\n[capture]\nquota = 9\nx = 1\n[[output]]\nscale = 2\n");
    let lines: Vec<&str> = text
        .lines()
        .map(|line| line.split(": ").next().unwrap())
        .collect();
    assert_eq!(
        lines,
        [2, 4, 5, 6].map(|line| format!("compositor.toml:{line}"))
    );
}

#[test]
fn text_that_is_not_toml_is_reported_with_its_line() {
    for text in ["a = 1\nb = = 2\n", "a = 1\nb = \"x\n", "a = 1\n[capture\n"] {
        let message = complaint(text);
        assert!(
            message.starts_with("compositor.toml:2: not valid TOML: "),
            "{message}"
        );
    }
    assert!(complaint("renderer = 'gles'\nrenderer = 'gles'\n").contains("not valid TOML"));
}

#[test]
fn a_table_in_place_of_a_value_and_a_value_in_place_of_a_table_are_explained() {
    assert_eq!(
        complaint("capture = 3\n"),
        "compositor.toml:1: \"capture\" must be a table: write [capture] and its keys below it"
    );
    assert_eq!(
        complaint("[output]\nconnector = 'X'\n"),
        "compositor.toml:1: \"output\" must be a list of tables: write [[output]] for each"
    );
    assert!(complaint("output = [1]\n").contains("write [[output]] for each"));
    assert!(complaint("[renderer]\nx = 1\n").contains("bad value"));
}

#[test]
fn a_quota_that_leaves_no_slot_is_refused() {
    let text = complaint("[capture]\nring_slots = 3\nquota = 3\n");
    assert!(
        text.starts_with("compositor.toml:3: \"quota\" in [capture] is 3 but \"ring_slots\" is 3;"),
        "{text}"
    );
    assert!(parse("[capture]\nring_slots = 4\nquota = 3\n").is_ok());
}

#[test]
fn a_lease_socket_for_several_outputs_is_refused() {
    let text = complaint("[[output]]\nconnector = '*'\nlease_socket = 'a'\n");
    assert!(
        text.starts_with("compositor.toml:3: \"lease_socket\" in an [[output]] for \"*\""),
        "{text}"
    );
}

#[test]
fn an_output_without_connector_or_twice_the_same_is_refused() {
    let text = complaint("[[output]]\nscale = 2\n");
    assert!(
        text.starts_with("compositor.toml:1: [[output]] has no \"connector\";"),
        "{text}"
    );
    let text = complaint("[[output]]\nconnector = 'A'\n[[output]]\nconnector = 'A'\n");
    assert!(
        text.starts_with("compositor.toml:4: a second [[output]] for connector \"A\""),
        "{text}"
    );
}
