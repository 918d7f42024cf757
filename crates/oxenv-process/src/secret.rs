//! Secrets that cannot be printed by accident, and a redactor that takes them out of texts.
//!
//! Invariant: a secret is read by `expose` alone; printing or serializing it gives `***`.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use aho_corasick::AhoCorasick;
use serde::{Serialize, Serializer};

/// What stands in a secret's place.
pub const CONCEALED: &str = "***";

/// Values shorter than this, in characters, are left in texts: they would be found everywhere.
const MIN_SECRET_CHARS: usize = 6;
/// The longest secret that is kept out of a text which is cut, in bytes: what is left out beside the cut.
pub(crate) const MAX_SECRET_BYTES: usize = 8 << 10;

/// A value that came from a variable or from a file.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

/// Takes the values of secrets out of texts, in time with the length of a text and not with the number of
/// values. A clone shares them.
#[derive(Clone, Default)]
pub struct Redactor {
    /// Absent without values.
    search: Option<AhoCorasick>,
}

impl Secret {
    /// Conceals a value.
    #[must_use]
    pub fn new(value: impl Into<Arc<str>>) -> Self {
        Secret(value.into())
    }

    /// The value itself. The caller must not show it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(CONCEALED)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(CONCEALED)
    }
}

impl Redactor {
    /// A redactor of these values, and of the same values as they are written in JSON. Those of
    /// less than 6 characters are left alone.
    #[must_use]
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut values = Vec::new();
        for secret in secrets {
            let value = secret.expose();
            if value.chars().count() < MIN_SECRET_CHARS {
                continue;
            }
            let quoted = serde_json::Value::from(value).to_string();
            let escaped = &quoted[1..quoted.len() - 1];
            if escaped != value {
                values.push(escaped.to_owned());
            }
            values.push(value.to_owned());
        }
        values.sort_unstable();
        values.dedup();
        // Building one fails beyond 2 GiB of values, which no manifest reaches.
        let search = AhoCorasick::new(&values).ok().filter(|search| search.patterns_len() > 0);
        Redactor { search }
    }

    /// The text with `***` for each value. Where values overlap, they are replaced together, so that
    /// no part of one stays.
    #[must_use]
    pub fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let found = self.found(text);
        if found.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut redacted = String::with_capacity(text.len());
        let mut rest = 0;
        for range in found {
            redacted.push_str(&text[rest..range.start]);
            redacted.push_str(CONCEALED);
            rest = range.end;
        }
        redacted.push_str(&text[rest..]);
        Cow::Owned(redacted)
    }

    /// Where values stand, in order; those that overlap are one range.
    fn found(&self, text: &str) -> Vec<Range<usize>> {
        let mut found: Vec<Range<usize>> = Vec::new();
        // They come in the order of their ends.
        for next in self.search.iter().flat_map(|search| search.find_overlapping_iter(text)) {
            let mut next = next.range();
            while let Some(before) = found.pop_if(|before| before.end > next.start) {
                next.start = next.start.min(before.start);
            }
            found.push(next);
        }
        found
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor of {} values", self.search.as_ref().map_or(0, AhoCorasick::patterns_len))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn redacted(values: &[&str], text: &str) -> String {
        let secrets: Vec<Secret> = values.iter().map(|value| Secret::new(*value)).collect();
        Redactor::new(&secrets).redact(text).into_owned()
    }

    #[test]
    fn a_secret_is_read_by_expose_alone() {
        let secret = Secret::new("hunter22");
        assert_eq!(format!("{secret:?} {secret:#?}"), "*** ***");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"***\"");
        assert_eq!(secret.expose(), "hunter22");
        let redactor = Redactor::new([&secret]);
        assert!(!format!("{redactor:?}").contains("hunter"));
    }

    #[test]
    fn values_are_replaced_wherever_they_stand() {
        assert_eq!(redacted(&["hunter22"], "a hunter22, hunter22hunter22"), "a ***, ******");
        assert_eq!(redacted(&["hunter22"], "nothing here"), "nothing here");
        assert_eq!(redacted(&["short"], "short"), "short");
        assert_eq!(redacted(&["größe!"], "die größe!"), "die ***");
    }

    #[test]
    fn of_values_that_overlap_no_part_stays() {
        assert_eq!(redacted(&["secret", "secret-long"], "a secret-long b"), "a *** b");
        assert_eq!(redacted(&["abcdef", "defghi"], "abcdefghi"), "***");
        assert_eq!(redacted(&["abcabc"], "abcabcabc"), "***");
        assert_eq!(redacted(&["cdefgh", "abcdefghij", "xyzxyz"], "abcdefghij xyzxyz"), "*** ***");
    }

    proptest! {
        /// Every byte of every value is gone, and nothing else.
        #[test]
        fn of_all_values_every_byte_goes(
            values in prop::collection::vec("[ab]{6,9}", 1..5),
            text in "[abc]{0,60}",
        ) {
            let mut hidden = vec![false; text.len()];
            for value in &values {
                for at in (0..text.len()).filter(|at| text[*at..].starts_with(value)) {
                    hidden[at..at + value.len()].fill(true);
                }
            }
            let mut expected = String::new();
            for (at, letter) in text.char_indices() {
                match hidden[at] {
                    false => expected.push(letter),
                    true if at == 0 || !hidden[at - 1] => expected.push_str(CONCEALED),
                    true => {}
                }
            }
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            let redacted = redacted(&values, &text);
            // Values side by side may be replaced as one or as several.
            prop_assert_eq!(redacted.replace("******", CONCEALED).replace("******", CONCEALED), expected);
        }
    }

    #[test]
    fn a_value_is_found_as_json_writes_it() {
        let text = serde_json::json!({ "password": "say \"hunter22\"\n" }).to_string();
        assert_eq!(redacted(&["say \"hunter22\"\n"], &text), r#"{"password":"***"}"#);
    }
}
