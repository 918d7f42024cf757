//! Missing or unreadable parts of a record: reported on stderr each time, and by the exit code.
//!
//! Invariant: a command does what it can with the rest before it reports them.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::Write;

use oxenv_store::Hole;

use crate::exit::{Problem, usage};

/// What was reported of a record.
#[derive(Default)]
pub(crate) struct Incomplete {
    /// Whether the record as a whole lacks something.
    record: bool,
    /// The sessions that lack something.
    sessions: BTreeSet<String>,
}

impl Incomplete {
    /// Of the record as a whole.
    pub(crate) fn record(&mut self, fault: &dyn Display) {
        self.record = true;
        warn(fault);
    }

    /// Of a session.
    pub(crate) fn session(&mut self, id: &str, fault: &dyn Display) {
        self.sessions.insert(id.to_owned());
        warn(&format_args!("session {id}: {fault}"));
    }

    pub(crate) fn holes(&mut self, id: &str, holes: &[Hole]) {
        holes.iter().for_each(|hole| self.session(id, hole));
    }

    /// Why a session that was named is not shown: it may be in a missing part, or was never recorded.
    pub(crate) fn unknown(&self, id: &str) -> anyhow::Error {
        match self.record {
            true => Problem::Incomplete(format!(
                "no session {id} is in what the record still has; the warnings above say what is missing"
            ))
            .into(),
            false => usage(format!("no session {id} is in the record")),
        }
    }

    /// # Errors
    /// When anything is missing.
    pub(crate) fn outcome(&self) -> Result<(), Problem> {
        let told = match (self.sessions.len(), self.record) {
            (0, false) => return Ok(()),
            (0, true) => "the record is incomplete or damaged; the warnings above say where".to_owned(),
            (1, _) => "1 session is incomplete or damaged; the warnings above say where".to_owned(),
            (sessions, _) => {
                format!("{sessions} sessions are incomplete or damaged; the warnings above say where")
            }
        };
        Err(Problem::Incomplete(told))
    }
}

/// Whatever can be read is still shown.
fn warn(what: &dyn Display) {
    // There is no reader when stderr is gone.
    let _ = writeln!(std::io::stderr(), "warning: {what}");
}
