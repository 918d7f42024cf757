//! An instance's host: the manager, both MCP endpoints, the application.
//!
//! Invariant: a request meets its faults before anything is looked at; one that is on its way when the
//! instance ends is not answered.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;

use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde_json::json;

use super::context::InstanceContext;
use super::database::Databases;
use super::lifecycle::SimulatedLifecycle;
use super::mcp::McpEndpoint;
use super::route::{InstanceRoute, is_manager};
use super::tools::McpServerKind;
use super::{InstanceConfig, SimulatedInstance};
use crate::connections::{ConnectionClosed, Connections, JsonResponse, RequestHandler, error_response};
use crate::fault::{Effect, RequestFaults};
use crate::log::{Destination, LoggedRequest};
use crate::options::McpAuth;
use crate::state::SimulatorState;
use crate::view::InstanceStatus;

const RUNNER_TOKEN: &str = "x-runner-token";

/// The host of an instance.
struct InstanceHost {
    context: InstanceContext,
    mcp: McpEndpoint,
    aggregator: McpEndpoint,
}

/// Starts an instance, which begins to listen.
///
/// # Errors
/// If there is no free port, or its databases cannot be made.
pub(crate) fn start_instance(
    state: &Arc<SimulatorState>,
    id: String,
    team: String,
    config: InstanceConfig,
) -> io::Result<Arc<SimulatedInstance>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let root = format!("http://{}/", listener.local_addr()?);
    let lifecycle = SimulatedLifecycle::new(state.clock.now(), state.options.provisioning_delay, &config);
    let instance = Arc::new(SimulatedInstance::new(id, team, root, lifecycle, config));
    if !state.faults.take_refusal() {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let host = InstanceHost::new(Arc::clone(&instance), Arc::clone(state))?;
        *instance.connections.lock() = Some(Arc::new(Connections::serve(listener, Arc::new(host))));
    }
    Ok(instance)
}

impl InstanceHost {
    fn new(instance: Arc<SimulatedInstance>, state: Arc<SimulatorState>) -> io::Result<Self> {
        let databases = Databases::new(instance.config.seed).map_err(io::Error::other)?;
        let context = InstanceContext { instance, state, databases };
        let mcp = McpEndpoint::new(McpServerKind::Environment);
        let aggregator = McpEndpoint::new(McpServerKind::Aggregator);
        Ok(InstanceHost { context, mcp, aggregator })
    }

    async fn respond(&self, parts: Parts, body: Bytes) -> Result<Response, ConnectionClosed> {
        let to = Destination::Instance(self.context.instance.id.clone());
        self.context.state.log.add(LoggedRequest::new(to, &parts, body.clone()));
        let (clock, path) = (&self.context.state.clock, parts.uri.path());
        let route = InstanceRoute::parse(&parts.method, path, &body);
        let place = route.map_or(crate::fault::FaultTarget::Instance, InstanceRoute::fault_target);
        let faults = self.context.state.faults.take_for(place);
        match faults.instead {
            Some(Effect::Expire) => {
                self.context.instance.end(clock.now());
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
        if self.context.instance.status(self.context.state.clock.now()) != InstanceStatus::Running {
            return (StatusCode::SERVICE_UNAVAILABLE, "no healthy upstream").into_response();
        }
        let gated = self.context.state.options.runner_gate && is_manager(parts.uri.path());
        if gated && !self.has_runner_token(parts) {
            return error_response(StatusCode::NOT_FOUND, "Not Found");
        }
        let environment = self.context.instance.config.environment;
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
            Ok(route) => self.context.manage(route, body, faults).await,
        }
    }

    async fn mcp(
        &self,
        endpoint: &McpEndpoint,
        parts: &Parts,
        body: &Bytes,
        faults: &RequestFaults,
    ) -> Response {
        match self.context.state.options.mcp_auth {
            McpAuth::Bearer if !self.has_key(parts) => {
                let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
                (challenge, error_response(StatusCode::UNAUTHORIZED, "Invalid API key")).into_response()
            }
            McpAuth::Runner if !self.has_runner_token(parts) => {
                error_response(StatusCode::NOT_FOUND, "Not Found")
            }
            _ => endpoint.handle(&self.context, parts, body, faults).await,
        }
    }

    fn forget_sessions(&self) {
        self.mcp.forget_sessions();
        self.aggregator.forget_sessions();
    }

    fn has_runner_token(&self, parts: &Parts) -> bool {
        let token = parts.headers.get(RUNNER_TOKEN).and_then(|token| token.to_str().ok());
        token == Some(self.context.state.options.runner_token.as_str())
    }

    fn has_key(&self, parts: &Parts) -> bool {
        let sent = parts.headers.get(header::AUTHORIZATION).and_then(|sent| sent.to_str().ok());
        let Some(key) = sent.and_then(|sent| sent.strip_prefix("Bearer ")) else { return false };
        self.context
            .state
            .options
            .keys
            .iter()
            .any(|known| known.key == key && known.team == self.context.instance.team)
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
