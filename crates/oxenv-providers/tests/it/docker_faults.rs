//! Containers and daemons that fail.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use oxenv_providers::docker::DockerProvider;
use oxenv_providers::{InstanceSpec, Provider, ProviderCode};
use oxenv_test_support::{TempFolder, unique};
use tokio::io::copy_bidirectional;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use crate::support::{Daemon, helper, until};

/// A socket that leads to the daemon, until it is dropped.
struct Way {
    host: String,
    _carrying: JoinSet<()>,
}

impl Way {
    fn to(daemon: &Daemon, folder: &TempFolder) -> Self {
        let path = folder.path().join("docker.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let real = PathBuf::from(daemon.host.strip_prefix("unix://").unwrap());
        let mut carrying = JoinSet::new();
        carrying.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let real = real.clone();
                open.spawn(async move {
                    let mut behind = UnixStream::connect(real).await.unwrap();
                    let _ = copy_bidirectional(&mut stream, &mut behind).await;
                });
            }
        });
        Way { host: format!("unix://{}", path.display()), _carrying: carrying }
    }
}

#[tokio::test]
async fn a_daemon_that_is_not_there() {
    for host in ["unix:///no/such/docker.sock", "tcp://127.0.0.1:9"] {
        let error = DockerProvider::connect(Some(host)).await.unwrap_err();
        assert_eq!(error.code, ProviderCode::ProviderUnavailable, "{error}");
        assert!(error.message.contains(host) && error.code.is_retryable(), "{error}");
    }
    let error = DockerProvider::connect(Some("ssh://host")).await.unwrap_err();
    assert_eq!(error.code, ProviderCode::InvalidSpec, "{error}");
}

#[tokio::test]
async fn a_daemon_that_is_lost() {
    let Some(daemon) = Daemon::of("a_daemon_that_is_lost").await else { return };
    let (folder, name) = (TempFolder::new("providers"), format!("lost{}", unique()));
    let way = Way::to(&daemon, &folder);
    let provider = DockerProvider::connect(Some(&way.host)).await.unwrap();
    let instance = provider.start(&daemon.spec("healthy", &name)).await.unwrap();
    let ended = instance.ended();
    let lost = async {
        tokio::task::yield_now().await;
        drop(way);
    };
    let (ended, ()) = tokio::join!(ended, lost);
    assert_eq!(ended.unwrap_err().code, ProviderCode::ProviderUnavailable);
    assert_eq!(instance.logs().await.unwrap_err().code, ProviderCode::ProviderUnavailable);
    let error = provider.start(&daemon.spec("healthy", &name)).await.map(drop).unwrap_err();
    assert_eq!(error.code, ProviderCode::ProviderUnavailable, "{error}");
    assert_eq!(provider.list().await.unwrap_err().code, ProviderCode::ProviderUnavailable);
    let error = instance.stop().await.unwrap_err();
    assert_eq!(error.code, ProviderCode::ProviderUnavailable, "{error}");
    // It runs, and the next one who reaches the daemon can end it.
    daemon.provider.stop(&name).await.unwrap();
    assert_eq!(daemon.containers(&name).await, 0);
}

#[tokio::test]
async fn a_daemon_that_is_lost_while_it_is_waited_for() {
    let Some(daemon) = Daemon::of("a_daemon_that_is_lost_while_it_is_waited_for").await else { return };
    let (folder, name) = (TempFolder::new("providers"), format!("wait{}", unique()));
    let way = Way::to(&daemon, &folder);
    let provider = DockerProvider::connect(Some(&way.host)).await.unwrap();
    let spec = daemon.spec("deaf", &name);
    let (started, ()) = tokio::join!(provider.start(&spec), async {
        until("it runs", async || daemon.containers(&name).await == 1).await;
        drop(way);
    });
    let error = started.map(drop).unwrap_err();
    assert_eq!(error.code, ProviderCode::ProviderUnavailable, "{error}");
    daemon.provider.stop(&name).await.unwrap();
}

#[tokio::test]
async fn a_container_that_ends_is_told() {
    let Some(daemon) = Daemon::of("a_container_that_ends_is_told").await else { return };
    let name = format!("end{}", unique());
    let instance = daemon.provider.start(&daemon.spec("healthy", &name)).await.unwrap();
    let (ended, ()) = tokio::join!(instance.ended(), async {
        daemon.docker.kill_container(&format!("oxenv-{name}"), None).await.unwrap();
    });
    assert_eq!(ended.unwrap(), "was ended by signal 9 (SIGKILL)");
    assert!(daemon.provider.list().await.unwrap().iter().all(|info| info.name != name));
    // What has ended can be stopped, and its name is free again at once.
    let again = daemon.provider.start(&daemon.spec("healthy", &name)).await.unwrap();
    instance.stop().await.unwrap();
    again.stop().await.unwrap();
    assert_eq!(daemon.containers(&name).await, 0);
}

#[tokio::test]
async fn a_container_of_others_is_never_touched() {
    let Some(daemon) = Daemon::of("a_container_of_others_is_never_touched").await else { return };
    let name = format!("other{}", unique());
    let options = bollard::query_parameters::CreateContainerOptionsBuilder::default();
    let body =
        bollard::models::ContainerCreateBody { image: Some(daemon.image.clone()), ..Default::default() };
    let options = options.name(&format!("oxenv-{name}")).build();
    let theirs = daemon.docker.create_container(Some(options), body).await.unwrap().id;
    let error = daemon.provider.start(&daemon.spec("healthy", &name)).await.map(drop).unwrap_err();
    assert_eq!(error.code, ProviderCode::InvalidSpec, "{error}");
    assert_eq!(daemon.provider.stop(&name).await.unwrap_err().code, ProviderCode::InstanceNotFound);
    daemon.provider.sweep().await.unwrap();
    assert_eq!(daemon.containers(&name).await, 1);
    daemon.docker.remove_container(&theirs, None).await.unwrap();
}

#[test]
fn a_drop_ends_a_container_also_when_the_process_ends() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let Some(daemon) = runtime.block_on(Daemon::of("a_drop_ends_a_container_also_when_the_process_ends"))
    else {
        return;
    };
    // Its runtime is gone when the instance is dropped.
    let name = format!("drop{}", unique());
    let short = tokio::runtime::Runtime::new().unwrap();
    let instance = short.block_on(daemon.provider.start(&daemon.spec("healthy", &name))).unwrap();
    drop(short);
    drop(instance);
    runtime.block_on(until("it is gone", async || daemon.containers(&name).await == 0));

    // The whole process is gone right after.
    let arguments = ["drop", "docker", &daemon.host, &name, &daemon.image, "/server", "healthy"];
    assert!(Command::new(helper()).args(arguments).stdout(Stdio::null()).status().unwrap().success());
    runtime.block_on(until("it does not run", async || {
        daemon.provider.list().await.unwrap().iter().all(|info| info.name != name)
    }));
    runtime.block_on(daemon.provider.sweep()).unwrap();
    runtime.block_on(until("it is gone", async || daemon.containers(&name).await == 0));
}

#[tokio::test]
async fn a_daemon_that_says_nothing_is_not_waited_for_by_a_drop() {
    let Some(daemon) = Daemon::of("a_daemon_that_says_nothing_is_not_waited_for_by_a_drop").await else {
        return;
    };
    let (folder, name) = (TempFolder::new("providers"), format!("mute{}", unique()));
    let way = Way::to(&daemon, &folder);
    let provider = DockerProvider::connect(Some(&way.host)).await.unwrap();
    let spec = InstanceSpec { stop_grace: Duration::from_secs(1), ..daemon.spec("healthy", &name) };
    let instance = provider.start(&spec).await.unwrap();
    drop(way);
    // Connections are taken and never answered.
    let path = folder.path().join("docker.sock");
    std::fs::remove_file(&path).unwrap();
    let _mute = UnixListener::bind(&path).unwrap();
    let begun = Instant::now();
    drop(instance);
    assert!(begun.elapsed() < Duration::from_secs(2));
    daemon.provider.stop(&name).await.unwrap();
}
