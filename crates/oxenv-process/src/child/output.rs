//! The output of a child: its lines for the log, the end of it for errors.
//!
//! Invariant: output is always drained, however much comes, in bounded memory; and what is shown went
//! through the redaction in one piece, so that no cut leaves a part of a secret.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::process::ChildStderr;
use tokio::time::{Instant, timeout};

use crate::secret::{MAX_SECRET_BYTES, Redactor};
use crate::tail::OutputTail;

/// How much is read at once, and kept of a line, in bytes.
const READ_BYTES: usize = 16 << 10;
/// How much of a line is shown, in bytes.
const MAX_LINE_BYTES: usize = 8 << 10;
/// How much is shown each second, in bytes.
const MAX_BYTES_PER_SECOND: usize = 64 << 10;

/// Divides output into lines, and counts those that are not shown because there are too many.
struct OutputLines {
    line: Vec<u8>,
    cut: bool,
    second_began: Instant,
    /// The bytes that were shown in the current second.
    shown: usize,
    /// The lines that were not shown in the current second.
    hidden: u64,
}

/// What [`OutputLines`] gives to the log.
enum OutputPart<'a> {
    Line { raw: &'a [u8], cut: bool },
    Hidden(u64),
}

/// Reads a pipe to its end.
pub(super) async fn follow(
    mut pipe: ChildStderr,
    label: String,
    tail: Arc<Mutex<OutputTail>>,
    redactor: Redactor,
) {
    let mut chunk = vec![0; READ_BYTES];
    let mut lines = OutputLines::new(Instant::now());
    let mut show = |part: OutputPart<'_>| match part {
        OutputPart::Line { raw, cut } => {
            tracing::debug!(toolset = label, "{}", line_text(raw, cut, &redactor));
        }
        OutputPart::Hidden(hidden) => tracing::debug!(toolset = label, "{hidden} lines not shown"),
    };
    loop {
        // While lines are hidden, their number is logged when the second is over.
        let time = if lines.hidden > 0 { lines.rest_of_second(Instant::now()) } else { Duration::MAX };
        match timeout(time, pipe.read(&mut chunk)).await {
            Err(_) => lines.begin_second(Instant::now(), &mut show),
            Ok(Err(_) | Ok(0)) => break,
            Ok(Ok(length)) => {
                tail.lock().push(&chunk[..length], length == chunk.len());
                lines.feed(&chunk[..length], Instant::now(), &mut show);
            }
        }
    }
    tail.lock().end();
    lines.end(&mut show);
}

impl OutputLines {
    fn new(now: Instant) -> Self {
        OutputLines { line: Vec::new(), cut: false, second_began: now, shown: 0, hidden: 0 }
    }

    fn feed(&mut self, chunk: &[u8], now: Instant, show: &mut dyn FnMut(OutputPart<'_>)) {
        self.begin_second(now, show);
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            let room = READ_BYTES - self.line.len();
            self.cut |= text.len() > room;
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if text.len() < piece.len() {
                self.finish(show);
            }
        }
    }

    /// Begins another second, if the current one is over.
    fn begin_second(&mut self, now: Instant, show: &mut dyn FnMut(OutputPart<'_>)) {
        if self.rest_of_second(now).is_zero() {
            self.second_began = now;
            self.shown = 0;
            if self.hidden > 0 {
                show(OutputPart::Hidden(self.hidden));
                self.hidden = 0;
            }
        }
    }

    fn rest_of_second(&self, now: Instant) -> Duration {
        Duration::from_secs(1).saturating_sub(now.duration_since(self.second_began))
    }

    fn finish(&mut self, show: &mut dyn FnMut(OutputPart<'_>)) {
        if self.hidden > 0 || self.shown + self.line.len() > MAX_BYTES_PER_SECOND {
            self.hidden += 1;
        } else {
            // An empty line costs something, too.
            self.shown += self.line.len() + 1;
            show(OutputPart::Line { raw: &self.line, cut: self.cut });
        }
        self.line.clear();
        self.cut = false;
    }

    fn end(mut self, show: &mut dyn FnMut(OutputPart<'_>)) {
        if !self.line.is_empty() {
            self.finish(show);
        }
        if self.hidden > 0 {
            show(OutputPart::Hidden(self.hidden));
        }
    }
}

/// A line as it is shown.
fn line_text(raw: &[u8], cut: bool, redactor: &Redactor) -> String {
    let mut text = redactor.redact(String::from_utf8_lossy(raw).trim_end()).into_owned();
    let safe = if cut { text.len().saturating_sub(MAX_SECRET_BYTES) } else { text.len() };
    if cut || text.len() > MAX_LINE_BYTES {
        text.truncate(text.floor_char_boundary(safe.min(MAX_LINE_BYTES)));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn redactor() -> Redactor {
        Redactor::new([&Secret::new("hunter2")])
    }

    /// What is shown of these chunks, each with the second in which it came.
    fn shown(chunks: &[(u64, &[u8])]) -> Vec<String> {
        let (start, redactor) = (Instant::now(), redactor());
        let mut all = Vec::new();
        let mut show = |part: OutputPart<'_>| match part {
            OutputPart::Line { raw, cut } => all.push(line_text(raw, cut, &redactor)),
            OutputPart::Hidden(hidden) => all.push(format!("{hidden} hidden")),
        };
        let mut lines = OutputLines::new(start);
        for (second, chunk) in chunks {
            lines.feed(chunk, start + Duration::from_secs(*second), &mut show);
        }
        lines.end(&mut show);
        all
    }

    #[test]
    fn lines_are_put_together_from_chunks() {
        assert_eq!(shown(&[(0, b"one\ntw"), (0, b"o\r\n\nth"), (9, b"ree")]), ["one", "two", "", "three"]);
        assert_eq!(shown(&[(0, b"pass hun"), (0, b"ter2 \xff\n")]), ["pass *** \u{fffd}"]);
        assert_eq!(shown(&[]), [""; 0]);
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let endless = [b'x'; 1 << 20];
        let lines = shown(&[(0, &endless), (0, b"\nnext")]);
        assert_eq!(lines, ["x".repeat(MAX_LINE_BYTES) + "…", "next".to_owned()]);
    }

    #[test]
    fn a_flood_is_counted_per_second() {
        let flood = b"0123456789\n".repeat(10_000);
        let lines = shown(&[(0, &flood), (0, b"more\n"), (1, b"calm\n"), (1, &flood)]);
        let others: Vec<&String> = lines.iter().filter(|line| *line != "0123456789").collect();
        let first = MAX_BYTES_PER_SECOND / 11;
        assert!(lines.len() > 2 * first && lines.len() < 2 * first + 10, "{}", lines.len());
        assert_eq!(others.len(), 3, "{others:?}");
        assert!(
            others[0].ends_with(" hidden") && others[1] == "calm" && others[2].ends_with(" hidden"),
            "{others:?}"
        );
    }

    #[test]
    fn no_cut_leaves_a_part_of_a_secret() {
        // A secret on each place at which something may be cut.
        for at in [READ_BYTES - 3, MAX_LINE_BYTES - 3, READ_BYTES - MAX_SECRET_BYTES - 3] {
            let mut line = vec![b'x'; READ_BYTES * 2];
            line[at..at + 7].copy_from_slice(b"hunter2");
            let shown = shown(&[(0, &line)]).concat();
            assert!(!shown.contains('h') && shown.contains('x'), "{at}");
        }
        let many = "hunter2 ".repeat(1 << 15);
        let shown = shown(&[(0, many.as_bytes())]).concat();
        assert!(!shown.contains(['h', 'u', '2']), "{shown}");
    }
}
