//! How a tool looks as a Python function: its parameters, in order, and its help.
//!
//! Invariant: made of the tool's JSON Schema alone. What does not fit the schema is refused where the call is
//! made.

use oxenv_wire::Tool;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A tool as a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Signature {
    /// The tool's name.
    pub(crate) name: String,
    /// The names of its parameters in the order of positional arguments: those that are required first.
    pub(crate) parameters: Vec<String>,
    /// What `help` prints.
    pub(crate) help: String,
}

impl Signature {
    pub(crate) fn of(tool: &Tool) -> Self {
        let nothing = Map::new();
        let schema = &tool.input_schema;
        let properties = schema["properties"].as_object().unwrap_or(&nothing);
        let is_required = |name: &str| {
            schema["required"].as_array().is_some_and(|names| names.iter().any(|known| known == name))
        };
        let (required, optional): (Vec<&String>, Vec<&String>) =
            properties.keys().partition(|name| is_required(name));
        let parameters: Vec<String> = required.into_iter().chain(optional).cloned().collect();
        let shown = parameters.iter().map(|name| shown_parameter(name, &properties[name], is_required(name)));
        let shown: Vec<String> = shown.collect();
        let result = tool.output_schema.as_ref().map(result_type).unwrap_or_default();
        let result = if result.is_empty() { result } else { format!(" -> {result}") };
        let mut help = format!("{}({}){result}\n", tool.name, shown.join(", "));
        for line in tool.description.lines() {
            push_line(&mut help, line);
        }
        let described = parameters.iter().filter_map(|name| Some((name, described(&properties[name])?)));
        for (at, (name, text)) in described.enumerate() {
            if at == 0 {
                help.push('\n');
            }
            push_line(&mut help, &format!("{name}: {text}"));
        }
        Signature { name: tool.name.to_string(), parameters, help }
    }

    /// Whether a program can write that name for it. What cannot stand in a Python name is written as `_`.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        let spelled = self.name.chars().map(|c| if c.is_alphanumeric() { c } else { '_' });
        spelled.eq(name.chars())
    }
}

fn push_line(help: &mut String, line: &str) {
    if !line.trim().is_empty() {
        help.push_str("    ");
        help.push_str(line.trim_end());
    }
    help.push('\n');
}

fn described(schema: &Value) -> Option<String> {
    let text = schema["description"].as_str()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// `name: str`, `limit: int = 10`; an optional one without a default has `...`.
fn shown_parameter(name: &str, schema: &Value, required: bool) -> String {
    let kind = match type_name(schema) {
        none if none.is_empty() => none,
        kind => format!(": {kind}"),
    };
    let default = match (required, schema.get("default")) {
        (true, _) => String::new(),
        (false, Some(default)) => format!(" = {}", python(default)),
        (false, None) => " = ...".to_owned(),
    };
    format!("{name}{kind}{default}")
}

/// The Python type of what fits a schema; empty where that is not one.
fn type_name(schema: &Value) -> String {
    let of = |name: &str| match name {
        "string" => "str",
        "integer" => "int",
        "number" => "float",
        "boolean" => "bool",
        "array" => "list",
        "object" => "dict",
        "null" => "None",
        _ => "",
    };
    let names: Vec<&str> = match &schema["type"] {
        Value::String(name) => vec![of(name)],
        Value::Array(names) => names.iter().filter_map(Value::as_str).map(of).collect(),
        _ => Vec::new(),
    };
    let known: Vec<&str> = names.into_iter().filter(|name| !name.is_empty()).collect();
    known.join(" | ")
}

/// The Python type of a result: a wrapped value is given without what it is wrapped in.
fn result_type(schema: &Value) -> String {
    match &schema["x-fastmcp-wrap-result"] {
        Value::Bool(true) => type_name(&schema["properties"]["result"]),
        _ => type_name(schema),
    }
}

/// A JSON value as Python writes it.
fn python(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn signature(name: &'static str, schema: Value) -> Signature {
        Signature::of(&Tool {
            name: name.into(),
            title: None,
            description: "Reads a file.\n\nAs text.".to_owned(),
            input_schema: schema,
            output_schema: Some(json!({ "type": "object" })),
            annotations: None,
            meta: None,
        })
    }

    #[test]
    fn required_parameters_come_first_and_help_shows_types_and_defaults() {
        let read = signature(
            "read",
            json!({
                "type": "object",
                "properties": {
                    "head": { "type": ["integer", "null"], "default": null },
                    "path": { "type": "string", "description": "Where it\n is." },
                    "strict": { "type": "boolean" },
                },
                "required": ["path"],
            }),
        );
        assert_eq!(read.parameters, ["path", "head", "strict"]);
        let lines = [
            "read(path: str, head: int | None = None, strict: bool = ...) -> dict",
            "    Reads a file.",
            "",
            "    As text.",
            "",
            "    path: Where it is.",
            "",
        ];
        assert_eq!(read.help, lines.join("\n"));
    }

    #[test]
    fn a_name_that_python_cannot_spell_is_spelled_with_underscores() {
        let read = signature("fs.read-file", json!({}));
        assert!(read.is_called("fs_read_file") && !read.is_called("fs_read") && !read.is_called("read"));
        assert_eq!(read.help.lines().next(), Some("fs.read-file() -> dict"));
    }
}
