//! Reads tables of a parsed file key by key and collects what is wrong, so that one run shows all mistakes.

use std::{cell::RefCell, ops::Range};

use toml::{
    de::{DeTable, DeValue},
    Spanned,
};

use super::{
    error::Problem,
    schema::{Key, Section},
};

/// What was found wrong so far in one text.
pub(super) struct Problems<'a> {
    text: &'a str,
    list: RefCell<Vec<Problem>>,
}

impl<'a> Problems<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            list: RefCell::default(),
        }
    }

    pub(super) fn add(&self, at: Range<usize>, message: String) {
        let before = self.text.get(..at.start).unwrap_or(self.text);
        let line = 1 + before.bytes().filter(|byte| *byte == b'\n').count();
        self.list.borrow_mut().push(Problem { line, message });
    }

    pub(super) fn into_sorted(self) -> Vec<Problem> {
        let mut list = self.list.into_inner();
        list.sort_by_key(|problem| problem.line);
        list
    }
}

/// One table of the file. Getters return `None` when the key is absent or wrong; wrong is noted in `problems`.
pub(super) struct Table<'a> {
    section: Section,
    entries: Option<&'a DeTable<'a>>,
    problems: &'a Problems<'a>,
}

/// A value while it is read.
pub(super) type Value<'a> = Spanned<DeValue<'a>>;

impl<'a> Table<'a> {
    /// Checks the names in `entries` against the section.
    pub(super) fn new(
        section: Section,
        entries: Option<&'a DeTable<'a>>,
        problems: &'a Problems<'a>,
    ) -> Self {
        for name in entries.into_iter().flat_map(|entries| entries.keys()) {
            if !section.names().any(|known| known == name.get_ref()) {
                problems.add(name.span(), unknown_key(&section, name.get_ref()));
            }
        }
        Self {
            section,
            entries,
            problems,
        }
    }

    fn value(&self, name: &str) -> Option<&'a Value<'a>> {
        self.entries?
            .iter()
            .find(|(key, _)| key.get_ref() == name)
            .map(|(_, value)| value)
    }

    /// Reads a key; `read` returns `None` for what is not valid.
    pub(super) fn get<T>(
        &self,
        name: &str,
        read: impl FnOnce(&'a Value<'a>) -> Option<T>,
    ) -> Option<T> {
        let Some(Key { valid, .. }) = self.section.key(name) else {
            debug_assert!(
                false,
                "{name} is read but is not in the schema of {}",
                self.section.place()
            );
            return None;
        };
        let value = self.value(name)?;
        let result = read(value);
        if result.is_none() {
            self.problems.add(
                value.span(),
                format!(
                    "bad value {} for \"{name}\" in {}; valid: {valid}",
                    shown(self.problems.text, value),
                    self.section.place()
                ),
            );
        }
        result
    }

    /// Whether the key stands in the file, valid or not.
    pub(super) fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// Notes a problem of a key that is only wrong together with another.
    pub(super) fn reject(&self, name: &str, message: String) {
        let at = self.value(name).map_or(0..0, Spanned::span);
        self.problems.add(at, message);
    }

    /// The table `name` below this one; absent is like empty.
    pub(super) fn table(&self, name: &str, section: Section) -> Table<'a> {
        let entries = self.value(name).and_then(|value| {
            let entries = value.get_ref().as_table();
            if entries.is_none() {
                self.problems.add(
                    value.span(),
                    format!(
                        "\"{name}\" must be a table: write {} and its keys below it",
                        section.header
                    ),
                );
            }
            entries
        });
        Table::new(section, entries, self.problems)
    }

    /// The tables `[[name]]`, each with its place in the text.
    pub(super) fn tables(&self, name: &str, section: Section) -> Vec<(Table<'a>, Range<usize>)> {
        let Some(value) = self.value(name) else {
            return Vec::new();
        };
        let wrong = |value: &Value<'_>| {
            self.problems.add(
                value.span(),
                format!(
                    "\"{name}\" must be a list of tables: write {} for each",
                    section.header
                ),
            );
        };
        let Some(list) = value.get_ref().as_array() else {
            wrong(value);
            return Vec::new();
        };
        list.iter()
            .filter_map(|item| match item.get_ref().as_table() {
                Some(entries) => Some((
                    Table::new(section, Some(entries), self.problems),
                    item.span(),
                )),
                None => {
                    wrong(item);
                    None
                }
            })
            .collect()
    }
}

/// A whole number in a range.
pub(super) fn whole(value: &Value<'_>, range: std::ops::RangeInclusive<u32>) -> Option<u32> {
    signed(value, i64::from(*range.start())..=i64::from(*range.end()))
        .and_then(|n| u32::try_from(n).ok())
}

/// A whole number, possibly negative, in a range.
pub(super) fn signed(value: &Value<'_>, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
    let number = value.get_ref().as_integer()?;
    let number = i64::from_str_radix(number.as_str(), number.radix()).ok()?;
    range.contains(&number).then_some(number)
}

/// A number with or without fraction in a range. Not-a-number is in no range.
pub(super) fn number(value: &Value<'_>, range: std::ops::RangeInclusive<f64>) -> Option<f64> {
    let number = match value.get_ref() {
        DeValue::Float(float) => float.as_str().parse().ok()?,
        DeValue::Integer(_) => signed(value, -1_000_000..=1_000_000)? as f64,
        DeValue::String(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => return None,
    };
    range.contains(&number).then_some(number)
}

/// `true` or `false`.
pub(super) fn boolean(value: &Value<'_>) -> Option<bool> {
    value.get_ref().as_bool()
}

/// Text without control characters. C libraries end at a NUL, and none of our names has a line end in it.
pub(super) fn text(value: &Value<'_>) -> Option<String> {
    let text = value.get_ref().as_str()?;
    (!text.chars().any(char::is_control)).then(|| text.to_owned())
}

/// [`text`] that is not empty.
pub(super) fn name(value: &Value<'_>) -> Option<String> {
    text(value).filter(|text| !text.trim().is_empty())
}

/// `"auto"` gives `None`, all else what `read` makes of it.
pub(super) fn auto_or<'a, T>(
    value: &'a Value<'a>,
    read: impl FnOnce(&'a Value<'a>) -> Option<T>,
) -> Option<Option<T>> {
    match value.get_ref().as_str() {
        Some("auto") => Some(None),
        _ => read(value).map(Some),
    }
}

/// One word of a list.
pub(super) fn choice<T: Copy>(value: &Value<'_>, words: &[(&str, T)]) -> Option<T> {
    let word = value.get_ref().as_str()?;
    words
        .iter()
        .find(|(known, _)| *known == word)
        .map(|(_, meaning)| *meaning)
}

/// The value as it stands in the file, shortened.
fn shown(text: &str, value: &Value<'_>) -> String {
    const LONGEST: usize = 60;
    let source = text.get(value.span()).unwrap_or_default();
    let line = source.lines().next().unwrap_or_default();
    if line.len() == source.len() && line.chars().count() <= LONGEST {
        line.to_owned()
    } else {
        line.chars().take(LONGEST).chain(['…']).collect()
    }
}

fn unknown_key(section: &Section, name: &str) -> String {
    let valid: Vec<&str> = section.names().collect();
    let mut message = format!(
        "unknown key \"{name}\" in {}; valid keys: {}",
        section.place(),
        valid.join(", ")
    );
    let nearest = valid
        .iter()
        .map(|known| (distance(name, known), *known))
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
        .min();
    if let Some((_, known)) = nearest {
        message.push_str(&format!("; did you mean \"{known}\"?"));
    }
    message
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (line, left) in a.chars().enumerate() {
        let mut diagonal = line;
        let mut before = line + 1;
        if let Some(first) = row.first_mut() {
            *first = before;
        }
        for (cell, right) in row.iter_mut().skip(1).zip(b.chars()) {
            let cost = diagonal + usize::from(left != right);
            diagonal = *cell;
            before = cost.min(before + 1).min(*cell + 1);
            *cell = before;
        }
    }
    row.last().copied().unwrap_or_default()
}
