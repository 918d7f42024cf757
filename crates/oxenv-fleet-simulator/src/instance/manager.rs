//! The instance manager: everything below `/api/v1/env`.
//!
//! Invariant: a reset gives both databases back the content of their seed, and nothing else: Fleet
//! knows no observation, no reward and no done.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::context::InstanceContext;
use super::database::QueryBody;
use super::route::InstanceRoute;
use super::verifier;
use crate::connections::{JsonResponse, error_response};
use crate::fault::{Effect, RequestFaults};

#[derive(Deserialize, Default)]
struct ResetBody {
    seed: Option<i64>,
    timestamp: Option<i64>,
}

#[derive(Deserialize)]
struct VerifyBody {
    function_code: String,
    function_name: String,
    text_solution: Option<String>,
}

impl InstanceContext {
    /// Handles a request to the manager.
    pub(super) async fn manage(
        &self,
        route: InstanceRoute<'_>,
        body: &Bytes,
        faults: &RequestFaults,
    ) -> Response {
        match route {
            InstanceRoute::Reset => match parse_optional_body::<ResetBody>(body) {
                Ok(reset) => self.reset(&reset).await,
                Err(why) => error_response(StatusCode::UNPROCESSABLE_ENTITY, why),
            },
            InstanceRoute::Resources => resources(faults.has(&Effect::OldResources)),
            InstanceRoute::Describe(name) => match self.databases.describe(name).await {
                Some(described) => JsonResponse(described).into_response(),
                None => resource_not_found(name),
            },
            InstanceRoute::Query(name) => match parse_body::<QueryBody>(body) {
                Ok(query) => match self.databases.query(name, query).await {
                    Some(answer) => JsonResponse(answer).into_response(),
                    None => resource_not_found(name),
                },
                Err(why) => error_response(StatusCode::UNPROCESSABLE_ENTITY, why),
            },
            InstanceRoute::Verify => match parse_body::<VerifyBody>(body) {
                Ok(verify) => self.verify(verify).await,
                Err(why) => error_response(StatusCode::UNPROCESSABLE_ENTITY, why),
            },
            InstanceRoute::CdpStart => {
                JsonResponse(json!({"success": true, "message": "Chrome started"})).into_response()
            }
            InstanceRoute::CdpDescribe => self.cdp(),
            _ => self.health(),
        }
    }

    async fn reset(&self, reset: &ResetBody) -> Response {
        let seed = reset.seed.unwrap_or(self.instance.config.seed);
        match self.databases.reset(seed).await {
            Ok(()) => {
                let at = reset.timestamp.map(|at| format!(" at {at}")).unwrap_or_default();
                let message = format!("Environment reset with seed {seed}{at}");
                JsonResponse(json!({"success": true, "message": message})).into_response()
            }
            Err(error) => error_response(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }

    fn health(&self) -> Response {
        let now = self.state.clock.timestamp(self.state.clock.now());
        JsonResponse(json!({"status": "healthy", "timestamp": now, "service": "env-manager"})).into_response()
    }

    /// URLs that are well formed; there is no browser behind them.
    fn cdp(&self) -> Response {
        let host = self.instance.root.trim_start_matches("http://");
        JsonResponse(json!({
            "success": true,
            "cdp_page_url": format!("ws://{host}cdp/devtools/page/{}", self.instance.id),
            "cdp_browser_url": format!("ws://{host}cdp/devtools/browser/{}", self.instance.id),
            "cdp_devtools_url": format!("http://{host}cdp/devtools/inspector.html"),
        }))
        .into_response()
    }

    async fn verify(&self, verify: VerifyBody) -> Response {
        let options = &self.state.options;
        let outcome = if options.run_verifiers {
            match self.databases.contents().await {
                Ok(databases) => {
                    let task = json!({"code": verify.function_code, "name": verify.function_name,
                        "text": verify.text_solution, "databases": databases});
                    verifier::run_verifier(&task, options.verifier_timeout).await
                }
                Err(error) => Err(error.to_string()),
            }
        } else {
            Err("this simulator does not run verifiers, because they are code: start it with --run-verifiers"
                .to_owned())
        };
        let answer = match outcome {
            Ok(result) => {
                json!({"success": true, "result": result, "error": null, "message": "Verifier executed"})
            }
            Err(error) => {
                json!({"success": false, "result": null, "error": error, "message": "Verifier failed"})
            }
        };
        JsonResponse(answer).into_response()
    }
}

fn resources(old: bool) -> Response {
    let list = json!([
        {"name": "seed", "type": "sqlite", "mode": "ro", "label": "as the episode began"},
        {"name": "current", "type": "sqlite", "mode": "rw", "label": null},
        {"name": "cdp", "type": "cdp", "mode": "rw"},
    ]);
    JsonResponse(if old { json!({ "resources": list }) } else { list }).into_response()
}

fn resource_not_found(name: &str) -> Response {
    error_response(StatusCode::NOT_FOUND, format!("Resource '{name}' not found"))
}

fn parse_body<T: DeserializeOwned>(body: &Bytes) -> Result<T, Value> {
    serde_json::from_slice(body).map_err(
        |error| json!([{"type": "value_error", "loc": ["body"], "msg": error.to_string(), "input": null}]),
    )
}

/// No body, and `null`, are one with nothing in it.
fn parse_optional_body<T: DeserializeOwned + Default>(body: &Bytes) -> Result<T, Value> {
    if body.is_empty() { Ok(T::default()) } else { Ok(parse_body::<Option<T>>(body)?.unwrap_or_default()) }
}
