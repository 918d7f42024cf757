//! docs/protocol.md, whose examples are what these types say.
//!
//! Invariant: every kind of request and of reply has an example there.

use std::collections::BTreeSet;

use oxenv_wire::{
    BatchRequest, Forked, Json, MultiError, MultiFrame, MultiReply, MultiWork, ReplyKind, SessionCreated,
    SessionProgress, SessionSnapshot,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

const PAGE: &str = include_str!("../../../../docs/protocol.md");

/// The fenced examples of that kind.
fn examples(kind: &str) -> Vec<&'static str> {
    let fence = format!("```json {kind}\n");
    PAGE.split(&fence).skip(1).map(|rest| rest.split("\n```").next().unwrap_or_default()).collect()
}

#[test]
fn every_request_of_the_page_is_one() {
    let mut kinds = BTreeSet::new();
    for example in examples("request") {
        let frame = MultiFrame::parse(example).unwrap_or_else(|fault| panic!("{fault:?}: {example}"));
        if let MultiWork::Batch(batch) = frame.work {
            assert!(batch.items().all(|item| item.is_ok()), "{example}");
        }
        let value: Value = serde_json::from_str(example).expect("a frame is JSON");
        kinds.insert(value["type"].as_str().expect("a type").to_owned());
    }
    let all = [
        "attach",
        "batch",
        "close",
        "fork",
        "keepalive",
        "open",
        "reset",
        "restore",
        "snapshot",
        "state",
        "step",
        "tools",
    ];
    assert_eq!(kinds.iter().map(String::as_str).collect::<Vec<_>>(), all);
}

#[test]
fn every_reply_of_the_page_is_one() {
    let mut kinds = BTreeSet::new();
    for example in examples("reply") {
        kinds.insert(reply(example).name());
    }
    let all: BTreeSet<&str> = ReplyKind::ALL.into_iter().map(ReplyKind::name).collect();
    assert_eq!(kinds, all);
}

#[test]
fn the_body_of_the_page_is_one() {
    for example in examples("body") {
        let body = BatchRequest::parse_body(Json::parse(example).expect("JSON"), &["body"]).expect("a body");
        assert!(body.items().all(|item| item.is_ok()), "{example}");
    }
}

/// Reads a reply with its data, and gives its kind.
fn reply(text: &str) -> ReplyKind {
    let reply: MultiReply = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let data = reply.data.as_deref().map_or("{}", serde_json::value::RawValue::get);
    match reply.kind {
        ReplyKind::Opened => is::<SessionCreated>(data),
        ReplyKind::Attached | ReplyKind::KeptAlive => is::<SessionProgress>(data),
        ReplyKind::Forked => is::<Forked>(data),
        ReplyKind::Snapshot => is::<SessionSnapshot>(data),
        ReplyKind::Error => is::<MultiError>(data),
        ReplyKind::Batch => {
            let data: Value = serde_json::from_str(data).expect("JSON");
            for result in data["results"].as_array().expect("results").iter().filter(|one| !one.is_null()) {
                reply_of(result);
            }
        }
        ReplyKind::BatchMore => {
            let data: Value = serde_json::from_str(data).expect("JSON");
            reply_of(&data["result"]);
        }
        _ => is::<Value>(data),
    }
    reply.kind
}

fn reply_of(result: &Value) -> ReplyKind {
    reply(&result.to_string())
}

fn is<T: DeserializeOwned>(data: &str) {
    if let Err(error) = serde_json::from_str::<T>(data) {
        panic!("{error}: {data}");
    }
}
