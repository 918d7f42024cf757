//! What it takes to copy a session: slots at once or none, one deadline for all copies, and a lease that does
//! not run out meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use oxenv_core::{
    CopySource, EndReason, EnvironmentContext, EnvironmentFactory, EnvironmentInstance, EnvironmentSpec,
    Execution, Failure, ForkMode, OpenKey, Recorder, Session, SessionOptions, SessionSource, SessionStore,
    StoreLimits, Toolbox, Work,
};
use oxenv_wire::{Delivered, ErrorCode, Phase};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::stage::{Scripted, Stage, eventually};
use crate::support::{close, code, observe, open, reset, settled, spawn_step, store_with};

const SECOND: Duration = Duration::from_secs(1);

fn forking(stage: &Stage) -> Scripted {
    Scripted::new(stage, Execution::Task).spec(|spec| {
        spec.capabilities.fork = ForkMode::Native;
        spec.capabilities.snapshot = true;
    })
}

fn four() -> StoreLimits {
    StoreLimits { max_sessions: 4, ..StoreLimits::default() }
}

/// Forks in a task of their own.
fn spawn_forks(
    store: &Arc<SessionStore>,
    session: &Arc<Session>,
    n: usize,
    options: SessionOptions,
) -> JoinHandle<Result<Vec<Arc<Session>>, Failure>> {
    let (store, session) = (Arc::clone(store), Arc::clone(session));
    tokio::spawn(async move { store.fork(&session, n, options).await })
}

async fn at_once(store: &SessionStore) -> Result<Arc<Session>, Failure> {
    store.create(SessionOptions { queue: Some(Duration::ZERO), ..SessionOptions::default() }).await
}

fn of(owner: &str) -> SessionOptions {
    SessionOptions { owner: Some(owner.into()), ..SessionOptions::default() }
}

#[tokio::test]
async fn a_group_of_slots_is_had_at_once_and_nothing_is_held_before() {
    let stage = Stage::default();
    let store = store_with(forking(&stage), four());
    let (session, other) = (open(&store).await, open(&store).await);
    let forks = spawn_forks(&store, &session, 3, SessionOptions::default());
    eventually("it waits", || store.status().waiting == 1).await;
    assert_eq!(store.status().active, 2);
    // The session goes on, and what is free is for others.
    observe(&session, json!({})).await;
    let single = at_once(&store).await.unwrap();
    assert_eq!(store.status().active, 3);
    close(other);
    close(single);
    let forks = forks.await.unwrap().unwrap();
    assert_eq!((forks.len(), store.status().active), (3, 4));
    assert!(forks.iter().all(|fork| fork.info().step_count == 1));
    forks.into_iter().for_each(close);
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test(start_paused = true)]
async fn more_than_there_are_is_refused_at_once_with_both_numbers() {
    let stage = Stage::default();
    let store = store_with(forking(&stage), StoreLimits { max_per_owner: Some(3), ..four() });
    let default = store.default_session(true).await.unwrap();
    let began = Instant::now();
    let refused = async |session: &Arc<Session>, n: usize, options| {
        let failure = store.fork(session, n, options).await.err().unwrap();
        let told = (failure.code, failure.phase, failure.delivered, failure.retryable);
        assert_eq!(told, (ErrorCode::CapacityReached, Phase::Boot, Delivered::No, false));
        failure.message.clone()
    };
    let session = store.create(of("a")).await.unwrap();
    assert_eq!(
        refused(&session, 10, of("a")).await,
        "10 slots at once were asked for, and your token may have 3, one of which the original has: ask for \
         2 at most"
    );
    assert_eq!(
        refused(&default, 4, of("b")).await,
        "4 slots at once were asked for, and your token may have 3: ask for 3 at most"
    );
    close(session);
    close(default);
    settled(&store, &stage).await;
    let wide = store_with(forking(&stage), four());
    let session = open(&wide).await;
    let failure = wide.fork(&session, 10, SessionOptions::default()).await.err().unwrap();
    assert_eq!(
        failure.message,
        "10 slots at once were asked for, and this server has 4, one of which the original has: ask for 3 at \
         most"
    );
    assert_eq!((began.elapsed(), wide.status().waiting), (Duration::ZERO, 0));
    close(session);
    settled(&wide, &stage).await;
}

#[tokio::test(start_paused = true)]
async fn a_group_waits_once_and_not_for_each_slot() {
    let stage = Stage::default();
    let store = store_with(forking(&stage), four());
    let session = open(&store).await;
    let held = [open(&store).await, open(&store).await];
    let began = Instant::now();
    let failure = store.fork(&session, 3, SessionOptions::default()).await.err().unwrap();
    assert_eq!(began.elapsed(), 20 * SECOND);
    assert_eq!((failure.code, failure.retryable), (ErrorCode::CapacityReached, true));
    assert!(failure.message.contains("3 slots at once were asked for. Waited 20 s"), "{failure}");
    assert_eq!(store.status().active, 3);
    held.into_iter().for_each(close);
    // Nor does it wait once for its slots and then again for the session.
    let held = [open(&store).await, open(&store).await];
    let forks = spawn_forks(&store, &session, 3, SessionOptions::default());
    eventually("it waits", || store.status().waiting == 1).await;
    let step = spawn_step(&session, json!({ "do": "wait" }));
    stage.entered().await;
    let began = Instant::now();
    held.into_iter().for_each(close);
    let failure = forks.await.unwrap().err().unwrap();
    assert!(began.elapsed() <= 20 * SECOND, "{:?}", began.elapsed());
    assert_eq!((failure.code, failure.delivered), (ErrorCode::DeadlineExceeded, Delivered::No));
    assert_eq!(store.status().active, 1);
    stage.open("");
    step.await.unwrap().unwrap();
    close(session);
    settled(&store, &stage).await;
}

/// Whoever asks for single slots, again and again, does not keep a group from its slots for ever.
#[tokio::test]
async fn a_group_is_not_starved_by_single_requests() {
    let stage = Stage::default();
    let store = store_with(forking(&stage), four());
    let default = store.default_session(true).await.unwrap();
    let mut busy = [open(&store).await, open(&store).await].to_vec();
    let forks = spawn_forks(&store, &default, 3, of("group"));
    eventually("it waits", || store.status().waiting == 1).await;
    let mut overtaken = 0;
    for round in 0.. {
        assert!(round < 100, "the group starves");
        if forks.is_finished() {
            break;
        }
        // There is always somebody who wants the slot that becomes free.
        if let Ok(session) = at_once(&store).await {
            overtaken += 1;
            busy.push(session);
        }
        busy.drain(..busy.len().min(1)).for_each(close);
        tokio::task::yield_now().await;
    }
    assert_eq!(overtaken, 3, "it is overtaken by as many as it asks for");
    for session in forks.await.unwrap().unwrap().into_iter().chain(busy).chain([default]) {
        close(session);
    }
    settled(&store, &stage).await;
}

/// A group that gives up lets those go on who waited behind it.
#[tokio::test]
async fn a_group_that_leaves_keeps_nobody_waiting() {
    let stage = Stage::default();
    let store = store_with(forking(&stage), four());
    let default = store.default_session(true).await.unwrap();
    let busy = [open(&store).await, open(&store).await, open(&store).await];
    let forks = spawn_forks(&store, &default, 2, of("group"));
    eventually("it waits", || store.status().waiting == 1).await;
    let passed = [at_once(&store).await.unwrap()];
    let [first, second, third] = busy;
    close(first);
    let passed = passed.into_iter().chain([at_once(&store).await.unwrap()]);
    close(second);
    let kept = at_once(&store).await.err().unwrap();
    assert_eq!(kept.code, ErrorCode::CapacityReached);
    assert!(kept.message.contains("3/4 sessions active"), "{kept}");
    assert!(kept.message.ends_with("The free ones are kept for who came before."), "{kept}");
    let behind = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.create(SessionOptions::default()).await }
    });
    eventually("both wait", || store.status().waiting == 2).await;
    forks.abort();
    let behind = behind.await.unwrap().unwrap();
    for session in passed.chain([behind, third, default]) {
        close(session);
    }
    settled(&store, &stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_and_singles_that_come_and_go_lose_no_slot_and_are_all_served() {
    let stage = Stage::default();
    let limits = StoreLimits { max_sessions: 8, max_per_owner: Some(6), ..StoreLimits::default() };
    let store = store_with(forking(&stage), limits);
    let default = store.default_session(true).await.unwrap();
    let served = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..300_u64)
        .map(|n| {
            let (store, default, served) = (Arc::clone(&store), Arc::clone(&default), Arc::clone(&served));
            tokio::spawn(async move {
                let count = usize::try_from(n % 6).unwrap();
                let queue = if n % 7 == 0 { Duration::from_micros(n) } else { Duration::from_secs(3600) };
                let options = SessionOptions { queue: Some(queue), ..of(&format!("owner {}", n % 4)) };
                let take = async {
                    match count {
                        0 => store.create(options).await.map(|session| vec![session]),
                        count => store.fork(&default, count, options).await,
                    }
                };
                let had = match n % 5 {
                    // Some leave early, some wait for a short time only.
                    0 => tokio::time::timeout(Duration::from_micros(10 * n), take).await.ok(),
                    _ => Some(take.await),
                };
                if let Some(Ok(sessions)) = &had {
                    assert_eq!(sessions.len(), count.max(1));
                    assert!(store.status().active <= 8);
                    served.fetch_add(1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                }
                assert!(n % 5 == 0 || n % 7 == 0 || matches!(had, Some(Ok(_))), "{n} was not served");
                had.into_iter().flatten().flatten().for_each(close);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(served.load(Ordering::SeqCst) >= 200);
    close(default);
    settled(&store, &stage).await;
    assert_eq!(store.status().waiting, 0);
}

/// A factory that takes its time for a copy and for a snapshot.
struct Slow {
    inner: Scripted,
    takes: Duration,
}

impl EnvironmentFactory for Slow {
    fn spec(&self) -> &Arc<EnvironmentSpec> {
        EnvironmentFactory::spec(&self.inner)
    }

    fn create(&self, boot: EnvironmentContext) -> Work<'_, Result<EnvironmentInstance, Failure>> {
        self.inner.create(boot)
    }

    fn fork<'a>(
        &'a self,
        boot: EnvironmentContext,
        original: CopySource<'a>,
    ) -> Work<'a, Result<EnvironmentInstance, Failure>> {
        Work::pending(async move {
            tokio::time::sleep(self.takes).await;
            self.inner.fork(boot, original).await
        })
    }

    fn save<'a>(&'a self, original: CopySource<'a>) -> Work<'a, Result<Vec<u8>, Failure>> {
        Work::pending(async move {
            tokio::time::sleep(self.takes).await;
            self.inner.save(original).await
        })
    }

    fn server_tools(&self) -> Arc<Toolbox> {
        self.inner.server_tools()
    }
}

fn slow(stage: &Stage, takes: Duration, limits: StoreLimits) -> Arc<SessionStore> {
    Arc::new(SessionStore::new(Arc::new(Slow { inner: forking(stage), takes }), limits))
}

#[tokio::test(start_paused = true)]
async fn all_copies_are_made_by_one_deadline() {
    let stage = Stage::default();
    let store = slow(&stage, 25 * SECOND, StoreLimits::default());
    let session = open(&store).await;
    let forks = store.fork(&session, 2, SessionOptions::default()).await.unwrap();
    let began = Instant::now();
    let failure = store.fork(&session, 3, SessionOptions::default()).await.err().unwrap();
    assert_eq!(began.elapsed(), 60 * SECOND);
    assert_eq!(failure.code, ErrorCode::FactoryError);
    assert_eq!((store.status().active, store.list().len()), (3, 3));
    forks.into_iter().chain([session]).for_each(close);
    settled(&store, &stage).await;
}

/// A session at work is waited for as long as slots are.
#[tokio::test(start_paused = true)]
async fn a_session_at_work_is_not_waited_for_without_end() {
    let stage = Stage::default();
    let store = store_with(forking(&stage), StoreLimits { queue: 3 * SECOND, ..four() });
    let session = open(&store).await;
    reset(&session).await.unwrap();
    let step = spawn_step(&session, json!({ "do": "wait" }));
    eventually("it runs", || stage.waiting() == 1).await;
    for queue in [None, Some(SECOND), Some(Duration::ZERO)] {
        let began = Instant::now();
        let options = SessionOptions { queue, ..SessionOptions::default() };
        let failure = store.fork(&session, 2, options).await.err().unwrap();
        assert_eq!((failure.code, failure.delivered), (ErrorCode::DeadlineExceeded, Delivered::No));
        let waited = queue.map_or(3 * SECOND, |queue| if queue.is_zero() { 20 * SECOND } else { queue });
        assert_eq!(began.elapsed(), waited);
    }
    let began = Instant::now();
    let failure = store.snapshot(&session).await.unwrap_err();
    assert_eq!((failure.code, began.elapsed()), (ErrorCode::DeadlineExceeded, 3 * SECOND));
    stage.open("");
    step.await.unwrap().unwrap();
    let forks = store.fork(&session, 2, SessionOptions::default()).await.unwrap();
    forks.into_iter().chain([session]).for_each(close);
    settled(&store, &stage).await;
}

/// What is done again for a copy is part of making it.
#[tokio::test(start_paused = true)]
async fn a_copy_by_replay_has_the_deadline_too() {
    let stage = Stage::default();
    let store = store_with(
        Scripted::new(&stage, Execution::Task).spec(|spec| spec.capabilities.fork = ForkMode::Replay),
        StoreLimits::default(),
    );
    let session = open(&store).await;
    reset(&session).await.unwrap();
    stage.open("");
    observe(&session, json!({ "do": "wait" })).await;
    let began = Instant::now();
    let failure = store.fork(&session, 1, SessionOptions::default()).await.err().unwrap();
    assert_eq!((failure.code, began.elapsed()), (ErrorCode::FactoryError, 60 * SECOND));
    assert_eq!(store.status().active, 1);
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_does_not_run_out_while_its_session_is_copied() {
    let stage = Stage::default();
    let store = slow(&stage, 25 * SECOND, StoreLimits { max_sessions: 3, ..StoreLimits::default() });
    let reaper = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.reap().await }
    });
    let lease = SessionOptions { lease: Some(5 * SECOND), ..SessionOptions::default() };
    for what in ["fork", "snapshot", "wait"] {
        let session = store.create(lease.clone()).await.unwrap();
        match what {
            "fork" => {
                let forks = store.fork(&session, 2, lease.clone()).await.unwrap();
                // Nor has the time of a copy run before it is there.
                assert!(forks.iter().all(|fork| fork.ended().is_none()));
                forks.into_iter().for_each(close);
            }
            "snapshot" => drop(store.snapshot(&session).await.unwrap()),
            _ => {
                let other = open(&store).await;
                let full = store.fork(&session, 2, SessionOptions::default()).await.map(drop);
                assert_eq!(code(full), ErrorCode::CapacityReached);
                close(other);
            }
        }
        // It begins anew when that is over.
        tokio::time::sleep(4 * SECOND).await;
        assert_eq!(session.ended(), None, "{what}");
        tokio::time::sleep(3 * SECOND).await;
        assert_eq!(session.ended(), Some(EndReason::Expired), "{what}");
    }
    settled(&store, &stage).await;
    reaper.abort();
}

/// A recorder that takes a number of entries, and then none.
struct Full(AtomicUsize);

impl Recorder for Full {
    fn append(&self, _: &oxenv_core::RecordEntry<'_>) -> Work<'static, Result<(), Failure>> {
        let room =
            self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        let full = || Failure::new(ErrorCode::RecordFailed, "the disk is full");
        Work::pending(async move {
            tokio::task::yield_now().await;
            if room { Ok(()) } else { Err(full()) }
        })
    }
}

#[tokio::test]
async fn copies_are_found_when_all_are_recorded_or_never() {
    let stage = Stage::default();
    let recorder = Arc::new(Full(AtomicUsize::new(1 + 3)));
    let store = SessionStore::new(Arc::new(forking(&stage)), StoreLimits::default()).with_recorder(recorder);
    let session = open(&store).await;
    // The fourth one has no room.
    let failed = store.fork(&session, 4, SessionOptions::default()).await.map(drop);
    assert_eq!(code(failed), ErrorCode::RecordFailed);
    assert_eq!((store.status().active, store.list().len()), (1, 1));
    // Nor is anything left of what is given up on its way.
    assert!(store.fork(&session, 4, SessionOptions::default()).now_or_never().is_none());
    assert_eq!((store.status().active, store.list().len()), (1, 1));
    close(session);
    settled(&store, &stage).await;
}

fn key(ends_with_caller: bool) -> Option<OpenKey<'static>> {
    Some(OpenKey { key: "k", ends_with_caller })
}

#[tokio::test(start_paused = true)]
async fn what_is_for_its_caller_alone_is_given_up_with_it_and_a_repeat_makes_it() {
    let stage = Stage::default();
    let store = slow(&stage, 25 * SECOND, StoreLimits::default());
    let session = open(&store).await;
    let fork = || SessionSource::Fork {
        original: session.id().to_owned(),
        found: Ok(Arc::clone(&session)),
        count: 2,
    };
    let begin = |ends_with_caller| {
        let (store, source) = (Arc::clone(&store), fork());
        tokio::spawn(
            async move { store.open(source, SessionOptions::default(), key(ends_with_caller)).await },
        )
    };
    let first = begin(true);
    eventually("it is made", || store.status().active == 3).await;
    let second = begin(true);
    tokio::task::yield_now().await;
    first.abort();
    // Whoever waits for it makes it then, and is the first.
    let second = second.await.unwrap();
    assert!(!second.repeated);
    assert_eq!((second.outcome().unwrap().len(), store.status().active), (2, 3));
    let again = begin(true).await.unwrap();
    assert_eq!((again.outcome().unwrap(), again.repeated), (second.outcome().unwrap(), true));
    store.list().into_iter().filter(|other| other.id() != session.id()).for_each(close);
    // One that need not end with its caller goes on without it.
    let goes_on = SessionOptions { seed: Some(3), ..SessionOptions::default() };
    let named = Some(OpenKey { key: "other", ends_with_caller: false });
    assert!(store.open(fork(), goes_on.clone(), named).now_or_never().is_none());
    let answer = store.open(fork(), goes_on, named).await;
    assert!(answer.repeated && answer.outcome().is_ok());
    store.list().into_iter().for_each(close);
    drop(session);
    settled(&store, &stage).await;
}
