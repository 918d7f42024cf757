//! The records of a folder, for the command and for the server that writes them.
//!
//! Invariant: every question looks at the log first, so what was acknowledged before is in its answer.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use oxenv_core::Failure;
use oxenv_server::{EntriesPage, TrajectoryFilter, TrajectorySource};
use oxenv_store::{LogError, SessionFilter, Trajectories};
use oxenv_wire::{RawJson, raw};
use serde::Serialize;

use super::view::{EntryPage, EntryView, SessionView};
use crate::exit::usage;

/// Maximum bytes of a page: it ends once its entries take this many.
const MAX_PAGE_BYTES: usize = 16 << 20;

/// The recorded sessions of a folder.
pub(crate) struct RecordFolder(Arc<Trajectories>);

impl RecordFolder {
    pub(super) fn new(trajectories: Trajectories) -> Self {
        RecordFolder(Arc::new(trajectories))
    }

    /// The records of a folder, for the server that writes them. A thread reads the log, however long it is,
    /// and reports in the server's log what is missing.
    ///
    /// # Errors
    /// When the folder or its index cannot be used.
    pub(crate) fn of(folder: &Path) -> anyhow::Result<Self> {
        let trajectories = Trajectories::open(folder).map_err(|error| usage(error.to_string()))?;
        let trajectories = Arc::new(trajectories);
        let looked_through = Arc::clone(&trajectories);
        std::thread::Builder::new().name("record-check".to_owned()).spawn(move || tell(&looked_through))?;
        Ok(RecordFolder(trajectories))
    }

    pub(super) fn sessions_in(&self, filter: &SessionFilter) -> Result<Vec<SessionView>, LogError> {
        Ok(self.0.sessions(filter)?.into_iter().map(SessionView::from).collect())
    }

    pub(super) fn session_of(&self, id: &str) -> Result<Option<SessionView>, LogError> {
        Ok(self.0.session(id)?.map(SessionView::from))
    }

    /// At most `limit` entries behind that number, and fewer if they are large.
    pub(super) fn entries_of(
        &self,
        id: &str,
        mut after: Option<u64>,
        limit: usize,
    ) -> Result<EntryPage, LogError> {
        let (mut page, mut bytes) = (EntryPage::default(), 0);
        while page.entries.len() < limit && bytes < MAX_PAGE_BYTES {
            let from = after.map_or(0, |after| after.saturating_add(1));
            // One at a time: each may be as large as a message.
            let Some(entry) = self.0.entries_from(id, from, 1)?.pop() else { return Ok(page) };
            let entry = EntryView::read(entry)?;
            after = Some(entry.seq);
            bytes += entry.weight();
            page.entries.push(entry);
        }
        page.next = after;
        Ok(page)
    }

    fn refresh(&self) -> Result<(), LogError> {
        for fault in self.0.refresh()?.faults {
            tracing::warn!(%fault, "a part of the record cannot be read");
        }
        Ok(())
    }
}

/// Reports what is missing of a record as a whole.
fn tell(trajectories: &Trajectories) {
    match trajectories.refresh().and_then(|_| trajectories.faults()) {
        Ok(faults) => {
            faults.iter().for_each(|fault| tracing::warn!(%fault, "the record is incomplete or damaged"));
        }
        Err(error) => tracing::warn!(%error, "the record cannot be read"),
    }
}

impl TrajectorySource for RecordFolder {
    fn sessions(&self, asked: &TrajectoryFilter) -> Result<Vec<(String, RawJson)>, Failure> {
        let filter = SessionFilter {
            environment: asked.environment.clone(),
            since_us: asked.since_us,
            after: asked.after.clone(),
            limit: asked.limit,
            ..SessionFilter::default()
        };
        let sessions =
            self.refresh().and_then(|()| self.sessions_in(&filter)).map_err(|error| unreadable(&error))?;
        sessions.into_iter().map(|session| Ok((session.session_id.clone(), to_json(&session)?))).collect()
    }

    fn session(&self, id: &str) -> Result<Option<RawJson>, Failure> {
        let session =
            self.refresh().and_then(|()| self.session_of(id)).map_err(|error| unreadable(&error))?;
        session.map(|session| to_json(&session)).transpose()
    }

    fn entries(&self, id: &str, after: Option<u64>, limit: usize) -> Result<EntriesPage, Failure> {
        let page = self
            .refresh()
            .and_then(|()| self.entries_of(id, after, limit))
            .map_err(|error| unreadable(&error))?;
        let entries = page.entries.into_iter().map(|entry| Ok((entry.seq, to_json(&entry)?)));
        Ok(EntriesPage { entries: entries.collect::<Result<_, Failure>>()?, more: page.next.is_some() })
    }
}

impl fmt::Debug for RecordFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Recorded").field(&self.0.folder()).finish()
    }
}

fn to_json(view: &impl Serialize) -> Result<RawJson, Failure> {
    raw(view).map_err(|error| Failure::infrastructure(error.to_string()))
}

/// Where the folder is, is for the server's log alone.
fn unreadable(error: &LogError) -> Failure {
    Failure::infrastructure("the record cannot be read; the server's log says why")
        .with(|detail| detail.internal = Some(error.to_string()))
}
