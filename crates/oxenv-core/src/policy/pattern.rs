//! Wildcards on tool names: `*` stands for any characters, `?` for exactly one.
//!
//! Invariant: matching looks at each pair of pattern and name at most once, whatever the pattern;
//! what looks like a wildcard of another language is refused instead of matching nothing.

/// The longest pattern that is taken, in bytes; tool names have 64 characters at most.
const MAX_PATTERN_BYTES: usize = 256;

/// A pattern that stands for tool names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern(Box<str>);

impl Pattern {
    /// Parses a pattern, or returns why it is not one.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("an empty pattern matches no tool; remove it".to_owned());
        }
        if text.len() > MAX_PATTERN_BYTES {
            return Err(format!("a pattern has {MAX_PATTERN_BYTES} bytes at most, not {}", text.len()));
        }
        let foreign = |c: char| "[]{}()!^|\\,\"'".contains(c) || c.is_whitespace() || c.is_control();
        match text.chars().find(|c| foreign(*c)) {
            None => Ok(Pattern(text.into())),
            Some(c) => Err(format!(
                "pattern '{}' holds {c:?}; only * and ? are special, so write ? for such a character",
                text.escape_debug()
            )),
        }
    }

    /// Whether the whole name matches the pattern; case counts.
    pub(crate) fn matches(&self, name: &str) -> bool {
        let (mut pattern, mut name) = (self.0.chars(), name.chars());
        // Where to go on when the last star must take one more character: the pattern after that
        // star, and the name after what the star has taken so far.
        let mut star = None;
        loop {
            let (mut pattern_rest, mut name_rest) = (pattern.clone(), name.clone());
            match (pattern_rest.next(), name_rest.next()) {
                (None, None) => return true,
                (Some('*'), _) => {
                    star = Some((pattern_rest.clone(), name.clone()));
                    pattern = pattern_rest;
                }
                (Some(expected), Some(found)) if expected == '?' || expected == found => {
                    (pattern, name) = (pattern_rest, name_rest);
                }
                _ => {
                    let Some((after_star, untaken)) = &mut star else { return false };
                    if untaken.next().is_none() {
                        return false;
                    }
                    (pattern, name) = (after_star.clone(), untaken.clone());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, as slow as it may be.
    fn naive(pattern: &[char], name: &[char]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some(('*', rest)), _) => (0..=name.len()).any(|taken| naive(rest, &name[taken..])),
            (Some(('?', rest)), Some((_, name))) => naive(rest, name),
            (Some((expected, rest)), Some((found, name))) => expected == found && naive(rest, name),
            _ => false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn agrees_with_the_definition(pattern in "[ab?*é]{1,9}", name in "[abé*?]{0,12}") {
            let chars = |text: &str| text.chars().collect::<Vec<char>>();
            let expected = naive(&chars(&pattern), &chars(&name));
            prop_assert_eq!(Pattern::new(&pattern).unwrap().matches(&name), expected);
        }
    }

    #[test]
    fn a_pattern_that_makes_others_explode_is_quick() {
        let pattern = Pattern::new(&"*a".repeat(100)).unwrap();
        assert!(!pattern.matches(&format!("{}b", "a".repeat(10_000))));
        assert!(pattern.matches(&"a".repeat(10_000)));
    }

    #[test]
    fn wildcards_of_other_languages_are_refused() {
        for text in ["", "read_[ab]", "{read,write}_*", "!write_*", "^write", "a b", "a\\*", "a|b", "a\n"] {
            assert!(Pattern::new(text).is_err(), "{text:?}");
        }
        assert!(Pattern::new(&"a".repeat(257)).unwrap_err().contains("256 bytes"));
        for text in ["*", "read_?", "a.b/c-d:e", "größe_*"] {
            assert!(Pattern::new(text).is_ok(), "{text:?}");
        }
    }
}
