//! An agent that is out for more than its session's tools: control, other sessions, other epochs,
//! rewards, by every door there is.

use std::sync::Arc;

use oxenv_core::{EndReason, Execution, Session, StoreLimits};
use oxenv_server::{Mode, ServerConfig, Tokens};
use oxenv_test_support::{Reply, Ws, code, http, rpc_code, soon, until};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::auth::{CONTROL, OBSERVER, ask, guarded, session};
use crate::mcp_wire::{BOTH, meta, request};
use crate::served::Served;
use crate::stage::{Scripted, Stage};

const MODES: [Mode; 2] = [Mode::Simulation, Mode::Production];

/// Names of what only control may do.
const CONTROLS: [&str; 8] = ["reset", "step", "state", "close", "fork", "snapshot", "restore", "batch"];

/// A WebSocket with a token, or the status with which it was refused.
async fn socket(served: &Served, path: &str, token: &str) -> Result<Ws, u16> {
    let mut request = format!("ws://{}{path}", served.address).into_client_request().unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let stream = TcpStream::connect(served.address).await.unwrap();
    match soon(tokio_tungstenite::client_async(request, stream)).await {
        Ok((socket, _)) => Ok(Ws(socket)),
        Err(Error::Http(response)) => Err(response.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

/// The ways of speaking to an MCP endpoint that need no handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Dialect,
    Bare,
    Stateless,
}

const MANNERS: [Manner; 3] = [Manner::Dialect, Manner::Bare, Manner::Stateless];

async fn speak(
    served: &Served,
    token: &str,
    path: &str,
    manner: Manner,
    method: &str,
    params: &Value,
) -> Reply {
    let bearer = format!("Bearer {token}");
    let mut headers = vec![("authorization", bearer.as_str()), ("content-type", "application/json")];
    let mut params = params.clone();
    let name = params["name"].as_str().unwrap_or_default().to_owned();
    match manner {
        Manner::Dialect => {}
        Manner::Bare => headers.push(("accept", BOTH)),
        Manner::Stateless => {
            params["_meta"] = meta(&json!({}));
            let said = [("accept", BOTH), ("mcp-protocol-version", "2026-07-28"), ("mcp-method", method)];
            headers.extend(said);
            if !name.is_empty() {
                headers.push(("mcp-name", &name));
            }
        }
    }
    let body = request(method, &params).to_string();
    http(served.address, "POST", path, &headers, body.as_bytes()).await
}

/// Shakes hands; gives the id of the MCP session.
async fn shake_hands(served: &Served, token: &str, path: &str) -> String {
    let params = json!({
        "protocolVersion": "2025-11-25", "capabilities": {},
        "clientInfo": { "name": "by hand", "version": "1" },
    });
    let reply = speak(served, token, path, Manner::Bare, "initialize", &params).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.header("mcp-session-id").unwrap().to_owned()
}

/// A request within an MCP session.
async fn within(served: &Served, token: &str, method: &str, path: &str, id: &str, body: &Value) -> Reply {
    let bearer = format!("Bearer {token}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
        ("accept", BOTH),
        ("mcp-session-id", id),
    ];
    let body = if body.is_null() { String::new() } else { body.to_string() };
    http(served.address, method, path, &headers, body.as_bytes()).await
}

/// Two sessions with their agents' tokens: the attacker's and the victim's.
struct Two {
    mine: Arc<Session>,
    token: String,
    theirs: Arc<Session>,
    their_token: String,
}

impl Two {
    async fn new(served: &Served) -> Self {
        let (mine, token) = session(served).await;
        let (theirs, their_token) = session(served).await;
        Two { mine, token, theirs, their_token }
    }

    /// The doors that are the attacker's own.
    fn doors(&self) -> [String; 2] {
        ["/mcp".to_owned(), format!("/sessions/{}/mcp", self.mine.id())]
    }

    /// That nothing was done to the victim, and no session was made or ended.
    async fn unharmed(self, served: Served) {
        let info = self.theirs.info();
        assert_eq!((info.step_count, info.epoch, info.attached), (0, 0, 0), "the victim was reached");
        for session in [&self.mine, &self.theirs] {
            assert_eq!(session.ended(), None);
        }
        assert_eq!(served.app.store.list().len(), 2, "a session was made or ended");
        self.mine.end(EndReason::Closed);
        self.theirs.end(EndReason::Closed);
        drop(self);
        served.end().await;
    }
}

#[tokio::test]
async fn another_session_cannot_be_named() {
    for mode in MODES {
        let served = guarded(mode).await;
        let two = Two::new(&served).await;
        let theirs = two.theirs.id();
        let call = json!({ "name": "say", "arguments": { "text": "hi" }, "session_id": theirs });
        for door in two.doors() {
            for manner in MANNERS {
                for method in ["tools/call", "tools/list"] {
                    let reply = speak(&served, &two.token, &door, manner, method, &call).await;
                    assert_eq!(rpc_code(&reply.json()), -32602, "{manner:?} {method}: {}", reply.text());
                }
            }
        }
        // The words are those for a session that does not exist, so nothing is learnt.
        let unknown = json!({ "name": "say", "session_id": "none" });
        let told = |id: &str, reply: &Reply| reply.text().replace(id, "ID");
        let real = speak(&served, &two.token, "/mcp", Manner::Dialect, "tools/call", &call).await;
        let none = speak(&served, &two.token, "/mcp", Manner::Dialect, "tools/call", &unknown).await;
        assert_eq!(told(theirs, &real), told("none", &none));
        // Its own may be named.
        let own = json!({ "name": "say", "session_id": two.mine.id() });
        let reply = speak(&served, &two.token, "/mcp", Manner::Dialect, "tools/call", &own).await;
        assert!(reply.json()["result"].is_object(), "{}", reply.text());
        two.unharmed(served).await;
    }
}

#[tokio::test]
async fn another_session_has_no_path() {
    for mode in MODES {
        let served = guarded(mode).await;
        let two = Two::new(&served).await;
        let (mine, theirs) = (two.mine.id(), two.theirs.id());
        let call = request("tools/call", &json!({ "name": "say" }));
        for path in [
            format!("/sessions/{theirs}/mcp"),
            format!("/sessions/{theirs}/mcp?session_id={mine}"),
            format!("/sessions/{mine}/../{theirs}/mcp"),
            format!("/sessions/{mine}%2F..%2F{theirs}/mcp"),
            format!("/sessions/{mine}%00/mcp"),
            format!("/sessions/{mine}/mcp/../../{theirs}/mcp"),
            format!("//sessions/{theirs}/mcp"),
            format!("/sessions//{theirs}/mcp"),
            format!("/./sessions/{theirs}/mcp"),
            format!("/sessions/{theirs}/mcp/"),
            format!("/SESSIONS/{theirs}/mcp"),
            format!("/sessions/{}/mcp", theirs.to_uppercase()),
            format!("/sessions/%{:02x}{}/mcp", theirs.as_bytes()[0], &theirs[1..]),
            format!("/sessions/%ff{mine}/mcp"),
            format!("http://{}/sessions/{theirs}/mcp", served.address),
        ] {
            for method in ["POST", "GET", "DELETE"] {
                let reply = ask(&served, &two.token, method, &path, &call).await;
                assert!(matches!(reply.status, 400 | 403 | 404), "{method} {path}: {}", reply.status);
            }
        }
        // A query cannot make another session of one's own.
        let path = format!("/sessions/{mine}/mcp?session_id={theirs}&id={theirs}");
        let reply = ask(&served, &two.token, "POST", &path, &call).await;
        assert_eq!(reply.status, 200);
        assert_eq!(two.mine.info().step_count, 1);
        two.unharmed(served).await;
    }
}

/// The id of an MCP session is no credential either.
#[tokio::test]
async fn another_callers_mcp_session_cannot_be_used() {
    for mode in MODES {
        let served = guarded(mode).await;
        let two = Two::new(&served).await;
        let call = request("tools/call", &json!({ "name": "say" }));
        let list = request("tools/list", &json!({}));
        let their_path = format!("/sessions/{}/mcp", two.theirs.id());
        let mut open = Vec::new();
        for (holder, path) in [
            (two.their_token.as_str(), "/mcp"),
            (two.their_token.as_str(), their_path.as_str()),
            (CONTROL, their_path.as_str()),
        ] {
            open.push((holder, path, shake_hands(&served, holder, path).await));
        }
        for (_, _, id) in &open {
            for door in two.doors() {
                for (method, body) in
                    [("POST", &call), ("POST", &list), ("GET", &Value::Null), ("DELETE", &Value::Null)]
                {
                    let reply = within(&served, &two.token, method, &door, id, body).await;
                    assert_eq!(reply.status, 404, "{method} {door}: {}", reply.text());
                    // With both headers of MCP at once, whichever is read first.
                    let bearer = format!("Bearer {}", two.token);
                    let headers = [
                        ("authorization", bearer.as_str()),
                        ("accept", BOTH),
                        ("mcp-session-id", id.as_str()),
                        ("mcp-protocol-version", "2025-11-25"),
                    ];
                    let body = body.to_string();
                    let reply = http(served.address, method, &door, &headers, body.as_bytes()).await;
                    assert_eq!(reply.status, 404, "{method} {door}: {}", reply.text());
                }
            }
        }
        // Nor by other control tokens, nor at other doors.
        for (holder, path, id) in &open {
            let other = format!("other-{CONTROL}");
            assert_eq!(within(&served, &other, "POST", path, id, &list).await.status, 404);
            assert_eq!(within(&served, OBSERVER, "POST", path, id, &list).await.status, 403);
            let reply = within(&served, holder, "POST", path, id, &list).await;
            assert!(reply.json()["result"]["tools"].is_array(), "its own holder: {}", reply.text());
            assert_eq!(within(&served, holder, "DELETE", path, id, &Value::Null).await.status, 202);
        }
        two.unharmed(served).await;
    }
}

/// Whoever begins MCP sessions without end has only their own taken away for it.
#[tokio::test]
async fn mcp_sessions_of_others_are_not_crowded_out() {
    let stage = Stage::default();
    let factory = Scripted::new(&stage, Execution::Task).tools(true);
    let mut tokens = Tokens::default();
    tokens.add_control(CONTROL).unwrap();
    let config = ServerConfig { tokens, max_mcp_sessions: 3, ..ServerConfig::default() };
    let served = Served::start(&stage, factory, StoreLimits::default(), config).await;
    let two = Two::new(&served).await;
    let victim = shake_hands(&served, &two.their_token, "/mcp").await;
    for _ in 0..10 {
        shake_hands(&served, &two.token, "/mcp").await;
    }
    let list = request("tools/list", &json!({}));
    assert_eq!(within(&served, &two.their_token, "POST", "/mcp", &victim, &list).await.status, 200);
    two.unharmed(served).await;
}

#[tokio::test]
async fn sessions_are_neither_made_nor_closed() {
    for mode in MODES {
        let served = guarded(mode).await;
        let two = Two::new(&served).await;
        for door in two.doors() {
            for manner in MANNERS {
                for id in [two.mine.id(), two.theirs.id(), "none"] {
                    for method in ["openenv/session/create", "openenv/session/close"] {
                        let reply =
                            speak(&served, &two.token, &door, manner, method, &json!({ "session_id": id }))
                                .await;
                        assert_eq!(rpc_code(&reply.json()), -32603, "{}", reply.text());
                        assert_eq!(reply.json()["error"]["data"]["oxenv"]["code"], "FORBIDDEN");
                    }
                }
            }
        }
        let mut ws = socket(&served, "/mcp", &two.token).await.ok().unwrap();
        for id in [two.mine.id(), two.theirs.id()] {
            for method in ["openenv/session/create", "openenv/session/close"] {
                let reply = ws.ask(&request(method, &json!({ "session_id": id }))).await;
                assert_eq!(reply["error"]["data"]["oxenv"]["code"], "FORBIDDEN", "{reply}");
            }
        }
        ws.close().await;
        two.unharmed(served).await;
    }
}

#[tokio::test]
async fn control_has_no_name_at_the_agents_door() {
    for mode in MODES {
        let served = guarded(mode).await;
        let two = Two::new(&served).await;
        let before = two.mine.info().epoch;
        for name in CONTROLS {
            for prefix in ["", "openenv/", "openenv/session/", "session/", "sessions/", "environment/"] {
                let method = format!("{prefix}{name}");
                // Its refusal is another test's.
                if method == "openenv/session/close" {
                    continue;
                }
                for door in two.doors() {
                    for manner in MANNERS {
                        let reply = speak(&served, &two.token, &door, manner, &method, &json!({})).await;
                        assert!(reply.json()["error"].is_object(), "{method}: {}", reply.text());
                    }
                }
            }
            for door in two.doors() {
                for manner in MANNERS {
                    let call = json!({ "name": name, "arguments": {} });
                    let reply = speak(&served, &two.token, &door, manner, "tools/call", &call).await;
                    assert!(reply.json()["error"].is_object(), "{name}: {}", reply.text());
                }
            }
        }
        let mut ws = socket(&served, "/mcp", &two.token).await.ok().unwrap();
        for name in CONTROLS {
            let reply = ws.ask(&json!({ "type": name, "data": {} })).await;
            assert!(reply["error"].is_object(), "{name}: {reply}");
            let reply = ws.ask(&request(name, &json!({}))).await;
            assert!(reply["error"].is_object(), "{name}: {reply}");
        }
        ws.close().await;
        assert_eq!(two.mine.info().epoch, before);
        two.unharmed(served).await;
    }
}

/// `/ws` is control's in simulation; in production it is the agent's own session and nothing more.
#[tokio::test]
async fn the_control_socket_is_closed_to_agents() {
    let served = guarded(Mode::Simulation).await;
    let two = Two::new(&served).await;
    for id in [two.mine.id(), two.theirs.id(), "none"] {
        let path = format!("/ws?session_id={id}");
        assert_eq!(socket(&served, &path, &two.token).await.err(), Some(403));
        assert_eq!(socket(&served, &path, OBSERVER).await.err(), Some(403));
        assert_eq!(socket(&served, &path, id).await.err(), Some(401));
    }
    assert_eq!(socket(&served, "/ws", &two.token).await.err(), Some(403));
    assert_eq!(socket(&served, "/mcp", OBSERVER).await.err(), Some(403));
    assert_eq!(socket(&served, "/mcp", "wrong").await.err(), Some(401));
    two.unharmed(served).await;

    let served = guarded(Mode::Production).await;
    let two = Two::new(&served).await;
    let path = format!("/ws?session_id={}", two.theirs.id());
    assert_eq!(socket(&served, &path, &two.token).await.err(), Some(403));
    assert_eq!(socket(&served, "/ws", OBSERVER).await.err(), Some(403));
    let own = format!("/ws?session_id={}", two.mine.id());
    for path in ["/ws", own.as_str()] {
        let mut ws = socket(&served, path, &two.token).await.ok().unwrap();
        for frame in [
            json!({ "type": "reset" }),
            json!({ "type": "state" }),
            json!({ "type": "step", "data": { "do": "count" } }),
        ] {
            assert_eq!(code(&ws.ask(&frame).await), "EXECUTION_ERROR", "{frame}");
        }
        let called = ws.step(&json!({ "type": "call_tool", "tool_name": "say", "arguments": {} })).await;
        assert_eq!(called["data"]["reward"], Value::Null);
        let theirs = json!({ "name": "say", "session_id": two.theirs.id() });
        for (method, params) in [
            ("tools/call", theirs),
            ("openenv/session/create", json!({})),
            ("openenv/session/close", json!({ "session_id": two.mine.id() })),
        ] {
            let reply = ws.ask(&json!({ "type": "mcp", "data": request(method, &params) })).await;
            assert!(reply["data"]["error"].is_object(), "{method}: {reply}");
        }
        ws.close().await;
    }
    assert_eq!(two.mine.info().step_count, 2);
    until("its socket is gone", || two.mine.info().attached == 0).await;
    two.unharmed(served).await;
}

/// An agent's socket neither takes the session from the orchestrator's nor ends it by leaving.
#[tokio::test]
async fn an_agents_socket_leaves_control_its_own() {
    let served = guarded(Mode::Simulation).await;
    let (mine, token) = session(&served).await;
    let path = format!("/ws?session_id={}", mine.id());
    let mut control = socket(&served, &path, CONTROL).await.ok().unwrap();
    for _ in 0..2 {
        let mut agent = socket(&served, "/mcp", &token).await.ok().unwrap();
        let called = agent.ask(&request("tools/call", &json!({ "name": "say" }))).await;
        assert!(called["result"].is_object(), "{called}");
        assert_eq!(control.ask(&json!({ "type": "state" })).await["type"], "state");
        agent.close().await;
    }
    assert_eq!(control.step(&json!({ "do": "count" })).await["data"]["reward"], 1);
    assert_eq!((mine.info().step_count, mine.ended()), (3, None));
    control.close().await;
    mine.end(EndReason::Closed);
    drop(mine);
    served.end().await;
}

/// A call for another epoch than the present one is refused, and changes nothing.
#[tokio::test]
async fn another_epoch_cannot_be_reached() {
    let served = guarded(Mode::Simulation).await;
    let two = Two::new(&served).await;
    let reset = format!("/sessions/{}/reset", two.mine.id());
    for _ in 0..2 {
        assert_eq!(ask(&served, CONTROL, "POST", &reset, &json!({})).await.status, 200);
    }
    assert_eq!(two.mine.info().epoch, 2);
    let call = json!({ "name": "say", "arguments": { "text": "hi" } });
    for door in two.doors() {
        for manner in MANNERS {
            for epoch in [0, 1, 3] {
                let path = format!("{door}?epoch={epoch}");
                let reply = speak(&served, &two.token, &path, manner, "tools/call", &call).await;
                assert_eq!(reply.json()["error"]["data"]["oxenv"]["code"], "WRONG_EPOCH", "{}", reply.text());
            }
            let now = format!("{door}?epoch=2");
            let reply = speak(&served, &two.token, &now, manner, "tools/call", &call).await;
            assert!(reply.json()["result"].is_object(), "{}", reply.text());
        }
    }
    assert_eq!(two.mine.info().step_count, 6);
    two.unharmed(served).await;
}

/// A reward that control sees is in nothing that the agent is told.
#[tokio::test]
async fn rewards_are_not_told() {
    for mode in MODES {
        let stage = Stage::default();
        let factory = Scripted::new(&stage, Execution::Task).tools(true).scoring();
        let mut tokens = Tokens::default();
        tokens.add_control(CONTROL).unwrap();
        let config = ServerConfig { mode, tokens, ..ServerConfig::default() };
        let served = Served::start(&stage, factory, StoreLimits::default(), config).await;
        let two = Two::new(&served).await;
        let after = json!({ "do": "reward", "value": 0.421_875 });
        let call = json!({ "name": "say", "arguments": { "text": "hi", "after": after } });
        let mut told = Vec::new();
        for door in two.doors() {
            for manner in MANNERS {
                for (method, params) in [("tools/call", &call), ("tools/list", &json!({}))] {
                    told.push(speak(&served, &two.token, &door, manner, method, params).await.text());
                }
            }
            let id = shake_hands(&served, &two.token, &door).await;
            told.push(
                within(&served, &two.token, "POST", &door, &id, &request("tools/call", &call)).await.text(),
            );
            within(&served, &two.token, "DELETE", &door, &id, &Value::Null).await;
        }
        let mut ws = socket(&served, "/mcp", &two.token).await.ok().unwrap();
        told.push(ws.ask(&request("tools/call", &call)).await.to_string());
        ws.close().await;
        let calls = 9;
        assert_eq!(
            two.mine.info().episode_reward,
            Some(0.421_875 * f64::from(calls)),
            "the calls were scored"
        );
        for path in ["/metadata", "/tools", "/health", "/ready"] {
            told.push(ask(&served, &two.token, "GET", path, &Value::Null).await.text());
        }
        for path in ["/state".to_owned(), "/sessions".to_owned(), format!("/sessions/{}", two.mine.id())] {
            told.push(ask(&served, &two.token, "GET", &path, &Value::Null).await.text());
        }
        for text in &told {
            assert!(!text.contains("421875"), "{text}");
            assert!(!text.contains("step_count") && !text.contains("episode"), "{text}");
        }
        if mode == Mode::Production {
            let mut ws = socket(&served, "/ws", &two.token).await.ok().unwrap();
            let frame = json!({ "type": "call_tool", "tool_name": "say", "arguments": call["arguments"] });
            let reply = ws.step(&frame).await;
            assert_eq!(reply["data"]["reward"], Value::Null);
            assert!(!reply.to_string().contains("421875"), "{reply}");
            ws.close().await;
            until("its socket is gone", || two.mine.info().attached == 0).await;
        }
        two.unharmed(served).await;
    }
}
