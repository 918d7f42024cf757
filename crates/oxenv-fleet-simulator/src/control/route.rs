//! What a request to the control plane asks for.
//!
//! Invariant: paths are matched whole.

use axum::http::{Method, StatusCode};

use crate::fault::Place;

/// What is asked for.
pub(super) enum Route<'a> {
    Create,
    Get(&'a str),
    List,
    Delete(&'a str),
    DeleteAll,
    Heartbeat(&'a str),
    Environments,
    Environment(&'a str),
    Regions,
    Account,
    Token,
}

impl<'a> Route<'a> {
    /// The route of a path, or why there is none.
    pub(super) fn of(method: &Method, path: &'a str) -> Result<Self, StatusCode> {
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let verb = method.as_str();
        match (verb, parts.as_slice()) {
            ("POST", ["v1", "env", "instances"]) => Ok(Route::Create),
            ("GET", ["v1", "env", "instances"]) => Ok(Route::List),
            ("DELETE", ["v1", "env", "instances", "batch"]) => Ok(Route::DeleteAll),
            ("GET", ["v1", "env", "instances", id]) => Ok(Route::Get(id)),
            ("DELETE", ["v1", "env", "instances", id]) => Ok(Route::Delete(id)),
            ("POST", ["v1", "env", "instances", id, "heartbeat"]) => Ok(Route::Heartbeat(id)),
            ("GET", ["v1", "env", ""]) => Ok(Route::Environments),
            ("GET", ["v1", "env", key]) => Ok(Route::Environment(key)),
            ("GET", ["v1", "regions"]) => Ok(Route::Regions),
            ("GET", ["v1", "account"]) => Ok(Route::Account),
            ("GET", ["v1", "runner-auth", "token"]) => Ok(Route::Token),
            (_, ["v1", "env", "instances", ..] | ["v1", "regions" | "account"]) => {
                Err(StatusCode::METHOD_NOT_ALLOWED)
            }
            _ => Err(StatusCode::NOT_FOUND),
        }
    }

    /// Where its faults are.
    pub(super) fn place(&self) -> Place {
        match self {
            Route::Create => Place::Create,
            Route::Get(_) => Place::Get,
            Route::List => Place::List,
            Route::Delete(_) => Place::Delete,
            Route::DeleteAll => Place::DeleteAll,
            Route::Heartbeat(_) => Place::Heartbeat,
            Route::Environments | Route::Environment(_) => Place::Environments,
            Route::Regions => Place::Regions,
            Route::Account => Place::Account,
            Route::Token => Place::Token,
        }
    }
}
