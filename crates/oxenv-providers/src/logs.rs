//! The last lines of an instance's output, without secrets.
//!
//! Invariant: secrets are taken out of a text in one piece, so that no cut leaves a part of one.

use oxenv_process::secret::Redactor;
use oxenv_process::tail;

use crate::spec::InstanceSpec;

/// How much of the output is read from its end, in bytes.
pub(crate) const MAX_READ_BYTES: usize = 32 << 10;

/// Removes the values of an instance's variables from texts.
pub(crate) fn redactor(spec: &InstanceSpec) -> Redactor {
    Redactor::new(spec.env.iter().map(|(_, value)| value))
}

/// The last lines of what was written; see [`tail::last_lines`]. `cut` means that there was more
/// before.
pub(crate) fn last_lines(output: &[u8], cut: bool, redactor: &Redactor) -> String {
    let end = &output[output.len().saturating_sub(MAX_READ_BYTES)..];
    tail::last_lines(end, cut || end.len() < output.len(), redactor)
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
