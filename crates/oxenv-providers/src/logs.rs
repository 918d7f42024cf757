//! The last lines of an instance's output, without secrets.
//!
//! Invariant: secrets are taken out of a text in one piece, so that no cut leaves a part of one.

use oxenv_process::secret::Redactor;

use crate::spec::InstanceSpec;

/// How much of the output is read from its end, in bytes.
pub(crate) const MAX_READ_BYTES: usize = 32 << 10;
/// The longest secret, in bytes: what is left out behind a cut.
const MAX_SECRET_BYTES: usize = 8 << 10;
const MAX_TAIL_LINES: usize = 20;
const MAX_TAIL_BYTES: usize = 4 << 10;

/// Removes the values of an instance's variables from texts.
pub(crate) fn redactor(spec: &InstanceSpec) -> Redactor {
    Redactor::new(spec.env.iter().map(|(_, value)| value))
}

/// The last lines of what was written, 20 lines and 4 KiB at most. `cut` says that there was more before.
pub(crate) fn last_lines(raw: &[u8], cut: bool, redactor: &Redactor) -> String {
    let cut = cut || raw.len() > MAX_READ_BYTES;
    let text = String::from_utf8_lossy(&raw[raw.len().saturating_sub(MAX_READ_BYTES)..]);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::SecretText;

    #[test]
    fn the_last_lines_are_shown_without_secrets() {
        let redactor = Redactor::new([&SecretText::new("hunter22")]);
        assert_eq!(last_lines(b"", false, &redactor), "");
        assert_eq!(last_lines(b"one\ntoken hunter22\n\n", false, &redactor), "one\ntoken ***");
        let many: String = (0..5000).map(|line| format!("line {line}\n")).collect();
        let shown = last_lines(many.as_bytes(), false, &redactor);
        assert!(shown.starts_with("line 4980\n") && shown.ends_with("line 4999"), "{shown}");
        // Behind a cut there may be the rest of one.
        let torn = "unter22 ".repeat(MAX_READ_BYTES / 8);
        let shown = last_lines(format!("h{torn}\nend").as_bytes(), true, &redactor);
        assert_eq!(shown, "end");
    }
}
