//! What containers have of their own: mounts, users, limits, ports, images.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::time::{Duration, Instant};

use bollard::models::ContainerInspectResponse;
use oxenv_providers::{
    Instance, InstanceSpec, ListenAddress, Mount, Provider, ProviderCode, PullPolicy, ResourceLimits,
    SecretText,
};
use oxenv_test_support::{TempFolder, unique};

use crate::support::{Daemon, get};

async fn seen(daemon: &Daemon, instance: &Instance) -> ContainerInspectResponse {
    daemon.docker.inspect_container(&instance.info().id, None).await.unwrap()
}

#[tokio::test]
async fn a_workspace_belongs_to_whom_it_belonged() {
    let Some(daemon) = Daemon::of("a_workspace_belongs_to_whom_it_belonged").await else { return };
    for (user, group) in [(12345, 12346), (0, 0)] {
        let work = TempFolder::new("providers");
        fs::write(work.path().join("kept"), "from outside").unwrap();
        chown(work.path(), Some(user), Some(group)).unwrap();
        let name = format!("w{}", unique());
        let workspace = Some(work.path().to_owned());
        let instance = daemon
            .provider
            .start(&InstanceSpec { workspace, ..daemon.spec("healthy", &name) })
            .await
            .unwrap();
        assert_eq!(get(instance.url(), "/read/workspace/kept").await, "from outside");
        assert_eq!(get(instance.url(), "/write/workspace/new").await, "written");
        assert_eq!(get(instance.url(), "/env/HOME").await, "/tmp");
        instance.stop().await.unwrap();

        let owner = |path: &str| {
            let found = fs::metadata(work.path().join(path)).unwrap();
            (found.uid(), found.gid())
        };
        assert_eq!((owner("."), owner("new")), ((user, group), (user, group)));
        assert_eq!(owner("kept"), (0, 0), "nothing else was given away");
        assert_eq!(fs::read_to_string(work.path().join("kept")).unwrap(), "from outside");
    }
}

#[tokio::test]
async fn the_rest_can_only_be_read_and_has_no_power() {
    let Some(daemon) = Daemon::of("the_rest_can_only_be_read_and_has_no_power").await else { return };
    let name = format!("r{}", unique());
    let instance = daemon.provider.start(&daemon.spec("healthy", &name)).await.unwrap();
    assert!(get(instance.url(), "/write/here").await.contains("Read-only file system"));
    assert_eq!(get(instance.url(), "/write/tmp/there").await, "written");
    // Without a workspace there is a volume, which goes with the container.
    assert_eq!(get(instance.url(), "/write/workspace/there").await, "written");
    let status = get(instance.url(), "/read/proc/1/status").await;
    assert!(status.contains("CapEff:\t0000000000000000") && status.contains("NoNewPrivs:\t1"), "{status}");
    let volume = seen(&daemon, &instance).await.mounts.unwrap()[0].name.clone().unwrap();
    instance.stop().await.unwrap();
    assert!(daemon.docker.inspect_volume(&volume).await.is_err(), "the volume is left");

    let spec = InstanceSpec { privileged_root: true, ..daemon.spec("healthy", &name) };
    let instance = daemon.provider.start(&spec).await.unwrap();
    assert_eq!(get(instance.url(), "/write/here").await, "written");
    instance.stop().await.unwrap();
}

#[tokio::test]
async fn mounts_are_where_they_are_wanted() {
    let Some(daemon) = Daemon::of("mounts_are_where_they_are_wanted").await else { return };
    let data = TempFolder::new("providers");
    fs::write(data.path().join("file"), "data").unwrap();
    let mount = |to: &str| Mount { from: data.path().to_owned(), to: to.into(), read_only: true };
    let name = format!("m{}", unique());
    let spec = InstanceSpec { mounts: vec![mount("/data")], ..daemon.spec("healthy", &name) };
    let instance = daemon.provider.start(&spec).await.unwrap();
    assert_eq!(get(instance.url(), "/read/data/file").await, "data");
    assert!(get(instance.url(), "/write/data/file").await.contains("Read-only"));
    instance.stop().await.unwrap();

    let missing = Mount { from: "/no/such/folder".into(), ..mount("/data") };
    for mounts in [vec![missing], vec![mount("data")]] {
        let error = daemon.provider.start(&InstanceSpec { mounts, ..daemon.spec("healthy", &name) }).await;
        assert_eq!(error.map(drop).unwrap_err().code, ProviderCode::InvalidSpec);
    }
}

#[tokio::test]
async fn limits_hold() {
    let Some(daemon) = Daemon::of("limits_hold").await else { return };
    let name = format!("l{}", unique());
    let limits = ResourceLimits { memory: Some(64 << 20), cpus: Some(1.5), pids: Some(20) };
    let instance =
        daemon.provider.start(&InstanceSpec { limits, ..daemon.spec("healthy", &name) }).await.unwrap();
    assert!(get(instance.url(), "/threads/50").await.starts_with("stopped at"));
    let config = seen(&daemon, &instance).await.host_config.unwrap();
    assert_eq!((config.memory, config.memory_swap), (Some(64 << 20), Some(64 << 20)));
    assert_eq!((config.nano_cpus, config.pids_limit), (Some(1_500_000_000), Some(20)));
    instance.stop().await.unwrap();

    let error = daemon.provider.start(&InstanceSpec { limits, ..daemon.spec("eats", &name) }).await;
    let error = error.map(drop).unwrap_err();
    assert_eq!(error.code, ProviderCode::InstanceExited, "{error}");
    assert!(error.message.contains("more memory than it may"), "{error}");

    let limits = ResourceLimits { memory: Some(1), ..ResourceLimits::default() };
    let error = daemon.provider.start(&InstanceSpec { limits, ..daemon.spec("healthy", &name) }).await;
    let error = error.map(drop).unwrap_err();
    assert_eq!(error.code, ProviderCode::InvalidSpec, "{error}");
    assert_eq!(daemon.containers(&name).await, 0);
}

#[tokio::test]
async fn a_full_disk_is_the_environment_s_business() {
    let Some(daemon) = Daemon::of("a_full_disk_is_the_environment_s_business").await else { return };
    let name = format!("f{}", unique());
    let spec = InstanceSpec { tmp_bytes: 4 << 20, ..daemon.spec("healthy", &name) };
    let instance = daemon.provider.start(&spec).await.unwrap();
    assert!(get(instance.url(), "/fill/tmp/full").await.contains("No space left"));
    assert_eq!(get(instance.url(), "/health").await, "{}");
    let begun = Instant::now();
    instance.stop().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(daemon.containers(&name).await, 0);
}

#[tokio::test]
async fn doors() {
    let Some(daemon) = Daemon::of("doors").await else { return };
    let name = format!("d{}", unique());
    let instance = daemon.provider.start(&daemon.spec("healthy", &name)).await.unwrap();
    let ports = seen(&daemon, &instance).await.network_settings.unwrap().ports.unwrap();
    let bound = ports["8000/tcp"].as_ref().unwrap();
    assert!(bound.iter().all(|one| one.host_ip.as_deref() == Some("127.0.0.1")), "{bound:?}");
    instance.stop().await.unwrap();

    // A port of the caller's choice, which is taken the second time.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let spec = InstanceSpec { listen: ListenAddress::Port(free), ..daemon.spec("healthy", &name) };
    let instance = daemon.provider.start(&spec).await.unwrap();
    assert_eq!(instance.url(), format!("http://127.0.0.1:{free}"));
    let second = InstanceSpec { name: Some(format!("{name}-second")), ..spec.clone() };
    let error = daemon.provider.start(&second).await.map(drop).unwrap_err();
    assert_eq!(error.code, ProviderCode::StartFailed, "{error}");
    assert!(error.message.contains(&free.to_string()), "{error}");
    instance.stop().await.unwrap();

    // This machine's network.
    let mut spec = InstanceSpec { host_network: true, ..spec };
    spec.command.push("{port}".into());
    let instance = daemon.provider.start(&spec).await.unwrap();
    assert_eq!(get(instance.url(), "/env/OXENV_PORT").await, free.to_string());
    assert_eq!(
        daemon.provider.list().await.unwrap().iter().find(|info| info.name == name).unwrap().url,
        instance.url()
    );
    instance.stop().await.unwrap();

    // A socket, and no network.
    let sockets = TempFolder::new("providers");
    chown(sockets.path(), Some(12345), Some(12346)).unwrap();
    let spec = InstanceSpec {
        listen: ListenAddress::Socket(sockets.path().to_owned()),
        ..daemon.spec("healthy", &name)
    };
    let instance = daemon.provider.start(&spec).await.unwrap();
    assert_eq!(get(instance.url(), "/env/HOME").await, "/tmp");
    let networks = get(instance.url(), "/read/proc/net/dev").await;
    assert!(networks.contains("lo:") && !networks.contains("eth0"), "{networks}");
    let socket = sockets.path().join(format!("{name}.sock"));
    assert_eq!(fs::metadata(&socket).unwrap().uid(), 12345);
    instance.stop().await.unwrap();
    assert!(!socket.exists());
    assert_eq!(daemon.containers(&name).await, 0);
}

#[tokio::test]
async fn secrets_are_in_the_environment_alone() {
    let Some(daemon) = Daemon::of("secrets_are_in_the_environment_alone").await else { return };
    let name = format!("s{}", unique());
    let mut spec = daemon.spec("healthy", &name);
    spec.env.push(("SECRET".to_owned(), SecretText::new("hunter2-and-more")));
    let instance = daemon.provider.start(&spec).await.unwrap();
    let mut found = seen(&daemon, &instance).await;
    let environment = found.config.as_mut().unwrap().env.take().unwrap();
    assert!(environment.contains(&"SECRET=hunter2-and-more".to_owned()));
    let rest = serde_json::to_string(&found).unwrap();
    assert!(!rest.contains("hunter2"), "{rest}");
    instance.stop().await.unwrap();
}

#[tokio::test]
async fn images_are_fetched_only_where_that_is_allowed() {
    let Some(daemon) = Daemon::of("images_are_fetched_only_where_that_is_allowed").await else { return };
    let name = format!("i{}", unique());
    let start = async |image: &str, pull| {
        let spec = InstanceSpec { image: Some(image.to_owned()), pull, ..daemon.spec("healthy", &name) };
        daemon.provider.start(&spec).await.map(drop)
    };
    // Nobody is at that registry.
    let absent = "127.0.0.1:9/oxenv-test/absent";
    for pull in [PullPolicy::Never, PullPolicy::Missing, PullPolicy::Always] {
        let error = start(absent, pull).await.unwrap_err();
        assert_eq!(error.code, ProviderCode::ImageNotFound, "{error}");
        assert!(error.message.contains(absent), "{error}");
    }
    let here = "127.0.0.1:9/oxenv-test/server:here";
    let tag = bollard::query_parameters::TagImageOptionsBuilder::default()
        .repo("127.0.0.1:9/oxenv-test/server")
        .tag("here")
        .build();
    daemon.docker.tag_image(&daemon.image, Some(tag)).await.unwrap();
    start(here, PullPolicy::Never).await.unwrap();
    assert_eq!(start(here, PullPolicy::Always).await.unwrap_err().code, ProviderCode::ImageFailed);
    for bad in ["", "UPPER CASE"] {
        assert_eq!(
            start(bad, PullPolicy::Missing).await.unwrap_err().code,
            ProviderCode::InvalidSpec,
            "{bad}"
        );
    }
    let none = InstanceSpec { image: None, ..daemon.spec("healthy", &name) };
    assert_eq!(daemon.provider.start(&none).await.map(drop).unwrap_err().code, ProviderCode::InvalidSpec);
}
