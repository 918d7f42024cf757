//! Starting an instance: it is created, healthy, and its tools are connected.
//!
//! Invariant: one deadline for all of it; on any failure or drop, the [`InstanceGuard`] deletes what was
//! created.

use std::sync::Arc;
use std::time::Duration;

use oxenv_process::secret::Secret;
use oxenv_wire::{Phase, after};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout_at};

use super::FleetEnvClient;
use super::control::FleetControl;
use super::create;
use super::create_request::CreateRequest;
use super::guard::InstanceGuard;
use super::heartbeat::{self, Heartbeat};
use super::instance::FleetInstance;
use super::lifecycle::InstanceLifecycle;
use super::manager::{InstanceManager, RunnerToken};
use super::options::FleetOptions;
use crate::error::{ClientError, Code, Result};
use crate::multiplexer::{MultiplexOptions, Multiplexer};

/// How long the MCP endpoints of a new instance may answer that they are not there yet, once its manager is.
const MCP_STARTUP_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a caller that got nothing waits until what was made is deleted.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(10);

/// What runs, before it has an owner.
struct ReadyInstance {
    instance: FleetInstance,
    manager: InstanceManager,
    tools: Multiplexer,
    lifecycle: Arc<InstanceLifecycle>,
    heartbeat: Option<Heartbeat>,
}

/// Makes an instance.
pub(super) async fn create(
    api_key: &str,
    env_key: &str,
    options: &FleetOptions,
) -> Result<(FleetEnvClient, Multiplexer)> {
    let (control, token) = connect_control(api_key, options)?;
    let request = CreateRequest::new(env_key, options, &control)?;
    let timeout = options.timeout();
    let deadline = after(Instant::now(), timeout);
    let mut guard = InstanceGuard::empty(control.clone());
    let started = timeout_at(deadline, async {
        // The token is for later; an instance without it may still be of use.
        let token = async { Ok(optional_token(&control, token).await) };
        let made = create::create(&control, &request, &mut guard, timeout, deadline);
        let (instance, token) = tokio::try_join!(made, token)?;
        connect_instance(&control, instance, token, api_key, options, MCP_STARTUP_TIMEOUT).await
    });
    match started.await.unwrap_or_else(|_| Err(not_ready(env_key, timeout))) {
        Ok(started) => Ok(into_client(started, guard, options)),
        Err(error) => Err(clean_up(error, guard).await.with_phase(Phase::Boot)),
    }
}

/// Connects to an instance that another caller created.
pub(super) async fn attach(
    api_key: &str,
    instance_id: &str,
    options: &FleetOptions,
) -> Result<(FleetEnvClient, Multiplexer)> {
    let (control, token) = connect_control(api_key, options)?;
    let guard = InstanceGuard::empty(control.clone());
    let timeout = options.timeout();
    let deadline = after(Instant::now(), timeout);
    let started = timeout_at(deadline, async {
        let instance = control.instance(instance_id).await?;
        if instance.has_ended() {
            let message = format!("the instance '{instance_id}' is gone: Fleet says '{}'", instance.status);
            return Err(ClientError::new(Code::FleetInstanceGone, message));
        }
        let instance = create::wait_until_running(&control, instance, deadline).await?;
        let token = optional_token(&control, token).await;
        connect_instance(&control, instance, token, api_key, options, Duration::ZERO).await
    });
    let started = started.await.unwrap_or_else(|_| Err(not_ready(instance_id, timeout)));
    Ok(into_client(started.map_err(|error| error.with_phase(Phase::Boot))?, guard, options))
}

fn connect_control(api_key: &str, options: &FleetOptions) -> Result<(FleetControl, Option<Secret>)> {
    let control = FleetControl::new(api_key, options.base_url.as_deref())?;
    // Fleet may repeat a variable in a refusal, and some are secrets.
    for value in options.env_variables.values().filter_map(serde_json::Value::as_str) {
        control.secrets().add(&Secret::new(value));
    }
    let token = options.runner_token.as_deref().filter(|token| !token.is_empty()).map(Secret::new);
    if let Some(token) = &token {
        super::http::sensitive_header("the runner token", token.expose())?;
        control.secrets().add(token);
    }
    Ok((control, token))
}

/// The caller's token, or the one that Fleet gives.
async fn optional_token(control: &FleetControl, given: Option<Secret>) -> RunnerToken {
    if given.is_some() {
        return RunnerToken { secret: given, is_callers: true };
    }
    match control.runner_token().await {
        Ok(token) => RunnerToken { secret: Some(token), is_callers: false },
        Err(error) => {
            tracing::debug!(%error, "there is no runner token");
            RunnerToken { secret: None, is_callers: false }
        }
    }
}

async fn connect_instance(
    control: &FleetControl,
    instance: FleetInstance,
    token: RunnerToken,
    api_key: &str,
    options: &FleetOptions,
    patience: Duration,
) -> Result<ReadyInstance> {
    let lifecycle = Arc::new(InstanceLifecycle::default());
    let interval_of_instance = instance.heartbeat_interval.and_then(heartbeat::parse_interval);
    let heartbeat = options.heartbeat.or(interval_of_instance).map(|interval| {
        Heartbeat::start(control.clone(), instance.instance_id.clone(), interval, lifecycle.clone())
    });
    let urls = instance.mcp_urls();
    let mut headers = vec![("Authorization".to_owned(), Secret::new(format!("Bearer {api_key}")))];
    headers.extend(token.secret.clone().map(|token| ("X-Runner-Token".to_owned(), token)));
    let manager = InstanceManager::new(control, &instance, token)?;
    let multiplex = MultiplexOptions {
        strictness: options.strictness,
        headers,
        optional: urls.clone(),
        ..MultiplexOptions::default()
    };
    let tools = Multiplexer::new(&urls, multiplex)?;
    manager.wait_until_healthy().await?;
    if let Err(error) = wait_until_listed(&tools, patience).await {
        return Err(manager.explain(error).await);
    }
    Ok(ReadyInstance { instance, manager, tools, lifecycle, heartbeat })
}

/// Lists the tools, again while an endpoint is only beginning to work: answers as a proxy does before it is
/// there.
async fn wait_until_listed(tools: &Multiplexer, patience: Duration) -> Result<()> {
    let until = after(Instant::now(), patience);
    let mut pause = Duration::from_millis(50);
    loop {
        let outcome = tools.list().await;
        let starting = match &outcome {
            Ok(listing) => {
                listing.endpoints.iter().any(|report| report.code == Some(Code::EndpointUnavailable))
            }
            Err(error) => {
                let endpoints = error.data()["endpoints"].as_array();
                let code = |report: &serde_json::Value| report["code"] == Code::EndpointUnavailable.name();
                endpoints.is_some_and(|reports| reports.iter().any(code))
            }
        };
        if !starting || after(Instant::now(), pause) >= until {
            return outcome.map(drop);
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

fn into_client(
    started: ReadyInstance,
    guard: InstanceGuard,
    options: &FleetOptions,
) -> (FleetEnvClient, Multiplexer) {
    let ReadyInstance { instance, manager, tools, lifecycle, heartbeat } = started;
    let client = FleetEnvClient {
        instance,
        manager,
        tools: tools.clone(),
        lifecycle,
        reset_timeout: options.reset_timeout(),
        heartbeat: parking_lot::Mutex::new(heartbeat),
        guard: tokio::sync::Mutex::new(guard),
    };
    (client, tools)
}

fn not_ready(what: &str, timeout: Duration) -> ClientError {
    let seconds = timeout.as_secs_f64();
    let message = format!("'{what}' was not ready on Fleet within {seconds:.1} s; give it a longer timeout");
    ClientError::new(Code::TimedOut, message)
}

/// The failure, after what was made is deleted; if that fails too, it is reported, and tried further in
/// the background.
async fn clean_up(error: ClientError, mut guard: InstanceGuard) -> ClientError {
    let Err(left) = guard.delete(after(Instant::now(), CLEANUP_TIMEOUT)).await else { return error };
    let which = match guard.instance_id() {
        Some(id) => format!("the instance '{id}' may still run"),
        None => "whether an instance was made is not known".to_owned(),
    };
    let message = format!("{error}; besides, {which} ({left}): look with `oxenv fleet list`");
    ClientError::new(error.code(), message)
        .with_kind(error.kind())
        .with_delivered(error.delivered())
        .with_retry(error.is_retryable(), error.retry_after())
        .with_data(match error.data() {
            serde_json::Value::Null => json!({ "instance_id": guard.instance_id() }),
            data => data.clone(),
        })
}
