//! Whole lines for a writer that may fail in the middle of one.
//!
//! Invariant: a line is written whole, or it is lost; how many were lost stands in a line of its own
//! before the next one that is written. No line begins behind the rest of a torn one.

use std::io::{self, ErrorKind, Write};

/// A writer of lines that remembers what it could not write.
pub(crate) struct Lines<W> {
    writer: W,
    /// Whether the last line lacks its end.
    torn: bool,
    lost: u64,
    /// How many of those the writer's reader has been told of.
    told: u64,
}

impl<W: Write> Lines<W> {
    pub(crate) fn new(writer: W, torn: bool) -> Self {
        Lines { writer, torn, lost: 0, told: 0 }
    }

    /// How many lines were lost so far.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// Writes on to another writer. What was lost and not told is told there.
    pub(crate) fn replace(&mut self, writer: W, torn: bool) {
        (self.writer, self.torn) = (writer, torn);
    }

    /// Writes a line, which ends with its line end, in one piece; `loss` makes the line that tells
    /// how many were lost.
    pub(crate) fn append(&mut self, line: &[u8], loss: impl Fn(u64) -> Vec<u8>) -> io::Result<()> {
        let written = self.tell_loss(loss).and_then(|()| self.write(line));
        if written.is_err() {
            self.lost += 1;
        }
        written
    }

    /// Tells what was lost since it was last told.
    pub(crate) fn tell_loss(&mut self, loss: impl Fn(u64) -> Vec<u8>) -> io::Result<()> {
        if self.lost > self.told {
            self.write(&loss(self.lost - self.told))?;
            self.told = self.lost;
        }
        Ok(())
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.torn {
            self.write_whole(b"\n")?;
            self.torn = false;
        }
        self.write_whole(line)
    }

    fn write_whole(&mut self, mut rest: &[u8]) -> io::Result<()> {
        while !rest.is_empty() {
            match self.writer.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    rest = &rest[written..];
                    self.torn = !rest.is_empty();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// Takes so many bytes per write, or fails; afterwards it takes everything.
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

    fn loss(lost: u64) -> Vec<u8> {
        format!("<lost {lost}>\n").into_bytes()
    }

    proptest! {
        /// Whatever fails: each line is there whole or was reported as lost, in order, and the losses
        /// that are told add up.
        #[test]
        fn every_line_is_there_or_told(
            torn in any::<bool>(),
            script in prop::collection::vec(prop::option::of(0_usize..12), 0..60),
        ) {
            let taken = if torn { b"<to".to_vec() } else { Vec::new() };
            let mut lines = Lines::new(Flaky { script: script.into(), taken }, torn);
            let mut kept = Vec::new();
            for number in 0..80 {
                if lines.append(format!("<{number}>\n").as_bytes(), loss).is_ok() {
                    kept.push(number);
                }
            }
            // The script is over, so this one is written.
            prop_assert!(lines.append(b"<80>\n", loss).is_ok());
            prop_assert_eq!(lines.lost(), 80 - kept.len() as u64);

            let text = String::from_utf8(lines.writer.taken).unwrap();
            prop_assert!(text.ends_with("<80>\n"));
            let whole: Vec<&str> =
                text.lines().filter_map(|line| line.strip_prefix('<')?.strip_suffix('>')).collect();
            prop_assert!(whole.iter().all(|line| !line.contains('<')), "{}", text);
            let told = whole.iter().filter_map(|line| line.strip_prefix("lost ")?.parse::<u64>().ok()).sum::<u64>();
            let found: Vec<usize> = whole.iter().filter_map(|line| line.parse().ok()).collect();
            // A line of which only the end was missing is found although it counts as lost.
            prop_assert!(kept.iter().all(|number| found.contains(number)));
            prop_assert!(found.is_sorted());
            prop_assert!(told >= 80 - kept.len() as u64);
        }
    }
}
