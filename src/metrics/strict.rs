//! A small reader of OpenMetrics text that takes nothing that the specification does not: for tests.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests only"
)]

use std::collections::{BTreeMap, BTreeSet};

/// The labels of a sample, and its value.
type Sample = (String, BTreeMap<String, String>, f64);

/// Says what is wrong with the text.
pub fn check(text: &str) -> Result<(), String> {
    let body = text
        .strip_suffix("# EOF\n")
        .ok_or("it does not end with # EOF and a line end")?;
    if body.contains("# EOF") || body.contains('\r') || body.lines().any(str::is_empty) {
        return Err("an EOF, a CR or an empty line inside".to_owned());
    }
    let mut families: BTreeSet<String> = BTreeSet::new();
    let mut series = BTreeSet::new();
    let mut lines = body.lines().peekable();
    while let Some(line) = lines.next() {
        let (name, kind) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
            .ok_or_else(|| format!("no TYPE line begins a metric: {line}"))?;
        require(is_name(name), "bad name", line)?;
        require(families.insert(name.to_owned()), "a metric twice", line)?;
        require(
            matches!(kind, "counter" | "gauge" | "histogram"),
            "odd type",
            line,
        )?;
        if let Some(unit) = lines.next_if(|line| line.starts_with("# UNIT ")) {
            let (of, unit) = unit["# UNIT ".len()..].split_once(' ').ok_or("bad UNIT")?;
            require(
                of == name && name.ends_with(&format!("_{unit}")),
                "a unit that is not the name's end",
                line,
            )?;
        }
        let help = lines.next_if(|line| line.starts_with(&format!("# HELP {name} ")));
        require(help.is_some(), "no HELP after it", line)?;
        let mut samples = Vec::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            let sample = sample(line)?;
            require(
                series.insert((sample.0.clone(), sample.1.clone())),
                "a series twice",
                line,
            )?;
            samples.push(sample);
        }
        match kind {
            "counter" => all_end_in(&samples, name, &["_total"])?,
            "gauge" => all_end_in(&samples, name, &[""])?,
            _ => histogram(&samples, name)?,
        }
    }
    Ok(())
}

fn require(holds: bool, what: &str, line: &str) -> Result<(), String> {
    if holds {
        Ok(())
    } else {
        Err(format!("{what}: {line}"))
    }
}

fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn all_end_in(samples: &[Sample], name: &str, suffixes: &[&str]) -> Result<(), String> {
    for (have, _, value) in samples {
        let ends = suffixes
            .iter()
            .any(|suffix| *have == format!("{name}{suffix}"));
        require(ends, "a sample of another metric", have)?;
        require(*value >= 0.0, "below zero", have)?;
    }
    Ok(())
}

/// Buckets grow to +Inf, which is the count; each set of labels has all three kinds of sample.
fn histogram(samples: &[Sample], name: &str) -> Result<(), String> {
    all_end_in(samples, name, &["_bucket", "_sum", "_count"])?;
    let mut sets: BTreeMap<BTreeMap<String, String>, Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        let mut labels = sample.1.clone();
        labels.remove("le");
        sets.entry(labels).or_default().push(sample);
    }
    for set in sets.values() {
        let mut last = (f64::NEG_INFINITY, 0.0);
        for (_, labels, value) in set.iter().filter(|(have, ..)| have.ends_with("_bucket")) {
            let bound: f64 = labels["le"]
                .replace("+Inf", "inf")
                .parse()
                .map_err(|_| "bad le")?;
            require(
                bound > last.0 && *value >= last.1,
                "buckets do not grow",
                name,
            )?;
            last = (bound, *value);
        }
        let of = |suffix: &str| {
            set.iter()
                .find(|(have, ..)| have.ends_with(suffix))
                .map(|s| s.2)
        };
        require(
            last.0 == f64::INFINITY && of("_count") == Some(last.1),
            "no +Inf that is the count",
            name,
        )?;
        require(of("_sum").is_some(), "no sum", name)?;
    }
    Ok(())
}

/// `name{label="value",…} number` or `name number`
fn sample(line: &str) -> Result<Sample, String> {
    let bad = || format!("not a sample: {line}");
    let Some((name, rest)) = line.split_once('{') else {
        let (name, number) = line.split_once(' ').ok_or_else(bad)?;
        require(is_name(name), "bad name", line)?;
        let number = number.parse().map_err(|_| bad())?;
        return Ok((name.to_owned(), BTreeMap::new(), number));
    };
    require(is_name(name), "bad name", line)?;
    let mut labels = BTreeMap::new();
    let mut chars = rest.chars();
    'labels: loop {
        let label: String = chars.by_ref().take_while(|c| *c != '=').collect();
        require(
            is_name(&label) && chars.next() == Some('"'),
            "bad label",
            line,
        )?;
        let mut value = String::new();
        loop {
            match chars.next().ok_or_else(bad)? {
                '"' => break,
                '\\' => value.push(match chars.next() {
                    Some('n') => '\n',
                    Some(c @ ('"' | '\\')) => c,
                    _ => return Err(bad()),
                }),
                c => value.push(c),
            }
        }
        require(labels.insert(label, value).is_none(), "a label twice", line)?;
        match chars.next() {
            Some(',') => {}
            Some('}') => break 'labels,
            _ => return Err(bad()),
        }
    }
    let number = chars.as_str().strip_prefix(' ').ok_or_else(bad)?;
    require(!number.contains(' '), "more than a number", line)?;
    Ok((name.to_owned(), labels, number.parse().map_err(|_| bad())?))
}

#[test]
fn the_checker_refuses_what_is_wrong() {
    let good = "# TYPE a counter\n# HELP a Text.\na_total{b=\"c\"} 1\n# EOF\n";
    assert_eq!(check(good), Ok(()));
    for (from, to) in [
        ("# EOF\n", ""),
        ("a_total", "a"),
        ("a_total", "b_total"),
        ("counter", "info"),
        ("# HELP a Text.\n", ""),
        ("} 1", "} x"),
        ("} 1", "} -1"),
        ("} 1", "} 1 2"),
        ("\"c\"", "\"c"),
        ("\"c\"", "\"c\",b=\"d\""),
        ("} 1\n", "} 1\na_total{b=\"c\"} 2\n"),
        ("} 1\n", "} 1\n\n"),
        ("# TYPE a counter\n", ""),
    ] {
        let bad = good.replacen(from, to, 1);
        assert!(check(&bad).is_err(), "{bad}");
    }
}
