//! How the text of a tool that gives nothing but text is read against a schema: as a string, or as its JSON.
//!
//! Invariant: a text does not fit as a string merely because the schema has no rule for strings.

use std::borrow::Cow;
use std::collections::HashSet;

use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::act::EpisodeEvent;
use super::expected::implied_types;

/// Which readings of a text a schema asks for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Readings {
    /// It asks for a string, so a text that is JSON may be meant as it stands.
    string: bool,
    object: bool,
    array: bool,
    /// It speaks of strings only to refuse them.
    refuses_string: bool,
}

/// The readings of one output, as JSON.
pub(super) struct Read<'a> {
    pub(super) texts: Vec<Cow<'a, str>>,
    /// The least number of them that must fit.
    pub(super) needed: usize,
}

impl Readings {
    /// Those of a schema.
    pub(super) fn of(schema: &Value) -> Self {
        let mut wanted = Mentioned::default();
        wanted.collect_types(schema, schema, &mut HashSet::new());
        let mut refused = Mentioned::default();
        for schema in std::mem::take(&mut wanted.refused) {
            refused.collect_types(schema, schema, &mut HashSet::new());
        }
        Readings {
            string: wanted.types.contains("string"),
            object: wanted.types.contains("object"),
            array: wanted.types.contains("array"),
            refuses_string: refused.types.contains("string"),
        }
    }

    /// The value to check against the schema.
    pub(super) fn read<'a>(self, act: EpisodeEvent<'a>) -> Read<'a> {
        let output = act.output();
        let Some(text) = act.only_text() else { return Read { texts: vec![output], needed: 1 } };
        if serde_json::from_str::<IgnoredAny>(&text).is_err() {
            return Read { texts: vec![output], needed: 1 };
        }
        let begins = text.trim_start().as_bytes().first();
        let is_wanted = begins == Some(&b'{') && self.object || begins == Some(&b'[') && self.array;
        let texts = vec![Cow::Owned(text), output];
        match self {
            _ if is_wanted => Read { texts: texts.into_iter().take(1).collect(), needed: 1 },
            Readings { string: true, .. } => Read { texts, needed: 1 },
            Readings { refuses_string: true, .. } => Read { needed: texts.len(), texts },
            _ => Read { texts: texts.into_iter().take(1).collect(), needed: 1 },
        }
    }
}

/// The types that a schema speaks of.
#[derive(Default)]
struct Mentioned<'a> {
    types: HashSet<&'a str>,
    /// The schemas of `not` and `if`.
    refused: Vec<&'a Value>,
}

impl<'a> Mentioned<'a> {
    fn collect_types(&mut self, root: &'a Value, schema: &'a Value, followed: &mut HashSet<&'a str>) {
        let Value::Object(schema) = schema else { return };
        self.types.extend(types_of(schema));
        for keyword in ["allOf", "anyOf", "oneOf"] {
            for part in schema.get(keyword).and_then(Value::as_array).into_iter().flatten() {
                self.collect_types(root, part, followed);
            }
        }
        for keyword in ["then", "else"] {
            if let Some(part) = schema.get(keyword) {
                self.collect_types(root, part, followed);
            }
        }
        self.refused.extend(["not", "if"].iter().filter_map(|keyword| schema.get(*keyword)));
        if let Some(at) = schema.get("$ref").and_then(Value::as_str)
            && followed.insert(at)
            && let Some(part) = at.strip_prefix('#').and_then(|pointer| root.pointer(pointer))
        {
            self.collect_types(root, part, followed);
        }
    }
}

/// The types that a schema itself names or implies.
fn types_of(schema: &Map<String, Value>) -> Vec<&str> {
    let mut values: Vec<&Value> = schema.get("const").into_iter().collect();
    values.extend(schema.get("enum").and_then(Value::as_array).into_iter().flatten());
    let mut types: Vec<&str> = values.into_iter().map(type_of).collect();
    match schema.get("type") {
        Some(Value::String(name)) => types.push(name),
        Some(Value::Array(names)) => types.extend(names.iter().filter_map(Value::as_str)),
        _ => types.extend(implied_types(schema)),
    }
    types
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "string",
        Value::Object(_) => "object",
        Value::Array(_) => "array",
        _ => "scalar",
    }
}
