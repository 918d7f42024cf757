//! What commands print.
//!
//! Entry points: [`print()`] for stdout, [`counted`] for numbers of things, [`printable`] for errors that
//! quote others, [`in_shell`] for commands to be run.

use std::borrow::Cow;
use std::io::Write;

use anyhow::Context;

/// Prints a text and a line end; a reader that left, as `head -1` does, is no error of ours.
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

/// A number with a noun, which gets an `s` unless there is one: `3 sessions`.
pub(crate) fn counted(number: impl TryInto<u64>, noun: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// A word as a shell reads it.
pub(crate) fn in_shell(word: &str) -> String {
    let is_plain = |part: char| part.is_alphanumeric() || "/._-+~@:=".contains(part);
    match word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_error_quotes_is_escaped() {
        assert_eq!(printable("no 'a\x1b[31m\r\u{9b}'\n\tb é"), "no 'a\\u{1b}[31m\\r\\u{9b}'\n\tb é");
        assert!(matches!(printable("plain\ntext"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_word_is_quoted_where_a_shell_would_change_it() {
        assert_eq!(in_shell("/a/b_env-1.0"), "/a/b_env-1.0");
        assert_eq!(in_shell("/a b/it's"), r"'/a b/it'\''s'");
    }
}
