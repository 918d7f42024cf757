//! Handles of running processes.
//!
//! Invariant: dropping [`AttachedProcess`] ends the process, dropping [`DetachedProcess`] does not.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use oxenv_process::child::{Child, DetachedChild, describe_status};
use oxenv_process::secret::Redactor;
use parking_lot::Mutex;

use super::registry::{RecordGuard, SupervisorId};
use crate::error::{ProviderCode, ProviderError};
use crate::instance::{InstanceBackend, ProviderFuture};
use crate::logs::{MAX_READ_BYTES, last_lines};
use crate::port_forward::PortForward;

/// A process that ends with this one.
pub(super) struct AttachedProcess {
    pub(super) child: Child,
    pub(super) guard: Mutex<Option<RecordGuard>>,
    #[expect(dead_code, reason = "it is held for its drop")]
    pub(super) port_forward: Option<PortForward>,
}

/// A process that goes on without this one.
pub(super) struct DetachedProcess {
    pub(super) process: tokio::sync::Mutex<DetachedChild>,
    pub(super) supervisor: SupervisorId,
    pub(super) guard: RecordGuard,
    pub(super) redactor: Redactor,
}

impl InstanceBackend for AttachedProcess {
    fn stop(&self) -> ProviderFuture<'_, ()> {
        Box::pin(async {
            let ended = self.child.stop().await;
            drop(self.guard.lock().take());
            ended.map(drop).map_err(|error| ProviderError::new(ProviderCode::StopFailed, error.to_string()))
        })
    }

    fn begin_stop(&self) {
        drop(self.guard.lock().take());
        self.child.begin_stop();
    }

    fn logs(&self) -> ProviderFuture<'_, String> {
        Box::pin(async { Ok(self.child.output_tail()) })
    }

    fn ended(&self) -> ProviderFuture<'_, String> {
        Box::pin(async { Ok(describe_status(self.child.wait().await)) })
    }
}

impl InstanceBackend for DetachedProcess {
    fn stop(&self) -> ProviderFuture<'_, ()> {
        Box::pin(async {
            let name = &self.guard.record.info.name;
            self.supervisor.end(name, self.guard.record.grace()).await?;
            self.guard.registry().remove(name);
            Ok(())
        })
    }

    fn begin_stop(&self) {
        self.supervisor.request_end();
    }

    fn logs(&self) -> ProviderFuture<'_, String> {
        Box::pin(async {
            Ok(log_tail(&self.guard.registry().log_path(&self.guard.record.info.name), &self.redactor))
        })
    }

    fn ended(&self) -> ProviderFuture<'_, String> {
        Box::pin(async { Ok(describe_status(self.process.lock().await.wait().await)) })
    }
}

/// The last lines of a log; none if it cannot be read.
pub(super) fn log_tail(path: &Path, redactor: &Redactor) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let from = file.metadata()?.len().saturating_sub(MAX_READ_BYTES as u64);
        file.seek(SeekFrom::Start(from))?;
        let mut raw = Vec::new();
        file.read_to_end(&mut raw)?;
        Ok(last_lines(&raw, from > 0, redactor))
    };
    read().unwrap_or_default()
}
