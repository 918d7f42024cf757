//! A bounded check comes to the same verdict as a plain one, wherever that is cheap.

use oxenv_schema::{CheckBudget, Schema, SchemaError};
use proptest::prelude::*;
use serde_json::{Value, json};

fn scalars() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3..4_i64).prop_map(Value::from),
        prop_oneof![Just(0.5), Just(1.0), Just(-0.0), Just(1e300)].prop_map(Value::from),
        "[ab1]{0,3}".prop_map(Value::from),
    ]
}

fn values() -> impl Strategy<Value = Value> {
    scalars().prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[abc]", inner, 0..4).prop_map(|members| json!(members)),
        ]
    })
}

fn references() -> impl Strategy<Value = Value> {
    let target = prop_oneof![
        Just("#"),
        Just("#/$defs/a"),
        Just("#/$defs/b"),
        Just("#/definitions/c"),
        Just("#/$defs/a/properties/a"),
        Just("#/odd/place"),
        Just("#anchor"),
        Just("#/$defs/a/allOf/0"),
    ];
    target.prop_map(|target| json!({ "$ref": target }))
}

fn leaves() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<bool>().prop_map(Value::from),
        Just(json!({})),
        prop::sample::select(vec!["integer", "number", "string", "object", "array", "boolean", "null"])
            .prop_map(|name| json!({ "type": name })),
        Just(json!({ "type": ["integer", "string"] })),
        values().prop_map(|value| json!({ "const": value })),
        prop::collection::vec(values(), 1..4).prop_map(|values| json!({ "enum": values })),
        prop::sample::select(vec!["^a", "b$", "[ab]+1", "^(?!a)", "(a)\\1"])
            .prop_map(|pattern| json!({ "pattern": pattern })),
        (0..3_u64).prop_map(|n| json!({ "minLength": n, "maxLength": n + 1 })),
        (-2..3_i64).prop_map(|n| json!({ "minimum": n, "exclusiveMaximum": n + 2 })),
        prop_oneof![Just(json!(0.5)), Just(json!(2))].prop_map(|n| json!({ "multipleOf": n })),
        Just(json!({ "uniqueItems": true })),
        prop::collection::vec("[abc]", 0..3).prop_map(|names| json!({ "required": names })),
        (0..3_u64).prop_map(|n| json!({ "minItems": n, "maxProperties": n })),
        references(),
    ]
}

fn schemas() -> impl Strategy<Value = Value> {
    leaves().prop_recursive(4, 24, 3, |inner| {
        let list = prop::collection::vec(inner.clone(), 1..4);
        let by_name = prop::collection::btree_map("[abc]", inner.clone(), 0..3);
        prop_oneof![
            (prop::sample::select(vec!["allOf", "anyOf", "oneOf", "prefixItems"]), list)
                .prop_map(|(keyword, list)| json!({ keyword: list })),
            (
                prop::sample::select(vec![
                    "not",
                    "items",
                    "additionalProperties",
                    "propertyNames",
                    "contains",
                    "unevaluatedProperties",
                    "unevaluatedItems",
                ]),
                inner.clone()
            )
                .prop_map(|(keyword, schema)| json!({ keyword: schema })),
            (prop::sample::select(vec!["properties", "dependentSchemas"]), by_name)
                .prop_map(|(keyword, schemas)| json!({ keyword: schemas })),
            inner.clone().prop_map(|schema| json!({ "patternProperties": { "^[ab]": schema } })),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(test, then, other)| json!({ "if": test, "then": then, "else": other })),
            (inner.clone(), inner).prop_map(|(one, other)| match (one, other) {
                (Value::Object(mut one), Value::Object(other)) => {
                    one.extend(other);
                    Value::Object(one)
                }
                (one, _) => one,
            }),
        ]
    })
}

fn documents() -> impl Strategy<Value = Value> {
    let drafts = prop_oneof![
        4 => Just(None),
        1 => Just(Some("https://json-schema.org/draft/2019-09/schema")),
        1 => Just(Some("http://json-schema.org/draft-07/schema#")),
        1 => Just(Some("http://json-schema.org/draft-04/schema#")),
    ];
    (drafts, schemas(), schemas(), schemas(), schemas()).prop_map(|(draft, root, a, b, c)| {
        let mut document = match root {
            Value::Object(root) => root,
            other => json!({ "allOf": [other] }).as_object().cloned().unwrap_or_default(),
        };
        if let Some(draft) = draft {
            document.insert("$schema".to_owned(), json!(draft));
        }
        let b = match b {
            Value::Object(mut b) => {
                b.insert("$anchor".to_owned(), json!("anchor"));
                Value::Object(b)
            }
            b => b,
        };
        document.insert("$defs".to_owned(), json!({ "a": a, "b": b }));
        document.insert("definitions".to_owned(), json!({ "c": c }));
        document.insert("odd".to_owned(), json!({ "place": { "type": "string" } }));
        Value::Object(document)
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 600,
        max_global_rejects: 100_000,
        ..ProptestConfig::default()
    })]
    #[test]
    fn a_bounded_check_agrees_with_a_plain_one(
        document in documents(),
        values in prop::collection::vec(values(), 1..8),
    ) {
        let plain = jsonschema::options().offline().build(&document);
        match (Schema::compile(&document), plain) {
            (Ok(schema), Ok(plain)) => {
                for value in &values {
                    let expected = plain.is_valid(value);
                    prop_assert_eq!(
                        schema.is_valid(value, &CheckBudget::of(value)), Ok(expected), "{} {}", document,
                        value
                    );
                    let ours = schema.errors(
                        value, &CheckBudget::of(value), 100, |error| error.instance_path().to_string()
                    );
                    let errors: Vec<String> =
                        plain.iter_errors(value).map(|error| error.instance_path().to_string()).collect();
                    prop_assert_eq!(ours, Ok(errors), "{} {}", document, value);
                }
            }
            (Err(SchemaError::TooLarge(why)), _) => {
                prop_assert!(why.contains("circle") || why.contains("no schema"), "{} {}", why, document);
            }
            (Err(SchemaError::Unusable(_)), Err(_)) => {}
            (Ok(_), Err(error)) => prop_assert!(false, "plain: {} {}", error, document),
            (Err(error), Ok(_)) => prop_assert!(false, "ours: {} {}", error, document),
        }
    }
}
