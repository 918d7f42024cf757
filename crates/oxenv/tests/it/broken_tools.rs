//! A toolset that does not start, seen through every door: it is named where a tool of it may be missing.

use serde_json::{Value, json};

use crate::process::{Ended, Serving, oxenv};
use crate::records::Folder;

const TOKEN: &str = "hunter2-hunter2";
const WORDS: &str = "exited with code 3: no licence, process ";

/// A manifest with a server that ends at once, with other words each time and a secret among them, and with
/// echo.
fn manifest(folder: &Folder) -> String {
    let server = "mcp_server: { command: /bin/sh, \
                  args: [\"-c\", \"echo no licence, process $$, $TOKEN >&2; exit 3\"], \
                  env: { TOKEN: \"${TOKEN}\" } }";
    let echo = "mcp_server: { transport: builtin, toolset: echo }";
    folder
        .file("tools.yaml", &format!("tools:\n  - name: broken\n    {server}\n  - name: echo\n    {echo}\n"))
}

fn step(server: &Serving, action: &Value) -> Value {
    let (status, reply) = server.post("/step", &json!({ "action": action }));
    assert_eq!(status, 200, "{reply}");
    reply["observation"].clone()
}

/// Whether a text names the toolset and why, without the secret.
fn names_it(text: &Value) -> bool {
    let text = text.as_str().unwrap_or_default();
    text.contains("toolset 'broken' is not available: ") && text.contains(WORDS) && !text.contains(TOKEN)
}

fn is_infrastructure(ours: &Value) -> bool {
    ours["code"] == "UPSTREAM_UNAVAILABLE" && ours["kind"] == "infrastructure" && ours["delivered"] == "no"
}

#[test]
fn a_call_of_what_could_not_start_is_told_as_infrastructure_at_every_door() {
    let folder = Folder::new("broken-tools");
    let server = Serving::of(oxenv().env("TOKEN", TOKEN).args(["serve", "--port", "0", &manifest(&folder)]));
    // Lists wait for the first try of every toolset.
    for action in [json!({ "type": "list_tools" }), json!({ "type": "ListToolsAction" })] {
        let listed = step(&server, &action);
        let problem = &listed["metadata"]["oxenv"]["problems"][0];
        assert_eq!(
            (&problem["toolset"], &problem["required"]),
            (&json!("broken"), &json!(false)),
            "{listed}"
        );
        assert!(problem["message"].as_str().unwrap().starts_with(WORDS), "{problem}");
    }
    let (status, reset) = server.post("/reset", &json!({}));
    assert_eq!((status, &reset["reward"]), (200, &json!(null)));
    assert_eq!(reset["observation"]["metadata"]["oxenv"]["problems"][0]["toolset"], "broken");

    let stock = step(&server, &json!({ "type": "call_tool", "tool_name": "license", "arguments": {} }));
    assert!(
        names_it(&stock["error"]["message"]) && is_infrastructure(&stock["metadata"]["oxenv"]),
        "{stock}"
    );
    assert_eq!(stock["error"]["error_type"], "transport_error");
    let unified = step(&server, &json!({ "action_type": "tool", "tool_name": "license", "tool_args": {} }));
    assert!(names_it(&unified["error"]["message"]), "{unified}");
    let journal = step(&server, &json!({ "type": "CallToolAction", "tool_name": "broken__license" }));
    assert!(names_it(&journal["metadata"]["error"]), "{journal}");
    let calls = json!([{ "id": "a", "tool_name": "license", "arguments": {} }]);
    let graph = step(&server, &json!({ "type": "call_tools", "calls": calls }));
    assert!(is_infrastructure(&graph["metadata"]["oxenv"]["calls"]["a"]), "{graph}");

    let call = |id: u64| {
        json!({
            "jsonrpc": "2.0", "id": id, "method": "tools/call",
            "params": { "name": "license", "arguments": {} }
        })
    };
    let (_, dialect) = server.post("/mcp", &call(1));
    assert!(names_it(&dialect["error"]["message"]), "{dialect}");
    assert!(is_infrastructure(&dialect["error"]["data"]["oxenv"]), "{dialect}");
    // An unknown name that it cannot have is still the caller's mistake.
    let unknown =
        step(&server, &json!({ "type": "call_tool", "tool_name": "echo__license", "arguments": {} }));
    assert_eq!(unknown["error"]["error_type"], "tool_not_found");
    let ended = server.stop();
    assert!(!ended.stderr.contains(TOKEN), "{ended:#?}");
}

#[test]
fn a_record_is_the_same_though_what_does_not_work_says_it_otherwise() {
    let folder = Folder::new("broken-record");
    let (manifest, records) = (manifest(&folder), folder.records());
    let arguments = ["serve", "--port", "0", &manifest, "--record", &records];
    let server = Serving::of(oxenv().env("TOKEN", TOKEN).args(arguments));
    let (_, made) = server.post("/sessions", &json!({}));
    let id = made["session_id"].as_str().unwrap();
    let list = json!({ "action": { "type": "list_tools" } });
    let (_, listed) = server.post(&format!("/sessions/{id}/step"), &list);
    assert_eq!(listed["observation"]["metadata"]["oxenv"]["problems"][0]["toolset"], "broken", "{listed}");
    assert_eq!(server.post(&format!("/sessions/{id}/reset"), &json!({})).0, 200);
    server.stop();
    let replayed = Ended::of(
        oxenv().env("TOKEN", TOKEN).args(["replay", &records, "--tools", &manifest]).output().unwrap(),
    );
    assert_eq!(replayed.code, Some(0), "{replayed:#?}");
    assert!(replayed.stdout.ends_with("1 of 1 the same\n"), "{replayed:#?}");
}
