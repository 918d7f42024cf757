//! The bytes of requests and replies, as in a recorded exchange of openenv 0.10.0's echo environment.
//!
//! Invariant: a reply has the same bytes as oxenv's reply to the same request.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// The reply to `reset`.
pub(crate) const RESET: &str = concat!(
    r#"{"type":"observation","data":{"observation":{"#,
    r#""metadata":{"status":"ready","message":"Echo environment ready!"}},"reward":0.0,"done":false,"#,
    r#""metadata":{"status":"ready","message":"Echo environment ready!"}}}"#,
);

/// A frame of `/ws`.
#[derive(Deserialize)]
pub(crate) struct Frame<'a> {
    #[serde(rename = "type", borrow)]
    pub(crate) kind: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) data: Option<Action<'a>>,
}

/// The body of `POST /step`.
#[derive(Deserialize)]
pub(crate) struct StepBody<'a> {
    #[serde(borrow)]
    pub(crate) action: Action<'a>,
}

/// A `call_tool` action.
#[derive(Deserialize)]
pub(crate) struct Action<'a> {
    #[serde(borrow)]
    pub(crate) tool_name: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) arguments: Arguments<'a>,
}

/// The body of `POST /mcp`.
#[derive(Deserialize)]
pub(crate) struct Call<'a> {
    #[serde(borrow)]
    pub(crate) id: &'a RawValue,
    #[serde(borrow)]
    pub(crate) method: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) params: Params<'a>,
}

/// The params of `tools/call`.
#[derive(Deserialize)]
pub(crate) struct Params<'a> {
    #[serde(borrow)]
    pub(crate) arguments: Arguments<'a>,
}

/// The arguments of `echo_message`.
#[derive(Deserialize)]
pub(crate) struct Arguments<'a> {
    #[serde(borrow)]
    pub(crate) message: Cow<'a, str>,
}

/// The observation frame that answers a step on `/ws`.
pub(crate) fn frame(action: &Action<'_>) -> serde_json::Result<String> {
    let mut reply = String::with_capacity(512);
    reply.push_str(r#"{"type":"observation","data":{"#);
    write_observation(&mut reply, action)?;
    reply.push_str("}}");
    Ok(reply)
}

/// The body that answers `POST /step`.
pub(crate) fn step(action: &Action<'_>) -> serde_json::Result<String> {
    let mut reply = String::with_capacity(512);
    reply.push('{');
    write_observation(&mut reply, action)?;
    reply.push_str(r#","metadata":null}"#);
    Ok(reply)
}

/// The body that answers `tools/call` in OpenEnv's dialect.
pub(crate) fn result(call: &Call<'_>) -> serde_json::Result<String> {
    let mut reply = String::with_capacity(512);
    reply.push_str(r#"{"jsonrpc":"2.0","id":"#);
    reply.push_str(call.id.get());
    reply.push_str(r#","result":"#);
    write_tool_result(&mut reply, &serde_json::to_string(&call.params.arguments.message)?);
    reply.push('}');
    Ok(reply)
}

/// The body that answers `tools/call` of MCP 2026-07-28.
pub(crate) fn mcp_result(call: &Call<'_>) -> serde_json::Result<String> {
    let message = serde_json::to_string(&call.params.arguments.message)?;
    let mut reply = String::with_capacity(512);
    for part in [
        r#"{"jsonrpc":"2.0","id":"#,
        call.id.get(),
        r#","result":{"resultType":"complete","content":[{"type":"text","text":"#,
        &message,
        r#"}],"structuredContent":{"result":"#,
        &message,
        r#"},"isError":false}}"#,
    ] {
        reply.push_str(part);
    }
    Ok(reply)
}

fn write_observation(reply: &mut String, action: &Action<'_>) -> serde_json::Result<()> {
    reply.push_str(r#""observation":{"metadata":{},"tool_name":"#);
    reply.push_str(&serde_json::to_string(&action.tool_name)?);
    reply.push_str(r#","result":"#);
    write_tool_result(reply, &serde_json::to_string(&action.arguments.message)?);
    reply.push_str(r#","error":null},"reward":null,"done":false"#);
    Ok(())
}

/// The result of the tool; `message` is already JSON.
fn write_tool_result(reply: &mut String, message: &str) {
    for part in [
        r#"{"content":[{"type":"text","text":"#,
        message,
        r#","annotations":null,"meta":null}],"structured_content":{"result":"#,
        message,
        r#"},"meta":{"fastmcp":{"wrap_result":true}},"data":"#,
        message,
        r#","is_error":false}"#,
    ] {
        reply.push_str(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_those_of_the_recorded_exchange() {
        let request = concat!(
            r#"{"type": "step", "data": {"type": "call_tool", "#,
            r#""tool_name": "echo_message", "arguments": {"message": "pre"}}}"#,
        );
        let parsed: Frame<'_> = serde_json::from_str(request).unwrap();
        let recorded = concat!(
            r#"{"type":"observation","data":{"observation":{"metadata":{},"tool_name":"echo_message","#,
            r#""result":{"content":[{"type":"text","text":"pre","annotations":null,"meta":null}],"#,
            r#""structured_content":{"result":"pre"},"meta":{"fastmcp":{"wrap_result":true}},"data":"pre","#,
            r#""is_error":false},"error":null},"reward":null,"done":false}}"#,
        );
        assert_eq!(frame(&parsed.data.unwrap()).unwrap(), recorded);

        let request =
            r#"{"action":{"type":"call_tool","tool_name":"echo_message","arguments":{"message":"hi"}}}"#;
        let parsed: StepBody<'_> = serde_json::from_str(request).unwrap();
        let recorded = concat!(
            r#"{"observation":{"metadata":{},"tool_name":"echo_message","result":"#,
            r#"{"content":[{"type":"text","text":"hi","annotations":null,"meta":null}],"#,
            r#""structured_content":{"result":"hi"},"meta":{"fastmcp":{"wrap_result":true}},"data":"hi","#,
            r#""is_error":false},"error":null},"reward":null,"done":false,"metadata":null}"#,
        );
        assert_eq!(step(&parsed.action).unwrap(), recorded);

        let request = concat!(
            r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","#,
            r#""params":{"name":"echo_message","arguments":{"message":"hi"}}}"#,
        );
        let parsed: Call<'_> = serde_json::from_str(request).unwrap();
        let recorded = concat!(
            r#"{"jsonrpc":"2.0","id":2,"result":"#,
            r#"{"content":[{"type":"text","text":"hi","annotations":null,"meta":null}],"#,
            r#""structured_content":{"result":"hi"},"meta":{"fastmcp":{"wrap_result":true}},"data":"hi","#,
            r#""is_error":false}}"#,
        );
        assert_eq!(result(&parsed).unwrap(), recorded);

        let expected = concat!(
            r#"{"jsonrpc":"2.0","id":2,"result":{"resultType":"complete","#,
            r#""content":[{"type":"text","text":"hi"}],"#,
            r#""structuredContent":{"result":"hi"},"isError":false}}"#,
        );
        assert_eq!(mcp_result(&parsed).unwrap(), expected);
    }
}
