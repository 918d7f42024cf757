//! Replies that are kept for a limited time, so that a repeat of a request gets the first reply.
//!
//! Invariant: a request that names a key, or a number, is run at most once. While the first runs,
//! repeats wait for it; once its reply has been let go, a repeat is refused and not run. The memory
//! is bounded in bytes, and so are the requests that run on with no caller waiting.
//!
//! A request's identity is kept as a digest of 64 bits with a secret key. The chance that a new key has the
//! digest of one of 50,000 old ones, and is refused, is below one in 10^14. Fewer bits would refuse new keys
//! now and then, and no bounded memory knows all old ones: a key that is older than all that are remembered
//! counts as new.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

use oxenv_wire::{Delivered, ErrorCode};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::failure::Failure;

/// Bytes of replies that one memory keeps.
const MAX_CACHED_BYTES: usize = 1 << 20;
/// Requests of one generation. Two generations are remembered after their replies were dropped, so this is
/// the least number remembered; both take about a MiB.
const MAX_FORGOTTEN_KEYS: usize = 25_000;

/// How repeats of a request are recognised. Nothing set: they are not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Idempotency {
    /// The client's key: a repeat with the same key is the same request.
    pub key: Option<String>,
    /// The number that the request is to have within its session (see [`crate::Session::seq`]); one
    /// that was given already is a repeat.
    pub seq: Option<u64>,
    /// The number that the step is to have within its episode, compared before it is taken.
    pub expected_step: Option<u64>,
}

impl Idempotency {
    /// The request's identity; absent when the request is not remembered.
    pub(crate) fn identity(&self) -> Option<Identity> {
        match (&self.key, self.seq) {
            (Some(key), _) => Some(Identity::Key(key.clone())),
            (None, Some(seq)) => Some(Identity::Seq(seq)),
            (None, None) => None,
        }
    }
}

/// The one answer to a request and its repeats.
#[derive(Debug, Clone)]
pub struct IdempotentReply<T> {
    outcome: ReplyOutcome<T>,
    /// Its number within the session; 0 when it was refused before it ran.
    pub seq: u64,
    /// Whether it is a repeat.
    pub repeated: bool,
}

#[derive(Debug, Clone)]
enum ReplyOutcome<T> {
    /// No other caller can ask for it.
    Own(Result<T, Failure>),
    /// It is kept for repeats.
    Kept(Arc<Result<T, Failure>>),
}

impl<T> IdempotentReply<T> {
    /// The answer to a request without a key; it is not kept.
    pub(crate) fn own(outcome: Result<T, Failure>, seq: u64) -> Self {
        IdempotentReply { outcome: ReplyOutcome::Own(outcome), seq, repeated: false }
    }

    /// The answer to a request that was refused before it ran.
    pub(crate) fn refused(failure: Failure) -> Self {
        Self::own(Err(failure), 0)
    }

    /// This answer for the caller that asked first and only waited: not marked as repeated.
    pub(crate) fn first(self) -> Self {
        IdempotentReply { repeated: false, ..self }
    }

    fn kept((outcome, seq): NumberedReply<T>, repeated: bool) -> Self {
        IdempotentReply { outcome: ReplyOutcome::Kept(outcome), seq, repeated }
    }

    /// The outcome of the request.
    ///
    /// # Errors
    /// Why it failed, or was refused.
    pub fn outcome(&self) -> Result<&T, &Failure> {
        match &self.outcome {
            ReplyOutcome::Own(outcome) => outcome.as_ref(),
            ReplyOutcome::Kept(outcome) => outcome.as_ref().as_ref(),
        }
    }

    /// The outcome of the request, owned; copied if repeats of the request may still ask for it.
    ///
    /// # Errors
    /// Why it failed, or was refused.
    pub fn into_outcome(self) -> Result<T, Failure>
    where
        T: Clone,
    {
        match self.outcome {
            ReplyOutcome::Own(outcome) => outcome,
            ReplyOutcome::Kept(outcome) => Arc::unwrap_or_clone(outcome),
        }
    }
}

/// A request's identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Identity {
    Key(String),
    /// A key among those of one owner, or for something that is done to one session, by its id.
    KeyFor(String, String),
    Seq(u64),
}

/// Something with a size, so that a memory of it can be bounded.
pub(crate) trait MemorySize {
    /// Roughly its bytes.
    fn weight(&self) -> usize;
}

/// How many requests may run at once that have a key or a number, and how many bytes they may have together;
/// a single one may be longer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InFlightLimit {
    pub(crate) requests: usize,
    pub(crate) bytes: usize,
}

/// Replies by what their requests are known by.
pub(crate) struct ReplyCache<T>(Arc<Shared<T>>);

struct Shared<T> {
    state: Mutex<CacheState<T>>,
    limit: InFlightLimit,
    /// Makes the digests.
    digests: RandomState,
}

/// A request's identity as a number.
type Digest = u64;

struct CacheState<T> {
    /// Requests that run, and requests with a kept reply.
    known: HashMap<Digest, CacheEntry<T>>,
    /// Requests with a kept reply, the oldest first.
    kept: VecDeque<Kept>,
    kept_bytes: usize,
    /// Those that are only remembered: the latest, and those before them.
    remembered: [Generation; 2],
    /// The highest number of a request that is not even remembered.
    unknown_up_to: u64,
    running: usize,
    running_bytes: usize,
}

struct Kept {
    digest: Digest,
    weight: usize,
    seq: u64,
}

/// Requests that came one after the other, and are remembered for the same time.
#[derive(Default)]
struct Generation {
    /// The request of each.
    fingerprints: HashMap<Digest, u64>,
    /// The highest of their numbers.
    last_seq: u64,
}

struct CacheEntry<T> {
    fingerprint: u64,
    reply: ReplyState<T>,
}

/// A reply and the number that its request had.
type NumberedReply<T> = (Arc<Result<T, Failure>>, u64);

enum ReplyState<T> {
    Running(watch::Receiver<Option<NumberedReply<T>>>),
    Kept(NumberedReply<T>),
}

/// What to do about a request.
pub(crate) enum Attempt<T> {
    /// It is new: run it, and settle the ticket.
    First(ReplySender<T>),
    /// It runs, or has run: this is its outcome.
    Repeat(ReplyReceiver<T>),
}

/// The right to run a request. Dropping it without a reply informs repeats that the outcome is
/// unknown.
pub(crate) struct ReplySender<T> {
    shared: Arc<Shared<T>>,
    digest: Digest,
    bytes: usize,
    sender: watch::Sender<Option<NumberedReply<T>>>,
    settled: bool,
    /// Whether nothing has happened if it is dropped without a reply.
    harmless: bool,
}

/// A reply that is there, or will be.
pub(crate) struct ReplyReceiver<T>(ReplyState<T>);

impl<T> ReplyCache<T> {
    /// No replies yet.
    pub(crate) fn new(limit: InFlightLimit) -> Self {
        let state = Mutex::new(CacheState {
            known: HashMap::new(),
            kept: VecDeque::new(),
            kept_bytes: 0,
            remembered: Default::default(),
            unknown_up_to: 0,
            running: 0,
            running_bytes: 0,
        });
        ReplyCache(Arc::new(Shared { state, limit, digests: RandomState::new() }))
    }

    /// The highest number of a request that had a key and is not even remembered any more.
    pub(crate) fn unknown_up_to(&self) -> u64 {
        self.0.state.lock().unknown_up_to
    }

    /// Asks whether a request is new. `fingerprint` is of all that it asks for, `bytes` are what it keeps
    /// while it runs.
    ///
    /// # Errors
    /// [`ErrorCode::KeyConflict`], [`ErrorCode::ReplyForgotten`], and [`ErrorCode::CapacityReached`]
    /// if too many run.
    pub(crate) fn claim(
        &self,
        identity: &Identity,
        fingerprint: u64,
        bytes: usize,
    ) -> Result<Attempt<T>, Failure> {
        let digest = self.0.digests.hash_one(identity);
        let mut state = self.0.state.lock();
        if let Some(known) = state.known.get(&digest) {
            same(identity, known.fingerprint, fingerprint)?;
            let reply = match &known.reply {
                ReplyState::Running(receiver) => ReplyState::Running(receiver.clone()),
                ReplyState::Kept(given) => ReplyState::Kept(given.clone()),
            };
            return Ok(Attempt::Repeat(ReplyReceiver(reply)));
        }
        let remembered = state.remembered.iter().find_map(|generation| generation.fingerprints.get(&digest));
        if let Some(remembered) = remembered {
            same(identity, *remembered, fingerprint)?;
            return Err(forgotten(identity));
        }
        state.begin(bytes, self.0.limit)?;
        let (sender, receiver) = watch::channel(None);
        state.known.insert(digest, CacheEntry { fingerprint, reply: ReplyState::Running(receiver) });
        drop(state);
        let shared = Arc::clone(&self.0);
        Ok(Attempt::First(ReplySender { shared, digest, bytes, sender, settled: false, harmless: false }))
    }
}

/// Refuses a key that was used for something else.
fn same(identity: &Identity, known: u64, fingerprint: u64) -> Result<(), Failure> {
    if known == fingerprint {
        return Ok(());
    }
    let message = format!("{identity} was used for another request; use a new one for each request");
    Err(Failure::new(ErrorCode::KeyConflict, message))
}

impl<T> ReplySender<T> {
    /// Marks a request that has done nothing if it does not come to its end: then it may be asked for
    /// again.
    pub(crate) fn harmless(mut self) -> Self {
        self.harmless = true;
        self
    }

    /// Gives the reply to all waiting callers, and keeps it unless the request never ran: then it may
    /// be asked for again.
    pub(crate) fn settle(mut self, outcome: Result<T, Failure>, seq: u64) -> IdempotentReply<T>
    where
        T: MemorySize,
    {
        let weight = outcome.as_ref().map_or_else(Failure::weight, MemorySize::weight);
        IdempotentReply::kept(self.end(outcome, weight, seq), false)
    }

    fn end(&mut self, outcome: Result<T, Failure>, weight: usize, seq: u64) -> NumberedReply<T> {
        self.settled = true;
        let ran = outcome.as_ref().err().is_none_or(|failure| failure.delivered != Delivered::No);
        let given = (Arc::new(outcome), seq);
        let mut state = self.shared.state.lock();
        state.end(self.bytes);
        match ran {
            true => state.keep(Kept { digest: self.digest, weight, seq }, given.clone()),
            false => drop(state.known.remove(&self.digest)),
        }
        drop(state);
        self.sender.send_replace(Some(given.clone()));
        given
    }
}

impl<T> Drop for ReplySender<T> {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        if self.harmless {
            // Waiting callers see that no answer will come, and ask again.
            let mut state = self.shared.state.lock();
            state.end(self.bytes);
            state.known.remove(&self.digest);
            return;
        }
        let failure = lost();
        let weight = failure.weight();
        self.end(Err(failure), weight, 0);
    }
}

impl<T> CacheState<T> {
    /// Counts a request of that many bytes, unless there are too many.
    fn begin(&mut self, bytes: usize, limit: InFlightLimit) -> Result<(), Failure> {
        let requests = self.running;
        if requests >= limit.requests || (requests > 0 && self.running_bytes + bytes > limit.bytes) {
            let message = format!(
                "{requests} requests with a key or a number are at work, and no more are taken; \
                 ask again when some of them are done"
            );
            return Err(Failure::new(ErrorCode::CapacityReached, message));
        }
        self.running += 1;
        self.running_bytes += bytes;
        Ok(())
    }

    fn end(&mut self, bytes: usize) {
        self.running -= 1;
        self.running_bytes -= bytes;
    }

    fn keep(&mut self, kept: Kept, given: NumberedReply<T>) {
        let Some(known) = self.known.get_mut(&kept.digest) else { return };
        known.reply = ReplyState::Kept(given);
        self.kept_bytes += kept.weight;
        self.kept.push_back(kept);
        // The newest stays however large it is: its caller may just be losing its connection.
        while self.kept_bytes > MAX_CACHED_BYTES && self.kept.len() > 1 {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.kept_bytes -= oldest.weight;
            self.remember(&oldest);
        }
    }

    /// Lets a reply go.
    fn remember(&mut self, kept: &Kept) {
        let Some(known) = self.known.remove(&kept.digest) else { return };
        let [latest, before] = &mut self.remembered;
        latest.fingerprints.insert(kept.digest, known.fingerprint);
        latest.last_seq = latest.last_seq.max(kept.seq);
        if latest.fingerprints.len() == MAX_FORGOTTEN_KEYS {
            let forgotten = std::mem::replace(before, std::mem::take(latest));
            self.unknown_up_to = self.unknown_up_to.max(forgotten.last_seq);
        }
    }
}

impl<T> ReplyReceiver<T> {
    /// The reply to a request that has just been begun.
    pub(crate) fn of(ticket: &ReplySender<T>) -> Self {
        ReplyReceiver(ReplyState::Running(ticket.sender.subscribe()))
    }

    /// Waits for the reply; `None` if the first caller went away and nothing has happened. Dropping the
    /// future does not affect other callers.
    pub(crate) async fn answer(self) -> Option<IdempotentReply<T>> {
        let given = match self.0 {
            ReplyState::Kept(given) => Some(given),
            ReplyState::Running(mut receiver) => {
                receiver.wait_for(Option::is_some).await.ok().and_then(|given| given.clone())
            }
        };
        given.map(|given| IdempotentReply::kept(given, true))
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Identity::Key(key) | Identity::KeyFor(_, key) => write!(f, "the key '{key}'"),
            Identity::Seq(seq) => write!(f, "the number {seq}"),
        }
    }
}

/// The content of a request as a number.
pub(crate) fn fingerprint(what: impl Hash) -> u64 {
    // Its keys are fixed, so that the number is the same wherever it is made in this process.
    std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default().hash_one(what)
}

pub(crate) fn forgotten(identity: &Identity) -> Failure {
    let message = format!(
        "the request with {identity} was answered before and its reply is not kept any more; it was not run \
         again"
    );
    Failure::new(ErrorCode::ReplyForgotten, message)
}

pub(crate) fn lost() -> Failure {
    let message = "the first request with this key was lost on its way, so nobody knows how far it came";
    Failure::new(ErrorCode::Cancelled, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl MemorySize for String {
        fn weight(&self) -> usize {
            self.len()
        }
    }

    const LIMIT: InFlightLimit = InFlightLimit { requests: 3, bytes: 100 };

    #[test]
    fn what_runs_is_bounded_in_number_and_bytes() {
        let replies = ReplyCache::<String>::new(LIMIT);
        let claim = |name: usize, bytes: usize| match replies.claim(&key(name), 1, bytes) {
            Ok(Attempt::First(ticket)) => Ok(ticket),
            Ok(Attempt::Repeat(_)) => panic!("{name} is not new"),
            Err(failure) => Err(failure),
        };
        let long = claim(1, 1_000).ok().unwrap();
        let refused = claim(2, 1).err().unwrap();
        assert_eq!((refused.code, refused.delivered), (ErrorCode::CapacityReached, Delivered::No));
        long.settle(Ok("done".to_owned()), 1);
        let running: Vec<_> = (2..5).map(|name| claim(name, 1).ok().unwrap()).collect();
        assert!(claim(5, 1).is_err());
        // One that is dropped without a reply counts no more, either.
        drop(running);
        assert!(claim(5, 1).is_ok());
    }

    fn key(name: usize) -> Identity {
        Identity::Key(name.to_string())
    }

    fn run(replies: &ReplyCache<String>, name: usize, reply: String) {
        let Ok(Attempt::First(ticket)) = replies.claim(&key(name), 1, 0) else { panic!("{name} is not new") };
        ticket.settle(Ok(reply), name as u64);
    }

    #[tokio::test]
    async fn a_repeat_waits_for_the_first_and_gets_its_reply() {
        let replies = ReplyCache::new(LIMIT);
        let Ok(Attempt::First(ticket)) = replies.claim(&key(1), 1, 0) else { panic!() };
        let Ok(Attempt::Repeat(waiting)) = replies.claim(&key(1), 1, 0) else { panic!() };
        ticket.settle(Ok("done".to_owned()), 7);
        let answer = waiting.answer().await.unwrap();
        assert_eq!((answer.seq, answer.repeated), (7, true));
        assert_eq!(answer.outcome().unwrap(), "done");
    }

    #[tokio::test]
    async fn a_ticket_that_is_lost_tells_who_waits() {
        let replies: ReplyCache<String> = ReplyCache::new(LIMIT);
        let Ok(Attempt::First(ticket)) = replies.claim(&key(1), 1, 0) else { panic!() };
        let Ok(Attempt::Repeat(waiting)) = replies.claim(&key(1), 1, 0) else { panic!() };
        drop(ticket);
        let lost = waiting.answer().await.unwrap();
        let failure = lost.outcome().unwrap_err();
        assert_eq!((failure.code, failure.delivered), (ErrorCode::Cancelled, Delivered::Maybe));
        // It may have run, so it is not run again.
        assert!(matches!(replies.claim(&key(1), 1, 0), Ok(Attempt::Repeat(_))));
        let state = replies.0.state.lock();
        assert_eq!((state.running, state.kept.len()), (0, 1));
    }

    #[tokio::test]
    async fn a_ticket_that_did_nothing_lets_the_next_one_run() {
        let replies: ReplyCache<String> = ReplyCache::new(LIMIT);
        let Ok(Attempt::First(ticket)) = replies.claim(&key(1), 1, 0) else { panic!() };
        let Ok(Attempt::Repeat(waiting)) = replies.claim(&key(1), 1, 0) else { panic!() };
        drop(ticket.harmless());
        assert!(waiting.answer().await.is_none());
        assert!(matches!(replies.claim(&key(1), 1, 0), Ok(Attempt::First(_))));
        assert_eq!(replies.0.state.lock().running, 0);
    }

    #[test]
    fn the_same_key_for_something_else_is_a_conflict() {
        let replies = ReplyCache::new(LIMIT);
        run(&replies, 1, "a".to_owned());
        assert_eq!(replies.claim(&key(1), 2, 0).err().unwrap().code, ErrorCode::KeyConflict);
    }

    #[test]
    fn what_never_ran_may_be_asked_for_again() {
        let replies: ReplyCache<String> = ReplyCache::new(LIMIT);
        let Ok(Attempt::First(ticket)) = replies.claim(&key(1), 1, 0) else { panic!() };
        ticket.settle(Err(Failure::new(ErrorCode::Draining, "no")), 0);
        assert!(matches!(replies.claim(&key(1), 1, 0), Ok(Attempt::First(_))));
    }

    #[test]
    fn failures_count_by_what_they_say() {
        let replies: ReplyCache<String> = ReplyCache::new(LIMIT);
        for name in 0..100 {
            let Ok(Attempt::First(ticket)) = replies.claim(&key(name), 1, 0) else { panic!() };
            let failure = Failure::environment("x".repeat(64 << 10));
            ticket.settle(Err(failure), 0);
        }
        let state = replies.0.state.lock();
        assert!(state.kept.len() <= MAX_CACHED_BYTES / (64 << 10), "{} are kept", state.kept.len());
    }

    #[test]
    fn the_memory_is_bounded_and_a_forgotten_request_is_not_run_again() {
        const KEPT: usize = MAX_CACHED_BYTES / 1024;
        let replies = ReplyCache::new(LIMIT);
        let last = 3 * MAX_FORGOTTEN_KEYS + KEPT;
        for name in 1..=last {
            run(&replies, name, "x".repeat(1024));
        }
        let state = replies.0.state.lock();
        assert_eq!((state.kept_bytes, state.known.len()), (MAX_CACHED_BYTES, KEPT));
        let remembered = state.remembered.iter().map(|generation| generation.fingerprints.len());
        assert!((MAX_FORGOTTEN_KEYS..2 * MAX_FORGOTTEN_KEYS).contains(&remembered.sum()));
        drop(state);
        for kept in [last, last - KEPT + 1] {
            assert!(matches!(replies.claim(&key(kept), 1, 0), Ok(Attempt::Repeat(_))));
        }
        for remembered in [last - KEPT, last - KEPT - MAX_FORGOTTEN_KEYS + 1] {
            let refused = |fingerprint| replies.claim(&key(remembered), fingerprint, 0).err().unwrap().code;
            assert_eq!(refused(1), ErrorCode::ReplyForgotten);
            assert_eq!(refused(2), ErrorCode::KeyConflict);
        }
        // Of earlier ones only the numbers are known.
        let up_to = usize::try_from(replies.unknown_up_to()).unwrap();
        assert!(
            (last - KEPT - 2 * MAX_FORGOTTEN_KEYS..=last - KEPT - MAX_FORGOTTEN_KEYS).contains(&up_to),
            "{up_to}"
        );
        assert!(matches!(replies.claim(&key(up_to), 1, 0), Ok(Attempt::First(_))));
        assert!(replies.claim(&key(up_to + 1), 1, 0).is_err());
    }
}
