//! The control plane.
//!
//! Invariant: a request meets its faults before anything is looked at, also before its key is.

mod admin;
mod create;
mod route;

use std::sync::Arc;

use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use crate::connections::{ConnectionClosed, JsonResponse, RequestHandler, error_response};
use crate::environments;
use crate::fault::RequestFaults;
use crate::instance::SimulatedInstance;
use crate::log::{Destination, LoggedRequest};
use crate::state::SimulatorState;
use crate::view::InstanceStatus;
use route::ControlRoute;

/// The control plane.
pub(crate) struct ControlPlane {
    state: Arc<SimulatorState>,
}

impl ControlPlane {
    pub(crate) fn new(simulator: Arc<SimulatorState>) -> Arc<Self> {
        Arc::new(ControlPlane { state: simulator })
    }

    async fn respond(&self, parts: Parts, body: Bytes) -> Result<Response, ConnectionClosed> {
        if let Some(path) = parts.uri.path().strip_prefix("/simulator/") {
            return Ok(match self.team(&parts) {
                Some(_) => admin::handle(&self.state, &parts.method, path, &body),
                None => unauthorized(),
            });
        }
        self.state.log.add(LoggedRequest::new(Destination::Control, &parts, body.clone()));
        let route = match ControlRoute::parse(&parts.method, parts.uri.path()) {
            Ok(route) => route,
            Err(status) => return Ok(error_response(status, status.canonical_reason().unwrap_or_default())),
        };
        let faults = self.state.faults.take_for(route.fault_target());
        faults.apply(&self.state.clock, self.dispatch(&route, &parts, &body, &faults)).await
    }

    async fn dispatch(
        &self,
        route: &ControlRoute<'_>,
        parts: &Parts,
        body: &Bytes,
        faults: &RequestFaults,
    ) -> Response {
        let Some(team) = self.team(parts) else { return unauthorized() };
        let query = parts.uri.query().unwrap_or_default();
        match *route {
            ControlRoute::Create => {
                create::create(&self.state, team, parts, body, faults.pending_outcome()).await
            }
            ControlRoute::Get(id) => self.with_instance(team, id, |one| {
                let shown = one.document(&self.state.clock);
                one.note_request(self.state.clock.now());
                shown
            }),
            ControlRoute::List => self.list(team, query),
            ControlRoute::Delete(id) => self.delete(team, id),
            ControlRoute::DeleteAll => self.delete_all(team, query),
            ControlRoute::Heartbeat(id) => self.heartbeat(team, id),
            ControlRoute::Environments => JsonResponse(environments::all()).into_response(),
            ControlRoute::Environment(key) => match environments::find(key) {
                Some(environment) => JsonResponse(environment.document()).into_response(),
                None => error_response(StatusCode::NOT_FOUND, format!("Environment '{key}' not found")),
            },
            ControlRoute::Regions => JsonResponse(environments::REGIONS).into_response(),
            ControlRoute::Account => self.account(team),
            ControlRoute::Token if self.state.options.knows_runner_token() => {
                JsonResponse(json!({"token": self.state.options.runner_token})).into_response()
            }
            ControlRoute::Token => error_response(StatusCode::NOT_FOUND, "runner auth is not configured"),
        }
    }

    /// The team of the request's key.
    fn team(&self, parts: &Parts) -> Option<&str> {
        let key = parts.headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
        self.state.options.keys.iter().find(|known| known.key == key).map(|known| known.team.as_str())
    }

    fn with_instance(
        &self,
        team: &str,
        id: &str,
        answer: impl FnOnce(&SimulatedInstance) -> Value,
    ) -> Response {
        match self.state.instance(team, id) {
            Some(instance) => JsonResponse(answer(&instance)).into_response(),
            None => error_response(StatusCode::NOT_FOUND, format!("Instance {id} not found")),
        }
    }

    fn list(&self, team: &str, query: &str) -> Response {
        let wanted = |name: &str| query_parameter(query, name);
        let status = wanted("status");
        let filters = ["region", "run_id", "profile_id"].map(|name| (name, wanted(name)));
        let mut listed = Vec::new();
        for instance in self.state.of_team(team) {
            let document = instance.document(&self.state.clock);
            let right = match &status {
                Some(status) => document["status"] == status.as_str(),
                // Those that have ended are only listed on request.
                None => instance.status(self.state.clock.now()) != InstanceStatus::Stopped,
            };
            let fits = |(name, wanted): &(&str, Option<String>)| match wanted {
                Some(wanted) => document[*name] == wanted.as_str(),
                None => true,
            };
            if right && filters.iter().all(fits) {
                listed.push(document);
            }
        }
        JsonResponse(listed).into_response()
    }

    fn delete(&self, team: &str, id: &str) -> Response {
        let now = self.state.clock.now();
        let found = self.state.instance(team, id).filter(|one| one.end(now));
        match found {
            Some(instance) => JsonResponse(instance.document(&self.state.clock)).into_response(),
            None => error_response(StatusCode::NOT_FOUND, format!("Instance {id} not found")),
        }
    }

    fn delete_all(&self, team: &str, query: &str) -> Response {
        let (run, profile) = (query_parameter(query, "run_id"), query_parameter(query, "profile_id"));
        if run.is_none() && profile.is_none() {
            return error_response(
                StatusCode::BAD_REQUEST,
                "At least one of run_id or profile_id must be provided",
            );
        }
        let now = self.state.clock.now();
        let mut ended = Vec::new();
        for instance in self.state.of_team(team) {
            let of_run = run.is_none() || instance.config.run_id == run;
            // Each key has one profile, and only its own instances are of it.
            let of_profile = profile.as_deref().is_none_or(|profile| profile == "self");
            if of_run && of_profile && instance.end(now) {
                ended.push(instance.document(&self.state.clock));
            }
        }
        JsonResponse(ended).into_response()
    }

    fn heartbeat(&self, team: &str, id: &str) -> Response {
        let (clock, now) = (&self.state.clock, self.state.clock.now());
        let alive = |one: &Arc<SimulatedInstance>| one.status(now) != InstanceStatus::Stopped;
        let Some(instance) = self.state.instance(team, id).filter(alive) else {
            return error_response(StatusCode::NOT_FOUND, format!("Instance {id} not found"));
        };
        let beat = instance.heartbeat(now);
        // The deadline has moved, and the reaper sleeps until it.
        clock.wake_sleepers();
        let document = match beat {
            Some(beats) => {
                json!({"success": true, "instance_id": id, "last_heartbeat": clock.timestamp(now),
                "deadline_timestamp": clock.unix_seconds(beats.deadline()),
                "interval_seconds": beats.interval_seconds})
            }
            None => {
                json!({"success": true, "instance_id": id, "last_heartbeat": null, "deadline_timestamp": null,
                "interval_seconds": null})
            }
        };
        JsonResponse(document).into_response()
    }

    fn account(&self, team: &str) -> Response {
        let now = self.state.clock.now();
        let count =
            self.state.of_team(team).iter().filter(|one| one.status(now) != InstanceStatus::Stopped).count();
        JsonResponse(
            json!({"team_id": team, "team_name": team, "instance_limit": self.state.options.instance_limit,
            "instance_count": count, "profile_id": null, "profile_name": null}),
        )
        .into_response()
    }
}

impl RequestHandler for ControlPlane {
    fn handle(
        self: Arc<Self>,
        parts: Parts,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Response, ConnectionClosed>> {
        Box::pin(async move { self.respond(parts, body).await })
    }
}

fn unauthorized() -> Response {
    error_response(StatusCode::UNAUTHORIZED, "Invalid API key")
}

/// A parameter of a query. What clients send here has no escapes.
fn query_parameter(query: &str, name: &str) -> Option<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_owned())
}
