//! Adds to each part of a schema what makes its cost countable, before it is compiled.
//!
//! Invariant: an instrumented schema accepts what the plain one accepts. Each part looks at the type of the
//! value first and allows any type, so that it costs a step even where it only applies other parts.

use serde_json::{Map, Value, json};

use crate::analysis::Analysis;

/// The keyword that is counted when a part is compiled. Its value is whether `type` was added too.
pub(crate) const PART_COUNTER_KEYWORD: &str = "x-oxenv-part";
/// Keywords with a list of schemas for the value itself.
const COMBINING_KEYWORDS: [&str; 3] = ["allOf", "anyOf", "oneOf"];
/// Keywords with branches whose errors no message reports.
const HIDDEN_BRANCH_KEYWORDS: [&str; 2] = ["anyOf", "oneOf"];
/// All types, in any draft.
const ALL_TYPES: [&str; 7] = ["array", "boolean", "integer", "null", "number", "object", "string"];

/// The instrumented schema.
pub(crate) fn instrument(schema: &Value, analysis: &Analysis) -> Value {
    instrumented(schema, analysis, false)
}

/// The instrumented schema for finding errors quickly: it does not look for errors below `anyOf` and `oneOf`,
/// which no message reports. References into these keywords do not resolve in it.
pub(crate) fn instrument_for_errors(schema: &Value, analysis: &Analysis) -> Value {
    instrumented(schema, analysis, true)
}

fn instrumented(schema: &Value, analysis: &Analysis, hides_branches: bool) -> Value {
    let inner = |value: &Value| instrumented(value, analysis, hides_branches);
    match schema {
        Value::Array(items) => items.iter().map(inner).collect(),
        Value::Object(members) if analysis.is_schema(schema) => {
            let ours = !members.contains_key("type");
            // First, so that a part is counted before those within it are compiled.
            let mut part = Map::from_iter([(PART_COUNTER_KEYWORD.to_owned(), json!(ours))]);
            let mut hidden = Vec::new();
            for (key, value) in members {
                let value = match value {
                    Value::Array(branches) if COMBINING_KEYWORDS.contains(&key.as_str()) => {
                        branches.iter().map(|branch| branch_object(branch, inner)).collect()
                    }
                    value => inner(value),
                };
                match hides_branches && HIDDEN_BRANCH_KEYWORDS.contains(&key.as_str()) && value.is_array() {
                    true => hidden.push(double_negation(key, &value)),
                    false => drop(part.insert(key.clone(), value)),
                }
            }
            if ours {
                part.insert("type".to_owned(), json!(ALL_TYPES));
            }
            if !hidden.is_empty()
                && let Value::Array(all) = part.entry("allOf").or_insert_with(|| json!([]))
            {
                all.append(&mut hidden);
            }
            Value::Object(part)
        }
        Value::Object(members) => {
            members.iter().map(|(key, value)| (key.clone(), inner(value))).collect::<Map<_, _>>().into()
        }
        value => value.clone(),
    }
}

/// A boolean branch does not look at the value; the same branch as an object does.
fn branch_object(branch: &Value, instrumented: impl Fn(&Value) -> Value) -> Value {
    match branch {
        Value::Bool(true) => json!({ "type": ALL_TYPES }),
        Value::Bool(false) => json!({ "type": ALL_TYPES, "not": {} }),
        branch => instrumented(branch),
    }
}

/// The condition of `keyword` in a form that collects no errors: `not` only asks whether a value is
/// valid.
fn double_negation(keyword: &str, branches: &Value) -> Value {
    let combined = json!({ PART_COUNTER_KEYWORD: true, "type": ALL_TYPES, keyword: branches });
    let negated = json!({ PART_COUNTER_KEYWORD: true, "type": ALL_TYPES, "not": combined });
    json!({ PART_COUNTER_KEYWORD: true, "type": ALL_TYPES, "not": negated })
}

/// The keyword that [`instrument_for_errors`] put under a `not`, of which this is the value.
pub(crate) fn hidden_keyword(negated: &Value) -> Option<&'static str> {
    let combined = negated.get(PART_COUNTER_KEYWORD).and(negated.get("not"))?;
    HIDDEN_BRANCH_KEYWORDS
        .into_iter()
        .find(|keyword| combined.get(PART_COUNTER_KEYWORD).is_some() && combined.get(*keyword).is_some())
}

/// A part of an instrumented schema as its author wrote it, for messages.
pub(crate) fn strip(schema: &Value) -> Value {
    match schema {
        Value::Array(items) => items.iter().map(strip).collect(),
        Value::Object(members) => {
            let ours = members.get(PART_COUNTER_KEYWORD) == Some(&Value::Bool(true));
            let plain =
                members.iter().filter(|(key, _)| *key != PART_COUNTER_KEYWORD && !(ours && *key == "type"));
            Value::Object(plain.map(|(key, value)| (key.clone(), strip(value))).collect())
        }
        value => value.clone(),
    }
}
