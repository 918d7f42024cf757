//! [`WorkerPool`]: makes workers, and keeps some ready.
//!
//! Invariant: a spare has run nothing, and no worker serves two sessions.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;

use super::MontyOptions;
use super::worker_process::WorkerProcess;

/// What makes workers.
pub(crate) struct WorkerPool {
    options: MontyOptions,
    spares: Mutex<VecDeque<WorkerProcess>>,
    /// Held by the one task that makes spares.
    filling: AsyncMutex<()>,
}

impl WorkerPool {
    pub(crate) fn new(options: MontyOptions) -> Arc<Self> {
        Arc::new(WorkerPool { options, spares: Mutex::default(), filling: AsyncMutex::new(()) })
    }

    /// The next spare, which may have been ended from outside; absent: there is none.
    pub(crate) fn spare(self: &Arc<Self>) -> Option<WorkerProcess> {
        let spare = self.spares.lock().pop_front()?;
        let pool = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(why) = pool.fill().await {
                tracing::error!("no spare worker: {why}");
            }
        });
        Some(spare)
    }

    /// A new worker.
    pub(crate) async fn make(&self) -> Result<WorkerProcess, String> {
        WorkerProcess::start(&self.options.worker, &self.options.supervisor).await
    }

    /// Makes spares until there are enough.
    pub(crate) async fn fill(&self) -> Result<(), String> {
        let _filling = self.filling.lock().await;
        loop {
            let worker = self.make().await?;
            let mut spares = self.spares.lock();
            spares.push_back(worker);
            if spares.len() >= self.options.spares.max(1) {
                return Ok(());
            }
        }
    }
}
