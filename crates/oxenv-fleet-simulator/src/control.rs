//! The control plane.
//!
//! Invariant: a request meets its faults before anything is looked at, also before its key is.

mod admin;
mod create;
mod environments;
mod route;

use std::sync::Arc;

use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use crate::connections::{Answers, Hangup, Json};
use crate::fault::Plan;
use crate::instance::Instance;
use crate::log::{Addressee, Request};
use crate::simulator::Status;
use crate::state::World;
pub(crate) use environments::Environment;
use route::Route;

/// The control plane.
pub(crate) struct Control {
    world: Arc<World>,
}

impl Control {
    pub(crate) fn new(world: Arc<World>) -> Arc<Self> {
        Arc::new(Control { world })
    }

    async fn respond(&self, parts: Parts, body: Bytes) -> Result<Response, Hangup> {
        if let Some(path) = parts.uri.path().strip_prefix("/simulator/") {
            return Ok(match self.team(&parts) {
                Some(_) => admin::answer(&self.world, &parts.method, path, &body),
                None => unauthorized(),
            });
        }
        self.world.log.add(Request::new(Addressee::Control, &parts, body.clone()));
        let route = match Route::of(&parts.method, parts.uri.path()) {
            Ok(route) => route,
            Err(status) => return Ok(detail(status, status.canonical_reason().unwrap_or_default())),
        };
        let plan = self.world.faults.meet(route.place());
        plan.around(&self.world.clock, self.act(&route, &parts, &body, &plan)).await
    }

    async fn act(&self, route: &Route<'_>, parts: &Parts, body: &Bytes, plan: &Plan) -> Response {
        let Some(team) = self.team(parts) else { return unauthorized() };
        let query = parts.uri.query().unwrap_or_default();
        match *route {
            Route::Create => create::answer(&self.world, team, parts, body, plan.fate()).await,
            Route::Get(id) => self.with(team, id, |one| {
                let shown = one.document(&self.world.clock);
                one.asked(self.world.clock.now());
                shown
            }),
            Route::List => self.list(team, query),
            Route::Delete(id) => self.delete(team, id),
            Route::DeleteAll => self.delete_all(team, query),
            Route::Heartbeat(id) => self.heartbeat(team, id),
            Route::Environments => Json(environments::all()).into_response(),
            Route::Environment(key) => match environments::find(key) {
                Some(environment) => Json(environment.document()).into_response(),
                None => detail(StatusCode::NOT_FOUND, format!("Environment '{key}' not found")),
            },
            Route::Regions => Json(environments::REGIONS).into_response(),
            Route::Account => self.account(team),
            Route::Token if self.world.options.knows_runner_token() => {
                Json(json!({"token": self.world.options.runner_token})).into_response()
            }
            Route::Token => detail(StatusCode::NOT_FOUND, "runner auth is not configured"),
        }
    }

    /// Whose the key is.
    fn team(&self, parts: &Parts) -> Option<&str> {
        let key = parts.headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
        self.world.options.keys.iter().find(|known| known.key == key).map(|known| known.team.as_str())
    }

    fn with(&self, team: &str, id: &str, answer: impl FnOnce(&Instance) -> Value) -> Response {
        match self.world.instance(team, id) {
            Some(instance) => Json(answer(&instance)).into_response(),
            None => detail(StatusCode::NOT_FOUND, format!("Instance {id} not found")),
        }
    }

    fn list(&self, team: &str, query: &str) -> Response {
        let wanted = |name: &str| form(query, name);
        let status = wanted("status");
        let filters = ["region", "run_id", "profile_id"].map(|name| (name, wanted(name)));
        let mut listed = Vec::new();
        for instance in self.world.of_team(team) {
            let document = instance.document(&self.world.clock);
            let right = match &status {
                Some(status) => document["status"] == status.as_str(),
                // What has ended is only shown to who asks for it.
                None => instance.status(self.world.clock.now()) != Status::Stopped,
            };
            let fits = |(name, wanted): &(&str, Option<String>)| match wanted {
                Some(wanted) => document[*name] == wanted.as_str(),
                None => true,
            };
            if right && filters.iter().all(fits) {
                listed.push(document);
            }
        }
        Json(listed).into_response()
    }

    fn delete(&self, team: &str, id: &str) -> Response {
        let now = self.world.clock.now();
        let found = self.world.instance(team, id).filter(|one| one.end(now));
        match found {
            Some(instance) => Json(instance.document(&self.world.clock)).into_response(),
            None => detail(StatusCode::NOT_FOUND, format!("Instance {id} not found")),
        }
    }

    fn delete_all(&self, team: &str, query: &str) -> Response {
        let (run, profile) = (form(query, "run_id"), form(query, "profile_id"));
        if run.is_none() && profile.is_none() {
            return detail(StatusCode::BAD_REQUEST, "At least one of run_id or profile_id must be provided");
        }
        let now = self.world.clock.now();
        let mut ended = Vec::new();
        for instance in self.world.of_team(team) {
            let of_run = run.is_none() || instance.made.run_id == run;
            // Each key has one profile, and only its own instances are of it.
            let of_profile = profile.as_deref().is_none_or(|profile| profile == "self");
            if of_run && of_profile && instance.end(now) {
                ended.push(instance.document(&self.world.clock));
            }
        }
        Json(ended).into_response()
    }

    fn heartbeat(&self, team: &str, id: &str) -> Response {
        let (clock, now) = (&self.world.clock, self.world.clock.now());
        let alive = |one: &Arc<Instance>| one.status(now) != Status::Stopped;
        let Some(instance) = self.world.instance(team, id).filter(alive) else {
            return detail(StatusCode::NOT_FOUND, format!("Instance {id} not found"));
        };
        let beat = instance.beat(now);
        // The deadline has moved, and who waits for it must know.
        clock.touch();
        let document = match beat {
            Some((interval, deadline)) => {
                json!({"success": true, "instance_id": id, "last_heartbeat": clock.stamp(now),
                "deadline_timestamp": clock.unix(deadline), "interval_seconds": interval})
            }
            None => {
                json!({"success": true, "instance_id": id, "last_heartbeat": null, "deadline_timestamp": null,
                "interval_seconds": null})
            }
        };
        Json(document).into_response()
    }

    fn account(&self, team: &str) -> Response {
        let now = self.world.clock.now();
        let count = self.world.of_team(team).iter().filter(|one| one.status(now) != Status::Stopped).count();
        Json(json!({"team_id": team, "team_name": team, "instance_limit": self.world.options.instance_limit,
            "instance_count": count, "profile_id": null, "profile_name": null}))
        .into_response()
    }
}

impl Answers for Control {
    fn answer(self: Arc<Self>, parts: Parts, body: Bytes) -> BoxFuture<'static, Result<Response, Hangup>> {
        Box::pin(async move { self.respond(parts, body).await })
    }
}

/// An error as Fleet tells it.
pub(crate) fn detail(status: StatusCode, detail: impl Into<Value>) -> Response {
    (status, Json(json!({"detail": detail.into()}))).into_response()
}

fn unauthorized() -> Response {
    detail(StatusCode::UNAUTHORIZED, "Invalid API key")
}

/// A parameter of a query. What clients send here has no escapes.
fn form(query: &str, name: &str) -> Option<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_owned())
}
