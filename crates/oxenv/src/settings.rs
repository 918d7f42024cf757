//! Settings of `serve`: flags over variables over the file over defaults.
//!
//! Invariant: everything is read, parsed and checked here, before a port is bound.

mod layers;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgMatches, Args, Command, FromArgMatches, ValueEnum};
use oxenv_core::StoreLimits;
use oxenv_server::{Mode, ServerConfig};
use serde::Deserialize;

use crate::assemble::ToolArgs;
use crate::byte_size::ByteSize;
use crate::code::CodeArgs;
use crate::exit::usage;
use crate::logging::{LogFormat, LogLevel};
use crate::observing::ObservingArgs;
use crate::record::RecordArgs;
use crate::rubrics::RubricArgs;
use crate::tokens::{GeneratedToken, TokenArgs};
use crate::values::{byte_size_setting, duration, duration_setting, timeout, timeout_setting};
use crate::{env, tokens};
use layers::{ConfigFile, Layers};

/// The default port.
const DEFAULT_PORT: u16 = 8000;

const SERVE_HELP: &str = "Settings come from flags, then OXENV_* variables, then OPENENV_MODE and
MAX_CONCURRENT_ENVS, then the file given by --config, then defaults.

Examples:
  oxenv serve                                    echo on http://127.0.0.1:8000
  oxenv serve connect4 --port 0 --seed 7         a free port, reproducible episodes
  oxenv serve grid_world --max-sessions 2048
  oxenv serve echo --host 0.0.0.0 --open         reachable from elsewhere, for everybody
  oxenv serve echo --host 0.0.0.0 --generate-tokens   the same, for callers with a token
  oxenv serve --tools tools.yaml                 the tools of a manifest, as an environment
  oxenv serve echo --tools tools.yaml            an environment with more tools
  oxenv serve --tools tools.yaml --workspace data --audit calls.jsonl
  oxenv serve --tools tools.yaml --code monty    agents may send programs that call the tools
  oxenv serve connect4 --record records          record what every session does
  oxenv serve --config oxenv.toml";

/// The flags of `serve` that were given. One that was not must not hide a variable or the file.
pub(crate) struct ServeArgs(ArgMatches);

/// The settings of `serve`, each with its flag, its key in the file and its default.
#[derive(Args, Default, Deserialize)]
#[serde(default)]
struct GivenSettings {
    /// What to serve: a bundled environment's name, a manifest, or a folder with a tools.yaml
    /// [default: echo, or the tools alone if --tools is given]
    #[arg(id = "env", value_name = "ENV")]
    #[serde(rename = "env")]
    environment: Option<String>,

    #[command(flatten)]
    #[serde(skip)]
    tools: ToolArgs,

    /// Address to listen on [default: 127.0.0.1]
    #[arg(long)]
    host: Option<IpAddr>,

    /// Port to listen on; 0 takes a free one [default: 8000]
    #[arg(long)]
    port: Option<u16>,

    /// Listen on a Unix socket of this path as well, for this user alone
    #[arg(long, value_name = "PATH")]
    uds: Option<PathBuf>,

    /// Which doors are open: control and agents, or agents only [default: simulation]
    #[arg(long)]
    mode: Option<ModeName>,

    /// Maximum number of sessions at a time, besides the default session [default: 256]
    #[arg(long, value_name = "N")]
    max_sessions: Option<usize>,

    /// How long a new session waits for a free slot before it is refused; 0s: not at all [default: 20s]
    #[arg(long, value_name = "TIME", value_parser = timeout)]
    #[serde(deserialize_with = "timeout_setting")]
    queue_timeout: Option<Duration>,

    /// Open no session while the process uses this much memory: 512MiB, 4GiB [default: no limit]
    #[arg(long, value_name = "SIZE")]
    #[serde(deserialize_with = "byte_size_setting")]
    memory_budget: Option<ByteSize>,

    /// How long a session lives without a socket and without a call: 90s, 15m, 2h. If given, it
    /// holds for the default session too, which otherwise lives as long as the server [default: 15m]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    #[serde(deserialize_with = "duration_setting")]
    idle_timeout: Option<Duration>,

    /// How long a reset may take, with the start of what it needs: 30s, 5m [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    #[serde(deserialize_with = "duration_setting")]
    reset_timeout: Option<Duration>,

    /// How long calls in flight may go on after SIGTERM or Ctrl-C [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    #[serde(deserialize_with = "duration_setting")]
    drain_timeout: Option<Duration>,

    /// Seed from which the seeds of sessions and episodes come [default: random]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    #[command(flatten)]
    #[serde(skip)]
    tokens: TokenArgs,

    /// Allow an address that others can reach without tokens, although whoever reaches it has full control
    #[arg(long)]
    open: bool,

    /// A name by which this server may be reached beside those of its address; others are refused
    /// (may be repeated) [default: any, unless the address is a loopback one]
    #[arg(long = "allow-host", value_name = "HOST")]
    allowed_hosts: Vec<String>,

    /// An origin whose web pages may reach this server, such as `https://app.example` (may be repeated)
    #[arg(long = "allow-origin", value_name = "ORIGIN")]
    allowed_origins: Vec<String>,

    #[command(flatten)]
    #[serde(skip)]
    rubric: RubricArgs,

    #[command(flatten)]
    #[serde(skip)]
    code: CodeArgs,

    #[command(flatten)]
    #[serde(skip)]
    record: RecordArgs,

    /// A file with the key that authenticates snapshots, at least 32 random bytes: servers with the same one
    /// restore each other's snapshots; see docs/forks.md [default: snapshot.key beside the record, which
    /// is made; without --record a key of this process]
    #[arg(long, value_name = "FILE")]
    snapshot_key_file: Option<PathBuf>,

    /// Maximum size of a snapshot's state and files: 512MiB, 4GiB; a larger one is refused before it is
    /// made [default: 256MiB]
    #[arg(long, value_name = "SIZE")]
    #[serde(deserialize_with = "byte_size_setting")]
    max_snapshot: Option<ByteSize>,

    #[command(flatten)]
    #[serde(skip)]
    observing: ObservingArgs,

    /// A TOML file with settings of the same names
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,

    /// What to log on stderr: error, warn, info, debug, trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    log: Option<LogLevel>,

    /// How to log [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ModeName {
    /// Control and agents.
    Simulation,
    /// Agents only.
    Production,
}

/// What `serve` does.
pub(crate) struct Settings {
    /// What to serve; absent: `echo`, or the manifest's tools alone.
    pub(crate) environment: Option<String>,
    pub(crate) tools: ToolArgs,
    pub(crate) rubric: RubricArgs,
    pub(crate) code: CodeArgs,
    pub(crate) record: RecordArgs,
    /// The file with the key of snapshots; absent: that beside the record, or one of the process.
    pub(crate) snapshot_key_file: Option<PathBuf>,
    pub(crate) observing: ObservingArgs,
    pub(crate) address: SocketAddr,
    /// A Unix socket to listen on as well.
    pub(crate) uds: Option<PathBuf>,
    pub(crate) limits: StoreLimits,
    pub(crate) server: ServerConfig,
    /// The tokens that were generated just now.
    pub(crate) generated_tokens: Vec<GeneratedToken>,
    pub(crate) log: LogLevel,
    pub(crate) log_format: LogFormat,
}

impl Args for ServeArgs {
    fn augment_args(command: Command) -> Command {
        GivenSettings::augment_args(command).after_help(SERVE_HELP)
    }

    fn augment_args_for_update(command: Command) -> Command {
        GivenSettings::augment_args_for_update(command).after_help(SERVE_HELP)
    }
}

impl FromArgMatches for ServeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(ServeArgs(matches.clone()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0 = matches.clone();
        Ok(())
    }
}

/// The port that variables name, or the default one.
fn port_of_variables() -> anyhow::Result<u16> {
    let no_flags = GivenSettings::augment_args(clap::Command::new("serve")).get_matches_from(["serve"]);
    let layers = Layers::new(no_flags, env::lookup, ConfigFile::default());
    Ok(layers.read::<GivenSettings>()?.port.unwrap_or(DEFAULT_PORT))
}

/// The URL of a server: the given one, or that of this machine at the port that variables name.
pub(crate) fn url_or_default(given: Option<&str>) -> anyhow::Result<String> {
    match given {
        Some(url) => Ok(url.trim_end_matches('/').to_owned()),
        None => Ok(format!("http://127.0.0.1:{}", port_of_variables()?)),
    }
}

impl GivenSettings {
    fn read(layers: &Layers) -> anyhow::Result<Self> {
        layers.refuse_unknown::<Self>()?;
        Ok(GivenSettings {
            tools: ToolArgs { python: layers.read()?, ..layers.read()? },
            tokens: layers.read()?,
            rubric: layers.read()?,
            code: CodeArgs { options: layers.read()?, ..layers.read()? },
            record: layers.read()?,
            observing: layers.read()?,
            ..layers.read()?
        })
    }
}

impl Settings {
    /// Puts the flags together with the variables and the file.
    pub(crate) fn gather(flags: ServeArgs) -> anyhow::Result<Self> {
        let config =
            flags.0.get_one("config").cloned().or_else(|| env::nonempty("OXENV_CONFIG").map(PathBuf::from));
        let file = match config {
            Some(path) => ConfigFile::open(&path)?,
            None => ConfigFile::default(),
        };
        Self::of(GivenSettings::read(&Layers::new(flags.0, env::lookup, file))?)
    }

    fn of(given: GivenSettings) -> anyhow::Result<Self> {
        let host = given.host.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let server_tokens = tokens::gather(&given.tokens)?;
        if !host.is_loopback() && !given.open && server_tokens.tokens.is_empty() {
            return Err(usage(format!(
                "{host} can be reached by others, and whoever reaches this server controls it: \
                 add --generate-tokens or --control-token-file FILE, or --open if that is meant, \
                 or listen on 127.0.0.1"
            )));
        }
        if given.max_sessions == Some(0) {
            return Err(usage("max_sessions is 0, so nobody could connect: use at least 1"));
        }
        if given.tokens.max_sessions_per_token == Some(0) {
            return Err(usage("max_sessions_per_token is 0, so nobody could connect: use at least 1"));
        }
        if given.tools.share_workspace && given.tools.workspace.is_none() {
            return Err(usage("share_workspace is set, but no workspace is named: add --workspace DIR"));
        }
        given.record.check()?;
        let limits = StoreLimits::default();
        let server = ServerConfig::default();
        Ok(Settings {
            environment: given.environment,
            tools: given.tools,
            rubric: given.rubric,
            code: given.code,
            record: given.record,
            snapshot_key_file: given.snapshot_key_file,
            observing: given.observing,
            address: SocketAddr::new(host, given.port.unwrap_or(DEFAULT_PORT)),
            uds: given.uds,
            limits: StoreLimits {
                max_sessions: given.max_sessions.unwrap_or(limits.max_sessions),
                max_per_owner: given.tokens.max_sessions_per_token,
                memory: given.memory_budget.map(ByteSize::get),
                queue: given.queue_timeout.unwrap_or(limits.queue),
                idle: given.idle_timeout.unwrap_or(limits.idle),
                default_idle: given.idle_timeout,
                reset: given.reset_timeout.unwrap_or(limits.reset),
                seed: given.seed,
                snapshot: given.max_snapshot.map_or(limits.snapshot, ByteSize::get),
                ..limits
            },
            server: ServerConfig {
                mode: match given.mode {
                    Some(ModeName::Production) => Mode::Production,
                    Some(ModeName::Simulation) | None => Mode::Simulation,
                },
                drain: given.drain_timeout.unwrap_or(server.drain),
                tokens: server_tokens.tokens,
                allowed_hosts: given.allowed_hosts,
                allowed_origins: given.allowed_origins,
                ..server
            },
            generated_tokens: server_tokens.generated,
            log: given.log.unwrap_or(LogLevel::Info),
            log_format: given.log_format.unwrap_or(LogFormat::Text),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_variable(_name: &str) -> Option<String> {
        None
    }

    fn settings(
        flags: &[&str],
        lookup: fn(&str) -> Option<String>,
        file: &str,
    ) -> anyhow::Result<GivenSettings> {
        let command = ServeArgs::augment_args(clap::Command::new("serve"));
        let flags = command.try_get_matches_from([&["serve"], flags].concat())?;
        let file = ConfigFile::parse("oxenv.toml".to_owned(), file.to_owned())?;
        GivenSettings::read(&Layers::new(flags, lookup, file))
    }

    fn error(lookup: fn(&str) -> Option<String>, file: &str) -> String {
        settings(&[], lookup, file).err().unwrap().to_string()
    }

    #[test]
    fn flags_win_over_variables_over_the_file() {
        let file =
            "port = 1\nmax_sessions = 1\nseed = 1\nidle_timeout = \"1m\"\nmetrics = true\naudit = \"a\"";
        let lookup =
            |name: &str| ["OXENV_PORT", "OXENV_MAX_SESSIONS"].contains(&name).then(|| "2".to_owned());
        let given = settings(&["--port", "3", "--open"], lookup, file).unwrap();
        assert_eq!((given.port, given.max_sessions, given.seed), (Some(3), Some(2), Some(1)));
        assert_eq!(given.idle_timeout, Some(Duration::from_secs(60)));
        assert!(given.open && given.observing.metrics && !given.tokens.generate_tokens);
        assert_eq!(given.tools.audit, Some(PathBuf::from("a")));
    }

    #[test]
    fn our_variables_win_over_those_of_openenv() {
        let theirs = |name: &str| match name {
            "MAX_CONCURRENT_ENVS" => Some("9".to_owned()),
            "OPENENV_MODE" => Some("PRODUCTION".to_owned()),
            _ => None,
        };
        let given = settings(&[], theirs, "max_sessions = 1").unwrap();
        assert_eq!((given.max_sessions, given.mode), (Some(9), Some(ModeName::Production)));
        let both = |name: &str| match name {
            "MAX_CONCURRENT_ENVS" => Some("9".to_owned()),
            "OXENV_MAX_SESSIONS" => Some("4".to_owned()),
            "OXENV_PORT" => Some(String::new()),
            _ => None,
        };
        let given = settings(&[], both, "").unwrap();
        assert_eq!((given.max_sessions, given.port), (Some(4), None));
    }

    #[test]
    fn a_variable_that_does_not_parse_is_named() {
        let port = |name: &str| (name == "OXENV_PORT").then(|| "x".to_owned());
        assert_eq!(error(port, ""), "OXENV_PORT is 'x': invalid digit found in string");
        let mode = |name: &str| (name == "OXENV_MODE").then(|| "prod".to_owned());
        assert_eq!(error(mode, ""), "OXENV_MODE is 'prod': use one of simulation, production");
        let time = |name: &str| (name == "OXENV_SLOW_STEP").then(|| "soon".to_owned());
        assert!(error(time, "").starts_with("OXENV_SLOW_STEP is 'soon': "), "{}", error(time, ""));
    }

    #[test]
    fn mistakes_in_the_file_are_shown_with_their_line() {
        let unknown = error(no_variable, "port = 1\nmax_session = 3\n");
        assert!(unknown.contains("line 2") && unknown.contains("unknown field `max_session`"), "{unknown}");
        let hidden = |name: &str| (name == "OXENV_PORT").then(|| "1".to_owned());
        let error = error(hidden, "seed = 1\nport = \"x\"\n");
        assert!(error.starts_with("oxenv.toml: ") && error.contains("line 2"), "{error}");
    }

    #[test]
    fn an_address_for_others_must_be_meant() {
        let given = settings(&["--host", "0.0.0.0"], no_variable, "").unwrap();
        let error = Settings::of(given).err().unwrap();
        assert!(error.to_string().contains("--open"), "{error}");
    }
}
