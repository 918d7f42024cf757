//! An instance in which every access costs a step, and the budget that the steps are taken from.
//!
//! Invariant: [`within`] ends in time and memory that its budget bounds, whatever the schema and the
//! instance are. A validator has no budget of its own and offers no way to stop it, so a step too many
//! unwinds out of it. The validator is not broken by that: it keeps its state in one call's context.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jsonschema::JsonType;
use jsonschema::json::{Array, Json, Node, NodeIdentity, Object, cmp};
use oxenv_wire::panic_text;
use serde_json::{Map, Number, Value};

use crate::match_cost::MatchCost;
use crate::size::memory_size;

/// Steps between two looks at whether the check is still wanted.
const STEPS_PER_SLICE: u64 = 1 << 16;
/// Steps for a number with a fraction: `multipleOf` divides it as a ratio of big integers.
const FRACTION_STEPS: u64 = 20;
/// Bytes of stack that one check may use. Threads of the runtime have 2 MiB; frames of a debug build are
/// larger.
pub(crate) const MAX_STACK: usize = if cfg!(debug_assertions) { 1 << 20 } else { 512 << 10 };

/// What one check may use.
#[derive(Debug, Clone)]
pub(crate) struct StepBudget {
    /// Looks at the instance.
    pub(crate) steps: u64,
    /// Bytes of the errors that are built. Those below `anyOf` and `oneOf` hold copies of their values.
    pub(crate) error_bytes: u64,
    /// Bytes of one error beside those of its value.
    pub(crate) bytes_per_error: u64,
    /// Bytes of stack.
    pub(crate) stack: usize,
    /// Set when the outcome is no longer awaited.
    pub(crate) cancelled: Option<Arc<AtomicBool>>,
}

/// The budget ran out before there was an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exhausted;

/// The rest of this thread's budget.
struct Meter {
    steps: Cell<u64>,
    /// Steps beside those of this slice.
    reserve: Cell<u64>,
    error_bytes: Cell<u64>,
    bytes_per_error: Cell<u64>,
    /// The lowest address that the stack may reach.
    stack_end: Cell<usize>,
    /// The cost of matching a property's name against the patterns of `patternProperties`.
    names: Cell<MatchCost>,
    cancelled: RefCell<Option<Arc<AtomicBool>>>,
}

thread_local! {
    static METER: Meter = const {
        Meter {
            steps: Cell::new(0),
            reserve: Cell::new(0),
            error_bytes: Cell::new(0),
            bytes_per_error: Cell::new(0),
            stack_end: Cell::new(0),
            names: Cell::new(MatchCost::NO_COST),
            cancelled: RefCell::new(None),
        }
    };
}

/// Runs a validator within a budget; `names` is what it costs to match a property's name.
///
/// # Errors
/// When the budget ran out, or the validator panicked.
pub(crate) fn within<T>(
    budget: &StepBudget,
    names: MatchCost,
    run: impl FnOnce() -> T,
) -> Result<T, Exhausted> {
    let here = 0_u8;
    METER.with(|meter| {
        meter.steps.set(budget.steps.min(STEPS_PER_SLICE));
        meter.reserve.set(budget.steps.saturating_sub(STEPS_PER_SLICE));
        meter.error_bytes.set(budget.error_bytes);
        meter.bytes_per_error.set(budget.bytes_per_error);
        meter.stack_end.set(std::ptr::from_ref(&here).addr().saturating_sub(budget.stack));
        meter.names.set(names);
        meter.cancelled.replace(budget.cancelled.clone());
    });
    let outcome = catch_unwind(AssertUnwindSafe(run));
    METER.with(|meter| meter.cancelled.replace(None));
    outcome.map_err(|panic| {
        if !panic.is::<Exhausted>() {
            tracing::error!(panic = panic_text(panic.as_ref()), "the check of a JSON Schema panicked");
        }
        Exhausted
    })
}

/// Takes steps from the budget.
#[inline]
pub(crate) fn charge(steps: u64) {
    let here = 0_u8;
    METER.with(|meter| {
        match meter.steps.get().checked_sub(steps) {
            Some(left) => meter.steps.set(left),
            None => refill(meter, steps),
        }
        if std::ptr::from_ref(&here).addr() < meter.stack_end.get() {
            exhausted();
        }
    });
}

/// Ends the check that runs.
#[cold]
pub(crate) fn exhausted() -> ! {
    resume_unwind(Box::new(Exhausted))
}

/// Begins another slice of the budget.
#[cold]
fn refill(meter: &Meter, steps: u64) {
    let unwanted = |flag: &Arc<AtomicBool>| flag.load(Ordering::Relaxed);
    let left = (meter.steps.get() + meter.reserve.get()).checked_sub(steps);
    match left {
        Some(left) if !meter.cancelled.borrow().as_ref().is_some_and(unwanted) => {
            meter.steps.set(left.min(STEPS_PER_SLICE));
            meter.reserve.set(left.saturating_sub(STEPS_PER_SLICE));
        }
        _ => exhausted(),
    }
}

/// Pays for an error about a value.
fn charge_error(value: &Value) {
    let size = METER.with(|meter| meter.bytes_per_error.get()) + memory_size(value);
    charge(1 + size / 64);
    METER.with(|meter| match meter.error_bytes.get().checked_sub(size) {
        Some(left) => meter.error_bytes.set(left),
        None => exhausted(),
    });
}

pub(crate) fn charge_text(text: &str) {
    charge(1 + text.len() as u64 / 4);
}

/// JSON in which every access costs steps.
pub(crate) struct MeteredJson;

/// A value of such JSON.
#[derive(Clone, Copy)]
pub(crate) struct Metered<'a>(pub(crate) &'a Value);

/// An object of such JSON.
pub(crate) struct MeteredObject<'a>(&'a Map<String, Value>);

/// An array of such JSON.
pub(crate) struct MeteredArray<'a>(&'a [Value]);

/// The members of an object.
pub(crate) struct Members<'a>(serde_json::map::Iter<'a>);

/// The elements of an array.
pub(crate) struct Elements<'a>(std::slice::Iter<'a, Value>);

impl Json for MeteredJson {
    type Node<'a> = Metered<'a>;
    type PreparedKey = String;
    type StringBuffer = Value;

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>(buffer: &mut Value, string: &str, f: impl FnOnce(Metered<'_>) -> T) -> T {
        *buffer = Value::String(string.to_owned());
        f(Metered(buffer))
    }
}

impl<'a> Node<'a, MeteredJson> for Metered<'a> {
    type Object = MeteredObject<'a>;
    type Array = MeteredArray<'a>;
    type Number = &'a Number;

    fn as_object(&self) -> Option<MeteredObject<'a>> {
        charge(1);
        self.0.as_object().map(MeteredObject)
    }

    fn as_array(&self) -> Option<MeteredArray<'a>> {
        charge(1);
        self.0.as_array().map(|items| MeteredArray(items))
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        let text = self.0.as_str();
        charge_text(text.unwrap_or_default());
        text.map(Cow::Borrowed)
    }

    fn as_number(&self) -> Option<&'a Number> {
        let number = self.0.as_number();
        charge(if number.is_some_and(Number::is_f64) { FRACTION_STEPS } else { 1 });
        number
    }

    fn as_boolean(&self) -> Option<bool> {
        charge(1);
        self.0.as_bool()
    }

    fn is_null(&self) -> bool {
        charge(1);
        self.0.is_null()
    }

    fn is_number(&self) -> bool {
        charge(1);
        self.0.is_number()
    }

    fn is_string(&self) -> bool {
        charge(1);
        self.0.is_string()
    }

    fn json_type(&self) -> JsonType {
        charge(1);
        match self.0 {
            Value::Null => JsonType::Null,
            Value::Bool(_) => JsonType::Boolean,
            Value::Number(_) => JsonType::Number,
            Value::String(_) => JsonType::String,
            Value::Array(_) => JsonType::Array,
            Value::Object(_) => JsonType::Object,
        }
    }

    fn string_length(&self) -> Option<u64> {
        let text = self.0.as_str();
        charge(1 + text.map_or(0, str::len) as u64 / 16);
        text.map(|text| text.chars().count() as u64)
    }

    fn equals_value(&self, expected: &Value) -> bool {
        equal(self.0, expected)
    }

    /// Called where an error is built.
    fn to_value(&self) -> Cow<'a, Value> {
        charge_error(self.0);
        Cow::Borrowed(self.0)
    }

    fn identity(&self) -> Option<NodeIdentity> {
        charge(1);
        Some(NodeIdentity::new(std::ptr::from_ref(self.0).addr()))
    }
}

impl<'a> Object<'a, MeteredJson> for MeteredObject<'a> {
    type Node = Metered<'a>;
    type MemberName = &'a str;
    type MembersIter = Members<'a>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, key: &String) -> Option<Metered<'a>> {
        charge(1 + key.len() as u64 / 16);
        self.0.get(key).map(Metered)
    }

    fn members(&self) -> Members<'a> {
        Members(self.0.iter())
    }
}

impl<'a> Array<'a, MeteredJson> for MeteredArray<'a> {
    type Node = Metered<'a>;
    type ElementsIter = Elements<'a>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn elements(&self) -> Elements<'a> {
        Elements(self.0.iter())
    }

    /// In linear time: the validator's own comparison takes quadratic time for nested arrays.
    fn is_unique(&self) -> bool {
        let mut seen = HashSet::with_capacity(self.0.len().min(1 << 10));
        self.0.len() < 2
            || self.0.iter().all(|item| {
                let mut text = String::new();
                canonical(item, &mut text);
                seen.insert(text)
            })
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a str, Metered<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, value) = self.0.next()?;
        charge(1 + name.len() as u64 / 16 + METER.with(|meter| meter.names.get()).steps(name));
        Some((name, Metered(value)))
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Metered<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        charge(1);
        self.0.next().map(Metered)
    }
}

/// JSON Schema's equality, a step for each pair that is compared.
fn equal(value: &Value, expected: &Value) -> bool {
    charge(1);
    match (value, expected) {
        (Value::Array(ours), Value::Array(theirs)) => {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(one, other)| equal(one, other))
        }
        (Value::Object(ours), Value::Object(theirs)) => {
            let same = |(key, value): (&String, &Value)| {
                charge(1 + key.len() as u64 / 16);
                theirs.get(key).is_some_and(|other| equal(value, other))
            };
            ours.len() == theirs.len() && ours.iter().all(same)
        }
        (Value::String(ours), Value::String(theirs)) if ours.len() == theirs.len() => {
            charge(ours.len() as u64 / 16);
            ours == theirs
        }
        (Value::Number(_), Value::Number(_)) => cmp::equal(value, expected),
        _ => value == expected,
    }
}

/// Writes a text that two values share only if they are equal in JSON Schema's sense.
fn canonical(value: &Value, text: &mut String) {
    charge(4);
    match value {
        Value::Null => text.push('n'),
        Value::Bool(true) => text.push('t'),
        Value::Bool(false) => text.push('f'),
        Value::Number(number) => canonical_number(number, text),
        Value::String(string) => canonical_string(string, text),
        Value::Array(items) => {
            text.push('[');
            items.iter().for_each(|item| canonical(item, text));
            text.push(']');
        }
        Value::Object(members) => {
            let mut members: Vec<(&String, &Value)> = members.iter().collect();
            members.sort_unstable_by_key(|(name, _)| *name);
            text.push('{');
            for (name, value) in members {
                canonical_string(name, text);
                canonical(value, text);
            }
            text.push('}');
        }
    }
}

/// A string after its length, so that no other value can continue it.
fn canonical_string(string: &str, text: &mut String) {
    charge_text(string);
    text.push_str(&string.len().to_string());
    text.push(':');
    text.push_str(string);
}

/// Whole numbers alike, however they are written; others by their bits.
fn canonical_number(number: &Number, text: &mut String) {
    /// 2 to the power of 64: every whole number above is a float.
    const TWO_TO_64: f64 = 18_446_744_073_709_551_616.0;
    text.push('#');
    match number.as_f64() {
        Some(float)
            if number.is_f64() && float.fract() != 0.0 || number.is_f64() && float.abs() >= TWO_TO_64 =>
        {
            text.push_str(&format!("x{:x}", float.to_bits()));
        }
        #[expect(clippy::cast_possible_truncation, reason = "a whole number below 2 to the power of 64")]
        Some(float) if number.is_f64() => text.push_str(&(float as i128).to_string()),
        _ => text.push_str(&number.to_string()),
    }
    text.push(';');
}
