//! Reports what is wrong with a text that is not JSON, and at which character, with the messages
//! and positions of Python's `json` module, which stock clients and their users know.
//!
//! Invariant: a fault's position is within the text or at its end.

use std::fmt;

use crate::scan::{Scan, SyntaxFault};

/// One syntax error of a JSON text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonError {
    /// What was expected or found, as CPython 3.11 phrases it where it would refuse the text too.
    pub message: String,
    /// Index of the offending character, counted in Unicode characters from 0.
    pub position: usize,
    /// Line of that character, from 1.
    pub line: usize,
    /// Column of that character, from 1.
    pub column: usize,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: line {} column {} (char {})", self.message, self.line, self.column, self.position)
    }
}

impl JsonError {
    /// Finds the first error of a text. A text without one that was refused anyway (a lone
    /// surrogate in a key) is reported at its start.
    ///
    /// ```
    /// let error = oxenv_wire::JsonError::diagnose("{\"a\": 1,}");
    /// assert_eq!(
    ///     error.to_string(),
    ///     "Expecting property name enclosed in double quotes: line 1 column 9 (char 8)"
    /// );
    /// ```
    #[must_use]
    pub fn diagnose(text: &str) -> Self {
        match Scan::new(text).document() {
            Err(found) => Self::locate(text, found),
            Ok(()) => {
                let message = "Not Unicode text: a string holds a lone surrogate".to_owned();
                Self::locate(text, SyntaxFault { message, at: 0 })
            }
        }
    }

    pub(crate) fn locate(text: &str, SyntaxFault { message, at }: SyntaxFault) -> Self {
        let mut end = at.min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &text[..end];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        JsonError {
            message,
            position: before.chars().count(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded from CPython 3.11's `json.loads`.
    #[test]
    fn speaks_like_python() {
        for (text, message, position) in [
            ("", "Expecting value", 0),
            ("{bad", "Expecting property name enclosed in double quotes", 1),
            ("notjson", "Expecting value", 0),
            ("{\"a\" 1}", "Expecting ':' delimiter", 5),
            ("{\"a\":1 \"b\"", "Expecting ',' delimiter", 7),
            ("{\"a\":1,}", "Expecting property name enclosed in double quotes", 7),
            ("[1,]", "Expecting value", 3),
            ("[1 2]", "Expecting ',' delimiter", 3),
            ("\"abc", "Unterminated string starting at", 0),
            ("\"a\\x\"", "Invalid \\escape", 2),
            ("\"a\\u12g4\"", "Invalid \\uXXXX escape", 4),
            ("\"a\nb\"", "Invalid control character at", 2),
            ("{} x", "Extra data", 3),
            ("01", "Extra data", 1),
            ("1.", "Extra data", 1),
            ("[-]", "Expecting value", 1),
            ("{\"é\":", "Expecting value", 5),
            ("{", "Expecting property name enclosed in double quotes", 1),
        ] {
            let fault = JsonError::diagnose(text);
            assert_eq!((fault.message.as_str(), fault.position), (message, position), "{text}");
        }
    }

    #[test]
    fn names_what_only_python_calls_json() {
        let fault = JsonError::diagnose("{\"a\":\n NaN}");
        assert!(fault.message.starts_with("NaN is not JSON"), "{fault}");
        assert_eq!((fault.line, fault.column, fault.position), (2, 2, 7));
    }

    #[test]
    fn deep_nesting_needs_no_stack() {
        assert_eq!(JsonError::diagnose(&"[".repeat(1_000_000)).position, 1_000_000);
    }
}
