//! Whole lines for a writer that may fail in the middle of one.
//!
//! Invariant: a line that was taken from the caller is whole, once. No line begins behind the rest of a torn
//! one.

use std::io::{self, ErrorKind, Write};

/// A writer of lines that knows where it stopped.
pub(crate) struct Lines<W> {
    writer: W,
    /// Whether the last line lacks its end.
    torn: bool,
}

impl<W: Write> Lines<W> {
    pub(crate) fn new(writer: W, torn: bool) -> Self {
        Lines { writer, torn }
    }

    /// Writes on to another writer.
    pub(crate) fn replace(&mut self, writer: W, torn: bool) {
        (self.writer, self.torn) = (writer, torn);
    }

    /// Writes lines, each with its end, in one piece if the writer takes them so. What was written is taken
    /// from `lines`; after an error the rest begins with the first line that is not whole.
    pub(crate) fn write(&mut self, lines: &mut Vec<u8>) -> io::Result<()> {
        if self.torn {
            self.write_some(b"\n").1?;
            self.torn = false;
        }
        let (taken, outcome) = self.write_some(lines);
        let begun = lines[..taken].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.torn = begun < taken;
        // A line of which only the end is missing is there; the end comes before the next one.
        let whole = if self.torn && lines[taken] == b'\n' { taken + 1 } else { begun };
        lines.drain(..whole);
        outcome
    }

    /// How much was written, and what stopped it.
    fn write_some(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        let mut taken = 0;
        while taken < bytes.len() {
            match self.writer.write(&bytes[taken..]) {
                Ok(0) => return (taken, Err(ErrorKind::WriteZero.into())),
                Ok(count) => taken += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return (taken, Err(error)),
            }
        }
        (taken, Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// Takes the given number of bytes per write, or fails; afterwards it takes everything.
    struct Flaky {
        script: VecDeque<Option<usize>>,
        taken: Vec<u8>,
    }

    impl Write for Flaky {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let most = match self.script.pop_front() {
                None => bytes.len(),
                Some(Some(most)) => most.min(bytes.len()),
                Some(None) => return Err(ErrorKind::StorageFull.into()),
            };
            self.taken.extend_from_slice(&bytes[..most]);
            Ok(most)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    proptest! {
        /// Whatever fails: in the end each line is there whole, once and in order, beside what was torn.
        #[test]
        fn every_line_is_there_once(
            torn in any::<bool>(),
            script in prop::collection::vec(prop::option::of(0_usize..24), 0..60),
            groups in prop::collection::vec(0_usize..6, 1..40),
        ) {
            let taken = if torn { b"<to".to_vec() } else { Vec::new() };
            let mut lines = Lines::new(Flaky { script: script.into(), taken }, torn);
            let (mut waiting, mut number) = (Vec::new(), 0);
            for group in groups {
                for _ in 0..group {
                    waiting.extend_from_slice(format!("<{number}>\n").as_bytes());
                    number += 1;
                }
                let _ = lines.write(&mut waiting);
                prop_assert!(waiting.is_empty() || waiting.starts_with(b"<"));
            }
            // Until the script is over.
            waiting.extend_from_slice(b"<end>\n");
            while lines.write(&mut waiting).is_err() {}
            prop_assert!(waiting.is_empty());

            let text = String::from_utf8(lines.writer.taken).unwrap();
            prop_assert!(text.ends_with("<end>\n"));
            let whole: Vec<&str> =
                text.lines().filter_map(|line| line.strip_prefix('<')?.strip_suffix('>')).collect();
            prop_assert!(whole.iter().all(|line| !line.contains('<')), "{}", text);
            let numbers = whole.iter().filter_map(|line| line.parse::<usize>().ok());
            prop_assert!(numbers.eq(0..number), "{}", text);
        }
    }
}
