//! Servers to start, and looks at what runs.
//!
//! Invariant: every wait has an end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::query_parameters::{CreateImageOptionsBuilder, ListContainersOptionsBuilder};
use futures_util::TryStreamExt;
use oxenv_process::child::Supervisor;
use oxenv_providers::docker::DockerProvider;
use oxenv_providers::process::ProcessProvider;
use oxenv_providers::{InstanceSpec, SecretText};
use oxenv_test_support::{WAIT_TIMEOUT, unique};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The program of `tests/servers/helper.rs`.
pub(crate) fn helper() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    program.parent().unwrap().parent().unwrap().join("examples/providers-helper")
}

/// The static binary of `tests/servers/server.rs`, compiled if it is older than its source.
pub(crate) fn server() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/server.rs");
    let binary = Path::new(env!("CARGO_TARGET_TMPDIR")).join("providers-server");
    let changed = |path: &Path| fs::metadata(path).and_then(|found| found.modified()).ok();
    if changed(&binary) < changed(&source) {
        let part = binary.with_extension(unique());
        let flags = ["--edition", "2024", "-C", "target-feature=+crt-static", "-C", "strip=symbols", "-o"];
        let status = Command::new("rustc").args(flags).args([&part, &source]).status().unwrap();
        assert!(status.success(), "the test's server does not compile");
        fs::rename(part, &binary).unwrap();
    }
    binary
}

pub(crate) fn process_provider(notes: &Path) -> ProcessProvider {
    ProcessProvider::new(Supervisor::new(helper(), ["supervise"])).with_registry(notes)
}

/// A command with that behaviour, as a process that carries the mark.
pub(crate) fn process_spec(mode: &str, mark: &str) -> InstanceSpec {
    InstanceSpec {
        command: vec![server().into(), mode.into()],
        env: vec![("OXENV_MARK".to_owned(), SecretText::new(mark))],
        ..InstanceSpec::default()
    }
}

/// The processes whose environment has the mark.
pub(crate) fn marked(mark: &str) -> usize {
    let entry = format!("OXENV_MARK={mark}");
    let has_it =
        |environment: Vec<u8>| environment.split(|byte| *byte == 0).any(|one| one == entry.as_bytes());
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes.filter(|process| fs::read(process.path().join("environ")).is_ok_and(has_it)).count()
}

/// The daemon for tests; without one, says what is skipped.
pub(crate) fn docker_host(what: &str) -> Option<String> {
    let host = std::env::var("OXENV_DOCKER_HOST").ok().filter(|host| !host.is_empty());
    if host.is_none() {
        eprintln!("SKIPPED {what}: no Docker daemon; run it by scripts/with-docker");
    }
    host
}

/// The daemon with an image that holds the test's server alone.
pub(crate) struct Daemon {
    pub(crate) host: String,
    pub(crate) docker: Docker,
    pub(crate) provider: DockerProvider,
    pub(crate) image: String,
}

impl Daemon {
    pub(crate) async fn of(what: &str) -> Option<Self> {
        let host = docker_host(what)?;
        let provider = DockerProvider::connect(Some(&host)).await.unwrap();
        let docker = Docker::connect_with_host(&host).unwrap().negotiate_version().await.unwrap();
        let image = image(&docker).await;
        Some(Daemon { host, docker, provider, image })
    }

    /// A container that behaves so, named so.
    pub(crate) fn spec(&self, mode: &str, name: &str) -> InstanceSpec {
        InstanceSpec {
            image: Some(self.image.clone()),
            command: vec!["/server".into(), mode.into()],
            name: Some(name.to_owned()),
            ..InstanceSpec::default()
        }
    }

    /// The containers whose names begin so, whether they run or not.
    pub(crate) async fn containers(&self, name: &str) -> usize {
        let options = ListContainersOptionsBuilder::default().all(true).build();
        let begins = |names: Vec<String>| names.iter().any(|one| one.starts_with(&format!("/oxenv-{name}")));
        let all = self.docker.list_containers(Some(options)).await.unwrap();
        all.into_iter().filter(|one| one.names.clone().is_some_and(begins)).count()
    }
}

async fn image(docker: &Docker) -> String {
    let binary = fs::read(server()).unwrap();
    let made = fs::metadata(server()).unwrap().modified().unwrap();
    let tag = made.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis().to_string();
    let image = format!("oxenv-test/server:{tag}");
    if docker.inspect_image(&image).await.is_err() {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(binary.len() as u64);
        header.set_mode(0o755);
        tar.append_data(&mut header, "server", &binary[..]).unwrap();
        let options = CreateImageOptionsBuilder::default()
            .from_src("-")
            .repo("oxenv-test/server")
            .tag(&tag)
            .changes(vec!["CMD [\"/server\"]".to_owned()])
            .build();
        let body = bollard::body_full(tar.into_inner().unwrap().into());
        docker.create_image(Some(options), Some(body), None).try_collect::<Vec<_>>().await.unwrap();
    }
    image
}

/// What a server answers.
pub(crate) async fn get(url: &str, path: &str) -> String {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while !holds().await {
        assert!(Instant::now() < deadline, "it never came about that {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
