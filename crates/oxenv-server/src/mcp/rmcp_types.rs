//! Between rmcp's types and what toolsets and sessions speak of: JSON as MCP spells it.
//!
//! Invariant: one item that is not as MCP has it never hides the others.

use oxenv_core::RequestError;
use oxenv_wire::{McpEra, RawJson, RpcError, raw};
use rmcp::model::{ErrorCode, ErrorData, PaginatedRequestParams, ProtocolVersion, RequestMetaObject};
use rmcp::service::{RequestContext, RoleServer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::log_level::LogLevel;

pub(super) type RmcpResult<T> = Result<T, ErrorData>;

/// The era of a request.
pub(super) fn era(context: &RequestContext<RoleServer>) -> McpEra {
    match context.protocol_version() {
        Some(version) if version >= ProtocolVersion::V_2026_07_28 => McpEra::Stateless,
        _ => McpEra::Handshake,
    }
}

#[expect(deprecated, reason = "the log is part of every revision so far")]
pub(super) fn severity(level: rmcp::model::LoggingLevel) -> LogLevel {
    let name = serde_json::to_value(level).unwrap_or_default();
    LogLevel::of(name.as_str().unwrap_or_default())
}

/// Lists come as one page, so no cursor was ever given out.
pub(super) fn first_page(request: Option<PaginatedRequestParams>) -> RmcpResult<()> {
    match request.and_then(|request| request.cursor) {
        None => Ok(()),
        Some(cursor) => {
            let message = format!("unknown cursor '{cursor}': lists come as one page");
            Err(ErrorData::new(ErrorCode::INVALID_PARAMS, message, None))
        }
    }
}

/// The items that are valid in MCP; an invalid one must not hide the others.
pub(super) fn items<T: DeserializeOwned>(items: Vec<Value>) -> Vec<T> {
    let read = |item: Value| {
        let name = item.get("name").cloned().unwrap_or_default();
        serde_json::from_value(item)
            .inspect_err(
                |error| tracing::warn!(%name, %error, "left out of a list: it is not as MCP spells it"),
            )
            .ok()
    };
    items.into_iter().filter_map(read).collect()
}

/// Parameters as they were sent: rmcp keeps their metadata elsewhere.
pub(super) fn with_meta<T: Serialize>(params: &T, meta: &RequestMetaObject) -> RmcpResult<RawJson> {
    let mut params = serde_json::to_value(params).map_err(internal)?;
    let meta = serde_json::to_value(meta).map_err(internal)?;
    if meta.as_object().is_some_and(|meta| !meta.is_empty()) {
        params["_meta"] = meta;
    }
    raw(&params).map_err(internal)
}

pub(super) fn wants_input(answer: &Value) -> bool {
    answer["resultType"] == "input_required"
}

pub(super) fn parsed<T: DeserializeOwned>(answer: Value) -> RmcpResult<T> {
    serde_json::from_value(answer)
        .map_err(|error| internal(format!("the answer of the toolset is not one of MCP's: {error}")))
}

pub(super) fn refused(fault: RpcError) -> ErrorData {
    let data = Some(fault.data).filter(|data| !data.is_null());
    ErrorData::new(ErrorCode(fault.code as i32), fault.message, data)
}

pub(super) fn declined(fault: RequestError) -> ErrorData {
    let data = Some(fault.data).filter(|data| !data.is_null());
    ErrorData::new(ErrorCode(fault.code), fault.message, data)
}

pub(super) fn internal(error: impl std::fmt::Display) -> ErrorData {
    ErrorData::new(ErrorCode::INTERNAL_ERROR, error.to_string(), None)
}

/// It has no reader: a caller that has cancelled waits for no answer.
pub(super) fn cancelled() -> ErrorData {
    ErrorData::new(ErrorCode::INTERNAL_ERROR, "the request was cancelled", None)
}
