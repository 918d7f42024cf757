//! [`Schema`]: a JSON Schema, compiled within bounds of time, memory and stack.
//!
//! Invariant: every part of a schema is counted when it is compiled, before what is within it, so a schema
//! whose parts are compiled in more ways than [`Analysis`] can count ends with an error as well.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use jsonschema::{Draft, Keyword, Retrieve, ValidationError, ValidationOptions, Validator, meta};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use crate::analysis::{Analysis, list_length, measure};
use crate::instrument::{PART_COUNTER_KEYWORD, instrument, instrument_for_errors};
use crate::match_cost::MatchCost;
use crate::messages::{truncated, unknown_draft, unusable, unusable_pattern};
use crate::metered::{MAX_STACK, Metered, MeteredJson, StepBudget, charge, within};
use crate::pattern::{self, Matcher, PatternError, PatternKeyword};
use crate::size::longest_path;

/// Bytes of errors that are built to explain one value.
pub(crate) const MAX_ERROR_BYTES: u64 = 16 << 20;
/// Bytes of an error without its path and its value.
const BYTES_PER_ERROR: u64 = 512;
/// Any schema within the bounds: some tenths of a second.
pub(crate) const FULL_LIMITS: CompileLimits = CompileLimits {
    source: usize::MAX,
    bytes: 16 << 20,
    steps: 20_000_000,
    pattern_states: u64::MAX,
    stack: 6 << 20,
};
/// A schema of ordinary size, on the thread that asks: some milliseconds.
pub(crate) const INLINE_LIMITS: CompileLimits = CompileLimits {
    source: 64 << 10,
    bytes: 512 << 10,
    steps: 200_000,
    pattern_states: 8 << 10,
    stack: MAX_STACK,
};
/// Steps for each byte of a text that should be a regular expression.
const STEPS_PER_REGEX_BYTE: u64 = 8;
/// Stack of a thread that compiles.
const THREAD_STACK: usize = 16 << 20;

/// A compiled JSON Schema (2020-12, unless its `$schema` names another draft).
pub struct Schema {
    pub(crate) validator: Validator<MeteredJson>,
    /// A validator that accepts the same values and finds errors faster; only where the other may take long.
    pub(crate) for_errors: Option<Validator<MeteredJson>>,
    /// The cost of matching a property's name.
    pub(crate) names: MatchCost,
    pub(crate) bytes_per_error: u64,
}

/// Why a schema cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemaError {
    /// It is not a JSON Schema, or refers to something outside itself.
    Unusable(String),
    /// It is past a bound, so what it accepts cannot be found out.
    TooLarge(String),
}

/// The origin of a schema, which decides what is an error in it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A tool's server. Unknown formats are ignored, and patterns may have lookaround.
    Tool,
    /// An operator. Formats are checked, and patterns have no lookaround.
    Rule,
}

/// How much compiling may take.
pub(crate) struct CompileLimits {
    /// Bytes of the schema in memory.
    source: usize,
    /// Bytes of the paths that the validator keeps: it takes about six times as many itself.
    bytes: u64,
    /// Steps of the check against the schema's own schema.
    steps: u64,
    /// States of the automata of all patterns.
    pattern_states: u64,
    /// Bytes of stack. A level of a schema takes up to 7 KiB, and schemas that are referred to may be
    /// compiled eight one within the other.
    stack: usize,
}

/// What compiling has taken and made so far.
struct Compilation {
    lookaround: bool,
    max_bytes: u64,
    bytes: AtomicU64,
    /// The lowest address that the stack may reach.
    stack_end: usize,
    matchers: Mutex<HashMap<String, Arc<Matcher>>>,
    too_large: OnceLock<String>,
}

/// The keyword that counts a part of a schema when it is compiled. It does nothing when a value is checked.
struct PartCounter;

type Options<'a> = ValidationOptions<'a, Arc<dyn Retrieve>, MeteredJson>;

impl Schema {
    /// Compiles a tool's schema: a `format` is checked as its draft defines it, a pattern may have
    /// lookaround.
    ///
    /// # Errors
    /// When it is not a JSON Schema, or past the bounds.
    pub fn compile(schema: &Value) -> Result<Self, SchemaError> {
        build(schema, Purpose::Tool, &FULL_LIMITS)
    }

    /// Compiles a schema that an operator wrote as a rule: a `format` or a pattern that is not taken is an
    /// error.
    ///
    /// # Errors
    /// States why it is not usable, and what to do about it where that is not plain.
    pub fn rule(schema: &Value) -> Result<Self, String> {
        let compiled = build(schema, Purpose::Rule, &FULL_LIMITS);
        compiled.map_err(|error| truncated(format!("not a usable JSON Schema: {error}")))
    }

    /// Whether a schema is within the bounds: gives the number of its references. Takes time linear in its
    /// size, of which a reference takes the most, some microseconds.
    ///
    /// # Errors
    /// States what exceeds them.
    pub fn check_bounds(schema: &Value) -> Result<usize, String> {
        Analysis::of(schema).map(|analysis| analysis.references)
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schema").finish_non_exhaustive()
    }
}

impl fmt::Display for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SchemaError::Unusable(why) | SchemaError::TooLarge(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for SchemaError {}

/// Compiles a schema: on the thread that asks within [`INLINE_LIMITS`], and otherwise on one with enough
/// stack.
pub(crate) fn build(schema: &Value, purpose: Purpose, limits: &CompileLimits) -> Result<Schema, SchemaError> {
    let too_large = || Err(SchemaError::TooLarge("it is too large to compile here".to_owned()));
    let measure = measure(schema).map_err(SchemaError::TooLarge)?;
    if measure.bytes > limits.source {
        return too_large();
    }
    let analysis = Analysis::of_measured(schema, measure).map_err(SchemaError::TooLarge)?;
    if analysis.pattern_states > limits.pattern_states {
        return too_large();
    }
    if limits.stack <= MAX_STACK {
        return build_here(schema, &analysis, purpose, limits);
    }
    thread::scope(|scope| {
        let work = || build_here(schema, &analysis, purpose, limits);
        match thread::Builder::new().stack_size(THREAD_STACK).spawn_scoped(scope, work) {
            Ok(thread) => thread.join().unwrap_or_else(|_| {
                Err(SchemaError::TooLarge("its compiler panicked; the log says where".to_owned()))
            }),
            Err(error) => Err(SchemaError::TooLarge(format!("no thread to compile it on: {error}"))),
        }
    })
}

fn build_here(
    schema: &Value,
    analysis: &Analysis,
    purpose: Purpose,
    limits: &CompileLimits,
) -> Result<Schema, SchemaError> {
    check_draft(schema, limits)?;
    let compilation = Arc::new(Compilation::new(purpose, limits));
    let names = compilation.names(analysis);
    let options = options(&compilation, purpose, names.backtracks);
    let validator = compilation.finish(&options, &instrument(schema, analysis))?;
    // Without these keywords, or without references, looking for all errors takes no longer than judging.
    let for_errors = match analysis.combines && analysis.references > 0 {
        true => compilation.finish(&options, &instrument_for_errors(schema, analysis)).ok(),
        false => None,
    };
    let bytes_per_error = BYTES_PER_ERROR + analysis.largest_negated;
    Ok(Schema { validator, for_errors, names, bytes_per_error })
}

fn options<'a>(compilation: &Arc<Compilation>, purpose: Purpose, backtracks: bool) -> Options<'a> {
    let (parts, patterns) = (Arc::clone(compilation), Arc::clone(compilation));
    let mut options = jsonschema::options_for::<MeteredJson>()
        .offline()
        // As the built-in check, which nothing counts.
        .with_format("regex", |text: &str| {
            charge(STEPS_PER_REGEX_BYTE * text.len() as u64);
            jsonschema_regex::is_valid_ecma_regex(text)
        })
        .with_keyword(PART_COUNTER_KEYWORD, move |part: &Map<String, Value>, _: &Value, path| {
            parts.count(part, path.as_str())?;
            Ok(Box::new(PartCounter) as Box<dyn for<'i> Keyword<'i, MeteredJson>>)
        })
        .with_keyword("pattern", move |_: &Map<String, Value>, pattern: &Value, _| {
            let matcher = patterns.matcher(pattern.as_str().unwrap_or_default())?;
            Ok(Box::new(PatternKeyword(matcher)) as Box<dyn for<'i> Keyword<'i, MeteredJson>>)
        });
    options = match backtracks {
        true => options.with_pattern_options(pattern::backtracking_options()),
        false => options.with_pattern_options(pattern::linear_options()),
    };
    match purpose {
        Purpose::Tool => options,
        Purpose::Rule => options.should_validate_formats(true).should_ignore_unknown_formats(false),
    }
}

/// Checks a schema against the schema of its draft, with a bound on the errors that this builds.
fn check_draft(schema: &Value, limits: &CompileLimits) -> Result<(), SchemaError> {
    if Draft::default().detect(schema) == Draft::Unknown {
        let uri = schema["$schema"].as_str().unwrap_or_default();
        return Err(SchemaError::Unusable(truncated(unknown_draft(uri))));
    }
    let budget = StepBudget {
        steps: limits.steps,
        error_bytes: MAX_ERROR_BYTES,
        bytes_per_error: BYTES_PER_ERROR + longest_path(schema),
        stack: limits.stack,
        cancelled: None,
    };
    let schema = Metered(schema);
    let valid = || meta::is_valid_for::<MeteredJson>(schema).map_err(|error| unusable(&error));
    match within(&budget, MatchCost::NO_COST, valid) {
        Ok(Ok(true)) => return Ok(()),
        Ok(Ok(false)) => {}
        Ok(Err(why)) => return Err(SchemaError::Unusable(truncated(why))),
        Err(_) => return Err(SchemaError::TooLarge("it takes too long to compile".to_owned())),
    }
    let why = || meta::validate_for::<MeteredJson>(schema).err().map(|error| unusable(&error));
    let why = within(&budget, MatchCost::NO_COST, why).ok().flatten();
    let why = why.unwrap_or_else(|| "it does not fit the schema of its draft".to_owned());
    Err(SchemaError::Unusable(truncated(why)))
}

impl Compilation {
    fn new(purpose: Purpose, limits: &CompileLimits) -> Self {
        let here = 0_u8;
        Compilation {
            lookaround: purpose == Purpose::Tool,
            max_bytes: limits.bytes,
            bytes: AtomicU64::new(0),
            stack_end: std::ptr::from_ref(&here).addr().saturating_sub(limits.stack),
            matchers: Mutex::default(),
            too_large: OnceLock::new(),
        }
    }

    fn finish(&self, options: &Options<'_>, schema: &Value) -> Result<Validator<MeteredJson>, SchemaError> {
        options.build(schema).map_err(|error| match self.too_large.get() {
            Some(why) => SchemaError::TooLarge(why.clone()),
            None => SchemaError::Unusable(truncated(unusable(&error))),
        })
    }

    /// Counts a part of a schema as it is compiled; the same part may be compiled many times.
    fn count(&self, part: &Map<String, Value>, path: &str) -> Result<(), ValidationError<'static>> {
        let here = 0_u8;
        if std::ptr::from_ref(&here).addr() < self.stack_end {
            return Err(self.refuse("its parts are compiled too deep one within the other"));
        }
        let listed: u64 = part.values().map(|value| 1 + list_length(value)).sum();
        let bytes = listed.saturating_mul(64 + path.len() as u64);
        match self.bytes.fetch_add(bytes, Ordering::Relaxed) {
            before if before + bytes <= self.max_bytes => Ok(()),
            _ => Err(self.refuse("it refers to its parts in too many ways")),
        }
    }

    fn refuse(&self, why: &str) -> ValidationError<'static> {
        ValidationError::custom(self.too_large.get_or_init(|| why.to_owned()))
    }

    fn matcher(&self, pattern: &str) -> Result<Arc<Matcher>, ValidationError<'static>> {
        if let Some(known) = self.matchers.lock().get(pattern) {
            return Ok(Arc::clone(known));
        }
        let matcher = Matcher::new(pattern, self.lookaround).map_err(|fault| match fault {
            PatternError::TooLarge => self.refuse("one of its patterns is too large"),
            PatternError::Unusable => ValidationError::custom(unusable_pattern(&json!(pattern))),
        })?;
        let matcher = Arc::new(matcher);
        self.matchers.lock().insert(pattern.to_owned(), Arc::clone(&matcher));
        Ok(matcher)
    }

    /// The cost of matching a name against all patterns of `patternProperties`. An unusable one costs
    /// nothing here: compiling reports why.
    fn names(&self, analysis: &Analysis) -> MatchCost {
        let matchers = analysis.name_patterns.iter().filter_map(|pattern| self.matcher(pattern).ok());
        matchers.fold(MatchCost::NO_COST, |cost, matcher| cost.and(matcher.cost()))
    }
}

impl<'i> Keyword<'i, MeteredJson> for PartCounter {
    fn validate(&self, _: Metered<'i>) -> Result<(), ValidationError<'i>> {
        Ok(())
    }

    fn is_valid(&self, _: Metered<'i>) -> bool {
        true
    }
}
