//! How large the automaton of a pattern would be.
//!
//! Invariant: takes time linear in the pattern, and builds nothing.

use oxenv_wire::preview;

/// Maximum bytes of one pattern.
const MAX_LENGTH: usize = 4 << 10;
/// Maximum number of states of a pattern's automaton, as [`states`] estimates them. A state takes about 32
/// bytes.
const MAX_STATES: u64 = 128 << 10;
/// Refuses a pattern whose automaton would be too large, without building it.
///
/// # Errors
/// States what is too large.
pub(crate) fn check(pattern: &str) -> Result<u64, String> {
    if pattern.len() > MAX_LENGTH {
        return Err(format!("a pattern has {} bytes, and {MAX_LENGTH} at most are taken", pattern.len()));
    }
    match states(pattern) {
        states if states <= MAX_STATES => Ok(states),
        _ => Err(format!("the pattern '{}' repeats too much", preview(pattern))),
    }
}

/// About how many states the automaton of a pattern has.
pub(crate) fn states(pattern: &str) -> u64 {
    /// States of a class of Unicode, such as `\p{L}`.
    const UNICODE_CLASS_STATES: u64 = 1350;
    /// States of "any character but these".
    const NEGATED_CLASS_STATES: u64 = 32;
    // The states of each group that is open, and of its last part, which a quantifier repeats.
    let mut groups: Vec<u64> = vec![0];
    let mut last = 0_u64;
    let mut chars = pattern.chars().peekable();
    let class_of = |escape: char| match escape {
        'p' | 'P' => UNICODE_CLASS_STATES,
        'D' | 'W' | 'S' | 's' => NEGATED_CLASS_STATES,
        _ => 2,
    };
    while let Some(char) = chars.next() {
        let part = match char {
            '(' => {
                groups.push(0);
                last = 0;
                continue;
            }
            ')' => {
                let group = groups.pop().unwrap_or_default();
                if groups.is_empty() {
                    groups.push(0);
                }
                group.saturating_add(4)
            }
            '[' => {
                let mut states = if chars.peek() == Some(&'^') { NEGATED_CLASS_STATES } else { 3 };
                while let Some(char) = chars.next_if(|char| *char != ']') {
                    states = states.saturating_add(match char {
                        '\\' => chars.next().map_or(0, class_of),
                        char if char.is_ascii() => 0,
                        _ => 8,
                    });
                }
                states
            }
            '\\' => chars.next().map_or(0, class_of),
            '.' => NEGATED_CLASS_STATES,
            '*' | '+' | '?' => last.saturating_add(2),
            '{' => {
                let bounds: String = std::iter::from_fn(|| chars.next_if(|char| *char != '}')).collect();
                let largest = bounds.split(',').filter_map(|bound| bound.trim().parse::<u64>().ok()).max();
                last.saturating_mul(largest.unwrap_or(1).max(1).saturating_sub(1)).saturating_add(2)
            }
            char => char.len_utf8() as u64,
        };
        if let Some(group) = groups.last_mut() {
            *group = group.saturating_add(part);
        }
        last = if matches!(char, '*' | '+' | '?' | '{') { last.saturating_add(part) } else { part };
    }
    groups.iter().fold(0, |all, group| all.saturating_add(*group))
}
