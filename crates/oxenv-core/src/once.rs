//! Replies that are kept for a while, so that a repeat of a request gets the first reply.
//!
//! Invariant: a request that names a key, or a number, is run at most once. While the first runs,
//! repeats wait for it; once its reply has been let go, a repeat is refused and not run. The memory
//! is bounded in bytes, and so are the requests that run on without anybody who waits for them.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use oxenv_wire::{Delivered, ErrorCode};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::failure::Failure;

/// Bytes of replies that one memory keeps.
const KEPT_BYTES: usize = 1 << 20;
/// Keys that it remembers after their replies were let go.
const REMEMBERED: usize = 4096;

/// How a request is told from its repeats. Nothing set: it is not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Once {
    /// The client's key: a repeat with the same key is the same request.
    pub key: Option<String>,
    /// The number that the request is to have within its session (see [`crate::Session::seq`]); one
    /// that was given already is a repeat.
    pub seq: Option<u64>,
    /// The number that the step is to have within its episode, compared before it is taken.
    pub expected_step: Option<u64>,
}

impl Once {
    /// What the request is known by; absent when it is not to be remembered.
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
pub struct Answer<T> {
    outcome: AnswerOutcome<T>,
    /// Its number within the session; 0 when it was refused before it ran.
    pub seq: u64,
    /// Whether it had been asked for before.
    pub repeated: bool,
}

#[derive(Debug, Clone)]
enum AnswerOutcome<T> {
    /// Nobody else can ask for it.
    Own(Result<T, Failure>),
    /// It is kept for repeats.
    Kept(Arc<Result<T, Failure>>),
}

impl<T> Answer<T> {
    /// The answer to a request that has no key, so that nothing of it is kept.
    pub(crate) fn own(outcome: Result<T, Failure>, seq: u64) -> Self {
        Answer { outcome: AnswerOutcome::Own(outcome), seq, repeated: false }
    }

    /// The answer to a request that was refused before it ran.
    pub(crate) fn refused(failure: Failure) -> Self {
        Self::own(Err(failure), 0)
    }

    /// This answer as the caller gets it who asked first and only waited: not marked as repeated.
    pub(crate) fn first(self) -> Self {
        Answer { repeated: false, ..self }
    }

    fn kept((outcome, seq): Given<T>, repeated: bool) -> Self {
        Answer { outcome: AnswerOutcome::Kept(outcome), seq, repeated }
    }

    /// What came of the request.
    ///
    /// # Errors
    /// Why it failed, or was refused.
    pub fn outcome(&self) -> Result<&T, &Failure> {
        match &self.outcome {
            AnswerOutcome::Own(outcome) => outcome.as_ref(),
            AnswerOutcome::Kept(outcome) => outcome.as_ref().as_ref(),
        }
    }

    /// What came of the request, owned; copied if repeats of the request may still ask for it.
    ///
    /// # Errors
    /// Why it failed, or was refused.
    pub fn into_outcome(self) -> Result<T, Failure>
    where
        T: Clone,
    {
        match self.outcome {
            AnswerOutcome::Own(outcome) => outcome,
            AnswerOutcome::Kept(outcome) => Arc::unwrap_or_clone(outcome),
        }
    }
}

/// What a request is known by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Identity {
    Key(String),
    /// A key among those of one owner, or for something that is done to one session, by its id.
    KeyFor(String, String),
    Seq(u64),
}

/// Something with a size, so that a memory of it can be bounded.
pub(crate) trait Weigh {
    /// Roughly its bytes.
    fn weight(&self) -> usize;
}

/// How many requests may run at once that have a key or a number, and how many bytes they may have together;
/// a single one may be longer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunningLimit {
    pub(crate) requests: usize,
    pub(crate) bytes: usize,
}

/// Replies by what their requests are known by.
pub(crate) struct Replies<T> {
    state: Mutex<State<T>>,
    limit: RunningLimit,
    running: Arc<Running>,
}

/// How many requests run, and their bytes.
#[derive(Default)]
struct Running {
    requests: AtomicUsize,
    bytes: AtomicUsize,
}

/// One request that runs; it counts until this is dropped.
struct RunningPart {
    running: Arc<Running>,
    bytes: usize,
}

struct State<T> {
    known: HashMap<Identity, Known<T>>,
    /// Those whose reply is kept, the oldest first.
    kept: VecDeque<(Identity, usize)>,
    kept_bytes: usize,
    /// Those that are only remembered, the oldest first.
    remembered: VecDeque<Identity>,
}

struct Known<T> {
    fingerprint: u64,
    reply: Reply<T>,
}

/// A reply and the number that its request had.
type Given<T> = (Arc<Result<T, Failure>>, u64);

enum Reply<T> {
    Running(watch::Receiver<Option<Given<T>>>),
    Kept(Given<T>),
    Forgotten,
}

/// What is to be done about a request.
pub(crate) enum Claim<T> {
    /// It is new: run it, and tell the ticket.
    First(Ticket<T>),
    /// It runs, or has run: this is what came of it.
    Repeat(Waiting<T>),
}

/// The right to run a request. Dropping it without a reply tells repeats that nobody knows.
pub(crate) struct Ticket<T> {
    identity: Identity,
    sender: watch::Sender<Option<Given<T>>>,
    _part: RunningPart,
}

/// A reply that is there, or will be.
pub(crate) struct Waiting<T>(Reply<T>);

impl<T> Replies<T> {
    /// No replies yet.
    pub(crate) fn new(limit: RunningLimit) -> Self {
        let state = Mutex::new(State {
            known: HashMap::new(),
            kept: VecDeque::new(),
            kept_bytes: 0,
            remembered: VecDeque::new(),
        });
        Replies { state, limit, running: Arc::default() }
    }

    /// Counts a request of that many bytes, unless there are too many. Callers hold the lock.
    fn begin(&self, bytes: usize) -> Result<RunningPart, Failure> {
        let running = &self.running;
        let (requests, held) =
            (running.requests.load(Ordering::Relaxed), running.bytes.load(Ordering::Relaxed));
        if requests >= self.limit.requests || (requests > 0 && held + bytes > self.limit.bytes) {
            let message = format!(
                "{requests} requests with a key or a number are at work, and no more are taken; \
                 ask again when some of them are done"
            );
            return Err(Failure::new(ErrorCode::CapacityReached, message));
        }
        running.requests.fetch_add(1, Ordering::Relaxed);
        running.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(RunningPart { running: Arc::clone(running), bytes })
    }
}

impl Drop for RunningPart {
    fn drop(&mut self) {
        self.running.requests.fetch_sub(1, Ordering::Relaxed);
        self.running.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl<T: Weigh> Replies<T> {
    /// Asks whether a request is new. `fingerprint` is of all that it asks for, `bytes` are what it keeps
    /// while it runs.
    ///
    /// # Errors
    /// [`ErrorCode::KeyConflict`], [`ErrorCode::ReplyForgotten`], and [`ErrorCode::CapacityReached`]
    /// if too many run.
    pub(crate) fn claim(
        &self,
        identity: Identity,
        fingerprint: u64,
        bytes: usize,
    ) -> Result<Claim<T>, Failure> {
        let mut state = self.state.lock();
        let Some(known) = state.known.get(&identity) else {
            let part = self.begin(bytes)?;
            let (sender, receiver) = watch::channel(None);
            let reply = Reply::Running(receiver);
            state.known.insert(identity.clone(), Known { fingerprint, reply });
            return Ok(Claim::First(Ticket { identity, sender, _part: part }));
        };
        if known.fingerprint != fingerprint {
            let message = format!("{identity} was used for another request; use a new one for each request");
            return Err(Failure::new(ErrorCode::KeyConflict, message));
        }
        match &known.reply {
            Reply::Running(receiver) => Ok(Claim::Repeat(Waiting(Reply::Running(receiver.clone())))),
            Reply::Kept(given) => Ok(Claim::Repeat(Waiting(Reply::Kept(given.clone())))),
            Reply::Forgotten => Err(forgotten(&identity)),
        }
    }

    /// Gives the reply to everybody who waits, and keeps it unless the request never ran: then it may
    /// be asked for again.
    pub(crate) fn settle(&self, ticket: &Ticket<T>, outcome: Result<T, Failure>, seq: u64) -> Answer<T> {
        let ran = outcome.as_ref().err().is_none_or(|failure| failure.delivered != Delivered::No);
        let weight = outcome.as_ref().map_or_else(Failure::weight, Weigh::weight);
        let given = (Arc::new(outcome), seq);
        let mut state = self.state.lock();
        if ran {
            state.keep(&ticket.identity, given.clone(), weight);
        } else {
            state.known.remove(&ticket.identity);
        }
        drop(state);
        ticket.sender.send_replace(Some(given.clone()));
        Answer::kept(given, false)
    }
}

impl<T> State<T> {
    fn keep(&mut self, identity: &Identity, given: Given<T>, weight: usize) {
        let Some(known) = self.known.get_mut(identity) else { return };
        known.reply = Reply::Kept(given);
        self.kept.push_back((identity.clone(), weight));
        self.kept_bytes += weight;
        // The newest stays however large it is: its caller may just be losing its connection.
        while self.kept_bytes > KEPT_BYTES && self.kept.len() > 1 {
            let Some((oldest, weight)) = self.kept.pop_front() else { break };
            self.kept_bytes -= weight;
            if let Some(known) = self.known.get_mut(&oldest) {
                known.reply = Reply::Forgotten;
            }
            self.remembered.push_back(oldest);
        }
        while self.remembered.len() > REMEMBERED {
            if let Some(oldest) = self.remembered.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }
}

impl<T> Waiting<T> {
    /// The reply to a request that has just been begun.
    pub(crate) fn of(ticket: &Ticket<T>) -> Self {
        Waiting(Reply::Running(ticket.sender.subscribe()))
    }

    /// Waits for the reply. Dropping the future changes nothing for others.
    pub(crate) async fn answer(self) -> Result<Answer<T>, Failure> {
        let given = match self.0 {
            Reply::Kept(given) => Some(given),
            Reply::Running(mut receiver) => {
                receiver.wait_for(Option::is_some).await.ok().and_then(|given| given.clone())
            }
            Reply::Forgotten => None,
        };
        given.map(|given| Answer::kept(given, true)).ok_or_else(unknown)
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

/// What a request asks for, in a number.
pub(crate) fn fingerprint(what: impl Hash) -> u64 {
    // Its keys are fixed, so that the number is the same wherever it is made in this process.
    std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default().hash_one(what)
}

pub(crate) fn forgotten(identity: &Identity) -> Failure {
    let message = format!(
        "the request with {identity} was answered before and its reply is not kept any more; it was not run again"
    );
    Failure::new(ErrorCode::ReplyForgotten, message)
}

fn unknown() -> Failure {
    let message = "the first request with this key was lost on its way, so nobody knows how far it came";
    Failure::new(ErrorCode::Cancelled, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Weigh for String {
        fn weight(&self) -> usize {
            self.len()
        }
    }

    const LIMIT: RunningLimit = RunningLimit { requests: 3, bytes: 100 };

    #[test]
    fn what_runs_is_bounded_in_number_and_bytes() {
        let replies = Replies::<String>::new(LIMIT);
        let claim = |name: usize, bytes: usize| match replies.claim(key(name), 1, bytes) {
            Ok(Claim::First(ticket)) => Ok(ticket),
            Ok(Claim::Repeat(_)) => panic!("{name} is not new"),
            Err(failure) => Err(failure),
        };
        let long = claim(1, 1_000).ok().unwrap();
        let refused = claim(2, 1).err().unwrap();
        assert_eq!((refused.code, refused.delivered), (ErrorCode::CapacityReached, Delivered::No));
        replies.settle(&long, Ok("done".to_owned()), 1);
        drop(long);
        let running: Vec<_> = (2..5).map(|name| claim(name, 1).ok().unwrap()).collect();
        assert!(claim(5, 1).is_err());
        // One that is dropped without a reply counts no more, either.
        drop(running);
        assert!(claim(5, 1).is_ok());
    }

    fn key(name: usize) -> Identity {
        Identity::Key(name.to_string())
    }

    fn run(replies: &Replies<String>, name: usize, reply: String) {
        let Ok(Claim::First(ticket)) = replies.claim(key(name), 1, 0) else { panic!("{name} is not new") };
        replies.settle(&ticket, Ok(reply), name as u64);
    }

    #[tokio::test]
    async fn a_repeat_waits_for_the_first_and_gets_its_reply() {
        let replies = Replies::new(LIMIT);
        let Ok(Claim::First(ticket)) = replies.claim(key(1), 1, 0) else { panic!() };
        let Ok(Claim::Repeat(waiting)) = replies.claim(key(1), 1, 0) else { panic!() };
        replies.settle(&ticket, Ok("done".to_owned()), 7);
        let answer = waiting.answer().await.unwrap();
        assert_eq!((answer.seq, answer.repeated), (7, true));
        assert_eq!(answer.outcome().unwrap(), "done");
    }

    #[tokio::test]
    async fn a_ticket_that_is_lost_tells_who_waits() {
        let replies: Replies<String> = Replies::new(LIMIT);
        let Ok(Claim::First(ticket)) = replies.claim(key(1), 1, 0) else { panic!() };
        let Ok(Claim::Repeat(waiting)) = replies.claim(key(1), 1, 0) else { panic!() };
        drop(ticket);
        assert_eq!(waiting.answer().await.unwrap_err().code, ErrorCode::Cancelled);
    }

    #[test]
    fn the_same_key_for_something_else_is_a_conflict() {
        let replies = Replies::new(LIMIT);
        run(&replies, 1, "a".to_owned());
        assert_eq!(replies.claim(key(1), 2, 0).err().unwrap().code, ErrorCode::KeyConflict);
    }

    #[test]
    fn what_never_ran_may_be_asked_for_again() {
        let replies: Replies<String> = Replies::new(LIMIT);
        let Ok(Claim::First(ticket)) = replies.claim(key(1), 1, 0) else { panic!() };
        replies.settle(&ticket, Err(Failure::new(ErrorCode::Draining, "no")), 0);
        assert!(matches!(replies.claim(key(1), 1, 0), Ok(Claim::First(_))));
    }

    #[test]
    fn failures_count_by_what_they_say() {
        let replies: Replies<String> = Replies::new(LIMIT);
        for name in 0..100 {
            let Ok(Claim::First(ticket)) = replies.claim(key(name), 1, 0) else { panic!() };
            let failure = Failure::environment("x".repeat(64 << 10));
            replies.settle(&ticket, Err(failure), 0);
        }
        let state = replies.state.lock();
        assert!(state.kept.len() <= KEPT_BYTES / (64 << 10), "{} are kept", state.kept.len());
    }

    #[test]
    fn the_memory_is_bounded_and_a_forgotten_request_is_not_run_again() {
        let replies = Replies::new(LIMIT);
        for name in 0..10_000 {
            run(&replies, name, "x".repeat(1024));
        }
        let state = replies.state.lock();
        assert!(state.kept_bytes <= KEPT_BYTES);
        assert!(state.known.len() <= REMEMBERED + KEPT_BYTES / 1024 + 1, "{}", state.known.len());
        drop(state);
        assert!(matches!(replies.claim(key(9_999), 1, 0), Ok(Claim::Repeat(_))));
        assert_eq!(replies.claim(key(8_000), 1, 0).err().unwrap().code, ErrorCode::ReplyForgotten);
    }
}
