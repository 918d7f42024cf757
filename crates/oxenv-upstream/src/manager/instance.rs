//! A running upstream: its connection, its process and its lists, from its start to its end.
//!
//! Invariant: one task, the keeper, owns the process; it ends when the instance is dropped or dies, and the
//! process with it.

use std::sync::Arc;
use std::time::Duration;

use oxenv_core::CallerChannel;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::temp_folder::TempFolder;
use crate::client::{Connection, Lists, RawRequest, UpstreamError};
use oxenv_process::child::Child;

/// How long to wait for the exit of a process whose output closed, to report how it ended.
const EXIT_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a call waits to learn how its instance ended.
const END_REASON_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the end of an instance is waited for.
const END_TIMEOUT: Duration = Duration::from_secs(3);
/// The least time between two readings of the lists, at first.
const INITIAL_RELIST_PAUSE: Duration = Duration::from_millis(50);
/// The least time between two readings of the lists while the server keeps saying that they have changed.
const MAX_RELIST_PAUSE: Duration = Duration::from_secs(2);

/// What an instance is made of.
pub(super) struct InstanceParts {
    pub(super) connection: Connection,
    pub(super) child: Option<Child>,
    /// Its own folder, removed when it has ended.
    pub(super) scratch: Option<Arc<TempFolder>>,
    /// Lists that its own are compared with.
    pub(super) known: Option<Lists>,
    pub(super) label: String,
    /// How long reading its lists may take.
    pub(super) list_timeout: Duration,
}

/// A running upstream. Dropping it ends it.
pub(super) struct Instance {
    shared: Arc<Shared>,
    pid: Option<u32>,
    started: Instant,
    stop: DropGuard,
}

struct Shared {
    connection: Connection,
    label: String,
    list_timeout: Duration,
    /// The lists as they were read last; an error if they never could be.
    lists: watch::Sender<Option<Result<Lists, String>>>,
    /// How it ended.
    end: watch::Sender<Option<String>>,
    /// Cancelled once nothing of it is left.
    gone: CancellationToken,
    /// Why the last request was not answered although the connection lives on.
    trouble: Mutex<Option<String>>,
}

impl Instance {
    /// Takes over a connection that was greeted, and its process.
    pub(super) fn new(parts: InstanceParts, tracker: &TaskTracker, stop: CancellationToken) -> Self {
        let InstanceParts { connection, child, scratch, known, label, list_timeout } = parts;
        let shared = Arc::new(Shared {
            connection,
            label,
            list_timeout,
            lists: watch::Sender::new(None),
            end: watch::Sender::new(None),
            gone: CancellationToken::new(),
            trouble: Mutex::new(None),
        });
        let pid = child.as_ref().map(Child::pid);
        tracker.spawn(keep(shared.clone(), child, scratch, known, stop.clone()));
        Instance { shared, pid, started: Instant::now(), stop: stop.drop_guard() }
    }

    /// Sends a request; see [`Connection::request`].
    ///
    /// # Errors
    /// See [`UpstreamError`]. If the instance died, it holds how.
    pub(super) async fn request(
        &self,
        request: RawRequest<'_>,
        caller: Option<&dyn CallerChannel>,
    ) -> Result<String, UpstreamError> {
        let shared = &*self.shared;
        let outcome = shared.connection.request(request, caller).await;
        match outcome {
            Ok(_) | Err(UpstreamError::Refused(_)) => {
                if shared.trouble.lock().take().is_some() {
                    // Whatever the failure was, another server may be behind it now.
                    shared.connection.lists_may_differ();
                }
                outcome
            }
            Err(fault) if shared.connection.is_over() => {
                let end = self.end_text().await;
                Err(fault.map(|_| end.clone()))
            }
            Err(UpstreamError::Unavailable(ref why) | UpstreamError::Lost(ref why)) => {
                *shared.trouble.lock() = Some(why.clone());
                outcome
            }
        }
    }

    /// Waits for its first lists.
    ///
    /// # Errors
    /// Why they cannot be read.
    pub(super) async fn first_lists(&self) -> Result<Lists, String> {
        let mut lists = self.shared.lists.subscribe();
        let read = async { lists.wait_for(Option::is_some).await.ok().and_then(|lists| lists.clone()) };
        let read = tokio::select! {
            read = read => read,
            () = self.over() => None,
        };
        match read {
            Some(lists) => lists,
            None => Err(self.end_text().await),
        }
    }

    /// Ends it, also for callers with calls in flight; does not wait.
    pub(super) fn begin_end(&self) {
        self.stop.token().cancel();
    }

    /// Ends it and waits until nothing of it is left, for [`END_TIMEOUT`] at most.
    pub(super) async fn end(&self) {
        self.begin_end();
        let _ = timeout(END_TIMEOUT, self.shared.gone.cancelled()).await;
    }

    /// Counts it there until nothing of it is left.
    pub(super) fn counts_in(&self, running: &TaskTracker) {
        running.spawn(self.shared.gone.clone().cancelled_owned());
    }

    /// Its lists, once they were read; an error if they cannot be.
    pub(super) fn lists(&self) -> Option<Result<Lists, String>> {
        self.shared.lists.borrow().clone()
    }

    /// Its lists as they change, as [`Instance::lists`] gives them, until nothing of it is left.
    pub(super) fn watch_lists(&self) -> watch::Receiver<Option<Result<Lists, String>>> {
        self.shared.lists.subscribe()
    }

    /// The process id of its supervisor, if it is a process.
    pub(super) fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// When it was greeted.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// Whether its server gave it a session of its own.
    pub(super) fn has_session(&self) -> bool {
        self.shared.connection.has_session()
    }

    /// Whether it has died.
    pub(super) fn is_over(&self) -> bool {
        self.shared.connection.is_over()
    }

    /// Waits until it has died.
    pub(super) async fn over(&self) {
        self.shared.connection.over().await;
    }

    /// How it ended; waits a moment until that is known.
    pub(super) async fn end_text(&self) -> String {
        let mut end = self.shared.end.subscribe();
        let known = timeout(END_REASON_TIMEOUT, end.wait_for(Option::is_some)).await;
        let text = known.ok().and_then(Result::ok).and_then(|text| text.clone());
        text.unwrap_or_else(|| self.shared.connection.end().reason)
    }

    /// Why it cannot work at present.
    pub(super) fn problem(&self) -> Option<String> {
        if self.is_over() {
            let end = self.shared.end.borrow().clone();
            return Some(end.unwrap_or_else(|| self.shared.connection.end().reason));
        }
        let unlisted = self.lists().and_then(Result::err);
        self.shared.trouble.lock().clone().or(unlisted)
    }
}

impl Shared {
    /// Reads the lists now and after each change; never ends.
    async fn follow_lists(&self, known: Option<Lists>) {
        let mut known = known;
        let mut pause = INITIAL_RELIST_PAUSE;
        loop {
            match (self.read_lists().await, &known) {
                (Ok(lists), Some(known)) => self.publish(Ok(lists.sharing(known))),
                (Ok(lists), None) => self.publish(Ok(lists)),
                // Its end is reported elsewhere.
                (Err(_), _) if self.connection.is_over() => return std::future::pending().await,
                (Err(why), _) => {
                    tracing::warn!(toolset = %self.label, "its lists cannot be read: {why}");
                    // Those that it had stay offered.
                    if self.lists.borrow().is_none() {
                        self.publish(Err(why));
                    }
                }
            }
            if let Some(Ok(lists)) = &*self.lists.borrow() {
                known = Some(lists.clone());
            }
            sleep(pause).await;
            let quiet = Instant::now();
            self.connection.list_change().await;
            pause = if quiet.elapsed() < pause {
                (pause * 2).min(MAX_RELIST_PAUSE)
            } else {
                INITIAL_RELIST_PAUSE
            };
        }
    }

    async fn read_lists(&self) -> Result<Lists, String> {
        let read = timeout(self.list_timeout, self.connection.lists()).await;
        match read {
            Ok(Ok(lists)) => Ok(lists),
            Ok(Err(UpstreamError::Refused(fault))) => Err(fault.message),
            Ok(Err(UpstreamError::Unavailable(why) | UpstreamError::Lost(why))) => Err(why),
            Err(_) => Err(format!("it did not list its tools within {} s", self.list_timeout.as_secs_f64())),
        }
    }

    fn publish(&self, lists: Result<Lists, String>) {
        let same = match (&*self.lists.borrow(), &lists) {
            (Some(Ok(old)), Ok(new)) => old.is(new),
            _ => false,
        };
        if same {
            return;
        }
        self.lists.send_replace(Some(lists));
    }
}

/// The keeper: follows the lists, notes the end, and ends what is left.
async fn keep(
    shared: Arc<Shared>,
    child: Option<Child>,
    scratch: Option<Arc<TempFolder>>,
    known: Option<Lists>,
    stop: CancellationToken,
) {
    let _gone = shared.gone.clone().drop_guard();
    let following = async {
        tokio::join!(shared.follow_lists(known), shared.connection.subscribe());
    };
    let how = tokio::select! {
        () = stop.cancelled() => "it was ended".to_owned(),
        how = describe_end(&shared.connection, child.as_ref()) => how,
        () = following => "it was ended".to_owned(),
    };
    shared.end.send_replace(Some(how.clone()));
    shared.connection.close(&how).await;
    if let Some(child) = child
        && let Err(error) = child.stop().await
    {
        tracing::warn!(toolset = %shared.label, "{error}");
    }
    TempFolder::release(scratch).await;
}

/// Waits until the connection or the process is over; returns how that came.
async fn describe_end(connection: &Connection, child: Option<&Child>) -> String {
    let Some(child) = child else {
        connection.over().await;
        return connection.end().reason;
    };
    tokio::select! {
        () = connection.over() => {}
        how = child.describe_end() => return how,
    }
    let end = connection.end();
    if !end.by_server {
        return end.reason;
    }
    timeout(EXIT_TIMEOUT, child.describe_end()).await.unwrap_or(end.reason)
}
