//! The end of a process on SIGTERM or SIGINT (Ctrl-C), whatever its threads are doing.
//!
//! A thread of its own waits for the signals and keeps the times: an environment may block every thread of
//! the runtime, and then neither signals nor timers of the runtime come through.
//!
//! Invariant: the process ends within the drain time plus one second after the first signal, and within one
//! second after a second one. `crates/oxenv-server/tests/it/shutdown.rs` holds it.

use std::future::Future;
use std::io;
use std::sync::mpsc::{SyncSender, channel, sync_channel};
use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How long everything has to end once the drain is over.
const END_TIMEOUT: Duration = Duration::from_secs(1);
/// After this part of it nothing waits any longer, so that the process can end normally.
const GIVE_UP_AFTER: Duration = Duration::from_millis(700);
/// How long the last line of the log may take: the log may have no reader.
const LOG_TIMEOUT: Duration = Duration::from_millis(100);
/// How long the handlers that run at the exit of a process may take.
const EXIT_TIMEOUT: Duration = Duration::from_millis(500);

/// Signals when a process must end, and ends it if it does not end in time.
///
/// ```no_run
/// # async fn serve(server: oxenv_server::Server) -> std::io::Result<()> {
/// let shutdown = oxenv_server::Shutdown::on_signals(std::time::Duration::from_secs(5))?;
/// server.run_until(&shutdown).await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    requested: CancellationToken,
    hurried: CancellationToken,
    over: CancellationToken,
}

impl Shutdown {
    /// The exit code of the process if it has to be ended.
    pub const EXIT_CODE: i32 = 5;

    /// Watches for SIGTERM and SIGINT from now on, for the rest of the process; they do not end it by
    /// themselves any more. After the first one, calls in flight may finish within `drain`; a second one cuts
    /// that short. A process that still runs a second later is ended with [`Shutdown::EXIT_CODE`], after an
    /// error in the log.
    ///
    /// # Errors
    /// The operating system's, if there can be no thread or no handler.
    pub fn on_signals(drain: Duration) -> io::Result<Self> {
        let shutdown = Shutdown::default();
        let (ready, is_ready) = sync_channel(1);
        let watched = shutdown.clone();
        let watch = move || watched.watch(drain, &ready);
        thread::Builder::new().name("oxenv-signals".to_owned()).spawn(watch)?;
        is_ready.recv().unwrap_or_else(|_| Err(io::Error::other("the thread for signals ended")))?;
        Ok(shutdown)
    }

    /// Waits for the first signal.
    pub async fn requested(&self) {
        self.requested.cancelled().await;
    }

    /// Waits until calls in flight are not waited for any more: the drain time is over, or there was a second
    /// signal.
    pub async fn give_up_time(&self) {
        self.hurried.cancelled().await;
    }

    /// Waits for some work, but not beyond the time that the process has. `None` if it was not done by then;
    /// it is dropped.
    pub async fn finish<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.over.cancelled() => None,
        }
    }

    /// Whether the time is over that the process has.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// The thread: waits for signals, and returns never once there was one.
    fn watch(&self, drain: Duration, ready: &SyncSender<io::Result<()>>) {
        let runtime = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(ready.send(Err(error))),
        };
        runtime.block_on(async {
            let mut signals = match Signals::new() {
                Ok(signals) => signals,
                Err(error) => return drop(ready.send(Err(error))),
            };
            let _ = ready.send(Ok(()));
            signals.next().await;
            self.requested.cancel();
            let why = tokio::select! {
                () = sleep(drain) => "the drain time is over",
                () = signals.next() => "there was a second signal",
            };
            self.hurried.cancel();
            sleep(GIVE_UP_AFTER).await;
            self.over.cancel();
            sleep(END_TIMEOUT.saturating_sub(GIVE_UP_AFTER)).await;
            end(why);
        });
    }
}

/// The signals that ask for an end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Ends this process, which has not ended normally.
fn end(why: &'static str) {
    let (logged, is_logged) = channel();
    // In a thread, because a log without a reader blocks its writer.
    let _ = thread::Builder::new().spawn(move || {
        let waited = END_TIMEOUT.as_secs();
        tracing::error!(
            "ending the process: {why}, and something still runs {waited} s later; \
             look for an environment that blocks its thread, or a log that nobody reads"
        );
        let _ = logged.send(());
    });
    let _ = is_logged.recv_timeout(LOG_TIMEOUT);
    // What runs at the exit of a process may be blocked as well.
    let _ = thread::Builder::new().spawn(|| {
        thread::sleep(EXIT_TIMEOUT);
        std::process::abort();
    });
    std::process::exit(Shutdown::EXIT_CODE);
}
