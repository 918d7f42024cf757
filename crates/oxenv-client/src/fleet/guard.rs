//! [`InstanceGuard`]: deletes an instance that this process created.
//!
//! Invariant: the instance is deleted, by [`InstanceGuard::delete`] or by the drop, unless the guard is
//! disarmed. A create request without an answer counts as an instance until it is known that there is no
//! instance.

use std::sync::LazyLock;
use std::sync::mpsc;
use std::time::Duration;

use oxenv_wire::after;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::control::FleetControl;
use super::create_request::{CreateRequest, RecoveredInstance, recover};
use crate::blocking;
use crate::error::{ClientError, Code, Result};

/// How long the deletion of an instance is tried in the background.
const BACKGROUND_DELETE_TIMEOUT: Duration = Duration::from_mins(2);

/// How long it is tried while it is not known whether there is an instance.
const UNCERTAIN_DELETE_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a runtime that ends waits for a deletion.
const RUNTIME_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Deletions that are under way, in this process.
static PENDING_DELETIONS: LazyLock<watch::Sender<usize>> = LazyLock::new(|| watch::Sender::new(0));

/// Messages about what could not be deleted, until they are taken.
static UNDELETED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Deletes its instance when it is dropped.
pub(super) struct InstanceGuard {
    control: FleetControl,
    state: GuardState,
}

enum GuardState {
    Empty,
    Requested(CreateRequest),
    Created(String),
}

/// Waits until no deletion is under way that a drop began, in this process, and returns messages about
/// what could not be deleted since the last call. Programs that end right after they dropped a
/// [`FleetEnvClient`](super::FleetEnvClient), or a future of
/// [`from_fleet`](super::FleetEnvClient::from_fleet), wait for this first.
pub async fn deletions_done() -> Vec<String> {
    let mut under_way = PENDING_DELETIONS.subscribe();
    // The sender is never dropped.
    let _ = under_way.wait_for(|count| *count == 0).await;
    std::mem::take(&mut *UNDELETED.lock())
}

impl InstanceGuard {
    pub(super) fn empty(control: FleetControl) -> Self {
        InstanceGuard { control, state: GuardState::Empty }
    }

    /// A create request is about to be sent: from now on there may be an instance.
    pub(super) fn create_requested(&mut self, request: &CreateRequest) {
        self.state = GuardState::Requested(request.clone());
    }

    /// The request created this instance.
    pub(super) fn created(&mut self, id: &str) {
        self.state = GuardState::Created(id.to_owned());
    }

    /// There is nothing to delete, or the caller does it.
    pub(super) fn disarm(&mut self) {
        self.state = GuardState::Empty;
    }

    /// The instance, as far as it is known.
    pub(super) fn instance_id(&self) -> Option<&str> {
        match &self.state {
            GuardState::Created(id) => Some(id),
            GuardState::Empty | GuardState::Requested(_) => None,
        }
    }

    /// Deletes the instance. After a failure it is still guarded.
    ///
    /// # Errors
    /// If Fleet does not say that it is gone.
    pub(super) async fn delete(&mut self, deadline: Instant) -> Result<()> {
        if let GuardState::Requested(request) = &self.state {
            self.state = match recover(&self.control, request, deadline).await? {
                RecoveredInstance::Created(id) => GuardState::Created(id),
                RecoveredInstance::None => GuardState::Empty,
            };
        }
        if let GuardState::Created(id) = &self.state {
            self.control.delete_until(id, deadline).await?;
            self.state = GuardState::Empty;
        }
        Ok(())
    }

    async fn delete_with_retries(mut self) {
        let time =
            if self.instance_id().is_some() { BACKGROUND_DELETE_TIMEOUT } else { UNCERTAIN_DELETE_TIMEOUT };
        let until = after(Instant::now(), time);
        let mut pause = Duration::from_millis(200);
        while let Err(error) = self.delete(until).await {
            if after(Instant::now(), pause) >= until || !may_retry(&error) {
                let which = match self.instance_id() {
                    Some(id) => format!("the instance '{id}' may still run"),
                    None => "an instance may have been made and still run".to_owned(),
                };
                tracing::error!(%error, "{which}");
                UNDELETED.lock().push(format!("{which}: {error}"));
                break;
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
        // Everything left was reported; its drop must not begin again.
        self.disarm();
    }
}

fn may_retry(error: &ClientError) -> bool {
    !matches!(error.code(), Code::FleetUnauthorized | Code::FleetForbidden | Code::InvalidOptions)
}

impl Drop for InstanceGuard {
    fn drop(&mut self) {
        let holding = std::mem::replace(&mut self.state, GuardState::Empty);
        if matches!(holding, GuardState::Empty) {
            return;
        }
        let mut guard = InstanceGuard { control: self.control.clone(), state: holding };
        let (finished, wait) = mpsc::channel();
        let counted = PendingDeletion::new();
        blocking::runtime().spawn(async move {
            // The caller's runtime may end before the deletion does, and its connections with it.
            if let Ok(fresh) = guard.control.reconnected() {
                guard.control = fresh;
            }
            guard.delete_with_retries().await;
            drop(counted);
            let _: std::result::Result<(), _> = finished.send(());
        });
        if let Ok(handle) = Handle::try_current() {
            // A runtime that is dropped waits for its blocking tasks: so a program whose `main` ends by an
            // error does not end before its instance.
            handle.spawn_blocking(move || wait.recv_timeout(RUNTIME_SHUTDOWN_TIMEOUT));
        }
    }
}

/// Counts a deletion that is under way.
struct PendingDeletion;

impl PendingDeletion {
    fn new() -> Self {
        PENDING_DELETIONS.send_modify(|count| *count += 1);
        PendingDeletion
    }
}

impl Drop for PendingDeletion {
    fn drop(&mut self) {
        PENDING_DELETIONS.send_modify(|count| *count -= 1);
    }
}
