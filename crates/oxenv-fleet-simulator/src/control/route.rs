//! The routes of the control plane.
//!
//! Invariant: paths are matched whole.

use axum::http::{Method, StatusCode};

use crate::fault::FaultTarget;

/// A route.
pub(super) enum ControlRoute<'a> {
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

impl<'a> ControlRoute<'a> {
    /// The route of a path, or why there is none.
    pub(super) fn parse(method: &Method, path: &'a str) -> Result<Self, StatusCode> {
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let verb = method.as_str();
        match (verb, parts.as_slice()) {
            ("POST", ["v1", "env", "instances"]) => Ok(ControlRoute::Create),
            ("GET", ["v1", "env", "instances"]) => Ok(ControlRoute::List),
            ("DELETE", ["v1", "env", "instances", "batch"]) => Ok(ControlRoute::DeleteAll),
            ("GET", ["v1", "env", "instances", id]) => Ok(ControlRoute::Get(id)),
            ("DELETE", ["v1", "env", "instances", id]) => Ok(ControlRoute::Delete(id)),
            ("POST", ["v1", "env", "instances", id, "heartbeat"]) => Ok(ControlRoute::Heartbeat(id)),
            ("GET", ["v1", "env", ""]) => Ok(ControlRoute::Environments),
            ("GET", ["v1", "env", key]) => Ok(ControlRoute::Environment(key)),
            ("GET", ["v1", "regions"]) => Ok(ControlRoute::Regions),
            ("GET", ["v1", "account"]) => Ok(ControlRoute::Account),
            ("GET", ["v1", "runner-auth", "token"]) => Ok(ControlRoute::Token),
            (_, ["v1", "env", "instances", ..] | ["v1", "regions" | "account"]) => {
                Err(StatusCode::METHOD_NOT_ALLOWED)
            }
            _ => Err(StatusCode::NOT_FOUND),
        }
    }

    /// The target of its faults.
    pub(super) fn fault_target(&self) -> FaultTarget {
        match self {
            ControlRoute::Create => FaultTarget::Create,
            ControlRoute::Get(_) => FaultTarget::Get,
            ControlRoute::List => FaultTarget::List,
            ControlRoute::Delete(_) => FaultTarget::Delete,
            ControlRoute::DeleteAll => FaultTarget::DeleteAll,
            ControlRoute::Heartbeat(_) => FaultTarget::Heartbeat,
            ControlRoute::Environments | ControlRoute::Environment(_) => FaultTarget::Environments,
            ControlRoute::Regions => FaultTarget::Regions,
            ControlRoute::Account => FaultTarget::Account,
            ControlRoute::Token => FaultTarget::Token,
        }
    }
}
