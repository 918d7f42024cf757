//! An instance's host: the manager, both MCP endpoints, the application.
//!
//! Invariant: a request meets its faults before anything is looked at; one that is on its way when the
//! instance ends is not answered.

use std::io;
use std::sync::Arc;

use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde_json::json;

use super::SimulatedInstance;
use super::database::Databases;
use super::mcp::{McpEndpoint, McpServerKind};
use super::route::{InstanceRoute, is_manager};
use crate::connections::{ConnectionClosed, JsonResponse, RequestHandler};
use crate::control::error_response;
use crate::fault::{Effect, RequestFaults};
use crate::log::{Destination, LoggedRequest};
use crate::options::McpAuth;
use crate::simulator::InstanceStatus;
use crate::state::SimulatorState;

const RUNNER_TOKEN: &str = "x-runner-token";

/// The host of an instance.
pub(super) struct InstanceHost {
    pub(super) instance: Arc<SimulatedInstance>,
    pub(super) state: Arc<SimulatorState>,
    pub(super) databases: Arc<Databases>,
    mcp: McpEndpoint,
    aggregator: McpEndpoint,
}

impl InstanceHost {
    pub(super) fn new(instance: Arc<SimulatedInstance>, simulator: Arc<SimulatorState>) -> io::Result<Self> {
        let databases = Databases::new(instance.config.seed).map_err(io::Error::other)?;
        let (mcp, aggregator) =
            (McpEndpoint::new(McpServerKind::Environment), McpEndpoint::new(McpServerKind::Aggregator));
        Ok(InstanceHost { instance, state: simulator, databases: Arc::new(databases), mcp, aggregator })
    }

    async fn respond(&self, parts: Parts, body: Bytes) -> Result<Response, ConnectionClosed> {
        let to = Destination::Instance(self.instance.id.clone());
        self.state.log.add(LoggedRequest::new(to, &parts, body.clone()));
        let (clock, path) = (&self.state.clock, parts.uri.path());
        let route = InstanceRoute::parse(&parts.method, path, &body);
        let place = route.map_or(crate::fault::FaultTarget::Instance, InstanceRoute::fault_target);
        let faults = self.state.faults.take_for(place);
        match faults.instead {
            Some(Effect::Expire) => {
                self.instance.end(clock.now());
                return Err(ConnectionClosed);
            }
            Some(Effect::LoseSession) => {
                self.forget_sessions();
                return Ok(super::mcp::session_not_found());
            }
            _ => {}
        }
        if faults.has(&Effect::LoseSessionInCall) {
            let outcome = faults.apply(clock, self.dispatch(route, &parts, &body, &faults)).await;
            self.forget_sessions();
            return outcome;
        }
        faults.apply(clock, self.dispatch(route, &parts, &body, &faults)).await
    }

    async fn dispatch(
        &self,
        route: Result<InstanceRoute<'_>, StatusCode>,
        parts: &Parts,
        body: &Bytes,
        faults: &RequestFaults,
    ) -> Response {
        if self.instance.status(self.state.clock.now()) != InstanceStatus::Running {
            return (StatusCode::SERVICE_UNAVAILABLE, "no healthy upstream").into_response();
        }
        let gated = self.state.options.runner_gate && is_manager(parts.uri.path());
        if gated && !self.has_runner_token(parts) {
            return error_response(StatusCode::NOT_FOUND, "Not Found");
        }
        let environment = self.instance.config.environment;
        match route {
            Err(status) => error_response(status, status.canonical_reason().unwrap_or_default()),
            Ok(InstanceRoute::Mcp(_)) if environment.own_mcp => {
                self.mcp(&self.mcp, parts, body, faults).await
            }
            Ok(InstanceRoute::ApiMcp(_)) if environment.aggregator => {
                self.mcp(&self.aggregator, parts, body, faults).await
            }
            Ok(InstanceRoute::Mcp(_) | InstanceRoute::ApiMcp(_)) => {
                error_response(StatusCode::NOT_FOUND, "Not Found")
            }
            Ok(InstanceRoute::App) => {
                let path = parts.uri.path();
                JsonResponse(json!({"application": environment.key, "path": path})).into_response()
            }
            Ok(route) => self.manager(route, body, faults).await,
        }
    }

    async fn mcp(
        &self,
        endpoint: &McpEndpoint,
        parts: &Parts,
        body: &Bytes,
        faults: &RequestFaults,
    ) -> Response {
        match self.state.options.mcp_auth {
            McpAuth::Bearer if !self.has_key(parts) => {
                let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
                (challenge, error_response(StatusCode::UNAUTHORIZED, "Invalid API key")).into_response()
            }
            McpAuth::Runner if !self.has_runner_token(parts) => {
                error_response(StatusCode::NOT_FOUND, "Not Found")
            }
            _ => endpoint.handle(self, parts, body, faults).await,
        }
    }

    fn forget_sessions(&self) {
        self.mcp.forget_sessions();
        self.aggregator.forget_sessions();
    }

    fn has_runner_token(&self, parts: &Parts) -> bool {
        let token = parts.headers.get(RUNNER_TOKEN).and_then(|token| token.to_str().ok());
        token == Some(self.state.options.runner_token.as_str())
    }

    fn has_key(&self, parts: &Parts) -> bool {
        let sent = parts.headers.get(header::AUTHORIZATION).and_then(|sent| sent.to_str().ok());
        let Some(key) = sent.and_then(|sent| sent.strip_prefix("Bearer ")) else { return false };
        self.state.options.keys.iter().any(|known| known.key == key && known.team == self.instance.team)
    }
}

impl RequestHandler for InstanceHost {
    fn handle(
        self: Arc<Self>,
        parts: Parts,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Response, ConnectionClosed>> {
        Box::pin(async move { self.respond(parts, body).await })
    }
}
