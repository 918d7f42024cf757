//! The status of an instance over time.
//!
//! Invariant: it ends once, and stays ended.

use std::time::Duration;

use super::config::InstanceConfig;
use crate::fault::PendingOutcome;
use crate::view::InstanceStatus;

/// The life of an instance, in the times of the clock.
pub(super) struct SimulatedLifecycle {
    created: Duration,
    ready_at: Duration,
    expires_at: Duration,
    /// Its next state once it was requested.
    outcome: Option<PendingOutcome>,
    was_requested: bool,
    ended: Option<Duration>,
    heartbeats: Option<Heartbeats>,
}

/// When an instance that wants heartbeats had the last one.
#[derive(Clone, Copy)]
pub(crate) struct Heartbeats {
    pub(crate) interval_seconds: u32,
    last: Duration,
}

impl Heartbeats {
    /// When the instance ends without another; a heartbeat may be late by as much as the interval.
    pub(crate) fn deadline(self) -> Duration {
        self.last.saturating_add(2 * Duration::from_secs(self.interval_seconds.into()))
    }
}

impl SimulatedLifecycle {
    pub(super) fn new(now: Duration, delay: Duration, config: &InstanceConfig) -> Self {
        let ready_at = now.saturating_add(delay);
        SimulatedLifecycle {
            created: now,
            ready_at,
            // An instance that is being made has not begun to live.
            expires_at: ready_at.saturating_add(config.ttl),
            outcome: config.outcome,
            was_requested: false,
            ended: None,
            heartbeats: config
                .heartbeat_interval
                .map(|interval_seconds| Heartbeats { interval_seconds, last: ready_at }),
        }
    }

    pub(super) fn status(&self, now: Duration) -> InstanceStatus {
        if self.ended.is_some() {
            return InstanceStatus::Stopped;
        }
        match self.outcome {
            Some(_) if !self.was_requested => InstanceStatus::Pending,
            Some(PendingOutcome::Pending) => InstanceStatus::Pending,
            Some(PendingOutcome::Error) => InstanceStatus::Error,
            Some(PendingOutcome::Stopped) => InstanceStatus::Stopped,
            Some(PendingOutcome::Running) | None if now < self.ready_at => InstanceStatus::Pending,
            Some(PendingOutcome::Running) | None => InstanceStatus::Running,
        }
    }

    pub(super) fn ready_at(&self) -> Duration {
        self.ready_at
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        if self.ended.is_some() {
            return None;
        }
        Some(self.heartbeats.map_or(self.expires_at, |beats| beats.deadline().min(self.expires_at)))
    }

    /// Notes a request; returns the state that follows from it.
    pub(super) fn note_request(&mut self) -> Option<PendingOutcome> {
        self.was_requested = true;
        self.outcome
    }

    pub(super) fn heartbeat(&mut self, now: Duration) -> Option<Heartbeats> {
        let beats = self.heartbeats.as_mut()?;
        beats.last = now.max(beats.last);
        Some(*beats)
    }

    /// False if it had ended.
    pub(super) fn end(&mut self, now: Duration) -> bool {
        let first = self.ended.is_none();
        self.ended.get_or_insert(now);
        first
    }

    pub(super) fn created(&self) -> Duration {
        self.created
    }

    pub(super) fn ended(&self) -> Option<Duration> {
        self.ended
    }
}
