//! Replies of the stock dialect, read.
//!
//! Invariant: unknown fields are ignored, so that servers of all versions are understood; a text that is no
//! reply of the protocol is reported as such, with its beginning.

use std::borrow::Cow;

use oxenv_wire::{Delivered, ErrorCode, Phase};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::error::{ClientError, Code, Result};
use crate::server_error::{self, excerpt};

/// How far the word `error` is looked for in a reply.
const ERROR_SEARCH_BYTES: usize = 48;

#[derive(Deserialize)]
struct StockReply<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

/// Reads the data of a reply that has that type.
///
/// # Errors
/// The error that the server sends, or that this is no such reply.
pub(super) fn read<T: DeserializeOwned>(text: &str, kind: &str, phase: Option<Phase>) -> Result<T> {
    let frame: StockReply<'_> = serde_json::from_str(text).map_err(|error| unreadable(text, &error))?;
    let data = frame.data.map_or("{}", RawValue::get);
    if frame.kind == kind {
        return serde_json::from_str(data).map_err(|error| unreadable(text, &error));
    }
    if frame.kind != "error" {
        let message = format!("the server answers with {:?} instead of {kind:?}", frame.kind);
        return Err(ClientError::new(Code::InvalidReply, message).with_delivered(Delivered::Yes));
    }
    let error = server_error::from_frame(data);
    Err(match (error.phase(), phase) {
        (None, Some(phase)) => error.with_phase(phase),
        _ => error,
    })
}

/// The error in a frame, if the server closes the session after it.
pub(super) fn session_ending_error(text: &str) -> Option<ClientError> {
    let head = text.as_bytes().get(..ERROR_SEARCH_BYTES).unwrap_or(text.as_bytes());
    if !head.windows(7).any(|word| word == b"\"error\"") {
        return None;
    }
    let frame: StockReply<'_> = serde_json::from_str(text).ok()?;
    if frame.kind != "error" {
        return None;
    }
    let error = server_error::from_frame(frame.data?.get());
    let Code::Server(code) = error.code() else { return None };
    let ends = matches!(
        code.stock(),
        ErrorCode::CapacityReached | ErrorCode::FactoryError | ErrorCode::SessionError
    );
    ends.then_some(error)
}

fn unreadable(text: &str, error: &serde_json::Error) -> ClientError {
    let message = format!("the server's reply cannot be read: {error}: {}", excerpt(text.as_bytes()));
    ClientError::new(Code::InvalidReply, message).with_delivered(Delivered::Yes)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::result::StepResult;

    fn step(text: &str) -> Result<StepResult> {
        read(text, "observation", Some(Phase::Step))
    }

    #[test]
    fn both_versions_of_an_observation() {
        let old = step(r#"{"type":"observation","data":{"observation":{"a":1},"reward":true,"done":false}}"#);
        let old = old.unwrap();
        assert_eq!((old.observation.get(), old.metadata.is_none()), (r#"{"a":1}"#, true));
        let new = r#"{"data":{"observation":{},"reward":null,"done":true,"metadata":{"k":1},"x":0},"type":"observation"}"#;
        let new = step(new).unwrap();
        assert_eq!((new.done, new.reward, new.metadata.unwrap().get()), (true, None, r#"{"k":1}"#));
    }

    #[test]
    fn a_failure_of_a_stock_server_and_one_of_ours() {
        let stock = r#"{"type":"error","data":{"message":"boom","code":"EXECUTION_ERROR"}}"#;
        let stock = step(stock).unwrap_err();
        assert_eq!(stock.code(), Code::Server(ErrorCode::ExecutionError));
        assert_eq!((stock.delivered(), stock.phase()), (Delivered::Yes, Some(Phase::Step)));
        let ours = r#"{"type":"error","data":{"message":"late","code":"EXECUTION_ERROR","oxenv":{"code":"DEADLINE_EXCEEDED","kind":"timeout","phase":"tool","delivered":"maybe","retryable":false,"new":1}}}"#;
        let ours = step(ours).unwrap_err();
        assert_eq!(ours.code(), Code::Server(ErrorCode::DeadlineExceeded));
        assert_eq!((ours.delivered(), ours.phase()), (Delivered::Maybe, Some(Phase::Tool)));
    }

    #[test]
    fn issues_are_told_and_kept() {
        let text = r#"{"type":"error","data":{"message":"Invalid message","code":"VALIDATION_ERROR","errors":[{"type":"missing","loc":["message"],"msg":"Field required","input":{}}]}}"#;
        let error = step(text).unwrap_err();
        assert_eq!(error.message(), "Invalid message: message: Field required");
        assert_eq!(error.data()[0]["type"], "missing");
    }

    #[test]
    fn a_code_that_is_not_known_yet_is_read_as_the_nearest() {
        let text = r#"{"type":"error","data":{"message":"m","code":"EXECUTION_ERROR","oxenv":{"code":"FROM_2030","delivered":"no"}}}"#;
        let error = step(text).unwrap_err();
        assert_eq!(
            (error.code(), error.delivered()),
            (Code::Server(ErrorCode::ExecutionError), Delivered::No)
        );
    }

    #[test]
    fn what_is_no_reply_is_said_to_be_none() {
        for text in ["", "[]", "{}", r#"{"type":"state","data":{}}"#, r#"{"type":"observation","data":[]}"#] {
            let error = step(text).unwrap_err();
            assert_eq!((error.code(), error.delivered()), (Code::InvalidReply, Delivered::Yes), "{text}");
        }
        assert!(read::<Value>(r#"{"type":"state","data":{"a":1}}"#, "state", None).is_ok());
    }

    #[test]
    fn only_some_failures_end_a_session() {
        let full = r#"{"type":"error","data":{"message":"Server at capacity","code":"CAPACITY_REACHED"}}"#;
        let error = session_ending_error(full).unwrap();
        assert_eq!((error.delivered(), error.is_retryable()), (Delivered::No, true));
        assert!(
            session_ending_error(r#"{"type":"error","data":{"message":"","code":"EXECUTION_ERROR"}}"#)
                .is_none()
        );
        assert!(
            session_ending_error(
                r#"{"type":"observation","data":{"observation":{"error":"SESSION_ERROR"}}}"#
            )
            .is_none()
        );
    }
}
