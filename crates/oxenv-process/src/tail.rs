//! The last lines of output, without secrets.
//!
//! Invariant: secrets are taken out of a text in one piece, so that no cut leaves a part of one.

use crate::secret::{MAX_SECRET_BYTES, Redactor};

/// How much of the end is kept, in bytes, before secrets are taken out.
const MAX_KEPT_BYTES: usize = 16 << 10;
const MAX_TAIL_LINES: usize = 20;
const MAX_TAIL_BYTES: usize = 4 << 10;

/// The last lines of an output, 20 lines and 4 KiB at most, without the secrets of the redactor. `cut`
/// means that `output` is only the end of it: the first 8 KiB are then left out, for they may begin within
/// a secret.
#[must_use]
pub fn last_lines(output: &[u8], cut: bool, redactor: &Redactor) -> String {
    let text = String::from_utf8_lossy(output);
    let text = redactor.redact(&text);
    let text = text.trim_end();
    let safe = if cut { MAX_SECRET_BYTES.min(text.len()) } else { 0 };
    let start = text.ceil_char_boundary(safe.max(text.len().saturating_sub(MAX_TAIL_BYTES)));
    // A line that is begun before is left out, unless it is the only one.
    let start = match text[start..].find('\n') {
        Some(line_end) if start > 0 => start + line_end + 1,
        _ => start,
    };
    let lines: Vec<&str> = text[start..].lines().collect();
    lines[lines.len().saturating_sub(MAX_TAIL_LINES)..].join("\n")
}

/// The end of an output that is being written.
#[derive(Default)]
pub(crate) struct OutputTail {
    raw: Vec<u8>,
    /// Whether something came before.
    cut: bool,
    /// Whether more is about to come, so that the last line may be torn.
    torn: bool,
}

impl OutputTail {
    /// Adds what was read; `torn` means that more is about to come.
    pub(crate) fn push(&mut self, chunk: &[u8], torn: bool) {
        self.raw.extend_from_slice(chunk);
        let excess = self.raw.len().saturating_sub(MAX_KEPT_BYTES);
        self.raw.drain(..excess);
        self.cut |= excess > 0;
        self.torn = torn;
    }

    /// Nothing more will come.
    pub(crate) fn end(&mut self) {
        self.torn = false;
    }

    /// The last lines, without secrets.
    pub(crate) fn text(&self, redactor: &Redactor) -> String {
        let whole = match self.raw.iter().rposition(|byte| *byte == b'\n') {
            Some(end) if self.torn => &self.raw[..end],
            _ => &self.raw[..],
        };
        last_lines(whole, self.cut, redactor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn redactor() -> Redactor {
        Redactor::new([&Secret::new("hunter2")])
    }

    #[test]
    fn no_cut_leaves_a_part_of_a_secret() {
        // A secret on each place at which something may be cut.
        for at in
            [MAX_KEPT_BYTES - 3, MAX_KEPT_BYTES - MAX_SECRET_BYTES - 3, MAX_KEPT_BYTES - MAX_TAIL_BYTES - 3]
        {
            let mut line = vec![b'x'; MAX_KEPT_BYTES * 2];
            line[at..at + 7].copy_from_slice(b"hunter2");
            let mut tail = OutputTail::default();
            tail.push(&line[..MAX_KEPT_BYTES], true);
            let torn = tail.text(&redactor());
            tail.push(&line[MAX_KEPT_BYTES..], false);
            let whole = tail.text(&redactor());
            for text in [torn, whole] {
                assert!(
                    !"hunter2".char_indices().skip(1).any(|(from, _)| text.contains(&"hunter2"[from..])),
                    "{at}: {text}"
                );
            }
        }
    }

    #[test]
    fn the_tail_is_the_last_lines() {
        let mut tail = OutputTail::default();
        assert_eq!(tail.text(&redactor()), "");
        tail.push(b"only hunter2\n\n", false);
        assert_eq!(tail.text(&redactor()), "only ***");
        for line in 0..5000 {
            tail.push(format!("line {line}\n").as_bytes(), false);
        }
        let expected: Vec<String> = (4980..5000).map(|line| format!("line {line}")).collect();
        assert_eq!(tail.text(&redactor()), expected.join("\n"));
        tail.push("é".repeat(10_000).as_bytes(), false);
        let text = tail.text(&redactor());
        assert!(text.len() <= MAX_TAIL_BYTES && text.len() > MAX_TAIL_BYTES - 8, "{}", text.len());
    }
}
