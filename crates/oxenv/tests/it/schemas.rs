//! Schemas of tool servers, and arguments, that make a validator explode: the server's memory is limited, it
//! answers others meanwhile, and ends when it is told to.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::process::{File, Serving, oxenv};

/// A tool server in a shell script: `$1` holds its list of tools, and every call gives "called".
const SERVER: &str = r#"
while read -r line; do
  id=$(printf '%s' "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
  case "$line" in
    *'"method":"initialize"'*)
      printf '{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"}}}\n' "$id" ;;
    *'"method":"tools/list"'*)
      printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$(cat "$1")" ;;
    *'"method":"tools/call"'*)
      printf '{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"called"}]}}\n' "$id" ;;
    *) [ -n "$id" ] && printf '{"jsonrpc":"2.0","id":%s,"result":{}}\n' "$id" ;;
  esac
done
"#;
/// What was killed or hung before ends well within this, on a busy machine too.
const GENEROUS: Duration = Duration::from_secs(15);
/// KiB of memory that the server may take, with its threads' stacks and its program.
const MEMORY: u32 = 1 << 20;

/// Serves tools from a tool server, within the limit of memory.
struct Limited {
    server: Serving,
    _files: [File; 3],
}

impl Limited {
    fn start(name: &str, tools: &[Value], rules: &str) -> Self {
        let script = File::new(&format!("{name}.sh"), SERVER);
        let list = File::new(&format!("{name}.json"), &json!({ "tools": tools }).to_string());
        let manifest = format!(
            "version: \"1.0\"\ntools:\n  - name: odd\n    {rules}\n    mcp_server:\n      command: \
             /bin/sh\n      args: [\"{}\", \"{}\"]\n",
            script.0.display(),
            list.0.display()
        );
        let manifest = File::new(&format!("{name}.yaml"), &manifest);
        let limited = format!("ulimit -v {MEMORY}; exec \"$0\" \"$@\"");
        let program = oxenv();
        let mut command = std::process::Command::new("/bin/sh");
        command.env_clear().env("PATH", "/usr/bin:/bin").env("MALLOC_ARENA_MAX", "2");
        command.env("TOKIO_WORKER_THREADS", "2").arg("-c").arg(limited).arg(program.get_program());
        command.args(["serve", "--port", "0", "--log", "error", "--drain-timeout", "1s", "--tools"]);
        let server = Serving::of(command.arg(&manifest.0));
        Limited { server, _files: [script, list, manifest] }
    }

    /// Calls a tool by a step; gives the error.
    fn step(&self, tool: &str, arguments: &Value) -> Value {
        let action = json!({ "type": "call_tool", "tool_name": tool, "arguments": arguments });
        let (status, reply) = self.server.post("/step", &json!({ "action": action }));
        assert_eq!(status, 200, "{reply}");
        reply["observation"]["error"].clone()
    }

    /// Calls a tool by a step, and leaves the reply where it is.
    fn send(&self, tool: &str, arguments: &Value) -> TcpStream {
        let action = json!({ "type": "call_tool", "tool_name": tool, "arguments": arguments });
        let body = json!({ "action": action }).to_string();
        let mut stream = self.server.connect();
        write!(
            stream,
            "POST /step HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            self.server.address,
            body.len()
        )
        .unwrap();
        stream
    }

    /// Calls a tool as an agent does; gives the reply.
    fn agent(&self, tool: &str, arguments: &Value) -> Value {
        let params = json!({ "name": tool, "arguments": arguments });
        let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
        let (status, reply) = self.server.post("/mcp", &call);
        assert_eq!(status, 200, "{reply}");
        reply
    }

    /// Does something while others look whether the server is well.
    fn while_healthy<T>(&self, work: impl FnOnce() -> T + Send) -> T
    where
        T: Send,
    {
        std::thread::scope(|scope| {
            let work = scope.spawn(work);
            loop {
                let asked = Instant::now();
                assert_eq!(self.server.get("/health").0, 200);
                assert!(asked.elapsed() < GENEROUS, "it is busy with something else");
                if work.is_finished() {
                    return work.join().unwrap();
                }
            }
        })
    }

    fn stop(self) {
        let told = Instant::now();
        self.server.stop();
        assert!(told.elapsed() < GENEROUS, "it does not end");
    }
}

fn tool(name: &str, input: &Value) -> Value {
    json!({ "name": name, "description": "", "inputSchema": input })
}

/// A tree whose node is one of several shapes, each with a child.
fn tree_schema() -> Value {
    let shape = |own: &str| {
        json!({
            "type": "object",
            "required": ["child"],
            "properties": { "child": { "$ref": "#/$defs/node" }, own: { "type": "string" } },
        })
    };
    json!({
        "type": "object",
        "properties": { "tree": { "$ref": "#/$defs/node" } },
        "$defs": {
            "node": { "anyOf": [shape("group"), shape("link"), shape("note"), { "type": "integer" }] }
        },
    })
}

fn tree(depth: usize) -> Value {
    let text = format!("{}\"wrong\"{}", "{\"group\":\"node\",\"child\":".repeat(depth), "}".repeat(depth));
    json!({ "tree": serde_json::from_str::<Value>(&text).unwrap() })
}

/// Definitions of which each refers to the next twice.
fn doubling() -> Value {
    let mut definitions = Map::new();
    for number in 0..30 {
        let next = json!({ "$ref": format!("#/$defs/a{}", number + 1) });
        definitions.insert(format!("a{number}"), json!({ "allOf": [next, next] }));
    }
    definitions.insert("a30".to_owned(), json!({ "type": "object" }));
    json!({ "$ref": "#/$defs/a0", "$defs": definitions })
}

#[test]
fn a_small_request_that_is_wrong_deep_down_is_refused_in_little_memory() {
    let limited = Limited::start("deep", &[tool("tree", &tree_schema())], "timeout_s: 30");
    let wrong = tree(30);
    assert!(wrong.to_string().len() < 900);
    let calls = || {
        std::thread::scope(|scope| {
            let steps: Vec<_> = (0..2).map(|_| scope.spawn(|| limited.step("tree", &wrong))).collect();
            let agents: Vec<_> = (0..2).map(|_| scope.spawn(|| limited.agent("tree", &wrong))).collect();
            for step in steps {
                let error = step.join().unwrap();
                assert_eq!(error["error_type"], "invalid_args", "{error}");
                assert!(error["message"].as_str().unwrap().contains("\ntree\n"), "{error}");
            }
            for agent in agents {
                let reply = agent.join().unwrap().to_string();
                assert!(reply.contains("1 validation error for call[tree]"), "{reply}");
            }
        });
    };
    limited.while_healthy(calls);
    // What fits is called, however deep.
    let text = format!("{}7{}", "{\"child\":".repeat(100), "}".repeat(100));
    let fits = json!({ "tree": serde_json::from_str::<Value>(&text).unwrap() });
    assert_eq!(limited.step("tree", &fits), Value::Null);
    limited.stop();
}

#[test]
fn a_rule_about_arguments_is_bounded_as_well() {
    let schema = json!({ "type": "object" });
    let rules = format!("arguments: {{ \"*\": {} }}", tree_schema());
    let limited = Limited::start("rules", &[tool("tree", &schema)], &rules);
    let error = limited.while_healthy(|| limited.step("tree", &tree(30)));
    assert!(error["message"].as_str().unwrap().contains("at /tree: the value is not valid"), "{error}");
    limited.stop();
}

#[test]
fn a_schema_past_the_bounds_is_a_problem_of_its_toolset() {
    let tools = [
        tool("plain", &json!({ "type": "object" })),
        tool("doubled", &doubling()),
        json!({ "name": "out", "inputSchema": { "type": "object" }, "outputSchema": doubling() }),
        tool("pattern", &json!({ "properties": { "a": { "pattern": "(a{1000}){1000}" } } })),
    ];
    let limited = Limited::start("doubled", &tools, "timeout_s: 30");
    assert_eq!(limited.step("plain", &json!({})), Value::Null);
    let (_, listed) = limited.server.get("/tools");
    let names: Vec<&Value> = listed["tools"].as_array().unwrap().iter().map(|tool| &tool["name"]).collect();
    assert_eq!(names, ["plain"]);
    let problems = listed["problems"].to_string();
    for (name, why) in [("doubled", "expand"), ("out", "output schema"), ("pattern", "repeats too much")] {
        assert!(problems.contains(&format!("tool '{name}' of 'odd' is not offered")), "{problems}");
        assert!(problems.contains(why), "{problems}");
        let error = limited.while_healthy(|| limited.step(name, &json!({})));
        assert_eq!(error["error_type"], "tool_not_found", "{error}");
    }
    limited.stop();
}

#[test]
fn what_takes_too_many_steps_is_too_deep_to_check() {
    let branches: Vec<Value> = (0..400).map(|n| json!({ "required": [format!("p{n}")] })).collect();
    let schema = json!({ "type": "object", "properties": { "list": { "items": { "anyOf": branches } } } });
    let limited = Limited::start("wide", &[tool("wide", &schema)], "rate_limit: { rate: 3/h, burst: 3 }");
    let wide = json!({ "list": vec![json!({ "p399": 1 }); 40_000] });
    for _ in 0..3 {
        let error = limited.while_healthy(|| limited.step("wide", &wide));
        assert_eq!(error["error_type"], "invalid_args", "{error}");
        assert!(error["message"].as_str().unwrap().contains("too deep to check"), "{error}");
    }
    // Each counted: nobody makes the server check for nothing.
    let error = limited.step("wide", &wide);
    assert!(error["message"].as_str().unwrap().contains("may not be called so often"), "{error}");
    limited.stop();
}

#[test]
fn a_server_that_is_given_much_to_check_ends_when_it_is_told_to() {
    let branches: Vec<Value> = (0..400).map(|n| json!({ "required": [format!("p{n}")] })).collect();
    let wide = json!({ "type": "object", "properties": { "list": { "items": { "anyOf": branches } } } });
    let limited =
        Limited::start("ending", &[tool("wide", &wide), tool("doubled", &doubling())], "timeout_s: 30");
    assert_eq!(limited.step("wide", &json!({})), Value::Null);
    let list = json!({ "list": vec![json!({ "p399": 1 }); 100_000] });
    // Nobody waits for the replies.
    let calls = [("doubled", json!({})), ("wide", list.clone()), ("doubled", json!({})), ("wide", list)];
    let streams: Vec<TcpStream> =
        calls.iter().map(|(name, arguments)| limited.send(name, arguments)).collect();
    limited.while_healthy(|| ());
    limited.stop();
    drop(streams);
}
