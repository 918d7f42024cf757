//! The one place where environment variables are read.
//!
//! Invariant: an empty variable counts as unset; one that does not parse is an error that names it.

use std::path::PathBuf;
use std::str::FromStr;

use clap::ValueEnum;

use crate::cli::{ModeName, ServeArgs, ToolArgs, duration};
use crate::exit::usage;

/// What the environment says about `serve`: first by our own names, then by OpenEnv's.
pub(crate) fn serve_args() -> anyhow::Result<ServeArgs> {
    read(|name| std::env::var(name).ok())
}

/// A variable that a manifest or a child process asks for.
pub(crate) fn lookup(name: &str) -> Option<String> {
    std::env::var(name).ok()
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
        },
        host: parsed("OXENV_HOST", &get)?,
        port: parsed("OXENV_PORT", &get)?,
        mode: match named("OXENV_MODE", &get)? {
            Some(mode) => Some(mode),
            // OpenEnv compares its own variable without regard to case.
            None => named::<ModeName>("OPENENV_MODE", &|name| get(name).map(|value| value.to_lowercase()))?,
        },
        max_sessions: match parsed("OXENV_MAX_SESSIONS", &get)? {
            Some(sessions) => Some(sessions),
            None => parsed("MAX_CONCURRENT_ENVS", &get)?,
        },
        idle_timeout: time("OXENV_IDLE_TIMEOUT", &get)?,
        drain_timeout: time("OXENV_DRAIN_TIMEOUT", &get)?,
        seed: parsed("OXENV_SEED", &get)?,
        open: match get("OXENV_OPEN").as_deref() {
            None | Some("0" | "false" | "no") => false,
            Some("1" | "true" | "yes") => true,
            Some(other) => return Err(usage(format!("OXENV_OPEN is '{other}': use true or false"))),
        },
        allowed_hosts: Vec::new(),
        allowed_origins: Vec::new(),
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
    let Some(value) = get(name) else { return Ok(None) };
    duration(&value).map(Some).map_err(|error| usage(format!("{name} is '{value}': {error}")))
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
