//! `oxenv validate` and `oxenv tools`, with the RFC's own manifests and with what people get wrong.
//!
//! Invariant: PATH holds one folder with a stub for each command that a manifest may name, so that no
//! test depends on what the machine has.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use oxenv_test_support::TempFolder;
use serde_json::Value;

use crate::process::{Ended, oxenv};

const TOKEN: &str = "ghp_of_the_test_0123";

/// A folder that goes with the test, with stubs of `npx` and `python` in `bin`.
struct Folder(TempFolder);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = TempFolder::new(name);
        let bin = folder.join("bin");
        fs::create_dir(&bin).unwrap();
        for command in ["npx", "python"] {
            let stub = bin.join(command);
            fs::write(&stub, "#!/bin/sh\n").unwrap();
            fs::set_permissions(&stub, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Folder(folder)
    }

    fn file(&self, name: &str, text: &str) -> String {
        self.0.file(name, text)
    }

    /// The command with this PATH, run in this folder.
    fn oxenv(&self, arguments: &[&str]) -> Command {
        let mut command = oxenv();
        command
            .args(arguments)
            .current_dir(self.0.path())
            .env("PATH", self.0.join("bin"))
            .env("GITHUB_TOKEN", TOKEN);
        command
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        Ended::of(self.oxenv(arguments).output().unwrap())
    }

    fn run_with_stdin(&self, arguments: &[&str], text: &str) -> Ended {
        let mut command = self.oxenv(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        Ended::of(child.wait_with_output().unwrap())
    }
}

fn fixture(path: &str) -> String {
    let upstream = Path::new(env!("CARGO_MANIFEST_DIR")).join("../oxenv-upstream/fixtures").join(path);
    upstream.canonicalize().unwrap().display().to_string()
}

#[test]
fn the_rfc_s_manifests_validate() {
    let folder = Folder::new("rfc");
    let files =
        ["full", "external", "simulated", "self_contained"].map(|name| fixture(&format!("rfc/{name}.yaml")));
    let mut arguments = vec!["validate"];
    arguments.extend(files.iter().map(String::as_str));
    let ended = folder.run(&arguments);
    let told = ended.succeeded();
    assert!(told.lines().all(|line| line.contains(": warning: ") || line.contains(" toolset")), "{told}");
    assert!(
        told.contains("full.yaml:8:63: warning: /workspace is one path shared by all sessions"),
        "{told}"
    );
    assert!(told.contains("server-github reads GITHUB_PERSONAL_ACCESS_TOKEN"), "{told}");
    assert!(told.contains("full.yaml: 3 toolsets, 2 warnings"), "{told}");
    assert!(told.contains("simulated.yaml: 1 toolset, 0 warnings"), "{told}");
    assert!(!told.contains(TOKEN) && !told.contains('\x1b'), "{told}");
}

#[test]
fn every_problem_is_told_and_the_code_is_1() {
    let folder = Folder::new("problems");
    let wrong = "tools:\n  - name: files\n    mcp_server:\n      comand: npx\n      args: /tmp\n  - name: \
                 gone\n    mcp_server: { command: nobody-has-this }\n";
    folder.file("wrong.yaml", wrong);
    let gone = "tools:\n  - name: gone\n    mcp_server: { command: nobody-has-this }\n";
    folder.file("gone.yaml", gone);
    let ended = folder.run(&["validate", "wrong.yaml", "gone.yaml"]);
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    let expected = "\
wrong.yaml:4:7: error: unknown key 'comand' in mcp_server: did you mean 'command'?
wrong.yaml:5:13: error: tools[0].mcp_server.args must be a list, not a text: write [one, two]
gone.yaml:3:17: error: no folder of PATH has the command 'nobody-has-this': install it, or write its whole \
    path
";
    assert_eq!(ended.stdout, expected);
    assert_eq!(ended.stderr, "error: 3 errors, 0 warnings\n");
}

#[test]
fn an_unset_variable_is_an_error_unless_disabled() {
    let folder = Folder::new("unset");
    let text =
        "tools:\n  - name: a\n    mcp_server: { command: npx, env: { KEY: \"${NOBODY_SETS_THIS}\" } }\n";
    folder.file("on.yaml", text);
    folder.file("off.yaml", &text.replace("name: a", "name: a\n    enabled: false"));
    let ended = folder.run(&["validate", "on.yaml"]);
    assert_eq!(ended.code, Some(1));
    assert_eq!(
        ended.stdout,
        "on.yaml:3:45: error: variable NOBODY_SETS_THIS is not set: set it, or write \
         ${NOBODY_SETS_THIS:-default}\n"
    );
    assert_eq!(folder.run(&["validate", "off.yaml"]).succeeded(), "off.yaml: 1 toolset, 0 warnings\n");
}

#[test]
fn a_toolset_over_http_without_a_scope_is_noted() {
    let folder = Folder::new("scope");
    let entry = |name: &str, more: &str| {
        format!("  - name: {name}\n    mcp_server: {{ url: http://host/mcp }}\n{more}")
    };
    let off = entry("off", "    enabled: false\n");
    let entries = [entry("open", ""), entry("shared", "    scope: server\n"), off].concat();
    folder.file("tools.yaml", &format!("tools:\n{entries}"));
    let ended = folder.run(&["validate", "tools.yaml"]);
    assert_eq!(
        ended.succeeded(),
        "tools.yaml: 3 toolsets, 0 warnings\ntools.yaml:2: note: toolset 'open' has no scope: in simulation \
         mode each session has one if its server gives sessions of its own (Mcp-Session-Id), else all share \
         it; in production mode all share it\n"
    );
}

#[test]
fn json_is_for_programs() {
    let folder = Folder::new("json");
    folder.file("wrong.yaml", "tools:\n  - name: a\n    enable: true\n    mcp_server: { command: npx }\n");
    let ended = folder.run(&["validate", "--json", "wrong.yaml"]);
    assert_eq!(ended.code, Some(1));
    let problems: Value = serde_json::from_str(&ended.stdout).unwrap();
    let expected = serde_json::json!([{
        "severity": "error", "file": "wrong.yaml", "line": 3, "column": 5, "path": "tools[0].enable",
        "message": "unknown key 'enable' in a toolset", "suggestion": "did you mean 'enabled'?",
    }]);
    assert_eq!(problems, expected);
    folder.file("right.yaml", "tools: []\n");
    assert_eq!(folder.run(&["validate", "--json", "right.yaml"]).succeeded(), "[]\n");
}

#[test]
fn a_file_that_cannot_be_read_is_code_2() {
    let folder = Folder::new("unreadable");
    folder.file("right.yaml", "tools: []\n");
    let ended = folder.run(&["validate", "nowhere.yaml", "right.yaml", "bin"]);
    assert_eq!(ended.code, Some(2), "{ended:#?}");
    assert!(ended.stdout.contains("nowhere.yaml: error: cannot be read: "), "{ended:#?}");
    assert!(ended.stdout.contains("right.yaml: 0 toolsets, 0 warnings"), "{ended:#?}");
    assert!(ended.stderr.starts_with("error: 2 files cannot be read"), "{ended:#?}");
    assert_eq!(folder.run(&["validate"]).code, Some(2));
}

#[test]
fn stdin_is_a_file_too() {
    let folder = Folder::new("stdin");
    let ended = folder.run_with_stdin(&["validate", "-"], "tools: []\n");
    assert_eq!(ended.succeeded(), "stdin: 0 toolsets, 0 warnings\n");
    let ended = folder.run_with_stdin(&["validate", "-"], "- a\n");
    assert!(ended.stdout.starts_with("stdin:1:1: error: the file is a list"), "{ended:#?}");
}

#[test]
fn a_client_s_configuration_is_imported() {
    let folder = Folder::new("import");
    let client = format!(
        r#"{{"mcpServers": {{"github": {{"command": "npx", "args": ["server"], "env": {{"GITHUB_TOKEN": "{TOKEN}"}}, "autoApprove": []}}}}}}"#
    );
    let input = folder.file("client.json", &client);
    let ended = folder.run(&["tools", "import", &input, "-o", "tools.yaml"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""), "{ended:#?}");
    let notes = "\
note: set GITHUB_TOKEN: it stands for a secret in env.GITHUB_TOKEN of server 'github'
note: server 'github': key 'autoApprove' is left out
";
    assert_eq!(ended.stderr, notes);
    let written = fs::read_to_string(folder.0.join("tools.yaml")).unwrap();
    assert!(written.contains("GITHUB_TOKEN: \"${GITHUB_TOKEN}\"") && !written.contains(TOKEN), "{written}");
    assert_eq!(folder.run(&["validate", "tools.yaml"]).succeeded(), "tools.yaml: 1 toolset, 0 warnings\n");
    // A second time it would overwrite.
    folder.run(&["tools", "import", &input, "-o", "tools.yaml"]).failed(1, &["cannot write tools.yaml"]);
    let printed = folder.run_with_stdin(&["tools", "import", "-"], &client);
    assert_eq!((printed.code, printed.stdout), (Some(0), written));
}

#[test]
fn what_cannot_be_imported_is_told() {
    let folder = Folder::new("no-import");
    folder.run(&["tools", "import", "nowhere.json"]).failed(2, &["cannot read nowhere.json"]);
    let input = folder.file("client.json", "{}");
    folder.run(&["tools", "import", &input]).failed(1, &["nothing is imported", "1:1", "'mcpServers'"]);
}

#[test]
fn the_schema_is_the_one_in_docs() {
    let folder = Folder::new("schema");
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/tools.schema.json");
    assert_eq!(folder.run(&["tools", "schema"]).succeeded(), fs::read_to_string(docs).unwrap());
}

#[test]
fn a_built_in_toolset_that_is_not_there_is_told_before_anything_runs() {
    let folder = Folder::new("builtin");
    let manifest = |name: &str| {
        format!(
            "tools:\n  - name: a\n    type: mcp\n    mcp_server: {{transport: builtin, toolset: {name}}}\n"
        )
    };
    let wrong = folder.file("wrong.yaml", &manifest("ecco"));
    for arguments in [&["validate", &wrong][..], &["serve", "--tools", &wrong]] {
        let ended = folder.run(arguments);
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert!(said.contains("no built-in toolset is called 'ecco'") && said.contains("'echo'"), "{said}");
        assert_ne!(ended.code, Some(0));
    }
    let right = folder.file("right.yaml", &manifest("echo"));
    assert_eq!(folder.run(&["validate", &right]).code, Some(0));
}
