//! A record whose disk is slow: who waits for it, and who does not.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use oxenv_core::{Execution, Failure, RecordEntry, RecordEvent, Recorder, SessionStore, StoreLimits, Work};
use oxenv_server::ServerConfig;
use oxenv_test_support::tally::{report, tries};
use oxenv_test_support::until;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::served::Served;
use crate::stage::{Scripted, Stage};

/// A disk that keeps the steps of some sessions back, until it is told to go on.
#[derive(Clone, Default)]
struct Disk(Arc<Inner>);

#[derive(Default)]
struct Inner {
    stuck: Mutex<HashMap<String, Arc<Semaphore>>>,
    all: Mutex<Option<Arc<Semaphore>>>,
    waiting: Mutex<usize>,
}

impl Recorder for Disk {
    fn append(&self, entry: &RecordEntry<'_>) -> Work<'static, Result<(), Failure>> {
        let gate = self.0.stuck.lock().unwrap().get(entry.session_id).cloned();
        match gate.or_else(|| self.0.all.lock().unwrap().clone()) {
            Some(gate) if matches!(entry.event, RecordEvent::Step { .. }) => {
                *self.0.waiting.lock().unwrap() += 1;
                let disk = self.clone();
                Work::pending(async move {
                    gate.acquire().await.unwrap().forget();
                    *disk.0.waiting.lock().unwrap() -= 1;
                    Ok(())
                })
            }
            _ => Work::done(Ok(())),
        }
    }
}

impl Disk {
    fn waiting(&self) -> usize {
        *self.0.waiting.lock().unwrap()
    }
}

async fn recorded(disk: &Disk) -> Served {
    let stage = Stage::default();
    let factory = Scripted::new(&stage, Execution::Inline);
    let recorder: Arc<dyn Recorder> = Arc::new(disk.clone());
    let store = SessionStore::new(Arc::new(factory), StoreLimits::default()).with_recorder(recorder);
    Served::over("127.0.0.1:0".parse().unwrap(), &stage, store, ServerConfig::default()).await
}

/// While one session waits for the disk, another is stepped as if nothing was.
#[tokio::test]
async fn a_slow_disk_keeps_back_only_what_is_written_to_it() {
    let tried = tries(500, 10_000);
    let disk = Disk::default();
    let served = recorded(&disk).await;
    let (mut slow, mut quick) = (served.ws("/ws").await, served.ws("/ws").await);
    let undisturbed = longest_of(tried, &mut quick).await;
    // The first session of the list may be either; the slow one is known by its step.
    assert_eq!(slow.step(&json!({})).await["data"]["observation"]["count"], 1);
    for session in served.app.store.list().iter().filter(|session| session.info().step_count == 1) {
        disk.0.stuck.lock().unwrap().insert(session.id().to_owned(), Arc::new(Semaphore::new(0)));
    }
    slow.send(&json!({ "type": "step", "data": {} })).await;
    until("the slow one waits for the disk", || disk.waiting() == 1).await;
    let disturbed = longest_of(tried, &mut quick).await;
    assert_eq!(disk.waiting(), 1, "the slow one was answered before its record was there");
    disk.0.stuck.lock().unwrap().values().for_each(|gate| gate.add_permits(1));
    assert_eq!(slow.recv().await["data"]["observation"]["count"], 2);
    slow.close().await;
    quick.close().await;
    served.end().await;
    let note = format!(
        "steps of one session while another waits for its record; the longest took {:.1} ms, {:.1} ms before",
        disturbed.as_secs_f64() * 1e3,
        undisturbed.as_secs_f64() * 1e3
    );
    report("slow disk, another session", tried, tried, &note);
}

async fn longest_of(steps: usize, socket: &mut oxenv_test_support::Ws) -> Duration {
    let mut longest = Duration::ZERO;
    for _ in 0..steps {
        let began = Instant::now();
        assert_eq!(socket.step(&json!({})).await["type"], "observation");
        longest = longest.max(began.elapsed());
    }
    longest
}

/// When everybody waits for the disk, they wait together and not one after the other.
#[tokio::test]
async fn sessions_wait_for_a_slow_disk_together() {
    const SESSIONS: usize = 64;
    let rounds = tries(5, 100);
    let disk = Disk::default();
    let served = recorded(&disk).await;
    let gate = Arc::new(Semaphore::new(0));
    *disk.0.all.lock().unwrap() = Some(Arc::clone(&gate));
    let mut sockets = Vec::new();
    for _ in 0..SESSIONS {
        sockets.push(served.ws("/ws").await);
    }
    for round in 1..=rounds {
        let mut steps = JoinSet::new();
        for mut socket in sockets.drain(..) {
            steps.spawn(async move {
                assert_eq!(socket.step(&json!({})).await["data"]["observation"]["count"], round);
                socket
            });
        }
        until("all wait at once", || disk.waiting() == SESSIONS).await;
        gate.add_permits(SESSIONS);
        sockets = steps.join_all().await;
    }
    for socket in sockets {
        socket.close().await;
    }
    served.end().await;
    let note =
        "steps of 64 sessions that wait for the disk, all at once, each answered when its record was there";
    report("slow disk, every session", rounds * SESSIONS, rounds * SESSIONS, note);
}
