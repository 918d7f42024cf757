//! `oxenv serve`.
//!
//! Invariant: the first line on stdout names the address that is listened on, so a script that
//! asked for port 0 can read it; it is printed only once the server accepts.

use std::net::SocketAddr;
use std::sync::Arc;

use oxenv_core::{ActionSpace, EnvironmentSpec, Recorder, SessionStore};
use oxenv_server::{Server, ServerConfig, Shutdown, TrajectorySource};

use crate::exit::Problem;
use crate::observing::Observing;
use crate::output::print;
use crate::settings::{ServeArgs, Settings};
use crate::tokens::GeneratedToken;
use crate::trajectories::RecordFolder;
use crate::{assemble, code, exit, logging, record, rubrics, snapshot_key};

pub(crate) async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let settings = Settings::gather(args)?;
    logging::start(settings.log, settings.log_format);
    oxenv_server::raise_descriptor_limit();
    // Before anything is begun that would have to be ended.
    let shutdown = Shutdown::on_signals(settings.server.drain)?;
    let name = settings.environment.as_deref();
    let mut served = tokio::select! {
        served = assemble::environment(name, &settings.tools, settings.server.mode) => served?,
        // Its import may take minutes; what it has started ends with it.
        () = shutdown.requested() => return Ok(()),
    };
    let code = code::start(&settings.code).await?;
    served.factory = rubrics::over(Arc::clone(&served.factory), &settings.rubric, &Arc::default())?;
    let recorder = record::open(&settings.record, served.redact.clone())?;
    let (mode, generated) = (settings.server.mode, settings.generated_tokens);
    let observing = Observing::start(
        &settings.observing,
        &served.factory.spec().name,
        recorder.as_ref().map(record::status_reader),
        served.audit.clone(),
    )?;
    let snapshot_key =
        snapshot_key::of(settings.snapshot_key_file.as_deref(), settings.record.record.as_deref())?;
    let mut store =
        SessionStore::new(Arc::clone(&served.factory), settings.limits).with_snapshot_key(snapshot_key);
    if let Some(code) = code {
        store = store.with_code_engine(code.engine, code.limits);
    }
    if let Some(observer) = &observing.observer {
        store = store.with_observer(Arc::clone(observer));
    }
    let mut trajectories: Option<Arc<dyn TrajectorySource>> = None;
    if let Some(recorder) = &recorder {
        store = store.with_recorder(Arc::clone(recorder) as Arc<dyn Recorder>);
        trajectories = Some(Arc::new(RecordFolder::of(recorder.folder())?));
    }
    let config = ServerConfig {
        trajectories,
        metrics: observing.metrics.clone(),
        traces: observing.traces,
        ..settings.server
    };
    let mut server = Server::bind(settings.address, store, config).await.map_err(|error| {
        Problem::Listen(format!("{error}; choose another with --port, or --port 0 for a free one"))
    })?;
    if let Some(path) = &settings.uds {
        server = server.with_socket(path).map_err(|error| {
            Problem::Listen(format!(
                "{error}; choose another with --uds, or remove the file if nobody uses it"
            ))
        })?;
    }
    let address = server.address()?;
    let spec = server.app().store.spec().clone();
    let guarded = !server.app().config.tokens.is_empty();
    announce(&spec, address, guarded, &generated)?;
    tracing::info!(environment = %spec.name, %address, mode = mode.name(), "serving");
    server.run_until(&shutdown).await;
    let closing = async {
        served.close(shutdown.give_up_time()).await;
        observing.close().await;
    };
    shutdown.finish(closing).await;
    exit::in_time(&shutdown)?;
    tracing::info!("stopped");
    Ok(())
}

/// Prints what is served where.
fn announce(
    spec: &EnvironmentSpec,
    address: SocketAddr,
    guarded: bool,
    generated: &[GeneratedToken],
) -> anyhow::Result<()> {
    let authorized = if guarded { "-H \"Authorization: Bearer $TOKEN\" " } else { "" };
    let try_it = match spec.action_space {
        ActionSpace::Tools => format!(
            "curl {authorized}-X POST http://{address}/step -H 'Content-Type: application/json' \
             -d '{{\"action\": {{\"type\": \"list_tools\"}}}}'"
        ),
        ActionSpace::Typed | ActionSpace::Own => format!("curl {authorized}-X POST http://{address}/reset"),
    };
    let tokens: String =
        generated.iter().map(|made| format!("{} token: {}\n", made.role, made.token)).collect();
    print(&format!("oxenv: serving {} on http://{address}\n{tokens}try: {try_it}", spec.name))
}
