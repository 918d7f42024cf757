//! The parts of a schema, measured before anything is compiled from it.
//!
//! Invariant: takes time and memory linear in the schema's own size, and never recurses deeper than
//! [`MAX_DEPTH`]. What [`Analysis::of`] accepts can be compiled, cloned, written and dropped safely.
//! References are resolved by the crate that `jsonschema` resolves them with, so both see the same graph.

use std::collections::{HashMap, HashSet};

use referencing::{Draft, Registry, Resolver};
use serde_json::{Map, Value};

use crate::pattern_size;
use crate::size::memory_size;

/// Maximum levels of JSON in a schema; `serde_json` reads as many.
const MAX_DEPTH: usize = 128;
/// Maximum number of values in a schema.
const MAX_VALUES: usize = 50_000;
/// Maximum bytes of the texts and keys of a schema.
const MAX_TEXT: usize = 1 << 20;
/// Maximum bytes of the paths to all values of a schema: each part of a validator knows its path.
const MAX_PATHS: usize = 16 << 20;
/// Maximum number of nested parts that apply to one value: references, `allOf`, `anyOf` and the like.
const MAX_NESTED: usize = 64;
/// Maximum of the sum, over all parts of a schema, of the parts that apply to the same value. Each
/// reference counts what it refers to.
const MAX_EXPANDED: u64 = 250_000;
/// Maximum of dynamic references times dynamic anchors.
const MAX_DYNAMIC: usize = 10_000;
/// Maximum number of patterns in a schema.
const MAX_PATTERNS: usize = 500;
/// Maximum number of states of the automata of all patterns together.
const MAX_PATTERN_STATES: u64 = 512 << 10;
/// A divisor below this makes a division of integers of a thousand bits.
const MIN_DIVISOR: f64 = 1e-30;

/// The schemas within a schema, and what compiling and checking them may cost.
#[derive(Default)]
pub(crate) struct Analysis {
    /// The addresses of the objects that are schemas.
    schemas: HashSet<usize>,
    /// How often it refers to a part of it.
    pub(crate) references: usize,
    /// Whether it has `anyOf` or `oneOf`.
    pub(crate) combines: bool,
    /// Bytes of the largest schema under `not`, `anyOf` or `oneOf`: an error may hold a copy of it.
    pub(crate) largest_negated: u64,
    /// The patterns of `patternProperties`.
    pub(crate) name_patterns: Vec<String>,
    /// States of the automata of all patterns, as estimated.
    pub(crate) pattern_states: u64,
}

/// A schema as plain JSON.
#[derive(Clone, Copy)]
pub(crate) struct Measure {
    /// Whether anything in it looks like a reference.
    refers: bool,
    /// About how many bytes it takes in memory.
    pub(crate) bytes: usize,
}

/// The kind of a keyword's value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KeywordValue {
    /// A schema, or a list of schemas, for the value itself.
    SameValue,
    /// Schemas by name, for the value itself.
    SameValueByName,
    /// A schema, or a list of schemas, for values within it.
    Within,
    /// Schemas by name, for values within it or for references.
    WithinByName,
    /// Data, which may look like a schema.
    Data,
    /// Anything else.
    Other,
}

/// One object that is a schema.
#[derive(Default)]
struct Subschema {
    /// Its keywords, and what is listed in them.
    own: u64,
    /// The parts that apply to the same value.
    applied: Vec<usize>,
    /// Whether it refers to whatever part is an anchor where it is used.
    dynamic: bool,
}

/// A part still to be analysed.
struct PendingSubschema<'a> {
    number: usize,
    object: &'a Map<String, Value>,
    /// Resolves its references; absent where the schema has none.
    resolver: Option<Resolver<'a>>,
    draft: Draft,
}

/// What is known of a part when the parts that it applies are added up.
#[derive(Clone, Copy)]
enum Expansion {
    Unknown,
    /// It is being added up further out.
    Open,
    Known {
        size: u64,
        height: usize,
    },
}

/// The walk over the graph of parts.
#[derive(Default)]
struct SchemaWalk<'a> {
    parts: Vec<Subschema>,
    numbers: HashMap<usize, usize>,
    anchors: Vec<usize>,
    queue: Vec<PendingSubschema<'a>>,
    patterns: Vec<&'a str>,
    /// The addresses of what is no schema itself: maps of schemas, and data.
    non_schemas: HashSet<usize>,
    references: usize,
    combines: bool,
    largest_negated: u64,
    name_patterns: Vec<String>,
}

impl Analysis {
    /// Measures a schema.
    ///
    /// # Errors
    /// States what exceeds which bound.
    pub(crate) fn of(schema: &Value) -> Result<Self, String> {
        Self::of_measured(schema, measure(schema)?)
    }

    /// Measures the parts of a schema that [`measure`] accepted.
    ///
    /// # Errors
    /// States what exceeds which bound.
    pub(crate) fn of_measured(schema: &Value, measure: Measure) -> Result<Self, String> {
        let draft = Draft::default().detect(schema);
        if measure.refers {
            let root = draft.create_resource_ref(schema);
            let id = root.id().unwrap_or("json-schema:///");
            let registry = Registry::new().retriever(referencing::DefaultRetriever).draft(draft);
            let registry = registry.add(id, root).and_then(referencing::RegistryBuilder::prepare);
            // An unresolvable reference makes it no schema; compiling reports why.
            if let (Ok(registry), Ok(base)) = (registry, referencing::uri::from_str(id)) {
                return SchemaWalk::analyse(schema, Some(registry.resolver(base)), draft);
            }
        }
        SchemaWalk::analyse(schema, None, draft)
    }

    /// Whether that value of the measured schema is a schema itself.
    pub(crate) fn is_schema(&self, value: &Value) -> bool {
        self.schemas.contains(&address(value))
    }
}

impl<'a> SchemaWalk<'a> {
    fn analyse(schema: &'a Value, resolver: Option<Resolver<'a>>, draft: Draft) -> Result<Analysis, String> {
        let mut walk = SchemaWalk::default();
        walk.visit(schema, resolver, draft);
        walk.run()?;
        walk.analysis()
    }

    /// Numbers a part, and queues it where it is new. Schemas that are no objects have no parts.
    fn visit(&mut self, schema: &'a Value, resolver: Option<Resolver<'a>>, draft: Draft) -> Option<usize> {
        let object = schema.as_object()?;
        if let Some(number) = self.numbers.get(&address(schema)) {
            return Some(*number);
        }
        let number = self.parts.len();
        self.parts.push(Subschema::default());
        self.numbers.insert(address(schema), number);
        let draft = draft.detect(schema);
        let resource = draft.create_resource_ref(schema);
        let resolver = resolver.map(|resolver| resolver.in_subresource(resource).unwrap_or(resolver));
        self.queue.push(PendingSubschema { number, object, resolver, draft });
        Some(number)
    }

    fn run(&mut self) -> Result<(), String> {
        while let Some(PendingSubschema { number, object, resolver, draft }) = self.queue.pop() {
            let mut part = Subschema::default();
            for (key, value) in object {
                part.own += 1 + list_length(value);
                self.keyword(&mut part, (key, value), resolver.as_ref(), draft)?;
            }
            if object.contains_key("$dynamicAnchor") || object.contains_key("$recursiveAnchor") {
                self.anchors.push(number);
            }
            self.parts[number] = part;
        }
        Ok(())
    }

    fn keyword(
        &mut self,
        part: &mut Subschema,
        (key, value): (&'a String, &'a Value),
        resolver: Option<&Resolver<'a>>,
        draft: Draft,
    ) -> Result<(), String> {
        let position = position(key);
        match (key.as_str(), value) {
            ("$ref" | "$dynamicRef" | "$recursiveRef", Value::String(reference)) => {
                self.references += 1;
                part.dynamic |= key != "$ref";
                let found = resolver.and_then(|resolver| resolver.lookup(reference).ok());
                if let Some((schema, resolver, draft)) = found.map(referencing::Resolved::into_inner) {
                    part.applied.extend(self.visit(schema, Some(resolver), draft));
                }
            }
            ("not" | "anyOf" | "oneOf", negated) => {
                self.combines |= key != "not";
                self.largest_negated = self.largest_negated.max(memory_size(negated));
            }
            ("pattern", Value::String(pattern)) => self.patterns.push(pattern),
            ("patternProperties", Value::Object(schemas)) => {
                self.patterns.extend(schemas.keys().map(String::as_str));
                self.name_patterns.extend(schemas.keys().cloned());
            }
            ("multipleOf", Value::Number(divisor)) => match divisor.as_f64() {
                Some(divisor) if divisor > 0.0 && divisor < MIN_DIVISOR => {
                    return Err(format!(
                        "its 'multipleOf' is {divisor:e}, and {MIN_DIVISOR:e} at least is taken"
                    ));
                }
                _ => {}
            },
            _ => {}
        }
        let applies = matches!(position, KeywordValue::SameValue | KeywordValue::SameValueByName);
        for schema in self.inner(position, value) {
            let number = self.visit(schema, resolver.cloned(), draft);
            part.applied.extend(number.filter(|_| applies));
        }
        Ok(())
    }

    /// The schemas in a keyword's value. Notes what in it is none.
    fn inner(&mut self, position: KeywordValue, value: &'a Value) -> Vec<&'a Value> {
        match (position, value) {
            (KeywordValue::SameValue | KeywordValue::Within, Value::Array(schemas)) => {
                schemas.iter().collect()
            }
            (KeywordValue::SameValue | KeywordValue::Within, schema) => vec![schema],
            (KeywordValue::SameValueByName | KeywordValue::WithinByName, Value::Object(schemas)) => {
                self.non_schemas.insert(address(value));
                schemas.values().collect()
            }
            (KeywordValue::Data, Value::Array(values)) => {
                self.non_schemas.extend(values.iter().map(address));
                Vec::new()
            }
            (KeywordValue::Data, value) => {
                self.non_schemas.insert(address(value));
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// Adds up what applies to one value, and the patterns.
    fn analysis(mut self) -> Result<Analysis, String> {
        let dynamic = self.parts.iter_mut().filter(|part| part.dynamic);
        for (number, part) in dynamic.enumerate() {
            if (number + 1) * self.anchors.len() > MAX_DYNAMIC {
                return Err("it has too many dynamic references and anchors".to_owned());
            }
            part.applied.extend(&self.anchors);
        }
        let mut expansions = vec![Expansion::Unknown; self.parts.len()];
        let mut total = 0_u64;
        for number in 0..self.parts.len() {
            let (size, _) = expand(&self.parts, number, 0, &mut expansions)?;
            total = total.saturating_add(size);
            if total > MAX_EXPANDED {
                return Err(format!(
                    "its references and combined schemas expand to more than {MAX_EXPANDED} parts"
                ));
            }
        }
        let pattern_states = check_patterns(&self.patterns)?;
        let schemas: HashSet<usize> = self.numbers.into_keys().collect();
        match schemas.is_disjoint(&self.non_schemas) {
            true => Ok(Analysis {
                schemas,
                references: self.references,
                combines: self.combines,
                largest_negated: self.largest_negated,
                name_patterns: self.name_patterns,
                pattern_states,
            }),
            false => Err("it refers to a part of it that is no schema".to_owned()),
        }
    }
}

/// The states of the automata of all patterns together.
fn check_patterns(patterns: &[&str]) -> Result<u64, String> {
    if patterns.len() > MAX_PATTERNS {
        return Err(format!("it has {} patterns, and {MAX_PATTERNS} at most are taken", patterns.len()));
    }
    let states = patterns.iter().try_fold(0, |states, text| Ok(states + pattern_size::check(text)?));
    match states {
        Ok(states) if states > MAX_PATTERN_STATES => Err("its patterns together repeat too much".to_owned()),
        states => states,
    }
}

/// The size and the height of all that a part applies to the same value.
fn expand(
    parts: &[Subschema],
    number: usize,
    depth: usize,
    expansions: &mut [Expansion],
) -> Result<(u64, usize), String> {
    let too_deep = || format!("it combines or refers to schemas more than {MAX_NESTED} deep for one value");
    match expansions[number] {
        Expansion::Known { height, .. } if depth + height > MAX_NESTED => return Err(too_deep()),
        Expansion::Known { size, height } => return Ok((size, height)),
        Expansion::Open => {
            return Err("it refers to itself in a circle, without a property or an item between".to_owned());
        }
        Expansion::Unknown if depth > MAX_NESTED => return Err(too_deep()),
        Expansion::Unknown => expansions[number] = Expansion::Open,
    }
    let (mut size, mut height) = (parts[number].own, 0);
    for inner in &parts[number].applied {
        let (inner_size, inner_height) = expand(parts, *inner, depth + 1, expansions)?;
        size = size.saturating_add(inner_size);
        height = height.max(inner_height + 1);
    }
    expansions[number] = Expansion::Known { size, height };
    Ok((size, height))
}

/// Measures a schema as plain JSON, without recursion.
///
/// # Errors
/// States what exceeds which bound.
pub(crate) fn measure(schema: &Value) -> Result<Measure, String> {
    let (mut values, mut text, mut paths, mut refers) = (0_usize, 0_usize, 0_usize, false);
    let mut stack = vec![(schema, 0_usize, 0_usize)];
    while let Some((value, depth, path)) = stack.pop() {
        if depth > MAX_DEPTH {
            return Err(format!("it is nested deeper than {MAX_DEPTH} levels"));
        }
        values += 1;
        paths += path;
        match value {
            Value::String(string) => text += string.len(),
            Value::Array(items) => stack.extend(items.iter().map(|item| (item, depth + 1, path + 2))),
            Value::Object(members) => {
                for (key, value) in members {
                    text += key.len();
                    refers |= matches!(key.as_str(), "$ref" | "$dynamicRef" | "$recursiveRef");
                    stack.push((value, depth + 1, path + key.len() + 1));
                }
            }
            _ => {}
        }
        if values + stack.len() > MAX_VALUES {
            return Err(format!("it has more than {MAX_VALUES} values"));
        }
        if text > MAX_TEXT || paths > MAX_PATHS {
            return Err(format!("it has more than {MAX_TEXT} bytes of text, or long keys on many paths"));
        }
    }
    Ok(Measure { refers, bytes: text + 64 * values })
}

/// The kind of a keyword's value, in any draft. A draft ignores keywords that it does not know, so taking
/// their values for schemas does no harm.
fn position(keyword: &str) -> KeywordValue {
    match keyword {
        "allOf" | "anyOf" | "oneOf" | "not" | "if" | "then" | "else" => KeywordValue::SameValue,
        "dependentSchemas" | "dependencies" => KeywordValue::SameValueByName,
        "items"
        | "prefixItems"
        | "additionalItems"
        | "unevaluatedItems"
        | "contains"
        | "additionalProperties"
        | "unevaluatedProperties"
        | "propertyNames"
        | "contentSchema" => KeywordValue::Within,
        "properties" | "patternProperties" | "$defs" | "definitions" => KeywordValue::WithinByName,
        "enum" | "const" => KeywordValue::Data,
        _ => KeywordValue::Other,
    }
}

/// How many values stand directly in another.
pub(crate) fn list_length(value: &Value) -> u64 {
    match value {
        Value::Array(items) => items.len() as u64,
        Value::Object(members) => members.len() as u64,
        _ => 0,
    }
}

fn address(value: &Value) -> usize {
    std::ptr::from_ref(value).addr()
}
