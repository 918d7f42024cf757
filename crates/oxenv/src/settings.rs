//! Settings of `serve`: flags over environment over file over defaults.
//!
//! Invariant: everything is read, parsed and checked here, before a port is bound.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use oxenv_core::StoreLimits;
use oxenv_server::{Mode, ServerConfig};
use oxenv_wire::ByteSize;
use serde::Deserialize;

use crate::cli::{
    LogFormat, LogLevel, ModeName, ObservingArgs, ServeArgs, TokenArgs, ToolArgs, duration, patience, ratio,
};
use crate::exit::usage;
use crate::hosted::HostArgs;
use crate::record::{RecordArgs, RetentionSetting, SyncSetting};
use crate::rubrics::RubricArgs;
use crate::traces::Endpoint;
use crate::{env, tokens};

/// What `serve` does.
pub(crate) struct Settings {
    /// What to serve; absent: `echo`, or the manifest's tools alone.
    pub(crate) environment: Option<String>,
    pub(crate) tools: ToolArgs,
    pub(crate) rubric: RubricArgs,
    pub(crate) record: RecordArgs,
    /// The file with the key of snapshots; absent: that beside the record, or one of the process.
    pub(crate) snapshot_key_file: Option<PathBuf>,
    pub(crate) observing: ObservingArgs,
    pub(crate) address: SocketAddr,
    /// A Unix socket to listen on as well.
    pub(crate) uds: Option<PathBuf>,
    pub(crate) limits: StoreLimits,
    pub(crate) server: ServerConfig,
    /// Tokens that were made just now: what each is, and the token.
    pub(crate) made_tokens: Vec<(&'static str, String)>,
    pub(crate) log: LogLevel,
    pub(crate) log_format: LogFormat,
}

/// The file given by `--config`. Unknown keys are errors.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    env: Option<String>,
    tools: Option<PathBuf>,
    workspace: Option<PathBuf>,
    share_workspace: Option<bool>,
    audit: Option<PathBuf>,
    audit_arguments: Option<bool>,
    allowed_hosts: Option<Vec<String>>,
    allowed_origins: Option<Vec<String>>,
    host: Option<IpAddr>,
    port: Option<u16>,
    uds: Option<PathBuf>,
    mode: Option<ModeName>,
    max_sessions: Option<usize>,
    queue_timeout: Option<TimeoutSetting>,
    memory_budget: Option<ByteSetting>,
    idle_timeout: Option<DurationSetting>,
    drain_timeout: Option<DurationSetting>,
    seed: Option<u64>,
    open: Option<bool>,
    control_token_file: Option<PathBuf>,
    observer_token_file: Option<PathBuf>,
    generate_tokens: Option<bool>,
    max_sessions_per_token: Option<usize>,
    rubric: Option<PathBuf>,
    judge_url: Option<String>,
    judge_model: Option<String>,
    record: Option<PathBuf>,
    record_sync: Option<SyncSetting>,
    record_keep: Option<RetentionSetting>,
    snapshot_key_file: Option<PathBuf>,
    max_snapshot: Option<ByteSetting>,
    metrics: Option<bool>,
    slow_step: Option<DurationSetting>,
    otlp: Option<Endpoint>,
    otlp_sample: Option<RatioSetting>,
    log: Option<LogLevel>,
    log_format: Option<LogFormat>,
}

/// A length of time in the file: `"15m"`, or a number of seconds.
struct DurationSetting(Duration);

/// The same, where 0 is one too.
struct TimeoutSetting(Duration);

/// A number of bytes in the file: `"4GiB"`, or a number.
struct ByteSetting(ByteSize);

impl<'de> Deserialize<'de> for DurationSetting {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        duration(&written(deserializer)?).map(DurationSetting).map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for TimeoutSetting {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        patience(&written(deserializer)?).map(TimeoutSetting).map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for ByteSetting {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        written(deserializer)?.parse().map(ByteSetting).map_err(serde::de::Error::custom)
    }
}

/// A part of a whole in the file.
struct RatioSetting(f64);

impl<'de> Deserialize<'de> for RatioSetting {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ratio(&written(deserializer)?).map(RatioSetting).map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A value that may be written as a text or as a number.
fn written<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum DurationText {
        Text(String),
        Number(f64),
    }
    Ok(match DurationText::deserialize(deserializer)? {
        DurationText::Text(text) => text,
        DurationText::Number(number) => number.to_string(),
    })
}

impl Settings {
    /// Puts the flags together with the environment and the file.
    pub(crate) fn gather(flags: ServeArgs) -> anyhow::Result<Self> {
        let env = env::serve_args()?;
        let file = match flags.config.as_ref().or(env.config.as_ref()) {
            Some(path) => File::read(path)?,
            None => File::default(),
        };
        Self::merge(flags, env, file)
    }

    fn merge(flags: ServeArgs, env: ServeArgs, file: File) -> anyhow::Result<Self> {
        let host = flags.host.or(env.host).or(file.host).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let port = flags.port.or(env.port).or(file.port).unwrap_or(8000);
        let token_args = TokenArgs {
            control_token_file: flags
                .tokens
                .control_token_file
                .or(env.tokens.control_token_file)
                .or(file.control_token_file),
            observer_token_file: flags
                .tokens
                .observer_token_file
                .or(env.tokens.observer_token_file)
                .or(file.observer_token_file),
            generate_tokens: flags.tokens.generate_tokens
                || env.tokens.generate_tokens
                || file.generate_tokens.unwrap_or(false),
            max_sessions_per_token: flags
                .tokens
                .max_sessions_per_token
                .or(env.tokens.max_sessions_per_token)
                .or(file.max_sessions_per_token),
            ..env.tokens
        };
        let given = tokens::gather(&token_args)?;
        let open = flags.open || env.open || file.open.unwrap_or(false);
        if !host.is_loopback() && !open && given.tokens.is_empty() {
            return Err(usage(format!(
                "{host} can be reached by others, and whoever reaches this server controls it: \
                 add --generate-tokens or --control-token-file FILE, or --open if that is meant, \
                 or listen on 127.0.0.1"
            )));
        }
        let idle = flags.idle_timeout.or(env.idle_timeout).or(file.idle_timeout.map(|time| time.0));
        let drain = flags.drain_timeout.or(env.drain_timeout).or(file.drain_timeout.map(|time| time.0));
        let max_sessions = flags.max_sessions.or(env.max_sessions).or(file.max_sessions);
        if max_sessions == Some(0) {
            return Err(usage("max_sessions is 0, so nobody could connect: use at least 1"));
        }
        if token_args.max_sessions_per_token == Some(0) {
            return Err(usage("max_sessions_per_token is 0, so nobody could connect: use at least 1"));
        }
        let tools = ToolArgs {
            manifest: flags.tools.manifest.or(env.tools.manifest).or(file.tools),
            workspace: flags.tools.workspace.or(env.tools.workspace).or(file.workspace),
            share_workspace: flags.tools.share_workspace || file.share_workspace.unwrap_or(false),
            audit: flags.tools.audit.or(env.tools.audit).or(file.audit),
            audit_arguments: flags.tools.audit_arguments || file.audit_arguments.unwrap_or(false),
            host: HostArgs { python: flags.tools.host.python.or(env.tools.host.python), ..flags.tools.host },
        };
        if tools.share_workspace && tools.workspace.is_none() {
            return Err(usage("share_workspace is set, but no workspace is named: add --workspace DIR"));
        }
        let in_file = RubricArgs {
            rubric: file.rubric,
            judge_url: file.judge_url,
            judge_model: file.judge_model,
            only_recorded: false,
        };
        let rubric = flags.rubric.over(env.rubric, in_file);
        let in_file =
            RecordArgs { record: file.record, record_sync: file.record_sync, record_keep: file.record_keep };
        let record = flags.record.over(env.record, in_file)?;
        let observing = ObservingArgs {
            metrics: flags.observing.metrics || env.observing.metrics || file.metrics.unwrap_or(false),
            slow_step: flags
                .observing
                .slow_step
                .or(env.observing.slow_step)
                .or(file.slow_step.map(|time| time.0)),
            otlp: flags.observing.otlp.or(env.observing.otlp).or(file.otlp),
            otlp_sample: flags
                .observing
                .otlp_sample
                .or(env.observing.otlp_sample)
                .or(file.otlp_sample.map(|ratio| ratio.0)),
        };
        let listed = |flags: Vec<String>, file: Option<Vec<String>>| match flags.is_empty() {
            true => file.unwrap_or_default(),
            false => flags,
        };
        let limits = StoreLimits::default();
        let queue = flags.queue_timeout.or(env.queue_timeout).or(file.queue_timeout.map(|time| time.0));
        let memory = flags.memory_budget.or(env.memory_budget).or(file.memory_budget.map(|size| size.0));
        let snapshot = flags.max_snapshot.or(env.max_snapshot).or(file.max_snapshot.map(|size| size.0));
        let server = ServerConfig::default();
        Ok(Settings {
            environment: flags.environment.or(env.environment).or(file.env),
            tools,
            rubric,
            record,
            snapshot_key_file: flags.snapshot_key_file.or(env.snapshot_key_file).or(file.snapshot_key_file),
            observing,
            address: SocketAddr::new(host, port),
            uds: flags.uds.or(env.uds).or(file.uds),
            limits: StoreLimits {
                max_sessions: max_sessions.unwrap_or(limits.max_sessions),
                max_per_owner: token_args.max_sessions_per_token,
                memory: memory.map(ByteSize::get),
                queue: queue.unwrap_or(limits.queue),
                idle: idle.unwrap_or(limits.idle),
                default_idle: idle,
                seed: flags.seed.or(env.seed).or(file.seed),
                snapshot: snapshot.map_or(limits.snapshot, ByteSize::get),
                ..limits
            },
            server: ServerConfig {
                mode: match flags.mode.or(env.mode).or(file.mode) {
                    Some(ModeName::Production) => Mode::Production,
                    Some(ModeName::Simulation) | None => Mode::Simulation,
                },
                drain: drain.unwrap_or(server.drain),
                tokens: given.tokens,
                allowed_hosts: listed(flags.allowed_hosts, file.allowed_hosts),
                allowed_origins: listed(flags.allowed_origins, file.allowed_origins),
                ..server
            },
            made_tokens: given.made,
            log: flags.log.or(env.log).or(file.log).unwrap_or(LogLevel::Info),
            log_format: flags.log_format.or(env.log_format).or(file.log_format).unwrap_or(LogFormat::Text),
        })
    }
}

impl File {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| usage(format!("cannot read the configuration {}: {error}", path.display())))?;
        Self::parse(&text).map_err(|error| usage(format!("{}: {error}", path.display())))
    }

    fn parse(text: &str) -> Result<Self, String> {
        // The library's message shows line, column and the line itself.
        toml::from_str(text).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_environment_over_the_file() {
        let file = || File::parse("port = 1\nmax_sessions = 1\nseed = 1\nidle_timeout = \"1m\"").unwrap();
        let env = || ServeArgs { port: Some(2), max_sessions: Some(2), ..ServeArgs::default() };
        let flags = ServeArgs { port: Some(3), ..ServeArgs::default() };
        let settings = Settings::merge(flags, env(), file()).unwrap();
        assert_eq!(settings.address.port(), 3);
        assert_eq!(settings.limits.max_sessions, 2);
        assert_eq!(settings.limits.seed, Some(1));
        assert_eq!(settings.limits.default_idle, Some(Duration::from_secs(60)));
    }

    #[test]
    fn mistakes_in_the_file_are_shown_with_their_line() {
        let error = File::parse("port = 1\nmax_session = 3\n").err().unwrap();
        assert!(error.contains("line 2") && error.contains("max_session"), "{error}");
        let error = File::parse("port = \"x\"\n").err().unwrap();
        assert!(error.contains("line 1"), "{error}");
    }

    #[test]
    fn an_address_for_others_must_be_meant() {
        let flags = ServeArgs { host: Some("0.0.0.0".parse().unwrap()), ..ServeArgs::default() };
        let error = Settings::merge(flags, ServeArgs::default(), File::default()).err().unwrap();
        assert!(error.to_string().contains("--open"), "{error}");
    }
}
