//! The regular expressions of schemas: an automaton first, and a bounded engine with backtracking for what it
//! lacks.
//!
//! Invariant: each match takes its steps before it begins, by the sizes of pattern and text. A pattern that
//! is too large is refused by [`check`] before anything is compiled.

use std::sync::Arc;

use jsonschema::{FancyRegex, Keyword, PatternOptions, Regex, ValidationError};
use oxenv_wire::preview;
use parking_lot::Mutex;
use regex_automata::Input;
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson::{NFA, WhichCaptures, pikevm::PikeVM};

use crate::metered::{Metered, MeteredJson, charge, exhausted};

/// Bytes of one pattern, at the most.
const MAX_LENGTH: usize = 4 << 10;
/// States of a pattern's automaton, at the most, as [`states`] estimates them. A state takes about 32 bytes.
const MAX_STATES: u64 = 128 << 10;
/// Bytes of a compiled pattern, at the most: twice what the estimate allows.
const MAX_COMPILED: usize = 8 << 20;
/// Bytes that the tables of an automaton may grow to while it matches.
const MAX_TABLES: usize = 256 << 10;
/// Times that these tables may fill up before the text is read in a slower way, unless a new entry serves so
/// many bytes.
const MAX_TABLE_FILLS: usize = 8;
const MIN_BYTES_PER_ENTRY: usize = 1000;
/// Tables of one automaton that are kept for the next match, at the most.
const MAX_SPARE_TABLES: usize = 4;
/// Times that the backtracking engine may go back within one match.
const MAX_BACKTRACKS: usize = 10_000;

/// A compiled pattern.
pub(crate) struct Matcher {
    /// The pattern as it is repeated in messages.
    preview: String,
    engine: Engine,
    cost: MatchCost,
}

enum Engine {
    /// Reads a text once.
    Automaton(Box<Automaton>),
    /// Knows lookaround and backreferences, and gives up after [`MAX_BACKTRACKS`].
    Backtracking(fancy_regex::Regex),
}

struct Automaton {
    /// Builds its tables as it reads, and gives up where they are of no use.
    lazy_dfa: DFA,
    spare_tables: Mutex<Vec<Cache>>,
    /// Goes through all states for each byte.
    pike_vm: PikeVM,
}

/// What a match costs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MatchCost {
    /// States of the automata.
    states: u64,
    backtracks: bool,
}

/// Why a pattern is not taken.
pub(crate) enum PatternError {
    /// It is no regular expression, or has what its schema must not use.
    Unusable,
    /// It is one, but too large.
    TooLarge,
}

/// The keyword `pattern`.
pub(crate) struct PatternKeyword(pub(crate) Arc<Matcher>);

impl Matcher {
    /// Compiles a pattern as ECMA-262 means it; `lookaround` allows what needs the other engine.
    pub(crate) fn new(pattern: &str, lookaround: bool) -> Result<Self, PatternError> {
        check(pattern).map_err(|_| PatternError::TooLarge)?;
        let translated = jsonschema_regex::to_rust_regex(pattern).map_err(|()| PatternError::Unusable)?;
        let (engine, cost) = match Automaton::new(&translated) {
            Ok(automaton) => {
                let states = automaton.states();
                (Engine::Automaton(Box::new(automaton)), MatchCost { states, backtracks: false })
            }
            Err(PatternError::Unusable) if lookaround => {
                let engine = fancy_regex::RegexBuilder::new(&translated)
                    .backtrack_limit(MAX_BACKTRACKS)
                    .delegate_size_limit(MAX_COMPILED / 8)
                    .delegate_dfa_size_limit(MAX_TABLES)
                    .build()
                    .map_err(|_| PatternError::Unusable)?;
                (Engine::Backtracking(engine), MatchCost { states: states(pattern), backtracks: true })
            }
            Err(fault) => return Err(fault),
        };
        Ok(Matcher { preview: preview(pattern).into_owned(), engine, cost })
    }

    pub(crate) fn cost(&self) -> MatchCost {
        self.cost
    }

    /// Whether a text matches somewhere. Ends the check where the engine gives up.
    fn matches(&self, text: &str) -> bool {
        match &self.engine {
            Engine::Automaton(automaton) => automaton.matches(text),
            Engine::Backtracking(regex) => {
                charge(self.cost.steps(text));
                regex.is_match(text).unwrap_or_else(|_| exhausted())
            }
        }
    }
}

impl Automaton {
    fn new(pattern: &str) -> Result<Self, PatternError> {
        let options = NFA::config().nfa_size_limit(Some(MAX_COMPILED)).which_captures(WhichCaptures::None);
        let nfa =
            NFA::compiler().configure(options).build(pattern).map_err(|error| match error.size_limit() {
                Some(_) => PatternError::TooLarge,
                None => PatternError::Unusable,
            })?;
        let options = DFA::config()
            .cache_capacity(MAX_TABLES)
            .skip_cache_capacity_check(true)
            .minimum_cache_clear_count(Some(MAX_TABLE_FILLS))
            .minimum_bytes_per_state(Some(MIN_BYTES_PER_ENTRY))
            .unicode_word_boundary(true);
        let lazy_dfa = DFA::builder().configure(options).build_from_nfa(nfa.clone());
        let pike_vm = PikeVM::new_from_nfa(nfa).map_err(|_| PatternError::Unusable)?;
        let lazy_dfa = lazy_dfa.map_err(|_| PatternError::TooLarge)?;
        Ok(Automaton { lazy_dfa, spare_tables: Mutex::default(), pike_vm })
    }

    fn states(&self) -> u64 {
        self.pike_vm.get_nfa().states().len() as u64
    }

    fn matches(&self, text: &str) -> bool {
        charge(1 + text.len() as u64 / 4);
        let mut tables = self.spare_tables.lock().pop().unwrap_or_else(|| self.lazy_dfa.create_cache());
        let found = self.lazy_dfa.try_search_fwd(&mut tables, &Input::new(text).earliest(true));
        let mut spare = self.spare_tables.lock();
        if spare.len() < MAX_SPARE_TABLES {
            spare.push(tables);
        }
        drop(spare);
        found.map(|found| found.is_some()).unwrap_or_else(|_| {
            charge(text.len() as u64 * self.states() / 2);
            self.pike_vm.is_match(&mut self.pike_vm.create_cache(), text)
        })
    }
}

impl MatchCost {
    /// Nothing is matched.
    pub(crate) const NO_COST: MatchCost = MatchCost { states: 0, backtracks: false };

    /// Whether one of the patterns needs the engine that backtracks.
    pub(crate) fn backtracks(self) -> bool {
        self.backtracks
    }

    /// The steps of one match, at the worst.
    pub(crate) fn steps(self, text: &str) -> u64 {
        let bytes = text.len() as u64;
        let steps = bytes.saturating_mul(self.states) / 16;
        match self.backtracks {
            // Each place may be tried anew, and each try may read what is left.
            true => (500 + bytes.saturating_mul(bytes) / 64).saturating_add(steps),
            false => steps,
        }
    }

    /// The cost of matching both.
    pub(crate) fn and(self, other: MatchCost) -> MatchCost {
        let states = self.states.saturating_add(other.states);
        MatchCost { states, backtracks: self.backtracks || other.backtracks }
    }
}

impl<'i> Keyword<'i, MeteredJson> for PatternKeyword {
    fn validate(&self, instance: Metered<'i>) -> Result<(), ValidationError<'i>> {
        match Keyword::<MeteredJson>::is_valid(self, instance) {
            true => Ok(()),
            // The text itself is not told: it may be long, or a secret.
            false => {
                let pattern = &self.0.preview;
                Err(ValidationError::custom(format!("the value does not match \"{pattern}\"")))
            }
        }
    }

    fn is_valid(&self, instance: Metered<'i>) -> bool {
        charge(1);
        instance.0.as_str().is_none_or(|text| self.0.matches(text))
    }
}

/// The engine of `patternProperties`, where every pattern is linear.
pub(crate) fn linear_options() -> PatternOptions<Regex> {
    PatternOptions::regex().size_limit(MAX_COMPILED).dfa_size_limit(MAX_TABLES)
}

/// The engine of `patternProperties`, where a pattern is not.
pub(crate) fn backtracking_options() -> PatternOptions<FancyRegex> {
    PatternOptions::fancy_regex()
        .backtrack_limit(MAX_BACKTRACKS)
        .size_limit(MAX_COMPILED)
        .dfa_size_limit(MAX_TABLES)
}

/// Refuses a pattern whose automaton would be too large, without building it.
///
/// # Errors
/// Says what is too large.
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
fn states(pattern: &str) -> u64 {
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
