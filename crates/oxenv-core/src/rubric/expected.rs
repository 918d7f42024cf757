//! The schemas that rubrics hold values against.
//!
//! Invariant: a keyword about objects is not met by what is no object. JSON Schema lets `required` and
//! `properties` say nothing about a text, so a tool that answers with one would get full marks.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::schema::Schema;

/// Keywords that say something about objects alone.
const OF_OBJECTS: [&str; 11] = [
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
];
/// Keywords whose schemas must be met. Those of `not` and `if` are left as they are: met less often,
/// they would make more values fit.
const WITH_SCHEMA: [&str; 7] = [
    "additionalProperties",
    "contains",
    "else",
    "items",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
];
const WITH_LIST: [&str; 5] = ["allOf", "anyOf", "items", "oneOf", "prefixItems"];
const WITH_NAMED: [&str; 5] = ["$defs", "definitions", "dependentSchemas", "patternProperties", "properties"];

/// Compiles a schema that a rubric declares.
///
/// # Errors
/// When it does not compile, or refers to something outside itself.
pub(super) fn expected(schema: &Value) -> Result<Arc<Schema>, String> {
    Schema::rule(&about_objects(schema)).map(Arc::new)
}

/// The same schema with `type: object` wherever a keyword is about objects and there is no `type`.
fn about_objects(schema: &Value) -> Value {
    let Value::Object(schema) = schema else { return schema.clone() };
    let mut out: Map<String, Value> =
        schema.iter().map(|(key, value)| (key.clone(), within(key, value))).collect();
    if !out.contains_key("type") && OF_OBJECTS.iter().any(|keyword| out.contains_key(*keyword)) {
        out.insert("type".to_owned(), "object".into());
    }
    out.into()
}

/// The value of a keyword, with the schemas in it.
fn within(keyword: &str, value: &Value) -> Value {
    match value {
        Value::Object(named) if WITH_NAMED.contains(&keyword) => {
            named.iter().map(|(name, schema)| (name.clone(), about_objects(schema))).collect()
        }
        Value::Object(_) if WITH_SCHEMA.contains(&keyword) => about_objects(value),
        Value::Array(schemas) if WITH_LIST.contains(&keyword) => schemas.iter().map(about_objects).collect(),
        _ => value.clone(),
    }
}
