//! How a session is made: a slot, an environment, a record of its opening, a place where it is found.
//!
//! Invariant: whatever fails on the way, the slot is free again and nothing is left.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use oxenv_wire::{ErrorCode, Phase, after, panic_text};
use tokio::time::Instant;

use super::SessionStore;
use crate::audit::utc_micros;
use crate::code::Interpreter;
use crate::end_reason::EndReason;
use crate::failure::Failure;
use crate::record::{RecordEntry, RecordEvent, SessionOrigin};
use crate::registry::Slot;
use crate::seed::derive_seed;
use crate::session::{Lease, NewSession, Past, Session, SessionOptions};
use crate::slots::{NoSlot, Permit};
use crate::spec::{EnvironmentContext, EnvironmentInstance};
use crate::work::{CatchPanic, Work};

/// All that a session is made of.
pub(super) struct NewSessionParts<'a> {
    pub(super) slot: Slot<Session>,
    pub(super) seed: u64,
    pub(super) instance: EnvironmentInstance,
    /// The variables of its programs, if it goes on from others.
    pub(super) interpreter: Option<Box<dyn Interpreter>>,
    pub(super) past: Past,
    pub(super) options: SessionOptions,
    pub(super) origin: Option<SessionOrigin<'a>>,
}

/// A session that cannot be found yet. Dropping it before that ends it.
pub(super) struct UnlistedSession {
    session: Arc<Session>,
    listed: bool,
}

/// How long a copy waits for its session to be still where it does not wait for slots.
const STILL_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a request waits for all its slots together.
#[derive(Clone, Copy)]
pub(super) struct QueueTimeout {
    pub(super) began: Instant,
    pub(super) length: Duration,
}

impl QueueTimeout {
    pub(super) fn new(length: Duration) -> Self {
        QueueTimeout { began: Instant::now(), length }
    }

    /// The limit of waiting for a session to be still; [`STILL_TIMEOUT`] where slots are not waited for.
    pub(super) async fn bound<T>(self, still: impl Future<Output = T>) -> Result<T, Failure> {
        let length = if self.length.is_zero() { STILL_TIMEOUT } else { self.length };
        tokio::time::timeout_at(after(self.began, length), still).await.map_err(|_| {
            let message = format!(
                "the session was still at work when the {} s for waiting were over",
                length.as_secs_f64()
            );
            Failure::new(ErrorCode::DeadlineExceeded, message).in_phase(Phase::Boot).undelivered()
        })
    }

    /// When it is over; absent when there is none.
    pub(super) fn until(self) -> Option<Instant> {
        (!self.length.is_zero()).then(|| after(self.began, self.length))
    }
}

impl Drop for UnlistedSession {
    fn drop(&mut self) {
        if !self.listed {
            self.session.end(EndReason::Closed);
        }
    }
}

impl SessionStore {
    pub(super) fn refuse_if_draining(&self) -> Result<(), Failure> {
        match self.draining.load(Ordering::Acquire) {
            true => Err(draining()),
            false => Ok(()),
        }
    }

    pub(super) fn slot(&self, permit: Option<Permit>, waited: Duration) -> Slot<Session> {
        Slot::new(Arc::clone(&self.registry), permit, waited)
    }

    pub(super) async fn take_slot(&self, options: &SessionOptions) -> Result<Slot<Session>, Failure> {
        self.refuse_if_draining()?;
        let patience = QueueTimeout::new(options.queue.unwrap_or(self.limits.queue));
        match self.slots.take(&options.owner, 1, patience.until()).await {
            Ok(permit) => Ok(self.slot(Some(permit), patience.began.elapsed())),
            Err(refusal) => Err(self.no_slot(refusal, 1, patience)),
        }
    }

    pub(super) fn no_slot(&self, refusal: NoSlot, count: usize, patience: QueueTimeout) -> Failure {
        let max = self.limits.max_sessions;
        let mut waited = match patience.length.is_zero() {
            true => String::new(),
            false => format!(" Waited {} s in the queue; retry later.", patience.length.as_secs_f64()),
        };
        if count > 1 {
            waited.insert_str(0, &format!(" {count} slots at once were asked for."));
        }
        let (message, active) = match refusal {
            NoSlot::Closed => return draining(),
            NoSlot::TooMany { most, capped } => return self.too_many(count, most, capped),
            NoSlot::Full { active, capped: false } => {
                let kept = match active + count <= max {
                    true => " The free ones are kept for who came before.",
                    false => "",
                };
                let stock = format!(
                    "Server at capacity: {active}/{max} sessions active. Cannot accept new connections.{kept}"
                );
                (stock, active)
            }
            NoSlot::Full { active, capped: true } => {
                let cap = self.limits.max_per_owner.unwrap_or(max);
                (format!("Server at capacity: your token has all {cap} sessions that it may have."), active)
            }
            NoSlot::Descriptors(used) => {
                let message = format!(
                    "Server at capacity: it has {} descriptors open of the {} that it may have; raise the \
                     limit (ulimit -n), or end sessions.",
                    used.open, used.limit
                );
                waited.clear();
                (message, self.slots.counts().active)
            }
            NoSlot::Memory { used, budget } => {
                let (used, budget) = (used >> 20, budget >> 20);
                let message = format!(
                    "Server at capacity: it uses {used} MiB of memory, and {budget} MiB are its budget."
                );
                (message, self.slots.counts().active)
            }
        };
        Failure::new(ErrorCode::CapacityReached, message + &waited)
            .in_phase(Phase::Boot)
            .with(|detail| detail.capacity = Some((active, max)))
    }

    /// A failure that waiting does not resolve: the caller has to ask for fewer.
    fn too_many(&self, count: usize, most: usize, capped: bool) -> Failure {
        let max = self.limits.max_sessions;
        let (whose, slots) = match capped {
            true => ("your token may have", self.limits.max_per_owner.unwrap_or(max)),
            false => ("this server has", max),
        };
        let original = if most < slots { ", one of which the original has" } else { "" };
        let message = match most {
            0 => format!("a slot was asked for beside that of the original, and {whose} {slots}"),
            _ => format!(
                "{count} slots at once were asked for, and {whose} {slots}{original}: ask for {most} at most"
            ),
        };
        Failure::new(ErrorCode::CapacityReached, message)
            .in_phase(Phase::Boot)
            .with(|detail| detail.retryable = false)
    }

    pub(super) async fn boot(
        &self,
        slot: Slot<Session>,
        options: SessionOptions,
    ) -> Result<Arc<Session>, Failure> {
        let index = self.created.fetch_add(1, Ordering::Relaxed);
        let seed = options.seed.unwrap_or_else(|| derive_seed(self.seed, index));
        let instance = self.make(EnvironmentContext::new(slot.id(), seed), self.boot_deadline()).await?;
        let past = Past { episode_id: options.episode_id.clone(), ..Past::default() };
        self.register(NewSessionParts {
            slot,
            seed,
            instance,
            interpreter: None,
            past,
            options,
            origin: None,
        })
        .await
    }

    /// Makes the session, records that it is there, and lets it be found.
    pub(super) async fn register(&self, made: NewSessionParts<'_>) -> Result<Arc<Session>, Failure> {
        Ok(self.list_now(self.record(made).await?))
    }

    /// Makes the session and records that it is there.
    pub(super) async fn record(&self, made: NewSessionParts<'_>) -> Result<UnlistedSession, Failure> {
        let (is_default, waited) = (made.slot.owner().is_none(), made.slot.waited());
        let lease = match is_default {
            true => self.limits.default_idle,
            false => Some(made.options.lease.unwrap_or(self.limits.idle)),
        };
        let session = Session::new(NewSession {
            slot: made.slot,
            spec: Arc::clone(self.factory.spec()),
            seed: made.seed,
            instance: made.instance,
            lease: Lease::new(lease),
            reset_deadline: self.limits.reset,
            stuck: Arc::clone(&self.stuck),
            hooks: self.hooks.clone(),
            code: self.code.clone(),
            interpreter: made.interpreter,
            waited,
            past: Some(made.past),
        });
        if let Some(observer) = &self.hooks.observer {
            observer.opened(waited);
        }
        let unlisted = UnlistedSession { session, listed: false };
        if let Some(recorder) = &self.hooks.recorder {
            let session = &unlisted.session;
            let episode_id = session.info().episode_id;
            let opened = recorder.append(&opened(session, &episode_id, made.origin));
            opened.await.map_err(|failure| failure.in_phase(Phase::Boot))?;
        }
        Ok(unlisted)
    }

    /// Lets a session be found.
    pub(super) fn list_now(&self, mut unlisted: UnlistedSession) -> Arc<Session> {
        let session = Arc::clone(&unlisted.session);
        self.registry.insert(session.id(), Arc::clone(&session));
        unlisted.listed = true;
        session
    }

    /// The time by which an environment must be made that is begun now.
    pub(super) fn boot_deadline(&self) -> Instant {
        after(Instant::now(), self.limits.boot)
    }

    pub(super) async fn make(
        &self,
        boot: EnvironmentContext,
        deadline: Instant,
    ) -> Result<EnvironmentInstance, Failure> {
        match self.bounded(AssertUnwindSafe(|| self.factory.create(boot)), deadline).await {
            Ok(made) => made.map_err(|failure| self.named(failure)),
            Err(why) => Err(self.factory_failed(&why)),
        }
    }

    /// Work of the factory, until the deadline; a panic is an error's text.
    pub(super) async fn bounded<'a, T: Send + 'a>(
        &self,
        begin: AssertUnwindSafe<impl FnOnce() -> Work<'a, T>>,
        deadline: Instant,
    ) -> Result<T, String> {
        match std::panic::catch_unwind(begin) {
            Ok(Work::Done(Some(made))) => Ok(made),
            Ok(pending) => match tokio::time::timeout_at(deadline, CatchPanic(pending)).await {
                Ok(caught) => caught,
                Err(_) => Err(format!("not ready within {} s", self.limits.boot.as_secs_f64())),
            },
            Err(panic) => Err(panic_text(panic.as_ref())),
        }
    }

    pub(super) fn factory_failed(&self, why: &str) -> Failure {
        let name = &self.factory.spec().name;
        self.named(Failure::new(
            ErrorCode::FactoryError,
            format!("Environment factory '{name}' failed to create instance: {why}"),
        ))
    }

    pub(super) fn named(&self, failure: Failure) -> Failure {
        failure.in_phase(Phase::Boot).with(|detail| {
            detail.code = ErrorCode::FactoryError;
            detail.factory = Some(self.factory.spec().name.clone());
        })
    }
}

fn opened<'a>(
    session: &'a Session,
    episode_id: &'a str,
    origin: Option<SessionOrigin<'a>>,
) -> RecordEntry<'a> {
    let spec = session.spec();
    RecordEntry {
        session_id: session.id(),
        seq: 0,
        epoch: session.epoch(),
        time_us: utc_micros(SystemTime::now()),
        event: RecordEvent::Opened {
            environment: &spec.name,
            version: &spec.version,
            deterministic: spec.capabilities.deterministic,
            seed: session.seed(),
            episode_id,
            origin,
        },
    }
}

fn draining() -> Failure {
    let message = "the server is shutting down and takes no new sessions; retry elsewhere or later";
    Failure::new(ErrorCode::Draining, message).in_phase(Phase::Boot)
}
