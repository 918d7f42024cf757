//! Says what is wrong with a text that is not JSON, and at which character, in the words and with
//! the positions of Python's `json` module, which stock clients and their users know.
//!
//! Invariant: runs only after the real parser has refused a text, uses no recursion (nesting is a
//! stack on the heap) and always has an answer.

use std::fmt;

/// One syntax error of a JSON text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonFault {
    /// What was expected or found, as CPython 3.11 words it where it would refuse the text too.
    pub message: String,
    /// Index of the offending character, counted in Unicode characters from 0.
    pub position: usize,
    /// Line of that character, from 1.
    pub line: usize,
    /// Column of that character, from 1.
    pub column: usize,
}

impl fmt::Display for JsonFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: line {} column {} (char {})", self.message, self.line, self.column, self.position)
    }
}

impl JsonFault {
    /// Finds the first error of a text. A text without one that the parser refused all the same
    /// (a lone surrogate in a key) is reported at its start.
    #[must_use]
    pub fn diagnose(text: &str) -> Self {
        let mut scan = Scan { bytes: text.as_bytes(), at: 0 };
        let (message, at) = match scan.document() {
            Err(found) => found,
            Ok(()) => ("Not Unicode text: a string holds a lone surrogate".to_owned(), 0),
        };
        Self::locate(text, message, at)
    }

    fn locate(text: &str, message: String, at: usize) -> Self {
        let mut end = at.min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &text[..end];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        JsonFault {
            message,
            position: before.chars().count(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

type Found = (String, usize);

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// What the scanner is inside of: an array or an object.
#[derive(Clone, Copy, PartialEq)]
enum Inside {
    Array,
    Object,
}

impl Scan<'_> {
    fn document(&mut self) -> Result<(), Found> {
        let mut stack: Vec<Inside> = Vec::new();
        loop {
            self.space();
            let opened = self.value(&mut stack)?;
            if !opened && !self.close(&mut stack)? {
                break;
            }
        }
        self.space();
        if self.at < self.bytes.len() { Err(("Extra data".to_owned(), self.at)) } else { Ok(()) }
    }

    /// Reads one scalar, or opens one container; true when a value is expected next.
    fn value(&mut self, stack: &mut Vec<Inside>) -> Result<bool, Found> {
        match self.peek() {
            Some(b'{') => {
                self.at += 1;
                self.space();
                if self.peek() == Some(b'}') {
                    self.at += 1;
                    return Ok(false);
                }
                stack.push(Inside::Object);
                self.key()?;
                Ok(true)
            }
            Some(b'[') => {
                self.at += 1;
                self.space();
                if self.peek() == Some(b']') {
                    self.at += 1;
                    return Ok(false);
                }
                stack.push(Inside::Array);
                Ok(true)
            }
            Some(b'"') => self.string().map(|()| false),
            _ => self.word().map(|()| false),
        }
    }

    /// After a value: closes containers; true when another value follows, false at the end.
    fn close(&mut self, stack: &mut Vec<Inside>) -> Result<bool, Found> {
        while let Some(&inside) = stack.last() {
            self.space();
            match (self.peek(), inside) {
                (Some(b']'), Inside::Array) | (Some(b'}'), Inside::Object) => {
                    self.at += 1;
                    stack.pop();
                }
                (Some(b','), _) => {
                    self.at += 1;
                    self.space();
                    if inside == Inside::Object {
                        self.key()?;
                    }
                    return Ok(true);
                }
                _ => return self.fail("Expecting ',' delimiter"),
            }
        }
        Ok(false)
    }

    fn key(&mut self) -> Result<(), Found> {
        if self.peek() != Some(b'"') {
            return self.fail("Expecting property name enclosed in double quotes");
        }
        self.string()?;
        self.space();
        if self.peek() != Some(b':') {
            return self.fail("Expecting ':' delimiter");
        }
        self.at += 1;
        Ok(())
    }

    fn string(&mut self) -> Result<(), Found> {
        let start = self.at;
        self.at += 1;
        loop {
            match self.peek() {
                None => return Err(("Unterminated string starting at".to_owned(), start)),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape(start)?,
                Some(byte) if byte < 0x20 => return self.fail("Invalid control character at"),
                Some(_) => self.at += 1,
            }
        }
    }

    fn escape(&mut self, start: usize) -> Result<(), Found> {
        match self.bytes.get(self.at + 1) {
            None => Err(("Unterminated string starting at".to_owned(), start)),
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(())
            }
            Some(b'u') => {
                let digits = self.bytes.get(self.at + 2..self.at + 6).unwrap_or_default();
                if digits.len() == 4 && digits.iter().all(u8::is_ascii_hexdigit) {
                    self.at += 6;
                    return Ok(());
                }
                Err(("Invalid \\uXXXX escape".to_owned(), self.at + 2))
            }
            Some(_) => self.fail("Invalid \\escape"),
        }
    }

    /// `true`, `false`, `null`, a number, or one of Python's words that JSON does not have.
    fn word(&mut self) -> Result<(), Found> {
        let rest = &self.bytes[self.at..];
        for word in ["true", "false", "null"] {
            if rest.starts_with(word.as_bytes()) {
                self.at += word.len();
                return Ok(());
            }
        }
        for word in ["NaN", "Infinity", "-Infinity"] {
            if rest.starts_with(word.as_bytes()) {
                return self.fail(&format!("{word} is not JSON (RFC 8259); send null or a string instead"));
            }
        }
        self.number()
    }

    fn number(&mut self) -> Result<(), Found> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let whole = self.digits();
        if whole == 0 {
            return Err(("Expecting value".to_owned(), start));
        }
        if whole > 1 && self.bytes[self.at - whole] == b'0' {
            // Python reads the zero as a whole number and trips over what follows it.
            self.at = self.at - whole + 1;
            return Ok(());
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            if self.digits() == 0 {
                self.at -= 1;
                return Ok(());
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            let mark = self.at;
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if self.digits() == 0 {
                self.at = mark;
            }
        }
        Ok(())
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        self.at - start
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn fail<T>(&self, message: &str) -> Result<T, Found> {
        Err((message.to_owned(), self.at))
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
            let fault = JsonFault::diagnose(text);
            assert_eq!((fault.message.as_str(), fault.position), (message, position), "{text}");
        }
    }

    #[test]
    fn names_what_only_python_calls_json() {
        let fault = JsonFault::diagnose("{\"a\":\n NaN}");
        assert!(fault.message.starts_with("NaN is not JSON"), "{fault}");
        assert_eq!((fault.line, fault.column, fault.position), (2, 2, 7));
    }

    #[test]
    fn deep_nesting_needs_no_stack() {
        assert_eq!(JsonFault::diagnose(&"[".repeat(1_000_000)).position, 1_000_000);
    }
}
