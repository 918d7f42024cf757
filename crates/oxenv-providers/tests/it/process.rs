//! What processes have of their own: their address, their folder, their environment, and notes for others.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use oxenv_providers::{InstanceSpec, ListenAddress, Provider, ProviderCode, ResourceLimits, SecretText};
use oxenv_test_support::{TempFolder, unique};

use crate::support::{get, marked, process_provider, process_spec, until};

#[tokio::test]
async fn a_command_knows_where_to_listen_and_works_in_its_workspace() {
    let (notes, work, mark) = (TempFolder::new("providers"), TempFolder::new("providers"), unique());
    let provider = process_provider(notes.path());
    let mut spec = process_spec("healthy", &mark);
    spec.command.push("{port}".into());
    spec.workspace = Some(work.path().to_owned());
    spec.env.push(("PORT".to_owned(), SecretText::new("ours-wins")));
    let instance = provider.start(&spec).await.unwrap();
    let port = instance.url().rsplit_once(':').unwrap().1;
    for name in ["PORT", "OXENV_PORT"] {
        assert_eq!(get(instance.url(), &format!("/env/{name}")).await, port, "{name}");
    }
    assert_eq!(get(instance.url(), "/env/OXENV_HOST").await, "127.0.0.1");
    assert_eq!(get(instance.url(), "/env/CARGO").await, "unset", "nothing is inherited");
    let folder = work.path().canonicalize().unwrap();
    assert_eq!(get(instance.url(), "/folder").await, folder.display().to_string());
    instance.stop().await.unwrap();
    assert_eq!(marked(&mark), 0);
}

#[tokio::test]
async fn a_socket_is_reached_over_a_port() {
    let (notes, sockets, mark) = (TempFolder::new("providers"), TempFolder::new("providers"), unique());
    let provider = process_provider(notes.path());
    let listen = ListenAddress::Socket(sockets.path().to_owned());
    let spec =
        InstanceSpec { listen, name: Some("over-a-socket".to_owned()), ..process_spec("healthy", &mark) };
    let instance = provider.start(&spec).await.unwrap();
    assert!(sockets.path().join("over-a-socket.sock").exists());
    assert_eq!(get(instance.url(), "/env/PORT").await, "unset");
    let seen = provider.list().await.unwrap();
    assert_eq!(seen, [instance.info().clone()]);
    let url = instance.url().to_owned();
    instance.stop().await.unwrap();
    let closed = tokio::net::TcpStream::connect(url.strip_prefix("http://").unwrap()).await;
    assert!(closed.is_err(), "the port is closed with the instance");

    let spec = InstanceSpec { detached: true, ..spec };
    assert_eq!(provider.start(&spec).await.map(drop).unwrap_err().code, ProviderCode::InvalidSpec);
}

#[tokio::test]
async fn what_a_process_cannot_have_is_refused() {
    let notes = TempFolder::new("providers");
    let provider = process_provider(notes.path());
    let plain = || process_spec("healthy", "refused");
    let limits = ResourceLimits { memory: Some(1 << 30), ..ResourceLimits::default() };
    let refused = [
        InstanceSpec { command: Vec::new(), ..plain() },
        InstanceSpec { image: Some("echo-env".to_owned()), ..plain() },
        InstanceSpec { limits, ..plain() },
        InstanceSpec { workspace: Some("/no/such/folder".into()), ..plain() },
        InstanceSpec { name: Some("../x".to_owned()), ..plain() },
        InstanceSpec {
            listen: ListenAddress::Socket("/".repeat(3).into()),
            name: Some("n".repeat(99)),
            ..plain()
        },
    ];
    for spec in refused {
        let error = provider.start(&spec).await.map(drop).unwrap_err();
        assert_eq!(error.code, ProviderCode::InvalidSpec, "{error}");
    }
    let missing = InstanceSpec { command: vec!["no-such-command".into()], ..InstanceSpec::default() };
    for detached in [false, true] {
        let spec = InstanceSpec { detached, ..missing.clone() };
        let error = provider.start(&spec).await.map(drop).unwrap_err();
        assert_eq!(error.code, ProviderCode::StartFailed, "{error}");
        assert!(error.to_string().contains("no-such-command"), "{error}");
    }
    assert_eq!(fs::read_dir(notes.path()).unwrap().count(), 0, "no note stays");
}

#[tokio::test]
async fn notes_are_the_user_s_alone() {
    let shared = TempFolder::new("providers");
    fs::set_permissions(shared.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let error = process_provider(shared.path()).list().await.unwrap_err();
    assert_eq!(error.code, ProviderCode::ProviderUnavailable, "{error}");

    let (folder, mark) = (TempFolder::new("providers"), unique());
    let notes = folder.path().join("made");
    let provider = process_provider(&notes);
    let mut spec = InstanceSpec { detached: true, ..process_spec("healthy", &mark) };
    spec.env.push(("SECRET".to_owned(), SecretText::new("hunter2-and-more")));
    let instance = provider.start(&spec).await.unwrap();
    assert_eq!(fs::metadata(&notes).unwrap().permissions().mode() & 0o777, 0o700);
    let note = fs::read_to_string(notes.join(format!("{}.json", instance.info().name))).unwrap();
    assert!(note.contains(&instance.info().id) && !note.contains("hunter2"), "{note}");
    until("its words are there", async || instance.logs().await.unwrap().contains("out: healthy ***")).await;
    instance.stop().await.unwrap();
    assert_eq!(fs::read_dir(&notes).unwrap().count(), 0, "note and log are gone");
}

#[tokio::test]
async fn a_port_that_somebody_has_is_not_taken_for_ours() {
    let (notes, mark) = (TempFolder::new("providers"), unique());
    let provider = process_provider(notes.path());
    let first = provider.start(&process_spec("healthy", &mark)).await.unwrap();
    let taken = first.url().rsplit_once(':').unwrap().1.parse().unwrap();
    let spec = InstanceSpec { listen: ListenAddress::Port(taken), ..process_spec("healthy", &mark) };
    let error = provider.start(&spec).await.map(drop).unwrap_err();
    assert_eq!(error.code, ProviderCode::StartFailed, "{error}");
    assert!(error.message.contains(&taken.to_string()), "{error}");
    first.stop().await.unwrap();
    let now = provider.start(&spec).await.unwrap();
    assert_eq!(now.url(), format!("http://127.0.0.1:{taken}"));
    now.stop().await.unwrap();
}

#[tokio::test]
async fn what_a_detached_one_writes_is_bounded() {
    let (notes, mark) = (TempFolder::new("providers"), unique());
    let provider = process_provider(notes.path());
    let name = Some("chatty".to_owned());
    let spec = InstanceSpec { detached: true, name, ..process_spec("chatty", &mark) };
    let instance = provider.start(&spec).await.unwrap();
    let length = |file: &str| fs::metadata(notes.path().join(file)).unwrap().len();
    assert!(length("chatty.log") <= 1 << 20 && length("chatty.log.old") <= 1 << 20);
    until("the end of it is there", async || instance.logs().await.unwrap().ends_with("the last line")).await;
    instance.stop().await.unwrap();
    assert_eq!(fs::read_dir(notes.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn what_ended_by_itself_is_told_and_swept() {
    let (notes, mark) = (TempFolder::new("providers"), unique());
    let provider = process_provider(notes.path());
    for detached in [false, true] {
        let spec = InstanceSpec { detached, ..process_spec("healthy", &mark) };
        let instance = provider.start(&spec).await.unwrap();
        kill_the_server(&mark);
        let how = tokio::time::timeout(Duration::from_secs(20), instance.ended()).await.unwrap().unwrap();
        assert_eq!(how, "was ended by signal 9 (SIGKILL)");
        assert!(provider.list().await.unwrap().is_empty());
        drop(instance);
        provider.sweep().await.unwrap();
        assert_eq!(fs::read_dir(notes.path()).unwrap().count(), 0);
    }
    until("all has ended", async || marked(&mark) == 0).await;
}

#[tokio::test]
async fn uvicorn_serves() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let python = root.join("target/venvs/openenv-0.10.0/bin/python");
    if !python.exists() {
        eprintln!("SKIPPED uvicorn_serves: no uvicorn in target/venvs; scripts/test makes it");
        return;
    }
    let (notes, work, mark) = (TempFolder::new("providers"), TempFolder::new("providers"), unique());
    let app = "async def app(scope, receive, send):\n    if scope['type'] == 'http':\n        \
               await send({'type': 'http.response.start', 'status': 200})\n        \
               await send({'type': 'http.response.body', 'body': b'from python'})\n";
    fs::write(work.path().join("served.py"), app).unwrap();
    let words = ["-m", "uvicorn", "served:app", "--port", "{port}", "--lifespan", "off"];
    let mut command = vec![python.into_os_string()];
    command.extend(words.map(Into::into));
    let workspace = Some(work.path().to_owned());
    let spec = InstanceSpec { command, workspace, ..process_spec("healthy", &mark) };
    let instance = process_provider(notes.path()).start(&spec).await.unwrap();
    assert!(get(instance.url(), "/health").await.contains("from python"));
    instance.stop().await.unwrap();
    assert_eq!(marked(&mark), 0);
}

/// Ends the server itself, not its supervisor.
fn kill_the_server(mark: &str) {
    let entry = format!("OXENV_MARK={mark}");
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let environment = fs::read(process.path().join("environ")).unwrap_or_default();
        let arguments = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let is_marked = environment.split(|byte| *byte == 0).any(|one| one == entry.as_bytes());
        let server = crate::support::server();
        if is_marked && arguments.starts_with(server.as_os_str().as_encoded_bytes()) {
            let pid = process.file_name().to_str().unwrap().parse().unwrap();
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
    }
}
