//! Every route as every principal in both modes, and what counts as a token.

use std::collections::BTreeSet;
use std::sync::Arc;

use oxenv_core::{EndReason, Execution, Session, SessionOptions, StoreLimits};
use oxenv_server::{Mode, ServerConfig, Tokens};
use oxenv_test_support::{Reply, http};
use serde_json::{Value, json};

use crate::served::Served;
use crate::stage::{Scripted, Stage};

pub(crate) const CONTROL: &str = "control-secret";
pub(crate) const OBSERVER: &str = "observer-secret";

/// A server with tokens.
pub(crate) async fn guarded(mode: Mode) -> Served {
    let stage = Stage::default();
    let factory = Scripted::new(&stage, Execution::Task).tools(true);
    let mut tokens = Tokens::default();
    tokens.add_control(&format!("trainer:{CONTROL}\nother:other-{CONTROL}")).unwrap();
    tokens.add_observer(OBSERVER).unwrap();
    let config = ServerConfig { mode, tokens, ..ServerConfig::default() };
    Served::start(&stage, factory, StoreLimits::default(), config).await
}

/// A request with a JSON body and a token.
pub(crate) async fn ask(served: &Served, token: &str, method: &str, path: &str, body: &Value) -> Reply {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let body = if body.is_null() { String::new() } else { body.to_string() };
    http(served.address, method, path, &headers, body.as_bytes()).await
}

/// A session and its agent's token.
pub(crate) async fn session(served: &Served) -> (Arc<Session>, String) {
    let session = served.app.store.create(SessionOptions::default()).await.unwrap();
    let token = served.app.agent_token(session.id()).unwrap();
    (session, token)
}

/// Who may use a route, for this test to expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum May {
    All,
    WithToken,
    Watch,
    Act,
    Rule,
    /// The route is not there.
    Gone,
}

use May::{Act, All, Gone, Rule, Watch, WithToken};

const EXPECTED: [(&str, &str, May, May); 41] = [
    ("GET", "/health", All, All),
    ("GET", "/ready", All, All),
    ("GET", "/metrics", Watch, Watch),
    ("GET", "/metadata", WithToken, WithToken),
    ("GET", "/schema", WithToken, WithToken),
    ("GET", "/tools", WithToken, WithToken),
    ("GET", "/openapi.json", Watch, Watch),
    ("GET", "/docs", Watch, Watch),
    ("GET", "/redoc", Watch, Watch),
    ("GET", "/list_environments", Watch, Watch),
    ("GET", "/{environment}/splits", Watch, Watch),
    ("POST", "/{environment}/tasks", Watch, Watch),
    ("POST", "/{environment}/num_tasks", Watch, Watch),
    ("POST", "/{environment}/task", Watch, Watch),
    ("POST", "/{environment}/task_range", Watch, Watch),
    ("GET", "/ws", Rule, Act),
    ("POST", "/mcp", Act, Act),
    ("GET", "/mcp", Act, Act),
    ("DELETE", "/mcp", Act, Act),
    ("POST", "/sessions/{id}/mcp", Act, Act),
    ("GET", "/sessions/{id}/mcp", Act, Act),
    ("DELETE", "/sessions/{id}/mcp", Act, Act),
    ("POST", "/reset", Rule, Gone),
    ("POST", "/step", Rule, Gone),
    ("GET", "/state", Watch, Gone),
    ("POST", "/batch", Rule, Gone),
    ("POST", "/restore", Rule, Gone),
    ("POST", "/sessions", Rule, Gone),
    ("GET", "/sessions", Watch, Gone),
    ("GET", "/sessions/{id}", Watch, Gone),
    ("DELETE", "/sessions/{id}", Rule, Gone),
    ("POST", "/sessions/{id}/reset", Rule, Gone),
    ("POST", "/sessions/{id}/step", Rule, Gone),
    ("GET", "/sessions/{id}/state", Watch, Gone),
    ("GET", "/sessions/{id}/logs", Watch, Gone),
    ("POST", "/sessions/{id}/fork", Rule, Gone),
    ("POST", "/sessions/{id}/snapshot", Rule, Gone),
    ("POST", "/sessions/{id}/keepalive", Rule, Gone),
    ("GET", "/trajectories", Watch, Gone),
    ("GET", "/trajectories/{id}", Watch, Gone),
    ("GET", "/trajectories/{id}/steps", Watch, Gone),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum As {
    Nobody,
    Stranger,
    Agent,
    AnotherAgent,
    Observer,
    Control,
}

const EVERYONE: [As; 6] = [As::Nobody, As::Stranger, As::Agent, As::AnotherAgent, As::Observer, As::Control];

/// The status of a refusal; none when the caller comes through.
fn refused(may: May, caller: As, path: &str) -> Option<u16> {
    let named = path.contains("{id}");
    let allowed = match (may, caller) {
        (Gone, _) => return Some(404),
        (All, _) => true,
        (_, As::Nobody | As::Stranger) => return Some(401),
        (WithToken, _) | (_, As::Control) => true,
        (Watch, As::Observer) | (Act, As::Agent) => true,
        (Act, As::AnotherAgent) => !named,
        _ => false,
    };
    (!allowed).then_some(403)
}

/// The routes of a server in simulation, which has all: what docs/principals.md lists, which a test of the
/// crate holds equal to the table.
fn routes() -> BTreeSet<(String, String)> {
    let page = include_str!("../../../../docs/principals.md");
    let route = |line: &str| {
        let (method, path) = line.strip_prefix("| `")?.split_once('`')?.0.split_once(" /")?;
        Some((method.to_owned(), format!("/{path}")))
    };
    page.lines().filter_map(route).collect()
}

#[tokio::test]
async fn every_route_lets_in_whom_it_should() {
    let routes = routes();
    for (method, path, _, _) in EXPECTED {
        let there = routes.iter().any(|route| (route.0.as_str(), route.1.as_str()) == (method, path));
        assert!(there, "{method} {path} is expected, and is no route");
    }
    for mode in [Mode::Simulation, Mode::Production] {
        let served = guarded(mode).await;
        for (method, path) in &routes {
            let row = EXPECTED.iter().find(|row| (row.0, row.1) == (method.as_str(), path.as_str()));
            let row =
                row.unwrap_or_else(|| panic!("{method} {path} is a route, and nobody has said for whom"));
            let may = if mode == Mode::Simulation { row.2 } else { row.3 };
            for caller in EVERYONE {
                let expected = refused(may, caller, path);
                check(&served, method, path, caller, expected).await;
                if method == "GET" {
                    check(&served, "HEAD", path, caller, expected).await;
                }
            }
        }
        served.app.store.end_all(&EndReason::Closed);
        served.end().await;
    }
}

async fn check(served: &Served, method: &str, path: &str, caller: As, expected: Option<u16>) {
    let (mine, agent) = session(served).await;
    let (theirs, another) = session(served).await;
    let real = path.replace("{id}", mine.id()).replace("{environment}", "scripted");
    let token = match caller {
        As::Nobody => None,
        As::Stranger => Some("wrong"),
        As::Agent => Some(agent.as_str()),
        As::AnotherAgent => Some(another.as_str()),
        As::Observer => Some(OBSERVER),
        As::Control => Some(CONTROL),
    };
    let bearer = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<(&str, &str)> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
    let reply = http(served.address, method, &real, &headers, b"").await;
    let shown = format!("{method} {path} as {caller:?}: {} {}", reply.status, reply.text());
    match expected {
        Some(status) => assert_eq!(reply.status, status, "{shown}"),
        None => assert!(!matches!(reply.status, 401 | 403), "{shown}"),
    }
    if reply.status == 401 {
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"), "{shown}");
    }
    if matches!(reply.status, 401 | 403) && method != "HEAD" {
        let body = reply.json();
        let code = if reply.status == 401 { "UNAUTHORIZED" } else { "FORBIDDEN" };
        assert_eq!(body["oxenv"]["code"], code, "{shown}");
        assert!(body["detail"].is_string(), "{shown}");
    }
    for secret in ["wrong", CONTROL, OBSERVER, agent.as_str(), another.as_str()] {
        // Whoever has just made a session is told its token, and these are not it.
        assert!(!reply.text().contains(secret), "a token is shown: {shown}");
    }
    for session in [mine, theirs] {
        session.end(EndReason::Closed);
    }
}

/// A method that a path does not have lets nobody further than a refusal.
#[tokio::test]
async fn other_methods_of_a_path_are_for_nobody() {
    let all = routes();
    for mode in [Mode::Simulation, Mode::Production] {
        let served = guarded(mode).await;
        for path in all.iter().map(|(_, path)| path).collect::<BTreeSet<_>>() {
            let real = path.replace("{id}", "x").replace("{environment}", "scripted");
            for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECTED"] {
                if all.contains(&(method.to_owned(), path.clone())) {
                    continue;
                }
                for token in [OBSERVER, CONTROL] {
                    let reply = ask(&served, token, method, &real, &Value::Null).await;
                    assert!(matches!(reply.status, 403..=405), "{method} {path}: {}", reply.status);
                }
            }
        }
        // Where nothing is, there is nothing to keep.
        for token in ["wrong", OBSERVER, CONTROL] {
            assert_eq!(ask(&served, token, "GET", "/nowhere", &Value::Null).await.status, 404);
        }
        served.end().await;
    }
}

#[tokio::test]
async fn what_counts_as_a_token() {
    let served = guarded(Mode::Simulation).await;
    let (session, agent) = session(&served).await;
    let status = async |headers: &[(&str, &str)], path: &str| {
        http(served.address, "GET", path, headers, b"").await.status
    };
    // base64 of "oxenv:control-secret", ":control-secret", "control-secret:", "control-secret".
    for good in [
        "Bearer control-secret",
        "bearer control-secret",
        "BEARER   control-secret",
        "Basic b3hlbnY6Y29udHJvbC1zZWNyZXQ=",
        "basic OmNvbnRyb2wtc2VjcmV0",
    ] {
        assert_eq!(status(&[("authorization", good)], "/state").await, 200, "{good}");
        assert_eq!(status(&[("Authorization", good)], "/state").await, 200, "{good}");
    }
    for bad in [
        "",
        "Bearer",
        "Bearer ",
        "Bearer  ",
        "control-secret",
        "Token control-secret",
        "Bearer:control-secret",
        "Bearer control-secret, Bearer control-secret",
        "Bearer control-secret x",
        "Bearer control-secretx",
        "Bearer control-secre",
        "Bearer CONTROL-SECRET",
        "Bearer trainer:control-secret",
        "Bearer trainer",
        "Bearer \"control-secret\"",
        "Basic Y29udHJvbC1zZWNyZXQ6",
        "Basic Y29udHJvbC1zZWNyZXQ=",
        "Basic control-secret",
        "Bearer b3hlbnY6Y29udHJvbC1zZWNyZXQ=",
    ] {
        assert_eq!(status(&[("authorization", bad)], "/state").await, 401, "{bad:?}");
    }
    let control = ("authorization", "Bearer control-secret");
    for second in ["Bearer control-secret", "Bearer wrong", "Basic x", ""] {
        for headers in [[control, ("authorization", second)], [("authorization", second), control]] {
            assert_eq!(status(&headers, "/state").await, 401, "{second:?}");
        }
    }
    // Elsewhere than in that header it is none.
    for path in [
        "/state?token=control-secret",
        "/state?access_token=control-secret",
        "/state?authorization=Bearer%20control-secret",
    ] {
        assert_eq!(status(&[], path).await, 401, "{path}");
    }
    for name in ["proxy-authorization", "x-authorization", "cookie", "x-token"] {
        assert_eq!(status(&[(name, "Bearer control-secret")], "/state").await, 401, "{name}");
    }
    // An agent's token is one; its session's id is not, nor is anything made of it.
    let path = format!("/sessions/{}/mcp", session.id());
    let (id, mac) = agent.rsplit_once('.').unwrap();
    assert_eq!(id, session.id());
    assert_eq!(status(&[("authorization", &format!("Bearer {agent}"))], &path).await, 405);
    for forged in [
        id.to_owned(),
        format!("{id}."),
        format!("{id}.{mac}x"),
        format!("{id}.{id}"),
        format!(".{mac}"),
        mac.to_owned(),
    ] {
        assert_eq!(status(&[("authorization", &format!("Bearer {forged}"))], &path).await, 401, "{forged}");
    }
    session.end(EndReason::Closed);
    let ended =
        http(served.address, "GET", &path, &[("authorization", &format!("Bearer {agent}"))], b"").await;
    assert_eq!(ended.status, 401);
    assert!(ended.json()["detail"].as_str().unwrap().contains("has ended"), "{}", ended.text());
    drop(session);
    served.end().await;
}

/// Who makes a session is told its agent's token; a token of one server is none of another.
#[tokio::test]
async fn agents_tokens_are_handed_out_with_the_session() {
    let (served, elsewhere) = (guarded(Mode::Simulation).await, guarded(Mode::Simulation).await);
    let created = ask(&served, CONTROL, "POST", "/sessions", &json!({})).await.json();
    let (id, token) = (created["session_id"].as_str().unwrap(), created["agent_token"].as_str().unwrap());
    assert_eq!(token, served.app.agent_token(id).unwrap());
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" });
    let path = format!("/sessions/{id}/mcp");
    for door in ["/mcp", path.as_str()] {
        let listed = ask(&served, token, "POST", door, &list).await;
        assert!(listed.json()["result"]["tools"].is_array(), "{door}");
        assert_eq!(ask(&elsewhere, token, "POST", door, &list).await.status, 401, "{door}");
    }
    for mode in [Mode::Simulation, Mode::Production] {
        let served = guarded(mode).await;
        let create = json!({ "jsonrpc": "2.0", "id": 1, "method": "openenv/session/create" });
        let created = ask(&served, CONTROL, "POST", "/mcp", &create).await.json();
        let token = created["result"]["agent_token"].as_str().unwrap();
        let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "say" } });
        assert!(ask(&served, token, "POST", "/mcp", &call).await.json()["result"].is_object());
        let session = served.app.store.get(created["result"]["session_id"].as_str().unwrap()).unwrap();
        assert_eq!(session.info().step_count, 1, "{mode:?}: the call was not one of the agent's session");
        session.end(EndReason::Closed);
        drop(session);
        served.end().await;
    }
    // The later one first: each counts the descriptors that were there before it.
    elsewhere.end().await;
    served.app.store.end_all(&EndReason::Closed);
    served.end().await;
}

/// Without tokens nothing has changed: everybody is control, and there is nothing to hand out.
#[tokio::test]
async fn without_tokens_everybody_is_control() {
    let served = crate::served::serve().await;
    let created = oxenv_test_support::post(served.address, "/sessions", &json!({})).await.json();
    assert_eq!(created["agent_token"], Value::Null);
    let id = created["session_id"].as_str().unwrap();
    assert!(served.app.agent_token(id).is_none());
    let created = oxenv_test_support::rpc(served.address, "openenv/session/create", json!({})).await;
    assert_eq!(created["result"].as_object().unwrap().len(), 1, "{created}");
    // A header that means nothing here is no reason to refuse.
    assert_eq!(ask(&served, "anything", "GET", "/state", &Value::Null).await.status, 200);
    served.app.store.end_all(&EndReason::Closed);
    served.end().await;
}
