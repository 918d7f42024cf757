//! Rate limits, and the token buckets that keep them.
//!
//! Invariant: a call takes one token from every bucket that applies, or from none. Nothing here
//! reads a clock: the caller passes the time, and an earlier time adds no tokens.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use oxenv_wire::after;
use parking_lot::{Mutex, MutexGuard};

use crate::policy::Policy;
use crate::principal::Principal;

/// The longest time that a limit may count over.
const MAX_PERIOD: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// How often calls may be made. `"10/s".parse()` gives ten a second for each session, ten at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Number of calls, at least one…
    pub calls: u32,
    /// …in this time, which is above zero.
    pub per: Duration,
    /// Number of calls allowed at once after a quiet time, at least one.
    pub burst: u32,
    /// Which calls share the limit.
    pub scope: RateScope,
}

/// Which calls share a rate limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RateScope {
    /// The calls of one session.
    Session,
    /// All calls of the server.
    Server,
}

/// A call came too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryAfter<'a> {
    /// How long until the call would be let through if there were no other calls.
    pub wait: Duration,
    /// The limit that asks for the longest wait.
    pub rule: &'a str,
}

/// The token buckets that one session, or the server, keeps for one toolset. New ones are full; the
/// limits themselves are the policy's, see [`Policy::admit`].
#[derive(Debug, Default)]
pub struct Buckets {
    /// By limit: when its bucket will be full. It is full if that has passed or was never set.
    full_at: Mutex<Vec<Option<Instant>>>,
}

/// A limit as a policy keeps it.
#[derive(Debug)]
pub(super) struct Limit {
    pub(super) rate: RateLimit,
    /// Whose calls it counts; absent: all callers'.
    pub(super) role: Option<Principal>,
    /// The limit as people read it.
    pub(super) rule: String,
}

/// A policy's limits, by what shares them.
#[derive(Debug, Default)]
pub(super) struct Limits {
    pub(super) session: Vec<Limit>,
    pub(super) server: Vec<Limit>,
}

impl Policy {
    /// Takes the tokens of a call at the time `now`, from a session's buckets and the server's.
    /// Calls that belong to no session share buckets in place of a session's.
    ///
    /// # Errors
    /// How long to wait; then nothing was taken.
    pub fn admit(
        &self,
        role: Principal,
        session: &Buckets,
        server: &Buckets,
        now: Instant,
    ) -> Result<(), RetryAfter<'_>> {
        let limits = &self.limits;
        if limits.session.is_empty() {
            return server.take(&limits.server, role, now);
        }
        // Always the session's first, so that two calls never wait for each other.
        let mut slots = session.slots(&limits.session);
        next_token(&limits.session, &slots, role, now)?;
        server.take(&limits.server, role, now)?;
        spend(&limits.session, &mut slots, role, now);
        Ok(())
    }
}

impl Buckets {
    fn take<'a>(&self, limits: &'a [Limit], role: Principal, now: Instant) -> Result<(), RetryAfter<'a>> {
        if limits.is_empty() {
            return Ok(());
        }
        let mut slots = self.slots(limits);
        next_token(limits, &slots, role, now)?;
        spend(limits, &mut slots, role, now);
        Ok(())
    }

    fn slots(&self, limits: &[Limit]) -> MutexGuard<'_, Vec<Option<Instant>>> {
        let mut slots = self.full_at.lock();
        slots.resize(limits.len(), None);
        slots
    }
}

impl Limit {
    pub(super) fn counts(&self, role: Principal) -> bool {
        self.role.is_none_or(|only| only == role)
    }
}

impl RateLimit {
    /// Refuses a limit that would let nothing through, or whose arithmetic would overflow.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.calls == 0 || self.burst == 0 {
            return Err("a limit of 0 calls lets nothing through; use deny for that".to_owned());
        }
        if self.per.is_zero() || self.per > MAX_PERIOD {
            return Err("a limit counts over more than no time and at most 366 days".to_owned());
        }
        Ok(())
    }

    /// The time in which one token comes back, rounded up so that the rate is never exceeded.
    fn interval(&self) -> Duration {
        let nanos = self.per.as_nanos().div_ceil(u128::from(self.calls));
        // A checked period has fewer nanoseconds than a u64 holds.
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How long until a bucket that is full at that time has a token.
    fn wait(&self, full_at: Option<Instant>, now: Instant) -> Duration {
        let empty = full_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        empty.saturating_add(self.interval()).saturating_sub(self.interval().saturating_mul(self.burst))
    }
}

impl FromStr for RateLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no rate; write 10/s, 100/m or 1000/h");
        let (calls, unit) = text.split_once('/').ok_or_else(wrong)?;
        let per = match unit.trim() {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(wrong()),
        };
        let calls = calls.trim().parse().map_err(|_| wrong())?;
        let limit =
            RateLimit { calls, per: Duration::from_secs(per), burst: calls, scope: RateScope::Session };
        limit.check().map(|()| limit)
    }
}

/// As it is written, with what was left out: `10/s, burst 20, per session`.
impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scope = match self.scope {
            RateScope::Session => "per session",
            RateScope::Server => "for the server",
        };
        match (self.per.as_secs(), self.per.subsec_nanos()) {
            (1, 0) => write!(f, "{}/s", self.calls)?,
            (60, 0) => write!(f, "{}/m", self.calls)?,
            (3600, 0) => write!(f, "{}/h", self.calls)?,
            _ => write!(f, "{} in {:?}", self.calls, self.per)?,
        }
        write!(f, ", burst {}, {scope}", self.burst)
    }
}

/// Refuses a call for which a bucket is empty, with the longest wait.
fn next_token<'a>(
    limits: &'a [Limit],
    slots: &[Option<Instant>],
    role: Principal,
    now: Instant,
) -> Result<(), RetryAfter<'a>> {
    let counting = limits.iter().zip(slots).filter(|(limit, _)| limit.counts(role));
    let waits = counting.map(|(limit, full_at)| (limit.rate.wait(*full_at, now), &limit.rule));
    match waits.max_by_key(|(wait, _)| *wait) {
        Some((wait, rule)) if !wait.is_zero() => Err(RetryAfter { wait, rule }),
        _ => Ok(()),
    }
}

fn spend(limits: &[Limit], slots: &mut [Option<Instant>], role: Principal, now: Instant) {
    for (limit, full_at) in limits.iter().zip(slots).filter(|(limit, _)| limit.counts(role)) {
        *full_at = Some(after(full_at.map_or(now, |at| at.max(now)), limit.rate.interval()));
    }
}
