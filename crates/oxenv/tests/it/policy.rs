//! `oxenv policy explain`, and the examples of its page.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::process::{Ended, File, oxenv, run};

const PAGE: &str = "docs/policy.md";

/// A manifest without any rule, whose program and variable nobody has.
const FREE: &str = "tools:
  - name: one
    mcp_server: { command: no-such-program, env: { TOKEN: \"${NO_SUCH_VARIABLE}\" } }
  - name: two
    prefix: deux
    mcp_server: { url: \"http://${NO_SUCH_VARIABLE}/mcp\", headers: { Authorization: \"${NO_SUCH_VARIABLE}\" } }
    deny: [secret]
  - name: off
    enabled: false
    mcp_server: { command: no-such-program }
";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// The blocks of a page that are marked with this word.
fn blocks<'a>(page: &'a str, mark: &str) -> Vec<&'a str> {
    let fence = format!("```{mark}\n");
    page.split(fence.as_str()).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

/// The words of a command line, which may stand in single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('\'').enumerate() {
        match index % 2 {
            1 => words.push(part.to_owned()),
            _ => words.extend(part.split_whitespace().map(str::to_owned)),
        }
    }
    words
}

fn explain(manifest: &File, arguments: &[&str]) -> Ended {
    run(&[&["policy", "explain"], arguments, &["--tools", manifest.path()]].concat())
}

/// The answers in `--json`, with the exit code.
fn answers(manifest: &File, arguments: &[&str]) -> (Option<i32>, Vec<Value>) {
    let ended = explain(manifest, &[arguments, &["--json"]].concat());
    (ended.code, serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:#?}")))
}

#[test]
fn the_page_shows_what_the_command_prints() {
    let page = fs::read_to_string(root().join(PAGE)).unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("policy_page");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("tools.yaml"), blocks(&page, "yaml")[0]).unwrap();
    let mut ran = 0;
    for session in blocks(&page, "console").iter().flat_map(|block| block.split("$ ").skip(1)) {
        let (line, expected) = session.split_once('\n').unwrap();
        let ended = oxenv().args(&words(line)[1..]).current_dir(&folder).output().unwrap();
        let ended = Ended::of(ended);
        assert_eq!(ended.stdout.trim(), expected.trim(), "{line}");
        assert_eq!(ended.code, Some(i32::from(expected.contains("denied: "))), "{line}");
        ran += 1;
    }
    assert_eq!(ran, 3, "examples of {PAGE}");
}

#[test]
fn every_toolset_that_could_own_the_tool_is_asked() {
    let manifest = File::new("asked.yaml", FREE);
    let toolsets = |answers: &[Value]| answers.iter().map(|one| one["toolset"].clone()).collect::<Vec<_>>();
    // The disabled one owns nothing. One that allows is enough.
    let (code, all) = answers(&manifest, &["agent", "secret"]);
    assert_eq!((code, toolsets(&all)), (Some(0), vec![json!("one"), json!("two")]));
    assert_eq!((&all[0]["allowed"], &all[1]["allowed"]), (&json!(true), &json!(false)));
    assert_eq!(all[1]["by"], "deny: secret");

    for tool in ["two/secret", "deux__secret"] {
        let (code, one) = answers(&manifest, &["control", tool]);
        assert_eq!((code, toolsets(&one)), (Some(1), vec![json!("two")]), "{tool}");
        assert_eq!(one[0]["tool"], "secret");
    }
    let (code, one) = answers(&manifest, &["control", "a/b", "--toolset", "one"]);
    assert_eq!((code, &one[0]["tool"]), (Some(0), &json!("a/b")));
    assert_eq!(answers(&manifest, &["observer", "any"]).0, Some(1));
}

#[test]
fn a_denial_is_code_1_and_says_so_on_stderr() {
    let manifest = File::new("denied.yaml", FREE);
    let ended = explain(&manifest, &["agent", "two/secret"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(1), "error: the call is denied\n"));
    assert!(ended.stdout.ends_with("denied: agent may not call secret (deny: secret)\n"), "{ended:#?}");
    explain(&manifest, &["agent", "one/any"]).succeeded();
}

#[test]
fn what_cannot_be_asked_is_wrong_usage() {
    let manifest = File::new("usage.yaml", FREE);
    explain(&manifest, &["root", "any"]).failed(2, &["root", "control, agent and observer"]);
    explain(&manifest, &["agent", "three/any"]).failed(2, &["'three'", "one, two"]);
    explain(&manifest, &["agent", "off/any"]).failed(2, &["'off' is disabled"]);
    explain(&manifest, &["agent", "any", "[1]"]).failed(2, &["the arguments must be a JSON object"]);
    run(&["policy", "explain", "agent", "any", "--tools", "nowhere.yaml"]).failed(2, &["nowhere.yaml"]);
    run(&["policy", "explain", "agent", "any"]).failed(2, &["--tools"]);

    let wrong = File::new(
        "wrong.yaml",
        "tools:\n  - name: a\n    mcp_server: { command: x }\n    deny: [\"a[b]\"]\n",
    );
    explain(&wrong, &["agent", "any"]).failed(2, &["wrong.yaml:4:", "'a[b]'", "only * and ?"]);
    let none = File::new("none.yaml", "tools: []\n");
    explain(&none, &["agent", "any"]).failed(2, &["no toolset"]);
}
