//! What commands print.
//!
//! Entry points: [`print()`] for stdout, [`printable`] for errors that quote others.

use std::borrow::Cow;
use std::io::Write;

use anyhow::Context;

/// Prints a text and a line end; a reader that left is no error of ours.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to stdout"),
    }
}

/// A text whose control characters, but for line ends and tabs, are escaped: a terminal would obey them.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let is_escaped = |character: char| character.is_control() && !matches!(character, '\n' | '\t');
    if !text.contains(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match is_escaped(character) {
            true => out.extend(character.escape_default()),
            false => out.push(character),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_error_quotes_is_escaped() {
        assert_eq!(printable("no 'a\x1b[31m\r\u{9b}'\n\tb é"), "no 'a\\u{1b}[31m\\r\\u{9b}'\n\tb é");
        assert!(matches!(printable("plain\ntext"), Cow::Borrowed(_)));
    }
}
