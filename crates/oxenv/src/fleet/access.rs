//! What all commands about Fleet need: the key, where Fleet is, how an instance is made, when to stop.
//!
//! Invariant: whatever stops a command, [`stoppable`] returns only after the instances that it made are
//! deleted.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use oxenv_client::fleet::{FleetControl, FleetEnvClient, FleetOptions, deletions_done};
use oxenv_client::{ClientError, Code, Multiplexer, Strictness};
use serde_json::{Map, Value};
use tokio::time::timeout;

use crate::env;
use crate::exit::{Problem, usage};
use crate::signals::EndSignals;
use crate::values::duration;

/// Who we are to Fleet, and where it is.
#[derive(Args)]
pub(super) struct FleetAccess {
    /// A file with the API key; otherwise FLEET_API_KEY
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// The control plane; otherwise FLEET_BASE_URL, otherwise Fleet's own
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
}

/// How an instance is made.
#[derive(Args)]
pub(super) struct InstanceArgs {
    /// The region to run in
    #[arg(long)]
    region: Option<String>,
    /// The data it begins with, as KEY or KEY:VERSION
    #[arg(long, value_name = "KEY")]
    data_key: Option<String>,
    /// The kind of image, such as mcp
    #[arg(long, value_name = "TYPE")]
    image_type: Option<String>,
    /// A variable of its environment; without a value it is copied from here (may be repeated)
    #[arg(long = "env", short = 'e', value_name = "NAME[=VALUE]")]
    variables: Vec<String>,
    /// A name that instances of one run share
    #[arg(long, value_name = "RUN")]
    run_id: Option<String>,
    /// Lifetime, after which Fleet ends it: 90s, 15m, 2h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    ttl: Option<Duration>,
    /// Let Fleet end it when it has no heartbeat of this command for this long
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(super) heartbeat: Option<Duration>,
    /// How long to wait until it can be used [default: 15m]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
    /// Fail if one of its MCP endpoints cannot be reached, rather than use the other alone
    #[arg(long)]
    strict: bool,
}

impl FleetAccess {
    /// The API key.
    pub(super) fn key(&self) -> anyhow::Result<String> {
        match &self.api_key_file {
            Some(file) => {
                let text = std::fs::read_to_string(file)
                    .map_err(|error| usage(format!("the API key file {}: {error}", file.display())))?;
                let mut lines = text.lines().map(str::trim);
                let key = lines.find(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned);
                key.ok_or_else(|| usage(format!("the API key file {} holds no key", file.display())))
            }
            None => env::fleet().api_key.ok_or_else(|| {
                usage("there is no API key: set FLEET_API_KEY, or name a file with --api-key-file")
            }),
        }
    }

    /// The control plane.
    pub(super) fn control(&self) -> anyhow::Result<FleetControl> {
        FleetControl::new(&self.key()?, self.base_url().as_deref()).map_err(with_exit_code)
    }

    fn base_url(&self) -> Option<String> {
        self.base_url.clone().or(env::fleet().base_url)
    }
}

impl InstanceArgs {
    pub(super) fn options(&self, access: &FleetAccess) -> anyhow::Result<FleetOptions> {
        Ok(FleetOptions {
            base_url: access.base_url(),
            region: self.region.clone(),
            data_key: self.data_key.clone(),
            image_type: self.image_type.clone(),
            env_variables: variables(&self.variables)?,
            run_id: self.run_id.clone(),
            ttl: self.ttl,
            heartbeat: self.heartbeat,
            runner_token: env::fleet().runner_token,
            timeout: self.timeout.unwrap_or_default(),
            strictness: if self.strict { Strictness::Strict } else { Strictness::Degraded },
            ..FleetOptions::default()
        })
    }
}

fn variables(given: &[String]) -> anyhow::Result<Map<String, Value>> {
    let mut variables = Map::new();
    for text in given {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => {
                let value = env::lookup(text).ok_or_else(|| {
                    usage(format!("--env {text}: that variable is not set here; write {text}=VALUE"))
                })?;
                (text.as_str(), value)
            }
        };
        if name.is_empty() {
            return Err(usage(format!("--env {text}: write NAME=VALUE")));
        }
        variables.insert(name.to_owned(), value.into());
    }
    Ok(variables)
}

/// Makes an instance, or connects to one that is there by its id.
pub(super) async fn connect(
    key: &str,
    environment: &str,
    options: FleetOptions,
    control: &FleetControl,
) -> anyhow::Result<(FleetEnvClient, Multiplexer)> {
    // An id and an environment's key look the same; Fleet knows which it is.
    let there = match control.instance(environment).await {
        Ok(_) => true,
        Err(error) if matches!(error.code(), Code::FleetInstanceGone | Code::FleetBadRequest) => false,
        Err(error) => return Err(with_exit_code(error)),
    };
    let connected = if there {
        FleetEnvClient::attach(key, environment, options).await
    } else {
        FleetEnvClient::from_fleet(key, environment, options).await
    };
    connected.map_err(with_exit_code)
}

/// A client's failure as this command's, with its exit code.
pub(super) fn with_exit_code(error: ClientError) -> anyhow::Error {
    let text = error.message().to_owned();
    match error.code() {
        Code::InvalidOptions => usage(text),
        Code::ConnectFailed | Code::TlsFailed => Problem::Unreachable(text).into(),
        _ => error.into(),
    }
}

/// Runs some work until it is done or a signal ends it, and waits until what was made is deleted. `None`
/// if it was ended.
pub(super) async fn stoppable<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<Option<T>> {
    let mut signals = EndSignals::new().context("cannot listen for signals")?;
    let outcome = tokio::select! {
        outcome = work => outcome.map(Some),
        () = signals.next() => Ok(None),
    };
    tokio::select! {
        left = ended() => match (outcome, left.is_empty()) {
            (outcome, true) => outcome,
            (Ok(_), false) => bail!("{}; look with `oxenv fleet list`", left.join("; ")),
            (Err(error), false) => Err(error.context(left.join("; "))),
        },
        () = signals.next() => bail!("ended before the instances were: look with `oxenv fleet list`"),
    }
}

/// Waits until what was made is deleted, and reports it if that takes long.
async fn ended() -> Vec<String> {
    let done = deletions_done();
    tokio::pin!(done);
    match timeout(Duration::from_secs(2), &mut done).await {
        Ok(left) => left,
        Err(_) => {
            eprintln!("waiting until the instance is ended; press Ctrl-C to leave it");
            done.await
        }
    }
}
