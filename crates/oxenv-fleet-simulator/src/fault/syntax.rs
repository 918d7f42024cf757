//! Faults as text.
//!
//! Invariant: `text.parse::<Fault>()` of what `Display` writes is the same fault.

use std::fmt::{self, Write};
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Effect, Fault, FaultResponse, FaultTarget, PendingOutcome, ResponseBody};

/// Effects that are written as a name alone.
const NAMES: [(&str, Effect); 22] = [
    ("drop", Effect::Drop),
    ("drop-after", Effect::DropAfter),
    ("hang", Effect::Hang),
    ("hang-after", Effect::HangAfter),
    ("cut", Effect::Cut),
    ("garbage", Effect::Garbage),
    ("refuse", Effect::Refuse),
    ("expire", Effect::Expire),
    ("pending", Effect::Pending(PendingOutcome::Running)),
    ("pending-then-error", Effect::Pending(PendingOutcome::Error)),
    ("pending-then-stopped", Effect::Pending(PendingOutcome::Stopped)),
    ("pending-for-ever", Effect::Pending(PendingOutcome::Pending)),
    ("lose-session", Effect::LoseSession),
    ("lose-session-in-call", Effect::LoseSessionInCall),
    ("empty-tools", Effect::EmptyTools),
    ("is-error", Effect::IsError),
    ("null-image", Effect::NullImage),
    ("mcp-image", Effect::McpImage),
    ("json", Effect::Json),
    ("sse", Effect::Sse),
    ("no-session", Effect::NoSession),
    ("old-resources", Effect::OldResources),
];

/// Why a text is not a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultError(String);

impl FaultError {
    pub(super) fn misplaced(place: FaultTarget, effect: &Effect) -> Self {
        let effect = effect_text(effect);
        FaultError(format!("'{effect}' cannot happen at '{place}'"))
    }
}

impl fmt::Display for FaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for FaultError {}

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let error = |why: String| FaultError(format!("'{text}' is no fault: {why}"));
        let (place, effect) = text.split_once(':').ok_or_else(|| {
            error("write PLACE:EFFECT or PLACE:EFFECT*TIMES, such as create:429*2".to_owned())
        })?;
        let place = FaultTarget::parse(place).ok_or_else(|| error(format!("'{place}' is no place")))?;
        let (effect, times) = parse_effect(effect).map_err(error)?;
        let fault = Fault::new(place, effect)?;
        Ok(match times {
            Some(times) => fault.times(times),
            None => fault,
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.target, effect_text(&self.effect))?;
        match self.times {
            Some(times) => write!(f, "*{times}"),
            None => Ok(()),
        }
    }
}

fn parse_effect(text: &str) -> Result<(Effect, Option<u32>), String> {
    if text.starts_with(|first: char| first.is_ascii_digit()) && !is_response_name(text) {
        let (reply, rest) = parse_response(text)?;
        return Ok((Effect::Respond(reply), parse_times(rest)?));
    }
    let at = text.find('*').unwrap_or(text.len());
    let (name, times) = text.split_at(at);
    let times = parse_times(times)?;
    if let Some(time) = name.strip_prefix("slow=") {
        return Ok((Effect::Slow(parse_time(time)?), times));
    }
    if let Some((_, effect)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Ok((effect.clone(), times));
    }
    match named_response(name) {
        Some(reply) => Ok((Effect::Respond(reply), times)),
        None => Err(format!("'{name}' is no effect; write a status, such as 503, or a name, such as drop")),
    }
}

/// Whether it is an answer's name although it begins with a status.
fn is_response_name(text: &str) -> bool {
    text.get(3..4) == Some("-")
}

fn parse_times(text: &str) -> Result<Option<u32>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let times = text.strip_prefix('*').and_then(|times| times.parse().ok()).filter(|times| *times > 0);
    times
        .map(Some)
        .ok_or_else(|| format!("'{text}' does not say how often; write *2 for the first two requests"))
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let number =
        |text: &str, scale: u64| text.parse::<u64>().ok().and_then(|number| number.checked_mul(scale));
    let millis = match text.strip_suffix("ms") {
        Some(millis) => number(millis, 1),
        None => text.strip_suffix('s').and_then(|seconds| number(seconds, 1000)),
    };
    millis.map(Duration::from_millis).ok_or_else(|| format!("'{text}' is no time; write 2s or 250ms"))
}

/// `STATUS[~SECONDS][=BODY]`, and what comes after it.
fn parse_response(text: &str) -> Result<(FaultResponse, &str), String> {
    let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (status, rest) = text.split_at(digits(text));
    let status: u16 = status
        .parse()
        .ok()
        .filter(|status| (200..=599).contains(status))
        .ok_or_else(|| format!("'{status}' is no status that a server answers with"))?;
    let mut reply = default_response(status);
    let mut rest = rest;
    if let Some(after) = rest.strip_prefix('~') {
        let (seconds, after) = after.split_at(digits(after));
        reply.retry_after = Some(seconds.parse().map_err(|_| "after '~' come seconds".to_owned())?);
        rest = after;
    }
    if let Some(body) = rest.strip_prefix('=') {
        let (body, after) = parse_body(body)?;
        reply.body = body;
        rest = after;
    }
    Ok((reply, rest))
}

fn parse_body(text: &str) -> Result<(ResponseBody, &str), String> {
    let (html, json) = match text.strip_prefix("html") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    // Numbers and literals do not mark their own end.
    let closes = json.starts_with(['{', '[', '"']);
    let end = if closes { json.len() } else { json.find('*').unwrap_or(json.len()) };
    let mut values = serde_json::Deserializer::from_str(&json[..end]).into_iter::<Value>();
    let value = match values.next() {
        Some(Ok(value)) => value,
        Some(Err(error)) => {
            return Err(format!("the body is not JSON: {error}; plain text is a JSON string"));
        }
        None => return Err("after '=' comes a body".to_owned()),
    };
    let rest = json.get(values.byte_offset()..).unwrap_or_default();
    match value {
        Value::String(page) if html => Ok((ResponseBody::Html(page), rest)),
        _ if html => Err("after html comes a JSON string".to_owned()),
        Value::String(text) => Ok((ResponseBody::Text(text), rest)),
        value => Ok((ResponseBody::Json(value), rest)),
    }
}

fn effect_text(effect: &Effect) -> String {
    if let Some((name, _)) = NAMES.iter().find(|(_, known)| known == effect) {
        return (*name).to_owned();
    }
    match effect {
        Effect::Slow(time) if time.as_millis() % 1000 == 0 => format!("slow={}s", time.as_secs()),
        Effect::Slow(time) => format!("slow={}ms", time.as_millis()),
        Effect::Respond(reply) => response_text(reply),
        // Every other has a name.
        _ => String::new(),
    }
}

fn response_text(reply: &FaultResponse) -> String {
    let mut text = reply.status.to_string();
    if let Some(seconds) = reply.retry_after {
        // A string takes all that is written to it.
        let _ = write!(text, "~{seconds}");
    }
    if reply.body != default_response(reply.status).body {
        text.push('=');
        text += &match &reply.body {
            ResponseBody::Json(value) => value.to_string(),
            ResponseBody::Text(plain) => Value::from(plain.as_str()).to_string(),
            ResponseBody::Html(page) => format!("html{}", Value::from(page.as_str())),
        };
    }
    text
}

impl FaultResponse {
    fn json(status: u16, body: Value) -> Self {
        FaultResponse { status, retry_after: None, body: ResponseBody::Json(body) }
    }

    fn detail(status: u16, detail: &str) -> Self {
        FaultResponse::json(status, json!({ "detail": detail }))
    }
}

/// The default answer of a status.
fn default_response(status: u16) -> FaultResponse {
    let reply = |body| FaultResponse { status, retry_after: None, body };
    match status {
        401 => FaultResponse::detail(401, "Invalid API key"),
        404 => FaultResponse::detail(404, "Not Found"),
        422 => FaultResponse::json(
            422,
            json!({"detail": [{"type": "missing", "loc": ["body", "env_key"], "msg": "Field required",
                "input": {}}]}),
        ),
        429 => FaultResponse::detail(429, "Rate limit exceeded"),
        502 | 504 => reply(ResponseBody::Html(format!(
            "<html>\r\n<head><title>{status} Bad Gateway</title></head>\r\n<body></body>\r\n</html>\r\n"
        ))),
        503 => {
            reply(ResponseBody::Text("upstream connect error or disconnect/reset before headers".to_owned()))
        }
        _ => FaultResponse::detail(status, &format!("Simulated failure with status {status}")),
    }
}

fn named_response(name: &str) -> Option<FaultResponse> {
    let limit = "You have 10 running instances out of a maximum of 10";
    Some(match name {
        "limit" => FaultResponse::json(
            403,
            json!({"detail": {"error_type": "instance_limit_exceeded", "message": limit,
                "running_instances": 10, "instance_limit": 10}}),
        ),
        "403-limit" => {
            FaultResponse::detail(403, &format!("Instance limit reached. {limit}. Please stop one."))
        }
        "403-team" => FaultResponse::detail(403, "Team not found"),
        "403-environment" => {
            FaultResponse::detail(403, "Team 'team-1' does not have permission for environment 'fira'")
        }
        "403-permission" => FaultResponse::detail(403, "Not allowed"),
        "400-region" => FaultResponse::detail(400, "Region mars-1 not supported. Please use ['us-west-1']"),
        "400-environment" => FaultResponse::detail(400, "Environment 'fira' not found"),
        "400-version" => FaultResponse::detail(400, "Version 'v9' not found for 'fira'"),
        "400-retryable" => FaultResponse::json(
            400,
            json!({"detail": {"error": "capacity", "message": "no capacity right now", "retryable": true}}),
        ),
        "400-retryable-text" => FaultResponse::detail(
            400,
            r#"{"error": "capacity", "message": "no capacity right now", "retryable": true}"#,
        ),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn round_trip(text: &str) -> Fault {
        let fault: Fault = text.parse().unwrap();
        assert_eq!(fault.to_string().parse::<Fault>().as_ref(), Ok(&fault), "{fault}");
        fault
    }

    #[test]
    fn every_form_is_read_as_it_is_written() {
        for text in ["create:429*2", "create:429~1*1", "mcp.list:502", "api/v1/mcp.call:slow=250ms*3"] {
            assert_eq!(round_trip(text).to_string(), text);
        }
        for name in ["limit", "403-limit", "403-team", "403-environment", "403-permission", "400-region"] {
            round_trip(&format!("create:{name}*1"));
        }
        for name in ["400-environment", "400-version", "400-retryable", "400-retryable-text", "503", "504~7"]
        {
            round_trip(&format!("create:{name}"));
        }
        for body in [r#""a*3""#, r#"{"detail":[1,2.5,null]}"#, r#"html"<b>*2""#, "7", "null", r#"" ~=\n""#] {
            for times in ["", "*4"] {
                round_trip(&format!("reset:500={body}{times}"));
            }
        }
        for (name, effect) in NAMES {
            let places =
                ["create", "instance", "mcps", "resources"].map(|place| FaultTarget::parse(place).unwrap());
            let fault = places.into_iter().find_map(|place| Fault::new(place, effect.clone()).ok()).unwrap();
            assert!(round_trip(&fault.to_string()).to_string().ends_with(name));
        }
    }

    #[test]
    fn what_is_no_fault_is_told() {
        for (text, why) in [
            ("create", "write PLACE:EFFECT"),
            ("creat:429", "'creat' is no place"),
            ("create:429*0", "how often"),
            ("create:429*x", "how often"),
            ("create:42", "no status"),
            ("create:999", "no status"),
            ("create:429~x", "seconds"),
            ("create:500=oops", "not JSON"),
            ("create:500=", "comes a body"),
            ("create:slow=2", "no time"),
            ("create:explode", "'explode' is no effect"),
            ("create:empty-tools", "cannot happen at 'create'"),
            ("mcp.call:empty-tools", "cannot happen at 'mcp.call'"),
            ("mcp:refuse", "cannot happen at 'mcp'"),
            ("create:ü", "no effect"),
        ] {
            let error = text.parse::<Fault>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
