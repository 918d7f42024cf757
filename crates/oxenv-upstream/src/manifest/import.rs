//! Turns a client's configuration, `{"mcpServers": {…}}`, into a manifest.
//!
//! Invariant: what is left out is named in a note, and a value that looks like a secret is neither in
//! the manifest nor in a note: a variable takes its place.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use crate::manifest::name::{MAX_NAME, RESERVED, is_name_character};
use crate::manifest::node::{self, Kind, Node};
use crate::manifest::problem::{FilePosition, Problem, Severity};
use crate::manifest::reader::excerpt_of;
use crate::manifest::text::is_variable;
use crate::manifest::token;

/// Secrets within one text that get a variable each.
const MAX_SECRETS: usize = 64;

/// A manifest made from a client's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The manifest's text.
    pub manifest: String,
    /// What its author should know: variables to set, keys that were left out.
    pub notes: Vec<String>,
}

/// Reads the configuration of Claude Desktop, Claude Code, Cursor, Windsurf or VS Code: JSON, or YAML
/// of the same shape. `file` names it in problems.
///
/// # Errors
/// Why it is no such configuration, or that no server of it can be taken over.
pub fn import(text: &str, file: &str) -> Result<Imported, Vec<Problem>> {
    let problem = |at: FilePosition, message: String, suggestion: Option<String>| Problem {
        severity: Severity::Error,
        file: file.to_owned(),
        at,
        path: String::new(),
        message,
        suggestion,
    };
    let node::Document { root, faults } =
        node::read(text).map_err(|fault| vec![problem(fault.at, fault.message, fault.suggestion)])?;
    if !faults.is_empty() {
        let faults = faults.into_iter();
        return Err(faults.map(|fault| problem(fault.at, fault.message, fault.suggestion)).collect());
    }
    let mut import = Import::default();
    let Some(servers) = import.servers(&root) else {
        let suggestion = "a client's configuration has 'mcpServers' or 'servers'".to_owned();
        return Err(vec![problem(root.at, "no servers in it".to_owned(), Some(suggestion))]);
    };
    let mut manifest = "version: \"1.0\"\ntools:\n".to_owned();
    let before = manifest.len();
    for (name, server) in servers {
        if let Some(draft) = import.server(name, server) {
            draft.write(&mut manifest);
        }
    }
    if manifest.len() == before {
        return Err(vec![problem(
            root.at,
            "no server can be taken over".to_owned(),
            Some(import.notes.join("; ")),
        )]);
    }
    Ok(Imported { manifest, notes: import.notes })
}

/// A toolset to write.
#[derive(Default)]
struct Draft {
    name: String,
    enabled: bool,
    /// `command`, `url`, `cwd`.
    texts: Vec<(&'static str, String)>,
    args: Vec<String>,
    env: Vec<(String, String)>,
    headers: Vec<(String, String)>,
}

#[derive(Default)]
struct Import {
    notes: Vec<String>,
    names: Names,
    /// The variables that stand for secrets, by the name that was wanted and the value that was written out.
    variables: HashMap<(String, String), String>,
    variable_names: Names,
}

/// Names that are taken.
#[derive(Default)]
struct Names {
    taken: HashSet<String>,
    /// By name, the last number that was tried behind it.
    numbers: HashMap<String, usize>,
}

impl Names {
    /// Takes that name, or with a number behind it one that is free.
    fn take(&mut self, wanted: &str) -> String {
        if self.taken.insert(wanted.to_owned()) {
            return wanted.to_owned();
        }
        let number = self.numbers.entry(wanted.to_owned()).or_insert(1);
        loop {
            *number += 1;
            let name = format!("{wanted}_{number}");
            if self.taken.insert(name.clone()) {
                return name;
            }
        }
    }
}

impl Import {
    /// The servers by name, wherever the client keeps them.
    fn servers<'a>(&mut self, root: &'a Node) -> Option<Vec<(&'a str, &'a Node)>> {
        let above = root.get("mcp").unwrap_or(root);
        let servers = above.get("mcpServers").or_else(|| above.get("servers"))?;
        let Kind::Map(entries) = &servers.kind else { return None };
        let known = ["mcp", "mcpServers", "servers", "$schema"];
        if let Kind::Map(others) = &root.kind {
            for (key, _) in others.iter().filter(|(key, _)| !known.contains(&key.name.as_str())) {
                self.notes.push(format!("key '{}' is left out", excerpt_of(&key.name)));
            }
        }
        Some(entries.iter().map(|(key, server)| (key.name.as_str(), server)).collect())
    }

    fn server(&mut self, given: &str, server: &Node) -> Option<Draft> {
        let shown_name = excerpt_of(given);
        let Kind::Map(entries) = &server.kind else {
            self.notes.push(format!("server '{shown_name}' is left out: it is {}", server.kind_name()));
            return None;
        };
        let transport = ["type", "transport"].iter().find_map(|key| server.get(key)).and_then(scalar);
        if transport.as_deref() == Some("sse") {
            let why = "it speaks sse, which is not supported; look for its Streamable HTTP endpoint";
            self.notes.push(format!("server '{shown_name}' is left out: {why}"));
            return None;
        }
        let is_stdio = server.get("command").is_some();
        if !is_stdio && server.get("url").or_else(|| server.get("serverUrl")).is_none() {
            self.notes.push(format!("server '{shown_name}' is left out: it has neither command nor url"));
            return None;
        }
        let name = self.name(given);
        if name != given {
            self.notes.push(format!("server '{shown_name}' is named {name}"));
        }
        let mut draft = Draft { name, enabled: true, ..Draft::default() };
        for (key, value) in entries {
            self.key(&key.name, value, is_stdio, &mut draft);
        }
        Some(draft)
    }

    /// Takes one key of a server over.
    fn key(&mut self, key: &str, value: &Node, is_stdio: bool, draft: &mut Draft) {
        match (key, &value.kind, scalar(value)) {
            ("type" | "transport", ..) => {}
            ("disabled", Kind::Bool(disabled), _) => draft.enabled = !disabled,
            ("enabled", Kind::Bool(enabled), _) => draft.enabled = *enabled,
            ("command", _, Some(text)) => draft.texts.push(("command", self.text(&text, true))),
            ("cwd", _, Some(text)) if is_stdio => draft.texts.push(("cwd", self.text(&text, true))),
            ("url" | "serverUrl", _, Some(text)) if !is_stdio => {
                draft.texts.push(("url", self.url(&text, &draft.name)));
            }
            ("args", Kind::List(items), _) if is_stdio => draft.args = self.args(items, &draft.name),
            ("env", Kind::Map(entries), _) if is_stdio => {
                draft.env = self.pairs(entries, None, &draft.name);
            }
            ("headers", Kind::Map(entries), _) if !is_stdio => {
                draft.headers = self.pairs(entries, Some(&draft.name), &draft.name);
            }
            _ => self.notes.push(format!("server '{}': key '{}' is left out", draft.name, excerpt_of(key))),
        }
    }

    /// A name that a toolset may have and no other has.
    fn name(&mut self, given: &str) -> String {
        let parts: Vec<&str> =
            given.split(|c| !is_name_character(c)).filter(|part| !part.is_empty()).collect();
        // Room is left for what makes it unique.
        let mut base: String = parts.join("_").chars().take(MAX_NAME - 8).collect();
        if base.is_empty() || RESERVED.contains(&base.as_str()) {
            base.push_str("_tools");
        }
        self.names.take(&base)
    }

    fn args(&mut self, items: &[Node], server: &str) -> Vec<String> {
        let texts: Vec<String> = items.iter().filter_map(scalar).collect();
        if texts.len() < items.len() {
            self.notes.push(format!("server '{server}': arguments that are no texts are left out"));
        }
        let mut args: Vec<String> = Vec::new();
        for text in texts {
            let mut arg = self.text(&text, true);
            let option = args.last().filter(|before| before.starts_with('-') && !before.contains('='));
            let option = option.map(String::as_str);
            let secret =
                |arg: &str| token::in_argument(option, arg).map(|(name, range)| (name.to_owned(), range));
            arg = self.without_secrets(arg, server, "args", secret);
            args.push(arg);
        }
        args
    }

    /// Variables or headers; the variable of a header's secret begins with `prefix`.
    fn pairs(
        &mut self,
        entries: &[(node::Key, Node)],
        prefix: Option<&str>,
        server: &str,
    ) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        let place = if prefix.is_some() { "headers" } else { "env" };
        for (key, value) in entries {
            let name = &key.name;
            let Some(value) = scalar(value) else {
                self.notes.push(format!(
                    "server '{server}': {place} '{}' is left out: it is no text",
                    excerpt_of(name)
                ));
                continue;
            };
            if !token::is_literal(name, &value) {
                pairs.push((name.clone(), self.text(&value, prefix.is_none())));
                continue;
            }
            let (scheme, value) = token::scheme(&value);
            let wanted = prefix.map_or(name.clone(), |prefix| format!("{prefix}_{name}"));
            let variable = self.variable(&wanted, server, value, &format!("{place}.{}", excerpt_of(name)));
            pairs.push((name.clone(), format!("{scheme}${{{variable}}}")));
        }
        pairs
    }

    fn url(&mut self, url: &str, server: &str) -> String {
        let url = self.text(url, false);
        let secret = |url: &str| token::in_url(url).map(|(name, range)| (name.to_owned(), range));
        self.without_secrets(url, server, "url", secret)
    }

    /// A text with a variable in the place of each secret that `find` finds first; with one in the place of
    /// the whole text where there are many.
    fn without_secrets(
        &mut self,
        mut text: String,
        server: &str,
        place: &str,
        find: impl Fn(&str) -> Option<(String, Range<usize>)>,
    ) -> String {
        for _ in 0..MAX_SECRETS {
            let Some((name, range)) = find(&text) else { return text };
            let variable = self.variable(&format!("{server}_{name}"), server, &text[range.clone()], place);
            text.replace_range(range, &format!("${{{variable}}}"));
        }
        match find(&text) {
            None => text,
            Some(_) => format!("${{{}}}", self.variable(&format!("{server}_{place}"), server, &text, place)),
        }
    }

    /// The name of a variable for a secret: the same for the same value, another for another one.
    fn variable(&mut self, wanted: &str, server: &str, value: &str, place: &str) -> String {
        let mut base = variable_name(wanted);
        let is_another = |variables: &HashMap<_, _>, names: &Names, base: &str| {
            names.taken.contains(base) && !variables.contains_key(&(base.to_owned(), value.to_owned()))
        };
        if is_another(&self.variables, &self.variable_names, &base) {
            base = variable_name(&format!("{server}_{wanted}"));
        }
        let names = &mut self.variable_names;
        let known = self.variables.entry((base.clone(), value.to_owned()));
        let variable = known.or_insert_with(|| names.take(&base)).clone();
        self.notes.push(format!("set {variable}: it stands for a secret in {place} of server '{server}'"));
        variable
    }

    /// A text with the client's references as a manifest writes them.
    fn text(&mut self, text: &str, per_session: bool) -> String {
        let mut written = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            written.push_str(&rest[..at]);
            let inside = &rest[at + 2..];
            // No reference holds another.
            let end = inside[..inside.find("${").unwrap_or(inside.len())].find('}');
            match end.and_then(|end| self.reference(&inside[..end], per_session)) {
                Some(reference) => {
                    written.push_str(&reference);
                    rest = &inside[end.map_or(0, |end| end + 1)..];
                }
                None => {
                    written.push_str("$${");
                    rest = inside;
                }
            }
        }
        written + rest
    }

    fn reference(&mut self, inside: &str, per_session: bool) -> Option<String> {
        if let Some(id) = inside.strip_prefix("input:") {
            let variable = variable_name(id);
            self.notes.push(format!(
                "set {variable}: it stands for what the client asks for as '{}'",
                excerpt_of(id)
            ));
            return Some(format!("${{{variable}}}"));
        }
        match inside {
            "workspaceFolder" if per_session => {
                self.notes
                    .push("${workspaceFolder} is now ${workspace}: each session has its own".to_owned());
                return Some("${workspace}".to_owned());
            }
            "userHome" => return Some("${HOME}".to_owned()),
            // In a client these are variables like others; here they are not.
            "workspace" | "seed" => return None,
            _ => {}
        }
        let inside = inside.strip_prefix("env:").unwrap_or(inside);
        let (name, default) =
            inside.split_once(":-").map_or((inside, None), |(name, rest)| (name, Some(rest)));
        let is_plain = default.is_none_or(|default| !default.contains("${"));
        (is_variable(name) && is_plain).then(|| format!("${{{inside}}}"))
    }
}

impl Draft {
    fn write(&self, manifest: &mut String) {
        let mut line = |indent: usize, text: String| {
            manifest.push_str(&" ".repeat(indent));
            manifest.push_str(&text);
            manifest.push('\n');
        };
        line(2, format!("- name: {}", word(&self.name)));
        line(4, "type: mcp".to_owned());
        if !self.enabled {
            line(4, "enabled: false".to_owned());
        }
        line(4, "mcp_server:".to_owned());
        for (key, value) in &self.texts {
            line(6, format!("{key}: {}", word(value)));
        }
        if !self.args.is_empty() {
            let args: Vec<String> = self.args.iter().map(|arg| quoted(arg)).collect();
            line(6, format!("args: [{}]", args.join(", ")));
        }
        for (key, pairs) in [("env", &self.env), ("headers", &self.headers)] {
            if !pairs.is_empty() {
                line(6, format!("{key}:"));
            }
            for (name, value) in pairs {
                line(8, format!("{}: {}", word(name), quoted(value)));
            }
        }
    }
}

/// A scalar's text, as clients pass numbers and booleans on.
fn scalar(node: &Node) -> Option<String> {
    match &node.kind {
        Kind::Text(text) | Kind::Number(text, _) => Some(text.clone()),
        Kind::Bool(value) => Some(value.to_string()),
        Kind::Null | Kind::List(_) | Kind::Map(_) => None,
    }
}

fn variable_name(wanted: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    let name: String = wanted.chars().map(allowed).collect();
    if is_variable(&name) { name } else { format!("_{name}") }
}

/// A text as YAML writes it between double quotes.
fn quoted(text: &str) -> String {
    let mut quoted = "\"".to_owned();
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            // Line separators and the byte order mark are printable to Rust, not to YAML.
            '\u{2028}' | '\u{2029}' | '\u{feff}' => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c if c.is_control() || u32::from(c) & 0xfffe == 0xfffe => {
                quoted.push_str(&format!("\\U{:08x}", u32::from(c)));
            }
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

/// A text without quotes where every reader of YAML takes it for a text.
fn word(text: &str) -> String {
    let others = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    let is_other = others.contains(&text.to_ascii_lowercase().as_str());
    if is_variable(&text.replace('-', "_")) && !text.starts_with('-') && !is_other {
        text.to_owned()
    } else {
        quoted(text)
    }
}
