//! The closed sets of words: error codes and the stock codes they map to, kinds, phases, tool errors.
//!
//! Invariant: a new variant without a line here fails, because the sources are counted.

use oxenv_wire::{Delivered, ErrorCode, FailureKind, Phase, RESERVED_TOOL_NAMES, ToolErrorType};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::golden::{Golden, check};
use crate::pretty::{array, json, object, quoted};

/// Every error code.
pub(crate) const CODES: [ErrorCode; 33] = ErrorCode::ALL;
const KINDS: [FailureKind; 4] =
    [FailureKind::Action, FailureKind::Environment, FailureKind::Timeout, FailureKind::Infrastructure];
const DELIVERED: [Delivered; 3] = [Delivered::No, Delivered::Maybe, Delivered::Yes];
const PHASES: [Phase; 5] = [Phase::Boot, Phase::Reset, Phase::Step, Phase::Tool, Phase::Verify];
const TOOL_ERRORS: [ToolErrorType; 5] = [
    ToolErrorType::ExecutionError,
    ToolErrorType::InvalidArgs,
    ToolErrorType::TransportError,
    ToolErrorType::ToolNotFound,
    ToolErrorType::Timeout,
];

pub(crate) fn goldens() -> Vec<Golden> {
    let codes: Vec<(String, String)> = CODES.iter().map(|code| (word(code), json(&code.stock()))).collect();
    let codes: Vec<(&str, String)> =
        codes.iter().map(|(code, stock)| (code.as_str(), stock.clone())).collect();
    let words = object(&[
        ("error codes and the stock code each travels as", object(&codes)),
        ("failure kinds", array(KINDS.iter().map(json))),
        ("delivered", array(DELIVERED.iter().map(json))),
        ("phases", array(PHASES.iter().map(json))),
        ("tool error types", array(TOOL_ERRORS.iter().map(json))),
        ("reserved tool names", array(RESERVED_TOOL_NAMES.iter().map(|name| quoted(name)))),
    ]);
    vec![Golden::new("words", words)]
}

/// The name of a variant on the wire.
pub(crate) fn word<T: Serialize>(value: &T) -> String {
    json(value).trim_matches('"').to_owned()
}

#[test]
fn every_word_is_its_golden() {
    check(goldens());
}

#[test]
fn words_read_back_and_none_is_forgotten() {
    round_trip(&CODES, "ErrorCode");
    round_trip(&KINDS, "FailureKind");
    round_trip(&DELIVERED, "Delivered");
    round_trip(&PHASES, "Phase");
    round_trip(&TOOL_ERRORS, "ToolErrorType");
}

#[test]
fn a_stock_code_is_its_own_stock_code() {
    for code in CODES {
        assert_eq!(code.stock().stock(), code.stock(), "{code:?}");
    }
}

fn round_trip<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(values: &[T], name: &str) {
    for value in values {
        let back: T = serde_json::from_str(&json(value)).expect("a word reads back");
        assert_eq!(&back, value);
    }
    let source = include_str!("../../src/error.rs");
    let start = source.find(&format!("pub enum {name} {{")).expect("the enum is where it was");
    let body = &source[start..];
    let variants = body.lines().skip(1).take_while(|line| *line != "}").filter(|line| {
        let line = line.trim();
        line.starts_with(|first: char| first.is_ascii_uppercase()) && line.ends_with(',')
    });
    assert_eq!(variants.count(), values.len(), "{name} has variants that no golden file shows");
}
