//! Reads known keys out of nodes and notes every problem on the way.
//!
//! Invariant: a function that gives nothing has reported why, so a manifest without problems is whole.

use std::path::{Path, PathBuf};

use crate::manifest::Lookup;
use crate::manifest::node::{Kind, Node};
use crate::manifest::problem::{FilePosition, Problem, Severity};

/// The most bytes that variables and files may put into one manifest.
const MAX_FILLED: usize = 16 << 20;
/// The longest piece of the file that a message repeats, in characters.
const MAX_SHOWN_CHARS: usize = 40;

/// The context in which a manifest is read, and the problems found so far.
pub(super) struct Reader<'a> {
    file: String,
    folder: PathBuf,
    lookup: Lookup<'a>,
    problems: Vec<Problem>,
    /// Bytes that variables and files have put in so far.
    filled: usize,
}

/// A value, and the keys that lead to it.
#[derive(Clone)]
pub(super) struct YamlValue<'a> {
    pub(super) node: &'a Node,
    pub(super) path: String,
}

/// A mapping whose keys are known.
pub(super) struct Fields<'a> {
    pub(super) spot: YamlValue<'a>,
    /// The name of the mapping, for people.
    what: &'static str,
    entries: Vec<(&'a str, YamlValue<'a>)>,
    /// Keys that are not known, which were reported.
    strangers: Vec<&'a str>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: String, folder: PathBuf, lookup: Lookup<'a>) -> Self {
        Reader { file, folder, lookup, problems: Vec::new(), filled: 0 }
    }

    /// The folder that relative paths are taken from.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The value of a variable.
    pub(super) fn lookup(&self, name: &str) -> Option<String> {
        (self.lookup)(name)
    }

    /// Counts what a variable or a file is about to put in; false, and reported once, if that is too much.
    pub(super) fn may_fill(&mut self, spot: &YamlValue<'_>, bytes: usize) -> bool {
        let before = self.filled;
        self.filled = before.saturating_add(bytes);
        if before <= MAX_FILLED && self.filled > MAX_FILLED {
            self.error(spot, format!("variables and files put in more than {MAX_FILLED} bytes"));
        }
        self.filled <= MAX_FILLED
    }

    pub(super) fn error(&mut self, spot: &YamlValue<'_>, message: impl AsRef<str>) {
        self.report(Severity::Error, spot.node.at, &spot.path, message.as_ref(), None);
    }

    pub(super) fn error_with(
        &mut self,
        spot: &YamlValue<'_>,
        message: impl AsRef<str>,
        suggestion: impl Into<String>,
    ) {
        self.report(Severity::Error, spot.node.at, &spot.path, message.as_ref(), Some(suggestion.into()));
    }

    pub(super) fn warn(
        &mut self,
        spot: &YamlValue<'_>,
        message: impl AsRef<str>,
        suggestion: impl Into<String>,
    ) {
        self.report(Severity::Warning, spot.node.at, &spot.path, message.as_ref(), Some(suggestion.into()));
    }

    pub(super) fn report(
        &mut self,
        severity: Severity,
        at: FilePosition,
        path: &str,
        message: &str,
        suggestion: Option<String>,
    ) {
        let (file, path) = (self.file.clone(), path.to_owned());
        // What others say, and keys of the file, may hold line ends.
        let message = message.replace(char::is_control, " ");
        self.problems.push(Problem { severity, file, at, path, message, suggestion });
    }

    /// Whether nothing but warnings were reported.
    pub(super) fn is_clean(&self) -> bool {
        !self.problems.iter().any(Problem::is_error)
    }

    /// Everything that was reported, in the file's order.
    pub(super) fn into_problems(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|problem| problem.at);
        self.problems
    }
}

impl<'a> YamlValue<'a> {
    /// The root of a file.
    pub(super) fn root(node: &'a Node) -> Self {
        YamlValue { node, path: String::new() }
    }

    fn key(&self, key: &str, node: &'a Node) -> Self {
        let path = match self.path.as_str() {
            "" => excerpt_of(key),
            path => format!("{path}.{}", excerpt_of(key)),
        };
        YamlValue { node, path }
    }

    fn wrong(&self, wanted: &str, reader: &mut Reader<'_>) {
        let name = if self.path.is_empty() { "the file" } else { &self.path };
        let message = format!("{name} must be {wanted}, not {}", self.node.kind_name());
        let suggestion = match &self.node.kind {
            // The value may be a secret, so it is not repeated.
            Kind::Number(..) | Kind::Bool(_) if wanted == "a text" => Some("put it in quotes".to_owned()),
            Kind::Text(text) if wanted == "a boolean" => boolean_word(text),
            Kind::Text(_) if wanted == "a list" && self.path != "tools" => {
                Some("write [one, two]".to_owned())
            }
            Kind::Null => Some("fill it, or remove the key".to_owned()),
            _ => None,
        };
        reader.report(Severity::Error, self.node.at, &self.path, &message, suggestion);
    }

    pub(super) fn text(&self, reader: &mut Reader<'_>) -> Option<&'a str> {
        match &self.node.kind {
            Kind::Text(text) => Some(text),
            _ => {
                self.wrong("a text", reader);
                None
            }
        }
    }

    pub(super) fn boolean(&self, reader: &mut Reader<'_>) -> Option<bool> {
        match self.node.kind {
            Kind::Bool(value) => Some(value),
            _ => {
                self.wrong("a boolean", reader);
                None
            }
        }
    }

    pub(super) fn number(&self, reader: &mut Reader<'_>) -> Option<f64> {
        match &self.node.kind {
            Kind::Number(_, Some(value)) => value.as_f64(),
            Kind::Number(written, None) => {
                reader.error(self, format!("{} is {written}, which is no usable number", self.path));
                None
            }
            _ => {
                self.wrong("a number", reader);
                None
            }
        }
    }

    pub(super) fn list(&self, reader: &mut Reader<'_>) -> Option<Vec<YamlValue<'a>>> {
        match &self.node.kind {
            Kind::List(items) => Some(
                items
                    .iter()
                    .enumerate()
                    .map(|(at, node)| YamlValue { node, path: format!("{}[{at}]", self.path) })
                    .collect(),
            ),
            _ => {
                self.wrong("a list", reader);
                None
            }
        }
    }

    /// A mapping with keys of any name.
    pub(super) fn map(&self, reader: &mut Reader<'_>) -> Option<Vec<(&'a str, YamlValue<'a>)>> {
        match &self.node.kind {
            Kind::Map(entries) => Some(
                entries.iter().map(|(key, node)| (key.name.as_str(), self.key(&key.name, node))).collect(),
            ),
            _ => {
                self.wrong("a mapping", reader);
                None
            }
        }
    }

    /// A mapping with these keys; others are reported, with the message of `hint` or with the
    /// nearest known one.
    pub(super) fn fields(
        &self,
        what: &'static str,
        known: &[&str],
        hint: &dyn Fn(&str) -> Option<String>,
        reader: &mut Reader<'_>,
    ) -> Option<Fields<'a>> {
        let (entries, strangers): (Vec<_>, Vec<_>) =
            self.map(reader)?.into_iter().partition(|(key, _)| known.contains(key));
        let strangers = strangers.into_iter().map(|(key, _)| key).collect();
        if let Kind::Map(nodes) = &self.node.kind {
            for (key, node) in nodes.iter().filter(|(key, _)| !known.contains(&key.name.as_str())) {
                let message = format!("unknown key '{}' in {what}", excerpt_of(&key.name));
                let suggestion = hint(&key.name).unwrap_or_else(|| did_you_mean(&key.name, known));
                let path = self.key(&key.name, node).path;
                reader.report(Severity::Error, key.at, &path, &message, Some(suggestion));
            }
        }
        Some(Fields { spot: self.clone(), what, entries, strangers })
    }

    /// One of a few keywords.
    pub(super) fn one_of<T: Copy>(&self, choices: &[(&str, T)], reader: &mut Reader<'_>) -> Option<T> {
        let text = self.text(reader)?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let suggestion = match nearest_word(text, words.iter().copied()) {
            Some(word) => format!("did you mean {word}?"),
            None => format!("use {}", words.join(", ")),
        };
        reader.error_with(self, format!("{} cannot be '{}'", self.path, excerpt_of(text)), suggestion);
        None
    }
}

impl<'a> Fields<'a> {
    pub(super) fn get(&self, key: &str) -> Option<&YamlValue<'a>> {
        self.entries.iter().find(|(name, _)| *name == key).map(|(_, spot)| spot)
    }

    /// Whether a key is there, be it misspelt.
    pub(super) fn may_have(&self, key: &str) -> bool {
        self.get(key).is_some()
            || self.strangers.iter().any(|stranger| nearest_word(stranger, [key]).is_some())
    }

    /// A key that must be there.
    pub(super) fn required(&self, key: &str, reader: &mut Reader<'_>) -> Option<&YamlValue<'a>> {
        // A misspelt one was reported as unknown.
        if !self.may_have(key) {
            reader.error(&self.spot, format!("key '{key}' is missing in {}", self.what));
        }
        self.get(key)
    }
}

/// The one of these that was probably meant.
pub(super) fn nearest_word<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let word = &word[..word.floor_char_boundary(4 * MAX_SHOWN_CHARS)];
    known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(word, known), known))
        .filter(|(distance, known)| *distance <= (known.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// A piece of the file as messages repeat it: on one line, and not too long.
pub(super) fn excerpt_of(text: &str) -> String {
    let mut short: String = text.chars().take(MAX_SHOWN_CHARS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    // Not `escape_debug`, which would put a backslash before quotes.
    short.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

fn did_you_mean(word: &str, known: &[&str]) -> String {
    match nearest_word(word, known.iter().copied()) {
        Some(known) => format!("did you mean '{known}'?"),
        None => format!("known keys are {}", known.join(", ")),
    }
}

fn boolean_word(text: &str) -> Option<String> {
    match text.to_lowercase().as_str() {
        "yes" | "on" | "y" | "true" | "1" => Some("write true".to_owned()),
        "no" | "off" | "n" | "false" | "0" => Some("write false".to_owned()),
        _ => None,
    }
}
