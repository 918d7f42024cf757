//! The JSON Schema of manifests and the page that describes them.
//!
//! Invariant: `docs/tools.schema.json` is what the code makes (`UPDATE_EXPECT=1` rewrites it), it
//! takes what the reader takes, and `docs/tools-yaml.md` names every key.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use expect_test::expect_file;
use oxenv_upstream::manifest::{Manifest, schema};
use serde_json::Value;

use crate::manifest::{fixture, lookup};

fn docs(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(file)
}

/// A manifest as JSON. The tests' YAML is read with the parser of manifests itself, by way of a
/// toolset's `arguments`, which take any JSON.
fn as_json(text: &str) -> Value {
    let mut wrapped =
        "tools:\n  - name: a\n    mcp_server: {command: x}\n    arguments:\n      a:\n        default:\n"
            .to_owned();
    for line in text.lines() {
        wrapped.push_str(&format!("          {line}\n"));
    }
    let (manifest, _) =
        Manifest::parse(&wrapped, None, &lookup).unwrap_or_else(|problems| panic!("{problems:?}"));
    manifest.toolsets[0].rules.arguments["a"]["default"].clone()
}

fn every_key(schema: &Value, keys: &mut BTreeSet<String>) {
    match schema {
        Value::Object(object) => {
            if let Some(Value::Object(properties)) = object.get("properties") {
                keys.extend(properties.keys().cloned());
            }
            object.values().for_each(|value| every_key(value, keys));
        }
        Value::Array(items) => items.iter().for_each(|item| every_key(item, keys)),
        _ => {}
    }
}

#[test]
fn the_schema_in_docs_is_up_to_date() {
    let text = format!("{}\n", serde_json::to_string_pretty(&schema()).unwrap());
    expect_file![docs("tools.schema.json")].assert_eq(&text);
}

#[test]
fn the_schema_takes_what_the_reader_takes() {
    let schema = schema();
    jsonschema::meta::validate(&schema).unwrap_or_else(|error| panic!("{error}"));
    let validator = jsonschema::validator_for(&schema).unwrap();
    for file in [
        "valid/everything.yaml",
        "rfc/full.yaml",
        "rfc/external.yaml",
        "rfc/simulated.yaml",
        "rfc/self_contained.yaml",
        "problems/warnings.yaml",
    ] {
        let json = as_json(&fs::read_to_string(fixture(file)).unwrap());
        let issues: Vec<String> = validator.iter_errors(&json).map(|error| error.to_string()).collect();
        assert!(issues.is_empty(), "{file}: {issues:?}");
    }
}

/// Each toolset of these files is wrong, so the schema must refuse each of them alone.
#[test]
fn the_schema_refuses_what_the_reader_refuses() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    // What a schema cannot see: other files, variables, what a header may hold.
    let beyond = [
        "no_host",
        "headers",
        "variables",
        "shape_of_a_disabled_one",
        "no_url",
        "no_command",
        "oxenv",
        "twice",
    ];
    for file in ["problems/servers.yaml", "problems/values.yaml"] {
        let json = as_json(&fs::read_to_string(fixture(file)).unwrap().replace(".nan", "null"));
        for toolset in json["tools"].as_array().unwrap() {
            let alone = serde_json::json!({ "tools": [toolset] });
            let name = toolset["name"].as_str().unwrap();
            assert!(beyond.contains(&name) || !validator.is_valid(&alone), "{file}: {name}");
        }
    }
}

#[test]
fn the_page_names_every_key() {
    let page = fs::read_to_string(docs("tools-yaml.md")).unwrap();
    let mut keys = BTreeSet::new();
    every_key(&schema(), &mut keys);
    assert!(keys.len() > 30, "{keys:?}");
    for key in keys {
        assert!(page.contains(&format!("`{key}`")), "docs/tools-yaml.md does not name {key}");
    }
}
