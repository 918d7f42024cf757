//! An instance's host: the manager, both MCP endpoints, the application.
//!
//! Invariant: a request meets its faults before anything is looked at; one that is on its way when the instance ends
//! is not answered.

use std::io;
use std::sync::Arc;

use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde_json::json;

use super::Instance;
use super::database::Databases;
use super::mcp::{Endpoint, Which};
use super::route::{Route, is_manager};
use crate::connections::{Answers, Hangup, Json};
use crate::control::detail;
use crate::fault::{Effect, Plan};
use crate::log::{Addressee, Request};
use crate::options::McpAuth;
use crate::simulator::Status;
use crate::state::World;

const RUNNER_TOKEN: &str = "x-runner-token";

/// The host of an instance.
pub(super) struct Host {
    pub(super) instance: Arc<Instance>,
    pub(super) world: Arc<World>,
    pub(super) databases: Arc<Databases>,
    mcp: Endpoint,
    aggregator: Endpoint,
}

impl Host {
    pub(super) fn new(instance: Arc<Instance>, world: Arc<World>) -> io::Result<Self> {
        let databases = Databases::seeded(instance.made.seed).map_err(io::Error::other)?;
        let (mcp, aggregator) = (Endpoint::new(Which::Own), Endpoint::new(Which::Aggregator));
        Ok(Host { instance, world, databases: Arc::new(databases), mcp, aggregator })
    }

    async fn respond(&self, parts: Parts, body: Bytes) -> Result<Response, Hangup> {
        let to = Addressee::Instance(self.instance.id.clone());
        self.world.log.add(Request::new(to, &parts, body.clone()));
        let (clock, path) = (&self.world.clock, parts.uri.path());
        let route = Route::of(&parts.method, path, &body);
        let place = route.map_or(crate::fault::Place::Instance, Route::place);
        let plan = self.world.faults.meet(place);
        match plan.instead {
            Some(Effect::Expire) => {
                self.instance.end(clock.now());
                return Err(Hangup);
            }
            Some(Effect::LoseSession) => {
                self.forget_sessions();
                return Ok(super::mcp::no_session());
            }
            _ => {}
        }
        if plan.has(&Effect::LoseSessionInCall) {
            let outcome = plan.around(clock, self.act(route, &parts, &body, &plan)).await;
            self.forget_sessions();
            return outcome;
        }
        plan.around(clock, self.act(route, &parts, &body, &plan)).await
    }

    async fn act(
        &self,
        route: Result<Route<'_>, StatusCode>,
        parts: &Parts,
        body: &Bytes,
        plan: &Plan,
    ) -> Response {
        if self.instance.status(self.world.clock.now()) != Status::Running {
            return (StatusCode::SERVICE_UNAVAILABLE, "no healthy upstream").into_response();
        }
        let gated = self.world.options.runner_gate && is_manager(parts.uri.path());
        if gated && !self.has_runner_token(parts) {
            return detail(StatusCode::NOT_FOUND, "Not Found");
        }
        let environment = self.instance.made.environment;
        match route {
            Err(status) => detail(status, status.canonical_reason().unwrap_or_default()),
            Ok(Route::Mcp(_)) if environment.own_mcp => self.mcp(&self.mcp, parts, body, plan).await,
            Ok(Route::ApiMcp(_)) if environment.aggregator => {
                self.mcp(&self.aggregator, parts, body, plan).await
            }
            Ok(Route::Mcp(_) | Route::ApiMcp(_)) => detail(StatusCode::NOT_FOUND, "Not Found"),
            Ok(Route::App) => {
                let path = parts.uri.path();
                Json(json!({"application": environment.key, "path": path})).into_response()
            }
            Ok(route) => self.manager(route, body, plan).await,
        }
    }

    async fn mcp(&self, endpoint: &Endpoint, parts: &Parts, body: &Bytes, plan: &Plan) -> Response {
        match self.world.options.mcp_auth {
            McpAuth::Bearer if !self.has_key(parts) => {
                let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
                (challenge, detail(StatusCode::UNAUTHORIZED, "Invalid API key")).into_response()
            }
            McpAuth::Runner if !self.has_runner_token(parts) => detail(StatusCode::NOT_FOUND, "Not Found"),
            _ => endpoint.answer(self, parts, body, plan).await,
        }
    }

    fn forget_sessions(&self) {
        self.mcp.forget_sessions();
        self.aggregator.forget_sessions();
    }

    fn has_runner_token(&self, parts: &Parts) -> bool {
        let token = parts.headers.get(RUNNER_TOKEN).and_then(|token| token.to_str().ok());
        token == Some(self.world.options.runner_token.as_str())
    }

    fn has_key(&self, parts: &Parts) -> bool {
        let sent = parts.headers.get(header::AUTHORIZATION).and_then(|sent| sent.to_str().ok());
        let Some(key) = sent.and_then(|sent| sent.strip_prefix("Bearer ")) else { return false };
        self.world.options.keys.iter().any(|known| known.key == key && known.team == self.instance.team)
    }
}

impl Answers for Host {
    fn answer(self: Arc<Self>, parts: Parts, body: Bytes) -> BoxFuture<'static, Result<Response, Hangup>> {
        Box::pin(async move { self.respond(parts, body).await })
    }
}
