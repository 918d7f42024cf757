//! The schemas that rubrics hold values against.
//!
//! Invariant: a keyword about values of one type is not met by a value of another. JSON Schema lets
//! `required` say nothing about a text and `pattern` nothing about a number, so a tool that answers with one
//! would get full marks.

use std::sync::Arc;

use oxenv_schema::Schema;
use serde_json::{Map, Value, json};

/// Keywords that say something about values of one type alone.
const TYPE_KEYWORDS: [(&str, &[&str]); 4] = [
    (
        "object",
        &[
            "additionalProperties",
            "dependencies",
            "dependentRequired",
            "dependentSchemas",
            "maxProperties",
            "minProperties",
            "patternProperties",
            "properties",
            "propertyNames",
            "required",
            "unevaluatedProperties",
        ],
    ),
    (
        "string",
        &[
            "contentEncoding",
            "contentMediaType",
            "contentSchema",
            "format",
            "maxLength",
            "minLength",
            "pattern",
        ],
    ),
    ("number", &["exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf"]),
    (
        "array",
        &[
            "additionalItems",
            "contains",
            "items",
            "maxContains",
            "maxItems",
            "minContains",
            "minItems",
            "prefixItems",
            "unevaluatedItems",
            "uniqueItems",
        ],
    ),
];
/// Keywords whose schemas must be met, so that nothing more fits where these are met less often.
const SCHEMA_KEYWORDS: [&str; 8] = [
    "additionalItems",
    "additionalProperties",
    "contains",
    "else",
    "items",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
];
const SCHEMA_LIST_KEYWORDS: [&str; 4] = ["allOf", "anyOf", "items", "prefixItems"];
const SCHEMA_MAP_KEYWORDS: [&str; 6] =
    ["$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"];
/// Keywords whose value is data, not a schema.
const DATA_KEYWORDS: [&str; 4] = ["const", "default", "enum", "examples"];
/// The definition that is the whole schema as it was written.
const ORIGINAL_DEFINITION: &str = "_as_written";

/// Compiles a schema that a rubric declares.
///
/// # Errors
/// When it does not compile, or refers to something outside itself.
pub(super) fn expected(schema: &Value) -> Result<Arc<Schema>, String> {
    // Errors refer to the schema as it was written.
    let written = Schema::rule(schema)?;
    let strict = of_their_types(schema);
    if strict == *schema {
        return Ok(Arc::new(written));
    }
    Schema::rule(&strict).map(Arc::new)
}

/// The types that the keywords of a schema without `type` are about.
pub(super) fn implied_types(schema: &Map<String, Value>) -> Vec<&'static str> {
    let is_about = |keywords: &[&str]| keywords.iter().any(|keyword| schema.contains_key(*keyword));
    let about = TYPE_KEYWORDS.iter().filter(|(_, keywords)| is_about(keywords));
    about.map(|(name, _)| *name).collect()
}

/// The schema with a `type` wherever a keyword implies it and there is none. Keywords that fit less often
/// then, and are within `not`, `if` or `oneOf`, would make more values fit: these are left as they are,
/// with what they refer to.
fn of_their_types(schema: &Value) -> Value {
    let mut refers_to_written = false;
    let mut strict = strict(schema, &mut refers_to_written);
    if refers_to_written && let Some(root) = strict.as_object_mut() {
        let mut copy = written(schema, &mut false);
        if let Some(copy) = copy.as_object_mut() {
            // The copy is a part of this document.
            copy.retain(|key, _| !matches!(key.as_str(), "$schema" | "$id" | "id"));
        }
        let definitions = root.entry("$defs").or_insert_with(|| json!({}));
        if let Some(definitions) = definitions.as_object_mut() {
            definitions.insert(ORIGINAL_DEFINITION.to_owned(), copy);
        }
    }
    strict
}

fn strict(schema: &Value, refers: &mut bool) -> Value {
    let Value::Object(schema) = schema else { return schema.clone() };
    let mut out = Map::new();
    for (key, value) in schema {
        let is_left = matches!(key.as_str(), "not" | "if" | "oneOf")
            || key == "contains" && schema.contains_key("maxContains");
        let value = if is_left { written(value, refers) } else { within(key, value, refers) };
        out.insert(key.clone(), value);
    }
    let types = implied_types(schema);
    if !schema.contains_key("type") && !types.is_empty() {
        let types = if let [only] = types[..] { json!(only) } else { json!(types) };
        out.insert("type".to_owned(), types);
    }
    // One of them must be met as it is written, and by a value of its type.
    if let Some(Value::Array(branches)) = schema.get("oneOf") {
        let branches: Vec<Value> = branches.iter().map(|branch| strict(branch, refers)).collect();
        if let Value::Array(all) = out.entry("allOf").or_insert_with(|| json!([])) {
            all.push(json!({ "anyOf": branches }));
        }
    }
    out.into()
}

/// The value of a keyword, with the schemas in it.
fn within(keyword: &str, value: &Value, refers: &mut bool) -> Value {
    match value {
        Value::Object(named) if SCHEMA_MAP_KEYWORDS.contains(&keyword) => {
            named.iter().map(|(name, schema)| (name.clone(), strict(schema, refers))).collect()
        }
        Value::Object(_) if SCHEMA_KEYWORDS.contains(&keyword) => strict(value, refers),
        Value::Array(schemas) if SCHEMA_LIST_KEYWORDS.contains(&keyword) => {
            schemas.iter().map(|schema| strict(schema, refers)).collect()
        }
        _ => value.clone(),
    }
}

/// A part of the schema that refers to the schema as it was written.
fn written(part: &Value, refers: &mut bool) -> Value {
    match part {
        Value::Array(parts) => parts.iter().map(|part| written(part, refers)).collect(),
        Value::Object(parts) => {
            let parts = parts.iter().map(|(key, value)| {
                let value = match (key.as_str(), value) {
                    ("$ref", Value::String(at)) if matches!(at.as_bytes(), [b'#'] | [b'#', b'/', ..]) => {
                        *refers = true;
                        format!("#/$defs/{ORIGINAL_DEFINITION}{}", &at[1..]).into()
                    }
                    (key, value) if DATA_KEYWORDS.contains(&key) => value.clone(),
                    (key, Value::Object(named)) if SCHEMA_MAP_KEYWORDS.contains(&key) => {
                        named.iter().map(|(name, schema)| (name.clone(), written(schema, refers))).collect()
                    }
                    _ => written(value, refers),
                };
                (key.clone(), value)
            });
            parts.collect()
        }
        _ => part.clone(),
    }
}
