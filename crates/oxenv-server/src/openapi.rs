//! `/openapi.json`: the routes of this server in OpenAPI 3.1.
//!
//! Invariant: made from the one table of routes, so it lists what the router has. Tests hold every reply
//! against the schema of its route (`tests/it/documented.rs`).
//!
//! It is written as JSON and not by a crate: those derive schemas from the types of handlers, and our
//! messages are read from borrowed text by types that know serde alone.

pub(crate) mod headers;
mod schemas;

use oxenv_core::EnvironmentSpec;
use serde_json::{Map, Value, json};

use crate::auth::access::Access;
use crate::config::{Mode, ServerConfig};
use crate::error;
use crate::route::{Listed, QueryParameter, Reply, Route, RouteDocs};

use headers::ReplyHeader;

/// The document of a server with that configuration.
pub(crate) fn document(spec: &EnvironmentSpec, config: &ServerConfig, routes: &[Route]) -> Value {
    let production = config.mode == Mode::Production;
    let guarded = !config.tokens.is_empty();
    let mut paths = Map::new();
    for route in routes {
        let access = route.access(production);
        let Some(docs) = &route.docs else { continue };
        if access == Access::Nobody || !is_listed(docs.listed, config) {
            continue;
        }
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.name().to_lowercase()] =
            operation(route, docs, guarded && access != Access::Everybody);
    }
    let mut components = json!({ "schemas": schemas::all(spec) });
    if guarded {
        components["securitySchemes"] = json!({
            "bearer": { "type": "http", "scheme": "bearer" },
            "basic": {
                "type": "http", "scheme": "basic", "description": "The token is the password; any user name"
            },
        });
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "OpenEnv Environment HTTP API",
            "version": "1.0.0",
            "description": format!("{} - {}", spec.title, spec.description),
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "paths": paths,
        "components": components,
    })
}

fn is_listed(listed: Listed, config: &ServerConfig) -> bool {
    match listed {
        Listed::Always => true,
        Listed::WithMetrics => config.metrics.is_some(),
        Listed::WithRecords => config.trajectories.is_some(),
    }
}

fn operation(route: &Route, docs: &RouteDocs, guarded: bool) -> Value {
    let mut operation = json!({
        "summary": docs.summary,
        "tags": [docs.tag],
        "operationId": operation_id(route),
        "responses": responses(docs, guarded),
    });
    if let Some(request) = docs.request {
        let content = json!({ "application/json": { "schema": reference(request.schema) } });
        operation["requestBody"] = json!({ "required": request.required, "content": content });
    }
    let parameters = parameters(route, docs);
    if !parameters.is_empty() {
        operation["parameters"] = Value::Array(parameters);
    }
    if guarded {
        operation["security"] = json!([{ "bearer": [] }, { "basic": [] }]);
    }
    operation
}

/// The replies by status: those of the route, its failures, and those of tokens and of the check of hosts.
fn responses(docs: &RouteDocs, guarded: bool) -> Value {
    let mut responses = Map::new();
    for Reply { status, media, schema, headers } in docs.replies {
        let response = responses.entry(status.to_string()).or_insert_with(|| {
            let description = if *status < 400 { "Success" } else { "Not now" };
            json!({ "description": description })
        });
        // A reply with status 202 has no body.
        if *schema != "Nothing" {
            response["content"][*media] = json!({ "schema": reference(schema) });
        }
        if let Value::Object(described) = headers::object(headers.iter()) {
            for (name, header) in described {
                response["headers"][name] = header;
            }
        }
    }
    let unauthorized: &[u16] = if guarded { &[401] } else { &[] };
    for status in docs.failures.iter().chain(unauthorized) {
        let own = match status {
            401 => Some(&headers::AUTHENTICATE),
            405 => Some(&headers::ALLOW),
            status if error::may_be_retryable(*status) => Some(&headers::RETRY_AFTER),
            _ => None,
        };
        responses.insert(status.to_string(), failure(&error::codes_with_status(*status), docs, own));
    }
    // Every route is behind the check of hosts, which refuses foreign origins on any server.
    let foreign = "a host or an origin that is not allowed here";
    let forbidden = match guarded {
        true => format!("{}, or {foreign}", error::codes_with_status(403)),
        false => foreign.to_owned(),
    };
    responses.insert("403".to_owned(), failure(&forbidden, docs, None));
    responses.insert("default".to_owned(), failure("Failure", docs, Some(&headers::RETRY_AFTER)));
    Value::Object(responses)
}

/// A failure; `own` is a header of its status, beside those that any failure of the route may have.
fn failure(description: &str, docs: &RouteDocs, own: Option<&ReplyHeader>) -> Value {
    let content = json!({ "application/json": { "schema": reference(docs.failure) } });
    let mut response = json!({ "description": description, "content": content });
    let headers = headers::object(docs.failure_headers.iter().chain(own));
    if headers.as_object().is_some_and(|headers| !headers.is_empty()) {
        response["headers"] = headers;
    }
    response
}

fn parameters(route: &Route, docs: &RouteDocs) -> Vec<Value> {
    let in_path = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let mut parameters: Vec<Value> = in_path
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect();
    for QueryParameter { name, kind, description } in docs.query {
        parameters.push(json!({
            "name": name, "in": "query", "required": false, "description": description,
            "schema": { "type": kind },
        }));
    }
    if docs.idempotent {
        parameters.push(json!({
            "name": "Idempotency-Key", "in": "header", "required": false,
            "description": "A repeat with the same key gets the first reply and runs nothing",
            "schema": { "type": "string", "minLength": 1, "maxLength": 255 },
        }));
    }
    parameters
}

fn operation_id(route: &Route) -> String {
    let words: Vec<&str> =
        route.path.split(['/', '.', '{', '}', '_']).filter(|word| !word.is_empty()).collect();
    format!("{}_{}", route.method.name().to_lowercase(), words.join("_"))
}

/// A reference to a schema of the document.
fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}
