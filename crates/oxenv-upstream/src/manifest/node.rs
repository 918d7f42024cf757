//! YAML as a tree in which each value knows its line and column.
//!
//! Invariant: time and memory are bounded by the text's length and by the limits below, whatever
//! aliases or brackets the text has. Plain scalars mean what YAML 1.2's core schema says.

use std::collections::HashMap;

use granit_parser::{Event, Options, Parser, ScalarStyle, Span, StrInput, Tag};
use serde_json::{Map, Number, Value};

use crate::manifest::problem::FilePosition;

/// The longest text that is read, in bytes.
pub(super) const MAX_TEXT_BYTES: usize = 1 << 20;
/// The most values in one text, with what aliases repeat.
const MAX_VALUES: usize = 100_000;
/// The most bytes of texts, with what aliases repeat.
const MAX_BYTES: usize = 8 * MAX_TEXT_BYTES;
/// The deepest nesting, with what aliases add.
const MAX_DEPTH: usize = 64;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) at: FilePosition,
    pub(super) kind: Kind,
}

/// The kind of a value.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    /// A number as it was written, and its value unless it is infinite or not a number.
    Number(String, Option<Number>),
    Text(String),
    List(Vec<Node>),
    /// The entries in the text's order, no key twice.
    Map(Vec<(Key, Node)>),
}

/// A key and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) at: FilePosition,
    pub(super) name: String,
}

/// Why a text is no such tree.
#[derive(Debug)]
pub(super) struct YamlError {
    pub(super) at: FilePosition,
    pub(super) message: String,
    pub(super) suggestion: Option<String>,
}

/// A document that was read.
pub(super) struct Document {
    pub(super) root: Node,
    /// Faults that did not keep it from being read: duplicate keys, and keys that are not texts.
    pub(super) faults: Vec<YamlError>,
}

/// Reads a text of one document.
pub(super) fn read(text: &str) -> Result<Document, YamlError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.len() > MAX_TEXT_BYTES {
        return Err(YamlError::new(FilePosition::default(), format!("longer than {MAX_TEXT_BYTES} bytes")));
    }
    let mut options = Options::default();
    options.set_emit_comments(false);
    let parser = Parser::new_from_str_with_options(text, options);
    let mut tree = Tree { parser, anchors: HashMap::new(), weight: Weight::default(), faults: Vec::new() };
    let root = tree.document()?;
    Ok(Document { root, faults: tree.faults })
}

impl Node {
    /// Its kind, for people.
    pub(super) fn kind_name(&self) -> &'static str {
        match self.kind {
            Kind::Null => "empty",
            Kind::Bool(_) => "a boolean",
            Kind::Number(..) => "a number",
            Kind::Text(_) => "a text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        }
    }

    /// The value of a key, if this is a mapping that has it.
    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        let Kind::Map(entries) = &self.kind else { return None };
        entries.iter().find(|(key, _)| key.name == name).map(|(_, value)| value)
    }

    /// The value as JSON; the place of a number that JSON has no spelling for, if there is one.
    pub(super) fn to_json(&self) -> Result<Value, FilePosition> {
        Ok(match &self.kind {
            Kind::Null => Value::Null,
            Kind::Bool(value) => Value::Bool(*value),
            Kind::Number(_, value) => Value::Number(value.clone().ok_or(self.at)?),
            Kind::Text(text) => Value::String(text.clone()),
            Kind::List(items) => Value::Array(items.iter().map(Node::to_json).collect::<Result<_, _>>()?),
            Kind::Map(entries) => {
                let entries = entries.iter().map(|(key, value)| Ok((key.name.clone(), value.to_json()?)));
                Value::Object(entries.collect::<Result<Map<_, _>, _>>()?)
            }
        })
    }
}

impl YamlError {
    fn new(at: FilePosition, message: impl Into<String>) -> Self {
        YamlError { at, message: message.into(), suggestion: None }
    }

    fn suggest(mut self, suggestion: impl Into<String>) -> Self {
        self.suggestion = Some(suggestion.into());
        self
    }
}

/// The tree while it is built.
struct Tree<'a> {
    parser: Parser<'a, StrInput<'a>>,
    /// What each anchor stands for.
    anchors: HashMap<usize, Subtree>,
    weight: Weight,
    faults: Vec<YamlError>,
}

/// A value, and what it weighs against the limits.
#[derive(Clone)]
struct Subtree {
    node: Node,
    weight: Weight,
    height: usize,
}

/// What counts against the limits.
#[derive(Clone, Copy, Default)]
struct Weight {
    values: usize,
    /// Bytes of keys and texts.
    bytes: usize,
}

/// The kind of a list or a mapping that was read.
struct Children {
    kind: Kind,
    /// How deep the deepest of its values is nested.
    height: usize,
}

impl<'a> Tree<'a> {
    fn document(&mut self) -> Result<Node, YamlError> {
        self.next()?;
        let (event, span) = self.next()?;
        if event == Event::StreamEnd {
            return Err(YamlError::new(position(&span), "the file is empty"));
        }
        let (event, span) = self.next()?;
        let root = self.value(event, &span, 0)?;
        self.next()?;
        match self.next()? {
            (Event::StreamEnd, _) => Ok(root.node),
            (_, span) => Err(YamlError::new(position(&span), "a second document begins here")
                .suggest("a file holds one document")),
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), YamlError> {
        match self.parser.next() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => {
                let at = FilePosition { line: error.marker().line(), column: error.marker().col() + 1 };
                Err(YamlError::new(at, format!("not YAML: {}", error.info().replace('\n', ", "))))
            }
            None => Err(YamlError::new(FilePosition::default(), "not YAML: it ends too early")),
        }
    }

    /// The value that an event begins.
    fn value(&mut self, event: Event<'a>, span: &Span, depth: usize) -> Result<Subtree, YamlError> {
        let at = position(span);
        if depth > MAX_DEPTH {
            return Err(YamlError::new(at, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        let before = self.weight;
        let bytes = if let Event::Scalar(text, ..) = &event { text.len() } else { 0 };
        self.count(Weight { values: 1, bytes }, at)?;
        let (node, anchor, height) = match event {
            Event::Alias(anchor) => return self.alias(anchor, at, depth),
            Event::Scalar(text, style, anchor, tag) => {
                (Node { at, kind: scalar(&text, style, tag.as_deref(), at)? }, anchor, 1)
            }
            Event::SequenceStart(_, anchor, tag) => {
                known_tag(tag.as_deref(), at)?;
                let Children { kind, height } = self.items(depth)?;
                (Node { at, kind }, anchor, height + 1)
            }
            Event::MappingStart(_, anchor, tag) => {
                known_tag(tag.as_deref(), at)?;
                let Children { kind, height } = self.entries(depth)?;
                (Node { at, kind }, anchor, height + 1)
            }
            _ => return Err(YamlError::new(at, "not YAML: a value is missing here")),
        };
        let weight =
            Weight { values: self.weight.values - before.values, bytes: self.weight.bytes - before.bytes };
        let subtree = Subtree { node, weight, height };
        if anchor > 0 {
            self.count(weight, at)?;
            self.anchors.insert(anchor, subtree.clone());
        }
        Ok(subtree)
    }

    fn alias(&mut self, anchor: usize, at: FilePosition, depth: usize) -> Result<Subtree, YamlError> {
        let Some(subtree) = self.anchors.get(&anchor) else {
            return Err(YamlError::new(at, "the alias stands inside the value that it refers to"));
        };
        let (weight, height) = (subtree.weight, subtree.height);
        self.count(weight, at)?;
        if depth + height > MAX_DEPTH {
            return Err(YamlError::new(at, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(self.anchors[&anchor].clone())
    }

    fn items(&mut self, depth: usize) -> Result<Children, YamlError> {
        let (mut items, mut height) = (Vec::new(), 0);
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(Children { kind: Kind::List(items), height });
            }
            let item = self.value(event, &span, depth + 1)?;
            height = height.max(item.height);
            items.push(item.node);
        }
    }

    fn entries(&mut self, depth: usize) -> Result<Children, YamlError> {
        let (mut entries, mut height): (Vec<(Key, Node)>, _) = (Vec::new(), 0);
        let mut places = HashMap::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            // In quotes it is a key like others.
            let is_merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<");
            let key = self.value(event, &span, depth + 1)?.node;
            let (event, span) = self.next()?;
            let value = self.value(event, &span, depth + 1)?;
            height = height.max(value.height);
            let Some(name) = key_name(&key) else {
                let message = format!("a key must be a text, not {}", key.kind_name());
                self.faults.push(YamlError::new(key.at, message));
                continue;
            };
            if is_merge {
                merged.push(value.node);
            } else if let Some(line) = places.insert(name.clone(), key.at.line) {
                let message = format!("duplicate key '{}'", name.escape_debug());
                self.faults.push(
                    YamlError::new(key.at, message).suggest(format!("it stands on line {line} already")),
                );
            } else {
                entries.push((Key { at: key.at, name }, value.node));
            }
        }
        for source in merged {
            self.merge(source, &mut entries, &mut places);
        }
        Ok(Children { kind: Kind::Map(entries), height })
    }

    /// Adds the entries of `<<: *other` whose keys are not there yet.
    fn merge(&mut self, source: Node, entries: &mut Vec<(Key, Node)>, places: &mut HashMap<String, usize>) {
        match source.kind {
            Kind::Map(others) => {
                for (key, value) in others {
                    if places.insert(key.name.clone(), key.at.line).is_none() {
                        entries.push((key, value));
                    }
                }
            }
            Kind::List(sources) => sources.into_iter().for_each(|source| self.merge(source, entries, places)),
            _ => {
                let fault = YamlError::new(source.at, "'<<' must be a mapping or a list of mappings");
                self.faults.push(fault.suggest("write <<: *name"));
            }
        }
    }

    fn count(&mut self, more: Weight, at: FilePosition) -> Result<(), YamlError> {
        self.weight.values += more.values;
        self.weight.bytes += more.bytes;
        if self.weight.values > MAX_VALUES {
            return Err(YamlError::new(
                at,
                format!("more than {MAX_VALUES} values, with what aliases repeat"),
            ));
        }
        if self.weight.bytes > MAX_BYTES {
            return Err(YamlError::new(at, format!("more than {MAX_BYTES} bytes, with what aliases repeat")));
        }
        Ok(())
    }
}

fn position(span: &Span) -> FilePosition {
    FilePosition { line: span.start.line(), column: span.start.col() + 1 }
}

/// A key as it was written; numbers and booleans are taken by their spelling.
fn key_name(key: &Node) -> Option<String> {
    match &key.kind {
        Kind::Text(text) | Kind::Number(text, _) => Some(text.clone()),
        Kind::Bool(value) => Some(value.to_string()),
        Kind::Null | Kind::List(_) | Kind::Map(_) => None,
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, at: FilePosition) -> Result<Kind, YamlError> {
    known_tag(tag, at)?;
    let is_text = tag.is_some_and(|tag| tag.core_suffix().is_none_or(|suffix| suffix == "str"));
    if is_text || style != ScalarStyle::Plain {
        return Ok(Kind::Text(text.to_owned()));
    }
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
        "true" | "True" | "TRUE" => Kind::Bool(true),
        "false" | "False" | "FALSE" => Kind::Bool(false),
        _ => number(text).unwrap_or_else(|| Kind::Text(text.to_owned())),
    })
}

/// The number that a text is, without a value if JSON has none for it; `None` if the text is not a number.
fn number(text: &str) -> Option<Kind> {
    let number = |value| Some(Kind::Number(text.to_owned(), value));
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let radix = |digits: &str, radix| u64::from_str_radix(digits, radix).ok().map(Number::from);
    match unsigned {
        ".inf" | ".Inf" | ".INF" => return number(None),
        ".nan" | ".NaN" | ".NAN" if unsigned == text => return number(None),
        _ => {}
    }
    if let Some(digits) = text.strip_prefix("0x").filter(|digits| is_all(digits, |c| c.is_ascii_hexdigit())) {
        return number(radix(digits, 16));
    }
    if let Some(digits) = text.strip_prefix("0o").filter(|digits| is_all(digits, |c| matches!(c, '0'..='7')))
    {
        return number(radix(digits, 8));
    }
    let begins = unsigned.strip_prefix('.').unwrap_or(unsigned).starts_with(|c: char| c.is_ascii_digit());
    if !begins || !is_all(unsigned, |c| matches!(c, '0'..='9' | '.' | 'e' | 'E' | '+' | '-')) {
        return None;
    }
    if let Ok(whole) = text.parse::<i64>() {
        return number(Some(whole.into()));
    }
    if let Ok(whole) = text.parse::<u64>() {
        return number(Some(whole.into()));
    }
    text.parse::<f64>().ok().and_then(|value| number(Number::from_f64(value)))
}

fn is_all(text: &str, test: impl Fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(test)
}

/// Refuses tags that are not YAML's own: nothing reads their meaning.
fn known_tag(tag: Option<&Tag>, at: FilePosition) -> Result<(), YamlError> {
    match tag {
        Some(tag) if tag.core_suffix().is_none() && tag.original() != "!" => {
            let tag = tag.original();
            Err(YamlError::new(at, format!("tag '{}' means nothing here", tag.escape_debug()))
                .suggest("remove it"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn value(text: &str) -> Value {
        read(text).unwrap().root.to_json().unwrap()
    }

    fn fault(text: &str) -> String {
        let fault = match read(text) {
            Err(fault) => fault,
            Ok(mut document) => document.faults.remove(0),
        };
        format!("{}: {}", fault.at, fault.message)
    }

    #[test]
    fn plain_scalars_mean_what_the_core_schema_says() {
        let text = "[1, -2, +3, 0x1f, 0o17, 1.5, .5, 1e3, 007, 18446744073709551615, true, ~, null]";
        let expected =
            json!([1, -2, 3, 31, 15, 1.5, 0.5, 1000.0, 7, 18446744073709551615u64, true, null, null]);
        assert_eq!(value(text), expected);
        let texts =
            "[yes, no, on, 1:30, 1.2.3, 0x, e5, ., 2026-01-01, 1_000, nan, inf, 'true', \"1\", !!str 1]";
        assert!(value(texts).as_array().unwrap().iter().all(Value::is_string), "{}", value(texts));
        assert!(read(".inf").unwrap().root.to_json().is_err());
    }

    #[test]
    fn json_is_read_too() {
        let text = "{\n\t\"a\": [1, \"\\u00e9\\/\\ud83d\\ude00\", {\"b\": null}],\n\t\"c\":-0.5e-3\n}\n";
        assert_eq!(value(text), json!({ "a": [1, "é/😀", { "b": null }], "c": -0.0005 }));
    }

    #[test]
    fn aliases_and_merge_keys() {
        let text = "a: &base {x: 1, y: 2}\nb: {<<: *base, y: 3}\nc: [*base]\n";
        let expected = json!({ "a": {"x": 1, "y": 2}, "b": {"y": 3, "x": 1}, "c": [{"x": 1, "y": 2}] });
        assert_eq!(value(text), expected);
    }

    #[test]
    fn places_count_from_one() {
        assert!(fault("tools:\n  - name: é: 1\n").starts_with("2:"));
        let Document { root, .. } = read("tools:\n  - name: x\n").unwrap();
        let Kind::List(items) = &root.get("tools").unwrap().kind else { panic!() };
        assert_eq!(items[0].get("name").unwrap().at, FilePosition { line: 2, column: 11 });
    }

    #[test]
    fn bombs_are_refused() {
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let below = format!("*a{}", level - 1);
            laughs += &format!("a{level}: &a{level} [{}]\n", vec![below; 10].join(", "));
        }
        assert!(fault(&laughs).contains("more than 100000 values"), "{}", fault(&laughs));
        assert!(fault(&format!("{}{}", "[".repeat(80), "]".repeat(80))).contains("nested deeper than 64"));
        let steps = "&a [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[x]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]";
        let nested = format!("a: {steps}\nb: {}*a{}\n", "[".repeat(40), "]".repeat(40));
        assert!(fault(&nested).contains("nested deeper than 64"), "{}", fault(&nested));
        // Few values, each of them long.
        let texts = format!("a: &a {}\nb: [{}]\n", "x".repeat(500_000), "*a,".repeat(90_000));
        assert!(fault(&texts).contains("more than 8388608 bytes"), "{}", fault(&texts));
        let keys = format!("a: &a {{? {}\n: 1}}\nb: [{}]\n", "x".repeat(500_000), "*a,".repeat(40_000));
        assert!(fault(&keys).contains("more than 8388608 bytes"), "{}", fault(&keys));
        assert!(fault("&a [*a]").contains("inside the value"));
        assert!(read(&format!("a: {}", "x".repeat(MAX_TEXT_BYTES))).is_err());
    }

    #[test]
    fn what_is_no_such_tree_is_told() {
        assert_eq!(fault(""), "1:1: the file is empty");
        assert_eq!(fault("a: 1\na: 2"), "2:1: duplicate key 'a'");
        assert_eq!(fault("a: 1\n---\nb: 2"), "2:1: a second document begins here");
        assert_eq!(fault("a: !secret x"), "1:12: tag '!secret' means nothing here");
        assert_eq!(fault("[1]: x"), "1:1: a key must be a text, not a list");
        assert!(fault("a: [1").contains("not YAML: "));
        assert!(fault("a: *nobody").contains("not YAML: "));
    }
}
