//! The records of a folder, for the command and for the server that writes them.
//!
//! Invariant: every question looks at the log first, so what was acknowledged before is in its answer.

use std::fmt;
use std::path::Path;

use oxenv_core::Failure;
use oxenv_server::{TrajectoryFilter, TrajectorySource};
use oxenv_store::{LogError, SessionFilter, Trajectories};
use oxenv_wire::{RawJson, raw};
use serde::Serialize;

use super::view::{EntryView, SessionView};
use crate::exit::usage;

/// The recorded sessions of a folder.
pub(crate) struct Recorded(Trajectories);

impl Recorded {
    pub(super) fn new(trajectories: Trajectories) -> Self {
        Recorded(trajectories)
    }

    /// The records of a folder whose log is read when somebody asks, however long it is.
    ///
    /// # Errors
    /// When the folder or its index cannot be used.
    pub(crate) fn of(folder: &Path) -> anyhow::Result<Self> {
        Ok(Recorded(Trajectories::open(folder).map_err(|error| usage(error.to_string()))?))
    }

    pub(super) fn sessions_in(&self, filter: &SessionFilter) -> Result<Vec<SessionView>, LogError> {
        Ok(self.0.sessions(filter)?.into_iter().map(SessionView::from).collect())
    }

    pub(super) fn session_of(&self, id: &str) -> Result<Option<SessionView>, LogError> {
        Ok(self.0.session(id)?.map(SessionView::from))
    }

    pub(super) fn entries_of(
        &self,
        id: &str,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<EntryView>, LogError> {
        let from = after.map_or(0, |after| after.saturating_add(1));
        self.0.entries_from(id, from, limit)?.into_iter().map(EntryView::read).collect()
    }

    fn refresh(&self) -> Result<(), LogError> {
        for fault in self.0.refresh()?.faults {
            tracing::warn!(%fault, "a part of the record cannot be read");
        }
        Ok(())
    }
}

impl TrajectorySource for Recorded {
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
        sessions.into_iter().map(|session| Ok((session.session_id.clone(), spelled(&session)?))).collect()
    }

    fn session(&self, id: &str) -> Result<Option<RawJson>, Failure> {
        let session =
            self.refresh().and_then(|()| self.session_of(id)).map_err(|error| unreadable(&error))?;
        session.map(|session| spelled(&session)).transpose()
    }

    fn entries(&self, id: &str, after: Option<u64>, limit: usize) -> Result<Vec<(u64, RawJson)>, Failure> {
        let entries = self
            .refresh()
            .and_then(|()| self.entries_of(id, after, limit))
            .map_err(|error| unreadable(&error))?;
        entries.into_iter().map(|entry| Ok((entry.seq, spelled(&entry)?))).collect()
    }
}

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Recorded").field(&self.0.folder()).finish()
    }
}

fn spelled(view: &impl Serialize) -> Result<RawJson, Failure> {
    raw(view).map_err(|error| Failure::infrastructure(error.to_string()))
}

/// Where the folder is, is for the server's log alone.
fn unreadable(error: &LogError) -> Failure {
    Failure::infrastructure("the record cannot be read; the server's log says why")
        .with(|detail| detail.internal = Some(error.to_string()))
}
