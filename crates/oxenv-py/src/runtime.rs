//! The runtime of all clients of this process, and the end of what they hold.
//!
//! Invariant: a process that was forked never touches what its parent's thread held: it has a runtime of its own, and
//! what the parent made is of another generation.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use pyo3::prelude::*;
use tokio::runtime::{Builder, Runtime};
use tokio::task::{AbortHandle, JoinSet};

use crate::runtime_driver::Keeper;

/// So many times may a process and its descendants fork one after the other.
const GENERATIONS: usize = 64;

static GENERATION: AtomicUsize = AtomicUsize::new(0);
/// One per generation, because a lock that another thread held at the fork stays locked in the child.
static SLOTS: [OnceLock<Slot>; GENERATIONS] = [const { OnceLock::new() }; GENERATIONS];

/// What ends on its own: its session, its instance.
pub(crate) type Ending = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What is to be ended before the process exits.
pub(crate) trait Held: Send + Sync {
    /// Ends it and waits for that.
    fn end(self: Arc<Self>) -> Ending;
}

struct Slot {
    runtime: Runtime,
    keeper: Keeper,
    held: Mutex<Vec<Weak<dyn Held>>>,
    endings: Mutex<JoinSet<()>>,
}

/// The number of forks between the first process and this one.
pub(crate) fn generation() -> usize {
    GENERATION.load(Ordering::Relaxed)
}

/// The runtime of this process.
pub(crate) fn runtime() -> &'static Runtime {
    &slot().runtime
}

/// Waits for a future on this thread, which drives the runtime meanwhile.
pub(crate) fn wait<F: Future>(future: F) -> F::Output {
    let slot = slot();
    slot.keeper.wait(&slot.runtime, future)
}

/// Starts what no thread waits for.
pub(crate) fn start(work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    let slot = slot();
    let started = slot.keeper.started();
    let task = slot.runtime.spawn(async move {
        let _started = started;
        work.await;
    });
    task.abort_handle()
}

/// Notes something that is to be ended before the process exits.
pub(crate) fn hold(held: &Arc<impl Held + 'static>) {
    let weak: Weak<dyn Held> = Arc::downgrade(held) as Weak<dyn Held>;
    let mut list = lock(&slot().held);
    // Only when it would grow, so that many sessions are not gone through for each new one.
    if list.len() == list.capacity() {
        list.retain(|other| other.strong_count() > 0);
    }
    list.push(weak);
}

/// Runs an end in the background; [`shut_down`] waits for it.
pub(crate) fn end_later(ending: impl Future<Output = ()> + Send + 'static) {
    let slot = slot();
    let mut endings = lock(&slot.endings);
    while endings.try_join_next().is_some() {}
    endings.spawn_on(ending, slot.runtime.handle());
}

/// Locks, whatever a panicking thread left behind: the data is a list in a valid state at any time.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Called in a child that was forked.
#[pyfunction]
pub(crate) fn forked() -> PyResult<()> {
    if generation() + 1 >= GENERATIONS {
        return Err(pyo3::exceptions::PyRuntimeError::new_err(
            "oxenv: too many forks one after the other; start processes with the spawn method",
        ));
    }
    GENERATION.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Ends every session and instance that is still held, and waits for those that are ending; at most so many seconds.
/// Says whether all have ended.
#[pyfunction]
pub(crate) fn shut_down(py: Python<'_>, seconds: f64) -> bool {
    let Some(slot) = SLOTS.get(generation()).and_then(OnceLock::get) else { return true };
    let limit = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO);
    py.detach(|| {
        for held in std::mem::take(&mut *lock(&slot.held)) {
            if let Some(held) = held.upgrade() {
                end_later(held.end());
            }
        }
        let mut endings = std::mem::take(&mut *lock(&slot.endings));
        let all = async {
            while endings.join_next().await.is_some() {}
            // Those of requests that were given up.
            oxenv_client::fleet::deletions_done().await;
        };
        slot.keeper.wait(&slot.runtime, async { tokio::time::timeout(limit, all).await }).is_ok()
    })
}

fn slot() -> &'static Slot {
    let own = &SLOTS[generation()];
    own.get_or_init(|| {
        let keep = || {
            let slot = own.wait();
            slot.keeper.run(&slot.runtime)
        };
        thread::Builder::new().name("oxenv-client".to_owned()).spawn(keep).expect("a thread can be started");
        Slot {
            runtime: Builder::new_current_thread().enable_all().build().expect("a runtime can be made"),
            keeper: Keeper::new(),
            held: Mutex::default(),
            endings: Mutex::default(),
        }
    })
}
