//! Making an instance, and the wait until it runs.
//!
//! Invariant: what may have been made is noted in the [`InstanceGuard`] before anything is sent.

use std::time::Duration;

use oxenv_wire::after;
use reqwest::Method;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::api_error::{control_error, may_be_done};
use super::control::{FleetControl, RetryPolicy};
use super::create_request::{CreateRequest, duplicate_id, max_wait_seconds};
use super::guard::InstanceGuard;
use super::instance::FleetInstance;
use crate::error::{ClientError, Code, Result};

/// The shortest pause between two polls of an instance that does not run yet.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The longest pause between two such polls.
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// A pause is the wait so far divided by this, so that it lengthens the wait by no more than that
/// part.
const POLL_FRACTION: u32 = 20;

/// How often an instance that was just made may be unknown.
const MAX_NOT_FOUND: u32 = 4;

/// Makes an instance and waits until it runs.
pub(super) async fn create(
    control: &FleetControl,
    request: &CreateRequest,
    guard: &mut InstanceGuard,
    timeout: Duration,
    deadline: Instant,
) -> Result<FleetInstance> {
    guard.create_requested(request);
    let body = request.body(max_wait_seconds(timeout));
    let repeat = RetryPolicy { retry_not_found: true, ..RetryPolicy::until(deadline) };
    let sent = control.send_with_retries(Method::POST, &request.url, Some(&body), request.id, repeat).await;
    if !(sent.earlier_may_be_done || may_be_done(&sent.outcome)) {
        guard.disarm();
    }
    let answer = sent.outcome?;
    if let Some(id) = duplicate_id(&answer) {
        guard.created(&id);
        let made_before =
            FleetInstance { instance_id: id, status: "pending".to_owned(), ..FleetInstance::default() };
        return wait_until_running(control, made_before, deadline).await;
    }
    if !answer.is_success() {
        return Err(control_error(&request.what, &answer, control.secrets()));
    }
    let instance: FleetInstance =
        answer.json(&format!("the request to {}", request.what), control.secrets())?;
    guard.created(&instance.instance_id);
    wait_until_running(control, instance, deadline).await
}

pub(super) async fn wait_until_running(
    control: &FleetControl,
    mut instance: FleetInstance,
    deadline: Instant,
) -> Result<FleetInstance> {
    let id = instance.instance_id.clone();
    let (began, mut unknown) = (Instant::now(), 0);
    while !instance.is_running() {
        if instance.has_ended() {
            let message =
                format!("the instance '{id}' did not come to run: Fleet says '{}'", instance.status);
            return Err(ClientError::new(Code::FleetInstanceFailed, message)
                .with_retry(true, None)
                .with_data(json!({ "instance_id": id, "status": instance.status })));
        }
        let next = after(
            Instant::now(),
            (began.elapsed() / POLL_FRACTION).clamp(MIN_POLL_INTERVAL, MAX_POLL_INTERVAL),
        );
        if next >= deadline {
            sleep_until(deadline).await;
            let message =
                format!("the instance '{id}' is still '{}'; give it a longer timeout", instance.status);
            return Err(ClientError::new(Code::TimedOut, message));
        }
        sleep_until(next).await;
        match control.instance(&id).await {
            Ok(seen) => instance = seen,
            // It may take a moment until what was made is known everywhere.
            Err(error) if error.code() == Code::FleetInstanceGone && unknown < MAX_NOT_FOUND => unknown += 1,
            Err(error) => return Err(error),
        }
    }
    Ok(instance)
}
