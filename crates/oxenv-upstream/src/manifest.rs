//! `tools.yaml`: which toolsets there are, how each is started, and which callers may call what.
//!
//! Entry point: [`Manifest::load`]. Invariant: a manifest that was read is whole, and what cannot be
//! kept is refused: every problem is reported at once, with its line and column, and no key is ignored.

mod check;
mod entry;
mod import;
mod keys;
mod name;
mod node;
mod problem;
mod reader;
mod rules;
mod schema;
mod server;
mod text;
mod token;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use oxenv_core::{ForkMode, Rules, Scope};

use entry::EntryList;
use oxenv_process::secret::{Redactor, Secret};
use reader::{Reader, YamlValue};

pub use check::find_command;
pub use import::{Imported, import};
pub use problem::{FilePosition, Problem, Severity};
pub use schema::schema;
pub use text::Text;

/// Reads a YAML document of another program's as JSON: its first document, if there are several.
///
/// # Errors
/// What is wrong, with line and column: `3:7: …`.
pub fn read_yaml(text: &str) -> Result<serde_json::Value, String> {
    let shown = |at: FilePosition, message: &str| format!("{}:{}: {message}", at.line, at.column);
    let document = node::read(text).map_err(|error| shown(error.at, &error.message))?;
    document.root.to_json().map_err(|at| shown(at, "a number that JSON cannot write"))
}

/// Gives the value of a variable.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A manifest. Its `Debug` shows no secret.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The version of the format; always `1.0`.
    pub version: String,
    /// How conflicts of tools' names are resolved.
    pub prefix: PrefixRule,
    /// The toolsets in the file's order, the disabled ones too.
    pub toolsets: Vec<ToolsetEntry>,
    /// The file, if it came from one.
    pub path: Option<PathBuf>,
    /// The file's folder as an absolute path. Relative paths of `${file:…}`, of `path`, of `cwd` and
    /// of a `command` with a slash are taken from here.
    pub folder: PathBuf,
}

/// What happens to tools of one name from several toolsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PrefixRule {
    /// The later one is offered as `toolset__tool`.
    #[default]
    Conflict,
    /// Every tool is offered as `toolset__tool`.
    Always,
    /// A conflict is an error.
    Never,
}

/// One toolset.
#[derive(Debug, Clone)]
pub struct ToolsetEntry {
    /// Its name, unlike any other's: 1 to 64 characters of `A-Za-z0-9_.-`.
    pub name: String,
    /// Whether it is loaded. In one that is not, no variable was looked up.
    pub enabled: bool,
    /// How it is reached.
    pub transport: Transport,
    /// When it is started.
    pub startup: Startup,
    /// Whether it belongs to the server or to a session.
    pub scope: Scope,
    /// Whether the manifest sets it. A server over HTTP without it may give sessions of its own.
    pub scope_written: bool,
    /// How long a call may take.
    pub timeout: Duration,
    /// How long a start may take, up to the first list of tools.
    pub start_timeout: Duration,
    /// How a reset affects it; by default it is restarted if its server gets the seed, else kept.
    pub on_reset: OnReset,
    /// How its state follows a fork of the session.
    pub on_fork: ForkMode,
    /// Its own prefix, where it departs from the manifest's rule.
    pub prefix: Option<Prefix>,
    /// Which callers may call which of its tools, how often, with which arguments.
    pub rules: Rules,
    /// Whether the server refuses to work without it.
    pub required: bool,
    /// Where it stands in the file.
    pub at: FilePosition,
    /// Where its `mcp_server` stands.
    pub server_at: FilePosition,
}

/// How a toolset is reached.
#[derive(Debug, Clone)]
pub enum Transport {
    /// A child process that speaks MCP over its standard input and output.
    Stdio {
        /// The program: a name to look for on PATH, or a path.
        command: Text,
        /// Its arguments.
        args: Vec<Text>,
        /// Variables beside the documented base.
        env: BTreeMap<String, Text>,
        /// Where it runs; absent: in the session's workspace if a text asks for it, else in a temporary
        /// folder of its own; in the manifest's folder where the toolset is one for the whole server.
        cwd: Option<Text>,
    },
    /// A server that speaks MCP over Streamable HTTP.
    Http {
        /// Its endpoint.
        url: Text,
        /// Headers of every request.
        headers: BTreeMap<String, Text>,
    },
    /// A toolset that is compiled in.
    Builtin {
        /// Its name in the registry.
        toolset: String,
    },
    /// Functions of a Python file, run in a worker process.
    Python {
        /// The file, absolute.
        path: PathBuf,
        /// Variables beside the documented base.
        env: BTreeMap<String, Text>,
    },
}

/// When a toolset is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Startup {
    /// When its tools are first needed.
    #[default]
    Lazy,
    /// With the server or the session.
    Eager,
}

/// How a reset of the session affects a toolset.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum OnReset {
    /// Nothing: its state outlives the episode.
    #[default]
    Keep,
    /// It is started afresh.
    Restart,
    /// This tool of it is called, without arguments.
    Call(String),
}

/// A toolset's own prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prefix {
    /// Its tools are always offered as `toolset__tool`.
    Always,
    /// Never; a conflict is an error.
    Never,
    /// Its tools are always offered with this prefix instead of the toolset's name.
    Named(String),
}

/// What reading gives: the manifest with warnings, or every problem.
pub type ParsedManifest = Result<(Manifest, Vec<Problem>), Vec<Problem>>;

impl Manifest {
    /// The most bytes that a manifest may have.
    pub const MAX_TEXT_BYTES: usize = node::MAX_TEXT_BYTES;

    /// Reads a file. Missing commands are warnings: starting them shows whether they are needed.
    ///
    /// # Errors
    /// Every problem, if one of them is an error; also when the file cannot be read.
    pub fn load(path: &Path, lookup: Lookup<'_>) -> ParsedManifest {
        let bytes = Manifest::read(path).map_err(|error| vec![unreadable(path, &error)])?;
        let (manifest, mut warnings) = Manifest::parse_bytes(&bytes, Some(path), lookup)?;
        warnings.extend(manifest.missing(lookup, Severity::Warning));
        Ok((manifest, warnings))
    }

    /// The bytes of a file, not many more than [`Manifest::parse_bytes`] takes.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn read(path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(Manifest::MAX_TEXT_BYTES as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// As [`Manifest::parse`], of bytes that may be no text.
    ///
    /// # Errors
    /// Every problem, if one of them is an error.
    pub fn parse_bytes(bytes: &[u8], path: Option<&Path>, lookup: Lookup<'_>) -> ParsedManifest {
        match str::from_utf8(bytes) {
            Ok(text) => Manifest::parse(text, path, lookup),
            Err(error) => {
                let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
                let message = "a byte that is no UTF-8".to_owned();
                Err(vec![file_problem(path, FilePosition { line, column: 1 }, message, None)])
            }
        }
    }

    /// Reads a manifest. `path` gives the name for problems and the folder for relative paths; the
    /// file itself is not read. Files named by `${file:…}` are.
    ///
    /// # Errors
    /// Every problem, if one of them is an error.
    pub fn parse(text: &str, path: Option<&Path>, lookup: Lookup<'_>) -> ParsedManifest {
        let document = node::read(text)
            .map_err(|fault| vec![file_problem(path, fault.at, fault.message, fault.suggestion)])?;
        let folder = folder(path);
        let mut reader = Reader::new(file_name(path), folder.clone(), lookup);
        for fault in document.faults {
            reader.report(Severity::Error, fault.at, "", &fault.message, fault.suggestion);
        }
        let read = entry::read_manifest(&YamlValue::root(&document.root), &mut reader);
        match read {
            Some(EntryList { prefix, toolsets }) if reader.is_clean() => {
                let version = entry::VERSION.to_owned();
                let path = path.map(Path::to_owned);
                Ok((Manifest { version, prefix, toolsets, path, folder }, reader.into_problems()))
            }
            _ => Err(reader.into_problems()),
        }
    }

    /// Takes the values of every variable and file of this manifest out of texts.
    #[must_use]
    pub fn secrets(&self) -> Redactor {
        Redactor::new(self.toolsets.iter().flat_map(ToolsetEntry::secrets))
    }

    /// What enabled toolsets need and the machine does not have: commands, Python files.
    #[must_use]
    pub fn missing(&self, lookup: Lookup<'_>, severity: Severity) -> Vec<Problem> {
        check::missing(self, lookup, severity)
    }

    /// The enabled toolsets that name a built-in one which is not among the known.
    #[must_use]
    pub fn unknown_builtins(&self, known: &[String]) -> Vec<Problem> {
        check::builtins(self, known)
    }

    /// What to say of a toolset that is known to have these tools: an `on_reset` that calls none of
    /// them is an error, a rule that is about none of them a warning.
    #[must_use]
    pub fn check_tools(&self, toolset: &ToolsetEntry, tools: &[&str]) -> Vec<Problem> {
        check::tools(self, toolset, tools)
    }
}

impl Transport {
    /// The texts in which variables may stand.
    pub(crate) fn texts(&self) -> Vec<&Text> {
        match self {
            Transport::Stdio { command, args, env, cwd } => {
                std::iter::once(command).chain(args).chain(env.values()).chain(cwd).collect()
            }
            Transport::Http { url, headers } => std::iter::once(url).chain(headers.values()).collect(),
            Transport::Python { env, .. } => env.values().collect(),
            Transport::Builtin { .. } => Vec::new(),
        }
    }

    /// Whether its server gets the seed.
    pub(crate) fn needs_seed(&self) -> bool {
        self.texts().iter().any(|text| text.needs_seed())
    }
}

impl ToolsetEntry {
    /// Whether its server decides whether it is one for each session: it is over HTTP, and no scope is
    /// written.
    #[must_use]
    pub fn may_give_sessions(&self) -> bool {
        self.enabled && matches!(self.transport, Transport::Http { .. }) && !self.scope_written
    }

    /// Whether `${seed}` is in one of its texts.
    #[must_use]
    pub fn needs_seed(&self) -> bool {
        self.enabled && self.transport.needs_seed()
    }

    /// Whether its server is started anew with each episode's seed.
    #[must_use]
    pub fn follows_seed(&self) -> bool {
        self.needs_seed() && self.on_reset == OnReset::Restart
    }

    /// The secrets in its texts.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.transport.texts().into_iter().flat_map(Text::secrets)
    }
}

/// The problem of a file that cannot be read.
fn unreadable(path: &Path, error: &io::Error) -> Problem {
    file_problem(Some(path), FilePosition::default(), format!("cannot be read: {error}"), None)
}

fn file_problem(
    path: Option<&Path>,
    at: FilePosition,
    message: String,
    suggestion: Option<String>,
) -> Problem {
    let (severity, file) = (Severity::Error, file_name(path));
    Problem { severity, file, at, path: String::new(), message, suggestion }
}

fn file_name(path: Option<&Path>) -> String {
    path.map_or("tools.yaml".to_owned(), |path| path.display().to_string())
}

fn folder(path: Option<&Path>) -> PathBuf {
    let folder = path.and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned())
}
