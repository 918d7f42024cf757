//! Programs as people and clients send them: `oxenv run`, `oxenv serve --code`, and the examples of the docs.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::process::{Ended, Serving, oxenv, run};
use crate::records::{Folder, Session};

/// A manifest with the tools of echo.
const MANIFEST: &str = r#"
version: "1.0"
tools:
  - name: echo
    type: mcp
    mcp_server: { transport: builtin, toolset: echo }
"#;

fn echo_manifest(folder: &Folder) -> String {
    folder.file("tools.yaml", MANIFEST)
}

/// Runs a program from stdin.
fn run_text(manifest: &str, code: &str, flags: &[&str]) -> Ended {
    let mut command = oxenv();
    command.args(["run", "-", "--tools", manifest]).args(flags);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(code.as_bytes()).unwrap();
    Ended::of(child.wait_with_output().unwrap())
}

fn code(code: &str) -> Value {
    json!({ "action": { "action_type": "code", "code": code } })
}

#[test]
fn a_program_runs_against_the_tools_of_a_manifest() {
    let folder = Folder::new("code-run");
    let manifest = echo_manifest(&folder);
    let file = folder.file(
        "hello.py",
        "words = [t for t in list_tools() if 'echo' in t]\nprint(echo_message('hi'), len(words))\n1 + 1\n",
    );
    assert_eq!(run(&["run", &file, "--tools", &manifest]).succeeded(), "hi 2\n");
    assert_eq!(run_text(&manifest, "print(echo_message(message='é'))", &[]).succeeded(), "é\n");

    let failed = run_text(&manifest, "print('before')\necho_message(1)", &[]);
    assert_eq!((failed.code, failed.stdout.as_str()), (Some(1), "before\n"), "{failed:#?}");
    assert!(failed.stderr.starts_with("Traceback (most recent call last):"), "{failed:#?}");
    assert!(failed.stderr.contains("RuntimeError: invalid_args: "), "{failed:#?}");
    assert_eq!(run_text(&manifest, "exit(7)", &[]).code, Some(7));
    let late = run_text(&manifest, "while True:\n    pass", &["--code-timeout", "300ms"]);
    assert_eq!(late.code, Some(1));
    assert!(late.stderr.contains("TimeoutError: the program was interrupted after 0.3 s"), "{late:#?}");
}

#[test]
fn what_cannot_run_is_said_before_anything_runs() {
    let folder = Folder::new("code-usage");
    let manifest = echo_manifest(&folder);
    let file = folder.file("a.py", "print(1)");
    run(&["run", &file]).failed(2, &["--tools FILE"]);
    run(&["run", "no-such.py", "--tools", &manifest]).failed(2, &["cannot read the program no-such.py"]);
    run(&["run", &file, "--tools", "no-such.yaml"]).failed(2, &["no-such.yaml"]);
    let no_worker = ["run", &file, "--tools", &manifest, "--code-worker", "/no/such/worker"];
    run(&no_worker).failed(2, &["/no/such/worker is no file", "--code-worker PATH"]);
    let serve = ["serve", "--port", "0", "--code", "monty", "--code-worker", "/no/such/worker"];
    run(&serve).failed(2, &["/no/such/worker is no file"]);
    run(&["serve", "--code", "cpython"]).failed(2, &["invalid value 'cpython'", "monty"]);
}

#[test]
fn a_server_with_an_engine_takes_programs_as_steps() {
    let folder = Folder::new("code-serve");
    let manifest = echo_manifest(&folder);
    let audit = folder.file("audit.jsonl", "");
    let config = folder.file("oxenv.toml", "code = \"monty\"\ncode_calls = 2\n");
    let records = folder.records();
    let flags = ["--tools", &manifest, "--audit", &audit, "--config", &config, "--record", &records];
    let server = Serving::start(&flags);
    let session = Session::open(&server);
    session.post("reset", &json!({}));
    let reply = session.post("step", &code("x = echo_message('hi')\nprint(x)\nlen(x)"));
    let observation = &reply["observation"];
    let fields = json!({
        "stdout": "hi\n", "stderr": "", "exit_code": 0, "result": 2, "error": null,
        "calls": [{ "tool_name": "echo_message", "error": null }], "truncated": [], "metadata": {},
    });
    assert_eq!((observation, &reply["reward"], &reply["done"]), (&fields, &Value::Null, &json!(false)));
    let fork = session.fork();
    assert_eq!(fork.post("step", &code("x + '!'"))["observation"]["result"], "hi!");
    assert_eq!(session.restored().post("step", &code("x"))["observation"]["result"], "hi");
    let failed = session.post("step", &code("for _ in range(3):\n    echo_message('a')"));
    let error = &failed["observation"]["error"];
    assert_eq!(error["error_type"], "RuntimeError");
    assert!(error["message"].as_str().unwrap().contains("more than 2 tool calls"), "{failed}");
    server.stop();
    let audited = std::fs::read_to_string(&audit).unwrap();
    assert_eq!(audited.lines().filter(|line| line.contains("\"echo_message\"")).count(), 3);

    let replayed = run(&["replay", &records, "--tools", &manifest, "--code", "monty", "--code-calls", "2"]);
    assert_eq!(replayed.code, Some(0), "{replayed:#?}");

    let without = Serving::start(&["--tools", &manifest]);
    let (status, refusal) = without.post("/step", &code("1"));
    assert_eq!((status, &refusal["oxenv"]["code"]), (501, &json!("UNSUPPORTED")), "{refusal}");
    assert!(refusal["detail"].as_str().unwrap().contains("--code monty"), "{refusal}");
    without.stop();
}

/// The examples of docs/code.md: each program is followed by what it prints.
#[test]
fn the_examples_of_the_docs_are_as_printed() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/code.md");
    let page = std::fs::read_to_string(page).unwrap();
    let folder = Folder::new("code-docs");
    let manifest = echo_manifest(&folder);
    let mut examples = 0;
    for part in page.split("```python\n").skip(1) {
        let (program, rest) = part.split_once("```\n").unwrap();
        let printed = rest.trim_start().strip_prefix("```text\n").expect("what it prints follows");
        let (printed, _) = printed.split_once("```").unwrap();
        let ended = run_text(&manifest, program, &["--seed", "7"]);
        assert_eq!(ended.stdout + &ended.stderr, printed, "{program}");
        examples += 1;
    }
    assert!(examples >= 3, "{examples} examples");
}
