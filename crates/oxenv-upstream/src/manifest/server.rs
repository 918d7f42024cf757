//! Reads `mcp_server`: how a toolset is reached.
//!
//! Invariant: a key that the transport has no use for is an error, never ignored.

use std::collections::BTreeMap;

use oxenv_core::Scope;

use crate::manifest::Transport;
use crate::manifest::keys::{ENTRY_KEYS, SERVER_KEYS};
use crate::manifest::name::{MAX_NAME, check_name};
use crate::manifest::reader::{Fields, Reader, YamlValue, excerpt_of};
use crate::manifest::text::{Text, TextUse, literal_text};
use crate::manifest::token;

/// The transports, as they are written; `http` has two more spellings.
pub(super) const TRANSPORTS: [(&str, Kind); 6] = [
    ("stdio", Kind::Stdio),
    ("http", Kind::Http),
    ("builtin", Kind::Builtin),
    ("python", Kind::Python),
    ("streamable_http", Kind::Http),
    ("streamable-http", Kind::Http),
];

/// A kind of transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Stdio,
    Http,
    Builtin,
    Python,
}

/// Headers that the MCP client writes itself.
const OUR_HEADERS: [&str; 4] = ["accept", "mcp-session-id", "mcp-protocol-version", "last-event-id"];

/// Reports what is wrong with the name of a variable or header, or with its value.
type Check = fn(&str, Option<&Text>) -> Result<(), &'static str>;

impl Kind {
    /// The key that it requires, and that identifies it where `transport` is absent.
    pub(super) fn key(self) -> &'static str {
        match self {
            Kind::Stdio => "command",
            Kind::Http => "url",
            Kind::Builtin => "toolset",
            Kind::Python => "path",
        }
    }

    /// Its name in a manifest.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Stdio => "stdio",
            Kind::Http => "http",
            Kind::Builtin => "builtin",
            Kind::Python => "python",
        }
    }

    /// The keys that it reads.
    pub(super) fn keys(self) -> &'static [&'static str] {
        match self {
            Kind::Stdio => &["transport", "command", "args", "env", "cwd"],
            Kind::Http => &["transport", "url", "headers"],
            Kind::Builtin => &["transport", "toolset"],
            Kind::Python => &["transport", "path", "env"],
        }
    }

    /// Whether such a toolset belongs to the server or to a session, unless the manifest sets it.
    pub(super) fn default_scope(self) -> Scope {
        match self {
            Kind::Stdio | Kind::Builtin | Kind::Python => Scope::Session,
            Kind::Http => Scope::Server,
        }
    }
}

/// Which kind of transport `mcp_server` is about, with its keys.
pub(super) fn kind<'a>(spot: &YamlValue<'a>, reader: &mut Reader<'_>) -> Option<(Kind, Fields<'a>)> {
    let hint = |key: &str| match key {
        "type" => Some("did you mean 'transport'?".to_owned()),
        _ if ENTRY_KEYS.contains(&key) => Some("it belongs to the toolset, beside mcp_server".to_owned()),
        _ => None,
    };
    let fields = spot.fields("mcp_server", &SERVER_KEYS, &hint, reader)?;
    let kind = match fields.get("transport") {
        Some(spot) => named(spot, reader)?,
        None => derived(&fields, reader)?,
    };
    for key in SERVER_KEYS.iter().filter(|key| !kind.keys().contains(key)) {
        if let Some(spot) = fields.get(key) {
            let message = format!("'{key}' has no meaning for transport {}", kind.name());
            reader.error_with(
                spot,
                message,
                format!("remove it, or use another transport than {}", kind.name()),
            );
        }
    }
    Some((kind, fields))
}

/// The transport itself.
pub(super) fn transport(
    kind: Kind,
    fields: &Fields<'_>,
    usage: TextUse,
    reader: &mut Reader<'_>,
) -> Option<Transport> {
    match kind {
        Kind::Stdio => stdio(fields, usage, reader),
        Kind::Http => {
            let headers = texts("headers", check_header, fields, usage, reader);
            let url = url(fields.required("url", reader)?, usage, reader)?;
            Some(Transport::Http { url, headers })
        }
        Kind::Builtin => {
            let spot = fields.required("toolset", reader)?;
            let toolset = spot.text(reader)?;
            match check_name(toolset, MAX_NAME) {
                Ok(()) => Some(Transport::Builtin { toolset: toolset.to_owned() }),
                Err(why) => {
                    reader.error(spot, format!("{} '{}' {why}", spot.path, excerpt_of(toolset)));
                    None
                }
            }
        }
        Kind::Python => {
            let env = texts("env", check_variable, fields, usage, reader);
            let spot = fields.required("path", reader)?;
            let path = spot.text(reader)?;
            if path.is_empty() || path.contains('\0') {
                reader.error(spot, format!("{} is no path", spot.path));
                return None;
            }
            Some(Transport::Python { path: reader.folder().join(path), env })
        }
    }
}

fn named(spot: &YamlValue<'_>, reader: &mut Reader<'_>) -> Option<Kind> {
    if literal_text(spot) == Some("sse") {
        let message = "transport sse is not supported: MCP has replaced it by Streamable HTTP";
        reader.error_with(spot, message, "use transport: http with the server's newer endpoint, often /mcp");
        return None;
    }
    spot.one_of(&TRANSPORTS, reader)
}

fn derived(fields: &Fields<'_>, reader: &mut Reader<'_>) -> Option<Kind> {
    let kinds = [Kind::Stdio, Kind::Http, Kind::Builtin, Kind::Python];
    let given: Vec<Kind> = kinds.into_iter().filter(|kind| fields.may_have(kind.key())).collect();
    match given[..] {
        [kind] => Some(kind),
        [] => {
            let message = "mcp_server has neither command nor url";
            reader.error_with(
                &fields.spot,
                message,
                "write command for a program, url for a server that runs",
            );
            None
        }
        [first, second, ..] => {
            let message = format!("mcp_server has both {} and {}", first.key(), second.key());
            reader.error_with(&fields.spot, message, "keep the one that is meant");
            None
        }
    }
}

fn stdio(fields: &Fields<'_>, usage: TextUse, reader: &mut Reader<'_>) -> Option<Transport> {
    let arg_spots = fields.get("args").and_then(|spot| spot.list(reader)).unwrap_or_default();
    let args: Vec<Text> = arg_spots.iter().filter_map(|spot| argument(spot, usage, reader)).collect();
    let env = texts("env", check_variable, fields, usage, reader);
    let cwd_spot = fields.get("cwd");
    let cwd = cwd_spot.and_then(|spot| Text::read(spot, usage, reader));
    if usage.per_session {
        arg_spots.iter().chain(cwd_spot).for_each(|spot| warn_of_shared_workspace(spot, reader));
    }
    let spot = fields.required("command", reader)?;
    if literal_text(spot).is_some_and(|command| command.trim().is_empty()) {
        reader.error(spot, format!("{} is empty", spot.path));
        return None;
    }
    let command = Text::read(spot, usage, reader)?;
    warn_of_github_variable(fields, &arg_spots, reader);
    Some(Transport::Stdio { command, args, env, cwd })
}

fn argument(spot: &YamlValue<'_>, usage: TextUse, reader: &mut Reader<'_>) -> Option<Text> {
    let text = Text::read(spot, usage, reader)?;
    let written = literal_text(spot).unwrap_or_default();
    Some(match token::in_argument(None, written) {
        Some((_, range)) => {
            warn_of_literal(spot, reader);
            text.concealed(&written[range])
        }
        None => text,
    })
}

fn url(spot: &YamlValue<'_>, usage: TextUse, reader: &mut Reader<'_>) -> Option<Text> {
    let url = Text::read(spot, usage, reader)?;
    let Some(fixed) = url.fixed().filter(|_| usage.enabled || !url.to_string().contains("${")) else {
        return Some(url);
    };
    let text = fixed.expose();
    let rest = ["http://", "https://"].iter().find_map(|scheme| strip_prefix_any_case(text, scheme));
    // The address may hold a secret, so it is not repeated.
    let Some(rest) = rest else {
        reader.error_with(
            spot,
            format!("{} is no http address", spot.path),
            "begin with http:// or https://",
        );
        return None;
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    if host.is_empty()
        || host.starts_with(':')
        || rest.contains(|c: char| c.is_whitespace() || c.is_control())
    {
        reader.error_with(
            spot,
            format!("{} names no host, or holds a space", spot.path),
            "write http://HOST:PORT/PATH",
        );
        return None;
    }
    let written = literal_text(spot).unwrap_or_default();
    Some(match token::in_url(written) {
        Some((_, range)) => {
            warn_of_literal(spot, reader);
            url.concealed(&written[range])
        }
        None => url,
    })
}

fn strip_prefix_any_case<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

/// A mapping of names to texts: variables or headers.
fn texts(
    key: &str,
    check: Check,
    fields: &Fields<'_>,
    usage: TextUse,
    reader: &mut Reader<'_>,
) -> BTreeMap<String, Text> {
    let entries = fields.get(key).and_then(|spot| spot.map(reader)).unwrap_or_default();
    let mut texts = BTreeMap::new();
    for (name, spot) in entries {
        let text = Text::read(&spot, usage, reader);
        if let Err(why) = check(name, text.as_ref()) {
            reader.error(&spot, format!("{} {why}", spot.path));
        }
        let Some(mut text) = text else { continue };
        if let Some(value) = literal_text(&spot).filter(|value| token::is_literal(name, value)) {
            warn_of_literal(&spot, reader);
            text = text.concealed(token::scheme(value).1);
        }
        texts.insert(name.to_owned(), text);
    }
    texts
}

fn check_variable(name: &str, _: Option<&Text>) -> Result<(), &'static str> {
    let is_name = !name.is_empty() && !name.contains(['=', '\0']);
    if is_name { Ok(()) } else { Err("is no name of a variable") }
}

fn check_header(name: &str, value: Option<&Text>) -> Result<(), &'static str> {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(is_token) {
        return Err("is no name of a header");
    }
    if OUR_HEADERS.iter().any(|header| name.eq_ignore_ascii_case(header)) {
        return Err("is a header that MCP clients write themselves; remove it");
    }
    let value = value.and_then(Text::fixed);
    let breaks = value.is_some_and(|value| value.expose().contains(|c: char| c.is_control() && c != '\t'));
    if breaks { Err("has a value with a line end or another control character") } else { Ok(()) }
}

fn warn_of_literal(spot: &YamlValue<'_>, reader: &mut Reader<'_>) {
    let message = format!("{} looks like a secret", spot.path);
    reader.warn(
        spot,
        message,
        "keep it in a variable and write ${VARIABLE}, or in a file and write ${file:PATH}",
    );
}

/// `/workspace` as a path of its own, or below an option's `=`.
fn warn_of_shared_workspace(spot: &YamlValue<'_>, reader: &mut Reader<'_>) {
    let Some(text) = literal_text(spot) else { return };
    let path = text.rsplit('=').next().unwrap_or(text);
    if path == "/workspace" || path.starts_with("/workspace/") {
        let message = "/workspace is one path shared by all sessions";
        reader.warn(spot, message, "${workspace} gives each session its own");
    }
}

/// The github server reads another variable than the one people set for it.
fn warn_of_github_variable(fields: &Fields<'_>, args: &[YamlValue<'_>], reader: &mut Reader<'_>) {
    const GITHUB_TOKEN_VARIABLE: &str = "GITHUB_PERSONAL_ACCESS_TOKEN";
    let is_github = fields.get("command").into_iter().chain(args).filter_map(literal_text).any(|text| {
        let package = text.rsplit('/').next().unwrap_or(text).split('@').next();
        package.is_some_and(|package| package.ends_with("server-github"))
    });
    let Some(env) = fields.get("env").filter(|_| is_github) else { return };
    if env.node.get("GITHUB_TOKEN").is_some() && env.node.get(GITHUB_TOKEN_VARIABLE).is_none() {
        let message = format!("server-github reads {GITHUB_TOKEN_VARIABLE}, not GITHUB_TOKEN");
        reader.warn(env, message, format!("add {GITHUB_TOKEN_VARIABLE}: \"${{GITHUB_TOKEN}}\""));
    }
}
