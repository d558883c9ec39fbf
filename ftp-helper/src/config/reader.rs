//! Walks a TOML document with the place of every key and value at hand.
//!
//! A typed reader of our own and not a derived one: it goes on after a mistake, so that one run of `check` shows them
//! all, and it can say for each where it is, what was expected and what to write.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::error::Problem;

/// The text that is being read, and what was found wrong with it so far.
pub(super) struct Context<'t> {
    text: &'t str,
    problems: RefCell<Vec<Problem>>,
    /// The lines of the keys that stand in the text.
    lines: RefCell<BTreeMap<String, usize>>,
}

impl<'t> Context<'t> {
    /// Nothing is wrong yet.
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, problems: RefCell::default(), lines: RefCell::default() }
    }

    /// Notes a problem with a part of the text, in bytes.
    pub(super) fn problem(&self, span: Range<usize>, key: &str, what: impl Into<String>, remedy: impl Into<String>) {
        let (line, column) = place(self.text, span.start);
        let problem = Problem { line, column, span, key: key.to_owned(), what: what.into(), remedy: remedy.into() };
        self.problems.borrow_mut().push(problem);
    }

    /// Everything that is wrong, in the order of the text, and the lines of the keys that stand there.
    pub(super) fn finish(self) -> (Vec<Problem>, BTreeMap<String, usize>) {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|p| p.span.start);
        (problems, self.lines.into_inner())
    }
}

/// A table of the document, or an empty one where it is absent. Every key that is asked for is a known key;
/// [`Section::finish`] reports the others.
pub(super) struct Section<'a> {
    cx: &'a Context<'a>,
    table: Option<&'a DeTable<'a>>,
    path: String,
    /// Which one of an array of tables, from 1; 0 where it is none.
    number: usize,
    at: usize,
    known: RefCell<BTreeSet<&'static str>>,
    finished: Cell<bool>,
}

impl<'a> Section<'a> {
    /// The document itself.
    pub(super) fn root(cx: &'a Context<'a>, table: &'a DeTable<'a>) -> Self {
        Self::new(cx, Some(table), String::new(), 0, 0)
    }

    fn new(cx: &'a Context<'a>, table: Option<&'a DeTable<'a>>, path: String, number: usize, at: usize) -> Self {
        Self { cx, table, path, number, at, known: RefCell::default(), finished: Cell::new(false) }
    }

    /// The value of a key, if it is there.
    pub(super) fn get(&self, key: &'static str) -> Option<Item<'a>> {
        self.known.borrow_mut().insert(key);
        let (at, value) = self.table?.get_key_value(key)?;
        let path = self.path_of(key);
        let told = if self.number == 0 { path.clone() } else { format!("{}[{}].{key}", self.path, self.number) };
        let (line, _) = place(self.cx.text, at.span().start);
        self.cx.lines.borrow_mut().insert(told, line);
        Some(Item { cx: self.cx, path, value: value.get_ref(), span: value.span() })
    }

    /// A table below this one; empty if it is absent or no table.
    pub(super) fn section(&self, key: &'static str) -> Section<'a> {
        let Some(item) = self.get(key) else { return Self::new(self.cx, None, self.path_of(key), 0, self.at) };
        item.table(0)
    }

    /// An array of tables below this one.
    pub(super) fn sections(&self, key: &'static str) -> Vec<Section<'a>> {
        let Some(item) = self.get(key) else { return Vec::new() };
        let DeValue::Array(array) = item.value else {
            item.refuse::<()>(
                format!("is {}, not a list of tables", kind(item.value)),
                format!("write it as [[{}]]", item.path),
            );
            return Vec::new();
        };
        let table = |(i, v): (usize, &'a Spanned<DeValue<'a>>)| {
            let item = Item { value: v.get_ref(), span: v.span(), path: item.path.clone(), ..item };
            item.table(i + 1)
        };
        array.iter().enumerate().map(table).collect()
    }

    /// A problem with the section as a whole, such as a key that is missing.
    pub(super) fn missing(&self, key: &'static str, what: impl Into<String>, remedy: impl Into<String>) {
        self.cx.problem(self.at..self.at, &self.path_of(key), what, remedy);
    }

    /// Whether the section stands in the document.
    pub(super) fn is_present(&self) -> bool {
        self.table.is_some()
    }

    /// Reports the keys that nobody asked for. To be called once everything has been asked for.
    pub(super) fn finish(self) {
        self.finished.set(true);
        let known = self.known.borrow();
        for (key, _) in self.table.into_iter().flatten() {
            let name: &str = key.get_ref();
            if known.contains(name) {
                continue;
            }
            let near = known.iter().map(|k| (distance(k, name), *k)).min().filter(|(d, k)| *d <= 2 && *d < k.len());
            let remedy = match near {
                Some((_, near)) => format!("did you mean {near:?}?"),
                None => format!("known here: {}", known.iter().copied().collect::<Vec<_>>().join(", ")),
            };
            self.cx.problem(key.span(), &self.path_of(name), "unknown key", remedy);
        }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        debug_assert!(self.finished.get() || std::thread::panicking(), "section {:?} was not finished", self.path);
    }
}

/// A value with its place.
#[derive(Clone)]
pub(super) struct Item<'a> {
    cx: &'a Context<'a>,
    path: String,
    value: &'a DeValue<'a>,
    span: Range<usize>,
}

impl<'a> Item<'a> {
    /// Notes that this value is wrong. Always `None`, so that it can end a chain.
    pub(super) fn refuse<T>(&self, what: impl Into<String>, remedy: impl Into<String>) -> Option<T> {
        self.cx.problem(self.span.clone(), &self.path, what, remedy);
        None
    }

    /// A text.
    pub(super) fn text(&self, remedy: &str) -> Option<&'a str> {
        match self.value {
            DeValue::String(text) => Some(text),
            other => self.refuse(format!("is {}, not a text", kind(other)), remedy),
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self) -> Option<bool> {
        match self.value {
            DeValue::Boolean(b) => Some(*b),
            other => self.refuse(format!("is {}, not a boolean", kind(other)), "write true or false"),
        }
    }

    /// A whole number of a range.
    pub(super) fn number(&self, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
        let (low, high) = (range.start(), range.end());
        let remedy = format!("write a number from {low} to {high}");
        let DeValue::Integer(number) = self.value else {
            return self.refuse(format!("is {}, not a number", kind(self.value)), remedy);
        };
        match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(n) if range.contains(&n) => Some(n),
            _ => self.refuse(format!("{number} is out of range"), remedy),
        }
    }

    /// Whether it is a whole number.
    pub(super) fn is_number(&self) -> bool {
        matches!(self.value, DeValue::Integer(_))
    }

    /// The values of a list; `remedy` says what a list here looks like.
    pub(super) fn list(&self, remedy: &str) -> Option<Vec<Item<'a>>> {
        match self.value {
            DeValue::Array(array) => {
                Some(array.iter().map(|v| Item { value: v.get_ref(), span: v.span(), ..self.clone() }).collect())
            }
            other => self.refuse(format!("is {}, not a list", kind(other)), remedy),
        }
    }

    /// Whether it is a list without values.
    pub(super) fn is_empty_list(&self) -> bool {
        matches!(self.value, DeValue::Array(array) if array.is_empty())
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let remedy = format!("write {}", or(choices.iter().map(|(name, _)| format!("{name:?}"))));
        let text = self.text(&remedy)?;
        match choices.iter().find(|(name, _)| *name == text) {
            Some((_, value)) => Some(*value),
            None => self.refuse(format!("{text:?} is not known"), remedy),
        }
    }

    /// Whether it is this text.
    pub(super) fn is(&self, text: &str) -> bool {
        matches!(self.value, DeValue::String(s) if s == text)
    }

    /// The table that it is, of an array the one with this number, or an empty one.
    fn table(&self, number: usize) -> Section<'a> {
        let table = match self.value {
            DeValue::Table(table) => Some(table),
            other => {
                self.refuse::<()>(format!("is {}, not a table", kind(other)), format!("write it as [{}]", self.path));
                None
            }
        };
        Section::new(self.cx, table, self.path.clone(), number, self.span.start)
    }
}

/// "a", "a or b", "a, b or c".
fn or(words: impl Iterator<Item = String>) -> String {
    let words: Vec<_> = words.collect();
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

/// What a value is, with its article.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// Line and column, both from 1, of a byte offset.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at.min(text.len())).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    (line, column)
}

/// Edits (insert, delete, replace a character) from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_characters_from_one() {
        assert_eq!(place("a = 1", 0), (1, 1));
        assert_eq!(place("a = 1\nbé = 2", 10), (2, 4));
        assert_eq!(place("a\n", 2), (2, 1));
        assert_eq!(place("", 7), (1, 1));
    }

    #[test]
    fn edits() {
        assert_eq!(distance("mode", "mode"), 0);
        assert_eq!(distance("mode", "mod"), 1);
        assert_eq!(distance("mode", "mdoe"), 2);
        assert_eq!(distance("", "abc"), 3);
    }
}
