//! `oxenv up`, `ps` and `down`, as people run them, and a client that starts its own server.
//!
//! Invariant: notes are in a folder of each test's own, and its servers end with it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use oxenv_client::{ClientOptions, Code, OpenOptions, ProvidedEnv, ResetOptions};
use oxenv_process::child::Supervisor;
use oxenv_providers::process::ProcessProvider;
use oxenv_providers::{InstanceSpec, ListenAddress, ProviderCode};
use oxenv_test_support::block_until;
use serde_json::{Value, json};

use crate::process::{Ended, oxenv};

/// Where a test's instances are noted, and what runs there.
struct Runtime(PathBuf);

impl Runtime {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("oxenv-it-{name}-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        Runtime(folder)
    }

    fn command(&self) -> Command {
        let mut command = oxenv();
        command.env("XDG_RUNTIME_DIR", &self.0).env("PATH", std::env::var_os("PATH").unwrap());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        Ended::of(self.command().args(arguments).output().unwrap())
    }

    fn listed(&self) -> Vec<Value> {
        serde_json::from_str(self.run(&["ps", "--json"]).succeeded()).unwrap()
    }

    fn notes(&self) -> usize {
        std::fs::read_dir(self.0.join("oxenv")).map_or(0, Iterator::count)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.run(&["down", "--all"]);
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn up_leaves_what_ps_shows_and_down_ends() {
    let runtime = Runtime::new("up");
    let up = runtime.run(&["up", "echo", "--name", "one", "--", "--max-sessions", "3"]);
    assert!(up.succeeded().contains("end it with: oxenv down one"), "{up:?}");
    let up: Value = serde_json::from_str(runtime.run(&["up", "connect4", "--json"]).succeeded()).unwrap();
    let url = up["url"].as_str().unwrap();
    assert!(Ended::of(oxenv().args(["health", url]).output().unwrap()).succeeded().contains("healthy"));

    let listed = runtime.listed();
    assert_eq!(listed.len(), 2);
    assert_eq!((&listed[0]["name"], &listed[1]), (&json!("one"), &up));
    assert_eq!(up["detached"], true);
    let table = runtime.run(&["ps"]);
    assert!(table.succeeded().starts_with("NAME") && table.stdout.contains(url), "{table:?}");

    runtime.run(&["up", "echo", "--name", "one"]).failed(2, &["'one' runs already"]);
    assert_eq!(runtime.run(&["down", "one"]).succeeded(), "ended one\n");
    runtime.run(&["down", "one"]).failed(1, &["no instance is called 'one'"]);
    assert_eq!(runtime.listed(), [up]);
    runtime.run(&["down", "--all"]).succeeded();
    assert!(runtime.listed().is_empty());
    assert_eq!(runtime.notes(), 0);
}

#[test]
fn up_works_in_a_folder_with_variables() {
    let runtime = Runtime::new("work");
    let work = runtime.0.join("work");
    std::fs::create_dir(&work).unwrap();
    std::fs::write(work.join("hello.txt"), "hello").unwrap();
    let manifest = "version: \"1.0\"\ntools:\n  - {name: files, type: mcp, mcp_server: {command: sh, \
                    args: [\"-c\", \"cat ${workspace}/hello.txt >&2; echo ${SECRET} >&2; exit 1\"]}, \
                    required: true}\n";
    std::fs::write(runtime.0.join("tools.yaml"), manifest).unwrap();
    let arguments = ["up", ".", "--workspace", "work", "--env", "SECRET", "--json", "--name", "files"];
    let secret = "hunter2-and-more";
    let mut command = runtime.command();
    let up = command.current_dir(&runtime.0).env("SECRET", secret).args(arguments).output().unwrap();
    let up = Ended::of(up);
    let info: Value = serde_json::from_str(up.succeeded()).unwrap();
    let shown = format!("{up:?} {:?} {:?}", runtime.run(&["ps"]), runtime.listed());
    assert!(!shown.contains(secret), "{shown}");
    let folder = work.canonicalize().unwrap();
    assert!(
        info["source"].as_str().unwrap().contains(&format!("--workspace {}", folder.display())),
        "{info}"
    );

    runtime.run(&["up", "echo", "--env", "NOT_SET_HERE"]).failed(2, &["the variable is not set here"]);
    runtime.run(&["up", "echo", "--memory", "1GiB"]).failed(2, &["docker provider"]);
    runtime.run(&["up", "echo", "--workspace", "/no/such"]).failed(2, &["/no/such"]);
    let failed = runtime.run(&["up", "echo", "--", "--seed", "x"]);
    failed.failed(1, &["exited with code 2 before it was healthy", "invalid value 'x' for '--seed <N>'"]);
}

#[test]
fn a_name_that_is_nothing_is_told_as_both() {
    let runtime = Runtime::new("nothing");
    let mut command = runtime.command();
    let ended =
        Ended::of(command.args(["up", "conect4"]).env("DOCKER_HOST", "unix:///no/such").output().unwrap());
    ended.failed(4, &["did you mean 'connect4'", "no Docker daemon answers at unix:///no/such"]);
    let mut command = runtime.command();
    let ended = Ended::of(command.arg("ps").env("DOCKER_HOST", "unix:///no/such").output().unwrap());
    assert_eq!(ended.code, Some(0));
    assert!(ended.stderr.contains("containers are not seen"), "{ended:?}");
}

#[test]
fn an_interrupted_up_leaves_nothing() {
    let runtime = Runtime::new("interrupt");
    let fifo = runtime.0.join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for signal in ["-INT", "-KILL"] {
        let mut command = runtime.command();
        command.args(["up", "echo", "--name", "stuck", "--", "--config"]).arg(&fifo);
        let mut up = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let stuck = || reads(&fifo);
        block_until("it starts", || stuck() == 1);
        let kill = Command::new("kill").args([signal, &up.id().to_string()]).status().unwrap();
        assert!(kill.success());
        assert!(!up.wait().unwrap().success());
        if signal == "-KILL" {
            // Whoever comes next ends it.
            assert!(runtime.listed().is_empty());
            runtime.run(&["down", "--all"]).succeeded();
        }
        block_until("nothing is left", || stuck() == 0);
        assert_eq!(runtime.notes(), 0);
    }
}

#[tokio::test]
async fn a_client_starts_its_own_server() {
    let binary = env!("CARGO_BIN_EXE_oxenv");
    let supervisor = Supervisor::new(binary, ["supervise"]);
    let env = ProvidedEnv::from_command(supervisor.clone(), [binary, "serve", "echo", "--port", "{port}"]);
    let env = env.await.unwrap();
    env.client().reset(&ResetOptions::default()).await.unwrap();
    let said = env.client().call_tool("echo_message", json!({ "message": "hi" })).await.unwrap();
    assert!(!said.is_error);
    let port = env.instance().url().rsplit_once(':').unwrap().1.to_owned();
    env.close().await.unwrap();
    assert!(tokio::net::TcpStream::connect(format!("127.0.0.1:{port}")).await.is_err());

    let error = ProvidedEnv::from_command(supervisor, [binary, "nonsense"]).await.map(drop).unwrap_err();
    assert_eq!(error.code(), Code::Provider(ProviderCode::InstanceExited), "{error}");
}

#[tokio::test]
async fn a_server_on_a_socket_is_reached_through_a_port() {
    let runtime = Runtime::new("socket");
    let binary = env!("CARGO_BIN_EXE_oxenv");
    let provider =
        ProcessProvider::new(Supervisor::new(binary, ["supervise"])).with_registry(runtime.0.join("oxenv"));
    // It finds the socket in OXENV_UDS.
    let spec = InstanceSpec {
        command: [binary, "serve", "echo", "--port", "0"].map(Into::into).to_vec(),
        listen: ListenAddress::Socket(runtime.0.clone()),
        name: Some("socketed".to_owned()),
        ..InstanceSpec::default()
    };
    let (options, open) = (ClientOptions::default(), OpenOptions::default());
    let env = ProvidedEnv::start(&provider, &spec, &options, &open).await.unwrap();
    env.client().reset(&ResetOptions::default()).await.unwrap();
    let said = env.client().call_tool("echo_message", json!({ "message": "hi" })).await.unwrap();
    assert!(!said.is_error);
    let socket = runtime.0.join("socketed.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);

    let second = runtime.run(&["serve", "--port", "0", "--uds", socket.to_str().unwrap()]);
    second.failed(3, &["socketed.sock", "--uds"]);
    assert!(socket.exists(), "the other's socket stays");
    env.close().await.unwrap();
    assert!(!socket.exists());
}

#[test]
fn up_starts_an_image() {
    let Ok(host) = std::env::var("OXENV_DOCKER_HOST") else {
        eprintln!("SKIPPED up_starts_an_image: no Docker daemon; run it by scripts/with-docker");
        return;
    };
    let runtime = Runtime::new("image");
    let run = |arguments: &[&str]| {
        Ended::of(runtime.command().env("DOCKER_HOST", &host).args(arguments).output().unwrap())
    };
    let name = format!("it-{}", std::process::id());
    let flags = ["--memory", "256MiB", "--cpus", "1.5", "--pids", "128", "--pull", "never"];
    let up = run(&[&["up", "echo-env:latest", "--name", &name, "--json"], &flags[..]].concat());
    let up: Value = serde_json::from_str(up.succeeded()).unwrap();
    let listed: Vec<Value> = serde_json::from_str(run(&["ps", "--json"]).succeeded()).unwrap();
    let found = listed.iter().find(|info| info["name"] == name.as_str()).unwrap();
    assert_eq!((&found["url"], &found["provider"]), (&up["url"], &json!("docker")));
    let said = run(&["call", up["url"].as_str().unwrap(), "echo_message", r#"{"message": "hi"}"#]);
    assert_eq!(said.succeeded(), "hi\n");
    run(&["up", "echo-env:latest", "--name", &name]).failed(2, &["choose another name"]);
    assert_eq!(run(&["down", &name]).succeeded(), format!("ended {name}\n"));
    run(&["down", &name]).failed(1, &["no instance is called"]);
    run(&["up", "no-such-image:1", "--pull", "never"])
        .failed(1, &["there is no image 'no-such-image:1' here"]);
}

/// How many servers have that file among their arguments, their supervisors and `up` aside.
fn reads(file: &Path) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let arguments =
        processes.filter_map(|process| std::fs::read_to_string(process.path().join("cmdline")).ok());
    arguments
        .filter(|all| all.contains("\0serve\0") && !all.contains("\0--parent\0"))
        .filter(|all| all.contains(&*file.to_string_lossy()))
        .count()
}
