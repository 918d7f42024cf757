//! What is held of a process that runs.
//!
//! Invariant: dropping [`Attached`] ends the process, dropping [`Left`] does not.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use oxenv_upstream::child::{Child, Detached, in_words};
use oxenv_upstream::secret::Redactor;
use parking_lot::Mutex;

use super::registry::{Noted, Supervised};
use crate::error::{ProviderCode, ProviderError};
use crate::instance::{Held, Running};
use crate::logs::{HEARD, last_lines};
use crate::port_forward::Bridge;

/// A process that ends with this one.
pub(super) struct Attached {
    pub(super) child: Child,
    pub(super) noted: Mutex<Option<Noted>>,
    #[expect(dead_code, reason = "it is held for its drop")]
    pub(super) bridge: Option<Bridge>,
}

/// A process that goes on without this one.
pub(super) struct Left {
    pub(super) process: tokio::sync::Mutex<Detached>,
    pub(super) supervisor: Supervised,
    pub(super) noted: Noted,
    pub(super) redactor: Redactor,
}

impl Held for Attached {
    fn stop(&self) -> Running<'_, ()> {
        Box::pin(async {
            let ended = self.child.finish().await;
            drop(self.noted.lock().take());
            ended.map(drop).map_err(|error| ProviderError::new(ProviderCode::StopFailed, error.to_string()))
        })
    }

    fn abandon(&self) {
        drop(self.noted.lock().take());
        self.child.end();
    }

    fn logs(&self) -> Running<'_, String> {
        Box::pin(async { Ok(self.child.stderr_tail()) })
    }

    fn ended(&self) -> Running<'_, String> {
        Box::pin(async { Ok(in_words(self.child.over().await)) })
    }
}

impl Held for Left {
    fn stop(&self) -> Running<'_, ()> {
        Box::pin(async {
            let name = &self.noted.note.info.name;
            self.supervisor.end(name, self.noted.note.grace()).await?;
            self.noted.notes().remove(name);
            Ok(())
        })
    }

    fn abandon(&self) {
        self.supervisor.ask_to_end();
    }

    fn logs(&self) -> Running<'_, String> {
        Box::pin(async { Ok(log_tail(&self.noted.notes().log(&self.noted.note.info.name), &self.redactor)) })
    }

    fn ended(&self) -> Running<'_, String> {
        Box::pin(async { Ok(in_words(self.process.lock().await.wait().await)) })
    }
}

/// The last lines of a log; none if it cannot be read.
pub(super) fn log_tail(path: &Path, redactor: &Redactor) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let from = file.metadata()?.len().saturating_sub(HEARD as u64);
        file.seek(SeekFrom::Start(from))?;
        let mut raw = Vec::new();
        file.read_to_end(&mut raw)?;
        Ok(last_lines(&raw, from > 0, redactor))
    };
    read().unwrap_or_default()
}
