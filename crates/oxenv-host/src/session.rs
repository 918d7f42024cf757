//! One session of a hosted environment: its worker, shared by the environment and its tools.
//!
//! Invariant: one request at a time. A request that is dropped ends the worker, because it is unknown
//! how far it came; only a reset makes a new one.

use std::collections::VecDeque;
use std::sync::Arc;

use oxenv_core::{EnvironmentContext, Failure, Observed, OutputLog};
use oxenv_wire::{Delivered, ErrorCode, Json, Loc, RawJson, Reward, ValidationIssue};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Mutex as AsyncMutex;

use crate::host::{CopyError, Host};
use crate::protocol::{
    CallReply, Created, ErrorKind, ObservedReply, PydanticIssue, Reply, SessionRequest, StateReply, Success,
    TaskReply, WorkerError,
};
use crate::worker::Worker;

/// Maximum number of scores of calls that have not been asked for yet.
const MAX_SCORES: usize = 64;

/// A session's worker, and its last report.
pub(crate) struct HostedSession {
    host: Arc<Host>,
    context: EnvironmentContext,
    /// What all its workers wrote.
    output: OutputLog,
    /// Absent after its process has ended.
    worker: AsyncMutex<Option<Worker>>,
    state: Mutex<Result<RawJson, String>>,
    scores: Mutex<VecDeque<CallScore>>,
}

/// The reward of a tool call.
pub(crate) struct CallScore {
    pub(crate) tool: String,
    pub(crate) arguments: Option<RawJson>,
    pub(crate) reward: Option<Reward>,
    pub(crate) done: bool,
}

impl HostedSession {
    /// A session with its environment made.
    pub(crate) async fn open(
        host: Arc<Host>,
        context: EnvironmentContext,
    ) -> Result<(Arc<Self>, Created), Failure> {
        let session = HostedSession {
            host,
            context,
            output: OutputLog::default(),
            worker: AsyncMutex::new(None),
            state: Mutex::new(Err("the environment has not told its state yet".to_owned())),
            scores: Mutex::default(),
        };
        let mut slot = session.worker.lock().await;
        let created = session.start(&mut slot).await?;
        drop(slot);
        Ok((Arc::new(session), created))
    }

    /// Gives a session without a worker a new one, with a new environment.
    async fn start(&self, slot: &mut Option<Worker>) -> Result<Created, Failure> {
        let worker = self.host.take().await.map_err(|error| Failure::infrastructure(error.message))?;
        worker.log_to(self.output.clone());
        *slot = Some(worker);
        let request = SessionRequest::Create { seed: self.context.seed, mode: self.host.mode() };
        self.exchange(slot, &request, |success| success.created).await.map(|created| *created)
    }

    /// A session that goes on from the present state of this one. It is made to its end, even if nobody waits
    /// for it any more.
    pub(crate) async fn copy(self: &Arc<Self>, context: EnvironmentContext) -> Result<Arc<Self>, Failure> {
        let original = Arc::clone(self);
        let copying = tokio::spawn(async move { original.copy_worker(context).await });
        copying.await.unwrap_or_else(|error| Err(Failure::infrastructure(error.to_string())))
    }

    async fn copy_worker(&self, context: EnvironmentContext) -> Result<Arc<Self>, Failure> {
        let mut slot = self.worker.lock().await;
        let mut original = slot.take().ok_or_else(without_process)?;
        if let Some(file) = self.host.change_since(&original) {
            let how = format!("was ended, because {file} has changed");
            return Err(Failure::infrastructure(format!("the environment's process {how}")));
        }
        let copied = self.host.copy(&mut original).await;
        if let Err(CopyError::Lost(error)) = copied {
            let how = original.describe_end(&error).await;
            return Err(Failure::infrastructure(format!("the environment's process {how}")));
        }
        *slot = Some(original);
        let worker = copied.map_err(|error| match error {
            CopyError::Refused(why) => Failure::unsupported(why),
            CopyError::Failed(error) => Failure::infrastructure(error.message),
            CopyError::Lost(error) => Failure::infrastructure(error.to_string()),
        })?;
        let output = OutputLog::default();
        worker.log_to(output.clone());
        Ok(Arc::new(HostedSession {
            host: Arc::clone(&self.host),
            context,
            output,
            worker: AsyncMutex::new(Some(worker)),
            state: Mutex::new(self.state.lock().clone()),
            scores: Mutex::default(),
        }))
    }

    /// Begins an episode, in a new process if the last one has ended.
    pub(crate) async fn reset(&self, request: SessionRequest<'_>) -> Result<Observed, Failure> {
        let mut slot = self.worker.lock().await;
        if slot.as_ref().is_none_or(|worker| worker.has_ended() || self.host.change_since(worker).is_some()) {
            self.start(&mut slot).await?;
        }
        self.scores.lock().clear();
        self.exchange(&mut slot, &request, |success| success.observed.as_ref().map(observed)).await
    }

    pub(crate) async fn step(&self, request: SessionRequest<'_>) -> Result<Observed, Failure> {
        let mut slot = self.worker.lock().await;
        self.exchange(&mut slot, &request, |success| success.observed.as_ref().map(observed)).await
    }

    /// Makes a tool call; `take` makes of its reply what the caller wants.
    pub(crate) async fn call<T>(
        &self,
        request: SessionRequest<'_>,
        take: impl FnOnce(CallReply<'_>) -> T,
    ) -> Result<T, Failure> {
        let mut slot = self.worker.lock().await;
        self.exchange(&mut slot, &request, |success| success.call.map(take)).await
    }

    pub(crate) fn output(&self) -> OutputLog {
        self.output.clone()
    }

    /// Asks one of the methods of OpenEnv's Task API.
    pub(crate) async fn task(&self, request: SessionRequest<'_>) -> Result<TaskReply, Failure> {
        let mut slot = self.worker.lock().await;
        self.exchange(&mut slot, &request, |success| success.task).await
    }

    /// The state as of the last reply.
    pub(crate) fn state(&self) -> Result<RawJson, Failure> {
        self.state.lock().clone().map_err(Failure::environment)
    }

    /// Keeps the reward of a call until it is read.
    pub(crate) fn keep_score(&self, score: CallScore) {
        let mut scores = self.scores.lock();
        if scores.len() == MAX_SCORES {
            scores.pop_front();
        }
        scores.push_back(score);
    }

    /// The reward of a call, by its tool and arguments.
    pub(crate) fn take_score(&self, tool: &str, arguments: Option<&str>) -> Option<CallScore> {
        let mut scores = self.scores.lock();
        let same = |score: &CallScore| {
            score.tool == tool && score.arguments.as_ref().map(|arguments| arguments.get()) == arguments
        };
        let place = scores.iter().position(same)?;
        scores.remove(place)
    }

    /// Lets the environment close itself; nothing waits. A request that is in flight ends with its process.
    pub(crate) fn close(&self) {
        let worker = self.worker.try_lock().ok().and_then(|mut slot| slot.take());
        if let Some(worker) = worker {
            self.host.dismiss(worker);
        }
    }

    /// Makes a request of the worker. It is out of its slot meanwhile: dropping this ends it.
    async fn exchange<T>(
        &self,
        slot: &mut Option<Worker>,
        request: &SessionRequest<'_>,
        take: impl FnOnce(Success<'_>) -> Option<T>,
    ) -> Result<T, Failure> {
        let mut worker = slot.take().ok_or_else(without_process)?;
        let answer = match worker.connection.exchange(request).await {
            Ok(frame) => self.read(frame, take),
            Err(error) => {
                let how = match self.host.change_since(&worker) {
                    Some(file) => format!("was ended, because {file} has changed"),
                    None => worker.describe_end(&error).await,
                };
                return Err(Failure::infrastructure(format!(
                    "the environment's process {how}\nreset the session to begin a new episode"
                ))
                .with(|detail| detail.delivered = Delivered::Maybe));
            }
        };
        *slot = Some(worker);
        answer
    }

    fn read<T>(&self, frame: &[u8], take: impl FnOnce(Success<'_>) -> Option<T>) -> Result<T, Failure> {
        let unreadable = |error: &dyn std::fmt::Display| {
            Failure::environment(format!("what the environment answered cannot be read: {error}"))
        };
        match serde_json::from_slice(frame) {
            Ok(Reply::Ok(mut success)) => {
                if let Some(state) = success.state.take() {
                    *self.state.lock() = match state {
                        StateReply::Fields(fields) => Ok(fields.to_owned()),
                        StateReply::Error(error) => Err(error.into_owned()),
                    };
                }
                take(success).ok_or_else(|| unreadable(&"it has not what was asked for"))
            }
            Ok(Reply::Error(error)) => Err(failure(error)),
            Ok(Reply::Exited(_)) => Err(unreadable(&"it speaks of another process")),
            Err(error) => Err(unreadable(&error)),
        }
    }
}

fn without_process() -> Failure {
    let says = "the environment's process has ended; reset the session to begin a new episode";
    Failure::infrastructure(says).undelivered()
}

fn observed(reply: &ObservedReply<'_>) -> Observed {
    Observed {
        fields: reply.fields.to_owned(),
        metadata: (reply.metadata.get() != "{}").then(|| reply.metadata.to_owned()),
        reward: reply.reward,
        done: reply.done,
    }
}

fn failure(error: WorkerError) -> Failure {
    let failure = match error.kind {
        ErrorKind::Invalid => Failure::invalid(error.issues.into_iter().map(issue).collect()),
        ErrorKind::Reward => Failure::new(ErrorCode::NonFiniteReward, error.message),
        ErrorKind::Unsupported => Failure::unsupported(error.message),
        ErrorKind::Host => Failure::infrastructure(error.message),
        ErrorKind::Environment | ErrorKind::MissingModule | ErrorKind::Import => {
            Failure::environment(error.message)
        }
    };
    failure.with(|detail| detail.internal = error.trace)
}

/// One of pydantic's errors as ours, which have its shape.
fn issue(error: PydanticIssue) -> ValidationIssue {
    let input = error.input.as_ref().map_or(Json::NULL, |input| Json::from_checked(input.get()));
    let mut issue = ValidationIssue::new(error.kind, &[], error.msg, input);
    issue.loc = error.loc.iter().map(loc).collect();
    issue.ctx = error.ctx;
    issue.url = error.url.is_some();
    issue
}

fn loc(part: &Value) -> Loc {
    match (part.as_u64().map(usize::try_from), part.as_str()) {
        (Some(Ok(index)), _) => Loc::Index(index),
        (_, Some(key)) => Loc::from(key),
        (_, None) => Loc::from(part.to_string().as_str()),
    }
}
