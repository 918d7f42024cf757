//! The runtime of all clients of this process, and the end of what they hold.
//!
//! Invariant: a process that was forked never touches what its parent's thread held: it has a runtime of its
//! own, and what the parent made is of another generation.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use pyo3::prelude::*;
use tokio::runtime::{Builder, Runtime};
use tokio::task::{AbortHandle, JoinSet};

use crate::runtime_driver::RuntimeDriver;

/// Maximum number of successive forks of a process and its descendants.
const MAX_GENERATIONS: usize = 64;

static GENERATION: AtomicUsize = AtomicUsize::new(0);
/// One per generation, because a lock that another thread held at the fork stays locked in the child.
static RUNTIMES: [OnceLock<ProcessRuntime>; MAX_GENERATIONS] = [const { OnceLock::new() }; MAX_GENERATIONS];

/// What ends on its own: its session, its instance.
pub(crate) type ExitFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What to end before the process exits.
pub(crate) trait ExitHook: Send + Sync {
    /// Ends it and waits for that.
    fn end(self: Arc<Self>) -> ExitFuture;
}

struct ProcessRuntime {
    runtime: Runtime,
    driver: RuntimeDriver,
    exit_hooks: Mutex<Vec<Weak<dyn ExitHook>>>,
    cleanups: Mutex<JoinSet<()>>,
}

/// The number of forks between the first process and this one.
pub(crate) fn generation() -> usize {
    GENERATION.load(Ordering::Relaxed)
}

/// The runtime of this process.
pub(crate) fn runtime() -> &'static Runtime {
    &process_runtime().runtime
}

/// Waits for a future on this thread, which drives the runtime meanwhile.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let process_runtime = process_runtime();
    process_runtime.driver.block_on(&process_runtime.runtime, future)
}

/// Starts what no thread waits for.
pub(crate) fn spawn(work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    let process_runtime = process_runtime();
    let started = process_runtime.driver.background_task();
    let task = process_runtime.runtime.spawn(async move {
        let _started = started;
        work.await;
    });
    task.abort_handle()
}

/// Registers something to end before the process exits.
pub(crate) fn register_exit_hook(held: &Arc<impl ExitHook + 'static>) {
    let weak: Weak<dyn ExitHook> = Arc::downgrade(held) as Weak<dyn ExitHook>;
    let mut list = lock(&process_runtime().exit_hooks);
    // Only when it would grow, so that many sessions are not gone through for each new one.
    if list.len() == list.capacity() {
        list.retain(|other| other.strong_count() > 0);
    }
    list.push(weak);
}

/// Runs an end in the background; [`shut_down`] waits for it.
pub(crate) fn spawn_cleanup(ending: impl Future<Output = ()> + Send + 'static) {
    let process_runtime = process_runtime();
    let mut endings = lock(&process_runtime.cleanups);
    while endings.try_join_next().is_some() {}
    endings.spawn_on(ending, process_runtime.runtime.handle());
}

/// Locks, whatever a panicking thread left behind: the data is a list in a valid state at any time.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Called in a child that was forked.
#[pyfunction]
pub(crate) fn forked() -> PyResult<()> {
    if generation() + 1 >= MAX_GENERATIONS {
        return Err(pyo3::exceptions::PyRuntimeError::new_err(
            "oxenv: too many forks one after the other; start processes with the spawn method",
        ));
    }
    GENERATION.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Ends every session and instance that is still held, and waits for those that are ending, for at most the
/// given number of seconds. Returns whether all have ended.
#[pyfunction]
pub(crate) fn shut_down(py: Python<'_>, seconds: f64) -> bool {
    let Some(process_runtime) = RUNTIMES.get(generation()).and_then(OnceLock::get) else { return true };
    let limit = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO);
    py.detach(|| {
        for held in std::mem::take(&mut *lock(&process_runtime.exit_hooks)) {
            if let Some(held) = held.upgrade() {
                spawn_cleanup(held.end());
            }
        }
        let mut endings = std::mem::take(&mut *lock(&process_runtime.cleanups));
        let all = async {
            while endings.join_next().await.is_some() {}
            // Those of requests that were given up.
            oxenv_client::fleet::deletions_done().await;
        };
        process_runtime
            .driver
            .block_on(&process_runtime.runtime, async { tokio::time::timeout(limit, all).await })
            .is_ok()
    })
}

fn process_runtime() -> &'static ProcessRuntime {
    let own = &RUNTIMES[generation()];
    own.get_or_init(|| {
        let keep = || {
            let process_runtime = own.wait();
            process_runtime.driver.drive(&process_runtime.runtime)
        };
        thread::Builder::new().name("oxenv-client".to_owned()).spawn(keep).expect("a thread can be started");
        ProcessRuntime {
            runtime: Builder::new_current_thread().enable_all().build().expect("a runtime can be made"),
            driver: RuntimeDriver::new(),
            exit_hooks: Mutex::default(),
            cleanups: Mutex::default(),
        }
    })
}
