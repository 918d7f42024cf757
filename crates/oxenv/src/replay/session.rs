//! Does a recorded session again, from its root: what it was forked or restored from comes first.
//!
//! Invariant: entries are done in the order of their numbers. What was cut off from outside, by a
//! deadline, a cancel or a drain, is not judged: the record does not show where it stopped.

use std::sync::Arc;

use oxenv_core::{
    AgentCall, EndReason, Failure, Principal, ResetOptions, Session, SessionOptions, SessionRequest,
};
use oxenv_store::{
    Hole, LogError, SessionSummary, StoredCall, StoredEntry, StoredEvent, StoredJson, StoredOrigin,
    StoredOutcome, Trajectories,
};
use oxenv_wire::{Action, Delivered, ErrorCode};

use super::compare::{SessionNames, compare};
use super::environment::ReplayEnvironment;
use super::{Verdict, compare};

/// The most sessions that one was made of, one after the other.
const MAX_ANCESTORS: usize = 1000;

/// A recorded session, as far as it is done again.
pub(super) struct ReplayedSession {
    pub(super) id: String,
    pub(super) environment: String,
    seed: u64,
    episode_id: String,
    /// How it was made, if not by the factory alone.
    origin: Option<StoredOrigin>,
    entries: Vec<StoredEntry>,
    /// What is missing of it.
    pub(super) holes: Vec<Hole>,
    /// How many of its entries could not be written.
    unwritten: u64,
}

/// Why it is not known what a session is made of.
pub(super) struct Unknown {
    pub(super) why: String,
    /// Whether something is missing that the record should have.
    pub(super) damaged: bool,
}

/// An entry that was done again, or why it was not.
enum ReplayedEntry {
    /// Under that number; what it was refused for, if it was.
    Again(u64, Option<Failure>),
    /// It had been cut off.
    CutOff,
    /// A call of it had been cut off, and later entries may depend on how far that call came.
    Unknown {
        /// The tool that was called.
        tool: String,
    },
}

/// The records that a session is made of, the root first; or why that is not known.
///
/// # Errors
/// When the record cannot be read at all.
pub(super) fn chain(
    trajectories: &Trajectories,
    id: &str,
) -> anyhow::Result<Result<Vec<ReplayedSession>, Unknown>> {
    let mut chain: Vec<ReplayedSession> = Vec::new();
    let (mut id, mut upto) = (id.to_owned(), u64::MAX);
    loop {
        let Some(summary) = trajectories.session(&id)? else {
            return Ok(Err(Unknown { damaged: lacks(trajectories, &id)?, ..beginning(&id) }));
        };
        let entries = trajectories.entries(&id)?;
        let link = match link(summary, entries, upto) {
            Ok(link) => link,
            Err(unknown) => return Ok(Err(unknown)),
        };
        let origin = link.origin.clone();
        chain.push(link);
        match origin {
            None => break,
            Some(_) if chain.len() >= MAX_ANCESTORS => {
                let why = format!("it was made of more than {MAX_ANCESTORS} sessions, one after the other");
                return Ok(Err(Unknown { why, damaged: false }));
            }
            Some(origin) => (id, upto) = (origin.session_id, origin.seq),
        }
    }
    chain.reverse();
    Ok(Ok(chain))
}

fn link(summary: SessionSummary, entries: Vec<StoredEntry>, upto: u64) -> Result<ReplayedSession, Unknown> {
    let SessionSummary { id, unwritten, mut holes, .. } = summary;
    let mut entries = entries.into_iter();
    let opened = entries.next().map(|entry| entry.event);
    let Some(StoredEvent::Opened { environment, seed, episode_id, origin, .. }) = opened else {
        return Err(beginning(&id));
    };
    let entries: Vec<StoredEntry> = entries.take_while(|entry| entry.seq <= upto).collect();
    let mut expected = 1;
    for entry in &entries {
        // After an entry that could not be written, nothing but a reset was allowed.
        if entry.seq != expected && matches!(entry.event, StoredEvent::Step { .. }) {
            let why = format!("entry {expected} of session {id} is not in the record");
            return Err(Unknown { why, damaged: !holes.is_empty() });
        }
        expected = entry.seq + 1;
    }
    if upto != u64::MAX {
        // What came after the copy does not matter to it.
        holes.retain(|hole| match hole {
            Hole::Entries { first, .. } => *first <= upto,
            Hole::End { last, .. } => *last < upto,
            _ => true,
        });
        if expected <= upto && unwritten == 0 {
            let why = format!("what session {id} did after entry {} is not in the record", expected - 1);
            return Err(Unknown { why, damaged: true });
        }
    }
    Ok(ReplayedSession { id, environment, seed, episode_id, origin, entries, holes, unwritten })
}

/// Whether something is missing of the record as a whole that a session may have been in.
fn lacks(trajectories: &Trajectories, id: &str) -> anyhow::Result<bool> {
    let may_hold = |fault: &LogError| match fault {
        LogError::NoOpening { session, .. } => session == id,
        LogError::Unlisted { .. } => false,
        _ => true,
    };
    Ok(trajectories.faults()?.iter().any(may_hold))
}

fn beginning(id: &str) -> Unknown {
    Unknown { why: format!("the beginning of session {id} is not in the record"), damaged: false }
}

/// Does the last session of a chain again and compares it; those before it are only done.
///
/// # Errors
/// When a record cannot be read.
pub(super) async fn replay(
    environment: &mut ReplayEnvironment,
    chain: &[ReplayedSession],
) -> anyhow::Result<Verdict> {
    let mut names = SessionNames::default();
    let mut before: Option<Arc<Session>> = None;
    let mut verdict =
        Verdict::CannotBeReplayed { why: "there is nothing to replay".to_owned(), damaged: false };
    for link in chain {
        let session = match begin(environment, link, before.as_ref()).await {
            Ok(session) => session,
            Err(failure) => {
                let why = format!("session {} cannot be made: {failure}", link.id);
                verdict = Verdict::CannotBeReplayed { why, damaged: false };
                break;
            }
        };
        names.add(session.id(), &link.id);
        let done = run(environment, link, &session).await?;
        let replayed = environment.recorded(session.id())?;
        if let Some(before) = before.replace(session) {
            before.end(EndReason::Closed);
        }
        verdict = judge(link, &done, &replayed, &names)?;
        if !matches!(verdict, Verdict::Same { .. }) {
            break;
        }
    }
    if let Some(last) = before {
        last.end(EndReason::Closed);
    }
    Ok(verdict)
}

/// Makes the session as it was made.
async fn begin(
    environment: &ReplayEnvironment,
    link: &ReplayedSession,
    before: Option<&Arc<Session>>,
) -> Result<Arc<Session>, Failure> {
    let options = SessionOptions {
        seed: Some(link.seed),
        episode_id: Some(link.episode_id.clone()),
        ..SessionOptions::default()
    };
    let (Some(origin), Some(before)) = (&link.origin, before) else {
        return environment.store.create(options).await;
    };
    if origin.kind == "snapshot" {
        match restored(environment, before, options.clone()).await {
            Ok(session) => return Ok(session),
            // Tools on a tape have no state, so what they declare is not what would be restored; a fork
            // goes on from the same place.
            Err(_) if !environment.tape.is_live() => {}
            Err(failure) => return Err(failure),
        }
    }
    let mut forks = environment.store.fork(before, 1, options).await?;
    forks.pop().ok_or_else(|| Failure::infrastructure("the fork made no session"))
}

async fn restored(
    environment: &ReplayEnvironment,
    before: &Arc<Session>,
    options: SessionOptions,
) -> Result<Arc<Session>, Failure> {
    let snapshot = environment.store.snapshot(before).await?;
    environment.store.restore(&snapshot, options).await
}

async fn run(
    environment: &ReplayEnvironment,
    link: &ReplayedSession,
    session: &Arc<Session>,
) -> anyhow::Result<Vec<ReplayedEntry>> {
    let mut done = Vec::with_capacity(link.entries.len());
    for (index, entry) in link.entries.iter().enumerate() {
        if let Some(tool) = unknown_effect(environment, session, &link.entries[index..]) {
            done.push(ReplayedEntry::Unknown { tool });
            break;
        }
        done.push(match &entry.event {
            StoredEvent::Opened { .. } | StoredEvent::Closed { .. } => ReplayedEntry::CutOff,
            StoredEvent::Reset { outcome, .. } => {
                let failed = reset(session, entry).await?;
                match was_cut_off(outcome) {
                    true => ReplayedEntry::CutOff,
                    false => ReplayedEntry::Again(session.seq(), failed),
                }
            }
            // Nothing that is compared depends on how far it came.
            StoredEvent::Step { outcome, .. } if was_cut_off(outcome) => ReplayedEntry::CutOff,
            StoredEvent::Step { .. } => {
                let failed = step(environment, session, &entry.event).await?;
                ReplayedEntry::Again(session.seq(), failed)
            }
        });
    }
    Ok(done)
}

async fn reset(session: &Arc<Session>, entry: &StoredEntry) -> anyhow::Result<Option<Failure>> {
    let StoredEvent::Reset { seed, seed_given, episode_id, arguments, .. } = &entry.event else {
        return Ok(None);
    };
    // A seed that follows from the session's own is let follow again, unless epochs are missing.
    let follows = !seed_given && session.info().epoch + 1 == entry.epoch;
    let seed = (!follows).then_some(*seed);
    let arguments = arguments.as_ref().map(StoredJson::raw).transpose()?;
    let options = ResetOptions { seed, episode_id: Some(episode_id.clone()), arguments };
    Ok(session.submit(SessionRequest::reset(options)).await.into_outcome().err())
}

async fn step(
    environment: &ReplayEnvironment,
    session: &Arc<Session>,
    event: &StoredEvent,
) -> anyhow::Result<Option<Failure>> {
    let StoredEvent::Step { principal, action, calls, .. } = event else { return Ok(None) };
    environment.tape.load(calls)?;
    let action = action.raw()?;
    let action = match session.spec().parse_action(&action) {
        Ok(action) => action,
        Err(issues) => return Ok(Some(Failure::invalid(issues))),
    };
    let principal = principal.parse().unwrap_or(Principal::Control);
    let request = match (principal, action) {
        (Principal::Control, action) => SessionRequest::step(action),
        (principal, Action::ListTools(_)) => SessionRequest::list(principal),
        (_, Action::CallTool(call)) => SessionRequest::call(AgentCall {
            name: call.name,
            arguments: call.arguments,
            ..AgentCall::default()
        }),
        (_, _) => {
            let message = "an agent's step is a tool call or a list of tools";
            return Ok(Some(Failure::unsupported(message)));
        }
    };
    Ok(session.submit(request).await.into_outcome().err())
}

/// The tool of the first of these entries whose call was cut off, if something else of the episode came after
/// it. A tool whose toolset has no state has no effect that could be unknown.
fn unknown_effect(
    environment: &ReplayEnvironment,
    session: &Session,
    entries: &[StoredEntry],
) -> Option<String> {
    let (entry, later) = entries.split_first()?;
    let StoredEvent::Step { calls, .. } = &entry.event else { return None };
    let unknown = |call: &&StoredCall| {
        // An error without a code is the tool's own.
        let code = call.outcome.as_ref().err().and_then(|error| error.code);
        code.is_some_and(|code| code.traits().delivered == Delivered::Maybe)
            && environment.tape.has_state(&session.toolbox().find(&call.tool))
    };
    let unknown = calls.iter().find(unknown)?;
    let mut episode = later.iter().take_while(|later| later.epoch == entry.epoch);
    let went_on = episode.any(|later| matches!(later.event, StoredEvent::Step { .. }));
    went_on.then(|| unknown.tool.clone())
}

/// Whether it ended for a reason that lies outside of environment and tools.
fn was_cut_off(outcome: &StoredOutcome) -> bool {
    use ErrorCode as E;
    let StoredOutcome::Failed(failure) = outcome else { return false };
    matches!(
        failure.code,
        E::DeadlineExceeded | E::Cancelled | E::Draining | E::SessionEnded | E::RecordFailed
    )
}

fn judge(
    link: &ReplayedSession,
    done: &[ReplayedEntry],
    replayed: &[StoredEntry],
    names: &SessionNames,
) -> anyhow::Result<Verdict> {
    let (mut entries, mut cut_off) = (0, 0);
    for (recorded, done) in link.entries.iter().zip(done) {
        let (seq, refused) = match done {
            ReplayedEntry::Again(seq, refused) => (*seq, refused),
            ReplayedEntry::CutOff => {
                cut_off += u64::from(!matches!(recorded.event, StoredEvent::Closed { .. }));
                continue;
            }
            ReplayedEntry::Unknown { tool } => {
                let why = format!(
                    "a call of tool '{tool}' was cut off (seq {}), \
                     and nobody knows whether it had its effect: what came after it in its episode \
                     is not proven",
                    recorded.seq
                );
                return Ok(Verdict::CannotBeReplayed { why, damaged: false });
            }
        };
        entries += 1;
        let other = replayed.binary_search_by_key(&seq, |entry| entry.seq).ok().map(|at| &replayed[at]);
        let difference = match (other, refused) {
            (Some(other), _) => compare(recorded, other, names)?,
            (None, Some(failure)) => Some(compare::Difference {
                what: "it was refused".to_owned(),
                recorded: compare::comparable_text(recorded)?,
                replayed: failure.to_string(),
            }),
            (None, None) => None,
        };
        if let Some(compare::Difference { what, recorded: one, replayed: two }) = difference {
            return Ok(Verdict::Differs { seq: recorded.seq, what, recorded: one, replayed: two });
        }
    }
    Ok(Verdict::Same { entries, cut_off, unwritten: link.unwritten })
}
