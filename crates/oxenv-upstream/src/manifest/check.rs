//! Holds a manifest against what there is: programs, files, a toolset's tools.
//!
//! Invariant: nothing is started and nothing is read; only what exists is looked at.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::manifest::{
    FilePosition, Lookup, Manifest, OnReset, Problem, Severity, Text, ToolsetEntry, Transport, file_name,
};

/// The file that a command means: looked for on `path`, a list as PATH holds it; with a slash in it,
/// taken from `folder`. Nothing if there is no such program.
#[must_use]
pub fn find_command(command: &str, folder: &Path, path: &str) -> Option<PathBuf> {
    if command.contains('/') {
        return Some(folder.join(command)).filter(|file| is_program(file));
    }
    std::env::split_paths(path)
        .filter(|folder| !folder.as_os_str().is_empty())
        .map(|folder| folder.join(command))
        .find(|file| is_program(file))
}

/// What enabled toolsets need and the machine does not have.
pub(super) fn missing(manifest: &Manifest, lookup: Lookup<'_>, severity: Severity) -> Vec<Problem> {
    let enabled = manifest.toolsets.iter().enumerate().filter(|(_, toolset)| toolset.enabled);
    enabled
        .filter_map(|(index, toolset)| {
            let Missing { key, message, suggestion } = lacks(toolset, manifest, lookup)?;
            let path = format!("tools[{index}].mcp_server.{key}");
            let place = (toolset.server_at, path);
            Some(problem(manifest, place, severity, message, suggestion))
        })
        .collect()
}

/// The enabled toolsets that name a built-in one which is not there.
pub(super) fn builtins(manifest: &Manifest, known: &[String]) -> Vec<Problem> {
    let enabled = manifest.toolsets.iter().enumerate().filter(|(_, entry)| entry.enabled);
    let unknown = enabled.filter_map(|(index, entry)| match &entry.transport {
        Transport::Builtin { toolset } if !known.contains(toolset) => Some((index, entry, toolset)),
        _ => None,
    });
    unknown
        .map(|(index, entry, toolset)| {
            let suggestion =
                match crate::manifest::reader::nearest_word(toolset, known.iter().map(String::as_str)) {
                    Some(near) => format!("did you mean '{near}'?"),
                    None => format!("there are {}", known.join(", ")),
                };
            let message = format!("no built-in toolset is called '{toolset}'");
            let place = (entry.server_at, format!("tools[{index}].mcp_server.toolset"));
            problem(manifest, place, Severity::Error, message, suggestion)
        })
        .collect()
}

/// What to say of a toolset that has these tools.
pub(super) fn tools(manifest: &Manifest, toolset: &ToolsetEntry, tools: &[&str]) -> Vec<Problem> {
    let index = manifest.toolsets.iter().position(|other| other.name == toolset.name).unwrap_or_default();
    let nearest = |name: &str| match crate::manifest::reader::nearest_word(name, tools.iter().copied()) {
        Some(near) => format!("did you mean '{near}'?"),
        None => "see 'GET /tools' for its tools".to_owned(),
    };
    let unknown = |key: &str, name: &str, severity| {
        let message = format!("toolset '{}' has no tool '{name}', which {key} names", toolset.name);
        let place = (toolset.at, format!("tools[{index}].{key}"));
        problem(manifest, place, severity, message, nearest(name))
    };
    let is_unknown = |name: &str| !name.contains(['*', '?']) && !tools.contains(&name);
    let mut problems = Vec::new();
    if let OnReset::Call(tool) = &toolset.on_reset
        && is_unknown(tool)
    {
        problems.push(unknown("on_reset", tool, Severity::Error));
    }
    let rules = &toolset.rules;
    let lists = [("allow", &rules.allow), ("deny", &rules.deny)].into_iter();
    let named = lists.flat_map(|(key, patterns)| patterns.iter().map(move |pattern| (key, pattern)));
    let named = named.chain(rules.arguments.keys().map(|pattern| ("arguments", pattern)));
    problems.extend(
        named
            .filter(|(_, pattern)| is_unknown(pattern))
            .map(|(key, pattern)| unknown(key, pattern, Severity::Warning)),
    );
    problems
}

/// Something that a toolset needs and the machine does not have.
struct Missing {
    /// The key that asks for it.
    key: &'static str,
    message: String,
    suggestion: String,
}

/// The missing parts of a toolset.
fn lacks(toolset: &ToolsetEntry, manifest: &Manifest, lookup: Lookup<'_>) -> Option<Missing> {
    match &toolset.transport {
        Transport::Stdio { command, env, .. } => {
            let own_path = env.get("PATH").and_then(Text::fixed);
            let path = own_path.map(|path| path.expose().to_owned()).or_else(|| lookup("PATH"))?;
            let fixed = command.fixed()?;
            if find_command(fixed.expose(), &manifest.folder, &path).is_some() {
                return None;
            }
            let (place, remedy) = match fixed.expose().contains('/') {
                true => ("there is no program", "a relative path is taken from the manifest's folder"),
                false => ("no folder of PATH has the command", "install it, or write its whole path"),
            };
            let message = format!("{place} '{command}'");
            Some(Missing { key: "command", message, suggestion: remedy.to_owned() })
        }
        Transport::Python { path, .. } if !path.is_file() => {
            let message = format!("there is no file '{}'", path.display());
            let suggestion = "a relative path is taken from the manifest's folder".to_owned();
            Some(Missing { key: "path", message, suggestion })
        }
        Transport::Python { .. } | Transport::Http { .. } | Transport::Builtin { .. } => None,
    }
}

fn is_program(file: &Path) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

fn problem(
    manifest: &Manifest,
    (at, path): (FilePosition, String),
    severity: Severity,
    message: String,
    suggestion: String,
) -> Problem {
    let file = file_name(manifest.path.as_deref());
    Problem { severity, file, at, path, message, suggestion: Some(suggestion) }
}
