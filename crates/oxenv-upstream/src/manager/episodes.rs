//! The slots of a toolset: one for the whole session or server, or one for each episode if its server gets
//! the episode's seed. The next episode's server is then started ahead, so that no call waits for it after
//! a reset.
//!
//! Invariant: a server that was started with a seed serves the episode of that seed and no other.

use std::sync::Arc;

use oxenv_core::{EpisodeSeeds, Scope};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::SessionContext;
use super::slot::InstanceSlot;
use super::upstream::Upstream;
use super::watchers::Watchers;
use crate::manifest::Startup;

/// Where the instances of one toolset are.
pub(super) struct EpisodeSlots {
    upstream: Arc<Upstream>,
    watchers: Arc<Watchers>,
    /// The session; nothing for a toolset that all share.
    place: Option<Arc<SessionContext>>,
    /// The slot that all share, while it is not known yet whether the server is one for all.
    shared: Option<Arc<InstanceSlot>>,
    /// Cancelled when the toolset is closed.
    stop: CancellationToken,
    inner: Mutex<Inner>,
}

struct Inner {
    present: Arc<InstanceSlot>,
    seeds: EpisodeSeeds,
    /// Whether the next reset is likely to leave the seed to the session, as the last one did.
    derives: bool,
    /// The next episode's slot, once the present one was used.
    ahead: Option<Arc<InstanceSlot>>,
}

impl EpisodeSlots {
    /// The slot that all sessions share.
    pub(super) fn shared(upstream: Arc<Upstream>, slot: Arc<InstanceSlot>) -> Self {
        let seeds = EpisodeSeeds::before_reset(0);
        let inner = Mutex::new(Inner { present: slot, seeds, derives: false, ahead: None });
        let (watchers, stop) = (Arc::default(), CancellationToken::new());
        EpisodeSlots { upstream, watchers, place: None, shared: None, stop, inner }
    }

    /// Slots of a session. Nothing is started yet.
    pub(super) fn of_session(
        upstream: Arc<Upstream>,
        place: Arc<SessionContext>,
        watchers: Arc<Watchers>,
        stop: CancellationToken,
    ) -> Self {
        let seeds = place.seeds;
        let present =
            InstanceSlot::new(upstream.clone(), Some(place.clone()), watchers.clone(), stop.child_token());
        let inner = Mutex::new(Inner { present, seeds, derives: true, ahead: None });
        EpisodeSlots { upstream, watchers, place: Some(place), shared: None, stop, inner }
    }

    /// These slots, left unused if it turns out that all sessions share that slot.
    pub(super) fn unless_shared(self, shared: Option<Arc<InstanceSlot>>) -> Self {
        EpisodeSlots { shared, ..self }
    }

    /// Whether they are those of a session.
    pub(super) fn are_of_session(&self) -> bool {
        self.place.is_some()
    }

    /// The slot of the present episode.
    pub(super) fn present(&self) -> Arc<InstanceSlot> {
        match &self.shared {
            Some(shared) if self.upstream.scope() != Some(Scope::Session) => shared.clone(),
            _ => self.inner.lock().present.clone(),
        }
    }

    /// Starts the present episode's instance in the background unless that was done.
    pub(super) fn begin(&self) {
        if self.upstream.scope().is_none() {
            return;
        }
        self.present().begin();
        self.used();
    }

    /// Does that as soon as it is known that the instances are the session's.
    pub(super) fn begin_when_known(self: &Arc<Self>) {
        if self.upstream.scope().is_some() {
            return self.begin();
        }
        let (slots, stop, upstream) = (Arc::downgrade(self), self.stop.clone(), self.upstream.clone());
        self.upstream.spawn(async move {
            let scope = stop.run_until_cancelled(upstream.scope_known()).await;
            if let (Some(Some(Scope::Session)), Some(slots)) = (scope, slots.upgrade()) {
                slots.begin();
            }
        });
    }

    /// Called when the present episode's instance is in use: the next episode's is started if it has another
    /// seed.
    pub(super) fn used(&self) {
        if !self.upstream.starts_ahead || self.stop.is_cancelled() {
            return;
        }
        let mut inner = self.inner.lock();
        if inner.ahead.is_some() || !inner.derives {
            return;
        }
        // The seed after the next is not known, and this slot never needs it.
        let next = EpisodeSeeds { present: inner.seeds.next, next: inner.seeds.next };
        let Some(slot) = self.slot(next) else { return };
        slot.begin();
        inner.ahead = Some(slot);
    }

    /// Begins an episode of which the instance is a new one, of that seed where the server gets it. Waits
    /// for the end of an instance that a new one might meet.
    pub(super) async fn restart(&self, seeds: EpisodeSeeds) {
        let Some(next) = self.upstream.follows_seed.then(|| self.slot(seeds)).flatten() else {
            return self.present().renew().await;
        };
        let (old, unused, was_ahead) = {
            let mut inner = self.inner.lock();
            inner.derives = seeds.present == inner.seeds.next;
            let ahead = inner.ahead.take();
            let (next, unused, was_ahead) = match ahead {
                Some(ahead) if inner.derives => (ahead, None, true),
                ahead => (next, ahead, false),
            };
            inner.seeds = seeds;
            (std::mem::replace(&mut inner.present, next), unused, was_ahead)
        };
        if let Some(unused) = unused {
            unused.close();
        }
        let shown = old.lists().or_else(|| self.upstream.known());
        match was_ahead {
            // The two have met already.
            true => old.close(),
            false => old.end().await,
        }
        let present = self.present();
        let shows = present.lists().or_else(|| self.upstream.known());
        if !matches!((shown, shows), (Some(old), Some(new)) if old.is(&new)) {
            self.watchers.bump();
        }
    }

    /// Ends every instance of the session for good; nothing waits for that.
    pub(super) fn close(&self) {
        if self.place.is_none() {
            return;
        }
        self.stop.cancel();
        let mut inner = self.inner.lock();
        inner.present.close();
        if let Some(ahead) = inner.ahead.take() {
            ahead.close();
        }
    }

    /// Starts the new episode's instance in the background if it is not to wait until it is wanted.
    pub(super) fn begin_if_eager(&self) {
        if self.place.is_some() && self.upstream.entry.startup == Startup::Eager {
            self.begin();
        }
    }

    /// A slot of the session for an episode with that seed.
    fn slot(&self, seeds: EpisodeSeeds) -> Option<Arc<InstanceSlot>> {
        let place = Arc::new(SessionContext { seeds, ..SessionContext::clone(self.place.as_ref()?) });
        let stop = self.stop.child_token();
        Some(InstanceSlot::new(self.upstream.clone(), Some(place), self.watchers.clone(), stop))
    }
}
