//! JSON text laid out for people, with every string and number exactly as it was.
//!
//! Invariant: only white space between tokens changes. A parser in between would lose what these
//! tests are about: integers of 70 digits, the same key twice, escapes, the order of keys.

use std::fmt::Write as _;

/// A container that fits into this many columns stays on one line.
const WIDTH: usize = 100;

enum Node<'a> {
    Scalar(&'a str),
    Array(Vec<Node<'a>>),
    Object(Vec<(&'a str, Node<'a>)>),
}

/// The text of one JSON value, indented, with a line feed at the end.
pub(crate) fn pretty(text: &str) -> String {
    let mut rest = text;
    let node = node(&mut rest);
    assert_eq!(rest.trim_ascii(), "", "one JSON value and nothing after it: {text}");
    let mut out = String::new();
    write(&mut out, &node, 0);
    out.push('\n');
    out
}

/// The text without white space between tokens.
pub(crate) fn minified(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.trim_ascii();
    while !rest.is_empty() {
        let token = token(rest);
        out.push_str(token);
        rest = rest[token.len()..].trim_ascii_start();
    }
    out
}

/// An object from keys and values that are JSON text.
pub(crate) fn object(fields: &[(&str, String)]) -> String {
    let fields: Vec<String> = fields.iter().map(|(key, value)| format!("{}:{value}", quoted(key))).collect();
    format!("{{{}}}", fields.join(","))
}

/// An array of values that are JSON text.
pub(crate) fn array(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(","))
}

/// A string as JSON text.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string is JSON")
}

/// Anything serializable as JSON text.
pub(crate) fn json<T: serde::Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("the value is JSON")
}

fn node<'a>(rest: &mut &'a str) -> Node<'a> {
    match next(rest) {
        "[" => {
            let mut items = Vec::new();
            while !closes(rest, "]") {
                items.push(node(rest));
            }
            Node::Array(items)
        }
        "{" => {
            let mut fields = Vec::new();
            while !closes(rest, "}") {
                let key = next(rest);
                assert_eq!(next(rest), ":");
                fields.push((key, node(rest)));
            }
            Node::Object(fields)
        }
        scalar => Node::Scalar(scalar),
    }
}

/// Takes the end of a container, or the comma before its next part if there is one.
fn closes(rest: &mut &str, end: &str) -> bool {
    *rest = rest.trim_ascii_start();
    if let Some(after) = rest.strip_prefix(end) {
        *rest = after;
        return true;
    }
    *rest = rest.strip_prefix(',').unwrap_or(rest);
    false
}

fn next<'a>(rest: &mut &'a str) -> &'a str {
    let text = rest.trim_ascii_start();
    let token = token(text);
    *rest = &text[token.len()..];
    token
}

fn token(text: &str) -> &str {
    let mut bytes = text.bytes();
    let end = match bytes.next().expect("the JSON text goes on") {
        b'"' => {
            let mut escaped = false;
            let close = bytes.position(|byte| {
                let closes = byte == b'"' && !escaped;
                escaped = byte == b'\\' && !escaped;
                closes
            });
            close.expect("a string ends") + 2
        }
        b'[' | b']' | b'{' | b'}' | b',' | b':' => 1,
        _ => text.find([',', ']', '}', ' ', '\t', '\n', '\r']).unwrap_or(text.len()),
    };
    &text[..end]
}

fn write(out: &mut String, node: &Node<'_>, depth: usize) {
    let line = one_line(node);
    if 2 * depth + line.chars().count() <= WIDTH {
        out.push_str(&line);
        return;
    }
    let indent = "  ".repeat(depth + 1);
    let (open, close, parts) = match node {
        Node::Scalar(_) => return out.push_str(&line),
        Node::Array(items) => ('[', ']', items.iter().map(|item| (None, item)).collect::<Vec<_>>()),
        Node::Object(fields) => ('{', '}', fields.iter().map(|(key, value)| (Some(*key), value)).collect()),
    };
    out.push(open);
    for (index, (key, value)) in parts.into_iter().enumerate() {
        out.push_str(if index > 0 { ",\n" } else { "\n" });
        out.push_str(&indent);
        if let Some(key) = key {
            let _ = write!(out, "{key}: ");
        }
        write(out, value, depth + 1);
    }
    out.push('\n');
    out.push_str(&indent[2..]);
    out.push(close);
}

fn one_line(node: &Node<'_>) -> String {
    match node {
        Node::Scalar(text) => (*text).to_owned(),
        Node::Array(items) => format!("[{}]", items.iter().map(one_line).collect::<Vec<_>>().join(", ")),
        Node::Object(fields) if fields.is_empty() => "{}".to_owned(),
        Node::Object(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|(key, value)| format!("{key}: {}", one_line(value))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
    }
}

#[test]
fn layout_keeps_every_token() {
    let text = r#"{"a":[1,-2.50e+3,"\"\\,] }"],"a":{},"deep":{"long":["xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx","y\ud800",null,true,[],[[]]]}}"#;
    let shown = pretty(text);
    assert_eq!(minified(&shown), text);
    assert_eq!(
        shown,
        concat!(
            "{\n  \"a\": [1, -2.50e+3, \"\\\"\\\\,] }\"],\n  \"a\": {},\n",
            "  \"deep\": { \"long\": [\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\", \"y\\ud800\", null, \
             true, [], [[]]] }\n}\n"
        )
    );
}
