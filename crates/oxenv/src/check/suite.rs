//! Runs the rules: on a server somewhere, or on an environment that is served for the purpose.
//!
//! Invariant: an environment of this process is checked over a real socket, like any other; the server
//! and its record go with the check.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use oxenv_core::{EnvironmentFactory, Recorder, SessionStore, contract};
use oxenv_server::{Server, ServerConfig};
use oxenv_store::{LogOptions, LogRecorder, SessionFilter};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::CheckPlan;
use super::door::{CheckedServer, CheckedSession};
use super::report::{CheckReport, Verdict};
use super::rules::{self, DeclaredCapabilities, ReferenceEpisode};
use super::sample::Sampler;
use crate::assemble::SeededToolset;
use crate::client::Client;
use crate::replay::{self, Folder, ReplayEnvironment, Replayer};
use crate::trajectories::{self, Incomplete};

/// How many actions an episode has that are made.
const ACTIONS_PER_EPISODE: usize = 8;
/// How many are tried for one that is taken.
const MAX_TRIES: usize = 8;
/// The seed of the suite of environments.
const CONTRACT_SEED: u64 = 7;

/// An environment of this process.
pub(super) struct Local {
    pub(super) factory: Arc<dyn EnvironmentFactory>,
    /// For each of a manifest's toolsets, whether it is another server's.
    pub(super) upstream: Vec<bool>,
    /// For the toolsets with `${seed}`, whether they are declared to be restarted with each
    /// episode's.
    pub(super) seeded: Vec<SeededToolset>,
    /// How long a reply may take.
    pub(super) timeout: Duration,
}

/// Checks a server.
///
/// # Errors
/// When it cannot be talked to, or takes none of the actions.
pub(super) async fn over_the_wire(
    client: Arc<Client>,
    plan: &CheckPlan,
    promises: DeclaredCapabilities,
) -> anyhow::Result<CheckReport> {
    let door = CheckedServer::find(client).await?;
    let name = door.about("/metadata").await?["name"].as_str().unwrap_or("the environment").to_owned();
    let mut report = CheckReport::new(name, door.name(), promises.deterministic);
    run_rules(&door, plan, promises, &mut report).await?;
    report
        .add("replay", Verdict::NotOffered("a record is replayed where it is: oxenv replay DIR".to_owned()));
    Ok(report)
}

/// Checks an environment of this process.
///
/// # Errors
/// When it cannot be served, or takes none of the actions.
pub(super) async fn in_process(local: Local, plan: &CheckPlan) -> anyhow::Result<CheckReport> {
    let spec = Arc::clone(local.factory.spec());
    let promises = DeclaredCapabilities {
        deterministic: spec.capabilities.deterministic,
        starts_servers: local.upstream.contains(&true),
    };
    let folder = Folder::new("check")?;
    let recorder = LogRecorder::open(folder.path(), LogOptions::default())?;
    let store = SessionStore::new(Arc::clone(&local.factory), oxenv_core::StoreLimits::default());
    let store = store.with_recorder(Arc::new(recorder) as Arc<dyn Recorder>);
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = Server::bind(loopback, store, ServerConfig::default()).await?;
    let client = Client::new(&format!("http://{}", server.address()?), local.timeout, None)?;
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(server.run(async {
        // A sender that is gone stops it as well.
        let _ = stopped.await;
    }));
    let mut report = CheckReport::new(spec.name.clone(), "sessions", promises.deterministic);
    let checked = async {
        let door = CheckedServer::find(Arc::new(client)).await?;
        run_rules(&door, plan, promises, &mut report).await?;
        episode(&door, plan, CONTRACT_SEED).await
    };
    let checked = checked.await;
    drop(stop);
    serving.await?;
    let actions = checked?.actions;
    if local.upstream.is_empty() {
        report.add("contract", contract(&local.factory, &actions).await);
    }
    if !local.upstream.is_empty() {
        report.add("seed of tools", seed_of_tools(&local.seeded));
    }
    report.add("replay", replayed(&folder, local).await?);
    Ok(report)
}

async fn run_rules(
    door: &CheckedServer,
    plan: &CheckPlan,
    promises: DeclaredCapabilities,
    report: &mut CheckReport,
) -> anyhow::Result<()> {
    let mut episodes = Vec::new();
    for number in 0..plan.episodes {
        episodes.push(episode(door, plan, plan.seed.wrapping_add(number)).await?);
    }
    if promises.deterministic {
        report.add("seed", rules::seed(door, &episodes).await?);
        report.add("isolation", rules::isolation(door, &episodes).await?);
        report.add("fork", rules::fork(door, &episodes).await?);
        report.add("snapshot", rules::snapshot(door, &episodes).await?);
    } else {
        for rule in ["seed", "isolation", "fork", "snapshot"] {
            let why = "without the promise of the same bytes there is nothing to compare";
            report.add(rule, Verdict::NotOffered(why.to_owned()));
        }
    }
    report.add("unseeded", rules::unseeded(door, &episodes[0], promises).await?);
    report.add("at most once", rules::at_most_once(door, &episodes[0]).await?);
    report.add("bad actions", rules::bad_actions(door, &episodes[0], promises).await?);
    Ok(())
}

/// An undisturbed episode: the given actions, or those of the generated ones that are accepted.
async fn episode(door: &CheckedServer, plan: &CheckPlan, seed: u64) -> anyhow::Result<ReferenceEpisode> {
    let mut player = door.open(seed).await?;
    let mut episode = ReferenceEpisode { seed, actions: Vec::new(), replies: Vec::new() };
    episode.replies.push(player.reset(seed).await?);
    if !episode.replies[0].ok {
        bail!("a reset with seed {seed} fails: {}", episode.replies[0].text);
    }
    match &plan.actions {
        Some(actions) => {
            for action in actions {
                let reply = player.step(action).await?;
                if !reply.ok {
                    bail!("the action {action} is refused: {}", reply.text);
                }
                episode.replies.push(reply);
                episode.actions.push(action.clone());
            }
        }
        None => {
            find_actions(door, &mut player, &mut episode).await?;
            // What was refused on the way may have left traces, so no comparison uses this session.
            player.close().await?;
            player = door.open(seed).await?;
            episode.replies = rules::play(&mut player, &episode).await?;
        }
    }
    player.close().await?;
    Ok(episode)
}

async fn find_actions(
    door: &CheckedServer,
    player: &mut CheckedSession,
    episode: &mut ReferenceEpisode,
) -> anyhow::Result<()> {
    let schemas = door.about("/schema").await?;
    let mut looker = door.open(episode.seed).await?;
    looker.reset(episode.seed).await?;
    let listed = looker.step(&json!({ "type": "list_tools" })).await?;
    looker.close().await?;
    let listed: Value = serde_json::from_str(&listed.text).unwrap_or_default();
    let tools = listed["observation"]["tools"].as_array().cloned().unwrap_or_default();
    let mut sampler = Sampler::new(&schemas["action"], &tools, episode.seed);
    let mut refused = String::new();
    for _ in 0..ACTIONS_PER_EPISODE * MAX_TRIES {
        let action = sampler.action().context(
            "neither /schema nor a list of tools says what an action is; give some with --actions FILE",
        )?;
        let reply = player.step(&action).await?;
        if !reply.ok {
            refused = reply.text;
            continue;
        }
        let body: Value = serde_json::from_str(&reply.text).unwrap_or_default();
        episode.actions.push(action);
        if body["done"] == true || episode.actions.len() == ACTIONS_PER_EPISODE {
            break;
        }
    }
    if episode.actions.is_empty() {
        bail!("no action that was made is taken; give some with --actions FILE: {refused}");
    }
    Ok(())
}

async fn contract(factory: &Arc<dyn EnvironmentFactory>, actions: &[Value]) -> Verdict {
    let found = contract::check(Arc::clone(factory), actions).await;
    let told: Vec<String> =
        found.iter().map(|violation| format!("{}: {}", violation.rule, violation.seen)).collect();
    match told.is_empty() {
        true => Verdict::Holds("every rule of the suite of environments".to_owned()),
        false => Verdict::Fails(told.join("; ")),
    }
}

/// Whether the toolsets that are handed a seed are declared to be handed each episode's. What their servers
/// make of it is not looked at: only the manifest is.
fn seed_of_tools(seeded: &[SeededToolset]) -> Verdict {
    let names = |follows: bool| {
        let named = seeded.iter().filter(|toolset| toolset.follows == follows);
        named.map(|toolset| toolset.toolset.as_str()).collect::<Vec<_>>().join(", ")
    };
    match (seeded.is_empty(), names(false)) {
        (true, _) => Verdict::NotOffered("no toolset has ${seed}".to_owned()),
        (false, kept) if kept.is_empty() => {
            Verdict::Holds(format!("declared to be restarted with each episode's seed: {}", names(true)))
        }
        (false, kept) => Verdict::Fails(format!(
            "declared to keep the ${{seed}} that they were started with: {kept}; write on_reset: \
             restart, or leave it out"
        )),
    }
}

/// Everything that the check has done, its forks and restored sessions too, is done again.
async fn replayed(folder: &Folder, local: Local) -> anyhow::Result<Verdict> {
    let mut incomplete = Incomplete::default();
    let recorded = trajectories::open(folder.path(), &mut incomplete)?;
    incomplete.outcome()?;
    let filter = SessionFilter { limit: usize::MAX, ..SessionFilter::default() };
    let sessions = recorded.sessions(&filter)?;
    let environment = ReplayEnvironment::over(local.factory, local.upstream)?;
    let mut replayer = Replayer::on(&recorded, environment);
    let mut same = 0;
    for session in &sessions {
        match replayer.replay(&session.id).await?.1 {
            replay::Verdict::Same { .. } => same += 1,
            replay::Verdict::Differs { seq, what, recorded, replayed } => {
                let why = format!("entry {seq}: {what}: recorded {recorded}, replayed {replayed}");
                return Ok(Verdict::Fails(why));
            }
            replay::Verdict::Incomplete { holes, .. } => {
                let why = holes.first().map_or(String::new(), |hole| hole.hole.to_string());
                return Ok(Verdict::Fails(format!("the record is incomplete: {why}")));
            }
            replay::Verdict::CannotBeReplayed { why, .. } => return Ok(Verdict::Fails(why)),
        }
    }
    replayer.close().await;
    Ok(Verdict::Holds(format!("{same} recorded sessions, every byte the same")))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use oxenv_core::{
        Capabilities, EnvironmentContext, EnvironmentSpec, Failure, ForkMode, Reset, Step, TypedEnvironment,
        typed,
    };
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    use super::*;

    /// It declares that it is deterministic, and shows how often any of its kind was ever asked.
    struct NondeterministicEnvironment;

    static ASKED: AtomicU64 = AtomicU64::new(0);

    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct CountAction {
        #[allow(dead_code)]
        number: i64,
    }

    #[derive(Serialize, JsonSchema)]
    struct CountObservation {
        asked: u64,
    }

    impl TypedEnvironment for NondeterministicEnvironment {
        type Action = CountAction;
        type Observation = CountObservation;
        type State = CountObservation;

        async fn reset(&mut self, _reset: &Reset) -> Result<Step<CountObservation>, Failure> {
            Ok(Step::new(CountObservation { asked: 0 }))
        }

        async fn step(&mut self, _action: CountAction) -> Result<Step<CountObservation>, Failure> {
            Ok(Step::new(CountObservation { asked: ASKED.fetch_add(1, Ordering::Relaxed) }))
        }

        fn state(&self) -> CountObservation {
            CountObservation { asked: 0 }
        }

        fn fork(&self) -> Option<Self> {
            Some(NondeterministicEnvironment)
        }
    }

    fn nondeterministic(deterministic: bool) -> Local {
        let spec = EnvironmentSpec {
            capabilities: Capabilities { deterministic, fork: ForkMode::Native, ..Capabilities::default() },
            ..EnvironmentSpec::new("liar", "Says that it is deterministic, and is not")
        };
        let factory = Arc::new(typed(spec, |_: &EnvironmentContext| NondeterministicEnvironment));
        Local { factory, upstream: Vec::new(), seeded: Vec::new(), timeout: Duration::from_secs(20) }
    }

    #[tokio::test]
    async fn an_environment_that_says_deterministic_and_is_not_fails() {
        let plan = CheckPlan { actions: None, episodes: 1, seed: 7 };
        let report = in_process(nondeterministic(true), &plan).await.unwrap();
        let table = report.table();
        for rule in ["seed", "isolation", "fork", "contract", "replay"] {
            let line = table.lines().find(|line| line.contains(rule)).unwrap();
            assert!(line.starts_with("FAILS"), "{table}");
        }
        assert!(report.failures() >= 5, "{table}");
    }

    /// As a server of another make is, which has no sessions over HTTP.
    #[tokio::test]
    async fn a_server_can_be_checked_on_sockets() {
        for factory in [oxenv_envs::number_guess::factory(), oxenv_envs::echo::factory()] {
            let store = SessionStore::new(factory, oxenv_core::StoreLimits::default());
            let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let server = Server::bind(loopback, store, ServerConfig::default()).await.unwrap();
            let url = format!("http://{}", server.address().unwrap());
            let serving = tokio::spawn(server.run(std::future::pending()));
            let client = Client::new(&url, Duration::from_secs(20), None).unwrap();
            let plan = CheckPlan { actions: None, episodes: 1, seed: 7 };
            let mut report = CheckReport::new("it".to_owned(), "websocket", true);
            let promises = DeclaredCapabilities { deterministic: true, starts_servers: false };
            run_rules(&CheckedServer::Sockets(Arc::new(client)), &plan, promises, &mut report).await.unwrap();
            serving.abort();
            let table = report.table();
            for line in [
                "holds        seed",
                "holds        isolation",
                "holds        bad actions",
                "not offered  fork",
            ] {
                assert!(table.contains(line), "{table}");
            }
            assert_eq!(report.failures(), 0, "{table}");
        }
    }

    #[tokio::test]
    async fn one_that_promises_nothing_is_not_held_to_it() {
        let plan = CheckPlan { actions: None, episodes: 1, seed: 7 };
        let table = in_process(nondeterministic(false), &plan).await.unwrap().table();
        assert!(table.contains("not offered  seed"), "{table}");
        assert!(table.contains("holds        at most once"), "{table}");
    }
}
