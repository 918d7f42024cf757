//! Texts with `${…}` in them: `${VAR}`, `${VAR:-default}`, `${file:PATH}`, `${workspace}`, `${seed}`.
//!
//! Invariant: variables and files are read once, when the manifest is; only the workspace and the
//! seed, which differ per session, are filled in later. What came from a variable or a file is a
//! [`Secret`], so a text can be printed.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::manifest::node::Kind;
use crate::manifest::reader::{Reader, YamlValue, excerpt_of, nearest_word};
use oxenv_process::secret::{CONCEALED, Secret};

/// A text whose variables are filled in, and which may still wait for a session's workspace and seed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Text {
    pieces: Vec<TextPiece>,
}

#[derive(Clone, PartialEq, Eq)]
enum TextPiece {
    Literal(String),
    Secret(Secret),
    Workspace,
    Seed,
}

/// How to read texts of an entry.
#[derive(Clone, Copy)]
pub(super) struct TextUse {
    /// Whether variables and files are looked up.
    pub(super) enabled: bool,
    /// Whether there is a session to take the workspace and the seed from.
    pub(super) per_session: bool,
}

/// A piece of a text before it is filled in.
#[derive(Debug, Clone, Copy, PartialEq)]
enum TextPart<'a> {
    Literal(&'a str),
    Variable { name: &'a str, default: Option<&'a str> },
    File(&'a str),
    Workspace,
    Seed,
}

/// Variables whose values every child process gets anyway, so they are no secrets.
const PUBLIC_VARIABLES: [&str; 4] = ["PATH", "HOME", "TMPDIR", "LANG"];

/// The longest file that `${file:…}` takes, in bytes.
const MAX_FILE_BYTES: u64 = 64 << 10;

impl Text {
    /// A text that stands for itself.
    #[must_use]
    pub fn literal(text: impl Into<String>) -> Self {
        Text { pieces: vec![TextPiece::Literal(text.into())] }
    }

    /// Whether `${workspace}` is in it.
    #[must_use]
    pub fn needs_workspace(&self) -> bool {
        self.pieces.contains(&TextPiece::Workspace)
    }

    /// Whether `${seed}` is in it.
    #[must_use]
    pub fn needs_seed(&self) -> bool {
        self.pieces.contains(&TextPiece::Seed)
    }

    /// The whole text for a session, secrets and all.
    #[must_use]
    pub fn resolve(&self, workspace: &Path, seed: u64) -> Secret {
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                TextPiece::Literal(literal) => text.push_str(literal),
                TextPiece::Secret(secret) => text.push_str(secret.expose()),
                TextPiece::Workspace => text.push_str(&workspace.to_string_lossy()),
                TextPiece::Seed => text.push_str(&seed.to_string()),
            }
        }
        Secret::new(text)
    }

    /// The secrets in it.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.pieces.iter().filter_map(|piece| match piece {
            TextPiece::Secret(secret) => Some(secret),
            TextPiece::Literal(_) | TextPiece::Workspace | TextPiece::Seed => None,
        })
    }

    /// The whole text, if it waits for no session.
    pub(super) fn fixed(&self) -> Option<Secret> {
        (!self.needs_workspace() && !self.needs_seed()).then(|| self.resolve(Path::new(""), 0))
    }

    /// The text with a part of it that was written out made secret as well.
    pub(super) fn concealed(self, part: &str) -> Self {
        let conceal = |piece| match piece {
            TextPiece::Literal(text) => match text.split_once(part) {
                Some((before, after)) => {
                    let literal = |text: &str| TextPiece::Literal(text.to_owned());
                    vec![literal(before), TextPiece::Secret(Secret::new(part)), literal(after)]
                }
                None => vec![TextPiece::Literal(text)],
            },
            other => vec![other],
        };
        Text { pieces: self.pieces.into_iter().flat_map(conceal).collect() }
    }

    /// Reads a text; `None` if it has problems, which are reported.
    pub(super) fn read(spot: &YamlValue<'_>, usage: TextUse, reader: &mut Reader<'_>) -> Option<Self> {
        let text = spot.text(reader)?;
        if text.contains('\0') {
            reader.error(spot, format!("{} holds a NUL character", spot.path));
            return None;
        }
        let parts = match split(text) {
            Ok(parts) => parts,
            Err((message, suggestion)) => {
                reader.error_with(spot, message, suggestion);
                return None;
            }
        };
        if !usage.enabled {
            return Some(Text::literal(text));
        }
        // Every part is read, so that all unset variables are reported at once.
        let pieces: Vec<Option<TextPiece>> =
            parts.into_iter().map(|part| fill(part, usage, spot, reader)).collect();
        pieces.into_iter().collect::<Option<Vec<_>>>().map(|pieces| Text { pieces })
    }
}

/// As it was written, with `***` for secrets.
impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pieces.iter().try_for_each(|piece| match piece {
            TextPiece::Literal(literal) => f.write_str(literal),
            TextPiece::Secret(_) => f.write_str(CONCEALED),
            TextPiece::Workspace => f.write_str("${workspace}"),
            TextPiece::Seed => f.write_str("${seed}"),
        })
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// The text if it needs nothing else; for checks of what was written.
pub(super) fn literal_text<'a>(spot: &YamlValue<'a>) -> Option<&'a str> {
    match &spot.node.kind {
        Kind::Text(text) => Some(text),
        _ => None,
    }
}

/// Whether the name of a variable is one.
pub(super) fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Takes a text apart; the error is a message and a suggestion.
fn split(text: &str) -> Result<Vec<TextPart<'_>>, (String, String)> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            // `$${` is a literal `${`: the first dollar is dropped.
            parts.push(TextPart::Literal(&rest[..at - 1]));
            parts.push(TextPart::Literal("${"));
            rest = &rest[at + 2..];
            continue;
        }
        parts.push(TextPart::Literal(&rest[..at]));
        let inside = &rest[at + 2..];
        let Some(end) = inside.find('}') else {
            return Err(("'${' has no '}'".to_owned(), "close it, or write $${ for a literal ${".to_owned()));
        };
        parts.push(reference(&inside[..end])?);
        rest = &inside[end + 1..];
    }
    parts.push(TextPart::Literal(rest));
    parts.retain(|part| *part != TextPart::Literal(""));
    Ok(parts)
}

/// What stands between `${` and `}`.
fn reference(inside: &str) -> Result<TextPart<'_>, (String, String)> {
    match inside {
        "workspace" => return Ok(TextPart::Workspace),
        "seed" => return Ok(TextPart::Seed),
        _ => {}
    }
    if let Some(path) = inside.strip_prefix("file:").filter(|path| !path.is_empty()) {
        return Ok(TextPart::File(path));
    }
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    if is_variable(name) && default.is_none_or(|default| !default.contains("${")) {
        return Ok(TextPart::Variable { name, default });
    }
    let message = format!("'${{{}}}' is not understood", excerpt_of(inside));
    match inside.strip_prefix("env:").filter(|name| is_variable(name)) {
        Some(name) => Err((message, format!("write ${{{name}}}"))),
        None => {
            Err((message, "write ${VAR}, ${VAR:-default}, ${file:PATH}, ${workspace} or ${seed}".to_owned()))
        }
    }
}

fn fill(
    part: TextPart<'_>,
    usage: TextUse,
    spot: &YamlValue<'_>,
    reader: &mut Reader<'_>,
) -> Option<TextPiece> {
    match part {
        TextPart::Literal(text) => Some(TextPiece::Literal(text.to_owned())),
        TextPart::Workspace | TextPart::Seed if !usage.per_session => {
            let name = if part == TextPart::Workspace { "workspace" } else { "seed" };
            let message =
                format!("${{{name}}} differs per session, but this toolset is one for the whole server");
            reader.error_with(spot, message, "give the toolset scope: session");
            None
        }
        TextPart::Workspace => Some(TextPiece::Workspace),
        TextPart::Seed => Some(TextPiece::Seed),
        TextPart::File(_) if !reader.may_fill(spot, 0) => None,
        TextPart::File(path) => {
            let secret = file(path, spot, reader)?;
            reader.may_fill(spot, secret.expose().len()).then_some(TextPiece::Secret(secret))
        }
        TextPart::Variable { name, default } => variable(name, default, spot, reader),
    }
}

fn variable(
    name: &str,
    default: Option<&str>,
    spot: &YamlValue<'_>,
    reader: &mut Reader<'_>,
) -> Option<TextPiece> {
    let value = reader.lookup(name).filter(|value| !value.is_empty());
    match (value, default) {
        (Some(value), _) if !reader.may_fill(spot, value.len()) => None,
        (Some(value), _) if value.contains('\0') => {
            reader.error(spot, format!("variable {name} holds a NUL character"));
            None
        }
        (Some(value), _) if PUBLIC_VARIABLES.contains(&name) => Some(TextPiece::Literal(value)),
        (Some(value), _) => Some(TextPiece::Secret(Secret::new(value))),
        (None, Some(default)) => Some(TextPiece::Literal(default.to_owned())),
        (None, None) => {
            let suggestion = match nearest_word(&name.to_lowercase(), ["workspace", "seed"]) {
                Some(late) => format!("did you mean ${{{late}}}?"),
                None => format!("set it, or write ${{{name}:-default}}"),
            };
            reader.error_with(spot, format!("variable {name} is not set"), suggestion);
            None
        }
    }
}

fn file(path: &str, spot: &YamlValue<'_>, reader: &mut Reader<'_>) -> Option<Secret> {
    match read_file(&reader.folder().join(path)) {
        Ok(text) => Some(Secret::new(text)),
        Err(why) => {
            reader.error(spot, format!("cannot read file '{}': {why}", excerpt_of(path)));
            None
        }
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    let metadata = path.metadata().map_err(|error| error.to_string())?;
    // Opening a pipe could wait without limit.
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("it is longer than {MAX_FILE_BYTES} bytes"));
    }
    let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    let text = text.trim_end_matches(['\n', '\r']);
    match text {
        "" => Err("it is empty".to_owned()),
        _ if text.contains('\0') => Err("it holds a NUL character".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_taken_apart() {
        let parts = split("a${B}c${D:-e f}${file:g/h}${workspace}${seed}$i").unwrap();
        let expected = [
            TextPart::Literal("a"),
            TextPart::Variable { name: "B", default: None },
            TextPart::Literal("c"),
            TextPart::Variable { name: "D", default: Some("e f") },
            TextPart::File("g/h"),
            TextPart::Workspace,
            TextPart::Seed,
            TextPart::Literal("$i"),
        ];
        assert_eq!(parts, expected);
        assert_eq!(split("${A:-}").unwrap(), [TextPart::Variable { name: "A", default: Some("") }]);
    }

    #[test]
    fn two_dollars_are_a_literal_one() {
        let parts = split("a $${B} $c $$ ${D}").unwrap();
        let expected = [
            TextPart::Literal("a "),
            TextPart::Literal("${"),
            TextPart::Literal("B} $c $$ "),
            TextPart::Variable { name: "D", default: None },
        ];
        assert_eq!(parts, expected);
    }

    #[test]
    fn other_forms_are_refused() {
        for text in
            ["${", "a ${B", "${}", "${A-b}", "${A:?b}", "${1A}", "${file:}", "${A:-${B}}", "${input:x}"]
        {
            assert!(split(text).is_err(), "{text}");
        }
        assert_eq!(split("${env:TOKEN}").unwrap_err().1, "write ${TOKEN}");
    }

    #[test]
    fn a_text_can_be_printed() {
        let text = Text {
            pieces: vec![
                TextPiece::Literal("Bearer ".to_owned()),
                TextPiece::Secret(Secret::new("hunter22")),
                TextPiece::Workspace,
                TextPiece::Seed,
            ],
        };
        assert_eq!(
            format!("{text} {text:?}"),
            "Bearer ***${workspace}${seed} \"Bearer ***${workspace}${seed}\""
        );
        assert_eq!(text.resolve(Path::new("/w"), 7).expose(), "Bearer hunter22/w7");
    }
}
