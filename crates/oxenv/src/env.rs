//! The one place where environment variables are read.
//!
//! Invariant: an empty variable counts as unset; one that does not parse is an error that names it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use clap::ValueEnum;

use crate::cli::{ModeName, ObservingArgs, ServeArgs, TokenArgs, ToolArgs, duration, patience, ratio};
use crate::exit::usage;
use crate::hosted::HostArgs;
use crate::record::{RecordArgs, RetentionSetting, SyncSetting};
use crate::rubrics::RubricArgs;

/// What the environment says about `serve`: first by our own names, then by OpenEnv's.
pub(crate) fn serve_args() -> anyhow::Result<ServeArgs> {
    read(|name| std::env::var(name).ok())
}

/// A variable that a manifest or a child process asks for.
pub(crate) fn lookup(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// What a Python environment inherits: all but what is this command's own, which may be secret.
pub(crate) fn inherited() -> Vec<(OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| !name.to_string_lossy().starts_with("OXENV_")).collect()
}

/// The token that clients send if they are given no other.
pub(crate) fn token() -> Option<String> {
    lookup("OXENV_TOKEN").filter(|token| !token.is_empty())
}

/// What the environment says about Fleet.
pub(crate) struct FleetVariables {
    /// The API key.
    pub(crate) api_key: Option<String>,
    /// The control plane's URL.
    pub(crate) base_url: Option<String>,
    /// The token of instances' runners.
    pub(crate) runner_token: Option<String>,
}

/// What Fleet's own SDK reads of the environment.
pub(crate) fn fleet() -> FleetVariables {
    let get = |name: &str| lookup(name).filter(|value| !value.is_empty());
    FleetVariables {
        api_key: get("FLEET_API_KEY"),
        base_url: get("FLEET_BASE_URL"),
        runner_token: get("RUNNER_AUTH_TOKEN"),
    }
}

/// The Docker daemon to use, where it is not the machine's own.
pub(crate) fn docker_host() -> Option<String> {
    ["OXENV_DOCKER_HOST", "DOCKER_HOST"]
        .into_iter()
        .find_map(|name| lookup(name).filter(|host| !host.is_empty()))
}

fn read(lookup: impl Fn(&str) -> Option<String>) -> anyhow::Result<ServeArgs> {
    let get = |name: &str| lookup(name).filter(|value| !value.is_empty());
    Ok(ServeArgs {
        environment: get("OXENV_ENV"),
        tools: ToolArgs {
            manifest: get("OXENV_TOOLS").map(PathBuf::from),
            workspace: get("OXENV_WORKSPACE").map(PathBuf::from),
            share_workspace: false,
            audit: get("OXENV_AUDIT").map(PathBuf::from),
            audit_arguments: false,
            host: HostArgs { python: get("OXENV_PYTHON").map(PathBuf::from), ..HostArgs::default() },
        },
        host: parsed("OXENV_HOST", &get)?,
        port: parsed("OXENV_PORT", &get)?,
        uds: get("OXENV_UDS").map(PathBuf::from),
        mode: match named("OXENV_MODE", &get)? {
            Some(mode) => Some(mode),
            // OpenEnv compares its own variable without regard to case.
            None => named::<ModeName>("OPENENV_MODE", &|name| get(name).map(|value| value.to_lowercase()))?,
        },
        max_sessions: match parsed("OXENV_MAX_SESSIONS", &get)? {
            Some(sessions) => Some(sessions),
            None => parsed("MAX_CONCURRENT_ENVS", &get)?,
        },
        queue_timeout: with("OXENV_QUEUE_TIMEOUT", &get, patience)?,
        memory_budget: parsed("OXENV_MEMORY_BUDGET", &get)?,
        idle_timeout: time("OXENV_IDLE_TIMEOUT", &get)?,
        drain_timeout: time("OXENV_DRAIN_TIMEOUT", &get)?,
        seed: parsed("OXENV_SEED", &get)?,
        open: switch("OXENV_OPEN", &get)?,
        tokens: TokenArgs {
            control_token_file: get("OXENV_CONTROL_TOKEN_FILE").map(PathBuf::from),
            observer_token_file: get("OXENV_OBSERVER_TOKEN_FILE").map(PathBuf::from),
            generate_tokens: switch("OXENV_GENERATE_TOKENS", &get)?,
            max_sessions_per_token: parsed("OXENV_MAX_SESSIONS_PER_TOKEN", &get)?,
            control_token: get("OXENV_CONTROL_TOKEN"),
            observer_token: get("OXENV_OBSERVER_TOKEN"),
        },
        allowed_hosts: Vec::new(),
        allowed_origins: Vec::new(),
        rubric: RubricArgs {
            rubric: get("OXENV_RUBRIC").map(PathBuf::from),
            judge_url: get("OXENV_JUDGE_URL"),
            judge_model: get("OXENV_JUDGE_MODEL"),
            only_recorded: false,
        },
        record: RecordArgs {
            record: get("OXENV_RECORD").map(PathBuf::from),
            record_sync: with("OXENV_RECORD_SYNC", &get, SyncSetting::parse)?,
            record_keep: with("OXENV_RECORD_KEEP", &get, RetentionSetting::parse)?,
        },
        max_snapshot: parsed("OXENV_MAX_SNAPSHOT", &get)?,
        snapshot_key_file: get("OXENV_SNAPSHOT_KEY_FILE").map(PathBuf::from),
        observing: ObservingArgs {
            metrics: switch("OXENV_METRICS", &get)?,
            slow_step: time("OXENV_SLOW_STEP", &get)?,
            otlp: parsed("OXENV_OTLP", &get)?,
            otlp_sample: with("OXENV_OTLP_SAMPLE", &get, ratio)?,
        },
        config: get("OXENV_CONFIG").map(PathBuf::from),
        log: named("OXENV_LOG", &get)?,
        log_format: named("OXENV_LOG_FORMAT", &get)?,
    })
}

type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

fn parsed<T: FromStr<Err: std::fmt::Display>>(name: &str, get: Lookup<'_>) -> anyhow::Result<Option<T>> {
    let Some(value) = get(name) else { return Ok(None) };
    value.parse().map(Some).map_err(|error| usage(format!("{name} is '{value}': {error}")))
}

fn switch(name: &str, get: Lookup<'_>) -> anyhow::Result<bool> {
    match get(name).as_deref() {
        None | Some("0" | "false" | "no") => Ok(false),
        Some("1" | "true" | "yes") => Ok(true),
        Some(other) => Err(usage(format!("{name} is '{other}': use true or false"))),
    }
}

fn named<T: ValueEnum>(name: &str, get: Lookup<'_>) -> anyhow::Result<Option<T>> {
    let Some(value) = get(name) else { return Ok(None) };
    let found = T::value_variants()
        .iter()
        .find(|variant| variant.to_possible_value().is_some_and(|possible| possible.matches(&value, false)));
    found.cloned().map(Some).ok_or_else(|| {
        let known: Vec<String> = T::value_variants()
            .iter()
            .filter_map(ValueEnum::to_possible_value)
            .map(|possible| possible.get_name().to_owned())
            .collect();
        usage(format!("{name} is '{value}': use one of {}", known.join(", ")))
    })
}

fn time(name: &str, get: Lookup<'_>) -> anyhow::Result<Option<std::time::Duration>> {
    with(name, get, duration)
}

fn with<T>(
    name: &str,
    get: Lookup<'_>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> anyhow::Result<Option<T>> {
    let Some(value) = get(name) else { return Ok(None) };
    parse(&value).map(Some).map_err(|error| usage(format!("{name} is '{value}': {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> anyhow::Result<ServeArgs> {
        read(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn our_names_win_over_openenv_s() {
        let args = with(&[("MAX_CONCURRENT_ENVS", "9"), ("OPENENV_MODE", "PRODUCTION")]).unwrap();
        assert_eq!((args.max_sessions, args.mode), (Some(9), Some(ModeName::Production)));
        let args = with(&[("MAX_CONCURRENT_ENVS", "9"), ("OXENV_MAX_SESSIONS", "4")]).unwrap();
        assert_eq!(args.max_sessions, Some(4));
    }

    #[test]
    fn what_does_not_parse_is_named() {
        let error = with(&[("OXENV_PORT", "x")]).err().unwrap().to_string();
        assert!(error.starts_with("OXENV_PORT is 'x'"), "{error}");
        let error = with(&[("OXENV_MODE", "prod")]).err().unwrap().to_string();
        assert!(error.contains("use one of simulation, production"), "{error}");
        assert!(with(&[("OXENV_PORT", "")]).unwrap().port.is_none());
    }
}
