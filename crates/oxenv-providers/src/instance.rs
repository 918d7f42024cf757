//! The trait of a way to start servers, and the handle of one that was started.
//!
//! Invariant: what a provider's `start` began is ended if its future is dropped, if it fails, and when the
//! [`Instance`] is dropped, unless it is detached.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::ProviderError;
use crate::spec::InstanceSpec;

/// A future of a provider.
pub type ProviderFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, ProviderError>> + Send + 'a>>;

/// A way to start environment servers.
///
/// # Behavior
///
/// - `start` gives an instance that has answered `GET /health` with status 200, or an error and nothing
///   running.
/// - An instance that ends before it is healthy is reported at once, with its last lines.
/// - Dropping the future of `start` leaves nothing running.
/// - `list` names each instance of this provider that runs, also those of other processes, and no other.
/// - `stop` asks the instance to end, waits for its grace, then ends it. Stopping an id that has ended is not
///   an error; a name that no instance has is
///   [`ProviderCode::InstanceNotFound`](crate::ProviderCode::InstanceNotFound).
/// - Dropping an [`Instance`] that is not detached ends it, without waiting.
/// - `sweep` ends instances left by processes that are gone, and nothing else, and returns how many those
///   were.
/// - No value of a variable is in a listing, a label, an error or a log.
pub trait Provider: Send + Sync {
    /// Its name, as `oxenv ps` shows it.
    fn name(&self) -> &'static str;

    /// Starts an instance and waits until it is healthy.
    fn start<'a>(&'a self, spec: &'a InstanceSpec) -> ProviderFuture<'a, Instance>;

    /// The instances that run.
    fn list(&self) -> ProviderFuture<'_, Vec<InstanceInfo>>;

    /// Ends the instance with that id or name.
    fn stop<'a>(&'a self, id: &'a str) -> ProviderFuture<'a, ()>;

    /// Ends orphaned instances, and returns their ids.
    fn sweep(&self) -> ProviderFuture<'_, Vec<String>>;
}

/// An instance, for people and scripts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceInfo {
    /// Its id within its provider.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The provider's name.
    pub provider: String,
    /// Where it is talked to, such as `http://127.0.0.1:40001`.
    pub url: String,
    /// Its source: an image, or a command.
    pub source: String,
    /// Microseconds since 1970, UTC.
    pub started_us: u64,
    /// Whether it outlives the process that started it.
    pub detached: bool,
}

/// An instance that this process started. Its drop ends it, unless it is detached.
pub struct Instance {
    info: InstanceInfo,
    backend: Option<Arc<dyn InstanceBackend>>,
}

/// The part of an instance that its provider implements.
pub(crate) trait InstanceBackend: Send + Sync {
    /// Ends it and waits for that.
    fn stop(&self) -> ProviderFuture<'_, ()>;
    /// Begins its end without waiting.
    fn begin_stop(&self);
    /// The last lines of its output, without secrets.
    fn logs(&self) -> ProviderFuture<'_, String>;
    /// Waits until it has ended by itself, and describes how.
    fn ended(&self) -> ProviderFuture<'_, String>;
}

impl Instance {
    pub(crate) fn new(info: InstanceInfo, backend: Arc<dyn InstanceBackend>) -> Self {
        Instance { info, backend: Some(backend) }
    }

    /// Its kind.
    #[must_use]
    pub fn info(&self) -> &InstanceInfo {
        &self.info
    }

    /// Where it is talked to, such as `http://127.0.0.1:40001`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.info.url
    }

    /// Ends it and waits for that. Dropping the future leaves the end to go on without it.
    ///
    /// # Errors
    /// [`ProviderCode::StopFailed`](crate::ProviderCode::StopFailed), if it may still run.
    pub async fn stop(mut self) -> Result<(), ProviderError> {
        let Some(backend) = self.backend.take() else { return Ok(()) };
        backend.stop().await
    }

    /// The last lines of its output, without secrets.
    ///
    /// # Errors
    /// If the provider does not know.
    pub async fn logs(&self) -> Result<String, ProviderError> {
        match &self.backend {
            Some(backend) => backend.logs().await,
            None => Ok(String::new()),
        }
    }

    /// Waits until it has ended by itself, and describes how.
    ///
    /// # Errors
    /// If the provider no longer knows.
    pub async fn ended(&self) -> Result<String, ProviderError> {
        match &self.backend {
            Some(backend) => backend.ended().await,
            None => Ok("stopped".to_owned()),
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(backend) = self.backend.take()
            && !self.info.detached
        {
            backend.begin_stop();
        }
    }
}
