//! `/docs` and `/redoc`: the API as one page for people, with nothing loaded from elsewhere.
//!
//! Invariant: made from the same document as `/openapi.json`, so the two cannot differ.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Html;
use serde_json::Value;

use crate::app::App;

pub(crate) async fn page(State(app): State<Arc<App>>) -> Html<String> {
    let document: Value =
        app.openapi.get().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let mut rows = String::new();
    for (path, methods) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in methods.as_object().into_iter().flatten() {
            let summary = operation["summary"].as_str().unwrap_or_default();
            // Writing to a String cannot fail.
            let _ = write!(
                rows,
                "<tr><td><b>{}</b></td><td><code>{path}</code></td><td>{summary}</td></tr>",
                method.to_uppercase()
            );
        }
    }
    let title = document["info"]["title"].as_str().unwrap_or_default();
    Html(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\
         <style>:root{{color-scheme:light dark}}body{{font:16px system-ui;\
         max-width:60rem;margin:2rem auto;padding:0 1rem}}\
         td{{padding:.3rem .8rem .3rem 0;vertical-align:top}}</style><h1>{title}</h1>\
         <p>The machine-readable form is <a href=\"/openapi.json\">/openapi.json</a>. \
         WebSockets: <code>/ws</code> (control) and <code>/mcp</code> (agents).</p>\
         <table>{rows}</table></html>"
    ))
}
