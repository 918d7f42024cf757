//! [`Backoff`]: the pauses before a server is started, asked or subscribed to again.
//!
//! Invariant: a pause is never shorter than [`Backoff::INITIAL`] nor longer than [`Backoff::MAX`].

use std::time::Duration;

/// Pauses that double with each failure. A default one has seen no failure.
///
/// ```
/// use std::time::Duration;
///
/// use oxenv_upstream::backoff::Backoff;
///
/// let mut backoff = Backoff::default();
/// assert_eq!(backoff.next_pause(), Backoff::INITIAL);
/// assert_eq!(backoff.next_pause(), Duration::from_millis(400));
/// backoff.reset();
/// assert_eq!(backoff.next_pause(), Backoff::INITIAL);
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after the first failure: 200 ms.
    pub const INITIAL: Duration = Duration::from_millis(200);
    /// The longest pause: 30 s.
    pub const MAX: Duration = Duration::from_secs(30);
    /// How long a call waits for the next try: 1 s. If that is later, the call fails at once.
    pub const MAX_CALL_WAIT: Duration = Duration::from_secs(1);

    /// Counts a failure and returns the pause before the next try.
    pub fn next_pause(&mut self) -> Duration {
        let pause = Self::INITIAL.saturating_mul(1 << self.failures.min(16)).min(Self::MAX);
        self.failures += 1;
        pause
    }

    /// Forgets the failures so far.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}
