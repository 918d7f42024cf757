//! [`Claim`]: what of Fleet's is ours and has to be given back.
//!
//! Invariant: what is claimed is deleted, by [`Claim::end`] or by the drop, unless it is released. A request whose
//! answer did not come counts as an instance until it is known that there is none.

use oxenv_core::after;
use std::sync::LazyLock;
use std::sync::mpsc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::control::FleetControl;
use super::create::{CreateRequest, Recovered, recover};
use crate::blocking;
use crate::error::{ClientError, Code, Result};

/// How long a deletion that nobody waits for is tried: of an instance, and of what may be none.
const STUBBORN: (Duration, Duration) = (Duration::from_mins(2), Duration::from_secs(15));

/// How long a runtime that ends waits for a deletion.
const FAREWELL: Duration = Duration::from_secs(5);

/// Deletions that are under way, in this process.
static UNDER_WAY: LazyLock<watch::Sender<usize>> = LazyLock::new(|| watch::Sender::new(0));

/// What could not be deleted, in words, until somebody asks.
static LEFT: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// What is ours.
pub(super) struct Claim {
    control: FleetControl,
    holding: Holding,
}

enum Holding {
    Nothing,
    Perhaps(CreateRequest),
    Instance(String),
}

/// Waits until no deletion is under way that a drop began, in this process, and gives what could not be deleted since
/// it was asked last, in words. Programs that end right after they dropped a
/// [`FleetEnvClient`](super::FleetEnvClient), or a future of [`from_fleet`](super::FleetEnvClient::from_fleet), wait
/// for this first.
pub async fn deletions_done() -> Vec<String> {
    let mut under_way = UNDER_WAY.subscribe();
    // The sender is never dropped.
    let _ = under_way.wait_for(|count| *count == 0).await;
    std::mem::take(&mut *LEFT.lock())
}

impl Claim {
    pub(super) fn nothing_of(control: FleetControl) -> Self {
        Claim { control, holding: Holding::Nothing }
    }

    /// A request is to be sent: from now on there may be an instance.
    pub(super) fn asked(&mut self, request: &CreateRequest) {
        self.holding = Holding::Perhaps(request.clone());
    }

    /// There is that instance.
    pub(super) fn holds(&mut self, id: &str) {
        self.holding = Holding::Instance(id.to_owned());
    }

    /// There surely is no instance, or it is somebody else's care now.
    pub(super) fn nothing(&mut self) {
        self.holding = Holding::Nothing;
    }

    /// The instance, as far as it is known.
    pub(super) fn instance(&self) -> Option<&str> {
        match &self.holding {
            Holding::Instance(id) => Some(id),
            Holding::Nothing | Holding::Perhaps(_) => None,
        }
    }

    /// Deletes what is claimed. What could not be deleted stays claimed.
    ///
    /// # Errors
    /// If Fleet does not say that it is gone.
    pub(super) async fn end(&mut self, deadline: Instant) -> Result<()> {
        if let Holding::Perhaps(request) = &self.holding {
            self.holding = match recover(&self.control, request, deadline).await? {
                Recovered::Instance(id) => Holding::Instance(id),
                Recovered::Nothing => Holding::Nothing,
            };
        }
        if let Holding::Instance(id) = &self.holding {
            self.control.delete_until(id, deadline).await?;
            self.holding = Holding::Nothing;
        }
        Ok(())
    }

    async fn end_stubbornly(mut self) {
        let time = if self.instance().is_some() { STUBBORN.0 } else { STUBBORN.1 };
        let until = after(Instant::now(), time);
        let mut pause = Duration::from_millis(200);
        while let Err(error) = self.end(until).await {
            if after(Instant::now(), pause) >= until || !worth_it(&error) {
                let which = match self.instance() {
                    Some(id) => format!("the instance '{id}' may still run"),
                    None => "an instance may have been made and still run".to_owned(),
                };
                tracing::error!(%error, "{which}");
                LEFT.lock().push(format!("{which}: {error}"));
                break;
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
        // Whatever is left was told; its drop must not begin again.
        self.nothing();
    }
}

fn worth_it(error: &ClientError) -> bool {
    !matches!(error.code(), Code::FleetUnauthorized | Code::FleetForbidden | Code::InvalidOptions)
}

impl Drop for Claim {
    fn drop(&mut self) {
        let holding = std::mem::replace(&mut self.holding, Holding::Nothing);
        if matches!(holding, Holding::Nothing) {
            return;
        }
        let mut claim = Claim { control: self.control.clone(), holding };
        let (finished, wait) = mpsc::channel();
        let counted = Counted::new();
        blocking::runtime().spawn(async move {
            // The caller's runtime may end before the deletion does, and its connections with it.
            if let Ok(fresh) = claim.control.fresh() {
                claim.control = fresh;
            }
            claim.end_stubbornly().await;
            drop(counted);
            let _: std::result::Result<(), _> = finished.send(());
        });
        if let Ok(handle) = Handle::try_current() {
            // A runtime that is dropped waits for its blocking tasks: so a program whose `main` ends by an error
            // does not end before its instance.
            handle.spawn_blocking(move || wait.recv_timeout(FAREWELL));
        }
    }
}

/// One of the deletions under way.
struct Counted;

impl Counted {
    fn new() -> Self {
        UNDER_WAY.send_modify(|count| *count += 1);
        Counted
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        UNDER_WAY.send_modify(|count| *count -= 1);
    }
}
