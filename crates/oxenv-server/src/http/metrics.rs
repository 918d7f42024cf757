//! `GET /metrics`: the server in numbers, for Prometheus.
//!
//! Invariant: a scrape makes no session and waits for none.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;

use crate::app::App;
use crate::error::Refusal;
use crate::metrics::Gauges;

const PROMETHEUS_TEXT: HeaderValue = HeaderValue::from_static(CONTENT_TYPE);

pub(crate) async fn page(State(app): State<Arc<App>>) -> Result<Response, Refusal> {
    let Some(metrics) = &app.config.metrics else {
        let detail = "this server counts nothing: start it with --metrics".to_owned();
        return Err(Refusal::Status(StatusCode::NOT_FOUND, detail));
    };
    let store = app.store.status();
    let mut toolsets: Vec<String> =
        app.all_tools.mounts().iter().map(|mount| mount.toolset.name().to_owned()).collect();
    toolsets.sort_unstable();
    // A series must not come twice.
    toolsets.dedup();
    let gauges = Gauges {
        active_sessions: store.active,
        waiting_sessions: store.waiting,
        max_sessions: store.max,
        stuck_environments: store.stuck,
        connections: app.connections(),
        refused_connections: app.accepted.refused(),
        ended_connections: app.accepted.ended(),
        mcp_sessions: app.mcp_sessions(),
        toolsets,
        problems: app.all_tools.problems(),
    };
    Ok(([(header::CONTENT_TYPE, PROMETHEUS_TEXT)], metrics.page(gauges)).into_response())
}
