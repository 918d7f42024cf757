//! Reads the file's top level and each toolset's entry.
//!
//! Invariant: every key of an entry is read, whatever is wrong with the others, so that one run
//! reports all problems.

use std::collections::HashMap;
use std::time::Duration;

use oxenv_core::{ForkMode, Scope};

use crate::manifest::keys::{ENTRY_KEYS, SERVER_KEYS, TOP_KEYS};
use crate::manifest::name::{MAX_NAME, RESERVED, check_name};
use crate::manifest::reader::{Fields, Reader, YamlValue, excerpt_of};
use crate::manifest::server::{self, Kind};
use crate::manifest::text::TextUse;
use crate::manifest::{OnReset, Prefix, PrefixRule, Startup, ToolsetEntry, Transport, rules};

/// The one version of the format.
pub(super) const VERSION: &str = "1.0";
pub(super) const PREFIX_RULES: [(&str, PrefixRule); 3] =
    [("conflict", PrefixRule::Conflict), ("always", PrefixRule::Always), ("never", PrefixRule::Never)];
pub(super) const STARTUPS: [(&str, Startup); 2] = [("lazy", Startup::Lazy), ("eager", Startup::Eager)];
pub(super) const SCOPES: [(&str, Scope); 2] = [("session", Scope::Session), ("server", Scope::Server)];
pub(super) const FORK_MODES: [(&str, ForkMode); 4] = [
    ("stateless", ForkMode::Stateless),
    ("workspace", ForkMode::Workspace),
    ("replay", ForkMode::Replay),
    ("none", ForkMode::None),
];

/// The longest prefix, in characters: it must leave room for the tool's name.
pub(super) const MAX_PREFIX: usize = 32;
/// The longest allowed time, in seconds: a day.
pub(super) const MAX_TIME_S: f64 = 86_400.0;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
const DEFAULT_START_TIMEOUT: Duration = Duration::from_secs(60);

/// The values of the top level.
pub(super) struct EntryList {
    pub(super) prefix: PrefixRule,
    pub(super) toolsets: Vec<ToolsetEntry>,
}

/// Reads the whole file. The result counts only if no error was reported.
pub(super) fn read_manifest(root: &YamlValue<'_>, reader: &mut Reader<'_>) -> Option<EntryList> {
    if matches!(root.node.kind, crate::manifest::node::Kind::List(_)) {
        reader.error_with(root, "the file is a list", "put 'tools:' above it");
        return None;
    }
    let hint = |key: &str| match key {
        "mcpServers" | "servers" => {
            Some("this is a client's configuration; convert it with 'oxenv tools import'".to_owned())
        }
        _ if ENTRY_KEYS.contains(&key) => Some("it belongs to a toolset under 'tools'".to_owned()),
        _ => None,
    };
    let fields = root.fields("the manifest", &TOP_KEYS, &hint, reader)?;
    if let Some(spot) = fields.get("version") {
        version(spot, reader);
    }
    let prefix = fields.get("prefix").and_then(|spot| spot.one_of(&PREFIX_RULES, reader));
    let tools = fields.required("tools", reader)?.list(reader)?;
    let mut toolsets = Vec::new();
    let mut names = HashMap::new();
    for spot in &tools {
        let Some(entry) = read_entry(spot, &mut names, reader) else { continue };
        toolsets.push(entry);
    }
    Some(EntryList { prefix: prefix.unwrap_or_default(), toolsets })
}

fn version(spot: &YamlValue<'_>, reader: &mut Reader<'_>) {
    let Some(version) = spot.text(reader) else { return };
    if version != VERSION {
        let message = format!("version '{}' is not known", excerpt_of(version));
        reader.error_with(spot, message, format!("write \"{VERSION}\", or use a newer oxenv"));
    }
}

fn read_entry<'a>(
    spot: &YamlValue<'a>,
    names: &mut HashMap<&'a str, usize>,
    reader: &mut Reader<'_>,
) -> Option<ToolsetEntry> {
    let hint = |key: &str| match key {
        "disabled" => Some("write enabled: false".to_owned()),
        _ if SERVER_KEYS.contains(&key) => Some("it belongs in mcp_server".to_owned()),
        _ => None,
    };
    let fields = spot.fields("a toolset", &ENTRY_KEYS, &hint, reader)?;
    let name = fields.required("name", reader).and_then(|spot| name(spot, names, reader));
    if let Some(spot) = fields.get("type") {
        spot.one_of(&[("mcp", ())], reader);
    }
    let enabled = boolean("enabled", true, &fields, reader);
    let given_scope = fields.get("scope").and_then(|spot| spot.one_of(&SCOPES, reader));
    let mut scope = given_scope.unwrap_or(Scope::Session);
    let mut kind = None;
    let mut transport = None;
    if let Some((found, server)) =
        fields.required("mcp_server", reader).and_then(|spot| server::kind(spot, reader))
    {
        scope = given_scope.unwrap_or(found.default_scope());
        kind = Some(found);
        let usage = TextUse { enabled, per_session: scope == Scope::Session };
        transport = server::transport(found, &server, usage, reader);
    }
    let fork = fields.get("on_fork").and_then(|spot| spot.one_of(&FORK_MODES, reader));
    let entry = ToolsetEntry {
        name: name.unwrap_or_default().to_owned(),
        enabled,
        startup: fields.get("startup").and_then(|spot| spot.one_of(&STARTUPS, reader)).unwrap_or_default(),
        scope,
        scope_written: given_scope.is_some(),
        timeout: seconds("timeout_s", DEFAULT_TIMEOUT, &fields, reader),
        start_timeout: seconds("start_timeout_s", DEFAULT_START_TIMEOUT, &fields, reader),
        on_reset: on_reset(transport.as_ref(), &fields, reader),
        on_fork: fork.unwrap_or(if kind == Some(Kind::Builtin) { ForkMode::Native } else { ForkMode::None }),
        prefix: fields.get("prefix").and_then(|spot| prefix(spot, reader)),
        rules: rules::read(&fields, reader),
        required: boolean("required", false, &fields, reader),
        at: spot.node.at,
        server_at: fields.get("mcp_server").unwrap_or(spot).node.at,
        transport: transport?,
    };
    Some(entry)
}

fn name<'a>(
    spot: &YamlValue<'a>,
    names: &mut HashMap<&'a str, usize>,
    reader: &mut Reader<'_>,
) -> Option<&'a str> {
    let name = spot.text(reader)?;
    if let Err(why) = check_name(name, MAX_NAME) {
        reader.error(spot, format!("{} '{}' {why}", spot.path, excerpt_of(name)));
        return None;
    }
    if RESERVED.contains(&name) {
        reader.error_with(spot, format!("the name '{name}' is reserved"), "choose another");
    }
    if let Some(line) = names.insert(name, spot.node.at.line) {
        let message = format!("two toolsets have the name '{name}'");
        reader.error_with(spot, message, format!("the other is on line {line}; rename one"));
    }
    Some(name)
}

fn boolean(key: &str, default: bool, fields: &Fields<'_>, reader: &mut Reader<'_>) -> bool {
    fields.get(key).and_then(|spot| spot.boolean(reader)).unwrap_or(default)
}

fn seconds(key: &str, default: Duration, fields: &Fields<'_>, reader: &mut Reader<'_>) -> Duration {
    let Some(spot) = fields.get(key) else { return default };
    let Some(seconds) = spot.number(reader) else { return default };
    if seconds > 0.0 && seconds <= MAX_TIME_S {
        return Duration::from_secs_f64(seconds);
    }
    let message = format!("{} is {seconds}", spot.path);
    reader.error_with(spot, message, format!("write seconds above 0, up to {MAX_TIME_S}"));
    default
}

/// How a reset affects it: as written, else as the episode's seed requires.
fn on_reset(transport: Option<&Transport>, fields: &Fields<'_>, reader: &mut Reader<'_>) -> OnReset {
    let needs_seed = transport.is_some_and(Transport::needs_seed);
    let spot = fields.get("on_reset");
    let written = spot.and_then(|spot| written_on_reset(spot, reader));
    if let (Some(spot), Some(written), true) = (spot, &written, needs_seed)
        && *written != OnReset::Restart
    {
        let message = "${seed} is read when the server starts, so it stays that of an earlier episode";
        reader.warn(spot, message, "write on_reset: restart, or leave it out");
    }
    written.unwrap_or(if needs_seed { OnReset::Restart } else { OnReset::Keep })
}

fn written_on_reset(spot: &YamlValue<'_>, reader: &mut Reader<'_>) -> Option<OnReset> {
    if spot.node.get("call").is_some() {
        reader.error_with(spot, format!("{} must be a text, not a mapping", spot.path), "write call:TOOL");
        return None;
    }
    let text = spot.text(reader)?;
    match text.split_once(':').map_or((text, None), |(word, tool)| (word, Some(tool.trim()))) {
        ("keep", None) => Some(OnReset::Keep),
        ("restart", None) => Some(OnReset::Restart),
        ("call", Some(tool)) if !tool.is_empty() && !tool.contains(char::is_whitespace) => {
            Some(OnReset::Call(tool.to_owned()))
        }
        _ => {
            let message = format!("{} cannot be '{}'", spot.path, excerpt_of(text));
            reader.error_with(spot, message, "use keep, restart or call:TOOL");
            None
        }
    }
}

fn prefix(spot: &YamlValue<'_>, reader: &mut Reader<'_>) -> Option<Prefix> {
    use crate::manifest::node::Kind;
    match &spot.node.kind {
        Kind::Bool(true) => Some(Prefix::Always),
        Kind::Bool(false) => Some(Prefix::Never),
        Kind::Text(text) => match check_name(text, MAX_PREFIX) {
            Ok(()) => Some(Prefix::Named(text.clone())),
            Err(why) => {
                reader.error(spot, format!("{} '{}' {why}", spot.path, excerpt_of(text)));
                None
            }
        },
        _ => {
            let message = format!("{} must be a boolean or a text, not {}", spot.path, spot.node.kind_name());
            reader.error(spot, message);
            None
        }
    }
}
