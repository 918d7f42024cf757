//! The subprotocol `oxenv.1` and batches: every request and what is understood of it, every reply,
//! every refusal.
//!
//! Invariant: what the server writes, [`MultiReply`] reads back.

use oxenv_wire::{
    BatchItem, BatchRequest, Delivered, ErrorCode, ErrorData, FailureKind, FrameError, Json, MAX_BATCH_ITEMS,
    MultiError, MultiFrame, MultiReply, MultiRequest, MultiWork, Operation, Phase, ReplyHead, ReplyKind,
    Seconds, ValidationIssue, write_batch_data, write_multi_error, write_multi_reply,
};
use serde_json::value::RawValue;

use crate::golden::{Golden, check};
use crate::malformed;
use crate::pretty::{array, json, object, quoted};
use crate::refusals::{BATCHES, MULTI};
use crate::requests::{reset, session};

const REQUESTS: &[(&str, &str)] = &[
    ("open", r#"{"id":1,"type":"open"}"#),
    (
        "open-all",
        concat!(
            r#"{"id":"a","type":"open","key":"k-1","#,
            r#""data":{"seed":7,"episode_id":"ep-1","resume_s":30,"queue_s":0.5}}"#
        ),
    ),
    ("attach", r#"{"id":2,"type":"attach","session":"s-1"}"#),
    ("reset", r#"{"id":3,"type":"reset","session":"s-1"}"#),
    (
        "reset-all",
        r#"{"id":3,"type":"reset","session":"s-1","key":"k-2","seq":1,"data":{"seed":1,"size":[5,5]}}"#,
    ),
    ("step", r#"{"id":-4,"type":"step","session":"s-1","data":{"action":"DOWN"}}"#),
    (
        "step-all",
        concat!(
            r#"{"data":{"items":[1]},"timeout_s":1.5,"expected_step":3,"seq":9,"key":"k-3","session":"s\u00e9","#,
            r#""type":"step","id":12345678901234567890123}"#
        ),
    ),
    ("state", r#"{"id":5,"type":"state","session":"s-1"}"#),
    ("tools", r#"{"id":5,"type":"tools","session":"s-1"}"#),
    ("fork", r#"{"id":6,"type":"fork","session":"s-1"}"#),
    ("fork-all", r#"{"id":6,"type":"fork","session":"s-1","key":"k-4","data":{"n":8,"resume_s":60}}"#),
    ("snapshot", r#"{"id":7,"type":"snapshot","session":"s-1"}"#),
    ("restore", r#"{"id":8,"type":"restore","data":{"snapshot":"b3hlbnYuMS4="}}"#),
    ("close", r#"{"id":9,"type":"close","session":"s-1"}"#),
    ("keepalive", r#"{"id":10,"type":"keepalive","session":"s-1"}"#),
    (
        "batch",
        concat!(
            r#"{"id":11,"type":"batch","data":{"items":[{"session":"s-1","type":"step","data":{"action":"UP"}},"#,
            r#"{"type":"open"},7,{"type":"batch"},{"session":"s-1","type":"state","id":1},"#,
            r#"{"session":"s-1","type":"step","data":{"a":1,"a":2}}],"first":2,"timeout_s":5}}"#
        ),
    ),
];

const BODIES: &[(&str, &str)] = &[
    ("one", r#"{"items":[{"session":"s-1","type":"close"}]}"#),
    ("two", r#"{"timeout_s":2,"items":[{"session":"s-1","type":"state"},null]}"#),
];

pub(crate) fn goldens() -> Vec<Golden> {
    let mut goldens = Vec::new();
    for (name, text) in REQUESTS {
        let shown = object(&[("sent", (*text).to_owned()), ("understood", frame(text))]);
        goldens.push(Golden::new(format!("multi-request-{name}"), shown));
    }
    for (name, text) in BODIES {
        let parsed = BatchRequest::parse_body(Json::parse(text).expect("JSON"), &["body"]);
        let shown = object(&[("sent", (*text).to_owned()), ("understood", batch(&parsed.expect("a body")))]);
        goldens.push(Golden::new(format!("body-batch-{name}"), shown));
    }
    goldens.extend(replies());
    goldens.push(malformed::golden("multi", MULTI, |text| {
        MultiFrame::parse(text).err().map(|fault| {
            let id = fault.id.map_or("null", Json::get).to_owned();
            object(&[("id", id), ("fault", malformed::frame(&fault.fault))])
        })
    }));
    goldens.push(malformed::golden("body-batch", BATCHES, |text| {
        malformed::body(text, |value| BatchRequest::parse_body(Json::from(value), &["body"]).map(drop))
    }));
    goldens
}

fn frame(text: &str) -> String {
    let frame = MultiFrame::parse(text).expect("a frame");
    let work = match &frame.work {
        MultiWork::One(one) => request(one),
        MultiWork::Batch(many) => batch(many),
    };
    object(&[("id", frame.id.get().to_owned()), ("work", work)])
}

fn batch(batch: &BatchRequest<'_>) -> String {
    object(&[
        ("items", array(batch.items().map(|read| item(&read)))),
        ("first", json(&batch.first)),
        ("timeout_s", json(&batch.timeout_s)),
    ])
}

fn item(item: &BatchItem<'_>) -> String {
    match item {
        Ok(one) => request(one),
        Err(fault) => malformed::frame(fault),
    }
}

fn request(request: &MultiRequest<'_>) -> String {
    let bare = |name: &str| object(&[("do", quoted(name))]);
    let operation = match &request.operation {
        Operation::Open(asked) => object(&[("do", quoted("open")), ("asked", session(asked))]),
        Operation::Reset(asked) => object(&[("do", quoted("reset")), ("asked", reset(asked))]),
        Operation::Step(action) => {
            object(&[("do", quoted("step")), ("action", action.json().get().to_owned())])
        }
        Operation::Fork(asked) => {
            object(&[("do", quoted("fork")), ("n", json(&asked.n)), ("resume_s", json(&asked.resume_s))])
        }
        Operation::Restore(asked) => {
            object(&[("do", quoted("restore")), ("snapshot", json(&asked.snapshot))])
        }
        Operation::Attach => bare("attach"),
        Operation::State => bare("state"),
        Operation::Tools => bare("tools"),
        Operation::Snapshot => bare("snapshot"),
        Operation::Close => bare("close"),
        Operation::KeepAlive => bare("keep alive"),
    };
    object(&[
        ("session", json(&request.session)),
        ("key", json(&request.key)),
        ("seq", json(&request.seq)),
        ("expected_step", json(&request.expected_step)),
        ("timeout_s", json(&request.timeout_s)),
        ("operation", operation),
    ])
}

fn replies() -> Vec<Golden> {
    let id = Json::parse("\"r-1\"").expect("an id");
    let head = ReplyHead { id: Some(id), session: Some("s-1"), seq: Some(4), repeated: false };
    let mut goldens: Vec<Golden> = ReplyKind::ALL
        .into_iter()
        .filter(|kind| !matches!(kind, ReplyKind::Error | ReplyKind::Batch | ReplyKind::BatchMore))
        .map(|kind| {
            let head =
                if kind == ReplyKind::Taken { ReplyHead { id: None, seq: None, ..head } } else { head };
            reply(kind.name(), |out| write_multi_reply(out, &head, kind, |out| out.push_str("{}")))
        })
        .collect();
    let repeated = ReplyHead { repeated: true, ..head };
    let alone = ReplyHead { id: Some(Json::NULL), ..ReplyHead::default() };
    let data = |code, retryable| ErrorData {
        code,
        kind: FailureKind::Infrastructure,
        phase: Phase::Step,
        delivered: Delivered::No,
        retryable,
    };
    let (full, ended) = (data(ErrorCode::CapacityReached, true), data(ErrorCode::SessionEnded, false));
    let issues = [ValidationIssue::missing(&["session"], Json::parse("{}").expect("JSON"))];
    let invalid = data(ErrorCode::ValidationError, false);
    goldens.extend([
        reply("repeated", |out| {
            write_multi_reply(out, &repeated, ReplyKind::Observation, |out| out.push_str("{\"done\":true}"));
        }),
        reply("error", |out| write_multi_error(out, &head, "it \"ended\"", &ended, None, &[])),
        reply("error-retry", |out| write_multi_error(out, &head, "full", &full, Some(1), &[])),
        reply("error-invalid", |out| write_multi_error(out, &alone, "Invalid", &invalid, None, &issues)),
        reply("batch", |out| {
            let head = ReplyHead { id: Some(id), ..ReplyHead::default() };
            let results = [Some("{\"type\":\"state\"}"), None, Some("{}")].into_iter();
            write_multi_reply(out, &head, ReplyKind::Batch, |out| write_batch_data(out, results, true));
        }),
        reply("batch-all", |out| {
            let head = ReplyHead { id: Some(id), ..ReplyHead::default() };
            let results = [Some("{}"), Some("{}")].into_iter();
            write_multi_reply(out, &head, ReplyKind::Batch, |out| write_batch_data(out, results, false));
        }),
    ]);
    goldens
}

/// A reply that a client reads back.
fn reply(name: &str, write: impl FnOnce(&mut String)) -> Golden {
    let mut text = String::new();
    write(&mut text);
    let read: MultiReply = serde_json::from_str(&text).expect("a reply reads back");
    if read.kind == ReplyKind::Error {
        let data = read.data.as_deref().map_or("", RawValue::get);
        serde_json::from_str::<MultiError>(data).expect("an error reads back");
    }
    assert_eq!(read.data.is_none(), read.kind == ReplyKind::Taken);
    Golden::reply(format!("multi-reply-{}", name.replace('_', "-")), text)
}

#[test]
fn every_frame_is_its_golden() {
    check(goldens());
}

#[test]
fn the_names_of_replies_are_the_same_for_reader_and_writer() {
    for kind in ReplyKind::ALL {
        assert_eq!(json(&kind), quoted(kind.name()));
    }
}

#[test]
fn a_batch_holds_4096_items_and_no_more() {
    let batch = |items: usize| {
        let item = r#"{"type":"state","session":"s"}"#;
        format!(r#"{{"id":1,"type":"batch","data":{{"items":[{}]}}}}"#, vec![item; items].join(","))
    };
    let full = batch(MAX_BATCH_ITEMS);
    let MultiWork::Batch(request) = MultiFrame::parse(&full).expect("a batch").work else {
        panic!("no batch")
    };
    assert_eq!((request.len(), request.items().filter(Result::is_ok).count()), (4096, 4096));
    for items in [MAX_BATCH_ITEMS + 1, 100_000] {
        let text = batch(items);
        let fault = MultiFrame::parse(&text).expect_err("too many items are refused").fault;
        let FrameError::Invalid(issues) = fault else { panic!("not an issue") };
        assert_eq!(issues[0].kind, "too_long");
    }
}

/// Splitting a list in the same pass finds what a pass of its own finds.
#[test]
fn items_are_split_as_they_stand() {
    let text = r#"{"id":1,"type":"batch","data":{"first":1,"items":[
        {"type":"step","session":"a","data":{"x":{"y":[{}]},"items":[{"z":1}]}} , {"type":"state","session":"b"}
    ],"timeout_s":1}}"#;
    let MultiWork::Batch(batch) = MultiFrame::parse(text).expect("a batch").work else { panic!("no batch") };
    let items: Vec<MultiRequest<'_>> = batch.items().map(|item| item.expect("an item")).collect();
    let Operation::Step(action) = &items[0].operation else { panic!("no step") };
    assert_eq!(action.json().get(), r#"{"x":{"y":[{}]},"items":[{"z":1}]}"#);
    assert_eq!(action.get("x").map(Json::get), Some(r#"{"y":[{}]}"#));
    assert_eq!(
        (items[1].session.as_ref(), batch.timeout_s.map(Seconds::get), batch.first),
        ("b", Some(1.0), Some(1))
    );
}
