//! When an instance is what.
//!
//! Invariant: it ends once, and stays ended.

use std::time::Duration;

use super::Made;
use crate::fault::Fate;
use crate::simulator::Status;

/// The life of an instance, in the times of the clock.
pub(super) struct Life {
    created: Duration,
    ready_at: Duration,
    expires_at: Duration,
    /// What becomes of it once somebody has asked for it.
    fate: Option<Fate>,
    asked: bool,
    ended: Option<Duration>,
    /// The interval of its heartbeats in seconds, and the last one.
    beats: Option<(u32, Duration)>,
}

impl Life {
    pub(super) fn new(now: Duration, delay: Duration, made: &Made) -> Self {
        let ready_at = now.saturating_add(delay);
        Life {
            created: now,
            ready_at,
            // What is being made has not yet begun to live.
            expires_at: ready_at.saturating_add(made.ttl),
            fate: made.fate,
            asked: false,
            ended: None,
            beats: made.heartbeat_interval.map(|interval| (interval, ready_at)),
        }
    }

    pub(super) fn status(&self, now: Duration) -> Status {
        if self.ended.is_some() {
            return Status::Stopped;
        }
        match self.fate {
            Some(_) if !self.asked => Status::Pending,
            Some(Fate::Pending) => Status::Pending,
            Some(Fate::Error) => Status::Error,
            Some(Fate::Stopped) => Status::Stopped,
            Some(Fate::Running) | None if now < self.ready_at => Status::Pending,
            Some(Fate::Running) | None => Status::Running,
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
    pub(super) fn asked(&mut self) -> Option<Fate> {
        self.asked = true;
        self.fate
    }

    pub(super) fn beat(&mut self, now: Duration) -> Option<(u32, Duration)> {
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
