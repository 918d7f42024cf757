//! What a child says on stderr: its lines for the log, its last words for errors.
//!
//! Invariant: stderr is always drained, however much comes, in bounded memory; and what is shown went
//! through the redaction in one piece, so that no cut leaves a part of a secret.

use oxenv_wire::after;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::process::ChildStderr;
use tokio::time::{Instant, timeout_at};

use super::Redact;

/// How much is read at once, kept of the end, and kept of a line, in bytes.
const READ_BYTES: usize = 16 << 10;
/// The longest secret, in bytes: what is left out beside a cut.
const MAX_SECRET_BYTES: usize = 8 << 10;
/// How much of a line is shown, in bytes.
const MAX_SHOWN_LINE: usize = 8 << 10;
/// How much is shown each second, in bytes.
const MAX_SHOWN_PER_SECOND: usize = 64 << 10;
const MAX_TAIL_LINES: usize = 20;
const MAX_TAIL_BYTES: usize = 4 << 10;

/// The end of what was said.
#[derive(Default)]
pub(super) struct Tail {
    raw: Vec<u8>,
    /// Whether something came before.
    begun: bool,
    /// Whether more is about to come, so that the last line may be torn.
    torn: bool,
}

/// Divides what is said into lines, and counts those that are too much.
struct StderrLines {
    line: Vec<u8>,
    cut: bool,
    /// When the current second ends, in which so much was shown and so many lines were not.
    until: Instant,
    shown: usize,
    hidden: u64,
}

/// What [`StderrLines`] makes of what is said.
enum StderrPart<'a> {
    Line { raw: &'a [u8], cut: bool },
    Hidden(u64),
}

/// Reads stderr to its end.
pub(super) async fn listen(mut stderr: ChildStderr, label: String, tail: Arc<Mutex<Tail>>, redact: Redact) {
    let mut chunk = vec![0; READ_BYTES];
    let mut lines = StderrLines::new(Instant::now());
    let mut show = |heard: StderrPart<'_>| match heard {
        StderrPart::Line { raw, cut } => {
            tracing::debug!(toolset = label, "{}", line_text(raw, cut, &*redact));
        }
        StderrPart::Hidden(hidden) => tracing::debug!(toolset = label, "{hidden} lines not shown"),
    };
    loop {
        // While lines are hidden, their number is told when the second is over.
        let until =
            if lines.hidden > 0 { lines.until } else { after(Instant::now(), Duration::from_secs(3600)) };
        match timeout_at(until, stderr.read(&mut chunk)).await {
            Err(_) => lines.turn(Instant::now(), &mut show),
            Ok(Err(_) | Ok(0)) => break,
            Ok(Ok(length)) => {
                tail.lock().push(&chunk[..length], length == chunk.len());
                lines.feed(&chunk[..length], Instant::now(), &mut show);
            }
        }
    }
    tail.lock().torn = false;
    lines.end(&mut show);
}

impl Tail {
    fn push(&mut self, chunk: &[u8], torn: bool) {
        self.raw.extend_from_slice(chunk);
        let excess = self.raw.len().saturating_sub(READ_BYTES);
        self.raw.drain(..excess);
        self.begun |= excess > 0;
        self.torn = torn;
    }

    /// The last lines, without secrets.
    pub(super) fn text(&self, redact: &dyn Fn(&str) -> String) -> String {
        let whole = match self.raw.iter().rposition(|byte| *byte == b'\n') {
            Some(end) if self.torn => &self.raw[..end],
            _ => &self.raw[..],
        };
        let text = redact(&String::from_utf8_lossy(whole));
        let text = text.trim_end();
        let safe = if self.begun { MAX_SECRET_BYTES.min(text.len()) } else { 0 };
        let start = text.ceil_char_boundary(safe.max(text.len().saturating_sub(MAX_TAIL_BYTES)));
        // A line that is begun before is left out, unless it is the only one.
        let start = match text[start..].find('\n') {
            Some(line_end) if start > 0 => start + line_end + 1,
            _ => start,
        };
        let lines: Vec<&str> = text[start..].lines().collect();
        lines[lines.len().saturating_sub(MAX_TAIL_LINES)..].join("\n")
    }
}

impl StderrLines {
    fn new(now: Instant) -> Self {
        StderrLines { line: Vec::new(), cut: false, until: now, shown: 0, hidden: 0 }
    }

    fn feed(&mut self, chunk: &[u8], now: Instant, show: &mut dyn FnMut(StderrPart<'_>)) {
        self.turn(now, show);
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
    fn turn(&mut self, now: Instant, show: &mut dyn FnMut(StderrPart<'_>)) {
        if now >= self.until {
            self.until = after(now, Duration::from_secs(1));
            self.shown = 0;
            if self.hidden > 0 {
                show(StderrPart::Hidden(self.hidden));
                self.hidden = 0;
            }
        }
    }

    fn finish(&mut self, show: &mut dyn FnMut(StderrPart<'_>)) {
        if self.hidden > 0 || self.shown + self.line.len() > MAX_SHOWN_PER_SECOND {
            self.hidden += 1;
        } else {
            // An empty line costs something, too.
            self.shown += self.line.len() + 1;
            show(StderrPart::Line { raw: &self.line, cut: self.cut });
        }
        self.line.clear();
        self.cut = false;
    }

    fn end(mut self, show: &mut dyn FnMut(StderrPart<'_>)) {
        if !self.line.is_empty() {
            self.finish(show);
        }
        if self.hidden > 0 {
            show(StderrPart::Hidden(self.hidden));
        }
    }
}

/// A line as it is shown.
fn line_text(raw: &[u8], cut: bool, redact: &dyn Fn(&str) -> String) -> String {
    let mut text = redact(String::from_utf8_lossy(raw).trim_end());
    let safe = if cut { text.len().saturating_sub(MAX_SECRET_BYTES) } else { text.len() };
    if cut || text.len() > MAX_SHOWN_LINE {
        text.truncate(text.floor_char_boundary(safe.min(MAX_SHOWN_LINE)));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_secret(text: &str) -> String {
        text.replace("hunter2", "***")
    }

    /// What is shown of these chunks, each with the second in which it came.
    fn shown(chunks: &[(u64, &[u8])]) -> Vec<String> {
        let start = Instant::now();
        let mut all = Vec::new();
        let mut show = |heard: StderrPart<'_>| match heard {
            StderrPart::Line { raw, cut } => all.push(line_text(raw, cut, &no_secret)),
            StderrPart::Hidden(hidden) => all.push(format!("{hidden} hidden")),
        };
        let mut lines = StderrLines::new(start);
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
        assert_eq!(lines, ["x".repeat(MAX_SHOWN_LINE) + "…", "next".to_owned()]);
    }

    #[test]
    fn a_flood_is_counted_per_second() {
        let flood = b"0123456789\n".repeat(10_000);
        let lines = shown(&[(0, &flood), (0, b"more\n"), (1, b"calm\n"), (1, &flood)]);
        let told: Vec<&String> = lines.iter().filter(|line| *line != "0123456789").collect();
        let first = MAX_SHOWN_PER_SECOND / 11;
        assert!(lines.len() > 2 * first && lines.len() < 2 * first + 10, "{}", lines.len());
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(
            told[0].ends_with(" hidden") && told[1] == "calm" && told[2].ends_with(" hidden"),
            "{told:?}"
        );
    }

    #[test]
    fn no_cut_leaves_a_part_of_a_secret() {
        // A secret on each place at which something may be cut.
        for at in [
            READ_BYTES - 3,
            MAX_SHOWN_LINE - 3,
            READ_BYTES - MAX_SECRET_BYTES - 3,
            READ_BYTES - MAX_TAIL_BYTES - 3,
        ] {
            let mut line = vec![b'x'; READ_BYTES * 2];
            line[at..at + 7].copy_from_slice(b"hunter2");
            let shown = shown(&[(0, &line)]).concat();
            assert!(!shown.contains('h') && shown.contains('x'), "{at}");

            let mut tail = Tail::default();
            tail.push(&line[..READ_BYTES], true);
            let torn = tail.text(&no_secret);
            tail.push(&line[READ_BYTES..], false);
            let whole = tail.text(&no_secret);
            for text in [torn, whole] {
                assert!(
                    !"hunter2".char_indices().skip(1).any(|(from, _)| text.contains(&"hunter2"[from..])),
                    "{at}: {text}"
                );
            }
        }
        let many = "hunter2 ".repeat(1 << 15);
        let shown = shown(&[(0, many.as_bytes())]).concat();
        assert!(!shown.contains(['h', 'u', '2']), "{shown}");
    }

    #[test]
    fn the_tail_is_the_last_lines() {
        let mut tail = Tail::default();
        assert_eq!(tail.text(&no_secret), "");
        tail.push(b"only hunter2\n\n", false);
        assert_eq!(tail.text(&no_secret), "only ***");
        for line in 0..5000 {
            tail.push(format!("line {line}\n").as_bytes(), false);
        }
        let expected: Vec<String> = (4980..5000).map(|line| format!("line {line}")).collect();
        assert_eq!(tail.text(&no_secret), expected.join("\n"));
        tail.push("é".repeat(10_000).as_bytes(), false);
        let text = tail.text(&no_secret);
        assert!(text.len() <= MAX_TAIL_BYTES && text.len() > MAX_TAIL_BYTES - 8, "{}", text.len());
    }
}
