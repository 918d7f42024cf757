//! The rules of forks, snapshots and repeated requests, checked through sessions.
//!
//! Invariant: a copy's behaviour is compared byte by byte with an episode that was not disturbed.

use std::sync::Arc;

use oxenv_wire::{Action, ErrorCode, RawJson, raw};
use serde_json::{Value, json};

use super::{Suite, difference, reply, reset, step};
use crate::capabilities::ForkMode;
use crate::failure::Failure;
use crate::idempotency::Idempotency;
use crate::reply::StepReply;
use crate::session::{Session, SessionOptions, SessionRequest};

/// Forks that are made of one session.
const FORK_COUNT: usize = 3;

impl Suite {
    /// Forks go on as the original would, and neither sees the other.
    pub(super) async fn fork(&mut self) {
        let declared = self.factory.spec().capabilities.fork;
        let Some((original, rest)) = self.half_episode().await else { return };
        let forked = self.store.fork(&original, FORK_COUNT, SessionOptions::default()).await;
        match (forked, declared) {
            (Ok(_), ForkMode::None) => self.fail("fork is as declared", "it forked, but declares none"),
            (Err(failure), ForkMode::None) => self.refused("a refused fork says why", &failure),
            (Err(failure), ForkMode::Process) if failure.code == ErrorCode::Unsupported => {
                self.refused("a refused fork says why", &failure);
            }
            (Err(failure), _) => self.fail("fork is as declared", failure.to_string()),
            (Ok(forks), _) => {
                let ids: Vec<&str> = forks.iter().map(|fork| fork.id()).chain([original.id()]).collect();
                if forks.len() != FORK_COUNT || (1..ids.len()).any(|at| ids[..at].contains(&ids[at])) {
                    self.fail("each fork is a session of its own", ids.join(", "));
                }
                for fork in &forks {
                    self.same_numbers("a fork has the numbers of its original", &original, fork);
                }
                let Some(undisturbed) = self.rest_without_copies(&rest).await else { return };
                let [first, second, third] = &forks[..] else { return };
                let rule = "forks go on as the original would, each by itself";
                self.check_rest(rule, first, &rest, &undisturbed).await;
                let _ = reset(third, 8).await;
                self.check_rest(rule, &original, &rest, &undisturbed).await;
                first.close();
                self.check_rest(rule, second, &rest, &undisturbed).await;
            }
        }
    }

    /// A restored snapshot is a new session that goes on as the saved one would; other texts are refused.
    pub(super) async fn snapshot(&mut self) {
        let declared = self.factory.spec().capabilities.snapshot;
        let Some((original, rest)) = self.half_episode().await else { return };
        let saved = match (self.store.snapshot(&original).await, declared) {
            (Ok(saved), true) => saved,
            (Ok(_), false) => {
                return self.fail("snapshot is as declared", "it made one, but declares none");
            }
            (Err(failure), true) => return self.fail("snapshot is as declared", failure.to_string()),
            (Err(failure), false) => return self.refused("a refused snapshot says why", &failure),
        };
        let sessions = self.store.status().active;
        for damaged in [&saved[..saved.len() / 2], &format!("{saved}x"), "", "no snapshot"] {
            match self.store.restore(damaged, SessionOptions::default()).await {
                Ok(_) => self.fail("a damaged snapshot is refused", "it was taken"),
                Err(failure) if failure.code == ErrorCode::SnapshotInvalid => {}
                Err(failure) => self.fail("a damaged snapshot is refused as one", failure.to_string()),
            }
        }
        if self.store.status().active != sessions {
            self.fail("a damaged snapshot makes no session", format!("{:?}", self.store.status()));
        }
        let restored = match self.store.restore(&saved, SessionOptions::default()).await {
            Ok(restored) => restored,
            Err(failure) => return self.fail("a snapshot restores", failure.to_string()),
        };
        if restored.id() == original.id() {
            self.fail("a restored snapshot is a new session", restored.id());
        }
        self.same_numbers("a restored snapshot has the numbers of the session", &original, &restored);
        let Some(undisturbed) = self.rest_without_copies(&rest).await else { return };
        let rule = "a restored snapshot goes on as the session would";
        self.check_rest(rule, &original, &rest, &undisturbed).await;
        self.check_rest(rule, &restored, &rest, &undisturbed).await;
    }

    /// A request with a key is run once, and its repeats get its reply.
    pub(super) async fn repeats(&mut self) {
        let Some(session) = self.session().await else { return };
        let Some(action) = self.actions.first().and_then(|action| raw(action).ok()) else { return };
        let _ = reset(&session, 7).await;
        let keyed = async |action: &RawJson| {
            let once = Idempotency { key: Some("contract".to_owned()), ..Idempotency::default() };
            let action = Action::parse(action).map_err(Failure::invalid)?;
            let request = SessionRequest { once, ..SessionRequest::step(action) };
            session.submit(request).await.into_outcome().map(StepReply::into_owned)
        };
        let before = session.info().step_count;
        let mut replies = Vec::new();
        for _ in 0..2 {
            replies.push(reply(keyed(&action).await));
        }
        let steps = session.info().step_count - before;
        if replies[0] != replies[1] || steps != 1 {
            let seen = format!("{steps} steps; {}", difference(&replies[..1], &replies[1..]));
            self.fail("the same key gives the same reply", seen);
        }
        let Ok(other) = raw(&json!({ "another": "action" })) else { return };
        match keyed(&other).await {
            Err(failure) if failure.code == ErrorCode::KeyConflict => {}
            other => self.fail("a key is of one request", reply(other)),
        }
    }

    /// A refusal is of the right kind and names what refuses: the environment, or one of its toolsets.
    fn refused(&mut self, rule: &'static str, failure: &Failure) {
        let named =
            failure.message.contains(&self.factory.spec().name) || failure.message.contains("toolset '");
        if failure.code != ErrorCode::Unsupported || !named {
            self.fail(rule, format!("{:?}: {failure}", failure.code));
        }
    }

    fn same_numbers(&mut self, rule: &'static str, original: &Session, copy: &Session) {
        let numbers_of = |session: &Session| {
            let info = session.info();
            let numbers = (info.seed, info.epoch, info.step_count, info.done);
            format!("{numbers:?} {} {:?} {:?}", info.episode_id, info.episode_reward, info.episode_scores)
        };
        let (wanted, seen) = (numbers_of(original), numbers_of(copy));
        if wanted != seen {
            self.fail(rule, format!("{wanted} against {seen}"));
        }
    }

    /// A session after the first half of the actions, and the other half.
    async fn half_episode(&mut self) -> Option<(Arc<Session>, Vec<Value>)> {
        let session = self.session().await?;
        let _ = reset(&session, 7).await;
        let (first, rest) = self.actions.split_at(self.actions.len() / 2);
        for action in first {
            let _ = step(&session, action).await;
        }
        Some((session, rest.to_vec()))
    }

    /// The expected observation of the other half if nothing disturbs it; `None` if the environment
    /// does not promise equal bytes.
    async fn rest_without_copies(&mut self, rest: &[Value]) -> Option<Vec<String>> {
        if !self.factory.spec().capabilities.deterministic {
            return None;
        }
        let (session, _) = self.half_episode().await?;
        Some(play(&session, rest).await)
    }

    async fn check_rest(
        &mut self,
        rule: &'static str,
        session: &Arc<Session>,
        rest: &[Value],
        undisturbed: &[String],
    ) {
        let shows = play(session, rest).await;
        if shows != undisturbed {
            self.fail(rule, difference(undisturbed, &shows));
        }
    }
}

/// The replies to these actions, each with the state after it.
async fn play(session: &Arc<Session>, actions: &[Value]) -> Vec<String> {
    let mut shows = vec![state_text(session).await];
    for action in actions {
        shows.push(reply(step(session, action).await));
        shows.push(state_text(session).await);
    }
    shows
}

/// The state, or why it cannot be given.
async fn state_text(session: &Arc<Session>) -> String {
    session.state().await.unwrap_or_else(|failure| failure.to_string())
}
