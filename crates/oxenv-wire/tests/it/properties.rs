//! Properties: nothing panics on any text, refusals agree with serde's own reading, and whatever is
//! written reads back.
//!
//! Entry point: [`json_text`] makes JSON texts with everything that Python's writer and hostile
//! clients put into them; the invariants for arbitrary bytes are those of the fuzz targets.

use std::fmt::Write as _;

use oxenv_wire::{
    Action, Content, ErrorCode, Json, JsonError, Object, ParseError, Reward, RpcCode, RpcError, RpcRequest,
    Spelling, Structured, Tool, ToolError, ToolErrorType, ToolResult, write_error_frame, write_mcp_frame,
    write_rpc_error, write_rpc_result, write_state_frame,
};
use proptest::collection::vec;
use proptest::prelude::*;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::bodies;
use crate::observations::{Parts, called};
use crate::pretty::minified;
use crate::results::raw;

/// A JSON value as text, in any of the ways it can be written.
fn json_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        any::<i64>().prop_map(|value| value.to_string()),
        (any::<f64>())
            .prop_filter_map("a finite number", |value| value.is_finite().then(|| format!("{value:e}"))),
        "-?[1-9][0-9]{0,70}(\\.[0-9]{1,3})?([eE][+-]?[0-9]{1,3})?",
        string_text(),
    ];
    leaf.prop_recursive(6, 48, 6, |inner| {
        let space = "[ \\n\\t]{0,2}";
        prop_oneof![
            (vec(inner.clone(), 0..5), space)
                .prop_map(|(items, space)| format!("[{space}{}{space}]", items.join(&format!("{space},")))),
            object_of(inner),
        ]
    })
}

/// A JSON object as text; keys may come twice.
fn object_text() -> impl Strategy<Value = String> {
    object_of(json_text())
}

fn object_of(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    (vec((string_text(), value), 0..5), "[ \\n\\t]{0,2}").prop_map(|(fields, space)| {
        let fields: Vec<String> =
            fields.iter().map(|(key, value)| format!("{key}{space}:{space}{value}")).collect();
        format!("{{{space}{}{space}}}", fields.join(","))
    })
}

/// A JSON string as text: plain, escaped as Python's writer does, or with any `\u` escape at all.
fn string_text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>().prop_map(|text| serde_json::to_string(&text).expect("a string is JSON")),
        any::<String>().prop_map(|text| python_string(&text)),
        "\"(\\\\u[0-9a-fA-F]{4}|[a-z]){0,4}\"",
        prop::sample::select(vec!["\"type\"", "\"data\"", "\"a\"", "\"step\""]).prop_map(str::to_owned),
    ]
}

/// A string as Python's `json.dumps` writes it: ASCII only, surrogate pairs beyond.
fn python_string(text: &str) -> String {
    let mut out = String::from("\"");
    for unit in text.encode_utf16() {
        match char::from_u32(u32::from(unit)) {
            Some(letter) if letter.is_ascii_alphanumeric() => out.push(letter),
            _ => {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out.push('"');
    out
}

fn reward() -> impl Strategy<Value = Option<Reward>> {
    prop_oneof![
        Just(None),
        any::<bool>().prop_map(|value| Some(Reward::Bool(value))),
        any::<i64>().prop_map(|value| Some(Reward::Int(value))),
        any::<f64>()
            .prop_filter("only finite rewards reach the wire", |value| value.is_finite())
            .prop_map(|value| Some(Reward::Float(value))),
    ]
}

fn result() -> impl Strategy<Value = ToolResult> {
    let block = prop_oneof![
        Just(Content::OfValue),
        any::<String>().prop_map(Content::Text),
        object_text().prop_map(|text| Content::Raw(raw(&text))),
    ];
    let content = vec(block, 0..3);
    let structured = prop_oneof![
        Just(Structured::None),
        object_text().prop_map(|text| Structured::Object(raw(&text))),
        json_text().prop_map(|text| Structured::Wrapped(raw(&text))),
    ];
    (content, structured, prop::option::of(object_text()), any::<bool>()).prop_map(
        |(content, structured, meta, is_error)| ToolResult {
            content: content.into_iter().collect(),
            structured,
            meta: meta.map(|text| raw(&text)),
            is_error,
            ..ToolResult::default()
        },
    )
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// A part of a reply, as it stands there.
fn part<'a>(text: &'a str, path: &[&str]) -> &'a RawValue {
    let mut value: &RawValue = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    for key in path {
        value = Object::from_raw(value)
            .expect("an object without doubles")
            .get(key)
            .expect("the key is there")
            .raw();
    }
    value
}

fn parsed(value: &RawValue) -> Value {
    serde_json::from_str(value.get()).expect("what was written can be read")
}

fn kind(reward: Reward) -> &'static str {
    match reward {
        Reward::Bool(_) => "boolean",
        Reward::Int(_) => "integer",
        Reward::Float(_) => "float",
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_break_an_invariant(data in vec(any::<u8>(), 0..64)) {
        for body in [bodies::frame, bodies::action, bodies::rpc, bodies::body, bodies::json] {
            body(&data);
        }
    }

    #[test]
    fn no_json_breaks_an_invariant(text in json_text(), cut in any::<prop::sample::Index>()) {
        prop_assert!(is_json(&text), "{}", text);
        let cut: String = text.chars().take(cut.index(text.chars().count() + 1)).collect();
        for body in [bodies::frame, bodies::action, bodies::rpc, bodies::body, bodies::json] {
            body(text.as_bytes());
            body(cut.as_bytes());
        }
    }

    #[test]
    fn a_text_is_refused_as_syntax_when_serde_says_so(text in ".{0,24}|[\\[\\]{}:,\"\\\\a0-9eE.+ -]{0,24}") {
        match Object::parse(&text) {
            Err(ParseError::Syntax(fault)) => {
                prop_assert!(fault.position <= text.chars().count());
                prop_assert!(!is_json(&text) || fault.message.starts_with("Not Unicode text"));
            }
            _ => prop_assert!(is_json(&text)),
        }
        prop_assert_eq!(is_json(&text), JsonError::diagnose(&text).message.starts_with("Not Unicode text"));
    }

    #[test]
    fn layout_changes_only_white_space(text in json_text()) {
        prop_assert_eq!(minified(&crate::pretty::pretty(&text)), minified(&text));
    }

    #[test]
    fn observations_read_back(
        names in prop::collection::hash_map("[a-z]{1,8}", json_text(), 0..4),
        metadata in prop::collection::hash_map("[a-z]{1,8}", json_text(), 0..3),
        space in "[ \\n]{0,2}",
        reward in reward(),
        done in any::<bool>(),
    ) {
        let object = |fields: &std::collections::HashMap<String, String>| {
            let fields: Vec<String> =
                fields.iter().map(|(key, value)| format!("\"f_{key}\":{value}")).collect();
            format!("{{{space}{}{space}}}", fields.join(","))
        };
        let (fields, metadata) = (object(&names), object(&metadata));
        let parts = Parts { fields: &fields, metadata: &metadata, reward, done };
        let (frame, body) = (parts.frame(), parts.body());
        for (text, data) in [(frame.as_str(), &["data"][..]), (body.as_str(), &[][..])] {
            let at = |path: &[&str]| part(text, &[data, path].concat());
            for (key, value) in &names {
                prop_assert_eq!(at(&["observation", &format!("f_{key}")]).get(), value);
            }
            prop_assert_eq!(at(&["observation", "metadata"]).get(), metadata.as_str());
            prop_assert_eq!(parsed(at(&["done"])), json!(done));
        }
        // Numbers are read by the standard library, which is exact to the last bit; serde_json's
        // default reading of a float is not.
        let float = |text: &str| text.contains(['.', 'e']).then(|| text.parse::<f64>().map(f64::to_bits));
        let (on_socket, over_http) = (
            part(&frame, &["data", "reward"]).get(), part(&body, &["reward"]).get()
        );
        match reward {
            None => prop_assert_eq!(on_socket, "null"),
            Some(Reward::Bool(value)) => prop_assert_eq!(on_socket, value.to_string()),
            Some(Reward::Int(value)) => prop_assert_eq!(on_socket, value.to_string()),
            Some(Reward::Float(value)) => prop_assert_eq!(float(on_socket), Some(Ok(value.to_bits()))),
        }
        match reward {
            None => prop_assert_eq!(over_http, "null"),
            Some(reward) => prop_assert_eq!(float(over_http), Some(Ok(reward.as_f64().to_bits()))),
        }
        let back: Option<Reward> = serde_json::from_str(on_socket).unwrap();
        prop_assert_eq!(back.map(kind), reward.map(kind), "a reward keeps its type on the socket");
    }

    #[test]
    fn results_read_back(result in result()) {
        let (mut dialect, mut mcp) = (String::new(), String::new());
        result.write_dialect(&mut dialect);
        result.write_mcp(&mut mcp);
        prop_assert_eq!(part(&dialect, &["data"]).get(), result.data());
        prop_assert_eq!(parsed(part(&dialect, &["is_error"])), json!(result.is_error));
        prop_assert_eq!(parsed(part(&mcp, &["isError"])), json!(result.is_error));
        let structured = match &result.structured {
            Structured::None => None,
            Structured::Object(value) => Some(value.get().to_owned()),
            Structured::Wrapped(value) => Some(format!("{{\"result\":{}}}", value.get())),
        };
        prop_assert_eq!(
            part(&dialect, &["structured_content"]).get(), structured.as_deref().unwrap_or("null")
        );
        prop_assert_eq!(
            Object::parse(&mcp).unwrap().get("structuredContent").map(Json::get), structured.as_deref()
        );
        prop_assert_eq!(
            Object::parse(&mcp).unwrap().get("_meta").map(Json::get),
            result.meta.as_deref().map(RawValue::get)
        );
        for text in [&dialect, &mcp] {
            let blocks: Vec<&RawValue> = serde_json::from_str(part(text, &["content"]).get()).unwrap();
            prop_assert_eq!(blocks.len(), result.content.len());
            for (block, content) in blocks.into_iter().zip(&result.content) {
                match content {
                    Content::Raw(sent) => prop_assert_eq!(block.get(), sent.get()),
                    Content::Text(sent) => prop_assert_eq!(&parsed(block)["text"], sent),
                    Content::OfValue if result.data().starts_with('"') => {
                        prop_assert_eq!(part(block.get(), &["text"]).get(), result.data());
                    }
                    Content::OfValue => prop_assert_eq!(&parsed(block)["text"], result.data()),
                }
            }
        }
    }

    #[test]
    fn a_calls_reply_reads_back_in_every_spelling(
        result in result(), message in any::<String>(), failed in any::<bool>()
    ) {
        let error = ToolError::new(ToolErrorType::Timeout, message.clone());
        let outcome = if failed { Err(&error) } else { Ok(&result) };
        for spelling in [Spelling::Stock, Spelling::Journal, Spelling::Unified] {
            let (frame, body) = called(spelling, outcome, |parts| (parts.frame(), parts.body()));
            prop_assert!(is_json(&frame) && is_json(&body));
            let observation = part(&frame, &["data", "observation"]);
            prop_assert_eq!(observation.get(), part(&body, &["observation"]).get());
            let observation = observation.get();
            let error = match outcome {
                Ok(result) if result.is_error && result.text().is_empty() => {
                    Some(("execution_error", "the tool returned an error without a text".to_owned()))
                }
                Ok(result) if result.is_error => Some(("execution_error", result.text())),
                Ok(_) => None,
                Err(_) => Some(("timeout", message.clone())),
            };
            match (spelling, &error) {
                (Spelling::Journal, None) => {
                    prop_assert_eq!(part(observation, &["metadata", "result"]).get(), result.value());
                }
                (Spelling::Journal, Some((_, message))) => {
                    prop_assert_eq!(parsed(part(observation, &["metadata", "error"])), json!(message));
                }
                (_, None) => {
                    prop_assert_eq!(part(observation, &["result", "data"]).get(), result.data());
                    prop_assert_eq!(part(observation, &["error"]).get(), "null");
                }
                (_, Some((error_type, message))) => {
                    let error = json!({ "error_type": error_type, "message": message });
                    prop_assert_eq!(parsed(part(observation, &["error"])), error);
                    prop_assert_eq!(part(observation, &["result"]).get(), "null");
                }
            }
            if result.is_error && !failed {
                let mut whole = String::new();
                result.write_dialect(&mut whole);
                prop_assert_eq!(part(observation, &["metadata", "oxenv", "result"]).get(), whole);
            }
        }
    }

    #[test]
    fn errors_read_back(message in any::<String>(), key in any::<String>(), data in any::<String>()) {
        let mut frame = String::new();
        let extra = [("factory_name", json!(data))];
        write_error_frame(&mut frame, ErrorCode::FactoryError, &message, &[], &extra, None);
        let data_of = json!({ "message": message, "code": "FACTORY_ERROR", "factory_name": data });
        prop_assert_eq!(
            serde_json::from_str::<Value>(&frame).unwrap(), json!({ "type": "error", "data": data_of })
        );

        let id = serde_json::to_string(&key).unwrap();
        let request = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m"}}"#);
        let request = RpcRequest::parse(&request).unwrap();
        let fault = RpcError {
            code: RpcCode::ServerError, message: message.clone(), data: json!({ &key: data })
        };
        let mut reply = String::new();
        write_mcp_frame(&mut reply, |out| write_rpc_error(out, request.id, &fault));
        let error = json!({ "code": -32000, "message": message, "data": { &key: data } });
        let expected = json!({ "type": "mcp", "data": { "jsonrpc": "2.0", "id": key, "error": error } });
        prop_assert_eq!(serde_json::from_str::<Value>(&reply).unwrap(), expected);
    }

    #[test]
    fn states_and_rpc_results_hold_what_they_are_given(
        value in json_text(), id in "-?(0|[1-9][0-9]{0,37})|null"
    ) {
        let mut state = String::new();
        write_state_frame(&mut state, &value);
        prop_assert_eq!(part(&state, &["data"]).get(), value.as_str());
        let request = format!(r#"{{ "id" : {id} ,"jsonrpc":"2.0","method":"m"}}"#);
        let request = RpcRequest::parse(&request).unwrap();
        let mut reply = String::new();
        write_rpc_result(&mut reply, request.id, |out| out.push_str(&value));
        prop_assert_eq!(part(&reply, &["id"]).get(), id.as_str(), "an id comes back to the byte");
        prop_assert_eq!(part(&reply, &["result"]).get(), value.as_str());
    }

    #[test]
    fn string_ids_come_back_to_the_byte(id in string_text()) {
        let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m"}}"#);
        match RpcRequest::parse(&text) {
            Ok(request) => prop_assert_eq!(request.id.get(), id.as_str()),
            Err(fault) => {
                prop_assert_eq!(fault.code, RpcCode::InvalidRequest);
                let is_text = serde_json::from_str::<String>(&id).is_ok();
                prop_assert!(!is_text, "only a lone surrogate is refused: {}", id);
            }
        }
    }

    #[test]
    fn a_call_reads_back_in_every_spelling(name in any::<String>(), arguments in object_text()) {
        let name_text = python_string(&name);
        for (spelling, text) in [
            (Spelling::Stock, format!(r#"{{"type":"call_tool","tool_name":{name_text},"arguments":{arguments}}}"#)),
            (Spelling::Journal, format!(r#"{{"parameters":{arguments},"tool_name":{name_text},"type":"CallToolAction"}}"#)),
            (Spelling::Unified, format!(r#"{{"action_type":"tool","tool_name":{name_text},"tool_args":{arguments}}}"#)),
        ] {
            let value = raw(&text);
            let Ok(Action::CallTool(call)) = Action::parse(&value) else { panic!("{text}") };
            prop_assert_eq!(call.spelling, spelling);
            prop_assert_eq!(&call.name, &name);
            prop_assert_eq!(call.arguments.map(RawValue::get), Some(arguments.as_str()));
        }
    }

    #[test]
    fn a_tool_reads_back_from_each_listing(
        name in any::<String>(), description in any::<String>(), title in any::<Option<String>>()
    ) {
        let schema = json!({ "type": "object", "title": description });
        let tool = Tool {
            name: name.clone().into(),
            title: title.clone(),
            description: description.clone(),
            input_schema: schema.clone(),
            output_schema: None,
            annotations: None,
            meta: None,
        };
        let step = json!({ "name": name, "description": description, "input_schema": schema });
        let rest = json!({
            "name": name, "description": description, "inputSchema": schema,
            "toolset": "math", "annotations": null, "outputSchema": null,
        });
        prop_assert_eq!(parsed(&tool.for_step()), step);
        prop_assert_eq!(parsed(&tool.for_rest("math")), rest);
        prop_assert_eq!(&parsed(&tool.for_dialect())["title"], &json!(title));
    }
}
