//! What must hold for any bytes: nothing panics, what is no JSON is called so and nothing else is,
//! and what is read is what was sent.
//!
//! Invariant: plain functions over bytes. The fuzz targets call them on a nightly toolchain, and the
//! tests of `oxenv-wire` include this very file and run it over `fuzz/seeds/` on a stable one.

use std::collections::{HashMap, HashSet};

use oxenv_wire::{
    Action, CallGraph, CallOutcome, ClientFrame, ErrorCode, FillBudget, FillError, FrameError, JsonError,
    Loc, MAX_REFERENCES, Object, ObservationParts, ParseError, RangeRequest, Reference, ResetRequest, Reward,
    RpcCode, RpcError, RpcId, RpcParams, RpcRequest, SessionCreate, Spelling, SplitRequest, StepRequest,
    TaskRequest, Template, ToolCall, ToolResult, ValidationIssue, call_metadata, default_call,
    legacy_message, python_repr, raw, read, render_issues, write_call_fields, write_error_frame,
    write_observation_body, write_observation_frame, write_rpc_error, write_rpc_result,
};
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;

/// A frame from a client of `/ws`.
pub fn frame(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    match ClientFrame::parse(text) {
        Ok(frame) => {
            assert!(is_json(text), "only JSON is a frame");
            match frame {
                ClientFrame::Reset(request) => reset(&request),
                ClientFrame::Step(value) => {
                    assert!(text.contains(value.json().get()), "an action stays as it was sent");
                    one_action(value.json().raw());
                }
                ClientFrame::Mcp(value) => {
                    assert!(text.contains(value.get()), "a message stays as it was sent");
                    one_message(value.get());
                }
                ClientFrame::State | ClientFrame::Close => {}
            }
        }
        Err(FrameError::Json(fault)) => syntax(text, &fault),
        Err(FrameError::NotObject(_)) => {
            assert!(is_json(text) && !begins_object(text), "no object, but JSON");
        }
        Err(FrameError::UnknownType(_)) => {
            assert!(is_json(text) && begins_object(text), "an object of some type");
        }
        Err(FrameError::Invalid(found)) => {
            assert!(is_json(text) && begins_object(text), "an object of a known type");
            issues(&found, &[]);
        }
    }
}

/// An action in any spelling.
pub fn action(data: &[u8]) {
    if let Some(value) = value(data) {
        one_action(value);
    }
}

/// A JSON-RPC message.
pub fn rpc(data: &[u8]) {
    if let Ok(text) = str::from_utf8(data) {
        one_message(text);
    }
}

/// The body of any HTTP request that has one.
pub fn body(data: &[u8]) {
    let Some(value) = value(data) else { return };
    let loc = ["body"];
    match ResetRequest::parse(value, &loc) {
        Ok(request) => reset(&request),
        Err(found) => issues(&found, &loc),
    }
    match StepRequest::parse(value, &loc) {
        Ok(step) => {
            assert!(step.timeout_s.is_none_or(|seconds| seconds.get() > 0.0), "a deadline is ahead");
            for label in [&step.request_id, &step.key].into_iter().flatten() {
                assert!(label.chars().count() <= 255, "a label is short");
            }
            one_action(step.action.raw());
        }
        Err(found) => issues(&found, &loc),
    }
    match SessionCreate::parse(value, &loc) {
        Ok(request) => {
            assert!(request.resume_s.is_none_or(|seconds| seconds.get() > 0.0), "a lease has a length");
        }
        Err(found) => issues(&found, &loc),
    }
    for parsed in [
        SplitRequest::parse(value, &loc).map(drop),
        TaskRequest::parse(value, &loc).map(drop),
        RangeRequest::parse(value, &loc).map(drop),
    ] {
        match parsed {
            Ok(()) => assert!(begins_object(value.get()), "only an object names a split"),
            Err(found) => issues(&found, &loc),
        }
    }
}

/// Any text: JSON or not, and written again inside replies.
pub fn json(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let fault = JsonError::diagnose(text);
    located(text, &fault);
    let unreadable = fault.message.starts_with("Not Unicode text");
    assert_eq!(unreadable, is_json(text), "the diagnosis finds an error where the parser does: {fault}");
    match Object::parse(text) {
        Ok(object) => {
            assert_eq!(
                fields(text).map(|fields| fields.len()),
                Some(object.iter().count()),
                "every key, once"
            );
            let keys: HashSet<&str> = object.iter().map(|(key, _)| key).collect();
            assert!(keys.iter().all(|key| object.get(key).is_some()));
        }
        Err(ParseError::Syntax(fault)) => syntax(text, &fault),
        Err(ParseError::NotObject(_)) => {
            assert!(is_json(text) && !begins_object(text), "JSON, but no object");
        }
        Err(ParseError::DuplicateKey(key)) => {
            assert!(fields(text).is_some_and(|fields| fields.contains_key(&key)), "the key is there");
        }
    }
    if let Some(value) = value(data) {
        assert!(!python_repr(value).is_empty() || value.get() == "\"\"");
        written(value);
    }
}

/// Arguments with references in them, and the result that all of them refer to.
pub fn template(data: &[u8]) {
    #[derive(serde::Deserialize)]
    struct Case<'a> {
        #[serde(borrow)]
        arguments: &'a RawValue,
        #[serde(borrow)]
        result: &'a RawValue,
    }
    let Ok(Case { arguments, result }) = serde_json::from_slice(data) else { return };
    let Ok(sent) = read::<Value>(arguments) else { return };
    let parsed = Template::parse(arguments.into());
    let mut paths = Vec::new();
    let changes = refers(&sent, &mut paths);
    let Ok(parsed) = parsed else {
        assert!(
            arguments.get().matches("${").count() + arguments.get().matches("\\u").count() > MAX_REFERENCES
        );
        return;
    };
    let Some(template) = parsed else {
        assert!(!changes, "what has references is a template: {arguments}");
        return;
    };
    // A key that is there twice hides a value, and what it refers to, from whoever builds values.
    let found: Vec<&str> = template.references().iter().map(Reference::path).collect();
    assert!(paths.iter().all(|path| found.contains(&path.as_str())), "{arguments}: {found:?}");
    let before = FillBudget { inserted: 1 << 10, scanned: 1 << 10 };
    let mut budget = before;
    let filled = template.fill(&mut budget, |reference, budget| reference.find(result.into(), budget));
    assert!(budget.inserted <= before.inserted && budget.scanned <= before.scanned, "a budget only shrinks");
    match filled {
        Ok(text) => {
            let text: Value =
                serde_json::from_str(&text).expect("filled arguments are JSON, and can be read");
            assert_eq!(Some(text), filled_in(&sent, result), "{arguments} {result}");
        }
        Err((reference, FillError::Missing(step))) => {
            assert!(reference.path().split('.').skip(1).any(|part| part == step));
            assert!(part(result, reference.path()).is_none(), "{arguments} {result}");
        }
        Err((reference, FillError::Unreadable(_))) => {
            assert!(part(result, reference.path()).is_some_and(|part| read::<Value>(part).is_err()));
        }
        Err((_, FillError::TooLarge | FillError::TooFar)) => {
            assert!(data.len() > 1 << 7, "{arguments} {result}");
        }
    }
}

/// Notes the references of a value; true if there is something to replace in it.
fn refers(value: &Value, paths: &mut Vec<String>) -> bool {
    match value {
        Value::String(text) => {
            let parts = parts(text);
            paths.extend(parts.iter().filter_map(|part| part.clone().err()));
            parts.len() > 1
        }
        Value::Array(items) => items.iter().fold(false, |any, item| refers(item, paths) | any),
        Value::Object(fields) => fields.values().fold(false, |any, field| refers(field, paths) | any),
        _ => false,
    }
}

/// What stands between references, and the references.
fn parts(text: &str) -> Vec<Result<String, String>> {
    let (mut parts, mut rest) = (Vec::new(), text);
    while let Some(begin) = rest.find("${") {
        if rest[..begin].ends_with('$') {
            parts.extend([Ok(rest[..begin - 1].to_owned()), Ok("${".to_owned())]);
            rest = &rest[begin + 2..];
            continue;
        }
        let Some(end) = rest[begin..].find('}') else { break };
        parts.extend([Ok(rest[..begin].to_owned()), Err(rest[begin + 2..begin + end].to_owned())]);
        rest = &rest[begin + end + 1..];
    }
    parts.push(Ok(rest.to_owned()));
    parts
}

/// The value with its references replaced, by building values.
fn filled_in(value: &Value, result: &RawValue) -> Option<Value> {
    Some(match value {
        Value::String(text) => match parts(text).as_slice() {
            [Ok(before), Err(path), Ok(after)] if before.is_empty() && after.is_empty() => {
                read(part(result, path)?).ok()?
            }
            parts => {
                let text = |part: &Result<String, String>| match part {
                    Ok(text) => Some(text.clone()),
                    Err(path) => {
                        let part = self::part(result, path)?;
                        Some(read::<String>(part).unwrap_or_else(|_| part.get().to_owned()))
                    }
                };
                parts.iter().map(text).collect::<Option<String>>()?.into()
            }
        },
        Value::Array(items) => {
            items.iter().map(|item| filled_in(item, result)).collect::<Option<Vec<_>>>()?.into()
        }
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, field)| Some((key.clone(), filled_in(field, result)?)));
            Value::Object(fields.collect::<Option<_>>()?)
        }
        other => other.clone(),
    })
}

/// The part of a result behind the id of a path, by serde's own reading.
fn part<'a>(result: &'a RawValue, path: &str) -> Option<&'a RawValue> {
    path.split('.').skip(1).try_fold(result, |value, step| match value.get().as_bytes().first() {
        Some(b'[') => read::<Vec<&RawValue>>(value).ok()?.get(step.parse::<usize>().ok()?).copied(),
        Some(b'{') => {
            pairs(value).into_iter().rfind(|(key, _)| key.as_deref() == Some(step)).map(|(_, value)| value)
        }
        _ => None,
    })
}

/// The fields of an object, also where some keys are no Unicode text.
fn pairs(object: &RawValue) -> Vec<(Option<String>, &RawValue)> {
    struct Pairs;
    impl<'de> serde::de::Visitor<'de> for Pairs {
        type Value = Vec<(Option<String>, &'de RawValue)>;

        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("an object")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut pairs = Vec::new();
            while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
                pairs.push((read(key).ok(), value));
            }
            Ok(pairs)
        }
    }
    let mut reader = serde_json::Deserializer::from_str(object.get());
    serde::Deserializer::deserialize_map(&mut reader, Pairs).unwrap_or_default()
}

fn one_action(value: &RawValue) {
    match Action::parse(value) {
        Ok(Action::ListTools(_)) => {}
        Ok(Action::CallTool(call)) => called(&call, value),
        Ok(Action::CallTools(graph)) => graph_of(&graph, value),
        Ok(Action::Code(code)) => assert_eq!(read_key::<String>(value, "code").as_deref(), Some(&*code)),
        Ok(Action::Typed(typed)) => {
            assert_eq!(typed.get(), value.get(), "a typed action stays as it was sent");
            match default_call(typed) {
                Ok(call) => called(&call, typed),
                Err(found) => issues(&found, &[]),
            }
            if let Some(message) = legacy_message(typed) {
                assert_eq!(read_key::<String>(typed, "message").as_deref(), Some(&*message));
            }
        }
        Err(found) => issues(&found, &[]),
    }
}

/// A call that is written in the stock spelling means the same call, to the byte.
fn called(call: &ToolCall<'_>, sent: &RawValue) {
    let arguments = call.arguments.map_or("{}", RawValue::get);
    assert!(begins_object(arguments), "arguments are an object");
    assert!(call.arguments.is_none() || sent.get().contains(arguments), "arguments stay as they were sent");
    let name = raw(&call.name).expect("a name is JSON");
    let text = format!(r#"{{"type":"call_tool","tool_name":{name},"arguments":{arguments}}}"#);
    let again: &RawValue = serde_json::from_str(&text).expect("a call is JSON");
    let Ok(Action::CallTool(again)) = Action::parse(again) else {
        panic!("a written call is a call: {text}")
    };
    assert_eq!(again.name, call.name);
    assert_eq!(again.arguments.map(RawValue::get), Some(arguments));
}

fn graph_of(graph: &CallGraph<'_>, sent: &RawValue) {
    let calls: Vec<HashMap<String, &RawValue>> = read_key(sent, "calls").expect("calls are objects");
    assert_eq!(graph.calls.len(), calls.len());
    for (call, sent) in graph.calls.iter().zip(calls) {
        assert_eq!(read::<String>(sent["id"]).expect("an id is a string"), call.id);
        assert_eq!(read::<String>(sent["tool_name"]).expect("a name is a string"), call.tool_name);
    }
}

fn one_message(text: &str) {
    let request = match RpcRequest::parse(text) {
        Ok(request) => request,
        Err(fault) => {
            let parse_error = fault.code == RpcCode::ParseError;
            assert!(
                parse_error || fault.code == RpcCode::InvalidRequest,
                "a text is no request by one of two codes"
            );
            assert_eq!(
                parse_error,
                !is_json(text) || !begins_object(text) || fields(text).is_none(),
                "{text}"
            );
            return rpc_error(RpcId::NULL, &fault);
        }
    };
    let sent = fields(text).expect("a request is an object");
    assert_eq!(sent.get("id").map_or("null", |id| id.get()), request.id.get(), "an id goes back as it came");
    assert_eq!(request.has_id, request.id.get() != "null");
    assert!(request.params.is_none_or(|params| begins_object(params.get())));
    let mut reply = String::new();
    write_rpc_result(&mut reply, request.id, |out| out.push_str("{}"));
    assert!(reply.contains(request.id.get()) && is_json(&reply), "{reply}");
    let params = match RpcParams::parse(request.params) {
        Ok(params) => params,
        Err(fault) => return rpc_error(request.id, &fault),
    };
    if let Err(fault) = params.session_id() {
        rpc_error(request.id, &fault);
    }
    match params.tool_call() {
        Ok(call) => {
            let sent = request.params.expect("a call has parameters");
            assert_eq!(read_key::<String>(sent.raw(), "name").as_deref(), Some(&*call.name));
            assert!(call.arguments.is_none_or(|arguments| sent.get().contains(arguments.get())));
        }
        Err(fault) => rpc_error(request.id, &fault),
    }
}

fn rpc_error(id: RpcId<'_>, fault: &RpcError) {
    let mut reply = String::new();
    write_rpc_error(&mut reply, id, fault);
    let reply: HashMap<String, Box<RawValue>> = serde_json::from_str(&reply).expect("an error is an object");
    assert_eq!(reply["id"].get(), id.get());
    let error: Value = read(&reply["error"]).expect("an error can be read");
    assert_eq!(
        (&error["code"], &error["message"]),
        (&Value::from(fault.code as i32), &Value::from(&*fault.message))
    );
}

fn reset(request: &ResetRequest<'_>) {
    assert!(
        request.episode_id.as_ref().is_none_or(|id| id.chars().count() <= 255),
        "an episode's id is short"
    );
    let Some(sent) = request.arguments else {
        return assert!(request.seed.is_none() && request.episode_id.is_none(), "nothing comes from nothing");
    };
    assert_eq!(read_key::<Option<u64>>(sent, "seed").flatten(), request.seed);
    assert_eq!(
        read_key::<Option<String>>(sent, "episode_id").flatten().as_deref(),
        request.episode_id.as_deref()
    );
}

/// Issues are there, begin where they should, and can be told in every protocol.
fn issues(found: &[ValidationIssue], loc: &[&str]) {
    assert!(!found.is_empty() && found.len() < 100, "what is refused has a reason, and not a million");
    for issue in found {
        assert!(!issue.kind.is_empty() && !issue.msg.is_empty());
        let begins = issue.loc.iter().zip(loc).all(|(loc, key)| *loc == Loc::from(*key));
        assert!(begins && issue.loc.len() >= loc.len(), "{:?} begins with {loc:?}", issue.loc);
        assert!(serde_json::to_value(issue).is_ok(), "an issue is a JSON value: {issue:?}");
    }
    let mut frame = String::new();
    write_error_frame(
        &mut frame,
        ErrorCode::ValidationError,
        &render_issues("Frame", found),
        found,
        &[],
        None,
    );
    let frame: Value = serde_json::from_str(&frame).expect("an error frame can be read");
    assert_eq!(frame["data"]["errors"].as_array().map(Vec::len), Some(found.len()));
}

/// A syntax error: the text is no JSON, or an object with a key that is no Unicode text.
fn syntax(text: &str, fault: &JsonError) {
    assert!(!is_json(text) || (begins_object(text) && fields(text).is_none()), "{fault}: {text}");
    located(text, fault);
}

fn located(text: &str, fault: &JsonError) {
    assert!(!fault.message.is_empty());
    assert!(fault.position <= text.chars().count(), "{fault}: the position is in the text or at its end");
    assert!((1..=text.matches('\n').count() + 1).contains(&fault.line), "{fault}");
    assert!((1..=fault.position + 1).contains(&fault.column), "{fault}");
}

/// Whatever value a tool or an environment gives, the reply around it is JSON that holds the value.
fn written(value: &RawValue) {
    let mut reply = String::new();
    if let Ok(result) = ToolResult::from_value(value) {
        assert_eq!(result.data(), value.get(), "a result's data is the value");
        let outcome = CallOutcome::new(Ok(&result));
        for spelling in [Spelling::Stock, Spelling::Journal, Spelling::Unified] {
            reply.clear();
            write_call_fields(&mut reply, spelling, "\"\u{0}é", &outcome);
            let metadata = call_metadata(spelling, &outcome);
            assert!(is_json(&reply) && is_json(&metadata), "{reply} {metadata}");
            assert!(reply.contains(value.get()) || metadata.contains(value.get()), "{reply} {metadata}");
        }
        reply.clear();
        result.write_mcp(&mut reply);
        assert!(is_json(&reply), "{reply}");
    }
    if begins_object(value.get()) {
        observed(value.get());
    }
}

fn observed(object: &str) {
    let parts = ObservationParts { metadata: object, reward: Some(Reward::Int(1)), done: true };
    let (mut frame, mut body) = (String::new(), String::new());
    write_observation_frame(&mut frame, &parts, |out| out.push_str(object));
    write_observation_body(&mut body, &parts, |out| out.push_str(object));
    for reply in [&frame, &body] {
        assert!(is_json(reply), "{reply}");
        assert!(reply.contains(object), "metadata goes through as it is: {reply}");
    }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

fn begins_object(text: &str) -> bool {
    text.trim_start_matches([' ', '\t', '\n', '\r']).starts_with('{')
}

/// The fields of an object by serde's own reading; none where a key is no Unicode text.
fn fields(text: &str) -> Option<HashMap<String, &RawValue>> {
    serde_json::from_str(text).ok()
}

fn read_key<'a, T: serde::Deserialize<'a>>(object: &'a RawValue, key: &str) -> Option<T> {
    fields(object.get())?.remove(key).and_then(|value| read(value).ok())
}

fn value(data: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice(data).ok()
}
