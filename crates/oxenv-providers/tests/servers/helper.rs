//! What the tests need as a process of its own: the supervisor, and somebody who starts an instance and is
//! killed.
//!
//! Invariant: `hold` never ends by itself; `drop` ends right after it dropped its instance.

use std::process::ExitCode;

use oxenv_process::child::Supervisor;
use oxenv_providers::docker::DockerProvider;
use oxenv_providers::process::ProcessProvider;
use oxenv_providers::{Instance, InstanceSpec, Provider, SecretText};

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|first| first == "supervise") {
        return oxenv_process::supervise::main(&["supervise"]);
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let instance = runtime.block_on(start());
    if std::env::args().nth(1).is_some_and(|first| first == "hold") {
        runtime.block_on(std::future::pending::<()>());
    }
    drop(runtime);
    drop(instance);
    ExitCode::SUCCESS
}

/// `hold process NOTES NAME MARK COMMAND…`, `hold docker HOST NAME IMAGE COMMAND…`, and `drop` in the same
/// way.
async fn start() -> Instance {
    let arguments: Vec<String> = std::env::args().skip(2).collect();
    let [kind, place, name, what, command @ ..] = &arguments[..] else { panic!("too few arguments") };
    let mut spec = InstanceSpec { name: Some(name.clone()), ..InstanceSpec::default() };
    spec.command = command.iter().map(Into::into).collect();
    let provider: Box<dyn Provider> = if kind == "docker" {
        spec.image = Some(what.clone());
        Box::new(DockerProvider::connect(Some(place)).await.unwrap())
    } else {
        spec.env = vec![("OXENV_MARK".to_owned(), SecretText::new(what.as_str()))];
        let supervisor = Supervisor::new(std::env::current_exe().unwrap(), ["supervise"]);
        Box::new(ProcessProvider::new(supervisor).with_registry(place))
    };
    provider.start(&spec).await.unwrap()
}
