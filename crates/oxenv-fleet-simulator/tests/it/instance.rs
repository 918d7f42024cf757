//! The instance manager.

use std::time::Duration;

use oxenv_fleet_simulator::SimulatorOptions;
use reqwest::Method;
use serde_json::{Value, json};

use crate::caller::{Answer, Caller, answered};

/// A caller with one instance, and the URL of its manager.
async fn managed(options: SimulatorOptions) -> (Caller, String) {
    let caller = Caller::start(options).await;
    let (_, root) = caller.made().await;
    (caller, format!("{root}api/v1/env"))
}

async fn query(caller: &Caller, manager: &str, database: &str, body: Value) -> Value {
    let url = format!("{manager}/resources/sqlite/{database}/query");
    caller.post(&url, &body).await.unwrap().json()
}

async fn verify(caller: &Caller, manager: &str, code: &str) -> Value {
    let body = json!({"function_code": code, "function_name": "check", "text_solution": "done"});
    caller.post(&format!("{manager}/execute_verifier_function"), &body).await.unwrap().json()
}

#[tokio::test]
async fn a_reset_brings_back_what_the_seed_says() {
    let (caller, manager) = managed(SimulatorOptions::default()).await;
    let all = json!({"query": "SELECT * FROM issues"});
    let reset = format!("{manager}/reset");
    let answer = caller.post(&reset, &json!({"timestamp": 1_700_000_000, "seed": 42})).await.unwrap().json();
    assert_eq!(answer["success"], true);
    let first = query(&caller, &manager, "current", all.clone()).await;
    assert_eq!(first["rows"].as_array().unwrap().len(), 5);
    assert_eq!(first["columns"], json!(["id", "title", "status", "assignee"]));

    let change = json!({"query": "INSERT INTO issues (title, status) VALUES (?, ?)", "args": ["New", "open"],
        "read_only": false});
    let changed = query(&caller, &manager, "current", change).await;
    assert_eq!((&changed["rows_affected"], &changed["last_insert_id"]), (&json!(1), &json!(6)));
    let table = json!({"query": "CREATE TABLE more (a)", "read_only": false});
    assert_eq!(query(&caller, &manager, "current", table).await["success"], true);
    assert_eq!(query(&caller, &manager, "seed", all.clone()).await["rows"], first["rows"]);

    caller.post(&reset, &json!({"seed": 43})).await.unwrap();
    assert_ne!(query(&caller, &manager, "current", all.clone()).await["rows"], first["rows"]);
    caller.post(&reset, &json!({"seed": 42, "timestamp": null})).await.unwrap();
    assert_eq!(query(&caller, &manager, "current", all).await["rows"], first["rows"]);
    let described = caller.get(&format!("{manager}/resources/sqlite/current/describe")).await.unwrap().json();
    let names: Vec<&Value> =
        described["tables"].as_array().unwrap().iter().map(|table| &table["name"]).collect();
    assert_eq!(names, ["issues", "comments"]);
    for left in ["CREATE VIEW v AS SELECT 1", "CREATE TEMP TABLE t (a)", "BEGIN"] {
        query(&caller, &manager, "current", json!({"query": left, "read_only": false})).await;
    }
    // A reset needs no body.
    assert_eq!(answered(caller.request(Method::POST, &reset)).await.unwrap().status, 200);
}

#[tokio::test]
async fn queries_that_fail_say_so() {
    let (caller, manager) = managed(SimulatorOptions::default()).await;
    let write = "DELETE FROM issues";
    for (database, body, says) in [
        ("current", json!({"query": write}), "readonly"),
        ("seed", json!({"query": write, "read_only": false}), "readonly"),
        ("current", json!({"query": "SELEKT"}), "syntax error"),
        ("current", json!({"query": "SELECT ?, ?", "args": [1]}), "parameter"),
        ("current", json!({"query": "SELECT 1; DELETE FROM issues", "read_only": false}), "ultiple"),
        ("current", json!({"query": "ATTACH '/tmp/never' AS a", "read_only": false}), "authori"),
        ("current", json!({"query": "VACUUM INTO '/tmp/never'", "read_only": false}), "authori"),
    ] {
        let answer = query(&caller, &manager, database, body).await;
        assert_eq!(answer["success"], false, "{answer}");
        assert!(answer["error"].as_str().unwrap().contains(says), "{answer}");
    }
    let status = |answer: Answer| answer.status;
    let nowhere = format!("{manager}/resources/sqlite/nope/query");
    assert_eq!(caller.post(&nowhere, &json!({"query": "SELECT 1"})).await.map(status).unwrap(), 404);
    let current = format!("{manager}/resources/sqlite/current/query");
    assert_eq!(caller.post(&current, &json!({})).await.map(status).unwrap(), 422);
    for path in ["step", "state"] {
        assert_eq!(caller.post(&format!("{manager}/{path}"), &json!({})).await.map(status).unwrap(), 404);
    }
}

#[tokio::test]
async fn a_query_without_an_end_ends_with_its_client() {
    let (caller, manager) = managed(SimulatorOptions::default()).await;
    let url = format!("{manager}/resources/sqlite/current/query");
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    let request = caller.request(Method::POST, &url).json(&json!({"query": endless}));
    assert!(answered(request.timeout(Duration::from_millis(200))).await.unwrap_err().is_timeout());
    // The database is free again.
    assert_eq!(query(&caller, &manager, "current", json!({"query": "SELECT 1"})).await["rows"], json!([[1]]));
}

#[tokio::test]
async fn pages_in_a_browser_are_refused() {
    let (caller, manager) = managed(SimulatorOptions::default()).await;
    for url in [format!("{manager}/reset"), "/v1/env/instances".to_owned()] {
        let request = caller.request(Method::POST, &url).header("origin", "http://127.0.0.1:1");
        assert_eq!(answered(request.body("{}")).await.unwrap().status, 403);
    }
}

#[tokio::test]
async fn the_manager_is_behind_the_gate_and_mcp_is_not() {
    let (caller, manager) =
        managed(SimulatorOptions { runner_gate: true, ..SimulatorOptions::default() }).await;
    let health = format!("{manager}/health");
    assert_eq!(caller.get(&health).await.unwrap().status, 404);
    let token = caller.get("/v1/runner-auth/token").await.unwrap().json();
    let token = token["token"].as_str().unwrap();
    let let_in = caller.request(Method::GET, &health).header("X-Runner-Token", token);
    assert_eq!(answered(let_in).await.unwrap().json()["status"], "healthy");
    let mcp = manager.replace("/api/v1/env", "/mcp");
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    assert_eq!(caller.post(&mcp, &ping).await.unwrap().status, 200);

    let (ungated, manager) = managed(SimulatorOptions::default()).await;
    assert_eq!(ungated.get("/v1/runner-auth/token").await.unwrap().status, 404);
    assert_eq!(ungated.get(&format!("{manager}/health")).await.unwrap().status, 200);
}

#[tokio::test]
async fn verifiers_run_only_if_they_may() {
    let code = "def check(before, after, text):\n    return 1";
    let (caller, manager) = managed(SimulatorOptions::default()).await;
    let refused = verify(&caller, &manager, code).await;
    assert_eq!(refused["success"], false);
    assert!(refused["error"].as_str().unwrap().contains("--run-verifiers"), "{refused}");

    let options = SimulatorOptions { run_verifiers: true, ..SimulatorOptions::default() };
    let (caller, manager) = managed(options).await;
    let change = json!({"query": "UPDATE issues SET status = 'done' WHERE id = 2", "read_only": false});
    query(&caller, &manager, "current", change).await;
    let code = r"def check(before: DatabaseSnapshot, after: DatabaseSnapshot, text: Optional[str] = None) -> int:
    print('noise')
    done = after.table('issues').eq('status', 'done')
    if before.table('issues').eq('status', 'done').count() == 0 and done.first()['id'] == 2 and text == 'done':
        return TASK_SUCCESSFUL_SCORE
    return TASK_FAILED_SCORE";
    let scored = verify(&caller, &manager, code).await;
    assert_eq!((&scored["success"], &scored["result"]), (&json!(true), &json!(1)), "{scored}");
    let code =
        "def check(env, final_answer=None):\n    return len(env.db('current').query('SELECT * FROM issues'))";
    assert_eq!(verify(&caller, &manager, code).await["result"], 5);
    let failed = verify(&caller, &manager, "def check(before, after):\n    raise ValueError('no')").await;
    assert!(failed["error"].as_str().unwrap().contains("ValueError: no"), "{failed}");
    let ended = verify(&caller, &manager, "import os\ndef check():\n    os._exit(3)").await;
    assert!(ended["error"].as_str().unwrap().contains("exit status: 3"), "{ended}");
}

#[tokio::test]
async fn a_verifier_without_an_end_is_ended() {
    let verifier_timeout = Duration::from_millis(300);
    let options = SimulatorOptions { run_verifiers: true, verifier_timeout, ..SimulatorOptions::default() };
    let (caller, manager) = managed(options).await;
    let endless = verify(&caller, &manager, "def check():\n    while True: pass").await;
    assert!(endless["error"].as_str().unwrap().contains("did not end within 0.3 s"), "{endless}");
}

#[tokio::test]
async fn resources_in_both_forms_and_a_browser_that_is_described() {
    let (caller, manager) = managed(SimulatorOptions::default()).await;
    let resources = format!("{manager}/resources");
    let now = caller.get(&resources).await.unwrap().json();
    caller.inject("resources:old-resources*1");
    assert_eq!(caller.get(&resources).await.unwrap().json(), json!({ "resources": now }));
    let names: Vec<&Value> = now.as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["seed", "current", "cdp"]);
    let cdp = caller.get(&format!("{manager}/resources/cdp/describe")).await.unwrap().json();
    assert!(cdp["cdp_browser_url"].as_str().unwrap().starts_with("ws://127.0.0.1:"), "{cdp}");
}
