//! [`Output`]: what a program prints, up to its limit; and the clock that interrupts it.
//!
//! Invariant: it never holds more than the limit, however much is printed.

use std::borrow::Cow;
use std::time::Instant;

use monty_types::{ExcType, MontyException, PrintWriterCallback};

/// What a program has printed so far.
pub(crate) struct Output {
    pub(crate) text: String,
    /// Bytes.
    limit: usize,
    /// Whether there was more.
    pub(crate) truncated: bool,
    /// When the program is interrupted.
    end: Instant,
    /// What the exception says that does that.
    too_late: String,
}

impl Output {
    pub(crate) fn new(limit: usize, end: Instant, too_late: String) -> Self {
        Output { text: String::new(), limit, truncated: false, end, too_late }
    }

    pub(crate) fn push(&mut self, text: &str) {
        let kept = cut(text, self.limit - self.text.len());
        self.text.push_str(kept);
        self.truncated |= kept.len() < text.len();
        if self.truncated {
            // What comes later has no place behind a gap.
            self.limit = self.text.len();
        }
    }

    /// The exception that interrupts the program, once its time is over.
    pub(crate) fn interruption(&self) -> Option<MontyException> {
        (Instant::now() >= self.end).then(|| self.too_late())
    }

    /// The exception that interrupts the program.
    pub(crate) fn too_late(&self) -> MontyException {
        MontyException::new(ExcType::TimeoutError, Some(self.too_late.clone()))
    }
}

impl PrintWriterCallback for Output {
    fn stdout_write(&mut self, output: Cow<'_, str>) -> Result<(), MontyException> {
        self.push(&output);
        Ok(())
    }

    fn stdout_push(&mut self, end: char) -> Result<(), MontyException> {
        self.push(end.encode_utf8(&mut [0; 4]));
        Ok(())
    }

    /// Called every few instructions. The interpreter's own clock stands still while a tool runs.
    fn poll_flush(&mut self) -> Result<(), MontyException> {
        self.interruption().map_or(Ok(()), Err)
    }
}

/// As much of a text as has that many bytes.
pub(crate) fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_the_beginning_and_whole_characters() {
        let mut output = Output::new(4, Instant::now(), "late".to_owned());
        for text in ["ab", "é", "c", "d"] {
            output.push(text);
        }
        assert_eq!((output.text.as_str(), output.truncated), ("abé", true));
        let mut output = Output::new(3, Instant::now(), "late".to_owned());
        output.push("abé");
        output.push("c");
        assert_eq!((output.text.as_str(), output.truncated), ("ab", true));
        assert_eq!(output.interruption().unwrap().summary(), "TimeoutError: late");
    }
}
