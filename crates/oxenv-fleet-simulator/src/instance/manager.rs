//! The instance manager: everything below `/api/v1/env`.
//!
//! Invariant: a reset gives both databases back what their seed says, and nothing else: Fleet knows no observation, no
//! reward and no done.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::host::Host;
use super::route::Route;
use super::verifier;
use crate::connections::Json;
use crate::control::detail;
use crate::fault::{Effect, Plan};

#[derive(Deserialize, Default)]
struct Reset {
    seed: Option<i64>,
    timestamp: Option<i64>,
}

#[derive(Deserialize)]
pub(super) struct Query {
    pub(super) query: String,
    pub(super) args: Option<Vec<Value>>,
    pub(super) read_only: Option<bool>,
}

#[derive(Deserialize)]
struct Verify {
    function_code: String,
    function_name: String,
    text_solution: Option<String>,
}

impl Host {
    pub(super) async fn manager(&self, route: Route<'_>, body: &Bytes, plan: &Plan) -> Response {
        match route {
            Route::Reset => match optional::<Reset>(body) {
                Ok(reset) => self.reset(&reset).await,
                Err(why) => detail(StatusCode::UNPROCESSABLE_ENTITY, why),
            },
            Route::Resources => resources(plan.has(&Effect::OldResources)),
            Route::Describe(name) => match self.databases.describe(name).await {
                Some(described) => Json(described).into_response(),
                None => no_resource(name),
            },
            Route::Query(name) => match required::<Query>(body) {
                Ok(query) => match self.databases.query(name, query).await {
                    Some(answer) => Json(answer).into_response(),
                    None => no_resource(name),
                },
                Err(why) => detail(StatusCode::UNPROCESSABLE_ENTITY, why),
            },
            Route::Verify => match required::<Verify>(body) {
                Ok(verify) => self.verify(verify).await,
                Err(why) => detail(StatusCode::UNPROCESSABLE_ENTITY, why),
            },
            Route::CdpStart => Json(json!({"success": true, "message": "Chrome started"})).into_response(),
            Route::CdpDescribe => self.cdp(),
            _ => self.health(),
        }
    }

    async fn reset(&self, reset: &Reset) -> Response {
        let seed = reset.seed.unwrap_or(self.instance.made.seed);
        match self.databases.reset(seed).await {
            Ok(()) => {
                let at = reset.timestamp.map(|at| format!(" at {at}")).unwrap_or_default();
                let message = format!("Environment reset with seed {seed}{at}");
                Json(json!({"success": true, "message": message})).into_response()
            }
            Err(error) => detail(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }

    fn health(&self) -> Response {
        let now = self.world.clock.stamp(self.world.clock.now());
        Json(json!({"status": "healthy", "timestamp": now, "service": "env-manager"})).into_response()
    }

    /// URLs that are well formed; there is no browser behind them.
    fn cdp(&self) -> Response {
        let host = self.instance.root.trim_start_matches("http://");
        Json(json!({
            "success": true,
            "cdp_page_url": format!("ws://{host}cdp/devtools/page/{}", self.instance.id),
            "cdp_browser_url": format!("ws://{host}cdp/devtools/browser/{}", self.instance.id),
            "cdp_devtools_url": format!("http://{host}cdp/devtools/inspector.html"),
        }))
        .into_response()
    }

    async fn verify(&self, verify: Verify) -> Response {
        let options = &self.world.options;
        let outcome = if options.run_verifiers {
            match self.databases.contents().await {
                Ok(databases) => {
                    let task = json!({"code": verify.function_code, "name": verify.function_name,
                        "text": verify.text_solution, "databases": databases});
                    verifier::run(&task, options.verifier_timeout).await
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
        Json(answer).into_response()
    }
}

fn resources(old: bool) -> Response {
    let list = json!([
        {"name": "seed", "type": "sqlite", "mode": "ro", "label": "as the episode began"},
        {"name": "current", "type": "sqlite", "mode": "rw", "label": null},
        {"name": "cdp", "type": "cdp", "mode": "rw"},
    ]);
    Json(if old { json!({ "resources": list }) } else { list }).into_response()
}

fn no_resource(name: &str) -> Response {
    detail(StatusCode::NOT_FOUND, format!("Resource '{name}' not found"))
}

fn required<T: DeserializeOwned>(body: &Bytes) -> Result<T, Value> {
    serde_json::from_slice(body).map_err(
        |error| json!([{"type": "value_error", "loc": ["body"], "msg": error.to_string(), "input": null}]),
    )
}

/// No body, and `null`, are one with nothing in it.
fn optional<T: DeserializeOwned + Default>(body: &Bytes) -> Result<T, Value> {
    if body.is_empty() { Ok(T::default()) } else { Ok(required::<Option<T>>(body)?.unwrap_or_default()) }
}
