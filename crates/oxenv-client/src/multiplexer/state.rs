//! The state that all clones of a multiplexer share: its endpoints and the current owner map.
//!
//! Invariant: no lock but that of the one listing for calls is held while something is waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use oxenv_upstream::remote::RemoteEndpoint;
use parking_lot::Mutex;

use super::catalogue::{EndpointTools, OwnerMap};
use super::endpoint::{ChangeSignals, MultiplexedEndpoint};
use super::{MultiplexOptions, Strictness, ToolListing, endpoint_error};
use crate::error::{ClientError, Code, Result};

/// Time limit for connecting and listing an endpoint.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a call may take.
const DEFAULT_CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// What all clones share.
pub(super) struct MultiplexerState {
    pub(super) endpoints: Vec<Arc<MultiplexedEndpoint>>,
    pub(super) signals: Arc<ChangeSignals>,
    pub(super) timeout: Duration,
    strictness: Strictness,
    catalogue: Mutex<InstalledCatalogue>,
    /// Numbers listings by their beginning.
    listings: AtomicU64,
    /// The count of changes at the beginning of the last listing that a caller asked for.
    listed_changes: AtomicU64,
    /// Held by the one call that lists.
    listing_lock: tokio::sync::Mutex<()>,
}

/// The owner map in force, and the number of its listing.
#[derive(Default)]
struct InstalledCatalogue {
    catalogue: Option<Arc<OwnerMap>>,
    listing: u64,
}

impl MultiplexerState {
    pub(super) fn new(urls: &[&str], options: MultiplexOptions) -> Result<Self> {
        let MultiplexOptions { strictness, headers, connect_timeout, timeout, optional } = options;
        let wrong = |says: String| ClientError::new(Code::InvalidOptions, says);
        if urls.is_empty() {
            return Err(wrong("there is no url of an endpoint; give one at least".to_owned()));
        }
        if let Some(at) = optional.iter().position(|url| !urls.contains(&url.as_str())) {
            return Err(wrong(format!("the optional url {} is none of the endpoints'", at + 1)));
        }
        let connect_timeout =
            if connect_timeout.is_zero() { DEFAULT_CONNECT_TIMEOUT } else { connect_timeout };
        let signals = Arc::new(ChangeSignals::default());
        let endpoint = |url: &&str| {
            let remote = RemoteEndpoint::new(url, &headers, connect_timeout).map_err(wrong)?;
            let optional = optional.iter().any(|optional| optional == url);
            Ok(Arc::new(MultiplexedEndpoint::new(remote, optional, connect_timeout, signals.clone())))
        };
        Ok(MultiplexerState {
            endpoints: urls.iter().map(endpoint).collect::<Result<_>>()?,
            timeout: if timeout.is_zero() { DEFAULT_CALL_TIMEOUT } else { timeout },
            strictness,
            catalogue: Mutex::default(),
            listings: AtomicU64::new(0),
            listed_changes: AtomicU64::new(0),
            listing_lock: tokio::sync::Mutex::new(()),
            signals,
        })
    }

    /// Lists every endpoint, because a caller asked for it.
    pub(super) async fn list(&self) -> Result<ToolListing> {
        self.check_open()?;
        let changes = self.signals.changes();
        let listing = self.begin_listing();
        let parts = self.until_closed(join_all(self.endpoints.iter().map(list_endpoint))).await?;
        let catalogue = Arc::new(OwnerMap::new(parts, changes));
        self.listed_changes.fetch_max(changes, Ordering::AcqRel);
        self.check_availability(&catalogue)?;
        self.install(catalogue.clone(), listing);
        Ok(catalogue.listing())
    }

    /// The owner map in force, made new where something has changed.
    pub(super) async fn catalogue(&self) -> Result<Arc<OwnerMap>> {
        if let Some(catalogue) = self.current() {
            return Ok(catalogue);
        }
        let _turn = self.listing_lock.lock().await;
        if let Some(catalogue) = self.current() {
            return Ok(catalogue);
        }
        let changes = self.signals.changes();
        let listing = self.begin_listing();
        let old = self.catalogue.lock().catalogue.clone();
        let parts = self.endpoints.iter().enumerate().map(|(number, endpoint)| {
            let old = old.as_ref().map(|old| old.endpoints[number].clone());
            refresh_endpoint(endpoint, old)
        });
        let catalogue = Arc::new(OwnerMap::new(join_all(parts).await, changes));
        if old.is_none() {
            self.check_availability(&catalogue)?;
        }
        self.install(catalogue.clone(), listing);
        Ok(catalogue)
    }

    /// The owner map in force, if nothing has changed since it was made.
    fn current(&self) -> Option<Arc<OwnerMap>> {
        let installed = self.catalogue.lock();
        installed.catalogue.as_ref().filter(|catalogue| catalogue.changes == self.signals.changes()).cloned()
    }

    fn begin_listing(&self) -> u64 {
        1 + self.listings.fetch_add(1, Ordering::AcqRel)
    }

    /// Puts an owner map in force, unless a later listing has put one there.
    fn install(&self, catalogue: Arc<OwnerMap>, listing: u64) {
        let mut installed = self.catalogue.lock();
        if listing > installed.listing {
            *installed = InstalledCatalogue { catalogue: Some(catalogue), listing };
        }
    }

    /// Whether enough endpoints can be used.
    fn check_availability(&self, catalogue: &OwnerMap) -> Result<()> {
        let enough = match self.strictness {
            Strictness::Strict => catalogue.all_usable() && !catalogue.is_empty(),
            Strictness::Degraded => !catalogue.is_empty(),
        };
        if enough { Ok(()) } else { Err(endpoint_error::unavailable(&catalogue.reports())) }
    }

    pub(super) async fn changed(&self) {
        self.signals.changed_since(|| self.listed_changes.load(Ordering::Acquire)).await;
    }

    pub(super) async fn close(&self) {
        self.signals.stop.cancel();
        join_all(self.endpoints.iter().map(|endpoint| endpoint.close())).await;
    }

    /// Runs something that ends when the multiplexer is closed.
    pub(super) async fn until_closed<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            biased;
            outcome = work => Ok(outcome),
            () = self.signals.stop.cancelled() => Err(multiplexer_closed()),
        }
    }

    pub(super) fn check_open(&self) -> Result<()> {
        if self.signals.stop.is_cancelled() { Err(multiplexer_closed()) } else { Ok(()) }
    }
}

/// What an endpoint offers now.
async fn list_endpoint(endpoint: &Arc<MultiplexedEndpoint>) -> EndpointTools {
    let changes = endpoint.changes();
    let (tools, fault) = match endpoint.list().await {
        Ok(tools) => (Some(tools), None),
        Err(fault) => (None, Some(fault)),
    };
    EndpointTools { url: endpoint.url.clone(), tools, fault, optional: endpoint.optional, changes }
}

/// What an endpoint offers, asked only if that may have changed. One that cannot be asked keeps what it had,
/// so that no other gets its calls.
async fn refresh_endpoint(endpoint: &Arc<MultiplexedEndpoint>, old: Option<EndpointTools>) -> EndpointTools {
    let Some(old) = old else { return list_endpoint(endpoint).await };
    if old.changes == endpoint.changes() {
        return old;
    }
    let new = list_endpoint(endpoint).await;
    let tools = new.tools.or(old.tools);
    EndpointTools { tools, ..new }
}

fn multiplexer_closed() -> ClientError {
    ClientError::new(Code::Closed, "the multiplexer was closed")
}
