//! A session in a container that is started for it, with the images of `scripts/with-docker`.
//!
//! Processes are tested where there is a server's binary: in crates/oxenv/tests/it/instances.rs.

use std::fs;
use std::os::unix::fs::chown;

use oxenv_client::{ClientOptions, Code, OpenOptions, ProvidedEnv, ResetOptions};
use oxenv_providers::docker::DockerProvider;
use oxenv_providers::{InstanceSpec, ListenAddress, Provider, ProviderCode, PullPolicy, SecretText};
use serde_json::json;

async fn provider(what: &str) -> Option<DockerProvider> {
    let host = std::env::var("OXENV_DOCKER_HOST").ok().filter(|host| !host.is_empty());
    let Some(host) = host else {
        eprintln!("SKIPPED {what}: no Docker daemon; run it by scripts/with-docker");
        return None;
    };
    Some(DockerProvider::connect(Some(&host)).await.unwrap())
}

async fn start(provider: &DockerProvider, spec: &InstanceSpec) -> oxenv_client::Result<ProvidedEnv> {
    ProvidedEnv::start(provider, spec, &ClientOptions::default(), &OpenOptions::default()).await
}

#[tokio::test]
async fn an_episode_in_a_container() {
    let Some(provider) = provider("an_episode_in_a_container").await else { return };
    let image = Some("echo-env:latest".to_owned());
    let spec = InstanceSpec { image, pull: PullPolicy::Never, ..InstanceSpec::default() };
    let env = start(&provider, &spec).await.unwrap();
    env.client().reset(&ResetOptions::default()).await.unwrap();
    let said = env.client().call_tool("echo_message", json!({ "message": "hi" })).await.unwrap();
    assert!(!said.is_error);
    let id = env.instance().info().id.clone();
    env.close().await.unwrap();
    assert!(provider.list().await.unwrap().iter().all(|info| info.id != id));
}

#[tokio::test]
async fn the_rfc_s_workspace_and_variables() {
    let Some(provider) = provider("the_rfc_s_workspace_and_variables").await else { return };
    let workspace = std::env::temp_dir().join(format!("oxenv-provided-{}", std::process::id()));
    fs::create_dir(&workspace).unwrap();
    fs::write(workspace.join("hello.txt"), "hello from outside").unwrap();
    chown(&workspace, Some(12345), Some(12345)).unwrap();
    let spec = InstanceSpec {
        image: Some("coding-env:latest".to_owned()),
        workspace: Some(workspace.clone()),
        env: vec![("GITHUB_TOKEN".to_owned(), SecretText::new("hunter2-and-more"))],
        pull: PullPolicy::Never,
        ..InstanceSpec::default()
    };
    let env = start(&provider, &spec).await.unwrap();
    env.client().reset(&ResetOptions::default()).await.unwrap();
    let tools = env.client().list_tools().await.unwrap();
    assert!(!tools.is_empty());
    let read = json!({ "path": "/workspace/hello.txt" });
    let name = tools.iter().map(|tool| tool.name.as_ref()).find(|name| name.contains("read_text_file"));
    let read = env.client().call_tool(name.expect("a tool that reads files"), read).await.unwrap();
    assert!(format!("{read:?}").contains("hello from outside"));
    env.close().await.unwrap();
    fs::remove_dir_all(&workspace).unwrap();
}

#[tokio::test]
async fn a_container_without_a_network() {
    let Some(provider) = provider("a_container_without_a_network").await else { return };
    let sockets = std::env::temp_dir().join(format!("oxenv-sockets-{}", std::process::id()));
    fs::create_dir(&sockets).unwrap();
    chown(&sockets, Some(12345), Some(12345)).unwrap();
    let spec = InstanceSpec {
        image: Some("echo-env:latest".to_owned()),
        listen: ListenAddress::Socket(sockets.clone()),
        pull: PullPolicy::Never,
        ..InstanceSpec::default()
    };
    let env = start(&provider, &spec).await.unwrap();
    env.client().reset(&ResetOptions::default()).await.unwrap();
    let said = env.client().call_tool("echo_message", json!({ "message": "hi" })).await.unwrap();
    assert!(!said.is_error);
    env.close().await.unwrap();
    fs::remove_dir(&sockets).unwrap();
}

#[tokio::test]
async fn a_server_that_is_none_leaves_no_container() {
    let Some(provider) = provider("a_server_that_is_none_leaves_no_container").await else { return };
    let name = format!("none-{}", std::process::id());
    let spec = InstanceSpec {
        image: Some("echo-env:latest".to_owned()),
        name: Some(name.clone()),
        command: vec!["nonsense".into()],
        pull: PullPolicy::Never,
        ..InstanceSpec::default()
    };
    let error = start(&provider, &spec).await.map(drop).unwrap_err();
    assert_eq!(error.code(), Code::Provider(ProviderCode::InstanceExited), "{error}");
    assert!(error.data()["logs"].as_str().unwrap().contains("nonsense"), "{}", error.data());
    assert!(provider.list().await.unwrap().iter().all(|info| info.name != name));
}
