//! Actions made from schemas.
//!
//! Invariant: the same seed makes the same actions. They fit the schema as far as it restricts them;
//! whether the environment accepts them is another question.

use oxenv_core::derive_seed;
use serde_json::{Map, Value, json};

/// Schemas may refer to themselves; no action needs to be deeper.
const MAX_DEPTH: usize = 8;
/// Lists of lists and what is required of them multiply; an action has no more values than this.
const MAX_VALUES: usize = 10_000;
/// Numbers that no bound keeps are at most that large.
const MAX_NUMBER: i64 = 5;

/// Makes actions.
pub(super) struct Sampler<'a> {
    /// The schema of typed actions.
    action: &'a Value,
    /// Tools with their schemas, as a list of tools shows them.
    tools: &'a [Value],
    seed: u64,
    drawn: u64,
    /// Values of the present action so far.
    values: usize,
}

impl<'a> Sampler<'a> {
    pub(super) fn new(action: &'a Value, tools: &'a [Value], seed: u64) -> Self {
        Sampler { action, tools, seed, drawn: 0, values: 0 }
    }

    /// The next action; nothing when neither schema nor tools say what one is.
    pub(super) fn action(&mut self) -> Option<Value> {
        self.values = 0;
        let schema = self.action;
        let typed = !is_of_tools(schema) && schema["type"] == "object";
        match (self.tools.is_empty(), typed) {
            (true, false) => None,
            (true, true) => Some(self.value(schema, schema, 0)),
            (false, false) => Some(self.call()),
            (false, true) if self.draw(2) == 0 => Some(self.call()),
            (false, true) => Some(self.value(schema, schema, 0)),
        }
    }

    fn call(&mut self) -> Value {
        let tool = &self.tools[self.draw(self.tools.len())];
        let schema =
            ["input_schema", "inputSchema"].iter().find_map(|key| tool.get(key)).unwrap_or(&Value::Null);
        let arguments = self.value(schema, schema, 0);
        let arguments = if arguments.is_object() { arguments } else { json!({}) };
        json!({ "type": "call_tool", "tool_name": tool["name"], "arguments": arguments })
    }

    fn value(&mut self, schema: &Value, root: &Value, depth: usize) -> Value {
        self.values += 1;
        if depth > MAX_DEPTH || self.values > MAX_VALUES {
            return Value::Null;
        }
        if let Some(found) = schema["$ref"].as_str().and_then(|text| root.pointer(text.strip_prefix('#')?)) {
            return self.value(found, root, depth + 1);
        }
        if let Some(only) = schema.get("const") {
            return self.copied(only);
        }
        let choices = ["enum", "anyOf", "oneOf", "allOf"]
            .iter()
            .find_map(|key| Some((*key, schema.get(key)?.as_array()?)));
        if let Some((key, choices)) = choices.filter(|(_, choices)| !choices.is_empty()) {
            let chosen = &choices[self.draw(choices.len())];
            return if key == "enum" { self.copied(chosen) } else { self.value(chosen, root, depth + 1) };
        }
        let kind = match &schema["type"] {
            Value::Array(kinds) => kinds.iter().find(|kind| *kind != "null").and_then(Value::as_str),
            kind => kind.as_str(),
        };
        match kind {
            Some("integer") => json!(self.integer(schema)),
            Some("number") => json!(self.integer(schema) as f64),
            Some("boolean") => json!(self.draw(2) == 1),
            Some("string") => self.text(schema),
            Some("array") => self.list(schema, root, depth),
            Some("object") => self.object(schema, root, depth),
            None if schema.get("properties").is_some() => self.object(schema, root, depth),
            _ => Value::Null,
        }
    }

    /// A value that the schema gives; a long one counts as many.
    fn copied(&mut self, given: &Value) -> Value {
        self.values += given.to_string().len() / 16;
        if self.values > MAX_VALUES { Value::Null } else { given.clone() }
    }

    fn integer(&mut self, schema: &Value) -> i64 {
        let bound = |key: &str| schema[key].as_f64().filter(|bound| bound.abs() < 1e15);
        let above = bound("exclusiveMinimum").map(|bound| bound.floor() as i64 + 1);
        let below = bound("exclusiveMaximum").map(|bound| bound.ceil() as i64 - 1);
        let least = bound("minimum").map(|bound| bound.ceil() as i64).or(above);
        let most = bound("maximum").map(|bound| bound.floor() as i64).or(below);
        let (least, most) = match (least, most) {
            (Some(least), Some(most)) => (least, most.max(least)),
            (Some(least), None) => (least, least + MAX_NUMBER),
            (None, Some(most)) => (most.min(0), most),
            (None, None) => (0, MAX_NUMBER),
        };
        let span = usize::try_from(most - least).unwrap_or(0).saturating_add(1);
        least + i64::try_from(self.draw(span)).unwrap_or(0)
    }

    fn text(&mut self, schema: &Value) -> Value {
        let mut text = format!("sample {}", self.draw(1000));
        let length = |key: &str| schema[key].as_u64().and_then(|length| usize::try_from(length).ok());
        while length("minLength").is_some_and(|least| text.len() < least.min(4096)) {
            text.push('.');
        }
        if let Some(most) = length("maxLength") {
            text.truncate(most);
        }
        text.into()
    }

    fn list(&mut self, schema: &Value, root: &Value, depth: usize) -> Value {
        let least = schema["minItems"].as_u64().unwrap_or(0).min(64);
        let least = least.max(u64::from(schema.get("maxItems") != Some(&json!(0))));
        let mut items = Vec::new();
        while (items.len() as u64) < least && self.values <= MAX_VALUES {
            items.push(self.value(&schema["items"], root, depth + 1));
        }
        items.into()
    }

    /// Only what is required.
    fn object(&mut self, schema: &Value, root: &Value, depth: usize) -> Value {
        let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let mut object = Map::new();
        for name in required {
            if self.values > MAX_VALUES {
                break;
            }
            let value = self.value(&schema["properties"][name], root, depth + 1);
            object.insert(name.to_owned(), value);
        }
        object.into()
    }

    /// A number below that.
    fn draw(&mut self, below: usize) -> usize {
        self.drawn += 1;
        let below = u64::try_from(below).unwrap_or(u64::MAX).max(1);
        usize::try_from(derive_seed(self.seed, self.drawn) % below).unwrap_or(0)
    }
}

/// Whether a schema is that of tool calls, which say nothing without the tools.
fn is_of_tools(schema: &Value) -> bool {
    schema["properties"].get("tool_name").is_some()
        || schema["title"].as_str().is_some_and(|title| title.contains("CallToolAction"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_actions_and_they_fit() {
        let schema = json!({
            "type": "object",
            "required": ["move", "column", "deep", "note"],
            "properties": {
                "move": { "$ref": "#/$defs/Move" },
                "column": { "type": "integer", "minimum": 2, "maximum": 4 },
                "deep": {
                    "type": "array", "minItems": 2,
                    "items": { "anyOf": [{ "type": "boolean" }, { "const": "x" }] },
                },
                "note": { "type": ["null", "string"], "minLength": 20 },
                "optional": { "type": "integer" },
            },
            "$defs": { "Move": { "enum": ["UP", "DOWN"] } },
        });
        let drawn = |seed| {
            let mut sampler = Sampler::new(&schema, &[], seed);
            (0..20).filter_map(|_| sampler.action()).collect::<Vec<_>>()
        };
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
        for action in drawn(3) {
            assert!(["UP", "DOWN"].contains(&action["move"].as_str().unwrap()), "{action}");
            assert!((2..=4).contains(&action["column"].as_i64().unwrap()), "{action}");
            assert_eq!(action["deep"].as_array().unwrap().len(), 2, "{action}");
            assert!(action["note"].as_str().unwrap().len() >= 20, "{action}");
            assert!(action.get("optional").is_none(), "{action}");
        }
    }

    #[test]
    fn a_schema_that_refers_to_itself_comes_to_an_end() {
        let schema =
            json!({ "type": "object", "required": ["next"], "properties": { "next": { "$ref": "#" } } });
        assert!(Sampler::new(&schema, &[], 1).action().is_some());
    }

    #[test]
    fn a_schema_of_lists_in_lists_comes_to_an_end() {
        let mut schema = json!({ "type": "integer" });
        for _ in 0..6 {
            schema = json!({ "type": "array", "minItems": 64, "items": schema });
        }
        let schema = json!({ "type": "object", "required": ["x"], "properties": { "x": schema } });
        let action = Sampler::new(&schema, &[], 1).action().unwrap();
        assert!(action.to_string().len() < 1 << 20);
    }

    #[test]
    fn tools_are_called_with_what_they_require() {
        let tools = [json!({
            "name": "add",
            "input_schema": {
                "type": "object", "required": ["a"], "properties": { "a": { "type": "integer" } },
            },
        })];
        let schemas = oxenv_core::tool_schemas();
        let action = Sampler::new(&schemas.action, &tools, 1).action().unwrap();
        assert_eq!((&action["type"], &action["tool_name"]), (&json!("call_tool"), &json!("add")));
        assert!(action["arguments"]["a"].is_i64(), "{action}");
        assert_eq!(Sampler::new(&schemas.action, &[], 1).action(), None);
    }
}
