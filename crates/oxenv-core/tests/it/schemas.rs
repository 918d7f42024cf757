//! Schemas and values that make a validator explode: each is refused or judged within its bounds, and within
//! the memory that the test gives itself.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use oxenv_core::{CallContext, CallRequest, NativeToolset, Principal, Toolbox};
use oxenv_schema::{CheckBudget, Schema, SchemaError, TooDeep, issues};
use oxenv_wire::ToolErrorType;
use rustix::process::{Resource, Rlimit, setrlimit};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

/// What used to take minutes, or all memory, is allowed so long on a busy machine.
const GENEROUS: Duration = Duration::from_secs(60);
/// Bytes of memory that a test may take: its threads' stacks and the program are in it.
const MEMORY: u64 = 512 << 20;

fn limit_memory() {
    setrlimit(Resource::As, Rlimit { current: Some(MEMORY), maximum: Some(MEMORY) }).unwrap();
}

/// A tree whose node is one of several shapes, each of which may have a child.
fn tree_schema(shapes: usize) -> Value {
    let shape = |number| {
        json!({
            "type": "object",
            "required": ["child"],
            "properties": {
                "child": { "$ref": "#/$defs/node" }, format!("only_{number}"): { "type": "integer" }
            },
        })
    };
    let shapes: Vec<Value> = (0..shapes).map(shape).chain([json!({ "type": "integer" })]).collect();
    json!({
        "type": "object",
        "properties": { "tree": { "$ref": "#/$defs/node" } },
        "$defs": { "node": { "anyOf": shapes } },
    })
}

fn tree(depth: usize, leaf: &Value) -> Value {
    let text = format!("{}{leaf}{}", "{\"child\":".repeat(depth), "}".repeat(depth));
    json!({ "tree": serde_json::from_str::<Value>(&text).unwrap() })
}

/// Definitions of which each refers to the next as `link` says.
fn chain(length: usize, link: impl Fn(&Value) -> Value, last: &Value) -> Value {
    let mut definitions = Map::new();
    for number in 0..length {
        let next = json!({ "$ref": format!("#/$defs/a{}", number + 1) });
        definitions.insert(format!("a{number}"), link(&next));
    }
    definitions.insert(format!("a{length}"), last.clone());
    json!({ "$ref": "#/$defs/a0", "$defs": definitions })
}

fn nested(depth: usize, open: &str, close: &str, inner: &Value) -> Value {
    let mut text = String::new();
    (0..depth).for_each(|_| text.push_str(open));
    write!(text, "{inner}").unwrap();
    (0..depth).for_each(|_| text.push_str(close));
    let mut reader = serde_json::Deserializer::from_str(&text);
    serde::de::Deserialize::deserialize(&mut reader).unwrap()
}

fn too_large(schema: &Value) -> String {
    match Schema::compile(schema) {
        Err(SchemaError::TooLarge(why)) => why,
        Err(SchemaError::Unusable(why)) => panic!("unusable: {why}"),
        Ok(_) => panic!("it was compiled"),
    }
}

#[test]
fn a_wrong_leaf_deep_in_a_recursive_schema_is_judged_and_explained_within_bounds() {
    limit_memory();
    let begun = Instant::now();
    for shapes in [2, 5] {
        let schema = Schema::compile(&tree_schema(shapes)).unwrap();
        for depth in [0, 1, 2, 30, 100] {
            assert_eq!(schema.is_valid(&tree(depth, &json!(1)), &CheckBudget::inline()), Ok(true), "{depth}");
            let wrong = tree(depth, &json!("wrong"));
            assert_eq!(schema.is_valid(&wrong, &CheckBudget::inline()), Ok(false), "{depth}");
            for budget in [CheckBudget::inline(), CheckBudget::of(&wrong)] {
                let explained = issues(&schema, &wrong, &budget, "it does not fit").unwrap();
                assert_eq!((explained[0].path().as_str(), explained.len()), ("tree", 1), "{depth}");
                assert!(
                    explained[0].msg.contains("any of the schemas listed in the 'anyOf'"),
                    "{}",
                    explained[0].msg
                );
            }
        }
    }
    assert!(begun.elapsed() < GENEROUS);
}

#[test]
fn an_instance_that_takes_too_many_steps_has_no_outcome() {
    limit_memory();
    // Nothing is remembered of values that are no containers, nor of what is no reference.
    let branch = json!({ "items": { "$ref": "#/$defs/a" } });
    let schema = json!({
        "$ref": "#/$defs/a",
        "$defs": { "a": { "allOf": [
            { "not": { "allOf": [branch, { "minItems": 1 }, { "not": {} }] } },
            {
                "anyOf": [
                    { "allOf": [branch, { "maxItems": 0 }] }, branch, { "contains": { "$ref": "#/$defs/a" } }
                ]
            },
        ] } },
    });
    let schema = Schema::compile(&schema).unwrap();
    let begun = Instant::now();
    let value = nested(100, "[", "]", &json!([1, 2, 3]));
    let _ = schema.is_valid(&value, &CheckBudget::inline());
    let _ = schema.is_valid(&value, &CheckBudget::of(&value));
    let wide = Value::Array(vec![json!([[1, 1], [1, 1]]); 100_000]);
    assert_eq!(schema.is_valid(&wide, &CheckBudget::inline()), Err(TooDeep));
    assert!(begun.elapsed() < GENEROUS);
}

#[test]
fn references_that_double_are_refused_before_they_are_compiled() {
    limit_memory();
    let begun = Instant::now();
    for combine in ["allOf", "anyOf", "oneOf"] {
        for last in [json!({ "type": "object" }), json!(true), json!(false), json!({})] {
            let doubling = chain(25, |next| json!({ combine: [next, next] }), &last);
            assert!(too_large(&doubling).contains("expand"), "{combine}");
            Schema::check_bounds(&doubling).unwrap_err();
        }
    }
    let conditional = chain(25, |next| json!({ "if": true, "then": next, "else": next }), &json!({}));
    assert!(too_large(&conditional).contains("expand"));
    let mut dependent = chain(25, |next| json!({ "dependentSchemas": { "p": next, "q": next } }), &json!({}));
    dependent["unevaluatedProperties"] = json!(false);
    assert!(too_large(&dependent).contains("expand"));
    // Few of them are nothing odd.
    let few =
        Schema::compile(&chain(8, |next| json!({ "allOf": [next, next] }), &json!({ "type": "object" })));
    assert_eq!(few.unwrap().is_valid(&json!([]), &CheckBudget::inline()), Ok(false));
    assert!(begun.elapsed() < GENEROUS);
}

#[test]
fn long_chains_and_circles_of_references_are_refused() {
    limit_memory();
    let begun = Instant::now();
    assert!(too_large(&chain(100, Value::clone, &json!({}))).contains("64 deep"));
    assert!(too_large(&chain(20_000, Value::clone, &json!({}))).contains("64 deep"));
    assert!(too_large(&chain(100_000, Value::clone, &json!({}))).contains("values"));
    let dynamic: Vec<Value> =
        (0..10_000).map(|n| json!({ "$dynamicRef": "#m", "$dynamicAnchor": format!("m{n}") })).collect();
    let dynamic = json!({ "$dynamicAnchor": "m", "properties": { "x": { "prefixItems": dynamic } } });
    assert!(too_large(&dynamic).contains("dynamic"));
    assert!(too_large(&json!({ "allOf": vec![json!({ "$ref": "#" }); 10] })).contains("in a circle"));
    // A chain that goes into a property each time is compiled, and ends with the value.
    let into = chain(5_000, |next| json!({ "properties": { "p": next } }), &json!({ "type": "integer" }));
    let schema = Schema::compile(&into).unwrap();
    assert_eq!(schema.is_valid(&nested(100, "{\"p\":", "}", &json!("x")), &CheckBudget::inline()), Ok(true));
    assert!(begun.elapsed() < GENEROUS);
}

#[test]
fn schemas_that_are_compiled_in_too_many_ways_are_refused() {
    limit_memory();
    let begun = Instant::now();
    // Each way through resources of their own is a dynamic scope of its own.
    let mut definitions = Map::new();
    for number in 0..30 {
        let next = json!({ "$ref": format!("http://x/r{}", number + 1) });
        let through = |name: &str| json!({ "$ref": format!("http://x/{name}{number}") });
        let own = |name: &str| format!("http://x/{name}{number}");
        let both = json!({ "a": through("x"), "b": through("y") });
        definitions.insert(format!("r{number}"), json!({ "$id": own("r"), "properties": both }));
        definitions.insert(format!("x{number}"), json!({ "$id": own("x"), "properties": { "c": next } }));
        definitions.insert(format!("y{number}"), json!({ "$id": own("y"), "properties": { "c": next } }));
    }
    definitions.insert("r30".to_owned(), json!({ "$id": "http://x/r30", "type": "object" }));
    let scopes = json!({ "$id": "http://x/", "$ref": "http://x/r0", "$defs": definitions });
    assert!(too_large(&scopes).contains("too many ways"));
    // What is unevaluated is compiled anew wherever it is referred to.
    let strict = |next: &Value| {
        json!({
            "allOf": [{ "properties": { "p": { "allOf": [next, next], "unevaluatedProperties": false } } }]
        })
    };
    let unevaluated = chain(40, strict, &json!({ "type": "object" }));
    assert!(too_large(&unevaluated).contains("too many ways"));
    // And each time one within the other, without an end of the stack that the compiler knows.
    let strict = |next: &Value| {
        let mut inner = next.clone();
        inner["unevaluatedProperties"] = json!(false);
        json!({ "allOf": [{ "properties": { "p": inner } }] })
    };
    assert!(too_large(&chain(3_000, strict, &json!({ "type": "object" }))).contains("one within the other"));
    assert!(begun.elapsed() < GENEROUS);
}

#[test]
fn a_schema_that_is_nested_ten_thousand_deep_overflows_no_stack() {
    limit_memory();
    for (open, close) in [("{\"properties\":{\"p\":", "}}"), ("{\"allOf\":[", "]}"), ("[", "]")] {
        let mut text = open.repeat(120 / open.matches(['{', '[']).count());
        text.push_str("true");
        text.push_str(&close.repeat(120 / open.matches(['{', '[']).count()));
        let deep = serde_json::from_str(&text).unwrap();
        // As deep as JSON can be read is compiled, or refused in words.
        let _ = Schema::compile(&deep);
        // Deeper ones are made by programs. Their maker has the stack to drop them.
        let check = move || {
            let mut deep: Value = deep;
            for _ in 0..10_000 {
                deep = Value::Array(vec![deep]);
            }
            let refused = std::thread::scope(|scope| {
                let small = std::thread::Builder::new().stack_size(256 << 10);
                small.spawn_scoped(scope, || too_large(&deep)).unwrap().join().unwrap()
            });
            assert!(refused.contains("128 levels"), "{refused}");
        };
        std::thread::Builder::new().stack_size(64 << 20).spawn(check).unwrap().join().unwrap();
    }
}

#[test]
fn patterns_are_bounded_in_size_and_in_steps() {
    limit_memory();
    let begun = Instant::now();
    for pattern in ["(a{1000}){1000}", "((a{100}){100}){100}", "\\p{L}{1000}", &"a".repeat(5_000)] {
        too_large(&json!({ "pattern": pattern }));
        too_large(&json!({ "patternProperties": { pattern: true } }));
        Schema::rule(&json!({ "pattern": pattern })).unwrap_err();
    }
    let many: Map<String, Value> = (0..400)
        .map(|n| (format!("p{n}"), json!({ "pattern": format!("(a{{100}}){{{}}}", 50 + n) })))
        .collect();
    too_large(&json!({ "properties": many }));
    let honest = "^[\\p{L}\\p{N}_]{1,64}$";
    assert!(Schema::compile(&json!({ "pattern": honest })).is_ok());
    let long = json!(format!("{}b", "a".repeat(100_000)));
    for pattern in ["(a+)+$", "(a|a)*$", "^(?=(a+)+$)b", "(a+)+\\1$", "(?=a)(a+)+$", "[ab]*a[ab]{2000}c"] {
        for schema in [json!({ "pattern": pattern }), json!({ "propertyNames": { "pattern": pattern } })] {
            let schema = Schema::compile(&schema).unwrap();
            let value = json!({ long.as_str().unwrap(): 1 });
            for value in [&long, &value] {
                let _ = schema.is_valid(value, &CheckBudget::inline());
                let _ = schema.is_valid(value, &CheckBudget::of(value));
            }
        }
        let schema =
            Schema::compile(&json!({ "patternProperties": { pattern: { "type": "string" } } })).unwrap();
        let value = json!({ long.as_str().unwrap(): 1 });
        let _ = schema.is_valid(&value, &CheckBudget::of(&value));
    }
    assert!(begun.elapsed() < GENEROUS, "{:?}", begun.elapsed());
}

#[test]
fn lookaround_is_for_tools_and_not_for_rules() {
    let schema = json!({ "properties": { "word": { "pattern": "^(?!.*secret).*$" } } });
    let compiled = Schema::compile(&schema).unwrap();
    assert_eq!(compiled.is_valid(&json!({ "word": "plain" }), &CheckBudget::inline()), Ok(true));
    assert_eq!(compiled.is_valid(&json!({ "word": "a secret" }), &CheckBudget::inline()), Ok(false));
    let refused = Schema::rule(&schema).unwrap_err();
    assert!(
        refused.contains("at /properties/word/pattern") && refused.contains("for a lookahead"),
        "{refused}"
    );
}

#[test]
fn unique_items_are_found_in_linear_time() {
    limit_memory();
    let begun = Instant::now();
    let schema = Schema::compile(&json!({ "uniqueItems": true })).unwrap();
    // Arrays that differ only in where they are nested had one hash for all.
    let shape = |number: u32| {
        (0..16).fold(
            json!([]),
            |inner, bit| {
                if number >> bit & 1 == 1 { json!([inner]) } else { json!([inner, []]) }
            },
        )
    };
    let arrays: Value = (0..20_000).map(shape).collect();
    assert_eq!(schema.is_valid(&arrays, &CheckBudget::of(&arrays)), Ok(true));
    // So had whole numbers beyond the floats' precision.
    let numbers: Value = (0..100_000).map(|n| json!((1_u64 << 63) + n)).collect();
    assert_eq!(schema.is_valid(&numbers, &CheckBudget::of(&numbers)), Ok(true));
    for (value, unique) in [
        (json!([1, 1.0]), false),
        (json!([0, -0.0]), false),
        (json!([1, true, "1", [1], { "a": 1 }]), true),
        (json!([{ "a": 1, "b": 2 }, { "b": 2.0, "a": 1 }]), false),
        (json!([["a", "b"], ["a,b"], [["a"], "b"]]), true),
        (json!([9_007_199_254_740_993_u64, 9_007_199_254_740_992.0]), true),
        (json!([1e300, 1e301, 1e300]), false),
    ] {
        assert_eq!(schema.is_valid(&value, &CheckBudget::inline()), Ok(unique), "{value}");
    }
    assert!(begun.elapsed() < GENEROUS);
}

#[test]
fn other_keywords_are_bounded_too() {
    limit_memory();
    let begun = Instant::now();
    assert!(too_large(&json!({ "multipleOf": 1e-300 })).contains("multipleOf"));
    let numbers: Value = (0..100_000).map(|n| json!(1.7e308 - f64::from(n))).collect();
    let (long, open) = (json!("a".repeat(4 << 20)), json!("(".repeat(4 << 20)));
    // In which formats are checked.
    let draft_7 = "http://json-schema.org/draft-07/schema#";
    let options: Vec<Value> = (0..20_000).map(|n| json!([n])).collect();
    let lists = Value::Array(vec![json!(["x"]); 5_000]);
    for (schema, value) in [
        (json!({ "items": { "multipleOf": 1e-8 } }), &numbers),
        (json!({ "$schema": draft_7, "maxLength": 10, "minLength": 3, "format": "uri" }), &long),
        (json!({ "$schema": draft_7, "anyOf": vec![json!({ "format": "regex" }); 500] }), &open),
        (json!({ "items": { "enum": options } }), &lists),
        (json!({ "required": (0..20_000).map(|n| n.to_string()).collect::<Vec<_>>() }), &json!({ "0": 1 })),
        (json!({ "anyOf": vec![false; 10_000] }), &lists),
    ] {
        let schema = Schema::compile(&schema).unwrap();
        let _ = schema.is_valid(value, &CheckBudget::inline());
        let _ = schema.is_valid(value, &CheckBudget::of(value));
    }
    assert!(begun.elapsed() < GENEROUS, "{:?}", begun.elapsed());
}

#[test]
fn an_explanation_takes_little_memory_however_much_is_wrong() {
    limit_memory();
    // Many errors below a long key: the path to each holds the key.
    let list =
        Schema::compile(&json!({ "additionalProperties": { "items": { "type": "string" } } })).unwrap();
    let value = json!({ "k".repeat(1 << 20): vec![1; 20_000] });
    let explained = issues(&list, &value, &CheckBudget::of(&value), "it does not fit").unwrap();
    assert!(explained.iter().all(|issue| issue.path().len() < 300));
    // Copies of a large value in the errors below `anyOf`.
    let branches: Vec<Value> = (0..500).map(|n| json!({ "required": [format!("p{n}"), "q"] })).collect();
    let any = Schema::compile(&json!({ "anyOf": branches })).unwrap();
    let value = json!({ "text": "x".repeat(4 << 20) });
    let _ = issues(&any, &value, &CheckBudget::of(&value), "it does not fit");
    // Copies of a large schema in the errors of `not`.
    let not = json!({ "items": { "not": { "enum": (0..30_000).collect::<Vec<_>>() } } });
    let not = Schema::compile(&not).unwrap();
    let value = Value::Array(vec![json!(1); 20_000]);
    let _ = issues(&not, &value, &CheckBudget::of(&value), "it does not fit");
    // An option for each number is not listed.
    let options = Schema::compile(&json!({ "enum": (0..30_000).collect::<Vec<_>>() })).unwrap();
    let explained = issues(&options, &json!("x"), &CheckBudget::inline(), "it does not fit").unwrap();
    assert!(explained[0].msg.len() < 1100, "{}", explained[0].msg);
}

/// A node of several shapes, each of which may have a child.
#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(tag = "kind")]
#[allow(dead_code)]
enum Node {
    Group { child: Box<Node> },
    Link { child: Box<Node> },
    Note { child: Box<Node> },
    Leaf { n: i64 },
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[allow(dead_code)]
struct Plant {
    tree: Node,
}

#[tokio::test]
async fn a_native_tool_explains_within_bounds() {
    limit_memory();
    let begun = Instant::now();
    let tools = NativeToolset::new("garden").tool("plant", "Plants a tree.", |_: Plant| Ok(1));
    let toolbox = Toolbox::of(vec![Arc::new(tools)]).unwrap();
    let group = "{\"kind\":\"Group\",\"child\":";
    let leaf = "{\"kind\":\"Leaf\",\"n\":\"wrong\"}";
    let text = format!("{{\"tree\":{}{leaf}{}}}", group.repeat(30), "}".repeat(30));
    let arguments = RawValue::from_string(text).unwrap();
    let context = CallContext::sessionless(Principal::Agent);
    let error = toolbox.find("plant").call(&CallRequest::new(context, Some(&arguments))).await.unwrap_err();
    assert_eq!(error.error_type, ToolErrorType::InvalidArgs);
    assert!(error.message.contains("call[plant]\ntree\n"), "{}", error.message);
    assert!(begun.elapsed() < GENEROUS);
}

#[test]
fn a_cancelled_check_ends() {
    let schema = Schema::compile(&json!({ "items": { "type": "integer" } })).unwrap();
    let value = Value::Array(vec![json!(1); 200_000]);
    let cancelled = Arc::new(AtomicBool::new(true));
    assert_eq!(schema.is_valid(&value, &CheckBudget::of(&value)), Ok(true));
    assert_eq!(schema.is_valid(&value, &CheckBudget::of(&value).cancelled_by(cancelled)), Err(TooDeep));
}

#[test]
fn messages_hold_nothing_of_ours() {
    let schema = json!({
        "properties": { "path": { "not": { "pattern": "\\.\\." } } },
        "propertyNames": { "pattern": "^[a-z]+$" },
        "not": { "required": ["never"] },
    });
    let schema = Schema::compile(&schema).unwrap();
    for (value, expected) in [
        (json!({ "path": "a/../b" }), r#"{"pattern":"\\.\\."} is not allowed for the value at '/path'"#),
        (json!({ "Path": 1 }), r#""Path" does not match "^[a-z]+$" at ''"#),
        (json!({ "never": 1 }), r#"{"required":["never"]} is not allowed for the value at ''"#),
    ] {
        assert_eq!(schema.first_error(&value, &CheckBudget::inline()).unwrap().unwrap(), expected);
    }
}
