//! When an instance is what.
//!
//! Invariant: it ends once, and stays ended.

use std::time::Duration;

use super::InstanceConfig;
use crate::fault::PendingOutcome;
use crate::simulator::InstanceStatus;

/// The life of an instance, in the times of the clock.
pub(super) struct SimulatedLifecycle {
    created: Duration,
    ready_at: Duration,
    expires_at: Duration,
    /// What becomes of it once somebody has asked for it.
    outcome: Option<PendingOutcome>,
    was_requested: bool,
    ended: Option<Duration>,
    /// The interval of its heartbeats in seconds, and the last one.
    beats: Option<(u32, Duration)>,
}

impl SimulatedLifecycle {
    pub(super) fn new(now: Duration, delay: Duration, config: &InstanceConfig) -> Self {
        let ready_at = now.saturating_add(delay);
        SimulatedLifecycle {
            created: now,
            ready_at,
            // What is being made has not yet begun to live.
            expires_at: ready_at.saturating_add(config.ttl),
            outcome: config.outcome,
            was_requested: false,
            ended: None,
            beats: config.heartbeat_interval.map(|interval| (interval, ready_at)),
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
        Some(self.beats.map_or(self.expires_at, |beats| due(beats).min(self.expires_at)))
    }

    /// Notes that somebody asked; gives what becomes of it by that.
    pub(super) fn note_request(&mut self) -> Option<PendingOutcome> {
        self.was_requested = true;
        self.outcome
    }

    pub(super) fn heartbeat(&mut self, now: Duration) -> Option<(u32, Duration)> {
        let (interval, last) = self.beats.as_mut()?;
        *last = now.max(*last);
        Some((*interval, due((*interval, *last))))
    }

    /// False if it had ended.
    pub(super) fn end(&mut self, now: Duration) -> bool {
        let first = self.ended.is_none();
        self.ended.get_or_insert(now);
        first
    }

    /// When it was made, and when it ended.
    pub(super) fn span(&self) -> (Duration, Option<Duration>) {
        (self.created, self.ended)
    }
}

/// A heartbeat may be late by as much as the interval.
fn due((interval, last): (u32, Duration)) -> Duration {
    last.saturating_add(2 * Duration::from_secs(interval.into()))
}
