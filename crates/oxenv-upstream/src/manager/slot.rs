//! The place of an instance: a session's own, or the one that all share. It starts the instance when it is
//! first wanted, and again after it died, with growing pauses.
//!
//! Invariant: at most one start runs at a time; callers that wait for it learn how it ended.

use oxenv_wire::after;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::SessionContext;
use super::instance::Instance;
use super::upstream::{StartKind, Upstream};
use super::watchers::Watchers;
use crate::backoff::Backoff;
use crate::client::{Lists, UpstreamError};

/// An instance that lived this long has no earlier failures.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// The place of an instance.
pub(super) struct InstanceSlot {
    upstream: Arc<Upstream>,
    /// The session; nothing in the place that all share.
    place: Option<Arc<SessionContext>>,
    inner: Mutex<Inner>,
    changed: Notify,
    watchers: Arc<Watchers>,
    stop: CancellationToken,
}

struct Inner {
    state: SlotState,
    backoff: Backoff,
    starts: u64,
    problem: Option<String>,
    /// The lists at the last time that watchers were notified.
    shown: Option<Lists>,
}

enum SlotState {
    /// Never wanted so far.
    Idle,
    Starting,
    Ready(Arc<Instance>),
    /// Died, or could not be started; the next try is not before this.
    Down(Instant),
    Closed,
}

/// What a caller that wants the instance has to do.
enum NextAction {
    Take(Arc<Instance>),
    Wait,
    Later(Duration),
    GiveUp,
}

/// The state of a slot, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SlotPhase {
    Idle,
    Starting,
    Ready,
    Down,
}

impl InstanceSlot {
    pub(super) fn new(
        upstream: Arc<Upstream>,
        place: Option<Arc<SessionContext>>,
        watchers: Arc<Watchers>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let inner = Inner {
            state: SlotState::Idle,
            backoff: Backoff::default(),
            starts: 0,
            problem: None,
            shown: None,
        };
        let changed = Notify::new();
        Arc::new(InstanceSlot { upstream, place, inner: Mutex::new(inner), changed, watchers, stop })
    }

    /// The instance if it runs.
    pub(super) fn running(&self) -> Option<Arc<Instance>> {
        match &self.inner.lock().state {
            SlotState::Ready(instance) if !instance.is_over() => Some(instance.clone()),
            _ => None,
        }
    }

    /// The instance, started if need be.
    ///
    /// # Errors
    /// Why there is no instance, and when the next try is.
    pub(super) async fn instance(self: &Arc<Self>) -> Result<Arc<Instance>, UpstreamError> {
        let mut waited = false;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            match self.next(StartKind::Wanted) {
                NextAction::Take(instance) => return Ok(instance),
                NextAction::Wait => changed.await,
                NextAction::Later(pause) if !waited && pause <= Backoff::MAX_CALL_WAIT => {
                    let _ = timeout(pause, changed).await;
                    continue;
                }
                NextAction::Later(pause) => return Err(UpstreamError::Unavailable(self.down_text(pause))),
                NextAction::GiveUp => return Err(UpstreamError::Unavailable("it was ended".to_owned())),
            }
            waited = true;
        }
    }

    /// Starts it in the background unless that was done.
    pub(super) fn begin(self: &Arc<Self>) {
        if matches!(self.inner.lock().state, SlotState::Idle) {
            self.next(StartKind::Background);
        }
    }

    /// Ends the instance and waits for its end, so that the next one finds nothing of it.
    pub(super) async fn renew(&self) {
        let old = {
            let mut inner = self.inner.lock();
            match std::mem::replace(&mut inner.state, SlotState::Idle) {
                SlotState::Ready(instance) => Some(instance),
                other => {
                    inner.state = other;
                    None
                }
            }
        };
        if let Some(old) = old {
            old.end().await;
        }
    }

    /// Ends the instance for good and waits for its end, as [`InstanceSlot::renew`] does.
    pub(super) async fn end(&self) {
        let running = self.running_instance();
        self.close();
        if let Some(instance) = running {
            instance.end().await;
        }
    }

    fn running_instance(&self) -> Option<Arc<Instance>> {
        match &self.inner.lock().state {
            SlotState::Ready(instance) => Some(instance.clone()),
            _ => None,
        }
    }

    /// Ends the instance for good; nothing waits for that.
    pub(super) fn close(&self) {
        self.stop.cancel();
        let state = std::mem::replace(&mut self.inner.lock().state, SlotState::Closed);
        if let SlotState::Ready(instance) = state {
            instance.begin_end();
        }
        self.changed.notify_waiters();
    }

    /// The lists of the running instance.
    pub(super) fn lists(&self) -> Option<Lists> {
        match &self.inner.lock().state {
            SlotState::Ready(instance) => instance.lists()?.ok(),
            _ => None,
        }
    }

    /// Takes note of each change of the lists of an instance, from those on that it has now.
    fn follow_lists(self: &Arc<Self>, instance: &Instance) {
        let mut lists = instance.watch_lists();
        let first = lists.borrow_and_update().clone();
        if let Some(first) = first {
            self.lists_arrived(first);
        }
        let slot = Arc::downgrade(self);
        self.upstream.spawn(async move {
            while lists.changed().await.is_ok() {
                let changed = lists.borrow_and_update().clone();
                let (Some(slot), Some(changed)) = (slot.upgrade(), changed) else { return };
                slot.lists_arrived(changed);
            }
        });
    }

    /// An instance has read its lists anew, or cannot read them.
    pub(super) fn lists_arrived(&self, lists: Result<Lists, String>) {
        let known = self.upstream.known();
        let lists = match lists {
            Ok(lists) => lists,
            Err(why) => return self.upstream.failed(&why),
        };
        if self.place.is_none() || known.is_none() {
            self.upstream.set_lists(&lists);
        }
        let shown = self.inner.lock().shown.replace(lists.clone()).or(known);
        if shown.is_none_or(|shown| !shown.is(&lists)) {
            self.watchers.bump();
        }
    }

    pub(super) fn phase(&self) -> SlotPhase {
        match &self.inner.lock().state {
            SlotState::Idle | SlotState::Closed => SlotPhase::Idle,
            SlotState::Starting => SlotPhase::Starting,
            SlotState::Ready(instance) if !instance.is_over() => SlotPhase::Ready,
            SlotState::Ready(_) | SlotState::Down(_) => SlotPhase::Down,
        }
    }

    /// How often it was started again.
    pub(super) fn restarts(&self) -> u64 {
        self.inner.lock().starts.saturating_sub(1)
    }

    /// Why it cannot work at present.
    pub(super) fn problem(&self) -> Option<String> {
        let inner = self.inner.lock();
        match &inner.state {
            SlotState::Ready(instance) => instance.problem(),
            SlotState::Idle | SlotState::Closed => None,
            SlotState::Starting | SlotState::Down(_) => inner.problem.clone(),
        }
    }

    /// Decides what comes next; begins a start where one is due.
    fn next(self: &Arc<Self>, kind: StartKind) -> NextAction {
        let mut inner = self.inner.lock();
        if let SlotState::Ready(instance) = &inner.state {
            if !instance.is_over() {
                return NextAction::Take(instance.clone());
            }
            let instance = instance.clone();
            inner.note_end(&instance);
        }
        match inner.state {
            SlotState::Idle => {}
            // The shared instance is started again by its own task.
            SlotState::Down(due) if self.place.is_none() && due <= Instant::now() => return NextAction::Wait,
            SlotState::Down(due) if due > Instant::now() => return NextAction::Later(due - Instant::now()),
            SlotState::Down(_) => {}
            SlotState::Starting | SlotState::Ready(_) => return NextAction::Wait,
            SlotState::Closed => return NextAction::GiveUp,
        }
        inner.state = SlotState::Starting;
        // From here on the session's folder waits for what is started, also if the slot is closed at this
        // moment.
        let counted = self.place.as_ref().map(|place| place.running.token());
        drop(inner);
        let slot = self.clone();
        self.upstream.track(async move {
            let _counted = counted;
            tokio::select! {
                biased;
                () = slot.stop.cancelled() => slot.close(),
                () = slot.run(kind) => {}
            }
        });
        NextAction::Wait
    }

    /// Starts the instance; the shared one again and again.
    async fn run(self: &Arc<Self>, mut kind: StartKind) {
        loop {
            let outcome = self.upstream.get_instance(self.place.as_deref(), kind).await;
            let instance = self.started(outcome);
            if self.place.is_some() {
                return;
            }
            if let Some(instance) = instance {
                instance.over().await;
                let how = instance.end_text().await;
                if self.upstream.known().is_none() {
                    self.upstream.failed(&how);
                }
                self.inner.lock().note_end(&instance);
                self.changed.notify_waiters();
            }
            let due = match self.inner.lock().state {
                SlotState::Down(due) => due,
                _ => return,
            };
            sleep_until(due).await;
            self.inner.lock().state = SlotState::Starting;
            kind = StartKind::Background;
        }
    }

    fn started(self: &Arc<Self>, outcome: Result<Instance, String>) -> Option<Arc<Instance>> {
        let instance = outcome.map(Arc::new);
        {
            let mut inner = self.inner.lock();
            if !matches!(inner.state, SlotState::Starting) {
                return None;
            }
            inner.starts += 1;
            match &instance {
                Ok(instance) => {
                    inner.problem = None;
                    inner.state = SlotState::Ready(instance.clone());
                }
                Err(why) => inner.failed(why.clone(), Instant::now()),
            }
        }
        match &instance {
            Ok(instance) => {
                self.upstream.works();
                self.follow_lists(instance);
            }
            Err(why) => self.upstream.failed(why),
        }
        self.changed.notify_waiters();
        instance.ok()
    }

    fn down_text(&self, pause: Duration) -> String {
        let why = self.inner.lock().problem.clone().unwrap_or_else(|| "it has ended".to_owned());
        format!("{why}; the next try is in {:.1} s", pause.as_secs_f64())
    }
}

impl Inner {
    /// Takes note of the death of an instance, once.
    fn note_end(&mut self, instance: &Instance) {
        if !matches!(self.state, SlotState::Ready(_)) {
            return;
        }
        if instance.started().elapsed() >= HEALTHY_AFTER {
            self.backoff.reset();
        }
        let why = instance.problem().unwrap_or_else(|| "it has ended".to_owned());
        self.failed(why, Instant::now());
    }

    fn failed(&mut self, why: String, now: Instant) {
        let pause = self.backoff.next_pause();
        self.problem = Some(why);
        self.state = SlotState::Down(after(now, pause));
    }
}
