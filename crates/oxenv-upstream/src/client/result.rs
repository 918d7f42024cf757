//! A tool's result, as its server sent it, in our own shape.

use oxenv_core::RequestError;
use oxenv_wire::{RpcCode, ToolResult};
use serde_json::Value;

use super::error::UpstreamError;

/// Reads a result of `tools/call` of a tool, which may declare the schema of its results.
///
/// # Errors
/// When it is no result of a call; the call has run then.
pub(crate) fn tool_result(text: &str, output_schema: Option<&Value>) -> Result<ToolResult, UpstreamError> {
    let garbage = |what: &dyn std::fmt::Display| {
        let message = format!("its server sent what is no tool result: {what}");
        UpstreamError::Refused(RequestError::new(RpcCode::InternalError, message))
    };
    if !text.starts_with('{') {
        return Err(garbage(&"it is no object"));
    }
    let result = ToolResult::parse(text).map_err(|error| garbage(&error))?;
    Ok(result.unwrapped_by(output_schema))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(text: &str) -> String {
        let mut out = String::new();
        tool_result(text, None).unwrap().write_mcp(&mut out);
        out
    }

    #[test]
    fn what_is_not_plain_text_keeps_its_bytes() {
        for block in [
            r#"{"type":"text","text":"a","annotations":{"audience":["user"],"new":1.50}}"#,
            r#"{"type":"image","data":"AAAA","mimeType":"image/png","later":12345678901234567890123}"#,
            r#"{"type":"resource","resource":{"uri":"a:b","text":"x","other":[null]},"_meta":{"k":1}}"#,
            r#"{"type":"not_yet_known","x":"\u00e9"}"#,
        ] {
            let text = format!(r#"{{"content":[{block}],"isError":false}}"#);
            assert_eq!(written(&text), text);
        }
        let text = r#"{"content":[{"type":"text","text":"5"}],"structuredContent":{"a":1.0,"b":123456789012345678901},"_meta":{"x": 1},"isError":true}"#;
        assert_eq!(written(text), text);
    }

    #[test]
    fn a_value_is_unwrapped_where_its_server_says_that_it_is_wrapped() {
        let data = |text: &str, schema: Option<Value>| {
            let result = tool_result(text, schema.as_ref()).unwrap();
            assert_eq!(written(text), text, "MCP clients get what was sent");
            result.data().to_owned()
        };
        let by_meta = r#"{"content":[],"structuredContent":{"result":"hi"},"_meta":{"fastmcp":{"wrap_result":true},"v/x":{}},"isError":false}"#;
        assert_eq!(data(by_meta, None), r#""hi""#);
        let plain = r#"{"content":[],"structuredContent":{"result":[1.50]},"isError":false}"#;
        let wraps = json!({ "type": "object", "x-fastmcp-wrap-result": true });
        assert_eq!(data(plain, Some(wraps.clone())), "[1.50]");
        for schema in
            [None, Some(json!({ "type": "object" })), Some(json!({ "x-fastmcp-wrap-result": "no" }))]
        {
            assert_eq!(data(plain, schema), r#"{"result":[1.50]}"#);
        }
        for kept in [
            r#"{"content":[],"structuredContent":{"result":1,"more":2},"isError":false}"#,
            r#"{"content":[],"structuredContent":{"other":1},"isError":false}"#,
            r#"{"content":[],"structuredContent":{"result":1},"isError":true}"#,
        ] {
            assert!(kept.contains(&data(kept, Some(wraps.clone()))));
        }
    }

    #[test]
    fn what_is_absent_or_old_is_taken() {
        assert_eq!(written("{}"), r#"{"content":[],"isError":false}"#);
        let text = r#"{"content":null,"structuredContent":null,"isError":null}"#;
        assert_eq!(written(text), r#"{"content":[],"isError":false}"#);
        assert_eq!(
            written(r#"{"toolResult":{"a":1}}"#),
            r#"{"content":[{"type":"text","text":"{\"a\":1}"}],"isError":false}"#
        );
    }

    #[test]
    fn a_want_of_input_is_kept_whole() {
        let text = r#"{"resultType":"input_required","inputRequests":{"a":{}},"requestState":"s"}"#;
        let result = tool_result(text, None).unwrap();
        assert_eq!(result.input_required.unwrap().get(), text);
        let text = r#"{"resultType":"complete","content":[]}"#;
        assert!(tool_result(text, None).unwrap().input_required.is_none());
    }

    #[test]
    fn what_is_no_result_is_refused() {
        for text in ["[]", "5", r#"{"content":5}"#, r#"{"content":[],"isError":"no"}"#] {
            let Err(UpstreamError::Refused(fault)) = tool_result(text, None) else {
                panic!("{text} was taken")
            };
            assert!(
                fault.message.starts_with("its server sent what is no tool result: "),
                "{}",
                fault.message
            );
        }
    }
}
