//! `oxenv policy`: what the rules of a manifest say, without serving it.
//!
//! Invariant: nothing is started and no variable has to be set, since no rule depends on one; the
//! answer comes from the policy that the server would use.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::{Args, Subcommand};
use oxenv_core::{Explanation, Policy, Principal};
use oxenv_upstream::manifest::{Manifest, Prefix, ToolsetEntry};
use oxenv_wire::preview;
use serde::Serialize;
use serde_json::Value;

use crate::env;
use crate::exit::usage;
use crate::output::print;
use crate::values::object;

#[derive(Args)]
#[command(after_help = "Example:
  oxenv policy explain agent files/write_file --tools tools.yaml")]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Subcommand)]
enum PolicyCommand {
    /// Say whether a role may call a tool, and what each rule says to it.
    Explain(ExplainArgs),
}

#[derive(Args)]
#[command(after_help = "Exit codes: 0 if the call is allowed (by one of the toolsets, where several could
own the tool), 1 if it is denied, 2 for wrong usage or a manifest with errors.

Examples:
  oxenv policy explain agent files/write_file --tools tools.yaml
  oxenv policy explain agent files/write_file '{\"path\": \"/etc/passwd\"}' --tools tools.yaml
  oxenv policy explain control write_file --tools tools.yaml --json")]
struct ExplainArgs {
    /// Who would call: control, agent or observer
    role: Principal,
    /// What would be called: toolset/tool, the name it is offered by, or a tool of any toolset
    tool: String,
    /// The arguments, a JSON object; without them, rules about arguments are listed but not applied
    arguments: Option<String>,
    /// The manifest
    #[arg(long, value_name = "FILE")]
    tools: PathBuf,
    /// Ask this toolset only
    #[arg(long, value_name = "NAME")]
    toolset: Option<String>,
    /// Print JSON: a list with an entry for each toolset
    #[arg(long)]
    json: bool,
}

/// The decision of one toolset's policy.
#[derive(Serialize)]
struct ToolsetExplanation<'a> {
    toolset: &'a str,
    #[serde(flatten)]
    explanation: Explanation,
}

pub(crate) fn run(args: &PolicyArgs) -> anyhow::Result<()> {
    let PolicyCommand::Explain(args) = &args.command;
    let arguments = args.arguments.as_deref().map(|text| object("the arguments", text)).transpose()?;
    let manifest = read(&args.tools)?;
    let mut answers = Vec::new();
    for (entry, tool) in owners(&manifest, &args.tool, args.toolset.as_deref())? {
        answers.push(answer(entry, args.role, tool, arguments.as_ref())?);
    }
    if args.json {
        print(&serde_json::to_string_pretty(&answers)?)?;
    } else {
        let shown =
            |answer: &ToolsetExplanation<'_>| format!("toolset {}\n{}", answer.toolset, answer.explanation);
        print(&answers.iter().map(shown).collect::<Vec<_>>().join("\n\n"))?;
    }
    if answers.iter().any(|answer| answer.explanation.allowed) {
        return Ok(());
    }
    bail!("the call is denied")
}

/// The manifest; a variable that is not set is no hindrance.
fn read(path: &Path) -> anyhow::Result<Manifest> {
    let bytes = Manifest::read(path)
        .map_err(|error| usage(format!("cannot read the manifest {}: {error}", path.display())))?;
    let lenient = |name: &str| env::nonempty(name).or(Some("unset".to_owned()));
    let read = Manifest::parse_bytes(&bytes, Some(path), &env::lookup)
        .or_else(|problems| Manifest::parse_bytes(&bytes, Some(path), &lenient).map_err(|_| problems));
    match read {
        Ok((manifest, _)) => Ok(manifest),
        Err(problems) => {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Err(usage(format!("the manifest has errors:\n{}", lines.join("\n"))))
        }
    }
}

/// The toolsets that could own a tool, each with the tool's name in it.
fn owners<'a>(
    manifest: &'a Manifest,
    tool: &'a str,
    only: Option<&str>,
) -> anyhow::Result<Vec<(&'a ToolsetEntry, &'a str)>> {
    if let Some(name) = only {
        return Ok(vec![(find(manifest, name)?, tool)]);
    }
    if let Some((name, tool)) = tool.split_once('/') {
        return Ok(vec![(find(manifest, name)?, tool)]);
    }
    let enabled = || manifest.toolsets.iter().filter(|entry| entry.enabled);
    let prefixed: Vec<_> =
        enabled().filter_map(|entry| Some((entry, without_prefix(entry, tool)?))).collect();
    let owners = if prefixed.is_empty() { enabled().map(|entry| (entry, tool)).collect() } else { prefixed };
    if owners.is_empty() {
        return Err(usage("the manifest enables no toolset"));
    }
    Ok(owners)
}

fn find<'a>(manifest: &'a Manifest, name: &str) -> anyhow::Result<&'a ToolsetEntry> {
    let Some(entry) = manifest.toolsets.iter().find(|entry| entry.name == name) else {
        let names: Vec<&str> = manifest.toolsets.iter().map(|entry| entry.name.as_str()).collect();
        return Err(usage(format!(
            "the manifest has no toolset '{}'; it has {}",
            preview(name),
            names.join(", ")
        )));
    };
    if !entry.enabled {
        return Err(usage(format!("toolset '{name}' is disabled, so nobody can call its tools")));
    }
    Ok(entry)
}

/// A tool's name in its toolset, if it was given by its name with the toolset's prefix.
fn without_prefix<'a>(entry: &ToolsetEntry, tool: &'a str) -> Option<&'a str> {
    let prefix = match &entry.prefix {
        Some(Prefix::Named(prefix)) => prefix,
        _ => &entry.name,
    };
    tool.strip_prefix(prefix.as_str())?.strip_prefix("__").filter(|tool| !tool.is_empty())
}

fn answer<'a>(
    entry: &'a ToolsetEntry,
    role: Principal,
    tool: &str,
    arguments: Option<&Value>,
) -> anyhow::Result<ToolsetExplanation<'a>> {
    let policy = Policy::compile(entry.rules.clone())
        .map_err(|error| usage(format!("toolset '{}': {error}", entry.name)))?;
    Ok(ToolsetExplanation { toolset: &entry.name, explanation: policy.explain(role, tool, arguments) })
}
