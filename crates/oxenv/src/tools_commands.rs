//! `oxenv validate` and `oxenv tools`: manifests, without serving them.
//!
//! Invariant: nothing is started and nothing is overwritten; stdout holds problems, a manifest or a
//! schema and nothing else.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand};
use oxenv_upstream::manifest::{self, FilePosition, Manifest, Problem, Severity, ToolsetEntry};

use crate::exit::usage;
use crate::output::{counted, print};
use crate::{assemble, env};

#[derive(Args)]
#[command(after_help = "Exit codes: 0 if there are at most warnings, 1 if there are errors, 2 if a file
cannot be read.

Examples:
  oxenv validate tools.yaml
  oxenv validate examples/*/tools.yaml --json")]
pub(crate) struct ValidateArgs {
    /// Manifests; - is stdin
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print JSON: a list of problems
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[command(after_help = "Example:
  oxenv tools import ~/.cursor/mcp.json -o tools.yaml")]
pub(crate) struct ToolsArgs {
    #[command(subcommand)]
    command: ToolsCommand,
}

#[derive(Subcommand)]
enum ToolsCommand {
    /// Turn a client's configuration, {"mcpServers": …}, into a manifest.
    Import(ImportArgs),
    /// Print the JSON Schema of manifests, for editors.
    #[command(after_help = "Example:
  oxenv tools schema > tools.schema.json
and as the first line of tools.yaml
  # yaml-language-server: $schema=./tools.schema.json")]
    Schema,
}

#[derive(Args)]
#[command(
    after_help = "Values that look like secrets are replaced by variables; stderr lists those to set, and
what was left out.

Examples:
  oxenv tools import ~/.cursor/mcp.json -o tools.yaml
  oxenv tools import - < .vscode/mcp.json"
)]
struct ImportArgs {
    /// The client's configuration; - is stdin
    file: PathBuf,
    /// Write the manifest to this file, which must not exist yet, instead of to stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// The findings in all files.
#[derive(Default)]
struct Findings {
    problems: Vec<Problem>,
    /// A line for each file without an error, and notes about it.
    good: Vec<String>,
    unreadable: usize,
}

pub(crate) fn validate(args: &ValidateArgs) -> anyhow::Result<()> {
    let mut findings = Findings::default();
    for file in &args.files {
        findings.check_file(file);
    }
    findings.print(args.json)?;
    let count = |severity| findings.problems.iter().filter(|problem| problem.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let summary = format!("{}, {}", counted(errors, "error"), counted(warnings, "warning"));
    match (findings.unreadable, errors) {
        (0, 0) => Ok(()),
        (0, _) => Err(anyhow!("{summary}")),
        (files, _) => Err(usage(format!("{} cannot be read; {summary}", counted(files, "file")))),
    }
}

pub(crate) fn tools(args: &ToolsArgs) -> anyhow::Result<()> {
    match &args.command {
        ToolsCommand::Import(args) => import(args),
        ToolsCommand::Schema => print(&serde_json::to_string_pretty(&manifest::schema())?),
    }
}

impl Findings {
    fn check_file(&mut self, file: &Path) {
        let shown = display_path(file);
        let bytes = match read(file) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.unreadable += 1;
                return self.problems.push(Problem {
                    severity: Severity::Error,
                    file: shown,
                    at: FilePosition::default(),
                    path: String::new(),
                    message: format!("cannot be read: {error}"),
                    suggestion: None,
                });
            }
        };
        let name = if is_stdin(file) { Path::new("stdin") } else { file };
        let mut problems = match Manifest::parse_bytes(&bytes, Some(name), &env::lookup) {
            Ok((manifest, mut problems)) => {
                problems.extend(manifest.missing(&env::lookup, Severity::Error));
                problems.extend(manifest.unknown_builtins(&assemble::builtin_names()));
                if !problems.iter().any(Problem::is_error) {
                    let toolsets = counted(manifest.toolsets.len(), "toolset");
                    self.good.push(format!("{shown}: {toolsets}, {}", counted(problems.len(), "warning")));
                    self.good.extend(manifest.toolsets.iter().filter_map(|entry| scope_note(&shown, entry)));
                }
                problems
            }
            Err(problems) => problems,
        };
        problems.sort_by_key(|problem| problem.at);
        self.problems.extend(problems);
    }

    fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            return print(&serde_json::to_string_pretty(&self.problems)?);
        }
        let colour = io::stdout().is_terminal() && env::nonempty("NO_COLOR").is_none();
        let problems = self.problems.iter().map(|problem| coloured(problem, colour));
        let lines: Vec<String> = problems.chain(self.good.iter().cloned()).collect();
        print(&lines.join("\n"))
    }
}

/// A note on the scope of a toolset that depends on its server, because its manifest sets none.
fn scope_note(file: &str, entry: &ToolsetEntry) -> Option<String> {
    let (name, line) = (&entry.name, entry.at.line);
    entry.may_give_sessions().then(|| {
        format!(
            "{file}:{line}: note: toolset '{name}' has no scope: in simulation mode each session has one if \
             its server gives sessions of its own (Mcp-Session-Id), else all share it; in production mode \
             all share it"
        )
    })
}

fn import(args: &ImportArgs) -> anyhow::Result<()> {
    let file = display_path(&args.file);
    let bytes = read(&args.file).map_err(|error| usage(format!("cannot read {file}: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|_| usage(format!("{file} is not UTF-8")))?;
    let imported = match manifest::import(&text, &file) {
        Ok(imported) => imported,
        Err(problems) => {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            bail!("nothing is imported\n{}", lines.join("\n"));
        }
    };
    match &args.output {
        None => print(imported.manifest.trim_end())?,
        Some(output) => File::create_new(output)
            .and_then(|mut file| file.write_all(imported.manifest.as_bytes()))
            .with_context(|| format!("cannot write {}", output.display()))?,
    }
    for note in &imported.notes {
        // There is no reader when stderr is gone.
        let _ = writeln!(io::stderr(), "note: {note}");
    }
    Ok(())
}

fn is_stdin(file: &Path) -> bool {
    file == Path::new("-")
}

fn display_path(file: &Path) -> String {
    if is_stdin(file) { "stdin".to_owned() } else { file.display().to_string() }
}

/// A file's bytes, or those of stdin; not many more than a manifest may have.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    if !is_stdin(file) {
        return Manifest::read(file);
    }
    let mut bytes = Vec::new();
    io::stdin().take(Manifest::MAX_TEXT_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A problem's line; on terminals with its severity in red or yellow.
fn coloured(problem: &Problem, colour: bool) -> String {
    let line = problem.to_string();
    let severity = problem.severity.to_string();
    match colour {
        true => {
            let code = if problem.is_error() { "1;31" } else { "1;33" };
            line.replacen(&format!(": {severity}: "), &format!(": \x1b[{code}m{severity}\x1b[0m: "), 1)
        }
        false => line,
    }
}
