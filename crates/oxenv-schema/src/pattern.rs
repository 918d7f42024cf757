//! The regular expressions of schemas: an automaton first, and a bounded engine with backtracking for what it
//! lacks.
//!
//! Invariant: each match takes its steps before it begins, by the sizes of pattern and text. A pattern that
//! is too large is refused by [`pattern_size::check`] before anything is compiled.

use std::sync::Arc;

use jsonschema::{FancyRegex, Keyword, PatternOptions, Regex, ValidationError};
use oxenv_wire::preview;
use parking_lot::Mutex;
use regex_automata::Input;
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson::{NFA, WhichCaptures, pikevm::PikeVM};

use crate::match_cost::MatchCost;
use crate::metered::{Metered, MeteredJson, charge, charge_text, exhausted};
use crate::pattern_size;

/// Maximum bytes of a compiled pattern: twice what the estimate allows.
const MAX_COMPILED: usize = 8 << 20;
/// Bytes that the tables of an automaton may grow to while it matches.
const MAX_TABLES: usize = 256 << 10;
/// Times that these tables may fill up before the text is read in a slower way, unless each new entry serves
/// this many bytes.
const MAX_TABLE_FILLS: usize = 8;
const MIN_BYTES_PER_ENTRY: usize = 1000;
/// Maximum number of tables of one automaton that are kept for the next match.
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

/// Why a pattern is not taken.
pub(crate) enum PatternError {
    /// It is not a regular expression, or has what its schema must not use.
    Unusable,
    /// It is one, but too large.
    TooLarge,
}

/// The keyword `pattern`.
pub(crate) struct PatternKeyword(pub(crate) Arc<Matcher>);

impl Matcher {
    /// Compiles a pattern as ECMA-262 means it; `lookaround` allows what needs the other engine.
    pub(crate) fn new(pattern: &str, lookaround: bool) -> Result<Self, PatternError> {
        pattern_size::check(pattern).map_err(|_| PatternError::TooLarge)?;
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
                (
                    Engine::Backtracking(engine),
                    MatchCost { states: pattern_size::states(pattern), backtracks: true },
                )
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
        charge_text(text);
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

impl<'i> Keyword<'i, MeteredJson> for PatternKeyword {
    fn validate(&self, instance: Metered<'i>) -> Result<(), ValidationError<'i>> {
        match Keyword::<MeteredJson>::is_valid(self, instance) {
            true => Ok(()),
            // The text itself is left out: it may be long, or a secret.
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
